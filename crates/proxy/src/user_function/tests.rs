//! Connections to a peer that speaks just enough HTTP/2 to be taken for a user function, or hangs.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);
/// An empty SETTINGS frame: no bound for streams.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A peer that answers the first `alive` connections and then hangs, as a process does that was stopped: the
/// kernel still accepts for it. Gives its address and how many have come.
fn peer(alive: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if counted.fetch_add(1, Ordering::SeqCst) < alive {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).unwrap();
                stream.write_all(&SETTINGS).unwrap();
            }
            open.push(stream);
        }
    });
    (address, count)
}

fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(1),
        probe_interval: Duration::from_millis(500),
        probe: Duration::from_secs(1),
        ..Limits::default()
    }
}

async fn until(user_function: &UserFunction, what: impl FnMut(&Link) -> bool) -> Link {
    let mut link = user_function.link();
    let reached = tokio::time::timeout(PATIENCE, link.wait_for(what)).await;
    reached.expect("in time").expect("the user function is held").clone()
}

#[tokio::test]
async fn a_peer_that_hangs_from_the_start_is_never_reached() {
    let (address, _count) = peer(0);
    let user_function = UserFunction::new(&address, limits()).unwrap();
    let link = until(&user_function, |link| link.failures > 1).await;
    assert_eq!(link.state, LinkState::Lost);
    assert!(link.error.contains("no answer within"), "{}", link.error);
}

#[tokio::test]
async fn a_peer_that_begins_to_hang_is_lost_with_all_connections() {
    let base = limits().connections;
    // One more for the first probe.
    let (address, count) = peer(base + 1);
    let user_function = UserFunction::new(&address, limits()).unwrap();
    until(&user_function, |link| link.connections == base).await;
    assert!(user_function.agree(1));
    let link = until(&user_function, |link| link.state == LinkState::Lost).await;
    assert!(link.error.contains("hangs"), "{}", link.error);
    assert_eq!(link.connections, 0);
    assert!(count.load(Ordering::SeqCst) > base);
}

#[tokio::test]
async fn attempts_to_reach_nobody_are_paced() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let user_function = UserFunction::new(&free.to_string(), limits()).unwrap();
    let started = Instant::now();
    let link = until(&user_function, |link| link.failures >= 3).await;
    assert!(started.elapsed() >= Duration::from_millis(50 + 100), "{link:?}");
    assert!(link.error.contains("refused"), "{}", link.error);
}

#[tokio::test]
async fn what_was_reached_before_a_loss_cannot_be_agreed_to_after_it() {
    let (address, _count) = peer(usize::MAX);
    let user_function = UserFunction::new(&address, limits()).unwrap();
    let link = until(&user_function, |link| link.state == LinkState::Unknown).await;
    assert!(!user_function.agree(link.reached - 1));
    assert!(user_function.agree(link.reached));
    assert!(!user_function.agree(link.reached), "it was agreed to already");
}
