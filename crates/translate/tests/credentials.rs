//! Where each credential of a store is taken from: every row of the table, for every credential of both
//! stores, from the StatefulStore to the sidecar's variable.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use api::{StatefulService, StatefulStore};
use k8s_openapi::api::core::v1::EnvVar;
use serde_json::{Map, Value, json};
use translate::{Inputs, Settings, render, validate};

#[derive(Debug, PartialEq)]
enum Outcome {
    /// The value itself.
    Literal,
    /// That key of the Secret.
    Key(String),
    Absent,
    /// Refused, with that in the message.
    Refused(&'static str),
}

/// What is given of one credential: a literal, a Secret, and a key in it.
#[derive(Clone, Copy, Debug)]
struct Given {
    literal: bool,
    secret: bool,
    key: bool,
}

/// The table, as users were promised it.
fn table(name: &str, is_mandatory: bool, given: Given) -> Outcome {
    let Given { literal, secret, key } = given;
    match (literal, secret, key) {
        // A Secret has to have a name, whatever else is there.
        (_, false, true) => Outcome::Refused("credentialsFromSecret.name is missing"),
        (true, true, true) => Outcome::Refused("keep one of the two"),
        (true, _, false) => Outcome::Literal,
        (false, true, true) => Outcome::Key("its.key".to_owned()),
        (false, true, false) if is_mandatory => Outcome::Key(name.to_owned()),
        (false, false, false) if is_mandatory => Outcome::Refused("is missing"),
        (false, _, false) => Outcome::Absent,
    }
}

fn outcome(kind: &str, all: &[&str], name: &str, given: Given) -> Outcome {
    let mut literals: Map<String, Value> = all
        .iter()
        .filter(|other| **other != name)
        .map(|other| ((*other).to_owned(), json!("x")))
        .collect();
    if given.literal {
        literals.insert(name.to_owned(), json!("swordfish"));
    }
    let mut from = Map::new();
    if given.secret {
        from.insert("name".to_owned(), json!("db"));
    }
    if given.key {
        from.insert(format!("{name}Key"), json!("its.key"));
    }
    let mut config = json!({ "service": "db", "credentials": literals });
    if given.secret || given.key {
        config["credentialsFromSecret"] = Value::Object(from);
    }
    let store: StatefulStore = serde_json::from_value(json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore", "metadata": { "name": "carts" },
        "spec": { "type": kind, "deployment": "Unmanaged", "config": config },
    }))
    .unwrap();
    let service: StatefulService = serde_json::from_value(json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService", "metadata": { "name": "cart" },
        "spec": {
            "containers": [{ "image": "cart:1" }],
            "datastore": { "name": "carts", "config": { "keyspace": "carts" } },
        },
    }))
    .unwrap();
    let settings = Settings::default();
    let inputs = Inputs { store: Some(store), ..Inputs::default() };
    let plan = match validate(&settings, &service, &inputs) {
        Ok(plan) => plan,
        Err(problems) => {
            let told = problems.to_string();
            assert!(!told.contains("swordfish"), "{told}");
            let known =
                ["credentialsFromSecret.name is missing", "keep one of the two", "is missing"];
            let part = known.into_iter().find(|part| told.contains(part));
            return Outcome::Refused(part.unwrap_or_else(|| panic!("{told}")));
        }
    };
    let pod = render(&settings, &plan).deployment.spec.unwrap().template.spec.unwrap();
    let variable = format!("{}_{}", kind.to_uppercase(), name.to_uppercase());
    let found = pod.containers[1].env.iter().flatten().find(|given| given.name == variable);
    match found {
        None => Outcome::Absent,
        Some(EnvVar { value: Some(value), .. }) => {
            assert_eq!(value, "swordfish");
            Outcome::Literal
        }
        Some(EnvVar { value_from, .. }) => {
            let key = value_from.clone().unwrap().secret_key_ref.unwrap();
            assert_eq!((key.name.as_str(), key.optional), ("db", None));
            Outcome::Key(key.key)
        }
    }
}

#[test]
fn every_credential_is_taken_from_where_the_table_says() {
    let stores: [(&str, &[&str], &[&str]); 2] = [
        ("Postgres", &["database", "username", "password"], &["schema"]),
        ("Cassandra", &[], &["username", "password"]),
    ];
    let mut rows = 0;
    for (kind, mandatory, optional) in stores {
        for name in mandatory.iter().chain(optional) {
            for bits in 0..8_u8 {
                let given =
                    Given { literal: bits & 4 > 0, secret: bits & 2 > 0, key: bits & 1 > 0 };
                let expected = table(name, mandatory.contains(name), given);
                let seen = outcome(kind, mandatory, name, given);
                assert_eq!(seen, expected, "{kind} {name}, {given:?}");
                rows += 1;
            }
        }
    }
    assert_eq!(rows, 48);
}
