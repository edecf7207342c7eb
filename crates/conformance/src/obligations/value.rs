//! Value entities.

use anyhow::{Result, ensure};
use futures::future;
use tonic::Code;

use crate::{
    caller::{Call as _, answers, answers_again, fails, outcome, refused},
    models::value::{self as model, value_entity_configured_client::ValueEntityConfiguredClient},
    obligations,
    say::value::{
        CONFIGURED, MODEL, TWO, call, command, delete, effect, fail, failure, forward, forwarded,
        init, init_from, reply, request, update,
    },
    suite::{Obligation, Test},
    wire::{
        Item::{FunctionDone, ProxyDone},
        Taken,
    },
};

pub const ALL: &[Obligation] = obligations![
    "value_entity":
    a_new_entity_begins_with_an_empty_state,
    commands_are_numbered_from_one,
    an_update_is_kept,
    the_state_is_not_sent_again_while_the_entity_is_active,
    a_deleted_value_is_gone,
    a_deleted_value_may_come_again,
    a_failure_reaches_the_caller_word_for_word,
    a_failed_update_is_not_kept,
    a_forward_answers_the_caller,
    a_forward_keeps_the_update,
    a_synchronous_effect_is_done_before_the_answer,
    an_asynchronous_effect_arrives,
    effects_use_the_activation_that_there_is,
    effects_come_with_an_update,
    an_idle_entity_is_passivated,
    a_passivated_entity_comes_back,
    one_command_at_a_time_is_with_the_entity,
    a_command_without_a_key_is_refused,
];

async fn a_new_entity_begins_with_an_empty_state(t: Test) -> Result<()> {
    let get = request(&t.id, []);
    answers(&t.channel, get.clone(), "").await?;
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &get), reply(1, "").into()]).await?;
    Ok(())
}

async fn commands_are_numbered_from_one(t: Test) -> Result<()> {
    let get = request(&t.id, []);
    for _ in 1..=3 {
        answers(&t.channel, get.clone(), "").await?;
    }
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id)]).await?;
    for id in 1..=3 {
        entity.expect([command(id, &get), reply(id, "").into()]).await?;
    }
    Ok(())
}

/// Updates an entity for the first time.
async fn updated(t: &Test, value: &str) -> Result<Taken> {
    let put = request(&t.id, [update(value)]);
    answers(&t.channel, put.clone(), value).await?;
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &put)]).await?;
    entity.expect([reply(1, value).update(value).into()]).await?;
    Ok(entity)
}

/// Breaks the stream off, and gives the next activation once it has told the state.
async fn next_activation(t: &Test, entity: Taken, state: &str) -> Result<Taken> {
    let get = request(&t.id, []);
    entity.cut().await?;
    answers_again(&t.channel, get.clone(), state).await?;
    t.wire.forget(&entity);
    let next = t.value(MODEL, &t.id).await?;
    let begin = if state.is_empty() { init(MODEL, &t.id) } else { init_from(&t.id, state) };
    next.expect([begin, command(1, &get), reply(1, state).into()]).await?;
    Ok(next)
}

async fn an_update_is_kept(t: Test) -> Result<()> {
    let first = updated(&t, "A").await?;
    let put = request(&t.id, [update("B")]);
    answers(&t.channel, put.clone(), "B").await?;
    first.expect([command(2, &put), reply(2, "B").update("B").into()]).await?;
    next_activation(&t, first, "B").await.map(drop)
}

async fn the_state_is_not_sent_again_while_the_entity_is_active(t: Test) -> Result<()> {
    let entity = updated(&t, "A").await?;
    let get = request(&t.id, []);
    answers(&t.channel, get.clone(), "A").await?;
    entity.expect([command(2, &get), reply(2, "A").into()]).await?;
    Ok(())
}

async fn a_deleted_value_is_gone(t: Test) -> Result<()> {
    let first = updated(&t, "A").await?;
    let gone = request(&t.id, [delete()]);
    answers(&t.channel, gone.clone(), "").await?;
    first.expect([command(2, &gone), reply(2, "").delete().into()]).await?;
    next_activation(&t, first, "").await.map(drop)
}

async fn a_deleted_value_may_come_again(t: Test) -> Result<()> {
    // Deleting what is not there is no mistake.
    let gone = request(&t.id, [delete()]);
    answers(&t.channel, gone.clone(), "").await?;
    let first = t.value(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &gone), reply(1, "").delete().into()]).await?;
    let put = request(&t.id, [update("B")]);
    answers(&t.channel, put.clone(), "B").await?;
    first.expect([command(2, &put), reply(2, "B").update("B").into()]).await?;
    next_activation(&t, first, "B").await.map(drop)
}

async fn a_failure_reaches_the_caller_word_for_word(t: Test) -> Result<()> {
    let entity = updated(&t, "A").await?;
    let text = "no: 100 % wrong, \u{00e4}\u{00f6}\u{00fc}";
    let (wrong, get) = (request(&t.id, [fail(text)]), request(&t.id, []));
    fails(&t.channel, wrong.clone(), text).await?;
    answers(&t.channel, get.clone(), "A").await?;
    entity.expect([command(2, &wrong), failure(2, text).into()]).await?;
    entity.expect([command(3, &get), reply(3, "A").into()]).await?;
    Ok(())
}

async fn a_failed_update_is_not_kept(t: Test) -> Result<()> {
    let first = updated(&t, "A").await?;
    let wrong = request(&t.id, [update("B"), fail("no")]);
    fails(&t.channel, wrong.clone(), "no").await?;
    first.expect([command(2, &wrong), failure(2, "no").into()]).await?;
    next_activation(&t, first, "A").await.map(drop)
}

async fn target(t: &Test, entity: &str) -> Result<Taken> {
    let target = t.value(TWO, entity).await?;
    target.expect([init(TWO, entity), call(1, entity), reply(1, "").into()]).await?;
    Ok(target)
}

async fn a_forward_answers_the_caller(t: Test) -> Result<()> {
    let two = t.other("two");
    let pass = request(&t.id, [forward(&two)]);
    answers(&t.channel, pass.clone(), "").await?;
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &pass), forwarded(1, &two).into()]).await?;
    target(&t, &two).await.map(drop)
}

async fn a_forward_keeps_the_update(t: Test) -> Result<()> {
    let two = t.other("two");
    let pass = request(&t.id, [update("A"), forward(&two)]);
    answers(&t.channel, pass.clone(), "").await?;
    let first = t.value(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &pass)]).await?;
    first.expect([forwarded(1, &two).update("A").into()]).await?;
    target(&t, &two).await?;
    next_activation(&t, first, "A").await.map(drop)
}

async fn a_synchronous_effect_is_done_before_the_answer(t: Test) -> Result<()> {
    let two = t.other("two");
    let act = request(&t.id, [effect(&two, true)]);
    answers(&t.channel, act.clone(), "").await?;
    // The caller has its answer, so all of this is on the wire already.
    let target = t.value(TWO, &two).await?;
    target.expect_now([init(TWO, &two), call(1, &two), reply(1, "").into()])?;
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([reply(1, "").effect(&two, true).into()]).await?;
    Ok(())
}

async fn an_asynchronous_effect_arrives(t: Test) -> Result<()> {
    let two = t.other("two");
    let act = request(&t.id, [effect(&two, false)]);
    answers(&t.channel, act.clone(), "").await?;
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([reply(1, "").effect(&two, false).into()]).await?;
    target(&t, &two).await.map(drop)
}

async fn effects_use_the_activation_that_there_is(t: Test) -> Result<()> {
    let two = t.other("two");
    let act = request(&t.id, [effect(&two, false)]);
    answers(&t.channel, act.clone(), "").await?;
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    entity.expect([reply(1, "").effect(&two, false).into()]).await?;
    let target = target(&t, &two).await?;
    answers(&t.channel, act.clone(), "").await?;
    entity.expect([command(2, &act), reply(2, "").effect(&two, false).into()]).await?;
    target.expect([call(2, &two), reply(2, "").into()]).await?;
    Ok(())
}

async fn effects_come_with_an_update(t: Test) -> Result<()> {
    let (two, three) = (t.other("two"), t.other("three"));
    let act = request(&t.id, [update("A"), effect(&two, true), effect(&three, true)]);
    answers(&t.channel, act.clone(), "A").await?;
    let first = t.value(MODEL, &t.id).await?;
    first.expect([init(MODEL, &t.id), command(1, &act)]).await?;
    let answer = reply(1, "A").update("A").effect(&two, true).effect(&three, true);
    first.expect([answer.into()]).await?;
    let second = t.value(TWO, &two).await?;
    let done = second.expect([init(TWO, &two), call(1, &two), reply(1, "").into()]).await?;
    let third = t.value(TWO, &three).await?;
    let begun = third.expect([init(TWO, &three)]).await?;
    third.expect([call(1, &three), reply(1, "").into()]).await?;
    ensure!(done < begun, "the second effect began before the synchronous first was done");
    next_activation(&t, first, "A").await.map(drop)
}

async fn configured(t: &Test) -> Result<Taken> {
    let mut client = ValueEntityConfiguredClient::new(t.channel.clone());
    let request = model::Request { id: t.id.clone(), actions: Vec::new() };
    outcome(client.call(request)).await??;
    let entity = t.value(CONFIGURED, &t.id).await?;
    entity.expect([init(CONFIGURED, &t.id), call(1, &t.id), reply(1, "").into()]).await?;
    Ok(entity)
}

async fn an_idle_entity_is_passivated(t: Test) -> Result<()> {
    let entity = configured(&t).await?;
    // The original's kit waits two seconds, which a busy machine may need for anything; without the entity's own timeout
    // it would be thirty.
    entity.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
    Ok(())
}

async fn a_passivated_entity_comes_back(t: Test) -> Result<()> {
    for _ in 0..2 {
        configured(&t).await?.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
    }
    Ok(())
}

async fn one_command_at_a_time_is_with_the_entity(t: Test) -> Result<()> {
    const CALLERS: i64 = 40;
    let put = request(&t.id, [update("x")]);
    let calls = (0..CALLERS).map(|_| outcome(put.clone().call(t.channel.clone())));
    for answer in future::join_all(calls).await {
        ensure!(answer??.get_ref() == "x", "a caller saw another state");
    }
    let entity = t.value(MODEL, &t.id).await?;
    entity.expect([init(MODEL, &t.id)]).await?;
    for id in 1..=CALLERS {
        entity.expect([command(id, &put), reply(id, "x").update("x").into()]).await?;
    }
    Ok(())
}

async fn a_command_without_a_key_is_refused(t: Test) -> Result<()> {
    // Nothing of it is on the wire: the end of the suite finds what nobody expected.
    refused(&t.channel, request("", []), Code::InvalidArgument, "the entity key is empty").await
}
