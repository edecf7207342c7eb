//! Keeps connections open: the only task that opens them, and the one that notices when the user
//! function is gone or hangs.

use std::{sync::Arc, time::Duration};

use api::Chain;
use tokio::{
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};
use tracing::{debug, info, warn};

use super::{LinkState, Shared, connection::Connection, pool::Number};

/// Attempts are at least this far apart, even while calls wait...
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// ...and at most that far.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How a connection ended.
type Ended = (Number, hyper::Result<()>);

/// When the next attempt to open a connection may be made.
struct Pace {
    backoff: Duration,
    last: Instant,
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { backoff: BACKOFF_MIN, last: now, next: now }
    }

    fn failed(&mut self) {
        self.last = Instant::now();
        self.next = self.last + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// A call waits: makes the next attempt come sooner, yet never at once.
    fn hurry(&mut self) {
        self.next = self.next.min(self.last + BACKOFF_MIN);
    }
}

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut running: JoinSet<Ended> = JoinSet::new();
    let mut pace = Pace::new();
    let mut probe = time::interval(shared.limits.probe_interval);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wanted = false;
    loop {
        let wants = shared.pool().wants(wanted);
        wanted &= wants;
        tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                shared.ended(ended.ok());
                // The others of a process that died are to be noticed before its successor is looked for.
                pace = Pace { last: Instant::now(), next: Instant::now() + BACKOFF_MIN, ..Pace::new() };
            }
            () = time::sleep_until(pace.next), if wants => match shared.open(&mut running).await {
                Ok(()) => pace = Pace::new(),
                Err(error) => {
                    debug!(address = shared.target.address(), error, "not connected");
                    pace.failed();
                    shared.link.send_modify(|link| {
                        link.failures += 1;
                        link.error = error;
                    });
                }
            },
            () = shared.wanted.notified() => {
                wanted = true;
                pace.hurry();
            }
            _ = probe.tick() => shared.probe().await,
        }
    }
}

impl Shared {
    /// Opens one connection more.
    async fn open(&self, running: &mut JoinSet<Ended>) -> Result<(), String> {
        match time::timeout(self.limits.connect, Connection::open(&self.target)).await {
            Ok(Ok((connection, run))) => {
                let number = self.pool().add(connection);
                running.spawn(async move { (number, run.await) });
                self.opened();
                Ok(())
            }
            Ok(Err(error)) => Err(Chain(&error).to_string()),
            Err(_elapsed) => Err(format!("no answer within {} s", self.limits.connect.as_secs())),
        }
    }

    fn opened(&self) {
        let connections = self.pool().len();
        self.link.send_modify(|link| {
            link.connections = connections;
            if link.state == LinkState::Lost {
                link.state = LinkState::Unknown;
                link.since = Instant::now();
                link.reached += 1;
                info!(address = self.target.address(), "user function reached");
            }
        });
    }

    fn ended(&self, ended: Option<Ended>) {
        // A connection that ends without a number panicked; what is closed is not used in any case.
        let Some((number, result)) = ended else { return };
        let error = result.map_or_else(|error| Chain(&error).to_string(), |()| "closed".to_owned());
        let news = self.pool().lose(number);
        debug!(address = self.target.address(), error, "connection ended");
        self.lost(&error, news);
    }

    /// Tells how many connections there are now that some have gone, and whether all must be asked for anew.
    fn lost(&self, error: &str, news: bool) {
        let connections = self.pool().len();
        self.link.send_modify(|link| {
            link.connections = connections;
            if news && link.state != LinkState::Replaced {
                link.state = LinkState::Lost;
                link.since = Instant::now();
                error.clone_into(&mut link.error);
                warn!(
                    address = self.target.address(),
                    error, "connection to the user function lost"
                );
            }
        });
    }

    /// Asks the user function whether it still speaks.
    async fn probe(&self) {
        self.pool().shrink();
        if self.pool().len() == 0 {
            return;
        }
        match time::timeout(self.limits.probe, Connection::open(&self.target)).await {
            Ok(Ok(_alive)) => {}
            // A process that takes no more connections may serve those it has.
            Ok(Err(error)) => debug!(error = %Chain(&error), "probe failed"),
            Err(_elapsed) => {
                let error = format!("it hangs: no answer within {} s", self.limits.probe.as_secs());
                let hanging = self.pool().lose_all();
                hanging.iter().for_each(Connection::cut);
                self.lost(&error, true);
            }
        }
    }
}
