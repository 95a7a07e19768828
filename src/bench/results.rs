//! Results on disk, in formats that others read:
//!
//! - `latency.hlog`: HdrHistogram's log, one histogram for each second, in nanoseconds. The lines
//!   without a tag are of all requests; those with one are of a kind (`read`, `write` …) or of
//!   refusals (`refused`).
//! - `latency.hgrm`: HdrHistogram's percentile text, in microseconds, on a fixed ladder of
//!   percentiles: plotters line several files up by their lines.
//! - `summary.json`, and one `environment.json` for all scenarios of a folder.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

use super::mix::Kind;
use super::recorder::{Interval, place};
use super::schedule::float;
use super::summary::Summary;
use super::surroundings::Environment;
use crate::base::limits::LOAD_INTERVAL_NS;
use crate::base::time::{NS_PER_US, Timestamp};

/// The log's first line, which its readers look for and the crate doesn't write.
const LOG_VERSION: &str = "[Histogram log format version 1.3]";
/// The maximum of each line is told in milliseconds.
const NS_PER_LOG_UNIT: f64 = 1e6;
/// Steps of the ladder between one halving of what is left and the next.
const STEPS_PER_HALVING: u32 = 5;
/// Halvings: down to about one in a million.
const HALVINGS: u32 = 20;

/// The tag of refusals.
const TAG_REFUSED: &str = "refused";

/// The log of a run while it is being written.
pub struct IntervalLog {
    file: BufWriter<File>,
    started: Timestamp,
    serializer: V2DeflateSerializer,
    /// Why a line could not be written.
    failed: Option<io::Error>,
}

impl fmt::Debug for IntervalLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntervalLog").field("started", &self.started).finish_non_exhaustive()
    }
}

impl IntervalLog {
    /// Begins one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(path: &Path, started: Timestamp) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let seconds = float(started.as_ms()) / 1_000.0;
        writeln!(file, "#{LOG_VERSION}")?;
        writeln!(file, "#[StartTime: {seconds:.3} (seconds since epoch), {}]", utc(started))?;
        writeln!(file, "#[MaxValueDivisor: {NS_PER_LOG_UNIT:.1}]")?;
        let columns =
            ["StartTimestamp", "Interval_Length", "Interval_Max", "Interval_Compressed_Histogram"];
        writeln!(file, "\"{}\"", columns.join("\",\""))?;
        Ok(Self { file, started, serializer: V2DeflateSerializer::new(), failed: None })
    }

    /// Adds an interval. That it can't be written is told in the end: the run goes on.
    pub fn add(&mut self, interval: &Interval) {
        if self.failed.is_none() {
            self.failed = self.write(interval).err();
        }
    }

    fn write(&mut self, interval: &Interval) -> io::Result<()> {
        let begun_ns = interval.number * LOAD_INTERVAL_NS;
        self.line(&interval.all_ns(), begun_ns, None)?;
        for kind in Kind::ALL {
            let histogram = &interval.latencies_ns[place(kind)];
            if !histogram.is_empty() {
                self.line(histogram, begun_ns, Tag::new(kind.name()))?;
            }
        }
        if interval.refusals_ns.is_empty() {
            return Ok(());
        }
        self.line(&interval.refusals_ns, begun_ns, Tag::new(TAG_REFUSED))
    }

    fn line(
        &mut self,
        histogram: &Histogram<u64>,
        begun_ns: u64,
        tag: Option<Tag<'_>>,
    ) -> io::Result<()> {
        // Times are those since 1970: readers take a small number for one since `StartTime`, and
        // don't agree on where "small" ends.
        let begun = Duration::from_nanos(self.started.0 + begun_ns);
        let length = Duration::from_nanos(LOAD_INTERVAL_NS);
        let mut lines = Vec::new();
        IntervalLogWriterBuilder::new()
            .with_max_value_divisor(NS_PER_LOG_UNIT)
            .begin_log_with(&mut lines, &mut self.serializer)?
            .write_histogram(histogram, begun, length, tag)
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => {
                    io::Error::other(error.to_string())
                }
            })?;
        // The builder repeats the divisor in a comment before each line.
        let line = lines.split_inclusive(|byte| *byte == b'\n').next_back().unwrap_or_default();
        self.file.write_all(line)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If anything of it could not be written.
    pub fn finish(mut self) -> io::Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None => self.file.flush(),
        }
    }
}

/// The ladder of `latency.hgrm`: shares of all values, from 0 to nearly all.
#[must_use]
pub fn ladder() -> Vec<f64> {
    let steps = 0..=HALVINGS * STEPS_PER_HALVING;
    steps
        .map(|step| {
            let (halvings, part) = (step / STEPS_PER_HALVING, step % STEPS_PER_HALVING);
            let left = 0.5_f64.powi(i32::try_from(halvings).unwrap_or(i32::MAX));
            1.0 - left * (1.0 - f64::from(part) / f64::from(2 * STEPS_PER_HALVING))
        })
        .collect()
}

/// A histogram of nanoseconds as percentile text, in microseconds.
#[must_use]
pub fn percentile_text(histogram: &Histogram<u64>) -> String {
    let us = |value: u64| float(value) / float(NS_PER_US);
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut line = |line: fmt::Arguments<'_>| {
        // Writing to a string doesn't fail.
        let _ = text.write_fmt(format_args!("{line}\n"));
    };
    for share in ladder() {
        let value = histogram.value_at_quantile(share);
        // Past the last value there is nothing more to count.
        let below = histogram.count_between(0, value).min(histogram.len());
        line(format_args!(
            "{:12.3} {share:.12} {below:10} {:14.2}",
            us(value),
            1.0 / (1.0 - share)
        ));
    }
    line(format_args!("{:12.3} {:.12} {:10}", us(histogram.max()), 1.0, histogram.len()));
    let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    line(format_args!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]"));
    let max = us(histogram.max());
    line(format_args!("#[Max     = {max:12.3}, Total count    = {:12}]", histogram.len()));
    let buckets = histogram.buckets();
    line(format_args!("#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2_048));
    text
}

/// The folder of one run's results.
#[derive(Clone, Debug)]
pub struct ResultFolder {
    folder: PathBuf,
}

impl ResultFolder {
    /// Makes `below`/`scenario`, or `below`/`scenario`/`round-NN`.
    ///
    /// # Errors
    /// If it can't be made, or has results already.
    pub fn create(below: &Path, scenario: &str, round: Option<u32>) -> io::Result<Self> {
        let mut folder = below.join(scenario);
        if let Some(round) = round {
            folder.push(format!("round-{round:02}"));
        }
        fs::create_dir_all(&folder)?;
        if folder.join("summary.json").exists() {
            let line = format!("{} has results already", folder.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, line));
        }
        Ok(Self { folder })
    }

    /// Begins `latency.hlog`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn interval_log(&self, started: Timestamp) -> io::Result<IntervalLog> {
        IntervalLog::create(&self.folder.join("latency.hlog"), started)
    }

    /// Writes `latency.hgrm` and `summary.json`.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn write(&self, histogram: &Histogram<u64>, summary: &Summary) -> io::Result<()> {
        fs::write(self.folder.join("latency.hgrm"), percentile_text(histogram))?;
        write_json(&self.folder.join("summary.json"), summary)
    }
}

/// Writes `environment.json`, or compares with the one that is there: a folder's results are of one
/// environment and one build.
///
/// # Errors
/// If it can't be written, or another environment's results are there.
pub fn write_environment(below: &Path, environment: &Environment) -> io::Result<()> {
    fs::create_dir_all(below)?;
    let path = below.join("environment.json");
    if !path.exists() {
        return write_json(&path, environment);
    }
    let there: Environment = serde_json::from_slice(&fs::read(&path)?)?;
    let mut differences = there.differences(environment);
    if there.generator != environment.generator {
        differences.push("the generator's build".to_owned());
    }
    if there.server != environment.server {
        differences.push("the node's build".to_owned());
    }
    if differences.is_empty() {
        return Ok(());
    }
    let line = format!("{} is of another run: {}", path.display(), differences.join("; "));
    Err(io::Error::new(io::ErrorKind::AlreadyExists, line))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text)
}

/// A time as `2026-11-23T13:04:59Z`.
#[must_use]
pub fn utc(time: Timestamp) -> String {
    let seconds = time.as_ms() / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, when leap days stand at the end of their year, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second % 3_600 / 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::bench::report::latencies;

    fn interval(number: u64) -> Interval {
        let mut interval = Interval::new(number);
        for us in 1..=1_000 {
            interval.latencies_ns[place(Kind::Read)].saturating_record(us * NS_PER_US);
            interval.latencies_ns[place(Kind::Write)].saturating_record(us * 2 * NS_PER_US);
        }
        interval.refusals_ns.saturating_record(5);
        interval
    }

    #[test]
    fn log_begins_as_its_readers_expect_and_gives_the_histograms_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("latency.hlog");
        let started = Timestamp(1_795_433_536_531_000_000);
        let mut log = IntervalLog::create(&path, started).expect("a file");
        log.add(&interval(0));
        log.add(&interval(1));
        log.finish().expect("written");

        let text = fs::read_to_string(&path).expect("text");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("#[Histogram log format version 1.3]"));
        let start = "#[StartTime: 1795433536.531 (seconds since epoch), 2026-11-23T11:32:16Z]";
        assert_eq!(lines.next(), Some(start));
        assert_eq!(lines.nth(1).map(|line| line.starts_with("\"StartTimestamp\"")), Some(true));
        assert_eq!(lines.clone().count(), 8);
        assert!(lines.all(|line| !line.starts_with('#')), "{text}");

        let mut all = latencies();
        let mut tags = Vec::new();
        let data = text.split_once("Histogram\"\n").expect("the columns' names").1;
        for entry in IntervalLogIterator::new(data.as_bytes()) {
            let LogEntry::Interval(line) = entry.expect("a line") else { continue };
            tags.push(line.tag().map(|tag| tag.as_str().to_owned()));
            let bytes = base64_of(line.encoded_histogram());
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
            if line.tag().is_none() {
                all.add(&histogram).expect("the same bounds");
            }
        }
        let of_interval =
            [None, Some("read".to_owned()), Some("write".to_owned()), Some("refused".to_owned())];
        assert_eq!(tags, [of_interval.clone(), of_interval].concat());
        let mut expected = interval(0).all_ns();
        expected.add(interval(1).all_ns()).expect("the same bounds");
        assert_eq!(all, expected);
    }

    /// The standard alphabet, for reading back only.
    fn base64_of(text: &str) -> Vec<u8> {
        let value = |byte: u8| match byte {
            b'A'..=b'Z' => u32::from(byte - b'A'),
            b'a'..=b'z' => u32::from(byte - b'a') + 26,
            b'0'..=b'9' => u32::from(byte - b'0') + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').collect();
        let chunks = digits.chunks(4).flat_map(|chunk| {
            let bits = chunk.iter().fold(0, |bits, byte| bits << 6 | value(*byte));
            let bits = bits << (6 * (4 - chunk.len()));
            let [_, bytes @ ..] = bits.to_be_bytes();
            bytes.into_iter().take(chunk.len() * 3 / 4).collect::<Vec<u8>>()
        });
        chunks.collect()
    }

    #[test]
    fn percentile_text_has_the_same_ladder_for_every_histogram() {
        let mut one = latencies();
        one.saturating_record(1_000);
        let many = interval(0).all_ns();
        let rows = |histogram: &Histogram<u64>| {
            let text = percentile_text(histogram);
            let rows = text.lines().filter(|line| line.split_whitespace().count() == 4);
            rows.skip(1)
                .map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(&one), rows(&many));
        assert_eq!(rows(&one).len(), 101);
        assert!(ladder().is_sorted());
        let text = percentile_text(&many);
        let median = text.lines().find(|line| line.contains(" 0.500000000000 ")).expect("a row");
        assert!(median.trim_start().starts_with("667."), "{median}");
        assert!(text.contains("Total count    =         2000]"), "{text}");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(utc(Timestamp(seconds * 1_000_000_000)), expected);
        }
    }

    #[test]
    fn results_are_never_written_over_nor_mixed_with_those_of_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("run");
        let created = ResultFolder::create(&below, "get-1", Some(3)).expect("made");
        assert!(below.join("get-1/round-03").is_dir());
        fs::write(created.folder.join("summary.json"), "{}").expect("written");
        assert!(ResultFolder::create(&below, "get-1", Some(3)).is_err());
        assert!(ResultFolder::create(&below, "get-1", Some(4)).is_ok());

        let environment = Environment::of_this_machine(None, None);
        write_environment(&below, &environment).expect("written");
        write_environment(&below, &environment).expect("the same");
        let other = Environment { kernel: "7.0".to_owned(), ..environment };
        let error = write_environment(&below, &other).expect_err("another one");
        assert!(error.to_string().contains("kernel"), "{error}");
    }
}
