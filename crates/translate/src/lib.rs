//! From a validated StatefulService to Kubernetes objects: pure, no I/O, no clock.
//!
//! [`validate`] says every "no" there is to say, all at once; what comes out of it, the [`Plan`],
//! can be [`render`]ed without failing. The same input always gives the same bytes.

mod inputs;
mod plan;
mod problem;
mod render;
mod sidecar;
mod store;
mod validate;

pub use inputs::{Inputs, Settings};
pub use plan::{Binding, Plan, Warning};
pub use problem::{Problem, Problems};
pub use render::{Objects, deployment_name, render, selector};
pub use store::{Credential, Known, Postgres, Tls, validate_store};
pub use validate::validate;
