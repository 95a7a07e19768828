//! What has been said and done for good. Facts are never taken back, so they are the network, in
//! which a message that was sent may arrive at any time, and they are the history, in which no two
//! facts may contradict each other: each invariant is a pair of facts that must not both be.

use crate::base::ids::{Incarnation, Index, MemberId, MessageId, TermId};
use crate::nopaxos::message::{LogSummary, Message};

/// A message on its way, with what its sender knew of lives: streams are first in, first out, and a
/// raised crash vector goes before any later message (3.6).
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) from: MemberId,
    pub(super) to: MemberId,
    pub(super) life: Incarnation,
    pub(super) vector: Vec<Incarnation>,
    pub(super) message: Message,
}

/// Something that is so from now on.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    Sent(Sent),
    /// A view's leader begins it with these slots, as far as its disk holds them.
    Began {
        term: TermId,
        base: Index,
        slots: Vec<(Index, Option<u64>)>,
    },
    /// A process stamps in a term.
    Stamps {
        term: TermId,
        by: MemberId,
        process: u64,
    },
    /// A client has its answer.
    Answered {
        op: u64,
        index: Index,
        term: TermId,
    },
    /// A slot is stable at some member, which is in this term.
    Stable {
        index: Index,
        message_id: MessageId,
        op: Option<u64>,
        term: TermId,
    },
    /// The state machine as of a stable slot.
    State {
        index: Index,
        state: u128,
    },
    /// A read begins; slots up to `covers` were answered or read before.
    Asked {
        read: u64,
        covers: Index,
    },
    /// A read is answered.
    Read {
        read: u64,
        index: Index,
        state: u128,
        term: TermId,
    },
}

impl Fact {
    /// Whether other facts can contradict it.
    pub(super) fn is_claim(&self) -> bool {
        match self {
            Self::Sent(sent) => {
                matches!(sent.message, Message::StartView { .. } | Message::Command(_))
            }
            _ => true,
        }
    }

    /// The last slot that a read which begins now must cover because of it.
    pub(super) fn covers(&self) -> Option<Index> {
        match self {
            Self::Answered { index, .. } | Self::Read { index, .. } => Some(*index),
            _ => None,
        }
    }
}

/// The invariant that two facts break together.
pub(super) fn contradiction(a: &Fact, b: &Fact) -> Option<&'static str> {
    one_sided(a, b).or_else(|| one_sided(b, a))
}

fn one_sided(a: &Fact, b: &Fact) -> Option<&'static str> {
    match (a, b) {
        (Fact::Sent(a), Fact::Sent(b)) => contradiction_of_messages(&a.message, &b.message),
        (
            Fact::Stamps { term, by, process },
            Fact::Stamps { term: other, by: by2, process: p2 },
        ) => {
            let is_other = (by, process) != (by2, p2);
            (term == other && is_other).then_some("I6: a term has two sequencers")
        }
        (Fact::Answered { op, index, .. }, Fact::Answered { op: op2, index: index2, .. }) => {
            ((op == op2) != (index == index2)).then_some("I11: an answer is given for two slots")
        }
        (
            Fact::Stable { index, message_id, op, .. },
            Fact::Stable { index: index2, message_id: id2, op: op2, .. },
        ) => {
            if index == index2 {
                return ((message_id, op) != (id2, op2)).then_some("I7: stable slots differ");
            }
            (op.is_some() && op == op2).then_some("I11: a command is executed twice")
        }
        (Fact::Stable { index, op, .. }, Fact::Answered { op: answered, index: at, .. }) => {
            (index == at && *op != Some(*answered)).then_some("I1: an answer was lost")
        }
        (Fact::Began { term, base, slots }, Fact::Answered { op, index, term: of }) => {
            let lost = of < term && !holds(*base, slots, *index, Some(*op));
            lost.then_some("I1: a view begins without an answer of an earlier one")
        }
        (Fact::Began { term, base, slots }, Fact::Stable { index, op, term: of, .. }) => {
            let lost = of < term && !holds(*base, slots, *index, *op);
            lost.then_some("I1: a view begins without a stable slot")
        }
        (Fact::State { index, state }, Fact::State { index: other, state: state2 }) => {
            (index == other && state != state2).then_some("I10: states differ")
        }
        (Fact::State { index, state }, Fact::Read { index: other, state: seen, .. }) => {
            (index == other && state != seen).then_some("I12: a read saw another state")
        }
        (Fact::Asked { read, covers }, Fact::Read { read: other, index, .. }) => {
            (read == other && index < covers).then_some("I12: a read misses what was answered")
        }
        (Fact::Began { term, base, .. }, Fact::Read { index, term: of, .. }) => {
            (of < term && base < index).then_some("I12: a view begins without what was read")
        }
        (Fact::Read { index, state, .. }, Fact::Read { index: other, state: state2, .. }) => {
            (index == other && state != state2).then_some("I12: two reads of a slot differ")
        }
        _ => None,
    }
}

/// Whether a view's log has this at a slot; what its leader's disk no longer holds is stable there
/// and compared as such.
fn holds(base: Index, slots: &[(Index, Option<u64>)], index: Index, op: Option<u64>) -> bool {
    let found = slots.iter().find(|(at, _)| *at == index);
    index <= base && found.is_none_or(|(_, found)| *found == op)
}

fn contradiction_of_messages(a: &Message, b: &Message) -> Option<&'static str> {
    match (a, b) {
        (
            Message::StartView { term, source_term, log },
            Message::StartView { term: term2, source_term: source2, log: log2 },
        ) => {
            let is_same = source_term == source2 && is_same_log(log, log2);
            (term == term2 && !is_same).then_some("I5: a view begins with two logs")
        }
        (Message::Command(a), Message::Command(b)) => {
            let is_one = (a.term, a.message_id) == (b.term, b.message_id);
            (is_one && a != b).then_some("I3: a stamp has two values")
        }
        _ => None,
    }
}

/// A copy that is sent after a truncation may begin later.
fn is_same_log(a: &LogSummary, b: &LogSummary) -> bool {
    let first = a.first.max(b.first);
    (a.last, a.chain) == (b.last, b.chain) && a.no_ops.range(first..).eq(b.no_ops.range(first..))
}
