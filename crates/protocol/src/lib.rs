//! The Cloudstate protocol as generated Rust.
