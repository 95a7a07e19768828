//! Bugs that can be switched on, so that the checkers can show that they find them. Without the
//! feature `mutants` none of them exists: [`is`] is `false` when the program is compiled.

use std::fmt;
use std::str::FromStr;

/// Whether mutants were compiled in.
pub const ARE_HERE: bool = cfg!(feature = "mutants");

/// Whose bug it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The replication protocol's.
    Protocol,
    /// The state machine's.
    Map,
    /// The log's, and the recovery's.
    Storage,
    /// Of what is around a shard.
    Host,
}

impl Room {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Map => "map",
            Self::Storage => "storage",
            Self::Host => "host",
        }
    }
}

macro_rules! mutants {
    ($($room:ident: $($(#[$doc:meta])* $variant:ident => $name:literal,)*;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutant {
            $($($(#[$doc])* $variant,)*)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$($(Self::$variant,)*)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$variant => $name,)*)*
                }
            }

            /// Whose bug it is.
            #[must_use]
            pub const fn room(self) -> Room {
                match self {
                    $($(Self::$variant)|* => Room::$room,)*
                }
            }
        }
    };
}

mutants! {
    Protocol:
    /// A vote that comes after the merge makes the leader merge again.
    RemergeOnLateVote => "remerge-on-late-vote",
    /// The leader answers slots above a no-op that no quorum holds yet.
    AnswerBeyondFrontier => "answer-beyond-frontier",
    /// A merge makes no-ops of what the new leader lacks.
    MissingSlotsBecomeNoOps => "missing-slots-become-no-ops",
    /// A member that adopts a view keeps its own values of a view that was not merged.
    KeepStaleLog => "keep-stale-log",
    /// A restarted sequencer goes on in its old term.
    StampAfterRestart => "stamp-after-restart",
    /// A merge trusts its own log below the truncation of a voter.
    TruncateAndUnion => "truncate-and-union",
    /// A member that adopts a view keeps its own no-op where the view has a value.
    KeepOwnNoOp => "keep-own-no-op",
    /// In a merge a value beats a no-op.
    ValueBeatsNoOp => "value-beats-no-op",
    /// A follower applies slots that it has not compared with the leader's.
    ApplyBeyondPrepared => "apply-beyond-prepared",
    /// The sync point moves with one member less than a quorum.
    SyncWithoutQuorum => "sync-without-quorum",
    /// A `StartView` of the view that is adopted already is adopted again.
    ReadoptStartView => "readopt-start-view",
    /// A read shows what is executed but not committed.
    ReadAtApplied => "read-at-applied",
    /// A read asks no quorum.
    ReadWithoutQuorum => "read-without-quorum",
    /// What a member's earlier life said goes on to count.
    IgnoreCrashVector => "ignore-crash-vector",
    /// A `SyncPrepare` that was lost is not sent again.
    SyncPrepareOnce => "sync-prepare-once",
    ;
    Map:
    /// A command of a session that was executed before is executed again.
    RetryExecuted => "retry-executed",
    /// What is undone of the map stays in the sessions.
    SessionsNotUndone => "sessions-not-undone",
    /// What expires does so by the clock of each member.
    ExpiryByOwnClock => "expiry-by-own-clock",
    ;
    Storage:
    /// A client is answered before its command is durable.
    ReplyBeforeDurable => "reply-before-durable",
    /// What a recycled segment held before is read as if it belonged to it.
    OldBlocksAccepted => "old-blocks-accepted",
    /// The snapshot with which a segment begins leaves out which views were promised.
    PromisesNotInSnapshot => "promises-not-in-snapshot",
    /// What was staged of a view counts though the view was never adopted.
    StagedWithoutAdoption => "staged-without-adoption",
    /// A member whose disk went back in time is taken for what it was.
    RollbackUnnoticed => "rollback-unnoticed",
    ;
    Host:
    /// A failed write of the log is taken for a durable one.
    WriteErrorIgnored => "write-error-ignored",
    ;
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMutant;

impl fmt::Display for UnknownMutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such mutant")
    }
}

impl std::error::Error for UnknownMutant {}

impl FromStr for Mutant {
    type Err = UnknownMutant;

    fn from_str(name: &str) -> Result<Self, UnknownMutant> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name).ok_or(UnknownMutant)
    }
}

/// Whether a bug is switched on.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn is(_mutant: Mutant) -> bool {
    false
}

/// Switches a bug on in this thread.
///
/// # Panics
/// If there is one to be switched on: without the feature `mutants` there are none.
#[cfg(not(feature = "mutants"))]
pub fn switch(mutant: Option<Mutant>) {
    assert!(mutant.is_none(), "built without the feature `mutants`");
}

/// Switches a bug on in all threads of this process, for good.
///
/// # Panics
/// As [`switch`], and if another one is on.
#[cfg(not(feature = "mutants"))]
pub fn switch_everywhere(_mutant: Mutant) {
    panic!("built without the feature `mutants`");
}

#[cfg(feature = "mutants")]
pub use switched::{is, switch, switch_everywhere};

#[cfg(feature = "mutants")]
mod switched {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Mutant;

    static EVERYWHERE: OnceLock<Mutant> = OnceLock::new();

    thread_local! {
        static PRESENT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether a bug is switched on in this thread.
    #[must_use]
    pub fn is(mutant: Mutant) -> bool {
        PRESENT.get().or_else(|| EVERYWHERE.get().copied()) == Some(mutant)
    }

    /// Switches a bug on in this thread, and the one before it off.
    pub fn switch(mutant: Option<Mutant>) {
        PRESENT.set(mutant);
    }

    /// Switches a bug on in all threads of this process, for good.
    ///
    /// # Panics
    /// If another one is on.
    pub fn switch_everywhere(mutant: Mutant) {
        assert!(EVERYWHERE.set(mutant).is_ok(), "a process has one planted bug");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_lead_back() {
        for mutant in Mutant::ALL {
            assert_eq!(mutant.name().parse(), Ok(*mutant));
            assert_eq!(mutant.to_string(), mutant.name());
        }
        assert_eq!("no-such".parse::<Mutant>(), Err(UnknownMutant));
    }

    #[test]
    fn none_is_switched_on_by_itself() {
        assert!(Mutant::ALL.iter().all(|mutant| !is(*mutant)));
    }
}
