//! The charts of a scenario: percentile curves, latencies over time, histograms side by side, and
//! the interval of a ratio.

use super::chart::{Chart, Label, Scale, WIDTH, latency, path};
use super::{SideOfScenario, letter};
use crate::base::cast::u64_from;
use crate::bench::compare::distribution::{Moment, RoundLatencies, supports};
use crate::bench::report::PERCENTILES;
use crate::bench::results::ladder;
use crate::bench::schedule::{float, whole};

/// Room for what stands left, right, above and below a chart's plot.
const LEFT: f64 = 70.0;
const LABEL_MARGIN: f64 = 14.0;
const LETTER_WIDTH: f64 = 8.2;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 46.0;
/// Heights of plots.
const CURVES_HEIGHT: f64 = 320.0;
const PANEL_HEIGHT: f64 = 104.0;
const HISTOGRAM_HEIGHT: f64 = 320.0;
/// Room for the percentiles beside a histogram.
const MARKS_WIDTH: f64 = 118.0;
/// Bins of a histogram for each power of ten.
const BINS_PER_DECADE: f64 = 24.0;
/// Up to so many points a line over time gets a marker at each.
const MARKED_POINTS_MAX: usize = 120;

/// The right end of a plot: beyond it are the names of sides.
fn plot_end(sides: &[SideOfScenario<'_>]) -> f64 {
    let letters = sides.iter().map(|side| side.label.chars().count()).max().unwrap_or(0);
    WIDTH - LABEL_MARGIN - LETTER_WIDTH * float(u64_from(letters))
}

/// How many nines a share has: 0.9 has one, 0.999 three.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// The least and the greatest latency of all sides, with some room around them.
fn latency_range(sides: &[SideOfScenario<'_>]) -> (f64, f64) {
    let filled = || sides.iter().filter(|side| !side.distribution.all.is_empty());
    let least = filled().map(|side| side.distribution.all.min_nz()).min().unwrap_or(1_000);
    let greatest = filled().map(|side| side.distribution.all.max()).max().unwrap_or(1_000_000);
    (float(least) * 0.9, float(greatest.max(least + 1)) * 1.1)
}

/// Latency at each percentile, on an axis on which each nine takes as much room as the one before.
pub(super) fn percentile_curves(id: &str, scenario: &str, sides: &[SideOfScenario<'_>]) -> String {
    let greatest_count = sides.iter().map(|side| side.distribution.all.len()).max().unwrap_or(0);
    let nines_max = float(greatest_count.max(10)).log10();
    let (right, bottom) = (plot_end(sides), TOP + CURVES_HEIGHT);
    let x = Scale::linear((0.0, nines_max), (LEFT, right));
    let y = Scale::log(latency_range(sides), (bottom, TOP));
    let title = format!("{scenario}: latency at each percentile");
    let mut chart = Chart::new(id, bottom + BOTTOM, &title, &curves_in_words(sides));
    chart.latency_axis(&x, &y);
    for (share, name) in nines_ticks(nines_max) {
        let at = x.place(nines(share));
        chart.line("grid", (at, TOP), (at, bottom));
        chart.text("tick middle", (at, bottom + 18.0), &name);
    }
    chart.text("axis-title middle", (LEFT.midpoint(right), bottom + 38.0), "percentile");
    chart.text("axis-title", (4.0, 14.0), "latency, logarithmic");
    for side in sides.iter().filter(|side| side.distribution.rounds.len() > 1) {
        chart.add(format_args!(
            "<path class=\"band side-{}\" d=\"{}Z\"/>\n",
            side.index,
            path(&band(side, &x, &y))
        ));
    }
    let mut labels = Vec::new();
    for side in sides.iter().filter(|side| !side.distribution.all.is_empty()) {
        let end = percentile_curve(&mut chart, side, &x, &y);
        labels.push(Label { at: end, side: Some(side.index), text: side.label.clone() });
    }
    chart.labels(right, &y, labels);
    chart.finish()
}

/// Shares that get a label: 50 %, 90 %, and a nine more each time.
fn nines_ticks(nines_max: f64) -> Vec<(f64, String)> {
    let mut ticks = vec![(0.5, "50 %".to_owned())];
    let mut count: usize = 1;
    while float(u64_from(count)) <= nines_max {
        let share = 1.0 - 0.1_f64.powf(float(u64_from(count)));
        ticks.push((share, format!("{:.*} %", count.saturating_sub(2), share * 100.0)));
        count += 1;
    }
    ticks
}

/// One side's curve; returns where it ends. Its last part, which fewer than ten requests speak
/// for, is drawn thinner.
fn percentile_curve(chart: &mut Chart, side: &SideOfScenario<'_>, x: &Scale, y: &Scale) -> f64 {
    let all = &side.distribution.all;
    let count = all.len();
    let point = |share: f64| {
        let value = if share > 0.0 { all.value_at_quantile(share) } else { all.min_nz() };
        (x.place(nines(share)), y.place(float(value)))
    };
    let shares = ladder();
    let strong: Vec<f64> = shares.iter().copied().filter(|share| supports(count, *share)).collect();
    let points: Vec<(f64, f64)> = strong.iter().map(|share| point(*share)).collect();
    chart.curve(side.index, "strong", &points);
    let last = 1.0 - 1.0 / float(count);
    let is_weak = |share: &f64| !supports(count, *share) && *share < last;
    let mut tail: Vec<(f64, f64)> = points.last().copied().into_iter().collect();
    tail.extend(shares.iter().copied().filter(is_weak).map(point));
    let end = (x.place(float(count).log10()), y.place(float(all.max())));
    tail.push(end);
    chart.curve(side.index, "weak", &tail);
    let marked = PERCENTILES.iter().filter(|(_, share)| supports(count, *share));
    for (_, share) in marked {
        chart.marker(side.index, point(*share));
    }
    end.1
}

/// The outline of what lies between the fastest and the slowest round at each percentile that every
/// round supports.
fn band(side: &SideOfScenario<'_>, x: &Scale, y: &Scale) -> Vec<(f64, f64)> {
    let rounds: Vec<&RoundLatencies> = side.distribution.rounds.values().collect();
    let least_count = rounds.iter().map(|round| round.count).min().unwrap_or(0);
    let (mut fastest, mut slowest) = (Vec::new(), Vec::new());
    for (place, share) in ladder().into_iter().enumerate() {
        if !supports(least_count, share) {
            break;
        }
        let values = || rounds.iter().map(|round| round.at_ladder_ns[place].max(1));
        let at = x.place(nines(share));
        fastest.push((at, y.place(float(values().min().unwrap_or(1)))));
        slowest.push((at, y.place(float(values().max().unwrap_or(1)))));
    }
    slowest.reverse();
    [fastest, slowest].concat()
}

fn curves_in_words(sides: &[SideOfScenario<'_>]) -> String {
    let of_side = |side: &SideOfScenario<'_>| {
        let all = &side.distribution.all;
        let at = |share| latency(float(all.value_at_quantile(share)));
        format!(
            "{}: half of {} requests within {}, 99 % within {}, 99.9 % within {}, all within {}.",
            letter(side.index),
            all.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            latency(float(all.max()))
        )
    };
    sides.iter().map(of_side).collect::<Vec<_>>().join(" ")
}

/// p50, p99 and the greatest latency of each second, one round after the other.
pub(super) fn over_time(id: &str, scenario: &str, sides: &[SideOfScenario<'_>]) -> String {
    let panels: [(&str, ValueOf); 3] = [
        ("greatest", |moment| moment.max_ns),
        ("p99", |moment| moment.p99_ns),
        ("p50", |moment| moment.p50_ns),
    ];
    let rounds = || sides.iter().flat_map(|side| &side.distribution.rounds);
    let length = rounds()
        .flat_map(|(_, round)| &round.moments)
        .map(|moment| moment.second + 1)
        .max()
        .unwrap_or(1);
    let mut numbers: Vec<u32> = rounds().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let right = plot_end(sides);
    let total = float(length) * float(u64_from(numbers.len().max(1)));
    let x = Scale::linear((0.0, total), (LEFT, right));
    let height = PANEL_HEIGHT + TOP + 8.0;
    let title = format!("{scenario}: latency in each second");
    let about = "The greatest latency, p99 and p50 of each second of each round, for each side.";
    let mut chart = Chart::new(id, height * 3.0 + BOTTOM, &title, about);
    let mut top = TOP;
    for (name, value) in panels {
        let timeline = Timeline { x, length, numbers: &numbers, value };
        timeline.panel(&mut chart, name, top, sides);
        top += height;
    }
    let bottom = top - TOP - 8.0;
    timeline_axis(&mut chart, &x, bottom, length, &numbers);
    chart.finish()
}

/// What is drawn of a second.
type ValueOf = fn(&Moment) -> u64;

/// Where moments lie on the axis of time.
struct Timeline<'a> {
    x: Scale,
    /// Seconds of the longest round.
    length: u64,
    /// The rounds.
    numbers: &'a [u32],
    value: ValueOf,
}

impl Timeline<'_> {
    fn panel(&self, chart: &mut Chart, name: &str, top: f64, sides: &[SideOfScenario<'_>]) {
        let values = || {
            let rounds = sides.iter().flat_map(|side| side.distribution.rounds.values());
            rounds.flat_map(|round| &round.moments).map(self.value)
        };
        let least = float(values().min().unwrap_or(1_000).max(1));
        let greatest = float(values().max().unwrap_or(1_000_000));
        // A line that hardly moves shall look so: at least a factor of three from end to end.
        let middle = (least * greatest).sqrt();
        let range = (least.min(middle / 1.8) * 0.9, greatest.max(middle * 1.8) * 1.1);
        let y = Scale::log(range, (top + PANEL_HEIGHT, top));
        chart.latency_axis(&self.x, &y);
        chart.text("axis-title", (4.0, top - 8.0), name);
        let mut labels = Vec::new();
        for side in sides {
            let mut last = None;
            for (place, number) in self.numbers.iter().enumerate() {
                let Some(round) = side.distribution.rounds.get(number) else { continue };
                let points = self.points(&y, place, round);
                let all_count = self.numbers.len() * round.moments.len();
                chart.curve(side.index, "time", &points);
                if all_count <= MARKED_POINTS_MAX {
                    points.iter().for_each(|point| chart.marker(side.index, *point));
                }
                last = points.last().copied().or(last);
            }
            if let Some((_, at)) = last {
                labels.push(Label { at, side: Some(side.index), text: side.label.clone() });
            }
        }
        chart.labels(self.x.end, &y, labels);
    }

    fn points(&self, y: &Scale, place: usize, round: &RoundLatencies) -> Vec<(f64, f64)> {
        let before = float(u64_from(place) * self.length);
        let point = |moment: &Moment| {
            let at = before + float(moment.second) + 0.5;
            (self.x.place(at), y.place(float((self.value)(moment))))
        };
        round.moments.iter().map(point).collect()
    }
}

/// Seconds of one round, or the numbers of several.
fn timeline_axis(chart: &mut Chart, x: &Scale, bottom: f64, length: u64, numbers: &[u32]) {
    let middle = x.begin.midpoint(x.end);
    if let [_] = numbers {
        let step = (length.div_ceil(10)).max(1);
        for second in (0..=length).step_by(crate::base::cast::usize_from(step)) {
            let at = x.place(float(second));
            chart.text("tick middle", (at, bottom + 18.0), &second.to_string());
        }
        chart.text("axis-title middle", (middle, bottom + 38.0), "seconds since the start");
        return;
    }
    let names_every = numbers.len().div_ceil(20);
    for (place, number) in numbers.iter().enumerate() {
        let begin = float(u64_from(place) * length);
        if place > 0 {
            let at = x.place(begin);
            chart.line("between", (at, TOP), (at, bottom));
        }
        if place % names_every == 0 {
            let at = x.place(begin + float(length) / 2.0);
            chart.text("tick middle", (at, bottom + 18.0), &number.to_string());
        }
    }
    let about = format!("round, each of {length} s; one point for each second");
    chart.text("axis-title middle", (middle, bottom + 38.0), &about);
}

/// How many requests took how long: a column for each side, latency upwards on a common axis.
pub(super) fn histograms(id: &str, scenario: &str, sides: &[SideOfScenario<'_>]) -> String {
    let (right, bottom) = (WIDTH - 10.0, TOP + 18.0 + HISTOGRAM_HEIGHT);
    let x = Scale::linear((0.0, float(u64_from(sides.len().max(1)))), (LEFT, right));
    let range = latency_range(sides);
    let y = Scale::log(range, (bottom, TOP + 18.0));
    let title = format!("{scenario}: how many requests took how long");
    let about = curves_in_words(sides);
    let mut chart = Chart::new(id, bottom + BOTTOM - 16.0, &title, &about);
    chart.latency_axis(&x, &y);
    chart.text("axis-title", (4.0, 14.0), "latency, logarithmic");
    let bins: Vec<Vec<Bin>> = sides.iter().map(|side| bins(side, range)).collect();
    let greatest = bins.iter().flatten().map(|bin| bin.share).fold(f64::MIN_POSITIVE, f64::max);
    for (place, (side, bins)) in sides.iter().zip(&bins).enumerate() {
        let place = float(u64_from(place));
        let (begin, end) = (x.place(place), x.place(place + 1.0));
        // A part of the column is for the labels.
        let length = Scale::linear((0.0, greatest), (begin, end - MARKS_WIDTH));
        for bin in bins.iter().filter(|bin| bin.share > 0.0) {
            let (low, high) = (y.place(bin.from), y.place(bin.to));
            // A single request must be seen.
            let width = (length.place(bin.share) - begin).max(1.0);
            chart.add(format_args!(
                "<rect class=\"bar side-{}\" x=\"{begin:.1}\" y=\"{high:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\"><title>{} to {}: {:.3} %</title></rect>\n",
                side.index,
                (low - high - 0.5).max(0.5),
                latency(bin.from),
                latency(bin.to),
                bin.share * 100.0
            ));
        }
        chart.line("axis", (begin, bottom), (begin, TOP + 18.0));
        chart.text(&format!("label side-{}", side.index), (begin + 4.0, TOP + 10.0), &side.label);
        chart.labels(end - MARKS_WIDTH + 2.0, &y, percentile_labels(side, &y));
    }
    let share = format!("share of requests; the longest bar is {:.1} %", greatest * 100.0);
    chart.text("axis-title middle", (LEFT.midpoint(right), bottom + 22.0), &share);
    chart.finish()
}

fn percentile_labels(side: &SideOfScenario<'_>, y: &Scale) -> Vec<Label> {
    let all = &side.distribution.all;
    let supported = PERCENTILES.iter().filter(|(_, share)| supports(all.len(), *share));
    // From the top: of labels for the same place the first one stands highest.
    let values = supported.map(|(name, share)| (*name, all.value_at_quantile(*share)));
    let mut values: Vec<_> = values.chain([("max", all.max())]).collect();
    values.reverse();
    values
        .into_iter()
        .map(|(name, value)| {
            let value = float(value);
            let text = format!("{name} {}", latency(value));
            Label { at: y.place(value), side: None, text }
        })
        .collect()
}

/// A part of a histogram.
struct Bin {
    from: f64,
    to: f64,
    share: f64,
}

fn bins(side: &SideOfScenario<'_>, (least, greatest): (f64, f64)) -> Vec<Bin> {
    let all = &side.distribution.all;
    let count = whole(((greatest / least).log10() * BINS_PER_DECADE).ceil()).max(1);
    let edge = |place: u64| least * (greatest / least).powf(float(place) / float(count));
    let mut bins: Vec<Bin> = (0..count)
        .map(|place| Bin { from: edge(place), to: edge(place + 1), share: 0.0 })
        .collect();
    for value in all.iter_recorded() {
        let at = float(value.value_iterated_to());
        let place = bins.partition_point(|bin| bin.to < at).min(bins.len() - 1);
        bins[place].share += float(value.count_at_value()) / float(all.len());
    }
    bins
}

/// A ratio with its interval, between half and double; the line in the middle is no change. An end
/// beyond that is an arrow.
pub(super) fn interval(ratio: f64, interval: Option<(f64, f64)>) -> String {
    let scale = Scale::log((0.5, 2.0), (4.0, 116.0));
    let mut text = String::from(
        "<svg class=\"interval\" viewBox=\"0 0 120 16\" aria-hidden=\"true\">\
         <path class=\"none\" d=\"M60 0V16\"/>",
    );
    let end = |ratio: f64| {
        let at = scale.place(ratio);
        match ratio {
            ..0.5 => format!("M{:.1} 4L{at:.1} 8L{:.1} 12", at + 4.0, at + 4.0),
            2.0.. => format!("M{:.1} 4L{at:.1} 8L{:.1} 12", at - 4.0, at - 4.0),
            _ => format!("M{at:.1} 4V12"),
        }
    };
    if let Some((low, high)) = interval {
        let line = format!("M{:.1} 8H{:.1}", scale.place(low), scale.place(high));
        text += &format!("<path class=\"whisker\" d=\"{line}{}{}\"/>", end(low), end(high));
    }
    let at = scale.place(ratio);
    text + &format!("<circle cx=\"{at:.1}\" cy=\"8\" r=\"3\"/></svg>")
}
