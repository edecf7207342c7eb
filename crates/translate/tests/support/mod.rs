//! Golden cases, read and translated.

use std::fmt::Write;
use std::fs;
use std::path::Path;

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

/// What a golden case says, document by document.
pub(crate) struct Documents(pub(crate) Vec<Value>);

/// A service, as the API server would hand it out, and what is known besides.
pub(crate) struct Case {
    settings: Settings,
    service: StatefulService,
    inputs: Inputs,
}

/// What goes into a golden case.
pub(crate) fn read(case: &Path) -> Documents {
    let input = fs::read_to_string(case.join("input.yaml")).unwrap();
    let documents = input.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap());
    Documents(documents.collect())
}

impl Documents {
    /// The case that they are, unless something is missing that must be there.
    pub(crate) fn try_parse(self) -> Option<Case> {
        let mut settings = settings();
        let mut service: Option<StatefulService> = None;
        let mut stores: Vec<StatefulStore> = Vec::new();
        let mut deployment = None;
        for mut document in self.0 {
            match document["kind"].as_str() {
                Some("StatefulService") => {
                    service = Some(serde_json::from_value(document).ok()?);
                }
                Some("StatefulStore") => stores.push(serde_json::from_value(document).ok()?),
                Some("Deployment") => {
                    let found: Deployment = serde_json::from_value(document).unwrap();
                    deployment = Some(Observed::of(&found));
                }
                Some("Settings") => {
                    let given: Settings =
                        serde_json::from_value(document["settings"].take()).unwrap();
                    let proxy = Proxy { image: settings.proxy.image, ..given.proxy };
                    settings = Settings { proxy, ..given };
                }
                other => panic!("unexpected kind {other:?}"),
            }
        }
        let mut service = service.expect("a case has a StatefulService");
        service.metadata.namespace.get_or_insert_with(|| "default".to_owned());
        service.metadata.uid = Some("6f0c0b5e-0000-4000-8000-000000000000".to_owned());
        let wanted = service.spec.datastore.as_ref().map(|datastore| datastore.name.clone());
        let store = stores.into_iter().find(|store| Some(store.name_any()) == wanted);
        let inputs = Inputs { store, deployment, native_sidecars: true };
        Some(Case { settings, service, inputs })
    }

    /// The case that they are.
    pub(crate) fn parse(self) -> Case {
        self.try_parse().expect("a case is complete")
    }
}

/// What comes out: objects and warnings as YAML, or the problems one per line.
pub(crate) fn translate(case: &Case) -> Result<String, String> {
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
