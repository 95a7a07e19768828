//! A comparison as one page for a browser: self-contained, without scripts, in light and dark, on
//! paper, and readable without colour. `bench compare --html` writes it.
//!
//! `figures` draws, with what `chart` has for it; `tables` and `text` say it in words. The
//! page is a function of the results alone: the same results make the same page.

mod chart;
mod figures;
mod tables;
mod text;

use std::collections::BTreeSet;
use std::fmt;

use self::text::Escaped;
use super::distribution::Distribution;
use super::run_folder::{ResultsError, Round, RunFolder};
use super::{Comparison, ScenarioComparison};
use crate::bench::surroundings::Build;

/// Sides that can be told apart by their dashes and markers.
pub const SIDE_COUNT_MAX: usize = 6;
/// Letters of a name that stands in a chart.
const LABEL_LENGTH_MAX: usize = 13;
const STYLE: &str = include_str!("page.css");

/// The name of a side in charts and tables.
fn letter(side: usize) -> char {
    const LETTERS: [char; SIDE_COUNT_MAX] = ['A', 'B', 'C', 'D', 'E', 'F'];
    LETTERS[side]
}

/// All that stands on the page.
#[derive(Debug)]
pub struct Page<'a> {
    sides: &'a [RunFolder],
    /// Of the first side with each of the others.
    comparisons: &'a [Comparison],
    scenarios: Vec<Scenario<'a>>,
}

/// Draws a chart: its id, the scenario's name, the sides.
type Draw = fn(&str, &str, &[SideOfScenario<'_>]) -> String;

/// A scenario.
#[derive(Debug)]
struct Scenario<'a> {
    name: &'a str,
    loop_kind: &'a str,
    /// Each side that has it.
    sides: Vec<SideOfScenario<'a>>,
    /// By the second side's place.
    comparisons: Vec<(usize, &'a ScenarioComparison)>,
}

/// A side of a scenario.
#[derive(Debug)]
struct SideOfScenario<'a> {
    /// Its place among all sides.
    index: usize,
    /// Its letter, and what tells it from the others.
    label: String,
    rounds: Vec<&'a Round>,
    distribution: Distribution,
}

impl<'a> Page<'a> {
    /// Reads what is to be drawn: `comparisons` are those of the first of `sides` with each other
    /// one, in their order.
    ///
    /// # Errors
    /// If there are more than [`SIDE_COUNT_MAX`] sides, or a log of latencies can't be read.
    ///
    /// # Panics
    /// If there isn't a comparison for each side after the first.
    pub fn read(
        sides: &'a [RunFolder],
        comparisons: &'a [Comparison],
    ) -> Result<Self, ResultsError> {
        assert_eq!(sides.len(), comparisons.len() + 1, "each but the first side is compared");
        if sides.len() > SIDE_COUNT_MAX {
            return Err(ResultsError::Sides(sides.len(), SIDE_COUNT_MAX));
        }
        let labels = labels(sides);
        let mut scenarios = Vec::new();
        for (name, _) in sides.first().into_iter().flat_map(|first| &first.scenarios) {
            let mut of_sides = Vec::new();
            for (index, side) in sides.iter().enumerate() {
                let Some(rounds) = side.scenarios.get(name) else { continue };
                of_sides.push(SideOfScenario {
                    index,
                    label: labels[index].clone(),
                    rounds: rounds.values().collect(),
                    distribution: Distribution::read(rounds)?,
                });
            }
            let compared = comparisons.iter().enumerate().filter_map(|(place, comparison)| {
                let mut all = comparison.scenarios.iter();
                Some((place + 1, all.find(|one| one.name == *name && one.pair_count > 0)?))
            });
            let compared: Vec<_> = compared.collect();
            if let Some((_, first)) = compared.first() {
                scenarios.push(Scenario {
                    name,
                    loop_kind: &first.loop_kind,
                    sides: of_sides,
                    comparisons: compared,
                });
            }
        }
        Ok(Self { sides, comparisons, scenarios })
    }

    /// What is compared with what.
    fn title(&self) -> String {
        let mut names: Vec<String> = names(self.sides);
        let first = names.remove(0);
        format!("{} against {first}", names.join(" and "))
    }
}

/// What was measured: the node; the generator's build if that was no node of ours.
fn build(run: &RunFolder) -> &Build {
    run.environment.server.as_ref().unwrap_or(&run.environment.generator)
}

/// The folder's own name.
fn folder_name(run: &RunFolder) -> String {
    run.path.file_name().unwrap_or(run.path.as_os_str()).to_string_lossy().into_owned()
}

/// What tells sides apart: their commits, or if two have the same their folders.
fn names(sides: &[RunFolder]) -> Vec<String> {
    let commits: BTreeSet<&str> = sides.iter().map(|side| build(side).commit.as_str()).collect();
    let name = |side: &RunFolder| {
        if commits.len() == sides.len() { build(side).commit.clone() } else { folder_name(side) }
    };
    sides.iter().map(name).collect()
}

/// Names for charts: a letter, and what fits of the name.
fn labels(sides: &[RunFolder]) -> Vec<String> {
    let label = |(index, name): (usize, String)| {
        let letter = letter(index);
        if name.eq_ignore_ascii_case(&letter.to_string()) {
            return letter.to_string();
        }
        let short: String = name.chars().take(LABEL_LENGTH_MAX).collect();
        let dots = if short.len() < name.len() { "…" } else { "" };
        format!("{letter} {short}{dots}")
    };
    names(sides).into_iter().enumerate().map(label).collect()
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.title();
        let title = Escaped(&title);
        // The policy keeps the page from loading anything, whatever is in it.
        writeln!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>"
        )?;
        writeln!(f, "<h1>{title}</h1>")?;
        tables::write_sides(f, self.sides)?;
        tables::write_differences(f, self.comparisons)?;
        tables::write_findings(f, &self.scenarios)?;
        for (place, scenario) in self.scenarios.iter().enumerate() {
            scenario.write(f, place, &self.comparisons[0])?;
        }
        tables::write_environments(f, self.sides)?;
        tables::write_settings(f, &self.scenarios)?;
        tables::write_method(f, &self.comparisons[0])?;
        let own = Build::own();
        let (version, commit) = (Escaped(&own.version), Escaped(&own.commit));
        writeln!(
            f,
            "<footer>Made by <code>p2pmap bench compare --html</code>, p2pmap {version} \
             ({commit}).</footer>\n</main>\n</body>\n</html>"
        )
    }
}

impl Scenario<'_> {
    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        place: usize,
        comparison: &Comparison,
    ) -> fmt::Result {
        let name = Escaped(self.name);
        writeln!(f, "<section class=\"scenario\" id=\"scenario-{place}\">\n<h2>{name}</h2>")?;
        writeln!(f, "<p>{}</p>", self.in_words())?;
        tables::write_verdicts(f, self, &comparison.thresholds)?;
        tables::write_counts(f, self)?;
        let draw: [(&str, Draw, &str); 3] = [
            ("curves", figures::percentile_curves, CURVES_CAPTION),
            ("time", figures::over_time, TIME_CAPTION),
            ("histograms", figures::histograms, HISTOGRAMS_CAPTION),
        ];
        for (kind, draw, caption) in draw {
            let id = format!("{kind}-{place}");
            let chart = draw(&id, self.name, &self.sides);
            writeln!(f, "<figure>\n<figcaption>{caption}</figcaption>\n{chart}</figure>")?;
        }
        writeln!(f, "</section>")
    }

    /// What was asked, and how.
    fn in_words(&self) -> String {
        if self.loop_kind == "closed" {
            "<strong>Closed loop:</strong> each connection sends its next request when an answer \
             comes, as fast as the node goes. That measures the greatest throughput; the latencies \
             are those of a node at its limit, not what clients see at a given rate."
                .to_owned()
        } else {
            "<strong>Open loop:</strong> each request has a time at which it is meant to be sent, \
             fixed beforehand, and its latency counts from then. A node that stands still makes \
             every request late that was due meanwhile, as it would for real clients."
                .to_owned()
        }
    }
}

const CURVES_CAPTION: &str = "<strong>Latency at each percentile.</strong> Read: “at 99.9 %, one \
    request in a thousand took longer than this”. Lower is better. To the right each nine takes as \
    much room as the one before, so that rare slow requests can be seen. All rounds are taken \
    together; the shaded band reaches from the fastest round to the slowest. Markers stand at p50, \
    p90, p99 and so on. The thin end of a curve is made of its ten slowest requests and says \
    little; \
    it ends at the slowest one.";
const TIME_CAPTION: &str = "<strong>Latency in each second.</strong> The slowest request of each \
    second, p99 and p50, each on its own logarithmic axis. Both sides of a round were measured one \
    after the other and stand above each other. A node that gets slower as it runs climbs; a \
    single \
    peak is a pause; what moves on all sides at once came from the machine.";
const HISTOGRAMS_CAPTION: &str = "<strong>How many requests took how long.</strong> A column for \
    each side, latency upwards on the same axis; longer bars are more requests. Two hills are two \
    kinds of requests. Every bin that has any request shows at least a thin line.";

#[cfg(test)]
mod tests;
