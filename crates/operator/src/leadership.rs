//! The one replica that writes, and the proof that it still may.
//!
//! Every write passes [`Leadership::guard`]: it starts only while the last renewal of the Lease is
//! young enough, and is given up when it is not any more. That is looked at whenever the write makes
//! a step, so a process that was frozen notices before it goes on. What had left before arrives with
//! the version of the object that it was meant for (see `apply`), and is refused if the next leader
//! has written that object.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use api::contract::FIELD_MANAGER;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lease::{Action, Election, LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD, Record};

/// Name of the Lease, in the operator's namespace.
const LEASE: &str = "cloudstate-operator";
/// One try has to end before the next would be due twice.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);

/// Whether this process leads, for all who write.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    /// Until when writes may go out. Nothing while another leads.
    until: watch::Sender<Option<Instant>>,
}

/// The Lease was lost before a write was done.
#[derive(Debug)]
pub(crate) struct Lost;

impl Leadership {
    /// Before the first election.
    pub(crate) fn none() -> Self {
        Self { until: watch::Sender::new(None) }
    }

    /// For an operator that is alone by other means.
    pub(crate) fn forever() -> Self {
        const YEARS: Duration = Duration::from_hours(24 * 365 * 30);
        Self { until: watch::Sender::new(Some(Instant::now() + YEARS)) }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns once this process leads.
    pub(crate) async fn acquired(&self) {
        let mut changes = self.until.subscribe();
        while !self.is_held() {
            // The sender is here, so it is not closed.
            let _ = changes.changed().await;
        }
    }

    /// Returns once this process leads no more.
    pub(crate) async fn lost(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else { return };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Tells for ever whether this process leads.
    pub(crate) async fn tell(self, tell: impl Fn(bool)) {
        loop {
            tell(false);
            self.acquired().await;
            tell(true);
            self.lost().await;
        }
    }

    /// Does a write as long as this process leads.
    pub(crate) async fn guard<T>(&self, write: impl Future<Output = T>) -> Result<T, Lost> {
        let mut write = pin!(write);
        let mut lost = pin!(self.lost());
        poll_fn(|cx| {
            // The clock is asked each time: a timer may not have been looked at since we were frozen.
            if !self.is_held() || lost.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Lost));
            }
            write.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    fn hold(&self, until: Option<Instant>) {
        self.until.send_replace(until);
    }
}

/// Stands for election until told to stop, and gives the Lease back then.
pub(crate) async fn elect(
    client: Client,
    namespace: String,
    identity: String,
    leadership: Leadership,
    stop: CancellationToken,
) {
    let mut candidate = Candidate {
        api: Api::namespaced(client, &namespace),
        election: Election::new(identity.clone()),
        identity,
        leadership,
    };
    loop {
        let was_leader = candidate.leadership.is_held();
        let pause = match timeout(TRY_TIMEOUT, candidate.turn()).await {
            Ok(Ok(pause)) => pause,
            Ok(Err(error)) => {
                warn!(
                    lease = LEASE,
                    namespace,
                    error = %api::Chain(&error),
                    "lease cannot be had: without it, nothing is written"
                );
                RETRY_PERIOD
            }
            Err(_) => {
                warn!(lease = LEASE, namespace, "lease cannot be had: no answer");
                RETRY_PERIOD
            }
        };
        match (was_leader, candidate.leadership.is_held()) {
            (false, true) => info!(identity = candidate.identity, "leads"),
            (true, false) => warn!(identity = candidate.identity, "leads no more"),
            _ => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
    }
    if candidate.leadership.is_held() {
        candidate.leadership.hold(None);
        if let Ok(Err(error)) = timeout(TRY_TIMEOUT, candidate.release()).await {
            warn!(lease = LEASE, error = %api::Chain(&error), "lease is not given back");
        }
    }
}

struct Candidate {
    api: Api<Lease>,
    election: Election,
    identity: String,
    leadership: Leadership,
}

impl Candidate {
    /// Looks at the Lease once, and renews or takes it where that is in order. Gives the time until the next
    /// look, which comes no later than a Lease can be taken over.
    async fn turn(&mut self) -> kube::Result<Duration> {
        let found = self.api.get_opt(LEASE).await?;
        // Not the time of the answer: another may count from when the server did it.
        let sent = Instant::now();
        let written = match self.election.read(found.map(record), sent) {
            Action::Wait(left) => {
                self.leadership.hold(None);
                return Ok(left.min(RETRY_PERIOD));
            }
            Action::Create => {
                let lease = Self::lease(None, 0, &self.identity);
                self.api.create(&parameters(), &lease).await
            }
            Action::Hold { version, transitions } => {
                let lease = Self::lease(Some(version), transitions, &self.identity);
                self.replace(&lease).await
            }
        };
        match written {
            Ok(_) => self.leadership.hold(Some(sent + RENEW_DEADLINE)),
            // Another was faster. The next turn shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(RETRY_PERIOD)
    }

    /// Gives the Lease back, so that the next one need not wait.
    async fn release(&mut self) -> kube::Result<()> {
        let Some(found) = self.api.get_opt(LEASE).await?.map(record) else { return Ok(()) };
        if found.holder.as_ref() == Some(&self.identity) {
            self.replace(&Self::lease(Some(found.version), found.transitions, "")).await?;
            info!(lease = LEASE, "gave the lease back");
        }
        Ok(())
    }

    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.api.replace(LEASE, &parameters(), lease).await
    }

    /// Released, it names nobody.
    fn lease(version: Option<String>, transitions: i32, holder: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                lease_transitions: Some(transitions),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn record(lease: Lease) -> Record {
    let version = lease.resource_version().unwrap_or_default();
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: seconds.map_or(LEASE_DURATION, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_given_up_when_the_lease_is_not_renewed() {
        let leadership = Leadership::none();
        assert!(leadership.guard(async {}).await.is_err());

        leadership.hold(Some(Instant::now() + Duration::from_secs(10)));
        assert!(leadership.guard(async {}).await.is_ok());
        let slow = sleep(Duration::from_secs(11));
        assert!(leadership.guard(slow).await.is_err());
        assert!(!leadership.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_lets_a_write_go_on() {
        let leadership = Leadership::none();
        leadership.hold(Some(Instant::now() + Duration::from_secs(10)));
        let renewing = leadership.clone();
        let (written, ()) = tokio::join!(leadership.guard(sleep(Duration::from_secs(15))), async {
            sleep(Duration::from_secs(8)).await;
            renewing.hold(Some(Instant::now() + Duration::from_secs(10)));
        });
        assert!(written.is_ok());
    }

    #[tokio::test]
    async fn a_write_does_not_go_on_after_the_process_was_frozen() {
        let leadership = Leadership::none();
        leadership.hold(Some(Instant::now() + Duration::from_millis(20)));
        let mut steps = 0;
        let write = poll_fn(|cx| {
            steps += 1;
            // Frozen: no timer fires meanwhile, and the write is asked again at once.
            std::thread::sleep(Duration::from_millis(40));
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert!(leadership.guard(write).await.is_err());
        assert_eq!(steps, 1);
    }
}
