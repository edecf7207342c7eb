//! The cgroup below which all pods live: how `down` finds every process of every pod.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::process::signal_to;

/// Name of our cgroup in every hierarchy.
pub const NAME: &str = "cloudstate-dev";

/// Where cgroups are mounted: one place with version 2, one for each controller with version 1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(cgroup_mounts(&mounts))
}

fn cgroup_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let kind = kind.split(' ').next()?;
            matches!(kind, "cgroup" | "cgroup2")
                .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
        .collect()
}

/// Makes our cgroup in every hierarchy; the kubelet insists that it exists.
///
/// # Errors
/// When a hierarchy cannot be written.
pub fn create() -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(NAME);
        fs::create_dir_all(&folder)
            .with_context(|| format!("create the cgroup {}", folder.display()))?;
        // Version 2 hands controllers down only when asked. A failure shows later, in the kubelet's own words.
        let controllers = hierarchy.join("cgroup.controllers");
        let Ok(controllers) = fs::read_to_string(controllers) else { continue };
        let enable = controllers
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect::<Vec<_>>()
            .join(" ");
        for group in [&hierarchy, &folder] {
            let _refused = fs::write(group.join("cgroup.subtree_control"), &enable);
        }
    }
    Ok(())
}

/// Kills every process in our cgroups and removes them.
///
/// # Errors
/// When processes remain after some seconds.
pub fn remove() -> Result<()> {
    let folders: Vec<_> = hierarchies()?
        .into_iter()
        .map(|hierarchy| hierarchy.join(NAME))
        .filter(|folder| folder.exists())
        .collect();
    let started = Instant::now();
    loop {
        let mut pids = BTreeSet::new();
        for folder in &folders {
            collect_pids(folder, &mut pids);
        }
        if pids.is_empty() {
            break;
        }
        if started.elapsed() > Duration::from_secs(20) {
            bail!("processes in the cgroup {NAME} do not end, not even by SIGKILL: {pids:?}");
        }
        for pid in pids {
            signal_to(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    for folder in folders {
        // The kernel keeps a group for a moment after its last process.
        while let Err(error) = remove_tree(&folder) {
            if started.elapsed() > Duration::from_secs(30) {
                return Err(error)
                    .with_context(|| format!("remove the cgroup {}", folder.display()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn collect_pids(folder: &Path, pids: &mut BTreeSet<u32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(
            text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0),
        );
    }
    for child in children(folder) {
        collect_pids(&child, pids);
    }
}

/// Groups are removed from the leaves up; the files in them go by themselves.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for child in children(folder) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_found() {
        let mountinfo = "30 20 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n\
                         31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         32 30 0:28 / /sys/fs/cgroup/unified rw shared:3 master:1 - cgroup2 cgroup2 rw\n";
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(cgroup_mounts(mountinfo), expected);
    }

    #[test]
    fn a_tree_goes_from_its_leaves_up() {
        let folder = std::env::temp_dir().join(format!("xtask-cgroup-{}", std::process::id()));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
        remove_tree(&folder).unwrap();
    }
}
