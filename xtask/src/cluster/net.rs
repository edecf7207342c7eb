//! The cluster's addresses, its bridge, and the kernel settings that it needs.
//!
//! Everything listens on the bridge's address or on loopback, so nothing of the cluster can be reached from
//! other machines, and a new address of the machine changes nothing.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::layout;

/// The bridge that pods hang on.
pub const BRIDGE: &str = "cloudstate0";
/// Name of the pod network; part of the comments in iptables by which its rules are known.
pub const NETWORK: &str = "cloudstate-dev";
/// Addresses of pods.
pub const POD_CIDR: &str = "10.244.0.0/24";
/// The node: the bridge's address, and so the gateway of pods.
pub const NODE_IP: &str = "10.244.0.1";
/// Addresses of Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The API server's Service.
pub const API_SERVICE_IP: &str = "10.96.0.1";
/// The name server's Service.
pub const DNS_IP: &str = "10.96.0.10";

/// What the cluster listens on: address, port, component.
pub const PORTS: [(&str, u16, &str); 9] = [
    ("127.0.0.1", 2379, "etcd"),
    ("127.0.0.1", 2380, "etcd"),
    (NODE_IP, 6443, "kube-apiserver"),
    (NODE_IP, 10250, "kubelet"),
    ("127.0.0.1", 10248, "kubelet"),
    ("127.0.0.1", 10249, "kube-proxy"),
    ("127.0.0.1", 10256, "kube-proxy"),
    ("127.0.0.1", 10257, "kube-controller-manager"),
    ("127.0.0.1", 10259, "kube-scheduler"),
];

/// Kernel settings: the first ones are ours to set, the others are set by components.
const SETTINGS: [(&str, Option<&str>); 6] = [
    ("net/ipv4/ip_forward", Some("1")),
    ("net/bridge/bridge-nf-call-iptables", Some("1")),
    ("vm/overcommit_memory", None),
    ("vm/panic_on_oom", None),
    ("kernel/panic", None),
    ("kernel/panic_on_oops", None),
];

/// Where the settings of before are kept for `down`.
fn settings_file() -> std::path::PathBuf {
    layout::state("settings.json")
}

/// Makes the bridge with its address and a route to the Services.
///
/// # Errors
/// When the addresses are in use on this machine, or the bridge cannot be made.
pub fn create_bridge(sh: &Shell) -> Result<()> {
    let routes = cmd!(sh, "ip -4 route show").quiet().read().context("list routes")?;
    if let Some(route) = overlapping(&routes) {
        bail!(
            "this machine already routes addresses that the cluster needs ({POD_CIDR} and {SERVICE_CIDR}): \
             `{route}`; remove that route, or use --kubeconfig FILE for a cluster that you have"
        );
    }
    if !Path::new("/sys/class/net").join(BRIDGE).exists() {
        // A fixed hardware address: else it changes with the pods that come and go, and cuts connections.
        cmd!(sh, "ip link add {BRIDGE} address 02:c1:0d:57:a7:e0 type bridge").quiet().run()?;
    }
    cmd!(sh, "ip address replace {NODE_IP}/24 dev {BRIDGE}").quiet().run()?;
    cmd!(sh, "ip link set {BRIDGE} up").quiet().run()?;
    // Programs on this machine reach Services without any other route, and come from an address that pods know.
    cmd!(sh, "ip route replace {SERVICE_CIDR} dev {BRIDGE}").quiet().run()?;
    Ok(())
}

/// A route by somebody else into the cluster's addresses.
fn overlapping(routes: &str) -> Option<&str> {
    routes.lines().map(str::trim).find(|route| {
        let mut words = route.split_whitespace();
        let Some(target) = words.next() else { return false };
        let ours = words.collect::<Vec<_>>().windows(2).any(|pair| pair == ["dev", BRIDGE]);
        !ours && [POD_CIDR, SERVICE_CIDR].iter().any(|cidr| overlap(target, cidr))
    })
}

/// Whether two networks have an address in common; what cannot be read, such as `default`, has none.
fn overlap(one: &str, other: &str) -> bool {
    let (Some((one, one_bits)), Some((other, other_bits))) = (network(one), network(other)) else {
        return false;
    };
    let bits = one_bits.min(other_bits);
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    one & mask == other & mask
}

fn network(text: &str) -> Option<(u32, u32)> {
    let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
    let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some((address.parse::<std::net::Ipv4Addr>().ok()?.into(), bits))
}

/// Removes the bridge and what hangs on it.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_bridge(sh: &Shell) -> Result<()> {
    for port in bridge_ports() {
        // Gone already when the pod's end of the pair went with its namespace.
        let _gone = cmd!(sh, "ip link delete {port}").quiet().ignore_stderr().run();
    }
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        cmd!(sh, "ip link delete {BRIDGE}").quiet().run()?;
    }
    Ok(())
}

/// The host's ends of the pods' network pairs.
pub fn bridge_ports() -> Vec<String> {
    let folder = Path::new("/sys/class/net").join(BRIDGE).join("brif");
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Sets the kernel up, and remembers how it was.
///
/// # Errors
/// When a setting cannot be written.
pub fn set_kernel(sh: &Shell) -> Result<()> {
    // Built in on some kernels; where it is missing for good, the setting below says so.
    let _built_in = cmd!(sh, "modprobe --quiet br_netfilter").quiet().ignore_stderr().run();
    if !settings_file().exists() {
        let mut before = BTreeMap::new();
        for (name, _) in SETTINGS {
            if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(name)) {
                before.insert(name, value.trim().to_owned());
            }
        }
        // Complete or absent: half a file would keep `down` from putting anything back.
        let partial = settings_file().with_extension("partial");
        super::certs::write(&partial, &serde_json::to_string_pretty(&before)?)?;
        fs::rename(&partial, settings_file()).context("move the kernel settings into place")?;
    }
    for (name, value) in SETTINGS {
        let Some(value) = value else { continue };
        set(name, value)?;
    }
    Ok(())
}

/// Puts the kernel's settings back.
///
/// # Errors
/// When a setting cannot be written.
pub fn restore_kernel() -> Result<()> {
    let Ok(text) = fs::read_to_string(settings_file()) else { return Ok(()) };
    let before: BTreeMap<String, String> =
        serde_json::from_str(&text).context("read the kernel settings of before")?;
    for (name, value) in before {
        set(&name, &value)?;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("set the kernel setting {name} to {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        assert!(overlap("10.0.0.0/8", POD_CIDR));
        assert!(overlap("10.244.0.7", POD_CIDR));
        assert!(overlap("0.0.0.0/0", POD_CIDR));
        assert!(!overlap("192.168.0.0/16", POD_CIDR));
        assert!(!overlap("default", POD_CIDR));
    }

    #[test]
    fn only_routes_of_others_are_in_the_way() {
        let clean = "default via 192.0.2.1 dev eth0\n192.0.2.0/24 dev eth0 proto kernel\n\
                     10.244.0.0/24 dev cloudstate0 proto kernel\n10.96.0.0/16 dev cloudstate0 scope link";
        assert_eq!(overlapping(clean), None);
        assert_eq!(
            overlapping("10.96.0.0/12 via 192.0.2.9 dev eth1"),
            Some("10.96.0.0/12 via 192.0.2.9 dev eth1")
        );
    }
}
