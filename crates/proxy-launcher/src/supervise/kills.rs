//! Who has killed the proxy: the kernel, since memory ran out, we ourselves, or somebody else.

use crate::cgroup::Cgroup;

/// What was known of kills before the proxy's end.
///
/// The kernel counts for the whole group, so that a helper that it killed an hour ago says nothing about a proxy that
/// somebody kills now. A look at the count therefore takes effect with the next one: what was counted since the last
/// look but one is news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kills {
    /// Counted up to the last look but one.
    old: Option<u64>,
    /// Counted up to the last look.
    seen: Option<u64>,
    /// Whether we have sent KILL to this proxy.
    pub(super) is_ours: bool,
}

impl Kills {
    /// For a proxy that is started now.
    pub(super) fn before_start(counted: Option<u64>) -> Self {
        Self { old: counted, seen: counted, is_ours: false }
    }

    /// Takes in what is counted while the proxy runs.
    pub(super) fn look(&mut self, counted: Option<u64>) {
        (self.old, self.seen) = (self.seen, counted);
    }

    /// Whether a kill of the proxy, with so many counted since, was the kernel's for memory.
    pub(super) fn were_for_memory(self, counted: Option<u64>) -> bool {
        !self.is_ours && self.old.zip(counted).is_some_and(|(old, counted)| counted > old)
    }
}

/// How many processes of the container the kernel has killed for memory so far.
pub(super) fn oom_kills() -> Option<u64> {
    Cgroup::of_this_process().and_then(|group| group.oom_kills())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kill_that_was_counted_lately_was_for_memory() {
        let mut kills = Kills::before_start(Some(3));
        assert!(!kills.were_for_memory(Some(3)));
        assert!(kills.were_for_memory(Some(4)));
        kills.look(Some(4));
        assert!(kills.were_for_memory(Some(4)), "the victim may take a while to vanish");
        kills.look(Some(4));
        assert!(!kills.were_for_memory(Some(4)), "that was somebody else");
        assert!(kills.were_for_memory(Some(5)));
    }

    #[test]
    fn our_own_kill_is_not_the_kernels() {
        let kills = Kills { is_ours: true, ..Kills::before_start(Some(3)) };
        assert!(!kills.were_for_memory(Some(4)));
    }

    #[test]
    fn a_count_that_cannot_be_read_says_nothing() {
        assert!(!Kills::before_start(None).were_for_memory(Some(1)));
        assert!(!Kills::before_start(Some(1)).were_for_memory(None));
    }
}
