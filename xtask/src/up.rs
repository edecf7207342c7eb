//! `cargo xtask up`: from a bare machine to an answer of the sample.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use xshell::Shell;

use crate::{
    cluster::{self, Handle},
    first_calls, flags,
    golang::Go,
    host::{self, Lock},
    images::{self, Image, Recipe},
    install::{self, References},
    layout,
    parts::{self, Part},
    progress::Progress,
};

/// Programs of ours that go into images, besides the launcher.
const PROGRAMS: [&str; 2] = ["operator", "proxy"];
/// Free disk in GiB for a first run: Go's caches are the most of it.
const SPACE_FIRST: u64 = 14;
/// Free disk in GiB for a later run.
const SPACE_LATER: u64 = 3;

/// The images of this working copy.
#[derive(Clone, Debug)]
pub struct Images {
    /// The operator.
    pub operator: Image,
    /// Launcher and proxy.
    pub sidecar: Image,
    /// The sample's user function.
    pub shopping_cart: Image,
}

impl Images {
    fn all(&self) -> [&Image; 3] {
        [&self.operator, &self.sidecar, &self.shopping_cart]
    }

    fn references(&self, name: impl Fn(&Image) -> Result<String>) -> Result<References> {
        let pairs =
            self.all().into_iter().map(|image| Ok((image.repository.clone(), name(image)?)));
        Ok(References::new(pairs.collect::<Result<_>>()?))
    }
}

/// What [`ensure`] leaves running.
#[derive(Debug)]
pub struct Running {
    /// The cluster, with the operator of this working copy in it.
    pub handle: Handle,
    /// The images that are in it.
    pub images: Images,
    /// What to write in place of the image names of manifests.
    pub references: References,
    /// Keeps another `up` or `down` away.
    _lock: Lock,
}

/// Does all of `up`.
///
/// # Errors
/// With what went wrong and what to do about it.
pub fn run(flags: &flags::Up) -> Result<()> {
    let progress = Progress::start(layout::logs())?;
    match &flags.kubeconfig {
        None => {
            let running = ensure(&progress)?;
            install::sample(&progress, &running.handle, &running.references)?;
            first_calls::make(&progress, &running.handle)
        }
        Some(kubeconfig) => on_foreign(&progress, kubeconfig, flags.registry.as_deref()),
    }
}

/// Sees to a cluster of our own with the operator of this working copy in it.
///
/// # Errors
/// With what went wrong and what to do about it.
pub fn ensure(progress: &Progress) -> Result<Running> {
    let sh = Shell::new()?;
    host::require_root("`cargo xtask up`")?;
    let lock = Lock::take(Path::new(cluster::LOCK))?;
    let parts = &parts::FOR_A_CLUSTER;
    require_space(&sh, parts)?;
    let packages: Vec<_> = host::NODE_PACKAGES.into_iter().chain(host::IMAGE_PACKAGES).collect();
    host::ensure_packages(&sh, progress, &packages)?;
    cluster::preflight(&sh)?;
    build_parts(&sh, progress, parts)?;
    let handle = cluster::ensure(&sh, progress)?;
    progress.say(&format!("Kubernetes {} is ready", parts::KUBERNETES_VERSION));
    let images = build_images(&sh, progress)?;
    for image in images.all() {
        cluster::import(progress, image)?;
    }
    let references = images.references(|image| Ok(image.reference()))?;
    install::operator(progress, &handle, &references)?;
    Ok(Running { handle, images, references, _lock: lock })
}

fn on_foreign(progress: &Progress, kubeconfig: &Path, registry: Option<&str>) -> Result<()> {
    let sh = Shell::new()?;
    fs::create_dir_all(layout::cache())
        .with_context(|| format!("create {}", layout::cache().display()))?;
    let _lock = Lock::take(&layout::cache().join("lock"))?;
    let parts = &parts::FOR_A_CLIENT;
    require_space(&sh, parts)?;
    host::ensure_packages(&sh, progress, &host::IMAGE_PACKAGES)?;
    build_parts(&sh, progress, parts)?;
    let handle = cluster::foreign_handle(kubeconfig)?;
    let images = build_images(&sh, progress)?;
    let references = if let Some(registry) = registry {
        images.references(|image| images::push(progress, image, registry))?
    } else {
        progress.say(
            "no --registry: the nodes of your cluster must have these images already, such as by",
        );
        for image in images.all() {
            println!("    ctr --namespace k8s.io images import {}", image.archive.display());
        }
        println!(
            "  on every node; kind: `kind load image-archive FILE`, minikube: `minikube image load FILE`"
        );
        images.references(|image| Ok(image.reference()))?
    };
    install::operator(progress, &handle, &references)?;
    install::sample(progress, &handle, &references)?;
    first_calls::make(progress, &handle)
}

/// Refuses a disk that would fill up half-way.
fn require_space(sh: &Shell, parts: &[&Part]) -> Result<()> {
    let mut gigabytes = SPACE_LATER;
    for part in parts {
        if !part.is_built()? {
            gigabytes = SPACE_FIRST;
        }
    }
    host::require_space(sh, &layout::cache(), gigabytes)?;
    host::require_space(sh, &layout::root(), SPACE_LATER)?;
    host::require_space(sh, Path::new(layout::STATE), SPACE_LATER)
}

/// Builds those programs by others that are not in the cache.
fn build_parts(sh: &Shell, progress: &Progress, parts: &[&Part]) -> Result<()> {
    let mut go = None;
    for part in parts {
        if part.is_built()? {
            continue;
        }
        let go = match &go {
            Some(go) => go,
            None => go.insert(Go::find(sh, progress)?),
        };
        part.build(progress, go)?;
    }
    Ok(())
}

/// Builds what changed since the last time.
fn build_images(sh: &Shell, progress: &Progress) -> Result<Images> {
    progress.say("building operator, launcher, proxy (release, static) and the sample");
    let root = layout::root();
    let programs = images::static_programs(progress, "release", &PROGRAMS)?;
    let launcher = images::launcher(progress)?;
    let go = Go::find(sh, progress)?;
    let sample = root.join("samples/shopping-cart");
    let cart = images::go_program(progress, &go, &sample, "shopping-cart")?;
    let recipe = |name: &str, dockerfile: &Path, programs: Vec<_>| Recipe {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dockerfile: dockerfile.to_owned(),
        programs,
        arguments: Vec::new(),
    };
    let deploy = root.join("deploy/images");
    let operator = recipe("operator", &deploy.join("operator"), vec![programs.join("operator")]);
    let sidecar =
        recipe("sidecar", &deploy.join("sidecar"), vec![launcher, programs.join("proxy")]);
    let shopping_cart = recipe("shopping-cart", &sample, vec![cart]);
    Ok(Images {
        operator: images::build(progress, &operator)?,
        sidecar: images::build(progress, &sidecar)?,
        shopping_cart: images::build(progress, &shopping_cart)?,
    })
}
