//! A bounded number of connections, opened when first needed and again when they broke.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout_at},
};

use super::connect::{Connector, Link};
use crate::journal::Error;

/// Longest wait for a connection that others use.
const WAIT: Duration = Duration::from_secs(5);

/// Connections for one kind of work.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Arc<Connector>,
    free: Arc<Semaphore>,
    places: Arc<Places>,
    /// Run on each new connection.
    greeting: Option<String>,
}

/// What is not in use, and what will come back.
#[derive(Debug)]
struct Places {
    /// Open connections are at the end, and taken first.
    idle: Mutex<Vec<Place>>,
    /// Open connections that are in use.
    lent: AtomicUsize,
    returned: Notify,
}

/// One of the pool's connections, if it is open.
#[derive(Debug)]
struct Place {
    number: u16,
    link: Option<Link>,
}

/// A connection for the time of some work. Dropped without [`back`](Self::back), the connection is closed:
/// what was sent on it may still run.
#[derive(Debug)]
pub(super) struct Taken {
    places: Arc<Places>,
    /// Taken out only when dropped.
    place: Option<Place>,
    whole: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, size: u16, greeting: Option<String>) -> Self {
        let places = (0..size).rev().map(|number| Place { number, link: None });
        Self {
            connector,
            free: Arc::new(Semaphore::new(size.into())),
            places: Arc::new(Places {
                idle: Mutex::new(places.collect()),
                lent: AtomicUsize::new(0),
                returned: Notify::new(),
            }),
            greeting,
        }
    }

    /// A connection that works as far as one knows; opens it when need be. When the server lets no further
    /// one in, those that there are go round.
    pub(super) async fn take(&self) -> Result<Taken, Error> {
        let deadline = Instant::now() + WAIT;
        loop {
            let error = match self.try_take(deadline).await {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            let another_comes = self.places.lent.load(Ordering::SeqCst) > 0;
            let returned = self.places.returned.notified();
            if !another_comes || timeout_at(deadline, returned).await.is_err() {
                return Err(error);
            }
        }
    }

    async fn try_take(&self, deadline: Instant) -> Result<Taken, Error> {
        let permit = timeout_at(deadline, Arc::clone(&self.free).acquire_owned()).await;
        let permit = permit
            .map_err(|_elapsed| {
                let busy = format!("every connection is busy since {WAIT:?}");
                Error::new("get a connection to Postgres", busy)
            })?
            .expect("the semaphore is never closed");
        let place = self.places.lock().pop().expect("as many places as permits");
        let is_open = place.link.as_ref().is_some_and(|link| !link.is_closed());
        let mut taken = Taken {
            places: Arc::clone(&self.places),
            place: Some(place),
            whole: false,
            _permit: permit,
        };
        if is_open {
            self.places.lent.fetch_add(1, Ordering::SeqCst);
            return Ok(taken);
        }
        // In a task of its own, which goes on when whoever wants it cannot wait so long: on a slow way, all that an
        // opening takes is longer than a question about the lease may be, and would begin anew with each of them.
        let (connector, greeting) = (Arc::clone(&self.connector), self.greeting.clone());
        let (opened, opening) = oneshot::channel();
        tokio::spawn(async move {
            let result = taken.open(&connector, greeting.as_deref()).await.map(|()| taken);
            if let Err(Ok(unwanted)) = opened.send(result) {
                unwanted.back();
            }
        });
        opening.await.unwrap_or_else(|_panic| {
            Err(Error::new("get a connection to Postgres", "its opening broke down"))
        })
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Opens the connection, in place of one that has ended.
    async fn open(&mut self, connector: &Connector, greeting: Option<&str>) -> Result<(), Error> {
        let place = self.place.as_mut().expect("there until dropped");
        place.link = None;
        let link = connector.connect().await?;
        if let Some(greeting) = greeting {
            let greeted = link.execute(greeting).await;
            greeted.map_err(|failure| Error::new("prepare a connection", failure))?;
        }
        place.link = Some(link);
        self.places.lent.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Which of the pool's connections it is.
    pub(super) fn number(&self) -> u16 {
        self.place.as_ref().expect("there until dropped").number
    }

    /// The connection.
    pub(super) fn link(&self) -> &Link {
        let place = self.place.as_ref().expect("there until dropped");
        place.link.as_ref().expect("opened when taken")
    }

    /// Gives the connection back for others: nothing runs on it any more.
    pub(super) fn back(mut self) {
        self.whole = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(mut place) = self.place.take() else { return };
        let was_open = place.link.is_some();
        if !self.whole {
            place.link = None;
        }
        // Before the permit, which is dropped after this.
        let mut idle = self.places.lock();
        if place.link.is_some() {
            idle.push(place);
        } else {
            idle.insert(0, place);
        }
        drop(idle);
        if was_open {
            self.places.lent.fetch_sub(1, Ordering::SeqCst);
            self.places.returned.notify_one();
        }
    }
}
