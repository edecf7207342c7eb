//! YAML in, YAML out: each folder of `tests/golden` has an `input.yaml` (one StatefulService, and
//! the StatefulStores of its namespace), and either an `expected.yaml` or an `error.txt`.
//! `UPDATE_GENERATED=1` writes the expectations anew; read the difference before you keep it.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use api::{StatefulService, StatefulStore};
use kube::ResourceExt;
use serde_json::Value;
use translate::settings::{Images, Proxy};
use translate::{Inputs, Problems, Settings, render, validate};

fn settings() -> Settings {
    let image = "registry.example/sidecar:1".to_owned();
    let images = Images {
        no_store: image.clone(),
        in_memory: image.clone(),
        postgres: image.clone(),
        cassandra: image,
        jvm: Some("registry.example/sidecar-jvm:1".to_owned()),
    };
    Settings { proxy: Proxy { image: images, ..Proxy::default() }, ..Settings::default() }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// The service of a case, as the API server would hand it out, and what was read for it.
fn read(case: &Path) -> (StatefulService, Inputs) {
    let input = fs::read_to_string(case.join("input.yaml")).unwrap();
    let mut service: Option<StatefulService> = None;
    let mut stores: Vec<StatefulStore> = Vec::new();
    for document in input.split("\n---\n") {
        let document: Value = serde_saphyr::from_str(document).unwrap();
        match document["kind"].as_str() {
            Some("StatefulService") => service = Some(serde_json::from_value(document).unwrap()),
            Some("StatefulStore") => stores.push(serde_json::from_value(document).unwrap()),
            other => panic!("{}: unexpected kind {other:?}", case.display()),
        }
    }
    let mut service = service.expect("a case has a StatefulService");
    service.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    service.metadata.uid = Some("6f0c0b5e-0000-4000-8000-000000000000".to_owned());
    let wanted = service.spec.datastore.as_ref().map(|datastore| datastore.name.clone());
    let store = stores.into_iter().find(|store| Some(store.name_any()) == wanted);
    (service, Inputs { store, ..Inputs::default() })
}

/// What comes out: objects and warnings as YAML, or the problems one per line.
fn translate(service: &StatefulService, inputs: &Inputs) -> Result<String, String> {
    let plan = validate(&settings(), service, inputs).map_err(|problems| lines(&problems))?;
    let objects = render(&settings(), &plan);
    let mut text = String::new();
    if let Some(message) = plan.pinned() {
        writeln!(text, "# pinned: {message}").unwrap();
    }
    for warning in plan.warnings() {
        writeln!(text, "# {}: {}", warning.reason, warning.message).unwrap();
    }
    let documents: Vec<_> =
        objects.into_iter().map(|object| serde_saphyr::to_string(&object).unwrap()).collect();
    text += &documents.join("---\n");
    Ok(text)
}

fn lines(problems: &Problems) -> String {
    let mut text = String::new();
    for problem in problems.iter() {
        writeln!(text, "{}: {problem}", problem.reason()).unwrap();
    }
    text
}

#[test]
fn every_case_comes_out_as_expected() {
    #[expect(clippy::disallowed_methods, reason = "a test's switch, not configuration")]
    let update = env::var("UPDATE_GENERATED").is_ok_and(|value| value == "1");
    let mut wrong = Vec::new();
    for case in cases() {
        let (service, inputs) = read(&case);
        let (wanted, other, actual) = match translate(&service, &inputs) {
            Ok(yaml) => ("expected.yaml", "error.txt", yaml),
            Err(problems) => ("error.txt", "expected.yaml", problems),
        };
        if update {
            fs::write(case.join(wanted), &actual).unwrap();
            fs::remove_file(case.join(other)).ok();
        }
        let stored = fs::read_to_string(case.join(wanted)).unwrap_or_default();
        if stored != actual || case.join(other).exists() {
            wrong.push(format!("{}/{wanted} should be:\n{actual}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases().len() >= 10, "cases are missing");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    for case in cases() {
        let (service, inputs) = read(&case);
        assert_eq!(translate(&service, &inputs), translate(&service, &inputs));
    }
}

#[test]
fn rendered_variables_have_names_of_their_own() {
    for case in cases() {
        let (service, inputs) = read(&case);
        let Ok(plan) = validate(&settings(), &service, &inputs) else { continue };
        let deployment = render(&settings(), &plan).deployment;
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        for container in pod.containers {
            let mut names: Vec<_> =
                container.env.unwrap_or_default().into_iter().map(|each| each.name).collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all, "{}: {}", case.display(), container.name);
        }
    }
}
