//! NOPaxos ("Just Say NO to Paxos Overhead", OSDI 2016) as pure machines, one set for each
//! partition. Payloads are opaque here: a command is bytes with a place in the log.
//!
//! | machine | what it does |
//! | --- | --- |
//! | [`Sequencer`] | stamps commands with (term, message id, timestamp) and sends them to all |
//! | [`Replica`] | holds the log; as leader executes ahead of commitment; changes views |
//! | [`Collector`] | counts the replicas' responses and answers once a quorum has spoken |
//! | [`Member`] | all three as one: what a shard has for each of its partitions |
//!
//! A slot's index is `base(term) + message id`, always. The watermarks of a replica, in order:
//!
//! ```text
//! sync point <= prepared <= last;  sync point <= applied <= last;  durable <= last
//! ```
//!
//! What a machine wants done it says to an [`Effects`] sink, synchronously and with static
//! dispatch: a queue of effects would cost more than most operations. What other members say comes
//! as [`message::Message`]; a group of one runs the same code with a quorum of one: its every start
//! is a view change that is decided by its own vote.
//!
//! # Where this differs from the specification, and why
//!
//! - A no-op's message id is part of the chain digest, and a `StartView` names no-ops by their
//!   slots alone. For a slot of a term before the merged one nobody can compute the message id, so
//!   a member that lacks such a slot fetches the no-op like a value (A3, M5).
//! - A follower that has adopted a view says so at once, with a `SyncResponse` of the base: by
//!   adopting it has compared all slots up to there. The leader would ask for it 25 ms later.
//! - What is below the no-ops that a `SyncPrepare` names isn't fetched beforehand (Y2): the chain
//!   digest covers the whole prefix, so slots are fetched only if it differs. A follower whose
//!   prepared prefix ends below what the leader believes says so when it is told of a sync point
//!   beyond it, and the leader names the no-ops from there.
//! - A checkpoint that was fetched for an adoption is a record of its own before the adoption's
//!   (W6): it counts by itself, see `replica::adoption`.
//! - A member that alone doesn't hear the leader would, by E3, be followed after a while: it names
//!   a higher term without pause, as one that is stuck in a higher view does. (Trace: C is cut off
//!   A only; after four timeouts B endorses C's wish and A is deposed, against E4.) So a wish for
//!   silence's sake pauses; those who don't hear the leader either join it at once.
//! - Commands whose results a collector elsewhere has lost are asked for by sending them again; a
//!   later command's answer doesn't wait for them (2.5).

mod collector;
mod effects;
mod group;
mod ignored;
mod invariant;
mod local;
mod member;
mod member_set;
pub mod message;
mod queries;
pub mod replica;
mod sequencer;
mod settings;
mod timeout;

pub use collector::Collector;
pub use effects::{
    ChunkOutcome, Effects, GivenBack, Persist, Persisted, Round, Stored, ViewStarted,
};
pub use group::{Group, place_of_leader};
pub use ignored::{IgnoreReason, Ignored};
pub use member::Member;
pub use replica::{Replica, Restored, Status};
pub use sequencer::{Sequencer, Stamp};
pub use settings::{Settings, Survival, Timing};

#[cfg(test)]
mod tests;
