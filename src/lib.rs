//! p2pmap: a replicated, partitioned key-value map server.
//!
//! A shard is a pure state machine; one core owns one shard; nothing is shared but rings. The
//! levels of the house, from the top; a room names only rooms of a lower level, and rooms of one
//! level are blind to each other (`tests/tidy.rs` checks it):
//!
//! ```text
//! 8  main.rs  cli/                    choose a command
//! 7  chaos/    drill/                 real clusters, made to fail, and checked | measured
//! 6  node/    client/    bench/       assemble a node | talk to one | load it
//! 5  runtime/ sim/                    two hosts of the same shard: real I/O | simulated I/O
//! 4  shard/                           one core's work, composed               -- pure from here:
//! 3  wire/                            bytes <-> requests, replies             no async, no I/O,
//! 2  map/     nopaxos/   storage/     state machine | replication | formats   no clock, no chance
//! 1  proto/   metrics/                generated types | counters
//! 0  base/                            ids, limits, time, prng, checksum
//! ```
//!
//! A request's path is the order of the rooms: socket → frame → route → shard → sequencer →
//! replica → log → map → reply. Completions come back as inputs of a later turn.
//!
//! Where to read next: [`shard`] for how the pieces are put together, [`nopaxos`] for the protocol,
//! [`storage`] for the format on disk, [`runtime`] for a core's loop.

pub mod base;
pub mod map;
pub mod metrics;
pub mod nopaxos;
pub mod proto;
pub mod shard;
pub mod storage;
pub mod wire;

pub mod runtime;
pub mod sim;

pub mod bench;
pub mod client;
pub mod node;

pub mod chaos;
pub mod drill;

pub mod cli;
