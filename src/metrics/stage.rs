//! The stages whose distribution is measured, each with a [`Histogram`] of its own.
//!
//! Everything is measured once for a turn or a batch, with the clock reading that the turn has
//! anyway: nothing here costs a request its own.

use super::histogram::Histogram;
use super::table::Unit;

macro_rules! stages {
    ($($(#[doc = $help:literal])+ $variant:ident $unit:ident $name:literal $family:literal,)*) => {
        /// What is measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[doc = $help])+ $variant,)*
        }

        impl Stage {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in answers to `Status`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The family under which it is exported, without the prefix that all of ours have.
            #[must_use]
            pub const fn family(self) -> &'static str {
                match self {
                    $(Self::$variant => $family,)*
                }
            }

            /// What its values are.
            #[must_use]
            pub const fn unit(self) -> Unit {
                match self {
                    $(Self::$variant => Unit::$unit,)*
                }
            }

            /// What it means.
            #[must_use]
            pub fn help(self) -> String {
                let parts: &[&str] = match self {
                    $(Self::$variant => &[$($help),+],)*
                };
                parts.concat().trim().to_owned()
            }
        }
    };
}

stages! {
    /// From when a read's bytes were taken from the kernel until its answer was handed back: reads
    /// that were answered in the turn that brought them.
    Read Nanoseconds "read" "read_duration_seconds",
    /// From when a write was stamped until it was durable and answered. With durability `sync`
    /// only: otherwise nobody waits.
    Commit Nanoseconds "commit" "commit_duration_seconds",
    /// From when a write to the log was issued until it was durable.
    LogWrite Nanoseconds "log_write" "log_write_duration_seconds",
    /// Turns of the loop with something to do, from one look at the completions to the next.
    Turn Nanoseconds "turn" "turn_duration_seconds",
    /// Frames that were handled together.
    PassFrames One "pass_frames" "pass_frames",
}

/// A histogram for each stage.
#[derive(Clone, Debug, Default)]
pub struct Stages([Histogram; Stage::ALL.len()]);

impl Stages {
    /// That of `stage`.
    #[inline]
    #[must_use]
    pub fn of(&self, stage: Stage) -> &Histogram {
        &self.0[stage as usize]
    }

    /// The same, to be written.
    #[inline]
    pub fn of_mut(&mut self, stage: Stage) -> &mut Histogram {
        &mut self.0[stage as usize]
    }

    /// Each stage with its histogram.
    pub fn each(&self) -> impl Iterator<Item = (Stage, &Histogram)> {
        Stage::ALL.iter().copied().zip(&self.0)
    }

    /// Adds what others have counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.merge(theirs);
        }
    }
}
