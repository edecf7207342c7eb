//! A proxy that ends by itself: what that is called, when another one follows, and which end is the last.

use std::{
    iter,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use serde_json::json;

use super::{
    SERVES,
    support::{self, Launcher, Setup, group::Group, launcher, takes_less_than},
};

const PAUSE: &str = "CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL";
const BUDGET: &str = "CLOUDSTATE_LAUNCHER_BUDGET";

/// A launcher that takes as long between two proxies as one that was told nothing.
fn patient(script: &[&str]) -> Setup {
    launcher(script).without(PAUSE)
}

#[test]
fn f01_a_killed_proxy_is_back_after_half_a_second() {
    // What there is by default, up to a fifth longer; how much of that is chance is what the machine's tests look at.
    const SHORTEST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_millis(600);
    takes_less_than(LONGEST, || {
        // The orphan is of the proxy's group.
        let setup = patient(&["--orphan", "1000"]).env("CLOUDSTATE_LAUNCHER_BACKOFF_JITTER", "0");
        let mut launcher = setup.start();
        launcher.await_ready();
        launcher.await_orphan();
        launcher.await_proxy(1).signal(Signal::KILL);
        launcher.await_proxy(2);
        launcher.await_ready();
        launcher.await_metric("cloudstate_launcher_exits_total{class=\"killed_external\"} 1");
        launcher.signal(Signal::TERM);
        assert_eq!(launcher.await_exit(), 0);

        let mut story = launcher.story();
        story.then(&json!({ "message": "ready" }));
        let ended = story.then(&json!({ "message": "proxy ended", "class": "killed_external" }));
        let unready = story.then(&json!({ "message": "not ready" }));
        let started = story.then(&json!({ "message": "proxy started", "generation": 2 }));
        assert_eq!(story.buried(), 1, "its group is empty before another one begins");
        let ready = story.then(&json!({ "message": "ready" }));
        let pause = started.since(ended);
        // The log is not written at the very moment.
        assert!(pause + Duration::from_millis(10) >= SHORTEST, "{pause:?}");
        // Nobody is told that calls are welcome any longer than it takes to start one and hear from it.
        pause.max(ready.since(unready).saturating_sub(ready.since(started)))
    });
}

pub(super) fn f02_a_crash_loop_ends_with_the_proxys_code() {
    // What a machine may add to a pause; how long it is by itself is what the machine's tests look at.
    const LATE: Duration = Duration::from_millis(200);
    takes_less_than(LATE, || {
        let mut launcher = patient(&["--exit", "1"]).start();
        assert_eq!(launcher.await_exit(), 1);
        let (reason, message) = launcher.not_ready_words();
        assert_eq!(reason, "ProxyCrashed");
        let what = "the proxy left with exit code 1; that was more than 5 times within 600s, so ";
        assert!(message.starts_with(what), "{message}");

        let mut story = launcher.story();
        assert_eq!(story.all(&json!({ "message": "proxy ended" })).len(), 6);
        story.then(&json!({ "message": "proxy started", "generation": 1 }));
        let late = iter::zip(2.., [500, 1_000, 2_000, 4_000, 8_000]).map(|(generation, millis)| {
            let pause = Duration::from_millis(millis);
            let ended = story.then(&json!({ "message": "proxy ended", "class": "error" }));
            let next = json!({ "message": "proxy started", "generation": generation });
            let took = story.then(&next).since(ended);
            assert!(took >= pause.mul_f64(0.8), "{generation}: {took:?}");
            took.saturating_sub(pause.mul_f64(1.2))
        });
        late.max().unwrap()
    });
}

#[test]
fn f03_a_proxy_that_leaves_without_being_asked_has_failed() {
    let mut launcher = launcher(SERVES).env(BUDGET, "1").start();
    for generation in [1, 2] {
        launcher.await_metric("cloudstate_launcher_state{state=\"running\"} 1");
        // Not from the launcher, which thus has asked for nothing; the fake leaves with 0.
        launcher.await_proxy(generation).signal(Signal::TERM);
        if generation == 1 {
            launcher.await_proxy(2);
            let metric = "cloudstate_launcher_exits_total{class=\"unexpected_zero\"} 1";
            launcher.await_metric(metric);
        }
    }
    assert_eq!(launcher.await_exit(), 70);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.starts_with("the proxy left with exit code 0; "), "{message}");
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

fn in_group(group: &Group, script: &[&str]) -> Setup {
    let starter = group.starter();
    let starter: Vec<_> = starter.iter().map(String::as_str).collect();
    support::launcher_through(&starter, script)
}

#[test]
fn f05_a_proxy_that_the_kernel_kills_for_memory_is_told_apart() {
    let group = Group::of_mib(128);
    let mut survivor = in_group(&group, &["--hog", "256"])
        .env(PAUSE, "1h")
        .env("CLOUDSTATE_LAUNCHER_BACKOFF_MAX", "1h")
        .start();
    for line in [
        "cloudstate_launcher_exits_total{class=\"oom_killed\"} 1",
        "cloudstate_launcher_oom_kills_total 1",
        "cloudstate_launcher_state{state=\"backoff\"} 1",
    ] {
        survivor.await_metric(line);
    }
    assert_eq!(survivor.ask("GET", "/alive").unwrap().0, 200);
    survivor.signal(Signal::TERM);
    assert_eq!(survivor.await_exit(), 0);

    let mut last = in_group(&group, &["--hog", "256"]).env(BUDGET, "1").start();
    assert_eq!(last.await_exit(), 137);
    let (reason, message) = last.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.contains("since the container reached its memory limit: raise"), "{message}");
}

/// Where the kernel kills the launcher with the proxy, what stood in the file is all that there is.
pub(super) fn f05_while_memory_is_short_the_record_is_never_old() {
    const OLDEST: Duration = Duration::from_secs(6);
    // 95 % of the limit are 243 MiB.
    let group = Group::of_mib(256);
    let launcher = in_group(&group, &["--hog", "245"]).start();
    launcher.await_ready();
    takes_less_than(OLDEST, || {
        let before = renewed(&launcher);
        renewed(&launcher).duration_since(before).unwrap()
    });
    launcher.process().signal(Signal::KILL);
    launcher.process().await_end();
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.contains("in the state running"), "{message}");
    assert!(
        message.contains(" of 268435456 bytes of memory were used: if it was for "),
        "{message}"
    );
}

/// Waits until the record is written anew, and says when that was.
fn renewed(launcher: &Launcher) -> SystemTime {
    let before = launcher.words_written_at();
    launcher.eventually("another record", || {
        Some(launcher.words_written_at()).filter(|written| *written != before)
    })
}
