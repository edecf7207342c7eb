//! Messages of callers as they arrive. A call whose message is still on its way costs memory and has
//! done nothing yet, so there is a bound on the number of such calls and on their bytes; beyond it the
//! oldest is given up, which is hardly one that means to arrive.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::oneshot;
use tonic::Code;

use super::frames::{Decoder, Next};
use crate::entity::{Failure, FailureKind};

/// All messages that are on their way, and the large ones that are here.
#[derive(Debug)]
pub(super) struct Arrivals {
    calls_max: usize,
    bytes_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By age.
    arriving: BTreeMap<u64, Arriving>,
    /// Of all of these, and of what has arrived and is held.
    bytes: usize,
}

#[derive(Debug)]
struct Arriving {
    bytes: usize,
    /// Dropped to give the call up.
    _give_up: oneshot::Sender<()>,
}

impl Arrivals {
    pub(super) fn new(calls_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { calls_max, bytes_max, table: Mutex::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among those that are on their way.
    fn enter(self: &Arc<Self>) -> Arrival {
        let (sender, given_up) = oneshot::channel();
        let mut table = self.table();
        if table.arriving.len() >= self.calls_max
            && let Some((_, oldest)) = table.arriving.pop_first()
        {
            table.bytes -= oldest.bytes;
        }
        let number = table.next;
        table.next += 1;
        table.arriving.insert(number, Arriving { bytes: 0, _give_up: sender });
        Arrival { arrivals: Arc::clone(self), number, given_up }
    }
}

/// One that is on its way.
#[derive(Debug)]
struct Arrival {
    arrivals: Arc<Arrivals>,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

impl Arrival {
    /// Makes room for a message of that many bytes, in place of older ones if need be.
    fn reserve(&self, bytes: usize) -> Result<(), Failure> {
        let mut table = self.arrivals.table();
        let Some(mine) = table.arriving.get_mut(&self.number) else { return Err(given_up()) };
        if mine.bytes > 0 {
            return Ok(());
        }
        mine.bytes = bytes;
        table.bytes += bytes;
        while table.bytes > self.arrivals.bytes_max {
            let older = table.arriving.iter().find(|(_, arriving)| arriving.bytes > 0);
            let (&number, arriving) = older.expect("this one at least");
            if number == self.number {
                return Err(Failure::new(
                    FailureKind::ResourceExhausted,
                    format!(
                        "large messages have {} bytes, which is the limit",
                        self.arrivals.bytes_max
                    ),
                ));
            }
            table.bytes -= arriving.bytes;
            table.arriving.remove(&number);
        }
        Ok(())
    }

    /// What is to be held for as long as the message is.
    fn arrived(self) -> Held {
        let mut table = self.arrivals.table();
        let bytes = table.arriving.remove(&self.number).map_or(0, |arriving| arriving.bytes);
        drop(table);
        Held { arrivals: Arc::clone(&self.arrivals), bytes }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut table = self.arrivals.table();
        if let Some(arriving) = table.arriving.remove(&self.number) {
            table.bytes -= arriving.bytes;
        }
    }
}

/// The bytes of a message that has arrived.
#[derive(Debug)]
pub(super) struct Held {
    arrivals: Arc<Arrivals>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.arrivals.table().bytes -= self.bytes;
        }
    }
}

fn given_up() -> Failure {
    let text = "too many calls have not sent their message, and this one is the oldest";
    Failure::new(FailureKind::ResourceExhausted, text)
}

/// What one caller sends.
#[derive(Debug)]
pub(super) struct Messages<B> {
    body: B,
    decoder: Decoder,
    arrivals: Arc<Arrivals>,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    pub(super) fn new(body: B, decoder: Decoder, arrivals: Arc<Arrivals>) -> Self {
        Self { body, decoder, arrivals }
    }

    /// The only message of a call that has just begun.
    pub(super) async fn only(&mut self) -> Result<(Bytes, Held), Failure> {
        let arrival = self.arrivals.enter();
        let (message, arrival) = self
            .read(Some(arrival))
            .await?
            .ok_or_else(|| Failure::new(FailureKind::InvalidArgument, "the call has no message"))?;
        Ok((message, arrival.expect("it was there before").arrived()))
    }

    /// The next of many; the caller may take its time between them.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        Ok(self.read(None).await?.map(|(message, _arrival)| message))
    }

    async fn read(
        &mut self,
        mut arrival: Option<Arrival>,
    ) -> Result<Option<(Bytes, Option<Arrival>)>, Failure> {
        loop {
            match self.decoder.next()? {
                Next::Message(message) => return Ok(Some((message, arrival))),
                Next::Part(None) => {}
                Next::Part(Some(length)) => {
                    arrival.get_or_insert_with(|| self.arrivals.enter()).reserve(length)?;
                }
            }
            let frame = match &mut arrival {
                Some(arrival) => tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    _ = &mut arrival.given_up => return Err(given_up()),
                },
                None => self.body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => {
                    // Trailers of a caller mean nothing.
                    if let Ok(data) = frame.into_data() {
                        self.decoder.add(data);
                    }
                }
                Some(Err(_broken)) => {
                    let text = "the caller has left";
                    return Err(Failure::new(FailureKind::Told(Code::Cancelled), text));
                }
                None if self.decoder.is_empty() => return Ok(None),
                None => {
                    let text = "the call ended within a message";
                    return Err(Failure::new(FailureKind::InvalidArgument, text));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_to_one_more() {
        let arrivals = Arrivals::new(2, 100);
        let mut all: Vec<_> = (0..3).map(|_| arrivals.enter()).collect();
        let mut is_given_up = |at: usize| all[at].given_up.try_recv() == Err(closed());
        assert!(is_given_up(0) && !is_given_up(1) && !is_given_up(2));
        all.clear();
        assert!(arrivals.table().arriving.is_empty());
    }

    fn closed() -> oneshot::error::TryRecvError {
        oneshot::error::TryRecvError::Closed
    }

    #[test]
    fn large_messages_give_way_to_newer_ones_until_they_are_there() {
        let arrivals = Arrivals::new(10, 100);
        let (small, mut old, new) = (arrivals.enter(), arrivals.enter(), arrivals.enter());
        old.reserve(60).unwrap();
        new.reserve(60).unwrap();
        assert_eq!(old.given_up.try_recv(), Err(closed()));
        assert_eq!(arrivals.table().bytes, 60);
        drop(old);
        let held = new.arrived();
        let failure = small.reserve(60).unwrap_err();
        assert!(failure.message.contains("100 bytes"), "{failure:?}");
        drop(small);
        assert_eq!(arrivals.table().bytes, 60);
        drop(held);
        assert_eq!(arrivals.table().bytes, 0);
    }
}
