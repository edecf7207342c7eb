//! The Cloudstate protocol, version 0.2, as generated Rust: messages, the client that the proxy is,
//! and the server that a user function is.
//!
//! `src/generated` comes out of the `.proto` files in `protocols/`; `tests/fresh.rs` holds the two
//! together and writes the former when `UPDATE_GENERATED=1` is set (`cargo xtask codegen`).
//! `docs/protocol.md` tells what the messages mean.
//!
//! Payloads are [`Bytes`](bytes::Bytes) everywhere, so that they pass through a proxy without a copy.

mod any;

pub use any::Any;

/// Package `cloudstate`: discovery and what all entity types share.
#[allow(
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated; documented in the .proto files"
)]
pub mod cloudstate {
    include!("generated/cloudstate.rs");

    /// Package `cloudstate.eventsourced`: entities whose state is the sum of their events.
    pub mod eventsourced {
        include!("generated/cloudstate.eventsourced.rs");
    }

    /// Package `cloudstate.valueentity`: entities whose state is one value.
    pub mod valueentity {
        include!("generated/cloudstate.valueentity.rs");
    }

    /// Package `cloudstate.action`: methods without state.
    pub mod action {
        include!("generated/cloudstate.action.rs");
    }
}

/// Version of the protocol that this crate speaks.
pub const VERSION: (i32, i32) = (0, 2);

/// Value of `Entity.entity_type` for event sourced entities.
pub const EVENT_SOURCED: &str = "cloudstate.eventsourced.EventSourced";

/// Value of `Entity.entity_type` for value entities.
pub const VALUE_ENTITY: &str = "cloudstate.valueentity.ValueEntity";

/// Value of `Entity.entity_type` for actions.
pub const ACTION: &str = "cloudstate.action.ActionProtocol";

/// Value of `Entity.entity_type` for conflict-free replicated data types; refused until they are served.
pub const CRDT: &str = "cloudstate.crdt.Crdt";
