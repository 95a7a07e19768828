//! The tables of the page, and what is said around them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::chart::{latency, swatch};
use super::text::{Escaped, change, figure, grouped, verdict};
use super::{Scenario, SideOfScenario, build, figures, folder_name, letter};
use crate::base::cast::u64_from;
use crate::bench::compare::Comparison;
use crate::bench::compare::judge::{ALPHA, Judged, PAIR_COUNT_MIN, Thresholds, Verdict};
use crate::bench::compare::run_folder::RunFolder;
use crate::bench::report::{BUSY_PERCENT_MAX, SAMPLES_BEYOND_MIN};
use crate::bench::schedule::float;
use crate::bench::summary::{Server, Summary};
use crate::bench::surroundings::{Environment, Filesystem};

/// The legend of all charts: who is who.
pub(super) fn write_sides(f: &mut fmt::Formatter<'_>, sides: &[RunFolder]) -> fmt::Result {
    writeln!(f, "<ul class=\"legend\">")?;
    for (index, side) in sides.iter().enumerate() {
        let build = build(side);
        writeln!(
            f,
            "<li>{} <strong class=\"side-{index}\">{}</strong> <span>commit <code>{}</code>, \
             results in <code>{}</code></span></li>",
            swatch(index),
            letter(index),
            Escaped(&build.commit),
            Escaped(&folder_name(side))
        )?;
    }
    writeln!(f, "</ul>")
}

/// What makes the results less than comparable.
pub(super) fn write_differences(
    f: &mut fmt::Formatter<'_>,
    comparisons: &[Comparison],
) -> fmt::Result {
    let mut lines = Vec::new();
    for (place, comparison) in comparisons.iter().enumerate() {
        let sides = format!("A and {}", letter(place + 1));
        let differences = by_scenarios(comparison).into_iter();
        lines.extend(differences.map(|(line, scenarios)| {
            let all = comparison.scenarios.len();
            let scenarios_told = match scenarios.len() {
                0 => String::new(),
                count if count == all => " (all scenarios)".to_owned(),
                _ => format!(" ({})", scenarios.join(", ")),
            };
            format!("{sides}: {}{}", Escaped(line), Escaped(&scenarios_told))
        }));
        let unmatched = comparison.unmatched.iter();
        lines.extend(unmatched.map(|name| {
            format!("{sides}: only one of them has {}, which is left out", Escaped(name))
        }));
    }
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "<aside class=\"warning\">\n<h2>Not measured under the same conditions</h2>\n<p>A change \
         below may come from one of these rather than from the code:</p>\n<ul>"
    )?;
    lines.iter().try_for_each(|line| writeln!(f, "<li>{line}</li>"))?;
    writeln!(f, "</ul>\n</aside>")
}

/// Each difference once, with the scenarios that have it; none: it is one of the surroundings.
fn by_scenarios(comparison: &Comparison) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &comparison.differences {
        let of = |name: &str| line.strip_prefix(name)?.strip_prefix(": ");
        let names = comparison.scenarios.iter().map(|scenario| scenario.name.as_str());
        match names.filter_map(|name| Some((name, of(name)?))).max_by_key(|(name, _)| name.len()) {
            Some((name, rest)) => all.entry(rest).or_default().push(name),
            None => _ = all.entry(line).or_default(),
        }
    }
    all
}

/// The verdicts of all scenarios in a few lines.
pub(super) fn write_findings(
    f: &mut fmt::Formatter<'_>,
    scenarios: &[Scenario<'_>],
) -> fmt::Result {
    writeln!(f, "<section>\n<h2>In short</h2>\n<ul class=\"findings\">")?;
    let compared: BTreeSet<usize> = scenarios
        .iter()
        .flat_map(|scenario| scenario.comparisons.iter().map(|(side, _)| *side))
        .collect();
    for side in compared {
        let metrics = scenarios.iter().flat_map(|scenario| {
            let of_side = scenario.comparisons.iter().filter(move |(other, _)| *other == side);
            of_side
                .flat_map(move |(_, one)| one.metrics.iter().map(|metric| (scenario.name, metric)))
        });
        let judged: Vec<(&str, &Judged)> = metrics
            .filter(|(_, metric)| {
                !matches!(metric.verdict, Verdict::NotJudged | Verdict::Unsupported)
            })
            .collect();
        write_finding(f, side, &judged)?;
    }
    writeln!(f, "</ul>\n</section>")
}

fn write_finding(
    f: &mut fmt::Formatter<'_>,
    side: usize,
    judged: &[(&str, &Judged)],
) -> fmt::Result {
    let count = |wanted: fn(&Verdict) -> bool| {
        judged.iter().filter(|(_, metric)| wanted(&metric.verdict)).count()
    };
    let letter = letter(side);
    let slower = count(|verdict| *verdict == Verdict::Slower);
    let faster = count(|verdict| *verdict == Verdict::Faster);
    let same = count(|verdict| *verdict == Verdict::Same);
    let unknown = judged.len() - slower - faster - same;
    let answer = match (slower, faster, unknown) {
        (0, 0, 0) => format!("{letter} is as fast as A"),
        (0, 0, _) => format!("no difference between {letter} and A is proven"),
        (0, _, _) => format!("{letter} is faster than A"),
        (_, 0, _) => format!("{letter} is slower than A"),
        _ => format!("{letter} is slower than A in one respect and faster in another"),
    };
    write!(
        f,
        "<li><strong>{answer}.</strong> Of {} judged metrics {slower} are slower, {faster} faster, \
         {same} the same, {unknown} can’t be told.",
        judged.len()
    )?;
    let changed = judged
        .iter()
        .filter(|(_, metric)| matches!(metric.verdict, Verdict::Slower | Verdict::Faster));
    let changes: Vec<String> = changed
        .map(|(scenario, metric)| {
            let range = interval_percent(metric);
            let scenario = Escaped(scenario);
            format!("<li>{scenario}, {}: {}{range}</li>", metric.name, change(metric))
        })
        .collect();
    if !changes.is_empty() {
        write!(f, "<ul>{}</ul>", changes.concat())?;
    }
    writeln!(f, "</li>")
}

fn interval_percent(metric: &Judged) -> String {
    let Some((low, high)) = metric.interval else { return String::new() };
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let text = format!(" (between {:+.1} and {:+.1} %)", percent(low), percent(high));
    text.replace('-', "−")
}

/// All metrics of a scenario with what can be said of them, each side against the first.
pub(super) fn write_verdicts(
    f: &mut fmt::Formatter<'_>,
    scenario: &Scenario<'_>,
    thresholds: &Thresholds,
) -> fmt::Result {
    for (side, comparison) in &scenario.comparisons {
        let letter = letter(*side);
        writeln!(
            f,
            "<div class=\"wide\"><table>\n<caption>{letter} against A, rounds of each: {}\
             </caption>\n\
             <thead><tr><th scope=\"col\">metric</th><th scope=\"col\">A</th>\
             <th scope=\"col\">{letter}</th><th scope=\"col\">{letter} / A</th>\
             <th scope=\"col\">ratio from ½ to 2</th><th scope=\"col\">{:.0} % interval</th>\
             <th scope=\"col\">verdict</th></tr></thead>\n<tbody>",
            comparison.pair_count,
            (1.0 - ALPHA) * 100.0
        )?;
        for metric in &comparison.metrics {
            write_verdict(f, metric, *side, thresholds)?;
        }
        let (of_a, of_other) = comparison.errors;
        let errors = [of_a, of_other].map(|count| grouped(float(count)));
        writeln!(
            f,
            "<tr class=\"muted\"><th scope=\"row\">errors</th><td>{}</td><td>{}</td>\
             <td></td><td></td><td></td><td>counted, not judged</td></tr>\n</tbody></table></div>",
            errors[0], errors[1]
        )?;
        let alarms = &comparison.false_alarms;
        if alarms.resamples > 0 {
            writeln!(
                f,
                "<p class=\"note\">How far to trust this: comparing rounds of A with other rounds \
                 of A called a difference in {} of {} trials; there is none, so this should be \
                 seldom.</p>",
                alarms.alarms, alarms.resamples
            )?;
        } else {
            writeln!(
                f,
                "<p class=\"warning\">Fewer than {PAIR_COUNT_MIN} pairs of rounds: nothing can be \
                 judged.</p>"
            )?;
        }
        if comparison.is_generator_bound() {
            writeln!(
                f,
                "<p class=\"warning\">The load generator was busy {} % of its time, above \
                 {BUSY_PERCENT_MAX} %: it may have been the limit itself.</p>",
                comparison.generator_busy_percent
            )?;
        }
    }
    Ok(())
}

fn write_verdict(
    f: &mut fmt::Formatter<'_>,
    metric: &Judged,
    side: usize,
    thresholds: &Thresholds,
) -> fmt::Result {
    let (sign, words) = verdict(metric, side, thresholds);
    let class = match metric.verdict {
        Verdict::Slower => "slower",
        Verdict::Faster => "faster",
        Verdict::Same => "same",
        Verdict::Inconclusive { .. } => "unknown",
        Verdict::Unsupported | Verdict::NotJudged => "muted",
    };
    let interval = match metric.interval {
        Some((low, high)) => format!("{low:.3} to {high:.3}"),
        None => "too few rounds".to_owned(),
    };
    writeln!(
        f,
        "<tr class=\"{class}\"><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{:.3}</td>\
         <td>{}</td><td>{interval}</td><td><span class=\"sign\" aria-hidden=\"true\">{sign}</span> \
         {words}</td></tr>",
        metric.name,
        figure(metric.a, metric.unit),
        figure(metric.b, metric.unit),
        metric.ratio,
        figures::interval(metric.ratio, metric.interval)
    )
}

/// What was counted beside latencies: whether the measurement itself was sound.
pub(super) fn write_counts(f: &mut fmt::Formatter<'_>, scenario: &Scenario<'_>) -> fmt::Result {
    writeln!(
        f,
        "<div class=\"wide\"><table class=\"counts\">\n<caption>Was the measurement sound?\
         </caption>\n\
         <thead><tr><th scope=\"col\">side</th><th scope=\"col\">rounds</th>\
         <th scope=\"col\">answers</th><th scope=\"col\">errors</th>\
         <th scope=\"col\">answers checked</th><th scope=\"col\">wrong</th>\
         <th scope=\"col\">sent late</th><th scope=\"col\">held back</th>\
         <th scope=\"col\">generator busy</th><th scope=\"col\">time stolen</th></tr></thead>\n\
         <tbody>"
    )?;
    for side in &scenario.sides {
        write_counts_of(f, side)?;
    }
    writeln!(
        f,
        "</tbody></table></div>\n<p class=\"note\">Sent late: more than 1 ms after its time \
         though a \
         connection was free, the generator’s fault. Held back: all connections were full, the \
         node’s fault. Time stolen: taken from this machine by the one that it runs on. Busy and \
         stolen are those of the worst round.</p>"
    )
}

fn write_counts_of(f: &mut fmt::Formatter<'_>, side: &SideOfScenario<'_>) -> fmt::Result {
    let summaries = || side.rounds.iter().map(|round| &round.summary);
    let sum = |value: fn(&Summary) -> u64| grouped(float(summaries().map(value).sum()));
    let busy = summaries().map(|one| one.generator_busy_percent).max().unwrap_or(0);
    let stolen = summaries().map(|one| one.steal_percent).fold(0.0, f64::max);
    writeln!(
        f,
        "<tr><th scope=\"row\" class=\"side-{}\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}\
         </td>\
         <td>{}</td><td>{}</td><td>{}</td><td>{busy} %</td><td>{stolen:.1} %</td></tr>",
        side.index,
        letter(side.index),
        side.rounds.len(),
        sum(|one| one.counts.answers),
        sum(|one| one.counts.errors),
        sum(|one| one.verification.checked),
        sum(|one| one.verification.wrong),
        sum(|one| one.counts.late),
        sum(|one| one.counts.held_back)
    )
}

/// A table with a column for each side; rows in which they differ say so.
fn write_side_by_side(
    f: &mut fmt::Formatter<'_>,
    caption: &str,
    columns: &[String],
    rows: &[(String, Vec<String>)],
) -> fmt::Result {
    write!(
        f,
        "<div class=\"wide\"><table class=\"plain\">\n<caption>{caption}</caption>\n<thead><tr>\
         <td></td>"
    )?;
    columns.iter().try_for_each(|name| write!(f, "<th scope=\"col\">{name}</th>"))?;
    writeln!(f, "</tr></thead>\n<tbody>")?;
    for (name, values) in rows {
        let differ = values.iter().any(|value| *value != values[0]);
        let (class, sign) = if differ { (" class=\"differs\"", " ≠") } else { ("", "") };
        write!(f, "<tr{class}><th scope=\"row\">{}{sign}</th>", Escaped(name))?;
        values.iter().try_for_each(|value| write!(f, "<td>{}</td>", Escaped(value)))?;
        writeln!(f, "</tr>")?;
    }
    writeln!(f, "</tbody></table></div>")
}

/// Where all of it was measured.
pub(super) fn write_environments(f: &mut fmt::Formatter<'_>, sides: &[RunFolder]) -> fmt::Result {
    writeln!(f, "<section>\n<h2>Where it was measured</h2>")?;
    let of_side = |side: &RunFolder| {
        let Environment { generator, server, kernel, cpu, cpu_count, governor, .. } =
            &side.environment;
        let build = |build: &crate::bench::surroundings::Build| {
            format!("{} ({})", build.version, build.commit)
        };
        let disk = side.environment.filesystem.as_ref().map_or("none".to_owned(), |disk| {
            let Filesystem { kind, device, write_cache, fua } = disk;
            format!("{kind} on device {device}, cache {write_cache}, FUA {fua}")
        });
        [
            ("results", side.path.display().to_string()),
            ("node", server.as_ref().map_or("none of ours".to_owned(), build)),
            ("load generator", build(generator)),
            ("kernel", kernel.clone()),
            ("processor", cpu.clone()),
            ("processors", cpu_count.to_string()),
            ("frequency governor", governor.clone()),
            ("clock source", side.environment.clock_source.clone()),
            ("io_uring", side.environment.io_uring.clone()),
            ("filesystem of the log", disk),
        ]
    };
    let all: Vec<_> = sides.iter().map(of_side).collect();
    let rows: Vec<(String, Vec<String>)> = (0..all[0].len())
        .map(|row| {
            let values = all.iter().map(|side| side[row].1.clone());
            (all[0][row].0.to_owned(), values.collect())
        })
        .collect();
    let columns: Vec<String> = (0..sides.len()).map(|side| letter(side).to_string()).collect();
    let caption = "Machines and builds; ≠ marks what differs";
    write_side_by_side(f, caption, &columns, &rows)?;
    writeln!(f, "</section>")
}

/// What was asked for: all settings of all scenarios.
pub(super) fn write_settings(
    f: &mut fmt::Formatter<'_>,
    scenarios: &[Scenario<'_>],
) -> fmt::Result {
    writeln!(f, "<section>\n<h2>What was asked</h2>")?;
    let settings: Vec<BTreeMap<String, String>> = scenarios.iter().map(settings).collect();
    let names: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();
    let mut rows: Vec<(String, Vec<String>)> = names
        .into_iter()
        .map(|name| {
            let value = |of: &BTreeMap<_, _>| of.get(name).cloned().unwrap_or("–".to_owned());
            (name.clone(), settings.iter().map(value).collect())
        })
        .collect();
    // What tells the scenarios apart comes first.
    rows.sort_by_key(|(_, values): &(String, Vec<String>)| {
        values.iter().all(|value| *value == values[0])
    });
    let columns: Vec<String> =
        scenarios.iter().map(|scenario| Escaped(scenario.name).to_string()).collect();
    let caption = "Settings of each scenario; ≠ marks in what they differ";
    write_side_by_side(f, caption, &columns, &rows)?;
    writeln!(f, "</section>")
}

/// The settings of a scenario and those of its node; where sides differ, of each.
fn settings(scenario: &Scenario<'_>) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |name: &str, value: String| {
        let all = values.entry(name.to_owned()).or_default();
        if !all.contains(&value) {
            all.push(value);
        }
    };
    for round in scenario.sides.iter().flat_map(|side| &side.rounds) {
        for (name, value) in &round.summary.settings {
            let is_time = name.ends_with("_ns");
            let ns = value.parse().ok().filter(|_| is_time).map(|ns: u64| latency(float(ns)));
            add(name.strip_suffix("_ns").unwrap_or(name), ns.unwrap_or_else(|| value.clone()));
        }
        if let Some(Server { durability, idle, cores, partition_count, .. }) = &round.summary.server
        {
            add("node: durability", durability.clone());
            add("node: waits by", idle.clone());
            add("node: cores", format!("{cores:?}"));
            add("node: partitions", partition_count.to_string());
        }
    }
    values.into_iter().map(|(name, values)| (name, values.join(" | "))).collect()
}

/// How verdicts come to be, for experts.
pub(super) fn write_method(f: &mut fmt::Formatter<'_>, comparison: &Comparison) -> fmt::Result {
    let Thresholds { percent, floor_ns } = comparison.thresholds;
    let floor = latency(floor_ns);
    let beyond = latency(SAMPLES_BEYOND_MIN);
    let beyond = beyond.trim_end_matches(" ns");
    let interval = (1.0 - ALPHA) * 100.0;
    let pairs = u64_from(PAIR_COUNT_MIN);
    writeln!(
        f,
        "<section class=\"method\">\n<h2>How to read the verdicts</h2>\n<dl>\n\
         <dt>p50, p99, p99.9 …</dt><dd>The latency that 50 %, 99 %, 99.9 % of all requests didn’t \
         exceed. Throughput is answers a second.</dd>\n\
         <dt>Ratio</dt><dd>The other side divided by A: the geometric mean over all pairs of \
         rounds. \
         The n-th round of one side is held against the n-th of the other, which were measured one \
         after the other. Rounds are compared, not requests: those of one round depend on each \
         other.</dd>\n\
         <dt>Interval</dt><dd>Where the ratio lies with {interval:.0} % confidence, from the \
         means of \
         all subsets of the pairs; it supposes nothing of how they are distributed.</dd>\n\
         <dt>Slower, faster</dt><dd>A sign-flip test on the logarithms of the ratios is \
         significant \
         after Holm’s correction over the judged metrics of the scenario, and the interval \
         excludes \
         no change, and the change is above {percent} % and, for latencies, {floor}. At least \
         {pairs} pairs are needed.</dd>\n\
         <dt>The same</dt><dd>The whole interval lies within those thresholds.</dd>\n\
         <dt>Can’t be told</dt><dd>Neither. More rounds narrow the interval.</dd>\n\
         <dt>Not judged</dt><dd>It wasn’t among the metrics fixed beforehand, or fewer than \
         {beyond} \
         requests of some round lie beyond that percentile.</dd>\n</dl>\n</section>"
    )
}
