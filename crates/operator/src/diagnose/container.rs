//! What the kubelet says about the containers of one pod.

use api::condition::reason;
use api::contract::{NotReady, container, label};
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
};

use super::{Certainty, Finding, diagnosis};

/// Why an image is not there, in the kubelet's words.
const IMAGE_REASONS: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ErrImageInspect",
    "RegistryUnavailable",
];

/// Why a container with an image cannot be started, in the kubelet's words.
/// `RunContainerError` is not among them: it turns with a crash of the same container.
const CREATE_REASONS: [&str; 3] =
    ["CreateContainerConfigError", "CreateContainerError", "PostStartHookError"];

/// The containers of one pod.
pub(super) struct Containers<'a> {
    all: Vec<&'a ContainerStatus>,
    /// Name of the StatefulStore that the pod was made for.
    store: Option<&'a str>,
}

impl<'a> Containers<'a> {
    pub(super) fn of(pod: &'a Pod) -> Self {
        let status = pod.status.as_ref();
        let first = status.and_then(|status| status.init_container_statuses.as_ref());
        // Of what comes before the others, only a sidecar stays.
        let sidecar = first.into_iter().flatten().filter(|each| each.name == container::SIDECAR);
        let others = status.and_then(|status| status.container_statuses.as_ref());
        let store = pod.metadata.labels.as_ref().and_then(|all| all.get(label::STATEFUL_STORE));
        Self {
            all: sidecar.chain(others.into_iter().flatten()).collect(),
            store: store.map(String::as_str),
        }
    }

    fn sidecar(&self) -> Option<&'a ContainerStatus> {
        self.all.iter().copied().find(|status| status.name == container::SIDECAR)
    }

    fn of_the_user(&self) -> impl Iterator<Item = &'a ContainerStatus> {
        self.all.iter().copied().filter(|status| status.name != container::SIDECAR)
    }

    pub(super) fn sidecar_is_running(&self) -> bool {
        let state = self.sidecar().and_then(|status| status.state.as_ref());
        state.is_some_and(|state| state.running.is_some())
    }

    /// What the sidecar left behind, now or before it was started again.
    pub(super) fn sidecar_last_words(&self) -> Option<&'a str> {
        terminated(self.sidecar()?)?.message.as_deref()
    }

    /// An image that cannot be had, or a container that cannot be made from it.
    pub(super) fn cannot_start(&self, pod: &str) -> Option<Finding> {
        // What the user can put right comes first.
        self.of_the_user().chain(self.sidecar()).find_map(|status| {
            let waiting = waiting(status)?;
            let why = waiting.reason.as_deref()?;
            let said = waiting.message.as_deref().unwrap_or("no more is known");
            let (name, image) = (&status.name, &status.image);
            if IMAGE_REASONS.contains(&why) {
                let field = match name.as_str() {
                    container::USER => "spec.containers[0].image",
                    container::SIDECAR => "the operator's setting proxy.image",
                    _ => "the image of that name in spec.containers",
                };
                // The kubelet turns between two reasons; for us they are one.
                let message = format!(
                    "pod {pod:?}, container {name:?}: image {image:?} cannot be pulled, set {field} to one that nodes can pull: {}",
                    without_back_off(said)
                );
                return Some((Certainty::Stuck, diagnosis(reason::IMAGE_PULL_BACK_OFF, &message)));
            }
            CREATE_REASONS.contains(&why).then(|| {
                let why = why_not_created(said);
                // Of Secrets, the sidecar has none but those of the store.
                let ours =
                    name == container::SIDECAR && why != reason::CREATE_CONTAINER_ERROR;
                let advice = self.store.filter(|_| ours).map_or_else(String::new, |store| {
                    format!("; create it, or name another in spec.config of StatefulStore {store:?}")
                });
                let message =
                    format!("pod {pod:?}, container {name:?} cannot be created: {said}{advice}");
                (Certainty::Stuck, diagnosis(why, &message))
            })
        })
    }

    /// A container of the user that exits though it should serve.
    pub(super) fn user_crash(&self, pod: &str) -> Option<Finding> {
        self.of_the_user().find_map(|status| {
            let ended = terminated(status)?;
            let what = if ended.reason.as_deref() == Some("StartError") {
                "cannot be started, see its command and image"
            } else {
                "exits, though it should serve until it is told to stop"
            };
            let message =
                format!("pod {pod:?}, container {:?} {what}: {}", status.name, describe(ended));
            Some((Certainty::Failing, diagnosis(reason::CRASH_LOOP_BACK_OFF, &message)))
        })
    }

    /// A sidecar that left, now or before it was started again.
    pub(super) fn sidecar_crash(&self, pod: &str) -> Option<Finding> {
        let ended = terminated(self.sidecar()?)?;
        let said = ended.message.as_deref().and_then(parse_last_words);
        let (reason, message) = match said {
            Some(said) => (said.reason, said.message),
            None => (reason::SIDECAR_CRASHED.to_owned(), describe(ended)),
        };
        let reason = if super::is_reason(&reason) { &reason } else { reason::SIDECAR_CRASHED };
        let message = format!("pod {pod:?}, container {:?}: {message}", container::SIDECAR);
        Some((Certainty::Failing, diagnosis(reason, &message)))
    }

    /// The user's own readiness probe holds the pod back.
    pub(super) fn user_not_ready(&self, pod: &str) -> Option<Finding> {
        let status = self.of_the_user().find(|status| !status.ready)?;
        let message = format!(
            "pod {pod:?}, container {:?} is not ready by its own probe in spec.containers",
            status.name
        );
        Some((Certainty::Failing, diagnosis(reason::USER_CONTAINER_NOT_READY, &message)))
    }
}

/// What the kubelet's words come down to.
fn why_not_created(said: &str) -> &'static str {
    if said.starts_with("secret ") && said.ends_with("not found") {
        reason::SECRET_NOT_FOUND
    } else if said.starts_with("couldn't find key ") && said.contains(" in Secret ") {
        reason::SECRET_KEY_NOT_FOUND
    } else {
        reason::CREATE_CONTAINER_ERROR
    }
}

/// A sidecar that knows what is wrong says so in one line of JSON.
pub(super) fn parse_last_words(words: &str) -> Option<NotReady> {
    let last = words.lines().rev().find(|line| !line.trim().is_empty())?;
    serde_json::from_str(last).ok()
}

fn waiting(status: &ContainerStatus) -> Option<&ContainerStateWaiting> {
    status.state.as_ref()?.waiting.as_ref()
}

/// How the container ended, now or before it was started again.
fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref()?.terminated.as_ref())
}

/// `Back-off pulling image "x": ErrImagePull: ...` says no more than what stands behind it.
fn without_back_off(said: &str) -> &str {
    said.split_once("ErrImagePull: ").map_or(said, |(_, cause)| cause)
}

fn describe(ended: &ContainerStateTerminated) -> String {
    const WORDS_BYTES_MAX: usize = 600;
    let how = match (ended.signal, ended.reason.as_deref()) {
        (_, Some("OOMKilled")) => "it took more memory than its limit".to_owned(),
        (Some(signal), _) => format!("it was ended by signal {signal}"),
        (None, _) => format!("exit code {}", ended.exit_code),
    };
    let words = ended.message.as_deref().map(str::trim).filter(|words| !words.is_empty());
    match words {
        // The end of a log says more than its beginning.
        Some(words) => {
            let start = words.ceil_char_boundary(words.len().saturating_sub(WORDS_BYTES_MAX));
            format!("{how}; its last words: {}", &words[start..])
        }
        None => how,
    }
}
