//! Words of the page: text that can't be taken for markup, and verdicts as sentences.

use std::fmt;

use super::chart::latency;
use super::letter;
use crate::bench::compare::judge::{Judged, Thresholds, Unit, Verdict};

/// Text as it may stand in HTML, also in attributes.
#[derive(Debug)]
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            let (before, special) = rest.split_at(at);
            f.write_str(before)?;
            let (special, after) = special.split_at(1);
            f.write_str(match special {
                "&" => "&amp;",
                "<" => "&lt;",
                ">" => "&gt;",
                "\"" => "&quot;",
                _ => "&#39;",
            })?;
            rest = after;
        }
        f.write_str(rest)
    }
}

/// A figure of a metric.
pub(super) fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => latency(value),
        Unit::PerSecond => format!("{}/s", grouped(value)),
    }
}

/// A whole number with its thousands apart.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// By how much the second side is off, as in `10.3 % more latency`.
pub(super) fn change(judged: &Judged) -> String {
    let percent = (judged.ratio - 1.0) * 100.0;
    let word = if percent < 0.0 { "less" } else { "more" };
    let of = match judged.unit {
        Unit::Nanoseconds => "latency",
        Unit::PerSecond => "throughput",
    };
    format!("{:.1} % {word} {of}", percent.abs())
}

/// A verdict: a sign, and what it means.
pub(super) fn verdict(
    judged: &Judged,
    side: usize,
    thresholds: &Thresholds,
) -> (&'static str, String) {
    let side = letter(side);
    match judged.verdict {
        Verdict::Slower => ("▼", format!("{side} is slower: {}", change(judged))),
        Verdict::Faster => ("▲", format!("{side} is faster: {}", change(judged))),
        Verdict::Same => {
            let Thresholds { percent, floor_ns } = thresholds;
            let floor = match judged.unit {
                Unit::Nanoseconds => format!(" or {}", latency(*floor_ns)),
                Unit::PerSecond => String::new(),
            };
            ("=", format!("the same: the whole interval is within {percent} %{floor}"))
        }
        Verdict::Inconclusive { more_rounds: Some(1) } => {
            ("?", "can’t be told yet: about 1 more round would do".to_owned())
        }
        Verdict::Inconclusive { more_rounds: Some(count) } => {
            ("?", format!("can’t be told yet: about {count} more rounds would do"))
        }
        Verdict::Inconclusive { more_rounds: None } => {
            ("?", "can’t be told, nor would a hundred more rounds do".to_owned())
        }
        Verdict::Unsupported => {
            ("·", "not judged: fewer than ten requests of a round lie beyond it".to_owned())
        }
        Verdict::NotJudged => ("·", "not judged: for information".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_taken_for_markup() {
        let text = Escaped("<script>\"a\" & 'b'</script>µ").to_string();
        assert_eq!(text, "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;µ");
    }

    #[test]
    fn thousands_stand_apart() {
        for (value, text) in [(0.0, "0"), (999.4, "999"), (1e3, "1 000"), (1234567.0, "1 234 567")]
        {
            assert_eq!(grouped(value).replace('\u{202f}', " "), text);
        }
    }

    #[test]
    fn verdicts_say_which_side_and_how_much() {
        let judged = |unit, ratio, verdict| Judged {
            name: "p50".to_owned(),
            unit,
            a: 1e5,
            b: 1e5 * ratio,
            ratio,
            interval: None,
            p: 0.01,
            verdict,
        };
        let text = |judged: &Judged| verdict(judged, 2, &Thresholds::default()).1;
        let slower = judged(Unit::Nanoseconds, 1.103, Verdict::Slower);
        assert_eq!(text(&slower), "C is slower: 10.3 % more latency");
        let slower = judged(Unit::PerSecond, 0.9, Verdict::Slower);
        assert_eq!(text(&slower), "C is slower: 10.0 % less throughput");
        let same = judged(Unit::Nanoseconds, 1.0, Verdict::Same);
        assert!(text(&same).ends_with("within 3 % or 300 ns"));
        let unknown = Verdict::Inconclusive { more_rounds: Some(4) };
        assert!(text(&judged(Unit::PerSecond, 1.0, unknown)).contains("4 more rounds"));
    }
}
