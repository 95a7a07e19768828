//! What is said of a drill in the end: a table for people, and whether goals were met.

use std::collections::BTreeMap;
use std::fmt;

use super::acks::quantile;
use super::load::{Errors, Kind, Load};
use super::machine::Taken;
use crate::base::time::NS_PER_MS;

/// A drill that is over.
#[derive(Debug, Default)]
pub struct Report {
    distributions: Vec<Distribution>,
    ratios: Vec<Ratio>,
    taken: Vec<(String, Taken)>,
    clients: Vec<ClientRow>,
}

/// Times that were measured.
#[derive(Debug)]
pub(super) struct Distribution {
    what: String,
    /// In ns, ascending.
    values: Vec<u64>,
    goals: Goals,
}

/// What is wanted of a distribution, in ns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Goals {
    pub(super) p50_ns_max: Option<u64>,
    pub(super) max_ns_max: Option<u64>,
}

/// How two of them compare.
#[derive(Debug)]
pub(super) struct Ratio {
    what: String,
    value: f64,
    wanted_max: f64,
}

/// What clients of one kind were told.
#[derive(Debug)]
struct ClientRow {
    what: &'static str,
    acknowledged_count: u64,
    errors: BTreeMap<Kind, Errors>,
    /// Errors that they may be told.
    allowed: &'static [Kind],
}

impl Report {
    pub(super) fn add(&mut self, distribution: Distribution) {
        self.distributions.push(distribution);
    }

    pub(super) fn add_ratio(&mut self, ratio: Ratio) {
        self.ratios.push(ratio);
    }

    /// What the machine took meanwhile.
    pub(super) fn add_taken(&mut self, what: &str, taken: Taken) {
        self.taken.push((what.to_owned(), taken));
    }

    /// What all clients were told so far.
    pub(super) fn add_clients(&mut self, load: &Load) {
        for (what, tally, allowed) in [
            ("bundled client", &load.bundled, &[][..]),
            ("client that sends once", &load.single, &[Kind::Unavailable, Kind::Unknown][..]),
        ] {
            let (acknowledged_count, errors) = tally.read();
            self.clients.push(ClientRow { what, acknowledged_count, errors, allowed });
        }
    }

    /// Whether all that is wanted is so.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.distributions.iter().all(Distribution::is_met)
            && self.ratios.iter().all(Ratio::is_met)
            && self.clients.iter().all(ClientRow::is_met)
    }
}

impl Distribution {
    pub(super) fn new(what: &str, mut values: Vec<u64>, goals: Goals) -> Self {
        values.sort_unstable();
        Self { what: what.to_owned(), values, goals }
    }

    fn quantile(&self, parts_per_million: u64) -> u64 {
        quantile(&self.values, parts_per_million)
    }

    fn is_met(&self) -> bool {
        let Goals { p50_ns_max, max_ns_max } = self.goals;
        p50_ns_max.is_none_or(|max| self.quantile(500_000) <= max)
            && max_ns_max.is_none_or(|max| self.quantile(1_000_000) <= max)
    }
}

impl Ratio {
    /// Of the 99th percentiles of two, both ascending.
    pub(super) fn of_p99(what: &str, of: &[u64], to: &[u64], wanted_max: f64) -> Self {
        let p99 = |values| quantile(values, 990_000);
        // Times of some seconds: a double has them exactly.
        #[allow(clippy::cast_precision_loss)]
        let value = p99(of) as f64 / p99(to).max(1) as f64;
        Self { what: what.to_owned(), value, wanted_max }
    }

    fn is_met(&self) -> bool {
        self.value <= self.wanted_max
    }
}

impl ClientRow {
    fn is_met(&self) -> bool {
        self.acknowledged_count > 0 && self.errors.keys().all(|kind| self.allowed.contains(kind))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "TIMES IN MS", "COUNT", "P50", "P90", "P99", "MAX"
        )?;
        self.distributions.iter().try_for_each(|one| one.fmt(f))?;
        for Ratio { what, value, wanted_max } in &self.ratios {
            let verdict = verdict(*value <= *wanted_max);
            writeln!(f, "{what}: {value:.2}; wanted: at most {wanted_max:.1}: {verdict}")?;
        }
        self.clients.iter().try_for_each(|one| one.fmt(f))?;
        for (what, taken) in &self.taken {
            let percent = |ns: u64| ns.saturating_mul(100) / taken.time_ns.max(1);
            writeln!(
                f,
                "{what}: {} s in which the hypervisor took {} % of a core, and ready threads of \
                 the nodes waited for one {} % of the time",
                taken.time_ns / (1_000 * NS_PER_MS),
                percent(taken.steal_ns),
                percent(taken.queue_ns)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<34}{:>9}", self.what, self.values.len())?;
        for parts_per_million in [500_000, 900_000, 990_000, 1_000_000] {
            write!(f, "{:>9}", ms(self.quantile(parts_per_million)))?;
        }
        writeln!(f)?;
        let Goals { p50_ns_max, max_ns_max } = self.goals;
        let wanted = [("p50", p50_ns_max), ("max", max_ns_max)];
        let wanted: Vec<String> = wanted
            .into_iter()
            .filter_map(|(what, max)| Some(format!("{what} at most {}", ms(max?))))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        writeln!(f, "    wanted: {}: {}", wanted.join(", "), verdict(self.is_met()))
    }
}

impl fmt::Display for ClientRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} puts acknowledged", self.what, self.acknowledged_count)?;
        for (kind, errors) in &self.errors {
            let kind = match kind {
                Kind::Unavailable => "unavailable",
                Kind::Unknown => "of unknown outcome",
                Kind::Other => "other errors",
            };
            write!(f, ", {} {kind}", errors.count)?;
        }
        let wanted = match self.allowed {
            [] => "no error",
            _ => "no other error than unavailable or unknown",
        };
        writeln!(f, "; wanted: {wanted}: {}", verdict(self.is_met()))?;
        let unwanted = self.errors.iter().filter(|(kind, _)| !self.allowed.contains(kind));
        for (_, errors) in unwanted {
            writeln!(f, "    the first one: {}", errors.first)?;
        }
        Ok(())
    }
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// Milliseconds with a decimal.
fn ms(ns: u64) -> String {
    let tenths = ns / (NS_PER_MS / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(errors: BTreeMap<Kind, Errors>, allowed: &'static [Kind]) -> Report {
        let row = ClientRow { what: "client", acknowledged_count: 1, errors, allowed };
        Report { clients: vec![row], ..Report::default() }
    }

    fn one(kind: Kind) -> BTreeMap<Kind, Errors> {
        BTreeMap::from([(kind, Errors { count: 3, first: "it broke".to_owned() })])
    }

    #[test]
    fn goals_are_met_up_to_their_bounds() {
        let goals = Goals { p50_ns_max: Some(20), max_ns_max: Some(30) };
        for (values, is_met) in
            [(vec![30, 20, 10], true), (vec![30, 21, 10], false), (vec![31, 20, 10], false)]
        {
            assert_eq!(
                Distribution::new("x", values.clone(), goals).is_met(),
                is_met,
                "{values:?}"
            );
        }
        assert!(Distribution::new("x", vec![u64::MAX], Goals::default()).is_met());
    }

    #[test]
    fn ratio_is_that_of_the_slowest_hundredths() {
        let ratio = |of: u64| Ratio::of_p99("x", &[of], &[100], 2.0);
        assert!(ratio(200).is_met() && !ratio(201).is_met());
    }

    #[test]
    fn one_error_that_is_not_allowed_misses_the_goal_and_is_shown() {
        assert!(clients(BTreeMap::new(), &[]).is_met());
        assert!(clients(one(Kind::Unknown), &[Kind::Unavailable, Kind::Unknown]).is_met());
        let report = clients(one(Kind::Unknown), &[]);
        assert!(!report.is_met());
        let text = report.to_string();
        assert!(text.contains("3 of unknown outcome") && text.contains("MISSED"), "{text}");
        assert!(text.contains("the first one: it broke"), "{text}");
    }

    #[test]
    fn clients_without_an_answer_meet_no_goal() {
        let row =
            ClientRow { what: "x", acknowledged_count: 0, errors: BTreeMap::new(), allowed: &[] };
        assert!(!Report { clients: vec![row], ..Report::default() }.is_met());
    }

    #[test]
    fn times_are_shown_with_a_decimal() {
        assert_eq!([ms(0), ms(99_999), ms(1_250_000)], ["0.0", "0.0", "1.2"]);
    }
}
