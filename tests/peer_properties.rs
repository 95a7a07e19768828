//! Guarantee: members understand each other. Whatever may be said comes back as it was said; the
//! bytes are those that prost would write of the seed's messages, and what prost writes is read
//! alike; and the bytes of one message of each kind never change.

#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod fuzzing;

use bytes::{Bytes, BytesMut};
use fuzzing::peer::{CLUSTER, KIND_COUNT, MEMBERS, Said, group};
use fuzzing::{fuzz_rounds, place};
use p2pmap::base::chain::Chain;
use p2pmap::base::ids::{Incarnation, Index, MemberId, MessageId, PartitionId, TermId};
use p2pmap::base::limits::FRAME_PREFIX_SIZE_BYTES;
use p2pmap::base::time::Timestamp;
use p2pmap::nopaxos::message::{
    Answer, CheckpointPart, Entry, LogSummary, Message, RecoveryId, SlotRange, Stamped, Wanted,
};
use p2pmap::proto::atomix::map as proto;
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::wire::frame::{self, Flag};
use p2pmap::wire::peer::{Body, PeerEncoder};
use prost::Message as _;

const ROUNDS: u64 = 20_000;

#[test]
fn messages_of_every_kind_come_back() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::arbitrary(prng);
        assert_eq!(said.decode(&said.payload()), Ok(said.received()));
    });
}

#[test]
fn messages_are_written_as_prost_writes_them() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::arbitrary(prng);
        let payload = said.payload();
        assert_eq!(proto::Message::decode(payload.clone()), Ok(said.proto()));
        assert_eq!(payload, said.proto().encode_to_vec());
    });
}

#[test]
fn stamped_commands_and_responses_take_the_hot_path() {
    fuzz_rounds(ROUNDS, |prng| {
        let kind = prng.below(2);
        let said = Said::of_kind(kind, prng);
        let payload = said.payload();
        assert_eq!(said.decode_hot(&payload), Some(said.received()));
        assert_eq!(said.decode_cold(&payload), Ok(said.received()));
    });
}

/// Whatever order the fields come in, and whether numbers are packed.
#[test]
fn other_encodings_of_the_same_message_are_read_alike() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::arbitrary(prng);
        let payload = Bytes::from(other_encoding(&said, prng));
        assert_eq!(proto::Message::decode(payload.clone()), Ok(said.proto()), "it is the same");
        assert_eq!(said.decode(&payload), Ok(said.received()));
    });
}

/// The body before the target, the body's fields in another order, an unknown field, and numbers
/// one by one or in several packs.
fn other_encoding(said: &Said, prng: &mut p2pmap::base::prng::Prng) -> Vec<u8> {
    let payload = said.payload();
    let fields = fields_of(&payload);
    let (target, (body_key, body)) = (&fields[0], &fields[1]);
    let (_, body) = split_length(body);
    let mut inner = Vec::new();
    let indexs = match body_key >> 3 {
        11 | 14 => Some(5),
        12 => Some(6),
        17 => Some(4),
        _ => None,
    };
    for (key, value) in fields_of(body) {
        if indexs == Some(key >> 3) {
            let mut numbers = split_length(&value).1;
            while !numbers.is_empty() {
                let number = prost::encoding::decode_varint(&mut numbers).unwrap();
                let mut encoded = Vec::new();
                put(&mut encoded, number);
                if prng.one_in(2) {
                    inner.push((key & !7, encoded));
                } else {
                    inner.push((key, with_length(&encoded)));
                }
            }
        } else {
            inner.push((key, value));
        }
    }
    if prng.one_in(2) {
        inner.push((50 << 3, vec![7]));
    }
    // Repeated fields keep their order; the others may come in any.
    let is_repeated = |key: u64| match body_key >> 3 {
        11 | 12 | 14 | 17 => indexs == Some(key >> 3),
        15 | 18 => key >> 3 == 5,
        22 => key >> 3 == 7,
        _ => false,
    };
    let (repeated, mut single): (Vec<_>, Vec<_>) =
        inner.into_iter().partition(|(key, _)| is_repeated(*key));
    for at in (1..single.len()).rev() {
        single.swap(at, place(prng, at + 1));
    }
    let mut body = Vec::new();
    for (key, value) in single.iter().chain(&repeated) {
        put(&mut body, *key);
        body.extend(value);
    }
    let mut out = Vec::new();
    put(&mut out, *body_key);
    out.extend(with_length(&body));
    put(&mut out, target.0);
    out.extend(&target.1);
    out
}

/// Keys and values, as they stand there.
fn fields_of(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = prost::encoding::decode_varint(&mut bytes).unwrap();
        let begin = bytes;
        match key & 7 {
            0 => drop(prost::encoding::decode_varint(&mut bytes).unwrap()),
            2 => {
                let size = prost::encoding::decode_varint(&mut bytes).unwrap();
                bytes = &bytes[usize::try_from(size).unwrap()..];
            }
            wire_type => panic!("{wire_type}"),
        }
        fields.push((key, begin[..begin.len() - bytes.len()].to_vec()));
    }
    fields
}

fn split_length(mut value: &[u8]) -> (u64, &[u8]) {
    let size = prost::encoding::decode_varint(&mut value).unwrap();
    (size, value)
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, bytes.len() as u64);
    out.extend(bytes);
    out
}

fn put(out: &mut Vec<u8>, number: u64) {
    prost::encoding::encode_varint(number, out);
}

#[test]
fn values_are_slices_of_the_payload() {
    fuzz_rounds(2_000, |prng| {
        let said = Said::arbitrary(prng);
        let payload = said.payload();
        let within =
            |value: &Bytes| value.is_empty() || payload.as_ptr_range().contains(&value.as_ptr());
        let Body::Message(message) = said.decode(&payload).unwrap().body else { return };
        match message {
            Message::Command(Stamped { value, .. })
            | Message::Query { value, .. }
            | Message::QueryResponse { value, .. } => assert!(within(&value)),
            Message::ViewRepairResponse { chunk, entries, .. }
            | Message::SyncRepairResponse { chunk, entries, .. }
            | Message::RecoverResponse { chunk, entries, .. } => {
                assert!(chunk.is_none_or(|chunk| within(&chunk.data)));
                assert!(entries.iter().filter_map(|entry| entry.value.as_ref()).all(within));
            }
            _ => {}
        }
    });
}

/// One encoder says everything, in whatever order: what it keeps from one message to the next is
/// the view's and never another one's.
#[test]
fn one_encoder_says_what_many_would() {
    fuzz_rounds(500, |prng| {
        let first = Said::arbitrary(prng);
        let (mut encoder, group) = first.encoder();
        let mut out = BytesMut::new();
        let mut expected = Vec::new();
        for _ in 0..20 {
            let said = Said::arbitrary(prng);
            let said = Said { partition: first.partition, from: first.from, ..said };
            let Body::Message(message) = &said.body else { continue };
            encoder.encode(&mut out, &group, message).unwrap();
            let payload = said.payload();
            expected.push(Flag::Message.byte());
            expected.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
            expected.extend(payload);
        }
        assert_eq!(out, expected);
    });
}

#[test]
fn frames_are_whole() {
    fuzz_rounds(1_000, |prng| {
        let said = Said::arbitrary(prng);
        let (mut encoder, group) = said.encoder();
        let mut out = BytesMut::from(&b"before"[..]);
        let Body::Message(message) = &said.body else { return };
        encoder.encode(&mut out, &group, message).unwrap();
        let (header, range) = frame::next(&out[6..]).unwrap().unwrap();
        assert_eq!((header.flag, range.end), (Flag::Message, out.len() - 6));
        assert_eq!(out[6 + FRAME_PREFIX_SIZE_BYTES..], said.payload());
    });
}

// ---- golden bytes ----

const TERM: TermId = TermId(9);
/// In partition 4 term 9 is led by the second member.
const LEADER: MemberId = MemberId(1);

fn log() -> LogSummary {
    let no_ops = [Index(1_002), Index(1_003), Index(1_300)].into();
    LogSummary { first: Index(1_000), last: Index(1_400), no_ops, chain: Chain([0xC4; 16]) }
}

fn wanted() -> Wanted {
    let range = |first, last| SlotRange { first: Index(first), last: Index(last) };
    Wanted { checkpoint: Index(500), slots: vec![range(501, 510), range(600, 600)] }
}

fn chunk() -> Option<CheckpointPart> {
    Some(CheckpointPart {
        index: Index(500),
        size_bytes: 12,
        number: 1,
        chunk_size_bytes: 8,
        digest: [0xD1; 32],
        data: Bytes::from_static(b"data"),
    })
}

fn entries() -> Vec<Entry> {
    let (message_id, timestamp) = (MessageId(3), Timestamp(1_700_000_000_000_000_005));
    let value = Some(Bytes::from_static(b"value"));
    let no_op = Timestamp(0);
    vec![
        Entry { index: Index(501), message_id, timestamp, value },
        Entry { index: Index(502), message_id: MessageId(4), timestamp: no_op, value: None },
    ]
}

fn golden_messages() -> Vec<Message> {
    let attempt = RecoveryId { incarnation: Incarnation(2), nonce: 0xABCD };
    let (term, message_id, index) = (TERM, MessageId(7), Index(1_407));
    let value = Bytes::from_static(b"value");
    let written = [0x12, 2, 0x08, 9];
    let response = |answer| Message::CommandResponse { term, message_id, index, answer };
    vec![
        Message::Command(Stamped {
            term,
            message_id,
            timestamp: Timestamp(1_700_000_000_000_000_005),
            value: value.clone(),
        }),
        response(Answer::Ack),
        response(Answer::Result(written.as_slice().into())),
        response(Answer::Dropped),
        Message::Query { term, query_id: 3, covers: index, value: value.clone() },
        Message::QueryResponse { term, query_id: 3, index, value },
        Message::SlotLookup { term, message_id },
        Message::GapCommitRequest { term, index },
        Message::GapCommitResponse { term, index },
        Message::ViewChangeRequest { term },
        Message::ViewChange { term, last_normal: TermId(8), base: Index(1_390), log: log() },
        Message::ViewChangeRepair { term, request: 5, wanted: wanted() },
        Message::ViewChangeRepairResponse {
            term,
            request: 5,
            chunk: chunk(),
            values: wanted().slots,
        },
        Message::StartView { term, source_term: TermId(8), log: log() },
        Message::ViewRepair { term, request: 5, wanted: wanted() },
        Message::ViewRepairResponse { term, chunk: chunk(), entries: entries() },
        Message::SyncPrepare { term, message_id, log: log() },
        Message::SyncRepair { term, wanted: wanted() },
        Message::SyncRepairResponse { term, chunk: chunk(), entries: entries() },
        Message::SyncResponse { term, index },
        Message::SyncCommit { term, message_id, sync_point: index },
        Message::Recover { member: LEADER, attempt },
        Message::RecoverResponse { attempt, term, message_id, chunk: chunk(), entries: entries() },
        Message::Ping { term },
    ]
}

const GOLDEN: &str = include_str!("golden/peer.txt");

#[test]
fn bytes_of_one_message_of_each_kind_never_change() {
    let golden: Vec<&str> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
    let messages = golden_messages();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut found = Vec::new();
    for message in messages {
        let (partition, from, to) = (PartitionId(4), LEADER, MemberId(0));
        let said = Said { partition, from, to, body: Body::Message(message) };
        let payload = said.payload();
        assert_eq!(payload, said.proto().encode_to_vec());
        assert_eq!(said.decode(&payload), Ok(said.received()));
        let name = format!("{:?}", said.body);
        let name = name.trim_start_matches("Message(").split([' ', '(']).next().unwrap();
        found.push(format!("{name} {}", hex(&payload)));
    }
    assert_eq!(found, golden);
}

// ---- what is not said ----

fn speak(message: &Message) -> BytesMut {
    let group = group(PartitionId(4), LEADER);
    let mut out = BytesMut::new();
    PeerEncoder::new(CLUSTER, &group).encode(&mut out, &group, message).unwrap();
    out
}

#[test]
fn every_kind_of_the_service_is_said() {
    let mut kinds: Vec<u64> = (0..KIND_COUNT)
        .map(|kind| {
            let prng = &mut p2pmap::base::prng::Prng::new(1, "kinds");
            let payload = Said::of_kind(kind, prng).payload();
            fields_of(&payload)[1].0 >> 3
        })
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (2..=23).collect::<Vec<u64>>());
}

#[test]
#[should_panic(expected = "a log reaches to the base")]
fn votes_below_their_base_are_not_said() {
    let log = log();
    let message =
        Message::ViewChange { term: TERM, last_normal: TermId(1), base: log.last.next(), log };
    speak(&message);
}

#[test]
#[should_panic(expected = "no-ops are in the log")]
fn no_ops_outside_of_their_log_are_not_said() {
    let mut log = log();
    log.no_ops.insert(log.last.next());
    speak(&Message::SyncPrepare { term: TERM, message_id: MessageId(1), log });
}

#[test]
#[should_panic(expected = "what is said in a view has a term")]
fn views_without_a_term_are_not_said() {
    speak(&Message::Ping { term: TermId(0) });
}

#[test]
fn recoveries_are_relayed_in_the_name_of_who_recovers() {
    let attempt = RecoveryId { incarnation: Incarnation(2), nonce: 1 };
    let frame = speak(&Message::Recover { member: MemberId(2), attempt });
    let payload = frame.freeze().slice(FRAME_PREFIX_SIZE_BYTES..);
    let message = proto::Message::decode(payload).unwrap().message;
    let Some(Kind::Recover(recover)) = message else { panic!("{message:?}") };
    assert_eq!(recover.sender_id, MEMBERS[2]);
}
