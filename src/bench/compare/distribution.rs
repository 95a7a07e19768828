//! How the latencies of a scenario are spread, read back from `latency.hlog`: all rounds of a side
//! together, each round by itself, and each second of it.
//!
//! A histogram takes a few hundred KiB, and a run may have thousands of them: only their sum is
//! kept, and of each round and each second some percentiles.

use std::collections::BTreeMap;
use std::fs;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::run_folder::{ResultsError, Round};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::limits::LOAD_INTERVAL_NS;
use crate::bench::report::{SAMPLES_BEYOND_MIN, latencies};
use crate::bench::results::ladder;
use crate::bench::schedule::float;

/// The end of the line that names the columns; data follows.
const COLUMNS_END: &str = "Interval_Compressed_Histogram\"\n";
/// Bits of a digit of base 64.
const DIGIT_BITS: usize = 6;

/// The latencies of one side of a scenario, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// Those of all rounds.
    pub all: Histogram<u64>,
    /// Each round, by its number.
    pub rounds: BTreeMap<u32, RoundLatencies>,
}

/// What is kept of a round.
#[derive(Clone, Debug)]
pub struct RoundLatencies {
    /// How many.
    pub count: u64,
    /// The value at each share of [`ladder`].
    pub at_ladder_ns: Vec<u64>,
    /// Each second of it.
    pub moments: Vec<Moment>,
}

/// What is kept of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since the first one of its round.
    pub second: u64,
    /// The value that half of the requests didn't exceed.
    pub p50_ns: u64,
    /// The value that 99 % of them didn't exceed.
    pub p99_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}

impl Distribution {
    /// Reads the logs of these rounds.
    ///
    /// # Errors
    /// If one can't be read, or isn't such a log.
    pub fn read(rounds: &BTreeMap<u32, Round>) -> Result<Self, ResultsError> {
        let mut whole = Self { all: latencies(), rounds: BTreeMap::new() };
        for (number, round) in rounds {
            let path = round.folder.join("latency.hlog");
            let text =
                fs::read_to_string(&path).map_err(|e| ResultsError::File(path.clone(), e))?;
            let read = whole.add(*number, &text);
            read.map_err(|line| ResultsError::Log(path, line))?;
        }
        Ok(whole)
    }

    /// Adds a round. The error is the line that can't be read.
    fn add(&mut self, number: u32, text: &str) -> Result<(), usize> {
        let (head, data) = text.split_once(COLUMNS_END).ok_or(1_usize)?;
        let first_line = head.lines().count() + 1;
        let mut sum = latencies();
        let mut moments: Vec<Moment> = Vec::new();
        let mut first_start_ns = None;
        for (place, entry) in IntervalLogIterator::new(data.as_bytes()).enumerate() {
            let at = first_line + place;
            let LogEntry::Interval(line) = entry.map_err(|_| at)? else { continue };
            if line.tag().is_some() {
                continue;
            }
            let histogram = decoded(line.encoded_histogram()).ok_or(at)?;
            sum.add(&histogram).map_err(|_| at)?;
            let start_ns = line.start_timestamp().as_nanos();
            let since_ns = start_ns.saturating_sub(*first_start_ns.get_or_insert(start_ns));
            let second = since_ns / u128::from(LOAD_INTERVAL_NS);
            if !histogram.is_empty() {
                moments.push(Moment {
                    second: u64::try_from(second).map_err(|_| at)?,
                    p50_ns: histogram.value_at_quantile(0.5),
                    p99_ns: histogram.value_at_quantile(0.99),
                    max_ns: histogram.max(),
                });
            }
        }
        let at_ladder_ns = ladder().into_iter().map(|share| sum.value_at_quantile(share)).collect();
        self.all.add(&sum).map_err(|_| first_line)?;
        self.rounds.insert(number, RoundLatencies { count: sum.len(), at_ladder_ns, moments });
        Ok(())
    }
}

/// Whether so many values say something of what lies above this share of them.
#[must_use]
pub fn supports(count: u64, share: f64) -> bool {
    // The least that a product of a count and a share may be off by.
    float(count) * (1.0 - share) + 1e-6 >= SAMPLES_BEYOND_MIN
}

fn decoded(text: &str) -> Option<Histogram<u64>> {
    let bytes = from_base64(text)?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
}

/// The standard alphabet, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        Some(match byte {
            b'A'..=b'Z' => u32::from(byte - b'A'),
            b'a'..=b'z' => u32::from(byte - b'a') + 26,
            b'0'..=b'9' => u32::from(byte - b'0') + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(digit).collect::<Option<_>>()?;
    let mut bytes = Vec::with_capacity(digits.len() * DIGIT_BITS / 8);
    for chunk in digits.chunks(4) {
        let bits = chunk.iter().fold(0, |bits, digit| bits << DIGIT_BITS | digit);
        let missing = usize_from_u32(u32_from((4 - chunk.len()) * DIGIT_BITS));
        let [_, whole @ ..] = (bits << missing).to_be_bytes();
        bytes.extend_from_slice(&whole[..chunk.len() * DIGIT_BITS / 8]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::time::{NS_PER_US, Timestamp};
    use crate::bench::mix::Kind;
    use crate::bench::recorder::{Interval, place};
    use crate::bench::results::IntervalLog;

    /// A log of three seconds, each of 1,000 reads up to so many milliseconds, and as many writes.
    fn log(path: &Path) -> String {
        let mut log = IntervalLog::create(path, Timestamp(1_795_433_536_531_000_000)).unwrap();
        for number in 0..3 {
            let mut interval = Interval::new(number);
            for us in 1..=1_000 {
                let ns = us * (number + 1) * NS_PER_US;
                interval.latencies_ns[place(Kind::Read)].saturating_record(ns);
                interval.latencies_ns[place(Kind::Write)].saturating_record(ns);
            }
            interval.refusals_ns.saturating_record(5);
            log.add(&interval);
        }
        log.finish().unwrap();
        fs::read_to_string(path).unwrap()
    }

    fn read(texts: &[&str]) -> Result<Distribution, usize> {
        let mut whole = Distribution { all: latencies(), rounds: BTreeMap::new() };
        for (number, text) in (1..).zip(texts) {
            whole.add(number, text)?;
        }
        Ok(whole)
    }

    #[test]
    fn every_request_counts_once_and_every_second_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let text = log(&folder.path().join("latency.hlog"));
        let read = read(&[&text, &text]).unwrap();
        assert_eq!((read.all.len(), read.rounds.len()), (12_000, 2));
        let round = &read.rounds[&2];
        assert_eq!(round.count, 6_000);
        let seconds: Vec<u64> = round.moments.iter().map(|moment| moment.second).collect();
        assert_eq!(seconds, [0, 1, 2]);
        for moment in &round.moments {
            let expected_ns = 500 * (moment.second + 1) * NS_PER_US;
            assert!(moment.p50_ns.abs_diff(expected_ns) * 1_000 <= expected_ns, "{moment:?}");
            assert!(moment.p50_ns < moment.p99_ns && moment.p99_ns < moment.max_ns);
        }
        assert_eq!(round.at_ladder_ns.len(), ladder().len());
        assert!(round.at_ladder_ns.is_sorted());
    }

    #[test]
    fn what_is_no_log_or_was_cut_short_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let text = log(&folder.path().join("latency.hlog"));
        assert_eq!(read(&["{}"]).err(), Some(1));
        // The last line is one of refusals, which are left out; the first one of all requests.
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.iter().position(|line| line.starts_with("\"Start")).unwrap() + 1;
        let cut = &lines[first][..lines[first].len() / 2];
        let broken = [&lines[..first], &[cut]].concat().join("\n") + "\n";
        assert_eq!(read(&[&broken]).err(), Some(first + 1));
        let foreign = text.replacen(",HIST", ",H!ST", 1);
        assert_eq!(read(&[&foreign]).err(), Some(first + 1));
    }

    #[test]
    fn base_64_is_read_as_the_standard_says() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob")]
        {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(from_base64("+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(from_base64("a b="), None);
    }
}
