//! The scenarios by name.

mod bad_input;
mod contract;
mod drift;
mod every_right;
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
mod silence;

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
    scenario!(install_forms::kustomize_in_one_namespace),
    scenario!(install_forms::helm_with_every_setting_that_needs_rights),
    scenario!(install_forms::plain_yaml),
    scenario!(secrets::planted_passwords_show_up_nowhere),
    scenario!(orders::pieces_come_in_any_order),
    scenario!(orders::replicas_are_those_of_the_service),
    scenario!(life::cart_through_the_service),
    scenario!(life::deleting_the_service_removes_everything),
    scenario!(life::deleted_pod_comes_back),
    scenario!(life::cart_survives_the_user_function),
    scenario!(shape::minimal_example_becomes_one_deployment_and_one_service),
    scenario!(shape::declared_port_is_used),
    scenario!(shape::columns_of_kubectl_get),
    scenario!(bad_input::store_that_does_not_exist),
    scenario!(bad_input::store_type_that_does_not_exist),
    scenario!(bad_input::service_without_containers),
    scenario!(bad_input::unknown_field),
    scenario!(bad_input::user_function_that_never_listens),
    scenario!(bad_input::protocol_version_of_tomorrow),
    scenario!(bad_input::unknown_entity_type),
    scenario!(bad_input::event_sourced_without_datastore),
    scenario!(bad_input::image_that_does_not_exist),
    scenario!(postgres::cart_on_postgres_survives_its_pod),
    scenario!(postgres::replicas_are_pinned_with_a_store),
    scenario!(postgres::credentials_that_do_not_work),
    scenario!(postgres_tls::cart_on_postgres_over_tls),
    scenario!(contract::the_api_server_keeps_the_contract),
    scenario!(reflection::service_describes_itself_to_grpcurl),
    scenario!(footprint::images_are_small),
    scenario!(footprint::idle_memory, alone),
    scenario!(life::killed_proxy_is_back_within_two_seconds, alone),
    scenario!(drift::edits_by_hand_are_restored_within_two_seconds, alone),
    scenario!(postgres::postgres_restarted_under_load, alone),
    scenario!(postgres_volume::postgres_pod_deleted_under_load, alone),
    scenario!(postgres::rolling_update_under_load, alone),
    scenario!(orders::children_are_back_within_a_second, alone),
    scenario!(operator::restart_changes_no_object, alone),
    scenario!(every_right::rights_of_all_namespaces_are_all_used, alone),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_fit_into_a_namespace() {
        let names: BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!("e2e-".len() + name.len() <= 63, "{name} is too long for a namespace");
        }
    }
}
