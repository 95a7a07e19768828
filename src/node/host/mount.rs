//! The mount on which a path lies, from the kernel's table of mounts.

use std::path::{Path, PathBuf};

use super::tree::Tree;

const MOUNTS_FILE: &str = "/proc/self/mountinfo";

/// A mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// Its type, as `mount -t` has it.
    pub(super) kind: String,
    /// The options of the mount and those of the filesystem.
    pub(super) options: Vec<String>,
    /// The device's numbers, `major:minor`.
    pub(super) device: String,
    /// What was mounted: mostly the path of a device.
    pub(super) source: String,
}

impl Mount {
    /// The mount of `path`, whose links have been followed.
    pub(super) fn of(tree: &Tree, path: &Path) -> Option<Self> {
        let table = tree.text(MOUNTS_FILE)?;
        let mounts = table.lines().filter_map(parse);
        // Of two at one place, the later one hides the other.
        mounts
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }

    /// Whether it has that option, with a value or without one.
    pub(super) fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| option == name)
    }
}

/// One line: id, parent, device, root, point, options, tags, `-`, type, source, more options.
fn parse(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let device = mount.next()?.to_owned();
    let point = PathBuf::from(unescape(mount.nth(1)?));
    let mut options: Vec<String> = mount.next()?.split(',').map(str::to_owned).collect();
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?.to_owned();
    let source = unescape(filesystem.next()?);
    options.extend(filesystem.next().unwrap_or_default().split(',').map(str::to_owned));
    Some(Mount { point, kind, options, device, source })
}

/// Blanks and the like stand as three octal digits after a backslash.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let escaped = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => plain.push(char::from(byte)),
            None => plain.push('\\'),
        }
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mount_of(table: &str, path: &str) -> Option<Mount> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        fs::write(folder.path().join("proc/self/mountinfo"), table).unwrap();
        Mount::of(&Tree::new(folder.path()), Path::new(path))
    }

    const TABLE: &str = "\
        22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard\n\
        23 22 0:20 / /mnt/a\\040b rw - tmpfs tmpfs rw,size=1k\n\
        24 22 8:2 / /mnt rw - xfs /dev/sda2 rw\n\
        25 24 8:3 /sub /mnt rw,noatime master:1 - ext4 /dev/sda3 rw,data=journal\n";

    #[test]
    fn deepest_and_latest_mount_is_the_one() {
        let mount = mount_of(TABLE, "/mnt/data").unwrap();
        assert_eq!((mount.device.as_str(), mount.kind.as_str()), ("8:3", "ext4"));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "data=journal"]);
        assert_eq!(mount_of(TABLE, "/mnt/a b/c").unwrap().kind, "tmpfs");
        assert_eq!(mount_of(TABLE, "/mntx").unwrap().source, "/dev/sda1");
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert_eq!(mount_of("", "/"), None);
        assert_eq!(mount_of("a b - c\n - \n1 2 3 4 5\n", "/"), None);
    }

    #[test]
    fn escaped_names_are_read() {
        assert_eq!(unescape("a\\040b\\134"), "a b\\");
        assert_eq!(unescape("\\9\\04"), "\\9\\04");
        assert_eq!(unescape("\\é\\777"), "\\é\\777");
    }
}
