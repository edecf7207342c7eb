//! `docs/fields.md` tells the truth: every field of the schemas has a row, and the golden cases that a row names set
//! the field and depend on it. The scenarios that it names are looked for by `xtask`.

#![expect(clippy::unwrap_used, reason = "a broken page may end the test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::support::{Documents, read, translate};

/// Lists that have a row for each field of their items.
const ITEMS: [&str; 1] = ["spec.containers"];
/// What is not rendered, for the reasons that the page gives.
const NOT_RENDERED: [&str; 5] = [
    "spec.autoscaling",
    "spec.paused",
    "spec.containers[].name",
    "spec.containers[].stdin",
    "spec.containers[].tty",
];

/// What objects hold that the schemas leave open, by kind and field.
const OPEN: [(&str, &str, &[&str]); 2] = [
    ("StatefulService", "spec.datastore.config", &["keyspace", "schema"]),
    (
        "StatefulStore",
        "spec.config",
        &[
            "service",
            "port",
            "credentials",
            "credentials.database",
            "credentials.username",
            "credentials.password",
            "credentials.schema",
            "credentialsFromSecret",
            "credentialsFromSecret.name",
            "credentialsFromSecret.databaseKey",
            "credentialsFromSecret.usernameKey",
            "credentialsFromSecret.passwordKey",
            "credentialsFromSecret.schemaKey",
            "ssl",
            "ssl.mode",
            "ssl.secret",
            "ssl.rootCert",
            "ssl.cert",
            "ssl.key",
        ],
    ),
];

struct Row {
    kind: &'static str,
    field: String,
    golden: Vec<String>,
    scenarios: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the page, under the heading of their kind.
fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/fields.md")).unwrap();
    let names = |cell: &str| {
        let names = cell.split('`').skip(1).step_by(2).map(str::to_owned);
        names.collect::<Vec<_>>()
    };
    let mut kind = "";
    let mut rows = Vec::new();
    for line in page.lines() {
        match line {
            "## StatefulService" => kind = "StatefulService",
            "## StatefulStore" => kind = "StatefulStore",
            _ => {}
        }
        let Some(line) = line.strip_prefix("| `") else { continue };
        let cells: Vec<_> = line.trim_end_matches(" |").split(" | ").collect();
        let (field, golden, scenarios) = match cells[..] {
            [field, scenarios] => (field, Vec::new(), names(scenarios)),
            [field, golden, scenarios] => (field, names(golden), names(scenarios)),
            _ => panic!("a row of two or three cells, not {line}"),
        };
        rows.push(Row { kind, field: field.trim_end_matches('`').to_owned(), golden, scenarios });
    }
    rows
}

/// The fields of a kind as its schema has them. What Kubernetes defines has no descriptions there, and is one field.
fn fields(kind: &str) -> Vec<String> {
    let file = format!("deploy/crds/{}s.yaml", kind.to_lowercase());
    let definition: Value =
        serde_saphyr::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        walk(&schema[part], part, &mut found);
    }
    let open = OPEN.iter().filter(|(of, ..)| *of == kind);
    found.extend(
        open.flat_map(|(_, field, keys)| keys.iter().map(move |key| format!("{field}.{key}"))),
    );
    found
}

fn walk(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        found.push(path.clone());
        let is_ours = field["properties"]
            .as_object()
            .is_some_and(|fields| fields.values().all(|field| !field["description"].is_null()));
        if is_ours {
            walk(field, &path, found);
        } else if ITEMS.contains(&path.as_str()) {
            walk(&field["items"], &format!("{path}[]"), found);
        }
    }
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    for kind in ["StatefulService", "StatefulStore"] {
        let mut fields = fields(kind);
        let mut rows: Vec<_> =
            rows().into_iter().filter(|row| row.kind == kind).map(|row| row.field).collect();
        fields.sort();
        rows.sort();
        assert_eq!(rows, fields, "{kind}");
    }
}

#[test]
fn no_cell_is_empty() {
    for Row { kind, field, golden, scenarios } in rows() {
        assert!(!scenarios.is_empty(), "{kind} {field} has no scenario");
        assert_eq!(golden.is_empty(), field.starts_with("status."), "{kind} {field}: {golden:?}");
    }
}

/// A case covers a field if the field is set there, and something else comes out without it.
#[test]
fn golden_cases_cover_the_fields_that_they_are_named_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    // Many rows name the same case.
    let mut outcomes: BTreeMap<String, Result<String, String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Row { kind, field, golden, .. } in rows() {
        for case in golden {
            let path = folder.join(&case);
            assert!(path.join("input.yaml").exists(), "{field}: there is no golden case {case}");
            let with =
                outcomes.entry(case.clone()).or_insert_with(|| translate(&read(&path).parse()));
            let Some(documents) = without(read(&path), kind, &field) else {
                wrong.push(format!("{case} does not set {field}"));
                continue;
            };
            let makes_no_difference =
                documents.try_parse().is_some_and(|case| translate(&case) == *with);
            let is_rendered = !NOT_RENDERED.iter().any(|not| {
                field.strip_prefix(not).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if makes_no_difference == is_rendered {
                wrong.push(format!("{case} with or without {field}: same {makes_no_difference}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same without that field of that kind, or nothing if it is not set.
fn without(mut documents: Documents, kind: &str, field: &str) -> Option<Documents> {
    let mut found = false;
    for document in documents.0.iter_mut().filter(|document| document["kind"] == kind) {
        found |= remove(document, field);
    }
    found.then_some(documents)
}

fn remove(value: &mut Value, path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(object) = value.as_object_mut() else { return false };
    let Some(rest) = rest else { return object.remove(name).is_some() };
    match name.strip_suffix("[]") {
        // The first container is the user function, the others go on as they are.
        Some(name) => match object.get_mut(name).and_then(|list| list.get_mut(0)) {
            Some(first) => remove(first, rest),
            None => false,
        },
        None => object.get_mut(name).is_some_and(|inner| remove(inner, rest)),
    }
}
