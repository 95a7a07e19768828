//! The deterministic state machine: named maps of binary keys and values.
//!
//! A shard has one [`arena::Arena`], the memory of all its entries, and for each of its partitions
//! a [`partition::PartitionMap`], which executes commands, undoes those that turn out not to be in
//! the log, and answers queries about the state as of any index that may still be undone to.
//! Nothing here reads a clock, draws a random number or performs I/O: time is that of the log.
//!
//! ```text
//! partition   execute, undo_to, commit, sweep      reads    query as of an index
//!   maps        names, sizes, lives of maps        outcome  results and their encoding
//!   expiry      what expires next                  digest   a sum over entries and sessions
//!   sessions    exactly-once                       operation   commands and queries, checked
//!   journal     what undoing takes
//!   table       hash -> record reference           hasher   the keyed hash
//!     walk        over the table as it was         checkpoint   the state as bytes, and back
//!     directory   range of the hash -> page
//!     page_pool   pages of eight cache lines
//!   arena       records by 4-byte reference        record   one entry's bytes
//!     footprint how much of an arena entries will take
//! ```
//!
//! # Passes
//!
//! A lookup is two dependent cache misses: a line of the table, then a record. A pass of requests
//! takes them in stages, so that the misses of all requests overlap: hash all
//! ([`hasher::KeyHasher::hash`]), touch all lines ([`partition::PartitionMap::touch_lines`]), touch
//! all records ([`partition::PartitionMap::touch_record`]), then execute one after the other.
//! Stages are hints: leaving them out changes nothing but the time it takes.
//!
//! # The longest pauses
//!
//! No operation works off more than a page: the split of a page of 96 keys is the longest, and a
//! directory node of 4 KiB is copied at most; if much expires at once a command removes 64 other
//! entries and 8 sessions first. A slice of a checkpoint has a budget, and may exceed
//! it by a page or a large value. [`partition::PartitionMap::commit`] and
//! [`partition::PartitionMap::undo_to`] take as long as there are commands to release or undo.

pub mod arena;
pub mod checkpoint;
pub mod digest;
pub mod footprint;
pub mod hasher;
pub mod operation;
pub mod outcome;
pub mod partition;
pub mod reads;

pub use maps::MapSize;

mod directory;
mod expiry;
mod journal;
mod maps;
mod page_pool;
mod record;
mod sessions;
mod table;
