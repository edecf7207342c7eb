//! The launcher as Kubernetes sees it: a real process with a real child, over signals, probes and exit codes.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]

mod hangs;
mod restarts;
mod stops;
#[path = "../support/mod.rs"]
mod support;
mod user_function;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use self::support::{PROXY, launcher};

const SERVES: &[&str] = &[];

/// These wait far more than they work: at the same time they take as long as the longest, a minute.
#[test]
fn f02_f05_f06_f07_at_the_same_time() {
    let tests: [(&str, fn()); 4] = [
        ("f02", restarts::f02_a_crash_loop_ends_with_the_proxys_code),
        ("f05", restarts::f05_while_memory_is_short_the_record_is_never_old),
        ("f06", hangs::f06_a_proxy_that_hangs_is_replaced),
        ("f07", hangs::f07_a_launcher_that_was_frozen_takes_no_proxy_for_hung),
    ];
    thread::scope(|scope| {
        for (name, test) in tests {
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, test).unwrap();
        }
    });
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

/// A whole program of 32 bits that leaves with 9: header, one segment, code.
fn narrow_program() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 1; mov ebx, 9; int 0x80
    const CODE: [u8; 12] = [0xb8, 1, 0, 0, 0, 0xbb, 9, 0, 0, 0, 0xcd, 0x80];
    let size = HEADERS + u32::try_from(CODE.len()).unwrap();
    let half = |number: u16| number.to_le_bytes().to_vec();
    let word = |number: u32| number.to_le_bytes().to_vec();
    let header = [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        [half(2), half(3), word(1), word(BASE + HEADERS), word(52), word(0), word(0)].concat(),
        [half(52), half(32), half(1), half(0), half(0), half(0)].concat(),
    ];
    let segment =
        [1, 0, BASE, BASE, size, size, /* read and execute */ 5, 0x1000].map(word).concat();
    [header.concat(), segment, CODE.to_vec()].concat()
}

#[test]
fn a_program_of_32_bits_runs_where_the_kernel_runs_it() {
    let setup = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_BUDGET", "0");
    let (file, program) = (setup.file("content"), setup.file("program"));
    fs::write(&file, narrow_program()).unwrap();
    // Another process writes what is executed: of what this one has open for writing each other thread's child has a
    // copy for a moment, and the kernel executes no such file.
    let copied = Command::new("/bin/cp").arg(file).arg(&program).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let runs = Command::new(&program).status().is_ok_and(|status| status.code() == Some(9));
    let mut launcher = setup.env("CLOUDSTATE_LAUNCHER_COMMAND", program.to_str().unwrap()).start();
    assert_eq!(launcher.await_exit(), if runs { 9 } else { 126 });
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
fn a_log_that_nobody_reads_stops_nothing() {
    let (_reader, mut pipe) = std::io::pipe().unwrap();
    pipe.write_all("\n".repeat(64 << 10).as_bytes()).unwrap();
    let mut launcher = launcher(SERVES).log_to(pipe).start();
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}

/// What comes back for some bytes, after which the launcher is to close: it may do so in the midst of them.
fn answer_to(mut stream: TcpStream, request: &[u8]) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Says that this was all, and waits for the launcher to close. Whoever has said that may get no answer any more.
fn say(mut stream: TcpStream, request: &[u8]) {
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn f27_bad_requests_keep_nobody_waiting() {
    const GROWTH_KIB: u64 = 1024;
    let launcher = launcher(SERVES).start();
    launcher.await_ready();
    let connect = || launcher.connect().unwrap();
    let memory = launcher.own_memory_kib();
    let slow: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"GET /ready HTTP/1.1\r\nx: ").unwrap();
            stream
        })
        .collect();
    let head = |length| [b"GET /ready HTTP/1.1\r\nx: ", &vec![b'a'; length][..]].concat();
    let refusal = answer_to(connect(), &[&head(9 << 10)[..], b"\r\n\r\n"].concat());
    assert!(refusal.starts_with("HTTP/1.1 431 "), "{refusal}");
    say(connect(), &head(10 << 20));
    let body = b"PUT /loglevel?level=debug HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1025\r\n\r\n";
    let refusal = answer_to(connect(), &[&body[..], &[b'a'; 1025]].concat());
    assert!(refusal.starts_with("HTTP/1.1 413 "), "{refusal}");
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
        say(connect(), &request);
    }
    assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);
    let grown = launcher.own_memory_kib().saturating_sub(memory);
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    assert!(!launcher.raw_log().contains("panicked"));
    for mut stream in slow {
        // It ends although nobody here ends it.
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn version_and_usage_are_told_by_word_or_flag() {
    let version = format!("proxy-launcher {}\n", env!("CARGO_PKG_VERSION"));
    let usage = format!("usage: {}\n", proxy_launcher::cli::USAGE);
    for (args, told) in [
        (&["version"][..], &version),
        (&["--version"], &version),
        (&["-V"], &version),
        (&["--help"], &usage),
        (&["-h"], &usage),
        (&["check", "--help"], &usage),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_proxy-launcher")).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}");
        assert_eq!(&String::from_utf8(output.stdout).unwrap(), told, "{args:?}");
    }
}
