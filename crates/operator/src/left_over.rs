//! What settings that are off now have left behind from before this process began. An operator that runs keeps its
//! watches until all of it is gone (`scopes`); one that starts has none for it, so it looks once.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use api::Chain;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Resource};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::apply::orphans;
use crate::cache::Cached;
use crate::context::Shared;
use crate::error::Error;
use crate::planted::{self, Bug};
use crate::review;
use crate::scope::{Extent, MANAGED};

/// How many objects are asked for at once. One that is ours is enough, so there is mostly one page.
const PAGE: u32 = 250;
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_mins(5);

/// Kinds of objects of which something is left in an extent that does not watch them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOver {
    /// Accounts of services, of `rbac.dedicated-service-account`.
    pub(crate) accounts: bool,
    /// Roles and RoleBindings, of `proxy.image.jvm`.
    pub(crate) rights: bool,
}

/// Looks for what the extent does not watch, until the API server has answered. Says whose extent that is.
pub(crate) async fn look(shared: Arc<Shared>, extent: Extent) -> (String, LeftOver) {
    if planted::is(Bug::FormerSettingUnseen) {
        return (extent.name().to_owned(), LeftOver::default());
    }
    let (accounts, rights) = extent.watches();
    let found = LeftOver {
        accounts: !accounts && has::<ServiceAccount>(&shared, &extent, orphans::is_account).await,
        rights: !rights
            && (has::<RoleBinding>(&shared, &extent, |_| true).await
                || has::<Role>(&shared, &extent, |_| true).await),
    };
    if found != LeftOver::default() {
        info!(scope = extent.name(), ?found, "settings that are off have left something behind");
    }
    (extent.name().to_owned(), found)
}

/// Whether there is something of that kind that we may see and that is ours.
async fn has<K>(
    shared: &Shared,
    extent: &Extent,
    is_ours: impl Fn(&ObjectMeta) -> bool + Sync,
) -> bool
where
    K: Resource<Scope = NamespaceResourceScope> + Cached + Debug,
{
    let mut delay = RETRY_DELAY_MIN;
    loop {
        match look_once::<K>(shared, extent, &is_ours).await {
            Ok(has) => return has,
            // Who takes the right away together with the setting is asked for nothing.
            Err(error) if error.is_forbidden() => return false,
            Err(error) => {
                let (kind, scope) = (K::kind(&()), extent.name());
                warn!(%kind, scope, error = %Chain(&error), retry_in = ?delay, "cannot look for what is left");
            }
        }
        sleep(delay).await;
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
}

async fn look_once<K>(
    shared: &Shared,
    extent: &Extent,
    is_ours: impl Fn(&ObjectMeta) -> bool + Sync,
) -> Result<bool, Error>
where
    K: Resource<Scope = NamespaceResourceScope> + Cached + Debug,
{
    let kind = K::kind(&());
    if !review::may::<K>(shared, "list", extent.namespace()).await? {
        debug!(%kind, scope = extent.name(), "no right to look for what is left");
        return Ok(false);
    }
    let api: Api<K> = extent.api(shared);
    let mut parameters = ListParams::default().labels(MANAGED).limit(PAGE);
    loop {
        let page =
            shared.calls.read("list", &kind, extent.name(), api.list_metadata(&parameters)).await?;
        if page.items.iter().any(|object| is_ours(&object.metadata)) {
            return Ok(true);
        }
        let next = page.metadata.continue_.unwrap_or_default();
        if next.is_empty() {
            return Ok(false);
        }
        parameters = parameters.continue_token(&next);
    }
}
