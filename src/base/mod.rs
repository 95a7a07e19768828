//! What every other room may use: identifiers, limits, time, randomness, checksums. Level 0 of the
//! house: it depends on nothing of ours.

pub mod cast;
pub mod chain;
pub mod checksum;
pub mod cluster;
pub mod ids;
pub mod io_error;
pub mod limits;
pub mod mark;
pub mod mutant;
pub mod payload;
pub mod prng;
pub mod shards;
pub mod time;
