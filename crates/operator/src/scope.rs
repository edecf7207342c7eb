//! One namespace, or all of them: what is watched there, and the controllers that look at it.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use api::contract::label;
use api::{StatefulService, StatefulStore};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::apply::child::{controller_of, label_of};
use crate::apply::orphans;
use crate::apply::rights::{self, Rights};
use crate::cache::{Cache, Cached, Filler, Mark, cache};
use crate::config::Settings;
use crate::context::{Caches, Context, Shared};
use crate::controller;
use crate::left_over::LeftOver;
use crate::malformed::Malformed;
use crate::planted::{self, Bug};
use crate::readiness::Watched;
use crate::secrets::Secrets;
use crate::throttle;
use crate::trigger::{Trigger, Triggers};
use crate::watch::{Change, Watches};

/// What the objects of a service carry, also those that several services share.
pub(crate) const MANAGED: &str = "app.kubernetes.io/managed-by=cloudstate.io";
/// A Secret whose change is to start pods anew.
const RELOAD: &str = "cloudstate.io/reload=true";
/// Kinds that are watched for `rbac.dedicated-service-account`.
const ACCOUNTS: &[&str] = &["ServiceAccount"];
/// Kinds that are watched for `proxy.image.jvm`.
const RIGHTS: &[&str] = &["Role", "RoleBinding"];

/// What is watched together; another one means other watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    /// All namespaces, if none.
    namespace: Option<String>,
    accounts: bool,
    rights: bool,
    secrets: bool,
}

impl Extent {
    /// Everything that the settings ask for.
    pub(crate) fn all(settings: &Settings, secrets: &Secrets) -> Vec<Self> {
        let extent = |namespace: Option<String>| Self {
            secrets: secrets.are_read(settings, namespace.as_deref()),
            namespace,
            accounts: settings.rbac.dedicated_service_account,
            rights: settings.has_jvm(),
        };
        match settings.watch.listed() {
            None => vec![extent(None)],
            Some(names) => {
                let mut names: Vec<_> = names.iter().map(|name| name.trim().to_owned()).collect();
                names.retain(|name| !name.is_empty());
                names.sort();
                names.dedup();
                names.into_iter().map(|name| extent(Some(name))).collect()
            }
        }
    }

    /// Whether it watches what is only there for a setting.
    pub(crate) fn needs_more_rights(&self) -> bool {
        self.accounts || self.rights
    }

    /// Goes on with what the former one watches for a setting that is off now, while something is left of it
    /// that we may take back.
    pub(crate) fn keep_left_over(&mut self, former: &Self, caches: &Caches, shared: &Shared) {
        if former.namespace != self.namespace || planted::is(Bug::SettingLeavesOver) {
            return;
        }
        let may_go = |namespace: &str| !shared.given_up.contains(namespace);
        let has_accounts = || orphans::has_accounts(caches, may_go);
        let has_rights = || rights::namespaces(caches).iter().any(|name| may_go(name));
        self.accounts |= former.accounts && self.may_watch(shared, ACCOUNTS) && has_accounts();
        self.rights |= former.rights && self.may_watch(shared, RIGHTS) && has_rights();
    }

    /// Watches what was found of settings that are off. What turns out not to be for us to watch is given up.
    pub(crate) fn take_up(&mut self, left: &mut LeftOver, shared: &Shared) {
        left.accounts &= self.may_watch(shared, ACCOUNTS);
        left.rights &= self.may_watch(shared, RIGHTS);
        self.accounts |= left.accounts;
        self.rights |= left.rights;
    }

    fn may_watch(&self, shared: &Shared, kinds: &[&str]) -> bool {
        kinds.iter().all(|kind| !shared.readiness.is_forbidden(self.name(), kind))
    }

    /// Whether accounts are watched, and whether rights are.
    pub(crate) fn watches(&self) -> (bool, bool) {
        (self.accounts, self.rights)
    }

    /// None where all are meant.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(crate) fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or("*")
    }

    /// Whether what is in that namespace is watched.
    pub(crate) fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }

    pub(crate) fn api<K>(&self, shared: &Shared) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(shared.client.clone(), namespace),
            None => Api::all(shared.client.clone()),
        }
    }
}

/// Watches until told to stop, and works while this process leads.
pub(crate) async fn run(
    shared: Arc<Shared>,
    extent: Extent,
    complete_caches: Arc<OnceLock<Caches>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let triggers = Triggers::default();
    let mut watches = JoinSet::new();
    let malformed = Malformed::default();
    let caches = watch_everything(&mut watches, &shared, &extent, &triggers, malformed.clone());
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        complete = complete(&caches, &extent) => complete?,
    }
    info!(
        scope = extent.name(),
        services = caches.services.len(),
        stores = caches.stores.len(),
        "everything is watched"
    );
    // Nobody else sets it.
    let _ = complete_caches.set(caches.clone());
    let rights = Rights::default();
    let context = Arc::new(Context { shared: Arc::clone(&shared), caches, malformed, rights });
    let work = lead(&context, &triggers, &stop);
    tokio::select! {
        () = work => Ok(()),
        // A watch ends only by a panic, and without it nothing would be noticed any more.
        Some(ended) = watches.join_next() => {
            ended?;
            anyhow::bail!("a watch has ended")
        }
    }
}

/// Works whenever this process leads.
async fn lead(context: &Arc<Context>, triggers: &Triggers, stop: &CancellationToken) {
    let mut settings = context.live.subscribe();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = context.leadership.acquired() => {}
        }
        throttle::take_over(context);
        let concurrency = settings.borrow_and_update().concurrency;
        let other_concurrency = settings.wait_for(|settings| settings.concurrency != concurrency);
        let everything = || everything(&context.caches.services, &context.caches.stores);
        tokio::select! {
            biased;
            () = context.leadership.lost() => debug!("work is left to another"),
            _ = other_concurrency => debug!("work starts anew with another concurrency"),
            () = controller::run(context, triggers, concurrency, everything, stop) => return,
        }
        triggers.disconnect();
        context.metrics.forget_waiting();
    }
}

fn watch_everything(
    tasks: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    extent: &Extent,
    triggers: &Triggers,
    malformed: Malformed,
) -> Caches {
    let (services, services_writer) = cache();
    let (stores, stores_writer) = cache();
    let (secrets, secrets_writer) = cache();
    let (namespaces, namespaces_writer) = cache();
    let watches = Watches {
        scope: extent.name().to_owned(),
        triggers: triggers.clone(),
        readiness: shared.readiness.clone(),
        metrics: shared.metrics.clone(),
        malformed,
    };
    let mut start = Start { tasks, shared, extent, watches, services, stores };

    let on_service = {
        let (stores, services) = (start.stores.clone(), start.services.clone());
        let (shared, extent) = (Arc::clone(shared), extent.clone());
        move |change: Change<'_, StatefulService>| match change {
            Change::Applied { before, now } => {
                let mut triggers = Vec::new();
                if !shared.reported.is_all(now) {
                    triggers.push(Trigger::Service(ObjectRef::from_obj(now)));
                }
                // How many services name a store is told on the store.
                let named = [before.and_then(|before| store_of(&before.read()?)), store_of(now)];
                if named[0] != named[1] {
                    triggers.extend(named.into_iter().flatten().map(Trigger::Store));
                }
                triggers
            }
            Change::Deleted(service) => {
                throttle::forget(&shared, service);
                shared.forget(&service.metadata);
                let namespace = service.namespace().unwrap_or_default();
                let store = store_of(service).map(Trigger::Store);
                store.into_iter().chain([Trigger::ServiceGone(namespace)]).collect()
            }
            Change::All => {
                throttle::relisted(&shared, |namespace| extent.covers(namespace), &services);
                // Namespaces are left alone only where all are watched.
                if extent.namespace.is_none() {
                    let all = services.references(&[]);
                    let uid = |service| services.get(service)?.uid();
                    shared.left_alone.retain(&all.iter().filter_map(uid).collect());
                }
                everything(&services, &stores)
            }
        }
    };
    let on_store = {
        let (stores, services) = (start.stores.clone(), start.services.clone());
        let shared = Arc::clone(shared);
        move |change: Change<'_, StatefulStore>| match change {
            // How many use it is told on it, and is nothing to those who do.
            Change::Applied { now, .. } if shared.reported.is_all(now) => Vec::new(),
            Change::Applied { now, .. } => users_of(&services, &ObjectRef::from_obj(now)).collect(),
            Change::Deleted(store) => {
                shared.forget(&store.metadata);
                let gone = Trigger::StoreGone(Arc::new(store.clone()));
                users_of(&services, &ObjectRef::from_obj(store)).chain([gone]).collect()
            }
            Change::All => everything(&services, &stores),
        }
    };
    let all = extent.api(shared);
    start.expect::<StatefulService>();
    start.watches.start(start.tasks, all, None, services_writer, on_service);
    let all = extent.api(shared);
    start.expect::<StatefulStore>();
    start.watches.start(start.tasks, all, None, stores_writer, on_store);
    if extent.secrets {
        start.secrets(secrets_writer);
    }
    if extent.namespace.is_none() {
        start.namespaces(namespaces_writer);
    }
    Caches {
        deployments: start.children(label::STATEFUL_SERVICE, true),
        addresses: start.children(label::STATEFUL_SERVICE, true),
        pods: start.children(label::STATEFUL_SERVICE, true),
        budgets: start.children(label::STATEFUL_SERVICE, true),
        policies: start.children(label::STATEFUL_SERVICE, true),
        accounts: start.children(label::STATEFUL_SERVICE, extent.accounts),
        roles: start.children(MANAGED, extent.rights),
        bindings: start.children(MANAGED, extent.rights),
        services: start.services,
        stores: start.stores,
        secrets,
        namespaces,
    }
}

/// Starts the watches of one scope.
struct Start<'a> {
    tasks: &'a mut JoinSet<()>,
    shared: &'a Arc<Shared>,
    extent: &'a Extent,
    watches: Watches,
    services: Cache<StatefulService>,
    stores: Cache<StatefulStore>,
}

impl Start<'_> {
    fn expect<K: Resource<DynamicType = ()>>(&self) {
        self.watches
            .readiness
            .expect(Watched { scope: self.watches.scope.clone(), kind: K::kind(&()).into_owned() });
    }

    /// Watches what carries these labels.
    fn children<K>(&mut self, labels: &str, is_needed: bool) -> Cache<K>
    where
        K: Cached + Resource<Scope = NamespaceResourceScope> + Debug,
    {
        let (reader, writer) = cache();
        if !is_needed {
            return reader;
        }
        let (services, stores) = (self.services.clone(), self.stores.clone());
        let on_child = move |change: Change<'_, K>| match change {
            // A hand may have changed what it says of its owner.
            Change::Applied { before, now } => {
                let mut owners = owners(&services, now.meta());
                let before = before.map(|before| before.metadata());
                owners.extend(before.iter().flat_map(|before| self::owners(&services, before)));
                owners.dedup();
                owners.into_iter().map(Trigger::Service).collect()
            }
            Change::Deleted(_) if planted::is(Bug::ChildGoneUnseen) => Vec::new(),
            Change::Deleted(child) => {
                owners(&services, child.meta()).into_iter().map(Trigger::Service).collect()
            }
            Change::All => everything(&services, &stores),
        };
        self.expect::<K>();
        let api: Api<DeserializeGuard<K>> = self.extent.api(self.shared);
        self.watches.start(self.tasks, api, Some(labels), writer, on_child);
        reader
    }

    fn secrets(&mut self, writer: Filler<PartialObjectMeta<Secret>>) {
        let (services, stores) = (self.services.clone(), self.stores.clone());
        // Which stores a Secret is for stands in them, and they are few.
        let in_namespace = move |namespace: Option<String>| {
            let stores = stores.references(&[Mark::namespace(&namespace.unwrap_or_default())]);
            stores.iter().flat_map(|store| users_of(&services, store)).collect::<Vec<_>>()
        };
        let (every_service, every_store) = (self.services.clone(), self.stores.clone());
        let on_secret = move |change: Change<'_, PartialObjectMeta<Secret>>| match change {
            _ if planted::is(Bug::SecretUnseen) => Vec::new(),
            Change::Applied { now: secret, .. } | Change::Deleted(secret) => {
                in_namespace(secret.namespace())
            }
            Change::All => everything(&every_service, &every_store),
        };
        self.expect::<Secret>();
        let api = self.extent.api(self.shared);
        self.watches.start_metadata(self.tasks, api, Some(RELOAD), writer, on_secret);
    }

    fn namespaces(&mut self, writer: Filler<PartialObjectMeta<Namespace>>) {
        let (services, stores) = (self.services.clone(), self.stores.clone());
        let on_namespace = move |change: Change<'_, PartialObjectMeta<Namespace>>| match change {
            Change::Applied { before, now } => {
                let is_same = before.is_some_and(|before| {
                    before.metadata().annotations.unwrap_or_default() == *now.annotations()
                });
                let name = now.name_any();
                let mut triggers = everything(&services, &stores);
                triggers.retain(|trigger| !is_same && trigger.namespace() == Some(&name));
                triggers
            }
            Change::Deleted(_) => Vec::new(),
            Change::All => everything(&services, &stores),
        };
        self.expect::<Namespace>();
        let api = Api::<PartialObjectMeta<Namespace>>::all(self.shared.client.clone());
        self.watches.start_metadata(self.tasks, api, None, writer, on_namespace);
    }
}

/// The services that a child may belong to, by owner reference and by label; of what belongs to none of them,
/// those of the account that it is for, or all of the namespace.
fn owners(
    services: &Cache<StatefulService>,
    child: &ObjectMeta,
) -> Vec<ObjectRef<StatefulService>> {
    let namespace = child.namespace.as_deref().unwrap_or_default();
    let controller = controller_of(child)
        .filter(|owner| owner.kind == StatefulService::kind(&()))
        .map(|owner| owner.name.as_str());
    let mut names: Vec<&str> =
        controller.into_iter().chain(label_of(child, label::STATEFUL_SERVICE)).collect();
    names.dedup();
    if names.is_empty() {
        let name = child.name.as_deref().unwrap_or_default();
        let account = name.strip_prefix(&translate::binding_name("")).map(Mark::account);
        let marks: Vec<_> = account.into_iter().chain([Mark::namespace(namespace)]).collect();
        return services.references(&marks);
    }
    names.into_iter().map(|name| ObjectRef::new(name).within(namespace)).collect()
}

/// All services and stores that are known.
fn everything(services: &Cache<StatefulService>, stores: &Cache<StatefulStore>) -> Vec<Trigger> {
    let services = services.references(&[]).into_iter().map(Trigger::Service);
    services.chain(stores.references(&[]).into_iter().map(Trigger::Store)).collect()
}

/// The store itself, and every service that names it.
fn users_of(
    services: &Cache<StatefulService>,
    store: &ObjectRef<StatefulStore>,
) -> impl Iterator<Item = Trigger> + use<> {
    let namespace = Mark::namespace(store.namespace.as_deref().unwrap_or_default());
    let users = if planted::is(Bug::StoreReachesNobody) {
        Vec::new()
    } else {
        services.references(&[namespace, Mark::store(&store.name)])
    };
    users.into_iter().map(Trigger::Service).chain([Trigger::Store(store.clone())])
}

/// The store that the service names, whether it exists or not.
fn store_of(service: &StatefulService) -> Option<ObjectRef<StatefulStore>> {
    let datastore = service.spec.datastore.as_ref()?;
    Some(ObjectRef::new(&datastore.name).within(&service.namespace().unwrap_or_default()))
}

/// Returns once every cache is filled that is filled at all.
async fn complete(caches: &Caches, extent: &Extent) -> anyhow::Result<()> {
    caches.services.is_complete().await?;
    caches.stores.is_complete().await?;
    caches.deployments.is_complete().await?;
    caches.addresses.is_complete().await?;
    caches.pods.is_complete().await?;
    caches.budgets.is_complete().await?;
    caches.policies.is_complete().await?;
    if extent.accounts {
        caches.accounts.is_complete().await?;
    }
    if extent.rights {
        caches.roles.is_complete().await?;
        caches.bindings.is_complete().await?;
    }
    if extent.secrets {
        caches.secrets.is_complete().await?;
    }
    if extent.namespace.is_none() {
        caches.namespaces.is_complete().await?;
    }
    Ok(())
}
