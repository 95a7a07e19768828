//! What is asked: which requests, about which keys, with which values. The same seed asks the same.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};

use super::content::Content;
use super::encode;
use super::keys::{KeyChoice, Keys};
use super::mix::{Choice, Kind, Mix};
use crate::base::cast::{low_u32, u64_from, usize_from};
use crate::base::ids::CorrelationId;
use crate::base::prng::Prng;

/// Entries that a scan asks for at most: that of the Yahoo! Cloud Serving Benchmark.
const SCAN_COUNT_MAX: u64 = 100;

/// Frames that [`Workload::frames`] makes at most.
const FRAME_COUNT_MAX: u64 = 1 << 17;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The map.
    pub map: String,
    /// The number of the first key: keys are numbers, written out.
    pub key_first: u64,
    /// Different keys, without those that are inserted.
    pub key_count: u64,
    /// Which of them.
    pub key_choice: KeyChoice,
    /// Bytes of a key: the same key has always the same length.
    pub key_size_bytes: RangeInclusive<usize>,
    /// Bytes of a value.
    pub value_size_bytes: RangeInclusive<usize>,
    /// What requests do.
    pub mix: Mix,
    /// Of all choices.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            map: "bench".into(),
            key_first: 0,
            key_count: 10_000,
            key_choice: KeyChoice::Uniform,
            key_size_bytes: 16..=16,
            value_size_bytes: 64..=64,
            mix: Mix::default(),
            seed: 1,
        }
    }
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub kind: Kind,
    /// The number of its key, from 0.
    pub key: u64,
    /// The length of the value that it writes, or the entries that it asks for.
    pub size: usize,
}

/// The requests of one generator, without end.
#[derive(Clone, Debug)]
pub struct Requests {
    mix: Mix,
    keys: Keys,
    value_size_bytes: RangeInclusive<usize>,
    operations: Prng,
    sizes: Prng,
    /// Keys that are inserted go to the generators in turn.
    inserted: u64,
    lane: u64,
    lanes: u64,
    key_count: u64,
}

impl Workload {
    /// The requests of generator `lane` among `lanes`.
    #[must_use]
    pub fn requests(&self, lane: usize, lanes: usize) -> Requests {
        let (lane, lanes) = (u64_from(lane), u64_from(lanes));
        let seed = self.seed.wrapping_add(lane << 32);
        Requests {
            mix: self.mix,
            keys: Keys::new(self.key_choice, self.key_count, self.key_count * lane / lanes, seed),
            value_size_bytes: self.value_size_bytes.clone(),
            operations: Prng::new(seed, "operations"),
            sizes: Prng::new(seed, "sizes"),
            inserted: 0,
            lane,
            lanes,
            key_count: self.key_count,
        }
    }

    /// Writes the key with this number.
    pub fn key(&self, number: u64, out: &mut Vec<u8>) {
        let (min, max) = (*self.key_size_bytes.start(), *self.key_size_bytes.end());
        let spread = u64_from(max - min + 1);
        // Multiplying scatters neighbours.
        let extra = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % spread;
        encode::key(out, self.key_first + number, min + usize_from(extra));
    }

    /// Appends a request. A write is one of `content`.
    pub fn encode(
        &self,
        request: &Request,
        content: Option<&Content>,
        id: CorrelationId,
        key: &mut Vec<u8>,
        out: &mut BytesMut,
    ) {
        self.key(request.key, key);
        match (request.kind, content) {
            (_, Some(content)) => encode::put(out, &self.map, id, key, content, request.size),
            (Kind::Scan, None) => {
                encode::scan(out, &self.map, id, key, low_u32(u64_from(request.size)));
            }
            _ => encode::get(out, &self.map, id, key),
        }
    }

    /// Some requests as frames, made beforehand; the one at `index` has the id `index + 1`.
    #[must_use]
    pub fn frames(&self) -> Vec<Bytes> {
        let mut requests = self.requests(0, 1);
        let mut key = Vec::new();
        (1..=FRAME_COUNT_MAX.min(self.key_count * 4))
            .map(|id| {
                let request = requests.draw();
                let content = Content { key: request.key, writer: 0, sequence: id };
                let content = (request.kind == Kind::Write).then_some(&content);
                let mut frame = BytesMut::new();
                self.encode(&request, content, id, &mut key, &mut frame);
                frame.freeze()
            })
            .collect()
    }

    /// A write that gives a key its first value.
    #[must_use]
    pub fn preload(&self, key: u64) -> Request {
        let (min, max) = (*self.value_size_bytes.start(), *self.value_size_bytes.end());
        Request { kind: Kind::Write, key, size: min.midpoint(max) }
    }
}

impl Requests {
    /// The next one.
    pub fn draw(&mut self) -> Request {
        match self.mix.draw(&mut self.operations) {
            Choice::Insert => {
                // For the choice of keys all generators insert as fast as this one.
                self.keys.insert();
                let key = self.key_count + self.inserted * self.lanes + self.lane;
                self.inserted += 1;
                Request { kind: Kind::Write, key, size: self.value_size() }
            }
            Choice::Existing(kind) => {
                let key = self.keys.draw();
                let size = match kind {
                    Kind::Read => 0,
                    Kind::Write | Kind::ReadModifyWrite => self.value_size(),
                    Kind::Scan => usize_from(1 + self.sizes.below(SCAN_COUNT_MAX)),
                };
                Request { kind, key, size }
            }
        }
    }

    fn value_size(&mut self) -> usize {
        let (min, max) = (*self.value_size_bytes.start(), *self.value_size_bytes.end());
        min + usize_from(self.sizes.below(u64_from(max - min + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_repeat_with_the_seed_and_differ_between_generators() {
        let workload = Workload { mix: Mix::of_puts(50), ..Workload::default() };
        let draw = |workload: &Workload, lane| {
            let mut requests = workload.requests(lane, 2);
            (0..50).map(|_| requests.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(&workload, 0), draw(&workload, 0));
        assert_ne!(draw(&workload, 0), draw(&workload, 1));
        assert_ne!(draw(&workload, 0), draw(&Workload { seed: 2, ..workload.clone() }, 0));
    }

    #[test]
    fn sizes_stay_within_their_range_and_reach_its_ends() {
        let workload = Workload {
            key_size_bytes: 8..=10,
            value_size_bytes: 24..=26,
            mix: Mix::of_puts(100),
            key_count: 1_000,
            ..Workload::default()
        };
        let mut requests = workload.requests(0, 1);
        let drawn: Vec<Request> = (0..1_000).map(|_| requests.draw()).collect();
        let mut key = Vec::new();
        for size in 0..3 {
            assert!(drawn.iter().any(|request| request.size == 24 + size));
            let mut has_length = |request: &&Request| {
                workload.key(request.key, &mut key);
                key.len() == 8 + size
            };
            assert!(drawn.iter().any(|request| has_length(&request)));
        }
        assert!(drawn.iter().all(|request| (24..=26).contains(&request.size)));
        let (mut once, mut again) = (Vec::new(), Vec::new());
        workload.key(77, &mut once);
        workload.key(77, &mut again);
        assert_eq!(once, again, "a key doesn't change its length");
    }

    #[test]
    fn inserted_keys_are_new_and_no_two_generators_have_the_same() {
        let mix = Mix { insert_percent: 100, ..Mix::default() };
        let workload = Workload { mix, key_count: 10, ..Workload::default() };
        let mut keys: Vec<u64> = (0..3)
            .flat_map(|lane| {
                let mut requests = workload.requests(lane, 3);
                (0..5).map(move |_| requests.draw().key).collect::<Vec<_>>()
            })
            .collect();
        keys.sort_unstable();
        assert!(keys.into_iter().eq(10..25));
    }
}
