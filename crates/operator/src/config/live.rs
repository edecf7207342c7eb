//! The settings as they are now: the ConfigMap is watched, and what cannot be used is not taken up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::Chain;
use futures::StreamExt;
use futures::stream::Stream;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::merge::{Merged, merge};
use super::{CONFIG_MAP_KEY, Environment, Error, Settings};
use crate::client::WATCH_SECONDS;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::telemetry;

/// The ConfigMap is waited for this long before we give up and let the kubelet start us again.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_RETRY_DELAY: Duration = Duration::from_secs(1);
const RETRY_DELAY_MIN: Duration = Duration::from_millis(250);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(15);

const INVALID: &str = "InvalidOperatorConfig";

/// The settings in effect.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    settings: watch::Sender<Arc<Settings>>,
}

impl Live {
    pub(crate) fn now(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// For whoever wants to be told of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }
}

/// The ConfigMap under watch.
pub(crate) struct Source {
    environment: Environment,
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<ConfigMap>>> + Send>>,
    retry_delay: Duration,
    /// What the list that is being read holds.
    listed: Option<ConfigMap>,
    is_there: bool,
    live: Live,
    metrics: Metrics,
}

/// Reads the settings for the first time.
pub(crate) async fn open(
    client: Client,
    environment: Environment,
    metrics: Metrics,
    publisher: &Publisher,
) -> Result<Source, Error> {
    let api = Api::<ConfigMap>::namespaced(client, &environment.namespace);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", environment.config_map))
        .timeout(WATCH_SECONDS);
    let mut source = Source {
        environment,
        events: Box::pin(watcher(api, config)),
        retry_delay: RETRY_DELAY_MIN,
        listed: None,
        is_there: false,
        live: Live { settings: watch::Sender::new(Arc::default()) },
        metrics,
    };
    let found = source.first().await?;
    source.is_there = found.is_some();
    if !source.is_there {
        let Environment { namespace, config_map: name, .. } = &source.environment;
        info!(namespace, name, "there is no ConfigMap: defaults are used");
    }
    match merge(&source.environment, text(found.as_ref())) {
        Ok(merged) => source.take_up(merged),
        Err(error) => {
            let problem = format!("the operator does not start: {}", Chain(&error));
            publisher.warn(&source.reference(), INVALID, &problem).await;
            return Err(error);
        }
    }
    Ok(source)
}

impl Source {
    pub(crate) fn live(&self) -> Live {
        self.live.clone()
    }

    /// Follows the ConfigMap for ever.
    pub(crate) async fn follow(mut self, publisher: Publisher) {
        loop {
            match self.next().await {
                Ok(found) => {
                    if let Some(problem) = self.changed(found.as_ref()) {
                        publisher.warn(&self.reference(), INVALID, &problem).await;
                    }
                }
                Err(error) => {
                    let retry_in = self.retry_delay;
                    warn!(error = %Chain(&error), ?retry_in, "watch of the ConfigMap failed");
                    sleep(retry_in).await;
                    self.retry_delay = (retry_in * 2).min(RETRY_DELAY_MAX);
                }
            }
        }
    }

    async fn first(&mut self) -> Result<Option<ConfigMap>, Error> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut last = None;
        loop {
            match timeout_at(deadline, self.next()).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => {
                    warn!(error = %Chain(&error), "configuration cannot be read yet");
                    last = Some(Box::new(error));
                    sleep(START_RETRY_DELAY).await;
                }
                Err(_) => {
                    let Environment { namespace, config_map: name, .. } = self.environment.clone();
                    return Err(Error::Unreadable { name, namespace, source: last });
                }
            }
        }
    }

    /// The ConfigMap as it is after the next change; nothing when there is none.
    async fn next(&mut self) -> watcher::Result<Option<ConfigMap>> {
        loop {
            let event = self.events.next().await.expect("a watch has no end")?;
            // A list that fails is announced like one that works.
            if !matches!(event, Event::Init) {
                self.retry_delay = RETRY_DELAY_MIN;
            }
            match event {
                Event::Init => self.listed = None,
                Event::InitApply(found) => self.listed = Some(found),
                Event::InitDone => return Ok(self.listed.take()),
                Event::Apply(found) => return Ok(Some(found)),
                Event::Delete(_) => return Ok(None),
            }
        }
    }

    /// Takes up what can be used, and says why what cannot be is not.
    fn changed(&mut self, found: Option<&ConfigMap>) -> Option<String> {
        let was_there = std::mem::replace(&mut self.is_there, found.is_some());
        let problem = match found {
            Some(_) => match merge(&self.environment, text(found)) {
                Ok(merged) => {
                    self.take_up(merged);
                    return None;
                }
                Err(error) => format!("the last good settings stay: {}", Chain(&error)),
            },
            // Never there, or already told.
            None if !was_there => return None,
            None => {
                "the ConfigMap is gone: the last good settings stay until it is back".to_owned()
            }
        };
        self.metrics.configured(false, false);
        let Environment { namespace, config_map: name, .. } = &self.environment;
        warn!(namespace, name, problem, "configuration is not taken up");
        Some(problem)
    }

    fn take_up(&self, merged: Merged) {
        let Merged { settings, unknown } = merged;
        for key in unknown {
            warn!(key, "setting is not known and has no effect: look for a typing error");
        }
        let is_other = self.live.settings.send_if_modified(|current| {
            let is_other = **current != settings;
            if is_other {
                *current = Arc::new(settings);
            }
            is_other
        });
        self.metrics.configured(true, is_other);
        if is_other {
            let settings = self.live.now();
            info!(?settings, namespace = self.environment.namespace, "configured");
            telemetry::adjust(&settings.log);
        }
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(ConfigMap::api_version(&()).into_owned()),
            kind: Some(ConfigMap::kind(&()).into_owned()),
            namespace: Some(self.environment.namespace.clone()),
            name: Some(self.environment.config_map.clone()),
            ..ObjectReference::default()
        }
    }
}

fn text(found: Option<&ConfigMap>) -> Option<&str> {
    found?.data.as_ref()?.get(CONFIG_MAP_KEY).map(String::as_str)
}
