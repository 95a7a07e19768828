//! A shard's checkpoints as files: found, and read around the page cache.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::{DataDir, DataDirError, doing};
use crate::base::ids::ShardId;
use crate::runtime::direct_io::{open_to_read, read_blocks_to_end};
use crate::storage::block::Block;
use crate::storage::checkpoint::{
    CheckpointId, CheckpointSource, checkpoint_file_name, checkpoint_of_file_name,
};
use crate::storage::wal::WalStart;

/// Reads the checkpoints in a shard's folder, one after the other.
#[derive(Debug)]
pub struct CheckpointReader {
    folder: PathBuf,
    direct: bool,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    id: CheckpointId,
    file: File,
}

impl CheckpointReader {
    fn open(&self, id: CheckpointId) -> io::Result<Open> {
        let path = self.folder.join(checkpoint_file_name(id));
        Ok(Open { id, file: open_to_read(&path, self.direct)? })
    }
}

impl CheckpointSource for CheckpointReader {
    fn read(&mut self, id: CheckpointId, offset: u64, blocks: &mut [Block]) -> io::Result<usize> {
        let open = match self.open.take() {
            Some(open) if open.id == id => open,
            _ => self.open(id)?,
        };
        let read = read_blocks_to_end(&open.file, offset, blocks);
        self.open = Some(open);
        read
    }
}

impl DataDir {
    /// What reads a shard's checkpoints.
    #[must_use]
    pub fn checkpoint_reader(&self, shard: ShardId) -> CheckpointReader {
        CheckpointReader { folder: self.shard_folder(shard), direct: self.direct, open: None }
    }

    /// The checkpoints of which the log knows nothing: they were finished but never recorded, or
    /// their removal was cut short.
    ///
    /// # Errors
    /// If the folder can't be listed.
    pub fn stale_checkpoints(
        &self,
        shard: ShardId,
        start: &WalStart,
    ) -> Result<Vec<CheckpointId>, DataDirError> {
        let folder = self.shard_folder(shard);
        let mut stale = Vec::new();
        for entry in fs::read_dir(&folder).map_err(doing("listing", &folder))? {
            let name = entry.map_err(doing("listing", &folder))?.file_name();
            let Some(id) = name.to_str().and_then(checkpoint_of_file_name) else { continue };
            let recorded = start.state.partition(id.partition).map(|found| found.checkpoint);
            let is_known =
                recorded == Some(id.index) || start.superseded.contains(&(id.partition, id.index));
            if !is_known {
                stale.push(id);
            }
        }
        stale.sort_unstable();
        Ok(stale)
    }
}
