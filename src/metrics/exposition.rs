//! Metrics as text for Prometheus, format 0.0.4: each family once, with what it means, then its
//! samples, of all cores.
//!
//! A histogram is given with fewer buckets than it has: two for each power of two from a
//! microsecond to half a minute. Their bounds are bounds of the histogram's own buckets, so the
//! counts are exact, and the same in every node and release, so they can be added.

use std::fmt::Write as _;

use super::CoreMetrics;
use super::histogram::{BUCKET_COUNT, Histogram, SUB_BUCKET_COUNT, bound};
use super::stage::{Stage, Stages};
use super::table::{Kind, Unit};

/// What names the format in a response.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What all of our families begin with.
const PREFIX: &str = "p2pmap_";
/// The least and the greatest bound of a histogram of times, as powers of two: 1 µs and 34 s.
const TIME_BOUND_BITS: std::ops::RangeInclusive<usize> = 10..=35;
/// The greatest bound of a histogram of counts.
const COUNT_BOUND_BITS: usize = 6;

/// What was read of one core, all of it of about the same time.
#[derive(Clone, Debug)]
pub struct CoreReading {
    /// The value of its label.
    pub core: String,
    /// The numbers, in the order of [`CoreMetrics::rows`].
    pub values: Vec<u64>,
    /// The distributions.
    pub stages: Stages,
}

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// The page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Begins a family of p2pmap's own.
    pub fn family(&mut self, family: &str, kind: Kind, help: &str) {
        self.begin(PREFIX, family, kind, help);
    }

    /// Begins a family that every process has, under the name that it has everywhere.
    pub fn process_family(&mut self, family: &str, kind: Kind, help: &str) {
        self.begin("", family, kind, help);
    }

    /// Adds a sample of a family of p2pmap's own.
    pub fn sample(&mut self, family: &str, labels: &[(&str, &str)], value: u64, unit: Unit) {
        self.put(PREFIX, family, labels, &number(value, unit));
    }

    /// Adds the sample of a family that every process has.
    pub fn process_sample(&mut self, family: &str, value: u64, unit: Unit) {
        self.put("", family, &[], &number(value, unit));
    }

    /// Adds everything that the cores count and measure.
    pub fn cores(&mut self, cores: &[CoreReading]) {
        let rows = CoreMetrics::rows();
        for (place, row) in rows.iter().enumerate() {
            // Those that differ by a label stand next to each other in the table.
            if place == 0 || rows[place - 1].family != row.family {
                self.family(row.family, row.kind, &row.family_help());
                let alike = rows[place..].iter().take_while(|other| other.family == row.family);
                for core in cores {
                    for (offset, row) in alike.clone().enumerate() {
                        let own = ("core", core.core.as_str());
                        let labels = [Some(own), row.label];
                        let labels: Vec<_> = labels.into_iter().flatten().collect();
                        self.sample(row.family, &labels, core.values[place + offset], row.unit);
                    }
                }
            }
        }
        for stage in Stage::ALL {
            self.family(stage.family(), Kind::Histogram, &stage.help());
            for core in cores {
                self.histogram(*stage, ("core", &core.core), core.stages.of(*stage));
            }
        }
    }

    fn histogram(&mut self, stage: Stage, label: (&str, &str), histogram: &Histogram) {
        let (family, unit) = (stage.family(), stage.unit());
        let mut cumulative = 0;
        let mut buckets = histogram.buckets().peekable();
        let family_bucket = format!("{family}_bucket");
        for last in bounds_of(unit) {
            while let Some((_, count)) = buckets.next_if(|(bucket, _)| *bucket <= last) {
                cumulative += count;
            }
            let le = number(bound(last), unit);
            self.sample(&family_bucket, &[label, ("le", &le)], cumulative, Unit::One);
        }
        self.sample(&family_bucket, &[label, ("le", "+Inf")], histogram.count(), Unit::One);
        self.sample(&format!("{family}_sum"), &[label], histogram.sum(), unit);
        self.sample(&format!("{family}_count"), &[label], histogram.count(), Unit::One);
    }

    fn begin(&mut self, prefix: &str, family: &str, kind: Kind, help: &str) {
        let kind = kind.name();
        let help = escape(help, false);
        self.write(format_args!(
            "# HELP {prefix}{family} {help}\n# TYPE {prefix}{family} {kind}\n"
        ));
    }

    fn put(&mut self, prefix: &str, family: &str, labels: &[(&str, &str)], value: &str) {
        self.write(format_args!("{prefix}{family}"));
        for (place, (name, label)) in labels.iter().enumerate() {
            let opening = if place == 0 { '{' } else { ',' };
            self.write(format_args!("{opening}{name}=\"{}\"", escape(label, true)));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{closing} {value}\n"));
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text.write_fmt(arguments).expect("writing to a string never fails");
    }
}

/// The buckets that are shown of a histogram: their bounds are 1 and 1½ times a power of two, or a
/// power of two.
fn bounds_of(unit: Unit) -> Vec<usize> {
    // The bucket whose bound is 2 to so many bits: the last one of its octave.
    let power = |bits: usize| match bits {
        0..=3 => (1 << bits) - 1,
        bits => (bits - 3) * SUB_BUCKET_COUNT - 1,
    };
    match unit {
        Unit::One => (0..=COUNT_BOUND_BITS).map(power).collect(),
        Unit::Nanoseconds => {
            let halves = TIME_BOUND_BITS
                .flat_map(|bits| [0, SUB_BUCKET_COUNT / 2].map(|half| power(bits) + half));
            halves.filter(|bucket| *bucket < BUCKET_COUNT - 1).collect()
        }
    }
}

/// A number in its base unit.
fn number(value: u64, unit: Unit) -> String {
    match unit {
        Unit::One => value.to_string(),
        Unit::Nanoseconds => {
            const NS_PER_S: u64 = crate::base::time::NS_PER_S;
            let seconds = format!("{}.{:09}", value / NS_PER_S, value % NS_PER_S);
            seconds.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// Text as the format wants it: in a label's value quotes are escaped as well.
fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_bounds_are_bounds_of_buckets_and_ascend() {
        let times: Vec<u64> = bounds_of(Unit::Nanoseconds).into_iter().map(bound).collect();
        assert_eq!(times[..4], [1_024, 1_536, 2_048, 3_072]);
        assert_eq!(times[times.len() - 2..], [1 << 35, 3 << 34]);
        assert!(times.is_sorted_by(|a, b| a < b));
        let counts: Vec<u64> = bounds_of(Unit::One).into_iter().map(bound).collect();
        assert_eq!(counts, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn times_are_exact_seconds() {
        for (ns, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_024, "0.000001024"),
            (1_500_000_000, "1.5"),
            (30_000_000_000, "30"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(number(ns, Unit::Nanoseconds), text);
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Exposition::default();
        page.family("x_info", Kind::Gauge, "A\\b\nc \"d\".");
        page.sample("x_info", &[("a", "q\"\\\n"), ("b", "ä")], 1, Unit::One);
        let expected = "# HELP p2pmap_x_info A\\\\b\\nc \"d\".\n# TYPE p2pmap_x_info gauge\n\
                        p2pmap_x_info{a=\"q\\\"\\\\\\n\",b=\"ä\"} 1\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn histogram_is_cumulative_and_its_last_bucket_is_everything() {
        let mut stages = Stages::default();
        for ns in [0, 1_024, 1_025, 1_536, 3_000_000, u64::from(u32::MAX) * 100] {
            stages.of_mut(Stage::Turn).record(ns);
        }
        let values = vec![0; CoreMetrics::rows().len()];
        let mut page = Exposition::default();
        page.cores(&[CoreReading { core: "3".to_owned(), values, stages }]);
        let text = page.into_text();
        for line in [
            "p2pmap_turn_duration_seconds_bucket{core=\"3\",le=\"0.000001024\"} 2",
            "p2pmap_turn_duration_seconds_bucket{core=\"3\",le=\"0.000001536\"} 4",
            "p2pmap_turn_duration_seconds_bucket{core=\"3\",le=\"0.002097152\"} 4",
            "p2pmap_turn_duration_seconds_bucket{core=\"3\",le=\"0.003145728\"} 5",
            "p2pmap_turn_duration_seconds_bucket{core=\"3\",le=\"51.539607552\"} 5",
            "p2pmap_turn_duration_seconds_bucket{core=\"3\",le=\"+Inf\"} 6",
            "p2pmap_turn_duration_seconds_count{core=\"3\"} 6",
            "p2pmap_turn_duration_seconds_sum{core=\"3\"} 429.499733085",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
    }
}
