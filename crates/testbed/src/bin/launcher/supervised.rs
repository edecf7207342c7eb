//! The stand-in, started by somebody or by nobody.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use api::contract::{env, port, probe};
use rustix::{
    net::{Shutdown, shutdown},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use testbed::process::{own_address, program};

use crate::moment::Moment;

/// How long anything may take before it is broken rather than slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the probe; far below what is measured with it.
const GLANCE: Duration = Duration::from_micros(500);

/// Who starts the stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Launcher,
    Tini,
    Nobody,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launcher => "launcher",
            Self::Tini => "tini",
            Self::Nobody => "direct",
        })
    }
}

/// The kind that the stand-in is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our own proxy.
    Native,
    /// A JVM, whose arguments the launcher works out.
    Jvm,
}

/// What is measured, and what it starts.
#[derive(Debug)]
pub(crate) struct Programs {
    launcher: PathBuf,
    tini: PathBuf,
    stand_in: PathBuf,
}

impl Programs {
    pub(crate) fn find(launcher: PathBuf, tini: PathBuf) -> Result<Self> {
        for path in [&launcher, &tini] {
            ensure!(path.is_file(), "there is no program {}", path.display());
        }
        Ok(Self { launcher, tini, stand_in: program("stand-in")? })
    }

    pub(crate) fn of(&self, by: By) -> &Path {
        match by {
            By::Launcher => &self.launcher,
            By::Tini => &self.tini,
            By::Nobody => &self.stand_in,
        }
    }
}

/// A stand-in that runs, and whoever started it. Both end with this.
pub(crate) struct Supervised {
    process: Child,
    lines: BufReader<ChildStdout>,
    /// The launcher's own, which is short enough to wait in the pipe until somebody looks.
    log: BufReader<ChildStderr>,
    begun: Moment,
    admin: SocketAddr,
    management: SocketAddr,
    user_function: SocketAddr,
    /// Where the user function listens, once it does.
    arrived: Option<TcpListener>,
}

/// Settings of the launcher.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    /// Whether the user function is asked for.
    pub(crate) user_function: bool,
}

impl Supervised {
    /// Starts the stand-in.
    pub(crate) fn start(programs: &Programs, by: By, setup: Setup) -> Result<Self> {
        let address = own_address();
        let management = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let mut command = Command::new(programs.of(by));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match by {
            By::Nobody => {}
            By::Tini => {
                command.arg("--").arg(&programs.stand_in);
            }
            By::Launcher => launcher(&mut command, &programs.stand_in, address, management, setup),
        }
        let begun = Moment::now();
        let mut process = command
            .spawn()
            .with_context(|| format!("cannot start {}", programs.of(by).display()))?;
        let lines = BufReader::new(process.stdout.take().context("no output was asked for")?);
        let log = BufReader::new(process.stderr.take().context("no log was asked for")?);
        Ok(Self {
            process,
            lines,
            log,
            begun,
            admin: (address, port::ADMIN).into(),
            management,
            user_function: (address, port::USER_DEFAULT).into(),
            arrived: None,
        })
    }

    /// Waits until the stand-in says so, and gives how long after the start that was.
    pub(crate) fn until(&mut self, what: &str) -> Result<Duration> {
        let begun = self.begun;
        Ok(self.moment(what)?.since(begun))
    }

    /// Waits until the stand-in says so, and gives when it was.
    pub(crate) fn moment(&mut self, what: &str) -> Result<Moment> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("the stand-in cannot be heard")?;
        let said = line.trim_end().strip_prefix(what).and_then(|rest| rest.strip_prefix(' '));
        Moment::parse(said.with_context(|| format!("{line:?} came instead of {what}"))?)
    }

    /// Waits until the launcher has decided to start the stand-in once more, and gives when that was.
    pub(crate) fn decided(&mut self) -> Result<Moment> {
        for line in (&mut self.log).lines() {
            let line: Value = serde_json::from_str(&line?).unwrap_or_default();
            if line["message"] == "state changed" && line["to"] == "starting" {
                return Moment::logged(line["timestamp"].as_str().unwrap_or_default());
            }
        }
        bail!("the launcher has left")
    }

    /// Waits until `/ready` is 200, and gives when that was heard.
    pub(crate) fn until_ready(&self) -> Result<Moment> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.ask(probe::READY) == Some(200) {
                return Ok(Moment::now());
            }
            thread::sleep(GLANCE);
        }
        bail!("not ready within {PATIENCE:?}")
    }

    /// Waits until the launcher answers at all.
    pub(crate) fn until_up(&self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.ask(probe::STARTUP) == Some(200) {
                return Ok(());
            }
            thread::sleep(GLANCE);
        }
        bail!("no answer within {PATIENCE:?}")
    }

    /// The status of the launcher's answer, if there is one.
    pub(crate) fn ask(&self, path: &str) -> Option<u16> {
        ask(self.admin, "GET", path)
    }

    /// Has the stand-in leave with the code that asks for a fresh start.
    pub(crate) fn have_it_leave(&self) -> Result<()> {
        ask(self.management, "POST", "/leave").context("the stand-in does not answer").map(drop)
    }

    /// Lets a user function listen that says nothing, and gives when it began to.
    pub(crate) fn bring_user_function(&mut self) -> Result<Moment> {
        let listener =
            TcpListener::bind(self.user_function).context("the user function cannot listen")?;
        let began = Moment::now();
        self.arrived = Some(listener.try_clone()?);
        thread::spawn(move || listener.incoming().take_while(Result::is_ok).for_each(drop));
        Ok(began)
    }

    /// The number of the process that was started: the launcher's, tini's, or the stand-in's own.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends TERM, and gives when.
    pub(crate) fn terminate(&self) -> Result<Moment> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("no process")?;
        let now = Moment::now();
        kill_process(pid, Signal::TERM).context("cannot send TERM")?;
        Ok(now)
    }

    /// Waits for the end, which must be a good one.
    pub(crate) fn until_ended(&mut self) -> Result<()> {
        let status = self.process.wait().context("cannot wait for the end")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Has both end in good order.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        self.moment("told")?;
        self.until_ended()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Addresses come round again, and the next one at this must find nobody.
        if let Some(listener) = &self.arrived {
            let _ = shutdown(listener, Shutdown::Both);
        }
        // It has usually ended. After a failure, TERM also reaches what stands behind tini.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.terminate();
            let _ = self.process.wait();
        }
    }
}

fn launcher(
    command: &mut Command,
    stand_in: &Path,
    address: Ipv4Addr,
    management: SocketAddr,
    setup: Setup,
) {
    let kind = match setup.kind {
        Kind::Native => "native",
        Kind::Jvm => "jvm",
    };
    command
        .env("CLOUDSTATE_LAUNCHER_KIND", kind)
        .env("CLOUDSTATE_LAUNCHER_COMMAND", stand_in)
        .env("CLOUDSTATE_LAUNCHER_JAVA", stand_in)
        .env("CLOUDSTATE_LAUNCHER_MEMORY_POLICY", "off")
        .env("CLOUDSTATE_LAUNCHER_ADMIN_BIND", address.to_string())
        .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "0s")
        .env("CLOUDSTATE_LAUNCHER_UF_WAIT", if setup.user_function { "parallel" } else { "none" })
        .env(env::USER_FUNCTION_HOST, address.to_string())
        .env(env::MANAGEMENT_PORT, management.port().to_string())
        .env(env::TERMINATION_PATH, "");
}

fn ask(to: SocketAddr, method: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: launcher\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
