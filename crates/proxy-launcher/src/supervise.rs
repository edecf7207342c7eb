//! Does what [`Machine`] decides: owns the clock, the signals, the child and the admin server.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{debug, info, warn};

use crate::{
    admin,
    cgroup::Cgroup,
    command::ProxyCommand,
    config::{Config, ProxyKind, Wait},
    exit::{End, OS_ERROR},
    health::{Answer, Health},
    machine::{Action, Event, Machine},
    probe,
    process::{self, Leader},
    termination,
    user_function::{self, Target},
};

/// As PID 1 the kernel drops what nobody handles, elsewhere these would end us; to the proxy they mean
/// nothing good either. So they are taken and forgotten.
const IGNORED_SIGNALS: [fn() -> SignalKind; 5] = [
    SignalKind::hangup,
    SignalKind::quit,
    SignalKind::user_defined1,
    SignalKind::user_defined2,
    SignalKind::alarm,
];

/// How long what the proxy left behind may take to die.
const BURY_PATIENCE: Duration = Duration::from_secs(1);

/// Why supervision could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The probes cannot be answered.
    #[error(
        "failed to listen on {address} for the kubelet's probes; another process may hold the port: choose \
             another with CLOUDSTATE_LAUNCHER_ADMIN_PORT and in the pod's probes"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("failed to take over signal handling")]
    Signals(#[source] io::Error),
}

impl Error {
    /// The launcher's exit code for it.
    pub fn exit_code(&self) -> u8 {
        OS_ERROR
    }
}

/// Keeps one proxy running until a signal or the proxy itself ends it, and returns our exit code.
///
/// # Errors
/// [`Error`] when nothing has been started yet and nothing can be.
pub async fn run(config: &Config, proxy: &ProxyCommand) -> Result<u8, Error> {
    let mut signals = Signals::take().map_err(Error::Signals)?;
    if let Err(error) = process::adopt_orphans() {
        warn!(%error, "orphans of the proxy will not be reaped here");
    }
    let address = SocketAddr::new(config.admin_bind, config.ports.admin.get());
    let listener =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;

    let seed = RandomState::new().hash_one(());
    let machine = Machine::new(
        config.supervise.clone(),
        config.drain.clone(),
        config.user_function.clone(),
        seed,
    );
    let health = watch::Sender::new(machine.health());
    let mut server = JoinSet::new();
    server.spawn(admin::serve(listener, health.subscribe()));

    let mut function = watch_user_function(config, &mut server);
    // One answer in flight is enough: the prober waits with the next question until it was taken.
    let (answers, mut heard) = mpsc::channel(1);
    let mut supervisor = Supervisor {
        config,
        proxy,
        machine,
        health,
        leader: None,
        oom_kills: None,
        prober: JoinSet::new(),
        answers,
        started: Instant::now(),
    };
    let mut event = Event::Tick;
    loop {
        if let Some(code) = supervisor.take(event) {
            bury_all(&mut signals.child).await;
            return Ok(code);
        }
        event = supervisor.next_event(&mut signals, &mut heard, &mut function).await;
    }
}

/// Begins to ask the user function, unless it is not to be asked; then nothing ever comes.
fn watch_user_function(config: &Config, tasks: &mut JoinSet<()>) -> mpsc::Receiver<bool> {
    let (changes, heard) = mpsc::channel(1);
    let rules = &config.user_function;
    if rules.wait != Wait::Never {
        let target = Target {
            host: config.user_function_host.clone(),
            port: config.ports.user_function.get(),
        };
        tasks.spawn(user_function::watch(target, rules.probe, rules.cadence.clone(), changes));
    }
    heard
}

struct Supervisor<'a> {
    config: &'a Config,
    proxy: &'a ProxyCommand,
    machine: Machine,
    health: watch::Sender<Health>,
    leader: Option<Leader>,
    /// How many processes the kernel had killed for memory when the proxy was started.
    oom_kills: Option<u64>,
    prober: JoinSet<()>,
    answers: mpsc::Sender<(u64, Answer)>,
    started: Instant,
}

impl Supervisor<'_> {
    async fn next_event(
        &mut self,
        signals: &mut Signals,
        heard: &mut mpsc::Receiver<(u64, Answer)>,
        function: &mut mpsc::Receiver<bool>,
    ) -> Event {
        let wake_at = self.machine.wake_at().and_then(|at| self.started.checked_add(at));
        tokio::select! {
            biased; // Signals win a tie, and among them those that end us.
            _ = signals.terminate.recv() => {
                info!(signal = "TERM", "signal received");
                Event::Terminate
            }
            _ = signals.interrupt.recv() => {
                info!(signal = "INT", "signal received");
                Event::Interrupt
            }
            _ = signals.child.recv() => self.reap(),
            Some((generation, answer)) = heard.recv() => Event::Answered { generation, answer },
            Some(up) = function.recv() => {
                info!(up, "user function");
                Event::UserFunction { up }
            }
            () = sleep_until(wake_at) => Event::Tick,
        }
    }

    /// Feeds an event to the machine, does what it asks for, and tells the probes.
    fn take(&mut self, event: Event) -> Option<u8> {
        let mut events = VecDeque::from([event]);
        let mut code = None;
        while let Some(event) = events.pop_front() {
            let before = self.machine.state_name();
            let actions = self.machine.handle(event, self.started.elapsed());
            let after = self.machine.state_name();
            if before != after {
                info!(from = before, to = after, "state changed");
            }
            for action in actions {
                match action {
                    Action::Spawn { generation } => {
                        if let Err(end) = self.spawn(generation) {
                            events.push_back(Event::Ended(end));
                        }
                    }
                    Action::Dump => self.signal(Leader::dump, "QUIT"),
                    Action::Stop => self.signal(Leader::stop, "TERM"),
                    Action::Kill => self.signal(Leader::kill, "KILL"),
                    Action::Exit { code: last, words } => {
                        if let (Some(path), Some(words)) = (&self.config.termination_path, words)
                            && let Err(error) = termination::write_if_empty(path, &words)
                        {
                            debug!(path = %path.display(), %error, "failed to leave last words");
                        }
                        code = Some(last);
                    }
                }
            }
        }
        self.tell_probes();
        code
    }

    fn spawn(&mut self, generation: u64) -> Result<(), End> {
        if let Some(path) = &self.config.termination_path
            && let Err(error) = termination::clear(path)
        {
            debug!(path = %path.display(), %error, "failed to clear earlier last words");
        }
        let program = self.proxy.program.display();
        match process::spawn(self.proxy) {
            Ok(leader) => {
                info!(%program, pid = leader.id(), generation, "proxy started");
                self.leader = Some(leader);
                self.oom_kills = oom_kills();
                let port = self.config.ports.management.get();
                self.prober.spawn(probe::watch(port, generation, self.answers.clone()));
                Ok(())
            }
            Err(error) => {
                warn!(%program, %error, "failed to start the proxy");
                Err(End::of_spawn_error(&error))
            }
        }
    }

    fn signal(&self, send: fn(Leader), name: &str) {
        if let Some(leader) = self.leader {
            info!(pid = leader.id(), signal = name, "signal sent to the proxy's group");
            send(leader);
        }
    }

    fn reap(&mut self) -> Event {
        let reaped = process::reap(self.leader);
        // While there is a proxy, its orphans may be at work for it; without one nobody needs them.
        if self.leader.is_none() || reaped.leader.is_some() {
            sweep();
        }
        if reaped.orphans > 0 {
            debug!(count = reaped.orphans, "orphans reaped");
        }
        let Some(end) = reaped.leader else { return Event::Tick };
        let is_jvm = matches!(self.config.kind, ProxyKind::Jvm(_));
        let end = end.explained(is_jvm, oom_kills() > self.oom_kills);
        let pid = self.leader.take().map(Leader::id);
        self.prober.abort_all();
        info!(pid, %end, "proxy ended");
        Event::Ended(end)
    }

    fn tell_probes(&self) {
        let new = self.machine.health();
        self.health.send_if_modified(|old| {
            let differs = *old != new;
            if differs {
                match &new.ready {
                    Ok(()) => info!("ready"),
                    Err(why) => info!(reason = why.reason, why = why.message, "not ready"),
                }
                *old = new;
            }
            differs
        });
    }
}

fn sweep() -> usize {
    process::sweep().unwrap_or_else(|error| {
        warn!(%error, "what the proxy left behind is not looked for");
        0
    })
}

/// Leaves no process behind, as far as the kernel lets them go in time.
async fn bury_all(child: &mut Signal) {
    let deadline = Instant::now() + BURY_PATIENCE;
    while sweep() > 0 {
        process::reap(None);
        if time::timeout_at(deadline, child.recv()).await.is_err() {
            warn!("some processes of the proxy would not die");
            return;
        }
    }
    process::reap(None);
}

fn oom_kills() -> Option<u64> {
    Cgroup::of_this_process().and_then(|group| group.oom_kills())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
    /// Kept so that the signals stay taken; tokio would not give them back anyway.
    _ignored: Vec<Signal>,
}

impl Signals {
    fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
            _ignored: IGNORED_SIGNALS
                .iter()
                .map(|kind| signal(kind()))
                .collect::<Result<_, _>>()?,
        })
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
