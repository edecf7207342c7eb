//! Asks the user function what to serve, until it answers.

use std::time::Duration;

use api::contract::reason;
use protocol::cloudstate::{
    EntitySpec, ProxyInfo, UserFunctionError, entity_discovery_client::EntityDiscoveryClient,
};
use tokio::time;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::{
    readiness::{Part, Readiness},
    route::Routes,
    spec::{self, Accepted, Terms},
    user_function::{self, UserFunction},
};

/// How long one call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between attempts grow from here, so that a sidecar that came up first loses little time...
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// ...to here.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A description that cannot be served, with every problem in it.
#[derive(Debug, thiserror::Error)]
#[error("the user function at {address} is refused: {}", problems.join("; "))]
pub struct Refused {
    /// Where the user function listens.
    pub address: String,
    /// Each names the object, the field, the value and what to do.
    pub problems: Vec<String>,
}

/// Calls `discover` until the user function answers, then judges the answer. Every failed attempt
/// is told to `readiness`.
///
/// # Errors
/// [`Refused`] when the answer cannot be served; the user function has been told.
pub async fn discover(
    user_function: &UserFunction,
    terms: &Terms,
    readiness: &Readiness,
) -> Result<Routes, Refused> {
    let mut client = EntityDiscoveryClient::new(user_function.channel())
        .max_decoding_message_size(user_function.message_size_max());
    let answer = ask(&mut client, user_function.address(), terms, readiness).await;
    match spec::judge(&answer, terms) {
        Ok(Accepted { routes, remarks }) => {
            info!(services = ?routes.services(), "user function discovered");
            for remark in &remarks {
                warn!(remark, "odd description");
            }
            if !remarks.is_empty() {
                report(&mut client, &remarks.join("; ")).await;
            }
            Ok(routes)
        }
        Err(problems) => {
            let refused = Refused { address: user_function.address().to_owned(), problems };
            report(&mut client, &refused.problems.join("; ")).await;
            Err(refused)
        }
    }
}

async fn ask(
    client: &mut EntityDiscoveryClient<Channel>,
    address: &str,
    terms: &Terms,
    readiness: &Readiness,
) -> EntitySpec {
    let mut backoff = BACKOFF_MIN;
    loop {
        let call = client.discover(proxy_info(terms));
        let error = match time::timeout(ATTEMPT_TIMEOUT, call).await {
            Ok(Ok(answer)) => return answer.into_inner(),
            Ok(Err(status)) => user_function::explain(&status),
            Err(_) => format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
        };
        info!(address, %error, retry_in = ?backoff, "user function not discovered yet");
        let message = unreachable(address, &error);
        readiness.deny(Part::UserFunction, reason::USER_FUNCTION_UNREACHABLE, message);
        time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
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

/// Tells the user function what it did wrong. Whether it hears of it changes nothing for us.
async fn report(client: &mut EntityDiscoveryClient<Channel>, message: &str) {
    let error = UserFunctionError { message: message.to_owned() };
    match time::timeout(ATTEMPT_TIMEOUT, client.report_error(error)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => warn!(error = %status, "the user function did not take our report"),
        Err(_) => warn!("the user function did not answer our report in time"),
    }
}
