//! Bugs to plant, one at a time, to see whether the simulation notices: `cargo xtask planted`.
//!
//! Without the feature `planted`, which no build that ships has, [`is`] is false wherever it stands, and
//! the compiler drops what would follow.

/// What can be wrong on purpose; the code asks for each of them in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A reply goes out before its change is durable.
    ReplyBeforeCommit,
    /// A read goes out before the changes that it shows are durable.
    ReadBeforeCommit,
    /// Effects begin before the change that they follow from is durable.
    EffectsBeforeCommit,
    /// A command that waits is forgotten when a stream ends.
    QueueLost,
    /// A command goes to the user function twice.
    SentTwice,
    /// A caller is answered twice.
    AnsweredTwice,
    /// A write whose outcome nobody knows counts as done.
    UnknownIsDone,
    /// An entity goes on behind a write whose outcome nobody knows.
    UnknownIsNothing,
    /// A write that the store did not take counts as done.
    ConflictIsDone,
    /// One of several events is left out.
    EventDropped,
    /// An event is written twice.
    EventDoubled,
    /// An entity is read while a write of it is under way.
    ReadTooSoon,
    /// The store takes writes of any epoch.
    EpochSkipped,
    /// The store takes writes behind any sequence number.
    SequenceSkipped,
    /// A snapshot stands for an event more than it contains.
    SnapshotTooFar,
    /// The event behind a snapshot is not replayed.
    ReplaySkipsOne,
    /// A deleted value starts to count from zero.
    VersionForgotten,
    /// Values that became one count once.
    VersionStale,
    /// Of two replies that became one write, the second one is torn.
    MergeTears,
    /// Of two replies that became one write, the second one comes first.
    MergeReorders,
    /// Every write of a batch gets the outcome of the first.
    OutcomeShared,
    /// What waits behind a write that failed counts as done.
    BehindFailureIsDone,
    /// The lease counts as longer than it is.
    LeaseTooLong,
    /// The owner goes on when its beats are not confirmed.
    OwnerWithoutBeat,
    /// The lease is claimed without waiting for its owner to be dead.
    ClaimWithoutWaiting,
    /// A claim does not compare what the lease was when it was looked at.
    ClaimUnseen,
    /// The lease is released before the entities have ended.
    ReleaseBeforeEnd,
    /// Who was slow when the lease was handed over does not ask for it again.
    AskedOnce,
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub(crate) use switch::is;

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted.
    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Plants a bug in what this thread does from here on.
    #[cfg(test)]
    pub(super) fn plant(bug: Bug) {
        PLANTED.set(Some(bug));
    }
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use super::{switch::plant, *};
    use crate::sim;

    /// Worlds in which a bug must show. Some need a batch whose writes fare differently, which is rare.
    const WORLDS: u64 = 2_000;
    /// Worlds in which nothing may show.
    const SOUND_WORLDS: u64 = 400;

    #[track_caller]
    #[expect(clippy::print_stdout, reason = "`cargo xtask planted` makes a table of it")]
    fn caught(bug: Bug, promises: &[&str]) {
        plant(bug);
        let broken = (0..WORLDS).find_map(|seed| sim::run(seed).err());
        let Some(broken) = broken else { panic!("{bug:?} is not noticed in {WORLDS} worlds") };
        let sim::Broken { promise, what, seed, .. } = *broken;
        println!("planted\t{bug:?}\t{promise}\t{seed}\t{what}");
        assert!(promises.contains(&promise), "{promise} is broken instead of {promises:?}: {what}");
    }

    #[test]
    fn a_reply_before_its_commit_is_caught() {
        caught(Bug::ReplyBeforeCommit, &["I1", "I7"]);
    }

    #[test]
    fn a_read_before_the_commit_of_what_it_shows_is_caught() {
        caught(Bug::ReadBeforeCommit, &["I1", "I7"]);
    }

    #[test]
    fn effects_before_the_commit_are_caught() {
        caught(Bug::EffectsBeforeCommit, &["I7"]);
    }

    #[test]
    fn a_queued_command_that_is_lost_is_caught() {
        caught(Bug::QueueLost, &["I8"]);
    }

    #[test]
    fn a_command_that_is_sent_twice_is_caught() {
        caught(Bug::SentTwice, &["I3", "I8"]);
    }

    #[test]
    fn a_caller_that_is_answered_twice_is_caught() {
        caught(Bug::AnsweredTwice, &["I8"]);
    }

    #[test]
    fn an_unknown_outcome_that_counts_as_done_is_caught() {
        caught(Bug::UnknownIsDone, &["I1", "I7"]);
    }

    #[test]
    fn an_unknown_outcome_that_counts_as_nothing_is_caught() {
        caught(Bug::UnknownIsNothing, &["I1", "I3", "I7"]);
    }

    #[test]
    fn a_conflict_that_counts_as_done_is_caught() {
        caught(Bug::ConflictIsDone, &["I1", "I7"]);
    }

    #[test]
    fn an_event_that_is_left_out_is_caught() {
        caught(Bug::EventDropped, &["I2"]);
    }

    #[test]
    fn an_event_that_is_written_twice_is_caught() {
        caught(Bug::EventDoubled, &["I2"]);
    }

    #[test]
    fn a_reading_before_all_is_written_is_caught() {
        caught(Bug::ReadTooSoon, &["I3", "I8"]);
    }

    #[test]
    fn a_store_that_takes_any_epoch_is_caught() {
        caught(Bug::EpochSkipped, &["I4"]);
    }

    #[test]
    fn a_store_that_takes_any_sequence_is_caught() {
        caught(Bug::SequenceSkipped, &["I2"]);
    }

    #[test]
    fn a_snapshot_that_stands_too_far_is_caught() {
        caught(Bug::SnapshotTooFar, &["I5"]);
    }

    #[test]
    fn a_replay_that_skips_an_event_is_caught() {
        caught(Bug::ReplaySkipsOne, &["I2"]);
    }

    #[test]
    fn a_deleted_value_that_forgets_its_version_is_caught() {
        caught(Bug::VersionForgotten, &["I2"]);
    }

    #[test]
    fn a_value_with_a_stale_version_is_caught() {
        caught(Bug::VersionStale, &["I1", "I2", "I7"]);
    }

    #[test]
    fn a_reply_that_is_torn_in_a_merge_is_caught() {
        caught(Bug::MergeTears, &["I1", "I2", "I7"]);
    }

    #[test]
    fn replies_that_change_places_in_a_merge_are_caught() {
        caught(Bug::MergeReorders, &["I2"]);
    }

    #[test]
    fn an_outcome_for_a_whole_batch_is_caught() {
        caught(Bug::OutcomeShared, &["I1", "I7"]);
    }

    #[test]
    fn a_write_behind_a_failed_one_that_counts_as_done_is_caught() {
        caught(Bug::BehindFailureIsDone, &["I1", "I7"]);
    }

    #[test]
    fn a_lease_that_is_taken_for_longer_is_caught() {
        caught(Bug::LeaseTooLong, &["I10"]);
    }

    #[test]
    fn an_owner_that_goes_on_without_a_beat_is_caught() {
        caught(Bug::OwnerWithoutBeat, &["I10"]);
    }

    #[test]
    fn a_claim_that_does_not_wait_is_caught() {
        caught(Bug::ClaimWithoutWaiting, &["I10"]);
    }

    #[test]
    fn a_claim_of_a_lease_that_was_not_seen_is_caught() {
        caught(Bug::ClaimUnseen, &["I10"]);
    }

    #[test]
    fn a_release_before_the_entities_have_ended_is_caught() {
        caught(Bug::ReleaseBeforeEnd, &["I10"]);
    }

    #[test]
    fn an_asker_that_never_asks_again_is_caught() {
        caught(Bug::AskedOnce, &["L1"]);
    }

    #[test]
    fn with_nothing_planted_nothing_is_caught() {
        for seed in 0..SOUND_WORLDS {
            sim::run(seed).unwrap_or_else(|broken| panic!("{broken}"));
        }
    }
}
