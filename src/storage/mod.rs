//! The log of a shard: its format and its plans, without a file handle. One log serves all of a
//! shard's partitions, because a core has one device queue and one durable write can serve every
//! partition that has something to say.
//!
//! ```text
//! log       segments of one size, numbered from 1, each in a file of its own
//! segment   4 KiB blocks; zeros until they are written, once, from the first to the last
//! batch     1 to 64 blocks: one write; complete when all of its blocks are there
//! block     a header of 32 bytes and up to 4064 bytes of records
//! record    length, kind, fields; spans blocks and batches, never segments
//! ```
//!
//! | file | what it knows |
//! | --- | --- |
//! | [`record`], [`codec`] | what is said of partitions, and how in bytes |
//! | [`block`] | a block's header; what can be found where one is expected |
//! | [`state`] | what a record does to where its partition stands |
//! | [`wal`] | writing: records in, writes out, completions in, durability out |
//! | [`ledger`] | which partition needs which segment, and how much it has logged |
//! | `record_stream` | records out of blocks that are read once more |
//! | [`carry`] | slots out of an old segment, to be appended again |
//! | [`slot_index`] | where slots lie in the segments |
//! | [`old_slots`] | old slots read back, for peers |
//! | `supply` | the segments' files: written, ready, free to be used again |
//! | [`recovery`] | reading: which segments count, where the log ends, torn or damaged |
//! | [`scrub`] | reading what was written once more, while all is well |
//! | [`replay`] | from records to partitions: what is stable is handed on, the rest kept |
//! | [`checkpoint`] | the file of a partition's state at one slot |
//! | [`identity`] | IDENTITY, BOOT, CURRENT |
//! | [`witness`] | what is remembered of another member's disk |
//! | [`error`] | what can be wrong, whose fault it is, what to do |
//!
//! # Which rule answers which failure
//!
//! - *Power loss while writing*: a batch counts only when it is complete, and nothing after the
//!   first that isn't. Who waits for a batch is told of it in order, so none of what is cut was
//!   acknowledged. A block is never written twice, so a torn write harms nothing older.
//! - *Bit rot, lost and misdirected writes*: each block says which log, segment, place and batch it
//!   belongs to, and which batches were complete when it was written. A bad block in a batch that
//!   some later block knows to have been complete is damage, not a torn tail. After 5 ms of
//!   idleness, and when the log is closed, an empty batch says so of the last one.
//! - *A torn write that lands after recovery didn't find it*: each boot goes on in a segment of its
//!   own, whose snapshot lists which segments count and up to which batch. What isn't listed is
//!   void, whatever becomes of it. Batch numbers carry the boot, so none is used twice.
//! - *A segment that is recycled with its promises*: each segment begins with a snapshot of where
//!   all partitions stand. It is the fold of all records before it, by the same code that replays
//!   them, and replaying compares the two.
//! - *Files that were cut, removed or come from elsewhere*: segments have one length and numbers
//!   without gaps; checksums begin with a salt of data directory and generation.
//!
//! What it can't know: that a whole log was put back to an older state, including every later
//! trace; and damage to the last batch before a crash, if the crash came within the 5 ms.

pub mod block;
pub mod carry;
pub mod checkpoint;
pub mod codec;
pub mod error;
pub mod halt;
pub mod identity;
pub mod ledger;
pub mod old_slots;
pub mod record;
mod record_stream;
pub mod recovery;
pub mod replay;
mod scan;
pub mod scrub;
pub mod segment_name;
pub mod slot_index;
pub mod state;
mod supply;
pub mod wal;
pub mod witness;
