//! Reconciles one StatefulService: dereference, validate, render, apply, report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::StatefulService;
use api::condition::{find, kind};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;
use translate::{Inputs, Plan, render, validate};

use super::agenda::Action;
use super::{AGAIN_DELAY, is_lasting};
use crate::apply::{self, Failure, Held, Refusal, Wrote, origin_of, rights};
use crate::context::{Context, spread};
use crate::diagnose::{self, Diagnosis};
use crate::error::Error;
use crate::origin::{Origin, SECRET_HASH};
use crate::planted::{self, Bug};
use crate::status::{self, Facts, Pause, Rollout};
use crate::throttle::{self, Answer, Progress};
use crate::{dereference, report};

/// A pod that is not ready does not tell when its sidecar changes its mind.
const UNREADY_DELAY: Duration = Duration::from_secs(2);
/// What belongs to others is not watched.
const REFUSED_DELAY: Duration = Duration::from_secs(5);

pub(crate) async fn reconcile(
    service: Arc<StatefulService>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let uid = service.uid().unwrap_or_default();
    if ctx.reported.is_news_for(&*service, Instant::now()) {
        return Ok(Action::requeue(AGAIN_DELAY));
    }
    if service.metadata.deletion_timestamp.is_some() && !planted::is(Bug::DyingServed) {
        ctx.failures.forget(&uid);
        ctx.left_alone.forget(&uid);
        // Its pods are not looked at again, so it would keep its place for as long as it takes to go.
        throttle::forget(&ctx, &service);
        return Ok(Action::await_change());
    }
    let settings = ctx.live.now();
    let for_objects = settings.for_objects(&ctx.namespace);
    let inputs = dereference::inputs(&ctx, &service);
    let plan = validate(&for_objects, &service, &inputs);
    let pause = paused(&ctx, &service).filter(|_| !planted::is(Bug::PauseIgnored));
    match &pause {
        Some(Pause::Namespace(_)) => {
            // Who works there does not tell how far it is.
            throttle::forget(&ctx, &service);
            if !ctx.left_alone.tell(&uid, service.metadata.generation) {
                return Ok(Action::await_change());
            }
        }
        _ => ctx.left_alone.forget(&uid),
    }
    let outcome = match &plan {
        _ if pause.is_some() => Ok(Outcome::of(dereference::deployment(&ctx.caches, &service))),
        Ok(plan) => Box::pin(make(&ctx, &service, &for_objects, &inputs, plan)).await,
        Err(_) => look(&ctx, &service).await,
    };
    let as_it_is = || Outcome::of(dereference::deployment(&ctx.caches, &service));
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(Failure::Again) => return Ok(Action::requeue(AGAIN_DELAY)),
        Err(Failure::Terminating) => return Ok(Action::await_change()),
        Err(Failure::Failed(error)) if !is_lasting(&ctx, &*service, &error) => return Err(error),
        Err(Failure::Failed(error)) => Outcome { failed: Some(error), ..as_it_is() },
        Err(Failure::Refused(refusal)) => Outcome { refusal: Some(refusal), ..as_it_is() },
    };
    let diagnosis = match &outcome.deployment {
        Some(deployment) if plan.is_ok() => diagnosis(&ctx, &uid, deployment).await,
        _ => None,
    };
    if !matches!(pause, Some(Pause::Namespace(_))) {
        observe(&ctx, &service, &outcome, diagnosis.as_ref());
    }
    let facts = Facts {
        service: &service,
        plan: plan.as_ref(),
        pause: pause.as_ref(),
        refusal: outcome.refusal.as_ref(),
        held: outcome.held.as_ref(),
        failed: outcome.failed.as_ref(),
        deployment: outcome.deployment.as_deref(),
        diagnosis: diagnosis.as_ref(),
    };
    let status = status::of_service(&facts, Timestamp::now());
    let ready = find(&status.conditions, kind::READY).is_some_and(|ready| ready.status == "True");
    let reported = report::report(&ctx, &*service, status).await;
    if let Some(error) = outcome.failed {
        return Err(error);
    }
    if let Err(error) = reported {
        // Not told after all.
        ctx.left_alone.forget(&uid);
        return Err(error);
    }

    ctx.failures.forget(&uid);
    if let Some(held) = &outcome.held {
        let (Answer::Wait { ask_again_in, .. } | Answer::Halted { ask_again_in }) = held.answer
        else {
            return Ok(Action::requeue(AGAIN_DELAY));
        };
        return Ok(Action::requeue(ask_again_in));
    }
    let resync = settings.resync.mul_f64(1.0 + 0.5 * spread(&uid, 0));
    Ok(match (&plan, &outcome.refusal) {
        _ if pause.is_some() => Action::await_change(),
        (_, Some(Refusal::Rejected { .. })) => Action::requeue(resync),
        (_, Some(_)) => Action::requeue(REFUSED_DELAY),
        (Ok(plan), None) if !ready && plan.replicas() > 0 => Action::requeue(UNREADY_DELAY),
        _ => Action::requeue(resync),
    })
}

/// What became of the objects.
#[derive(Default)]
struct Outcome {
    deployment: Option<Arc<Deployment>>,
    refusal: Option<Refusal>,
    held: Option<Held>,
    /// What is tried again, and has been for a while.
    failed: Option<Error>,
}

impl Outcome {
    fn of(deployment: Option<Arc<Deployment>>) -> Self {
        Self { deployment, ..Self::default() }
    }
}

/// Why nothing is to be changed, if so.
fn paused(ctx: &Context, service: &StatefulService) -> Option<Pause> {
    let namespace = service.namespace().unwrap_or_default();
    if ctx.caches.is_opted_out(&namespace) {
        Some(Pause::Namespace(namespace))
    } else {
        service.spec.paused.then_some(Pause::Service)
    }
}

/// Makes the objects be as the plan says.
async fn make(
    ctx: &Context,
    service: &StatefulService,
    settings: &translate::Settings,
    inputs: &Inputs,
    plan: &Plan,
) -> Result<Outcome, Failure> {
    let mut objects = render(settings, plan);
    if let Some(hash) = dereference::secret_hash(&ctx.caches, service, plan) {
        let template = &mut objects.deployment.spec.get_or_insert_default().template;
        let annotations =
            template.metadata.get_or_insert_default().annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(SECRET_HASH.to_owned(), hash);
    }
    let origin = Origin::of(service, plan, inputs.store.as_ref(), settings, &objects.deployment);
    let before = dereference::deployment(&ctx.caches, service);
    rights::note(ctx, service, settings, plan, before.as_deref());
    let applied = Box::pin(apply::apply(ctx, service, objects, origin)).await?;
    report::tell_of(ctx, service, &applied).await;
    if applied.wrote != Wrote::Nothing {
        report::warn_of(ctx, service, plan.warnings()).await;
    }
    rights::note(ctx, service, settings, plan, Some(&applied.deployment));
    Ok(Outcome { held: applied.held, ..Outcome::of(Some(applied.deployment)) })
}

/// Leaves the objects as they are, and tells if they are another's.
async fn look(ctx: &Context, service: &StatefulService) -> Result<Outcome, Failure> {
    apply::check_ownership(ctx, service).await?;
    Ok(Outcome::of(dereference::deployment(&ctx.caches, service)))
}

/// Why the pods do not serve, if they do not.
async fn diagnosis(ctx: &Context, service: &str, deployment: &Deployment) -> Option<Diagnosis> {
    if Rollout::of(deployment).is_complete() {
        ctx.asks.forget(service);
        return None;
    }
    let pods = dereference::pods(&ctx.caches, deployment);
    let answers = ctx.asks.ask(service, diagnose::whom_to_ask(&pods)).await;
    diagnose::diagnose(&pods, &answers)
}

/// Tells the throttle how far the service's pods are.
fn observe(
    ctx: &Context,
    service: &StatefulService,
    outcome: &Outcome,
    diagnosis: Option<&Diagnosis>,
) {
    let Some(deployment) = &outcome.deployment else { return };
    let rollout = Rollout::of(deployment);
    // Pods that fail later are no rollout, and hold up no wave.
    let progress = if rollout.is_complete() || rollout.was_complete {
        Progress::Done
    } else if rollout.observed
        && (rollout.deadline_exceeded || diagnosis.is_some_and(|found| found.is_stuck))
    {
        Progress::Failed
    } else {
        Progress::Running
    };
    let wave = origin_of(deployment).and_then(|origin| origin.wave);
    throttle::observe(ctx, service, wave.as_deref(), progress, outcome.held.is_some());
}
