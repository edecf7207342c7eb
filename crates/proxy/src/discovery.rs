//! Asks the user function what to serve until it answers, and again whenever it comes back after it was
//! gone: it may be another program by then.

use std::time::Duration;

use api::contract::reason;
use protocol::cloudstate::{
    EntitySpec, ProxyInfo, UserFunctionError, entity_discovery_client::EntityDiscoveryClient,
};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use crate::{
    readiness::{Part, Readiness},
    route::Routes,
    spec::{self, Accepted, Terms},
    user_function::{self, Channel, LinkState, UserFunction},
};

/// How long one call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between attempts grow from here, so that a sidecar that came up first loses little time...
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// ...to here.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A user function that is back within this time was never told to be away.
const GRACE: Duration = Duration::from_secs(3);

/// A description that cannot be served, with every problem in it.
#[derive(Debug, thiserror::Error)]
#[error("the user function at {address} is refused: {}", problems.join("; "))]
pub struct Refused {
    /// Where the user function listens.
    pub address: String,
    /// Each names the object, the field, the value and what to do.
    pub problems: Vec<String>,
}

/// Why what was discovered holds no more.
#[derive(Debug)]
pub enum Outdated {
    /// The user function describes itself in another way now, which can be served from a fresh start.
    Changed,
    /// What it says now cannot be served.
    Refused(Refused),
}

/// Keeps up what is known of one user function.
#[derive(Debug)]
pub struct Discovery {
    user_function: UserFunction,
    client: EntityDiscoveryClient<Channel>,
    terms: Terms,
    readiness: Readiness,
}

impl Discovery {
    /// Nothing is asked yet.
    pub fn new(user_function: UserFunction, terms: Terms, readiness: Readiness) -> Self {
        let client = EntityDiscoveryClient::new(user_function.stranger())
            .max_decoding_message_size(user_function.message_size_max());
        Self { user_function, client, terms, readiness }
    }

    /// Calls `discover` until the user function answers, then judges the answer, which is given too.
    /// Every failed attempt is told to readiness.
    ///
    /// # Errors
    /// [`Refused`] when the answer cannot be served; the user function has been told.
    pub async fn discover(&mut self) -> Result<(Routes, EntitySpec), Refused> {
        loop {
            let (reached, answer) = self.ask(Instant::now()).await;
            let Accepted { routes, remarks } = self.judge(&answer).await?;
            for remark in &remarks {
                warn!(remark, "odd description");
            }
            if !remarks.is_empty() {
                self.report(&remarks.join("; ")).await;
            }
            if self.user_function.agree(reached) {
                info!(services = ?routes.services(), "user function discovered");
                self.readiness.set(Part::UserFunction, Ok(()));
                return Ok((routes, answer));
            }
        }
    }

    /// Calls `discover` once more each time that the user function comes back, and lets calls through
    /// when the answer is the same. Holds readiness back while it is away for longer than a moment.
    pub async fn watch(&mut self, known: &EntitySpec) -> Outdated {
        let mut link = self.user_function.link();
        loop {
            if link.wait_for(|link| link.state != LinkState::Agreed).await.is_err() {
                // Nobody can lose or find the user function any more.
                return std::future::pending().await;
            }
            let loud = Instant::now() + GRACE;
            loop {
                let (reached, answer) = self.ask(loud).await;
                if described(&answer) != described(known) {
                    self.user_function.disagree();
                    return match self.judge(&answer).await {
                        Ok(_served_after_a_fresh_start) => Outdated::Changed,
                        Err(refused) => Outdated::Refused(refused),
                    };
                }
                if self.user_function.agree(reached) {
                    break;
                }
            }
            info!("the user function is back and describes itself as before");
            self.readiness.set(Part::UserFunction, Ok(()));
        }
    }

    async fn judge(&mut self, answer: &EntitySpec) -> Result<Accepted, Refused> {
        match spec::judge(answer, &self.terms) {
            Ok(accepted) => Ok(accepted),
            Err(problems) => {
                let address = self.user_function.address().to_owned();
                self.report(&problems.join("; ")).await;
                Err(Refused { address, problems })
            }
        }
    }

    /// Asks until there is an answer, and says who gave it. Readiness learns of failures from `loud` on.
    async fn ask(&mut self, loud: Instant) -> (u64, EntitySpec) {
        let tell = {
            let (user_function, readiness) = (self.user_function.clone(), self.readiness.clone());
            move |error: &str| {
                let message = unreachable(user_function.address(), error);
                readiness.deny(Part::UserFunction, reason::USER_FUNCTION_UNREACHABLE, message);
            }
        };
        let away = self.user_function.link();
        let attempts = self.attempts(|error| {
            if Instant::now() >= loud {
                tell(error);
            }
        });
        tokio::pin!(attempts);
        // An attempt may outlast the moment that nobody is to be told of.
        tokio::select! {
            answer = &mut attempts => return answer,
            () = time::sleep_until(loud), if loud > Instant::now() => tell(&away.borrow().error),
        }
        attempts.await
    }

    async fn attempts(&mut self, failed: impl Fn(&str)) -> (u64, EntitySpec) {
        let link = self.user_function.link();
        let mut backoff = BACKOFF_MIN;
        loop {
            let call = self.client.discover(proxy_info(&self.terms));
            let error = match time::timeout(ATTEMPT_TIMEOUT, call).await {
                Ok(Ok(answer)) => return (link.borrow().reached, answer.into_inner()),
                Ok(Err(status)) => user_function::explain(&status),
                Err(_) => format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
            };
            let address = self.user_function.address();
            info!(address, %error, retry_in = ?backoff, "user function not discovered yet");
            failed(&error);
            time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Tells the user function what it did wrong. Whether it hears of it changes nothing for us.
    async fn report(&mut self, message: &str) {
        let error = UserFunctionError { message: message.to_owned() };
        match time::timeout(ATTEMPT_TIMEOUT, self.client.report_error(error)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => warn!(error = %status, "the user function did not take our report"),
            Err(_) => warn!("the user function did not answer our report in time"),
        }
    }
}

/// What makes two descriptions the same to us.
fn described(spec: &EntitySpec) -> impl PartialEq {
    let version = spec
        .service_info
        .as_ref()
        .map(|info| (info.protocol_major_version, info.protocol_minor_version));
    (spec.proto.clone(), spec.entities.clone(), version.unwrap_or_default())
}

fn proxy_info(terms: &Terms) -> ProxyInfo {
    ProxyInfo {
        protocol_major_version: protocol::VERSION.0,
        protocol_minor_version: protocol::VERSION.1,
        proxy_name: "cloudstate-proxy".to_owned(),
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        supported_entity_types: terms.supported_entity_types(),
    }
}

fn unreachable(address: &str, error: &str) -> String {
    format!(
        "the user function does not answer discovery at {address} ({error}): make it listen on the port \
         in the environment variable PORT, on all addresses or loopback, or declare the port that it \
         does listen on as the first of spec.containers[0].ports"
    )
}
