//! Reads segments ahead of who wants them: a few threads keep requests in flight, so that neither
//! the device waits for the core nor the core for the device.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::runtime::direct_io::{open_to_read, read_blocks};
use crate::storage::block::{Block, offset_of};
use crate::storage::recovery::SegmentSource;

/// Requests in flight.
const READER_COUNT: usize = 4;

/// Segments' files, read with `O_DIRECT` where there is such a thing. Few are open at a time: a log
/// can have more of them than a process may have open.
pub(super) struct ReadAhead {
    files: Arc<Files>,
    readers: Vec<Reader>,
    /// The reader that gets the next request.
    next_reader: usize,
    /// What was asked for, in this order.
    pending: VecDeque<(Chunk, usize)>,
    /// Memory that is used again.
    spare: Vec<Vec<Block>>,
    /// The file that was read last without being asked for before.
    open: Option<(usize, File)>,
}

struct Files {
    paths: Vec<PathBuf>,
    direct: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    file: usize,
    first_block: usize,
    block_count: usize,
}

/// A thread that reads one chunk after the other. It ends when nobody asks any more.
struct Reader {
    requests: Sender<(Chunk, Vec<Block>)>,
    results: Receiver<io::Result<Vec<Block>>>,
}

impl ReadAhead {
    pub(super) fn new(paths: Vec<PathBuf>, direct: bool) -> Self {
        Self {
            files: Arc::new(Files { paths, direct }),
            readers: Vec::new(),
            next_reader: 0,
            pending: VecDeque::new(),
            spare: Vec::new(),
            open: None,
        }
    }

    /// The oldest request's result.
    fn take(&mut self) -> Option<(Chunk, io::Result<Vec<Block>>)> {
        let (chunk, reader) = self.pending.pop_front()?;
        let result = self.readers[reader].results.recv();
        let gone = || Err(io::Error::other("the thread that reads ahead has ended"));
        Some((chunk, result.unwrap_or_else(|_| gone())))
    }

    fn start_reader(&mut self) -> io::Result<()> {
        let (requests, inbox) = channel::<(Chunk, Vec<Block>)>();
        let (outbox, results) = channel();
        let files = Arc::clone(&self.files);
        let work = move || {
            let mut open = None;
            while let Ok((chunk, mut blocks)) = inbox.recv() {
                blocks.resize(chunk.block_count, Block::ZERO);
                let read = files.read(&mut open, chunk.file, chunk.first_block, &mut blocks);
                if outbox.send(read.map(|()| blocks)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("read ahead".into()).spawn(work)?;
        self.readers.push(Reader { requests, results });
        Ok(())
    }
}

impl Files {
    fn read(
        &self,
        open: &mut Option<(usize, File)>,
        file: usize,
        first_block: usize,
        blocks: &mut [Block],
    ) -> io::Result<()> {
        let opened = match open.take() {
            Some((number, opened)) if number == file => opened,
            _ => open_to_read(&self.paths[file], self.direct)?,
        };
        let read = read_blocks(&opened, offset_of(first_block), blocks);
        *open = Some((file, opened));
        read
    }
}

impl SegmentSource for ReadAhead {
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        let wanted = Chunk { file, first_block, block_count: blocks.len() };
        if self.pending.iter().any(|(chunk, _)| *chunk == wanted) {
            // What lies before it was announced and not wanted after all.
            while let Some((chunk, result)) = self.take() {
                if chunk == wanted {
                    let spare = std::mem::replace(blocks, result?);
                    self.spare.push(spare);
                    return Ok(());
                }
                self.spare.extend(result);
            }
        }
        self.files.read(&mut self.open, file, first_block, blocks)
    }

    fn will_read(&mut self, file: usize, first_block: usize, block_count: usize) {
        if self.readers.len() < READER_COUNT && self.start_reader().is_err() {
            // It is read when it is wanted.
            return;
        }
        let reader = self.next_reader % self.readers.len();
        self.next_reader = reader + 1;
        let chunk = Chunk { file, first_block, block_count };
        let blocks = self.spare.pop().unwrap_or_default();
        if self.readers[reader].requests.send((chunk, blocks)).is_ok() {
            self.pending.push_back((chunk, reader));
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn source(directory: &tempfile::TempDir) -> ReadAhead {
        let paths: Vec<PathBuf> =
            (0..3).map(|file| directory.path().join(file.to_string())).collect();
        for (path, file) in paths.iter().zip(0..) {
            let blocks = (0..32).map(|number| Block([file * 32 + number; size_of::<Block>()]));
            let blocks: Vec<Block> = blocks.collect();
            std::fs::write(path, blocks.as_bytes()).expect("a file");
        }
        ReadAhead::new(paths, false)
    }

    fn read(source: &mut ReadAhead, file: usize, first_block: usize) -> Vec<u8> {
        let mut blocks = vec![Block::ZERO; 4];
        source.read(file, first_block, &mut blocks).expect("a whole file");
        blocks.iter().map(|block| block.0[77]).collect()
    }

    #[test]
    fn what_is_read_is_the_same_whether_it_was_announced_or_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut source = source(&directory);
        for (file, first_block) in [(0, 4), (0, 8), (0, 12), (1, 0), (1, 4), (2, 0), (2, 4)] {
            source.will_read(file, first_block, 4);
        }
        assert_eq!(read(&mut source, 0, 0), [0, 1, 2, 3]);
        assert_eq!(read(&mut source, 0, 4), [4, 5, 6, 7]);
        // The rest of the file isn't wanted.
        assert_eq!(read(&mut source, 1, 0), [32, 33, 34, 35]);
        assert_eq!(read(&mut source, 0, 0), [0, 1, 2, 3], "back again");
        assert_eq!(read(&mut source, 1, 4), [36, 37, 38, 39]);
        assert_eq!(read(&mut source, 2, 4), [68, 69, 70, 71]);
        assert_eq!(read(&mut source, 2, 0), [64, 65, 66, 67], "it was let go");
        assert!(source.pending.is_empty());
    }

    #[test]
    fn error_is_that_of_the_chunk_that_is_wanted() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut source = source(&directory);
        source.will_read(0, 30, 4);
        source.will_read(1, 0, 4);
        assert_eq!(read(&mut source, 1, 0), [32, 33, 34, 35], "nobody wanted what failed");
        source.will_read(0, 30, 4);
        let error = source.read(0, 30, &mut vec![Block::ZERO; 4]).expect_err("it ends before");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
