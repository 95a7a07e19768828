//! Files around the page cache: opened with `O_DIRECT`, where their filesystem takes it, and read
//! in whole blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zerocopy::IntoBytes;

use crate::base::cast::u64_from;
use crate::storage::block::Block;

/// The flag with which a file is opened, if direct I/O is used.
#[must_use]
pub const fn direct_flag(direct: bool) -> OFlags {
    if direct { OFlags::DIRECT } else { OFlags::empty() }
}

/// Opens a file to be read.
///
/// # Errors
/// If the system says so; [`io::ErrorKind::InvalidInput`]: the filesystem has no direct I/O.
pub fn open_to_read(path: &Path, direct: bool) -> io::Result<File> {
    let flags = direct_flag(direct).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Fills `blocks` from a file, beginning at `offset`.
///
/// # Errors
/// If the system says so, or the file ends before.
pub fn read_blocks(file: &File, offset: u64, blocks: &mut [Block]) -> io::Result<()> {
    file.read_exact_at(blocks.as_mut_bytes(), offset)
}

/// Fills the first of `blocks` from a file, beginning at `offset`: as many as there are before its
/// end. Returns how many.
///
/// # Errors
/// If the system says so.
pub fn read_blocks_to_end(file: &File, offset: u64, blocks: &mut [Block]) -> io::Result<usize> {
    let left = file.metadata()?.len().saturating_sub(offset) / u64_from(size_of::<Block>());
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(blocks.len());
    read_blocks(file, offset, &mut blocks[..count])?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_from_where_they_lie_and_not_beyond_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let written: Vec<Block> = (0..5).map(|fill| Block([fill; size_of::<Block>()])).collect();
        let bytes = [written.as_bytes(), b"less than a block"].concat();
        std::fs::write(&path, bytes).expect("a file");
        let file = open_to_read(&path, false).expect("the file");
        let at = |block: u64| block * u64_from(size_of::<Block>());
        let mut blocks = vec![Block::ZERO; 3];
        read_blocks(&file, at(1), &mut blocks).expect("they are there");
        assert_eq!(blocks.as_bytes(), written[1..4].as_bytes());
        let error = read_blocks(&file, at(3), &mut blocks).expect_err("it ends before");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        for (from, count) in [(2, 3), (3, 2), (5, 0), (9, 0)] {
            let found = read_blocks_to_end(&file, at(from), &mut blocks).expect("the file");
            assert_eq!(found, count, "from block {from}");
        }
        assert_eq!(blocks[..2].as_bytes(), written[3..].as_bytes());
    }
}
