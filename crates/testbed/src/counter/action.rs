//! The echo, in all four shapes.

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use protocol::cloudstate::{
    Reply,
    action::{
        ActionCommand, ActionResponse, action_protocol_server::ActionProtocol,
        action_response::Response as Answer,
    },
};
use tonic::{Response, Status, Streaming};

use super::{Counter, REQUEST, Request, any, failure};

type Responses = BoxStream<'static, Result<ActionResponse, Status>>;

#[tonic::async_trait]
impl ActionProtocol for Counter {
    type handleStreamedOutStream = Responses;
    type handleStreamedStream = Responses;

    async fn handle_unary(
        &self,
        command: tonic::Request<ActionCommand>,
    ) -> Result<Response<ActionResponse>, Status> {
        let request = Request::of(command.into_inner().payload)?;
        Ok(Response::new(echo(request).await))
    }

    async fn handle_streamed_in(
        &self,
        commands: tonic::Request<Streaming<ActionCommand>>,
    ) -> Result<Response<ActionResponse>, Status> {
        let mut commands = commands.into_inner();
        let (mut last, mut sum) = (Request::default(), 0);
        // The first command only names the method.
        commands.message().await?;
        while let Some(command) = commands.message().await? {
            last = Request::of(command.payload)?;
            sum += last.amount;
        }
        last.amount = sum;
        Ok(Response::new(echo(last).await))
    }

    async fn handle_streamed_out(
        &self,
        command: tonic::Request<ActionCommand>,
    ) -> Result<Response<Responses>, Status> {
        let request = Request::of(command.into_inner().payload)?;
        let times = usize::try_from(request.events).unwrap_or(usize::MAX);
        let answers = stream::iter(0..times).then(move |_| {
            let request = request.clone();
            async move { Ok(echo(request).await) }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn handle_streamed(
        &self,
        commands: tonic::Request<Streaming<ActionCommand>>,
    ) -> Result<Response<Responses>, Status> {
        let mut commands = commands.into_inner();
        commands.message().await?;
        let answers = commands.then(|command| async {
            let request = Request::of(command?.payload)?;
            Ok(echo(request).await)
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// What was asked for, else the request itself.
async fn echo(mut request: Request) -> ActionResponse {
    request.delay().await;
    let side_effects = request.take_effects();
    let response = if !request.failure.is_empty() {
        Answer::Failure(failure(request.failure))
    } else if let Some(forward) = request.take_forward() {
        Answer::Forward(forward)
    } else {
        Answer::Reply(Reply { payload: Some(any(REQUEST, &request)), metadata: None })
    };
    ActionResponse { response: Some(response), side_effects }
}
