//! Reconciles one StatefulStore: there is nothing to make, only something to say.

use std::sync::Arc;

use api::StatefulStore;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::context::Context;
use crate::error::Error;
use crate::{report, status};

pub(crate) async fn reconcile(
    store: Arc<StatefulStore>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    if store.metadata.deletion_timestamp.is_none() {
        report::report(&ctx, &*store, status::of_store(&store, Timestamp::now())).await?;
    }
    ctx.failures.forget(&store.uid().unwrap_or_default());
    Ok(Action::await_change())
}
