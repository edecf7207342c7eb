//! `spec.datastore`: the store that the service is bound to.

use api::contract::ProxyKind;
use api::{Datastore, StatefulService};
use kube::ResourceExt;

use crate::{Binding, Credential, Inputs, Known, Problem, Problems, Warning, validate_store};

pub(super) fn bind(
    service: &StatefulService,
    inputs: &Inputs,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Binding>, Problems> {
    let Some(datastore) = &service.spec.datastore else {
        return Ok(None);
    };
    let name = datastore.name.clone();
    let Some(object) = &inputs.store else {
        let namespace = service.namespace().unwrap_or_default();
        return Err(Problems(vec![Problem::StoreNotFound { store: name, namespace }]));
    };
    let mut store = validate_store(object)?;
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
                return Err(Problems(vec![Problem::KeyspaceMissing { store: name }]));
            }
            &["keyspace"]
        }
    };
    warn_of_unread(datastore, keys, &store, warnings);
    Ok(Some(Binding { name, generation: object.metadata.generation, store, keyspace }))
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
