//! The wire between a proxy and a user function: everything that passes is kept, in order, and
//! passed on as it is.
//!
//! A test takes the calls that it expects, reads what went over each, and what nobody read in the end
//! is an interaction that should not have been.

mod forward;
mod message;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

pub use message::Message;

/// How long something expected may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What the proxy is told when a test breaks a stream off.
const CUT: &str = "the stream was cut";

/// What happened on a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// The proxy sent this.
    Sent(Message),
    /// The user function answered this.
    Answered(Message),
    /// The proxy ended its side.
    ProxyDone,
    /// The user function ended the call with this status.
    FunctionDone(Code),
    /// The proxy broke the call off.
    ProxyGone,
}

/// A method of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    Discover,
    ReportError,
    EventSourced,
    ValueEntity,
    ActionUnary,
    ActionStreamedIn,
    ActionStreamedOut,
    ActionStreamed,
}

/// Where an item stands among all items of all calls.
pub type Stamp = usize;

/// A recorder between one proxy and one user function.
#[derive(Debug)]
pub struct Wire {
    log: Arc<Log>,
    address: SocketAddr,
    /// Ends with the wire.
    _server: JoinSet<()>,
}

/// All calls so far.
#[derive(Debug)]
struct Log {
    calls: Mutex<Calls>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Calls {
    all: Vec<Call>,
    stamp: Stamp,
    /// The test that runs now.
    test: &'static str,
}

#[derive(Debug)]
struct Call {
    rpc: Rpc,
    /// The test during which it began.
    test: &'static str,
    items: Vec<(Stamp, Item)>,
    is_taken: bool,
    read: usize,
    /// Nobody minds what else goes over it.
    is_forgotten: bool,
    /// Breaks the user function's side off.
    cut: CancellationToken,
}

/// A call that a test has taken.
#[derive(Clone, Debug)]
pub struct Taken {
    log: Arc<Log>,
    index: usize,
}

impl Wire {
    /// Listens for a proxy in front of the user function at this address.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(function: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let log = Arc::new(Log { calls: Mutex::default(), changed: watch::Sender::default() });
        let function = Channel::from_shared(format!("http://{function}"))?.connect_lazy();
        let server = forward::serve(Arc::clone(&log), function, TcpListenerStream::new(listener));
        let mut tasks = JoinSet::new();
        // A server that breaks is seen by the proxy, which then says so.
        tasks.spawn(async move { drop(server.await) });
        Ok(Self { log, address, _server: tasks })
    }

    /// Where the proxy finds its user function.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on, calls belong to this test.
    pub fn begin(&self, test: &'static str) {
        self.log.lock().test = test;
    }

    /// Takes the oldest call of this kind that nobody has taken and that began in this test.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn take(&self, rpc: Rpc) -> Result<Taken> {
        self.take_where(&format!("{rpc:?}"), |call| call.rpc == rpc).await
    }

    /// Takes the oldest activation of an entity that nobody has taken.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn activation(&self, rpc: Rpc, service: &str, entity: &str) -> Result<Taken> {
        let what = format!("an activation of {service} {entity:?}");
        self.take_where(&what, |call| {
            let first = call.items.first().map(|(_, item)| item);
            matches!(first, Some(Item::Sent(message)) if call.rpc == rpc && message.opens(service, entity))
        })
        .await
    }

    async fn take_where(&self, what: &str, wanted: impl Fn(&Call) -> bool) -> Result<Taken> {
        let index = self.log.until(|calls| {
            let test = calls.test;
            let is_open = |call: &Call| !call.is_taken && call.test == test && wanted(call);
            let index = calls.all.iter().position(is_open)?;
            calls.all[index].is_taken = true;
            Some(index)
        });
        match index.await {
            Some(index) => Ok(Taken { log: Arc::clone(&self.log), index }),
            None => bail!("the proxy made no such call in {PATIENCE:?}: {what}\n{self}"),
        }
    }

    /// Lets a call that was cut end as it likes.
    pub fn forget(&self, cut: &Taken) {
        self.log.lock().all[cut.index].is_forgotten = true;
    }

    /// Whether tests read all that was said.
    ///
    /// # Errors
    /// Names calls that no test took, and what no test read of those that were taken.
    pub fn silence(&self) -> Result<()> {
        let unexpected: Vec<_> = self.log.lock().all.iter().filter_map(Call::unexpected).collect();
        ensure!(unexpected.is_empty(), "nobody expected:\n  {}", unexpected.join("\n  "));
        Ok(())
    }
}

impl fmt::Display for Wire {
    /// All calls of the test that runs now.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.log.lock();
        for call in calls.all.iter().filter(|call| call.test == calls.test) {
            writeln!(f, "{:?}", call.rpc)?;
            for (_, item) in &call.items {
                writeln!(f, "  {item:?}")?;
            }
        }
        Ok(())
    }
}

impl Call {
    fn unexpected(&self) -> Option<String> {
        let rest: Vec<_> = self.items[self.read..].iter().map(|(_, item)| item).collect();
        // Entities end with the proxy, and by themselves.
        let ends = match rest[..] {
            [] | [Item::ProxyDone] => true,
            [Item::ProxyDone, Item::FunctionDone(code)] => *code == Code::Ok,
            _ => false,
        };
        let is_of_a_cut = matches!(
            self.items.first(),
            Some((_, Item::Sent(Message::Error(error)))) if error.message.ends_with(CUT)
        );
        let is_fine = self.is_forgotten || is_of_a_cut || self.is_taken && ends;
        (!is_fine).then(|| format!("{}: {:?} {rest:?}", self.test, self.rpc))
    }
}

impl Taken {
    /// Reads as many items, which must be these.
    ///
    /// # Errors
    /// When others came, or too few in time.
    pub async fn expect(&self, expected: impl IntoIterator<Item = Item>) -> Result<Stamp> {
        let mut last = 0;
        for expected in expected {
            let next = self.log.until(|calls| self.next(calls)).await;
            let (stamp, item) = next.with_context(|| {
                format!("expected {expected:?}, and nothing came in {PATIENCE:?}; {self}")
            })?;
            ensure!(item == expected, "expected {expected:?}\n and got {item:?}\n{self}");
            last = stamp;
        }
        Ok(last)
    }

    /// Reads as many items, which must be these and there by now.
    ///
    /// # Errors
    /// When others came, or too few.
    pub fn expect_now(&self, expected: impl IntoIterator<Item = Item>) -> Result<()> {
        for expected in expected {
            let next = self.next(&mut self.log.lock());
            let (_, item) =
                next.with_context(|| format!("{expected:?} is not there yet\n{self}"))?;
            ensure!(item == expected, "expected {expected:?}\n and got {item:?}\n{self}");
        }
        Ok(())
    }

    /// The next item, whatever it is.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn next_item(&self) -> Result<Item> {
        let next = self.log.until(|calls| self.next(calls)).await;
        Ok(next.with_context(|| format!("nothing came in {PATIENCE:?}; {self}"))?.1)
    }

    /// Breaks the stream off as if the user function had.
    ///
    /// # Errors
    /// When the proxy does not get to know.
    pub async fn cut(&self) -> Result<()> {
        self.log.lock().all[self.index].cut.cancel();
        self.expect([Item::FunctionDone(Code::Unavailable)]).await.map(drop)
    }

    fn next(&self, calls: &mut Calls) -> Option<(Stamp, Item)> {
        let call = &mut calls.all[self.index];
        let item = call.items.get(call.read)?.clone();
        call.read += 1;
        Some(item)
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.log.lock();
        let call = &calls.all[self.index];
        writeln!(f, "all of {:?}:", call.rpc)?;
        call.items.iter().try_for_each(|(_, item)| writeln!(f, "  {item:?}"))
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, rpc: Rpc) -> (usize, CancellationToken) {
        let mut calls = self.lock();
        let (test, cut) = (calls.test, CancellationToken::new());
        let call = Call {
            rpc,
            test,
            items: Vec::new(),
            is_taken: false,
            read: 0,
            is_forgotten: false,
            cut: cut.clone(),
        };
        calls.all.push(call);
        (calls.all.len() - 1, cut)
    }

    fn add(&self, call: usize, item: Item) {
        let mut calls = self.lock();
        calls.stamp += 1;
        let stamp = calls.stamp;
        calls.all[call].items.push((stamp, item));
        drop(calls);
        self.changed.send_replace(());
    }

    /// Waits until there is something; `None` when there is not in time.
    async fn until<T>(&self, mut look: impl FnMut(&mut Calls) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.subscribe();
        let looking = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look(&mut self.lock()) {
                    return found;
                }
                // The sender lives as long as we do.
                let _open = changed.changed().await;
            }
        };
        time::timeout(PATIENCE, looking).await.ok()
    }
}
