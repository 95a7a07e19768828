//! A shard's segments as files: listed, read around the page cache, made durable, tidied up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::read_ahead::ReadAhead;
use super::{DataDir, DataDirError, Notice, doing, sync_folder};
use crate::base::ids::{PartitionId, ShardId};
use crate::storage::recovery::{
    LogFolder, Recovered, Salvage, SegmentFile, Suspect, recover_member,
};
use crate::storage::segment_name::{PREPARING_SUFFIX, segment_of_file_name};

/// A shard's log as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLog {
    /// What it says.
    pub recovered: Recovered,
    /// What the operator should be told.
    pub notices: Vec<Notice>,
}

pub(super) fn recover_shard(
    data_dir: &DataDir,
    shard: ShardId,
    apply: &mut impl Salvage,
) -> Result<ShardLog, DataDirError> {
    let folder = data_dir.shard_folder(shard);
    let files = list(&folder)?;
    let paths: Vec<PathBuf> =
        files.iter().map(|file| data_dir.segment_path(shard, file.name)).collect();
    let mut source = ReadAhead::new(paths.clone(), data_dir.direct);
    let partitions: Vec<PartitionId> = data_dir.partitions_of(shard).collect();
    let log = LogFolder {
        key: data_dir.log_key(shard),
        boot_epoch: data_dir.boot_epoch,
        segment_size_bytes: data_dir.segment_size_bytes(),
        partitions: &partitions,
        files: &files,
        serves_peers: data_dir.has_peers(),
    };
    let recovered = recover_member(&log, &mut source, apply).map_err(DataDirError::Storage)?;
    // What was read may so far be in the device's cache only, of a write that the last process
    // didn't see complete. From now on others rely on it.
    for path in &paths {
        File::open(path).and_then(|file| file.sync_data()).map_err(doing("syncing", path))?;
    }
    remove_garbage(data_dir, shard, &recovered)?;
    let mut notices = recovering(shard, &recovered.suspects);
    notices.extend(recovered.torn.map(|tail| Notice::Torn { shard, tail }));
    Ok(ShardLog { recovered, notices })
}

/// Which partitions recover from other members: a notice for each reason.
fn recovering(shard: ShardId, suspects: &[Suspect]) -> Vec<Notice> {
    let mut notices: Vec<Notice> = Vec::new();
    for suspect in suspects {
        let known = notices.iter_mut().find_map(|notice| match notice {
            Notice::Recovering { why, partitions, .. } if *why == suspect.suspicion => {
                Some(partitions)
            }
            _ => None,
        });
        match known {
            Some(partitions) => partitions.push(suspect.partition),
            None => notices.push(Notice::Recovering {
                shard,
                why: suspect.suspicion,
                partitions: vec![suspect.partition],
            }),
        }
    }
    notices
}

/// The segments in a folder, ascending. What was being prepared is removed: it has no name yet.
fn list(folder: &Path) -> Result<Vec<SegmentFile>, DataDirError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(doing("listing", folder))? {
        let entry = entry.map_err(doing("listing", folder))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(prepared) = name.strip_suffix(PREPARING_SUFFIX)
            && segment_of_file_name(prepared).is_some()
        {
            let path = entry.path();
            fs::remove_file(&path).map_err(doing("removing", &path))?;
        } else if let Some(segment) = segment_of_file_name(name) {
            let size_bytes = entry.metadata().map_err(doing("looking at", folder))?.len();
            files.push(SegmentFile { name: segment, size_bytes });
        }
    }
    files.sort_unstable_by_key(|file| file.name);
    Ok(files)
}

/// Removes segments that a durable snapshot doesn't count any more. They aren't used again as those
/// that are let go while the log runs: which of them have torn blocks, of a boot's end or damaged,
/// said only the snapshots that counted them; and to read or to fill them, in order to know, costs
/// what a new one does.
fn remove_garbage(
    data_dir: &DataDir,
    shard: ShardId,
    recovered: &Recovered,
) -> Result<(), DataDirError> {
    for &segment in &recovered.garbage {
        let path = data_dir.segment_path(shard, segment);
        fs::remove_file(&path).map_err(doing("removing", &path))?;
    }
    if recovered.garbage.is_empty() {
        return Ok(());
    }
    sync_folder(&data_dir.shard_folder(shard))
}
