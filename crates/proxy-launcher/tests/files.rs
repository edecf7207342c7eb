//! What the launcher reads and leaves in files: last words, limits, secrets.

#![expect(clippy::unwrap_used, reason = "clippy.toml frees tests, and these are their helpers")]

mod support;

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

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
fn a_proxy_runs_in_the_folder_that_is_said() {
    let setup = launcher(SERVES);
    let folder = setup.file("");
    let said = setup.env("CLOUDSTATE_LAUNCHER_WORKDIR", folder.to_str().unwrap()).start();
    said.await_ready();
    let resolved = fs::canonicalize(&folder).unwrap();
    assert_eq!(said.await_proxy(1).folder(), resolved);
    let not_said = launcher(SERVES).start();
    not_said.await_ready();
    assert_eq!(not_said.await_proxy(1).folder(), std::path::Path::new("/"));
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

/// What nobody may see: the shortest and the longest that is looked for, and one that stands in a file.
fn secrets() -> [String; 3] {
    ["h8-t3r".to_owned(), "Kx7q_".repeat(40), "swordfish-swordfish".to_owned()]
}

/// A launcher with secrets wherever one may be put.
fn secretive(script: &[&str]) -> support::Setup {
    let [short, long, filed] = secrets();
    let setup = launcher(script);
    let file = setup.file("secret");
    fs::write(&file, filed).unwrap();
    setup
        .env("POSTGRES_PASSWORD", &long)
        .env("CASSANDRA_USERNAME", "somebody")
        .env("CASSANDRA_PASSWORD_FILE", file.to_str().unwrap())
        .env(
            "JAVA_OPTS",
            &format!("-Dstore.password={short} -Djavax.net.ssl.keyStorePassword={long}"),
        )
        .env("JDK_JAVA_OPTIONS", &format!("-Dother.token={short}"))
        .arg(&format!("-Dapi.key={short}"))
}

#[test]
fn f26_secrets_show_nowhere() {
    let mut texts: Vec<(&str, Vec<u8>)> = Vec::new();
    let runs = secretive(SERVES).start();
    runs.await_ready();
    for kind in ["native", "jvm"] {
        for form in ["table", "json"] {
            for verb in ["check", "print-config"] {
                let kind = format!("proxy.kind={kind}");
                let args = ["--set", &kind, "--output", form, verb, "--", "-Dapi.key=h8-t3r"];
                texts.push(("a command", runs.command(&args).1.into()));
            }
        }
    }
    for path in ["/config", "/status", "/metrics", "/ready"] {
        texts.push((path, runs.ask("GET", path).unwrap().1.into()));
    }
    texts.push(("the record", runs.words().into()));
    assert_eq!(runs.ask("POST", "/dump").unwrap().0, 202);
    runs.await_log("what the proxy is doing");
    runs.signal(Signal::HUP);
    runs.await_metric("cloudstate_launcher_config_reloads_total{result=\"ok\"} 1");
    runs.signal(Signal::USR1);
    runs.await_log("status");
    texts.push(("the log", runs.raw_log().into()));

    let mut refused = secretive(&["--exit", "64"]).start();
    assert_eq!(refused.await_exit(), 78);
    // The fake knows none of a JVM's flags.
    let mut crashed = secretive(SERVES)
        .env("CLOUDSTATE_LAUNCHER_KIND", "jvm")
        .env("CLOUDSTATE_LAUNCHER_JAVA", support::PROXY)
        .env("CLOUDSTATE_LAUNCHER_BUDGET", "0")
        .start();
    assert_eq!(crashed.await_exit(), 1);
    let mut both = secretive(SERVES).env("POSTGRES_PASSWORD_FILE", "/dev/null").start();
    assert_eq!(both.await_exit(), 78);
    let mut broken = secretive(SERVES).env_bytes("POSTGRES_PASSWORD", b"h8-t3r\xff").start();
    assert_eq!(broken.await_exit(), 78);
    for (name, launcher) in
        [("refused", refused), ("crashed", crashed), ("both", both), ("broken", broken)]
    {
        // The fake itself tells of the flag that it does not know.
        let own: String = launcher.log().iter().map(Value::to_string).collect();
        texts.push((name, own.into()));
        texts.push((name, launcher.words().into()));
    }

    let whole = texts.iter().flat_map(|(_, text)| text).copied().collect::<Vec<_>>();
    let has = |text: &[u8], part: &str| text.windows(part.len()).any(|it| it == part.as_bytes());
    for shown in
        ["POSTGRES_PASSWORD", "-Dstore.password=***", "-Dapi.key=***", "CASSANDRA_PASSWORD"]
    {
        assert!(has(&whole, shown), "{shown} has been looked for where nothing is");
    }
    for (name, text) in texts {
        for secret in secrets() {
            assert!(!has(&text, &secret), "{secret} in {name}: {}", String::from_utf8_lossy(&text));
        }
    }
}
