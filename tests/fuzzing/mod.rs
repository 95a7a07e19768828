//! Runs a check on many arbitrary inputs, each drawn from a seed of its own.
//!
//! A run begins at a fresh seed and prints it. `P2PMAP_FUZZ_ROUNDS` says how many rounds a run has,
//! `P2PMAP_FUZZ_SECONDS` how long it lasts instead, `P2PMAP_FUZZ_START` at which seed it begins. A
//! failure names the seed of its round, and `P2PMAP_FUZZ_SEED` replays that round alone.
//! `tests/fuzz_canary.rs` shows that a run can fail.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod peer;
pub mod soup;

use std::any::Any;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use p2pmap::base::prng::Prng;

const ENTROPY_SIZE_BYTES_MAX: u64 = 600;

/// How long a run is, and where it begins.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub first_seed: u64,
    pub length: Length,
}

#[derive(Clone, Copy, Debug)]
pub enum Length {
    Rounds(u64),
    Seconds(u64),
}

/// A round that panicked.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub message: String,
}

impl Plan {
    /// What the environment says; else so many rounds.
    pub fn from_environment(rounds_default: u64) -> Self {
        if let Some(seed) = number_from_env("P2PMAP_FUZZ_SEED") {
            return Self { first_seed: seed, length: Length::Rounds(1) };
        }
        let length = match number_from_env("P2PMAP_FUZZ_SECONDS") {
            Some(seconds) => Length::Seconds(seconds),
            None => Length::Rounds(number_from_env("P2PMAP_FUZZ_ROUNDS").unwrap_or(rounds_default)),
        };
        let fresh = || RandomState::new().hash_one(0) >> 1;
        let first_seed = number_from_env("P2PMAP_FUZZ_START").unwrap_or_else(fresh);
        Self { first_seed, length }
    }

    /// Runs `check` with a generator for each seed; how many rounds there were.
    #[allow(clippy::disallowed_methods, reason = "a run that lasts a time reads a clock")]
    pub fn run(self, mut check: impl FnMut(&mut Prng)) -> Result<u64, Failure> {
        let begin = Instant::now();
        let mut rounds = 0;
        loop {
            let is_over = match self.length {
                Length::Rounds(count) => rounds >= count,
                Length::Seconds(count) => begin.elapsed() >= Duration::from_secs(count),
            };
            if is_over {
                return Ok(rounds);
            }
            let seed = self.first_seed.wrapping_add(rounds);
            let mut prng = Prng::new(seed, "fuzzing");
            catch_unwind(AssertUnwindSafe(|| check(&mut prng)))
                .map_err(|panic| Failure { seed, message: text_of(&*panic) })?;
            rounds += 1;
        }
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a decimal number"))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Runs rounds of `check`, so many unless the environment says otherwise.
#[allow(clippy::print_stdout, reason = "the seed has to be seen")]
pub fn fuzz_rounds(rounds_default: u64, check: impl FnMut(&mut Prng)) {
    let plan = Plan::from_environment(rounds_default);
    println!("P2PMAP_FUZZ_START={}", plan.first_seed);
    match plan.run(check) {
        Ok(rounds) => println!("{rounds} rounds"),
        Err(Failure { seed, message }) => {
            panic!("replay this round with P2PMAP_FUZZ_SEED={seed}: {message}")
        }
    }
}

/// The same on something arbitrary.
pub fn fuzz<T: for<'a> Arbitrary<'a>>(rounds_default: u64, check: impl Fn(T, &mut Prng)) {
    fuzz_rounds(rounds_default, |prng| {
        let entropy = entropy(prng, ENTROPY_SIZE_BYTES_MAX);
        if let Ok(value) = T::arbitrary(&mut Unstructured::new(&entropy)) {
            check(value, prng);
        }
    });
}

/// Fewer random bytes than this.
pub fn entropy(prng: &mut Prng, size_bytes_max: u64) -> Vec<u8> {
    (0..prng.below(size_bytes_max)).map(|_| byte(prng)).collect()
}

pub fn byte(prng: &mut Prng) -> u8 {
    prng.next_u64().to_le_bytes()[0]
}

/// Some place in a list or below a number.
pub fn place(prng: &mut Prng, count: usize) -> usize {
    usize::try_from(prng.below(count as u64)).expect("64 bits")
}

/// Damages bytes as networks and disks do: flips a bit, sets, inserts or removes a byte, cuts,
/// repeats a stretch; a few times over.
pub fn damage(bytes: &mut Vec<u8>, prng: &mut Prng) {
    for _ in 0..1 + prng.below(4) {
        if bytes.is_empty() {
            bytes.push(byte(prng));
            continue;
        }
        let at = place(prng, bytes.len());
        match prng.below(6) {
            0 => bytes[at] ^= 1 << prng.below(8),
            1 => bytes[at] = byte(prng),
            2 => bytes.insert(at, byte(prng)),
            3 => drop(bytes.remove(at)),
            4 => bytes.truncate(at),
            _ => {
                let end = at + place(prng, bytes.len() - at) + 1;
                let stretch = bytes[at..end.min(at + 64)].to_vec();
                let to = place(prng, bytes.len());
                drop(bytes.splice(to..to, stretch));
            }
        }
    }
}
