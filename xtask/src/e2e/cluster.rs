//! The cluster that the scenarios run on.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use xshell::Shell;

use super::{audit::Audit, jvm, rights::Ledger, wait::until};
use crate::{
    cluster,
    golang::Go,
    images::{self, Image, Recipe, debian},
    install::References,
    layout, parts,
    progress::Progress,
    run::cargo,
    up::{self, Running},
};

/// Marks the namespaces of scenarios.
pub(super) const LABEL: &str = "example.com/cloudstate-e2e";
/// The operator's Deployment.
pub(super) const OPERATOR: &str = "cloudstate-operator";
pub(super) const OPERATOR_NAMESPACE: &str = "cloudstate";
/// How long silence lasts unless somebody asks for more.
const SILENCE: Duration = Duration::from_mins(1);

/// A running cluster with the operator in it, and what the scenarios need to know of it.
pub struct Cluster {
    running: Running,
    /// Image of the scripted user function, with its tag.
    pub(super) scripted: String,
    /// Image of the Postgres in `samples/shopping-cart/postgres.yaml`.
    postgres: Image,
    /// The program that calls shopping carts.
    pub(super) carts: PathBuf,
    helm: PathBuf,
    /// How long an operator that has nothing to do is watched.
    pub(super) silence: Duration,
    /// The program that makes many calls at once.
    pub(super) crowd: PathBuf,
    /// The program that writes valid services and all that becomes of them.
    generated: PathBuf,
    /// Since when scenarios may have run.
    pub(super) begun: Audit,
    /// Which rights operators had and used.
    pub(super) rights: Ledger,
}

impl Cluster {
    /// Brings the cluster up, or finds it running, with images of the present sources.
    ///
    /// # Errors
    /// That it cannot be had, with what to do about it.
    pub fn prepare() -> anyhow::Result<Self> {
        let progress = Progress::start(layout::logs())?;
        let running = up::ensure(&progress)?;
        let scripted = scripted_function(&progress)?;
        cluster::import(&progress, &scripted)?;
        let postgres = postgres(&progress)?;
        cluster::import(&progress, &postgres)?;
        let go = Go::find(&Shell::new()?, &progress)?;
        let helm = parts::HELM.build(&progress, &go)?.join(parts::HELM.name());
        jvm::install(&progress, &running.handle)?;
        let [carts, crowd] = callers(&progress)?;
        let generated = generator(&progress)?;
        Ok(Self {
            running,
            scripted: scripted.reference(),
            postgres,
            carts,
            helm,
            silence: SILENCE,
            crowd,
            generated,
            begun: Audit::from_now()?,
            rights: Ledger::default(),
        })
    }

    /// Its administrator's way to the API server.
    pub(super) fn kubeconfig(&self) -> &Path {
        &self.running.handle.kubeconfig
    }

    /// Image of the shopping cart, with its tag.
    pub(super) fn cart(&self) -> String {
        self.running.images.shopping_cart.reference()
    }

    /// Images that users get.
    pub(super) fn product_images(&self) -> [&Image; 2] {
        [&self.running.images.operator, &self.running.images.sidecar]
    }

    /// So many valid services for that namespace, each with all that becomes of it, as one list.
    pub(super) fn generated(&self, namespace: &str, services: u32) -> anyhow::Result<Value> {
        let output = Command::new(&self.generated)
            .args([namespace, "0", &services.to_string()])
            .output()
            .with_context(|| format!("cannot run {}", self.generated.display()))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot generate services: {errors}");
        serde_json::from_slice(&output.stdout).context("what was generated is no JSON")
    }

    /// Leaves the operator with what its install gives it: nothing for proxies made of jars.
    pub(super) fn forget_jars(&self) -> anyhow::Result<()> {
        jvm::remove(&self.running.handle)
    }

    /// The text with the images of this run in place of those that manifests name.
    pub(super) fn with_images(&self, manifest: &str) -> String {
        let Image { repository, .. } = &self.postgres;
        let postgres = References::new(vec![(repository.clone(), self.postgres.reference())]);
        postgres.substitute(&self.running.references.substitute(manifest))
    }

    /// Calls gRPC services.
    pub(super) fn grpcurl(&self) -> Command {
        Command::new(&self.running.handle.grpcurl)
    }

    /// Installs charts in this cluster.
    pub(super) fn helm(&self) -> Command {
        let mut helm = Command::new(&self.helm);
        helm.env("KUBECONFIG", &self.running.handle.kubeconfig);
        // It keeps nothing of worth, and not at home.
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(folder, layout::root().join("target/helm"));
        }
        helm
    }

    /// The same cluster, with an operator that has nothing to do watched for so long.
    #[must_use]
    pub fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// By how much silence is longer than usual.
    pub(super) fn longer_silence(&self) -> Duration {
        self.silence.saturating_sub(SILENCE)
    }

    /// `kubectl` as an administrator of this cluster.
    pub(super) fn kubectl(&self) -> Command {
        self.running.handle.kubectl(&[])
    }

    /// Lets stores go that an operator guarded which may be gone: nobody else would.
    fn unguard_stores(&self) -> anyhow::Result<()> {
        let run = |arguments: &[&str]| {
            let output = self.kubectl().args(arguments).output().context("cannot run kubectl")?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "kubectl {}: {errors}", arguments.join(" "));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let namespaces = run(&["get", "namespaces", "--selector", LABEL, "--output=name"])?;
        for namespace in namespaces.lines().filter_map(|line| line.strip_prefix("namespace/")) {
            let stores =
                run(&["get", "statefulstores", "--namespace", namespace, "--output=name"])?;
            for store in stores.lines() {
                let none = "--patch={\"metadata\":{\"finalizers\":null}}";
                run(&["patch", store, "--namespace", namespace, "--type=merge", none])?;
            }
        }
        Ok(())
    }

    /// Removes namespaces that an earlier run left, and waits until they are gone.
    pub(super) fn remove_leftovers(&self) -> anyhow::Result<()> {
        self.unguard_stores()?;
        let output = self
            .kubectl()
            .args(["delete", "namespaces", "--selector", LABEL, "--wait=false"])
            .output()
            .context("cannot run kubectl")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot remove old namespaces: {errors}");
        until("namespaces of an earlier run are gone", Duration::from_mins(2), || {
            let output = self
                .kubectl()
                .args(["get", "namespaces", "--selector", LABEL, "--output=name"])
                .output()
                .context("cannot run kubectl")?;
            ensure!(output.status.success(), "cannot list namespaces");
            let left = String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", ");
            Ok(if left.is_empty() { Ok(()) } else { Err(left) })
        })?;
        Ok(())
    }
}

/// The image of `crates/scripted-function`.
fn scripted_function(progress: &Progress) -> anyhow::Result<Image> {
    const NAME: &str = "scripted-function";
    progress.say("building the scripted user function (release, static)");
    let program = images::static_programs(progress, "release", &[NAME])?.join(NAME);
    let recipe = Recipe {
        name: NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dockerfile: layout::root().join("xtask/parts").join(NAME),
        programs: vec![program],
        arguments: Vec::new(),
    };
    images::build(progress, &recipe)
}

/// The Postgres that the scenarios run on.
fn postgres(progress: &Progress) -> anyhow::Result<Image> {
    let packages = ["base-files", "coreutils", "dash", "postgresql-15"];
    let base = debian::unpacked(progress, "postgresql", &packages)?;
    let folder = layout::root().join("xtask/parts/postgres");
    let recipe = Recipe {
        name: "postgres".to_owned(),
        version: "15".to_owned(),
        programs: vec![base, folder.join("start"), folder.join("passwd")],
        dockerfile: folder,
        arguments: Vec::new(),
    };
    images::build(progress, &recipe)
}

/// The programs that call services. They run on this machine, and are built beside us.
fn callers(progress: &Progress) -> anyhow::Result<[PathBuf; 2]> {
    let mut build = cargo(&layout::root());
    build.args(["build", "--locked", "--package", "testbed", "--bin", "carts", "--bin", "crowd"]);
    progress.run("build-callers", build, Duration::from_mins(15))?;
    let us = std::env::current_exe().context("cannot tell where xtask is")?;
    Ok(["carts", "crowd"].map(|program| us.with_file_name(program)))
}

/// The generator of valid services, an example of package `translate`. With the packages of the whole workspace, which
/// the tests have built as well.
fn generator(progress: &Progress) -> anyhow::Result<PathBuf> {
    let mut build = cargo(&layout::root());
    build.args(["build", "--locked", "--workspace", "--example", "generated"]);
    progress.run("build-generator", build, Duration::from_mins(15))?;
    let us = std::env::current_exe().context("cannot tell where xtask is")?;
    Ok(us.with_file_name("examples").join("generated"))
}
