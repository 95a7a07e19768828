//! What requests do, and how often: the mix of a load, and those of the Yahoo! Cloud Serving
//! Benchmark.

use std::fmt;

use super::keys::KeyChoice;
use crate::base::prng::Prng;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Gets a key.
    Read,
    /// Puts a key.
    Write,
    /// Asks for some entries after a key.
    Scan,
    /// Gets a key and then puts it: one request for whoever waits for it.
    ReadModifyWrite,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Scan, Self::ReadModifyWrite];

    /// Its name in results; a tag in `latency.hlog`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Scan => "scan",
            Self::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// What the next request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A request about a key that is there.
    Existing(Kind),
    /// A write of a new key.
    Insert,
}

/// Of a hundred requests, how many do what; the rest reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// Writes of keys that are there.
    pub update_percent: u8,
    /// Writes of new keys.
    pub insert_percent: u8,
    /// Scans.
    pub scan_percent: u8,
    /// Reads followed by writes of the same key.
    pub read_modify_write_percent: u8,
}

impl Mix {
    /// Reads, and so many writes.
    #[must_use]
    pub fn of_puts(update_percent: u8) -> Self {
        Self { update_percent, ..Self::default() }
    }

    /// Draws one.
    pub fn draw(&self, prng: &mut Prng) -> Choice {
        let mut rest = prng.below(100);
        for (percent, choice) in [
            (self.update_percent, Choice::Existing(Kind::Write)),
            (self.insert_percent, Choice::Insert),
            (self.scan_percent, Choice::Existing(Kind::Scan)),
            (self.read_modify_write_percent, Choice::Existing(Kind::ReadModifyWrite)),
        ] {
            if rest < u64::from(percent) {
                return choice;
            }
            rest -= u64::from(percent);
        }
        Choice::Existing(Kind::Read)
    }
}

/// A workload of the Yahoo! Cloud Serving Benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ycsb {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads.
    C,
    /// 95 % reads of what was inserted lately, 5 % inserts.
    D,
    /// 95 % scans, 5 % inserts.
    E,
    /// Half reads, half reads followed by a write.
    F,
}

impl Ycsb {
    /// What its requests do, and of which keys.
    #[must_use]
    pub fn parts(self) -> (Mix, KeyChoice) {
        let (reads, theta) = (Mix::default(), 0.99);
        let zipfian = KeyChoice::Zipfian { theta };
        match self {
            Self::A => (Mix::of_puts(50), zipfian),
            Self::B => (Mix::of_puts(5), zipfian),
            Self::C => (reads, zipfian),
            Self::D => (Mix { insert_percent: 5, ..reads }, KeyChoice::Latest { theta }),
            Self::E => (Mix { insert_percent: 5, scan_percent: 95, ..reads }, zipfian),
            Self::F => (Mix { read_modify_write_percent: 50, ..reads }, zipfian),
        }
    }
}

impl fmt::Display for Ycsb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_come_as_often_as_they_say() {
        for workload in [Ycsb::A, Ycsb::B, Ycsb::C, Ycsb::D, Ycsb::E, Ycsb::F] {
            let (mix, _) = workload.parts();
            let mut prng = Prng::new(1, "mix");
            let drawn: Vec<Choice> = (0..20_000).map(|_| mix.draw(&mut prng)).collect();
            let percent = |wanted: Choice| {
                let count = drawn.iter().filter(|choice| **choice == wanted).count();
                count * 100 / drawn.len()
            };
            for (expected, choice) in [
                (mix.update_percent, Choice::Existing(Kind::Write)),
                (mix.insert_percent, Choice::Insert),
                (mix.scan_percent, Choice::Existing(Kind::Scan)),
                (mix.read_modify_write_percent, Choice::Existing(Kind::ReadModifyWrite)),
            ] {
                let found = percent(choice);
                assert!(
                    found.abs_diff(usize::from(expected)) <= 1,
                    "{workload} {choice:?}: {found}"
                );
            }
        }
    }
}
