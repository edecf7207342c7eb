//! Inputs that nobody would send: real ones, changed step by step. The same seed gives the same inputs, so one that
//! breaks something is found again; it is printed as well.
//!
//! `FUZZ_SECONDS` says for how long each target is tried (2), `FUZZ_SEED` where the inputs come from (1), and
//! `FUZZ_INPUT` gives one input in hex instead.

mod http2;
mod mutate;
mod protobuf;
mod random;

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

pub use random::Random;

/// No input may keep a target busy for longer. Much more than any takes, on a machine that has other work.
const SLOW: Duration = Duration::from_secs(5);
const SECONDS: u64 = 2;
const SEED: u64 = 1;

/// What the real inputs look like, and so where a change does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing is known.
    Bytes,
    /// A message in the encoding of protobuf, with others in it.
    Protobuf,
    /// What a client of HTTP/2 says from the first byte on.
    Http2,
}

/// Changed inputs, until the time is over.
#[derive(Debug)]
pub struct Inputs {
    name: &'static str,
    shape: Shape,
    corpus: Vec<Vec<u8>>,
    seed: u64,
    number: u64,
    begun: Instant,
    time: Duration,
    given: Option<Vec<u8>>,
}

impl Inputs {
    /// Inputs that come from these.
    ///
    /// # Panics
    /// When there are none, or a variable cannot be read.
    pub fn new(name: &'static str, shape: Shape, corpus: Vec<Vec<u8>>) -> Self {
        assert!(!corpus.is_empty(), "fuzz {name}: nothing to begin with");
        let number = |variable, default| {
            read(variable).map_or(default, |text| {
                text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, and no number"))
            })
        };
        Self {
            name,
            shape,
            corpus,
            seed: number("FUZZ_SEED", SEED),
            number: 0,
            begun: Instant::now(),
            time: Duration::from_secs(number("FUZZ_SECONDS", SECONDS)),
            given: read("FUZZ_INPUT").map(|hex| from_hex(&hex)),
        }
    }

    /// The input of that number: the first ones are the real inputs.
    fn input(&self, number: u64) -> Vec<u8> {
        let real = usize::try_from(number).ok().and_then(|number| self.corpus.get(number));
        real.cloned().unwrap_or_else(|| {
            let mixed = |number| Random::new(number).number();
            let mut random = Random::new(mixed(self.seed) ^ mixed(number).rotate_left(32));
            mutate::change(self.shape, &self.corpus, &mut random)
        })
    }

    /// Where an input came from, for who has to find it again.
    pub fn describe(&self, input: &[u8]) -> String {
        format!(
            "fuzz {}: seed {}, input {}; try it again with FUZZ_INPUT={}",
            self.name,
            self.seed,
            self.number,
            to_hex(input)
        )
    }
}

impl Iterator for Inputs {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.given.is_some() {
            return self.given.take_if(|_| self.number == 0).inspect(|_| self.number = 1);
        }
        let untried = usize::try_from(self.number).is_ok_and(|number| number < self.corpus.len());
        if self.begun.elapsed() >= self.time && !untried {
            return None;
        }
        let input = self.input(self.number);
        self.number += 1;
        Some(input)
    }
}

impl Drop for Inputs {
    #[expect(clippy::print_stdout, reason = "whoever runs a fuzz target wants to know what it did")]
    fn drop(&mut self) {
        let Self { name, seed, number, .. } = self;
        println!("fuzz {name}: {number} inputs from seed {seed} in {:.1?}", self.begun.elapsed());
    }
}

/// Tries a target with changed inputs.
///
/// # Panics
/// When the target does, or takes too long; the input is printed.
#[expect(clippy::print_stderr, reason = "the input has to be seen beside the panic")]
pub fn fuzz(name: &'static str, shape: Shape, corpus: Vec<Vec<u8>>, mut target: impl FnMut(&[u8])) {
    let mut inputs = Inputs::new(name, shape, corpus);
    while let Some(input) = inputs.next() {
        let begun = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            eprintln!("{}", inputs.describe(&input));
            resume_unwind(panic);
        }
        let took = begun.elapsed();
        assert!(took <= SLOW, "took {took:.1?}: {}", inputs.describe(&input));
    }
}

#[expect(clippy::disallowed_methods, reason = "switches of tests, and no configuration")]
fn read(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    digits.map(|pair| byte(pair).unwrap_or_else(|| panic!("FUZZ_INPUT is no hex"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(inputs: &Inputs, count: u64) -> Vec<Vec<u8>> {
        (0..count).map(|number| inputs.input(number)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs_and_another_one_others() {
        let real = vec![b"\x0a\x05hello\x12\x02\x08\x01".to_vec()];
        for shape in [Shape::Bytes, Shape::Protobuf, Shape::Http2] {
            let with_seed = |seed| {
                let mut inputs = Inputs::new("a", shape, real.clone());
                inputs.seed = seed;
                inputs
            };
            let (inputs, again, others) = (with_seed(1), with_seed(1), with_seed(2));
            assert_eq!(first(&inputs, 1), real);
            assert_eq!(first(&inputs, 100), first(&again, 100));
            assert_ne!(first(&inputs, 100), first(&others, 100));
        }
    }

    #[test]
    fn a_target_that_cannot_stand_an_input_is_found_out() {
        let found = catch_unwind(|| {
            fuzz("planted", Shape::Protobuf, vec![b"\x0a\x01a".to_vec()], |input| {
                assert!(!input.ends_with(b"aa"), "planted");
            });
        });
        assert!(found.is_err(), "nothing was found");
    }

    #[test]
    fn hex_is_read_as_it_is_written() {
        assert_eq!(from_hex(&to_hex(&[0, 10, 255])), [0, 10, 255]);
    }
}
