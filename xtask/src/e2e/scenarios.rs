//! The scenarios by name.

mod bad_input;
mod cold_start;
mod contract;
mod drift;
mod every_right;
mod fields;
mod footprint;
mod install_forms;
mod life;
mod manifests;
mod operator;
mod orders;
mod postgres;
mod postgres_tls;
mod postgres_volume;
mod reflection;
mod replicas;
mod secrets;
mod shape;
mod sidecar;
mod silence;
mod specs;
mod store_keys;
mod waves;

use super::namespace::Namespace;

/// One promise, and how it is seen to be kept.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Namespace<'_>) -> anyhow::Result<()>,
    /// Runs when nothing else does: it measures time, or disturbs the others.
    pub(super) alone: bool,
}

/// Makes the row of a scenario from its function.
macro_rules! scenario {
    ($module:ident::$name:ident) => {
        Scenario { name: stringify!($name), run: $module::$name, alone: false }
    };
    ($module:ident::$name:ident, alone) => {
        Scenario { name: stringify!($name), run: $module::$name, alone: true }
    };
}

pub(super) const ALL: &[Scenario] = &[
    // The longest come first, and wait beside the others.
    scenario!(silence::fifty_services_and_not_one_write),
    scenario!(replicas::another_leads_when_the_leader_is_killed_frozen_or_cut_off),
    scenario!(waves::thirty_services_roll_in_waves_and_halt),
    scenario!(install_forms::kustomize_in_one_namespace),
    scenario!(install_forms::helm_with_every_setting_that_needs_rights),
    scenario!(install_forms::helm_with_bind_and_its_definitions),
    scenario!(install_forms::plain_yaml),
    scenario!(secrets::planted_passwords_show_up_nowhere),
    scenario!(orders::pieces_come_in_any_order),
    scenario!(orders::replicas_are_those_of_the_service),
    scenario!(orders::a_store_in_memory_pins_one_pod),
    scenario!(store_keys::every_key_of_a_postgres_store_is_used),
    scenario!(store_keys::every_key_of_a_cassandra_store_reaches_the_sidecar),
    scenario!(sidecar::jvm_last_words_in_describe_pod),
    scenario!(life::cart_through_the_service),
    scenario!(life::deleting_the_service_removes_everything),
    scenario!(sidecar::native_proxy_that_hangs_is_replaced),
    scenario!(life::deleted_pod_comes_back),
    scenario!(life::cart_survives_the_user_function),
    scenario!(sidecar::jvm_proxy_that_hangs_is_replaced),
    scenario!(shape::minimal_example_becomes_one_deployment_and_one_service),
    scenario!(shape::declared_port_is_used),
    scenario!(shape::columns_of_kubectl_get),
    scenario!(sidecar::native_calls_outlive_their_pod),
    scenario!(sidecar::init_container_drains_ahead_of_term),
    scenario!(sidecar::f30_a_whole_life_from_scratch),
    scenario!(fields::every_field_reaches_the_pod),
    scenario!(fields::every_field_of_a_container_reaches_the_pod),
    scenario!(fields::autoscaling_is_kept_and_not_acted_upon),
    scenario!(fields::paused_service_is_held),
    scenario!(fields::status_says_what_runs),
    scenario!(specs::refused_specs_are_refused_in_these_words),
    scenario!(specs::generated_services_pass_the_api_server),
    scenario!(bad_input::store_that_does_not_exist),
    scenario!(bad_input::store_type_that_does_not_exist),
    scenario!(bad_input::service_without_containers),
    scenario!(sidecar::jvm_calls_outlive_their_pod),
    scenario!(bad_input::unknown_field),
    scenario!(sidecar::jvm_heap_is_the_one_asked_for),
    scenario!(bad_input::user_function_that_never_listens),
    scenario!(bad_input::protocol_version_of_tomorrow),
    scenario!(sidecar::native_last_words_in_describe_pod),
    scenario!(bad_input::unknown_entity_type),
    scenario!(sidecar::jvm_proxy_that_is_killed_comes_back),
    scenario!(bad_input::event_sourced_without_datastore),
    scenario!(bad_input::image_that_does_not_exist),
    scenario!(sidecar::jvm_rights_go_with_the_last_service),
    scenario!(sidecar::jvm_sidecar_outlives_its_user_function),
    scenario!(postgres::cart_on_postgres_survives_its_pod),
    scenario!(postgres::replicas_are_pinned_with_a_store),
    scenario!(sidecar::jvm_memory_beyond_the_limit_is_refused),
    scenario!(postgres::credentials_that_do_not_work),
    scenario!(sidecar::native_memory_beyond_the_limit_is_refused),
    scenario!(postgres_tls::cart_on_postgres_over_tls),
    scenario!(contract::the_api_server_keeps_the_contract),
    scenario!(reflection::service_describes_itself_to_grpcurl),
    scenario!(footprint::images_are_small),
    scenario!(footprint::idle_memory, alone),
    scenario!(life::killed_proxy_is_back_within_two_seconds, alone),
    scenario!(sidecar::native_memory_is_kept_to_with_50000_entities, alone),
    scenario!(drift::edits_by_hand_are_restored_within_two_seconds, alone),
    scenario!(postgres::postgres_restarted_under_load, alone),
    scenario!(postgres_volume::postgres_pod_deleted_under_load, alone),
    scenario!(postgres::rolling_update_under_load, alone),
    scenario!(orders::children_are_back_within_a_second, alone),
    scenario!(operator::restart_changes_no_object, alone),
    scenario!(every_right::rights_of_all_namespaces_are_all_used, alone),
];

/// What is measured when somebody asks, and is no promise.
pub(super) const MEASUREMENTS: &[Scenario] =
    &[scenario!(cold_start::three_hundred_services_from_cold, alone)];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::layout;

    #[test]
    fn names_are_distinct_and_fit_into_a_namespace() {
        let all = || ALL.iter().chain(MEASUREMENTS);
        let names: BTreeSet<_> = all().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().count());
        for name in names {
            assert!("e2e-".len() + name.len() <= 63, "{name} is too long for a namespace");
        }
    }

    /// The page says which scenario shows each field; its last cell names them.
    #[test]
    fn scenarios_that_the_page_of_fields_names_exist() {
        let page = fs::read_to_string(layout::root().join("docs/fields.md")).unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
        let named: BTreeSet<_> =
            cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let unknown: Vec<_> =
            named.iter().filter(|name| !ALL.iter().any(|known| known.name == **name)).collect();
        assert!(
            unknown.is_empty(),
            "docs/fields.md names scenarios that are not there: {unknown:?}"
        );
        assert!(named.len() > 10, "docs/fields.md names only {named:?}");
    }
}
