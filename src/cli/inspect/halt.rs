//! The dump of a halted shard, for people and for programs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;

use super::InspectError;
use super::report::hex;
use crate::base::cast::u64_from;
use crate::base::limits::HALT_DUMP_SIZE_BYTES_MAX;
use crate::storage::halt::{HaltDump, HaltedPartition, HaltedSlot, POSITION_NAMES};

/// One line of JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line<'a> {
    Halt { shard: u16, boot_epoch: u64, time_ns: u64, reason: &'a str },
    HaltedPartition(PartitionLine<'a>),
    HaltedSlot(SlotLine),
}

#[derive(Debug, Serialize)]
struct PartitionLine<'a> {
    partition: u32,
    status: &'static str,
    is_leading: bool,
    #[serde(flatten)]
    positions: std::collections::BTreeMap<&'static str, u64>,
    chain: String,
    digest: String,
    crash_vector: &'a [u64],
}

#[derive(Debug, Serialize)]
struct SlotLine {
    partition: u32,
    index: u64,
    term: u64,
    message_id: u64,
    timestamp: u64,
    value_size_bytes: u32,
    /// How it begins.
    value: String,
}

/// Writes what a dump says; with each slot, if `records` are wanted.
pub(super) fn run(
    path: &Path,
    (records, json): (bool, bool),
    out: &mut impl Write,
) -> Result<(), InspectError> {
    let file = read(path).map_err(|error| InspectError::Read { path: path.to_owned(), error })?;
    let dump = HaltDump::decode(&file)
        .map_err(|error| InspectError::Halt { path: path.to_owned(), error })?;
    let written = if json { write_json(&dump, records, out) } else { write(&dump, records, out) };
    written.map_err(InspectError::Output)
}

/// A file, or as much of it as shows that it is too long.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(u64_from(HALT_DUMP_SIZE_BYTES_MAX) + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write(dump: &HaltDump, records: bool, out: &mut impl Write) -> io::Result<()> {
    let HaltDump { shard, boot_epoch, time, reason, partitions } = dump;
    writeln!(out, "shard {shard} halted in boot {boot_epoch}, {} ns after 1970:", time.0)?;
    writeln!(out, "{reason}")?;
    for partition in partitions {
        let HaltedPartition { partition: number, status, is_leading, positions, .. } = partition;
        write!(out, "  partition {number}: {}", status.name())?;
        if *is_leading {
            write!(out, ", leading")?;
        }
        for (name, position) in POSITION_NAMES.iter().zip(positions) {
            write!(out, ", {} {position}", name.replace('_', " "))?;
        }
        writeln!(out)?;
        let slots = partition.slots.iter().filter(|_| records);
        for HaltedSlot { index, term, message_id, timestamp, size_bytes, .. } in slots {
            write!(out, "    slot {index}: term {term} message {message_id} time {}", timestamp.0)?;
            match size_bytes {
                0 => writeln!(out, " no-op")?,
                size => writeln!(out, " value of {size} bytes")?,
            }
        }
    }
    Ok(())
}

fn write_json(dump: &HaltDump, records: bool, out: &mut impl Write) -> io::Result<()> {
    let mut line = |line: Line<'_>| {
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    };
    let HaltDump { shard, boot_epoch, time, reason, partitions } = dump;
    line(Line::Halt { shard: shard.0, boot_epoch: boot_epoch.0, time_ns: time.0, reason })?;
    for found in partitions {
        let partition = found.partition.0;
        line(Line::HaltedPartition(PartitionLine {
            partition,
            status: found.status.name(),
            is_leading: found.is_leading,
            positions: POSITION_NAMES.into_iter().zip(found.positions).collect(),
            chain: hex(&found.chain),
            digest: hex(&found.digest),
            crash_vector: &found.crash_vector,
        }))?;
        for slot in found.slots.iter().filter(|_| records) {
            line(Line::HaltedSlot(SlotLine {
                partition,
                index: slot.index.0,
                term: slot.term.0,
                message_id: slot.message_id.0,
                timestamp: slot.timestamp.0,
                value_size_bytes: slot.size_bytes,
                value: hex(&slot.begin),
            }))?;
        }
    }
    Ok(())
}
