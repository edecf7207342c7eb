//! Whether a JVM's heap fits into its container. A JVM never objects: it starts with any `-Xmx` and is killed
//! under load. So what it needs beside its heap is estimated here, and said beforehand: by the operator of a spec, and by
//! the launcher of what it finds in the pod.

use std::fmt;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The largest heap that fits is named in steps of this.
pub const STEP: u64 = 16 * MIB;
/// A thread costs about an eighth of a MiB of memory in use; its stack is reserved, not used.
const THREAD: u64 = MIB / 8;
/// The JVM itself, before it has done anything.
const BASE: u64 = 24 * MIB;
/// The launcher.
const LAUNCHER: u64 = 8 * MIB;

/// What the regions beside the heap are given; those that nobody chose follow from the limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regions {
    /// Direct buffers, in bytes.
    pub direct: Option<u64>,
    /// Compiled code, in bytes.
    pub code_cache: Option<u64>,
    /// Classes, in bytes.
    pub metaspace: Option<u64>,
    /// How many threads.
    pub threads: Option<u64>,
}

/// What a JVM with a certain heap will use, region by region, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Budget {
    pub heap: u64,
    pub direct: u64,
    pub code_cache: u64,
    pub metaspace: u64,
    pub threads: u64,
    pub collector: u64,
    pub limit: Option<u64>,
}

impl Budget {
    /// Estimates.
    pub fn new(heap: u64, limit: Option<u64>, regions: Regions) -> Self {
        let is_small = limit.is_some_and(|limit| limit <= GIB);
        // A small machine gets the serial collector, which needs a hundredth of the heap; a large one G1.
        let collector_percent = if is_small { 1 } else { 6 };
        let of = |small: u64, large: u64| if is_small { small * MIB } else { large };
        Self {
            heap,
            direct: regions.direct.unwrap_or_else(|| of(32, (64 * MIB).max(heap / 8))),
            code_cache: regions.code_cache.unwrap_or_else(|| of(48, 96 * MIB)),
            metaspace: regions.metaspace.unwrap_or_else(|| of(112, 128 * MIB)),
            threads: regions.threads.unwrap_or(if is_small { 200 } else { 250 }) * THREAD,
            collector: heap / 100 * collector_percent,
            limit,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { heap, direct, code_cache, metaspace, threads, collector, .. } = self;
        let parts = [heap, direct, code_cache, metaspace, threads, collector, &BASE, &LAUNCHER];
        parts.into_iter().fold(0, |sum, part| u64::saturating_add(sum, *part))
    }

    /// The largest heap that the limit has room for beside the rest, in steps of 16 MiB.
    pub fn largest_heap(&self) -> Option<u64> {
        let rest = self.total() - self.heap;
        self.limit.map(|limit| limit.saturating_sub(rest) / STEP * STEP)
    }

    /// Whether everything has room.
    pub fn fits(&self) -> bool {
        self.limit.is_none_or(|limit| self.total() <= limit)
    }
}

impl fmt::Display for Budget {
    /// In MiB, as one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        write!(
            f,
            "heap {} + direct {} + code {} + metaspace {} + threads {} + collector {} + base {} + launcher {} \
             = {} MiB",
            mib(self.heap),
            mib(self.direct),
            mib(self.code_cache),
            mib(self.metaspace),
            mib(self.threads),
            mib(self.collector),
            mib(BASE),
            mib(LAUNCHER),
            mib(self.total()),
        )?;
        match self.limit {
            Some(limit) => write!(f, " of {}", mib(limit)),
            None => write!(f, ", and no limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_heap_fits_into_the_default_limit() {
        let budget = Budget::new(256 * MIB, Some(512 * MIB), Regions::default());
        assert_eq!(budget.total().div_ceil(MIB), 508);
        assert!(budget.fits());
        assert_eq!(budget.largest_heap(), Some(256 * MIB));
        assert_eq!(
            budget.to_string(),
            "heap 256 + direct 32 + code 48 + metaspace 112 + threads 25 + collector 3 + base 24 + launcher \
             8 = 508 MiB of 512"
        );
    }

    #[test]
    fn the_largest_heap_that_fits_is_named() {
        let budget = Budget::new(1_024 * MIB, Some(512 * MIB), Regions::default());
        assert!(!budget.fits());
        assert_eq!(budget.largest_heap(), Some(240 * MIB));
        let fitting = Budget::new(240 * MIB, Some(512 * MIB), Regions::default());
        assert!(fitting.fits());
    }

    #[test]
    fn nothing_fits_into_too_little() {
        let budget = Budget::new(64 * MIB, Some(128 * MIB), Regions::default());
        assert_eq!((budget.fits(), budget.largest_heap()), (false, Some(0)));
    }

    #[test]
    fn without_a_limit_everything_fits() {
        let budget = Budget::new(4 * GIB, None, Regions::default());
        assert!(budget.fits());
        assert_eq!((budget.direct, budget.largest_heap()), (512 * MIB, None));
    }

    #[test]
    fn chosen_regions_count_as_chosen() {
        let regions = Regions { direct: Some(64 * MIB), threads: Some(80), ..Regions::default() };
        let budget = Budget::new(128 * MIB, Some(512 * MIB), regions);
        assert_eq!((budget.direct, budget.threads), (64 * MIB, 10 * MIB));
    }
}
