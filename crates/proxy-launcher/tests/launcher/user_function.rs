//! The user function's comings and goings.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use super::{
    SERVES,
    support::{self, launcher, takes_less_than},
};

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
    let mut leave_and_return = |away: Duration| {
        // It was asked just now; each try leaves at another point between two questions.
        tries += 1;
        thread::sleep(Duration::from_millis(170) * tries);
        listener = None;
        let gone = Instant::now();
        launcher.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
        let noticed_after = gone.elapsed();
        thread::sleep(away.saturating_sub(noticed_after));
        listener = Some(listen());
        let back = Instant::now();
        launcher.await_ready();
        [noticed_after, back.elapsed()]
    };
    takes_less_than(Duration::from_millis(1_500), || leave_and_return(Duration::ZERO)[0]);
    // Away for so long that it is not asked as often any more.
    takes_less_than(Duration::from_millis(300), || leave_and_return(Duration::from_secs(5))[1]);
    launcher.await_metric("cloudstate_launcher_starts_total 1");
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
    launcher.await_metric("cloudstate_launcher_restarts_total{cause=\"replaced\"} 1");
    launcher.await_metric("cloudstate_launcher_starts_total 2");
}

#[test]
fn f10_a_socket_that_never_speaks_is_there_for_tcp_and_not_for_http2() {
    let port = support::free_port();
    let _mute = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let tcp = beside_user_function(port).start();
    tcp.await_ready();
    tcp.await_metric("cloudstate_launcher_user_function_up 1");
    let http2 = beside_user_function(port).env("CLOUDSTATE_LAUNCHER_UF_PROBE", "http2").start();
    http2.await_proxy(1);
    http2.await_not_ready("UserFunctionUnreachable", "the user function does not answer");
    http2.await_metric("cloudstate_launcher_user_function_up 0");
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
fn a_user_function_that_never_comes_is_given_up() {
    let mut launcher = beside_user_function(support::free_port())
        .env("CLOUDSTATE_LAUNCHER_UF_GIVE_UP", "200ms")
        .start();
    assert_eq!(launcher.await_exit(), 69);
    let (reason, message) = launcher.not_ready_words();
    assert_eq!(reason, "UserFunctionUnreachable");
    assert!(message.starts_with("the user function did not answer within 200ms"), "{message}");
}
