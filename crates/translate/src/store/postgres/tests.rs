use serde_json::json;

use super::*;

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("not an object: {value}") };
    map
}

/// The faults of a configuration as lines.
fn faults(config: Value) -> Vec<String> {
    let faults = read(&object(config)).expect_err("nothing is wrong");
    faults.into_problems("s").map(|problem| problem.to_string()).collect()
}

#[track_caller]
fn check(config: Value, parts: &[&[&str]]) {
    let faults = faults(config);
    assert_eq!(faults.len(), parts.len(), "{faults:#?}");
    for (fault, parts) in faults.iter().zip(parts) {
        for part in *parts {
            assert!(fault.contains(part), "{part:?} is missing in {fault:?}");
        }
    }
}

/// One row of the table of credentials: literal, Secret and explicit key, each given or not.
fn row(
    literal: bool,
    secret: bool,
    key: bool,
    look: impl Fn(&Credentials<'_>, &mut Faults) -> Found<Credential>,
) -> Result<Option<Credential>, Vec<String>> {
    let mut config = Map::new();
    if literal {
        config.insert("credentials".to_owned(), json!({ "password": "swordfish" }));
    }
    let mut from = Map::new();
    if secret {
        from.insert("name".to_owned(), json!("cart-db"));
    }
    if key {
        from.insert("passwordKey".to_owned(), json!("pass"));
    }
    if secret || key {
        config.insert("credentialsFromSecret".to_owned(), Value::Object(from));
    }
    let mut faults = Faults::default();
    let credentials = Credentials::read(&Section::root(&config), &mut faults);
    let found = look(&credentials, &mut faults);
    let faults: Vec<_> = faults.into_problems("s").map(|problem| problem.to_string()).collect();
    if faults.is_empty() { Ok(found.unwrap()) } else { Err(faults) }
}

#[test]
fn every_row_of_the_table_of_credentials() {
    let literal = || Ok(Some(Credential::Literal("swordfish".to_owned())));
    let secret =
        |key: &str| Ok(Some(Credential::Secret { name: "cart-db".into(), key: key.into() }));
    let fault = |found: Result<_, Vec<String>>, parts: &[&str]| {
        let faults = found.expect_err("nothing is wrong");
        assert_eq!(faults.len(), 1, "{faults:?}");
        for part in parts {
            assert!(faults[0].contains(part), "{part:?} is missing in {faults:?}");
        }
        assert!(!faults[0].contains("swordfish"), "{faults:?}");
    };
    let twice = ["spec.config.credentials.password", "credentialsFromSecret.passwordKey"];
    let nameless = ["spec.config.credentialsFromSecret.name", "missing"];

    let mandatory = |literal, secret, key| {
        row(literal, secret, key, |all, faults| all.mandatory("password", faults).map(Some))
    };
    fault(mandatory(true, true, true), &twice);
    assert_eq!(mandatory(true, true, false), literal());
    assert_eq!(mandatory(true, false, false), literal());
    fault(mandatory(true, false, true), &nameless);
    assert_eq!(mandatory(false, true, true), secret("pass"));
    assert_eq!(mandatory(false, true, false), secret("password"));
    fault(mandatory(false, false, true), &nameless);
    fault(mandatory(false, false, false), &["spec.config.credentials.password", "missing"]);

    let optional = |literal, secret, key| {
        row(literal, secret, key, |all, faults| all.optional("password", faults))
    };
    fault(optional(true, true, true), &twice);
    assert_eq!(optional(true, true, false), literal());
    assert_eq!(optional(true, false, false), literal());
    assert_eq!(optional(false, true, true), secret("pass"));
    assert_eq!(optional(false, true, false), Ok(None));
    fault(optional(false, false, true), &nameless);
    assert_eq!(optional(false, false, false), Ok(None));
}

#[test]
fn all_that_is_wrong_is_said_at_once_without_values() {
    check(
        json!({
            "port": 70000,
            "credentials": { "password": ["swordfish"], "username": "" },
            "ssl": { "mode": "maybe", "cert": "tls.crt" },
        }),
        &[
            &["StatefulStore \"s\"", "spec.config.credentials.database", "missing"],
            &["spec.config.credentials.password", "a list"],
            &["spec.config.credentials.username", "empty"],
            &["spec.config.port", "70000", "65535"],
            &["spec.config.service", "missing"],
            &["spec.config.ssl.cert", "spec.config.ssl.secret"],
            &["spec.config.ssl.mode", "\"maybe\"", "\"verify-full\""],
        ],
    );
}

#[test]
fn sections_of_another_shape_are_told_once() {
    check(
        json!({ "service": 5, "credentialsFromSecret": "cart-db", "ssl": true }),
        &[
            &["spec.config.credentialsFromSecret", "a text", "an object"],
            &["spec.config.service", "a number"],
            &["spec.config.ssl", "true or false"],
        ],
    );
}

fn with_tls(tls: &Value) -> Value {
    json!({ "service": "db", "credentialsFromSecret": { "name": "cart-db" }, "ssl": tls })
}

#[test]
fn checking_the_server_needs_the_certificate_of_its_authority() {
    check(with_tls(&json!({ "mode": "verify-full" })), &[&["spec.config.ssl.rootCert", "missing"]]);
    let half = json!({ "mode": "require", "secret": "tls", "key": "tls.key" });
    check(with_tls(&half), &[&["spec.config.ssl.cert", "missing"]]);
    let whole = json!({ "mode": "verify-full", "secret": "tls", "rootCert": "ca.crt" });
    let tls = read(&object(with_tls(&whole))).unwrap().tls.unwrap();
    assert_eq!((tls.mode.as_str(), tls.root_cert.as_deref()), ("verify-full", Some("ca.crt")));
}

#[test]
fn a_password_does_not_show_in_debug_output() {
    let plain = json!({
        "service": "db",
        "credentials": { "database": "d", "username": "u", "password": "swordfish" },
    });
    let postgres = read(&object(plain)).unwrap();
    assert!(!format!("{postgres:?}").contains("swordfish"));
    let fields = ["database", "password", "username"];
    assert_eq!(postgres.plaintext(), fields.map(|key| format!("spec.config.credentials.{key}")));
}
