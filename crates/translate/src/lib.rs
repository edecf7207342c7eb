//! From a validated StatefulService to Kubernetes objects: pure, no I/O, no clock.
//!
//! [`validate`] says every "no" there is to say, all at once; what comes out of it, the [`Plan`],
//! can be [`render`]ed without failing. The same input always gives the same bytes.

#[cfg(feature = "test-util")]
pub mod generated;
mod inputs;
mod plan;
mod problem;
mod quantity;
mod render;
pub mod settings;
mod sidecar;
mod store;
mod validate;

pub use inputs::{Inputs, Observed};
pub use plan::{Binding, Plan, Warning};
pub use problem::{Problem, Problems};
pub use render::{Object, Objects, POD_READER, binding_name, deployment_name, render, selector};
pub use settings::Settings;
pub use store::{Cassandra, Credential, Known, Postgres, Tls, validate_store};
pub use validate::{label_fault, validate};
