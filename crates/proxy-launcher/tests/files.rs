//! What the launcher reads and leaves in files: last words, limits, secrets.

mod support;

use std::{fs, process::Command};

use rustix::process::Signal;

use self::support::launcher;

const SERVES: &[&str] = &[];

#[test]
fn a_proxy_gets_its_limits_and_leaves_the_launcher_alive_when_memory_is_short() {
    let read = |process: support::Process, file: &str| process.file(file);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own: i64 = own.trim().parse().unwrap();
    for (files, step, expected) in [("100", "7", "100"), ("max", "0", "1048576")] {
        let launcher = launcher(SERVES)
            .env("CLOUDSTATE_LAUNCHER_NOFILE", files)
            .env("CLOUDSTATE_LAUNCHER_OOM_STEP", step)
            .start();
        launcher.await_ready();
        let proxy = launcher.await_proxy(1);
        let limits = read(proxy, "limits");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let fields: Vec<_> = line.split_whitespace().collect();
        let hard: u64 = fields[4].parse().unwrap();
        let expected: u64 = expected.parse().unwrap();
        assert_eq!(fields[3], expected.min(hard).to_string(), "{line}");
        let score: i64 = read(proxy, "oom_score_adj").trim().parse().unwrap();
        assert_eq!(score, (own + step.parse::<i64>().unwrap()).min(1_000));
    }
}

#[test]
fn a_record_stands_in_for_last_words_until_there_are_none() {
    let mut launcher = launcher(SERVES).start();
    launcher.await_ready();
    launcher.await_words("in the state running");
    launcher.await_proxy(1).signal(Signal::KILL);
    launcher.await_words("1 restarts of the proxy");
    launcher.await_ready();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.await_exit(), 0);
    assert_eq!(launcher.words(), "");

    let killed = support::launcher(SERVES).start();
    killed.await_ready();
    killed.await_words("in the state running");
    killed.signal(Signal::KILL);
    killed.process().await_end();
    let (reason, message) = killed.not_ready_words();
    assert_eq!(reason, "ProxyCrashed");
    assert!(message.contains("if it was for memory, raise"), "{message}");
}

#[test]
fn a_start_can_wait_for_the_proxy() {
    let launcher =
        launcher(&["--stall"]).env("CLOUDSTATE_LAUNCHER_STARTUP_REQUIRE", "proxy").start();
    launcher.await_not_ready("ProxyStarting", "the proxy does not answer");
    assert_eq!(launcher.ask("GET", "/startup").unwrap().0, 503);
    let answers =
        support::launcher(SERVES).env("CLOUDSTATE_LAUNCHER_STARTUP_REQUIRE", "proxy").start();
    answers.await_ready();
    assert_eq!(answers.ask("GET", "/startup").unwrap().0, 200);
}

#[test]
fn f25_last_words_that_cannot_be_left_change_nothing() {
    for path in ["/nonexistent/words", "/proc/version", "/dev/full", "/"] {
        let mut stopped = launcher(SERVES).words_at(path).start();
        stopped.await_ready();
        stopped.signal(Signal::TERM);
        assert_eq!(stopped.await_exit(), 0, "{path}");
        let mut refused = launcher(&["--exit", "64"]).words_at(path).start();
        assert_eq!(refused.await_exit(), 78, "{path}");
    }
}

#[test]
fn f26_secrets_show_nowhere() {
    const SECRETS: [&str; 2] = ["hunter2hunter2", "swordfish-swordfish"];
    let flag = format!("-Dstore.password={}", SECRETS[1]);
    let mut launcher =
        launcher(&[&flag, "--exit", "64"]).env("POSTGRES_PASSWORD", SECRETS[0]).start();
    assert_eq!(launcher.await_exit(), 78);
    let mut texts = vec![launcher.raw_log(), launcher.words()];
    for verb in ["check", "print-config"] {
        for kind in ["native", "jvm"] {
            for form in ["table", "json"] {
                let output = Command::new(env!("CARGO_BIN_EXE_proxy-launcher"))
                    .args(["--output", form, verb, "--", &flag])
                    .env("CLOUDSTATE_LAUNCHER_KIND", kind)
                    .env("POSTGRES_PASSWORD", SECRETS[0])
                    .output()
                    .unwrap();
                texts.push(String::from_utf8(output.stdout).unwrap());
                texts.push(String::from_utf8(output.stderr).unwrap());
            }
        }
    }
    let runs = support::launcher(&[]).env("POSTGRES_PASSWORD", SECRETS[0]).start();
    runs.await_ready();
    for path in ["/config", "/status", "/metrics", "/ready"] {
        texts.push(runs.ask("GET", path).unwrap().1);
    }
    runs.signal(Signal::USR1);
    runs.await_log("status");
    texts.push(runs.raw_log());
    assert!(texts.iter().any(|text| text.contains("POSTGRES_PASSWORD")));
    assert!(texts.iter().any(|text| text.contains("-Dstore.password=***")));
    for text in texts {
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
}
