//! What all charts are made of: scales, axes, lines, and labels that don't cover each other.
//!
//! A chart is an inline SVG with a title and a description. Nothing in it depends on a colour: each
//! side has a dash pattern and a marker of its own, and its curve ends in its name.

use std::fmt::{self, Write as _};

use super::text::Escaped;
use crate::base::time::{NS_PER_MS, NS_PER_S, NS_PER_US};
use crate::bench::schedule::float;

/// All charts are as wide.
pub(super) const WIDTH: f64 = 760.0;
/// Between two labels, at least: the height of a line.
const LABEL_GAP: f64 = 14.0;

/// Where sides differ besides their colour: by their place among all. A dash pattern of the
/// curve, and a marker drawn around 0, 0.
const DASHES: [&str; super::SIDE_COUNT_MAX] = ["none", "7 4", "2 3", "10 3 2 3", "14 5", "1 5"];
const MARKERS: [&str; super::SIDE_COUNT_MAX] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.5L4.5 3.5H-4.5z",
    "M0 -5L5 0L0 5L-5 0z",
    "M-4 -4L4 4M4 -4L-4 4",
    "M-4.5 0H4.5M0 -4.5V4.5",
];

/// Maps values to places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    is_log: bool,
    /// The places of `from` and `to`.
    pub(super) begin: f64,
    pub(super) end: f64,
}

impl Scale {
    /// Equal ratios take equal room.
    pub(super) fn log((from, to): (f64, f64), (begin, end): (f64, f64)) -> Self {
        assert!(
            from > 0.0 && to > from,
            "a logarithmic scale goes from one value to a greater one"
        );
        Self { from, to, is_log: true, begin, end }
    }

    /// Equal differences take equal room.
    pub(super) fn linear((from, to): (f64, f64), (begin, end): (f64, f64)) -> Self {
        assert!(to > from, "a scale goes from one value to a greater one");
        Self { from, to, is_log: false, begin, end }
    }

    /// The place of a value; of one beyond the scale that of its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        let share = if self.is_log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.begin + share * (self.end - self.begin)
    }

    /// The values of a logarithmic scale that get a line and a label: powers of ten, and if there
    /// are few of them also twice and five times those.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let is_wide = self.to / self.from > 2_000.0;
        let steps: &[f64] = if is_wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut ticks = Vec::new();
        let mut power = 10_f64.powf(self.from.log10().floor());
        while power <= self.to {
            let of_power = steps.iter().map(|step| step * power);
            ticks.extend(of_power.filter(|tick| (self.from..=self.to).contains(tick)));
            power *= 10.0;
        }
        ticks
    }
}

/// An SVG while it is being written.
#[derive(Debug)]
pub(super) struct Chart {
    text: String,
}

impl Chart {
    /// Begins one. `id` is its own on the page; `title` and `about` are for those who don't see it.
    pub(super) fn new(id: &str, height: f64, title: &str, about: &str) -> Self {
        let mut chart = Self { text: String::new() };
        chart.add(format_args!(
            "<svg id=\"{id}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-about\">\n\
             <title id=\"{id}-title\">{}</title>\n<desc id=\"{id}-about\">{}</desc>\n",
            Escaped(title),
            Escaped(about)
        ));
        chart
    }

    /// Adds markup.
    pub(super) fn add(&mut self, markup: fmt::Arguments<'_>) {
        // Writing to a string doesn't fail.
        let _ = self.text.write_fmt(markup);
    }

    /// Ends it.
    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" \
             y2=\"{y2:.1}\"/>\n"
        ));
    }

    /// A word or two; the class says how it is aligned.
    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n",
            Escaped(text)
        ));
    }

    /// The horizontal lines of a latency axis, from `x.begin` to `x.end`, with their labels.
    pub(super) fn latency_axis(&mut self, x: &Scale, y: &Scale) {
        for tick in y.ticks() {
            let at = y.place(tick);
            self.line("grid", (x.begin, at), (x.end, at));
            self.text("tick left", (x.begin - 8.0, at + 4.0), &latency(tick));
        }
        self.line("axis", (x.begin, y.begin), (x.begin, y.end));
        self.line("axis", (x.begin, y.begin), (x.end, y.begin));
    }

    /// A curve of a side through these points; an empty one is left out.
    pub(super) fn curve(&mut self, side: usize, class: &str, points: &[(f64, f64)]) {
        if points.is_empty() {
            return;
        }
        let path = path(points);
        let dash = DASHES[side];
        self.add(format_args!(
            "<path class=\"curve side-{side} {class}\" data-side=\"{}\" \
             stroke-dasharray=\"{dash}\" d=\"{path}\"/>\n",
            super::letter(side)
        ));
    }

    /// A marker of a side.
    pub(super) fn marker(&mut self, side: usize, (x, y): (f64, f64)) {
        self.add(format_args!(
            "<path class=\"marker side-{side}\" transform=\"translate({x:.1} {y:.1})\" \
             d=\"{}\"/>\n",
            MARKERS[side]
        ));
    }

    /// Labels at the right of `x`, as near to their places as they can be without covering each
    /// other, between `y.end` and `y.begin`.
    pub(super) fn labels(&mut self, x: f64, y: &Scale, mut labels: Vec<Label>) {
        labels.sort_by(|a, b| a.at.total_cmp(&b.at));
        let wanted: Vec<f64> = labels.iter().map(|label| label.at).collect();
        for (label, at) in labels.iter().zip(spread(&wanted, LABEL_GAP, (y.end, y.begin))) {
            self.line("leader", (x, label.at), (x + 8.0, at));
            let class = label.side.map_or("mark".to_owned(), |side| format!("label side-{side}"));
            self.text(&class, (x + 11.0, at + 4.0), &label.text);
        }
    }
}

/// A name at the end of a curve.
#[derive(Clone, Debug)]
pub(super) struct Label {
    /// Where it should be.
    pub(super) at: f64,
    /// Whose it is.
    pub(super) side: Option<usize>,
    pub(super) text: String,
}

/// A sample of a side's curve for the legend.
pub(super) fn swatch(side: usize) -> String {
    let (dash, marker) = (DASHES[side], MARKERS[side]);
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 48 14\" aria-hidden=\"true\">\
         <path class=\"stroke side-{side}\" stroke-dasharray=\"{dash}\" d=\"M0 7H48\"/>\
         <path class=\"marker side-{side}\" transform=\"translate(24 7)\" d=\"{marker}\"/></svg>"
    )
}

/// A path through points.
pub(super) fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (place, (x, y)) in points.iter().enumerate() {
        let command = if place == 0 { "M" } else { "L" };
        // Writing to a string doesn't fail.
        let _ = write!(path, "{command}{x:.1} {y:.1}");
    }
    path
}

/// Moves sorted places apart until no two are nearer than `gap`, and within bounds if there is
/// room.
fn spread(wanted: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut at_least = low;
    for place in &mut places {
        *place = place.max(at_least);
        at_least = *place + gap;
    }
    let mut at_most = high;
    for place in places.iter_mut().rev() {
        *place = place.min(at_most);
        at_most = *place - gap;
    }
    places
}

/// A latency in the unit that makes it short.
pub(super) fn latency(ns: f64) -> String {
    let (size, unit) = [(NS_PER_S, "s"), (NS_PER_MS, "ms"), (NS_PER_US, "µs")]
        .into_iter()
        .find(|(size, _)| ns >= float(*size))
        .unwrap_or((1, "ns"));
    let value = ns / float(size);
    let text = match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let short =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_give_equal_ratios_or_differences_equal_room() {
        let log = Scale::log((10.0, 1_000.0), (100.0, 0.0));
        assert!((log.place(100.0) - 50.0).abs() < 1e-9);
        assert!((log.place(1.0) - 100.0).abs() < 1e-9, "beyond the scale is at its end");
        assert_eq!(log.ticks(), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0]);
        assert_eq!(Scale::log((50.0, 2e6), (0.0, 1.0)).ticks(), [1e2, 1e3, 1e4, 1e5, 1e6]);
        assert!((Scale::linear((0.0, 4.0), (10.0, 20.0)).place(1.0) - 12.5).abs() < 1e-9);
    }

    #[test]
    fn labels_keep_their_distance_and_stay_within_the_chart() {
        let places = spread(&[5.0, 6.0, 50.0, 99.0, 99.5], 10.0, (0.0, 100.0));
        assert_eq!(places, [5.0, 15.0, 50.0, 90.0, 100.0]);
        assert_eq!(spread(&[], 10.0, (0.0, 1.0)), Vec::<f64>::new());
    }

    #[test]
    fn latencies_are_told_in_the_unit_that_makes_them_short() {
        for (ns, text) in [
            (7.0, "7 ns"),
            (500.0, "500 ns"),
            (1_000.0, "1 µs"),
            (96_340.0, "96.3 µs"),
            (2_000_000.0, "2 ms"),
            (1_234_000_000.0, "1.23 s"),
            (100_000.0, "100 µs"),
        ] {
            assert_eq!(latency(ns), text);
        }
    }
}
