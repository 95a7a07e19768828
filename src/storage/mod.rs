//! The log's format and its plans, without a file handle: see `record`, `block`, `wal`, `recovery`.

pub mod block;
pub mod record;
