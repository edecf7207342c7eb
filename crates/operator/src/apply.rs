//! Every write of objects: server-side apply, and only when something differs.

pub(crate) mod child;
pub(crate) mod former;
mod held;
pub(crate) mod orphans;
mod own;
pub(crate) mod rights;
mod write;

use std::sync::Arc;

use api::StatefulService;
use api::condition::reason;
use api::contract::annotation;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Resource, ResourceExt};
use translate::Objects;

use self::child::Child;
pub(crate) use self::held::Waiting;
use self::own::{Live, look};
pub(crate) use self::write::Wrote;
use crate::context::Context;
use crate::error::Error;
use crate::origin::{Cause, Origin, to_json};
use crate::planted::{self, Bug};
use crate::text::tidy;
use crate::throttle::Answer;
use crate::{drift, throttle};

/// Messages of the API server can quote whole objects.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What the API server has now.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) deployment: Arc<Deployment>,
    /// What it took to have the Deployment as wanted.
    pub(crate) wrote: Wrote,
    /// Why its pods are started anew, if they are.
    pub(crate) rollout: Option<Cause>,
    /// Why the Deployment is not as wanted, if it has to wait.
    pub(crate) held: Option<Held>,
    /// Objects that were made just now.
    pub(crate) created: Vec<String>,
    /// Objects that were changed just now.
    pub(crate) changed: Vec<String>,
    /// Objects that were deleted just now.
    pub(crate) deleted: Vec<String>,
}

/// A rollout that has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) cause: Cause,
    pub(crate) answer: Answer,
}

/// Why objects are not as they should be, in a way that trying again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "{kind} {name:?} exists and does not belong to this StatefulService ({owner}): delete it, or give the service another name"
    )]
    NotOwned { kind: String, name: String, owner: String },
    #[error("the API server refuses {kind} {name:?}, which comes out of this spec: {message}")]
    Rejected { kind: String, name: String, message: String },
    #[error(
        "the quota of the namespace does not let the operator {verb} {kind} {name:?}: raise the ResourceQuota, or make room: {message}"
    )]
    OverQuota { verb: &'static str, kind: String, name: String, message: String },
    #[error(
        "an admission control of the cluster does not let the operator {verb} {kind} {name:?}: change the spec so that it does, or exempt the object there: {message}"
    )]
    NotAdmitted { verb: &'static str, kind: String, name: String, message: String },
    #[error(
        "the operator may not {verb} {kind} {name:?}: give its service account that right: {message}"
    )]
    Forbidden { verb: &'static str, kind: String, name: String, message: String },
}

impl Refusal {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotOwned { .. } => reason::NOT_OWNED,
            Self::Rejected { .. } | Self::OverQuota { .. } | Self::NotAdmitted { .. } => {
                reason::REJECTED
            }
            Self::Forbidden { .. } => reason::FORBIDDEN,
        }
    }
}

/// What went wrong with a write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("something has changed meanwhile")]
    Again,
    #[error("the namespace is on its way out")]
    Terminating,
}

impl Failure {
    /// Sorts what the API server says against a call. `verb` is the one that rights are given for.
    fn of(verb: &'static str, error: Error, kind: &str, name: &str) -> Self {
        let Some(status) = error.refusal() else { return Self::Failed(error) };
        let (kind, name) = (kind.to_owned(), name.to_owned());
        let message = tidy(&status.message, MESSAGE_BYTES_MAX);
        // Server-side apply answers 500 to what it cannot merge.
        let unmergeable = status.message.contains("field not declared in schema")
            || status.message.contains("duplicate entries for key");
        match status.code {
            _ if is_terminating(status) => Self::Terminating,
            403 if status.message.contains("exceeded quota") => {
                Refusal::OverQuota { verb, kind, name, message }.into()
            }
            403 if !lacks_a_right(&status.message) => {
                Refusal::NotAdmitted { verb, kind, name, message }.into()
            }
            403 => Refusal::Forbidden { verb, kind, name, message }.into(),
            400 | 422 => Refusal::Rejected { kind, name, message }.into(),
            500 if unmergeable => Refusal::Rejected { kind, name, message }.into(),
            _ => Self::Failed(error),
        }
    }
}

/// Whether that is what an authorizer says. Admission plugins and webhooks answer 403 in words of their own.
fn lacks_a_right(message: &str) -> bool {
    // A message that says nothing is no admission's.
    message.is_empty()
        || message.contains(" cannot ") && message.contains(" resource ")
        || message.contains("attempting to grant")
}

/// Whether the namespace is about to go or gone, and with it everything that could be done.
fn is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        || status.code == 404
            && status.details.as_ref().is_some_and(|details| details.kind == "namespaces")
}

/// What was found before anything is touched.
struct Found {
    account: Live<ServiceAccount>,
    role: Live<Role>,
    binding: Live<RoleBinding>,
    address: Live<Service>,
    policy: Live<NetworkPolicy>,
    budget: Live<PodDisruptionBudget>,
    deployment: Live<Deployment>,
}

/// Makes the objects be as rendered. Nothing is written while any of them belongs to another.
pub(crate) async fn apply(
    ctx: &Context,
    owner: &StatefulService,
    objects: Objects,
    origin: Origin,
) -> Result<Applied, Failure> {
    let found = Found {
        account: look_for(ctx, owner, objects.service_account.as_deref()).await?,
        role: look_for(ctx, owner, objects.role.as_deref()).await?,
        binding: look_for(ctx, owner, objects.role_binding.as_deref()).await?,
        address: look_for(ctx, owner, Some(&*objects.service)).await?,
        policy: look_for(ctx, owner, objects.network_policy.as_deref()).await?,
        budget: look_for(ctx, owner, objects.disruption_budget.as_deref()).await?,
        deployment: look_for(ctx, owner, Some(&*objects.deployment)).await?,
    };
    let kept = orphans::Kept {
        account: objects.service_account.as_ref().map(|object| object.name_any()),
        policy: objects.network_policy.as_ref().map(|object| object.name_any()),
        budget: objects.disruption_budget.as_ref().map(|object| object.name_any()),
    };
    let mut writer = Writer { ctx, owner, created: Vec::new(), changed: Vec::new() };
    // Rights before the pods that need them, the address and its guards before what they stand for.
    writer.write_if(objects.service_account, found.account).await?;
    writer.write_if(objects.role, found.role).await?;
    writer.write_if(objects.role_binding, found.binding).await?;
    writer.write_if(Some(objects.service), found.address).await?;
    writer.write_if(objects.network_policy, found.policy).await?;
    writer.write_if(objects.disruption_budget, found.budget).await?;
    let deployment = writer.deployment(*objects.deployment, found.deployment, origin);
    let mut applied = Box::pin(deployment).await?;
    applied.deleted = orphans::remove(ctx, owner, &kept, &applied.deployment).await?;
    Ok(applied)
}

/// Finds out whether the names that every service needs are free or its own.
pub(crate) async fn check_ownership(ctx: &Context, owner: &StatefulService) -> Result<(), Failure> {
    let name = owner.name_any();
    look::<Service>(ctx, owner, &name).await?;
    look::<Deployment>(ctx, owner, &translate::deployment_name(&name)).await?;
    Ok(())
}

/// The origin that is noted on the Deployment.
pub(crate) fn origin_of(deployment: &Deployment) -> Option<Origin> {
    Origin::parse(deployment.annotations().get(annotation::APPLIED_FROM)?)
}

async fn look_for<K: Child>(
    ctx: &Context,
    owner: &StatefulService,
    wanted: Option<&K>,
) -> Result<Live<K>, Failure> {
    match wanted {
        Some(wanted) => look(ctx, owner, &wanted.name_any()).await,
        None => Ok(None),
    }
}

struct Writer<'a> {
    ctx: &'a Context,
    owner: &'a StatefulService,
    created: Vec<String>,
    changed: Vec<String>,
}

impl Writer<'_> {
    async fn write_if<K: Child>(
        &mut self,
        wanted: Option<Box<K>>,
        live: Live<K>,
    ) -> Result<(), Failure> {
        if let Some(wanted) = wanted {
            self.write(*wanted, live, None).await?;
        }
        Ok(())
    }

    async fn write<K: Child>(
        &mut self,
        wanted: K,
        live: Live<K>,
        note: Option<write::Note>,
    ) -> Result<(Arc<K>, Wrote), Failure> {
        let what = format!("{} {:?}", K::kind(&()), wanted.name_any());
        let written = write::write(self.ctx, self.owner, wanted, live, note).await?;
        match written.1 {
            Wrote::Nothing => {}
            Wrote::Created => self.created.push(what),
            Wrote::Changed => self.changed.push(what),
        }
        Ok(written)
    }

    /// Writes the Deployment, unless that starts pods anew and others are first.
    async fn deployment(
        mut self,
        wanted: Deployment,
        live: Live<Deployment>,
        mut origin: Origin,
    ) -> Result<Applied, Failure> {
        let mut rollout = None;
        let before = live.as_deref().and_then(origin_of);
        if let Some(live) = &live
            && starts_pods_anew(before.as_ref(), &origin, &wanted, live)
        {
            let cause = origin.cause(before.as_ref(), &wanted, live);
            if cause.is_the_users() {
                throttle::forget(self.ctx, self.owner);
            } else {
                let wave = origin.wave(cause);
                let answer = throttle::ask(self.ctx, self.owner, &wave);
                if answer != Answer::Go {
                    let deployment = self.keep(&wanted, Arc::clone(live)).await?;
                    return Ok(self.done(
                        deployment,
                        Wrote::Nothing,
                        None,
                        Some(Held { cause, answer }),
                    ));
                }
                origin.wave = Some(wave);
            }
            rollout = Some(cause);
        } else {
            origin.wave = before.as_ref().and_then(|before| before.wave.clone());
        }
        self.ctx.waiting.forget(&self.owner.uid().unwrap_or_default());
        let is_outdated = before.is_none_or(|before| before.is_outdated_by(&origin));
        let note = write::Note { origin: origin.to_string(), is_outdated };
        let written = Box::pin(self.write(wanted, live, Some(note))).await?;
        let (deployment, wrote) = written;
        Ok(self.done(deployment, wrote, rollout, None))
    }

    /// The Deployment while its next template waits: as it was when that began, and with as many pods as
    /// are wanted now, which is not held up by what holds up their template.
    async fn keep(
        &mut self,
        wanted: &Deployment,
        live: Arc<Deployment>,
    ) -> Result<Arc<Deployment>, Failure> {
        let before = self.ctx.waiting.since(&self.owner.uid().unwrap_or_default(), &live);
        let before = if planted::is(Bug::WaitingUnguarded) { Arc::clone(&live) } else { before };
        let kept = held::as_it_was(&before, wanted);
        let what = format!("{} {:?}", Deployment::kind(&()), live.name_any());
        let (deployment, wrote) = write::put_back(self.ctx, &kept, live).await?;
        if wrote != Wrote::Nothing {
            self.changed.push(what);
        }
        Ok(deployment)
    }

    fn done(
        self,
        deployment: Arc<Deployment>,
        wrote: Wrote,
        rollout: Option<Cause>,
        held: Option<Held>,
    ) -> Applied {
        let Self { created, changed, .. } = self;
        Applied { deployment, wrote, rollout, held, created, changed, deleted: Vec::new() }
    }
}

/// Whether the pods come out other than they were applied last. What a hand has changed in the live
/// template is not that, but put right at once.
fn starts_pods_anew(
    before: Option<&Origin>,
    now: &Origin,
    wanted: &Deployment,
    live: &Deployment,
) -> bool {
    if let Some(before) = before {
        return !now.has_same_pods(before);
    }
    // From before origins were noted.
    let template = |deployment| to_json(deployment)["spec"]["template"].take();
    !drift::holds(&template(wanted), &template(live))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_RIGHT: &str = r#"deployments.apps "a" is forbidden: User "system:serviceaccount:cloudstate:operator" cannot patch resource "deployments" in API group "apps" in the namespace "shop""#;

    fn sorted(code: u16, message: &str) -> Failure {
        let status = kube::core::Status { code, message: message.to_owned(), ..Default::default() };
        let source = Box::new(kube::Error::Api(Box::new(status)));
        let error =
            Error::Call { verb: "apply", kind: "Deployment".into(), name: "a".into(), source };
        Failure::of("patch", error, "Deployment", "a")
    }

    fn reason(failure: &Failure) -> Option<&'static str> {
        match failure {
            Failure::Refused(refusal) => Some(refusal.reason()),
            _ => None,
        }
    }

    #[test]
    fn what_a_retry_cannot_cure_is_a_refusal() {
        assert_eq!(reason(&sorted(422, "bad image")), Some("Rejected"));
        assert_eq!(reason(&sorted(500, "x: field not declared in schema")), Some("Rejected"));
        assert_eq!(reason(&sorted(403, NO_RIGHT)), Some("Forbidden"));
        assert_eq!(reason(&sorted(500, "etcd is gone")), None);
        assert_eq!(reason(&sorted(409, "conflict")), None);
    }

    #[test]
    fn a_missing_right_is_named_by_verb_and_kind() {
        let said = sorted(403, NO_RIGHT).to_string();
        assert!(said.contains("may not patch Deployment \"a\""), "{said}");
    }

    #[test]
    fn a_quota_or_an_admission_control_is_no_missing_right() {
        for (message, advice) in [
            (
                r#"deployments.apps "a" is forbidden: exceeded quota: few, requested: count/deployments.apps=1, used: count/deployments.apps=5, limited: count/deployments.apps=5"#,
                "raise the ResourceQuota",
            ),
            (
                r#"admission webhook "policy.example.com" denied the request: no image of that registry"#,
                "change the spec",
            ),
            (
                r#"deployments.apps "a" is forbidden: ValidatingAdmissionPolicy "p" with binding "b" denied request: no"#,
                "change the spec",
            ),
        ] {
            let failure = sorted(403, message);
            let said = failure.to_string();
            assert_eq!(reason(&failure), Some("Rejected"), "{said}");
            assert!(said.contains(advice) && said.contains(message), "{said}");
            assert!(!said.contains("service account that right"), "{said}");
        }
        let grant = r#"roles.rbac.authorization.k8s.io "r" is forbidden: user "u" (groups=["g"]) is attempting to grant RBAC permissions not currently held"#;
        assert_eq!(reason(&sorted(403, grant)), Some("Forbidden"));
    }
}
