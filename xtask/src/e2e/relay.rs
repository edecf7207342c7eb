//! A way to the API server that can be cut: connections stay, and nothing comes through any more.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;

/// How often a connection that rests is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Sends what arrives at an address of its own on to another, until it is cut or dropped.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Relay {
    /// Begins to listen.
    pub(super) fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        let address = listener.local_addr().context("a listener without address")?;
        let relay = Self { address, is_cut: Arc::default(), is_over: Arc::default() };
        let (is_cut, is_over) = (Arc::clone(&relay.is_cut), Arc::clone(&relay.is_over));
        thread::spawn(move || {
            for incoming in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = incoming else { continue };
                // While it is cut a connection is taken, and nothing follows.
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let (is_cut, is_over) = (Arc::clone(&is_cut), Arc::clone(&is_over));
                    thread::spawn(move || pass_on(from, to, &is_cut, &is_over));
                }
            }
        });
        Ok(relay)
    }

    /// From now on nothing comes through, and nobody is told.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// From now on all comes through, also what was sent meanwhile.
    pub(super) fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The listener finds out with the next connection.
        let _refused = TcpStream::connect(self.address);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool, is_over: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    if from.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    while !is_over.load(Ordering::Relaxed) {
        if is_cut.load(Ordering::Relaxed) {
            thread::sleep(TICK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                while is_cut.load(Ordering::Relaxed) && !is_over.load(Ordering::Relaxed) {
                    thread::sleep(TICK);
                }
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _gone = to.shutdown(std::net::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_while_it_is_cut_arrives_once_it_is_mended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(listener.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(relay.address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut byte = [0];
        client.write_all(b"a").unwrap();
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");

        relay.cut();
        client.write_all(b"b").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(server.read_exact(&mut byte).is_err());
        relay.mend();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
    }
}
