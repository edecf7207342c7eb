//! Does what [`Machine`] decides: owns the clock, the signals, the child and the admin server.

mod bury;
mod kills;
mod record;
mod reload;
mod tell;

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{info, warn};

use self::{
    bury::bury_all,
    kills::{Kills, oom_kills},
};
use crate::{
    admin::{self, Desk, Order},
    board::{Board, Facts},
    config::{self, Config, Loaded, ProxyKind, Refused, Wait},
    exit::{End, OS_ERROR},
    health::{Answer, Health},
    jvm::Budget,
    log::Log,
    machine::{Action, Event, Machine},
    probe,
    process::{self, Leader},
    signals::{Received, Signals},
    termination::LastWords,
    user_function::{self, Target},
};

/// How long those may take to hear of the end who waited for it.
const FLUSH_PATIENCE: Duration = Duration::from_millis(200);
const FLUSH_GLANCE: Duration = Duration::from_millis(5);
/// What may be asked for before it is taken up.
const ORDERS_MAX: usize = 4;
/// How often the proxy is asked at most what it is doing.
pub(crate) const DUMP_INTERVAL: Duration = Duration::from_secs(5);
const TOKEN_BYTES: usize = 16;

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
    /// The token cannot be left where it is to be found.
    #[error(
        "failed to write the token to {path}: let CLOUDSTATE_LAUNCHER_ADMIN_TOKEN_FILE name a file in a folder \
         that can be written, or leave it out"
    )]
    Token {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The launcher's exit code for it.
    pub fn exit_code(&self) -> u8 {
        OS_ERROR
    }
}

/// Keeps one proxy running until a signal or the proxy itself ends it, and returns our exit code. `load` reads
/// the settings again.
///
/// # Errors
/// [`Error`] when nothing has been started yet and nothing can be.
pub async fn run(
    loaded: Loaded,
    mut signals: Signals,
    log: Log,
    load: &dyn Fn() -> Result<Loaded, Refused>,
) -> Result<u8, Error> {
    if let Err(error) = process::adopt_orphans() {
        warn!(%error, "orphans of the proxy will not be reaped here");
    }
    let config = &loaded.config;
    let address = SocketAddr::new(config.admin_bind, config.ports.admin.get());
    let listener =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let token = config.admin_token_file.as_deref().map(leave_token).transpose()?;

    let seed = RandomState::new().hash_one(());
    let machine = Machine::new(
        config.supervise.clone(),
        config.drain.clone(),
        config.user_function.clone(),
        config.startup,
        seed,
    );
    let started = Instant::now();
    let board = Arc::new(Board::new(first_facts(&loaded), started.into_std()));
    let shown = Arc::new(Mutex::new(config::json(&loaded.settings)));
    let health = watch::Sender::new(machine.health());
    let (orders, mut ordered) = mpsc::channel(ORDERS_MAX);
    let desk = Desk::new(
        health.subscribe(),
        Arc::clone(&board),
        orders,
        log.clone(),
        token,
        Arc::clone(&shown),
    )
    .merging(config.merge_metrics.then_some(config.ports.metrics.get()));
    let mut server = JoinSet::new();
    server.spawn(admin::serve(listener, desk.clone()));
    let mut function = watch_user_function(config, &board, &mut server);
    // One answer in flight is enough: the prober waits with the next question until it was taken.
    let (answers, mut heard) = mpsc::channel(1);
    let (counts, mut counted) = mpsc::channel(1);
    let words = LastWords::at(config.termination_path.clone());
    let mut look_at_memory = time::interval(record::LOOK_AT_MEMORY);
    let mut supervisor = Supervisor {
        words,
        loaded,
        load,
        log,
        shown,
        machine,
        health,
        board,
        leader: None,
        dying: None,
        kills: Kills::default(),
        prober: JoinSet::new(),
        answers,
        counter: None,
        counts,
        hold: watch::Sender::new(false),
        talks: JoinSet::new(),
        started,
    };
    let mut event = Event::Tick;
    loop {
        if let Some(code) = supervisor.take(event) {
            bury_all(&mut signals).await;
            flush(&desk).await;
            return Ok(code);
        }
        event = tokio::select! {
            biased; // Signals win a tie.
            signal = signals.next() => supervisor.signalled(signal),
            Some((generation, answer)) = heard.recv() => Event::Answered { generation, answer },
            Some(up) = function.recv() => {
                info!(up, "user function");
                Event::UserFunction { up }
            }
            Some(order) = ordered.recv() => supervisor.ordered(order),
            Some(calls) = counted.recv() => Event::InFlight(calls),
            () = sleep_until(supervisor.wake_at()) => supervisor.woken(),
            _ = look_at_memory.tick() => {
                supervisor.look_at_memory();
                Event::Tick
            }
        };
    }
}

fn first_facts(loaded: &Loaded) -> Facts {
    Facts {
        is_jvm: matches!(loaded.config.kind, ProxyKind::Jvm(_)),
        warnings: loaded.warnings.len(),
        ..Facts::default()
    }
}

/// Begins to ask the user function, unless it is not to be asked; then nothing ever comes.
fn watch_user_function(
    config: &Config,
    board: &Arc<Board>,
    tasks: &mut JoinSet<()>,
) -> mpsc::Receiver<bool> {
    let (changes, heard) = mpsc::channel(1);
    let rules = &config.user_function;
    if rules.wait != Wait::Never {
        let target = Target {
            host: config.user_function_host.clone(),
            port: config.ports.user_function.get(),
        };
        let (cadence, board) = (rules.cadence.clone(), Arc::clone(board));
        tasks.spawn(user_function::watch(target, rules.probe, cadence, changes, board));
    }
    heard
}

/// Makes a token that only those can read who are us.
fn leave_token(path: &Path) -> Result<String, Error> {
    let leave = || {
        let mut random = [0; TOKEN_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let token = format!("{:032x}", u128::from_be_bytes(random));
        // Made anew, so that nobody has it open who could not read it.
        let _ = std::fs::remove_file(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(token.as_bytes())?;
        Ok(token)
    };
    leave().map_err(|source| Error::Token { path: path.to_owned(), source })
}

struct Supervisor<'a> {
    words: LastWords,
    loaded: Loaded,
    load: &'a dyn Fn() -> Result<Loaded, Refused>,
    log: Log,
    /// The settings as the admin port shows them.
    shown: Arc<Mutex<Value>>,
    machine: Machine,
    health: watch::Sender<Health>,
    board: Arc<Board>,
    leader: Option<Leader>,
    /// The end of a proxy whose processes are not all gone yet, and until when they are waited for.
    dying: Option<(End, Instant)>,
    kills: Kills,
    prober: JoinSet<()>,
    answers: mpsc::Sender<(u64, Answer)>,
    /// Counts calls while a drain waits for them.
    counter: Option<JoinSet<()>>,
    counts: mpsc::Sender<u64>,
    /// Whether the proxy is to take no new calls.
    hold: watch::Sender<bool>,
    /// Questions to the proxy whose answers go to the log.
    talks: JoinSet<()>,
    started: Instant,
}

impl Supervisor<'_> {
    fn wake_at(&self) -> Option<Instant> {
        let machine = self.machine.wake_at().and_then(|at| self.started.checked_add(at));
        machine.into_iter().chain(self.dying.map(|(_, until)| until)).min()
    }

    fn woken(&mut self) -> Event {
        match self.dying {
            Some((end, until)) if until <= Instant::now() => {
                warn!("some processes of the proxy would not die");
                self.dying = None;
                Event::Ended(end)
            }
            _ => Event::Tick,
        }
    }

    fn signalled(&mut self, signal: Received) -> Event {
        let name = signal.as_str();
        if signal != Received::Child {
            info!(signal = name, "signal received");
            self.board.note(|facts| *facts.signals.entry(name).or_default() += 1);
        }
        match signal {
            Received::Term => return Event::Terminate,
            Received::Int => return Event::Interrupt,
            Received::Child => return self.reap(),
            Received::Hup => self.reload(),
            Received::Quit => self.write_down(),
            Received::Usr1 => {
                let status = self.board.status(&self.health.borrow());
                info!(%status, "status");
            }
            Received::Usr2 => {
                let is_debug = self.log.level() == "debug";
                let level = if is_debug { self.loaded.config.log_level } else { "debug" };
                self.log.set_level(level);
                info!(level, "the level of the log was changed");
            }
        }
        Event::Tick
    }

    fn ordered(&mut self, order: Order) -> Event {
        info!(?order, "told at the admin port");
        match order {
            Order::Drain => Event::Drain,
            Order::CancelDrain => Event::CancelDrain,
            Order::Quit => Event::Quit,
            Order::Dump => {
                self.write_down();
                Event::Tick
            }
        }
    }

    /// Feeds an event to the machine, does what it asks for, and tells the probes.
    fn take(&mut self, event: Event) -> Option<u8> {
        let mut events = VecDeque::from([event]);
        let mut code = None;
        let state = self.machine.state_name();
        while let Some(event) = events.pop_front() {
            let now = self.started.elapsed();
            let before = self.machine.state_name();
            self.write_up(&event, now);
            let actions = self.machine.handle(event, now);
            let after = self.machine.state_name();
            if before != after {
                info!(from = before, to = after, "state changed");
            }
            if (before, after) == ("starting", "running") {
                self.board.note(|facts| {
                    let took = facts.spawned_at.map(|at| now.saturating_sub(at));
                    facts.start_times.observe(took.unwrap_or_default());
                });
            }
            for action in actions {
                match action {
                    Action::Spawn { generation } => {
                        if let Err(end) = self.spawn(generation) {
                            events.push_back(Event::Ended(end));
                        }
                    }
                    Action::TellHang => self.tell_hang(),
                    Action::Dump => self.dump(),
                    Action::Stop => self.signal(Leader::stop, "TERM"),
                    Action::Interrupt => self.signal(Leader::interrupt, "INT"),
                    Action::Kill => {
                        self.kills.is_ours = true;
                        self.signal(Leader::kill, "KILL");
                    }
                    Action::Exit { code: last, words } => {
                        self.words.leave(words.as_ref());
                        code = Some(last);
                    }
                }
            }
        }
        if code.is_none() && state != self.machine.state_name() {
            self.words.stand(&self.record(self.machine.state_name()));
        }
        self.tell_probes();
        self.tell_proxy();
        self.count_calls();
        code
    }

    fn spawn(&mut self, generation: u64) -> Result<(), End> {
        self.words.clear();
        if generation > 1 {
            self.fit_memory();
        }
        let program = self.loaded.proxy.program.display();
        let spawned = process::spawn(&self.loaded.proxy, self.loaded.config.limits);
        let now = self.started.elapsed();
        let budget = self.loaded.budget.as_ref();
        self.board.note(|facts| {
            facts.generation = generation;
            facts.memory_limit = self.loaded.memory_limit();
            facts.heap_max = budget.map(|budget| budget.heap);
            facts.heap_estimate = budget.map(Budget::total);
            if let Ok(leader) = &spawned {
                facts.starts += 1;
                if let Some(cause) = facts.ends.back().map(|end| end.class) {
                    *facts.restarts.entry(cause).or_default() += 1;
                }
                (facts.pid, facts.spawned_at) = (Some(leader.id()), Some(now));
            }
        });
        match spawned {
            Ok(leader) => {
                info!(%program, pid = leader.id(), generation, "proxy started");
                self.leader = Some(leader);
                self.kills = Kills::before_start(oom_kills());
                let port = self.loaded.config.ports.management.get();
                self.prober.spawn(probe::watch(
                    port,
                    generation,
                    self.answers.clone(),
                    Arc::clone(&self.board),
                ));
                self.prober.spawn(probe::hold(port, self.hold.subscribe()));
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
}

/// Lets those have their answer who waited for the end.
async fn flush(desk: &Desk) {
    let deadline = Instant::now() + FLUSH_PATIENCE;
    while desk.is_busy() && Instant::now() < deadline {
        time::sleep(FLUSH_GLANCE).await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
