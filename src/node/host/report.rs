//! All findings, as a table for people.

use std::fmt::{self, Write as _};

use super::finding::{Finding, Subject, Verdict};
use super::tree::Tree;
use crate::node::config::value::Cores;

/// The table's width in columns.
const WIDTH_COLUMNS: usize = 100;
/// The width of the columns before what was found.
const VERDICT_COLUMNS: usize = 13;
const CHECK_COLUMNS: usize = 15;
const INDENT_COLUMNS: usize = 2 + VERDICT_COLUMNS + CHECK_COLUMNS;
/// What a finding may say at most: names of devices and the like come from outside.
const FOUND_CHARACTER_COUNT_MAX: usize = 400;

/// From where the host is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From itself.
    Host,
    /// From within a container, which hides a part of it.
    Container,
}

impl Place {
    /// Where we are, by the marks that container runtimes leave.
    #[must_use]
    pub fn of(tree: &Tree) -> Self {
        let marks = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
        let marked = marks.into_iter().any(|mark| tree.has(mark));
        if marked { Self::Container } else { Self::Host }
    }

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Container => "container",
        }
    }
}

/// What all checks found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// From where.
    pub place: Place,
    /// The cores that were judged.
    pub cores: Cores,
    /// The findings, by subject.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Takes the findings as they are to be shown.
    pub(super) fn new(place: Place, cores: Cores, mut findings: Vec<Finding>) -> Self {
        for finding in &mut findings {
            if finding.verdict == Verdict::NotVisible {
                let from = place.word();
                finding.found = format!("not visible from this {from}: {}", finding.found);
            }
            finding.found = printable(&finding.found);
            finding.mend = finding.mend.as_deref().map(printable);
        }
        Self { place, cores, findings }
    }

    /// How many findings there are of a verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Whether anything is a problem.
    #[must_use]
    pub fn has_problems(&self) -> bool {
        self.count(Verdict::Problem) > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for subject in Subject::ALL {
            writeln!(f, "{subject}")?;
            for finding in self.findings.iter().filter(|finding| finding.subject == subject) {
                let head = format!(
                    "  {:<VERDICT_COLUMNS$}{:<CHECK_COLUMNS$}",
                    finding.verdict.word(),
                    finding.check
                );
                write_wrapped(f, &head, &finding.found)?;
                if let Some(mend) = &finding.mend {
                    write_wrapped(f, &format!("{:>INDENT_COLUMNS$}", "mend: "), mend)?;
                }
            }
        }
        writeln!(
            f,
            "\ncores {}: problem {}, advice {}, ok {}, not visible {}",
            self.cores,
            self.count(Verdict::Problem),
            self.count(Verdict::Advice),
            self.count(Verdict::Ok),
            self.count(Verdict::NotVisible),
        )
    }
}

/// Words are never broken.
fn write_wrapped(f: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let mut line = head.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH_COLUMNS {
            writeln!(f, "{}", line.trim_end())?;
            line = " ".repeat(INDENT_COLUMNS);
            is_empty = true;
        }
        let separator = if is_empty { "" } else { " " };
        write!(line, "{separator}{word}")?;
        is_empty = false;
    }
    writeln!(f, "{}", line.trim_end())
}

/// On one line, without control characters, and not too long.
fn printable(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { '?' } else { c });
    if text.chars().count() <= FOUND_CHARACTER_COUNT_MAX {
        return shown.collect();
    }
    shown.take(FOUND_CHARACTER_COUNT_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cores::first_cores;
    use super::super::finding::Check;
    use super::*;

    const CHECK: Check = Check::new(Subject::Clock, "source");

    fn report(findings: Vec<Finding>) -> Report {
        Report::new(Place::Container, first_cores(2), findings)
    }

    #[test]
    fn long_findings_are_wrapped_and_commands_keep_their_words() {
        let found = "word ".repeat(40);
        let command = format!("sudo {} end", "x".repeat(120));
        let table = report(vec![CHECK.problem(found.trim(), command.clone())]).to_string();
        let longest = table.lines().filter(|line| !line.contains("xxx"));
        assert!(longest.clone().all(|line| line.chars().count() <= WIDTH_COLUMNS), "{table}");
        assert!(table.lines().any(|line| line.trim().ends_with(&"x".repeat(120))), "{table}");
        assert!(table.contains("  problem      source         word word"), "{table}");
        assert!(table.contains("mend: sudo"), "{table}");
    }

    #[test]
    fn what_is_hidden_says_from_where_and_nothing_disturbs_the_terminal() {
        let bell = report(vec![CHECK.not_visible("/sys/\u{7}\n\u{1b}[2J")]);
        assert_eq!(bell.findings[0].found, "not visible from this container: /sys/???[2J");
        assert!(!bell.has_problems());
        let long = report(vec![CHECK.ok("é".repeat(1_000))]);
        assert_eq!(long.findings[0].found.chars().count(), FOUND_CHARACTER_COUNT_MAX);
    }
}
