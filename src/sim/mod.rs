//! The deterministic simulator: whole clusters of the real [`Shard`](crate::shard::Shard) in
//! virtual time, under everything that can go wrong, held against what must hold.
//!
//! ```text
//! clients --frames--> network --frames--> host: decode, route, pass --> Shard --> effects
//!    ^                   |                  ^                                        |
//!    '----- answers -----'                  '-- completions -- disk <---- writes ----'
//! ```
//!
//! A run is a function of its seed: [`swarm`] says what the seed turns on, [`schedule`] in which
//! order everything happens. Nothing here stands for the code under test: frames, log, checkpoints
//! and recovery are the real ones; simulated are time, the [`network`], the [`disk`]s, the
//! processes ([`cluster`]) and the clients with their [`history`]. What must hold says [`checker`].
//!
//! This room is the other host of a shard beside `runtime`, and knows nothing of that.

pub mod again;
pub mod batch;
pub mod checker;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod fault;
pub mod greeting;
pub mod history;
mod host;
pub mod links;
pub mod loss;
pub mod network;
mod node;
pub mod report;
pub mod schedule;
pub mod swarm;
pub mod trace;
mod transcript;

use std::fmt;

/// A node of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub u8);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u32);

/// A connection of a run; none has the number of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);
