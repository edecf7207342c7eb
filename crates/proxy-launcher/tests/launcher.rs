//! The launcher as Kubernetes sees it: a real process with a real child, over signals, probes and exit codes.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use self::support::{PROXY, launcher};

const SERVES: &[&str] = &[];

#[test]
fn a_second_interrupt_kills() {
    let mut launcher = launcher(&["--ignore-term"]).start();
    launcher.await_ready();
    launcher.signal(Signal::INT);
    launcher.await_metric("cloudstate_launcher_signals_total{signal=\"INT\"} 1");
    launcher.signal(Signal::INT);
    assert_eq!(launcher.await_exit(), 137);
}

#[test]
fn probes_follow_the_proxy_and_term_ends_it_cleanly() {
    let mut launcher = launcher(SERVES).start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    for (method, path, status) in [
        ("GET", "/startup", 200),
        ("GET", "/alive", 200),
        ("HEAD", "/ready", 200),
        ("POST", "/ready", 405),
        ("GET", "/nothing", 404),
    ] {
        assert_eq!(launcher.ask(method, path).unwrap().0, status, "{method} {path}");
    }

    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
    assert!(proxy.is_buried());
    assert_eq!(launcher.words(), "");
}

#[test]
fn term_serves_on_while_endpoints_are_withdrawn() {
    let mut launcher = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "2s").start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    let asked = Instant::now();
    launcher.signal(Signal::TERM);
    launcher.await_not_ready("Draining", "the pod is being stopped");
    assert!(proxy.is_running());
    assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);

    assert_eq!(launcher.await_exit(), 0);
    assert!(asked.elapsed() >= Duration::from_secs(2));
}

#[test]
fn an_interrupt_skips_the_delay() {
    let mut launcher = launcher(SERVES)
        .env("TERMINATION_GRACE_PERIOD_SECONDS", "600")
        .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "300s")
        .start();
    launcher.await_ready();
    launcher.signal(Signal::INT);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn f01_a_killed_proxy_is_back_within_two_seconds() {
    let launcher = launcher(SERVES).start();
    launcher.await_ready();
    let mut generations = 1..;
    support::takes_less_than(Duration::from_secs(2), || {
        let generation = generations.next().unwrap();
        let proxy = launcher.await_proxy(generation);
        let killed = Instant::now();
        proxy.signal(Signal::KILL);
        assert_ne!(launcher.await_proxy(generation + 1), proxy);
        launcher.await_ready();
        killed.elapsed()
    });
}

#[test]
fn while_a_proxy_is_down_the_probes_say_so() {
    let mut launcher = launcher(SERVES)
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "1h")
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_MAX", "1h")
        .start();
    launcher.await_ready();
    launcher.await_proxy(1).signal(Signal::KILL);
    let message = "the proxy was killed by signal 9 and will be started again shortly";
    launcher.await_not_ready("ProxyStarting", message);
    assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);
    assert_eq!(launcher.ask("GET", "/startup").unwrap().0, 200);

    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn the_proxys_reason_is_passed_on() {
    let reason =
        r#"{"reason":"UserFunctionUnreachable","message":"nothing listens on 127.0.0.1:8080"}"#;
    let launcher = launcher(&["--ready", reason]).start();
    launcher.await_not_ready("UserFunctionUnreachable", "nothing listens on 127.0.0.1:8080");
}

#[test]
fn a_proxy_that_gives_no_reason_gets_one() {
    let launcher = launcher(&["--ready", "<html>"]).start();
    let message = "the proxy answers 503 Service Unavailable without saying why";
    launcher.await_not_ready("ProxyStarting", message);
}

#[test]
fn a_refusal_is_final_and_its_words_are_kept() {
    let words = r#"{"reason":"UserFunctionRefused","message":"protocol 9.9 is not supported"}"#;
    let mut launcher = launcher(&["--words", words, "--exit", "78"]).start();
    assert_eq!(launcher.await_exit(), 78);
    assert_eq!(launcher.words(), words);
}

#[test]
fn a_refusal_without_words_gets_ours() {
    let mut launcher = launcher(&["--exit", "64"]).start();
    assert_eq!(launcher.await_exit(), 78);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ConfigurationRefused");
    assert!(
        message.starts_with("the proxy left with exit code 64 and did not say why"),
        "{message}"
    );
}

#[test]
fn f02_a_crash_loop_ends_with_the_proxys_code() {
    let mut launcher = launcher(&["--exit", "3"])
        .env("CLOUDSTATE_LAUNCHER_BUDGET", "2")
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "10ms")
        .start();
    assert_eq!(launcher.await_exit(), 3);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.starts_with("the proxy left with exit code 3; that was more than 2 times"));
    assert_eq!(launcher.raw_log().matches("\"proxy started\"").count(), 3);
}

#[test]
fn a_fresh_start_is_given_at_once_and_costs_no_budget() {
    let setup = launcher(&["--exit-once", "75"])
        .env("CLOUDSTATE_LAUNCHER_BUDGET", "0")
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "1h")
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_MAX", "1h");
    let mark = setup.file("mark");
    let launcher = setup.arg(mark.to_str().unwrap()).start();
    launcher.await_proxy(2);
    launcher.await_ready();
}

#[test]
fn f13_a_proxy_that_ignores_term_is_killed_within_the_grace_period() {
    let mut launcher = launcher(&["--ignore-term"])
        .env("TERMINATION_GRACE_PERIOD_SECONDS", "6")
        .env("CLOUDSTATE_LAUNCHER_DRAIN_KILL_MARGIN", "4s")
        .start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    let asked = Instant::now();
    launcher.signal(Signal::TERM);
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 137);
    let took = asked.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    assert!(proxy.is_buried());
}

#[test]
fn f06_a_proxy_that_hangs_is_replaced() {
    let launcher = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_HANG_AFTER", "2s").start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    proxy.signal(Signal::STOP);
    launcher.await_not_ready("ProxyStarting", "the proxy did not answer within 2s");
    launcher.await_proxy(2);
    launcher.await_ready();
    assert!(proxy.is_buried());
}

#[test]
fn f07_a_launcher_that_was_frozen_takes_no_proxy_for_hung() {
    let launcher = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_HANG_AFTER", "4s").start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    launcher.signal(Signal::STOP);
    proxy.signal(Signal::STOP);
    // Longer than the limit: what a paused machine looks like from inside.
    std::thread::sleep(Duration::from_secs(5));
    launcher.signal(Signal::CONT);
    launcher.await_not_ready("ProxyStarting", "the proxy does not answer");
    proxy.signal(Signal::CONT);
    launcher.await_ready();
    assert!(proxy.is_running());
}

/// A launcher that looks for its user function at this port.
fn beside_user_function(port: u16) -> support::Setup {
    launcher(SERVES)
        .env("CLOUDSTATE_LAUNCHER_UF_WAIT", "parallel")
        .env("USER_FUNCTION_PORT", &port.to_string())
}

#[test]
fn f09_readiness_follows_the_user_function() {
    let port = support::free_port();
    let listen = || TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut listener = Some(listen());
    let launcher = beside_user_function(port).start();
    launcher.await_ready();
    let mut tries = 0;
    let mut leave_and_return = || {
        // It was asked just now; each try leaves at another point between two questions.
        tries += 1;
        std::thread::sleep(Duration::from_millis(170) * tries);
        listener = None;
        let gone = Instant::now();
        launcher.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
        let noticed_after = gone.elapsed();
        listener = Some(listen());
        let back = Instant::now();
        launcher.await_ready();
        [noticed_after, back.elapsed()]
    };
    support::takes_less_than(Duration::from_millis(1_500), || leave_and_return()[0]);
    support::takes_less_than(Duration::from_millis(300), || leave_and_return()[1]);
    assert_eq!(launcher.raw_log().matches("\"proxy started\"").count(), 1);
}

#[test]
fn f09_a_proxy_that_discovers_once_is_started_again_for_a_returning_user_function() {
    let port = support::free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let launcher = beside_user_function(port)
        .env("CLOUDSTATE_LAUNCHER_UF_ON_RETURN", "restart-proxy")
        .env("CLOUDSTATE_LAUNCHER_BUDGET", "0")
        .start();
    launcher.await_ready();
    drop(listener);
    launcher.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    launcher.await_proxy(2);
    launcher.await_ready();
}

#[test]
fn a_proxy_behind_a_gate_is_started_with_its_user_function() {
    let port = support::free_port();
    let launcher = beside_user_function(port).env("CLOUDSTATE_LAUNCHER_UF_WAIT", "gate").start();
    launcher.await_not_ready("UserFunctionUnreachable", "the proxy is started once");
    assert_eq!(launcher.ask("GET", "/startup").unwrap().0, 200);
    assert!(!launcher.raw_log().contains("\"proxy started\""));
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    launcher.await_ready();
}

#[test]
fn f10_a_socket_that_never_speaks_is_there_for_tcp_and_not_for_http2() {
    let port = support::free_port();
    let _mute = TcpListener::bind(("127.0.0.1", port)).unwrap();
    beside_user_function(port).start().await_ready();
    let http2 = beside_user_function(port).env("CLOUDSTATE_LAUNCHER_UF_PROBE", "http2").start();
    http2.await_proxy(1);
    http2.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
}

#[test]
fn a_user_function_that_never_comes_is_given_up() {
    let mut launcher = beside_user_function(support::free_port())
        .env("CLOUDSTATE_LAUNCHER_UF_GIVE_UP", "200ms")
        .start();
    assert_eq!(launcher.await_exit(), 69);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "UserFunctionUnreachable");
    assert!(message.starts_with("the user function did not answer within 200ms"), "{message}");
}

#[test]
fn f03_a_proxy_that_leaves_without_being_asked_has_failed() {
    let mut launcher = launcher(&["--exit", "0"]).env("CLOUDSTATE_LAUNCHER_BUDGET", "1").start();
    assert_eq!(launcher.await_exit(), 70);
}

#[test]
fn f11_a_thousand_terms_are_one() {
    let mut launcher = launcher(SERVES).start();
    launcher.await_ready();
    for _ in 0..1_000 {
        if !launcher.try_signal(Signal::TERM) {
            break;
        }
    }
    assert_eq!(launcher.await_exit(), 0);
    assert_eq!(launcher.raw_log().matches("signal sent to the proxy's group").count(), 1);
}

/// The limit must be below the five seconds after which silent clients are sent away.
fn answers_beside_silent_clients(launcher: &support::Launcher, limit: Duration) {
    support::takes_less_than(limit, || {
        let _silent: Vec<_> = (0..200).map(|_| launcher.connect().unwrap()).collect();
        let asked = Instant::now();
        assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);
        asked.elapsed()
    });
}

#[test]
fn f18_few_file_descriptors_and_many_silent_clients_do_not_keep_the_kubelet_waiting() {
    let starter = ["/bin/sh", "-c", "ulimit -n 32; exec \"$@\"", "sh"];
    let launcher = support::launcher_through(&starter, SERVES).start();
    launcher.await_ready();
    answers_beside_silent_clients(&launcher, Duration::from_secs(1));
}

#[test]
fn f05_a_proxy_that_the_kernel_kills_for_memory_is_told_apart() {
    let group = support::MemoryGroup::of_mib(64);
    let starter = group.starter();
    let starter: Vec<_> = starter.iter().map(String::as_str).collect();
    let mut launcher = support::launcher_through(&starter, &["--hog", "256"])
        .env("CLOUDSTATE_LAUNCHER_BUDGET", "1")
        .start();
    assert_eq!(launcher.await_exit(), 137);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.contains("since the container reached its memory limit: raise"), "{message}");
}

#[test]
fn signals_without_a_meaning_change_nothing() {
    let launcher = launcher(SERVES).start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    for signal in [Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::ALARM] {
        launcher.signal(signal);
    }
    for of_real_time in [34, 64] {
        launcher.process().signal_number(of_real_time);
    }
    launcher.await_ready();
    assert!(proxy.is_running());
}

#[test]
fn clients_that_say_nothing_do_not_keep_the_kubelet_waiting() {
    let launcher = launcher(SERVES).start();
    launcher.await_ready();
    answers_beside_silent_clients(&launcher, Duration::from_secs(2));
}

#[test]
fn a_bad_environment_is_refused_with_every_problem() {
    let mut launcher = launcher(SERVES)
        .env("HTTP_PORT", "65536")
        .env("CLOUDSTATE_STORE", "redis")
        .env("METRICS_PORT", "2552")
        .start();
    assert_eq!(launcher.await_exit(), 78);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ConfigurationRefused");
    for part in [
        "UnknownVariant: CLOUDSTATE_STORE is \"redis\", expected one of none, in-memory",
        "PortOutOfRange: HTTP_PORT is \"65536\"",
        "PortConflict: METRICS_PORT and REMOTING_PORT is \"2552\"",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!launcher.raw_log().contains("proxy started"));
}

#[test]
fn a_missing_program_is_named() {
    let mut launcher =
        launcher(SERVES).env("CLOUDSTATE_LAUNCHER_COMMAND", "/nonexistent/proxy").start();
    assert_eq!(launcher.await_exit(), 127);
    let (_, message) = launcher.not_ready_words();
    assert!(message.contains("program does not exist; CLOUDSTATE_LAUNCHER_COMMAND"), "{message}");
}

#[test]
fn a_taken_admin_port_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", support::free_port())).unwrap();
    let address = taken.local_addr().unwrap();
    let mut launcher =
        launcher(SERVES).env("CLOUDSTATE_LAUNCHER_ADMIN_PORT", &address.port().to_string()).start();
    assert_eq!(launcher.await_exit(), 71);
    let (_, message) = launcher.not_ready_words();
    assert!(message.starts_with(&format!("failed to listen on {address}")), "{message}");
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let words = folder.path().join("words");
    let output = Command::new(env!("CARGO_BIN_EXE_proxy-launcher"))
        .arg("--frobnicate")
        .env("CLOUDSTATE_TERMINATION_PATH", &words)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("--frobnicate") && log.contains("after `--`"), "{log}");
    assert!(fs::read_to_string(words).unwrap().contains("--frobnicate"));
}

#[test]
fn check_says_what_would_happen_and_starts_nothing() {
    for (command, metrics_port, code, expected) in [
        (
            PROXY,
            "tcp://10.0.0.1:80",
            0,
            "warning: ServiceLinkCollision: METRICS_PORT is \"tcp://10.0.0.1:80\"",
        ),
        (PROXY, "9090", 0, "ok: would start "),
        (PROXY, "0", 78, "error: PortOutOfRange: METRICS_PORT"),
        ("/nonexistent/proxy", "9090", 78, "error: ExecNotFound: CLOUDSTATE_LAUNCHER_COMMAND"),
        ("/etc/passwd", "9090", 78, "error: ExecNotExecutable: CLOUDSTATE_LAUNCHER_COMMAND"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_proxy-launcher"))
            .args(["check", "--", "--exit", "3"])
            .env("CLOUDSTATE_LAUNCHER_COMMAND", command)
            .env("METRICS_PORT", metrics_port)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with(expected) || text.contains(&format!("\n{expected}")), "{text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
    }
}

#[test]
fn f08_wall_clock_jumps_move_no_timer() {
    const DAY: i64 = 86_400;
    let setup = launcher(SERVES);
    let (shift, library) = (setup.file("shift"), setup.file("clock.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(compiled.expect("a linker needs a C compiler anyway").success());
    let jump = |seconds: i64| {
        // In one step, so that nobody reads half a number.
        let next = shift.with_extension("next");
        fs::write(&next, seconds.to_string()).unwrap();
        fs::rename(next, &shift).unwrap();
    };
    jump(0);
    let mut launcher = setup
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("SHIFT", shift.to_str().unwrap())
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "2s")
        .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "2s")
        .start();
    launcher.await_ready();

    let killed = Instant::now();
    launcher.await_proxy(1).signal(Signal::KILL);
    launcher.await_not_ready("ProxyStarting", "the proxy was killed");
    jump(DAY);
    launcher.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    jump(-DAY);
    launcher.await_proxy(2);
    let pause = killed.elapsed();
    assert!((Duration::from_millis(1_600)..Duration::from_secs(10)).contains(&pause), "{pause:?}");
    launcher.await_ready();

    let asked = Instant::now();
    launcher.signal(Signal::TERM);
    launcher.await_not_ready("Draining", "");
    jump(DAY);
    assert_eq!(launcher.await_exit(), 0);
    let drain = asked.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&drain), "{drain:?}");
    assert!(launcher.days().len() >= 3, "its clock did jump: {:?}", launcher.days());
}

#[test]
fn f23_a_proxy_inherits_no_deaf_ears_and_no_open_files() {
    // A program in Rust ignores PIPE by itself, and 32 and 33 belong to the C library, which lets nobody set them.
    const OTHERS: u64 = 1 << 12 | 0b11 << 31;
    let deaf = "exec 77</dev/null; exec env --ignore-signal --block-signal \"$@\"";
    let starter = ["/bin/bash", "-c", deaf, "bash"];
    let mut launcher =
        support::launcher_through(&starter, SERVES).env("PATH", "/usr/bin:/bin").start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    let ignored = u64::from_str_radix(&proxy.status("SigIgn"), 16).unwrap();
    assert_eq!(ignored & !OTHERS, 0, "{ignored:x}");
    assert_eq!(proxy.status("SigBlk"), "0000000000000000");
    assert!(launcher.process().has_open(77), "the launcher has inherited it");
    assert!(!proxy.has_open(77));
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn f12_term_finds_a_way_out_of_every_state() {
    let silent = launcher(&["--ready", "x"]).env("CLOUDSTATE_LAUNCHER_UF_WAIT", "gate");
    let mut waiting = silent.env("USER_FUNCTION_PORT", &support::free_port().to_string()).start();
    waiting.await_not_ready("UserFunctionUnreachable", "the proxy is started once");
    let mut starting = launcher(&["--orphan", "1000", "--stall"]).start();
    starting.await_not_ready("ProxyStarting", "the proxy does not answer");
    let mut running = launcher(SERVES).start();
    running.await_ready();
    let hour = |setup: support::Setup| {
        let setup = setup.env("CLOUDSTATE_LAUNCHER_BACKOFF_MAX", "1h");
        setup.env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "1h").start()
    };
    let mut backoff = hour(launcher(&["--exit", "1"]));
    backoff.await_not_ready("ProxyStarting", "the proxy left with exit code 1");
    let mut draining = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "8s").start();
    draining.await_ready();
    draining.signal(Signal::TERM);
    draining.await_metric("cloudstate_launcher_state{state=\"draining\"} 1");
    for launcher in [&mut waiting, &mut starting, &mut running, &mut backoff, &mut draining] {
        launcher.signal(Signal::TERM);
        assert_eq!(launcher.await_exit(), 0, "{}", launcher.raw_log());
    }
}

#[test]
fn f12_term_finds_a_way_out_while_a_proxy_is_replaced() {
    let mut stopping = launcher(&["--ignore-term"])
        .env("CLOUDSTATE_LAUNCHER_HANG_AFTER", "1s")
        .env("TERMINATION_GRACE_PERIOD_SECONDS", "4")
        .start();
    stopping.await_ready();
    stopping.await_proxy(1).signal(Signal::STOP);
    stopping.await_metric("cloudstate_launcher_state{state=\"stopping\"} 1");
    stopping.signal(Signal::TERM);
    assert_eq!(stopping.await_exit(), 137, "it ignores TERM, and is killed in time");
}

#[test]
fn f31_a_proxy_that_crashes_while_calls_are_drained_is_the_last() {
    let mut launcher = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "10s").start();
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    launcher.await_not_ready("Draining", "");
    launcher.await_proxy(1).signal(Signal::ABORT);
    assert_eq!(launcher.await_exit(), 134);
    assert_eq!(launcher.raw_log().matches("\"proxy started\"").count(), 1);
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (_reader, mut pipe) = std::io::pipe().unwrap();
    pipe.write_all("\n".repeat(64 << 10).as_bytes()).unwrap();
    let mut launcher = launcher(SERVES).log_to(pipe).start();
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn f27_bad_requests_keep_nobody_waiting() {
    let launcher = launcher(SERVES).start();
    launcher.await_ready();
    let slow: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = launcher.connect().unwrap();
            stream.write_all(b"GET /ready HTTP/1.1\r\nx: ").unwrap();
            stream
        })
        .collect();
    let mut huge = launcher.connect().unwrap();
    // It closes the connection somewhere in between.
    let _ = huge.write_all(&[b"GET /ready HTTP/1.1\r\nx: ", &vec![b'a'; 10 << 20][..]].concat());
    let mut dice = 1_u64;
    for _ in 0..300 {
        let mut request =
            b"GET /ready HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_vec();
        for _ in 0..3 {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(dice >> 33).unwrap() % request.len();
            request[at] = dice.to_le_bytes()[3];
        }
        let mut stream = launcher.connect().unwrap();
        let _ = stream.write_all(&request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);
    assert!(!launcher.raw_log().contains("panicked"));
    drop(slow);
}

#[test]
fn version_is_one_line() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_proxy-launcher")).arg("version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("proxy-launcher {}\n", env!("CARGO_PKG_VERSION"))
    );
}
