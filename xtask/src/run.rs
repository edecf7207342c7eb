//! Running cargo from inside cargo.

use std::{path::Path, process::Command};

/// The cargo that runs us, in `root`, with a clean environment.
///
/// `cargo run` describes the xtask package in variables; a build script that watches them (ring's
/// does) would be built again each time we alternate with a plain `cargo build`.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
