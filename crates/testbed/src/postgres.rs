//! A real Postgres server for one test: started in a second, killed at will, gone without a trace.
//!
//! The programs come from Debian's `postgresql-15`. A cluster is initialised once and copied for each
//! server, which listens at an address of its own, so that nobody takes its port between two lives. `fsync`
//! stays on, so what a client was told is durable also when the server is killed. A watching shell ends the
//! server and removes its files however the test's process ends.

use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, NoTls};

use crate::{process::own_address, scratch};

/// The Debian package that the programs come from.
pub const PACKAGE: &str = "postgresql-15";
/// Where that package keeps its programs.
pub const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// The database, the user that owns it, and that user's password.
pub const NAME: &str = "cloudstate";
const SUPERUSER: &str = "postgres";
const PREFIX: &str = "cloudstate-postgres-";
/// What is appended to the server's configuration.
const CONFIGURATION: &str = "postgresql.conf";
/// Longest time for a start, after a crash too.
const START: Duration = Duration::from_mins(1);
/// Where every server listens, each at its own address.
const PORT: u16 = 5432;

/// A server at a loopback address of its own and a Unix socket, with the database [`NAME`].
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    account: Option<Account>,
    address: Ipv4Addr,
    postmaster: Mutex<Option<Child>>,
    /// Its standard input is held open; when that closes, it ends the server and removes the files.
    watcher: Child,
}

/// Who the server runs as when we are root, since it refuses to be root.
#[derive(Clone, Copy, Debug)]
struct Account {
    user: u32,
    group: u32,
}

impl Postgres {
    /// Starts a server, with its files in memory where there is room.
    ///
    /// # Errors
    /// When the programs are missing, or the server does not answer in time.
    pub async fn start() -> Result<Self> {
        Self::start_in(scratch::folder(PREFIX)?, "").await
    }

    /// Starts a server with its files on disk.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_on_disk() -> Result<Self> {
        Self::start_in(scratch::on_disk(PREFIX)?, "").await
    }

    /// Starts a server with these lines in its configuration.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(lines: &str) -> Result<Self> {
        Self::start_in(scratch::folder(PREFIX)?, lines).await
    }

    async fn start_in(folder: TempDir, lines: &str) -> Result<Self> {
        let account = Account::find()?;
        let server = Self::create(folder, &template(account)?, account, lines)?;
        server.launch().await?;
        Ok(server)
    }

    /// One server for all tests of a program, each of which chooses a schema of its own.
    ///
    /// # Panics
    /// When there is none to be had: no test could say more.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                Self::start().await.expect("a Postgres server can be started here")
            })
            .await
    }

    fn create(
        folder: TempDir,
        template: &Path,
        account: Option<Account>,
        lines: &str,
    ) -> Result<Self> {
        let data = folder.path().join("data");
        run(Command::new("cp").arg("-a").arg(template).arg(&data))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        if let Some(Account { user, group }) = account {
            chown(folder.path(), Some(user), Some(group))?;
        }
        let address = own_address();
        let settings = format!(
            "listen_addresses = '{address}'\nport = {PORT}\nunix_socket_directories = '{}'\n{lines}\n",
            folder.path().display()
        );
        append(&data.join(CONFIGURATION), &settings)?;
        let watcher = Command::new("sh")
            .args(["-c", WATCH, "watcher"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot run sh")?;
        let folder = folder.keep();
        Ok(Self { folder, account, address, postmaster: Mutex::new(None), watcher })
    }

    /// Starts the postmaster and waits until it takes queries.
    async fn launch(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = Command::new(Path::new(PROGRAMS).join("postgres"));
        command.arg("-D").arg(self.data()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        Account::take(self.account, &mut command);
        *self.lock() = Some(command.spawn().with_context(|| format!("cannot run {command:?}"))?);
        let begun = Instant::now();
        while let Err(error) = self.client().await {
            if let Some(status) = self.lock().as_mut().and_then(|child| child.try_wait().ok()?) {
                bail!("the server ended with {status}:\n{}", self.log());
            }
            ensure!(begun.elapsed() < START, "no answer in {START:?}: {error:#}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The postmaster's process; none while it does not run.
    pub fn id(&self) -> Option<i32> {
        self.lock().as_ref().map(|child| child.id().cast_signed())
    }

    /// The loopback address.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The port at that address.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The folder of the Unix socket.
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// What a proxy needs in its environment to use the server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CLOUDSTATE_STORE", "postgres".to_owned()),
            ("POSTGRES_SERVICE", self.host()),
            ("POSTGRES_PORT", PORT.to_string()),
            ("POSTGRES_DATABASE", NAME.to_owned()),
            ("POSTGRES_USERNAME", NAME.to_owned()),
            ("POSTGRES_PASSWORD", NAME.to_owned()),
        ]
    }

    /// Connects as superuser, over the socket.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn client(&self) -> Result<Client> {
        let (client, connection) = Config::new()
            .host_path(&self.folder)
            .port(PORT)
            .user(SUPERUSER)
            .dbname(NAME)
            .application_name("testbed")
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as superuser.
    ///
    /// # Errors
    /// What the server says.
    pub async fn execute(&self, statements: &str) -> Result<()> {
        self.client().await?.batch_execute(statements).await.with_context(|| statements.to_owned())
    }

    /// Kills the process behind every connection of that application with SIGKILL, which makes the server
    /// end all others and recover; tells how many there were.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn kill_backends(&self, application: &str) -> Result<usize> {
        let found = "SELECT pid FROM pg_stat_activity WHERE application_name = $1";
        let rows = self.client().await?.query(found, &[&application]).await?;
        for row in &rows {
            // One that has just ended by itself is none the worse.
            let _ = kill_process(pid(row.get(0))?, Signal::KILL);
        }
        Ok(rows.len())
    }

    /// Kills the postmaster with SIGKILL; its children notice and end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_postmaster(&self) -> Result<()> {
        let mut postmaster = self.lock().take().context("the server does not run")?;
        postmaster.kill()?;
        postmaster.wait()?;
        Ok(())
    }

    /// Stops the server as an administrator would who does not wait for clients.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&self) -> Result<()> {
        let mut postmaster = self.lock().take().context("the server does not run")?;
        kill_process(Pid::from_child(&postmaster), Signal::INT)?;
        postmaster.wait()?;
        Ok(())
    }

    /// Starts the server again on the same data and port.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn restart(&self) -> Result<()> {
        if self.lock().is_some() {
            self.stop()?;
        }
        let begun = Instant::now();
        loop {
            match self.launch().await {
                Ok(()) => return Ok(()),
                // Children of a killed postmaster may hold its shared memory for a moment.
                Err(error) if begun.elapsed() > START => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Replaces a file in the server's data folder, readable by the server alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.data().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some(Account { user, group }) = self.account {
            chown(&path, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// Adds lines to the server's configuration; [`restart`](Self::restart) makes them count.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, lines: &str) -> Result<()> {
        append(&self.data().join(CONFIGURATION), lines)
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A new folder that the server may write to, for a tablespace.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir(&path)?;
        self.hand_over(&path)?;
        Ok(path)
    }

    /// Makes the server's account the owner of a path.
    ///
    /// # Errors
    /// When we may not.
    pub fn hand_over(&self, path: &Path) -> Result<()> {
        if let Some(Account { user, group }) = self.account {
            chown(path, Some(user), Some(group))?;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.lock().take() {
            let _ = kill_process(Pid::from_child(&postmaster), Signal::QUIT);
            let _ = postmaster.wait();
        }
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// Waits until nobody holds its standard input any more, then ends the server and removes its folder. The number
/// that a killed postmaster left behind may be another process's by then.
const WATCH: &str = r#"
cat >/dev/null
read -r pid 2>/dev/null <"$1/data/postmaster.pid"
runs() { [ -n "$pid" ] && grep -aqF "$1/data" "/proc/$pid/cmdline" 2>/dev/null; }
runs "$1" && kill -QUIT "$pid" 2>/dev/null
tries=0
while runs "$1" && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
rm -rf "$1"
"#;

impl Account {
    fn find() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let line = users.lines().find(|line| line.starts_with("postgres:")).with_context(|| {
            format!(
                "no user postgres: install the Debian package {PACKAGE}, or run `cargo xtask test`"
            )
        })?;
        let mut numbers = line.split(':').skip(2).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(user)), Some(Ok(group))) => Ok(Some(Self { user, group })),
            _ => bail!("/etc/passwd is odd: {line}"),
        }
    }

    fn take(account: Option<Self>, command: &mut Command) {
        // A folder that the account may enter, whoever's this process is.
        command.current_dir("/");
        if let Some(Self { user, group }) = account {
            command.uid(user).gid(group);
        }
    }
}

/// The initialised cluster that servers are copied from; made by whoever comes first.
fn template(account: Option<Account>) -> Result<PathBuf> {
    let user = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.user);
    let folder = std::env::temp_dir().join(format!("cloudstate-testbed-{PACKAGE}-{user}"));
    fs::create_dir_all(&folder)?;
    if let Some(Account { user, group }) = account {
        chown(&folder, Some(user), Some(group))?;
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.with_extension("lock"))?;
    lock.lock()?;
    let (ready, data) = (folder.join("ready"), folder.join("partial"));
    if ready.exists() {
        return Ok(ready);
    }
    let _ = fs::remove_dir_all(&data);
    let program = |name: &str, first: &str| {
        let mut command = Command::new(Path::new(PROGRAMS).join(name));
        command.arg(first).arg("-D").arg(&data);
        Account::take(account, &mut command);
        command
    };
    run(program("initdb", "--no-sync").args([
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    ]))?;
    let mut single = program("postgres", "--single");
    single.arg("postgres");
    let mut child =
        single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let statements = format!(
        "CREATE ROLE {NAME} LOGIN PASSWORD '{NAME}'\nCREATE DATABASE {NAME} OWNER {NAME}\n"
    );
    child.stdin.take().context("no input")?.write_all(statements.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !said.contains("ERROR"), "postgres --single: {said}");
    fs::rename(&data, &ready)?;
    Ok(ready)
}

fn append(path: &Path, lines: &str) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    writeln!(file, "{lines}").with_context(|| format!("cannot write {}", path.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| {
        format!("cannot run {command:?}: install the Debian package {PACKAGE}, or run `cargo xtask test`")
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(())
}

fn pid(number: i32) -> Result<Pid> {
    Pid::from_raw(number).with_context(|| format!("{number} is no process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_survives_kills_and_nothing_is_left_behind() {
        let server = Postgres::start().await.unwrap();
        server.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await.unwrap();
        assert_eq!(server.kill_backends("nobody").await.unwrap(), 0);
        let victim = server.client().await.unwrap();
        assert!(server.kill_backends("testbed").await.unwrap() >= 1);
        assert!(victim.execute("SELECT 1", &[]).await.is_err());
        server.kill_postmaster().unwrap();
        server.restart().await.unwrap();
        let fsync = server.client().await.unwrap().query_one("SHOW fsync", &[]).await.unwrap();
        assert_eq!(fsync.get::<_, &str>(0), "on");
        let kept =
            server.client().await.unwrap().query_one("SELECT id FROM kept", &[]).await.unwrap();
        assert_eq!(kept.get::<_, i32>(0), 1);
        let folder = server.folder.clone();
        drop(server);
        assert!(!folder.exists());
    }
}
