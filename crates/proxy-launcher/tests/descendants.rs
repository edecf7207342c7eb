//! What becomes of the processes that a proxy starts, when they outlive it and when it dies.

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use self::support::{group::Group, launcher, story::Moment, takes_less_than};

#[test]
fn orphans_are_buried() {
    let launcher = launcher(&["--orphan", "0.05"]).start();
    let orphan = launcher.await_orphan();
    launcher.await_log("orphans reaped");
    assert!(orphan.is_buried());
}

#[test]
fn what_a_dead_proxy_left_behind_is_killed() {
    let mut launcher = launcher(&["--orphan", "1000"]).start();
    launcher.await_ready();
    let orphan = launcher.await_orphan();
    assert!(orphan.is_running());
    launcher.await_proxy(1).signal(Signal::KILL);
    orphan.await_end();
    // Nor is there another one's after the test. TERM that comes before the end is known would leave with its code.
    launcher.await_proxy(2);
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn what_left_the_group_is_killed_too() {
    let mut launcher = launcher(&["--daemon", "1000"]).start();
    launcher.await_ready();
    let daemon = launcher.await_orphan();
    launcher.await_proxy(1).signal(Signal::KILL);
    daemon.await_end();
    launcher.await_proxy(2);
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
}

#[test]
fn f15_a_fork_bomb_ends_with_the_launcher() {
    const GONE: Duration = Duration::from_secs(2);
    takes_less_than(GONE, || {
        // In it nobody gets one more process or thread, the launcher neither.
        let group = Group::of_processes(512);
        let starter = group.starter();
        let starter: Vec<_> = starter.iter().map(String::as_str).collect();
        let mut launcher = support::launcher_through(&starter, &["--bomb", "--ignore-term"])
            .env("TERMINATION_GRACE_PERIOD_SECONDS", "4")
            .start();
        launcher.await_ready();
        launcher.eventually("a full group", || (group.refusals() > 0).then_some(()));
        launcher.signal(Signal::TERM);
        assert_eq!(launcher.await_exit(), 137);
        launcher.eventually("an empty group", || (group.processes() == 0).then_some(()));
        let gone = Moment::now();
        let mut story = launcher.story();
        story.then(&json!({ "message": "signal sent to the proxy's group", "signal": "TERM" }));
        let kill = json!({ "message": "signal sent to the proxy's group", "signal": "KILL" });
        gone.since(story.then(&kill))
    });
}

#[test]
fn f16_thousands_of_orphans_leave_no_trace() {
    let [few, many] = ["100", "10000"].map(|count| {
        let mut memory = 0;
        takes_less_than(Duration::from_secs(1), || {
            let launcher = launcher(&["--orphans", count]).start();
            launcher.await_text("orphans made");
            let made = Instant::now();
            launcher.await_no_zombies();
            let gone_after = made.elapsed();
            let reaped = format!("cloudstate_launcher_reaped_total{{kind=\"orphan\"}} {count}");
            launcher.await_metric(&reaped);
            launcher.await_ready();
            memory = launcher.own_memory_kib();
            gone_after
        });
        memory
    });
    assert!(many < few + 256, "{few} KiB after a hundred, {many} KiB after ten thousand");
}

#[test]
fn nothing_is_left_of_a_proxy_when_the_next_one_starts() {
    // It has left the group, so that the group's KILL does not end it.
    let setup = launcher(&["--daemon", "1000", "--exit-once", "75"]);
    let mark = setup.file("mark");
    let mut launcher = setup.arg(mark.to_str().unwrap()).start();
    launcher.await_proxy(2);
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
    let log = launcher.log();
    let before = log.iter().take_while(|line| line["generation"] != 2);
    let buried: u64 = before.filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(buried, 1, "{}", launcher.raw_log());
}

#[test]
fn f22_the_proxy_dies_with_the_launcher() {
    takes_less_than(Duration::from_millis(100), || {
        let launcher = launcher(&[]).start();
        launcher.await_ready();
        let proxy = launcher.await_proxy(1);
        let killed = Instant::now();
        launcher.signal(Signal::KILL);
        proxy.await_end();
        killed.elapsed()
    });
}
