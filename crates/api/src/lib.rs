//! The resources of `cloudstate.io/v1alpha1`, and the contract of names between operator,
//! launcher and proxy.
//!
//! Without the feature `crd` only [`contract`], [`environment`], [`heap`] and [`Chain`] are left, which need
//! nothing but serde: the sidecar's binaries are built that way and stay free of Kubernetes types.

mod chain;
pub mod contract;
pub mod environment;
pub mod heap;

pub use chain::Chain;

#[cfg(feature = "crd")]
pub mod autoscaling;
#[cfg(feature = "crd")]
pub mod condition;
#[cfg(feature = "crd")]
mod schema;
#[cfg(feature = "crd")]
pub mod stateful_service;
#[cfg(feature = "crd")]
pub mod stateful_store;
#[cfg(feature = "crd")]
pub mod surroundings;

#[cfg(feature = "crd")]
pub use autoscaling::Autoscaling;
#[cfg(feature = "crd")]
pub use stateful_service::{
    BoundStore, Datastore, StatefulService, StatefulServiceSpec, StatefulServiceStatus,
};
#[cfg(feature = "crd")]
pub use stateful_store::{StatefulStore, StatefulStoreSpec, StatefulStoreStatus};
#[cfg(feature = "crd")]
pub use surroundings::{DisruptionBudget, NetworkAccess};
