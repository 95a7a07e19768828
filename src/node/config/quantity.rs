//! Durations and sizes as people write them: a whole number and its unit, `50us`, `64MiB`.
//!
//! Strict on purpose: a number without a unit is refused rather than guessed, and so are `MB` (is
//! it 10⁶ or 2²⁰?), fractions, signs and spaces. What is printed parses to the same value.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

const SIZE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A duration such as `50us`, `5s`; none if `text` isn't one of at most 584 years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATION_UNITS).map(Duration::from_nanos)
}

/// A size in bytes such as `4096B`, `64MiB`; none if `text` isn't one that fits 64 bits.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS)
}

/// The duration in its largest unit without a fraction.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

/// The size in its largest unit without a fraction.
#[must_use]
pub fn format_size(size_bytes: u64) -> String {
    format(size_bytes, &SIZE_UNITS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn format(value: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor) && value > 0);
    let (unit, factor) = whole.unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_a_number_and_its_unit() {
        assert_eq!(parse_duration("50us"), Some(Duration::from_micros(50)));
        assert_eq!(parse_duration("0ms"), Some(Duration::ZERO));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("1B"), Some(1));
    }

    #[test]
    fn what_could_be_misread_is_refused() {
        let ambiguous = ["", "5", "us", "5 us", "+5us", "-5us", "1.5s", "5S", "5sec", "5µs", "s5"];
        for text in ambiguous {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        for text in ["64", "64M", "64MB", "64mib", "64 MiB", "64Mib", "0x40B", "MiB"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_overflows_is_refused_rather_than_wrapped() {
        assert_eq!(parse_size("16777215TiB"), Some(16_777_215 << 40));
        assert_eq!(parse_size("16777216TiB"), None);
        assert_eq!(parse_size("18446744073709551616B"), None);
        assert_eq!(parse_duration("18446744073s"), Some(Duration::from_secs(18_446_744_073)));
        assert_eq!(parse_duration("18446744074s"), None);
    }

    #[test]
    fn what_is_printed_parses_to_the_same() {
        for size in [0, 1, 1_023, 1_024, 1_536, 64 << 20, (1 << 20) + 1, u64::MAX] {
            assert_eq!(parse_size(&format_size(size)), Some(size));
        }
        for ns in [0, 1, 999, 50_000, 1_500_000, 60_000_000_000, 61_000_000_000, u64::MAX] {
            let duration = Duration::from_nanos(ns);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        assert_eq!(format_duration(Duration::from_micros(50)), "50us");
        assert_eq!(format_size(64 << 20), "64MiB");
    }
}
