//! Takes the cluster away again, whatever state it is in.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use super::{cgroups, firewall, net, process};
use crate::{layout, progress::Progress};

/// Where the network plug-ins note what they made; the path is built into containerd.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Sockets of containerd's shims; the path is built into them.
const SHIM_SOCKETS: &str = "/run/containerd/s";
/// Links to the logs of containers; the path is built into the kubelet.
const CONTAINER_LOGS: &str = "/var/log/containers";
/// What the kubelet keeps for plug-ins of devices; the path is built into it.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// Folders that programs make outside of ours, from the leaves up. They go when nothing else is in them.
const FOLDERS: [&str; 8] = [
    CNI_RESULTS,
    "/var/lib/cni",
    SHIM_SOCKETS,
    "/run/containerd",
    CONTAINER_LOGS,
    DEVICE_PLUGINS,
    "/var/lib/kubelet",
    "/run/kubernetes",
];

/// Stops and removes all of it: processes, pods, mounts, network, rules, cgroups, files. The cache stays.
///
/// # Errors
/// With the first thing that cannot be removed; a second call continues.
pub fn remove(sh: &Shell, progress: &Progress) -> Result<()> {
    // First who would start things again, then what they started, then what both rest on.
    progress.say("stopping the node");
    end(&["kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"])?;
    progress.say("stopping the pods");
    let namespaces = pod_namespaces();
    cgroups::remove()?;
    progress.say("stopping the rest");
    end(&["containerd", "kube-apiserver", "etcd"])?;
    progress.say("removing mounts, network and rules");
    unmount(&namespaces)?;
    net::remove_bridge(sh)?;
    if Path::new("/usr/sbin/iptables-save").exists() {
        firewall::clean(sh)?;
    }
    // A second time, for shims that outlived their containers for a moment.
    cgroups::remove()?;
    net::restore_kernel()?;
    remove_notes()?;
    for folder in [layout::RUN, layout::STATE] {
        if Path::new(folder).exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {folder}"))?;
        }
    }
    Ok(())
}

/// Ends these components and all that they started.
fn end(components: &[&str]) -> Result<()> {
    let pids: Vec<_> = process::marked()?
        .into_iter()
        .filter(|process| components.contains(&process.component.as_str()))
        .map(|process| process.pid)
        .collect();
    // What they would still write is removed anyway.
    process::end(&pids, Duration::from_secs(1))
}

/// Network namespaces of our pods, as the network plug-ins noted them.
fn pod_namespaces() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(CNI_RESULTS) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| is_our_note(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .flat_map(|note| namespaces_in(&note))
        .collect()
}

/// Notes are called `<network>-<container>-<interface>`.
fn is_our_note(name: &str) -> bool {
    name.strip_prefix(net::NETWORK).is_some_and(|rest| rest.starts_with('-'))
}

fn namespaces_in(note: &str) -> Vec<PathBuf> {
    let note: serde_json::Value = serde_json::from_str(note).unwrap_or_default();
    let interfaces = note["result"]["interfaces"].as_array().cloned().unwrap_or_default();
    interfaces
        .iter()
        .filter_map(|interface| interface["sandbox"].as_str())
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(path.replacen("/var/run/", "/run/", 1)))
        .collect()
}

/// Unmounts all below our folders, and the pods' network namespaces.
fn unmount(namespaces: &[PathBuf]) -> Result<()> {
    let sh = Shell::new()?;
    // What is mounted upon something else comes later in the list, so the list is worked off from its end.
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    for mount in our_mounts(&mounts, namespaces).iter().rev() {
        cmd!(sh, "umount --lazy {mount}").quiet().run()?;
    }
    for namespace in namespaces.iter().filter(|path| path.exists()) {
        fs::remove_file(namespace).with_context(|| format!("remove {}", namespace.display()))?;
    }
    Ok(())
}

fn our_mounts(mountinfo: &str, namespaces: &[PathBuf]) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| {
            path.starts_with(layout::STATE)
                || path.starts_with(layout::RUN)
                || namespaces.contains(path)
        })
        .collect()
}

/// Removes what programs keep outside of the folders that we gave them.
fn remove_notes() -> Result<()> {
    let remove = |path: PathBuf| {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    };
    let notes: Vec<_> = fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten().collect();
    let names: Vec<_> =
        notes.iter().map(|note| note.file_name().to_string_lossy().into_owned()).collect();
    for name in our_notes(&names) {
        remove(Path::new(CNI_RESULTS).join(name))?;
    }
    for entry in fs::read_dir(CONTAINER_LOGS).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(layout::STATE)) {
            remove(entry.path())?;
        }
    }
    // Who is killed leaves sockets. They go when nobody listens, so somebody else's kubelet keeps its own.
    let listening = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let sockets = [SHIM_SOCKETS, DEVICE_PLUGINS];
    for entry in sockets.iter().flat_map(fs::read_dir).flatten().flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && !listening.contains(&*entry.path().to_string_lossy()) {
            remove(entry.path())?;
        }
    }
    for folder in FOLDERS {
        let _in_use = fs::remove_dir(folder);
    }
    Ok(())
}

/// Our notes, and those on the loopback interfaces of the same containers.
fn our_notes(names: &[String]) -> Vec<&String> {
    let container = |name: &str| Some(name.rsplit_once('-')?.0.rsplit_once('-')?.1.to_owned());
    let ours: Vec<_> =
        names.iter().filter(|name| is_our_note(name)).filter_map(|name| container(name)).collect();
    let loopback = |name: &str| {
        name.starts_with("cni-loopback-") && container(name).is_some_and(|id| ours.contains(&id))
    };
    names.iter().filter(|name| is_our_note(name) || loopback(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_notes_of_our_containers_are_ours() {
        let names =
            ["cloudstate-dev-01-eth0", "cni-loopback-01-lo", "cni-loopback-02-lo", "cbr0-02-eth0"];
        let names = names.map(str::to_owned);
        assert_eq!(our_notes(&names), [&names[0], &names[1]]);
    }

    #[test]
    fn only_our_mounts_are_unmounted() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
            2 1 0:9 / /var/lib/cloudstate-dev/kubelet/pods/x rw - tmpfs tmpfs rw\n\
            3 1 0:9 / /var/lib/cloudstate-development rw - tmpfs tmpfs rw\n\
            4 1 0:4 net:[1] /run/netns/cni-1 rw - nsfs nsfs rw\n\
            5 1 0:4 net:[2] /run/netns/cni-2 rw - nsfs nsfs rw\n";
        let ours = our_mounts(mountinfo, &["/run/netns/cni-1".into()]);
        let expected =
            ["/var/lib/cloudstate-dev/kubelet/pods/x", "/run/netns/cni-1"].map(PathBuf::from);
        assert_eq!(ours, expected);
    }

    #[test]
    fn a_note_of_the_network_plug_ins_names_the_namespace() {
        let note = r#"{"result": {"interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}]}}"#;
        assert_eq!(namespaces_in(note), [PathBuf::from("/run/netns/cni-1")]);
        assert!(namespaces_in("not JSON").is_empty());
    }

    #[test]
    fn notes_of_other_networks_are_not_ours() {
        assert!(is_our_note("cloudstate-dev-0123-eth0"));
        assert!(!is_our_note("cloudstate-development-0123-eth0"));
        assert!(!is_our_note("cbr0-0123-eth0"));
    }
}
