//! How often and how soon a proxy is started again.

use std::{collections::VecDeque, time::Duration};

use crate::config::Supervise;

const FACTOR: u32 = 2;
/// Pauses differ by up to this share, so that pods that fell together do not rise together.
const JITTER_PERCENT: u64 = 20;
/// A proxy may ask for a fresh start this often and no more.
const FRESH_START_INTERVAL: Duration = Duration::from_secs(30);

/// Memory of past ends.
#[derive(Debug)]
pub(super) struct Restarts {
    settings: Supervise,
    /// Pauses taken since the proxy was last stable.
    pauses: u32,
    /// Failures within the budget's window, oldest first; never more than the budget allows plus one.
    failures: VecDeque<Duration>,
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
        let spent = self.failures.iter().filter(|at| now.saturating_sub(**at) < window).count();
        self.settings.budget.saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
    }

    /// The proxy was stable: the next pause is the first again. The budget does not forget.
    pub(super) fn forget_pause(&mut self) {
        self.pauses = 0;
    }

    /// Pause before the restart that a failure calls for; none when the budget is spent.
    pub(super) fn failure(&mut self, now: Duration) -> Option<Duration> {
        let window = self.settings.budget_window;
        self.failures.retain(|at| now.saturating_sub(*at) < window);
        self.failures.push_back(now);
        let within_budget = self.failures.len() <= self.settings.budget as usize;
        within_budget.then(|| self.pause())
    }

    /// Pause before a fresh start that the proxy asked for; none when it may start at once.
    pub(super) fn fresh_start(&mut self, now: Duration) -> Option<Duration> {
        let recent = self
            .fresh_start_at
            .replace(now)
            .is_some_and(|last| now.saturating_sub(last) < FRESH_START_INTERVAL);
        recent.then(|| self.pause())
    }

    fn pause(&mut self) -> Duration {
        let factor = FACTOR.saturating_pow(self.pauses);
        self.pauses = self.pauses.saturating_add(1);
        let pause =
            self.settings.backoff_initial.saturating_mul(factor).min(self.settings.backoff_max);
        let permille = 1_000 - JITTER_PERCENT * 10 + self.dice.roll() % (JITTER_PERCENT * 20 + 1);
        let permille = u32::try_from(permille).expect("at most 1200");
        pause.saturating_mul(permille) / 1_000
    }
}

/// SplitMix64: reproducible from its seed, and good enough to spread restarts.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
