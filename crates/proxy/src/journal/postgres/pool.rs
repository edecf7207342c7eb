//! A bounded number of connections, opened when first needed and again when they broke.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
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
    idle: Arc<Mutex<Vec<Place>>>,
    /// Run on each new connection.
    greeting: Option<String>,
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
    idle: Arc<Mutex<Vec<Place>>>,
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
            idle: Arc::new(Mutex::new(places.collect())),
            greeting,
        }
    }

    /// A connection that works as far as one knows; opens it when need be.
    pub(super) async fn take(&self) -> Result<Taken, Error> {
        let permit = timeout(WAIT, Arc::clone(&self.free).acquire_owned()).await;
        let permit = permit
            .map_err(|_elapsed| {
                let busy = format!("every connection is busy since {WAIT:?}");
                Error::new("get a connection to Postgres", busy)
            })?
            .expect("the semaphore is never closed");
        let place = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let place = place.expect("as many places as permits");
        let mut taken = Taken {
            idle: Arc::clone(&self.idle),
            place: Some(place),
            whole: false,
            _permit: permit,
        };
        let place = taken.place.as_mut().expect("just put there");
        if place.link.as_ref().is_none_or(Link::is_closed) {
            place.link = None;
            let link = self.connector.connect().await?;
            if let Some(greeting) = &self.greeting {
                let greeted = link.execute(greeting).await;
                greeted.map_err(|failure| Error::new("prepare a connection", failure))?;
            }
            place.link = Some(link);
        }
        Ok(taken)
    }
}

impl Taken {
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
        if !self.whole {
            place.link = None;
        }
        // Before the permit, which is dropped after this.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(place);
    }
}
