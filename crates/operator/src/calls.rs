//! Every call to the API server but watches goes through here: each is bounded in time, all together
//! in number, and a write is done by the leader only.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::budget::{Budget, Cost};
use crate::config::Rate;
use crate::error::{CALL_TIMEOUT, Error};
use crate::leadership::{Leadership, Lost};

/// The way to the API server, with what holds for each call.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    leadership: Leadership,
    budget: Arc<Budget>,
}

impl Calls {
    pub(crate) fn new(leadership: Leadership, rate: Rate) -> Self {
        Self { leadership, budget: Arc::new(Budget::new(rate, Instant::now())) }
    }

    /// Does one call that changes nothing. Boxed, since each is large and reconciles do many.
    pub(crate) fn read<'a, T: Send + 'a>(
        &'a self,
        verb: &'static str,
        kind: &'a str,
        name: &'a str,
        call: impl Future<Output = kube::Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Error>> {
        Box::pin(async move {
            sleep(self.budget.take(Cost::Read, Instant::now())).await;
            bounded(verb, kind, name, call).await
        })
    }

    /// Does one call that changes something, unless another operator leads.
    pub(crate) fn write<'a, T: Send + 'a>(
        &'a self,
        verb: &'static str,
        kind: &'a str,
        name: &'a str,
        call: impl Future<Output = kube::Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Error>> {
        Box::pin(async move {
            sleep(self.budget.take(Cost::Write, Instant::now())).await;
            match self.leadership.guard(bounded(verb, kind, name, call)).await {
                Ok(answer) => answer,
                Err(Lost) => {
                    Err(Error::NotLeading { verb, kind: kind.to_owned(), name: name.to_owned() })
                }
            }
        })
    }
}

async fn bounded<T>(
    verb: &'static str,
    kind: &str,
    name: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Call { verb, kind, name, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { verb, kind, name }),
    }
}
