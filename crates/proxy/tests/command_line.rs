//! What the proxy's program does besides serving: it prints settings, problems, and the tables it needs.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use api::contract::{env, exit};
use support::{
    PATIENCE, address, call,
    counter::{Counter, item},
};
use testbed::{
    postgres::{NAME, Postgres},
    proxy::Plan,
};
use tonic::{Request, transport::Channel};

const PROGRAM: &str = env!("CARGO_BIN_EXE_proxy");

fn run(line: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(line.split_whitespace()).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

/// Exit code and standard output.
fn said(line: &str, environment: &[(&str, &str)]) -> (u8, String) {
    let output = run(line, environment);
    let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap();
    (code, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn settings_in_effect_are_printed_without_secrets() {
    let secrets = [
        ("CLOUDSTATE_STORE", "postgres"),
        ("POSTGRES_URL", "postgres://anna:s3cret@db/cart"),
        ("CLOUDSTATE_PROXY_PASSIVATION", "30s"),
    ];
    for line in ["check-config", "--check-config"] {
        let (code, text) = said(line, &secrets);
        assert_eq!(code, 0, "{text}");
        for part in [
            "HTTP_PORT",
            "8013",
            "postgres://anna:***@db/cart",
            "warning: CLOUDSTATE_PROXY_PASSIVATION is not",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(text.contains("\nok: "), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let (code, text) = said("check-config --output json", &secrets);
    let page: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0, "{text}");
    assert_eq!(page["settings"]["POSTGRES_SERVICE"]["value"], "db");
    assert_eq!(page["settings"]["POSTGRES_SERVICE"]["source"], "POSTGRES_URL");
    assert_eq!(page["warnings"].as_array().unwrap().len(), 1, "{text}");
    assert!(page["hash"].is_string() && !text.contains("s3cret"), "{text}");
    let (code, text) = said("check-config --deny-warnings", &secrets);
    assert_eq!(code, exit::CONFIG, "{text}");
}

#[test]
fn every_problem_is_printed_at_once() {
    let wrong = [
        ("HTTP_PORT", "0"),
        ("CLOUDSTATE_STORE", "postgres"),
        ("POSTGRES_URL", "postgres://anna:s3cret@db/cart"),
        ("POSTGRES_PASSWORD", "0ther"),
    ];
    let (code, text) = said("check-config", &wrong);
    assert_eq!(code, exit::CONFIG, "{text}");
    assert_eq!(text.matches("error: ").count(), 2, "{text}");
    for part in ["PortOutOfRange: HTTP_PORT", "ConflictingKeys: POSTGRES_URL and POSTGRES_PASSWORD"]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let (code, json) = said("check-config --output json", &wrong);
    let page: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, page["errors"].as_array().unwrap().len()), (exit::CONFIG, 2), "{json}");
    assert_eq!(page["errors"][0]["variable"], "HTTP_PORT");
    for text in [text, json] {
        assert!(!text.contains("s3cret") && !text.contains("0ther"), "{text}");
    }
}

#[test]
fn a_command_line_that_cannot_be_followed_is_refused_before_anything_is_served() {
    let words = tempfile::NamedTempFile::new().unwrap();
    let path = words.path().to_str().unwrap();
    let output = run("serve", &[(env::TERMINATION_PATH, path)]);
    assert_eq!(output.status.code(), Some(exit::USAGE.into()));
    let last_words = std::fs::read_to_string(path).unwrap();
    assert!(last_words.contains("UnknownArgument"), "{last_words}");
    assert!(said("version", &[]).1.starts_with("proxy "));
}

#[tokio::test]
async fn tables_that_an_administrator_made_of_what_is_printed_are_served_from() {
    const SCHEMA: &str = "by hand";
    let server = Postgres::shared().await;
    let (code, statements) = said("schema print", &[("POSTGRES_SCHEMA", SCHEMA)]);
    assert_eq!(code, 0, "{statements}");
    server.execute(&statements).await.unwrap();
    // No more than the pages on stores and security say.
    let rights = format!(
        "GRANT USAGE ON SCHEMA \"{SCHEMA}\" TO {NAME}; \
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA \"{SCHEMA}\" TO {NAME}"
    );
    server.execute(&rights).await.unwrap();
    let (counter, function) = (Counter::default(), SocketAddr::from((address(), 8080)));
    counter.listen(function);
    let url = format!("postgres://{NAME}:{NAME}@{}:{}/{NAME}", server.host(), server.port());
    let proxy = Plan::new(PROGRAM, function)
        .with(env::STORE, "postgres")
        .with(env::POSTGRES_URL, url)
        .with(env::POSTGRES_SCHEMA, SCHEMA)
        .with("CLOUDSTATE_PROXY_AUTO_CREATE_TABLES", "false")
        .start_ready(PATIENCE)
        .await
        .unwrap();
    let endpoint = Channel::from_shared(format!("http://{}", proxy.calls())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    call(channel, "Add", Request::new(item("a", 1))).await.unwrap();
    let events = format!("SELECT count(*) FROM \"{SCHEMA}\".cloudstate_events");
    let rows = server.client().await.unwrap().query_one(&events, &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
    let (code, refused) = said("schema print", &[("POSTGRES_SCHEMA", "pg_mine")]);
    assert_eq!(code, exit::CONFIG, "{refused}");
}
