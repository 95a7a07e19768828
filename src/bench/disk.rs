//! What a disk can do: plain blocking `pwrite` and `fdatasync` into a file that is allocated and
//! filled, one after the other. Durable puts are held against it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use hdrhistogram::Histogram;

use super::report::{latencies, write_percentiles};
use crate::base::cast::u64_from;
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::runtime::clock::Clock;

const FILE_NAME: &str = "p2pmap-bench-disk";
const FILE_SIZE_BYTES: usize = 64 << 20;

/// Latencies of synced writes.
#[derive(Clone, Debug)]
pub struct DiskReport {
    /// In nanoseconds.
    pub latencies_ns: Histogram<u64>,
    /// Bytes of each write.
    pub write_size_bytes: usize,
}

impl fmt::Display for DiskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { latencies_ns, write_size_bytes } = self;
        writeln!(f, "pwrite + fdatasync, {write_size_bytes} bytes, one at a time")?;
        writeln!(f, "writes        {}", latencies_ns.len())?;
        write_percentiles(f, latencies_ns)
    }
}

/// Writes into a file of its own in `directory` for so long, and deletes it.
///
/// # Errors
/// If the disk says so.
///
/// # Panics
/// If a write is empty or larger than the file.
pub fn run(directory: &Path, write_size_bytes: usize, duration_ns: u64) -> io::Result<DiskReport> {
    assert!((1..=FILE_SIZE_BYTES).contains(&write_size_bytes), "a write fits the file");
    let path = directory.join(FILE_NAME);
    let file = filled_file(&path)?;
    let result = measure(&file, write_size_bytes, duration_ns);
    drop(file);
    std::fs::remove_file(&path)?;
    result
}

fn filled_file(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; 256 * BLOCK_SIZE_BYTES];
    for _ in 0..FILE_SIZE_BYTES / zeros.len() {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn measure(file: &File, write_size_bytes: usize, duration_ns: u64) -> io::Result<DiskReport> {
    let clock = Clock::start();
    let bytes = vec![1; write_size_bytes];
    let mut latencies_ns = latencies();
    let mut offset = 0;
    let end = clock.monotonic().after_ns(duration_ns);
    loop {
        let begun = clock.monotonic();
        if begun >= end {
            return Ok(DiskReport { latencies_ns, write_size_bytes });
        }
        file.write_all_at(&bytes, u64_from(offset))?;
        file.sync_data()?;
        latencies_ns.saturating_record(clock.monotonic().since_ns(begun));
        offset += write_size_bytes;
        if offset + write_size_bytes > FILE_SIZE_BYTES {
            offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::NS_PER_MS;

    #[test]
    fn writes_are_measured_and_the_file_is_deleted() {
        let directory = tempfile::tempdir().expect("a directory");
        let report = run(directory.path(), BLOCK_SIZE_BYTES, 20 * NS_PER_MS).expect("a disk");
        assert!(!report.latencies_ns.is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).expect("a list").count(), 0);
    }
}
