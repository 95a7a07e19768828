//! Pages of made-up results, read back: are the curves those of the data?

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::bench::compare::compare;
use crate::bench::compare::tests::{options, run};
use crate::bench::report::PERCENTILES;
use crate::bench::schedule::float;

/// Two sides of eight rounds; the second is slower by 10 %.
fn sides(below: &Path) -> Vec<RunFolder> {
    vec![run(below, "aaaa", 8, 100, "1000"), run(below, "bbbb", 8, 110, "1000")]
}

fn page(sides: &[RunFolder]) -> String {
    let others = sides.iter().skip(1);
    let compared: Vec<Comparison> =
        others.map(|other| compare(&sides[0], other, &options()).expect("they compare")).collect();
    Page::read(sides, &compared).expect("all logs are there").to_string()
}

/// The chart with this id.
fn chart<'a>(page: &'a str, id: &str) -> &'a str {
    let begin = page.find(&format!("<svg id=\"{id}\"")).expect("the chart is there");
    let length = page[begin..].find("</svg>").expect("it ends");
    &page[begin..begin + length]
}

/// All elements of a chart that begin so.
fn elements<'a>(chart: &'a str, begin: &'a str) -> impl Iterator<Item = &'a str> {
    chart.lines().filter(move |line| line.starts_with(begin))
}

fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let (_, rest) = element.split_once(&format!(" {name}=\"")).expect("the attribute is there");
    rest.split_once('"').expect("it ends").0
}

fn number(element: &str, name: &str) -> f64 {
    attribute(element, name).parse().expect("a number")
}

/// The points of a path of straight lines.
fn points(path: &str) -> Vec<(f64, f64)> {
    let parts = attribute(path, "d").split(['M', 'L']).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (x, y) = part.split_once(' ').expect("two numbers");
            (x.parse().expect("a number"), y.parse().expect("a number"))
        })
        .collect()
}

fn curves<'a>(chart: &'a str, side: char, class: &str) -> Vec<&'a str> {
    let is_it = |path: &&str| {
        attribute(path, "data-side").starts_with(side) && attribute(path, "class").ends_with(class)
    };
    elements(chart, "<path class=\"curve").filter(is_it).collect()
}

/// The text of a tick's label, and where it stands.
fn ticks(chart: &str, class: &str, place: &str) -> Vec<(String, f64)> {
    let begin = format!("<text class=\"tick {class}\"");
    let found = chart.lines().filter(|line| line.starts_with(&begin)).map(|line| {
        let text = line.split_once('>').and_then(|(_, rest)| rest.split_once('<'));
        (text.expect("text").0.to_owned(), number(line, place))
    });
    found.collect()
}

/// Reads the latency axis of a chart as a person does: from two of its labels.
fn latency_at(chart: &str, y: f64) -> f64 {
    let ns = |text: &str| {
        let (value, unit) = text.split_once(' ').expect("a value and its unit");
        let unit = match unit {
            "ns" => 1.0,
            "µs" => 1e3,
            "ms" => 1e6,
            _ => 1e9,
        };
        value.parse::<f64>().expect("a number") * unit
    };
    let ticks = ticks(chart, "left", "y");
    let (first, last) = (&ticks[0], &ticks[ticks.len() - 1]);
    assert_ne!(first, last, "two labels make an axis");
    let share = (y + 4.0 - first.1) / (last.1 - first.1);
    (ns(&first.0).ln() + share * (ns(&last.0) / ns(&first.0)).ln()).exp()
}

#[test]
fn percentile_curves_pass_through_the_percentiles_of_the_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let sides = sides(folder.path());
    let page = page(&sides);
    let chart = chart(&page, "curves-0");
    let shares = ticks(chart, "middle", "x");
    for (side, letter) in sides.iter().zip(['A', 'B']) {
        let read = Distribution::read(&side.scenarios["get-1"]).expect("all logs are there");
        assert_eq!(read.all.len(), 8 * 20_000);
        let strong = curves(chart, letter, "strong");
        assert_eq!(strong.len(), 1);
        let on_curve = points(strong[0]);
        assert!(on_curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 >= b.1), "{on_curve:?}");
        for (name, share) in PERCENTILES {
            let label = format!("{} %", name.trim_start_matches('p'));
            let (_, x) = shares.iter().find(|(text, _)| *text == label).expect("a tick");
            let nearest =
                on_curve.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs()));
            let (_, y) = nearest.expect("there are points");
            let (drawn, is) = (latency_at(chart, *y), float(read.all.value_at_quantile(share)));
            assert!((drawn / is - 1.0).abs() < 0.01, "{letter} {name}: {drawn} ns, not {is} ns");
        }
        let tail = curves(chart, letter, "weak");
        let end = points(tail[0]).last().map(|(_, y)| latency_at(chart, *y));
        let greatest = float(read.all.max());
        assert!(end.is_some_and(|end| (end / greatest - 1.0).abs() < 0.01), "{end:?}");
    }
}

#[test]
fn each_second_of_each_round_has_its_point_and_each_side_a_dash_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = page(&sides(folder.path()));
    let time = chart(&page, "time-0");
    for letter in ['A', 'B'] {
        // Three panels of eight rounds of one second.
        let drawn: usize =
            curves(time, letter, "time").into_iter().map(|curve| points(curve).len()).sum();
        assert_eq!(drawn, 3 * 8);
    }
    for id in ["curves-0", "time-0"] {
        let chart = chart(&page, id);
        let dashes: BTreeSet<(&str, &str)> = elements(chart, "<path class=\"curve")
            .map(|path| (attribute(path, "data-side"), attribute(path, "stroke-dasharray")))
            .collect();
        assert_eq!(dashes.into_iter().collect::<Vec<_>>(), [("A", "none"), ("B", "7 4")]);
        for label in ["A aaaa", "B bbbb"] {
            assert!(chart.contains(&format!(">{label}</text>")), "{label} isn't named in {id}");
        }
    }
}

#[test]
fn bars_of_a_histogram_are_all_requests() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = page(&sides(folder.path()));
    let chart = chart(&page, "histograms-0");
    for side in 0..2 {
        let begin = format!("<rect class=\"bar side-{side}\"");
        let share = |bar: &str| {
            let (_, rest) = bar.split_once(": ").expect("a share");
            rest.split_once(" %").expect("in percent").0.parse::<f64>().expect("a number")
        };
        let bars: Vec<&str> = chart.lines().filter(|line| line.starts_with(&begin)).collect();
        let sum: f64 = bars.iter().map(|bar| share(bar)).sum();
        assert!((sum - 100.0).abs() < 0.1, "{sum}");
        let widest = bars.iter().max_by(|a, b| number(a, "width").total_cmp(&number(b, "width")));
        let greatest = bars.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
        assert_eq!(widest, greatest);
    }
}

#[test]
fn verdicts_and_differences_are_told_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sides = sides(folder.path());
    let text = page(&sides);
    for part in ["B is slower than A.", "B is slower: ", "% more latency", "bbbb against aaaa"] {
        assert!(text.contains(part), "{part} is missing");
    }
    assert!(!text.contains("Not measured under the same conditions"));
    sides[1].environment.kernel = "7.0 <new>".to_owned();
    let allowed = crate::bench::compare::CompareOptions { allow_different: true, ..options() };
    let compared = [compare(&sides[0], &sides[1], &allowed).expect("allowed")];
    let text = Page::read(&sides, &compared).expect("read").to_string();
    assert!(text.contains("Not measured under the same conditions"));
    assert!(text.contains("<th scope=\"row\">kernel ≠</th>"));
    assert!(text.contains("7.0 &lt;new&gt;") && !text.contains("<new>"));
}

#[test]
fn page_needs_nothing_else_and_its_elements_are_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = page(&sides(folder.path()));
    for outside in ["http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!text.contains(outside), "{outside} leads out of the page");
    }
    let mut open = Vec::new();
    let body = text.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
    for tag in body.expect("a body").1.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.split_whitespace().next().expect("a tag has a name");
        match name.strip_prefix('/') {
            Some("head" | "html") => {}
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    let ids: Vec<&str> = text.split(" id=\"").skip(1).filter_map(|r| r.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is its own: {ids:?}");
    let named = text.split("aria-labelledby=\"").skip(1).filter_map(|rest| rest.split('"').next());
    for id in named.flat_map(str::split_whitespace) {
        assert!(ids.contains(&id), "{id} names nothing");
    }
}

#[test]
fn same_results_make_the_same_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let sides = sides(folder.path());
    assert_eq!(page(&sides), page(&sides));
}

#[test]
fn six_sides_have_a_place_and_seven_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let all: Vec<RunFolder> =
        (0..).zip(names).map(|(at, name)| run(folder.path(), name, 1, 100 + at, "1000")).collect();
    let text = page(&all[..SIDE_COUNT_MAX]);
    let drawn = elements(chart(&text, "curves-0"), "<path class=\"curve")
        .map(|path| attribute(path, "stroke-dasharray"))
        .collect::<BTreeSet<_>>();
    assert_eq!(drawn.len(), SIDE_COUNT_MAX);
    assert!(text.contains("nothing can be judged"));
    let compared: Vec<Comparison> = all[1..]
        .iter()
        .map(|other| compare(&all[0], other, &options()).expect("they compare"))
        .collect();
    let error = Page::read(&all, &compared).expect_err("too many").to_string();
    assert!(error.contains("at most 6") && error.contains("not 7"), "{error}");
}

#[test]
fn results_without_their_log_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let sides = sides(folder.path());
    let log = folder.path().join("bbbb/get-1/round-03/latency.hlog");
    fs::remove_file(&log).expect("it was written");
    let compared = [compare(&sides[0], &sides[1], &options()).expect("they compare")];
    let error = Page::read(&sides, &compared).expect_err("a log is missing").to_string();
    assert!(error.contains("round-03/latency.hlog"), "{error}");
}
