//! What a member has on its disk, as the messages that were to carry it.

use bytes::Bytes;

use super::disk::{Image, Snapshot};
use super::host::{CHUNK_SIZE_BYTES, encode};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::Index;
use crate::base::time::Timestamp;
use crate::nopaxos::Stored;
use crate::nopaxos::message::{CheckpointPart, Entry, Message, SlotRange};

/// The messages that carry what was asked for.
pub(super) fn served(image: &Image, stored: Stored) -> Vec<Message> {
    match stored {
        Stored::Slots { reply, ranges, then } => {
            let entries = entries(image, &ranges);
            let message = match reply {
                Message::SyncRepairResponse { term, .. } => {
                    Message::SyncRepairResponse { term, chunk: None, entries }
                }
                Message::ViewRepairResponse { term, .. } => {
                    Message::ViewRepairResponse { term, chunk: None, entries }
                }
                other => panic!("slots don't go into {other:?}"),
            };
            std::iter::once(message).chain(then).collect()
        }
        Stored::Chunk { reply, index, number } => {
            let snapshot = image.checkpoint;
            let is_there = snapshot.index > Index(0) && (number == 0 || index == snapshot.index);
            let part = is_there.then(|| part(snapshot, number));
            vec![match reply {
                Message::SyncRepairResponse { term, entries, .. } => {
                    Message::SyncRepairResponse { term, chunk: part, entries }
                }
                Message::ViewRepairResponse { term, entries, .. } => {
                    Message::ViewRepairResponse { term, chunk: part, entries }
                }
                Message::ViewChangeRepairResponse { term, request, values, .. } => {
                    Message::ViewChangeRepairResponse { term, request, chunk: part, values }
                }
                other => panic!("a chunk doesn't go into {other:?}"),
            }]
        }
    }
}

fn entries(image: &Image, ranges: &[SlotRange]) -> Vec<Entry> {
    ranges
        .iter()
        .flat_map(|range| image.slots.range(range.first..=range.last))
        .map(|(index, slot)| Entry {
            index: *index,
            message_id: slot.message_id,
            timestamp: if slot.value.is_some() { slot.timestamp } else { Timestamp(0) },
            value: slot.value.clone(),
        })
        .collect()
}

fn part(snapshot: Snapshot, number: u64) -> CheckpointPart {
    let bytes = encode(snapshot);
    let chunk_size = usize::try_from(CHUNK_SIZE_BYTES).unwrap();
    let begin = usize_from(number) * chunk_size;
    let end = (begin + chunk_size).min(bytes.len());
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(&snapshot.state.to_le_bytes());
    digest[16..].copy_from_slice(&snapshot.chain.0);
    CheckpointPart {
        index: snapshot.index,
        size_bytes: u64_from(bytes.len()),
        number,
        chunk_size_bytes: CHUNK_SIZE_BYTES,
        digest,
        data: Bytes::copy_from_slice(&bytes[begin..end]),
    }
}
