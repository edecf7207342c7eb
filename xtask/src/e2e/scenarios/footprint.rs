//! What the product costs those who do not use it right now.

use std::fs;

use anyhow::{Context as _, ensure};

use super::manifests::{SERVICE, sample};
use crate::{
    e2e::{calls::Caller, namespace::Namespace, processes},
    layout,
};

/// Most that an image of ours may hold, in MB.
const IMAGE_MB_MAX: f64 = 30.0;

pub(super) fn images_are_small(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    for image in namespace.cluster.product_images() {
        let archive = megabytes(&image.archive)?;
        // An image is its programs and nothing else; the folder they were copied from is still there.
        let name = image.repository.rsplit('/').next().unwrap_or_default();
        let mut unpacked = 0.0;
        let folder = layout::images().join(name);
        for file in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            unpacked += megabytes(&file?.path())?;
        }
        namespace.note(format!("image {name}: {unpacked:.1} MB, {archive:.1} MB as an archive"));
        ensure!(archive > 1.0 && unpacked > 1.0, "image {name} holds no program");
        ensure!(unpacked <= IMAGE_MB_MAX, "image {name} has more than {IMAGE_MB_MAX} MB");
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "no image has 2^53 bytes")]
fn megabytes(path: &std::path::Path) -> anyhow::Result<f64> {
    let metadata =
        fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(metadata.len() as f64 / 1_000_000.0)
}

/// Memory of the sidecar's processes in a pod that has served a few calls.
pub(super) fn idle_memory(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    let pod = namespace.pod(SERVICE)?;
    let mut total = 0.0;
    for program in ["/proxy-launcher", "/proxy"] {
        let resident = processes::find(&pod, "cloudstate-sidecar", program)?.resident_mb()?;
        namespace.note(format!("{program}: {resident:.1} MB resident"));
        ensure!(resident > 0.0, "{program} has no memory");
        total += resident;
    }
    // Half of the limit that the operator gives the sidecar: the rest is for entities.
    ensure!(total <= 64.0, "the idle sidecar takes {total:.1} MB of 128");
    Ok(())
}
