//! Where the data directory lies: what its filesystem and its device do with a synced write.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::block_device::{BlockDevice, Devices, WriteCache};
use super::finding::{Check, Finding, Subject};
use super::mount::Mount;
use super::tree::Tree;
use crate::node::data_dir::{Filesystem, Keeps};

const FILESYSTEM: Check = Check::new(Subject::Storage, "filesystem");
const MOUNT_OPTIONS: Check = Check::new(Subject::Storage, "mount-options");
const DIRECT_IO: Check = Check::new(Subject::Storage, "direct-io");
const DEVICE: Check = Check::new(Subject::Storage, "device");
const WRITE_CACHE: Check = Check::new(Subject::Storage, "write-cache");
const SCHEDULER: Check = Check::new(Subject::Storage, "scheduler");

/// Types whose files are on another machine or in another process.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse"];

/// Tries to open a file that has no name for direct writes. None: the filesystem can't have such
/// files, or we may not write there.
#[must_use]
pub fn takes_direct_io(folder: &Path) -> Option<bool> {
    let open = |direct| {
        let flags = i32::try_from((OFlags::TMPFILE | direct).bits()).ok()?;
        Some(OpenOptions::new().write(true).mode(0o600).custom_flags(flags).open(folder).is_ok())
    };
    open(OFlags::empty()).filter(|opened| *opened)?;
    open(OFlags::DIRECT)
}

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// The data directory, or the nearest folder above it that exists.
    path: PathBuf,
    mount: Option<Mount>,
    devices: Option<Devices>,
    takes_direct_io: Option<bool>,
}

impl Storage {
    pub(super) fn gather(tree: &Tree, data_dir: &Path, takes_direct_io: Option<bool>) -> Self {
        let path = tree.nearest(data_dir).unwrap_or_else(|| data_dir.to_owned());
        let mount = Mount::of(tree, &path);
        let devices = mount.as_ref().and_then(|mount| Devices::below(tree, mount));
        Self { path, mount, devices, takes_direct_io }
    }

    pub(super) fn devices(&self) -> Option<&Devices> {
        self.devices.as_ref()
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        vec![
            self.check_filesystem(),
            self.check_options(),
            self.check_direct_io(),
            self.check_device(),
            self.check_write_cache(),
            self.check_scheduler(),
        ]
    }

    fn check_filesystem(&self) -> Finding {
        let Some(mount) = &self.mount else {
            return FILESYSTEM.not_visible("/proc/self/mountinfo");
        };
        let Mount { kind, point, .. } = mount;
        let on = format!("{} is on {kind} ({})", self.path.display(), point.display());
        let elsewhere = "p2pmap serve --data-dir DIR …, with DIR on ext4 or xfs";
        if mount.has_option("ro") {
            return FILESYSTEM.problem(
                format!("{on}, which is read-only"),
                format!("sudo mount -o remount,rw {}", quoted(point)),
            );
        }
        if kind == "overlay" {
            return FILESYSTEM.problem(
                format!("{on}: what a container writes there goes when the container is removed"),
                "docker run -v /var/lib/p2pmap:/var/lib/p2pmap …, and --data-dir there",
            );
        }
        match Filesystem::named(kind).map(Filesystem::keeps) {
            Some(Keeps::InPlace) => FILESYSTEM.ok(on),
            Some(Keeps::InMemory) => {
                FILESYSTEM.problem(format!("{on}, in memory: a restart loses all"), elsewhere)
            }
            Some(Keeps::Copies) => FILESYSTEM
                .problem(format!("{on}, copy-on-write: refused with durability sync"), elsewhere),
            Some(Keeps::Unknown) | None if is_remote(kind) => FILESYSTEM.advice(
                format!("{on}: each durable write waits for another machine or process"),
                elsewhere,
            ),
            Some(Keeps::Unknown) | None => FILESYSTEM.advice(
                format!("{on}: not known to keep a block where it was written first"),
                elsewhere,
            ),
        }
    }

    fn check_options(&self) -> Finding {
        let Some(mount) = &self.mount else {
            return MOUNT_OPTIONS.not_visible("/proc/self/mountinfo");
        };
        let point = quoted(&mount.point);
        if mount.has_option("nobarrier") || mount.has_option("barrier=0") {
            return MOUNT_OPTIONS.problem(
                "barriers are off: the device isn't told to keep what is acknowledged",
                format!("sudo mount -o remount,barrier=1 {point}, and so in /etc/fstab"),
            );
        }
        // ext4's documentation: the mode disables direct I/O.
        if mount.has_option("data=journal") {
            return MOUNT_OPTIONS.problem(
                "data=journal: every write is written twice, and none is direct",
                format!("data=ordered for {point} in /etc/fstab, then mount it anew"),
            );
        }
        if mount.has_option("discard") {
            return MOUNT_OPTIONS.advice(
                "discard: removing a file sends discards to the device between the log's writes",
                format!(
                    "sudo mount -o remount,nodiscard {point}, and so in /etc/fstab; sudo \
                     systemctl enable --now fstrim.timer"
                ),
            );
        }
        MOUNT_OPTIONS.ok("none that slows or weakens synced writes")
    }

    fn check_direct_io(&self) -> Finding {
        match self.takes_direct_io {
            None => DIRECT_IO.not_visible(format!(
                "no file without a name can be made in {}",
                self.path.display()
            )),
            Some(true) => DIRECT_IO.ok("taken"),
            Some(false) => DIRECT_IO.problem(
                "refused: each log write goes through the page cache and a kernel worker",
                "p2pmap serve --data-dir DIR …, with DIR on ext4 or xfs",
            ),
        }
    }

    fn check_device(&self) -> Finding {
        let Some(devices) = &self.devices else {
            return DEVICE.not_visible(self.device_place());
        };
        let names = names_of(&devices.disks);
        let top = &devices.top.name;
        let is_stacked = names != *top && !names.is_empty();
        let chain = if is_stacked { format!("{top} on {names}") } else { top.clone() };
        let turning: Vec<&BlockDevice> = devices
            .disks
            .iter()
            .filter(|disk| disk.rotates == Some(true) && !disk.is_virtual())
            .collect();
        match turning.first() {
            Some(disk) => DEVICE.problem(
                format!(
                    "{chain}: {} rotates, a durable write waits for the disk to come round",
                    disk.name
                ),
                "p2pmap serve --data-dir DIR …, with DIR on a disk without moving parts",
            ),
            None => DEVICE.ok(chain),
        }
    }

    fn check_write_cache(&self) -> Finding {
        let top = self.devices.as_ref().map(|devices| &devices.top);
        let Some(BlockDevice { name, cache: Some(cache), .. }) = top else {
            return WRITE_CACHE.not_visible(self.queue_place("write_cache"));
        };
        match cache {
            WriteCache::Through => {
                WRITE_CACHE.ok(format!("{name}: write through, a completed write is durable"))
            }
            WriteCache::BackWithFua => {
                WRITE_CACHE.ok(format!("{name}: write back with FUA, one request a durable write"))
            }
            WriteCache::BackWithoutFua => WRITE_CACHE.advice(
                format!(
                    "{name}: write back without FUA, so a kernel thread on the core that the \
                     device interrupts flushes after each durable write"
                ),
                format!(
                    "keep the node off that core (see interrupts); only if the device's maker \
                     says that its cache survives a power cut: echo 'write through' | sudo tee \
                     /sys/block/{name}/queue/write_cache"
                ),
            ),
        }
    }

    /// BFQ's own documentation gives the bound of what it can drive.
    fn check_scheduler(&self) -> Finding {
        let disks = self.devices.as_ref().map(|devices| devices.disks.as_slice());
        let known = disks.unwrap_or_default().iter();
        let known: Vec<(&str, &str)> = known
            .filter_map(|disk| Some((disk.name.as_str(), disk.scheduler.as_deref()?)))
            .collect();
        if known.is_empty() {
            return SCHEDULER.not_visible(self.queue_place("scheduler"));
        }
        match known.iter().find(|(_, scheduler)| *scheduler == "bfq") {
            Some((name, _)) => SCHEDULER.advice(
                format!("{name}: bfq, which drives some 30,000 requests a second at most"),
                format!("echo none | sudo tee /sys/block/{name}/queue/scheduler"),
            ),
            None => {
                let each = known.iter().map(|(name, scheduler)| format!("{name}: {scheduler}"));
                SCHEDULER.ok(each.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn device_place(&self) -> String {
        match &self.mount {
            Some(Mount { device, source, .. }) => format!("/sys/dev/block/{device} ({source})"),
            None => "/proc/self/mountinfo".to_owned(),
        }
    }

    fn queue_place(&self, file: &str) -> String {
        match &self.devices {
            Some(devices) => format!("/sys/block/{}/queue/{file}", devices.top.name),
            None => self.device_place(),
        }
    }
}

fn is_remote(kind: &str) -> bool {
    REMOTE.contains(&kind) || kind.starts_with("fuse.")
}

fn names_of(devices: &[BlockDevice]) -> String {
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    names.join(", ")
}

/// A path as a word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_blanks_and_quotes_stay_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/var/lib")), "/var/lib");
        assert_eq!(quoted(Path::new("/a b'c")), "'/a b'\\''c'");
    }

    #[test]
    fn direct_io_is_tried_without_leaving_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let _ = takes_direct_io(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(takes_direct_io(&folder.path().join("absent")), None);
    }
}
