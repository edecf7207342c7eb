//! The API server itself.

use anyhow::{Context as _, ensure};

use crate::{e2e::namespace::Namespace, layout, run::cargo};

/// What tests take for granted of an API server holds of this one: the suite that the scripted one
/// passes, see `docs/operator/faults.md`.
pub(super) fn the_api_server_keeps_the_contract(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let kubeconfig = namespace.cluster.kubeconfig();
    let output = cargo(&layout::root())
        .args(["test", "--locked", "--quiet", "-p", "scripted-api", "--test", "contract"])
        .args(["a_real_server_keeps_the_contract", "--", "--nocapture"])
        .env("CONTRACT_KUBECONFIG", kubeconfig)
        .output()
        .context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the contract is broken: {said}{why}");
    ensure!(said.contains("1 passed") && !said.contains("skipped"), "it did not run: {said}");
    Ok(())
}
