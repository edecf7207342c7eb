//! The exposition, as a scraper reads it.

use bytes::Bytes;

use super::*;
use crate::route::{Method, Shape, Target};

fn routes() -> Routes {
    let method = |kind, service: &str, persistence_id: &str| Method {
        service: Arc::new(Service {
            name: service.to_owned(),
            kind,
            persistence_id: persistence_id.to_owned(),
            passivation_timeout: None,
        }),
        name: "Add".to_owned(),
        input_type_url: String::new(),
        output_type_url: String::new(),
        target: Target::Action(Shape::Unary),
    };
    let methods = vec![
        method(Kind::EventSourced, "shop.Cart", "cart"),
        method(Kind::Value, "shop.Stock", "stock"),
        method(Kind::Action, "shop.Orders", "ignored"),
    ];
    Routes::new(methods, Bytes::new())
}

fn exposed(metrics: &Metrics, format: Format) -> String {
    let mut text = String::new();
    text::encode_registry(&mut text, &metrics.shared.registry).unwrap();
    if format == Format::Plain { plain(&text).unwrap() } else { text }
}

#[test]
fn event_sourced_entities_have_the_names_label_and_buckets_that_dashboards_know() {
    let metrics = Metrics::new(&routes());
    let text = exposed(&metrics, Format::Plain);
    for counter in [
        "activated_entities",
        "passivated_entities",
        "failed_entities",
        "received_commands",
        "stashed_commands",
        "unstashed_commands",
        "failed_commands",
        "completed_commands",
        "persisted_events",
        "persisted_event_bytes",
        "loaded_events",
        "loaded_event_bytes",
        "persisted_snapshots",
        "persisted_snapshot_bytes",
        "loaded_snapshots",
        "loaded_snapshot_bytes",
    ] {
        let name = format!("cloudstate_eventsourced_{counter}_total");
        assert!(text.contains(&format!("# TYPE {name} counter\n")), "{name} in {text}");
        assert!(
            text.contains(&format!("\n{name}{{entity_name=\"cart\"}} 0\n")),
            "{name} in {text}"
        );
    }
    for histogram in [
        "recovery_time",
        "command_stash_time",
        "command_processing_time",
        "command_total_time",
        "persist_time",
    ] {
        let name = format!("cloudstate_eventsourced_{histogram}_seconds");
        assert!(text.contains(&format!("# TYPE {name} histogram\n")), "{name}");
        let ends: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}_bucket{{")))
            .map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap())
            .collect();
        let expected = [
            "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5",
            "5.0", "7.5", "10.0", "+Inf",
        ];
        assert_eq!(ends, expected, "{name}");
    }
    assert!(!text.contains("_created"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
}

#[test]
fn value_entities_and_actions_have_families_of_their_own() {
    let text = exposed(&Metrics::new(&routes()), Format::Plain);
    for name in [
        "cloudstate_valueentity_updated_values_total{entity_name=\"stock\"} 0",
        "cloudstate_valueentity_deleted_values_total{entity_name=\"stock\"} 0",
        "cloudstate_valueentity_loaded_value_bytes_total{entity_name=\"stock\"} 0",
        "cloudstate_action_received_commands_total{entity_name=\"shop.Orders\"} 0",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(!text.contains("cloudstate_valueentity_persisted"), "{text}");
}

#[test]
fn a_call_counts_under_the_code_that_it_ended_with() {
    let metrics = Metrics::new(&routes());
    let call = || metrics.call("/shop.Cart/Add").unwrap().begin(None);
    drop(call().follow(tonic::Status::unavailable("away").into_http()));
    drop(call());
    let under_way = call();
    let text = exposed(&metrics, Format::Open);
    let labels = "protocol=\"grpc\",service=\"shop.Cart\",method=\"Add\"";
    for line in [
        format!("cloudstate_requests_total{{{labels},code=\"UNAVAILABLE\"}} 1"),
        format!("cloudstate_requests_total{{{labels},code=\"CANCELLED\"}} 1"),
        "cloudstate_requests_in_flight 1".to_owned(),
        "# TYPE cloudstate_requests counter".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    drop(under_way);
    assert!(metrics.call("/shop.Cart/Nothing").is_none());
}

#[test]
fn the_scraper_chooses_the_format() {
    let open = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    assert_eq!(Format::accepted(Some(open)), Format::Open);
    assert_eq!(Format::accepted(Some("*/*")), Format::Plain);
    assert_eq!(Format::accepted(None), Format::Plain);
}
