//! HTTP around the store.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service;

use crate::fault::{Call, Delivery, Fault, Verb};
use crate::list::list;
use crate::request::Request;
use crate::store::{Change, Key, Patch, Refusal, Store, WriteOptions};
use crate::stream::Watching;

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A store that any number of clients talk to.
#[derive(Clone, Debug)]
pub struct Server(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Its version, for those who wait for the next one.
    pub(crate) changed: watch::Sender<u64>,
    /// Of all connections.
    calls: AtomicUsize,
    /// Those among them that may change something, but for those about the Lease.
    writes: AtomicUsize,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// One that begins with what is in the store.
    pub fn new(store: Store) -> Self {
        let changed = watch::Sender::new(store.version());
        Self(Arc::new(Shared {
            store: Mutex::new(store),
            changed,
            calls: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
        }))
    }

    /// Looks at the store or changes it; watches hear of what was changed.
    pub fn with<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.0.lock();
        let result = act(&mut store);
        let version = store.version();
        drop(store);
        self.0.changed.send_if_modified(|known| std::mem::replace(known, version) != version);
        result
    }

    /// Returns as soon as the store is as asked for.
    pub async fn until(&self, is_so: impl Fn(&Store) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !self.with(|store| is_so(store)) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// How many calls there were, on all connections.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    /// How many of them would change something, but for the Lease, which never rests.
    pub fn writes(&self) -> usize {
        self.0.writes.load(Ordering::Relaxed)
    }

    /// A way for one client, on which nothing goes wrong until it is told to.
    pub fn connect(&self) -> Connection {
        let inner = Inner {
            server: Arc::clone(&self.0),
            calls: Mutex::default(),
            script: Mutex::default(),
            dead: watch::Sender::new(false),
        };
        Connection(Arc::new(inner))
    }

    /// Serves whoever connects to the listener, each connection for itself, until dropped.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let connection = self.connect();
            let service = service_fn(move |request| {
                let connection = connection.clone();
                async move {
                    let answer = connection.answer(request).await;
                    // Only a script breaks a connection, and this one has none.
                    Ok::<_, Infallible>(answer.unwrap_or_else(|_| refused(&Refusal::scripted(500))))
                }
            });
            tasks.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }
}

type OnCall = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;
type OnEvent = Box<dyn FnMut(&Call, &Change) -> Delivery + Send>;

#[derive(Default)]
struct Script {
    on_call: Option<OnCall>,
    on_event: Option<OnEvent>,
}

pub(crate) struct Inner {
    pub(crate) server: Arc<Shared>,
    calls: Mutex<Vec<Call>>,
    script: Mutex<Script>,
    /// Whether the client is dead: nothing is done for it any more.
    dead: watch::Sender<bool>,
}

impl Inner {
    /// What becomes of an event of that watch.
    pub(crate) fn delivery(&self, call: &Call, change: &Change) -> Delivery {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.on_event.as_mut().map_or(Delivery::Once, |script| script(call, change))
    }

    fn fault(&self, call: &Call) -> Option<Fault> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.on_call.as_mut().and_then(|script| script(call))
    }
}

/// What one client has of the server. Clones are the same connection.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Asks that function what becomes of each call from now on.
    pub fn on_call(&self, script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.script().on_call = Some(Box::new(script));
    }

    /// Asks that function what becomes of each watch event from now on.
    pub fn on_event(&self, script: impl FnMut(&Call, &Change) -> Delivery + Send + 'static) {
        self.script().on_event = Some(Box::new(script));
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns once a fault has killed the client: then it is to be dropped.
    pub async fn died(&self) {
        let mut dead = self.0.dead.subscribe();
        // The sender is here, so it is not closed.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request.
    ///
    /// # Errors
    /// When the script breaks the connection.
    pub async fn answer<B>(&self, request: http::Request<B>) -> io::Result<Answer>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if *self.0.dead.borrow() {
            return std::future::pending().await;
        }
        if parts.uri.path() == "/version" {
            return Ok(json_answer(StatusCode::OK, &version()));
        }
        let request = {
            let mut calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
            match Request::read(&parts, calls.len()) {
                Ok(request) => {
                    calls.push(request.call.clone());
                    let Call { verb, kind, .. } = &request.call;
                    self.0.server.calls.fetch_add(1, Ordering::Relaxed);
                    let is_write = verb.is_write() && kind.name != "Lease";
                    self.0.server.writes.fetch_add(usize::from(is_write), Ordering::Relaxed);
                    request
                }
                Err(refusal) => return Ok(refused(&refusal)),
            }
        };
        let fault = self.0.fault(&request.call);
        let broken = || io::Error::new(io::ErrorKind::ConnectionReset, "as the script says");
        match fault {
            Some(Fault::Lost) => return Err(broken()),
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::Refused(code)) => return Ok(refused(&Refusal::scripted(code))),
            Some(Fault::Dies) => {
                self.0.dead.send_replace(true);
                return std::future::pending().await;
            }
            _ => {}
        }
        let answer = self.respond(request, &body).unwrap_or_else(|refusal| refused(&refusal));
        match fault {
            Some(Fault::ReplyLost) => Err(broken()),
            Some(Fault::ReplyHangs) => std::future::pending().await,
            Some(Fault::DiesAfter) => {
                self.0.dead.send_replace(true);
                std::future::pending().await
            }
            _ => Ok(answer),
        }
    }

    fn respond(&self, request: Request, body: &Bytes) -> Result<Answer, Refusal> {
        let server = Server(Arc::clone(&self.0.server));
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            let refused = |error| Refusal::bad(format!("body is not JSON: {error}"));
            serde_json::from_slice(body).map_err(refused)?
        };
        let options = WriteOptions {
            manager: request.query("fieldManager").unwrap_or("unknown").to_owned(),
            force: request.query("force") == Some("true"),
            to_status: request.call.is_status,
        };
        let written = match request.call.verb {
            Verb::Watch => return self.watch(request),
            Verb::Review => {
                // As the script would have it.
                let asked = request.reviewed(&body)?;
                let is_allowed = self.0.fault(&asked) != Some(Fault::Refused(403));
                let mut answer = body;
                answer["status"] = json!({ "allowed": is_allowed });
                return Ok(json_answer(StatusCode::CREATED, &answer));
            }
            Verb::List => {
                return server
                    .with(|store| list(store, &request))
                    .map(|listed| json_answer(StatusCode::OK, &listed));
            }
            Verb::Get => {
                let key = request.key(&body)?;
                server.with(|store| store.get(&key)).ok_or_else(|| Refusal::not_found(&key))?
            }
            Verb::Create => {
                let key = request.key(&body)?;
                let created = server.with(|store| store.create(&key, &body, &options))?;
                return Ok(json_answer(StatusCode::CREATED, &request.shown(&created)));
            }
            Verb::Replace => {
                let key = request.key(&body)?;
                server.with(|store| store.replace(&key, &body, &options))?
            }
            Verb::Apply | Verb::Patch => {
                let key = request.key(&body)?;
                let patch = match request.call.verb {
                    Verb::Apply => Patch::Apply(body),
                    _ if request.is_strategic() => Patch::Strategic(body),
                    _ => Patch::Merge(body),
                };
                server.with(|store| store.patch(&key, &patch, &options))?
            }
            Verb::Delete => {
                let key: Key = request.key(&Value::Null)?;
                server.with(|store| store.delete(&key, &body["preconditions"]))?;
                let done = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                });
                return Ok(json_answer(StatusCode::OK, &done));
            }
        };
        Ok(json_answer(StatusCode::OK, &request.shown(&written)))
    }

    fn watch(&self, request: Request) -> Result<Answer, Refusal> {
        let watching = Watching::new(Arc::clone(&self.0), request)?;
        let frames = stream::unfold(watching, |mut watching| async move {
            let bytes = watching.next().await?;
            Some((bytes.map(Frame::data), watching))
        });
        Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
    }
}

/// What it says it is: the Kubernetes that the end-to-end scenarios run on.
fn version() -> Value {
    json!({
        "major": "1", "minor": "34", "gitVersion": "v1.34.4", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string()));
    let mut answer = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}

fn refused(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &refusal.to_json())
}

impl<B> Service<http::Request<B>> for Connection
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Answer;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Answer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let connection = self.clone();
        Box::pin(async move { connection.answer(request).await })
    }
}
