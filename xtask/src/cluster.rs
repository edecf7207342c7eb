//! A Kubernetes of our own on this machine: the real programs, each with its own certificate.

mod certs;
mod cgroups;
mod components;
mod firewall;
mod net;
mod process;
mod remove;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
pub use remove::remove;
use xshell::{Shell, cmd};

use self::process::Component;
use crate::{
    host,
    images::{self, Image, Recipe},
    layout,
    parts::{self, Part},
    progress::Progress,
};

/// Name of the one node.
const NODE: &str = "cloudstate-dev";
/// Who the kubelet is for the API server.
const NODE_USER: &str = "system:node:cloudstate-dev";

/// Where the lock is; outside of the state folder, which `down` removes.
pub const LOCK: &str = "/run/lock/cloudstate-dev.lock";

/// A cluster that answers, and the programs to talk to it.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// kubectl of the cluster's version.
    pub kubectl: PathBuf,
    /// Calls gRPC services.
    pub grpcurl: PathBuf,
    /// Folder of both, to put on PATH.
    pub bin: PathBuf,
    /// Whether we started it: then images can be put into it, and Services' addresses be reached from here.
    pub own: bool,
}

impl Handle {
    /// kubectl with this cluster's kubeconfig and these arguments.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }

    /// Runs kubectl and returns what it says.
    ///
    /// # Errors
    /// When it fails, with what it said about it.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .kubectl(arguments)
            .output()
            .with_context(|| format!("start {}", self.kubectl.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Refuses at once what would fail later: ports and addresses that others hold.
///
/// # Errors
/// With what is in the way.
pub fn preflight(sh: &Shell) -> Result<()> {
    let ours: Vec<u32> = process::marked()?.into_iter().map(|process| process.pid).collect();
    host::require_ports(sh, &net::PORTS, &ours)
}

/// Starts what does not run, and waits until the node is ready. What runs as it should is left alone.
///
/// # Errors
/// When a component ends or does not become ready, with the end of its log.
pub fn ensure(sh: &Shell, progress: &Progress) -> Result<Handle> {
    for folder in [layout::state("log/pods"), layout::run("")] {
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    restrict(&layout::state(""))?;
    let pause = part_image(progress, &parts::PAUSE)?;
    let coredns = part_image(progress, &parts::COREDNS)?;
    let values =
        components::Values { pause_image: pause.reference(), coredns_image: coredns.reference() };
    certs::ensure(&layout::state("pki"))?;
    components::write_configuration(&values)?;
    net::set_kernel(sh)?;
    net::create_bridge(sh)?;
    firewall::open(sh)?;
    cgroups::create()?;
    let programs = parts::KUBERNETES.folder()?;
    let handle = own_handle()?;

    let containerd = components::containerd()?;
    let etcd = components::etcd(&programs)?;
    let apiserver = components::apiserver(&programs)?;
    let mut started = Vec::new();
    for component in [&containerd, &etcd] {
        start(component, &mut started)?;
    }
    wait_for_containerd(progress, &containerd)?;
    import(progress, &pause)?;
    import(progress, &coredns)?;
    start(&apiserver, &mut started)?;
    progress.wait_until("the API server answers", Duration::from_mins(1), || {
        etcd.require_alive(&log_of(etcd.name))?;
        apiserver.require_alive(&log_of(apiserver.name))?;
        handle.ask(&["get", "--raw", "/readyz", "--request-timeout=5s"]).map(drop)
    })?;
    let followers = components::followers(&programs)?;
    for component in &followers {
        start(component, &mut started)?;
    }
    if !started.is_empty() {
        progress.say(&format!("started {}", started.join(", ")));
    }
    apply(&handle, &values.coredns())?;
    progress.wait_until("the node is ready", Duration::from_secs(90), || {
        for component in &followers {
            component.require_alive(&log_of(component.name))?;
        }
        let path = "{.status.conditions[?(@.type==\"Ready\")].status}";
        let status = handle.ask(&["get", "node", NODE, "-o", &format!("jsonpath={path}")])?;
        anyhow::ensure!(status == "True", "Ready of the node {NODE} is {status:?}");
        Ok(())
    })?;
    progress.wait_until("the name server is ready", Duration::from_secs(90), || {
        let ready = "--output=jsonpath={.status.readyReplicas}";
        let ready =
            handle.ask(&["--namespace", "kube-system", "get", "deployment", "coredns", ready])?;
        anyhow::ensure!(ready == "1", "the deployment coredns in kube-system has no ready pod");
        Ok(())
    })?;
    Ok(handle)
}

/// The cluster that was started earlier on this machine.
///
/// # Errors
/// When Kubernetes is not in the cache.
pub fn own_handle() -> Result<Handle> {
    let bin = layout::state("bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let handle = Handle {
        kubeconfig: layout::state("config/admin.kubeconfig"),
        kubectl: link(&bin, &parts::KUBECTL, "kubectl")?,
        grpcurl: link(&bin, &parts::GRPCURL, "grpcurl")?,
        bin,
        own: true,
    };
    Ok(handle)
}

/// A cluster that the user has.
///
/// # Errors
/// When it does not answer.
pub fn foreign_handle(kubeconfig: &Path) -> Result<Handle> {
    let bin = layout::cache().join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let handle = Handle {
        kubectl: link(&bin, &parts::KUBECTL, "kubectl")?,
        grpcurl: link(&bin, &parts::GRPCURL, "grpcurl")?,
        kubeconfig: fs::canonicalize(kubeconfig)
            .with_context(|| format!("find the kubeconfig {}", kubeconfig.display()))?,
        bin,
        own: false,
    };
    handle.ask(&["version", "--request-timeout=10s"]).with_context(|| {
        format!(
            "the cluster of {} does not answer: check its address and that it runs",
            kubeconfig.display()
        )
    })?;
    Ok(handle)
}

/// Applies YAML text.
///
/// # Errors
/// When the API server refuses, with what it said.
pub fn apply(handle: &Handle, yaml: &str) -> Result<()> {
    let sh = Shell::new()?;
    let (kubectl, kubeconfig) = (&handle.kubectl, &handle.kubeconfig);
    let output = cmd!(
        sh,
        "{kubectl} apply --server-side --force-conflicts --field-manager=cloudstate-xtask -f -"
    )
    .env("KUBECONFIG", kubeconfig)
    .stdin(yaml)
    .quiet()
    .ignore_status()
    .output()?;
    anyhow::ensure!(
        output.status.success(),
        "kubectl apply: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Puts the image into the cluster's containerd, unless it is there.
///
/// # Errors
/// When containerd refuses.
pub fn import(progress: &Progress, image: &Image) -> Result<()> {
    let sh = Shell::new()?;
    let socket = layout::run("containerd.sock");
    let reference = image.reference();
    let there =
        cmd!(sh, "ctr --address {socket} --namespace k8s.io images ls -q name=={reference}")
            .quiet()
            .read()?;
    if there.lines().any(|line| line == reference) {
        return Ok(());
    }
    let mut import = Command::new("ctr");
    import
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(&image.archive);
    progress
        .run("import", import, Duration::from_mins(2))
        .with_context(|| format!("put the image {reference} into the cluster"))
}

fn part_image(progress: &Progress, part: &Part) -> Result<Image> {
    let folder = part.folder()?;
    let recipe = Recipe {
        name: part.name().to_owned(),
        version: part.version().trim_start_matches('v').to_owned(),
        dockerfile: part.source(),
        programs: vec![folder.join(part.name())],
        arguments: Vec::new(),
    };
    images::build(progress, &recipe)
}

fn start(component: &Component, started: &mut Vec<&'static str>) -> Result<()> {
    if component.ensure(&log_of(component.name))? {
        started.push(component.name);
    }
    Ok(())
}

fn wait_for_containerd(progress: &Progress, containerd: &Component) -> Result<()> {
    let socket = layout::run("containerd.sock");
    let sh = Shell::new()?;
    progress.wait_until("containerd answers", Duration::from_mins(1), || {
        containerd.require_alive(&log_of(containerd.name))?;
        cmd!(sh, "ctr --address {socket} --connect-timeout 1s version")
            .quiet()
            .ignore_stdout()
            .ignore_stderr()
            .run()?;
        Ok(())
    })
}

fn log_of(component: &str) -> PathBuf {
    layout::state("log").join(format!("{component}.log"))
}

/// A link by which a program is found under a path that does not change with its version.
fn link(bin: &Path, part: &Part, program: &str) -> Result<PathBuf> {
    let target = part.folder()?.join(program);
    let link = bin.join(program);
    if fs::read_link(&link).ok().as_ref() != Some(&target) {
        let _absent = fs::remove_file(&link);
        std::os::unix::fs::symlink(&target, &link)
            .with_context(|| format!("link {}", link.display()))?;
    }
    Ok(link)
}

/// Keys and secrets are below this folder.
fn restrict(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))
        .with_context(|| format!("restrict {}", folder.display()))
}
