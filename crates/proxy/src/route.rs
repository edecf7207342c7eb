//! What can be called: one [`Method`] for each that the user function describes, found by its path.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::key::KeyReader;

/// A method that callers may use, with everything a call needs to know.
#[derive(Debug)]
pub struct Method {
    /// The service that it belongs to.
    pub service: Arc<Service>,
    /// Bare name, as commands carry it.
    pub name: String,
    /// `type_url` of a command's payload.
    pub input_type_url: String,
    /// `type_url` that a reply's payload should have.
    pub output_type_url: String,
    /// Who carries it out.
    pub target: Target,
}

impl Method {
    /// Service and method, such as `com.example.shoppingcart.ShoppingCart.AddItem`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.service.name, self.name)
    }
}

/// Who carries a method out.
#[derive(Debug)]
pub enum Target {
    /// The entity whose key this reads out of the message; always one message in and one out.
    Entity(KeyReader),
    /// Code without state, in any shape.
    Action(Shape),
}

/// Which sides of a method are streams, as the caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One message in, one out.
    Unary,
    /// Many in, one out.
    ClientStreaming,
    /// One in, many out.
    ServerStreaming,
    /// Many in, many out.
    Streaming,
}

/// What kind of thing a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entities whose state is the sum of their events.
    EventSourced,
    /// Entities whose state is one value.
    Value,
    /// No state.
    Action,
}

/// A service: one type of entity, or an action.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Full name, such as `com.example.shoppingcart.ShoppingCart`.
    pub name: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// Prefix of what its entities store.
    pub persistence_id: String,
    /// How long an entity may idle before it is passivated; the proxy's default unless set.
    pub passivation_timeout: Option<Duration>,
}

/// Everything that can be called.
#[derive(Debug, Default)]
pub struct Routes {
    methods: HashMap<String, Arc<Method>>,
    services: Vec<String>,
    descriptors: Bytes,
}

impl Routes {
    /// Routes to these methods, described by an encoded `FileDescriptorSet`.
    pub fn new(methods: Vec<Method>, descriptors: Bytes) -> Self {
        let mut services: Vec<_> = methods.iter().map(|m| m.service.name.clone()).collect();
        services.sort();
        services.dedup();
        let methods = methods
            .into_iter()
            .map(|m| (format!("/{}/{}", m.service.name, m.name), Arc::new(m)))
            .collect();
        Self { methods, services, descriptors }
    }

    /// The method at a path of the form `/<service>/<method>`.
    pub fn find(&self, path: &str) -> Option<&Arc<Method>> {
        self.methods.get(path)
    }

    /// All methods, each with its path.
    pub fn methods(&self) -> impl Iterator<Item = (&str, &Arc<Method>)> {
        self.methods.iter().map(|(path, method)| (path.as_str(), method))
    }

    /// All services, sorted by their names.
    pub fn served(&self) -> Vec<Arc<Service>> {
        let named = self.methods.values().map(|m| (m.service.name.as_str(), &m.service));
        let named: BTreeMap<_, _> = named.collect();
        named.into_values().cloned().collect()
    }

    /// Full names of all services, sorted.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// The user function's own descriptors, byte for byte.
    pub fn descriptors(&self) -> &Bytes {
        &self.descriptors
    }
}
