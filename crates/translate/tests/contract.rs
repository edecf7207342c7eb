//! Variables have two ends. Whatever is rendered is read by launcher or proxy, and whatever these read stands in
//! the contract and in `docs/environment.md`.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use std::{collections::BTreeSet, ffi::OsString, fs, path::Path};

use api::contract::{container, env};
use proxy_launcher::config::{Above, Surroundings};
use serde_json::Value;
use translate::{generated::case, render, validate};

/// How many generated services are looked at, besides every golden one.
const CASES: u64 = 300;

/// Adds the names of the sidecar's variables in an object of whatever kind.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    if value["name"] == container::SIDECAR {
        let variables = value["env"].as_array().into_iter().flatten();
        names.extend(variables.map(|variable| variable["name"].as_str().unwrap().to_owned()));
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, names)),
        _ => {}
    }
}

fn rendered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap() {
        // A service that is refused renders nothing.
        let Ok(text) = fs::read_to_string(entry.unwrap().path().join("expected.yaml")) else {
            continue;
        };
        for document in text.split("\n---\n") {
            collect(&serde_saphyr::from_str::<Value>(document).unwrap(), &mut names);
        }
    }
    for case in (0..CASES).map(case) {
        let plan = validate(&case.settings, &case.service, &case.inputs()).unwrap();
        for object in render(&case.settings, &plan) {
            collect(&serde_json::to_value(object).unwrap(), &mut names);
        }
    }
    names
}

fn read_by_launcher(kind: &str) -> BTreeSet<String> {
    let environment = [("CLOUDSTATE_LAUNCHER_KIND", kind)];
    let environment = environment.map(|(name, value)| (OsString::from(name), value.into()));
    let surroundings = Surroundings::of_this_process(None);
    let loaded =
        proxy_launcher::config::load(environment, &Above::default(), &[], &surroundings).unwrap();
    loaded.variables
}

fn read() -> BTreeSet<String> {
    let kinds = ["native", "jvm"].map(read_by_launcher);
    kinds.into_iter().flatten().chain(proxy::config::variables()).collect()
}

/// Every variable of the contract, as its source declares them.
fn contract() -> BTreeSet<String> {
    let source = include_str!("../../api/src/contract.rs");
    let (_, module) = source.split_once("\npub mod env {\n").unwrap();
    let (module, _) = module.split_once("\n}\n").unwrap();
    let values = module.lines().filter(|line| line.trim_start().starts_with("pub const "));
    let names: BTreeSet<String> =
        values.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect();
    assert!(names.contains(env::HTTP_PORT) && names.contains(env::STORE));
    names
}

#[test]
fn whatever_is_rendered_is_read() {
    let (rendered, read) = (rendered(), read());
    assert!(rendered.len() > 20, "{rendered:?}");
    let unread: Vec<_> = rendered.difference(&read).collect();
    assert!(unread.is_empty(), "nobody reads {unread:?}");
}

#[test]
fn whatever_is_read_stands_in_the_contract() {
    let contract = contract();
    // Settings of one program's own are named where it reads them; the contract has their prefix.
    let own = [env::LAUNCHER_PREFIX, env::PROXY_PREFIX];
    let is_known =
        |name: &String| contract.contains(name) || own.iter().any(|own| name.starts_with(own));
    let unknown: Vec<_> = read().into_iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "the contract does not know {unknown:?}");
}

#[test]
fn whatever_stands_in_the_contract_is_read_or_rendered() {
    // For the user function, and parts of names.
    let others = [env::LAUNCHER_PREFIX, env::PROXY_PREFIX, env::FILE_SUFFIX];
    let (rendered, read) = (rendered(), read());
    let dead: Vec<_> = contract()
        .into_iter()
        .filter(|name| !read.contains(name) && !rendered.contains(name))
        .filter(|name| !others.contains(&name.as_str()))
        .collect();
    assert!(dead.is_empty(), "neither read nor rendered: {dead:?}");
}

#[test]
fn whatever_is_read_is_documented() {
    let page = include_str!("../../../docs/environment.md");
    let words: BTreeSet<&str> = page.split('`').collect();
    let is_told = |name: &str| {
        let short = name.strip_prefix(env::LAUNCHER_PREFIX);
        let short = short.or_else(|| name.strip_prefix(env::PROXY_PREFIX)).unwrap_or(name);
        words.contains(name) || words.contains(short)
    };
    let untold: Vec<_> = read().into_iter().filter(|name| !is_told(name)).collect();
    assert!(untold.is_empty(), "docs/environment.md does not tell of {untold:?}");
}
