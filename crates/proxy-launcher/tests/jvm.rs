//! The launcher with a proxy made of jars: a real JVM, and `tests/jvm/Proxy.java` where real jars would be.

mod support;

use std::{
    fs, iter,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::OnceLock,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use self::support::{
    Launcher, Setup, get, group::Group, launcher, launcher_through, takes_less_than,
};

/// Folder with the compiled program; built once for each run of these tests.
fn classes() -> &'static str {
    static CLASSES: OnceLock<String> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jvm/Proxy.java");
        let folder = format!("{}/jvm-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let status = Command::new("javac").args(["-d", &folder]).arg(source).status();
        assert!(status.expect("a JDK is installed").success());
        folder
    })
}

struct Jvm {
    setup: Setup,
    calls: u16,
    management: u16,
}

fn jvm(setup: Setup) -> Jvm {
    let (calls, management) = (support::free_port(), support::free_port());
    let setup = setup
        .env("PATH", "/usr/bin:/bin")
        .env("CLOUDSTATE_LAUNCHER_KIND", "jvm")
        .env("CLOUDSTATE_LAUNCHER_CLASSPATH", classes())
        .env("CLOUDSTATE_LAUNCHER_MAIN_CLASS", "Proxy")
        .env("CLOUDSTATE_LAUNCHER_MEMORY_POLICY", "off")
        .env("MANAGEMENT_PORT", &management.to_string())
        .env("HTTP_PORT", &calls.to_string());
    Jvm { setup, calls, management }
}

impl Jvm {
    fn env(self, name: &str, value: &str) -> Self {
        Self { setup: self.setup.env(name, value), ..self }
    }

    fn start(self) -> (Launcher, u16) {
        let launcher = self.setup.start();
        launcher.await_ready();
        (launcher, self.calls)
    }
}

#[test]
fn the_heap_that_was_asked_for_is_the_one_that_the_jvm_has() {
    let (launcher, calls) = jvm(launcher(&[]))
        .env("CLOUDSTATE_SIDECAR_JVM_MEMORY", "128m")
        .env("JAVA_OPTS", "-Xms128m -Xmx128m -XX:+UseSerialGC")
        .start();
    assert!(launcher.await_proxy(1).command_line().contains(&"-Xmx128m".to_owned()));
    let heap: u64 = get(calls, "/heap").unwrap().parse().unwrap();
    // The serial collector keeps one of two survivor spaces to itself.
    assert!((120 << 20..=128 << 20).contains(&heap), "{heap}");
}

#[test]
fn f04_a_full_heap_ends_the_jvm_and_is_told_apart() {
    // What the kernel counts says that it was not the kernel.
    let group = Group::of_mib(1_024);
    let starter = group.starter();
    let starter: Vec<_> = starter.iter().map(String::as_str).collect();
    let (mut launcher, calls) = jvm(launcher_through(&starter, &[]))
        .env("JAVA_OPTS", "-Xms32m -Xmx32m")
        .env("CLOUDSTATE_LAUNCHER_BUDGET", "1")
        .start();
    assert_eq!(get(calls, "/allocate?64"), None);
    launcher.await_proxy(2);
    launcher.await_ready();
    launcher.await_metric("cloudstate_launcher_exits_total{class=\"jvm_oom\"} 1");
    launcher.await_metric("cloudstate_launcher_oom_kills_total 0");
    assert_eq!(get(calls, "/allocate?64"), None);
    assert_eq!(launcher.await_exit(), 3);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.starts_with("the proxy left since its heap was full: raise"), "{message}");
}

#[test]
fn a_jvm_that_leaves_is_started_again_whatever_its_code() {
    for code in [0, 1, 78, 255] {
        let (launcher, calls) = jvm(launcher(&[])).start();
        get(calls, &format!("/exit?{code}"));
        launcher.await_proxy(2);
        launcher.await_ready();
    }
}

#[test]
fn f14_fifty_calls_under_way_are_answered_and_nobody_waits_longer() {
    const CALLS: usize = 50;
    takes_less_than(Duration::from_millis(400), || {
        let setup = jvm(launcher(&[])).env("TERMINATION_GRACE_PERIOD_SECONDS", "60");
        let management = setup.management;
        let (mut launcher, calls) = setup.start();
        let call = || thread::spawn(move || (get(calls, "/sleep?3000"), Instant::now()));
        let under_way: Vec<_> = iter::repeat_with(call).take(CALLS).collect();
        // They must have arrived before the stop, or they would be refused rather than cut. A busy machine can miss
        // the moment in which all are there.
        while get(management, "/under-way") != Some(CALLS.to_string()) {
            if under_way.iter().any(JoinHandle::is_finished) {
                return Duration::MAX;
            }
        }
        launcher.signal(Signal::TERM);
        let mut last = None;
        for call in under_way {
            let (answer, at) = call.join().unwrap();
            assert_eq!(answer.as_deref(), Some("slept"));
            last = last.max(Some(at));
        }
        assert_eq!(launcher.await_exit(), 0);
        last.unwrap().elapsed()
    });
}

#[test]
fn f09_a_jvm_is_started_again_once_for_a_user_function_that_returns() {
    let port = support::free_port();
    let listen = || TcpListener::bind(("127.0.0.1", port)).unwrap();
    let listener = listen();
    let (mut launcher, _) = jvm(launcher(&[]))
        .env("CLOUDSTATE_LAUNCHER_UF_WAIT", "parallel")
        .env("USER_FUNCTION_PORT", &port.to_string())
        .start();
    drop(listener);
    launcher.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
    let _listener = listen();
    launcher.await_proxy(2);
    launcher.await_ready();
    launcher.await_metric("cloudstate_launcher_restarts_total{cause=\"replaced\"} 1");
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
    assert_eq!(launcher.story().all(&json!({ "message": "proxy started" })).len(), 2);
}

#[test]
fn f28_a_jvm_that_is_started_again_gets_the_memory_that_there_is_now() {
    let group = Group::of_mib(1_024);
    let starter = group.starter();
    let starter: Vec<_> = starter.iter().map(String::as_str).collect();
    let setup =
        jvm(launcher_through(&starter, &[])).env("CLOUDSTATE_LAUNCHER_MEMORY_POLICY", "warn");
    let file = setup.setup.file("launcher.toml");
    fs::write(&file, "").unwrap();
    let (launcher, _) = setup.env("CLOUDSTATE_LAUNCHER_CONFIG", file.to_str().unwrap()).start();
    let before = launcher.await_proxy(1);
    assert!(before.command_line().contains(&"-Xmx256m".to_owned()));
    // The default heap, which nobody chose, is lowered to what fits.
    group.resize(400);
    // A file that has changed meanwhile waits for a new start of the container.
    fs::write(&file, "memory.heap = '64m'\nproxy.java = '/nonexistent/java'\n").unwrap();
    before.signal(Signal::KILL);
    let line = launcher.await_proxy(2).command_line();
    assert!(line.contains(&"-Xmx144m".to_owned()), "{line:?}");
    launcher.await_ready();
    launcher.await_metric("cloudstate_launcher_memory_limit_bytes 419430400");
}

#[test]
fn a_jvm_that_hangs_writes_its_threads_down_and_is_replaced() {
    // A JVM whose health port is silent while the rest of it lives: QUIT must reach it.
    let (launcher, _) = jvm(launcher(&[])).env("CLOUDSTATE_LAUNCHER_HANG_AFTER", "2s").start();
    let proxy = launcher.await_proxy(1);
    proxy.signal(Signal::STOP);
    launcher.await_log("signal sent to the proxy's group");
    proxy.signal(Signal::CONT);
    launcher.await_text("Full thread dump");
    launcher.await_proxy(2);
    launcher.await_ready();
}

#[test]
fn f24_signals_that_a_jvm_would_take_for_its_end_do_not_reach_it() {
    let setup = jvm(launcher(&[]));
    let management = setup.management;
    let (launcher, _) = setup.start();
    let proxy = launcher.await_proxy(1);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH] {
        launcher.signal(signal);
    }
    for signal in ["HUP", "USR1", "USR2"] {
        launcher
            .await_metric(&format!("cloudstate_launcher_signals_total{{signal=\"{signal}\"}} 1"));
    }
    launcher.await_answer(management, "/alive", "OK");
    launcher.await_ready();
    assert!(proxy.is_running());
    launcher.await_metric("cloudstate_launcher_starts_total 1");
}

#[test]
fn f23_a_jvm_stops_on_term_although_the_launcher_inherited_deaf_ears() {
    let deaf = "exec env --ignore-signal=TERM,INT,HUP --block-signal \"$@\"";
    let deaf = launcher_through(&["/bin/sh", "-c", deaf, "sh"], &[]);
    let (mut launcher, _) = jvm(deaf).env("TERMINATION_GRACE_PERIOD_SECONDS", "20").start();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
    let mut story = launcher.story();
    // As a JVM does that has heard it, and has run what is to run at its end.
    story.then(
        &json!({ "message": "proxy ended", "end": "left with exit code 143", "class": "clean" }),
    );
}
