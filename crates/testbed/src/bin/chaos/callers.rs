//! Callers that write down what they are told, whatever happens around them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use prost::Message as _;
use testbed::{
    counter::{COUNTER, Call, Request, Total},
    ledger::{Asked, Entry, Told},
    load::{Chance, Connection, Path, frame},
};
use tokio::{sync::watch, task::JoinSet, time};
use tokio_util::sync::CancellationToken;

const CALLERS: u64 = 12;
const ENTITIES: usize = 20;
/// Longest time for a call: longer than any recovery, since what comes late must be right, too.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// Between two calls of one caller, at most; so that a round's ledger stays small.
const PAUSE: Duration = Duration::from_millis(8);
/// Before a caller tries again to connect.
const PAUSE_WITHOUT_CONNECTION: Duration = Duration::from_millis(5);
/// Entities to which effects go start with this.
pub(crate) const EFFECTS: &str = "effect-";

/// Where calls go now, and the number of the proxy there.
pub(crate) type Target = (SocketAddr, u32);

/// All callers of a round.
pub(crate) struct Callers {
    tasks: JoinSet<Result<Vec<Entry>>>,
    stop: CancellationToken,
    newest: Newest,
}

/// When the newest command went out that was acknowledged.
#[derive(Clone, Debug)]
struct Newest(Arc<Mutex<Instant>>);

impl Newest {
    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, sent: Instant) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = sent.max(*newest);
    }
}

impl Callers {
    /// Starts them all.
    pub(crate) fn start(target: &watch::Receiver<Target>, seed: u64) -> Self {
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let newest = Newest(Arc::new(Mutex::new(Instant::now())));
        for number in 0..CALLERS {
            let caller = Caller {
                number,
                calls: 0,
                chance: Chance::new(seed.wrapping_mul(CALLERS) + number),
                target: target.clone(),
                newest: newest.clone(),
                ledger: Vec::new(),
            };
            tasks.spawn(caller.run(stop.clone()));
        }
        Self { tasks, stop, newest }
    }

    /// Waits until a command was acknowledged that was sent after now.
    pub(crate) async fn answered_again(&self) {
        let now = Instant::now();
        while self.newest.get() <= now {
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets every call under way end, and gives what all callers wrote down.
    pub(crate) async fn end(mut self) -> Result<Vec<Entry>> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(ledger) = self.tasks.join_next().await {
            all.extend(ledger??);
        }
        Ok(all)
    }
}

struct Caller {
    number: u64,
    calls: u64,
    chance: Chance,
    target: watch::Receiver<Target>,
    newest: Newest,
    ledger: Vec<Entry>,
}

impl Caller {
    async fn run(mut self, stop: CancellationToken) -> Result<Vec<Entry>> {
        let (add, get) = (Path::new(COUNTER, "Add"), Path::new(COUNTER, "Get"));
        while !stop.is_cancelled() {
            let (address, via) = *self.target.borrow_and_update();
            let Ok(connection) = Connection::open(address).await else {
                time::sleep(PAUSE_WITHOUT_CONNECTION).await;
                continue;
            };
            // On the connection as long as it is good, and leads where calls are to go.
            while !stop.is_cancelled() && !self.target.has_changed()? {
                let (request, entry) = self.next(via);
                let path = if entry.asked == Asked::Read { &get } else { &add };
                let answer = connection.call_within(CALL_LIMIT, path, frame(&request)).await;
                let broke = answer.is_err();
                self.note(entry, answer.ok().filter(|answer| answer.code == 0).map(|a| a.payload))?;
                if broke {
                    break;
                }
                time::sleep(self.chance.up_to(PAUSE)).await;
            }
        }
        Ok(self.ledger)
    }

    /// The next command.
    fn next(&mut self, via: u32) -> (Request, Entry) {
        self.calls += 1;
        let entity = format!("entity-{}", self.chance.below(ENTITIES));
        let mut request = Request {
            id: entity.clone(),
            caller: self.number + 1,
            number: self.calls,
            ..Request::default()
        };
        let asked = if self.chance.below(5) == 0 {
            Asked::Read
        } else {
            request.amount = 1 + i64::try_from(self.chance.below(9)).unwrap_or_default();
            request.events = 1 + u32::try_from(self.chance.below(3)).unwrap_or_default();
            if self.chance.below(4) == 0 {
                request.effects.push(self.effect(&request));
            }
            Asked::Add(request.amount, request.events)
        };
        let id = (request.caller, request.number);
        (request, Entry { id, entity, asked, via, sent: Instant::now(), told: None })
    }

    /// An addition elsewhere that must not happen unless the command itself is durable.
    fn effect(&mut self, cause: &Request) -> Call {
        let id = format!("{EFFECTS}{}", self.chance.below(ENTITIES));
        let request = Request { id, events: 1, effects: Vec::new(), ..cause.clone() };
        Call {
            service: COUNTER.to_owned(),
            command: "Add".to_owned(),
            request: Some(request),
            synchronous: self.chance.below(2) == 0,
        }
    }

    fn note(&mut self, mut entry: Entry, payload: Option<bytes::Bytes>) -> Result<()> {
        if let Some(payload) = payload {
            let Total { value, sequence } = Total::decode(payload)?;
            entry.told = Some((Told { value, sequence }, Instant::now()));
            self.newest.tell(entry.sent);
        }
        self.ledger.push(entry);
        Ok(())
    }
}
