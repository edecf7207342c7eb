//! What the kernel allows this container, and whom it has killed for memory: control groups, version 1 and 2.
//!
//! The files are read anew each time: a pod can be resized in place.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Above this nobody meant a limit: version 1 writes "none" as the largest page-aligned number.
const NO_LIMIT: u64 = 1 << 62;

/// The memory controller of one process, as the file system shows it.
#[derive(Clone, Debug)]
pub struct Cgroup {
    version: Version,
    /// The process's own group, as far as it can be seen from here.
    group: PathBuf,
    /// Where the controller is mounted; groups above are looked at up to here.
    mount: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// The group of this process; none when no memory controller is mounted.
    pub fn of_this_process() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::find(&own, Path::new("/sys/fs/cgroup"))
    }

    /// `own` is the text of `/proc/self/cgroup`.
    fn find(own: &str, root: &Path) -> Option<Self> {
        if root.join("cgroup.controllers").exists() {
            let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
            return Some(Self::at(Version::Two, root.to_owned(), path));
        }
        let path = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == "memory").then_some(path)
        })?;
        let mount = root.join("memory");
        mount.exists().then(|| Self::at(Version::One, mount, path))
    }

    /// Inside a namespace of its own a container sees its group as `/`; without one the path is that of the
    /// node, which the container may not see. Then what is mounted is its group.
    fn at(version: Version, mount: PathBuf, path: &str) -> Self {
        let nested = mount.join(path.trim_start_matches('/'));
        let group = if nested.exists() { nested } else { mount.clone() };
        Self { version, group, mount }
    }

    /// The lowest limit of the group and all above it, in bytes.
    pub fn limit(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let above = self.group.ancestors().take_while(|group| group.starts_with(&self.mount));
        above.filter_map(|group| number(&group.join(file))).filter(|limit| *limit < NO_LIMIT).min()
    }

    /// Memory in use, in bytes.
    pub fn current(&self) -> Option<u64> {
        number(&self.group.join(match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        }))
    }

    /// Share of the last ten seconds in percent that somebody in the group waited for memory. Version 2 only.
    pub fn pressure(&self) -> Option<f64> {
        let text = fs::read_to_string(self.group.join("memory.pressure")).ok()?;
        let some = text.lines().find_map(|line| line.strip_prefix("some avg10="))?;
        some.split(' ').next()?.parse().ok()
    }

    /// How many processes of the group the kernel has killed for memory so far.
    pub fn oom_kills(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let events = fs::read_to_string(self.group.join(file)).ok()?;
        let value = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        value.trim().parse().ok()
    }
}

/// None for `max`, which is how version 2 writes "none", and for what cannot be read.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The memory limit of this process's container in bytes. The outer `None` is not knowing, the inner one knowing that
/// there is none.
pub fn enforced_limit() -> Option<Option<u64>> {
    let machine = machine_memory().unwrap_or(u64::MAX);
    Cgroup::of_this_process().map(|group| group.limit().filter(|limit| *limit < machine))
}

/// Memory of the whole machine in bytes: a limit beyond it is none.
fn machine_memory() -> Option<u64> {
    let read = || -> io::Result<Option<u64>> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        Ok(kib.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok()))
    };
    read().ok().flatten().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn version_2_takes_the_lowest_limit_on_the_way_up() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("cgroup.controllers", "memory"),
                ("pod/memory.max", "536870912\n"),
                ("pod/box/memory.max", "max\n"),
                ("pod/box/memory.current", "1000\n"),
                (
                    "pod/box/memory.pressure",
                    "some avg10=1.25 avg60=0.00 total=7\nfull avg10=0.00\n",
                ),
                ("pod/box/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n"),
            ],
        );
        let group = Cgroup::find("0::/pod/box\n", root.path()).unwrap();
        assert_eq!(group.limit(), Some(536_870_912));
        assert_eq!((group.current(), group.oom_kills()), (Some(1_000), Some(2)));
        assert_eq!(group.pressure(), Some(1.25));
    }

    #[test]
    fn version_1_is_found_behind_other_controllers() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/box/memory.limit_in_bytes", "134217728\n"),
                ("memory/box/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ],
        );
        let own = "12:cpu,cpuacct:/box\n5:memory:/box\n0::/\n";
        let group = Cgroup::find(own, root.path()).unwrap();
        assert_eq!((group.limit(), group.oom_kills()), (Some(134_217_728), Some(1)));
    }

    #[test]
    fn a_group_that_cannot_be_seen_is_what_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("memory/memory.limit_in_bytes", "134217728\n")]);
        let group = Cgroup::find("5:memory:/kubepods/pod7/box\n", root.path()).unwrap();
        assert_eq!(group.limit(), Some(134_217_728));
    }

    #[test]
    fn no_limit_is_none() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("memory/memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(Cgroup::find("5:memory:/\n", root.path()).unwrap().limit(), None);
        assert!(Cgroup::find("0::/\n", tempfile::tempdir().unwrap().path()).is_none());
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(machine_memory().unwrap() > 64 * 1024 * 1024);
    }
}
