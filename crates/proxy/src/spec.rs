//! Judges a user function's description of itself. Pure: a description in, routes or every problem
//! with it out (`docs/protocol.md`, "Discovery").

mod descriptors;
mod entity;
mod http;

use std::collections::BTreeMap;

use api::contract::Store;
use protocol::cloudstate::{Entity, EntitySpec};

use crate::route::{Kind, Routes};

/// What each entity type becomes.
const KINDS: [(&str, Kind); 3] = [
    (protocol::ACTION, Kind::Action),
    (protocol::EVENT_SOURCED, Kind::EventSourced),
    (protocol::VALUE_ENTITY, Kind::Value),
];

/// What the proxy at hand can serve, and whom to name in advice.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The store behind the proxy.
    pub store: Store,
    /// Name of the StatefulService, where one is known.
    pub stateful_service: Option<String>,
    /// Whether a user function must speak exactly our version of the protocol.
    pub protocol_check: bool,
}

impl Terms {
    /// Entity types that a user function may declare here.
    pub fn supported_entity_types(&self) -> Vec<String> {
        let kinds = KINDS.into_iter().filter(|(_, kind)| self.can_keep(*kind));
        kinds.map(|(entity_type, _)| entity_type.to_owned()).collect()
    }

    /// Whether there is a store for what this kind of service keeps.
    fn can_keep(&self, kind: Kind) -> bool {
        kind == Kind::Action || self.store != Store::None
    }

    /// The StatefulService as it is called in advice.
    fn stateful_service(&self) -> String {
        let named = |name: &String| format!("StatefulService {name}");
        self.stateful_service.as_ref().map_or_else(|| "the StatefulService".to_owned(), named)
    }
}

/// A description that is served.
#[derive(Debug)]
pub struct Accepted {
    /// What callers may call.
    pub routes: Routes,
    /// What is odd about the description although it is served: each names object, field and value,
    /// and what is done about it.
    pub remarks: Vec<String>,
}

/// Judges a description.
///
/// # Errors
/// Every problem, each naming the object, the field, the value and what to do.
pub fn judge(spec: &EntitySpec, terms: &Terms) -> Result<Accepted, Vec<String>> {
    let (mut problems, mut remarks) = (Vec::new(), Vec::new());
    if let Some(other) = other_version(spec) {
        if terms.protocol_check {
            problems.push(format!("{other}: use a support library for that version"));
        } else {
            remarks.push(format!("{other}: served all the same, since the check is off"));
        }
    }
    let pool = descriptors::link(&spec.proto).map_err(|found| problems.extend(found)).ok();
    if spec.entities.is_empty() {
        problems.push("EntitySpec.entities is empty: register at least one entity".to_owned());
    }
    problems.extend(duplicates(&spec.entities));
    let mut methods = Vec::new();
    for entity in &spec.entities {
        match entity::methods(entity, pool.as_ref(), terms, &mut remarks) {
            Ok(found) => methods.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    if let Some(pool) = &pool {
        problems.extend(http::problems(&spec.entities, pool));
    }
    if problems.is_empty() {
        Ok(Accepted { routes: Routes::new(methods, spec.proto.clone()), remarks })
    } else {
        Err(problems)
    }
}

/// Says which version the user function speaks when it is not ours.
fn other_version(spec: &EntitySpec) -> Option<String> {
    let info = spec.service_info.clone().unwrap_or_default();
    let spoken = (info.protocol_major_version, info.protocol_minor_version);
    (spoken != protocol::VERSION).then(|| {
        format!(
            "ServiceInfo.protocol_major_version and protocol_minor_version say {}.{} (support library \
             {:?} {:?}), and this proxy speaks {}.{}",
            spoken.0,
            spoken.1,
            info.support_library_name,
            info.support_library_version,
            protocol::VERSION.0,
            protocol::VERSION.1,
        )
    })
}

/// Names that two entities share although they must not.
fn duplicates(entities: &[Entity]) -> Vec<String> {
    let mut seen: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for entity in entities {
        seen.entry(("service_name", &entity.service_name)).or_default().push(&entity.service_name);
        if entity.entity_type != protocol::ACTION && !entity.persistence_id.is_empty() {
            let key = ("persistence_id", entity.persistence_id.as_str());
            seen.entry(key).or_default().push(&entity.service_name);
        }
    }
    let shared = seen.into_iter().filter(|(_, services)| services.len() > 1);
    shared
        .map(|((field, value), services)| {
            format!(
                "Entity.{field} {value:?} stands in {} entities ({}): give each its own",
                services.len(),
                services.join(", ")
            )
        })
        .collect()
}

/// A list for a sentence: `nothing`, or the names with commas.
fn names(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
