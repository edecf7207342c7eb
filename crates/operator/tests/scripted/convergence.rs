//! A crash at any call to the API server, and a restart: the end is the same, and then silence.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scripted_api::{Call, Fault, Server, Store};

use crate::scenarios::{Scenario, all};
use crate::world::{
    Settings, assert_same, empty, objects, on_all_processors, rest, run_during, settle, writes,
};

/// Fewer than these would mean that calls were not counted.
const PLANS_MIN: usize = 1_000;
/// How long nothing may be written in the end, see [`crate::checks::nothing_is_written_at_rest`] for
/// longer.
const SILENCE: Duration = Duration::from_secs(14);
/// After so long an operator that has nothing to do watches everything.
const START: Duration = Duration::from_secs(2);

/// The store at rest before the change.
async fn baseline(scenario: &Scenario) -> Store {
    let mut store = empty();
    for object in &scenario.before {
        store.put(object);
    }
    let server = Server::new(store);
    settle(&server, scenario.settings).await;
    server.with(|store| {
        store.compact();
        store.clone()
    })
}

/// Changes the store under a running operator. Returns its calls from there until it rests, or until
/// the fault at one of them has killed it.
async fn change_under(
    scenario: &Scenario,
    server: &Server,
    fault: Option<(usize, Fault)>,
) -> Vec<Call> {
    let connection = server.connect();
    run_during(&connection, scenario.settings, async {
        tokio::time::sleep(START).await;
        let start = connection.calls().len();
        if let Some((at, fault)) = fault {
            connection.on_call(move |call| (call.index == start + at).then_some(fault));
        }
        server.with(|store| (scenario.change)(store));
        tokio::select! {
            biased;
            () = connection.died() => {}
            () = rest(&connection) => {}
        }
        connection.calls().split_off(start)
    })
    .await
}

/// Nothing is written by an operator that starts now, however long it runs.
pub(crate) async fn assert_silence(
    server: &Server,
    settings: Settings,
    long: Duration,
    what: &str,
) {
    let connection = server.connect();
    run_during(&connection, settings, tokio::time::sleep(long)).await;
    assert_eq!(writes(&connection), [], "{what}: it is written though all is as it should be");
}

/// Runs one scenario without a fault, then with a crash at each call. Returns how many crashes.
async fn crash_everywhere(scenario: &Scenario) -> usize {
    let Scenario { name, settings, .. } = scenario;
    let baseline = baseline(scenario).await;
    let server = Server::new(baseline.clone());
    let calls = change_under(scenario, &server, None).await;
    let expected = objects(&server);
    assert_silence(&server, settings, SILENCE, name).await;

    // Behind the last write there are only watches that begin anew.
    let last = calls.iter().rposition(|call| call.verb.is_write());
    let mut plans = 0;
    for (at, call) in calls.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
        let faults: &[Fault] =
            if call.verb.is_write() { &[Fault::Dies, Fault::DiesAfter] } else { &[Fault::Dies] };
        for fault in faults {
            let Call { verb, kind, .. } = call;
            let what = || format!("{name}: {fault:?} at call {at}, {verb:?} {}", kind.name);
            let server = Server::new(baseline.clone());
            change_under(scenario, &server, Some((at, *fault))).await;
            settle(&server, settings).await;
            // These are what an operator that starts anew has just left alone.
            assert_same(&objects(&server), &expected, what);
            plans += 1;
        }
    }
    plans
}

#[test]
fn a_crash_at_any_call_ends_where_no_crash_ends() {
    let begin = Instant::now();
    let plans = AtomicUsize::new(0);
    let scenarios = all().len();
    on_all_processors(scenarios, async |number| {
        let count = crash_everywhere(&all()[number]).await;
        plans.fetch_add(count, Ordering::Relaxed);
    });
    let plans = plans.into_inner();
    println!("{plans} crashes in {scenarios} scenarios, {:?}", begin.elapsed());
    assert!(plans >= PLANS_MIN, "{plans} crashes are too few");
}
