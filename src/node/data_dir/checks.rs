//! Whether a data directory is the one that its node's configuration means.

use super::{DataDirError, DataDirOptions, Filesystem, Keeps, Notice};
use crate::base::cast::u64_from;
use crate::storage::identity::{Current, Identity, Members};
use crate::storage::wal::Durability;

/// Whether what it lies on can promise what it must.
pub(super) fn filesystem(
    options: &DataDirOptions,
    filesystem: Filesystem,
    notices: &mut Vec<Notice>,
) -> Result<(), DataDirError> {
    match filesystem.keeps() {
        Keeps::InPlace => {}
        Keeps::Unknown => notices.push(Notice::Unknown { filesystem }),
        Keeps::InMemory => notices.push(Notice::NotDurable { filesystem }),
        Keeps::Copies if options.durability == Durability::Sync && !options.allow_copy_on_write => {
            return Err(DataDirError::CopyOnWrite { path: options.path.clone(), filesystem });
        }
        Keeps::Copies => notices.push(Notice::CopyOnWrite { filesystem }),
    }
    Ok(())
}

/// Whether it is the directory of this node of this cluster.
pub(super) fn identity(options: &DataDirOptions, identity: &Identity) -> Result<(), DataDirError> {
    let path = || options.path.clone();
    for (what, found, wanted) in [
        ("cluster", &identity.cluster, &options.cluster),
        ("member", &identity.member, &options.member().to_owned()),
    ] {
        if found != wanted {
            let (found, wanted) = (found.clone(), wanted.clone());
            return Err(DataDirError::Another { path: path(), what, found, wanted });
        }
    }
    if let Some(wanted) = options.partition_count
        && identity.partition_count != wanted
    {
        return Err(DataDirError::Another {
            path: path(),
            what: "number of partitions",
            found: identity.partition_count.to_string(),
            wanted: wanted.to_string(),
        });
    }
    let wanted = Members::of(&options.nodes);
    if identity.members.digest != wanted.digest {
        let (found, wanted) = (identity.members.count, wanted.count);
        return Err(DataDirError::OtherMembers { path: path(), found, wanted });
    }
    if identity.members != wanted {
        return Err(DataDirError::Another {
            path: path(),
            what: "replication factor",
            found: identity.members.replication_factor.to_string(),
            wanted: wanted.replication_factor.to_string(),
        });
    }
    Ok(())
}

/// What of its layout isn't as it was asked for.
pub(super) fn layout(options: &DataDirOptions, current: Current, notices: &mut Vec<Notice>) {
    if current.shard_count != options.shard_count {
        let (from, to) = (current.shard_count, options.shard_count);
        notices.push(Notice::Rehoming { from, to });
    }
    if current.segment_size_bytes != u64_from(options.segment_size_bytes) {
        let size_bytes = current.segment_size_bytes;
        notices.push(Notice::SegmentSize { size_bytes });
    }
}
