//! Who serves the entities: a lease in the store, with an epoch for each owner. A state machine: no
//! I/O, and no clock but the instants that come with its events. [`hold`] carries out what it says.
//!
//! A proxy that starts asks for the lease. The owner sees the request with its next beat,
//! finishes what is under way, and releases; the asker begins the next epoch. An owner that died is
//! replaced once its beats have stood still for [`STALE`], by the clock of who watches. What holds:
//!
//! - An owner serves for [`SERVE`] after the start of the last beat that the store confirmed, and not
//!   a moment longer; that is less than [`STALE`], so no two proxies answer at the same time (I10).
//! - Whoever has stepped aside stands by: it takes over when nobody owns the lease and nobody who asked
//!   takes it, or when the owner has died. So two live proxies never pull the lease to and fro.
//! - A request has one turn: whoever takes the lease takes the request away that was there. An asker whose
//!   request is gone and who has not had the lease yet, since it was slow for once, asks again, more and more
//!   seldom. So whoever lives gets it in the end, and a dead one is not given it twice.
//! - An owner that comes back from an absence of the store begins a new epoch if nobody else has.
//! - Writes of an old epoch are refused by the store, whatever any clock said (I4).

mod driver;

use std::time::{Duration, Instant};

use crate::{
    journal::{Epoch, Guard, Lease, Owner, Renewed, Shard},
    planted::{self, Bug},
};

pub use driver::hold;

/// From one beat of the owner to the next.
pub const BEAT: Duration = Duration::from_millis(500);
/// How long an owner serves after the start of a beat.
pub const SERVE: Duration = Duration::from_secs(2);
/// How long the beats of an owner stand still before it counts as dead.
pub const STALE: Duration = Duration::from_secs(3);
/// From one look at the lease to the next.
const LOOK: Duration = Duration::from_millis(100);

/// How long an owner keeps the lease to itself after it handed over in vain, to one that died; each further time
/// twice as long, at most [`KEEP_MAX`]. A new version that crashes again and again must not cost the old one three
/// seconds with each of its starts. As long is it from one request of a proxy to the next, and as long must one have
/// served to stand by from then on: who lost the lease sooner had nothing of it.
const KEEP: Duration = Duration::from_secs(10);
const KEEP_MAX: Duration = Duration::from_secs(80);

const HANDED_OVER: &str = "another proxy takes over the entities";

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The store answered [`Action::Ask`] or [`Action::Look`].
    Seen(Result<Lease, String>),
    /// The store answered [`Action::Claim`].
    Claimed(Result<Option<Epoch>, String>),
    /// The store answered [`Action::Renew`].
    Renewed(Result<Renewed, String>),
    /// The store answered [`Action::Release`].
    Released(Result<(), String>),
    /// No entity is open any more, as [`Action::End`] wanted.
    Ended,
    /// The lease may have changed: a write was fenced, or the store says so.
    Hinted,
    /// It is [`Ownership::wake`] now.
    Woken,
    /// The proxy is about to leave.
    Stop,
}

/// What is to be done, in this order. Of the store, one thing is asked at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave word with the owner, and tell what the lease is.
    Ask,
    /// Tell what the lease is.
    Look,
    /// Begin the next epoch.
    Claim(Lease),
    /// Let the owner's next beat be heard.
    Renew(Guard),
    /// Give the lease up.
    Release(Guard),
    /// Serve entities in this epoch.
    Begin(Guard),
    /// Serve until then, unless told otherwise.
    ServeUntil(Instant),
    /// Serve no entity any more, and tell callers why.
    End(How, &'static str),
    /// Tell everybody how things are.
    Show(Status),
    /// Nothing is left to do.
    Left,
}

/// How much time entities have to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// None: the lease is lost.
    Now,
    /// A moment: somebody waits.
    Soon,
    /// As long as the drain takes.
    Drain,
}

/// How things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// This proxy owns the entities.
    Owner,
    /// Another one does, or may.
    Other {
        /// The newest epoch.
        epoch: Epoch,
        /// Whether it has an owner.
        owned: bool,
    },
    /// This proxy hands over.
    HandingOver,
    /// Another one has taken over.
    Fenced,
    /// The store does not answer.
    StoreAway(String),
}

/// One proxy's part in the ownership of one shard.
#[derive(Debug)]
pub struct Ownership {
    shard: Shard,
    me: Owner,
    phase: Phase,
    /// What the store was asked last and has not answered, and when that was.
    call: Option<(Call, Instant)>,
    /// When the store is asked next.
    next: Instant,
    asking: Asking,
    /// How often the owner was asked, and when it may be again.
    asked: u32,
    asks_from: Instant,
    watched: Option<Watched>,
    /// Whether the lease was given to somebody who asked, and has not come back.
    handed_over: bool,
    /// How often the lease was handed over in vain, without one time in between that it was not.
    in_vain: u32,
    /// Nobody is given the lease before then.
    keeps_until: Instant,
    stopping: bool,
    /// Why the last beat was not confirmed.
    trouble: Option<String>,
    shown: Option<Status>,
}

/// Whether to leave word with the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// At the next occasion.
    Due,
    /// It was done; again when that was in vain.
    Done,
    /// Never again: this proxy has had the lease, and handed it over or had it long enough. It stands by.
    Over,
}

#[derive(Clone, Debug)]
enum Phase {
    Waiting,
    Owning(Term),
    Releasing(Guard),
    Left,
}

#[derive(Clone, Debug)]
struct Term {
    guard: Guard,
    began: Instant,
    /// Until when this proxy may serve, by the last beat that was confirmed.
    until: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Claimed, and not confirmed by a beat yet.
    Fresh,
    Serving,
    /// Entities are about to end; then the lease is released, unless it is lost.
    Ending {
        release: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Ask,
    Look,
    Claim,
    Renew,
    Release,
}

/// A lease that did not change since it was first seen.
#[derive(Debug)]
struct Watched {
    lease: Lease,
    since: Instant,
}

impl Ownership {
    /// A proxy that has just become ready to own, and knows nothing of the lease.
    pub fn new(shard: Shard, me: Owner, now: Instant) -> Self {
        Self {
            shard,
            me,
            phase: Phase::Waiting,
            call: None,
            next: now,
            asking: Asking::Due,
            asked: 0,
            asks_from: now,
            watched: None,
            handed_over: false,
            in_vain: 0,
            keeps_until: now,
            stopping: false,
            trouble: None,
            shown: None,
        }
    }

    /// When [`Event::Woken`] is wanted; none while only an answer is waited for.
    pub fn wake(&self) -> Option<Instant> {
        let next = self.call.is_none().then_some(self.next);
        match &self.phase {
            Phase::Owning(Term { until, stage: Stage::Serving, .. }) => {
                Some(next.map_or(*until, |next| next.min(*until)))
            }
            Phase::Owning(Term { stage: Stage::Ending { release: false }, .. }) | Phase::Left => {
                None
            }
            _ => next,
        }
    }

    /// Takes one step.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Seen(seen) => self.seen(seen, now, &mut actions),
            Event::Claimed(claimed) => self.claimed(claimed, now, &mut actions),
            Event::Renewed(renewed) => self.renewed(renewed, now, &mut actions),
            Event::Released(released) => self.released(released, now, &mut actions),
            Event::Ended => self.ended(now),
            Event::Hinted => self.next = self.next.min(now),
            Event::Woken => {}
            Event::Stop => self.stopping = true,
        }
        self.proceed(now, &mut actions);
        actions
    }

    /// Does what is due.
    fn proceed(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Phase::Owning(term) = &mut self.phase
            && term.stage == Stage::Serving
        {
            if now >= term.until && !planted::is(Bug::OwnerWithoutBeat) {
                term.stage = Stage::Ending { release: false };
                actions.push(Action::End(How::Now, "the store does not answer"));
                let silent = || format!("no answer to the owner's beat for {SERVE:?}");
                let why = self.trouble.take().unwrap_or_else(silent);
                self.show(Status::StoreAway(why), actions);
            } else if self.stopping {
                term.stage = Stage::Ending { release: true };
                actions.push(Action::End(How::Drain, "this proxy is about to leave"));
            }
        }
        if self.stopping && matches!(self.phase, Phase::Waiting) {
            // A claim may still succeed, and is taken back then.
            if !matches!(self.call, Some((Call::Claim, _))) {
                self.phase = Phase::Left;
                actions.push(Action::Left);
            }
            return;
        }
        if self.call.is_some() || now < self.next {
            return;
        }
        if let Phase::Owning(Term { guard, stage: Stage::Fresh, .. }) = self.phase
            && self.stopping
        {
            self.phase = Phase::Releasing(guard);
        }
        match &self.phase {
            Phase::Owning(Term { stage: Stage::Ending { release: false }, .. }) | Phase::Left => {}
            Phase::Waiting if self.asking == Asking::Due => {
                self.ask_store(Call::Ask, Action::Ask, now, actions);
            }
            Phase::Waiting => self.ask_store(Call::Look, Action::Look, now, actions),
            Phase::Owning(Term { guard, .. }) => {
                let renew = Action::Renew(*guard);
                self.ask_store(Call::Renew, renew, now, actions);
            }
            Phase::Releasing(guard) => {
                let release = Action::Release(*guard);
                self.ask_store(Call::Release, release, now, actions);
            }
        }
    }

    fn ask_store(&mut self, call: Call, action: Action, now: Instant, actions: &mut Vec<Action>) {
        self.call = Some((call, now));
        actions.push(action);
    }

    /// Something is known of the lease, or the store could not be asked.
    fn seen(&mut self, seen: Result<Lease, String>, now: Instant, actions: &mut Vec<Action>) {
        let Some((call, _)) = self.call.take() else { return };
        self.next = now + LOOK;
        match seen {
            Ok(lease) => {
                if call == Call::Ask {
                    self.asking = Asking::Done;
                    self.asks_from = now + keep(self.asked);
                    self.asked += 1;
                }
                if matches!(self.phase, Phase::Waiting) && !self.stopping {
                    self.judge(lease, now, actions);
                }
            }
            // An owner cannot let its beats be heard either while the store is away.
            Err(why) => {
                self.watched = None;
                self.show(Status::StoreAway(why), actions);
            }
        }
    }

    /// Decides whether the lease is there to be taken.
    fn judge(&mut self, lease: Lease, now: Instant, actions: &mut Vec<Action>) {
        let free = match lease.owner {
            // A claim whose answer was lost, or the epoch from before the store was away. Nobody
            // serves in it, and it is not taken up again: a new one tells the two apart.
            Some(owner) if owner == self.me => {
                if self.is_another(lease.asked_by) {
                    let guard = Guard { shard: self.shard, epoch: lease.epoch };
                    self.handed_over = true;
                    self.phase = Phase::Releasing(guard);
                    self.next = now;
                    return;
                }
                true
            }
            None => lease.asked_by.is_none_or(|asker| asker == self.me),
            Some(_) => false,
        };
        let since = self.watch(&lease, now);
        let stale = now.duration_since(since) >= STALE || planted::is(Bug::ClaimWithoutWaiting);
        if free || stale {
            self.taken_back(free, now);
            self.ask_store(Call::Claim, Action::Claim(lease), now, actions);
        } else {
            let Lease { epoch, owner, asked_by, .. } = lease;
            // Somebody else's request is not pushed aside: it has its turn first. One of the owner itself is a late
            // one, and never has.
            let no_other = asked_by.is_none() || asked_by == owner;
            let is_due = no_other && now >= self.asks_from && !planted::is(Bug::AskedOnce);
            if self.asking == Asking::Done && is_due {
                self.asking = Asking::Due;
            }
            self.show(Status::Other { epoch, owned: owner.is_some() }, actions);
        }
    }

    /// The lease is there to be taken, since it is `free` or whoever had it, or was to have it, has died.
    fn taken_back(&mut self, free: bool, now: Instant) {
        if free {
            self.in_vain = 0;
        } else if self.handed_over {
            self.keeps_until = now + keep(self.in_vain);
            self.in_vain += 1;
        }
        self.handed_over = false;
    }

    /// Since when the lease is as it is.
    fn watch(&mut self, lease: &Lease, now: Instant) -> Instant {
        match &self.watched {
            Some(Watched { lease: known, since }) if is_still(known, lease) => *since,
            _ => {
                self.watched = Some(Watched { lease: lease.clone(), since: now });
                now
            }
        }
    }

    fn claimed(
        &mut self,
        claimed: Result<Option<Epoch>, String>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.call = None;
        self.watched = None;
        self.next = now + LOOK;
        match claimed {
            Ok(Some(epoch)) => {
                let guard = Guard { shard: self.shard, epoch };
                self.next = now;
                self.phase = if self.stopping {
                    Phase::Releasing(guard)
                } else {
                    Phase::Owning(Term { guard, began: now, until: now, stage: Stage::Fresh })
                };
            }
            Ok(None) => {}
            Err(why) => self.show(Status::StoreAway(why), actions),
        }
    }

    fn renewed(
        &mut self,
        renewed: Result<Renewed, String>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some((_, sent)) = self.call.take() else { return };
        let Phase::Owning(term) = &mut self.phase else { return };
        self.next = now + LOOK;
        match renewed {
            Ok(Renewed::Kept { asked_by }) => {
                self.next = sent + BEAT;
                self.trouble = None;
                term.until = sent + SERVE;
                if planted::is(Bug::LeaseTooLong) {
                    term.until += 10 * SERVE;
                }
                let Term { guard, began, until, stage } = *term;
                if self.is_another(asked_by)
                    && !matches!(stage, Stage::Ending { .. })
                    && now >= self.keeps_until
                {
                    return self.hand_over(now, actions);
                }
                match stage {
                    // The answer took so long that it says nothing any more.
                    Stage::Fresh if now >= until => self.next = now,
                    Stage::Fresh => {
                        let stage = Stage::Serving;
                        self.phase = Phase::Owning(Term { guard, began, until, stage });
                        actions.extend([Action::Begin(guard), Action::ServeUntil(until)]);
                        self.show(Status::Owner, actions);
                    }
                    Stage::Serving | Stage::Ending { .. } => {
                        actions.push(Action::ServeUntil(until));
                    }
                }
            }
            Ok(Renewed::Fenced) => {
                match &mut term.stage {
                    Stage::Fresh => self.phase = Phase::Waiting,
                    Stage::Serving => {
                        term.stage = Stage::Ending { release: false };
                        actions.push(Action::End(How::Now, HANDED_OVER));
                    }
                    Stage::Ending { release } => *release = false,
                }
                self.show(Status::Fenced, actions);
            }
            // What was confirmed last holds until it runs out.
            Err(why) => self.trouble = Some(why),
        }
    }

    /// Whether somebody else asked, who is to be given the lease.
    fn is_another(&self, asked_by: Option<Owner>) -> bool {
        asked_by.is_some_and(|asker| asker != self.me)
    }

    /// Somebody has asked for the lease.
    fn hand_over(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Phase::Owning(term) = &mut self.phase else { return };
        self.handed_over = true;
        if term.stage == Stage::Serving {
            // Who has only claimed it was not seen by anybody as the owner.
            self.asking = Asking::Over;
        }
        if term.stage == Stage::Fresh {
            self.phase = Phase::Releasing(term.guard);
            self.next = now;
        } else {
            term.stage = Stage::Ending { release: true };
            actions.push(Action::End(How::Soon, HANDED_OVER));
            if planted::is(Bug::ReleaseBeforeEnd) {
                self.phase = Phase::Releasing(term.guard);
                self.next = now;
            }
        }
        self.show(Status::HandingOver, actions);
    }

    fn ended(&mut self, now: Instant) {
        let Phase::Owning(Term { guard, began, stage: Stage::Ending { release }, .. }) = self.phase
        else {
            return;
        };
        if now.saturating_duration_since(began) >= KEEP {
            self.asking = Asking::Over;
        }
        self.phase = if release { Phase::Releasing(guard) } else { Phase::Waiting };
        self.watched = None;
        self.next = now;
    }

    fn released(&mut self, released: Result<(), String>, now: Instant, actions: &mut Vec<Action>) {
        self.call = None;
        self.next = now + LOOK;
        match released {
            Ok(()) => self.phase = Phase::Waiting,
            // The lease runs out by itself.
            Err(_) if self.stopping => self.phase = Phase::Waiting,
            Err(why) => self.show(Status::StoreAway(why), actions),
        }
    }

    fn show(&mut self, status: Status, actions: &mut Vec<Action>) {
        if self.shown.as_ref() != Some(&status) {
            self.shown = Some(status.clone());
            actions.push(Action::Show(status));
        }
    }
}

/// How long after so many times.
fn keep(times: u32) -> Duration {
    (KEEP * 2_u32.saturating_pow(times.min(8))).min(KEEP_MAX)
}

/// Whether nothing happened between two looks. A request is a sign of life of who asks, and so counts
/// only while it is the asker's turn.
fn is_still(earlier: &Lease, later: &Lease) -> bool {
    let asked = later.owner.is_some() || earlier.asked_by == later.asked_by;
    (earlier.epoch, earlier.owner, earlier.beat) == (later.epoch, later.owner, later.beat) && asked
}

#[cfg(test)]
mod tests;
