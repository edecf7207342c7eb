//! Event sourced entities.

use anyhow::{Result, ensure};
use futures::future;
use protocol::cloudstate::metadata_entry::Value;
use tonic::{Code, Request};

use crate::{
    caller::{Call as _, answers, answers_again, fails, outcome, refused},
    models::event_sourced::{
        self as model, event_sourced_configured_client::EventSourcedConfiguredClient,
    },
    obligations,
    say::{
        self,
        event_sourced::{
            CONFIGURED, MODEL, TWO, call, command, command_with, effect, emit, event, fail,
            failure, forward, forwarded, init, init_from, reply, request,
        },
    },
    suite::{Obligation, Test},
    wire::{
        Item::{FunctionDone, ProxyDone},
        Taken,
    },
};

pub const ALL: &[Obligation] = obligations![
    "event_sourced":
    a_new_entity_begins_without_a_snapshot,
    commands_are_numbered_from_one,
    a_command_of_a_plain_client_has_no_metadata,
    metadata_of_the_caller_comes_with_the_command,
    events_of_a_reply_are_not_sent_back,
    a_failure_reaches_the_caller_word_for_word,
    a_failure_after_events_starts_the_entity_anew,
    failed_events_are_gone,
    a_snapshot_is_where_the_next_activation_begins,
    a_newer_snapshot_replaces_an_older_one,
    a_forward_answers_the_caller,
    a_forward_keeps_the_events,
    a_synchronous_effect_is_done_before_the_answer,
    an_asynchronous_effect_arrives,
    effects_use_the_activation_that_there_is,
    effects_run_in_order,
    effects_of_a_forward_run,
    an_entity_may_forward_to_a_service_with_the_same_key,
    an_idle_entity_is_passivated,
    a_passivated_entity_comes_back,
    a_broken_stream_is_replaced,
    one_command_at_a_time_is_with_the_entity,
    a_command_without_a_key_is_refused,
];

async fn a_new_entity_begins_without_a_snapshot(t: Test) -> Result<()> {
    let get = request(&t.id, []);
    answers(&t.channel, get.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &get), reply(1, "").into()]).await?;
    Ok(())
}

async fn commands_are_numbered_from_one(t: Test) -> Result<()> {
    let (get, add) = (request(&t.id, []), request(&t.id, [emit("A")]));
    answers(&t.channel, get.clone(), "").await?;
    answers(&t.channel, add.clone(), "A").await?;
    answers(&t.channel, get.clone(), "A").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &get), reply(1, "").into()]).await?;
    entity.expect([command(2, &add), reply(2, "A").events(["A"]).into()]).await?;
    entity.expect([command(3, &get), reply(3, "A").into()]).await?;
    Ok(())
}

async fn a_command_of_a_plain_client_has_no_metadata(t: Test) -> Result<()> {
    // Equality covers it: `command` has none.
    let add = request(&t.id, [emit("A")]);
    answers(&t.channel, Request::new(add.clone()), "A").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &add)]).await?;
    entity.expect([reply(1, "A").events(["A"]).into()]).await?;
    Ok(())
}

async fn metadata_of_the_caller_comes_with_the_command(t: Test) -> Result<()> {
    let get = request(&t.id, []);
    let mut call = Request::new(get.clone());
    call.metadata_mut().insert("x-conformance", "yes".parse()?);
    answers(&t.channel, call, "").await?;
    let metadata = say::metadata("x-conformance", Value::StringValue("yes".to_owned()));
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command_with(1, &get, metadata)]).await?;
    entity.expect([reply(1, "").into()]).await?;
    Ok(())
}

async fn events_of_a_reply_are_not_sent_back(t: Test) -> Result<()> {
    let add = request(&t.id, [emit("A"), emit("B"), emit("C")]);
    let get = request(&t.id, []);
    answers(&t.channel, add.clone(), "ABC").await?;
    answers(&t.channel, get.clone(), "ABC").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &add)]).await?;
    entity.expect([reply(1, "ABC").events(["A", "B", "C"]).into()]).await?;
    entity.expect([command(2, &get), reply(2, "ABC").into()]).await?;
    Ok(())
}

async fn a_failure_reaches_the_caller_word_for_word(t: Test) -> Result<()> {
    let text = "no: 100 % wrong, \u{00e4}\u{00f6}\u{00fc}";
    let (wrong, get) = (request(&t.id, [fail(text)]), request(&t.id, []));
    fails(&t.channel, wrong.clone(), text).await?;
    answers(&t.channel, get.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &wrong)]).await?;
    entity.expect([failure(1, text, false).into(), command(2, &get)]).await?;
    entity.expect([reply(2, "").into()]).await?;
    Ok(())
}

/// Makes the model forget what it has in memory, and gives what the next activation must begin with
/// time to arrive.
async fn restart(t: &Test, entity: &Taken, next: i64) -> Result<Taken> {
    let wrong = request(&t.id, [emit("lost"), fail("again")]);
    fails(&t.channel, wrong.clone(), "again").await?;
    entity.expect([command(next, &wrong), failure(next, "again", true).into()]).await?;
    entity.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
    t.event_sourced(MODEL, &t.id).await
}

async fn a_failure_after_events_starts_the_entity_anew(t: Test) -> Result<()> {
    let add = request(&t.id, [emit("A"), emit("B")]);
    answers(&t.channel, add.clone(), "AB").await?;
    let first = t.event_sourced(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &add)]).await?;
    first.expect([reply(1, "AB").events(["A", "B"]).into()]).await?;
    // Both sides of the old stream end, and the new one gets the history before any command comes.
    let second = restart(&t, &first, 2).await?;
    second.expect([init(MODEL, &t.id), event(1, "A"), event(2, "B")]).await?;
    let add = request(&t.id, [emit("C")]);
    answers(&t.channel, add.clone(), "ABC").await?;
    second.expect([command(1, &add), reply(1, "ABC").events(["C"]).into()]).await?;
    Ok(())
}

async fn failed_events_are_gone(t: Test) -> Result<()> {
    let wrong = request(&t.id, [emit("A"), fail("no")]);
    fails(&t.channel, wrong.clone(), "no").await?;
    let first = t.event_sourced(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &wrong), failure(1, "no", true).into()]).await?;
    first.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
    let get = request(&t.id, []);
    answers(&t.channel, get.clone(), "").await?;
    let second = t.event_sourced(MODEL, &t.id).await?;
    second.expect([init(MODEL, &t.id), command(1, &get), reply(1, "").into()]).await?;
    Ok(())
}

async fn a_snapshot_is_where_the_next_activation_begins(t: Test) -> Result<()> {
    let five = request(&t.id, ["A", "B", "C", "D", "E"].map(emit));
    answers(&t.channel, five.clone(), "ABCDE").await?;
    let first = t.event_sourced(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &five)]).await?;
    let saved = reply(1, "ABCDE").events(["A", "B", "C", "D", "E"]).snapshot("ABCDE");
    first.expect([saved.into()]).await?;
    let three = request(&t.id, ["F", "G", "H"].map(emit));
    answers(&t.channel, three.clone(), "ABCDEFGH").await?;
    first.expect([command(2, &three)]).await?;
    first.expect([reply(2, "ABCDEFGH").events(["F", "G", "H"]).into()]).await?;
    let second = restart(&t, &first, 3).await?;
    second.expect([init_from(&t.id, 5, "ABCDE")]).await?;
    second.expect([event(6, "F"), event(7, "G"), event(8, "H")]).await?;
    let get = request(&t.id, []);
    answers(&t.channel, get.clone(), "ABCDEFGH").await?;
    second.expect([command(1, &get), reply(1, "ABCDEFGH").into()]).await?;
    Ok(())
}

async fn a_newer_snapshot_replaces_an_older_one(t: Test) -> Result<()> {
    let four = request(&t.id, ["A", "B", "C", "D"].map(emit));
    answers(&t.channel, four.clone(), "ABCD").await?;
    let first = t.event_sourced(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &four)]).await?;
    first.expect([reply(1, "ABCD").events(["A", "B", "C", "D"]).into()]).await?;
    // The fifth event is amid these: the snapshot is of the state after the last, at its number.
    let three = request(&t.id, ["E", "F", "G"].map(emit));
    answers(&t.channel, three.clone(), "ABCDEFG").await?;
    let saved = reply(2, "ABCDEFG").events(["E", "F", "G"]).snapshot("ABCDEFG");
    first.expect([command(2, &three), saved.into()]).await?;
    let four = request(&t.id, ["H", "I", "J", "K"].map(emit));
    answers(&t.channel, four.clone(), "ABCDEFGHIJK").await?;
    let saved = reply(3, "ABCDEFGHIJK").events(["H", "I", "J", "K"]).snapshot("ABCDEFGHIJK");
    first.expect([command(3, &four), saved.into()]).await?;
    let second = restart(&t, &first, 4).await?;
    second.expect([init_from(&t.id, 11, "ABCDEFGHIJK")]).await?;
    let add = request(&t.id, [emit("L")]);
    answers(&t.channel, add.clone(), "ABCDEFGHIJKL").await?;
    second.expect([command(1, &add), reply(1, "ABCDEFGHIJKL").events(["L"]).into()]).await?;
    Ok(())
}

async fn a_forward_answers_the_caller(t: Test) -> Result<()> {
    let two = t.other("two");
    let pass = request(&t.id, [forward(&two)]);
    answers(&t.channel, pass.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &pass), forwarded(1, &two).into()]).await?;
    let entity = t.event_sourced(TWO, &two).await?;
    entity.expect([init(TWO, &two), call(1, &two), reply(1, "").into()]).await?;
    Ok(())
}

async fn a_forward_keeps_the_events(t: Test) -> Result<()> {
    let two = t.other("two");
    let pass = request(&t.id, [emit("A"), forward(&two)]);
    answers(&t.channel, pass.clone(), "").await?;
    let first = t.event_sourced(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &pass)]).await?;
    first.expect([forwarded(1, &two).events(["A"]).into()]).await?;
    let entity = t.event_sourced(TWO, &two).await?;
    entity.expect([init(TWO, &two), call(1, &two), reply(1, "").into()]).await?;
    let second = restart(&t, &first, 2).await?;
    second.expect([init(MODEL, &t.id), event(1, "A")]).await?;
    Ok(())
}

async fn a_synchronous_effect_is_done_before_the_answer(t: Test) -> Result<()> {
    let two = t.other("two");
    let act = request(&t.id, [emit("A"), effect(&two, true)]);
    answers(&t.channel, act.clone(), "A").await?;
    // The caller has its answer, so all of this is on the wire already.
    let target = t.event_sourced(TWO, &two).await?;
    target.expect_now([init(TWO, &two), call(1, &two), reply(1, "").into()])?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([reply(1, "A").events(["A"]).effect(&two, true).into()]).await?;
    Ok(())
}

async fn an_asynchronous_effect_arrives(t: Test) -> Result<()> {
    let two = t.other("two");
    let act = request(&t.id, [effect(&two, false)]);
    answers(&t.channel, act.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([reply(1, "").effect(&two, false).into()]).await?;
    let target = t.event_sourced(TWO, &two).await?;
    target.expect([init(TWO, &two), call(1, &two), reply(1, "").into()]).await?;
    Ok(())
}

async fn effects_use_the_activation_that_there_is(t: Test) -> Result<()> {
    let two = t.other("two");
    let act = request(&t.id, [effect(&two, false)]);
    let entity = {
        answers(&t.channel, act.clone(), "").await?;
        t.event_sourced(MODEL, &t.id).await?
    };
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([reply(1, "").effect(&two, false).into()]).await?;
    let target = t.event_sourced(TWO, &two).await?;
    target.expect([init(TWO, &two), call(1, &two), reply(1, "").into()]).await?;
    answers(&t.channel, act.clone(), "").await?;
    entity.expect([command(2, &act), reply(2, "").effect(&two, false).into()]).await?;
    target.expect([call(2, &two), reply(2, "").into()]).await?;
    Ok(())
}

async fn effects_run_in_order(t: Test) -> Result<()> {
    let names = ["first", "second", "third"].map(|name| t.other(name));
    let [first, second, third] = &names;
    let effects = [effect(first, true), effect(second, false), effect(third, true)];
    let act = request(&t.id, effects);
    answers(&t.channel, act.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    let answer = reply(1, "").effect(first, true).effect(second, false).effect(third, true);
    entity.expect([answer.into()]).await?;
    let mut begun = Vec::new();
    let mut done = Vec::new();
    for name in &names {
        let target = t.event_sourced(TWO, name).await?;
        begun.push(target.expect([init(TWO, name)]).await?);
        done.push(target.expect([call(1, name), reply(1, "").into()]).await?);
    }
    ensure!(done[0] < begun[1], "the second effect began before the synchronous first was done");
    ensure!(done[0] < begun[2], "the third effect began before the synchronous first was done");
    Ok(())
}

async fn effects_of_a_forward_run(t: Test) -> Result<()> {
    let (two, three) = (t.other("two"), t.other("three"));
    let act = request(&t.id, [effect(&three, true), forward(&two)]);
    answers(&t.channel, act.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([forwarded(1, &two).effect(&three, true).into()]).await?;
    let effect = t.event_sourced(TWO, &three).await?;
    let done = effect.expect([init(TWO, &three), call(1, &three), reply(1, "").into()]).await?;
    let target = t.event_sourced(TWO, &two).await?;
    let begun = target.expect([init(TWO, &two)]).await?;
    target.expect([call(1, &two), reply(1, "").into()]).await?;
    ensure!(done < begun, "the forward went out before the synchronous effect was done");
    Ok(())
}

async fn an_entity_may_forward_to_a_service_with_the_same_key(t: Test) -> Result<()> {
    let pass = request(&t.id, [forward(&t.id)]);
    answers(&t.channel, pass.clone(), "").await?;
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &pass), forwarded(1, &t.id).into()]).await?;
    let entity = t.event_sourced(TWO, &t.id).await?;
    entity.expect([init(TWO, &t.id), call(1, &t.id), reply(1, "").into()]).await?;
    Ok(())
}

async fn configured(t: &Test) -> Result<()> {
    let mut client = EventSourcedConfiguredClient::new(t.channel.clone());
    let call = client.call(model::Request { id: t.id.clone(), actions: Vec::new() });
    outcome(call).await??;
    Ok(())
}

async fn an_idle_entity_is_passivated(t: Test) -> Result<()> {
    configured(&t).await?;
    let entity = t.event_sourced(CONFIGURED, &t.id).await?;
    entity.expect([init(CONFIGURED, &t.id), call(1, &t.id), reply(1, "").into()]).await?;
    // The original's kit waits two seconds, which a busy machine may need for anything; without the entity's own timeout
    // it would be thirty.
    entity.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
    Ok(())
}

async fn a_passivated_entity_comes_back(t: Test) -> Result<()> {
    for _ in 0..2 {
        configured(&t).await?;
        let entity = t.event_sourced(CONFIGURED, &t.id).await?;
        entity.expect([init(CONFIGURED, &t.id), call(1, &t.id), reply(1, "").into()]).await?;
        entity.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
    }
    Ok(())
}

async fn a_broken_stream_is_replaced(t: Test) -> Result<()> {
    let add = request(&t.id, [emit("A")]);
    answers(&t.channel, add.clone(), "A").await?;
    let first = t.event_sourced(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &add)]).await?;
    first.expect([reply(1, "A").events(["A"]).into()]).await?;
    first.cut().await?;
    let get = request(&t.id, []);
    answers_again(&t.channel, get.clone(), "A").await?;
    t.wire.forget(&first);
    let second = t.event_sourced(MODEL, &t.id).await?;
    second.expect([init(MODEL, &t.id), event(1, "A"), command(1, &get)]).await?;
    second.expect([reply(1, "A").into()]).await?;
    Ok(())
}

async fn one_command_at_a_time_is_with_the_entity(t: Test) -> Result<()> {
    const CALLERS: i64 = 40;
    let add = request(&t.id, [emit("x")]);
    let calls = (0..CALLERS).map(|_| outcome(add.clone().call(t.channel.clone())));
    let mut lengths = Vec::new();
    for answer in future::join_all(calls).await {
        lengths.push(answer??.into_inner().len());
    }
    lengths.sort_unstable();
    ensure!(lengths.iter().copied().eq(1..=lengths.len()), "callers saw states of {lengths:?}");
    let entity = t.event_sourced(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id)]).await?;
    for id in 1..=CALLERS {
        let state = "x".repeat(usize::try_from(id)?);
        let answer = reply(id, &state).events(["x"]);
        let answer = if id % 5 == 0 { answer.snapshot(&state) } else { answer };
        entity.expect([command(id, &add), answer.into()]).await?;
    }
    Ok(())
}

async fn a_command_without_a_key_is_refused(t: Test) -> Result<()> {
    // Nothing of it is on the wire: the end of the suite finds what nobody expected.
    refused(&t.channel, request("", []), Code::InvalidArgument, "the entity key is empty").await
}
