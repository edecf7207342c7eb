//! Where things are: in the project, in the cache, and on the machine.

use std::path::{Path, PathBuf};

/// What the cluster keeps: keys, configuration, logs, its database, its containers.
pub const STATE: &str = "/var/lib/cloudstate-dev";
/// Sockets, and what containerd keeps only while it runs.
pub const RUN: &str = "/run/cloudstate-dev";

/// The project's folder.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// What is built once and kept across `down`, such as Kubernetes.
pub fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| "/var/cache".into());
    base.join("cloudstate")
}

/// Where images are put together and kept as archives.
pub fn images() -> PathBuf {
    root().join("target/images")
}

/// The logs of the programs that `up` runs.
pub fn logs() -> PathBuf {
    root().join("target/logs")
}

/// A path below [`STATE`].
pub fn state(path: &str) -> PathBuf {
    Path::new(STATE).join(path)
}

/// What the API server notes of requests.
pub fn audit_log() -> PathBuf {
    state("log/audit.log")
}

/// A path below [`RUN`].
pub fn run(path: &str) -> PathBuf {
    Path::new(RUN).join(path)
}
