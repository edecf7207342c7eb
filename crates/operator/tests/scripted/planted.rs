//! Each bug that can be planted is caught by the check that is named beside it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use operator::{Bug, plant};

use crate::{checks, leftovers, stores, traps};

#[track_caller]
fn caught<F: Future<Output = ()>>(bug: Bug, check: impl FnOnce() -> F) {
    plant(bug);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let run = AssertUnwindSafe(|| runtime.block_on(check()));
    let Err(panic) = catch_unwind(run) else { panic!("{bug:?} is not noticed") };
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let text = text.unwrap_or_default();
    let first: String = text.lines().next().unwrap_or_default().chars().take(100).collect();
    println!("planted\t{bug:?}\t{first}");
}

macro_rules! caught {
    ($from:ident: $($bug:ident by $check:ident,)*) => {$(
        #[test]
        fn $check() {
            caught(Bug::$bug, $from::$check);
        }
    )*};
}

caught! {
    checks:
    OwnershipSkipped by objects_of_others_are_left_alone,
    StatusEachTime by nothing_is_written_at_rest,
    OrphansForgotten by what_is_needed_no_more_goes,
    CacheAfterConflict by a_conflict_is_answered_by_another_look,
    RightsKept by rights_go_with_the_last_who_needs_them,
    SurplusKept by what_a_hand_changes_is_put_right,
    RoleRefPatched by a_binding_to_another_role_is_made_anew,
    StoreReachesNobody by a_store_reaches_who_names_it,
    SecretUnseen by a_secret_reaches_who_depends_on_it,
    ChildGoneUnseen by a_child_that_is_gone_is_back,
    ListUnseen by what_a_watch_missed_is_found_in_the_list,
    StaleBelieved by events_that_are_doubled_or_stale_do_no_harm,
    PauseIgnored by paused_services_stay_as_they_are,
    DyingServed by a_service_on_its_way_out_gets_nothing_new,
    FailureForgotten by every_way_to_fail_is_got_over,
}

caught! {
    leftovers:
    SettingLeavesOver by an_account_goes_with_the_last_pod,
    FormerSettingUnseen by what_a_setting_left_is_found,
    FormerClaims by what_another_made_once_is_given_up_like_anything_else,
    WaitingUnguarded by a_hand_edit_of_what_waits_is_put_back,
}

caught! {
    stores:
    StoreUnguarded by a_store_goes_after_who_needs_it,
}

caught! {
    traps:
    NoReadTimeout by what_nobody_answers_is_given_up,
    OneBackOff by a_watch_that_fails_for_ever_delays_no_other,
}

mod each_time {
    use super::*;

    caught! {
        checks:
        ApplyEachTime by nothing_is_written_at_rest,
    }
}
