//! The block device below a filesystem: the one that it is on, and the disks below that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::mount::Mount;
use super::tree::Tree;
use crate::base::limits::{HOST_DEVICE_COUNT_MAX, HOST_DEVICE_DEPTH_MAX};

/// A device with a request queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockDevice {
    /// Its name below `/sys/class/block`.
    pub(super) name: String,
    /// Where it is described.
    pub(super) folder: PathBuf,
    /// Whether a completed write may still be in the device's memory.
    pub(super) cache: Option<WriteCache>,
    /// Whether it rotates, or says so.
    pub(super) rotates: Option<bool>,
    /// Who orders its requests.
    pub(super) scheduler: Option<String>,
}

/// What a device does with a write that it has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteCache {
    /// It is where it belongs.
    Through,
    /// It may be in volatile memory; a single write can ask to go past that (FUA).
    BackWithFua,
    /// It may be in volatile memory until that is flushed as a whole.
    BackWithoutFua,
}

/// What a filesystem is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Devices {
    /// The one to which the filesystem writes: of a partition, the disk.
    pub(super) top: BlockDevice,
    /// The disks: the same one, or those of which it is made.
    pub(super) disks: Vec<BlockDevice>,
}

impl Devices {
    /// Those below a mount; none if it isn't on a device that can be seen.
    pub(super) fn below(tree: &Tree, mount: &Mount) -> Option<Self> {
        // Filesystems that span devices have numbers of their own, but name one of them.
        let by_number = tree.resolve(format!("/sys/dev/block/{}", mount.device));
        let folder = by_number.or_else(|| {
            let name = Path::new(&mount.source).strip_prefix("/dev").ok()?.file_name()?;
            tree.resolve(Path::new("/sys/class/block").join(name))
        })?;
        let folder = whole(tree, folder);
        let mut disks = BTreeSet::new();
        collect_disks(tree, &folder, 0, &mut disks);
        let disks = disks.iter().filter_map(|folder| device(tree, folder)).collect();
        Some(Self { top: device(tree, &folder)?, disks })
    }

    /// Whether a synced write needs a flush of its own after it.
    pub(super) fn needs_flush(&self) -> bool {
        self.top.cache == Some(WriteCache::BackWithoutFua)
    }
}

impl BlockDevice {
    /// Whether it is a hypervisor's: what it says of rotating is mostly made up.
    pub(super) fn is_virtual(&self) -> bool {
        self.name.starts_with("vd") || self.name.starts_with("xvd")
    }
}

/// A partition's device is the disk that it is a part of.
fn whole(tree: &Tree, folder: PathBuf) -> PathBuf {
    match folder.parent() {
        Some(parent) if tree.has(folder.join("partition")) => parent.to_owned(),
        _ => folder,
    }
}

fn collect_disks(tree: &Tree, folder: &Path, depth: usize, disks: &mut BTreeSet<PathBuf>) {
    let slaves = tree.names(folder.join("slaves"));
    if slaves.is_empty() {
        if disks.len() < HOST_DEVICE_COUNT_MAX {
            disks.insert(folder.to_owned());
        }
        return;
    }
    if depth >= HOST_DEVICE_DEPTH_MAX {
        return;
    }
    for slave in slaves {
        if let Some(slave) = tree.resolve(folder.join("slaves").join(slave)) {
            collect_disks(tree, &whole(tree, slave), depth + 1, disks);
        }
    }
}

fn device(tree: &Tree, folder: &Path) -> Option<BlockDevice> {
    let queue = folder.join("queue");
    let fua = tree.number(queue.join("fua"));
    let cache = match tree.text(queue.join("write_cache")).as_deref() {
        Some("write through") => Some(WriteCache::Through),
        Some("write back") if fua == Some(1) => Some(WriteCache::BackWithFua),
        Some("write back") if fua == Some(0) => Some(WriteCache::BackWithoutFua),
        _ => None,
    };
    let scheduler = tree.text(queue.join("scheduler")).and_then(|list| {
        let (_, rest) = list.split_once('[')?;
        rest.split_once(']').map(|(name, _)| name.to_owned())
    });
    Some(BlockDevice {
        name: folder.file_name()?.to_str()?.to_owned(),
        folder: folder.to_owned(),
        cache,
        rotates: tree.number(queue.join("rotational")).map(|rotates| rotates != 0),
        scheduler,
    })
}
