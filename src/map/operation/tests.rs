use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::base::limits::{ENTRY_TTL_MS_MAX, KEY_SIZE_BYTES_MAX, MAP_NAME_SIZE_BYTES_MAX};
use crate::proto::p2pmap::v1;
use crate::proto::p2pmap::v1::error::Code;

const VALUE_MAX: usize = 100;

fn put() -> v1::Put {
    v1::Put { key: Bytes::from_static(b"k"), ..Default::default() }
}

fn command(operation: v1::command::Operation) -> v1::Command {
    v1::Command { map: "orders".into(), operation: Some(operation), ..Default::default() }
}

fn query(operation: v1::query::Operation) -> v1::Query {
    v1::Query { map: "orders".into(), operation: Some(operation), ..Default::default() }
}

fn get(key: Vec<u8>) -> v1::query::Operation {
    v1::query::Operation::Get(v1::Get { key: key.into() })
}

/// What is wrong with an encoded command; the hot decoder must not accept it.
fn command_error(bytes: &[u8]) -> OperationError {
    assert_eq!(decode_command(bytes, VALUE_MAX), None);
    with_command(bytes, VALUE_MAX, |command| command.unwrap_err())
}

fn put_error(change: impl FnOnce(&mut v1::Put)) -> OperationError {
    let mut put = put();
    change(&mut put);
    command_error(&command(v1::command::Operation::Put(put)).encode_to_vec())
}

fn query_error(bytes: &[u8]) -> OperationError {
    assert_eq!(decode_query(bytes), None);
    with_query(bytes, |query| query.unwrap_err())
}

/// Both decoders must read the same.
#[track_caller]
fn assert_command(message: &v1::Command, expected: Command<'_>) {
    let bytes = message.encode_to_vec();
    assert_eq!(decode_command(&bytes, VALUE_MAX), Some(expected));
    let owned = OwnedCommand::decode(&bytes).unwrap();
    assert_eq!(owned.command(VALUE_MAX), Ok(expected));
}

#[track_caller]
fn assert_query(message: &v1::Query, expected: Query<'_>) {
    let bytes = message.encode_to_vec();
    assert_eq!(decode_query(&bytes), Some(expected));
    assert_eq!(OwnedQuery::decode(&bytes).unwrap().query(), Ok(expected));
}

#[test]
fn puts_keep_all_of_their_fields() {
    let condition = v1::condition::Condition::Value(Bytes::from_static(b"old"));
    let message = v1::Command {
        timeout_ms: 250,
        no_forward: true,
        ..command(v1::command::Operation::Put(v1::Put {
            value: Bytes::from_static(b"new"),
            condition: Some(v1::Condition { condition: Some(condition) }),
            want_previous: true,
            ..put()
        }))
    };
    let operation = Operation::Put {
        key: b"k",
        value: b"new",
        condition: Some(Condition::Value(b"old")),
        ttl: Ttl::Unlimited,
        want_previous: true,
    };
    assert_command(
        &message,
        Command { map: "orders", session: None, timeout_ms: 250, no_forward: true, operation },
    );
}

#[test]
fn removes_and_clears_are_read() {
    let condition = v1::Condition { condition: Some(v1::condition::Condition::Version(7)) };
    let key = Bytes::from_static(b"k");
    let remove = v1::Remove { key, condition: Some(condition), want_previous: true };
    let operation = Operation::Remove {
        key: b"k",
        condition: Some(Condition::Version(Index(7))),
        want_previous: true,
    };
    let expected =
        Command { map: "orders", session: None, timeout_ms: 0, no_forward: false, operation };
    assert_command(&command(v1::command::Operation::Remove(remove)), expected);
    let clear = command(v1::command::Operation::Clear(v1::Clear {}));
    assert_command(&clear, Command { operation: Operation::Clear, ..expected });
}

#[test]
fn queries_keep_all_of_their_fields() {
    let entries = v1::Entries {
        prefix: Bytes::from_static(b"p"),
        start_after: Bytes::from_static(b"pq"),
        limit: 3,
        keys_only: true,
    };
    let message = v1::Query {
        consistency: v1::Consistency::Stale.into(),
        min_index: 12,
        timeout_ms: 250,
        no_forward: true,
        ..query(v1::query::Operation::Entries(entries))
    };
    let operation =
        QueryOperation::Entries { prefix: b"p", start_after: b"pq", limit: 3, keys_only: true };
    let expected = Query {
        map: "orders",
        consistency: Consistency::Stale,
        min_index: Index(12),
        timeout_ms: 250,
        no_forward: true,
        operation,
    };
    assert_query(&message, expected);
}

#[test]
fn lease_reads_are_linearizable_while_there_are_no_leases() {
    for consistency in [v1::Consistency::Linearizable, v1::Consistency::Lease] {
        let message = v1::Query {
            consistency: consistency.into(),
            ..query(v1::query::Operation::Size(v1::Size {}))
        };
        let bytes = message.encode_to_vec();
        let query = decode_query(&bytes).unwrap();
        assert_eq!(query.consistency, Consistency::Linearizable);
        assert_eq!(query.operation, QueryOperation::Size);
    }
    let message = v1::Query { consistency: 3, ..query(get(b"k".to_vec())) };
    let error = query_error(&message.encode_to_vec());
    assert_eq!(error, OperationError::ConsistencyUnknown { number: 3 });
}

#[test]
fn numbers_are_brought_into_their_bounds() {
    for (limit, expected) in [(0, 1_000), (1, 1), (10_000, 10_000), (u32::MAX, 10_000)] {
        let entries = v1::Entries { limit, ..Default::default() };
        let bytes = query(v1::query::Operation::Entries(entries)).encode_to_vec();
        let QueryOperation::Entries { limit, .. } = decode_query(&bytes).unwrap().operation else {
            panic!("entries stay entries")
        };
        assert_eq!(limit, expected);
    }
    for (timeout_ms, expected) in [(0, 0), (60_000, 60_000), (u32::MAX, 60_000)] {
        let operation = v1::command::Operation::Put(put());
        let bytes = v1::Command { timeout_ms, ..command(operation) }.encode_to_vec();
        assert_eq!(decode_command(&bytes, VALUE_MAX).unwrap().timeout_ms, expected);
    }
}

#[test]
fn names_of_maps_are_checked() {
    let with_map = |map: &str| {
        let message = v1::Query { map: map.to_owned(), ..query(get(b"k".to_vec())) };
        message.encode_to_vec()
    };
    for map in ["a", "Bestellungen für März", "注文", "a/b.c:d e"] {
        let bytes = with_map(map);
        assert_eq!(decode_query(&bytes).unwrap().map, map);
    }
    assert!(decode_query(&with_map(&"m".repeat(MAP_NAME_SIZE_BYTES_MAX))).is_some());
    let size_bytes = MAP_NAME_SIZE_BYTES_MAX + 1;
    let error = query_error(&with_map(&"m".repeat(size_bytes)));
    assert_eq!(error, OperationError::MapTooLong { size_bytes });
    assert_eq!(query_error(&with_map("")), OperationError::MapMissing);
    for character in ['#', '\0', '\n', '\x1F', '\x7F', '\u{80}', '\u{9F}'] {
        let error = query_error(&with_map(&format!("a{character}b")));
        assert_eq!(error, OperationError::MapCharacter { character });
    }
    // Not UTF-8: prost finds it first, and names the field.
    let error = query_error(&[0x0A, 0x01, 0xFF, 0x62, 0x00]);
    assert!(error.to_string().contains("Query.map"), "{error}");
}

#[test]
fn keys_are_checked_in_every_operation() {
    let long = vec![b'k'; KEY_SIZE_BYTES_MAX + 1];
    let too_long = |field| OperationError::KeyTooLong { field, size_bytes: long.len() };
    let error = put_error(|put| put.key = Bytes::new());
    assert_eq!(error, OperationError::KeyMissing { field: "put.key" });
    assert_eq!(put_error(|put| put.key = long.clone().into()), too_long("put.key"));
    let error = query_error(&query(get(Vec::new())).encode_to_vec());
    assert_eq!(error, OperationError::KeyMissing { field: "get.key" });
    assert_eq!(query_error(&query(get(long.clone())).encode_to_vec()), too_long("get.key"));
    let remove = v1::command::Operation::Remove(v1::Remove::default());
    let error = command_error(&command(remove).encode_to_vec());
    assert_eq!(error, OperationError::KeyMissing { field: "remove.key" });
    let entries = v1::Entries { prefix: long.clone().into(), ..Default::default() };
    let entries = query(v1::query::Operation::Entries(entries));
    assert_eq!(query_error(&entries.encode_to_vec()), too_long("entries.prefix"));
    let longest = query(get(vec![0; KEY_SIZE_BYTES_MAX])).encode_to_vec();
    assert!(decode_query(&longest).is_some());
}

#[test]
fn values_are_bounded_for_clients_and_not_for_the_log() {
    let long = Bytes::from(vec![0; VALUE_MAX + 1]);
    let error = put_error(|put| put.value = long.clone());
    let (field, size_bytes, size_bytes_max) = ("put.value", VALUE_MAX + 1, VALUE_MAX);
    assert_eq!(error, OperationError::ValueTooLong { field, size_bytes, size_bytes_max });
    let condition = v1::condition::Condition::Value(long.clone());
    let error = put_error(|put| put.condition = Some(v1::Condition { condition: Some(condition) }));
    let field = "put.condition";
    assert_eq!(error, OperationError::ValueTooLong { field, size_bytes, size_bytes_max });

    let put = v1::Put { value: long, ..put() };
    let bytes = command(v1::command::Operation::Put(put)).encode_to_vec();
    assert!(decode_command(&bytes, usize::MAX).is_some());
}

#[test]
fn conditions_must_say_something() {
    use v1::condition::Condition::{Absent, Present, Version};
    let with = |condition| put_error(|put| put.condition = Some(v1::Condition { condition }));
    assert_eq!(with(None), OperationError::ConditionMissing { field: "put.condition" });
    for condition in [Absent(false), Present(false), Version(0)] {
        let error = with(Some(condition));
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.to_string().starts_with("put.condition: no condition; "), "{error}");
    }
}

#[test]
fn times_to_live_are_read_and_bounded() {
    let ttl_of = |ttl_ms, keep_ttl| {
        let put = v1::Put { ttl_ms, keep_ttl, ..put() };
        let bytes = command(v1::command::Operation::Put(put)).encode_to_vec();
        match decode_command(&bytes, VALUE_MAX).unwrap().operation {
            Operation::Put { ttl, .. } => ttl,
            operation => panic!("{operation:?}"),
        }
    };
    assert_eq!(ttl_of(0, false), Ttl::Unlimited);
    assert_eq!(ttl_of(0, true), Ttl::Keep);
    assert_eq!(ttl_of(1, false), Ttl::Ms(1));
    assert_eq!(ttl_of(ENTRY_TTL_MS_MAX, false), Ttl::Ms(ENTRY_TTL_MS_MAX));
    let ttl_ms = ENTRY_TTL_MS_MAX + 1;
    assert_eq!(put_error(|put| put.ttl_ms = ttl_ms), OperationError::TtlTooLong { ttl_ms });
    let both = put_error(|put| (put.ttl_ms, put.keep_ttl) = (1, true));
    assert_eq!(both, OperationError::TtlTwice);
    assert_eq!(both.code(), Code::InvalidArgument);
}

#[test]
fn places_in_sessions_are_read_and_must_make_sense() {
    let with = |session_id, sequence, ack_below| {
        let clear = command(v1::command::Operation::Clear(v1::Clear {}));
        v1::Command { session_id, sequence, ack_below, ..clear }.encode_to_vec()
    };
    for (numbers @ (session, sequence, ack_below), bytes) in
        [(7, 1, 0), (7, 9, 9), (u64::MAX, u64::MAX, u64::MAX)].map(|n| (n, with(n.0, n.1, n.2)))
    {
        let call = SessionCall {
            session: SessionId(session),
            sequence: Sequence(sequence),
            ack_below: Sequence(ack_below),
        };
        assert_eq!(decode_command(&bytes, 0).unwrap().session, Some(call), "{numbers:?}");
        let cold = OwnedCommand::decode(&bytes).unwrap();
        assert_eq!(cold.command(0).unwrap().session, Some(call));
    }
    for (bytes, error) in [
        (with(0, 1, 0), OperationError::SessionMissing { field: "sequence" }),
        (with(0, 0, 1), OperationError::SessionMissing { field: "ack_below" }),
        (with(7, 0, 0), OperationError::SequenceMissing),
        (with(7, 1, 2), OperationError::AckAhead { sequence: 1, ack_below: 2 }),
    ] {
        assert_eq!(command_error(&bytes), error);
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}

/// These are rare: prost reads them.
fn cold(message: &v1::Command) -> Result<Operation<'static>, OperationError> {
    let bytes = message.encode_to_vec();
    assert_eq!(decode_command(&bytes, 0), None, "left to prost");
    with_command(&bytes, 0, |command| {
        command.map(|command| match command.operation {
            Operation::OpenSession { ttl_s } => Operation::OpenSession { ttl_s },
            Operation::KeepSession => Operation::KeepSession,
            Operation::CloseSession => Operation::CloseSession,
            Operation::Tick => Operation::Tick,
            operation => panic!("{operation:?}"),
        })
    })
}

#[test]
fn operations_on_sessions_are_read_and_must_make_sense() {
    use v1::command::Operation as Sent;

    let open = |ttl_ms| Sent::OpenSession(v1::OpenSession { ttl_ms });
    let (keep, close) =
        (Sent::KeepSession(v1::KeepSession {}), Sent::CloseSession(v1::CloseSession {}));
    let of = |session_id, operation: &Sent| {
        let operation = Some(operation.clone());
        v1::Command { session_id, operation, ..v1::Command::default() }
    };
    for (ttl_ms, ttl_s) in [(0, 600), (1_000, 1), (1_001, 2), (86_400_000, 86_400)] {
        assert_eq!(cold(&of(0, &open(ttl_ms))), Ok(Operation::OpenSession { ttl_s }));
    }
    for ttl_ms in [1, 999, 86_400_001, u64::MAX] {
        let error = cold(&of(0, &open(ttl_ms))).unwrap_err();
        assert_eq!(error, OperationError::SessionTtl { ttl_ms });
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    assert_eq!(cold(&of(7, &keep)), Ok(Operation::KeepSession));
    assert_eq!(cold(&of(7, &close)), Ok(Operation::CloseSession));
    let named = v1::Command { map: "orders".into(), ..of(7, &keep) };
    assert_eq!(cold(&named), Ok(Operation::KeepSession), "a target may demand the name");
    let acknowledging = v1::Command { ack_below: 9, ..of(7, &keep) };
    assert_eq!(cold(&acknowledging), Ok(Operation::KeepSession));

    let missing = OperationError::SessionMissing { field: "operation" };
    assert_eq!(cold(&of(0, &keep)), Err(missing.clone()));
    assert_eq!(cold(&of(0, &close)), Err(missing));
    let unexpected = |field| Err(OperationError::SessionUnexpected { field });
    assert_eq!(cold(&of(7, &open(0))), unexpected("session_id"));
    let numbered = v1::Command { sequence: 1, ..of(7, &keep) };
    assert_eq!(cold(&numbered), unexpected("sequence"));
    let acknowledging = v1::Command { ack_below: 1, ..of(0, &open(0)) };
    assert_eq!(cold(&acknowledging), unexpected("ack_below"));
    let misnamed = v1::Command { map: "a#1".into(), ..of(0, &open(0)) };
    assert_eq!(cold(&misnamed), Err(OperationError::MapCharacter { character: '#' }));
}

#[test]
fn ticks_have_one_encoding() {
    let operation = Some(v1::command::Operation::Tick(v1::Tick {}));
    let tick = v1::Command { operation, ..v1::Command::default() };
    assert_eq!(tick.encode_to_vec(), TICK);
    let read = cold(&tick).unwrap();
    assert_eq!((read, read.is_internal()), (Operation::Tick, true));
    assert_eq!((read.key(), Operation::Clear.is_internal()), (None, false));
}

#[test]
fn operations_of_later_releases_are_unimplemented_and_named() {
    for (tag, name) in [
        (&[0x6A, 0x00][..], "batch: not implemented (field 13 of the command)"),
        (&[0x82, 0x01, 0x00], "expire: not implemented (field 16 of the command)"),
        (&[0xBA, 0x01, 0x00], "drop_map: not implemented (field 23 of the command)"),
        (&[0x8A, 0x01, 0x00], "operation: field 17 of the command is unknown"),
    ] {
        let map = [0x0A, 0x01, b'm'];
        let error = command_error(&[&map, tag].concat());
        assert_eq!((error.code(), error.to_string().as_str()), (Code::Unimplemented, name));
        // Also behind an operation that is known: a later release takes the last one.
        let known = command(v1::command::Operation::Put(put())).encode_to_vec();
        assert_eq!(command_error(&[&known, tag].concat()), error);
    }
}

#[test]
fn commands_with_unknown_fields_are_refused_at_any_depth() {
    let unknown: &[u8] = &[0x78, 0x01]; // Field 15, a number.
    let nested = |tag: u8, bytes: &[u8]| {
        let mut message = vec![tag, u8::try_from(bytes.len()).unwrap()];
        message.extend_from_slice(bytes);
        message
    };
    let map = [0x0A, 0x01, b'm'];
    let key = [0x0A, 0x01, b'k'];
    let condition = nested(0x1A, &[&[0x08, 0x01], unknown].concat());
    for (operation, message) in [
        (nested(0x52, &[&key, unknown].concat()), "put"),
        (nested(0x5A, &[&key, unknown].concat()), "remove"),
        (nested(0x62, unknown), "clear"),
        (nested(0x52, &[&key[..], &condition].concat()), "condition"),
    ] {
        let error = command_error(&[&map[..], &operation].concat());
        assert_eq!(error, OperationError::FieldUnknown { message, number: 15 });
        assert_eq!(error.code(), Code::Unimplemented);
    }
    let long_tag = |tag: u8| [&[tag, 0x01, 0x02], unknown].concat();
    for (operation, message) in [
        (long_tag(0xA2), "open_session"),
        (long_tag(0xAA), "keep_session"),
        (long_tag(0xB2), "close_session"),
        (long_tag(0xC2), "tick"),
    ] {
        assert_eq!(command_error(&operation), OperationError::FieldUnknown { message, number: 15 });
    }
    let clear = nested(0x62, &[]);
    let error = command_error(&[&map[..], &clear, &[0xF8, 0x01, 0x01]].concat());
    assert_eq!(error, OperationError::FieldUnknown { message: "command", number: 31 });
}

#[test]
fn queries_with_unknown_fields_are_read_without_them() {
    let mut bytes = query(get(b"k".to_vec())).encode_to_vec();
    bytes.extend([0xF8, 0x01, 0x01]);
    assert_eq!(decode_query(&bytes), None, "left to prost");
    with_query(&bytes, |query| {
        assert_eq!(query.unwrap().operation, QueryOperation::Get { key: b"k" });
    });
}

#[test]
fn missing_operations_are_refused() {
    let map = [0x0A, 0x01, b'm'];
    assert_eq!(command_error(&map), OperationError::OperationMissing { message: "command" });
    assert_eq!(query_error(&map), OperationError::OperationMissing { message: "query" });
    assert_eq!(command_error(&map).code(), Code::InvalidArgument);
}

#[test]
fn repeated_fields_are_merged_as_protobuf_says() {
    let first = command(v1::command::Operation::Put(v1::Put {
        value: Bytes::from_static(b"first"),
        ..put()
    }));
    let second = v1::Put { value: Bytes::from_static(b"second"), ..Default::default() };
    let second =
        v1::Command { operation: Some(v1::command::Operation::Put(second)), ..Default::default() };
    let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
    assert_eq!(decode_command(&bytes, VALUE_MAX), None, "left to prost");
    with_command(&bytes, VALUE_MAX, |command| {
        let operation = command.unwrap().operation;
        let Operation::Put { key, value, .. } = operation else { panic!("{operation:?}") };
        assert_eq!((key, value), (&b"k"[..], &b"second"[..]));
    });
}
