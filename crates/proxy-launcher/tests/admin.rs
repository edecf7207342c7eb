//! The admin port and the commands that use it: drain, metrics, status, settings that change.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]

mod support;

use std::{fs, net::TcpStream, path::Path, thread, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use self::support::{Setup, ask, launcher, takes_less_than};

/// What the command of that name says when it does not wait for the end.
const DRAINS: &str = "calls are sent elsewhere; the proxy stays until TERM\n";

/// A launcher whose proxy says that as many calls are under way as the file says.
fn counting(calls: u32) -> (Setup, std::path::PathBuf) {
    let setup = launcher(&["--calls"]).env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "200ms");
    let file = setup.file("calls");
    write(&file, &calls.to_string());
    (setup.arg(file.to_str().unwrap()), file)
}

/// In one step, so that nobody reads half of it.
fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn f33_after_a_drain_the_proxy_lives_until_term_and_has_what_is_left_of_the_time() {
    const PRE_DELAY: Duration = Duration::from_secs(1);
    /// From the drain, which is not TERM, to KILL.
    const TIME: Duration = Duration::from_secs(5);
    const OFF: Duration = Duration::from_millis(100);
    takes_less_than(TIME + OFF, || {
        let mut launcher = launcher(&["--ignore-term"])
            .env("TERMINATION_GRACE_PERIOD_SECONDS", "7")
            .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "1s")
            .start();
        launcher.await_ready();
        let proxy = launcher.await_proxy(1);
        assert_eq!(launcher.ask("POST", "/drain").unwrap().0, 202);
        launcher.await_not_ready("Draining", "the pod is being stopped");
        assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);
        launcher.await_text("told POST /hold");
        // The user function goes on working meanwhile.
        thread::sleep(Duration::from_secs(1));
        assert!(proxy.is_running());
        launcher.signal(Signal::TERM);
        assert_eq!(launcher.await_exit(), 137);

        let mut story = launcher.story();
        let begun = story.then(&json!({ "message": "told at the admin port", "order": "Drain" }));
        let held = story.then(&json!({ "message": "the proxy was told", "path": "/hold" }));
        assert!(held.since(begun) >= PRE_DELAY, "callers were not given the time to hear of it");
        story.then(&json!({ "message": "signal received", "signal": "TERM" }));
        let sent =
            |signal| json!({ "message": "signal sent to the proxy's group", "signal": signal });
        assert_eq!(story.all(&sent("TERM")).len(), 1);
        story.then(&sent("TERM"));
        let took = story.then(&sent("KILL")).since(begun);
        assert!(took + OFF > TIME, "{took:?}");
        took
    });
}

#[test]
fn a_drain_is_over_with_the_last_call_and_can_be_cancelled() {
    let (setup, calls) = counting(3);
    let launcher = setup.start();
    launcher.await_ready();
    let port = launcher.admin_port();
    let drain = thread::spawn(move || ask(port, "POST", "/drain?wait=1"));
    let other = thread::spawn(move || ask(port, "GET", "/wait-for-drain"));
    launcher.await_metric("cloudstate_launcher_inflight_requests 3");
    assert_eq!(launcher.page("/status")["drain"], "under way");
    assert!(!drain.is_finished() && !other.is_finished());

    write(&calls, "0");
    assert_eq!(drain.join().unwrap().unwrap(), (200, "drained".to_owned()));
    assert_eq!(other.join().unwrap().unwrap(), (200, "done".to_owned()));
    assert!(launcher.await_proxy(1).is_running());

    assert_eq!(launcher.ask("DELETE", "/drain").unwrap().0, 202);
    launcher.await_text("told DELETE /hold");
    launcher.await_ready();
    assert_eq!(launcher.page("/status")["drain"], "no");
}

#[test]
fn a_probe_tells_every_reason_when_it_is_asked_to() {
    let (setup, _calls) = counting(1);
    let launcher = setup
        .env("CLOUDSTATE_LAUNCHER_UF_WAIT", "parallel")
        .env("USER_FUNCTION_PORT", &support::free_port().to_string())
        .start();
    launcher.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
    assert_eq!(launcher.ask("POST", "/drain").unwrap().0, 202);
    launcher.await_not_ready("Draining", "");
    let (status, page) = launcher.ask("GET", "/ready?verbose").unwrap();
    assert_eq!(status, 503);
    let page: Value = serde_json::from_str(&page).unwrap();
    let reasons: Vec<_> = page["reasons"].as_array().unwrap().iter().collect();
    assert_eq!(reasons[0]["reason"], "Draining", "{page}");
    assert_eq!(reasons.last().unwrap()["reason"], "UserFunctionUnreachable", "{page}");
    assert_eq!(page["state"], "running");
    assert_eq!(launcher.ask("GET", "/alive?verbose").unwrap().0, 200);
}

#[test]
fn a_drain_that_takes_too_long_says_so() {
    let (setup, _calls) = counting(1);
    let launcher = setup.env("TERMINATION_GRACE_PERIOD_SECONDS", "7").start();
    launcher.await_ready();
    let (status, body) = launcher.ask("POST", "/drain?wait=1").unwrap();
    assert_eq!((status, body.as_str()), (504, "there were still calls under way when time was up"));
}

#[test]
fn who_waits_for_the_drain_hears_of_the_end() {
    /// For what a busy machine can miss.
    const TRIES: usize = 10;
    let none = (200, "there is no drain".to_owned());
    let idle = launcher(&[]).start();
    idle.await_ready();
    assert_eq!(idle.ask("GET", "/wait-for-drain").unwrap(), none);
    // That comes after two seconds, before which there must be a drain, and before its end the question.
    let answer = (0..TRIES).find_map(|_| {
        let mut launcher = launcher(&[]).env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "1s").start();
        launcher.await_ready();
        let port = launcher.admin_port();
        let waits = thread::spawn(move || ask(port, "GET", "/wait-for-drain"));
        launcher.await_connections(port, 1);
        launcher.signal(Signal::TERM);
        assert_eq!(launcher.await_exit(), 0);
        waits.join().unwrap().filter(|answer| *answer != none)
    });
    assert_eq!(answer, Some((200, "done".to_owned())));
}

#[test]
fn silent_clients_do_not_take_the_answer_of_who_waits() {
    let mut launcher = launcher(&[]).env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "4s").start();
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    launcher.await_not_ready("Draining", "");
    let port = launcher.admin_port();
    let waits = thread::spawn(move || ask(port, "GET", "/wait-for-drain"));
    launcher.await_connections(port, 1);
    let silent: Vec<_> = (0..200).map_while(|_| launcher.connect().ok()).collect();
    assert_eq!(waits.join().unwrap().unwrap(), (200, "done".to_owned()));
    assert_eq!(launcher.await_exit(), 0);
    drop(silent);
}

#[test]
fn quit_leaves_without_the_delay() {
    let mut launcher = launcher(&[])
        .env("TERMINATION_GRACE_PERIOD_SECONDS", "600")
        .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "300s")
        .start();
    launcher.await_ready();
    assert_eq!(launcher.ask("POST", "/quit").unwrap().0, 202);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn commands_ask_the_launcher_that_runs() {
    let (setup, _calls) = counting(0);
    let launcher = setup.start();
    assert_eq!(launcher.command(&["wait", "--for", "ready"]), (0, String::new()));
    assert_eq!(launcher.command(&["wait", "--for", "proxy", "--timeout", "1m"]).0, 0);
    let never = ["wait", "--for", "user-function", "--timeout", "100ms"];
    assert_eq!(launcher.command(&never).0, 69);
    launcher.await_command(&["probe", "ready"], 0, "ready\n");
    assert_eq!(launcher.command(&["drain", "--wait"]), (0, "drained\n".to_owned()));
    launcher.eventually("a probe that says no", || {
        let (code, words) = launcher.command(&["probe", "ready"]);
        (code == 1 && words.contains("Draining")).then_some(())
    });
    launcher.await_command(&["probe", "alive"], 0, "alive\n");
    launcher.await_command(&["probe", "startup"], 0, "started\n");
    assert_eq!(launcher.command(&["probe", "sideways"]).0, 64);
}

#[test]
fn nobody_there_is_a_failure_with_words() {
    let launcher = launcher(&["--exit", "64"]);
    let mut launcher = launcher.start();
    launcher.await_exit();
    let (code, words) = launcher.command(&["probe", "alive"]);
    assert_eq!(code, 1);
    assert!(words.starts_with("error: Connection refused"), "{words}");
    assert_eq!(launcher.command(&["drain"]).0, 1);
}

#[test]
fn metrics_tell_what_happened() {
    let launcher = launcher(&[]).start();
    launcher.await_ready();
    launcher.await_proxy(1).signal(Signal::KILL);
    launcher.await_proxy(2);
    launcher.await_ready();
    launcher.signal(Signal::USR1);
    for line in [
        "cloudstate_launcher_starts_total 2",
        "cloudstate_launcher_restarts_total{cause=\"killed_external\"} 1",
        "cloudstate_launcher_hangs_total 0",
        "cloudstate_launcher_exits_total{class=\"killed_external\"} 1",
        "cloudstate_launcher_state{state=\"running\"} 1",
        "cloudstate_launcher_ready 1",
        "cloudstate_launcher_budget_remaining 4",
        "cloudstate_launcher_proxy_start_seconds_count 2",
        "cloudstate_launcher_signals_total{signal=\"USR1\"} 1",
        "cloudstate_launcher_reaped_total{kind=\"leader\"} 1",
    ] {
        launcher.await_metric(line);
    }
    let status = launcher.page("/status");
    assert_eq!(status["ends"][0]["class"], "killed_external", "{status}");
    assert_eq!((&status["state"], &status["ready"]), (&"running".into(), &true.into()));
}

#[test]
fn the_proxys_metrics_follow_when_that_is_wanted() {
    let (setup, _calls) = counting(4);
    let launcher = setup.env("CLOUDSTATE_LAUNCHER_MERGE_METRICS", "proxy").start();
    launcher.await_ready();
    launcher.await_metric("cloudstate_requests_in_flight 4");
    launcher.await_metric("cloudstate_launcher_ready 1");
    // A proxy that has none takes nothing away.
    let without = support::launcher(&[]).env("CLOUDSTATE_LAUNCHER_MERGE_METRICS", "proxy").start();
    without.await_ready();
    without.await_metric("cloudstate_launcher_ready 1");
}

#[test]
fn settings_are_read_again_on_hup_and_a_bad_file_changes_nothing() {
    let setup = launcher(&[]).without("CLOUDSTATE_LAUNCHER_LOG_LEVEL");
    let file = setup.file("launcher.toml");
    write(&file, "log.level = \"warn\"\n");
    let launcher = setup.env("CLOUDSTATE_LAUNCHER_CONFIG", file.to_str().unwrap()).start();
    launcher.await_ready();
    assert_eq!(launcher.ask("GET", "/loglevel").unwrap().1, "warn");

    write(&file, "log.level = \"debug\"\nsupervise.budget = 0\nuser_function.down_after = 7\n");
    launcher.signal(Signal::HUP);
    launcher.await_metric("cloudstate_launcher_config_reloads_total{result=\"ok\"} 1");
    launcher.await_metric("cloudstate_launcher_budget_remaining 0");
    assert_eq!(launcher.ask("GET", "/loglevel").unwrap().1, "debug");
    let settings = launcher.page("/config");
    assert_eq!(settings["supervise.budget"]["value"], "0", "{settings}");
    assert_eq!(settings["user_function.down_after"]["value"], "3", "it needs a new start");

    write(&file, "supervise.budget = \"many\"\n");
    launcher.signal(Signal::HUP);
    launcher.await_metric("cloudstate_launcher_config_reloads_total{result=\"refused\"} 1");
    launcher.await_log("configuration refused, the former one stays");
    launcher.await_log("a changed setting takes effect once the container is started again");
    assert_eq!(launcher.page("/config")["supervise.budget"]["value"], "0");
}

#[test]
fn the_next_proxy_has_the_time_for_calls_that_there_is_now() {
    let setup = launcher(&[]);
    let file = setup.file("launcher.toml");
    write(&file, "");
    let launcher = setup.env("CLOUDSTATE_LAUNCHER_CONFIG", file.to_str().unwrap()).start();
    launcher.await_ready();
    let time = |nth| {
        let environment = launcher.await_proxy(nth).file("environ");
        let mut pairs = environment.split('\0').filter_map(|pair| pair.split_once('='));
        let name = "CLOUDSTATE_PROXY_GRACEFUL_TERMINATION_TIMEOUT";
        pairs.find_map(|(found, value)| (found == name).then(|| value.to_owned()))
    };
    assert_eq!(time(1).as_deref(), Some("21000ms"));
    write(&file, "drain.kill_margin = \"6s\"\n");
    launcher.signal(Signal::HUP);
    launcher.await_metric("cloudstate_launcher_config_reloads_total{result=\"ok\"} 1");
    launcher.await_proxy(1).signal(Signal::KILL);
    assert_eq!(time(2).as_deref(), Some("18000ms"));
}

#[test]
fn the_level_of_the_log_can_be_changed() {
    let launcher = launcher(&[]).start();
    launcher.await_ready();
    assert_eq!(launcher.ask("PUT", "/loglevel?level=error").unwrap(), (200, "error".to_owned()));
    assert_eq!(launcher.ask("PUT", "/loglevel?level=loud").unwrap().0, 400);
    assert_eq!(launcher.ask("GET", "/log-level").unwrap().1, "error", "as the proxy calls it");
    launcher.signal(Signal::USR2);
    launcher.await_log("the level of the log was changed");
    assert_eq!(launcher.ask("GET", "/loglevel").unwrap().1, "debug");
}

#[test]
fn what_the_proxy_is_doing_goes_to_the_log() {
    let launcher = launcher(&[]).start();
    launcher.await_ready();
    assert_eq!(launcher.ask("POST", "/dump").unwrap().0, 202);
    launcher.await_log("what the proxy is doing");
    assert_eq!(launcher.ask("POST", "/dump").unwrap().0, 429);
    launcher.signal(Signal::USR1);
    launcher.await_log("status");
}

#[test]
fn f29_in_a_pod_with_ipv6_both_loopbacks_answer() {
    let launcher =
        launcher(&[]).without("CLOUDSTATE_LAUNCHER_ADMIN_BIND").env("POD_IP", "fd00::7").start();
    launcher.await_ready();
    let stream = TcpStream::connect(("::1", launcher.admin_port())).unwrap();
    assert_eq!(support::ask_with(stream, "GET", "/ready", "").unwrap().0, 200);
    // An IPv4 caller of a socket for both has an address of IPv6.
    assert_eq!(launcher.ask("GET", "/status").unwrap().0, 200);
    assert_eq!(launcher.command(&["probe", "ready"]).0, 0);
}

#[test]
fn f29_where_loopback_is_not_the_pod_alone_control_wants_the_token() {
    let setup = launcher(&[]);
    let file = setup.file("token");
    let launcher =
        setup.env("CLOUDSTATE_LAUNCHER_ADMIN_TOKEN_FILE", file.to_str().unwrap()).start();
    launcher.await_ready();
    for (method, path) in
        [("POST", "/drain"), ("DELETE", "/drain"), ("POST", "/quit"), ("GET", "/status")]
    {
        let (status, why) = launcher.ask(method, path).unwrap();
        assert_eq!(status, 403, "{why}");
    }
    assert_eq!(launcher.ask("GET", "/metrics").unwrap().0, 200, "telling needs none");
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(token.len(), 32);
    assert!(!launcher.raw_log().contains(&token));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let with_token = |method: &str, path: &str| {
        let header = format!("X-Launcher-Token: {token}\r\n");
        support::ask_with(launcher.connect().unwrap(), method, path, &header).unwrap().0
    };
    assert_eq!(with_token("POST", "/drain"), 202);
    assert_eq!(with_token("DELETE", "/drain"), 202);
    // The command finds it.
    launcher.await_command(&["drain"], 0, DRAINS);
}

#[test]
fn helpers_ask_the_launcher_that_runs_whatever_has_become_of_the_settings() {
    let setup = launcher(&[]);
    let file = setup.file("launcher.toml");
    fs::write(&file, "[log]\nlevel = 'debug'\n").unwrap();
    let mut launcher = setup.env("CLOUDSTATE_LAUNCHER_CONFIG", file.to_str().unwrap()).start();
    launcher.await_ready();
    fs::write(&file, "[proxy]\nkind = 'neither'\n").unwrap();
    launcher.await_command(&["probe", "alive"], 0, "alive\n");
    assert_eq!(launcher.command(&["check"]).0, 78);
    launcher.await_command(&["drain"], 0, DRAINS);
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}
