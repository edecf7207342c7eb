//! Specs that are refused, each with the exact words: every file of `tests/refused` has a StatefulService
//! or a StatefulStore, the stores of its namespace, and at its top who refuses it and what is said.
//!
//! Those that `validation` refuses are refused here. Those that the `API server` refuses, by schema or by
//! CEL, are sent to a real one by the end-to-end scenario `refused_specs_are_refused_in_these_words`.
//! `UPDATE_GENERATED=1` writes what validation says anew; read the difference before you keep it.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use std::path::{Path, PathBuf};
use std::{env, fs};

use api::{StatefulService, StatefulStore};
use kube::ResourceExt;
use serde_json::Value;
use translate::{Inputs, Settings, validate};

const BY_VALIDATION: &str = "# Refused by the validation:";
const BY_THE_API_SERVER: &str = "# Refused by the API server:";

struct Case {
    file: PathBuf,
    by: String,
    /// What is said, line by line.
    says: Vec<String>,
    yaml: String,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(read).collect()
}

fn read(file: PathBuf) -> Case {
    let text = fs::read_to_string(&file).unwrap();
    let (comments, yaml): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    let (by, says) = comments.split_first().expect("a case says who refuses it");
    let says = says.iter().map(|line| line.trim_start_matches("# ").to_owned()).collect();
    Case { by: (*by).to_owned(), says, yaml: yaml.join("\n"), file }
}

/// What validation says to it, line by line.
fn refusal(case: &Case) -> Vec<String> {
    let mut service = None;
    let mut stores = Vec::new();
    for document in case.yaml.split("\n---\n") {
        let document: Value = serde_saphyr::from_str(document).unwrap();
        if document["kind"] == "StatefulStore" {
            stores.push(serde_json::from_value::<StatefulStore>(document).unwrap());
        } else {
            service = Some(serde_json::from_value::<StatefulService>(document).unwrap());
        }
    }
    let mut service = service.expect("validation is of services");
    service.metadata.namespace = Some("default".to_owned());
    service.metadata.uid = Some("6f0c0b5e-0000-4000-8000-000000000000".to_owned());
    let wanted = service.spec.datastore.as_ref().map(|datastore| datastore.name.clone());
    let store = stores.into_iter().find(|store| Some(store.name_any()) == wanted);
    let mut settings = Settings::default();
    settings.proxy.image.jvm = Some("registry.example/sidecar-jvm:1".to_owned());
    match validate(&settings, &service, &Inputs { store, ..Inputs::default() }) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            problems.iter().map(|problem| format!("{}: {problem}", problem.reason())).collect()
        }
    }
}

#[test]
fn validation_refuses_each_in_these_words() {
    #[expect(clippy::disallowed_methods, reason = "a test's switch, not configuration")]
    let update = env::var("UPDATE_GENERATED").is_ok_and(|value| value == "1");
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.by == BY_VALIDATION) {
        let said = refusal(case);
        if said.is_empty() || said != case.says {
            wrong.push(format!("{}: {said:#?}", case.file.display()));
        }
        if update {
            let mut lines = vec![BY_VALIDATION.to_owned()];
            lines.extend(said.iter().map(|line| format!("# {line}")));
            lines.push(case.yaml.clone());
            fs::write(&case.file, lines.join("\n") + "\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "refused otherwise, or not at all:\n{}", wrong.join("\n"));
}

#[test]
fn there_are_enough_and_each_says_who_refuses_it_and_how() {
    let cases = cases();
    for case in &cases {
        let file = case.file.display();
        assert!([BY_VALIDATION, BY_THE_API_SERVER].contains(&case.by.as_str()), "{file}");
        assert!(!case.says.is_empty(), "{file} does not say what is expected");
    }
    assert!(cases.len() >= 150, "only {} cases", cases.len());
}

/// Each message names the field, and tells what to do after a colon.
#[test]
fn messages_name_a_field_and_tell_what_to_do() {
    for case in cases().iter().filter(|case| case.by == BY_VALIDATION) {
        for line in &case.says {
            let file = case.file.display();
            let (_, message) = line.split_once(": ").unwrap();
            let names_a_field = ["spec.", "metadata."].iter().any(|root| message.contains(root));
            assert!(names_a_field, "{file}: {line}");
            assert!(message.contains(": "), "{file} does not tell what to do: {line}");
        }
    }
}
