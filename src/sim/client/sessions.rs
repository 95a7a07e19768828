//! A client's sessions: what lets it send a command again, to whatever node, until it is told what
//! came of it; and some that it was told of all the same, to see that it is told the same.

use std::collections::{BTreeMap, BTreeSet};

use super::Client;
use crate::base::ids::PartitionId;
use crate::base::limits::SESSION_WINDOW_COUNT;
use crate::sim::checker::{Checker, Violation};
use crate::sim::history::{Action, Outcome, Scope, SessionStep};
use crate::sim::swarm::WorkloadMix;

/// A command's place in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) partition: PartitionId,
    pub(super) session: u64,
    /// 0: it keeps or closes the session.
    pub(super) sequence: u64,
}

/// A session that is open, as far as the client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    id: u64,
    next_sequence: u64,
    /// The numbers of which the results are still needed.
    needed: BTreeSet<u64>,
}

impl Session {
    fn ack_below(&self) -> u64 {
        self.needed.first().copied().unwrap_or(self.next_sequence)
    }
}

/// A client's sessions: one in each partition at most.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: BTreeMap<PartitionId, Session>,
    /// Where one is being opened.
    opening: BTreeSet<PartitionId>,
}

impl Sessions {
    /// What a command says that it acknowledges.
    pub(super) fn ack_below(&self, call: Call) -> u64 {
        let session = self.open.get(&call.partition).filter(|open| open.id == call.session);
        let ack_below = session.map_or(1, Session::ack_below);
        if call.sequence == 0 { ack_below } else { ack_below.min(call.sequence) }
    }

    /// A session was opened, or that came to nothing.
    pub(super) fn on_opened(&mut self, partition: PartitionId, id: Option<u64>) {
        self.opening.remove(&partition);
        if let Some(id) = id {
            let session = Session { id, next_sequence: 1, needed: BTreeSet::new() };
            self.open.insert(partition, session);
        }
    }

    /// A session is gone.
    pub(super) fn forget(&mut self, call: Call) {
        if self.open.get(&call.partition).is_some_and(|open| open.id == call.session) {
            self.open.remove(&call.partition);
        }
    }

    /// A command's result isn't needed any more.
    pub(super) fn acknowledge(&mut self, call: Call) {
        let session = self.open.get_mut(&call.partition).filter(|open| open.id == call.session);
        if let Some(session) = session {
            session.needed.remove(&call.sequence);
        }
    }

    /// The next command of a partition's session; `None`: it has none, or its window is full.
    fn next_call(&mut self, partition: PartitionId) -> Option<Call> {
        let session = self.open.get_mut(&partition)?;
        let sequence = session.next_sequence;
        if sequence - session.ack_below() >= SESSION_WINDOW_COUNT {
            return None;
        }
        session.next_sequence += 1;
        session.needed.insert(sequence);
        Some(Call { partition, session: session.id, sequence })
    }

    /// A command beyond the window of those before it: it isn't taken until the first of them is
    /// done. `None`: there are none.
    fn call_beyond(&mut self, partition: PartitionId) -> Option<Call> {
        let session = self.open.get_mut(&partition)?;
        let first = *session.needed.first()?;
        let sequence = session.next_sequence.max(first + SESSION_WINDOW_COUNT);
        session.next_sequence = sequence + 1;
        session.needed.insert(sequence);
        Some(Call { partition, session: session.id, sequence })
    }
}

impl Client {
    /// The session of which a command is to be part, if any; or, instead of the command, what is to
    /// be done with a session first.
    pub(super) fn choose_session(
        &mut self,
        action: Action,
        partition: Option<PartitionId>,
        mix: &WorkloadMix,
    ) -> (Action, Option<Call>) {
        let is_write = may_be_called(&action) && self.prng.below(100) < mix.session_percent;
        let Some(partition) = partition.filter(|_| is_write) else { return (action, None) };
        let step = |step| Action::Session { partition, step };
        match self.sessions.open.get(&partition) {
            None if self.sessions.opening.contains(&partition) => (action, None),
            None => {
                self.sessions.opening.insert(partition);
                (step(SessionStep::Open { ttl_ms: mix.session_ttl_ms }), None)
            }
            Some(&Session { id: session, ref needed, .. }) => {
                let whole = Some(Call { partition, session, sequence: 0 });
                let has_none_open = needed.is_empty();
                match self.prng.below(30) {
                    0 => (step(SessionStep::Keep), whole),
                    1 if has_none_open => {
                        self.sessions.open.remove(&partition);
                        (step(SessionStep::Close), whole)
                    }
                    2 => (action, self.sessions.call_beyond(partition)),
                    _ => (action, self.sessions.next_call(partition)),
                }
            }
        }
    }
}

/// What the history may say of a command that was sent more than once: of what comes with an
/// answer only the version of a put is certain to be that of the first time.
pub(super) fn as_of_first(outcome: Outcome, is_repeated: bool) -> Outcome {
    match outcome {
        Outcome::Removed { .. } | Outcome::Cleared { .. } if is_repeated => Outcome::Unknown,
        Outcome::ConditionFailed { .. } if is_repeated => {
            Outcome::Failed(crate::proto::p2pmap::v1::error::Code::ConditionFailed)
        }
        // An earlier copy of it may have been executed while the session was there.
        Outcome::Failed(_) if is_repeated => Outcome::Unknown,
        other => other,
    }
}

/// That a command is answered as it was the first time.
pub(super) fn check_repeated(
    action: &Action,
    first: &Outcome,
    now: &Outcome,
) -> Result<(), Violation> {
    let is_same = match (first, now) {
        // It isn't known any more, or couldn't be asked.
        (_, Outcome::Failed(_) | Outcome::Unknown) => true,
        (
            Outcome::Removed { existed, previous, .. },
            Outcome::Removed { existed: again, previous: again_previous, .. },
        ) => existed == again && previous == again_previous,
        (
            Outcome::ConditionFailed { current, .. },
            Outcome::ConditionFailed { current: again, .. },
        ) => current == again,
        (Outcome::Cleared { entries, .. }, Outcome::Cleared { entries: again, .. }) => {
            entries == again
        }
        (first, now) => first == now,
    };
    if is_same {
        return Ok(());
    }
    let what = format!("{action:?} was answered with {first:?}, and sent again with {now:?}");
    Err(Violation::new(Checker::ExactlyOnce, what))
}

/// Whether a command may be part of a session: it is about one partition.
const fn may_be_called(action: &Action) -> bool {
    matches!(
        action,
        Action::Put { .. }
            | Action::Remove { .. }
            | Action::Clear { scope: Scope::Partition(_), .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Index;
    use crate::sim::history::Key;

    const PARTITION: PartitionId = PartitionId(3);

    #[test]
    fn results_are_acknowledged_up_to_the_first_that_is_needed_and_the_window_is_kept() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.next_call(PARTITION), None, "it has no session");
        sessions.on_opened(PARTITION, Some(9));
        let calls: Vec<Call> = (0..40).map_while(|_| sessions.next_call(PARTITION)).collect();
        assert_eq!(calls.len(), usize::try_from(SESSION_WINDOW_COUNT).unwrap());
        sessions.acknowledge(calls[1]);
        assert_eq!(sessions.ack_below(calls[2]), 1);
        sessions.acknowledge(calls[0]);
        assert_eq!(sessions.ack_below(calls[2]), 3);
        assert_eq!(sessions.ack_below(calls[0]), 1, "never more than its own number");
        let other = Call { session: 8, ..calls[0] };
        sessions.forget(other);
        assert!(sessions.next_call(PARTITION).is_some(), "another session is gone, not this one");
        sessions.forget(calls[0]);
        assert_eq!(sessions.next_call(PARTITION), None);
    }

    #[test]
    fn command_beyond_the_window_is_in_it_once_those_before_it_are_done() {
        let mut sessions = Sessions::default();
        sessions.on_opened(PARTITION, Some(9));
        assert_eq!(sessions.call_beyond(PARTITION), None, "nothing is before it");
        let first = sessions.next_call(PARTITION).expect("the session is open");
        let beyond = sessions.call_beyond(PARTITION).expect("one is before it");
        assert_eq!(beyond.sequence, first.sequence + SESSION_WINDOW_COUNT);
        assert_eq!(sessions.ack_below(beyond), first.sequence, "it doesn't fit");
        let further = sessions.call_beyond(PARTITION).expect("two are before it");
        assert!(further.sequence > beyond.sequence, "no number is given twice");
        assert_eq!(sessions.next_call(PARTITION), None, "the window is full");
        sessions.acknowledge(first);
        assert_eq!(sessions.ack_below(beyond), beyond.sequence);
    }

    #[test]
    fn another_answer_to_the_same_command_is_found() {
        let key = Key { map: 0, number: 1 };
        let action = Action::Remove { key, condition: None, wants_previous: false };
        let removed =
            |index, existed| Outcome::Removed { index: Index(index), existed, previous: None };
        let check = |now: &Outcome| check_repeated(&action, &removed(4, true), now);
        check(&removed(7, true)).expect("the same, in a slot of its own");
        check(&Outcome::Unknown).expect("nothing was said");
        let violation = check(&removed(7, false)).expect_err("it was executed again");
        assert_eq!(violation.checker, Checker::ExactlyOnce);
    }

    #[test]
    fn what_was_sent_twice_is_certain_only_of_a_puts_version() {
        let written = Outcome::Written { index: Index(3), previous: None };
        assert_eq!(as_of_first(written.clone(), true), written);
        let removed = Outcome::Removed { index: Index(3), existed: true, previous: None };
        assert_eq!(as_of_first(removed.clone(), false), removed);
        assert_eq!(as_of_first(removed, true), Outcome::Unknown);
    }
}
