//! Control groups, version 1 and 2: the limits that a container runtime gives to a real container.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group with a limit, removed when dropped. Wants root and a mounted controller, as the end-to-end tests
/// do: without them there is nothing to see, and the test says so and fails.
pub(crate) struct Group {
    group: PathBuf,
    limit: PathBuf,
}

impl Group {
    /// With so much memory for all that is in it.
    pub(crate) fn of_mib(mib: u64) -> Self {
        let made = Self::new("memory", ["memory.limit_in_bytes", "memory.max"]);
        made.resize(mib);
        made
    }

    /// With so many processes and threads in it at most.
    pub(crate) fn of_processes(most: u64) -> Self {
        let made = Self::new("pids", ["pids.max", "pids.max"]);
        made.set(most);
        made
    }

    /// `limits` are the file's names in version 1 and 2.
    fn new(controller: &str, limits: [&str; 2]) -> Self {
        static MADE: AtomicU16 = AtomicU16::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("launcher-test-{}-{number}", std::process::id());
        let (parent, limit) = match Path::new(ROOT) {
            root if root.join("cgroup.controllers").exists() => {
                // Groups below the root have those controllers that it was told to hand down.
                let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
                (root.to_owned(), limits[1])
            }
            root => (root.join(controller), limits[0]),
        };
        let group = parent.join(name);
        let wants = format!("this test wants root and the controller {controller} in {ROOT}");
        fs::create_dir(&group).unwrap_or_else(|error| panic!("{wants}: {error}"));
        let made = Self { limit: group.join(limit), group };
        assert!(made.limit.exists(), "{wants}");
        made
    }

    pub(crate) fn resize(&self, mib: u64) {
        self.set(mib << 20);
    }

    fn set(&self, limit: u64) {
        fs::write(&self.limit, limit.to_string()).unwrap();
    }

    /// A command that enters the group and becomes what its further arguments say.
    pub(crate) fn starter(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.group.display());
        ["/bin/sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// How many processes are in it.
    pub(crate) fn processes(&self) -> usize {
        fs::read_to_string(self.group.join("cgroup.procs")).unwrap().lines().count()
    }

    /// How often somebody wanted one more process than the limit allows.
    pub(crate) fn refusals(&self) -> u64 {
        let events = fs::read_to_string(self.group.join("pids.events")).unwrap();
        let refused = events.lines().find_map(|line| line.strip_prefix("max ")).unwrap();
        refused.parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Those in it may be dying still.
        const TRIES: u32 = 200;
        for _ in 0..TRIES {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
