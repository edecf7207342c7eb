//! Plays the driver of ownership, and opens and closes entities for it.

use futures::FutureExt as _;

use super::world::{MILLIS, Next, SECONDS, Time, Who, World};
use crate::{
    entity::machine,
    journal::{Epochs as _, Guard, Shard},
    ownership::{Action, Event, How, Status},
};

/// As in the driver.
const QUESTION_TIMEOUT: Time = SECONDS;
const CHANGE_TIMEOUT: Time = 5 * SECONDS;
const HAND_OVER_TIMEOUT: Time = 500 * MILLIS;
const DRAIN_TIMEOUT: Time = 10 * SECONDS;

/// A term of ownership.
#[derive(Debug)]
pub(super) struct Tenure {
    pub(super) number: u64,
    pub(super) guard: Guard,
    /// Whether entities are about to end.
    pub(super) ending: bool,
}

impl World {
    /// Tells the ownership machine something, and does what it says.
    pub(super) fn own(&mut self, who: Who, event: Event) {
        let now = self.instant();
        let Some(life) = self.life(who) else { return };
        let actions = life.ownership.on(event, now);
        for action in actions {
            self.note(|| format!("{who:?} {action:?}"));
            self.perform_own(who, action);
            if self.crashes(who) {
                return;
            }
        }
        let Some(life) = self.life(who) else { return };
        let wake = life.ownership.wake();
        if wake != std::mem::replace(&mut life.wake, wake)
            && let Some(wake) = wake
        {
            let wait = self.time(wake).saturating_sub(self.now);
            self.after(wait, Next::Wake(who));
        }
    }

    fn perform_own(&mut self, who: Who, action: Action) {
        match action {
            Action::Ask | Action::Look | Action::Renew(_) => {
                self.ask(who, action, QUESTION_TIMEOUT);
            }
            Action::Claim(_) | Action::Release(_) => self.ask(who, action, CHANGE_TIMEOUT),
            Action::Begin(guard) => {
                let number = self.next_number();
                let Some(life) = self.life(who) else { return };
                let open = life.entities.len();
                life.tenure = Some(Tenure { number, guard, ending: false });
                life.until = Time::MAX;
                life.served = true;
                self.truth.check(open == 0, "I4", || format!("{open} entities are open still"));
            }
            Action::ServeUntil(until) => {
                let until = self.time(until);
                if let Some(life) = self.life(who) {
                    life.until = until;
                }
            }
            Action::End(how, _why) => self.end(who, how),
            Action::Show(status) => {
                if let Some(life) = self.life(who) {
                    life.status = Some(status);
                }
            }
            Action::Left => self.gone(who.slot),
        }
    }

    /// Asks the store; the answer comes some time, or not.
    fn ask(&mut self, who: Who, action: Action, limit: Time) {
        let number = self.next_number();
        let Some(life) = self.life(who) else { return };
        life.question = Some(number);
        let way = self.way();
        let late = "no answer in time".to_owned();
        let late = match &action {
            Action::Claim(_) => Event::Claimed(Err(late)),
            Action::Renew(_) => Event::Renewed(Err(late)),
            Action::Release(_) => Event::Released(Err(late)),
            _ => Event::Seen(Err(late)),
        };
        self.after(way, Next::Question(who, number, action));
        self.after(limit, Next::Answer(who, number, late));
    }

    /// How long something takes to or from the store.
    pub(super) fn way(&mut self) -> Time {
        if self.chaos && self.random.chance(150) {
            return self.random.within(100 * MILLIS, 8 * SECONDS);
        }
        self.random.within(100, 12 * MILLIS)
    }

    /// The store gets a question, whether or not the process is there that asked.
    pub(super) fn question(&mut self, who: Who, number: u64, action: &Action) {
        let lost = self.away || (self.chaos && self.random.chance(100));
        if lost && (self.away || self.random.chance(5_000)) {
            return self.answer_late(who, number, action);
        }
        let owner = crate::journal::Owner(uuid::Uuid::from_u128(u128::from(who.life)));
        let (memory, shard) = (self.memory.clone(), Shard::WHOLE);
        let answer = match action {
            Action::Ask => Event::Seen(at_once(memory.ask(shard, owner))),
            Action::Look => Event::Seen(at_once(memory.lease(shard))),
            Action::Renew(guard) => Event::Renewed(at_once(memory.renew(*guard))),
            Action::Release(guard) => Event::Released(at_once(memory.release(*guard))),
            Action::Claim(seen) => {
                let claimed = at_once(memory.claim(shard, owner, seen));
                if let Ok(Some(epoch)) = claimed {
                    self.counts.epochs += 1;
                    self.truth.claimed(epoch);
                }
                Event::Claimed(claimed)
            }
            _ => return,
        };
        if lost {
            return self.answer_late(who, number, action);
        }
        let way = self.way();
        self.after(way, Next::Answer(who, number, answer));
    }

    fn answer_late(&mut self, who: Who, number: u64, action: &Action) {
        let lost = "the connection broke".to_owned();
        let lost = match action {
            Action::Claim(_) => Event::Claimed(Err(lost)),
            Action::Renew(_) => Event::Renewed(Err(lost)),
            Action::Release(_) => Event::Released(Err(lost)),
            _ => Event::Seen(Err(lost)),
        };
        let way = self.way();
        self.after(way, Next::Answer(who, number, lost));
    }

    pub(super) fn lease_answer(&mut self, who: Who, number: u64, answer: Event) {
        let Some(life) = self.life(who) else { return };
        if life.question == Some(number) {
            life.question = None;
            self.own(who, answer);
        }
    }

    pub(super) fn wake(&mut self, who: Who) {
        let now = self.instant();
        let Some(life) = self.life(who) else { return };
        if life.ownership.wake().is_some_and(|wake| wake <= now) {
            life.wake = None;
            self.own(who, Event::Woken);
        }
        let now = self.now;
        if let Some(life) = self.life(who)
            && life.status == Some(Status::Owner)
            && !life.stopping
        {
            let (serves, until) = (life.tenure.is_some() && now < life.until, life.until);
            self.truth.check(serves, "I10", || {
                format!("{who:?} says that it is ready, and may serve until {until}")
            });
        }
    }

    pub(super) fn stop(&mut self, slot: usize) {
        if let Some(life) = &mut self.slots[slot].life
            && !life.stopping
        {
            life.stopping = true;
            let who = life.who;
            self.own(who, Event::Stop);
        }
    }

    fn end(&mut self, who: Who, how: How) {
        let limit = match how {
            How::Now => 0,
            How::Soon => HAND_OVER_TIMEOUT,
            How::Drain => DRAIN_TIMEOUT,
        };
        let Some(life) = self.life(who) else { return };
        let Some(tenure) = &mut life.tenure else { return };
        tenure.ending = true;
        let number = tenure.number;
        let open: Vec<_> = life.entities.keys().copied().collect();
        for entity in open {
            self.on(who, entity, machine::Event::Stop);
        }
        self.after(limit, Next::Cut(who, number));
        self.ended_if_empty(who);
    }

    /// Entities end one by one; the last one ends the tenure.
    pub(super) fn ended_if_empty(&mut self, who: Who) {
        let Some(life) = self.life(who) else { return };
        if let Some(Tenure { number, ending: true, .. }) = life.tenure
            && life.entities.is_empty()
        {
            self.after(0, Next::AllEnded(who, number));
        }
    }

    pub(super) fn cut(&mut self, who: Who, tenure: u64) {
        if !self.is_ending(who, tenure) {
            return;
        }
        let Some(life) = self.life(who) else { return };
        let cut = std::mem::take(&mut life.entities);
        for (_, entity) in cut {
            self.unheard(who, entity);
        }
        self.all_ended(who, tenure);
    }

    pub(super) fn all_ended(&mut self, who: Who, tenure: u64) {
        if self.is_ending(who, tenure) {
            if let Some(life) = self.life(who) {
                life.tenure = None;
            }
            self.own(who, Event::Ended);
        }
    }

    fn is_ending(&mut self, who: Who, number: u64) -> bool {
        let tenure = self.life(who).and_then(|life| life.tenure.as_ref());
        tenure.is_some_and(|tenure| tenure.ending && tenure.number == number)
    }
}

/// What a store in memory says: it never waits.
pub(super) fn at_once<T>(
    answer: impl Future<Output = Result<T, crate::journal::Error>>,
) -> Result<T, String> {
    match answer.now_or_never() {
        Some(answer) => answer.map_err(|error| error.to_string()),
        None => Err("the store in memory waits".to_owned()),
    }
}
