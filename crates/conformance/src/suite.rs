//! Obligations, and what runs them.

use std::{net::SocketAddr, panic, sync::Arc};

use anyhow::{Result, anyhow};
use futures::{FutureExt as _, future::BoxFuture};
use protocol::cloudstate::ProxyInfo;
use tonic::transport::Channel;

use crate::wire::{Rpc, Taken, Wire};

/// Something that a proxy owes callers and user functions.
#[derive(Clone, Copy, Debug)]
pub struct Obligation {
    /// `<what>::<obligation>`.
    pub name: &'static str,
    run: fn(Test) -> BoxFuture<'static, Result<()>>,
}

impl Obligation {
    pub const fn new(name: &'static str, run: fn(Test) -> BoxFuture<'static, Result<()>>) -> Self {
        Self { name, run }
    }

    /// Runs it. A panic is a failure, too.
    ///
    /// # Errors
    /// Says what does not hold.
    pub async fn check(&self, test: Test) -> Result<()> {
        test.wire.begin(self.name);
        let run = panic::AssertUnwindSafe((self.run)(test)).catch_unwind();
        run.await.unwrap_or_else(|_| Err(anyhow!("panicked")))
    }
}

/// Lists async functions as obligations.
#[macro_export]
macro_rules! obligations {
    ($module:literal: $($name:ident,)*) => {
        &[$($crate::suite::Obligation::new(
            concat!($module, "::", stringify!($name)),
            |test| Box::pin($name(test)),
        ),)*]
    };
}

/// What an obligation is checked with: a proxy that serves, the wire behind it, and a name of its own.
#[derive(Clone, Debug)]
pub struct Test {
    pub wire: Arc<Wire>,
    /// To the proxy, as callers reach it.
    pub channel: Channel,
    /// Where callers go.
    pub proxy: SocketAddr,
    /// What the proxy said of itself at discovery.
    pub info: ProxyInfo,
    /// An entity that no other test uses.
    pub id: String,
}

impl Test {
    /// Another entity that no other test uses.
    pub fn other(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.id)
    }

    /// The oldest activation of an event sourced entity that was not taken yet.
    pub async fn event_sourced(&self, service: &str, entity: &str) -> Result<Taken> {
        self.wire.activation(Rpc::EventSourced, service, entity).await
    }

    /// The oldest activation of a value entity that was not taken yet.
    pub async fn value(&self, service: &str, entity: &str) -> Result<Taken> {
        self.wire.activation(Rpc::ValueEntity, service, entity).await
    }
}
