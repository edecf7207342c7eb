//! Proxies on one lease, in a time of their own: each case moves the clock and says what the store
//! answers.

use std::cell::Cell;

use super::*;

/// The lease as a store keeps it.
#[derive(Default)]
struct Store {
    lease: Lease,
    away: bool,
}

impl Store {
    fn answer(&mut self, me: Owner, action: &Action) -> Option<Event> {
        let away = || "away".to_owned();
        Some(match action {
            Action::Ask | Action::Look if self.away => Event::Seen(Err(away())),
            Action::Ask => {
                self.lease.asked_by = Some(me);
                Event::Seen(Ok(self.lease.clone()))
            }
            Action::Look => Event::Seen(Ok(self.lease.clone())),
            Action::Claim(_) if self.away => Event::Claimed(Err(away())),
            Action::Claim(seen) => {
                let now = &mut self.lease;
                if (now.epoch, now.owner, now.beat) != (seen.epoch, seen.owner, seen.beat) {
                    return Some(Event::Claimed(Ok(None)));
                }
                now.epoch.0 += 1;
                now.owner = Some(me);
                now.asked_by =
                    now.asked_by.filter(|asker| *asker != me && Some(*asker) != seen.asked_by);
                Event::Claimed(Ok(Some(now.epoch)))
            }
            Action::Renew(_) if self.away => Event::Renewed(Err(away())),
            Action::Renew(guard) => {
                let owned = guard.epoch == self.lease.epoch && self.lease.owner.is_some();
                self.lease.beat += u64::from(owned);
                let kept = Renewed::Kept { asked_by: self.lease.asked_by };
                Event::Renewed(Ok(if owned { kept } else { Renewed::Fenced }))
            }
            Action::Release(_) if self.away => Event::Released(Err(away())),
            Action::Release(guard) => {
                if guard.epoch == self.lease.epoch {
                    self.lease.owner = None;
                }
                Event::Released(Ok(()))
            }
            _ => return None,
        })
    }
}

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn now() -> Instant {
    NOW.with(|now| {
        let at = now.get().unwrap_or_else(Instant::now);
        now.set(Some(at));
        at
    })
}

struct Proxy {
    me: Owner,
    machine: Ownership,
    serving: Option<Guard>,
    until: Instant,
    shown: Option<Status>,
    left: bool,
    /// Stands still, as a process does that was stopped.
    frozen: bool,
    ended: Vec<How>,
}

impl Proxy {
    fn new(name: u128) -> Self {
        let me = Owner(uuid::Uuid::from_u128(name));
        Self {
            me,
            machine: Ownership::new(Shard::WHOLE, me, now()),
            serving: None,
            until: now(),
            shown: None,
            left: false,
            frozen: false,
            ended: Vec::new(),
        }
    }

    fn serves(&self) -> bool {
        self.serving.is_some() && now() < self.until
    }

    fn on(&mut self, store: &mut Store, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.machine.on(event, now()) {
                events.extend(store.answer(self.me, &action));
                match action {
                    Action::Begin(guard) => self.serving = Some(guard),
                    Action::ServeUntil(until) => self.until = until,
                    Action::End(how, _) => {
                        self.serving = None;
                        self.ended.push(how);
                        events.push(Event::Ended);
                    }
                    Action::Show(status) => self.shown = Some(status),
                    Action::Left => self.left = true,
                    _ => {}
                }
            }
        }
    }
}

/// Lets time pass; the store answers at once.
fn pass(time: Duration, store: &mut Store, proxies: &mut [&mut Proxy]) {
    let end = now() + time;
    loop {
        let awake = proxies.iter().filter(|proxy| !proxy.frozen);
        let Some(next) = awake.filter_map(|proxy| proxy.machine.wake()).min() else { break };
        if next > end {
            break;
        }
        NOW.set(Some(next.max(now())));
        for proxy in proxies.iter_mut().filter(|proxy| !proxy.frozen) {
            if proxy.machine.wake().is_some_and(|wake| wake <= now()) {
                proxy.on(store, Event::Woken);
            }
        }
        assert!(proxies.iter().filter(|proxy| proxy.serves()).count() <= 1, "two proxies answer");
    }
    NOW.set(Some(end));
}

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A proxy that owns everything.
fn owner(store: &mut Store, name: u128) -> Proxy {
    let mut proxy = Proxy::new(name);
    pass(MOMENT, store, &mut [&mut proxy]);
    assert!(proxy.serves());
    proxy
}

#[test]
fn nobody_before_it_makes_a_proxy_the_owner_at_once() {
    let mut store = Store::default();
    let proxy = owner(&mut store, 1);
    assert_eq!(proxy.serving.unwrap().epoch, Epoch(1));
    assert_eq!(proxy.shown, Some(Status::Owner));
}

#[test]
fn a_proxy_that_asks_gets_the_next_epoch_within_a_second_and_is_not_asked_back() {
    let mut store = Store::default();
    let mut old = owner(&mut store, 1);
    let mut new = Proxy::new(2);
    pass(SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves() && !old.serves());
    assert_eq!(new.serving.unwrap().epoch, Epoch(2));
    assert_eq!(old.ended, [How::Soon]);
    pass(20 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves(), "two live proxies do not pull the lease to and fro");
    assert_eq!(store.lease.epoch, Epoch(2));
    assert_eq!(old.shown, Some(Status::Other { epoch: Epoch(2), owned: true }));
}

#[test]
fn a_dead_owner_is_replaced_after_its_beats_stood_still_for_three_seconds() {
    let mut store = Store::default();
    drop(owner(&mut store, 1));
    let mut new = Proxy::new(2);
    pass(2 * SECOND + 999 * MOMENT, &mut store, &mut [&mut new]);
    assert!(!new.serves());
    pass(MOMENT + LOOK, &mut store, &mut [&mut new]);
    assert!(new.serves());
}

#[test]
fn a_beat_starts_the_wait_for_a_dead_owner_anew() {
    let mut store = Store::default();
    drop(owner(&mut store, 1));
    let mut new = Proxy::new(2);
    pass(2 * SECOND, &mut store, &mut [&mut new]);
    store.lease.beat += 1;
    pass(2 * SECOND, &mut store, &mut [&mut new]);
    assert!(!new.serves());
}

#[test]
fn an_owner_that_cannot_beat_stops_by_itself_before_anybody_may_take_over() {
    let mut store = Store::default();
    let mut proxy = owner(&mut store, 1);
    store.away = true;
    pass(1_499 * MOMENT, &mut store, &mut [&mut proxy]);
    assert!(proxy.serves(), "a blip is not an absence");
    pass(BEAT + 2 * MOMENT, &mut store, &mut [&mut proxy]);
    assert!(!proxy.serves());
    assert_eq!(proxy.ended, [How::Now]);
    assert_eq!(proxy.shown, Some(Status::StoreAway("away".to_owned())));
}

#[test]
fn a_store_that_comes_back_finds_the_same_owner_in_a_new_epoch() {
    let mut store = Store::default();
    let (mut proxy, mut other) = (owner(&mut store, 1), Proxy::new(2));
    store.lease.asked_by = None;
    other.machine.asking = Asking::Over;
    store.away = true;
    pass(30 * SECOND, &mut store, &mut [&mut proxy, &mut other]);
    store.away = false;
    pass(SECOND, &mut store, &mut [&mut proxy, &mut other]);
    assert!(proxy.serves() && !other.serves(), "beats cannot be heard while the store is away");
    assert_eq!(proxy.serving.unwrap().epoch, Epoch(2));
}

#[test]
fn a_frozen_owner_does_not_serve_when_it_wakes_and_learns_that_it_was_replaced() {
    let mut store = Store::default();
    let mut old = owner(&mut store, 1);
    pass(KEEP, &mut store, &mut [&mut old]);
    let mut new = Proxy::new(2);
    old.frozen = true;
    pass(STALE + SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves() && !old.serves());
    old.frozen = false;
    pass(MOMENT, &mut store, &mut [&mut old, &mut new]);
    assert_eq!(old.ended, [How::Now]);
    pass(200 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves());
}

#[test]
fn an_asker_that_was_slow_once_asks_again_and_gets_the_lease_as_soon_as_the_owner_gives_it() {
    let mut store = Store::default();
    let (mut old, mut new) = (owner(&mut store, 1), Proxy::new(2));
    new.on(&mut store, Event::Woken);
    new.frozen = true;
    pass(STALE + SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(old.serves(), "it took back what was not taken");
    assert_eq!(store.lease.asked_by, None, "a request has one turn");
    new.frozen = false;
    pass(8 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(old.serves(), "it keeps what it took back for a while");
    pass(5 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves());
    pass(200 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves() && store.lease.epoch == Epoch(3), "nobody asks it back");
}

#[test]
fn who_lost_the_lease_within_seconds_asks_again() {
    let mut store = Store::default();
    let (mut old, mut new) = (owner(&mut store, 1), Proxy::new(2));
    pass(SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves());
    new.frozen = true;
    pass(STALE + SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(old.serves());
    new.frozen = false;
    pass(KEEP + 5 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert!(new.serves());
}

#[test]
fn one_that_is_slow_each_time_is_given_the_lease_more_and_more_seldom() {
    let mut store = Store::default();
    let (mut old, mut new) = (owner(&mut store, 1), Proxy::new(2));
    let (begun, mut given) = (now(), Vec::new());
    while now() < begun + 600 * SECOND {
        new.frozen = store.lease.asked_by == Some(new.me);
        pass(10 * MOMENT, &mut store, &mut [&mut old, &mut new]);
        if old.ended.len() > given.len() {
            given.push((now() - begun).as_secs());
        }
    }
    assert!((5..=11).contains(&given.len()), "given at {given:?} s");
    let apart: Vec<_> = given.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(apart[..4].is_sorted() && apart.last() >= Some(&80), "{apart:?} s apart");
}

#[test]
fn a_request_that_waits_is_not_pushed_aside_by_one_that_asks_again() {
    let mut store = Store::default();
    let (mut old, mut new, other) = (owner(&mut store, 1), Proxy::new(2), Proxy::new(3));
    old.machine.keeps_until = now() + 30 * SECOND;
    new.machine.asking = Asking::Done;
    store.lease.asked_by = Some(other.me);
    pass(20 * SECOND, &mut store, &mut [&mut old, &mut new]);
    assert_eq!(store.lease.asked_by, Some(other.me));
}

#[test]
fn a_fenced_write_makes_the_owner_ask_at_once_whether_it_is_the_owner() {
    let mut store = Store::default();
    let mut old = owner(&mut store, 1);
    store.lease = Lease { epoch: Epoch(7), owner: Some(Proxy::new(2).me), ..Lease::default() };
    pass(2 * MOMENT, &mut store, &mut [&mut old]);
    assert!(old.serves(), "it does not know yet");
    old.on(&mut store, Event::Hinted);
    assert!(!old.serves());
    assert_eq!(old.ended, [How::Now]);
}

#[test]
fn a_stop_lets_entities_finish_and_releases_for_the_next_one() {
    let mut store = Store::default();
    let mut old = owner(&mut store, 1);
    old.on(&mut store, Event::Stop);
    assert_eq!((old.ended.as_slice(), old.left), (&[How::Drain][..], true));
    let new = owner(&mut store, 2);
    assert_eq!(new.serving.unwrap().epoch, Epoch(2));
}

#[test]
fn an_asker_that_died_gets_its_turn_and_no_second_one() {
    let mut store = Store::default();
    let mut old = owner(&mut store, 1);
    store.lease.asked_by = Some(Owner(uuid::Uuid::from_u128(9)));
    pass(SECOND, &mut store, &mut [&mut old]);
    assert!(!old.serves());
    pass(STALE, &mut store, &mut [&mut old]);
    assert!(old.serves());
    pass(20 * SECOND, &mut store, &mut [&mut old]);
    assert!(old.serves());
    assert_eq!(store.lease.epoch, Epoch(2));
}

#[test]
fn those_that_die_with_the_lease_are_given_it_more_and_more_seldom() {
    let mut store = Store::default();
    let mut old = owner(&mut store, 1);
    let begun = now();
    let mut given = Vec::new();
    for crash in 0..40 {
        // A new version, which serves for a moment and dies; a second later it is started again.
        let mut new = Proxy::new(100 + crash);
        pass(5 * SECOND, &mut store, &mut [&mut old, &mut new]);
        if new.serves() {
            given.push((now() - begun).as_secs());
        }
        drop(new);
        pass(SECOND, &mut store, &mut [&mut old]);
    }
    assert!((3..=8).contains(&given.len()), "given at {given:?} s");
    let apart: Vec<_> = given.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(apart.is_sorted() && apart.last() >= Some(&80), "{apart:?} s apart");
    // One that lives gets it in the end, and gives it back in good order.
    let mut good = Proxy::new(2);
    pass(KEEP_MAX + 10 * SECOND, &mut store, &mut [&mut old, &mut good]);
    assert!(good.serves());
    good.on(&mut store, Event::Stop);
    pass(5 * SECOND, &mut store, &mut [&mut old]);
    assert!(old.serves());
    let mut next = Proxy::new(3);
    pass(SECOND, &mut store, &mut [&mut old, &mut next]);
    assert!(next.serves(), "what was in vain is forgotten");
}

#[test]
fn of_two_that_claim_the_same_lease_one_waits_and_both_have_it_once() {
    let mut store = Store::default();
    drop(owner(&mut store, 1));
    let (mut one, mut two) = (Proxy::new(2), Proxy::new(3));
    pass(STALE + SECOND, &mut store, &mut [&mut one, &mut two]);
    let first = one.serves();
    assert!(first != two.serves());
    assert_eq!(store.lease.epoch, Epoch(2));
    pass(200 * SECOND, &mut store, &mut [&mut one, &mut two]);
    assert!(first == two.serves() && first != one.serves());
    assert_eq!(store.lease.epoch, Epoch(3));
}

#[test]
fn a_claim_whose_answer_was_lost_is_made_again() {
    let mut machine = Ownership::new(Shard::WHOLE, Owner(uuid::Uuid::from_u128(1)), now());
    assert_eq!(machine.on(Event::Woken, now()), [Action::Ask]);
    let free = Lease::default();
    let claim = machine.on(Event::Seen(Ok(free.clone())), now());
    assert_eq!(claim, [Action::Claim(free)]);
    machine.on(Event::Claimed(Err("lost".to_owned())), now());
    let mine = Lease { epoch: Epoch(1), owner: Some(machine.me), beat: 0, asked_by: None };
    assert_eq!(machine.on(Event::Woken, now() + LOOK), [Action::Look]);
    assert_eq!(machine.on(Event::Seen(Ok(mine.clone())), now() + LOOK), [Action::Claim(mine)]);
}

#[test]
fn a_claim_that_succeeds_after_a_stop_is_taken_back() {
    let mut machine = Ownership::new(Shard::WHOLE, Owner(uuid::Uuid::from_u128(1)), now());
    machine.on(Event::Woken, now());
    machine.on(Event::Seen(Ok(Lease::default())), now());
    assert_eq!(machine.on(Event::Stop, now()), []);
    let guard = Guard { shard: Shard::WHOLE, epoch: Epoch(1) };
    let release = machine.on(Event::Claimed(Ok(Some(Epoch(1)))), now());
    assert_eq!(release, [Action::Release(guard)]);
    assert_eq!(machine.on(Event::Released(Ok(())), now()), [Action::Left]);
}

#[test]
fn a_release_that_fails_is_made_again() {
    let mut store = Store::default();
    let (mut old, mut new) = (owner(&mut store, 1), Proxy::new(2));
    new.on(&mut store, Event::Woken);
    store.away = true;
    let guard = old.serving.unwrap();
    old.machine.phase = Phase::Releasing(guard);
    pass(SECOND, &mut store, &mut [&mut old]);
    assert!(store.lease.owner.is_some());
    store.away = false;
    pass(SECOND, &mut store, &mut [&mut old]);
    assert_eq!(store.lease.owner, None);
}
