use bytes::{Bytes, BytesMut};

use super::*;
use crate::base::ids::{Incarnation, Index, MessageId, PartitionId};
use crate::base::limits::{
    CHECKPOINT_PART_SIZE_BYTES_MAX, COMMAND_SIZE_BYTES_MAX, FRAME_SENT_SIZE_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::nopaxos::Group;
use crate::nopaxos::message::RecoveryId;
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

fn repair(chunk: Option<CheckpointPart>, entries: Vec<Entry>) -> Message {
    Message::SyncRepairResponse { term: TERM, chunk, entries }
}

/// The frame's size; members with the longest names there are.
fn frame_size_bytes(message: &Message) -> usize {
    let members = ["a", "b", "c"].map(|name| name.repeat(128));
    let group = Group::new(PartitionId(16_383), members.to_vec(), &members[0]);
    let mut out = BytesMut::new();
    PeerEncoder::new(&"n".repeat(128), &group).encode(&mut out, &group, message).unwrap();
    out.len()
}

fn parts(message: &Message) -> (Option<&CheckpointPart>, &[Entry]) {
    match message {
        Message::SyncRepairResponse { chunk, entries, .. }
        | Message::ViewRepairResponse { chunk, entries, .. }
        | Message::RecoverResponse { chunk, entries, .. } => (chunk.as_ref(), entries),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(chunk: Option<CheckpointPart>, entries: Vec<Entry>) -> Vec<Message> {
    let messages: Vec<Message> = split(repair(chunk.clone(), entries.clone())).collect();
    let said: Vec<Entry> = messages.iter().flat_map(|message| parts(message).1.to_vec()).collect();
    assert_eq!(said, entries, "every entry is said once and in order");
    let chunks: Vec<_> = messages.iter().filter_map(|message| parts(message).0).collect();
    assert_eq!(chunks.first().copied(), chunk.as_ref());
    assert!(chunks.len() <= 1 && parts(&messages[0]).0.is_some() == chunk.is_some());
    for message in &messages {
        let size = frame_size_bytes(message);
        let (chunk, entries) = parts(message);
        let is_alone = entries.len() + usize::from(chunk.is_some()) == 1;
        assert!(size <= MESSAGE_SIZE_BYTES || is_alone, "{size}");
        assert!(size <= FRAME_SENT_SIZE_BYTES_MAX);
        assert!(entries.len() <= MESSAGE_ENTRY_COUNT_MAX);
    }
    messages
}

#[test]
fn repairs_that_fit_stay_whole() {
    assert_eq!(check(None, Vec::new()).len(), 1);
    assert_eq!(check(None, entries(100, 1_000)).len(), 1);
    assert_eq!(check(Some(chunk(1_000)), entries(100, 1_000)).len(), 1);
    let whole = Message::Ping { term: TERM };
    assert_eq!(split(whole.clone()).collect::<Vec<_>>(), [whole]);
}

#[test]
fn repairs_are_filled_up_to_what_a_message_should_be() {
    // 40 entries of 100 KB: ten fit a message.
    assert_eq!(check(None, entries(40, 100_000)).len(), 4);
    assert_eq!(check(None, entries(41, 100_000)).len(), 5);
}

#[test]
fn longest_commands_travel_alone() {
    let mut entries = entries(5, 10);
    entries[2] = entry(3, COMMAND_SIZE_BYTES_MAX);
    let messages = check(None, entries);
    let counts: Vec<usize> = messages.iter().map(|message| parts(message).1.len()).collect();
    assert_eq!(counts, [2, 1, 2]);
}

#[test]
fn no_ops_are_bounded_by_their_number() {
    let count = crate::base::cast::u64_from(MESSAGE_ENTRY_COUNT_MAX) + 1;
    assert_eq!(check(None, entries(count, 0)).len(), 2);
}

#[test]
fn full_chunks_travel_alone() {
    let messages = check(Some(chunk(CHECKPOINT_PART_SIZE_BYTES_MAX)), entries(1, 10));
    assert_eq!(messages.len(), 2);
    assert_eq!(check(Some(chunk(CHECKPOINT_PART_SIZE_BYTES_MAX)), Vec::new()).len(), 1);
}

#[test]
fn view_repairs_are_split_alike() {
    let response =
        Message::ViewRepairResponse { term: TERM, chunk: None, entries: entries(20, 100_000) };
    let messages: Vec<Message> = split(response).collect();
    let is_of_view =
        |message: &Message| matches!(message, Message::ViewRepairResponse { term: TERM, .. });
    assert!(messages.len() == 2 && messages.iter().all(is_of_view));
}

#[test]
fn answers_to_recoveries_leave_out_what_does_not_fit() {
    let response = |chunk| Message::RecoverResponse {
        attempt: RecoveryId { incarnation: Incarnation(1), nonce: 2 },
        term: TERM,
        message_id: MessageId(40),
        chunk,
        entries: entries(40, 100_000),
    };
    for (chunk, count) in
        [(None, 10), (Some(chunk(500_000)), 5), (Some(chunk(CHECKPOINT_PART_SIZE_BYTES_MAX)), 0)]
    {
        let messages: Vec<Message> = split(response(chunk)).collect();
        assert_eq!(messages.len(), 1);
        assert_eq!(parts(&messages[0]).1, &entries(40, 100_000)[..count]);
    }
}
