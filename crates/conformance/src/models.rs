//! Clients of the models and of the cart, generated from `protocols/tck`.

pub use generated::{action, cart, event_sourced, value};

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated"
)]
mod generated {
    pub mod event_sourced {
        include!("generated/cloudstate.tck.model.rs");
    }
    pub mod value {
        include!("generated/cloudstate.tck.model.valueentity.rs");
    }
    pub mod action {
        include!("generated/cloudstate.tck.model.action.rs");
    }
    pub mod cart {
        include!("generated/com.example.shoppingcart.rs");
    }
}
