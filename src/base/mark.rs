//! Coverage marks: each path that the simulator must reach says that it was taken, so that a run
//! can tell which ones it has reached, and many runs which ones none has.
//!
//! [`ALL`] lists them, hit or not. [`mark!`](crate::mark) finds its place in the list when the
//! program is compiled (a mark that isn't listed doesn't compile), so a hit is an addition to a
//! number of the thread's own: no lookup, no atomic, no cache line of another core. That costs a
//! server nothing, so they are always there, and what is simulated is what is served.

use std::cell::Cell;
use std::collections::BTreeMap;

/// Says that a path was taken.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {{
        const PLACE: usize = $crate::base::mark::place_of($name);
        $crate::base::mark::hit(PLACE);
    }};
}

/// All marks, in the order of their names.
pub const ALL: [&str; COUNT] = [
    "adopt",
    "adoption-without-room",
    "answer-repeated",
    "checkpoint-chunk",
    "checkpoint-failed",
    "checkpoint-given-up",
    "checkpoint-installed",
    "checkpoint-received",
    "checkpoint-resumed",
    "checkpoint-waits",
    "claims-probed",
    "cold-start",
    "dropped-stamped-anew",
    "earlier-life",
    "endorse",
    "endorse-lasting-wish",
    "endorse-leaders-wish",
    "entry-expired",
    "fetch-checkpoint",
    "fetch-elsewhere",
    "fetch-for-adoption",
    "fetch-for-merge",
    "follow",
    "follow-lasting-votes",
    "gap-commit",
    "gap-commit-before-adoption",
    "gap-commit-over-value",
    "gap-commit-quorum",
    "jump",
    "late-vote",
    "lead",
    "leader-gone",
    "leader-recovers",
    "leader-silent",
    "leader-transfer",
    "leader-unheard",
    "life-begun",
    "life-raised",
    "life-relayed",
    "log-truncated",
    "member-rolled-back",
    "merge",
    "move",
    "no-op-by-repair",
    "no-op-by-sync",
    "own-life-unknown",
    "promised-view-asked-for",
    "query-evaluated",
    "query-repeated",
    "query-stamped",
    "read-round",
    "recover",
    "recover-again",
    "recover-answered",
    "recovered",
    "recovery-copies",
    "repair-by-checkpoint",
    "repair-from-disk",
    "replay-adopt",
    "replay-carry",
    "replay-install",
    "replay-mistrust",
    "replay-stage",
    "restarted-follower",
    "restarted-in-view-change",
    "restarted-leader",
    "restarted-sequencer",
    "retransmit",
    "session-answered-again",
    "session-expired",
    "session-removed",
    "session-result-gone",
    "session-result-repeated",
    "session-retry",
    "session-unknown",
    "session-window-full",
    "slot-lookup",
    "slot-lookup-answered",
    "slot-lookup-by-leader",
    "slot-lookup-by-ranges",
    "slot-lookup-of-no-op",
    "slot-without-room",
    "stale-member-told",
    "start-view-again",
    "stash",
    "stash-before-adoption",
    "sync-commit",
    "sync-commit-beyond-prepared",
    "sync-point",
    "sync-prepare-repeated",
    "sync-refetch",
    "sync-repair",
    "sync-response-fell-back",
    "tick",
    "transfer-given-up",
    "undo",
    "view-change-goes-on",
    "view-change-repair",
    "view-change-timeout",
];

/// How many marks there are.
const COUNT: usize = 99;

thread_local! {
    static HITS: [Cell<u64>; COUNT] = const { [const { Cell::new(0) }; COUNT] };
}

/// Where a mark is in [`ALL`].
///
/// # Panics
/// If it isn't there.
#[must_use]
pub const fn place_of(name: &str) -> usize {
    let mut place = 0;
    while place < COUNT {
        if is_same(ALL[place].as_bytes(), name.as_bytes()) {
            return place;
        }
        place += 1;
    }
    panic!("marks are listed in base/mark.rs")
}

/// Strings can't be compared yet when a program is compiled.
const fn is_same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut place = 0;
    while place < left.len() {
        if left[place] != right[place] {
            return false;
        }
        place += 1;
    }
    true
}

/// Counts that this thread took a path.
#[inline]
pub fn hit(place: usize) {
    HITS.with(|hits| {
        let count = &hits[place];
        count.set(count.get().wrapping_add(1));
    });
}

/// How often each path was taken in this thread since this was asked last; those that weren't are
/// left out.
#[must_use]
pub fn take() -> BTreeMap<&'static str, u64> {
    let counts = HITS.with(|hits| hits.each_ref().map(Cell::take));
    ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_until_they_are_asked_for() {
        drop(take());
        for _ in 0..2 {
            mark!("undo");
        }
        mark!("adopt");
        assert_eq!(take(), BTreeMap::from([("adopt", 1), ("undo", 2)]));
        assert_eq!(take(), BTreeMap::new());
    }

    #[test]
    fn marks_are_listed_in_order_and_once_and_found_in_their_places() {
        assert!(ALL.is_sorted_by(|left, right| left < right));
        for (place, name) in ALL.into_iter().enumerate() {
            assert_eq!(place_of(name), place);
        }
    }

    #[test]
    #[should_panic(expected = "marks are listed")]
    fn mark_that_is_not_listed_is_refused() {
        let _ = place_of("no-such-mark");
    }
}
