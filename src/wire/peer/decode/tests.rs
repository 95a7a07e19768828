use bytes::BytesMut;
use prost_types::Timestamp as ProtoTimestamp;

use super::*;
use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, MessageId, TermId};
use crate::base::limits::{COMMAND_SIZE_BYTES_MAX, PEER_ENTRY_COUNT_MAX, POSITION_END};
use crate::base::time::Timestamp;
use crate::nopaxos::message::{
    Answer, CheckpointPart, Entry, LogSummary, Message, RecoveryId, SlotRange, Stamped, Wanted,
};
use crate::proto::atomix::map as proto;
use crate::proto::atomix::map::message::Message as Kind;
use crate::wire::error::StatusCode;
use crate::wire::peer::chunk::ChunkError;
use crate::wire::peer::error::{Flaw, ViewFlaw};
use crate::wire::peer::filter::FilterError;
use crate::wire::peer::ranges::RangesError;
use crate::wire::peer::{Body, Forwarded, PeerDrop, PeerEncoder, Verdict};
use crate::wire::request::FORWARDED;

const P: PartitionId = PartitionId(4);
/// Led by b.
const TERM: TermId = TermId(9);
const LINK: Link<'_> = Link { cluster: "test", peer: "b" };

fn group(me: &str) -> Group {
    Group::new(P, ["a", "b", "c"].map(str::to_owned).to_vec(), me)
}

fn decoded(payload: &Bytes) -> Result<Received, PeerError> {
    let group = group("a");
    decode(payload, LINK, |partition| (partition == P).then_some(&group))
}

/// What b says, as prost reads it.
fn said(message: &Message) -> proto::Message {
    let group = group("b");
    let mut out = BytesMut::new();
    PeerEncoder::new("test", &group).encode(&mut out, &group, message).unwrap();
    let payload = out.split_off(FRAME_PREFIX_SIZE_BYTES).freeze();
    let Received { partition, sender, body } = decoded(&payload).unwrap();
    assert_eq!((partition, sender, body), (P, MemberId(1), Body::Message(message.clone())));
    proto::Message::decode(payload).unwrap()
}

fn refusal(message: &proto::Message) -> PeerError {
    decoded(&message.encode_to_vec().into()).unwrap_err()
}

/// Why a message is refused when it was changed on its way.
macro_rules! changed {
    ($message:expr, $kind:ident, $change:expr) => {{
        let mut message = said(&$message);
        let Some(Kind::$kind(inner)) = &mut message.message else { panic!("{message:?}") };
        let change: fn(&mut _) = $change;
        change(inner);
        refusal(&message)
    }};
}

/// Each of these changes makes the message malformed in this field, for this reason.
macro_rules! malformed {
    ($message:expr, $kind:ident: $name:literal; $($field:literal, $flaw:expr, $change:expr;)+) => {
        $(
            let error = changed!($message, $kind, $change);
            let expected = PeerError::Malformed { kind: $name, field: $field, flaw: $flaw };
            assert_eq!(error, expected, "{}", stringify!($change));
            assert_eq!(error.verdict(), Verdict::Drop(PeerDrop::Malformed));
            let text = format!("{}.{}: ", $name, $field);
            assert!(error.to_string().starts_with(&text), "{error}");
        )+
    };
}

// ---- one message of each kind ----

fn log() -> LogSummary {
    let no_ops = [Index(12), Index(13)].into();
    LogSummary { first: Index(10), last: Index(20), no_ops, chain: Chain([7; 16]) }
}

fn wanted() -> Wanted {
    let range = |first, last| SlotRange { first: Index(first), last: Index(last) };
    Wanted { checkpoint: Index(5), slots: vec![range(6, 8), range(10, 10)] }
}

fn chunk() -> Option<CheckpointPart> {
    Some(CheckpointPart {
        index: Index(5),
        size_bytes: 4,
        number: 0,
        chunk_size_bytes: 8,
        digest: [3; 32],
        data: Bytes::from_static(b"data"),
    })
}

fn entries() -> Vec<Entry> {
    let message_id = MessageId(2);
    let value = Some(Bytes::from_static(b"value"));
    vec![
        Entry { index: Index(6), message_id, timestamp: Timestamp(5), value },
        Entry { index: Index(7), message_id, timestamp: Timestamp(0), value: None },
    ]
}

fn attempt() -> RecoveryId {
    RecoveryId { incarnation: Incarnation(2), nonce: 3 }
}

fn command() -> Message {
    Message::Command(Stamped {
        term: TERM,
        message_id: MessageId(3),
        timestamp: Timestamp(5),
        value: Bytes::from_static(b"value"),
    })
}

fn response(answer: Answer) -> Message {
    Message::CommandResponse { term: TERM, message_id: MessageId(3), index: Index(13), answer }
}

fn ack() -> Message {
    response(Answer::Ack)
}

fn result() -> Message {
    response(Answer::Result([0x22, 0].as_slice().into()))
}

fn query() -> Message {
    let value = Bytes::from_static(b"query");
    Message::Query { term: TERM, query_id: 3, covers: Index(13), value }
}

fn query_response(term: TermId, value: &'static [u8]) -> Message {
    Message::QueryResponse { term, query_id: 3, index: Index(13), value: value.into() }
}

fn vote() -> Message {
    Message::ViewChange { term: TERM, last_normal: TermId(8), base: Index(15), log: log() }
}

fn view_change_repair_response() -> Message {
    let values = wanted().slots;
    Message::ViewChangeRepairResponse { term: TERM, request: 5, chunk: chunk(), values }
}

fn start_view() -> Message {
    Message::StartView { term: TERM, source_term: TermId(8), log: log() }
}

fn view_repair_response() -> Message {
    Message::ViewRepairResponse { term: TERM, chunk: chunk(), entries: entries() }
}

fn sync_prepare() -> Message {
    Message::SyncPrepare { term: TERM, message_id: MessageId(5), log: log() }
}

fn sync_commit() -> Message {
    Message::SyncCommit { term: TERM, message_id: MessageId(5), sync_point: Index(20) }
}

fn recover() -> Message {
    Message::Recover { member: MemberId(1), attempt: attempt() }
}

fn recover_response(term: TermId) -> Message {
    Message::RecoverResponse {
        attempt: attempt(),
        term,
        message_id: MessageId(4),
        chunk: chunk().filter(|_| term == TERM),
        entries: if term == TERM { entries() } else { Vec::new() },
    }
}

/// One of each kind that has a sender and a view.
fn viewed() -> Vec<Message> {
    let (term, index, message_id) = (TERM, Index(13), MessageId(3));
    vec![
        ack(),
        query_response(TERM, b"result"),
        Message::SlotLookup { term, message_id },
        Message::GapCommitRequest { term, index },
        Message::GapCommitResponse { term, index },
        Message::ViewChangeRequest { term },
        vote(),
        Message::ViewChangeRepair { term, request: 5, wanted: wanted() },
        view_change_repair_response(),
        start_view(),
        Message::ViewRepair { term, request: 5, wanted: wanted() },
        view_repair_response(),
        sync_prepare(),
        Message::SyncRepair { term, wanted: wanted() },
        Message::SyncRepairResponse { term, chunk: chunk(), entries: entries() },
        Message::SyncResponse { term, index },
        sync_commit(),
        Message::Ping { term },
    ]
}

// ---- C1 to C3 ----

#[test]
fn what_cannot_be_decoded_closes_the_connection() {
    let close = Verdict::Close(StatusCode::InvalidArgument);
    for payload in [&b"\xFF"[..], b"\x0A\x05x", b"\x12\x02\x08"] {
        let error = decoded(&Bytes::from_static(payload)).unwrap_err();
        assert_eq!(error.verdict(), close, "{error}");
    }
    let no_utf8 = Bytes::from_static(b"\xBA\x01\x03\x0A\x01\xFF");
    let error = decoded(&no_utf8).unwrap_err();
    assert!(matches!(error, PeerError::Undecodable { .. }), "{error:?}");
    assert_eq!(error.verdict(), close);
}

#[test]
fn frames_longer_than_members_send_close_the_connection() {
    let mut message = said(&command());
    let Some(Kind::Command(inner)) = &mut message.message else { panic!() };
    inner.value = vec![7; FRAME_SENT_SIZE_BYTES_MAX].into();
    let error = refusal(&message);
    assert!(matches!(error, PeerError::TooLong { .. }));
    assert_eq!(error.verdict(), Verdict::Close(StatusCode::InvalidArgument));
}

#[test]
fn kinds_of_later_releases_are_ignored_and_counted() {
    let empty = proto::Message { message: None, ..said(&command()) };
    assert_eq!(refusal(&empty), PeerError::KindUnknown);
    let mut payload = empty.encode_to_vec();
    payload.extend([0xC2, 0x01, 2, 0x0A, 0]);
    let error = decoded(&payload.into()).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Drop(PeerDrop::UnknownKind));
}

#[test]
fn targets_are_partitions_that_both_hold() {
    let with = |name: &str, namespace: &str| {
        let mut message = said(&command());
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        message.target = Some(Name { name, namespace });
        decoded(&message.encode_to_vec().into())
    };
    assert!(with("#4", "test").is_ok());
    assert!(with("#4", "").is_ok(), "the cluster that was connected to");
    for (name, namespace) in [
        ("#4", "tset"),
        ("#5", "test"),
        ("#04", "test"),
        ("#", "test"),
        ("", "test"),
        ("4", "test"),
        ("orders", "test"),
        ("orders#4", "test"),
        ("#4#4", "test"),
    ] {
        let error = with(name, namespace).unwrap_err();
        assert_eq!(error, PeerError::TargetUnknown, "{name} {namespace}");
        assert_eq!(error.verdict(), Verdict::Drop(PeerDrop::UnknownTarget));
    }
    let none = proto::Message { target: None, ..said(&command()) };
    assert_eq!(refusal(&none), PeerError::TargetUnknown);
}

#[test]
fn partitions_of_others_are_unknown_targets() {
    let payload = Bytes::from(said(&command()).encode_to_vec());
    let group = group("a");
    for peer in ["d", "", "a"] {
        let link = Link { peer, ..LINK };
        let result = decode(&payload, link, |_| Some(&group));
        assert_eq!(result, Err(PeerError::TargetUnknown), "{peer}");
    }
}

// ---- C5, C6 ----

/// Calls a function with the sender and view of a message.
fn with_sender(message: &mut proto::Message, change: fn(&mut String, &mut Option<proto::ViewId>)) {
    macro_rules! of {
        ($($kind:ident)*) => {
            match message.message.as_mut().unwrap() {
                $(Kind::$kind(inner) => change(&mut inner.sender_id, &mut inner.view_id),)*
                other => panic!("{other:?}"),
            }
        };
    }
    of! {
        CommandResponse QueryResponse SlotLookup GapCommit GapCommitResponse ViewChangeRequest
        ViewChange ViewChangeRepair ViewChangeRepairResponse StartView ViewRepair
        ViewRepairResponse SyncPrepare SyncRepair SyncRepairResponse SyncResponse SyncCommit
        RecoverResponse Ping
    }
}

#[test]
fn senders_must_be_who_is_connected() {
    let with_recovery = [viewed(), vec![recover_response(TERM)]].concat();
    for message in &with_recovery {
        let changes: [fn(&mut String, &mut Option<proto::ViewId>); 3] = [
            |sender, _| sender.clear(),
            |sender, _| "c".clone_into(sender),
            |sender, _| sender.push('b'),
        ];
        for change in changes {
            let mut message = said(message);
            with_sender(&mut message, change);
            let error = refusal(&message);
            assert!(matches!(error, PeerError::BadSender { .. }), "{message:?} {error:?}");
            assert_eq!(error.verdict(), Verdict::Drop(PeerDrop::BadSender));
        }
    }
}

#[test]
fn views_have_a_real_term_and_its_leader() {
    fn change_view(flaw: ViewFlaw, change: fn(&mut String, &mut Option<proto::ViewId>)) {
        for message in viewed() {
            let mut message = said(&message);
            with_sender(&mut message, change);
            let error = refusal(&message);
            let is_expected =
                matches!(error, PeerError::BadView { flaw: found, .. } if found == flaw);
            assert!(is_expected, "{message:?} {error:?}");
            assert_eq!(error.verdict(), Verdict::Drop(PeerDrop::BadView));
        }
    }
    change_view(ViewFlaw::Missing, |_, view| *view = None);
    change_view(ViewFlaw::TermOutOfRange, |_, view| *view = Some(proto::ViewId::default()));
    change_view(ViewFlaw::TermOutOfRange, |_, view| {
        view.as_mut().unwrap().term_id = POSITION_END;
    });
    change_view(ViewFlaw::LeaderDiffers, |_, view| view.as_mut().unwrap().term_id += 1);
    change_view(ViewFlaw::LeaderDiffers, |_, view| view.as_mut().unwrap().leader_id.clear());
    change_view(ViewFlaw::LeaderDiffers, |_, view| {
        "c".clone_into(&mut view.as_mut().unwrap().leader_id);
    });
}

#[test]
fn stamps_have_a_real_term() {
    let flaw = ViewFlaw::TermOutOfRange;
    let error = changed!(command(), Command, |inner: &mut proto::CommandRequest| {
        inner.term_id = POSITION_END;
    });
    assert_eq!(error, PeerError::BadView { kind: "command", flaw });
    let error = changed!(query(), Query, |inner: &mut proto::QueryRequest| {
        inner.term_id = u64::MAX;
    });
    assert_eq!(error, PeerError::BadView { kind: "query", flaw });
}

// ---- what each kind requires ----

#[test]
fn stamped_commands_are_complete() {
    malformed! { command(), Command: "command";
        "message_id", Flaw::Missing, |m: &mut proto::CommandRequest| m.message_id = 0;
        "message_id", Flaw::TooHigh, |m: &mut proto::CommandRequest| m.message_id |= FORWARDED;
        "timestamp", Flaw::Missing, |m: &mut proto::CommandRequest| m.timestamp = None;
        "timestamp", Flaw::NoTime, |m: &mut proto::CommandRequest| {
            m.timestamp = Some(ProtoTimestamp { seconds: -1, nanos: 0 });
        };
        "timestamp", Flaw::NoTime, |m: &mut proto::CommandRequest| {
            m.timestamp = Some(ProtoTimestamp { seconds: 1, nanos: -1 });
        };
        "timestamp", Flaw::NoTime, |m: &mut proto::CommandRequest| {
            m.timestamp = Some(ProtoTimestamp { seconds: 1, nanos: 1_000_000_000 });
        };
        "timestamp", Flaw::NoTime, |m: &mut proto::CommandRequest| {
            m.timestamp = Some(ProtoTimestamp { seconds: i64::MAX, nanos: 0 });
        };
        "value", Flaw::Missing, |m: &mut proto::CommandRequest| m.value.clear();
        "value", Flaw::TooLong, |m: &mut proto::CommandRequest| {
            m.value = vec![7; COMMAND_SIZE_BYTES_MAX + 1].into();
        };
    }
}

#[test]
fn forwarded_requests_are_marked_as_a_members_own() {
    malformed! { command(), Command: "command";
        "message_id", Flaw::Missing, |m: &mut proto::CommandRequest| m.term_id = 0;
        "value", Flaw::Missing, |m: &mut proto::CommandRequest| {
            (m.term_id, m.message_id) = (0, FORWARDED);
            m.value.clear();
        };
        "value", Flaw::TooLong, |m: &mut proto::CommandRequest| {
            (m.term_id, m.message_id) = (0, FORWARDED);
            m.value = vec![7; COMMAND_SIZE_BYTES_MAX + 1].into();
        };
    }
    malformed! { query(), Query: "query";
        "message_id", Flaw::Missing, |m: &mut proto::QueryRequest| m.term_id = 0;
        "value", Flaw::Missing, |m: &mut proto::QueryRequest| {
            (m.term_id, m.message_id) = (0, FORWARDED);
            m.value.clear();
        };
    }
    let mut message = said(&command());
    let Some(Kind::Command(inner)) = &mut message.message else { panic!() };
    (inner.term_id, inner.message_id) = (0, FORWARDED | 7);
    let body = decoded(&message.encode_to_vec().into()).unwrap().body;
    let value = Bytes::from_static(b"value");
    assert_eq!(body, Body::Forwarded(Forwarded::Command { correlation: FORWARDED | 7, value }));
}

#[test]
fn forwarded_answers_are_never_empty() {
    malformed! { ack(), CommandResponse: "command_response";
        "value", Flaw::Missing, |m: &mut proto::CommandResponse| m.message_id |= FORWARDED;
    }
    malformed! { query_response(TERM, b""), QueryResponse: "query_response";
        "value", Flaw::Missing, |m: &mut proto::QueryResponse| m.message_id |= FORWARDED;
    }
}

#[test]
fn responses_name_a_command_of_their_slot() {
    malformed! { ack(), CommandResponse: "command_response";
        "message_id", Flaw::Contradiction, |m: &mut proto::CommandResponse| m.message_id = 14;
        "index", Flaw::TooHigh, |m: &mut proto::CommandResponse| m.index = POSITION_END;
    }
    malformed! { result(), CommandResponse: "command_response";
        "message_id", Flaw::Missing, |m: &mut proto::CommandResponse| m.message_id = 0;
        "value", Flaw::Undecodable, |m: &mut proto::CommandResponse| m.value = vec![0x22].into();
        "value", Flaw::Undecodable, |m: &mut proto::CommandResponse| {
            m.value = vec![0x0A, 1, 0x08].into();
        };
    }
    let base = Message::CommandResponse {
        term: TERM,
        message_id: MessageId(0),
        index: Index(13),
        answer: Answer::Ack,
    };
    said(&base);
}

#[test]
fn only_the_leader_has_results() {
    let follower = |m: &mut proto::CommandResponse| {
        m.view_id = Some(proto::ViewId { leader_id: "c".into(), term_id: 10 });
    };
    for answer in [result(), response(Answer::Dropped)] {
        let error = changed!(answer, CommandResponse, follower);
        let (kind, field, flaw) = ("command_response", "value", Flaw::NotLeader);
        assert_eq!(error, PeerError::Malformed { kind, field, flaw });
    }
    malformed! { query_response(TERM, b"result"), QueryResponse: "query_response";
        "value", Flaw::NotLeader, |m: &mut proto::QueryResponse| {
            m.view_id = Some(proto::ViewId { leader_id: "c".into(), term_id: 10 });
        };
    }
    said(&query_response(TermId(10), b""));
}

#[test]
fn dropped_is_understood_in_every_spelling() {
    let spelled = |bytes: &'static [u8]| {
        let mut message = said(&result());
        let Some(Kind::CommandResponse(inner)) = &mut message.message else { panic!() };
        inner.value = bytes.into();
        decoded(&message.encode_to_vec().into()).unwrap().body
    };
    let dropped = Body::Message(response(Answer::Dropped));
    assert_eq!(spelled(&[0x0A, 2, 0x08, 64]), dropped);
    assert_eq!(spelled(&[0x0A, 5, 0x08, 0xC0, 0, 0x12, 0]), dropped, "overlong, with a message");
    assert_eq!(spelled(&[0x0A, 2, 0x08, 9, 0x0A, 2, 0x08, 64]), dropped, "merged");
    let other = spelled(&[0x0A, 2, 0x08, 64, 0x22, 0]);
    assert_ne!(other, dropped, "the last of a oneof counts");
}

#[test]
fn queries_carry_what_they_must_cover() {
    malformed! { query(), Query: "query";
        "message_id", Flaw::Missing, |m: &mut proto::QueryRequest| m.message_id = 0;
        "message_id", Flaw::TooHigh, |m: &mut proto::QueryRequest| m.message_id |= FORWARDED;
        "value", Flaw::Undecodable, |m: &mut proto::QueryRequest| m.value = vec![0x08].into();
        "value", Flaw::TooHigh, |m: &mut proto::QueryRequest| {
            let indexed = proto::Indexed { index: POSITION_END, value: Bytes::new() };
            m.value = indexed.encode_to_vec().into();
        };
    }
    malformed! { query_response(TERM, b"result"), QueryResponse: "query_response";
        "message_id", Flaw::Missing, |m: &mut proto::QueryResponse| m.message_id = 0;
        "value", Flaw::Undecodable, |m: &mut proto::QueryResponse| m.value = vec![0x08].into();
    }
    said(&Message::Query { term: TERM, query_id: 1, covers: Index(0), value: Bytes::new() });
}

#[test]
fn gaps_have_a_place() {
    malformed! {
        Message::SlotLookup { term: TERM, message_id: MessageId(3) }, SlotLookup: "slot_lookup";
        "message_id", Flaw::Missing, |m: &mut proto::SlotLookup| m.message_id = 0;
        "message_id", Flaw::TooHigh, |m: &mut proto::SlotLookup| m.message_id = u64::MAX;
    }
    malformed! {
        Message::GapCommitRequest { term: TERM, index: Index(3) }, GapCommit: "gap_commit";
        "index", Flaw::Missing, |m: &mut proto::GapCommitRequest| m.index = 0;
        "index", Flaw::TooHigh, |m: &mut proto::GapCommitRequest| m.index = u64::MAX;
    }
    malformed! {
        Message::GapCommitResponse { term: TERM, index: Index(3) },
        GapCommitResponse: "gap_commit_response";
        "index", Flaw::Missing, |m: &mut proto::GapCommitResponse| m.index = 0;
        "index", Flaw::TooHigh, |m: &mut proto::GapCommitResponse| m.index = u64::MAX;
    }
}

#[test]
fn votes_are_consistent() {
    malformed! { vote(), ViewChange: "view_change";
        "last_normal", Flaw::Contradiction, |m: &mut proto::ViewChange| {
            m.last_normal.clone_from(&m.view_id);
        };
        "last_normal", Flaw::Contradiction, |m: &mut proto::ViewChange| {
            m.last_normal = Some(proto::ViewId { leader_id: "c".into(), term_id: 10 });
        };
        "message_id", Flaw::Contradiction, |m: &mut proto::ViewChange| m.message_id = 21;
        "first_log_index", Flaw::Missing, |m: &mut proto::ViewChange| m.first_log_index = 0;
        "first_log_index", Flaw::Contradiction, |m: &mut proto::ViewChange| {
            m.first_log_index = 22;
        };
        "last_log_index", Flaw::TooHigh, |m: &mut proto::ViewChange| {
            m.last_log_index = u64::MAX;
        };
        "no_op_filter", Flaw::Missing, |m: &mut proto::ViewChange| m.no_op_filter.clear();
        "no_op_filter", Flaw::Missing, |m: &mut proto::ViewChange| {
            m.no_op_filter = vec![1, 0, 0].into();
        };
        "no_op_filter", Flaw::Unexpected, |m: &mut proto::ViewChange| {
            m.no_op_filter = [&[1, 3, 5][..], &[7; 16], &[0]].concat().into();
        };
        "no_op_filter", Flaw::Filter(FilterError::VersionUnknown), |m: &mut proto::ViewChange| {
            m.no_op_filter = vec![2].into();
        };
    }
    let flaw = ViewFlaw::LeaderDiffers;
    let error = changed!(vote(), ViewChange, |m: &mut proto::ViewChange| {
        m.last_normal = Some(proto::ViewId { leader_id: "a".into(), term_id: 7 });
    });
    assert_eq!(error, PeerError::BadView { kind: "view_change", flaw });
    let log = LogSummary { first: Index(1), ..LogSummary::default() };
    let none = TermId(0);
    said(&Message::ViewChange { term: TERM, last_normal: none, base: Index(0), log });
}

#[test]
fn views_start_with_a_merged_log() {
    malformed! { start_view(), StartView: "start_view";
        "message_id", Flaw::Contradiction, |m: &mut proto::StartView| m.message_id = 0;
        "message_id", Flaw::Contradiction, |m: &mut proto::StartView| m.message_id = 2;
        "first_log_index", Flaw::Contradiction, |m: &mut proto::StartView| {
            m.first_log_index = 22;
        };
        "no_op_filter", Flaw::Missing, |m: &mut proto::StartView| m.no_op_filter.clear();
        "no_op_filter", Flaw::Missing, |m: &mut proto::StartView| {
            m.no_op_filter = [&[1, 2][..], &[7; 16], &[0]].concat().into();
        };
        "no_op_filter", Flaw::Missing, |m: &mut proto::StartView| {
            m.no_op_filter = vec![1, 1, 8, 0].into();
        };
        "no_op_filter", Flaw::Contradiction, |m: &mut proto::StartView| {
            m.no_op_filter = [&[1, 3, 9][..], &[7; 16], &[0]].concat().into();
        };
        "no_op_filter", Flaw::Filter(FilterError::CountTooHigh { count: 12 }),
        |m: &mut proto::StartView| {
            m.no_op_filter = [&[1, 3, 8][..], &[7; 16], &[12], &[0; 12]].concat().into();
        };
    }
}

#[test]
fn sync_points_lie_behind_their_base() {
    malformed! { sync_prepare(), SyncPrepare: "sync_prepare";
        "message_id", Flaw::Contradiction, |m: &mut proto::SyncPrepare| m.message_id = 21;
        "first_log_index", Flaw::Contradiction, |m: &mut proto::SyncPrepare| {
            m.first_log_index = 22;
        };
        "no_op_filter", Flaw::Missing, |m: &mut proto::SyncPrepare| m.no_op_filter.clear();
        "no_op_filter", Flaw::Unexpected, |m: &mut proto::SyncPrepare| {
            m.no_op_filter = [&[1, 3, 5][..], &[7; 16], &[0]].concat().into();
        };
    }
    malformed! { sync_commit(), SyncCommit: "sync_commit";
        "message_id", Flaw::Contradiction, |m: &mut proto::SyncCommit| m.message_id = 21;
        "sync_point", Flaw::TooHigh, |m: &mut proto::SyncCommit| m.sync_point = u64::MAX;
    }
    malformed! {
        Message::SyncResponse { term: TERM, index: Index(3) }, SyncResponse: "sync_response";
        "index", Flaw::TooHigh, |m: &mut proto::SyncResponse| m.index = u64::MAX;
    }
}

#[test]
fn repairs_ask_for_slots() {
    let repair = Message::ViewChangeRepair { term: TERM, request: 5, wanted: wanted() };
    malformed! { repair, ViewChangeRepair: "view_change_repair";
        "checkpoint", Flaw::TooHigh, |m: &mut proto::ViewChangeRepair| m.checkpoint = u64::MAX;
        "indexs", Flaw::Ranges(RangesError::Odd), |m: &mut proto::ViewChangeRepair| {
            m.indexs.push(11);
        };
        "indexs", Flaw::Ranges(RangesError::NotAscending), |m: &mut proto::ViewChangeRepair| {
            m.indexs = vec![2, 1];
        };
        "indexs", Flaw::TooHigh, |m: &mut proto::ViewChangeRepair| {
            m.indexs = vec![2, POSITION_END];
        };
        "indexs", Flaw::Ranges(RangesError::TooMany), |m: &mut proto::ViewChangeRepair| {
            m.indexs = (1..=2_050).collect();
        };
    }
    malformed! {
        Message::ViewRepair { term: TERM, request: 5, wanted: wanted() }, ViewRepair: "view_repair";
        "checkpoint", Flaw::TooHigh, |m: &mut proto::ViewRepair| m.checkpoint = u64::MAX;
        "indexs", Flaw::Ranges(RangesError::NotAscending), |m: &mut proto::ViewRepair| {
            m.indexs = vec![0, 1];
        };
    }
    malformed! {
        Message::SyncRepair { term: TERM, wanted: wanted() }, SyncRepair: "sync_repair";
        "checkpoint", Flaw::TooHigh, |m: &mut proto::SyncRepair| m.checkpoint = u64::MAX;
        "indexs", Flaw::Ranges(RangesError::Odd), |m: &mut proto::SyncRepair| m.indexs = vec![1];
    }
    malformed! { view_change_repair_response(),
        ViewChangeRepairResponse: "view_change_repair_response";
        "indexs", Flaw::Ranges(RangesError::Odd), |m: &mut proto::ViewChangeRepairResponse| {
            m.indexs = vec![1];
        };
    }
    let nothing = Message::ViewRepair { term: TERM, request: 5, wanted: Wanted::default() };
    said(&nothing);
}

#[test]
fn chunks_are_of_a_checkpoint() {
    malformed! { view_change_repair_response(),
        ViewChangeRepairResponse: "view_change_repair_response";
        "checkpoint", Flaw::Contradiction, |m: &mut proto::ViewChangeRepairResponse| {
            m.checkpoint_index = 0;
        };
        "checkpoint", Flaw::Contradiction, |m: &mut proto::ViewChangeRepairResponse| {
            m.checkpoint.clear();
        };
    }
    malformed! { view_repair_response(), ViewRepairResponse: "view_repair_response";
        "checkpoint_index", Flaw::TooHigh, |m: &mut proto::ViewRepairResponse| {
            m.checkpoint_index = u64::MAX;
        };
        "checkpoint", Flaw::Chunk(ChunkError::DataSizeDiffers),
        |m: &mut proto::ViewRepairResponse| {
            let shorter = m.checkpoint.len() - 1;
            m.checkpoint.truncate(shorter);
        };
    }
}

#[test]
fn entries_ascend_and_are_complete() {
    let repair = Message::SyncRepairResponse { term: TERM, chunk: None, entries: entries() };
    malformed! { repair.clone(), SyncRepairResponse: "sync_repair_response";
        "entries", Flaw::Missing, |m: &mut proto::SyncRepairResponse| m.entries[0].index = 0;
        "entries", Flaw::TooHigh, |m: &mut proto::SyncRepairResponse| {
            m.entries[1].index = u64::MAX;
        };
        "entries", Flaw::Missing, |m: &mut proto::SyncRepairResponse| {
            m.entries[0].message_num = 0;
        };
        "entries", Flaw::Contradiction, |m: &mut proto::SyncRepairResponse| {
            m.entries[0].message_num = 7;
        };
        "entries", Flaw::Missing, |m: &mut proto::SyncRepairResponse| {
            m.entries[0].timestamp = None;
        };
        "entries", Flaw::NoTime, |m: &mut proto::SyncRepairResponse| {
            m.entries[0].timestamp = Some(ProtoTimestamp { seconds: 1, nanos: i32::MAX });
        };
        "entries", Flaw::Unexpected, |m: &mut proto::SyncRepairResponse| {
            m.entries[1].timestamp = Some(ProtoTimestamp::default());
        };
        "entries", Flaw::TooLong, |m: &mut proto::SyncRepairResponse| {
            m.entries[0].value = vec![7; COMMAND_SIZE_BYTES_MAX + 1].into();
        };
        "entries", Flaw::NotAscending, |m: &mut proto::SyncRepairResponse| m.entries.swap(0, 1);
        "entries", Flaw::NotAscending, |m: &mut proto::SyncRepairResponse| {
            m.entries[1].index = 6;
        };
    }
    malformed! { view_repair_response(), ViewRepairResponse: "view_repair_response";
        "entries", Flaw::Missing, |m: &mut proto::ViewRepairResponse| m.entries[0].index = 0;
    }
}

#[test]
fn entries_are_counted_before_they_are_decoded() {
    let many = |count: usize| {
        let mut message = said(&view_repair_response());
        let Some(Kind::ViewRepairResponse(inner)) = &mut message.message else { panic!() };
        let entry = |index: u64| proto::Entry { index, message_num: 1, ..Default::default() };
        inner.entries = (1..=cast::u64_from(count)).map(entry).collect();
        decoded(&message.encode_to_vec().into())
    };
    assert!(many(PEER_ENTRY_COUNT_MAX).is_ok());
    let (kind, field, flaw) = ("view_repair_response", "entries", Flaw::TooMany);
    let error = PeerError::Malformed { kind, field, flaw };
    assert_eq!(many(PEER_ENTRY_COUNT_MAX + 1), Err(error));
    malformed! { view_repair_response(), ViewRepairResponse: "view_repair_response";
        "entries", Flaw::Missing, |m: &mut proto::ViewRepairResponse| {
            m.entries.push(proto::Entry::default());
        };
    }
}

/// prost merges a field that comes twice; half of the entries in each would be too many together.
#[test]
fn entries_are_counted_over_all_parts_of_a_message() {
    let half = PEER_ENTRY_COUNT_MAX / 2 + 1;
    let entry = |index: u64| proto::Entry { index, message_num: 1, ..Default::default() };
    let entries = (1..=cast::u64_from(half)).map(entry).collect();
    let part = proto::ViewRepairResponse { entries, ..Default::default() };
    let message = Some(Kind::ViewRepairResponse(part));
    let payload = proto::Message { target: None, message }.encode_to_vec();
    let (kind, field, flaw) = ("view_repair_response", "entries", Flaw::TooMany);
    let twice = [&payload[..], &payload].concat();
    assert_eq!(decoded(&twice.into()), Err(PeerError::Malformed { kind, field, flaw }));
}

#[test]
fn recoveries_name_a_member_and_an_attempt() {
    malformed! { recover(), Recover: "recover";
        "sender_id", Flaw::NoMember, |m: &mut proto::Recover| m.sender_id = "d".into();
        "sender_id", Flaw::NoMember, |m: &mut proto::Recover| m.sender_id.clear();
        "recovery_id", Flaw::Undecodable, |m: &mut proto::Recover| m.recovery_id = "7".into();
        "recovery_id", Flaw::Undecodable, |m: &mut proto::Recover| m.recovery_id.clear();
    }
    for member in 0..3 {
        said(&Message::Recover { member: MemberId(member), attempt: attempt() });
    }
}

#[test]
fn only_the_leader_sends_its_log_to_who_recovers() {
    malformed! { recover_response(TERM), RecoverResponse: "recover_response";
        "recovery_id", Flaw::Undecodable, |m: &mut proto::RecoverResponse| {
            m.recovery_id.push('0');
        };
        "message_id", Flaw::TooHigh, |m: &mut proto::RecoverResponse| m.message_id = u64::MAX;
        "log", Flaw::NotAscending, |m: &mut proto::RecoverResponse| m.log.swap(0, 1);
        "checkpoint", Flaw::NotLeader, |m: &mut proto::RecoverResponse| m.view_id = None;
        "log", Flaw::NotLeader, |m: &mut proto::RecoverResponse| {
            m.checkpoint.clear();
            m.checkpoint_index = 0;
            m.view_id = Some(proto::ViewId { leader_id: "c".into(), term_id: 10 });
        };
    }
    said(&recover_response(TermId(0)));
    said(&recover_response(TermId(10)));
    let mut message = said(&recover_response(TermId(0)));
    let Some(Kind::RecoverResponse(inner)) = &mut message.message else { panic!() };
    inner.view_id = Some(proto::ViewId::default());
    assert!(decoded(&message.encode_to_vec().into()).is_ok(), "both mean that there is none");
}
