//! Which programs make a cluster, with which arguments.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{certs, cgroups, net, process::Component};
use crate::{digest::Digest, layout};

/// Configuration files, as they are in `xtask/parts/cluster`.
const TEMPLATES: [(&str, &str); 5] = [
    (AUDIT_POLICY, include_str!("../../parts/cluster/audit-policy.yaml")),
    ("containerd.toml", include_str!("../../parts/cluster/containerd.toml")),
    ("cni/10-cloudstate.conflist", include_str!("../../parts/cluster/cni.conflist")),
    ("kubelet.yaml", include_str!("../../parts/cluster/kubelet.yaml")),
    ("kube-proxy.yaml", include_str!("../../parts/cluster/kube-proxy.yaml")),
];
/// What the API server keeps a log of.
const AUDIT_POLICY: &str = "audit-policy.yaml";
/// The name server's objects.
const COREDNS: &str = include_str!("../../parts/cluster/coredns.yaml");
const KUBECONFIG: &str = include_str!("../../parts/cluster/kubeconfig.yaml");
/// Who talks to the API server with a kubeconfig.
const CLIENTS: [&str; 5] =
    ["admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"];

/// What the templates leave open.
#[derive(Debug)]
pub struct Values {
    /// Reference of the pause image.
    pub pause_image: String,
    /// Reference of the name server's image.
    pub coredns_image: String,
}

impl Values {
    /// Fills a template in.
    fn fill(&self, template: &str, user: &str) -> String {
        let resolv_conf = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"]
            .into_iter()
            // The first holds real servers where the second names a resolver that pods cannot reach.
            .find(|path| Path::new(path).exists())
            .unwrap_or("");
        let mut digest = Digest::new();
        digest.part("template", template.as_bytes());
        [
            ("@STATE@", layout::STATE),
            ("@RUN@", layout::RUN),
            ("@NODE@", super::NODE),
            ("@NODE_IP@", net::NODE_IP),
            ("@BRIDGE@", net::BRIDGE),
            ("@NETWORK@", net::NETWORK),
            ("@POD_CIDR@", net::POD_CIDR),
            ("@DNS_IP@", net::DNS_IP),
            ("@CGROUP@", cgroups::NAME),
            ("@RESOLV_CONF@", resolv_conf),
            ("@PAUSE_IMAGE@", &self.pause_image),
            ("@COREDNS_IMAGE@", &self.coredns_image),
            ("@USER@", user),
            ("@DIGEST@", &digest.short()),
        ]
        .into_iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// The name server's objects as YAML.
    pub fn coredns(&self) -> String {
        self.fill(COREDNS, "")
    }
}

/// Writes all configuration files.
///
/// # Errors
/// When the state folder cannot be written.
pub fn write_configuration(values: &Values) -> Result<()> {
    let folder = layout::state("config");
    fs::create_dir_all(folder.join("cni"))
        .with_context(|| format!("create {}", folder.display()))?;
    for (name, template) in TEMPLATES {
        write_changed(&folder.join(name), &values.fill(template, ""))?;
    }
    for client in CLIENTS {
        let file = folder.join(format!("{client}.kubeconfig"));
        write_changed(&file, &values.fill(KUBECONFIG, client))?;
    }
    Ok(())
}

/// Leaves a file alone that is as it should be: kube-proxy ends when its file is so much as touched.
fn write_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    certs::write(path, text)
}

/// The component with these arguments and the configuration files that stand in them.
fn component(name: &'static str, program: &Path, arguments: Vec<String>) -> Result<Component> {
    let program =
        fs::canonicalize(program).with_context(|| format!("find {}", program.display()))?;
    let mut digest = Digest::new();
    digest.part("program", program.as_os_str().as_encoded_bytes());
    for argument in &arguments {
        digest.part("argument", argument.as_bytes());
        let value = argument.split_once('=').map_or(argument.as_str(), |(_, value)| value);
        // What a component writes itself is no configuration.
        let is_input = !Path::new(value).starts_with(layout::state("log"));
        if let Some(content) = is_input.then(|| fs::read(value).ok()).flatten() {
            digest.part(value, &content);
        }
    }
    Ok(Component { name, program, arguments, version: digest.short() })
}

fn config(file: &str) -> String {
    layout::state("config").join(file).display().to_string()
}

fn pki(file: &str) -> String {
    layout::state("pki").join(file).display().to_string()
}

/// The container runtime. It starts first, for images are put into it while the rest comes up.
pub fn containerd() -> Result<Component> {
    component(
        "containerd",
        Path::new("/usr/bin/containerd"),
        vec![format!("--config={}", config("containerd.toml"))],
    )
}

/// The database.
pub fn etcd(programs: &Path) -> Result<Component> {
    let mut arguments = vec![
        format!("--name={}", super::NODE),
        format!("--data-dir={}", layout::state("etcd").display()),
        // A cluster that lives for a day needs no proof against the loss of power, and starts faster without.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--initial-cluster={}=https://127.0.0.1:2380", super::NODE),
    ];
    for (prefix, port) in [("", 2379), ("peer-", 2380)] {
        let (listen, advertise) = if prefix.is_empty() {
            ("client", "advertise-client")
        } else {
            ("peer", "initial-advertise-peer")
        };
        arguments.push(format!("--listen-{listen}-urls=https://127.0.0.1:{port}"));
        arguments.push(format!("--{advertise}-urls=https://127.0.0.1:{port}"));
        arguments.push(format!("--{prefix}cert-file={}", pki("etcd.crt")));
        arguments.push(format!("--{prefix}key-file={}", pki("etcd.key")));
        arguments.push(format!("--{prefix}trusted-ca-file={}", pki("etcd-ca.crt")));
        arguments.push(format!("--{prefix}client-cert-auth"));
    }
    component("etcd", &programs.join("server"), arguments)
}

/// The API server.
pub fn apiserver(programs: &Path) -> Result<Component> {
    let arguments = vec![
        format!("--advertise-address={}", net::NODE_IP),
        format!("--bind-address={}", net::NODE_IP),
        "--secure-port=6443".to_owned(),
        "--etcd-servers=https://127.0.0.1:2379".to_owned(),
        format!("--etcd-cafile={}", pki("etcd-ca.crt")),
        format!("--etcd-certfile={}", pki("apiserver-etcd.crt")),
        format!("--etcd-keyfile={}", pki("apiserver-etcd.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
        // The node's name is no name that anybody resolves.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        format!("--service-cluster-ip-range={}", net::SERVICE_CIDR),
        "--authorization-mode=Node,RBAC".to_owned(),
        // The second is what rights on finalizers are for: without it nobody would miss them.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement"
            .to_owned(),
        format!("--audit-policy-file={}", config(AUDIT_POLICY)),
        format!("--audit-log-path={}", layout::audit_log().display()),
        // Megabytes; one that is full is kept until the next is.
        "--audit-log-maxsize=200".to_owned(),
        "--audit-log-maxbackup=1".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    component("kube-apiserver", &programs.join("kube-apiserver"), arguments)
}

/// What runs once the API server answers.
pub fn followers(programs: &Path) -> Result<Vec<Component>> {
    let controller_manager = vec![
        format!("--kubeconfig={}", config("kube-controller-manager.kubeconfig")),
        "--bind-address=127.0.0.1".to_owned(),
        // There is one of each, so none has to wait for the lease of an earlier one.
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--flex-volume-plugin-dir={}", layout::state("volume-plugins").display()),
        "--profiling=false".to_owned(),
    ];
    let scheduler = vec![
        format!("--kubeconfig={}", config("kube-scheduler.kubeconfig")),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--profiling=false".to_owned(),
    ];
    let kubelet = vec![
        format!("--config={}", config("kubelet.yaml")),
        format!("--kubeconfig={}", config("kubelet.kubeconfig")),
        format!("--hostname-override={}", super::NODE),
        format!("--node-ip={}", net::NODE_IP),
        format!("--root-dir={}", layout::state("kubelet").display()),
    ];
    let kube_proxy = vec![format!("--config={}", config("kube-proxy.yaml"))];
    Ok(vec![
        component(
            "kube-controller-manager",
            &programs.join("kube-controller-manager"),
            controller_manager,
        )?,
        component("kube-scheduler", &programs.join("kube-scheduler"), scheduler)?,
        component("kubelet", &programs.join("kubelet"), kubelet)?,
        component("kube-proxy", &programs.join("kube-proxy"), kube_proxy)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_leave_nothing_open() {
        let values =
            Values { pause_image: "pause".to_owned(), coredns_image: "coredns".to_owned() };
        let filled = TEMPLATES.iter().map(|(_, template)| *template).chain([COREDNS, KUBECONFIG]);
        for text in filled.map(|template| values.fill(template, "admin")) {
            let open: Vec<_> = text.split('@').skip(1).step_by(2).collect();
            assert!(open.is_empty(), "{open:?}");
        }
    }

    #[test]
    fn another_configuration_is_another_version() {
        let file = std::env::temp_dir().join(format!("xtask-config-{}", std::process::id()));
        let version = |content: &str| {
            fs::write(&file, content).unwrap();
            component("x", Path::new("/bin/true"), vec![format!("--config={}", file.display())])
                .unwrap()
                .version
        };
        let first = version("a");
        assert_eq!(version("a"), first);
        assert_ne!(version("b"), first);
        fs::remove_file(file).unwrap();
    }
}
