//! Numbers that depend on a seed alone.

/// A source of numbers: splitmix64, which is enough to choose with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A source of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number below that one; zero when there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        self.number().checked_rem(limit).map_or(0, |number| usize::try_from(number).unwrap_or(0))
    }

    /// One in so many.
    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// A byte; often one that means something.
    pub fn byte(&mut self) -> u8 {
        const SPECIAL: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x08, 0x20];
        if self.one_in(2) {
            SPECIAL[self.below(SPECIAL.len())]
        } else {
            self.number().to_le_bytes()[0]
        }
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}
