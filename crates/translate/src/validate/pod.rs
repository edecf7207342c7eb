//! What the spec says of the pods besides their containers.

use api::StatefulServiceSpec;

use crate::render::SSL_VOLUME;
use crate::{Binding, Problem};

pub(super) fn check(
    spec: &StatefulServiceSpec,
    store: Option<&Binding>,
    problems: &mut Vec<Problem>,
) {
    let is_ours = store.and_then(Binding::files).is_some();
    for (index, volume) in spec.volumes.iter().enumerate() {
        if is_ours && volume.name == SSL_VOLUME {
            problems.push(Problem::field(
                format!("spec.volumes[{index}].name"),
                format!(
                    "is {SSL_VOLUME:?}, which is the name of a volume of ours: choose another name"
                ),
            ));
        }
    }
}
