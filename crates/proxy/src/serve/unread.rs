//! Replies that callers have not read: counted for each connection and for all, so that who does not read
//! costs no memory, and nobody else their replies.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::entity::{Failure, FailureKind};

/// How long a connection with replies to read may read none of them.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The same while replies for everybody take too much room.
const SHORT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a connection may always have unread, or one reply, unless even twice the room is taken.
const ALLOWANCE: usize = 64 << 10;
/// What a reply takes beside its bytes.
const REPLY: usize = 2 << 10;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    /// Bytes of replies that were not read.
    unread: AtomicUsize,
    /// Counts replies that were.
    read: AtomicU64,
    /// When the last one was, or the first that was not came up; in milliseconds of [`Total::begin`].
    since: AtomicU64,
    /// Makes room for others.
    cut: CancellationToken,
    all: Arc<Total>,
}

/// Replies that nobody has read, on all connections.
#[derive(Debug)]
pub struct Total {
    bytes: AtomicUsize,
    /// Beyond it who reads nothing is cut, and who has much to read gets no more.
    max: usize,
    begin: Instant,
    peers: Mutex<Vec<Weak<Peer>>>,
}

impl Total {
    /// Of at most so many bytes, as long as everybody reads.
    pub fn new(max: usize) -> Self {
        let (bytes, peers) = (AtomicUsize::new(0), Mutex::default());
        Self { bytes, max, begin: Instant::now(), peers }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Cuts every connection that has stopped reading; says whether there was one.
    fn make_room(&self) -> bool {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let stale = |peer: &Arc<Peer>| {
            let since =
                Duration::from_millis(now.saturating_sub(peer.since.load(Ordering::Relaxed)));
            peer.unread.load(Ordering::Relaxed) > 0 && since >= SHORT_TIMEOUT
        };
        let stale = peers.iter().filter_map(Weak::upgrade).filter(stale);
        stale.map(|peer| peer.cut.cancel()).count() > 0
    }
}

impl Peer {
    pub(super) fn new(address: SocketAddr, all: Arc<Total>) -> Arc<Self> {
        let peer = Arc::new(Self {
            address,
            unread: AtomicUsize::new(0),
            read: AtomicU64::new(0),
            since: AtomicU64::new(0),
            cut: CancellationToken::new(),
            all,
        });
        let mut peers = peer.all.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|other| other.strong_count() > 0);
        peers.push(Arc::downgrade(&peer));
        drop(peers);
        peer
    }

    /// Where it calls from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts a reply until it is read.
    ///
    /// # Errors
    /// When this peer has much to read while replies for everybody take too much room.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Result<Unread, Failure> {
        let bytes = bytes + REPLY;
        let mine = self.unread.fetch_add(bytes, Ordering::Relaxed);
        if mine == 0 {
            self.since.store(self.all.now(), Ordering::Relaxed);
        }
        let before = self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        let unread = Unread { peer: Arc::clone(self), bytes };
        let (all, max) = (before + bytes, self.all.max);
        if all <= max {
            return Ok(unread);
        }
        // What those held who are cut now comes free in a moment.
        let may_pass = self.all.make_room() || mine == 0 || mine + bytes <= ALLOWANCE;
        if may_pass && before <= max * 2 {
            return Ok(unread);
        }
        let text = format!(
            "replies that nobody has read take {all} bytes, of which this connection has {mine}: read \
             replies while you send calls"
        );
        Err(Failure::new(FailureKind::ResourceExhausted, text))
    }

    /// Resolves when the peer has stopped reading.
    pub(super) async fn stalls(&self) {
        let for_long = async {
            let mut ticks = time::interval(UNREAD_TIMEOUT);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before = None;
            loop {
                ticks.tick().await;
                let waits = self.unread.load(Ordering::Relaxed) > 0;
                let now = waits.then(|| self.read.load(Ordering::Relaxed));
                if now.is_some() && now == before {
                    return;
                }
                before = now;
            }
        };
        tokio::select! {
            () = for_long => {}
            () = self.cut.cancelled() => {}
        }
    }
}

/// A reply that has not been read.
#[derive(Debug)]
pub(super) struct Unread {
    peer: Arc<Peer>,
    bytes: usize,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.peer.unread.fetch_sub(self.bytes, Ordering::Relaxed);
        self.peer.all.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.peer.read.fetch_add(1, Ordering::Relaxed);
        self.peer.since.store(self.peer.all.now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(all: &Arc<Total>) -> Arc<Peer> {
        Peer::new((Ipv4Addr::LOCALHOST, 1).into(), Arc::clone(all))
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_much_to_read_gets_no_more_once_all_replies_take_too_much_room() {
        let all = Arc::new(Total::new(1 << 20));
        let (greedy, honest) = (peer(&all), peer(&all));
        let first = greedy.hold(1 << 20).unwrap();
        let failure = greedy.hold(1).unwrap_err();
        assert!(failure.message.contains("of which this connection has 1050624"), "{failure:?}");
        let replies: Vec<_> = (0..10).map(|_| honest.hold(1_000).unwrap()).collect();
        assert!(!greedy.cut.is_cancelled(), "it may be about to read");
        drop((first, replies));
        assert_eq!(all.bytes.load(Ordering::Relaxed), 0);
        greedy.hold(1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_makes_room_for_who_does() {
        let all = Arc::new(Total::new(1 << 20));
        let (idle, busy) = (peer(&all), peer(&all));
        let unread = idle.hold(1 << 20).unwrap();
        time::advance(SHORT_TIMEOUT).await;
        let read = busy.hold(1 << 19).unwrap();
        idle.stalls().await;
        drop(read);
        assert!(!busy.cut.is_cancelled(), "it has read");
        // Until the connection is gone not even that helps without end.
        let more = [busy.hold(1 << 19).unwrap(), busy.hold(1 << 20).unwrap()];
        assert!(busy.hold(1).is_err());
        drop((unread, more));
        assert_eq!(all.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_stalls_when_it_reads_nothing_for_long() {
        let peer = peer(&Arc::new(Total::new(1 << 20)));
        let long = UNREAD_TIMEOUT * 3;
        assert!(time::timeout(long, peer.stalls()).await.is_err(), "nothing is to be read");
        let reply = peer.hold(1).unwrap();
        time::timeout(long, peer.stalls()).await.unwrap();
        drop(reply);
        assert!(time::timeout(long, peer.stalls()).await.is_err(), "all was read");
    }

    #[test]
    fn connections_that_ended_are_forgotten() {
        let all = Arc::new(Total::new(1));
        for _ in 0..10 {
            drop(peer(&all));
        }
        assert!(all.peers.lock().unwrap().len() <= 1);
    }
}
