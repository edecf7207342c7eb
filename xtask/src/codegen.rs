//! `cargo xtask codegen`: writes every generated file again.
//!
//! Most generators live in the tests that hold the files fresh, so the two cannot disagree; with
//! `UPDATE_GENERATED` set, such a test writes instead of complaining.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::{manifests, run::cargo};

/// What is generated, and the test that knows how.
const GENERATORS: &[(&str, &str, &str)] = &[
    ("deploy/crds", "api", "crds"),
    ("crates/protocol/src/generated", "protocol", "fresh"),
    ("crates/conformance/src/generated", "conformance", "fresh"),
    ("crates/scripted-function/src/descriptors.bin", "scripted-function", "fresh"),
];

/// Runs every generator.
///
/// # Errors
/// The first generator that fails.
pub fn run(root: &Path) -> anyhow::Result<()> {
    for (files, package, test) in GENERATORS {
        println!("codegen: {files}");
        let status = cargo(root)
            .args(["test", "--quiet", "--package", package, "--test", test])
            .env("UPDATE_GENERATED", "1")
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "the generator of {files} failed");
    }
    // These hold the resource definitions too, so they come last.
    println!("codegen: deploy");
    manifests::write(root)
}
