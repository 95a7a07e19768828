//! What must hold, whatever goes wrong. Each checker is shown to fail on what it is there for: a
//! checker that can't fail proves nothing.

pub mod claims;
pub mod durability;
pub mod linearizability;
pub mod replicas;
pub mod resources;
pub mod rest;
pub mod search;
pub mod sync_prefix;

use std::fmt;

use super::history::Key;
use crate::base::time::{Monotonic, NS_PER_US};

/// Who found a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// The history of clients against the slots of the log.
    Linearizability,
    /// The same by searching for any order.
    Search,
    /// What was acknowledged is there after a restart.
    Durability,
    /// What is stable in a slot is the same everywhere, and stays so.
    LogAgreement,
    /// What is stable, and what is as the leader's, is one prefix of all logs, and a quorum's.
    SyncPrefix,
    /// A view starts with everything that was answered or stable before.
    LeaderCompleteness,
    /// A term has one view.
    StartView,
    /// A member that has promised a view says nothing in an older one.
    Promise,
    /// A view starts with the votes of a quorum.
    Votes,
    /// A command of a session has one effect and one answer.
    ExactlyOnce,
    /// The replicas of a partition agree, and each with its former lives.
    Replicas,
    /// Bounds are kept.
    Resources,
    /// A shard that has nothing to do sleeps.
    Rest,
    /// Everything ends.
    Progress,
    /// What is on the wire and on disk makes sense, and damage is refused.
    Sense,
    /// An assertion of the code itself.
    Panic,
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linearizability => "linearizability",
            Self::Search => "search",
            Self::Durability => "durability",
            Self::LogAgreement => "log-agreement",
            Self::SyncPrefix => "sync-prefix",
            Self::LeaderCompleteness => "completeness",
            Self::StartView => "start-view",
            Self::Promise => "promise",
            Self::Votes => "votes",
            Self::ExactlyOnce => "exactly-once",
            Self::Replicas => "replicas",
            Self::Resources => "resources",
            Self::Rest => "rest",
            Self::Progress => "progress",
            Self::Sense => "sense",
            Self::Panic => "panic",
        })
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who found it.
    pub checker: Checker,
    /// When in the run, if that is known.
    pub at: Option<Monotonic>,
    /// What it is, for people.
    pub what: String,
}

impl Violation {
    /// A violation.
    pub fn new(checker: Checker, what: impl Into<String>) -> Self {
        Self { checker, at: None, what: what.into() }
    }

    /// The same, found then.
    #[must_use]
    pub fn at(self, now: Monotonic) -> Self {
        Self { at: Some(now), ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)?;
        match self.at {
            Some(Monotonic(ns)) => write!(f, " (at {} us)", ns / NS_PER_US),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map-{}/key-{}", self.map, self.number)
    }
}
