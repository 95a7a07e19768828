//! The log's format and its plans, without a file handle: see `record`, `block`, `wal`, `recovery`.

pub mod block;
pub mod codec;
pub mod error;
pub mod identity;
pub mod record;
pub mod recovery;
pub mod replay;
mod scan;
pub mod segment_name;
pub mod state;
pub mod wal;
