//! Rights to read pods, which services with proxies made of jars have, and which go with the last that needs them.
//!
//! Which services need a right can be told only of all services of its namespace together. So each reconcile notes
//! what its own service needs, and whoever finds that to be something else has the namespace looked at, soon and
//! by one look for many.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::StatefulService;
use api::contract::{ProxyKind, annotation};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ObjectReference, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use tokio::sync::Notify;
use translate::settings::{RbacMode, Settings};
use translate::{POD_READER, Plan, binding_name, validate};

use super::Failure;
use super::child::{Child, is_managed};
use super::orphans::{LEFT_BEHIND, Taken, take_back};
use crate::cache::{Mark, identity_of};
use crate::context::{Caches, Context};
use crate::dereference;
use crate::planted::{self, Bug};

/// Names of RoleBindings, and of the Role where there is to be one.
type Needs = BTreeSet<String>;

/// What services need, as far as it was looked at, and what follows from a change of that.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By namespace, and there by the identity of the service.
    needs: HashMap<String, HashMap<Mark, Needs>>,
    /// Namespaces in which something may be needed no more.
    due: BTreeSet<String>,
}

impl Rights {
    /// Nothing is known of what was while another led.
    pub(crate) fn start_over(&self) {
        *self.lock() = State::default();
    }

    /// Has the namespace looked at.
    pub(crate) fn look_at(&self, namespace: String) {
        self.lock().due.insert(namespace);
        self.wake.notify_one();
    }

    /// Waits for namespaces to look at.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn due(&self) -> BTreeSet<String> {
        loop {
            let due = std::mem::take(&mut self.lock().due);
            if !due.is_empty() {
                return due;
            }
            self.wake.notified().await;
        }
    }

    /// The service needs that now.
    fn note(&self, namespace: &str, service: Mark, needs: Needs) {
        let mut state = self.lock();
        let known = state.needs.entry(namespace.to_owned()).or_default();
        if known.get(&service) == Some(&needs) {
            return;
        }
        known.insert(service, needs);
        state.due.insert(namespace.to_owned());
        drop(state);
        self.wake.notify_one();
    }

    /// What all services of the namespace need. What is not known is found out; nothing if that cannot be.
    fn of_all(
        &self,
        namespace: &str,
        services: impl Iterator<Item = (Mark, impl FnOnce() -> Option<Needs>)>,
    ) -> Option<Needs> {
        let mut former = self.lock().needs.remove(namespace).unwrap_or_default();
        let mut known = HashMap::new();
        let mut is_all = true;
        for (service, find_out) in services {
            match former.remove(&service).or_else(find_out) {
                Some(needs) => drop(known.insert(service, needs)),
                None => is_all = false,
            }
        }
        let all = is_all.then(|| known.values().flatten().cloned().collect());
        let mut state = self.lock();
        let now = state.needs.entry(namespace.to_owned()).or_default();
        for (service, needs) in known {
            // What was noted meanwhile is later.
            now.entry(service).or_insert(needs);
        }
        all
    }

    fn forget(&self, namespace: &str) {
        self.lock().needs.remove(namespace);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes note of what the service needs now: what the plan says, and its pods, which may be older. To be told
/// before something is given, so that nobody takes it away meanwhile, and after what was had may be let go.
pub(crate) fn note(
    ctx: &Context,
    service: &StatefulService,
    settings: &Settings,
    plan: &Plan,
    deployment: Option<&Deployment>,
) {
    // Where no right was ever given there is none to take back.
    if ctx.caches.bindings.len() == 0 && ctx.caches.roles.len() == 0 {
        return;
    }
    let needs = needs(ctx, settings, plan, deployment);
    let namespace = service.namespace().unwrap_or_default();
    ctx.rights.note(&namespace, identity_of(service), needs);
}

/// Where we have given rights.
pub(crate) fn namespaces(caches: &Caches) -> BTreeSet<String> {
    let bindings = caches.bindings.find(&[]);
    let roles = caches.roles.find(&[]);
    let bindings = bindings.iter().map(|binding| &binding.metadata);
    let roles = roles.iter().map(|role| &role.metadata);
    let ours = bindings.chain(roles).filter(|metadata| is_managed(metadata));
    ours.filter_map(|metadata| metadata.namespace.clone()).collect()
}

/// Takes back rights to read pods from accounts that no service of the namespace uses any more. What a
/// namespace has that we are to leave alone stays. Says whether something is left that is needed no more.
pub(crate) async fn take_back_all(ctx: &Context, namespace: &str) -> Result<bool, Failure> {
    if ctx.caches.is_opted_out(namespace) {
        // Another operator may work there, and change what its services need.
        ctx.rights.forget(namespace);
        return Ok(false);
    }
    let in_namespace = |metadata: &ObjectMeta| {
        metadata.namespace.as_deref() == Some(namespace)
            && metadata.deletion_timestamp.is_none()
            && is_managed(metadata)
    };
    let marks = [Mark::namespace(namespace)];
    let mut bindings = ctx.caches.bindings.find(&marks);
    bindings.retain(|binding| in_namespace(&binding.metadata));
    let mut roles = ctx.caches.roles.find(&marks);
    roles.retain(|role| in_namespace(&role.metadata));
    if bindings.is_empty() && roles.is_empty() || planted::is(Bug::RightsKept) {
        return Ok(false);
    }
    if ctx.malformed.has_services(namespace) {
        // What they need is not known, and their pods run.
        return Ok(false);
    }
    let Some(needed) = needed(ctx, namespace) else { return Ok(false) };
    let mut role_is_used = false;
    let mut failed = None;
    for binding in bindings {
        let name = binding.name_any();
        if name.starts_with(&binding_name("")) && !needed.contains(&name) {
            // One that stays is no reason to leave the others.
            failed = take_back_one(ctx, &*binding).await.err().or(failed);
        } else {
            role_is_used |= binding.role_ref.kind == "Role" && binding.role_ref.name == POD_READER;
        }
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    let mut is_left = false;
    for role in roles.iter().filter(|role| role.name_any() == POD_READER) {
        if needed.contains(POD_READER) {
            continue;
        }
        if role_is_used {
            is_left = true;
        } else {
            take_back_one(ctx, &**role).await?;
        }
    }
    Ok(is_left)
}

async fn take_back_one<K: Child>(ctx: &Context, orphan: &K) -> Result<(), Failure> {
    let is_wanted = ctx.live.now().has_jvm();
    let is_refused = match take_back(ctx, orphan, is_wanted).await {
        Ok(Taken::Back | Taken::Before) => return Ok(()),
        Ok(Taken::Not) => Ok(()),
        Err(failure @ Failure::Refused(_)) => Err(failure),
        Err(failure) => return Err(failure),
    };
    let (kind, name) = (K::kind(&()), orphan.name_any());
    let note = format!(
        "{kind} {name:?} is needed no more, and the operator may not delete it: delete it, or give the operator that right"
    );
    let about = ObjectReference { namespace: orphan.namespace(), ..orphan.object_ref(&()) };
    ctx.publisher.warn(&about, LEFT_BEHIND, &note).await;
    is_refused
}

/// What the services of the namespace need.
fn needed(ctx: &Context, namespace: &str) -> Option<Needs> {
    let settings = &ctx.live.now().for_objects(&ctx.namespace);
    let services = ctx.caches.services.references(&[Mark::namespace(namespace)]);
    // One after the other: all of them at once may be many.
    let services = services.into_iter().filter_map(|reference| {
        let identity = ctx.caches.services.identity(&reference)?;
        let find_out = move || {
            // What cannot be translated now may have been once, and its pods run.
            let service = ctx.caches.services.get(&reference)?;
            let inputs = dereference::inputs(ctx, &service);
            let plan = validate(settings, &service, &inputs).ok()?;
            let deployment = dereference::deployment(&ctx.caches, &service);
            Some(needs(ctx, settings, &plan, deployment.as_deref()))
        };
        Some((identity, find_out))
    });
    ctx.rights.of_all(namespace, services)
}

/// What one service needs. While it is paused, or waits for its turn, its pods are others than it says now.
fn needs(
    ctx: &Context,
    settings: &Settings,
    plan: &Plan,
    deployment: Option<&Deployment>,
) -> Needs {
    let mut needs = Needs::new();
    if plan.kind() == ProxyKind::Jvm {
        needs.insert(binding_name(plan.service_account()));
    }
    if let Some(deployment) = deployment {
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        needs.extend(
            template
                .and_then(|template| right_of(template.metadata.as_ref(), template.spec.as_ref())),
        );
        let pods = dereference::pods(&ctx.caches, deployment);
        needs
            .extend(pods.iter().filter_map(|pod| right_of(Some(&pod.metadata), pod.spec.as_ref())));
    }
    if !needs.is_empty() && settings.rbac.mode == RbacMode::Role {
        needs.insert(POD_READER.to_owned());
    }
    needs
}

/// The name of the RoleBinding that those pods need, unless they are known to need none.
fn right_of(metadata: Option<&ObjectMeta>, pod: Option<&PodSpec>) -> Option<String> {
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    let protocol = annotations.and_then(|all| all.get(annotation::CLUSTER_PROTOCOL));
    if protocol.is_some_and(|protocol| protocol == ProxyKind::Native.protocol()) {
        return None;
    }
    let account = pod.and_then(|pod| pod.service_account_name.as_deref());
    Some(binding_name(account.filter(|name| !name.is_empty()).unwrap_or("default")))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn names(names: &[&str]) -> Needs {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn service(name: &str) -> Mark {
        Mark::store(name)
    }

    /// What all of them need, and how many it had to be found out of. Of one called `bad` it cannot be.
    fn all(rights: &Rights, services: &[&str]) -> (Option<Needs>, usize) {
        let asked = Cell::new(0);
        let services = services.iter().map(|name| {
            let find_out = || {
                asked.set(asked.get() + 1);
                (*name != "bad").then(|| names(&[name]))
            };
            (service(name), find_out)
        });
        let all = rights.of_all("shop", services);
        (all, asked.into_inner())
    }

    #[test]
    fn what_a_service_needs_is_found_out_once() {
        let rights = Rights::default();
        assert_eq!(all(&rights, &["a", "b"]), (Some(names(&["a", "b"])), 2));
        assert_eq!(all(&rights, &["a", "b", "c"]), (Some(names(&["a", "b", "c"])), 1));
        rights.note("shop", service("a"), names(&["other"]));
        assert_eq!(all(&rights, &["a", "b"]), (Some(names(&["b", "other"])), 0));
        // Gone, and another of its name.
        assert_eq!(all(&rights, &["a"]), (Some(names(&["other"])), 0));
        assert_eq!(all(&rights, &["a", "b"]).1, 1);
        rights.forget("shop");
        assert_eq!(all(&rights, &["a", "b"]), (Some(names(&["a", "b"])), 2));
    }

    #[test]
    fn nothing_is_said_as_long_as_one_is_not_understood() {
        let rights = Rights::default();
        assert_eq!(all(&rights, &["a", "bad"]), (None, 2));
        assert_eq!(all(&rights, &["a", "bad"]), (None, 1));
        rights.note("shop", service("bad"), Needs::new());
        assert_eq!(all(&rights, &["a", "bad"]), (Some(names(&["a"])), 0));
    }

    #[tokio::test]
    async fn a_look_is_due_when_a_service_needs_something_else() {
        let rights = Rights::default();
        let due = |rights: &Rights| std::mem::take(&mut rights.lock().due);
        rights.note("shop", service("a"), names(&["x"]));
        rights.note("shop", service("b"), names(&["x"]));
        assert_eq!(rights.due().await, names(&["shop"]));
        rights.note("shop", service("a"), names(&["x"]));
        assert_eq!(due(&rights), Needs::new());
        rights.note("shop", service("a"), Needs::new());
        rights.look_at("stock".to_owned());
        assert_eq!(rights.due().await, names(&["shop", "stock"]));
        rights.start_over();
        rights.note("shop", service("a"), Needs::new());
        assert_eq!(due(&rights), names(&["shop"]), "nothing is known from before");
    }
}
