//! The resource definitions in `deploy/crds` are those of the code, small enough for plain
//! `kubectl apply`, and strict. `UPDATE_GENERATED=1` writes them anew.

use std::{env, fs, path::PathBuf};

use api::{StatefulService, StatefulStore};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

/// Client-side `kubectl apply` keeps the object in an annotation; all annotations together may have
/// 262,144 bytes. Half of it leaves room to grow.
const SIZE_MAX: usize = 128 * 1024;

fn definitions() -> [CustomResourceDefinition; 2] {
    [StatefulService::crd(), StatefulStore::crd()]
}

#[test]
fn definitions_in_deploy_are_those_of_the_code() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for definition in definitions() {
        let name = &definition.spec.names.plural;
        let file = folder.join(format!("{name}.yaml"));
        let fresh = format!(
            "# Generated from crates/api. Write it anew: UPDATE_GENERATED=1 cargo test -p api --test crds\n{}",
            serde_saphyr::to_string(&definition).unwrap()
        );
        #[expect(clippy::disallowed_methods, reason = "a test's switch, not configuration")]
        if env::var("UPDATE_GENERATED").is_ok_and(|value| value == "1") {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, &fresh).unwrap();
        }
        let stored = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            stored == fresh,
            "{} is stale: run UPDATE_GENERATED=1 cargo test -p api --test crds",
            file.display()
        );
        let read_back: CustomResourceDefinition = serde_saphyr::from_str(&stored).unwrap();
        assert_eq!(read_back, definition);
    }
}

#[test]
fn definitions_fit_into_the_annotation_of_kubectl_apply() {
    for definition in definitions() {
        let size = serde_json::to_string(&definition).unwrap().len();
        assert!(size < SIZE_MAX, "{} has {size} bytes", definition.spec.names.plural);
    }
}

#[test]
fn only_free_objects_take_unknown_fields() {
    for definition in definitions() {
        let mut free = Vec::new();
        find_free(&serde_json::to_value(&definition).unwrap(), "", &mut free);
        assert!(
            free.iter().all(|path| path.ends_with("/config")),
            "{} takes unknown fields at {free:?}",
            definition.spec.names.plural
        );
    }
}

#[test]
fn a_container_needs_an_image_and_no_name() {
    let schema = serde_json::to_value(StatefulService::crd()).unwrap();
    let containers = schema
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/containers")
        .unwrap();
    assert_eq!(containers["items"]["required"], serde_json::json!(["image"]));
    assert_eq!(containers["minItems"], 1);
    assert_eq!(containers["maxItems"], 16);
}

#[test]
fn replicas_default_to_one_for_the_scale_subresource() {
    let schema = serde_json::to_value(StatefulService::crd()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    assert_eq!(schema.pointer(&format!("{spec}/replicas/default")), Some(&Value::from(1)));
}

fn find_free(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
                found.push(path.to_owned());
            }
            for (key, value) in map {
                find_free(value, &format!("{path}/{key}"), found);
            }
        }
        Value::Array(items) => items.iter().for_each(|value| find_free(value, path, found)),
        _ => {}
    }
}
