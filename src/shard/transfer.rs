//! Checkpoints on their way between members, in parts that each say what they are (2.1).
//!
//! What is transferred is the payload of a checkpoint's file, part *n* being that of chunk *n*. Its
//! digest of 32 bytes is that of these bytes, as the last chunk has it, and that of the state. A
//! member that receives one loads it into a map of its own as it comes, and writes it to a file of
//! its own; both count only when the last part has come and all digests fit. What is there of a
//! transfer stays when a connection breaks: it goes on with the parts that are missing, as long as
//! they are of the same checkpoint.

mod receiving;
mod serving;

pub use self::receiving::{CheckpointReceiver, Received, TransferError};
pub use self::serving::{CheckpointServer, PartAnswer, PartAsk};

use super::{Core, Shard};
use crate::base::ids::{Index, PartitionId};
use crate::storage::checkpoint::CheckpointId;

impl Shard {
    /// Asks for a part of a partition's checkpoint: of the newest one (`index` 0), or of the one
    /// that is being given away already. It comes by [`Shard::take_checkpoint_part`], after inputs
    /// to come.
    ///
    /// # Errors
    /// If there is none, or too many requests wait.
    ///
    /// # Panics
    /// If the shard doesn't own the partition.
    pub fn ask_checkpoint_part(
        &mut self,
        token: u64,
        partition: PartitionId,
        index: Index,
        number: u64,
    ) -> Result<(), TransferRefused> {
        let newest_size_bytes = self.partitions[self.place(partition)].view.checkpoint_size_bytes;
        self.core.ask_part(token, (partition, newest_size_bytes), index, number)
    }

    /// The next answer to [`Shard::ask_checkpoint_part`].
    pub fn take_checkpoint_part(&mut self) -> Option<PartAnswer> {
        self.core.serving.next_answer()
    }
}

impl Core {
    /// As [`Shard::ask_checkpoint_part`]; with the size of the partition's newest checkpoint.
    pub(super) fn ask_part(
        &mut self,
        token: u64,
        (partition, newest_size_bytes): (PartitionId, u64),
        index: Index,
        number: u64,
    ) -> Result<(), TransferRefused> {
        let state = self.log.state().partition(partition);
        let newest = state.map_or(Index(0), |state| state.checkpoint);
        let id = CheckpointId { partition, index: if index == Index(0) { newest } else { index } };
        let file_size_bytes = if id.index == newest && newest > Index(0) {
            Some(newest_size_bytes)
        } else {
            self.serving.file_size_bytes(id)
        };
        let Some(file_size_bytes) = file_size_bytes else {
            return Err(TransferRefused::NoCheckpoint);
        };
        let ask = PartAsk { token, id, file_size_bytes, number };
        let asked = self.serving.ask(self.now.monotonic, ask);
        asked.map_err(|_| TransferRefused::Busy)
    }
}

/// Why a part of a checkpoint can't be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferRefused {
    /// The partition hasn't this one, or not any more.
    NoCheckpoint,
    /// Too many wait.
    Busy,
}
