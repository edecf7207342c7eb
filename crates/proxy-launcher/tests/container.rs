//! The launcher in what a container is made of: a root that holds two programs and cannot be written to, a process
//! namespace of its own, an ordinary user, no capabilities. Wants root to make one, as the end-to-end tests do.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use self::support::{PROXY, Setup, launcher_at};

/// What a runtime does to make a container of a folder, then becomes its program.
const SCRIPT: &str = r#"set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev/null "$root/dev/null"
mount --bind "$root/../words" "$root/dev/termination-log"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec=65534:65534 --groups= "$root" "$@""#;

struct Container {
    folder: TempDir,
}

impl Container {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for inner in ["proc", "dev"] {
            fs::create_dir_all(root.join(inner)).unwrap();
        }
        for file in ["dev/null", "dev/termination-log"] {
            fs::write(root.join(file), "").unwrap();
        }
        let words = folder.path().join("words");
        fs::write(&words, "").unwrap();
        // As the kubelet leaves it.
        fs::set_permissions(&words, fs::Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (program, name) in
            [(env!("CARGO_BIN_EXE_proxy-launcher"), "proxy-launcher"), (PROXY, "proxy")]
        {
            fs::copy(program, root.join(name)).unwrap();
            for library in libraries(program) {
                let inner = root.join(library.strip_prefix("/").unwrap());
                fs::create_dir_all(inner.parent().unwrap()).unwrap();
                fs::copy(library, inner).unwrap();
            }
        }
        Self { folder }
    }

    fn setup(&self, script: &[&str]) -> Setup {
        let root = self.folder.path().join("root");
        let starter = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "/bin/sh",
            "-c",
            SCRIPT,
            "sh",
        ];
        let starter = [&starter[..], &[root.to_str().unwrap()]].concat();
        launcher_at("/proxy-launcher", &starter, script)
            .wrapped()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CLOUDSTATE_LAUNCHER_COMMAND", "/proxy")
            .words_at("/dev/termination-log")
    }

    fn words(&self) -> String {
        fs::read_to_string(self.folder.path().join("words")).unwrap()
    }
}

/// The programs of images are static; those of tests need these.
fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[test]
fn f30_a_whole_life_without_shell_rights_or_a_disk() {
    let container = Container::new();
    let mut launcher = container.setup(&[]).start();
    launcher.await_ready();
    let process = launcher.process();
    for (field, value) in [
        ("Uid", "65534 65534 65534 65534"),
        ("Groups", ""),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(process.status(field), value, "{field}");
    }
    assert!(process.status("NSpid").ends_with(" 1"), "it is the first of its namespace");

    let [proxy] = process.children()[..] else { panic!("one child") };
    assert_eq!(proxy.status("Uid"), "65534 65534 65534 65534");
    proxy.signal(Signal::KILL);
    launcher.await_metric("cloudstate_launcher_starts_total 2");
    launcher.await_ready();
    launcher.await_metric("cloudstate_launcher_exits_total{class=\"killed_external\"} 1");

    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
    assert_eq!(container.words(), "");
}

#[test]
fn f30_last_words_reach_the_kubelet() {
    let container = Container::new();
    let mut launcher = container.setup(&["--exit", "64"]).start();
    assert_eq!(launcher.await_exit(), 78);
    assert!(container.words().contains("ConfigurationRefused"), "{}", container.words());
}
