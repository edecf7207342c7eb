//! From a service as the user wrote it to a plan, or to everything that is wrong with it.

mod containers;
mod datastore;
mod findings;
mod heap;
mod pod;
mod resources;
mod syntax;

use std::collections::BTreeMap;

use api::contract::{ProxyKind, annotation, container, label};
use api::environment::size;
use api::{StatefulService, StatefulServiceSpec};
use kube::ResourceExt;

use self::containers::user_port;
use self::findings::Findings;
use self::pod::OUR_ANNOTATIONS;
use crate::plan::{Account, Place};
use crate::settings::{Choice, ContactPoints, Selector, Settings, Switch};
use crate::{Binding, Inputs, Known, Plan, Problems, Warning};

/// Checks everything there is to check.
///
/// # Errors
/// All problems at once, the spec's fields in order.
pub fn validate(
    settings: &Settings,
    service: &StatefulService,
    inputs: &Inputs,
) -> Result<Plan, Problems> {
    let spec = &service.spec;
    let mut findings = Findings::default();
    let mut warnings = Vec::new();
    let kind = kind(settings, service, &mut findings);
    containers::check(spec, &mut findings);
    let store = datastore::bind(service, inputs, &mut warnings, &mut findings);
    pod::check(spec, kind, store.as_ref(), &mut findings);
    let image = image(settings, service, kind, store.as_ref(), &mut findings);
    let (Some(user), Some(image), []) = (spec.containers.first(), image, findings.0.as_slice())
    else {
        return Err(Problems(findings.0));
    };

    let single = store.as_ref().and_then(|binding| Some((binding, single(kind, &binding.store)?)));
    let pinned = single.and_then(|(binding, why)| pinned(spec, binding, why));
    let is_single = single.is_some();
    let place = place(settings, service, inputs, &mut warnings);
    let port = user_port(user);
    let replicas = if is_single { spec.replicas.min(1) } else { spec.replicas };
    containers::warn(user, port, &mut warnings);
    datastore::warn_of_kind(kind, store.as_ref(), &mut warnings);
    warn_of_protocol(kind, service, inputs, &mut warnings);
    Ok(Plan {
        name: service.name_any(),
        namespace: service.namespace().unwrap_or_default(),
        uid: service.uid().unwrap_or_default(),
        labels: passed_on(settings, service.labels()),
        annotations: passed_on(settings, service.annotations()),
        user: user.clone(),
        port,
        extra: spec.containers[1..].to_vec(),
        kind,
        image,
        place,
        memory: spec.sidecar_jvm_memory.as_deref().and_then(|memory| size(memory).ok()),
        store,
        selector: selector(settings, service, inputs),
        replicas,
        initial_replicas: initial_replicas(settings, replicas, inputs),
        is_single,
        pinned,
        account: account(settings, spec),
        is_replacing: is_replacing(kind, inputs),
        is_guarded: spec
            .network_policy
            .as_ref()
            .and_then(|access| access.enabled)
            .unwrap_or(settings.network_policy == Switch::On),
        spec: spec.clone(),
        warnings,
    })
}

/// What the API server has against a label, if anything: the rule that is broken.
pub fn label_fault(key: &str, value: &str) -> Option<&'static str> {
    syntax::key(key).and_then(|()| syntax::label_value(value)).err()
}

/// Which kind of proxy the sidecars are: as the service says, or as the operator does.
fn kind(settings: &Settings, service: &StatefulService, findings: &mut Findings) -> ProxyKind {
    let Some(given) = service.annotations().get(annotation::PROXY_KIND) else {
        return settings.proxy.kind;
    };
    ProxyKind::parse(given).unwrap_or_else(|| {
        let kinds = ProxyKind::ALL.map(|kind| format!("{:?}", kind.as_str())).join(" or ");
        let fault = format!("is {given:?}: set it to {kinds}, or leave it out");
        findings.field(kind_field(), fault);
        settings.proxy.kind
    })
}

fn kind_field() -> String {
    format!("metadata.annotations[{:?}]", annotation::PROXY_KIND)
}

fn image(
    settings: &Settings,
    service: &StatefulService,
    kind: ProxyKind,
    store: Option<&Binding>,
    findings: &mut Findings,
) -> Option<String> {
    let image = settings.proxy.image.of(kind, store.map(|binding| &binding.store));
    if image.is_none() {
        let is_the_services = service.annotations().contains_key(annotation::PROXY_KIND);
        let by = if is_the_services {
            kind_field()
        } else {
            "the operator's setting proxy.kind".to_owned()
        };
        let kind = kind.as_str();
        let fault = format!(
            "is {kind:?}, and the operator has no image for such a sidecar: set its setting proxy.image.{kind}"
        );
        findings.field(by, fault);
    }
    image.map(str::to_owned)
}

/// Why there can only be one pod, if so.
fn single(kind: ProxyKind, store: &Known) -> Option<&'static str> {
    match (store, kind) {
        // Each proxy would have a store of its own, and calls would find one or the other.
        (Known::InMemory, _) => Some("whose state one pod cannot share with another"),
        (Known::Postgres(_) | Known::Cassandra(_), ProxyKind::Native) => {
            Some("whose entities one pod at a time can own")
        }
        // Those find each other, and share the entities out among them.
        (Known::Postgres(_) | Known::Cassandra(_), ProxyKind::Jvm) => None,
    }
}

/// Why fewer pods will run than are asked for, if so.
fn pinned(spec: &StatefulServiceSpec, binding: &Binding, why: &str) -> Option<String> {
    (spec.replicas > 1).then(|| {
        let Binding { name, store, .. } = binding;
        format!(
            "spec.replicas is {}, and 1 is used: StatefulStore {name:?} is of type {:?}, {why}",
            spec.replicas,
            store.kind()
        )
    })
}

/// The selector of a Deployment can never be changed, so one that is there rules.
fn selector(
    settings: &Settings,
    service: &StatefulService,
    inputs: &Inputs,
) -> BTreeMap<String, String> {
    match &inputs.deployment {
        Some(deployment) if !deployment.selector.is_empty() => deployment.selector.clone(),
        _ => match settings.selector {
            Selector::Uid => crate::selector(&service.uid().unwrap_or_default()),
            Selector::Name => {
                BTreeMap::from([(label::STATEFUL_SERVICE.to_owned(), service.name_any())])
            }
        },
    }
}

fn place(
    settings: &Settings,
    service: &StatefulService,
    inputs: &Inputs,
    warnings: &mut Vec<Warning>,
) -> Place {
    match settings.proxy.native_sidecar {
        Choice::On => {}
        Choice::Auto if inputs.native_sidecars => {}
        Choice::Auto | Choice::Off => return Place::Container,
    }
    if !inputs.deployment.as_ref().is_some_and(|deployment| deployment.is_stripped) {
        return Place::InitContainer;
    }
    warnings.push(Warning {
        reason: "NativeSidecarStripped",
        message: format!(
            "a pod of Deployment {:?} came without restartPolicy of the init container {:?}, so something that changes pods on their way, such as a mutating webhook, does not know it: the sidecar is a container beside the user function instead; to try again, remove the annotation {} from the Deployment",
            crate::deployment_name(&service.name_any()),
            container::SIDECAR,
            annotation::SIDECAR_STRIPPED,
        ),
    });
    Place::Stripped
}

fn account(settings: &Settings, spec: &StatefulServiceSpec) -> Account {
    match &spec.service_account_name {
        Some(name) if !name.is_empty() => Account::Named(name.clone()),
        _ if settings.rbac.dedicated_service_account => Account::Dedicated,
        _ => Account::Default,
    }
}

/// What depends on the number of pods must not change with it, or scaling would start all of them anew.
fn initial_replicas(settings: &Settings, replicas: i32, inputs: &Inputs) -> Option<i32> {
    let noted = || inputs.deployment.as_ref()?.initial_replicas;
    match settings.proxy.required_contact_points {
        ContactPoints::Number(_) => None,
        ContactPoints::Auto(_) => Some(noted().unwrap_or(replicas)),
    }
}

/// Proxies of two protocols on one store would not know of each other, and both own its entities.
fn is_replacing(kind: ProxyKind, inputs: &Inputs) -> bool {
    inputs.deployment.as_ref().is_some_and(|deployment| {
        deployment.is_replacing || deployment.protocol.as_deref() != Some(kind.protocol())
    })
}

/// Once, when the next template is the first one of that protocol.
fn warn_of_protocol(
    kind: ProxyKind,
    service: &StatefulService,
    inputs: &Inputs,
    warnings: &mut Vec<Warning>,
) {
    let Some(deployment) = &inputs.deployment else { return };
    let (now, before) = (kind.protocol(), deployment.protocol.as_deref());
    if before == Some(now) {
        return;
    }
    let before = before.map_or_else(|| "unknown".to_owned(), |before| format!("{before:?}"));
    warnings.push(Warning {
        reason: "ClusterProtocolChanged",
        message: format!(
            "pods of Deployment {:?} speak the protocol {now:?} from now on, and those before {before}: proxies of both would not know of each other, so all pods go before new ones come",
            crate::deployment_name(&service.name_any()),
        ),
    });
}

fn passed_on(settings: &Settings, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_excluded = |key: &str| {
        OUR_ANNOTATIONS.contains(&key)
            || settings.excluded_annotations.iter().any(|excluded| {
                key == excluded || excluded.ends_with('/') && key.starts_with(excluded.as_str())
            })
    };
    given
        .iter()
        .filter(|(key, _)| key.as_str() == annotation::RESTARTED_AT || !is_excluded(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
