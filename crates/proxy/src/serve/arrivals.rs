//! Messages of callers as they arrive, and the room that their calls take from the memory budget. A call
//! whose message is still on its way has done nothing yet; when room is short, the oldest of them is
//! given up, which is hardly one that means to arrive.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::oneshot;
use tonic::Code;

use super::{
    encoding::Inflating,
    frames::{Decoder, Next},
};
use crate::{
    budget::{CALL, Share, Taken},
    entity::{Failure, FailureKind},
};

/// All calls whose messages are on their way.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// For all calls.
    share: Share,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By age.
    arriving: BTreeMap<u64, Arriving>,
}

#[derive(Debug)]
struct Arriving {
    room: usize,
    /// Dropped to give the call up.
    _give_up: oneshot::Sender<()>,
}

impl Arrivals {
    pub(super) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self { share, table: Mutex::default() })
    }

    /// Takes room for a call that has arrived by its head alone.
    pub(super) async fn room(&self) -> Result<Taken, Failure> {
        self.take(CALL, None).await
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work for a call whose message may still be on its way, and which is given up as others are.
    ///
    /// # Errors
    /// When there is no room for it, or no more.
    pub(super) async fn hold<T>(
        self: &Arc<Self>,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut arrival = self.enter().await?;
        tokio::select! {
            biased;
            done = work => Ok(done),
            _ = &mut arrival.given_up => Err(given_up()),
        }
    }

    /// A place among those that are on their way.
    async fn enter(self: &Arc<Self>) -> Result<Arrival, Failure> {
        let taken = self.take(CALL, None).await?;
        let (sender, given_up) = oneshot::channel();
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.arriving.insert(number, Arriving { room: CALL, _give_up: sender });
        let entry = Entry { arrivals: Arc::clone(self), number };
        Ok(Arrival { entry, given_up, room: Room { _call: taken, message: None, bytes: 0 } })
    }

    /// Takes room, in place of calls that are on their way if need be.
    async fn take(&self, bytes: usize, for_whom: Option<u64>) -> Result<Taken, Failure> {
        if let Some(taken) = self.share.try_take(bytes) {
            return Ok(taken);
        }
        if !self.give_up(bytes, for_whom) {
            let text =
                format!("calls under way have {} bytes, which is the limit", self.share.size());
            return Err(Failure::new(FailureKind::ResourceExhausted, text));
        }
        // Those that were given up are about to let go.
        Ok(self.share.take(bytes).await)
    }

    /// Gives up the oldest until that much room must come free; none when all of them are not enough.
    fn give_up(&self, bytes: usize, except: Option<u64>) -> bool {
        let mut table = self.table();
        let mut freed = 0;
        let mut chosen = Vec::new();
        for (&number, arriving) in &table.arriving {
            if freed >= bytes {
                break;
            }
            if Some(number) != except {
                freed += arriving.room;
                chosen.push(number);
            }
        }
        if freed < bytes {
            return false;
        }
        for number in chosen {
            table.arriving.remove(&number);
        }
        true
    }
}

/// One that is on its way.
#[derive(Debug)]
struct Arrival {
    entry: Entry,
    given_up: oneshot::Receiver<()>,
    room: Room,
}

/// Its line in the table.
#[derive(Debug)]
struct Entry {
    arrivals: Arc<Arrivals>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.arrivals.table().arriving.remove(&self.number);
    }
}

/// The room of a call and of its message.
#[derive(Debug)]
pub(super) struct Room {
    _call: Taken,
    /// None when it is small.
    message: Option<Taken>,
    /// What it is for.
    bytes: usize,
}

impl Arrival {
    /// Takes room until there is enough for a message of that many bytes.
    async fn reserve(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes <= CALL.max(self.room.bytes) {
            return Ok(());
        }
        let Entry { arrivals, number } = &self.entry;
        let more = tokio::select! {
            biased;
            taken = arrivals.take(bytes - self.room.bytes, Some(*number)) => taken?,
            _ = &mut self.given_up => return Err(given_up()),
        };
        self.room.bytes = bytes;
        match &mut self.room.message {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        if let Some(mine) = arrivals.table().arriving.get_mut(number) {
            mine.room = CALL + bytes;
        }
        Ok(())
    }

    /// What a compressed message was, which takes its room beside it.
    async fn inflate(&mut self, message: &[u8], limit: usize) -> Result<Bytes, Failure> {
        let mut inflating = Inflating::new(message, limit);
        loop {
            self.reserve(message.len() + inflating.next()).await?;
            if let Some(message) = inflating.step()? {
                return Ok(message);
            }
        }
    }

    /// What its message takes once it is here.
    fn into_room(self) -> Room {
        self.room
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
    /// Of the last message of a stream: who asks for the next one has handed it on.
    held: Option<Room>,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    pub(super) fn new(body: B, decoder: Decoder, arrivals: Arc<Arrivals>) -> Self {
        Self { body, decoder, arrivals, held: None }
    }

    /// The only message of a call that has just begun.
    pub(super) async fn only(&mut self) -> Result<(Bytes, Room), Failure> {
        let arrival = self.arrivals.enter().await?;
        let Some((message, Some(arrival))) = self.read(Some(arrival)).await? else {
            let text = "the call has no message";
            return Err(Failure::new(FailureKind::InvalidArgument, text));
        };
        Ok((message, arrival.into_room()))
    }

    /// The next of many; the caller may take its time between them.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        self.held = None;
        let Some((message, arrival)) = self.read(None).await? else { return Ok(None) };
        self.held = arrival.map(Arrival::into_room);
        Ok(Some(message))
    }

    async fn read(
        &mut self,
        mut arrival: Option<Arrival>,
    ) -> Result<Option<(Bytes, Option<Arrival>)>, Failure> {
        loop {
            match self.decoder.next()? {
                Next::Message(message) => return Ok(Some((message, arrival))),
                Next::Compressed(message) => {
                    let mut arriving = match arrival {
                        Some(arriving) => arriving,
                        None => self.arrivals.enter().await?,
                    };
                    let message = arriving.inflate(&message, self.decoder.limit()).await?;
                    return Ok(Some((message, Some(arriving))));
                }
                Next::Part(None) => {}
                Next::Part(Some(length)) => {
                    let arriving = match &mut arrival {
                        Some(arriving) => arriving,
                        None => arrival.insert(self.arrivals.enter().await?),
                    };
                    arriving.reserve(length).await?;
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
    use std::convert::Infallible;

    use bytes::{BufMut as _, BytesMut};
    use futures::{FutureExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::budget::Budget;

    /// With room for so many small calls.
    fn arrivals(calls: usize) -> Arc<Arrivals> {
        Arrivals::new(Budget::new((calls * CALL * 4) as u64).calls().clone())
    }

    fn is_given_up(arrival: &mut Arrival) -> bool {
        arrival.given_up.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_gives_way_to_one_more() {
        let arrivals = arrivals(2);
        let mut all: Vec<_> =
            (0..2).filter_map(|_| arrivals.enter().now_or_never()?.ok()).collect();
        let mut one_more = Box::pin(arrivals.enter());
        assert!((&mut one_more).now_or_never().is_none(), "room is about to come free");
        assert!(is_given_up(&mut all[0]) && !is_given_up(&mut all[1]));
        drop(all.remove(0));
        drop(one_more.now_or_never().unwrap().unwrap());
        drop(all);
        assert!(arrivals.table().arriving.is_empty());
        assert_eq!(arrivals.share.used(), 0);
    }

    #[test]
    fn what_has_arrived_gives_way_to_nobody() {
        let arrivals = arrivals(2);
        let rooms: Vec<_> =
            (0..2).map(|_| arrivals.enter().now_or_never().unwrap().unwrap().into_room()).collect();
        let refused = arrivals.room().now_or_never().unwrap().unwrap_err();
        assert_eq!(refused.kind, FailureKind::ResourceExhausted);
        assert!(refused.message.contains("8192 bytes"), "{refused:?}");
        drop(rooms);
        arrivals.room().now_or_never().unwrap().unwrap();
    }

    #[test]
    fn a_large_message_takes_its_room_from_older_ones() {
        let arrivals = arrivals(10);
        let enter = || arrivals.enter().now_or_never().unwrap().unwrap();
        let (mut old, mut new) = (enter(), enter());
        old.reserve(5 * CALL).now_or_never().unwrap().unwrap();
        let mut growing = Box::pin(new.reserve(6 * CALL));
        assert!((&mut growing).now_or_never().is_none());
        assert!(is_given_up(&mut old));
        drop(old);
        growing.now_or_never().unwrap().unwrap();
        assert_eq!(arrivals.share.used(), 7 * CALL);
        let room = new.into_room();
        assert_eq!(arrivals.share.used(), 7 * CALL);
        drop(room);
        assert_eq!(arrivals.share.used(), 0);
        let refused = enter().reserve(11 * CALL).now_or_never().unwrap();
        assert_eq!(refused.unwrap_err().kind, FailureKind::ResourceExhausted);
    }

    #[test]
    fn a_compressed_message_takes_the_room_of_what_it_was() {
        let message = super::super::encoding::deflate(&vec![0; 8 * CALL]).unwrap();
        let (small, large) = (arrivals(8), arrivals(12));
        let inflate = |arrivals: &Arc<Arrivals>| {
            let mut arrival = arrivals.enter().now_or_never().unwrap().unwrap();
            let message = arrival.inflate(&message, 8 * CALL).now_or_never().unwrap();
            message.map(|message| (message, arrival.into_room()))
        };
        let refused = inflate(&small).unwrap_err();
        assert_eq!(refused.kind, FailureKind::ResourceExhausted);
        let (inflated, room) = inflate(&large).unwrap();
        assert_eq!(inflated.len(), 8 * CALL);
        assert!(large.share.used() > 8 * CALL);
        drop(room);
        assert_eq!(large.share.used() + small.share.used(), 0);
    }

    #[test]
    fn a_message_of_a_stream_keeps_its_room_until_the_next_is_asked_for() {
        let arrivals = arrivals(10);
        let mut body = BytesMut::new();
        for byte in [1, 2] {
            body.put_u8(0);
            body.put_u32(u32::try_from(2 * CALL).unwrap());
            body.put_bytes(byte, 2 * CALL);
        }
        // In two pieces each, as large messages come.
        let pieces: Vec<_> = body.freeze().chunks(CALL + 5).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let body = StreamBody::new(stream::iter(frames));
        let mut messages = Messages::new(body, Decoder::new(false, 1 << 20), Arc::clone(&arrivals));
        for byte in [1, 2] {
            let message = messages.next().now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(message, vec![byte; 2 * CALL]);
            assert_eq!(arrivals.share.used(), 3 * CALL);
        }
        assert_eq!(messages.next().now_or_never().unwrap().unwrap(), None);
        assert_eq!(arrivals.share.used(), 0);
    }
}
