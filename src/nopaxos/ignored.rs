//! Every message of a member that has no effect is counted with the reason.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why a message had no effect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum IgnoreReason {
            $($(#[$doc])* $variant,)*
        }

        impl IgnoreReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name as a metric's label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// It is of a lower view.
    StaleView => "stale_view",
    /// It is of a higher view and doesn't show that this one has begun.
    UnknownView => "unknown_view",
    /// It names no view though it must.
    NoView => "no_view",
    /// An earlier life of its sender sent it.
    StaleIncarnation => "stale_incarnation",
    /// Its sender may not say that.
    BadSender => "bad_sender",
    /// It contradicts itself.
    Malformed => "malformed",
    /// The member isn't part of a view at the moment.
    NotNormal => "not_normal",
    /// The member isn't between two views at the moment.
    NotChanging => "not_changing",
    /// The member recovers and knows nothing.
    Recovering => "recovering",
    /// The member led this view in an earlier life.
    Barred => "barred",
    /// Only the leader can do that.
    NotLeading => "not_leading",
    /// Only the sequencer can do that.
    NotSequencing => "not_sequencing",
    /// It was said before.
    Duplicate => "duplicate",
    /// Nobody asked for it, or no longer.
    Unasked => "unasked",
    /// The slot has become a no-op.
    NoOpSlot => "no_op_slot",
    /// The slot isn't here.
    UnknownSlot => "unknown_slot",
    /// Too much waits already.
    Full => "full",
    /// It was answered just now.
    AnsweredJustNow => "answered_just_now",
    /// It is about a slot that is below what is stable.
    BelowSyncPoint => "below_sync_point",
    /// A vote differs from the one that its sender cast before.
    ChangedVote => "changed_vote",
}

/// A counter for each reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored([u64; IgnoreReason::ALL.len()]);

impl Default for Ignored {
    fn default() -> Self {
        Self([0; IgnoreReason::ALL.len()])
    }
}

impl Ignored {
    /// One more for `reason`.
    pub fn count(&mut self, reason: IgnoreReason) {
        self.0[reason as usize] += 1;
    }

    /// How many for `reason`.
    #[must_use]
    pub fn of(&self, reason: IgnoreReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds what another member has counted.
    pub fn add(&mut self, other: &Self) {
        for (own, others) in self.0.iter_mut().zip(&other.0) {
            *own += others;
        }
    }

    /// How many for each reason.
    pub fn each(&self) -> impl Iterator<Item = (IgnoreReason, u64)> + '_ {
        IgnoreReason::ALL.iter().copied().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_apart() {
        let mut ignored = Ignored::default();
        ignored.count(IgnoreReason::StaleView);
        ignored.count(IgnoreReason::StaleView);
        assert_eq!(ignored.of(IgnoreReason::StaleView), 2);
        let seen: Vec<_> = ignored.each().filter(|(_, count)| *count > 0).collect();
        assert_eq!(seen, [(IgnoreReason::StaleView, 2)]);
        let mut sum = Ignored::default();
        sum.count(IgnoreReason::StaleView);
        sum.count(IgnoreReason::Full);
        sum.add(&ignored);
        let seen: Vec<_> = sum.each().filter(|(_, count)| *count > 0).collect();
        assert_eq!(seen, [(IgnoreReason::StaleView, 3), (IgnoreReason::Full, 1)]);
    }
}
