//! A Deployment that somebody edits by hand.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use super::manifests::{DEPLOYMENT, SERVICE, sample};
use crate::e2e::{
    namespace::{Namespace, READY},
    wait::{promptly, until},
};

const RESTORED: Duration = Duration::from_secs(2);

/// What is ours comes back, what is not ours is left alone.
pub(super) fn edits_by_hand_are_restored_within_two_seconds(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let target = format!("deployment/{DEPLOYMENT}");
    namespace.kubectl(&["annotate", &target, "example.com/note=keep me"])?;

    let edits: [(&str, &[&str], &str); 3] = [
        (
            "image",
            &["set", "image", &target, "user-container=example.com/other:1"],
            "/spec/template/spec/containers/0/image",
        ),
        (
            "label",
            &["label", &target, "--overwrite", "cloudstate.io/statefulService=other"],
            "/metadata/labels/cloudstate.io~1statefulService",
        ),
        ("replicas", &["scale", &target, "--replicas=3"], "/spec/replicas"),
    ];
    for (name, edit, pointer) in edits {
        let what = format!("the {name} edited by hand is restored");
        let took = promptly(&what, RESTORED, |_| restored(namespace, name, edit, pointer))?;
        namespace.note(format!("{name} seen restored after {took}, of which most is kubectl"));
    }
    let note =
        namespace.get("deployment", DEPLOYMENT)?["metadata"]["annotations"]["example.com/note"]
            .take();
    ensure!(note == "keep me", "the foreign annotation is now {note}");
    Ok(())
}

/// Edits the field, and says after how long it was seen to be as before.
fn restored(
    namespace: &Namespace<'_>,
    name: &str,
    edit: &[&str],
    pointer: &str,
) -> anyhow::Result<Duration> {
    let value = |object: &Value| object.pointer(pointer).cloned().unwrap_or_default();
    let original = namespace.get("deployment", DEPLOYMENT)?;
    if name == "replicas" {
        // `kubectl scale` prints no object; that it was taken shows in the version below.
        namespace.kubectl(edit)?;
    } else {
        let printed = namespace.kubectl(&[edit, &["--output=json"]].concat())?;
        let edited = serde_json::from_str::<Value>(&printed)?;
        ensure!(value(&edited) != value(&original), "kubectl did not edit the {name}");
    }
    let (restored, took) = until(&format!("the {name} is as before"), READY, || {
        let now = namespace.get("deployment", DEPLOYMENT)?;
        let seen = value(&now);
        Ok(if seen == value(&original) { Ok(now) } else { Err(seen.to_string()) })
    })?;
    // Both the edit and its repair leave a new version; without them nothing was edited at all.
    ensure!(
        restored["metadata"]["resourceVersion"] != original["metadata"]["resourceVersion"],
        "the {name} was never edited"
    );
    Ok(took)
}
