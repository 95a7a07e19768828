//! A shard that has nothing to do lets its core sleep: one whose deadline has come turn after turn,
//! and with which nothing happens, would take the core for as long as that lasts.

use super::{Checker, Violation};
use crate::base::ids::ShardId;
use crate::base::limits::IDLE_TURN_COUNT_MAX;
use crate::sim::NodeId;

/// What a turn of a shard was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnSeen {
    /// Something came, or something was done: said, written, asked for, changed.
    pub is_busy: bool,
    /// The next one is due at once.
    pub is_due_again: bool,
}

/// A shard's turns in which nothing happened, since the last one in which something did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    idle_count: u32,
}

impl Rest {
    /// Checks a turn. A few that nobody sees anything of are allowed: work is done in pieces.
    ///
    /// # Errors
    /// If there were too many of them.
    pub fn check(
        &mut self,
        (node, shard): (NodeId, ShardId),
        seen: TurnSeen,
    ) -> Result<(), Violation> {
        self.idle_count = match seen {
            TurnSeen { is_busy: false, is_due_again: true } => self.idle_count + 1,
            _ => 0,
        };
        if self.idle_count <= IDLE_TURN_COUNT_MAX {
            return Ok(());
        }
        let count = self.idle_count;
        let what =
            format!("node {node}: shard {shard} was due {count} times, and nothing happened");
        Err(Violation::new(Checker::Rest, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: TurnSeen = TurnSeen { is_busy: false, is_due_again: true };

    fn turns(rest: &mut Rest, seen: TurnSeen, count: u32) -> Result<(), Violation> {
        (0..count).try_for_each(|_| rest.check((NodeId(0), ShardId(1)), seen))
    }

    #[test]
    fn shard_that_is_due_again_and_again_for_nothing_is_found() {
        let mut rest = Rest::default();
        turns(&mut rest, IDLE, IDLE_TURN_COUNT_MAX).expect("so many are allowed");
        let violation = turns(&mut rest, IDLE, 1).expect_err("one more isn't");
        assert_eq!(violation.checker, Checker::Rest);
    }

    #[test]
    fn shard_that_does_something_now_and_then_may_be_due_at_once() {
        for other in [
            TurnSeen { is_busy: true, is_due_again: true },
            TurnSeen { is_busy: false, is_due_again: false },
        ] {
            let mut rest = Rest::default();
            for _ in 0..3 {
                turns(&mut rest, IDLE, IDLE_TURN_COUNT_MAX).expect("so many are allowed");
                turns(&mut rest, other, 1).expect("it counts anew from here");
            }
        }
    }
}
