//! How often and how soon a proxy is started again.

use std::{collections::VecDeque, time::Duration};

use crate::{config::Supervise, exit::End};

/// So often within the budget's window a proxy is started again that was killed for memory: more starts need more
/// memory, and nothing else.
pub(super) const MEMORY_BUDGET: u32 = 2;
/// A proxy that asks for a fresh start gets one this often and no more.
const FRESH_START_INTERVAL: Duration = Duration::from_secs(30);

/// Memory of past ends.
#[derive(Debug)]
pub(super) struct Restarts {
    settings: Supervise,
    /// Pauses taken since the proxy was last stable.
    pauses: u32,
    /// Failures within the budget's window, oldest first, and whether each was a kill for memory; never more than the
    /// budget allows plus one.
    failures: VecDeque<(Duration, bool)>,
    fresh_start_at: Option<Duration>,
    dice: Dice,
}

impl Restarts {
    pub(super) fn new(settings: Supervise, seed: u64) -> Self {
        let failures = VecDeque::new();
        Self { settings, pauses: 0, failures, fresh_start_at: None, dice: Dice(seed) }
    }

    pub(super) fn reconfigure(&mut self, settings: Supervise) {
        self.settings = settings;
    }

    /// How many more failures are within the budget.
    pub(super) fn left(&self, now: Duration) -> u32 {
        let window = self.settings.budget_window;
        let spent = self.failures.iter().filter(|(at, _)| now.saturating_sub(*at) < window).count();
        self.settings.budget.saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
    }

    /// The proxy was stable: the next pause is the first again. The budget does not forget.
    pub(super) fn forget_pause(&mut self) {
        self.pauses = 0;
    }

    /// Pause before the restart that a failure calls for.
    ///
    /// # Errors
    /// How many such failures the budget that is spent allows.
    pub(super) fn failure(&mut self, end: End, now: Duration) -> Result<Duration, u32> {
        let window = self.settings.budget_window;
        self.failures.retain(|(at, _)| now.saturating_sub(*at) < window);
        self.failures.push_back((now, end == End::OutOfMemory));
        let for_memory = self.failures.iter().filter(|(_, for_memory)| *for_memory).count();
        if self.failures.len() > self.settings.budget as usize {
            Err(self.settings.budget)
        } else if for_memory > MEMORY_BUDGET as usize {
            Err(MEMORY_BUDGET)
        } else {
            Ok(self.pause())
        }
    }

    /// When the proxy gets the fresh start that it asks for now.
    pub(super) fn fresh_start(&mut self, now: Duration) -> Duration {
        let earliest = self.fresh_start_at.map(|last| last.saturating_add(FRESH_START_INTERVAL));
        *self.fresh_start_at.insert(earliest.unwrap_or_default().max(now))
    }

    fn pause(&mut self) -> Duration {
        let Supervise { backoff_initial, backoff_factor, backoff_jitter, backoff_max, .. } =
            self.settings;
        let seconds = backoff_initial.as_secs_f64() * backoff_factor.powf(self.pauses.into());
        self.pauses = self.pauses.saturating_add(1);
        // Out of range means too long by far.
        let pause = Duration::try_from_secs_f64(seconds).unwrap_or(backoff_max).min(backoff_max);
        pause.mul_f64(1.0 + backoff_jitter * (2.0 * self.dice.share() - 1.0))
    }
}

/// SplitMix64: reproducible from its seed, and good enough to spread restarts.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        let roll = u32::try_from(self.roll() >> 32).expect("32 bits are left");
        f64::from(roll) / f64::from(u32::MAX)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
