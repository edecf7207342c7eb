//! What the machine must offer, asked before anything long begins.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::{network_hint, progress::Progress};

/// Debian packages of the node, each with a file by which one sees that it is installed.
pub const NODE_PACKAGES: [(&str, &str); 9] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("iptables", "/usr/sbin/iptables-save"),
    ("ipset", "/usr/sbin/ipset"),
    ("socat", "/usr/bin/socat"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("iproute2", "/usr/bin/ip"),
];
/// Debian packages for building images.
pub const IMAGE_PACKAGES: [(&str, &str); 1] = [("buildah", "/usr/bin/buildah")];

/// Holds off a second `up` or `down` on the same machine until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; the kernel gives it back when the process ends, however it ends.
    ///
    /// # Errors
    /// When another process holds it.
    pub fn take(path: &Path) -> Result<Self> {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("open the lock {}", path.display()))?;
        // Somebody who was just killed may hold it for a moment longer.
        let started = Instant::now();
        while let Err(refusal) = file.try_lock() {
            if let std::fs::TryLockError::Error(error) = refusal {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
            if started.elapsed() > Duration::from_secs(2) {
                bail!(
                    "another `cargo xtask` works on the cluster: wait until process {} is done, or end it",
                    std::fs::read_to_string(path).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// Refuses what cannot work: another system than Linux, a user other than root.
///
/// # Errors
/// With what to do instead.
pub fn require_root(what: &str) -> Result<()> {
    if std::env::consts::OS != "linux" {
        bail!(
            "{what} needs Linux, and this is {}: use a Debian 12 machine, or --kubeconfig FILE for a cluster \
             that you have",
            std::env::consts::OS
        );
    }
    // Whoever owns this process owns its folder in /proc.
    let owner = std::fs::metadata("/proc/self").context("look at /proc/self")?.uid();
    if owner != 0 {
        bail!(
            "{what} needs root, for mounts, namespaces and iptables: become root with `su -` or `sudo -i` and \
             run it again, or use --kubeconfig FILE for a cluster that you have"
        );
    }
    Ok(())
}

/// Installs those packages that are not there.
///
/// # Errors
/// When this is not a Debian, or its package archive does not answer.
pub fn ensure_packages(sh: &Shell, progress: &Progress, packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(sh, progress, &missing)
}

/// Installs packages by name.
pub fn install_packages(sh: &Shell, progress: &Progress, names: &[&str]) -> Result<()> {
    let list = names.join(" ");
    require_root(&format!("installing {list}"))?;
    if cmd!(sh, "apt-get --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        bail!(
            "these programs are missing, and there is no apt-get to install them with: {list}; use Debian 12"
        );
    }
    progress.say(&format!("installing Debian packages: {list}"));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // A mirror that is silent is given up soon, and a lock of another apt is waited for.
        for option in
            ["Acquire::http::Timeout=20", "Acquire::https::Timeout=20", "Acquire::Retries=1"]
        {
            command.args(["-o", option]);
        }
        command.args(["-o", "DPkg::Lock::Timeout=120"]).args(arguments);
        command
    };
    let hint =
        |error| network_hint::explain(error, "Debian's package archive", "/etc/apt/sources.list");
    progress
        .run("apt-update", apt(&["update", "--error-on=any"]), Duration::from_mins(5))
        .map_err(hint)?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(names);
    progress.run("apt-install", apt(&install), Duration::from_mins(15)).map_err(hint)
}

/// Refuses a disk that would fill up.
///
/// # Errors
/// With the folder, what is free there, and what is needed.
pub fn require_space(sh: &Shell, folder: &Path, gigabytes: u64) -> Result<()> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let output = cmd!(sh, "df --output=avail --block-size=1M {existing}")
        .quiet()
        .read()
        .context("ask df")?;
    let free = parse_free(&output).with_context(|| format!("understand df: {output}"))?;
    if free < gigabytes * 1024 {
        bail!(
            "too little disk: {} has {free} MiB free and this needs {gigabytes} GiB; make room, or set \
             XDG_CACHE_HOME or CARGO_TARGET_DIR to a larger disk",
            existing.display()
        );
    }
    Ok(())
}

fn parse_free(df: &str) -> Option<u64> {
    df.lines().nth(1)?.trim().parse().ok()
}

/// A TCP port that somebody listens on.
#[derive(Debug, PartialEq, Eq)]
pub struct Listener {
    address: String,
    port: u16,
    /// Name and id of the process, when the system says so.
    process: Option<(String, u32)>,
}

/// Refuses ports that processes other than `ours` hold.
///
/// # Errors
/// With every such port and the process behind it.
pub fn require_ports(sh: &Shell, wanted: &[(&str, u16, &str)], ours: &[u32]) -> Result<()> {
    let output = cmd!(sh, "ss --no-header --listening --tcp --numeric --processes")
        .quiet()
        .read()
        .context("ask ss")?;
    let listeners: Vec<_> = output.lines().filter_map(parse_listener).collect();
    let taken = taken(&listeners, wanted, ours);
    if !taken.is_empty() {
        bail!(
            "ports that the cluster needs are in use:\n{}\nend these processes, or use --kubeconfig FILE if they \
             are a Kubernetes of yours",
            taken.join("\n")
        );
    }
    Ok(())
}

fn taken(listeners: &[Listener], wanted: &[(&str, u16, &str)], ours: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    for (address, port, component) in wanted {
        let holder = listeners.iter().find(|listener| {
            listener.port == *port
                && (listener.address == *address
                    || matches!(&*listener.address, "*" | "0.0.0.0" | "[::]"))
                && !listener.process.as_ref().is_some_and(|(_, pid)| ours.contains(pid))
        });
        if let Some(holder) = holder {
            let process = match &holder.process {
                Some((name, pid)) => format!("{name} (process {pid})"),
                None => "a process that cannot be seen from here".to_owned(),
            };
            found.push(format!(
                "  {port}, for {component}: held by {process} on {}",
                holder.address
            ));
        }
    }
    found
}

/// Reads one line of `ss -Hltnp`.
fn parse_listener(line: &str) -> Option<Listener> {
    let mut fields = line.split_whitespace().skip(3);
    let (address, port) = fields.next()?.rsplit_once(':')?;
    // An interface may stand behind the address: `127.0.0.53%lo`.
    let address = address.split('%').next()?.to_owned();
    let process = fields.nth(1).and_then(|users| {
        let name = users.split('"').nth(1)?.to_owned();
        let pid = users.split("pid=").nth(1)?.split(',').next()?.parse().ok()?;
        Some((name, pid))
    });
    Some(Listener { address, port: port.parse().ok()?, process })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETCD: &str = r#"LISTEN 0 4096 127.0.0.1:2379 0.0.0.0:* users:(("server",pid=77,fd=7))"#;

    #[test]
    fn a_line_of_ss_names_port_and_process() {
        let listener = parse_listener(ETCD).unwrap();
        assert_eq!(listener.port, 2379);
        assert_eq!(listener.process, Some(("server".to_owned(), 77)));
        let hidden = parse_listener("LISTEN 0 128 [::]:22 [::]:*").unwrap();
        assert_eq!((&*hidden.address, hidden.port, hidden.process), ("[::]", 22, None));
        assert_eq!(
            parse_listener("LISTEN 0 1 127.0.0.53%lo:53 0.0.0.0:*").unwrap().address,
            "127.0.0.53"
        );
    }

    #[test]
    fn a_port_is_taken_by_others_on_the_same_or_on_every_address() {
        let wanted = [("127.0.0.1", 2379, "etcd")];
        let found = taken(&[parse_listener(ETCD).unwrap()], &wanted, &[]);
        assert_eq!(found, ["  2379, for etcd: held by server (process 77) on 127.0.0.1"]);
        assert!(taken(&[parse_listener(ETCD).unwrap()], &wanted, &[77]).is_empty());
        let elsewhere = parse_listener("LISTEN 0 1 192.0.2.2:2379 0.0.0.0:*").unwrap();
        assert!(taken(&[elsewhere], &wanted, &[]).is_empty());
        let everywhere = parse_listener("LISTEN 0 1 *:2379 *:*").unwrap();
        assert_eq!(taken(&[everywhere], &wanted, &[]).len(), 1);
    }

    #[test]
    fn free_space_is_the_second_line_of_df() {
        assert_eq!(parse_free("Avail\n 75123\n"), Some(75123));
        assert_eq!(parse_free(""), None);
    }

    #[test]
    fn the_lock_holds_off_a_second_one_until_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("xtask-lock-{}", std::process::id()));
        let first = Lock::take(&path).unwrap();
        let refusal = Lock::take(&path).unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        drop(first);
        Lock::take(&path).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
