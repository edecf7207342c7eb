//! A caller that speaks HTTP/2 frame by frame, and so may do what no library would.

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{net::TcpStream, task::JoinHandle, time};

use super::{PATIENCE, Stand};

/// One connection.
pub struct Raw {
    pub requests: client::SendRequest<Bytes>,
    /// Ends when the connection does.
    pub connection: JoinHandle<Result<(), h2::Error>>,
    authority: String,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    /// From trailers, or headers when there is nothing else.
    pub fn grpc(&self, name: &str) -> &str {
        let value = self.trailers.get(name).or_else(|| self.headers.get(name));
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// Code and text.
    pub fn grpc_status(&self) -> (&str, &str) {
        (self.grpc("grpc-status"), self.grpc("grpc-message"))
    }
}

/// A message behind its head.
pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

impl Raw {
    pub async fn connect(stand: &Stand) -> Self {
        Self::connect_with(stand, &client::Builder::new()).await
    }

    pub async fn connect_with(stand: &Stand, builder: &client::Builder) -> Self {
        let stream = TcpStream::connect((stand.address, 8013)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (requests, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let authority = format!("{}:8013", stand.address);
        Self { requests, connection: tokio::spawn(connection), authority }
    }

    pub fn request(&self, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::post(uri).header("te", "trailers");
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// Begins a call, whose body is still to come.
    pub async fn begin(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = self.request(path, headers);
        let mut requests = time::timeout(PATIENCE, self.requests.clone().ready())
            .await
            .expect("no room for a call")?;
        requests.send_request(request, false)
    }

    /// A whole call with this body.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let (response, mut send) = self.begin(path, headers).await.unwrap();
        // An answer may be there already.
        drop(send.send_data(body, true));
        answer(response).await
    }
}

/// All of a response.
pub async fn answer(response: client::ResponseFuture) -> Answer {
    let whole = async {
        let (head, body) = response.await.unwrap().into_parts();
        let (body, trailers) = read(body).await;
        Answer { status: head.status, headers: head.headers, body, trailers }
    };
    time::timeout(PATIENCE, whole).await.expect("no answer at all")
}

/// Only the head of it.
pub async fn head(response: client::ResponseFuture) -> Response<RecvStream> {
    time::timeout(PATIENCE, response).await.expect("no answer at all").unwrap()
}

async fn read(mut body: RecvStream) -> (Bytes, HeaderMap) {
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (all.freeze(), body.trailers().await.unwrap().unwrap_or_default())
}
