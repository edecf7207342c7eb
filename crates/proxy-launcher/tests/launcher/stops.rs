//! TERM and INT, in every state and against every resistance.

use std::{
    iter, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::{
    SERVES,
    support::{self, Launcher, Setup, launcher, takes_less_than},
};

const GRACE: &str = "TERMINATION_GRACE_PERIOD_SECONDS";
const PRE_DELAY: &str = "CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY";
/// For what a busy machine can miss.
const TRIES: usize = 10;

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
fn term_serves_on_while_endpoints_are_withdrawn() {
    // So long that all of it is seen while it lasts. That it ends when it should is seen with F11.
    let launcher = launcher(SERVES).env(GRACE, "600").env(PRE_DELAY, "300s").start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    launcher.signal(Signal::TERM);
    launcher.await_not_ready("Draining", "the pod is being stopped");
    assert!(proxy.is_running());
    assert_eq!(launcher.ask("GET", "/alive").unwrap().0, 200);
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
    // The proxy hears of it as such, since it has less time than after TERM.
    let mut story = launcher.story();
    story.then(&json!({ "message": "signal sent to the proxy's group", "signal": "INT" }));
    story.then(&json!({ "message": "proxy ended", "class": "clean" }));
}

#[test]
fn f11_a_thousand_terms_are_one() {
    // Long enough for a busy machine to count them all before the launcher leaves.
    const DELAY: Duration = Duration::from_secs(8);
    let mut launcher = launcher(SERVES).env(PRE_DELAY, "8s").start();
    launcher.await_ready();
    for _ in 0..100 {
        for _ in 0..10 {
            launcher.signal(Signal::TERM);
        }
        thread::sleep(Duration::from_millis(1));
    }
    // Several that arrive at once are one to the kernel.
    let received = json!({ "message": "signal received", "signal": "TERM" });
    launcher.eventually("all of them counted", || {
        let counted = launcher.metric("signals_total{signal=\"TERM\"}");
        let told = launcher.story().all(&received).len();
        (counted > 0 && usize::try_from(counted) == Ok(told)).then_some(())
    });
    assert_eq!(launcher.await_exit(), 0);

    let mut story = launcher.story();
    let number = story.all(&received).len();
    assert!((1..=1_000).contains(&number), "{number}");
    for once in [
        json!({ "message": "drain", "drain": "under way" }),
        json!({ "message": "state changed", "to": "draining" }),
        json!({ "message": "state changed", "to": "stopping" }),
        json!({ "message": "signal sent to the proxy's group" }),
    ] {
        assert_eq!(story.all(&once).len(), 1, "{once}");
    }
    let first = story.then(&received);
    let told =
        story.then(&json!({ "message": "signal sent to the proxy's group", "signal": "TERM" }));
    assert!(told.since(first) >= DELAY, "none of them makes it any shorter");
}

/// What Kubernetes gives a launcher of the tests below, which all have something to do with it.
const TWELVE: Duration = Duration::from_secs(12);

/// A launcher that has so much, and keeps enough of it to itself that a machine may stand still for a moment.
fn with_twelve(setup: Setup) -> Setup {
    setup.env(GRACE, "12").env("CLOUDSTATE_LAUNCHER_DRAIN_KILL_MARGIN", "5s")
}

/// Sends TERM and waits for the end, which must come before Kubernetes' own KILL would.
#[track_caller]
fn leaves_with(launcher: &mut Launcher, code: i32) {
    let asked = Instant::now();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), code, "{}", launcher.raw_log());
    assert!(asked.elapsed() < TWELVE, "{:?}", asked.elapsed());
}

fn hour(setup: Setup) -> Setup {
    let setup = setup.env("CLOUDSTATE_LAUNCHER_BACKOFF_MAX", "1h");
    setup.env("CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL", "1h")
}

#[test]
fn f12_term_finds_a_way_out_of_every_state() {
    let twelve = |script: &[&str]| with_twelve(launcher(script));
    let mut waiting = twelve(&["--ready", "x"])
        .env("CLOUDSTATE_LAUNCHER_UF_WAIT", "gate")
        .env("USER_FUNCTION_PORT", &support::free_port().to_string())
        .start();
    waiting.await_not_ready("UserFunctionUnreachable", "the proxy is started once");
    let mut starting = twelve(&["--orphan", "1000", "--stall"]).start();
    starting.await_not_ready("ProxyStarting", "the proxy does not answer");
    let mut running = twelve(SERVES).start();
    running.await_ready();
    let mut backoff = hour(twelve(&["--exit", "1"])).start();
    backoff.await_not_ready("ProxyStarting", "the proxy left with exit code 1");
    let mut draining = twelve(SERVES).env(PRE_DELAY, "4s").start();
    draining.await_ready();
    draining.signal(Signal::TERM);
    for (launcher, state) in [
        (&mut draining, "draining"),
        (&mut waiting, "waiting"),
        (&mut starting, "starting"),
        (&mut running, "running"),
        (&mut backoff, "backoff"),
    ] {
        launcher.await_metric(&format!("cloudstate_launcher_state{{state=\"{state}\"}} 1"));
        leaves_with(launcher, 0);
    }
}

#[test]
fn f12_term_finds_a_way_out_while_a_proxy_is_replaced() {
    // Asleep, it hears no TERM, and is killed in time: 137 is its own end, not the launcher's.
    let ends = [("dumping", false, 137), ("stopping", false, 137), ("dumping", true, 0)];
    thread::scope(|scope| {
        for (state, wakes, code) in ends {
            scope.spawn(move || {
                let mut tries = iter::repeat_with(|| term_in_passing(state, wakes, code));
                assert!(tries.by_ref().take(TRIES).any(|was_seen| was_seen), "{state}");
            });
        }
    });
}

/// Sends TERM while a proxy that hangs is replaced. Whether that state was seen in time: it lasts for two seconds.
fn term_in_passing(state: &str, wakes: bool, code: i32) -> bool {
    let setup = with_twelve(launcher(SERVES)).env("CLOUDSTATE_LAUNCHER_HANG_AFTER", "2s");
    let mut launcher = setup.start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    proxy.signal(Signal::STOP);
    launcher.await_line(&json!({ "message": "state changed", "to": state }));
    if launcher.metric(&format!("state{{state=\"{state}\"}}")) == 0 {
        return false;
    }
    if wakes {
        proxy.signal(Signal::CONT);
    }
    leaves_with(&mut launcher, code);
    true
}

/// Has a launcher come to its end, and sends TERM while it lets those hear of it who are still there.
fn term_at_the_end(state: &str, begin: impl Fn(&Launcher)) -> Option<i32> {
    let mut launcher = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_BUDGET", "0").start();
    launcher.await_ready();
    let _held = launcher.connect().unwrap();
    begin(&launcher);
    let wanted = format!("state{{state=\"{state}\"}}");
    while let Some((_, page)) = launcher.ask("GET", "/metrics") {
        if support::value_of(&page, &wanted) == Some(1) {
            launcher.signal(Signal::TERM);
            let was_there = launcher.process().is_running();
            return was_there.then(|| launcher.await_exit());
        }
    }
    None
}

#[test]
fn f12_term_changes_nothing_at_the_end() {
    // It stays for a fifth of a second.
    let codes = |state: &str, begin: &dyn Fn(&Launcher)| {
        (0..TRIES).find_map(|_| term_at_the_end(state, begin))
    };
    let fails = |launcher: &Launcher| launcher.await_proxy(1).signal(Signal::ABORT);
    assert_eq!(codes("failed", &fails), Some(134), "the code stands");
    assert_eq!(codes("stopped", &|launcher| launcher.signal(Signal::TERM)), Some(0));
}

#[test]
fn f13_a_proxy_that_ignores_term_is_killed_when_time_is_up() {
    const TIME: Duration = Duration::from_secs(3);
    const OFF: Duration = Duration::from_millis(100);
    takes_less_than(TIME + OFF, || {
        let mut launcher = launcher(&["--ignore-term"])
            .env(GRACE, "5")
            .env("CLOUDSTATE_LAUNCHER_DRAIN_KILL_MARGIN", "2s")
            .start();
        launcher.await_ready();
        let proxy = launcher.await_proxy(1);
        launcher.signal(Signal::TERM);
        launcher.signal(Signal::TERM);
        let page = launcher.last_metrics();
        assert_eq!(launcher.await_exit(), 137);
        assert!(proxy.is_buried());
        let (reason, message) = launcher.not_ready_words();
        assert_eq!(reason, "ProxyCrashed");
        assert!(message.contains("was killed (stop_timeout): raise "), "{message}");

        let mut story = launcher.story();
        let asked = story.then(&json!({ "message": "signal received", "signal": "TERM" }));
        let killed =
            story.then(&json!({ "message": "signal sent to the proxy's group", "signal": "KILL" }));
        story.then(&json!({ "message": "proxy ended", "class": "stop_timeout" }));
        let took = killed.since(asked);
        assert!(took + OFF > TIME, "{took:?}");
        // A launcher that leaves lets others look for a fifth of a second, which a busy machine can miss.
        let is_seen = support::value_of(&page, "drain_forced_total") == Some(1);
        if is_seen { took } else { Duration::MAX }
    });
}

#[test]
fn f31_a_proxy_that_crashes_while_calls_are_drained_is_the_last() {
    let mut launcher = launcher(SERVES).env(GRACE, "600").env(PRE_DELAY, "300s").start();
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    launcher.await_not_ready("Draining", "");
    launcher.await_proxy(1).signal(Signal::ABORT);
    assert_eq!(launcher.await_exit(), 134);
    let mut story = launcher.story();
    story.then(&json!({ "message": "proxy ended", "class": "crash" }));
    assert_eq!(story.all(&json!({ "message": "proxy started" })).len(), 1);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    let what = "the proxy was killed by signal 6 while it was to finish its calls (crash); ";
    assert!(message.starts_with(what), "{message}");
}
