//! What the filesystem under a data directory can be relied on for.

use std::fmt;
use std::fs::File;
use std::io;

/// A filesystem, by its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem {
    magic: u64,
}

/// How a filesystem treats a block that is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It stays where it is: what a prepared segment is prepared for.
    InPlace,
    /// It is written elsewhere: preparing is in vain, and "no space" can come at any time.
    Copies,
    /// It is in memory only.
    InMemory,
    /// We don't know it.
    Unknown,
}

/// Magic number, name, and what it does. From linux/magic.h and the filesystems' own sources.
const KNOWN: [(u64, &str, Keeps); 8] = [
    (0xEF53, "ext4", Keeps::InPlace),
    (0x5846_5342, "xfs", Keeps::InPlace),
    (0x9123_683E, "btrfs", Keeps::Copies),
    (0x2FC1_2FC1, "zfs", Keeps::Copies),
    (0xCA45_1A4E, "bcachefs", Keeps::Copies),
    (0x3434, "nilfs2", Keeps::Copies),
    (0x0102_1994, "tmpfs", Keeps::InMemory),
    (0x8584_58F6, "ramfs", Keeps::InMemory),
];

impl Filesystem {
    /// The one that a file lies on.
    ///
    /// # Errors
    /// If the operating system doesn't say.
    pub fn of(file: &File) -> io::Result<Self> {
        // The kernel's type is signed on some machines; magic numbers have 32 bits.
        let magic = rustix::fs::fstatfs(file)?.f_type;
        #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
        Ok(Self { magic: magic as u64 & 0xFFFF_FFFF })
    }

    /// The known one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = KNOWN.iter().find(|(_, known, _)| *known == name);
        found.map(|&(magic, ..)| Self { magic })
    }

    /// How it treats a block that is written again.
    #[must_use]
    pub fn keeps(self) -> Keeps {
        self.known().map_or(Keeps::Unknown, |(_, keeps)| keeps)
    }

    fn known(self) -> Option<(&'static str, Keeps)> {
        let found = KNOWN.iter().find(|(magic, ..)| *magic == self.magic);
        found.map(|&(_, name, keeps)| (name, keeps))
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "a filesystem of type {:#x}", self.magic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_are_named_and_judged() {
        let filesystem = |magic| Filesystem { magic };
        assert_eq!(filesystem(0xEF53).keeps(), Keeps::InPlace);
        assert_eq!(filesystem(0x9123_683E).keeps(), Keeps::Copies);
        assert_eq!(filesystem(0x0102_1994).keeps(), Keeps::InMemory);
        assert_eq!(filesystem(7).keeps(), Keeps::Unknown);
        assert_eq!(filesystem(0x9123_683E).to_string(), "btrfs");
        assert_eq!(filesystem(7).to_string(), "a filesystem of type 0x7");
        assert_eq!(Filesystem::named("xfs"), Some(filesystem(0x5846_5342)));
        assert_eq!(Filesystem::named("fat"), None);
    }

    #[test]
    fn filesystem_of_a_file_is_found() {
        let shared_memory = std::path::Path::new("/dev/shm");
        if shared_memory.is_dir() {
            let folder = File::open(shared_memory).unwrap();
            assert_eq!(Filesystem::of(&folder).unwrap().keeps(), Keeps::InMemory);
        }
    }
}
