//! What a check says: of what, how grave it is, what was found, and what mends it.

use std::fmt;

/// How grave a finding is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Not to be seen from here.
    NotVisible,
    /// It works, and would be faster or steadier otherwise.
    Advice,
    /// A node doesn't start, doesn't keep its promises, or loses most of its speed.
    Problem,
}

impl Verdict {
    /// Its word in the table and in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotVisible => "not-visible",
            Self::Advice => "advice",
            Self::Problem => "problem",
        }
    }
}

/// What the checks are about, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Its version, and `io_uring`.
    Kernel,
    /// Resource limits.
    Limits,
    /// The cores that the node may use, and for how long.
    Cores,
    /// What those cores do when they are idle, and what they share.
    Processors,
    /// Pages and swap.
    Memory,
    /// The filesystem of the data directory and the device below it.
    Storage,
    /// Where devices interrupt.
    Interrupts,
    /// How time is read.
    Clock,
    /// Bounds of the network stack.
    Network,
    /// Who else wants the machine now.
    Load,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Kernel,
        Self::Limits,
        Self::Cores,
        Self::Processors,
        Self::Memory,
        Self::Storage,
        Self::Interrupts,
        Self::Clock,
        Self::Network,
        Self::Load,
    ];

    /// Its word in the table and in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Limits => "limits",
            Self::Cores => "cores",
            Self::Processors => "processors",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::Interrupts => "interrupts",
            Self::Clock => "clock",
            Self::Network => "network",
            Self::Load => "load",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A check: what it looks at. Its name is part of the output that programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) subject: Subject,
    pub(super) name: &'static str,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// Which of the subject's checks.
    pub check: &'static str,
    /// How grave it is.
    pub verdict: Verdict,
    /// What was found, and why it matters; of what isn't visible, where it would stand.
    pub found: String,
    /// The command that mends it, or what else does.
    pub mend: Option<String>,
}

impl Check {
    pub(super) const fn new(subject: Subject, name: &'static str) -> Self {
        Self { subject, name }
    }

    pub(super) fn ok(self, found: impl Into<String>) -> Finding {
        self.finding(Verdict::Ok, found.into(), None)
    }

    /// `place` is the file that would say it.
    pub(super) fn not_visible(self, place: impl Into<String>) -> Finding {
        self.finding(Verdict::NotVisible, place.into(), None)
    }

    pub(super) fn advice(self, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Verdict::Advice, found.into(), Some(mend.into()))
    }

    pub(super) fn problem(self, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Verdict::Problem, found.into(), Some(mend.into()))
    }

    fn finding(self, verdict: Verdict, found: String, mend: Option<String>) -> Finding {
        Finding { subject: self.subject, check: self.name, verdict, found, mend }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_the_gravest_and_all_subjects_are_listed_in_order() {
        assert!(Verdict::Problem > Verdict::Advice && Verdict::Advice > Verdict::NotVisible);
        assert!(Subject::ALL.is_sorted_by(|a, b| a < b));
    }
}
