//! Judges a user function's description of itself. Pure: a description in, routes or every problem
//! with it out (`docs/protocol.md`, "Discovery").

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::contract::Store;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use protocol::cloudstate::{Entity, EntitySpec, entity_passivation_strategy::Strategy};

use crate::{
    key::KeyReader,
    route::{Kind, Method, Routes, Service, Target},
};

/// Host part of every type URL that we write.
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

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
        match self.store {
            Store::None => Vec::new(),
            Store::InMemory => vec![protocol::EVENT_SOURCED.to_owned()],
        }
    }

    /// The StatefulService as it is called in advice.
    fn stateful_service(&self) -> String {
        let named = |name: &String| format!("StatefulService {name}");
        self.stateful_service.as_ref().map_or_else(|| "the StatefulService".to_owned(), named)
    }
}

/// Makes routes of a description.
///
/// # Errors
/// Every problem, each naming the object, the field, the value and what to do.
pub fn routes(spec: &EntitySpec, terms: &Terms) -> Result<Routes, Vec<String>> {
    let mut problems = Vec::new();
    problems.extend(protocol_version(spec, terms));
    let pool = match DescriptorPool::decode(spec.proto.clone()) {
        Ok(pool) => pool,
        Err(error) => {
            problems.push(format!(
                "EntitySpec.proto is not a complete FileDescriptorSet ({error}): send every file of the \
                 service with all of its imports"
            ));
            return Err(problems);
        }
    };
    if spec.entities.is_empty() {
        problems.push("EntitySpec.entities is empty: register at least one entity".to_owned());
    }
    problems.extend(duplicates(&spec.entities));
    let mut methods = Vec::new();
    for entity in &spec.entities {
        match entity_methods(entity, &pool, terms) {
            Ok(found) => methods.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(Routes::new(methods, spec.proto.clone())) } else { Err(problems) }
}

fn protocol_version(spec: &EntitySpec, terms: &Terms) -> Option<String> {
    let info = spec.service_info.clone().unwrap_or_default();
    let spoken = (info.protocol_major_version, info.protocol_minor_version);
    (terms.protocol_check && spoken != protocol::VERSION).then(|| {
        format!(
            "ServiceInfo.protocol_major_version and protocol_minor_version say {}.{} (support library \
             {:?} {:?}), and this proxy speaks {}.{}: use a support library for that version",
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
        if !entity.persistence_id.is_empty() {
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

fn entity_methods(
    entity: &Entity,
    pool: &DescriptorPool,
    terms: &Terms,
) -> Result<Vec<Method>, Vec<String>> {
    let mut problems = Vec::new();
    problems.extend(entity_type(entity, terms));
    problems.extend(persistence_id(entity));
    let Some(descriptor) = pool.get_service_by_name(&entity.service_name) else {
        problems.push(format!(
            "Entity.service_name {:?} is not a service in EntitySpec.proto, which has {}: register the \
             entity under the full name of its service",
            entity.service_name,
            names(pool.services().map(|s| s.full_name().to_owned()))
        ));
        return Err(problems);
    };
    let service = Arc::new(Service {
        name: entity.service_name.clone(),
        kind: Kind::EventSourced,
        persistence_id: entity.persistence_id.clone(),
        passivation_timeout: passivation_timeout(entity),
    });
    let mut methods = Vec::new();
    for method in descriptor.methods() {
        match self::method(&service, &descriptor, &method) {
            Ok(found) => methods.push(found),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(methods) } else { Err(problems) }
}

fn entity_type(entity: &Entity, terms: &Terms) -> Option<String> {
    let supported = terms.supported_entity_types();
    if supported.contains(&entity.entity_type) {
        return None;
    }
    if entity.entity_type == protocol::EVENT_SOURCED {
        return Some(format!(
            "service {}: Entity.entity_type {:?} needs a store, and none is configured: set \
             spec.datastore.name of {} to the name of a StatefulStore",
            entity.service_name,
            entity.entity_type,
            terms.stateful_service()
        ));
    }
    Some(format!(
        "service {}: Entity.entity_type {:?} is not known to this proxy, which serves {}: register the \
         service as one of these",
        entity.service_name,
        entity.entity_type,
        names(supported.into_iter())
    ))
}

fn persistence_id(entity: &Entity) -> Option<String> {
    let id = &entity.persistence_id;
    (id.is_empty() || id.contains('|')).then(|| {
        format!(
            "service {}: Entity.persistence_id {id:?} must be a name without '|': choose one that stays \
             the same for as long as the data lives",
            entity.service_name
        )
    })
}

/// A time-out of zero or less counts as unset.
fn passivation_timeout(entity: &Entity) -> Option<Duration> {
    let Strategy::Timeout(strategy) = entity.passivation_strategy.as_ref()?.strategy.as_ref()?;
    let millis = u64::try_from(strategy.timeout).ok().filter(|millis| *millis > 0)?;
    Some(Duration::from_millis(millis))
}

fn method(
    service: &Arc<Service>,
    descriptor: &ServiceDescriptor,
    method: &MethodDescriptor,
) -> Result<Method, Vec<String>> {
    let path = format!("method {}.{}", descriptor.full_name(), method.name());
    let mut problems = Vec::new();
    for (streams, side) in
        [(method.is_client_streaming(), "input"), (method.is_server_streaming(), "output")]
    {
        if streams {
            problems.push(format!(
                "{path} streams its {side}, which an event sourced entity cannot serve: make it unary, or \
                 move it to an action"
            ));
        }
    }
    let key = KeyReader::of(&method.input()).map_err(|found| {
        problems.extend(found.into_iter().map(|problem| format!("{path}: {problem}")));
    });
    let (Ok(key), true) = (key, problems.is_empty()) else { return Err(problems) };
    Ok(Method {
        service: Arc::clone(service),
        name: method.name().to_owned(),
        input_type_url: format!("{TYPE_URL_PREFIX}{}", method.input().full_name()),
        output_type_url: format!("{TYPE_URL_PREFIX}{}", method.output().full_name()),
        target: Target::Entity(key),
    })
}

/// A list for a sentence: `nothing`, or the names with commas.
fn names(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
