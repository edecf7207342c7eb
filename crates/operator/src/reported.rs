//! Which version of each service our own last report has made, until the watch says so too.
//!
//! What is looked at in the meantime is a service without that report: another one made from it is refused, and
//! a look behind the watch's news makes up for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Resource;
use tokio::time::Instant;

/// News that take longer have got lost or are held up, and nothing is put off for them any more.
const NEWS_MAX: Duration = Duration::from_secs(1);

/// Our own last reports, by the uid of their objects.
#[derive(Debug, Default)]
pub(crate) struct Reported(Mutex<HashMap<String, Report>>);

#[derive(Debug)]
struct Report {
    /// Versions are numbers that grow (KEP-5504).
    version: u64,
    written: Instant,
    /// Whether something was put off until the news come.
    is_awaited: bool,
}

impl Reported {
    /// The object is of that version since it was reported on.
    pub(crate) fn wrote(&self, object: &impl Resource, now: Instant) {
        if let Some((uid, version)) = identity(object) {
            let report = Report { version, written: now, is_awaited: false };
            self.lock().insert(uid.to_owned(), report);
        }
    }

    /// Whether that is the object as it was before the report, so that a look at it is to wait.
    pub(crate) fn is_news_for(&self, object: &impl Resource, now: Instant) -> bool {
        let Some((uid, version)) = identity(object) else { return false };
        let mut all = self.lock();
        let Some(report) = all.get_mut(uid) else { return false };
        if version >= report.version || now.duration_since(report.written) >= NEWS_MAX {
            all.remove(uid);
            return false;
        }
        report.is_awaited = true;
        true
    }

    /// Whether that is what our own report has made of the object and nothing else, so that nobody has to look
    /// at it for that.
    pub(crate) fn is_all(&self, object: &impl Resource) -> bool {
        let Some((uid, version)) = identity(object) else { return false };
        let mut all = self.lock();
        match all.get(uid) {
            Some(report) if version >= report.version => {
                let is_all = version == report.version && !report.is_awaited;
                all.remove(uid);
                is_all
            }
            _ => false,
        }
    }

    /// The object is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Report>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(object: &impl Resource) -> Option<(&str, u64)> {
    let metadata = object.meta();
    let version = metadata.resource_version.as_ref()?.parse().ok()?;
    Some((metadata.uid.as_deref()?, version))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn object(uid: &str, version: &str) -> ConfigMap {
        let (uid, resource_version) = (Some(uid.to_owned()), Some(version.to_owned()));
        let metadata = ObjectMeta { uid, resource_version, ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn what_is_behind_a_report_waits_for_its_news_and_no_longer_than_that() {
        let reported = Reported::default();
        let now = Instant::now();
        assert!(!reported.is_news_for(&object("a", "9"), now));
        reported.wrote(&object("a", "10"), now);
        assert!(reported.is_news_for(&object("a", "9"), now));
        assert!(!reported.is_news_for(&object("b", "9"), now));
        assert!(!reported.is_news_for(&object("a", "9"), now + NEWS_MAX));
        reported.wrote(&object("a", "12"), now);
        assert!(!reported.is_news_for(&object("a", "12"), now));
        assert!(!reported.is_news_for(&object("a", "11"), now));
    }

    #[test]
    fn news_of_nothing_but_a_report_are_no_reason_to_look() {
        let reported = Reported::default();
        let now = Instant::now();
        reported.wrote(&object("a", "10"), now);
        // From before, and held up.
        assert!(!reported.is_all(&object("a", "9")));
        assert!(reported.is_all(&object("a", "10")));
        // Said again, as after a list.
        assert!(!reported.is_all(&object("a", "10")));
        reported.wrote(&object("a", "12"), now);
        assert!(!reported.is_all(&object("a", "13")));
        assert!(reported.lock().is_empty());
    }

    #[test]
    fn news_that_something_waits_for_are_a_reason_to_look() {
        let reported = Reported::default();
        let now = Instant::now();
        reported.wrote(&object("a", "10"), now);
        assert!(reported.is_news_for(&object("a", "9"), now));
        assert!(!reported.is_all(&object("a", "10")));
    }
}
