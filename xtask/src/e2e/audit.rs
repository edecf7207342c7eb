//! What the API server has noted of requests: who asked for what, when, and how it was answered.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::layout;

/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// Asking what oneself may do: everybody may (`system:basic-user`), and nothing is kept of it, so it is neither a write nor a
/// right.
const REVIEW: &str = "selfsubjectaccessreviews";

/// The log from some moment on.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    /// The file that was written to then, by its inode: a file that is full gets another name.
    inode: u64,
    length: u64,
}

/// The second of the day, as audit logs count it.
pub(super) fn second_of_day() -> f64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_secs_f64().rem_euclid(86_400.0)
}

/// One request that was answered.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Which token it came with; replicas of one account have one each.
    pub(super) credential: String,
    pub(super) verb: String,
    /// `<resource>[/<subresource>][.<group>]`.
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Status code of the answer.
    pub(super) code: u16,
    /// Whether a right was missing.
    pub(super) is_denied: bool,
    /// When it was answered. All have the same form, so they compare as text.
    pub(super) answered: String,
}

impl Audit {
    /// From now on.
    pub(super) fn from_now() -> anyhow::Result<Self> {
        let path = layout::audit_log();
        let metadata = fs::metadata(&path).with_context(|| {
            format!("cannot look at {}: the API server keeps no audit log", path.display())
        })?;
        Ok(Self { inode: metadata.ino(), length: metadata.len() })
    }

    /// The requests of that service account since then, in the order of their answers. An answer is
    /// noted before it is sent.
    pub(super) fn of_account(&self, namespace: &str, name: &str) -> anyhow::Result<Vec<Request>> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let mut requests = Vec::new();
        for (path, start) in self.files()? {
            let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            file.seek(SeekFrom::Start(start)).context("cannot seek in the audit log")?;
            let mut lines = BufReader::new(file);
            let mut line = String::new();
            // The last line may still be written to.
            while lines.read_line(&mut line).context("cannot read the audit log")? > 0
                && line.ends_with('\n')
            {
                // Reading every line as JSON takes longer than all the rest.
                if line.contains(&user) {
                    requests.extend(parse(&line, &user)?);
                }
                line.clear();
            }
        }
        requests.sort_by(|a, b| a.answered.cmp(&b.answered));
        Ok(requests)
    }

    /// The files to read, the oldest first, each with where to begin.
    fn files(&self) -> anyhow::Result<Vec<(PathBuf, u64)>> {
        let current = layout::audit_log();
        let folder = current.parent().context("the audit log is in a folder")?;
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).context("cannot list the audit logs")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Full ones have the time in their names.
            if name.starts_with("audit-") && name.ends_with(".log") {
                files.push(path);
            }
        }
        files.sort();
        files.push(current);
        let mut from_start = Vec::new();
        let mut is_found = false;
        for path in files {
            let inode = fs::metadata(&path).map(|metadata| metadata.ino()).unwrap_or_default();
            if inode == self.inode {
                is_found = true;
                from_start.push((path, self.length));
            } else if is_found {
                from_start.push((path, 0));
            }
        }
        ensure!(is_found, "the audit log of the start is gone: more was written than is kept");
        Ok(from_start)
    }
}

impl Request {
    pub(super) fn is_write(&self) -> bool {
        WRITES.contains(&self.verb.as_str())
    }

    /// Whether it was done.
    pub(super) fn is_accepted(&self) -> bool {
        self.code < 400
    }

    /// When it was answered, in seconds since midnight.
    pub(super) fn seconds_of_day(&self) -> Option<f64> {
        let (_, time) = self.answered.split_once('T')?;
        let mut parts = time.trim_end_matches('Z').split(':').map(str::parse::<f64>);
        let mut part = || parts.next()?.ok();
        Some(part()? * 3600.0 + part()? * 60.0 + part()?)
    }

    /// Names it for a person.
    pub(super) fn describe(&self) -> String {
        let Self { verb, resource, namespace, name, code, answered, .. } = self;
        format!("{answered} {verb} {resource} {namespace}/{name}: {code}")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Option<Object>,
    #[serde(default)]
    response_status: Option<Status>,
    stage_timestamp: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// The request that a line is about, if it was that user's and is answered. A watch counts when it begins,
/// and again when it ends.
fn parse(line: &str, user: &str) -> anyhow::Result<Option<Request>> {
    let event: Event =
        serde_json::from_str(line).with_context(|| format!("in the audit log: {line}"))?;
    let is_meant = |object: &Object| event.user.username == user && object.resource != REVIEW;
    let Some(object) = event.object_ref.filter(is_meant) else { return Ok(None) };
    let is_answered = event.stage == "ResponseComplete"
        || event.stage == "ResponseStarted" && event.verb == "watch";
    let Some(Status { code }) = event.response_status.filter(|_| is_answered) else {
        return Ok(None);
    };
    let Object { mut resource, subresource, api_group, namespace, name } = object;
    if !subresource.is_empty() {
        resource = format!("{resource}/{subresource}");
    }
    if !api_group.is_empty() {
        resource = format!("{resource}.{api_group}");
    }
    let credential = event.user.extra.get("authentication.kubernetes.io/credential-id");
    Ok(Some(Request {
        credential: credential.and_then(|ids| ids.first()).cloned().unwrap_or_default(),
        verb: event.verb,
        resource,
        namespace,
        name,
        code,
        is_denied: event
            .annotations
            .get("authorization.k8s.io/decision")
            .is_some_and(|d| d == "forbid"),
        answered: event.stage_timestamp,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "system:serviceaccount:cloudstate:cloudstate-operator";

    fn line(stage: &str, verb: &str, username: &str) -> String {
        format!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"{stage}",
            "requestURI":"/apis","verb":"{verb}","user":{{"username":"{username}","uid":"u","groups":["a"],
            "extra":{{"authentication.kubernetes.io/credential-id":["JTI=7"]}}}},"sourceIPs":["10.0.0.1"],
            "objectRef":{{"resource":"statefulservices","namespace":"shop","name":"cart","apiGroup":"cloudstate.io",
            "apiVersion":"v1alpha1","subresource":"status"}},"responseStatus":{{"metadata":{{}},"code":200}},
            "requestReceivedTimestamp":"2026-11-28T23:20:24.000000Z","stageTimestamp":"2026-11-28T23:20:24.500000Z"}}"#
        )
    }

    #[test]
    fn a_line_becomes_a_request() {
        let request = parse(&line("ResponseComplete", "patch", USER), USER).unwrap().unwrap();
        assert!(request.is_write() && request.is_accepted());
        assert_eq!(request.resource, "statefulservices/status.cloudstate.io");
        assert_eq!(request.credential, "JTI=7");
        let described = "2026-11-28T23:20:24.500000Z patch statefulservices/status.cloudstate.io shop/cart: 200";
        assert_eq!(request.describe(), described);
        let seconds = request.seconds_of_day().unwrap();
        assert!((seconds - 84_024.5).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn other_users_and_stages_are_left_out() {
        let is_taken = |line: &str| parse(line, USER).unwrap().is_some();
        assert!(!is_taken(&line("ResponseComplete", "patch", "admin")));
        assert!(!is_taken(&line("ResponseStarted", "patch", USER)));
        assert!(is_taken(&line("ResponseStarted", "watch", USER)));
        let review = line("ResponseComplete", "create", USER);
        assert!(is_taken(&review));
        assert!(!is_taken(&review.replace("statefulservices", REVIEW)));
    }
}
