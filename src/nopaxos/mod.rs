//! NOPaxos ("Just Say NO to Paxos Overhead", OSDI 2016) as pure machines, one set for each
//! partition. Payloads are opaque here: a command is bytes with a place in the log.
//!
//! | machine | what it does |
//! | --- | --- |
//! | [`Sequencer`] | stamps commands with (term, message id, timestamp) |
//! | [`Replica`] | holds the log; as leader executes ahead of commitment; changes views |
//! | [`Collector`] | counts the replicas' responses and answers once a quorum has spoken |
//!
//! A slot's index is `base(term) + message id`, always. The watermarks of a replica, in order:
//!
//! ```text
//! sync point <= prepared;  sync point <= applied <= appended;  durable <= appended
//! ```
//!
//! What a machine wants done it says to an [`Effects`] sink, synchronously and with static
//! dispatch: a queue of effects would cost more than most operations. Members other than oneself
//! don't exist yet; a group of one runs the same code with a quorum of one: its every start is a
//! view change that is decided by its own vote.

mod collector;
mod effects;
mod group;
pub mod message;
pub mod replica;
mod sequencer;

pub use collector::Collector;
pub use effects::{Effects, Persist, Persisted, ViewStarted};
pub use group::Group;
pub use replica::{Replica, Restored, Status};
pub use sequencer::{Sequencer, Stamp};
