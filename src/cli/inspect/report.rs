//! The lines of the report, as text or as JSON: each is written as soon as it is known, because a
//! log may be larger than memory.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::Verdict;
use crate::base::cast::u64_from;
use crate::base::ids::{BatchId, SegmentId, ShardId};
use crate::node::data_dir::DataDir;
use crate::storage::block::batch_name;
use crate::storage::record::{Entry, Record};
use crate::storage::replay::RecoveredPartition;
use crate::storage::segment_name::segment_file_name;

/// Where lines go, and how.
pub(super) struct Output<'a, W> {
    out: &'a mut W,
    json: bool,
}

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub(super) enum Line {
    DataDir(DataDirLine),
    Record(RecordLine),
    Segment(SegmentLine),
    Partition(PartitionLine),
    Shard(ShardLine),
}

#[derive(Debug, Serialize)]
pub(super) struct DataDirLine {
    cluster: String,
    member: String,
    uuid: String,
    partition_count: u32,
    shard_count: u16,
    generation: u64,
    segment_size_bytes: u64,
    boot_epoch: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct RecordLine {
    shard: u16,
    segment: u64,
    /// Of the block in which it ends.
    offset: u64,
    batch: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    #[serde(flatten)]
    fields: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct BlockCounts {
    pub(super) whole: u64,
    pub(super) zero: u64,
    pub(super) bad: u64,
    pub(super) former: u64,
    pub(super) misdirected: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct SegmentLine {
    shard: u16,
    file: String,
    size_bytes: u64,
    /// The last batch whose records count; absent: none does.
    counted_to: Option<String>,
    pub(super) blocks: BlockCounts,
    first_batch: Option<String>,
    last_batch: Option<String>,
    proven: Option<String>,
    records: BTreeMap<&'static str, u64>,
    pub(super) undecodable_record_count: u64,
    #[serde(skip)]
    span: Option<(BatchId, BatchId, BatchId)>,
}

/// What is stable of a partition.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Applied {
    pub(super) checkpoint: u64,
    pub(super) value_count: u64,
    pub(super) value_size_bytes: u64,
    pub(super) no_op_count: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct PartitionLine {
    shard: u16,
    partition: u32,
    view: u64,
    last_normal: u64,
    base: u64,
    first: u64,
    sync_point: u64,
    last: u64,
    incarnation: u64,
    crash_vector: Vec<u64>,
    chain: Option<String>,
    stable: Applied,
    unstable_count: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct ShardLine {
    shard: u16,
    verdict: &'static str,
    message: Option<String>,
    clean: Option<bool>,
    record_count: Option<u64>,
}

impl<'a, W: Write> Output<'a, W> {
    pub(super) const fn new(out: &'a mut W, json: bool) -> Self {
        Self { out, json }
    }

    pub(super) fn line(&mut self, line: &Line) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut *self.out, line)?;
            return self.out.write_all(b"\n");
        }
        match line {
            Line::DataDir(line) => self.data_dir(line),
            Line::Record(line) => self.record(line),
            Line::Segment(line) => self.segment(line),
            Line::Partition(line) => self.partition(line),
            Line::Shard(line) => self.shard(line),
        }
    }

    fn data_dir(&mut self, line: &DataDirLine) -> io::Result<()> {
        let DataDirLine { cluster, member, uuid, partition_count, shard_count, .. } = line;
        let DataDirLine { generation, segment_size_bytes, boot_epoch, .. } = line;
        writeln!(self.out, "member {member} of cluster {cluster}, data directory {uuid}")?;
        writeln!(
            self.out,
            "{partition_count} partitions on {shard_count} shards, generation {generation}, \
             segments of {segment_size_bytes} bytes, last boot {boot_epoch}"
        )
    }

    fn record(&mut self, line: &RecordLine) -> io::Result<()> {
        let RecordLine { segment, offset, batch, kind, .. } = line;
        write!(self.out, "    {segment}+{offset} batch {batch}: {kind}")?;
        if let Some(partition) = line.partition {
            write!(self.out, " partition {partition}")?;
        }
        for (name, value) in &line.fields {
            write!(self.out, " {name} {value}")?;
        }
        if let Some(size) = line.value_size_bytes {
            write!(self.out, " value of {size} bytes")?;
        }
        writeln!(self.out)
    }

    fn segment(&mut self, line: &SegmentLine) -> io::Result<()> {
        let BlockCounts { whole, zero, bad, former, misdirected } = &line.blocks;
        write!(self.out, "  shard-{}/{}: {whole} blocks, {zero} zero", line.shard, line.file)?;
        for (count, name) in
            [(bad, "bad"), (former, "of a former segment"), (misdirected, "misdirected")]
        {
            if *count > 0 {
                write!(self.out, ", {count} {name}")?;
            }
        }
        if let (Some(first), Some(last), Some(proven)) =
            (&line.first_batch, &line.last_batch, &line.proven)
        {
            write!(self.out, "; batches {first} to {last}, proven to {proven}")?;
        }
        match &line.counted_to {
            Some(batch) => write!(self.out, ", counted to {batch}")?,
            None => write!(self.out, "; nothing of it counts")?,
        }
        for (kind, count) in &line.records {
            write!(self.out, "; {count} {kind}")?;
        }
        if line.undecodable_record_count > 0 {
            write!(self.out, "; {} undecodable", line.undecodable_record_count)?;
        }
        writeln!(self.out)
    }

    fn partition(&mut self, line: &PartitionLine) -> io::Result<()> {
        let PartitionLine { partition, view, last_normal, base, first, sync_point, last, .. } =
            line;
        let Applied { value_count, value_size_bytes, no_op_count, .. } = line.stable;
        writeln!(
            self.out,
            "  partition {partition}: view {view}, last normal {last_normal} from {base}, slots \
             {first} to {last}, stable to {sync_point} ({value_count} values of \
             {value_size_bytes} bytes, {no_op_count} no-ops)"
        )
    }

    fn shard(&mut self, line: &ShardLine) -> io::Result<()> {
        write!(self.out, "shard {}: {}", line.shard, line.verdict)?;
        if let Some(message) = &line.message {
            write!(self.out, ": {message}")?;
        }
        if let (Some(count), Some(clean)) = (line.record_count, line.clean) {
            let end = if clean { "closed" } else { "not closed" };
            write!(self.out, ": {count} records, {end}")?;
        }
        writeln!(self.out)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl DataDirLine {
    pub(super) fn of(data_dir: &DataDir) -> Self {
        let (identity, current) = (data_dir.identity(), data_dir.current());
        Self {
            cluster: identity.cluster.clone(),
            member: identity.member.clone(),
            uuid: hex(&identity.uuid),
            partition_count: identity.partition_count,
            shard_count: current.shard_count,
            generation: current.generation,
            segment_size_bytes: current.segment_size_bytes,
            boot_epoch: data_dir.boot_epoch().previous().0,
        }
    }
}

impl RecordLine {
    pub(super) fn of(
        shard: ShardId,
        segment: SegmentId,
        offset: u64,
        batch: BatchId,
        record: &Record<'_>,
    ) -> Self {
        let mut line = Self {
            shard: shard.0,
            segment: segment.0,
            offset,
            batch: batch_name(batch),
            kind: kind(record),
            partition: record.partition().map(|partition| partition.0),
            fields: BTreeMap::new(),
            value_size_bytes: None,
            value: None,
        };
        match record {
            Record::Entry(entry) | Record::Carry(entry) => line.entry(entry),
            Record::Stage { adopting, entry } => {
                line.entry(entry);
                line.fields([("adopting", adopting.0)]);
            }
            Record::NoOp { index, term, message_id, .. } => {
                line.fields([("index", index.0), ("term", term.0), ("message_id", message_id.0)])
            }
            Record::View { term, .. } => line.fields([("term", term.0)]),
            Record::Adopt { term, base, kept, .. } => {
                line.fields([("term", term.0), ("base", base.0), ("kept", kept.0)]);
            }
            Record::SyncPoint { index, .. } => line.fields([("index", index.0)]),
            Record::CheckpointDone { index, size_bytes, .. } => {
                line.fields([("index", index.0), ("size_bytes", *size_bytes)]);
            }
            Record::Install { index, size_bytes, kept, adopted, .. } => {
                line.fields([("index", index.0), ("size_bytes", *size_bytes), ("kept", kept.0)]);
                if let Some(adopted) = adopted {
                    line.fields([("term", adopted.term.0), ("base", adopted.base.0)]);
                }
            }
            Record::CrashVector { incarnation, .. } => {
                line.fields([("incarnation", incarnation.0)]);
            }
            Record::OpenBoot { boot_epoch, clean } => {
                line.fields([("boot_epoch", boot_epoch.0), ("clean", u64::from(*clean))]);
            }
            Record::CloseBoot { boot_epoch } => line.fields([("boot_epoch", boot_epoch.0)]),
            Record::Snapshot(snapshot) => line.fields([
                ("boot_epoch", snapshot.boot_epoch.0),
                ("segment_count", u64_from(snapshot.segments.len())),
                ("partition_count", u64_from(snapshot.partitions.len())),
            ]),
        }
        line
    }

    fn fields(&mut self, fields: impl IntoIterator<Item = (&'static str, u64)>) {
        self.fields.extend(fields);
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        self.fields([
            ("index", entry.index.0),
            ("term", entry.term.0),
            ("message_id", entry.message_id.0),
            ("timestamp", entry.timestamp.0),
        ]);
        self.value_size_bytes = Some(u64_from(entry.value.len()));
        self.value = Some(hex(entry.value));
    }
}

const fn kind(record: &Record<'_>) -> &'static str {
    match record {
        Record::Entry(_) => "entry",
        Record::NoOp { .. } => "no_op",
        Record::View { .. } => "view",
        Record::Stage { .. } => "stage",
        Record::Adopt { .. } => "adopt",
        Record::SyncPoint { .. } => "sync_point",
        Record::CheckpointDone { .. } => "checkpoint_done",
        Record::Install { .. } => "install",
        Record::CrashVector { .. } => "crash_vector",
        Record::Carry(_) => "carry",
        Record::OpenBoot { .. } => "open_boot",
        Record::CloseBoot { .. } => "close_boot",
        Record::Snapshot(_) => "snapshot",
    }
}

impl SegmentLine {
    pub(super) fn new(
        shard: ShardId,
        file: String,
        size_bytes: u64,
        counted: Option<BatchId>,
    ) -> Self {
        Self {
            shard: shard.0,
            file,
            size_bytes,
            counted_to: counted.map(batch_name),
            blocks: BlockCounts::default(),
            first_batch: None,
            last_batch: None,
            proven: None,
            records: BTreeMap::new(),
            undecodable_record_count: 0,
            span: None,
        }
    }

    pub(super) fn span(&mut self, batch: BatchId, proven: BatchId) {
        let (first, last, most) = self.span.unwrap_or((batch, batch, proven));
        let span = (first.min(batch), last.max(batch), most.max(proven));
        if self.span != Some(span) {
            self.first_batch = Some(batch_name(span.0));
            self.last_batch = Some(batch_name(span.1));
            self.proven = Some(batch_name(span.2));
            self.span = Some(span);
        }
    }

    pub(super) fn count(&mut self, record: &Record<'_>) {
        *self.records.entry(kind(record)).or_default() += 1;
    }
}

impl PartitionLine {
    pub(super) fn of(shard: ShardId, partition: &RecoveredPartition, stable: Applied) -> Self {
        let state = &partition.state;
        Self {
            shard: shard.0,
            partition: state.partition.0,
            view: state.view.0,
            last_normal: state.last_normal.0,
            base: state.base.0,
            first: state.first.0,
            sync_point: state.sync_point.0,
            last: state.last.0,
            incarnation: state.incarnation.0,
            crash_vector: state.crash_vector.iter().map(|incarnation| incarnation.0).collect(),
            chain: partition.chain.map(|chain| hex(&chain.0)),
            stable,
            unstable_count: u64_from(partition.log.len()),
        }
    }
}

impl ShardLine {
    pub(super) fn of(shard: ShardId, verdict: &Verdict) -> Self {
        let line = Self {
            shard: shard.0,
            verdict: "whole",
            message: None,
            clean: None,
            record_count: None,
        };
        match verdict {
            Ok(recovered) => Self {
                verdict: if recovered.torn.is_some() { "torn tail" } else { "whole" },
                message: recovered.torn.map(|torn| {
                    let file = segment_file_name(torn.place.segment);
                    let (offset, count) = (torn.place.offset, torn.block_count);
                    format!("{file} ends at byte {offset}, {count} void blocks behind it")
                }),
                clean: Some(recovered.start.clean),
                record_count: Some(recovered.record_count),
                ..line
            },
            Err(error) => Self { verdict: "damaged", message: Some(error.to_string()), ..line },
        }
    }
}
