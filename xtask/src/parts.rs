//! Programs by others that we build from their published Go modules, once per version, into the cache.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{digest::Digest, golang::Go, layout, progress::Progress};

/// Something that is built from a Go module of ours in `xtask/parts`.
#[derive(Debug)]
pub struct Part {
    /// First part of the cache folder's name.
    name: &'static str,
    /// Folder in `xtask/parts`.
    module: &'static str,
    version: &'static str,
    ldflags: &'static str,
    packages: &'static [&'static str],
    /// Programs that the build leaves, by name.
    programs: &'static [&'static str],
    /// Said before a build, so that nobody wonders.
    takes: &'static str,
}

/// The version of Kubernetes that `parts/kubernetes/go.mod` names.
pub const KUBERNETES_VERSION: &str = "v1.34.4";

// Components that do not know their version refuse to start.
const KUBERNETES_LDFLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34";

/// Kubernetes and etcd.
pub const KUBERNETES: Part = Part {
    name: "kubernetes",
    module: "kubernetes",
    version: KUBERNETES_VERSION,
    ldflags: KUBERNETES_LDFLAGS,
    packages: &[
        "go.etcd.io/etcd/server/v3",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-proxy",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet",
    ],
    // etcd's package is called `server`, and so is its program.
    programs: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubelet",
        "server",
    ],
    takes: "about 6 minutes on two cores",
};

/// The command line of Kubernetes: all that somebody needs who has a cluster.
pub const KUBECTL: Part = Part {
    name: "kubectl",
    module: "kubernetes",
    version: KUBERNETES_VERSION,
    ldflags: KUBERNETES_LDFLAGS,
    packages: &["k8s.io/kubernetes/cmd/kubectl"],
    programs: &["kubectl"],
    takes: "a minute on two cores",
};

/// The cluster's name server.
pub const COREDNS: Part = Part {
    name: "coredns",
    module: "coredns",
    version: "v1.12.4",
    ldflags: "-s -w",
    packages: &["tool"],
    programs: &["coredns"],
    takes: "about 3 minutes on two cores",
};

/// A command line client for gRPC.
pub const GRPCURL: Part = Part {
    name: "grpcurl",
    module: "grpcurl",
    version: "v1.9.3",
    ldflags: "-s -w",
    packages: &["tool"],
    programs: &["grpcurl"],
    takes: "under a minute",
};

/// Installs charts. Of Kubernetes' libraries it takes the versions that kubectl is made of, so that most of it is
/// compiled already.
pub const HELM: Part = Part {
    name: "helm",
    module: "helm",
    version: "v3.19.5",
    // Without the last two it takes every cluster for an old one.
    ldflags: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.19.5 \
         -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34",
    packages: &["tool"],
    programs: &["helm"],
    takes: "about 2 minutes on two cores",
};

/// The models of the published Go support library, as one user function.
pub const TCK_MODELS: Part = Part {
    name: "tck-models",
    module: "tck-models",
    version: "v0.3.0",
    ldflags: "-s -w",
    packages: &["."],
    programs: &["tck-models"],
    takes: "under a minute",
};

/// What holds a pod's namespaces open; a program of ours.
pub const PAUSE: Part = Part {
    name: "pause",
    module: "pause",
    version: "v1",
    ldflags: "-s -w",
    packages: &["."],
    programs: &["pause"],
    takes: "seconds",
};

/// Everything that a cluster of our own needs.
pub const FOR_A_CLUSTER: [&Part; 5] = [&KUBERNETES, &KUBECTL, &COREDNS, &GRPCURL, &PAUSE];
/// Everything that somebody needs who has a cluster.
pub const FOR_A_CLIENT: [&Part; 2] = [&KUBECTL, &GRPCURL];

impl Part {
    /// Where our module for this part is.
    pub fn source(&self) -> PathBuf {
        layout::root().join("xtask/parts").join(self.module)
    }

    /// The name, which is also that of its only program where there is one.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The version, as its authors call it.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The folder of the finished programs. Its name holds a digest of all that goes into the build, so an
    /// edit of `go.mod` or of the flags builds anew instead of finding the old programs.
    ///
    /// # Errors
    /// When our own module cannot be read.
    pub fn folder(&self) -> Result<PathBuf> {
        let mut files = BTreeMap::new();
        for file in ["go.mod", "go.sum", "main.go"] {
            let path = self.source().join(file);
            if path.exists() {
                files.insert(
                    file.to_owned(),
                    fs::read(&path).with_context(|| format!("read {}", path.display()))?,
                );
            }
        }
        Ok(layout::cache().join(self.key(&files)))
    }

    fn key(&self, files: &BTreeMap<String, Vec<u8>>) -> String {
        let mut digest = Digest::new();
        digest.part("arch", std::env::consts::ARCH.as_bytes());
        digest.part("ldflags", self.ldflags.as_bytes());
        digest.part("packages", self.packages.join(" ").as_bytes());
        for (name, content) in files {
            digest.part(name, content);
        }
        format!("{}-{}-{}", self.name, self.version, digest.short())
    }

    /// Whether every program is in the cache.
    pub fn is_built(&self) -> Result<bool> {
        let folder = self.folder()?;
        Ok(self.programs.iter().all(|program| folder.join(program).is_file()))
    }

    /// Builds the programs unless they are in the cache, and says where they are.
    ///
    /// # Errors
    /// When modules cannot be had or do not compile; the end of the log is part of the text.
    pub fn build(&self, progress: &Progress, go: &Go) -> Result<PathBuf> {
        let folder = self.folder()?;
        if self.is_built()? {
            return Ok(folder);
        }
        progress.say(&format!(
            "building {} {} from its Go modules, once ({})",
            self.name, self.version, self.takes
        ));
        keep(&folder, |partial| {
            // All that needs the network comes first, so that a silent module proxy is noticed in seconds.
            go.download(progress, &self.source(), self.name, self.packages)?;
            let mut build: Command = go.command(&self.source());
            build
                .args(["build", "-ldflags", self.ldflags, "-o"])
                .arg(format!("{}/", partial.display()));
            build.args(self.packages).env("GOPROXY", "off");
            progress
                .run(&format!("build-{}", self.name), build, Duration::from_mins(40))
                .with_context(|| format!("build {} in {}", self.name, self.source().display()))
        })?;
        Ok(folder)
    }
}

/// Fills a folder of the cache. It gets its final name only when it is complete, so a build that was cut
/// short leaves no half.
///
/// # Errors
/// When the build fails, or the folder cannot be put into place.
pub fn keep(folder: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    remove_partial(&layout::cache())?;
    // It carries our process id, since the compiler of a killed `up` may still be writing to its own.
    let name = folder.file_name().context("a folder of the cache has a name")?.to_string_lossy();
    let partial = layout::cache().join(format!("{name}-{}.partial", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    build(&partial)?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::rename(&partial, folder).with_context(|| format!("move {} into place", partial.display()))
}

/// Removes what builds that were cut short left behind.
fn remove_partial(cache: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(cache) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_and_the_module_speak_of_the_same_version() {
        let module = fs::read_to_string(KUBERNETES.source().join("go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes {KUBERNETES_VERSION}")));
        assert!(KUBERNETES_LDFLAGS.contains(KUBERNETES_VERSION));
        for (part, name) in [(&COREDNS, "coredns"), (&GRPCURL, "grpcurl"), (&HELM, "helm/v3")] {
            let module = fs::read_to_string(part.source().join("go.mod")).unwrap();
            assert!(module.contains(&format!("{name} {}", part.version)), "{name}");
        }
        let helm = fs::read_to_string(HELM.source().join("go.mod")).unwrap();
        assert!(helm.contains(&KUBERNETES_VERSION.replace("v1.", "k8s.io/kubectl v0.")));
        assert!(HELM.ldflags.contains(HELM.version));
    }

    #[test]
    fn another_module_file_is_another_cache_folder() {
        let files = |text: &str| BTreeMap::from([("go.mod".to_owned(), text.as_bytes().to_vec())]);
        assert_eq!(PAUSE.key(&files("a")), PAUSE.key(&files("a")));
        assert_ne!(PAUSE.key(&files("a")), PAUSE.key(&files("b")));
        assert!(PAUSE.key(&files("a")).starts_with("pause-v1-"));
    }
}
