//! The server that the proxy takes for its user function, and the client of the real one.
//!
//! It adds nothing and holds nothing back: headers come when the user function sends them, an end is
//! passed on as an end, and a call that the proxy breaks off is broken off.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use futures::{Stream, StreamExt as _};
use protocol::cloudstate::{
    EntitySpec, ProxyInfo, UserFunctionError,
    action::{
        ActionCommand, ActionResponse,
        action_protocol_client::ActionProtocolClient,
        action_protocol_server::{ActionProtocol, ActionProtocolServer},
    },
    entity_discovery_client::EntityDiscoveryClient,
    entity_discovery_server::{EntityDiscovery, EntityDiscoveryServer},
    eventsourced::{
        EventSourcedStreamIn, EventSourcedStreamOut,
        event_sourced_client::EventSourcedClient,
        event_sourced_server::{EventSourced, EventSourcedServer},
    },
    valueentity::{
        ValueEntityStreamIn, ValueEntityStreamOut,
        value_entity_client::ValueEntityClient,
        value_entity_server::{ValueEntity, ValueEntityServer},
    },
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Server},
};

use super::{CUT, Item, Log, Message, Rpc};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Recorder {
    log: Arc<Log>,
    function: Channel,
}

/// One call under way; a call that is dropped before its end was broken off by the proxy.
struct Line {
    log: Arc<Log>,
    call: usize,
    cut: CancellationToken,
    is_over: bool,
}

/// Serves until the listener ends.
pub(super) async fn serve(
    log: Arc<Log>,
    function: Channel,
    listener: TcpListenerStream,
) -> Result<(), tonic::transport::Error> {
    let recorder = Recorder { log, function };
    Server::builder()
        .tcp_nodelay(true)
        .add_service(EntityDiscoveryServer::new(recorder.clone()))
        .add_service(EventSourcedServer::new(recorder.clone()))
        .add_service(ValueEntityServer::new(recorder.clone()))
        .add_service(ActionProtocolServer::new(recorder))
        .serve_with_incoming(listener)
        .await
}

impl Recorder {
    fn line(&self, rpc: Rpc) -> Line {
        let (call, cut) = self.log.open(rpc);
        Line { log: Arc::clone(&self.log), call, cut, is_over: false }
    }

    fn action(&self) -> ActionProtocolClient<Channel> {
        ActionProtocolClient::new(self.function.clone())
    }
}

impl Line {
    fn add(&self, item: Item) {
        self.log.add(self.call, item);
    }

    fn over(&mut self, code: Code) {
        self.is_over = true;
        self.add(Item::FunctionDone(code));
    }

    fn sent<T: Clone + Into<Message>>(&self, request: Request<T>) -> Request<T> {
        self.add(Item::Sent(request.get_ref().clone().into()));
        request
    }

    fn sent_stream<T>(&self, request: Request<Streaming<T>>) -> Request<Passing<T>> {
        let (log, call) = (Arc::clone(&self.log), self.call);
        request.map(|sent| Passing { sent, log, call, is_broken: false })
    }

    fn answered<T: Clone + Into<Message>>(mut self, answer: Answer<T>) -> Answer<T> {
        match &answer {
            Ok(message) => {
                self.is_over = true;
                self.add(Item::Answered(message.get_ref().clone().into()));
            }
            Err(status) => self.over(status.code()),
        }
        answer
    }

    fn answered_stream<T>(mut self, answer: Answer<Streaming<T>>) -> Answer<Answers<T>>
    where
        T: Clone + Into<Message> + Send + 'static,
    {
        match answer {
            Ok(answers) => {
                let cut = Box::pin(self.cut.clone().cancelled_owned());
                let recorded = |answers| Recorded { answers: Some(answers), cut, line: self };
                Ok(answers.map(|answers| Box::pin(recorded(answers)) as Answers<T>))
            }
            Err(status) => {
                self.over(status.code());
                Err(status)
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_over {
            self.add(Item::ProxyGone);
        }
    }
}

/// Messages on their way to the user function.
struct Passing<T> {
    sent: Streaming<T>,
    log: Arc<Log>,
    call: usize,
    is_broken: bool,
}

impl<T: Clone + Into<Message>> Stream for Passing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<T>> {
        if self.is_broken {
            return Poll::Pending;
        }
        match task::ready!(self.sent.poll_next_unpin(context)) {
            Some(Ok(message)) => {
                self.log.add(self.call, Item::Sent(message.clone().into()));
                Poll::Ready(Some(message))
            }
            None => {
                self.log.add(self.call, Item::ProxyDone);
                Poll::Ready(None)
            }
            // Broken off: who waits for answers is dropped, and so the other call is broken off.
            Some(Err(_)) => {
                self.is_broken = true;
                Poll::Pending
            }
        }
    }
}

/// Answers on their way to the proxy.
struct Recorded<T> {
    /// `None` once broken off.
    answers: Option<Streaming<T>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    line: Line,
}

impl<T: Clone + Into<Message>> Stream for Recorded<T> {
    type Item = Result<T, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        let Some(answers) = &mut self.answers else { return Poll::Ready(None) };
        let item = match answers.poll_next_unpin(context) {
            Poll::Ready(item) => item,
            Poll::Pending => {
                task::ready!(self.cut.as_mut().poll(context));
                self.answers = None;
                Some(Err(Status::unavailable(CUT)))
            }
        };
        match &item {
            Some(Ok(message)) => self.line.add(Item::Answered(message.clone().into())),
            Some(Err(status)) => self.line.over(status.code()),
            None if !self.line.is_over => self.line.over(Code::Ok),
            None => {}
        }
        Poll::Ready(item)
    }
}

#[tonic::async_trait]
impl EntityDiscovery for Recorder {
    async fn discover(&self, request: Request<ProxyInfo>) -> Answer<EntitySpec> {
        let line = self.line(Rpc::Discover);
        let request = line.sent(request);
        line.answered(EntityDiscoveryClient::new(self.function.clone()).discover(request).await)
    }

    async fn report_error(&self, request: Request<UserFunctionError>) -> Answer<()> {
        let line = self.line(Rpc::ReportError);
        let request = line.sent(request);
        line.answered(EntityDiscoveryClient::new(self.function.clone()).report_error(request).await)
    }
}

#[tonic::async_trait]
impl EventSourced for Recorder {
    type handleStream = Answers<EventSourcedStreamOut>;

    async fn handle(
        &self,
        request: Request<Streaming<EventSourcedStreamIn>>,
    ) -> Answer<Self::handleStream> {
        let line = self.line(Rpc::EventSourced);
        let request = line.sent_stream(request);
        line.answered_stream(EventSourcedClient::new(self.function.clone()).handle(request).await)
    }
}

#[tonic::async_trait]
impl ValueEntity for Recorder {
    type handleStream = Answers<ValueEntityStreamOut>;

    async fn handle(
        &self,
        request: Request<Streaming<ValueEntityStreamIn>>,
    ) -> Answer<Self::handleStream> {
        let line = self.line(Rpc::ValueEntity);
        let request = line.sent_stream(request);
        line.answered_stream(ValueEntityClient::new(self.function.clone()).handle(request).await)
    }
}

#[tonic::async_trait]
impl ActionProtocol for Recorder {
    type handleStreamedOutStream = Answers<ActionResponse>;
    type handleStreamedStream = Answers<ActionResponse>;

    async fn handle_unary(&self, request: Request<ActionCommand>) -> Answer<ActionResponse> {
        let line = self.line(Rpc::ActionUnary);
        let request = line.sent(request);
        line.answered(self.action().handle_unary(request).await)
    }

    async fn handle_streamed_in(
        &self,
        request: Request<Streaming<ActionCommand>>,
    ) -> Answer<ActionResponse> {
        let line = self.line(Rpc::ActionStreamedIn);
        let request = line.sent_stream(request);
        line.answered(self.action().handle_streamed_in(request).await)
    }

    async fn handle_streamed_out(
        &self,
        request: Request<ActionCommand>,
    ) -> Answer<Self::handleStreamedOutStream> {
        let line = self.line(Rpc::ActionStreamedOut);
        let request = line.sent(request);
        line.answered_stream(self.action().handle_streamed_out(request).await)
    }

    async fn handle_streamed(
        &self,
        request: Request<Streaming<ActionCommand>>,
    ) -> Answer<Self::handleStreamedStream> {
        let line = self.line(Rpc::ActionStreamed);
        let request = line.sent_stream(request);
        line.answered_stream(self.action().handle_streamed(request).await)
    }
}
