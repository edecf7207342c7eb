//! What the proxy counts and times, for Prometheus (`docs/metrics.md`).
//!
//! Whoever counts holds a handle for its own service or method, which is made once; counting is then an
//! atomic addition, and timing a clock and a few additions behind a lock that is held for that long.
//! What others know anyway, such as open connections, is asked for when somebody looks.

mod calls;
mod entity;
mod process;
mod store;
mod summary;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
    sync::Arc,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::ConstCounter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Metric, Registry},
};
use tonic::body::Body;

use crate::{
    entity::Entities,
    readiness::{Part, Readiness},
    report::Reporter,
    route::{Kind, Routes, Service},
    user_function::UserFunction,
};
pub use calls::{CallMetrics, Measured as MeasuredCall};
pub use entity::EntityMetrics;
pub use store::Measured as MeasuredStore;
use summary::Summary;

/// Upper ends of the buckets of every histogram of times, in seconds.
const TIMES: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The same for times of which most are far below the first of those.
const SHORT_TIMES: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything that is counted; clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    /// By name of the metric; each has one for each service.
    summaries: Vec<(String, Summaries)>,
    /// By name of the service.
    entities: HashMap<String, Arc<EntityMetrics>>,
    /// By path.
    calls: HashMap<String, Arc<CallMetrics>>,
    store: store::Families,
}

/// Summaries by the name of their entity.
type Summaries = Vec<(String, Arc<Summary>)>;

/// The name under which an entity's data is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntityName {
    entity_name: String,
}

impl Metrics {
    /// Nothing has been counted yet of these methods and their entities.
    pub fn new(routes: &Routes) -> Self {
        let mut registry = Registry::default();
        let store = store::Families::register(&mut registry);
        let calls = calls::register(&mut registry, routes);
        let mut entities = HashMap::new();
        let mut summaries = Vec::new();
        let services: BTreeMap<&str, &Service> = routes
            .methods()
            .map(|(_, method)| (method.service.name.as_str(), &*method.service))
            .collect();
        for kind in [Kind::EventSourced, Kind::Value] {
            let mut services = services.values().filter(|service| service.kind == kind).peekable();
            if services.peek().is_none() {
                continue;
            }
            let families = entity::Families::register(&mut registry, kind);
            let mut times = Vec::new();
            for service in services {
                let metrics = Arc::new(families.of(&service.persistence_id));
                times.push((service.persistence_id.clone(), metrics.active_time()));
                entities.insert(service.name.clone(), metrics);
            }
            summaries.push((format!("{}{}", entity::prefix(kind), entity::ACTIVE_TIME), times));
        }
        Self { shared: Arc::new(Shared { registry, summaries, entities, calls, store }) }
    }

    /// The handle of a service of entities.
    pub fn entity(&self, service: &Service) -> Option<Arc<EntityMetrics>> {
        self.shared.entities.get(&service.name).cloned()
    }

    /// The handle of the method at this path.
    pub fn call(&self, path: &str) -> Option<&Arc<CallMetrics>> {
        self.shared.calls.get(path)
    }

    /// Times what goes through a store.
    pub fn measure(&self, store: Arc<dyn crate::journal::Store>) -> MeasuredStore {
        MeasuredStore::new(store, &self.shared.store)
    }
}

/// Answers one request on the port for metrics; until there are sources, with what the system knows.
pub fn answer(sources: Option<&Sources>, request: &Request<Incoming>) -> Response<Body> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics" | "/") => match expose(sources, format) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        (_, "/metrics" | "/") => (StatusCode::METHOD_NOT_ALLOWED, "use GET".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics".to_owned()),
    };
    let mut response = Response::new(Body::new(Full::from(body)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Everything there is to say.
fn expose(sources: Option<&Sources>, format: Format) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(16 * 1024);
    let mut now = Registry::default();
    process::register(&mut now);
    if let Some(sources) = sources {
        text::encode_registry(&mut text, &sources.metrics.shared.registry)?;
        sources.register(&mut now);
    }
    text::encode_registry(&mut text, &now)?;
    if format == Format::Plain {
        text = plain(&text)?;
    }
    for (name, summaries) in sources.iter().flat_map(|sources| &sources.metrics.shared.summaries) {
        summary::encode(&mut text, name, summaries)?;
    }
    if format == Format::Open {
        text::encode_eof(&mut text)?;
    }
    Ok(text)
}

/// Parts of the proxy that know things which are asked for when somebody looks.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "entities have nothing to show")]
pub struct Sources {
    /// What was counted.
    pub metrics: Metrics,
    /// Who runs the entities' code.
    pub user_function: UserFunction,
    /// The entities that are open.
    pub entities: Entities,
    /// Whether calls are served.
    pub readiness: Readiness,
    /// Who hears of what the user function does wrong.
    pub reporter: Reporter,
    /// What the user function serves.
    pub services: Vec<Arc<Service>>,
}

/// How an exposition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Prometheus' own text format, version 0.0.4.
    Plain,
    /// OpenMetrics 1.0.
    Open,
}

impl Format {
    /// The best one that an `Accept` header asks for.
    fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::Open,
            _ => Self::Plain,
        }
    }

    /// Its `Content-Type`.
    const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Sources {
    /// Registers what is asked for at this moment.
    fn register(&self, registry: &mut Registry) {
        let link = self.user_function.link().borrow().clone();
        let mut gauge = |name, help, value: usize| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            registry.register(name, help, ConstGauge::new(value));
        };
        gauge(
            "cloudstate_user_function_connections",
            "Connections to the user function",
            link.connections,
        );
        gauge(
            "cloudstate_user_function_streams",
            "Open streams to the user function",
            self.user_function.streams(),
        );
        gauge("cloudstate_open_entities", "Entities that are open", self.entities.open_count());
        let budget = self.entities.budget();
        let (entities, calls) = (budget.entities(), budget.calls());
        gauge(
            "cloudstate_memory_budget_entities_bytes",
            "Memory budget for open entities",
            entities.size(),
        );
        gauge(
            "cloudstate_memory_budget_entities_used_bytes",
            "How much of the budget for open entities is taken",
            entities.used(),
        );
        gauge(
            "cloudstate_memory_budget_calls_bytes",
            "Memory budget for calls under way",
            calls.size(),
        );
        gauge(
            "cloudstate_memory_budget_calls_used_bytes",
            "How much of the budget for calls under way is taken",
            calls.used(),
        );
        gauge(
            "cloudstate_ready",
            "Whether calls are served",
            usize::from(self.readiness.now().is_ok()),
        );
        let owns = self.readiness.of(Part::Ownership).is_ok();
        gauge(
            "cloudstate_ownership_owned",
            "Whether this proxy owns its entities",
            usize::from(owns),
        );
        let epoch =
            self.entities.epoch().map_or(0, |epoch| usize::try_from(epoch.0).unwrap_or(usize::MAX));
        gauge("cloudstate_ownership_epoch", "Epoch of the ownership, 0 without one", epoch);
        let mut counter =
            |name, help, value: u64| registry.register(name, help, ConstCounter::new(value));
        counter(
            "cloudstate_user_function_reached",
            "How often the user function was reached after a loss",
            link.reached,
        );
        counter(
            "cloudstate_user_function_connect_failures",
            "Attempts to connect to the user function that failed",
            link.failures,
        );
    }
}

/// Makes Prometheus' own format out of OpenMetrics: there the family of a counter has its samples' name.
fn plain(open: &str) -> Result<String, fmt::Error> {
    let mut plain = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        // HELP comes right before TYPE.
        let counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let family =
            line.strip_prefix("# HELP ").filter(|_| lines.peek().is_some_and(|next| counter(next)));
        match family.and_then(|family| family.split_once(' ')) {
            Some((name, help)) => writeln!(plain, "# HELP {name}_total {help}")?,
            None if counter(line) => {
                let name = line.trim_start_matches("# TYPE ").trim_end_matches(" counter");
                writeln!(plain, "# TYPE {name}_total counter")?;
            }
            None => writeln!(plain, "{line}")?,
        }
    }
    Ok(plain)
}

/// Registers a metric and keeps a handle on it.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn times<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor(|| Histogram::new(TIMES))
}

fn short_times<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor(|| Histogram::new(SHORT_TIMES))
}

#[cfg(test)]
mod tests;
