//! `p2pmap log inspect`: what lies in a data directory, while no node runs in it. Shows damaged
//! logs too: after a place that can't be read it goes on with the next record that begins in a
//! whole block. Nothing is changed.

mod halt;
mod report;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use memmap2::Mmap;

use self::report::{BlockCounts, Line, Output, PartitionLine, RecordLine, SegmentLine, ShardLine};
use crate::base::cast::{u16_from, u64_from};
use crate::base::ids::{BatchId, Index, MessageId, PartitionId, SegmentId, ShardId, TermId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::base::time::Timestamp;
use crate::node::data_dir::{DataDir, DataDirError};
use crate::storage::block::{Block, BlockHeader, BlockState, LogKey, offset_of};
use crate::storage::codec::decode;
use crate::storage::error::StorageError;
use crate::storage::halt::HaltError;
use crate::storage::recovery::{LogFolder, Recovered, SegmentFile, SegmentSource, recover};
use crate::storage::replay::Apply;
use crate::storage::segment_name::{segment_file_name, segment_of_file_name};

/// What to show of which data directory.
#[derive(Clone, Debug, clap::Args)]
pub struct InspectOptions {
    /// The data directory, in which no node may run; or the dump that a halted shard has left.
    pub data_dir: PathBuf,
    /// Only this shard's log.
    #[arg(long)]
    pub shard: Option<u16>,
    /// Each record, too.
    #[arg(long)]
    pub records: bool,
    /// One JSON object a line instead of text; values are in hexadecimal.
    #[arg(long)]
    pub json: bool,
}

/// Why there is nothing to show, or what was shown is not good.
#[derive(Debug)]
#[non_exhaustive]
pub enum InspectError {
    /// The data directory can't be used.
    DataDir(DataDirError),
    /// The dump of a halted shard can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file isn't the dump of a halted shard.
    Halt {
        /// The file.
        path: PathBuf,
        /// Why.
        error: HaltError,
    },
    /// Writing the report failed.
    Output(io::Error),
    /// The report says which logs are damaged.
    Damaged {
        /// How many.
        shard_count: usize,
    },
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataDir(DataDirError::InUse { path }) => write!(
                f,
                "a node is running in {}: stop it before its log can be inspected",
                path.display()
            ),
            Self::DataDir(error) => error.fmt(f),
            Self::Read { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Halt { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Output(error) => write!(f, "writing the report: {error}"),
            Self::Damaged { shard_count } => {
                write!(f, "the logs of {shard_count} shards are damaged")
            }
        }
    }
}

impl std::error::Error for InspectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::DataDir(error) => Some(error),
            Self::Output(error) | Self::Read { error, .. } => Some(error),
            Self::Halt { error, .. } => Some(error),
            Self::Damaged { .. } => None,
        }
    }
}

/// Writes the report to `out`.
///
/// # Errors
/// If there is nothing to report on, or, after the report, if a log is damaged.
pub fn run(options: &InspectOptions, out: &mut impl Write) -> Result<(), InspectError> {
    if options.data_dir.is_file() {
        return halt::run(&options.data_dir, (options.records, options.json), out);
    }
    let data_dir = DataDir::open_to_inspect(&options.data_dir).map_err(InspectError::DataDir)?;
    let mut output = Output::new(out, options.json);
    let write = InspectError::Output;
    output.line(&Line::DataDir(report::DataDirLine::of(&data_dir))).map_err(write)?;
    let mut damaged_count = 0;
    for shard in 0..data_dir.current().shard_count {
        if options.shard.is_some_and(|only| only != shard) {
            continue;
        }
        let log = Log::open(&data_dir, ShardId(shard)).map_err(InspectError::DataDir)?;
        let whole = log.report(&data_dir, options.records, &mut output).map_err(write)?;
        damaged_count += usize::from(!whole);
        log.forget_pages();
    }
    match damaged_count {
        0 => Ok(()),
        shard_count => Err(InspectError::Damaged { shard_count }),
    }
}

/// A shard's segments, mapped.
struct Log {
    key: LogKey,
    files: Vec<SegmentFile>,
    maps: Vec<(File, Option<Mmap>)>,
}

impl Log {
    fn open(data_dir: &DataDir, shard: ShardId) -> Result<Self, DataDirError> {
        let folder = data_dir.shard_folder(shard);
        let failed = |doing| {
            let path = folder.clone();
            move |error| DataDirError::Io { doing, path, error }
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed("listing"))? {
            let entry = entry.map_err(failed("listing"))?;
            if let Some(name) = entry.file_name().to_str().and_then(segment_of_file_name) {
                let size_bytes = entry.metadata().map_err(failed("looking at"))?.len();
                files.push(SegmentFile { name, size_bytes });
            }
        }
        files.sort_unstable_by_key(|file| file.name);
        let map = |file: &SegmentFile| {
            let opened = File::open(data_dir.segment_path(shard, file.name))?;
            let map = map(&opened, file.size_bytes)?;
            Ok((opened, map))
        };
        let maps = files.iter().map(map).collect::<io::Result<_>>().map_err(failed("mapping"))?;
        Ok(Self { key: data_dir.log_key(shard), files, maps })
    }

    fn bytes(&self, file: usize) -> &[u8] {
        self.maps[file].1.as_deref().unwrap_or_default()
    }

    /// Reports on the shard and says whether its log is whole.
    fn report<W: Write>(
        &self,
        data_dir: &DataDir,
        records: bool,
        output: &mut Output<'_, W>,
    ) -> io::Result<bool> {
        let partitions: Vec<_> = data_dir.partitions_of(self.key.shard).collect();
        let mut counts = Counts::default();
        let folder = LogFolder {
            key: self.key,
            boot_epoch: data_dir.boot_epoch(),
            segment_size_bytes: data_dir.segment_size_bytes(),
            partitions: &partitions,
            files: &self.files,
            serves_peers: false,
        };
        let found = recover(&folder, &mut &*self, &mut counts);
        for file in 0..self.files.len() {
            let line = self.segment(file, found.as_ref().ok(), records, output)?;
            output.line(&Line::Segment(line))?;
        }
        if let Ok(recovered) = &found {
            for partition in &recovered.partitions {
                let applied = counts.of(partition.state.partition);
                output.line(&Line::Partition(PartitionLine::of(
                    self.key.shard,
                    partition,
                    applied,
                )))?;
            }
        }
        output.line(&Line::Shard(ShardLine::of(self.key.shard, &found)))?;
        Ok(found.is_ok())
    }

    fn segment<W: Write>(
        &self,
        file: usize,
        recovered: Option<&Recovered>,
        records: bool,
        output: &mut Output<'_, W>,
    ) -> io::Result<SegmentLine> {
        let SegmentFile { name, size_bytes } = self.files[file];
        let counted = recovered.and_then(|recovered| {
            let mut live = recovered.start.state.segments.iter();
            live.find(|live| live.segment == name).map(|live| live.last_batch)
        });
        let mut line =
            SegmentLine::new(self.key.shard, segment_file_name(name), size_bytes, counted);
        let mut stream = Stream::default();
        for (number, bytes) in self.bytes(file).chunks_exact(BLOCK_SIZE_BYTES).enumerate() {
            let mut block = Block::ZERO;
            block.0.copy_from_slice(bytes);
            let state = BlockState::of(&block, self.key.salt);
            let Some(header) = self.note(&mut line, name, number, state) else {
                stream.lose();
                continue;
            };
            stream.take(&header, &block);
            while let Some((record, place)) = stream.next_record(&mut line) {
                let (batch, number) = place;
                line.count(&record);
                if records {
                    let offset = offset_of(number);
                    let record = RecordLine::of(self.key.shard, name, offset, batch, &record);
                    output.line(&Line::Record(record))?;
                }
                stream.drop_record();
            }
        }
        Ok(line)
    }

    /// Takes note of a block and says what it is if it is one of this segment.
    fn note(
        &self,
        line: &mut SegmentLine,
        name: SegmentId,
        number: usize,
        state: BlockState,
    ) -> Option<BlockHeader> {
        let BlockCounts { whole, zero, bad, former, misdirected } = &mut line.blocks;
        match state {
            BlockState::Zero => *zero += 1,
            BlockState::Bad | BlockState::Unknown { .. } => *bad += 1,
            BlockState::Valid(header)
                if header.shard != self.key.shard
                    || header.number != u16_from(number)
                    || header.segment > name =>
            {
                *misdirected += 1;
            }
            BlockState::Valid(header) if header.segment < name => *former += 1,
            BlockState::Valid(header) => {
                *whole += 1;
                line.span(header.batch, header.proven);
                return Some(header);
            }
        }
        None
    }

    /// Pages left in the cache would send the next node's direct writes a slow way.
    fn forget_pages(self) {
        for (file, map) in self.maps {
            drop(map);
            let advice = rustix::fs::Advice::DontNeed;
            // It is advice: if it isn't taken, nothing is wrong.
            let _ = rustix::fs::fadvise(&file, 0, None, advice);
        }
    }
}

fn map(file: &File, size_bytes: u64) -> io::Result<Option<Mmap>> {
    if size_bytes == 0 {
        return Ok(None);
    }
    // SAFETY: The map is read while the data directory's lock is held, so no node writes or
    // truncates the file. Somebody who ignores the lock can make us read other bytes or die by a
    // signal; the bytes are checked like any others, and dying harms nothing: we only read.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Some(map))
}

impl SegmentSource for &Log {
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        let bytes = self.bytes(file);
        for (distance, block) in blocks.iter_mut().enumerate() {
            let begin = (first_block + distance) * BLOCK_SIZE_BYTES;
            let found = bytes.get(begin..begin + BLOCK_SIZE_BYTES);
            block.0.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(())
    }
}

/// The payload of consecutive blocks, from a record's begin on.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    begin: usize,
    decoded_size: usize,
    /// The last block taken: its batch and number. `None`: a record has to begin first.
    last: Option<(BatchId, u16)>,
}

impl Stream {
    fn lose(&mut self) {
        self.bytes.clear();
        self.begin = 0;
        self.last = None;
    }

    fn take(&mut self, header: &BlockHeader, block: &Block) {
        let follows = self.last.is_some_and(|(batch, number)| {
            header.number == number + 1 && (header.batch == batch || header.batch == batch.next())
        });
        if follows {
            self.bytes.drain(..self.begin);
            self.begin = 0;
            self.bytes.extend_from_slice(header.payload(block));
        } else {
            self.lose();
            let Some(payload) = header.payload_from_record(block) else { return };
            self.bytes.extend_from_slice(payload);
        }
        self.last = Some((header.batch, header.number));
    }

    /// The next whole record, and the batch and block in which it ends.
    fn next_record(
        &mut self,
        line: &mut SegmentLine,
    ) -> Option<(crate::storage::record::Record<'_>, (BatchId, usize))> {
        let (batch, number) = self.last?;
        let size = decode(&self.bytes[self.begin..]).map(|found| found.map(|(_, size)| size));
        match size {
            Ok(size) => self.decoded_size = size?,
            Err(_) => {
                line.undecodable_record_count += 1;
                self.lose();
                return None;
            }
        }
        let (record, _) = decode(&self.bytes[self.begin..]).ok().flatten()?;
        Some((record, (batch, number.into())))
    }

    const fn drop_record(&mut self) {
        self.begin += self.decoded_size;
    }
}

/// What is stable of each partition.
#[derive(Debug, Default)]
struct Counts(Vec<(PartitionId, report::Applied)>);

impl Counts {
    fn of(&self, partition: PartitionId) -> report::Applied {
        let found = self.0.binary_search_by_key(&partition, |(partition, _)| *partition);
        found.map_or_else(|_| report::Applied::default(), |position| self.0[position].1)
    }

    fn of_mut(&mut self, partition: PartitionId) -> &mut report::Applied {
        let found = self.0.binary_search_by_key(&partition, |(partition, _)| *partition);
        let position = found.unwrap_or_else(|position| {
            self.0.insert(position, (partition, report::Applied::default()));
            position
        });
        &mut self.0[position].1
    }
}

impl Apply for Counts {
    fn install(&mut self, partition: PartitionId, index: Index) {
        self.of_mut(partition).checkpoint = index.0;
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        _: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        value: Option<&[u8]>,
    ) {
        let applied = self.of_mut(partition);
        match value {
            Some(value) => {
                applied.value_count += 1;
                applied.value_size_bytes += u64_from(value.len());
            }
            None => applied.no_op_count += 1,
        }
    }
}

/// What recovery says of a log.
type Verdict = Result<Recovered, StorageError>;

#[cfg(test)]
mod tests;
