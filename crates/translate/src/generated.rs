//! Valid services by the hundred, each from a number: the same number always gives the same one.
//!
//! For tests that say "whatever the spec": nothing valid is refused, and going from any spec to any
//! other ends where a fresh start ends. Only behind the feature `test-util`.

mod containers;
mod pod;

use api::{StatefulService, StatefulStore};
use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::settings::{
    Address, Choice, ContactPoints, Images, Proxy, Rbac, RbacMode, Selector, Switch,
};
use crate::{Inputs, Settings};

/// Name of every generated service.
pub const SERVICE: &str = "generated";
/// Name of every generated store.
pub const STORE: &str = "generated-store";
/// Uid of every generated service.
pub const UID: &str = "6f0c0b5e-0000-4000-8000-000000000000";

/// A service that is valid, and what stands around it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The operator's settings.
    pub settings: Settings,
    /// The service, as the API server would hand it out.
    pub service: StatefulService,
    /// The store that it names, if it names one.
    pub store: Option<StatefulStore>,
}

impl Case {
    /// What would be read for the service before anything was made of it.
    pub fn inputs(&self) -> Inputs {
        Inputs { store: self.store.clone(), deployment: None, native_sidecars: true }
    }
}

/// The valid service of that number.
pub fn case(seed: u64) -> Case {
    let mut dice = Dice(Rng::with_seed(seed));
    let settings = settings(&mut dice);
    let store = dice.sometimes(store);
    let service = service(&mut dice, store.is_some());
    Case { settings, service, store }
}

/// Two valid services of one name and uid, under the same settings: what a user edits, and what it becomes.
pub fn pair(seed: u64) -> (Case, Case) {
    let before = case(seed.wrapping_mul(2));
    let after = Case { settings: before.settings.clone(), ..case(seed.wrapping_mul(2) + 1) };
    (before, after)
}

/// Chance, in the words that a spec needs.
struct Dice(Rng);

impl Dice {
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())].clone()
    }

    fn flip(&mut self) -> bool {
        self.0.bool()
    }

    fn number(&mut self, range: std::ops::RangeInclusive<i32>) -> i32 {
        self.0.i32(range)
    }

    fn sometimes<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flip().then(|| make(self))
    }

    /// Sets the field, or leaves it out.
    fn field(
        &mut self,
        object: &mut Map<String, Value>,
        name: &str,
        make: impl FnOnce(&mut Self) -> Value,
    ) {
        if let Some(value) = self.sometimes(make) {
            object.insert(name.to_owned(), value);
        }
    }

    /// Some of these, in their order.
    fn some_of<T: Clone>(&mut self, of: &[T]) -> Vec<T> {
        of.iter().filter(|_| self.0.bool()).cloned().collect()
    }
}

fn settings(dice: &mut Dice) -> Settings {
    Settings {
        proxy: Proxy {
            image: Images {
                jvm: Some("registry.example/sidecar-jvm:1".to_owned()),
                ..Images::default()
            },
            native_sidecar: dice.one(&[Choice::Off, Choice::Auto, Choice::On]),
            required_contact_points: dice.one(&[
                ContactPoints::default(),
                ContactPoints::Auto(crate::settings::AutoWord::Auto),
            ]),
            istio_annotations: dice.flip(),
            ..Proxy::default()
        },
        selector: dice.one(&[Selector::Uid, Selector::Name]),
        rbac: Rbac {
            mode: dice.one(&[RbacMode::Role, RbacMode::Bind]),
            dedicated_service_account: dice.flip(),
        },
        service: Address { expose_metrics: dice.flip() },
        network_policy: dice.one(&[Switch::Off, Switch::On]),
        passivation_timeout: dice.sometimes(|_| "45s".to_owned()),
        ..Settings::default()
    }
}

fn store(dice: &mut Dice) -> StatefulStore {
    let spec = match dice.number(0..=2) {
        0 => json!({ "type": "InMemory" }),
        1 => json!({ "type": "Postgres", "deployment": "Unmanaged", "config": postgres(dice) }),
        _ => json!({ "type": "Cassandra", "deployment": "Unmanaged", "config": cassandra(dice) }),
    };
    let store = json!({
        "apiVersion": "cloudstate.io/v1alpha1",
        "kind": "StatefulStore",
        "metadata": { "name": STORE, "namespace": "default", "generation": dice.number(1..=9) },
        "spec": spec,
    });
    serde_json::from_value(store).expect("a generated store is a store")
}

fn postgres(dice: &mut Dice) -> Value {
    let mut config = map(json!({ "service": dice.one(&["db", "db.example.com", "10.0.0.7"]) }));
    dice.field(&mut config, "port", |dice| json!(dice.number(1..=65535)));
    credentials(dice, &mut config, &["database", "username", "password"], &["schema"]);
    dice.field(&mut config, "ssl", |dice| {
        let mode = dice.one(&["disable", "prefer", "require", "verify-ca", "verify-full"]);
        let mut ssl = map(json!({ "mode": mode }));
        if mode.starts_with("verify") || dice.flip() {
            ssl.insert("secret".to_owned(), json!("db-tls"));
            ssl.insert("rootCert".to_owned(), json!("ca.crt"));
            if dice.flip() {
                ssl.insert("cert".to_owned(), json!("tls.crt"));
                ssl.insert("key".to_owned(), json!("tls.key"));
            }
        }
        Value::Object(ssl)
    });
    Value::Object(config)
}

fn cassandra(dice: &mut Dice) -> Value {
    let mut config = map(json!({ "service": dice.one(&["ring", "ring.example.com"]) }));
    dice.field(&mut config, "port", |dice| json!(dice.number(1..=65535)));
    credentials(dice, &mut config, &[], &["username", "password"]);
    Value::Object(config)
}

/// Each credential in plain text, or under a key of a Secret, or left to its default.
fn credentials(
    dice: &mut Dice,
    config: &mut Map<String, Value>,
    mandatory: &[&str],
    optional: &[&str],
) {
    let mut literals = Map::new();
    let mut secret = map(json!({ "name": "db-credentials" }));
    for name in mandatory.iter().chain(optional) {
        match dice.number(0..=2) {
            0 => drop(literals.insert((*name).to_owned(), json!(format!("{name} in plain text")))),
            1 => drop(secret.insert(format!("{name}Key"), json!(format!("{name}.txt")))),
            _ => {}
        }
    }
    let all_literal = mandatory.iter().all(|name| literals.contains_key(*name));
    if secret.len() > 1 || !all_literal || dice.flip() {
        config.insert("credentialsFromSecret".to_owned(), Value::Object(secret));
    }
    if !literals.is_empty() {
        config.insert("credentials".to_owned(), Value::Object(literals));
    }
}

fn service(dice: &mut Dice, has_store: bool) -> StatefulService {
    let mut metadata = map(json!({ "name": SERVICE, "namespace": "default", "uid": UID }));
    dice.field(&mut metadata, "labels", |dice| {
        let labels = [
            ("app", "carts"),
            ("team", "checkout"),
            ("helm.sh/chart", "carts-1.0"),
            ("example.com/tier", ""),
        ];
        pairs(&dice.some_of(&labels))
    });
    dice.field(&mut metadata, "annotations", |dice| {
        let annotations = [
            ("cloudstate.io/proxy-kind", "jvm"),
            ("cloudstate.io/restartedAt", "2026-01-01T00:00:00Z"),
            ("example.com/owner", "checkout@example.com"),
            ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
            ("argocd.argoproj.io/sync-wave", "3"),
        ];
        pairs(&dice.some_of(&annotations))
    });
    let service = json!({
        "apiVersion": "cloudstate.io/v1alpha1",
        "kind": "StatefulService",
        "metadata": metadata,
        "spec": pod::spec(dice, has_store),
    });
    serde_json::from_value(service).expect("a generated service is a service")
}

fn pairs(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>().into()
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("an object is written above, not {other}"),
    }
}
