//! The files in which a kernel describes itself, read below a root that a test can make up.
//!
//! Nothing here fails: a file that is absent, unreadable or empty is none. What is read is bounded,
//! and bytes that aren't text are replaced, so that no content of a file can do harm.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::base::cast::u64_from;
use crate::base::limits::{HOST_FILE_SIZE_BYTES_MAX, HOST_FOLDER_ENTRY_COUNT_MAX};

/// A file system as the checks see it: everything below a root.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// What lies below `root`: `/` for the host itself.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A whole file without the white space around it; none if there is nothing to read.
    #[must_use]
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let file = File::open(self.at(path.as_ref())).ok()?;
        let mut bytes = Vec::new();
        file.take(u64_from(HOST_FILE_SIZE_BYTES_MAX)).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A whole file, empty if it is: for files in which nothing is an answer.
    #[must_use]
    pub fn text_or_nothing(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        self.text(path).or_else(|| File::open(self.at(path)).ok().map(|_| String::new()))
    }

    /// The number that is all of a file.
    #[must_use]
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The names in a folder, in order; none of them if it can't be read.
    #[must_use]
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(path.as_ref())) else {
            return Vec::new();
        };
        let entries = entries.take(HOST_FOLDER_ENTRY_COUNT_MAX).filter_map(Result::ok);
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether there is such a file or folder.
    #[must_use]
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path.as_ref()).exists()
    }

    /// Where a path leads when its links are followed; none if it leads nowhere, or out of the
    /// tree.
    #[must_use]
    pub fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let resolved = self.at(path.as_ref()).canonicalize().ok()?;
        let root = self.root.canonicalize().ok()?;
        Some(Path::new("/").join(resolved.strip_prefix(root).ok()?))
    }

    /// The nearest folder above `path` that exists, or `path` itself, with its links followed.
    #[must_use]
    pub fn nearest(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors().find_map(|ancestor| self.resolve(ancestor))
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_not_there_or_says_nothing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("empty"), " \n").unwrap();
        fs::write(folder.path().join("bytes"), b"\xff\x00 x\n").unwrap();
        fs::write(folder.path().join("number"), "42\n").unwrap();
        let tree = Tree::new(folder.path());
        assert_eq!(tree.text("/absent"), None);
        assert_eq!(tree.text("/empty"), None);
        assert_eq!(tree.text_or_nothing("/empty"), Some(String::new()));
        assert_eq!(tree.text_or_nothing("/absent"), None);
        assert_eq!(tree.text("bytes"), Some("\u{fffd}\0 x".to_owned()));
        assert_eq!(tree.number("number"), Some(42));
        assert_eq!(tree.number("bytes"), None);
        assert_eq!(tree.names("/"), ["bytes", "empty", "number"]);
        assert_eq!(tree.names("/number"), [""; 0]);
    }

    #[test]
    fn links_are_followed_within_the_tree_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        symlink("a/b", folder.path().join("inside")).unwrap();
        symlink("/", folder.path().join("outside")).unwrap();
        let tree = Tree::new(folder.path());
        assert_eq!(tree.resolve("/inside"), Some("/a/b".into()));
        assert_eq!(tree.resolve("/outside"), None);
        assert_eq!(tree.nearest(Path::new("/inside/c/d")), Some("/a/b".into()));
        assert_eq!(tree.nearest(Path::new("/x")), Some("/".into()));
    }
}
