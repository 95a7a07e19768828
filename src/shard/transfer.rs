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

#[cfg(test)]
pub(super) use self::receiving::TransferError;
pub(super) use self::receiving::{CheckpointReceiver, Received};
pub(super) use self::serving::{CheckpointServer, PartAnswer, PartAsk};

use super::Core;
use crate::base::ids::{Index, PartitionId};
use crate::storage::checkpoint::CheckpointId;

impl Core {
    /// Asks for a part of a partition's checkpoint: of the newest one (`index` 0), whose file has
    /// this size, or of the one that is being given away already. It comes by
    /// [`CheckpointServer::next_answer`], after inputs to come.
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
pub(super) enum TransferRefused {
    /// The partition hasn't this one, or not any more.
    NoCheckpoint,
    /// Too many wait.
    Busy,
}
