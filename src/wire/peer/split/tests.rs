use bytes::{Bytes, BytesMut};

use super::*;
use crate::base::ids::{Incarnation, Index, MessageId, PartitionId, TermId};
use crate::base::limits::{
    COMMAND_SIZE_BYTES_MAX, FRAME_SENT_SIZE_BYTES_MAX, PEER_CHUNK_SIZE_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::nopaxos::Group;
use crate::nopaxos::message::{Message, RecoveryId};
use crate::wire::frame;
use crate::wire::peer::PeerEncoder;

const TERM: TermId = TermId(3);

fn entry(index: u64, size_bytes: usize) -> Entry {
    let value = (size_bytes > 0).then(|| Bytes::from(vec![7; size_bytes]));
    Entry { index: Index(index), message_id: MessageId(1), timestamp: Timestamp(5), value }
}

fn entries(count: u64, size_bytes: usize) -> Vec<Entry> {
    (1..=count).map(|index| entry(index, size_bytes)).collect()
}

fn chunk(size_bytes: usize) -> CheckpointPart {
    CheckpointPart {
        index: Index(9),
        size_bytes: crate::base::cast::u64_from(size_bytes),
        number: 0,
        chunk_size_bytes: crate::base::cast::u32_from(size_bytes),
        digest: [1; 32],
        data: vec![2; size_bytes].into(),
    }
}

/// The frames of the messages that an answer becomes; members with the longest names there are.
fn frames(message: &Message) -> Vec<usize> {
    let members = ["a", "b", "c"].map(|name| name.repeat(128));
    let group = Group::new(PartitionId(16_383), members.to_vec(), &members[0]);
    let mut out = BytesMut::new();
    PeerEncoder::new(&"n".repeat(128), &group).encode(&mut out, &group, message).unwrap();
    let mut sizes = Vec::new();
    while let Some((_, payload)) = frame::next(&out).unwrap() {
        sizes.push(payload.end);
        drop(out.split_to(payload.end));
    }
    assert!(out.is_empty());
    sizes
}

/// How many entries go into each message.
#[track_caller]
fn check(chunk: Option<CheckpointPart>, entries: Vec<Entry>) -> Vec<usize> {
    let parts: Vec<_> = split(chunk.as_ref(), &entries).collect();
    let said: Vec<Entry> = parts.iter().flat_map(|(_, entries)| entries.to_vec()).collect();
    assert_eq!(said, entries, "every entry is said once and in order");
    let chunks: Vec<_> = parts.iter().map(|(chunk, _)| chunk.is_some()).collect();
    assert_eq!(chunks[0], chunk.is_some(), "the chunk comes first");
    assert!(!chunks[1..].contains(&true), "and once");
    let counts: Vec<usize> = parts.iter().map(|(_, entries)| entries.len()).collect();
    let response = Message::SyncRepairResponse { term: TERM, chunk: chunk.clone(), entries };
    let frames = frames(&response);
    assert_eq!(frames.len(), counts.len());
    for (at, (size, count)) in frames.iter().zip(&counts).enumerate() {
        let is_alone = count + usize::from(chunks[at]) == 1;
        assert!(*size <= PEER_MESSAGE_SIZE_BYTES || is_alone, "{size}");
        assert!(*size <= FRAME_SENT_SIZE_BYTES_MAX && *count <= PEER_ENTRY_COUNT_MAX);
    }
    counts
}

#[test]
fn repairs_that_fit_stay_whole() {
    assert_eq!(check(None, Vec::new()), [0]);
    assert_eq!(check(None, entries(100, 1_000)), [100]);
    assert_eq!(check(Some(chunk(1_000)), entries(100, 1_000)), [100]);
    assert_eq!(frames(&Message::Ping { term: TERM }).len(), 1);
}

#[test]
fn repairs_are_filled_up_to_what_a_message_should_be() {
    // 100 KB each: ten fit a message.
    assert_eq!(check(None, entries(40, 100_000)), [10; 4]);
    assert_eq!(check(None, entries(41, 100_000)), [10, 10, 10, 10, 1]);
    assert_eq!(check(Some(chunk(500_000)), entries(12, 100_000)), [5, 7]);
}

#[test]
fn longest_commands_travel_alone() {
    let mut entries = entries(5, 10);
    entries[2] = entry(3, COMMAND_SIZE_BYTES_MAX);
    assert_eq!(check(None, entries), [2, 1, 2]);
}

#[test]
fn no_ops_are_bounded_by_their_number() {
    let count = crate::base::cast::u64_from(PEER_ENTRY_COUNT_MAX) + 1;
    assert_eq!(check(None, entries(count, 0)), [PEER_ENTRY_COUNT_MAX, 1]);
}

#[test]
fn full_chunks_travel_alone() {
    assert_eq!(check(Some(chunk(PEER_CHUNK_SIZE_BYTES_MAX)), entries(1, 10)), [0, 1]);
    assert_eq!(check(Some(chunk(PEER_CHUNK_SIZE_BYTES_MAX)), Vec::new()), [0]);
}

#[test]
fn view_repairs_are_split_alike() {
    let (term, chunk, entries) = (TERM, None, entries(20, 100_000));
    assert_eq!(frames(&Message::ViewRepairResponse { term, chunk, entries }).len(), 2);
}

#[test]
fn answers_to_recoveries_leave_out_what_does_not_fit() {
    let response = Message::RecoverResponse {
        attempt: RecoveryId { incarnation: Incarnation(1), nonce: 2 },
        term: TERM,
        message_id: MessageId(40),
        chunk: Some(chunk(500_000)),
        entries: entries(40, 100_000),
    };
    let frames = frames(&response);
    assert!(frames.len() == 1 && frames[0] <= PEER_MESSAGE_SIZE_BYTES && frames[0] > 1_000_000);
}
