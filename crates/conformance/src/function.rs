//! User functions as processes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use testbed::process::{Process, own_address};
use tokio::{net::TcpStream, process::Command, time};

/// How long a user function may take until it listens.
const START: Duration = Duration::from_mins(1);
const PORT: u16 = 8080;
/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How to start a user function.
#[derive(Clone, Debug)]
pub struct Function {
    program: PathBuf,
    arguments: Vec<PathBuf>,
    folder: PathBuf,
}

/// A user function that listens.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    function: Function,
    process: Process,
}

impl Function {
    /// The models of the Go library.
    pub fn models(program: &Path) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), folder: "/".into() }
    }

    /// The cart on the Node library.
    pub fn node(folder: &Path) -> Self {
        let (program, arguments) = ("node".into(), vec!["index.js".into()]);
        Self { program, arguments, folder: folder.to_owned() }
    }

    /// The cart on the Python library.
    pub fn python(folder: &Path) -> Self {
        let (program, arguments) = (folder.join("venv/bin/python"), vec!["cart.py".into()]);
        Self { program, arguments, folder: folder.to_owned() }
    }

    /// Starts it at an address of its own: nobody takes its port before it listens, or between two lives.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn start(self) -> Result<Running> {
        let address = (own_address(), PORT).into();
        let process = self.launch(address).await?;
        Ok(Running { address, function: self, process })
    }

    async fn launch(&self, address: SocketAddr) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder);
        command.env("HOST", address.ip().to_string()).env("PORT", address.port().to_string());
        command.stdout(std::process::Stdio::null());
        let mut process = Process::start(command)?;
        let name = self.program.display();
        let listening = async {
            while TcpStream::connect(address).await.is_err() {
                ensure!(process.is_running(), "{name} has ended: {}", process.log());
                time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        let listening = time::timeout(START, listening).await;
        listening.with_context(|| format!("{name} does not listen after {START:?}"))??;
        Ok(process)
    }
}

impl Running {
    /// How it is, for a person: whether it runs, and what it said last.
    pub fn state(&mut self) -> String {
        let runs = if self.process.is_running() { "runs" } else { "has ended" };
        format!("the user function {runs}; it said:\n{}", self.process.log())
    }

    /// Kills it and starts another one at the same address.
    ///
    /// # Errors
    /// When that does not listen in time.
    pub async fn replace(&mut self) -> Result<()> {
        self.process.kill().await?;
        self.process = self.function.launch(self.address).await?;
        Ok(())
    }
}
