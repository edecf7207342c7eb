//! YAML in, YAML out: each folder of `tests/golden` has an `input.yaml` (one StatefulService, the
//! StatefulStores of its namespace, its Deployment if it has one already, and the operator's `Settings`
//! where they are not the default), and either an `expected.yaml` or an `error.txt`.
//! `UPDATE_GENERATED=1` writes the expectations anew; read the difference before you keep it.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::Value;
use translate::settings::{Images, Proxy};
use translate::{Inputs, Observed, Problems, Settings, render, validate};

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

/// A service, as the API server would hand it out, and what is known besides.
struct Case {
    settings: Settings,
    service: StatefulService,
    inputs: Inputs,
}

fn read(case: &Path) -> Case {
    let input = fs::read_to_string(case.join("input.yaml")).unwrap();
    let mut settings = settings();
    let mut service: Option<StatefulService> = None;
    let mut stores: Vec<StatefulStore> = Vec::new();
    let mut deployment = None;
    for document in input.split("\n---\n") {
        let mut document: Value = serde_saphyr::from_str(document).unwrap();
        match document["kind"].as_str() {
            Some("StatefulService") => service = Some(serde_json::from_value(document).unwrap()),
            Some("StatefulStore") => stores.push(serde_json::from_value(document).unwrap()),
            Some("Deployment") => {
                let found: Deployment = serde_json::from_value(document).unwrap();
                deployment = Some(Observed::of(&found));
            }
            Some("Settings") => {
                let given: Settings = serde_json::from_value(document["settings"].take()).unwrap();
                let proxy = Proxy { image: settings.proxy.image, ..given.proxy };
                settings = Settings { proxy, ..given };
            }
            other => panic!("{}: unexpected kind {other:?}", case.display()),
        }
    }
    let mut service = service.expect("a case has a StatefulService");
    service.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    service.metadata.uid = Some("6f0c0b5e-0000-4000-8000-000000000000".to_owned());
    let wanted = service.spec.datastore.as_ref().map(|datastore| datastore.name.clone());
    let store = stores.into_iter().find(|store| Some(store.name_any()) == wanted);
    Case { settings, service, inputs: Inputs { store, deployment, native_sidecars: true } }
}

/// What comes out: objects and warnings as YAML, or the problems one per line.
fn translate(case: &Case) -> Result<String, String> {
    let Case { settings, service, inputs } = case;
    let plan = validate(settings, service, inputs).map_err(|problems| lines(&problems))?;
    let objects = render(settings, &plan);
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
        let (wanted, other, actual) = match translate(&read(&case)) {
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
