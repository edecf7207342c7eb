//! Calls as an ordinary client makes them.

use anyhow::{Result, bail, ensure};
use futures::future::BoxFuture;
use tokio::time;
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    models::{action, event_sourced, value},
    wire::PATIENCE,
};

/// A request to a unary method of a model, which answers with a text.
pub trait Call: Sized + Send + 'static {
    fn call(self, channel: Channel) -> BoxFuture<'static, Result<Response<String>, Status>>;
}

macro_rules! calls {
    ($($request:ty: $client:path, $method:ident;)*) => {
        $(impl Call for Request<$request> {
            fn call(self, channel: Channel) -> BoxFuture<'static, Result<Response<String>, Status>> {
                Box::pin(async move {
                    let mut client = <$client>::new(channel);
                    Ok(client.$method(self).await?.map(|response| response.message))
                })
            }
        }

        impl Call for $request {
            fn call(self, channel: Channel) -> BoxFuture<'static, Result<Response<String>, Status>> {
                Request::new(self).call(channel)
            }
        })*
    };
}

calls! {
    event_sourced::Request:
        event_sourced::event_sourced_tck_model_client::EventSourcedTckModelClient<Channel>, process;
    value::Request: value::value_entity_tck_model_client::ValueEntityTckModelClient<Channel>, process;
    action::Request: action::action_tck_model_client::ActionTckModelClient<Channel>, process_unary;
}

/// What became of a call, in time.
///
/// # Errors
/// When nothing became of it.
pub async fn outcome<T>(
    call: impl Future<Output = Result<T, Status>>,
) -> Result<Result<T, Status>> {
    match time::timeout(PATIENCE, call).await {
        Ok(outcome) => Ok(outcome),
        Err(_) => bail!("the caller had no answer in {PATIENCE:?}"),
    }
}

/// Makes a call that must be answered with this text.
///
/// # Errors
/// When it is not.
pub async fn answers(channel: &Channel, request: impl Call, text: &str) -> Result<()> {
    let response = outcome(request.call(channel.clone())).await??.into_inner();
    ensure!(response == text, "the caller got {response:?} instead of {text:?}");
    Ok(())
}

/// Makes a call that the user function fails with exactly this text.
///
/// # Errors
/// When it does not fail, or in another way.
pub async fn fails(channel: &Channel, request: impl Call, text: &str) -> Result<()> {
    match outcome(request.call(channel.clone())).await? {
        Ok(response) => bail!("the caller got {response:?} instead of the failure {text:?}"),
        Err(status) => is(&status, Code::Unknown, text),
    }
}

/// Makes a call until it does not fall into the end of a stream that broke; then it must be answered
/// with this text.
///
/// # Errors
/// When it is not.
pub async fn answers_again<T: Call + Clone>(
    channel: &Channel,
    request: T,
    text: &str,
) -> Result<()> {
    let call = async {
        loop {
            match request.clone().call(channel.clone()).await {
                Err(status) if status.message().ends_with("ntity termination") => {}
                outcome => return outcome,
            }
        }
    };
    let response = outcome(call).await??.into_inner();
    ensure!(response == text, "the caller got {response:?} instead of {text:?}");
    Ok(())
}

/// Makes a call that is refused with this code, and a text that holds this.
///
/// # Errors
/// When it is not.
pub async fn refused(channel: &Channel, request: impl Call, code: Code, text: &str) -> Result<()> {
    match outcome(request.call(channel.clone())).await? {
        Ok(response) => bail!("the caller got {response:?} instead of {code:?} {text:?}"),
        Err(status) if status.message().contains(text) => is(&status, code, status.message()),
        Err(status) => is(&status, code, text),
    }
}

/// Compares a status.
///
/// # Errors
/// When it is another one.
pub fn is(status: &Status, code: Code, text: &str) -> Result<()> {
    ensure!(
        status.code() == code && status.message() == text,
        "the caller got {:?} {:?} instead of {code:?} {text:?}",
        status.code(),
        status.message()
    );
    Ok(())
}
