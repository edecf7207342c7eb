//! Silence, and time that passes otherwise than it should.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use rustix::process::Signal;
use serde_json::json;

use super::{
    SERVES,
    support::{launcher, story::Moment, takes_less_than},
};

pub(super) fn f06_a_proxy_that_hangs_is_replaced() {
    takes_less_than(Duration::from_secs(22), silence_of_a_proxy_that_hangs);
}

/// How long a proxy was silent that is replaced for it.
fn silence_of_a_proxy_that_hangs() -> Duration {
    let mut launcher = launcher(SERVES).start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    let stopped = Moment::now();
    proxy.signal(Signal::STOP);
    launcher.await_not_ready("ProxyStarting", "the proxy did not answer within 20s");
    launcher.await_proxy(2);
    launcher.await_ready();
    assert!(proxy.is_buried());
    launcher.await_metric("cloudstate_launcher_hangs_total 1");
    launcher.await_metric("cloudstate_launcher_exits_total{class=\"hang\"} 1");
    launcher.await_metric("cloudstate_launcher_restarts_total{cause=\"hang\"} 1");
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);

    let mut story = launcher.story();
    let dumping = story.then(&json!({ "message": "state changed", "to": "dumping" }));
    let hung = story.then(&json!({ "message": "the proxy hangs" })).since(stopped);
    assert!(hung >= Duration::from_secs(18), "{hung:?}");
    let told =
        story.then(&json!({ "message": "signal sent to the proxy's group", "signal": "TERM" }));
    let killed =
        story.then(&json!({ "message": "signal sent to the proxy's group", "signal": "KILL" }));
    story.then(&json!({ "message": "proxy ended", "class": "hang" }));
    story.then(&json!({ "message": "proxy started", "generation": 2 }));
    // It is asked what it is doing, and cannot say.
    let silent = json!({ "message": "the proxy does not say what it is doing" });
    assert_eq!(story.all(&silent).len(), 1);
    // Its time to say something, and to leave. A line that is written late takes some of what follows it.
    let has_time = told.since(dumping) >= Duration::from_secs(2)
        && killed.since(told) >= Duration::from_secs(5);
    if has_time { hung } else { Duration::MAX }
}

pub(super) fn f07_a_launcher_that_was_frozen_takes_no_proxy_for_hung() {
    // Three times as long as a proxy may be silent.
    const FROZEN: Duration = Duration::from_mins(1);
    let launcher = launcher(SERVES).start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    launcher.signal(Signal::STOP);
    thread::sleep(FROZEN);
    launcher.signal(Signal::CONT);
    // By then it has looked at the proxy again and again.
    let asked = || launcher.metric("probe_seconds_count{target=\"proxy\"}");
    let before = asked();
    launcher.eventually("questions", || (asked() >= before + 3).then_some(()));
    launcher.await_ready();
    assert!(proxy.is_running());
    launcher.await_metric("cloudstate_launcher_starts_total 1");
    launcher.await_metric("cloudstate_launcher_hangs_total 0");
}

#[test]
fn f07_a_machine_that_was_paused_takes_no_proxy_for_hung() {
    let launcher = launcher(SERVES).env("CLOUDSTATE_LAUNCHER_HANG_AFTER", "4s").start();
    launcher.await_ready();
    let proxy = launcher.await_proxy(1);
    launcher.signal(Signal::STOP);
    proxy.signal(Signal::STOP);
    // Longer than the limit: what a paused machine looks like from inside.
    thread::sleep(Duration::from_secs(5));
    launcher.signal(Signal::CONT);
    launcher.await_not_ready("ProxyStarting", "the proxy does not answer");
    proxy.signal(Signal::CONT);
    launcher.await_ready();
    assert!(proxy.is_running());
}

#[test]
fn f08_wall_clock_jumps_move_no_timer() {
    const DAY: i64 = 86_400;
    /// All timers of this test.
    const TIMER: Duration = Duration::from_secs(2);
    const LATE: Duration = Duration::from_millis(50);
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(compiled.expect("a linker needs a C compiler anyway").success());
    takes_less_than(LATE, || {
        let setup = launcher(SERVES);
        let shift = setup.file("shift");
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
            .env("CLOUDSTATE_LAUNCHER_BACKOFF_JITTER", "0")
            .env("CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY", "2s")
            .start();
        launcher.await_ready();
        launcher.await_proxy(1).signal(Signal::KILL);
        launcher.await_log("proxy ended");
        for (way, signal, name) in [(DAY, Signal::USR1, "USR1"), (-DAY, Signal::HUP, "HUP")] {
            jump(way);
            // It writes a line with the day that it takes for today's.
            launcher.signal(signal);
            launcher.await_line(&json!({ "message": "signal received", "signal": name }));
        }
        launcher.await_proxy(2);
        launcher.await_ready();
        launcher.signal(Signal::TERM);
        launcher.await_line(&json!({ "message": "state changed", "to": "draining" }));
        jump(DAY);
        assert_eq!(launcher.await_exit(), 0);

        // Lines of different days; the time of day is what the jumps left alone.
        let mut story = launcher.story();
        assert!(story.days().len() >= 3, "its clock did jump: {:?}", story.days());
        let ended = story.then(&json!({ "message": "proxy ended" }));
        let started = story.then(&json!({ "message": "proxy started" }));
        let draining = story.then(&json!({ "message": "state changed", "to": "draining" }));
        let told = story.then(&json!({ "message": "signal sent to the proxy's group" }));
        let late = [started.since(ended), told.since(draining)].map(|took| {
            assert!(took + LATE > TIMER, "{took:?}");
            took.saturating_sub(TIMER)
        });
        late[0].max(late[1])
    });
}
