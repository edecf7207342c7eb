//! `spec.datastore`: the store that the service is bound to.

use api::contract::ProxyKind;
use api::{Datastore, StatefulService};
use kube::ResourceExt;

use super::findings::Findings;
use super::syntax;
use crate::{Binding, Credential, Inputs, Known, Problem, Warning, validate_store};

pub(super) fn bind(
    service: &StatefulService,
    inputs: &Inputs,
    warnings: &mut Vec<Warning>,
    findings: &mut Findings,
) -> Option<Binding> {
    let datastore = service.spec.datastore.as_ref()?;
    check_name(&datastore.name, findings);
    let name = datastore.name.clone();
    let Some(object) = &inputs.store else {
        let namespace = service.namespace().unwrap_or_default();
        findings.push(Problem::StoreNotFound { store: name, namespace });
        return None;
    };
    let mut store = match validate_store(object) {
        Ok(store) => store,
        Err(problems) => {
            findings.0.extend(problems.0);
            return None;
        }
    };
    let mut keyspace = None;
    let keys: &[&str] = match &mut store {
        Known::InMemory => &[],
        Known::Postgres(postgres) => {
            if let Some(schema) = text(datastore, "schema") {
                postgres.schema = Some(Credential::Literal(schema));
            }
            &["schema"]
        }
        Known::Cassandra(_) => {
            keyspace = text(datastore, "keyspace");
            if keyspace.is_none() {
                findings.push(Problem::KeyspaceMissing { store: name });
                return None;
            }
            &["keyspace"]
        }
    };
    warn_of_unread(datastore, keys, &store, warnings);
    if let Some(secret) = store.unread_secret() {
        warnings.push(Warning {
            reason: "SecretUnread",
            message: format!(
                "StatefulStore {name:?}: spec.config.credentialsFromSecret.name is {secret:?}, and nothing is taken from it: name keys in usernameKey and passwordKey"
            ),
        });
    }
    Some(Binding { name, generation: object.metadata.generation, store, keyspace })
}

/// The name becomes the value of a label, which may be no longer than this.
fn check_name(name: &str, findings: &mut Findings) {
    let path = "spec.datastore.name";
    if name.len() > 63 {
        let fault = format!(
            "is {name:?}, and becomes the value of a label: use a StatefulStore whose name has at most 63 characters"
        );
        findings.field(path, fault);
    } else {
        findings.rule(path, name, syntax::subdomain(name));
    }
}

/// A text that says something. Others are not read.
fn text(datastore: &Datastore, key: &str) -> Option<String> {
    let text = datastore.config.as_ref()?.get(key)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Warns of everything but those keys, and of those that hold no text.
fn warn_of_unread(
    datastore: &Datastore,
    keys: &[&str],
    store: &Known,
    warnings: &mut Vec<Warning>,
) {
    let takes = match keys {
        [] => "nothing".to_owned(),
        keys => format!(
            "the text {} and nothing else",
            keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ")
        ),
    };
    for (key, _) in datastore.config.iter().flatten() {
        if keys.contains(&key.as_str()) && text(datastore, key).is_some() {
            continue;
        }
        warnings.push(Warning {
            reason: "DatastoreConfigUnread",
            message: format!(
                "spec.datastore.config.{key} is not read: a store of type {:?} takes {takes}",
                store.kind()
            ),
        });
    }
}

/// Our own proxy leaves Cassandra to proxies made of jars for now, and says so when it starts.
pub(super) fn warn_of_kind(kind: ProxyKind, store: Option<&Binding>, warnings: &mut Vec<Warning>) {
    if let (ProxyKind::Native, Some(Binding { name, store: Known::Cassandra(_), .. })) =
        (kind, store)
    {
        warnings.push(Warning {
            reason: "StoreNotServed",
            message: format!(
                "spec.datastore.name is {name:?}, of type \"Cassandra\", which the native proxy does not serve yet: use another store, or a proxy that does, with the annotation cloudstate.io/proxy-kind: jvm"
            ),
        });
    }
}
