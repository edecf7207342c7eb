//! Judges one entity of a description: its type, what it keeps, and its methods.

use std::{sync::Arc, time::Duration};

use prost_reflect::{DescriptorPool, MethodDescriptor};
use protocol::cloudstate::{Entity, entity_passivation_strategy::Strategy};

use super::{KINDS, Terms, names};
use crate::{
    key::KeyReader,
    route::{Kind, Method, Service, Shape, Target},
};

/// Host part of every type URL that we write.
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";
/// Number of the method option `cloudstate.eventing`.
const EVENTING: u32 = 1081;

/// The methods of an entity. Without descriptors, which are a problem told elsewhere, only the entity's
/// own fields are judged.
pub(super) fn methods(
    entity: &Entity,
    pool: Option<&DescriptorPool>,
    terms: &Terms,
    remarks: &mut Vec<String>,
) -> Result<Vec<Method>, Vec<String>> {
    let mut problems = Vec::new();
    let kind = kind(entity, terms, &mut problems);
    if !matches!(kind, None | Some(Kind::Action)) {
        problems.extend(persistence_id(entity));
    }
    let Some(pool) = pool else { return Err(problems) };
    let Some(descriptor) = pool.get_service_by_name(&entity.service_name) else {
        problems.push(format!(
            "Entity.service_name {:?} is not a service in EntitySpec.proto, which has {}: register the \
             entity under the full name of its service, package included",
            entity.service_name,
            names(pool.services().map(|s| s.full_name().to_owned()))
        ));
        return Err(problems);
    };
    if descriptor.methods().len() == 0 {
        problems.push(format!(
            "service {} has no methods, so that nobody could call it: give it one, or do not register it",
            entity.service_name
        ));
    }
    let Some(kind) = kind else { return Err(problems) };
    let service = Arc::new(Service {
        name: entity.service_name.clone(),
        kind,
        persistence_id: entity.persistence_id.clone(),
        passivation_timeout: passivation_timeout(entity, remarks),
    });
    let mut methods = Vec::new();
    for descriptor in descriptor.methods() {
        remarks.extend(eventing(&descriptor));
        match target(&service, &descriptor) {
            Ok(target) => methods.push(Method {
                service: Arc::clone(&service),
                name: descriptor.name().to_owned(),
                input_type_url: format!("{TYPE_URL_PREFIX}{}", descriptor.input().full_name()),
                output_type_url: format!("{TYPE_URL_PREFIX}{}", descriptor.output().full_name()),
                target,
            }),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(methods) } else { Err(problems) }
}

/// What the entity is; none when that is not known, and more than one problem may follow from that.
fn kind(entity: &Entity, terms: &Terms, problems: &mut Vec<String>) -> Option<Kind> {
    let (service, given) = (&entity.service_name, &entity.entity_type);
    let known = KINDS.into_iter().find(|(entity_type, _)| entity_type == given);
    let kind = known.map(|(_, kind)| kind);
    match kind {
        Some(kind) if terms.can_keep(kind) => {}
        Some(_) => problems.push(format!(
            "service {service}: Entity.entity_type {given:?} needs a store, and none is configured: set \
             spec.datastore.name of {} to the name of a StatefulStore",
            terms.stateful_service()
        )),
        None if given == protocol::CRDT => problems.push(format!(
            "service {service}: Entity.entity_type {given:?} is a CRDT, which this proxy does not serve \
             yet: use one of {}",
            names(terms.supported_entity_types().into_iter())
        )),
        None => problems.push(format!(
            "service {service}: Entity.entity_type {given:?} is not known to this proxy, which serves {}: \
             register the service as one of these",
            names(terms.supported_entity_types().into_iter())
        )),
    }
    kind
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

/// A time-out of zero or less counts as unset, and is told of.
fn passivation_timeout(entity: &Entity, remarks: &mut Vec<String>) -> Option<Duration> {
    let Strategy::Timeout(strategy) = entity.passivation_strategy.as_ref()?.strategy.as_ref()?;
    let millis = u64::try_from(strategy.timeout).ok().filter(|millis| *millis > 0);
    if millis.is_none() {
        remarks.push(format!(
            "service {}: Entity.passivation_strategy.timeout {} ms is not above zero: the proxy's own \
             timeout counts; set a positive one, or none",
            entity.service_name, strategy.timeout
        ));
    }
    millis.map(Duration::from_millis)
}

/// Events that nobody would deliver are told of; the method can still be called.
fn eventing(method: &MethodDescriptor) -> Option<String> {
    let options = method.options();
    let declared = options.extensions().any(|(option, _)| option.number() == EVENTING)
        || options.unknown_fields().any(|option| option.number() == EVENTING);
    declared.then(|| {
        format!(
            "method {}: the option (cloudstate.eventing) is not served yet: no event is delivered to the \
             method, and none is published from it",
            method.full_name()
        )
    })
}

fn target(service: &Service, method: &MethodDescriptor) -> Result<Target, Vec<String>> {
    let shape = shape(method);
    if service.kind == Kind::Action {
        return Ok(Target::Action(shape));
    }
    let mut problems = Vec::new();
    for (streams, side) in
        [(method.is_client_streaming(), "input"), (method.is_server_streaming(), "output")]
    {
        if streams {
            problems.push(format!(
                "method {} streams its {side}, which an entity of this type cannot serve: make it unary, \
                 or move it to an action",
                method.full_name()
            ));
        }
    }
    match KeyReader::of(&method.input()) {
        Ok(key) if problems.is_empty() => Ok(Target::Entity(key)),
        Ok(_) => Err(problems),
        Err(found) => {
            let path = method.full_name();
            problems.extend(found.into_iter().map(|problem| format!("method {path}: {problem}")));
            Err(problems)
        }
    }
}

fn shape(method: &MethodDescriptor) -> Shape {
    match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => Shape::Unary,
        (true, false) => Shape::ClientStreaming,
        (false, true) => Shape::ServerStreaming,
        (true, true) => Shape::Streaming,
    }
}
