//! A launcher under test: its own ports, its own folder, killed when dropped.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod group;
pub(crate) mod story;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, PipeWriter, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::story::Story;

/// Far beyond what anything here takes, also on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);
const GLANCE: Duration = Duration::from_millis(10);

pub(crate) const PROXY: &str = env!("CARGO_BIN_EXE_fake-proxy");

/// Settings of one launcher, before it is started.
pub(crate) struct Setup {
    command: Command,
    folder: TempDir,
    admin_port: u16,
    words: Option<PathBuf>,
    log: Option<PipeWriter>,
    is_wrapped: bool,
}

pub(crate) struct Launcher {
    process: Child,
    /// Whether the process is one that waits for the launcher.
    is_wrapped: bool,
    environment: BTreeMap<OsString, OsString>,
    folder: TempDir,
    admin_port: u16,
}

/// A launcher whose proxy is the fake, which obeys `script`.
pub(crate) fn launcher(script: &[&str]) -> Setup {
    launcher_through(&[], script)
}

/// As [`launcher`], started by a command that is given it as its last arguments.
pub(crate) fn launcher_through(starter: &[&str], script: &[&str]) -> Setup {
    launcher_at(env!("CARGO_BIN_EXE_proxy-launcher"), starter, script)
}

/// As [`launcher_through`], for a launcher that the starter finds there.
pub(crate) fn launcher_at(program: &str, starter: &[&str], script: &[&str]) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let admin_port = free_port();
    let line = [starter, &[program, "--"], script].concat();
    let mut command = Command::new(line[0]);
    command.env_clear().args(&line[1..]);
    let (words, log) = (None, None);
    let setup = Setup { command, folder, admin_port, words, log, is_wrapped: false };
    setup
        .env("CLOUDSTATE_LAUNCHER_COMMAND", PROXY)
        .env("CLOUDSTATE_LAUNCHER_ADMIN_BIND", "127.0.0.1")
        .env("CLOUDSTATE_LAUNCHER_ADMIN_PORT", &admin_port.to_string())
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "50ms")
        .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "0s")
        .env("CLOUDSTATE_LAUNCHER_UF_WAIT", "none")
        .env("CLOUDSTATE_LAUNCHER_LOG_LEVEL", "debug")
        .env("MANAGEMENT_PORT", &free_port().to_string())
        .env("METRICS_PORT", &free_port().to_string())
}

impl Setup {
    pub(crate) fn env(self, name: &str, value: &str) -> Self {
        self.env_bytes(name, value.as_bytes())
    }

    /// As [`Self::env`], for what is no text.
    pub(crate) fn env_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.command.env(name, OsStr::from_bytes(value));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// The starter does not become the launcher: it waits for it and leaves with its code.
    pub(crate) fn wrapped(self) -> Self {
        Self { is_wrapped: true, ..self }
    }

    /// Logs there rather than into the file that [`Launcher::raw_log`] reads.
    pub(crate) fn log_to(self, log: PipeWriter) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Leaves last words somewhere else.
    pub(crate) fn words_at(self, path: &str) -> Self {
        Self { words: Some(path.into()), ..self }
    }

    pub(crate) fn start(mut self) -> Launcher {
        let log = File::create(self.file("log")).unwrap();
        let words = self.words.clone().unwrap_or_else(|| {
            let words = self.file("words");
            File::create(&words).unwrap();
            words
        });
        self.command.env("CLOUDSTATE_TERMINATION_PATH", words).stdin(Stdio::null());
        match self.log.take() {
            Some(pipe) => self.command.stdout(pipe.try_clone().unwrap()).stderr(pipe),
            None => self.command.stdout(log.try_clone().unwrap()).stderr(log),
        };
        let process = self.command.spawn().unwrap();
        let owned = |(name, value): (&OsStr, Option<&OsStr>)| {
            value.map(|value| (name.to_owned(), value.to_owned()))
        };
        let environment = self.command.get_envs().filter_map(owned).collect();
        Launcher {
            process,
            is_wrapped: self.is_wrapped,
            environment,
            folder: self.folder,
            admin_port: self.admin_port,
        }
    }
}

impl Launcher {
    /// Status and body of a request; nothing while nobody listens.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Option<(u16, String)> {
        ask(self.admin_port, method, path)
    }

    /// Exit code and output of another launcher, in the same container.
    pub(crate) fn command(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-launcher"));
        let output = command.env_clear().envs(&self.environment).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /// The admin port's answer as JSON.
    #[track_caller]
    pub(crate) fn page(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The value of one of the metrics, named without the prefix that all have; zero while it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, page) = self.ask("GET", "/metrics").unwrap_or_default();
        value_of(&page, name).unwrap_or_default()
    }

    /// Waits for the launcher's end and gives the last page of metrics before it. The launcher stays for a moment
    /// while somebody is connected: this is.
    pub(crate) fn last_metrics(&self) -> String {
        let _held = self.connect();
        let mut last = String::new();
        while let Some((_, page)) = self.ask("GET", "/metrics") {
            last = page;
            thread::sleep(Duration::from_millis(2));
        }
        last
    }

    /// Waits for a line of the metrics.
    #[track_caller]
    pub(crate) fn await_metric(&self, line: &str) {
        self.eventually(line, || {
            let (_, page) = self.ask("GET", "/metrics")?;
            page.lines().any(|found| found == line).then_some(())
        });
    }

    pub(crate) fn admin_port(&self) -> u16 {
        self.admin_port
    }

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.admin_port))
    }

    #[track_caller]
    pub(crate) fn await_ready(&self) {
        self.eventually("ready", || self.ask("GET", "/ready").filter(|(status, _)| *status == 200));
    }

    /// Waits for a 503 with that reason and a message that starts so.
    #[track_caller]
    pub(crate) fn await_not_ready(&self, reason: &str, message: &str) {
        self.eventually(reason, || {
            let (status, body) = self.ask("GET", "/ready")?;
            let body: Value = serde_json::from_str(&body).ok()?;
            let is_it = status == 503
                && body["reason"] == reason
                && body["message"].as_str()?.starts_with(message);
            is_it.then_some(())
        });
    }

    /// Waits for the proxy's `nth` start and returns its process id.
    #[track_caller]
    pub(crate) fn await_proxy(&self, nth: u64) -> Process {
        self.eventually("start of a proxy", || {
            self.log()
                .into_iter()
                .find(|line| line["message"] == "proxy started" && line["generation"] == nth)
        })["pid"]
            .as_i64()
            .map(Process::of)
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn await_log(&self, message: &str) {
        self.await_line(&json!({ "message": message }));
    }

    /// Waits for a line of the log with all these fields. It stays, whereas a state may be gone before anybody looks.
    #[track_caller]
    pub(crate) fn await_line(&self, fields: &Value) {
        self.eventually(&fields.to_string(), || self.story().all(fields).pop().map(drop));
    }

    /// Waits until a command, which gives up after less than a second, says and leaves so.
    #[track_caller]
    pub(crate) fn await_command(&self, args: &[&str], code: i32, text: &str) {
        let wanted = (code, text.to_owned());
        self.eventually(&format!("{args:?}: {wanted:?}"), || {
            (self.command(args) == wanted).then_some(())
        });
    }

    /// Waits for a piece of text among everything that launcher and proxy have written.
    #[track_caller]
    pub(crate) fn await_text(&self, text: &str) {
        self.eventually(text, || self.raw_log().contains(text).then_some(()));
    }

    /// Waits until so many have a connection to that port of this machine.
    #[track_caller]
    pub(crate) fn await_connections(&self, port: u16, count: usize) {
        const ESTABLISHED: &str = "01";
        let end = format!(":{port:04X}");
        self.eventually("connections", || {
            let tables =
                ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap());
            let lines = tables.iter().flat_map(|table| table.lines());
            let found = lines.filter(|line| {
                let fields: Vec<_> = line.split_whitespace().collect();
                fields.len() > 3 && fields[1].ends_with(&end) && fields[3] == ESTABLISHED
            });
            (found.count() >= count).then_some(())
        });
    }

    /// Waits until somebody answers so on a port.
    #[track_caller]
    pub(crate) fn await_answer(&self, port: u16, path: &str, wanted: &str) {
        self.eventually(wanted, || (get(port, path)?.trim() == wanted).then_some(()));
    }

    /// Waits for the fake's orphan.
    #[track_caller]
    pub(crate) fn await_orphan(&self) -> Process {
        self.eventually("an orphan", || {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            let pid = log.lines().find_map(|line| line.strip_prefix("orphan "))?;
            Some(Process::of(pid.parse().unwrap()))
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    pub(crate) fn process(&self) -> Process {
        let started = Process::of(self.process.id().into());
        if self.is_wrapped { started.children()[0] } else { started }
    }

    /// Whether there was somebody to signal.
    pub(crate) fn try_signal(&mut self, signal: Signal) -> bool {
        let runs = self.process.try_wait().unwrap().is_none();
        if runs {
            self.signal(signal);
        }
        runs
    }

    /// Memory that nothing but the launcher fills, its heap and stacks, in KiB. Pages of files are left out: the
    /// kernel maps as many of them around each fault as it happens to have. Counted page by page, since the sums in
    /// `/proc/PID/status` are kept by each processor for itself and lag behind by hundreds of KiB.
    pub(crate) fn own_memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.process.id());
        let rollup = fs::read_to_string(path).unwrap();
        let kib = |name: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        kib("Anonymous:") + kib("Swap:")
    }

    /// Waits until the launcher has no child that is dead and not buried.
    #[track_caller]
    pub(crate) fn await_no_zombies(&self) {
        let launcher = Process::of(self.process.id().into());
        self.eventually("no zombies", || {
            launcher.children().iter().all(|child| child.is_running()).then_some(())
        });
    }

    /// Waits for the launcher's exit code.
    #[track_caller]
    pub(crate) fn await_exit(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(started.elapsed() < PATIENCE, "still running:\n{}", self.raw_log());
            thread::sleep(GLANCE);
        }
    }

    /// Content of the termination file: text, or JSON as `reason` and `message`.
    pub(crate) fn words(&self) -> String {
        fs::read_to_string(self.folder.path().join("words")).unwrap()
    }

    /// When something was written into the termination file.
    pub(crate) fn words_written_at(&self) -> SystemTime {
        fs::metadata(self.folder.path().join("words")).unwrap().modified().unwrap()
    }

    /// Waits for a piece of text in the termination file.
    #[track_caller]
    pub(crate) fn await_words(&self, text: &str) {
        self.eventually(text, || self.words().contains(text).then_some(()));
    }

    #[track_caller]
    pub(crate) fn not_ready_words(&self) -> (String, String) {
        let words: Value = serde_json::from_str(&self.words()).unwrap();
        let field = |name: &str| words[name].as_str().unwrap().to_owned();
        (field("reason"), field("message"))
    }

    pub(crate) fn raw_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// What has happened so far.
    pub(crate) fn story(&self) -> Story {
        Story::of(self.log())
    }

    /// Every line of the launcher's log.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.raw_log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[track_caller]
    pub(crate) fn eventually<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        eventually(what, || self.raw_log(), look)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        // Its proxy goes with it: that is what the parent-death signal is for. What that has left does not.
        let children = Process::of(self.process.id().into()).children();
        let _ = self.process.kill();
        let _ = self.process.wait();
        for child in children {
            let _ = kill_process(child.0, Signal::KILL);
        }
    }
}

/// Some process that a test may look at or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(Pid);

impl Process {
    fn of(pid: i64) -> Self {
        Self(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap())
    }

    pub(crate) fn signal(self, signal: Signal) {
        kill_process(self.0, signal).unwrap();
    }

    /// As [`Self::signal`], for those that have no names.
    pub(crate) fn signal_number(self, number: i32) {
        let script = format!("kill -{number} {}", self.0.as_raw_nonzero());
        assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
    }

    pub(crate) fn children(self) -> Vec<Self> {
        let parent = self.0.as_raw_nonzero().to_string();
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i64>().ok())
        });
        let is_child = |pid: &i64| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
            rest.split(' ').nth(1) == Some(&parent)
        };
        pids.filter(is_child).map(Self::of).collect()
    }

    /// A field of the kernel's status of it.
    pub(crate) fn status(self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.as_raw_nonzero())).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A file that the kernel has about it.
    pub(crate) fn file(self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.0.as_raw_nonzero())).unwrap()
    }

    /// The folder that it runs in.
    pub(crate) fn folder(self) -> PathBuf {
        fs::read_link(format!("/proc/{}/cwd", self.0.as_raw_nonzero())).unwrap()
    }

    /// Whether it has that file descriptor.
    pub(crate) fn has_open(self, descriptor: u32) -> bool {
        let link = format!("/proc/{}/fd/{descriptor}", self.0.as_raw_nonzero());
        fs::symlink_metadata(link).is_ok()
    }

    pub(crate) fn command_line(self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.0.as_raw_nonzero())).unwrap();
        line.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }

    pub(crate) fn is_running(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero()));
        // The state follows the name, which stands in parentheses and may hold anything.
        let state =
            stat.as_ref().ok().and_then(|stat| stat.rsplit_once(") ")).map(|(_, rest)| rest);
        state.is_some_and(|state| !state.starts_with('Z'))
    }

    /// Whether not even a zombie is left.
    pub(crate) fn is_buried(self) -> bool {
        !fs::exists(format!("/proc/{}", self.0.as_raw_nonzero())).unwrap()
    }

    #[track_caller]
    pub(crate) fn await_end(self) {
        eventually("end of a process", String::new, || (!self.is_running()).then_some(()));
    }
}

/// Status and body of a request to a port of this machine; nothing while nobody listens, or when the answer
/// breaks off.
pub(crate) fn ask(port: u16, method: &str, path: &str) -> Option<(u16, String)> {
    ask_with(TcpStream::connect(("127.0.0.1", port)).ok()?, method, path, "")
}

/// As [`ask`], over that connection and with those header lines.
pub(crate) fn ask_with(
    mut stream: TcpStream,
    method: &str,
    path: &str,
    headers: &str,
) -> Option<(u16, String)> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
    )
    .ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let status = response.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = response.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// The whole number that a metric has on that page, named without the prefix that all have.
pub(crate) fn value_of(page: &str, name: &str) -> Option<u64> {
    let mut values = page.lines().filter_map(|line| {
        let (found, value) = line.strip_prefix("cloudstate_launcher_")?.rsplit_once(' ')?;
        (found == name).then(|| value.parse().unwrap())
    });
    values.next()
}

/// Body of a GET that went well.
pub(crate) fn get(port: u16, path: &str) -> Option<String> {
    ask(port, "GET", path).filter(|(status, _)| *status == 200).map(|(_, body)| body)
}

/// Asserts that something can be done in less than `limit`. The fastest of some tries counts: on a busy machine any
/// single one may wait for a processor, but what is slow by itself is slow each time.
#[track_caller]
pub(crate) fn takes_less_than(limit: Duration, mut attempt: impl FnMut() -> Duration) {
    const TRIES: usize = 10;
    let mut times = Vec::new();
    while times.len() < TRIES {
        let took = attempt();
        if took < limit {
            return;
        }
        times.push(took);
    }
    panic!("none of {times:?} is below {limit:?}");
}

#[track_caller]
pub(crate) fn eventually<T>(
    what: &str,
    context: impl Fn() -> String,
    look: impl Fn() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}\n{}", context());
        thread::sleep(GLANCE);
    }
}

/// A port that nobody has. It lies below those that the kernel hands out to connections, so that none takes
/// it before the launcher does, and test processes begin at different places.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 9_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    loop {
        let taken = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let offset = std::process::id().wrapping_mul(64).wrapping_add(taken) % COUNT;
        let port = u16::try_from(FIRST + offset).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
