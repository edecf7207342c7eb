//! Reconciles one StatefulService: dereference, validate, render, apply, report.

use std::sync::Arc;
use std::time::Duration;

use api::StatefulService;
use api::condition::{find, kind};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use translate::{Plan, render, validate};

use super::spread;
use crate::apply::{self, Failure, Refusal};
use crate::ask::ask;
use crate::context::Context;
use crate::diagnose::{self, Diagnosis};
use crate::error::Error;
use crate::status::{self, Facts, Rollout};
use crate::{dereference, report};

/// A pod that is not ready does not tell when its sidecar changes its mind.
const UNREADY_DELAY: Duration = Duration::from_secs(2);
/// What belongs to others is not watched.
const REFUSED_DELAY: Duration = Duration::from_secs(5);
/// In case that we missed something.
const RESYNC_SECONDS: u64 = 600;

pub(crate) async fn reconcile(
    service: Arc<StatefulService>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let uid = service.uid().unwrap_or_default();
    if service.metadata.deletion_timestamp.is_some() {
        ctx.failures.forget(&uid);
        return Ok(Action::await_change());
    }
    let inputs = dereference::inputs(&ctx.caches, &service);
    let plan = validate(&ctx.settings, &service, &inputs);
    let (deployment, refusal) = match &plan {
        Ok(plan) => make(&ctx, &service, plan).await?,
        Err(_) => look(&ctx, &service).await?,
    };
    let diagnosis = match &deployment {
        Some(deployment) if plan.is_ok() => diagnosis(&ctx, &service, deployment).await,
        _ => None,
    };
    let facts = Facts {
        service: &service,
        plan: plan.as_ref(),
        refusal: refusal.as_ref(),
        deployment: deployment.as_deref(),
        diagnosis: diagnosis.as_ref(),
    };
    let status = status::of_service(&facts, Timestamp::now());
    let ready = find(&status.conditions, kind::READY).is_some_and(|ready| ready.status == "True");
    report::report(&ctx, &*service, status).await?;

    ctx.failures.forget(&uid);
    Ok(match (&plan, &refusal) {
        (_, Some(_)) => Action::requeue(REFUSED_DELAY),
        (Ok(plan), None) if !ready && plan.replicas() > 0 => Action::requeue(UNREADY_DELAY),
        _ => {
            Action::requeue(Duration::from_secs(RESYNC_SECONDS + spread(&uid, RESYNC_SECONDS / 2)))
        }
    })
}

type Outcome = (Option<Arc<Deployment>>, Option<Refusal>);

/// Makes the objects be as the plan says.
async fn make(ctx: &Context, service: &StatefulService, plan: &Plan) -> Result<Outcome, Error> {
    match apply::apply(ctx, service, render(&ctx.settings, plan)).await {
        Ok(applied) => {
            if applied.wrote {
                report::warn_of(ctx, service, plan.warnings()).await;
            }
            Ok((Some(applied.deployment), None))
        }
        Err(Failure::Refused(refusal)) => {
            Ok((dereference::deployment(&ctx.caches, service), Some(refusal)))
        }
        Err(Failure::Failed(error)) => Err(error),
    }
}

/// Leaves the objects as they are, and tells if they are another's.
async fn look(ctx: &Context, service: &StatefulService) -> Result<Outcome, Error> {
    let refusal = match apply::check_ownership(ctx, service).await {
        Ok(()) => None,
        Err(Failure::Refused(refusal)) => Some(refusal),
        Err(Failure::Failed(error)) => return Err(error),
    };
    Ok((dereference::deployment(&ctx.caches, service), refusal))
}

/// Why the pods do not serve, if they do not.
async fn diagnosis(
    ctx: &Context,
    service: &StatefulService,
    deployment: &Deployment,
) -> Option<Diagnosis> {
    if Rollout::of(deployment).is_complete() {
        return None;
    }
    let pods = dereference::pods(&ctx.caches, service);
    let asked = diagnose::whom_to_ask(&pods)
        .into_iter()
        .map(|(pod, address)| async move { (pod, ask(address).await) });
    let answers = join_all(asked).await.into_iter().collect();
    diagnose::diagnose(&pods, &answers)
}
