//! What the management port shows, as JSON that also reads as text.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::contract::NotReady;
use serde_json::{Map, Value, json};

use super::Desk;
use crate::{
    entity::View,
    metrics::Sources,
    readiness::{Part, Ready},
    route::{Kind, Service},
    user_function::LinkState,
};

/// Entities that are listed at once.
const LISTED: usize = 100;

/// What runs here, for programs that compare proxies.
pub(super) fn info(desk: &Desk) -> Value {
    let services = desk.sources.get().map(|sources| {
        let one = |service: &Arc<Service>| {
            let entity_type = match service.kind {
                Kind::Action => protocol::ACTION,
                Kind::EventSourced => protocol::EVENT_SOURCED,
                Kind::Value => protocol::VALUE_ENTITY,
            };
            json!({ "name": service.name, "entity_type": entity_type })
        };
        sources.services.iter().map(one).collect::<Value>()
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": format!("{}.{}", protocol::VERSION.0, protocol::VERSION.1),
        "store": desk.facts.store,
        "configuration": desk.facts.hash,
        "services": services,
    })
}

/// What a probe says in so many words: its outcome, and what every part says of itself.
pub(super) fn verbose(desk: &Desk, outcome: &Ready) -> Value {
    let parts = [
        ("staying", Part::Staying),
        ("user_function", Part::UserFunction),
        ("ownership", Part::Ownership),
        ("edge", Part::Edge),
    ];
    let checks = parts.map(|(name, part)| (name.to_owned(), check(&desk.readiness.of(part))));
    let mut page = check(outcome);
    page["checks"] = Value::Object(checks.into_iter().collect());
    page["up_seconds"] = desk.facts.started.elapsed().unwrap_or_default().as_secs().into();
    page
}

fn check(ready: &Ready) -> Value {
    match ready {
        Ok(()) => json!({ "ok": true }),
        Err(why) => {
            let mut page = self::why(why);
            page["ok"] = false.into();
            page
        }
    }
}

/// Why not, as every probe says it.
pub(super) fn why(why: &NotReady) -> Value {
    json!({ "reason": why.reason, "message": why.message })
}

/// The proxy as a whole.
pub(super) fn status(desk: &Desk) -> Value {
    let Desk { facts, readiness, sources, ending: _ } = desk;
    let mut page = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "up for": ago(facts.started),
        "ready": told(&readiness.now()),
        "since": ago(readiness.since()),
        "store": facts.store,
        "ownership": told(&readiness.of(Part::Ownership)),
        "user function": { "address": facts.user_function },
    });
    if let Some(sources) = sources.get() {
        page["epoch"] = sources.entities.epoch().map_or(Value::Null, |epoch| epoch.0.into());
        page["user function"] = user_function(&facts.user_function, sources);
        page["services"] = sources.services.iter().map(|s| json!(s.name)).collect();
        let budget = sources.entities.budget();
        page["entities"] = json!({
            "open": sources.entities.open_count(),
            "memory": format!("{} of {} bytes", budget.entities().used(), budget.entities().size()),
            "commands that may wait for one": facts.commands,
        });
        let calls = budget.calls();
        page["calls"] = json!({ "memory": format!("{} of {} bytes", calls.used(), calls.size()) });
        let recent = sources.reporter.recent();
        page["recent problems"] =
            recent.iter().map(|(at, what)| json!(format!("{} ago: {what}", ago(*at)))).collect();
    }
    page["memory budget"] = json!(format!("{} bytes", facts.memory));
    page
}

fn user_function(address: &str, sources: &Sources) -> Value {
    let link = sources.user_function.link().borrow().clone();
    let state = match link.state {
        LinkState::Lost => format!("lost: {}", link.error),
        LinkState::Unknown => "connected, and asked what it serves".to_owned(),
        LinkState::Agreed => "connected".to_owned(),
        LinkState::Replaced => "another program answers now".to_owned(),
    };
    json!({
        "address": address,
        "state": state,
        "since": duration(link.since.elapsed()),
        "connections": link.connections,
        "streams": sources.user_function.streams(),
    })
}

/// Open entities, the most beset first.
pub(super) async fn entities(desk: &Desk, query: &str) -> Value {
    let Some(sources) = desk.sources.get() else {
        return json!({ "open": 0 });
    };
    let (service, key) = (parameter(query, "service"), parameter(query, "key"));
    let stored = service.as_ref().map(|service| {
        let found = sources.services.iter().find(|found| found.name == *service);
        found.map_or_else(|| service.clone(), |found| found.persistence_id.clone())
    });
    let wanted = |id: &crate::journal::EntityId| {
        stored.as_ref().is_none_or(|stored| id.persistence_id == *stored)
            && key.as_ref().is_none_or(|key| id.key == *key)
    };
    let views = sources.entities.look(LISTED, wanted).await;
    json!({
        "open": sources.entities.open_count(),
        "listed": views.len(),
        "entities": views.iter().map(view).collect::<Value>(),
    })
}

fn view(view: &View) -> Value {
    json!({
        "service": view.service,
        "key": view.id.key,
        "phase": view.machine.phase,
        "queued": view.machine.queued,
        "in flight": view.machine.in_flight,
        "sequence": view.machine.sequence.0,
        "idle for": duration(view.idle),
    })
}

fn told(ready: &Ready) -> String {
    match ready {
        Ok(()) => "yes".to_owned(),
        Err(why) => format!("no, {}: {}", why.reason, why.message),
    }
}

/// A clock that was set back says zero.
fn ago(then: SystemTime) -> String {
    duration(then.elapsed().unwrap_or_default())
}

/// To whole seconds, or milliseconds below ten.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{} ms", duration.as_millis()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Whether a query has this word, with or without a value.
pub(super) fn is_flag(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some(name))
}

/// The value of a query's parameter, decoded; nothing when it is empty.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) =
        pairs.into_iter().find(|(found, value)| *found == name && !value.is_empty())?;
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let number = std::str::from_utf8(&digits).ok()?;
                decoded.push(u8::from_str_radix(number, 16).ok()?);
                rest = after;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(*byte),
        }
    }
    String::from_utf8(decoded).ok()
}

/// A page as text: one line for each value, lists and parts indented; a list of parts as a table.
pub(super) fn plain(page: &Value) -> String {
    let mut text = String::new();
    write(&mut text, page, 0);
    text
}

fn write(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| named(text, name, value, depth)),
        Value::Array(list) => {
            for value in list {
                match value {
                    Value::Object(map) => line(text, depth, &row(map)),
                    other => line(text, depth, &scalar(other)),
                }
            }
        }
        other => line(text, depth, &scalar(other)),
    }
}

fn named(text: &mut String, name: &str, value: &Value, depth: usize) {
    match value {
        Value::Object(_) | Value::Array(_) => {
            line(text, depth, &format!("{name}:"));
            write(text, value, depth + 1);
        }
        other => line(text, depth, &format!("{name}: {}", scalar(other))),
    }
}

fn line(text: &mut String, depth: usize, line: &str) {
    text.push_str(&"  ".repeat(depth));
    text.push_str(line);
    text.push('\n');
}

fn row(map: &Map<String, Value>) -> String {
    let cells = map.iter().map(|(name, value)| format!("{name}: {}", scalar(value)));
    cells.collect::<Vec<_>>().join(", ")
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_text() {
        let page = json!({
            "a": "yes", "list": ["x", "y"], "part": { "n": 1 }, "rows": [{ "key": "k", "queued": 2 }],
        });
        let expected = "a: yes\nlist:\n  x\n  y\npart:\n  n: 1\nrows:\n  key: k, queued: 2\n";
        assert_eq!(plain(&page), expected);
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(parameter("service=a.B&key=x%2Fy+z", "key").as_deref(), Some("x/y z"));
        assert_eq!(parameter("key=", "key"), None);
        assert_eq!(parameter("key=%zz", "key"), None);
        assert_eq!(parameter("other=1", "key"), None);
        for query in ["verbose", "verbose=", "a=1&verbose=true"] {
            assert!(is_flag(query, "verbose"), "{query}");
        }
        assert!(!is_flag("", "verbose") && !is_flag("a=verbose", "verbose"));
    }
}
