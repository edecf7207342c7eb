//! The parts fit together: proxy and counter as processes, and a caller.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::{net::SocketAddr, time::Duration};

use testbed::{
    counter::{Counter, Request, Total},
    process::program,
    proxy::Plan,
};
use tonic::{client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

const PATIENCE: Duration = Duration::from_secs(20);

async fn call(to: SocketAddr, path: &'static str, request: Request) -> Total {
    let channel = Channel::from_shared(format!("http://{to}")).unwrap().connect().await.unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Request, Total>::default();
    let call = grpc.unary(tonic::Request::new(request), path.parse().unwrap(), codec);
    call.await.unwrap().into_inner()
}

#[tokio::test]
async fn a_call_goes_through_the_proxy_to_the_counter() {
    let (_counter, user_function) =
        Counter::default().start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let plan =
        Plan::new(program("proxy").unwrap(), user_function).with("CLOUDSTATE_STORE", "in-memory");
    let mut proxy = plan.start_ready(PATIENCE).await.unwrap();
    let add = Request { id: "a".to_owned(), amount: 2, events: 3, ..Request::default() };
    let total = call(proxy.calls(), "/testbed.Counter/Add", add).await;
    assert_eq!(total, Total { value: 6, sequence: 3 });
    proxy.terminate().unwrap();
    assert!(proxy.ended(PATIENCE).await.unwrap().success(), "{}", proxy.log());
}
