use super::*;
use crate::base::limits::VALUE_SIZE_BYTES_MAX;
use crate::map::operation::{Operation, QueryOperation, TICK, Ttl};
use crate::proto::p2pmap::v1;

const ACCEPTANCE: Acceptance<'_> = Acceptance { cluster: "test", value_size_bytes_max: 64 };

fn get(map: &str, key: &'static [u8]) -> Vec<u8> {
    let get = v1::Get { key: Bytes::from_static(key) };
    let operation = Some(v1::query::Operation::Get(get));
    v1::Query { map: map.to_owned(), operation, ..Default::default() }.encode_to_vec()
}

fn put(map: &str, key: &'static [u8], value: Vec<u8>) -> Vec<u8> {
    let put = v1::Put { key: Bytes::from_static(key), value: value.into(), ..Default::default() };
    let operation = Some(v1::command::Operation::Put(put));
    v1::Command { map: map.to_owned(), operation, ..Default::default() }.encode_to_vec()
}

fn target(name: &str, namespace: &str) -> Option<Name> {
    Some(Name { name: name.to_owned(), namespace: namespace.to_owned() })
}

fn query(target: Option<Name>, message_id: u64, value: Vec<u8>) -> Vec<u8> {
    let request = QueryRequest { message_id, value: value.into(), ..Default::default() };
    Message { target, message: Some(message::Message::Query(request)) }.encode_to_vec()
}

fn command(target: Option<Name>, message_id: u64, value: Vec<u8>) -> Vec<u8> {
    let request = CommandRequest { message_id, value: value.into(), ..Default::default() };
    Message { target, message: Some(message::Message::Command(request)) }.encode_to_vec()
}

/// Both decoders must refuse; the cold one says why.
fn refusal(payload: &[u8]) -> Refusal {
    assert_eq!(decode_hot(payload, ACCEPTANCE), None);
    decode_cold(payload).unwrap().request(ACCEPTANCE).unwrap_err()
}

fn wire_error(payload: &[u8]) -> WireError {
    assert_eq!(decode_hot(payload, ACCEPTANCE), None);
    decode_cold(payload).unwrap_err()
}

#[test]
fn both_decoders_read_a_query() {
    let payload = query(target("orders#3", "test"), 7, get("orders", b"k"));
    let request = decode_hot(&payload, ACCEPTANCE).unwrap();
    assert_eq!((request.correlation, request.partition), (7, Some(PartitionId(3))));
    assert_eq!((request.map(), request.key()), ("orders", Some(&b"k"[..])));
    let Body::Query(query) = request.body else { panic!("{request:?}") };
    assert_eq!(query.operation, QueryOperation::Get { key: b"k" });
    assert_eq!(decode_cold(&payload).unwrap().request(ACCEPTANCE), Ok(request));
}

#[test]
fn both_decoders_read_a_command_and_keep_its_bytes() {
    let value = put("orders", b"k", b"v".to_vec());
    let payload = command(target("orders", ""), 0, value.clone());
    let request = decode_hot(&payload, ACCEPTANCE).unwrap();
    let Body::Command { bytes, command } = request.body else { panic!("{request:?}") };
    assert_eq!(bytes, value);
    let Operation::Put { key, value, condition, ttl: Ttl::Unlimited, want_previous } =
        command.operation
    else {
        panic!("{command:?}")
    };
    assert_eq!((key, value, condition, want_previous), (&b"k"[..], &b"v"[..], None, false));
    assert_eq!(decode_cold(&payload).unwrap().request(ACCEPTANCE), Ok(request));
}

#[test]
fn target_may_be_absent() {
    let payload = query(None, 1, get("orders", b"k"));
    assert_eq!(decode_hot(&payload, ACCEPTANCE).unwrap().partition, None);
    let cold = decode_cold(&payload).unwrap();
    assert_eq!(cold.request(ACCEPTANCE).unwrap().partition, None);
}

#[test]
fn timestamp_of_a_client_is_ignored() {
    let timestamp = Some(prost_types::Timestamp { seconds: -1, nanos: -1 });
    let value = get("orders", b"k").into();
    let request = QueryRequest { timestamp, value, ..Default::default() };
    let payload = Message { target: None, message: Some(message::Message::Query(request)) };
    let cold = decode_cold(&payload.encode_to_vec()).unwrap();
    assert_eq!(cold.request(ACCEPTANCE).unwrap().map(), "orders");
}

#[test]
fn other_namespaces_are_refused_by_name() {
    let refusal = refusal(&query(target("orders", "prod"), 5, get("orders", b"k")));
    assert_eq!((refusal.correlation, refusal.kind), (5, Kind::Query));
    assert_eq!(refusal.code, Code::WrongNamespace);
    assert_eq!(refusal.message, r#"target.namespace: this is "test", not "prod""#);
}

#[test]
fn target_of_another_map_is_refused() {
    let refusal = refusal(&command(target("others", ""), 5, put("orders", b"k", vec![])));
    assert_eq!((refusal.correlation, refusal.kind), (5, Kind::Command));
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert_eq!(refusal.message, "target.name: names another map than the operation");
}

#[test]
fn bit_63_of_the_correlation_id_is_refused() {
    let refusal = refusal(&command(None, 1 << 63 | 5, put("orders", b"k", vec![])));
    assert_eq!((refusal.correlation, refusal.code), (1 << 63 | 5, Code::InvalidArgument));
    assert_eq!(refusal.message, "command.message_id: bit 63 is the cluster's own");
}

#[test]
fn values_beyond_the_configured_limit_are_refused() {
    let fits = command(None, 1, put("orders", b"k", vec![0; 64]));
    assert!(decode_hot(&fits, ACCEPTANCE).is_some());
    let refusal = refusal(&command(None, 1, put("orders", b"k", vec![0; 65])));
    assert_eq!(refusal.code, Code::InvalidArgument);
    let message = "command.value: put.value: a value of 65 bytes; 64 are allowed";
    assert_eq!(refusal.message, message);
}

#[test]
fn commands_beyond_their_limit_are_refused_whatever_makes_them_long() {
    // A bool, over and over: legal protobuf, and the last one counts.
    let mut value = put("orders", b"k", vec![]);
    value.extend([0x30, 0x00].repeat(COMMAND_SIZE_BYTES_MAX / 2));
    let refusal = refusal(&command(None, 1, value));
    assert!(refusal.message.starts_with("command.value: a command of"), "{refusal:?}");
}

#[test]
fn commands_with_two_long_values_are_refused_by_both_decoders() {
    let acceptance = Acceptance { value_size_bytes_max: VALUE_SIZE_BYTES_MAX, ..ACCEPTANCE };
    let long = Bytes::from(vec![0; VALUE_SIZE_BYTES_MAX]);
    let condition = v1::condition::Condition::Value(long.clone());
    let put = v1::Put {
        key: Bytes::from_static(b"k"),
        value: long,
        condition: Some(v1::Condition { condition: Some(condition) }),
        ..Default::default()
    };
    let operation = Some(v1::command::Operation::Put(put));
    let value = v1::Command { map: "orders".into(), operation, ..Default::default() };
    let payload = command(None, 1, value.encode_to_vec());
    assert_eq!(decode_hot(&payload, acceptance), None);
    let refusal = decode_cold(&payload).unwrap().request(acceptance).unwrap_err();
    assert!(refusal.message.starts_with("command.value: a command of"), "{refusal:?}");
}

#[test]
fn values_that_are_no_operation_are_refused_with_their_correlation() {
    for (value, code, text) in [
        (vec![], Code::InvalidArgument, "query.value: map: the name of the map is missing"),
        (vec![0xFF], Code::InvalidArgument, "query.value: not a query: failed to decode"),
        (get("a#b", b"k"), Code::InvalidArgument, "query.value: map: '#' is not allowed"),
        (get("orders", b""), Code::InvalidArgument, "query.value: get.key: the key is missing"),
        (vec![0x72, 0], Code::Unimplemented, "query.value: watch: not implemented (field 14"),
    ] {
        let refusal = refusal(&query(None, 9, value));
        assert_eq!((refusal.correlation, refusal.code), (9, code), "{refusal:?}");
        assert!(refusal.message.starts_with(text), "{refusal:?}");
    }
}

#[test]
fn stamped_requests_end_the_stream() {
    let request = CommandRequest { term_id: 1, message_id: 1, ..Default::default() };
    let message = message::Message::Command(request);
    let payload = Message { target: None, message: Some(message) }.encode_to_vec();
    let error = wire_error(&payload);
    assert_eq!(error, WireError::Stamped { kind: Kind::Command });
    assert_eq!(error.status().number(), 7);
    assert!(error.to_string().starts_with("command.term_id"));
}

#[test]
fn kinds_of_members_end_the_stream_and_are_named() {
    for number in (3..=23).filter(|number| *number != 4) {
        let mut payload = Vec::new();
        prost::encoding::encode_key(
            number,
            prost::encoding::WireType::LengthDelimited,
            &mut payload,
        );
        payload.push(0);
        let error = wire_error(&payload);
        let WireError::KindForbidden { field } = error else { panic!("{number}: {error:?}") };
        assert_eq!(error.status().number(), 7);
        // prost's own name for the kind, in its own spelling.
        let decoded = Message::decode(&payload[..]).unwrap().message.unwrap();
        let name = format!("{decoded:?}").split('(').next().unwrap().to_owned();
        assert_eq!(field.replace('_', ""), name.to_lowercase());
    }
}

#[test]
fn kinds_of_members_are_refused_also_before_and_after_a_kind_of_clients() {
    let ping = [0xBA, 0x01, 0x00];
    let query = query(None, 1, get("orders", b"k"));
    for payload in [[&ping[..], &query].concat(), [&query[..], &ping].concat()] {
        assert_eq!(wire_error(&payload), WireError::KindForbidden { field: "ping" });
    }
}

#[test]
fn empty_and_unknown_kinds_end_the_stream() {
    let unknown = [0xC2, 0x01, 0x00];
    let only_target = Message { target: target("orders", ""), message: None }.encode_to_vec();
    for payload in [&[][..], &unknown, &only_target] {
        let error = wire_error(payload);
        assert_eq!((&error, error.status().number()), (&WireError::KindMissing, 3));
    }
}

#[test]
fn what_is_no_message_ends_the_stream() {
    assert_eq!(wire_error(b"GET / HTTP/1.1\r\n\r\n"), WireError::Malformed);
    assert_eq!(wire_error(&[0x22]), WireError::Malformed);
    // A query whose message_id is a string.
    let error = wire_error(&[0x22, 0x03, 0x12, 0x01, b'x']);
    assert!(error.to_string().contains("QueryRequest.message_id"), "{error}");
    // A target that is a number.
    assert!(wire_error(&[0x08, 0x01]).to_string().contains("Message.target"));
}

#[test]
fn unknown_fields_around_the_operation_are_skipped() {
    let mut payload = query(None, 3, get("orders", b"k"));
    payload.extend([0xC2, 0x01, 0x02, b'h', b'i']);
    assert_eq!(decode_hot(&payload, ACCEPTANCE), None, "left to prost");
    let cold = decode_cold(&payload).unwrap();
    assert_eq!(cold.request(ACCEPTANCE).unwrap().correlation, 3);
}

#[test]
fn request_in_pieces_is_merged_as_protobuf_says() {
    let head = query(target("orders", ""), 3, Vec::new());
    let tail = query(target("", "test"), 4, get("orders", b"k"));
    let payload = [head, tail].concat();
    assert_eq!(decode_hot(&payload, ACCEPTANCE), None, "left to prost");
    let cold = decode_cold(&payload).unwrap();
    let request = cold.request(ACCEPTANCE).unwrap();
    assert_eq!((request.correlation, request.key()), (4, Some(&b"k"[..])));
}

fn status(map: &str, min_index: u64, status: v1::Status) -> Vec<u8> {
    let operation = Some(v1::query::Operation::Status(status));
    v1::Query { map: map.to_owned(), min_index, operation, ..Default::default() }.encode_to_vec()
}

#[test]
fn status_is_asked_of_no_map_and_by_whoever_names_the_cluster() {
    let plain = v1::Status::default();
    let from_7 = v1::Status { partitions: true, first_partition: 7, digests: false };
    // Without `partitions` there is nothing to begin with.
    let ignored = v1::Status { partitions: false, first_partition: 7, digests: false };
    for (asked, partitions_from) in [(plain, None), (from_7, Some(PartitionId(7))), (ignored, None)]
    {
        let value = status("", 0, asked);
        for target in [None, target("", ""), target("", "test")] {
            let payload = query(target, 5, value.clone());
            assert_eq!(decode_hot(&payload, ACCEPTANCE), None, "it isn't asked often");
            let cold = decode_cold(&payload).unwrap();
            let request = cold.request(ACCEPTANCE).unwrap();
            assert_eq!(request.body, Body::Status(StatusQuery { partitions_from, digests: false }));
            assert_eq!((request.correlation, request.kind()), (5, Kind::Query));
            assert_eq!((request.map(), request.key(), request.timeout_ms()), ("", None, 0));
        }
    }
}

#[test]
fn status_of_anything_but_a_node_is_refused() {
    let asked = v1::Status::default();
    let invalid = Code::InvalidArgument;
    for (target, value, code, text) in [
        (None, status("orders", 0, asked), invalid, "query.value: map: a node's status"),
        (None, status("", 3, asked), invalid, "query.value: min_index: a node's status"),
        (target("orders", ""), status("", 0, asked), invalid, "target.name: names another map"),
        (target("", "other"), status("", 0, asked), Code::WrongNamespace, "target.namespace"),
    ] {
        let refusal = refusal(&query(target, 9, value));
        assert_eq!((refusal.correlation, refusal.code), (9, code), "{refusal:?}");
        assert!(refusal.message.starts_with(text), "{refusal:?}");
    }
}

#[test]
fn leadership_is_that_of_one_partition_and_of_no_map_and_no_index() {
    let wish = |map: &str, min_index| {
        let transfer = v1::TransferLeadership { to: "b".to_owned() };
        let operation = Some(v1::query::Operation::TransferLeadership(transfer));
        let query = v1::Query { map: map.to_owned(), min_index, operation, ..Default::default() };
        query.encode_to_vec()
    };
    let payload = query(target("#7", ""), 5, wish("", 0));
    let cold = decode_cold(&payload).unwrap();
    let request = cold.request(ACCEPTANCE).unwrap();
    assert_eq!((request.partition, request.body), (Some(PartitionId(7)), Body::Transfer("b")));
    for (value, field) in [(wish("orders", 0), "map"), (wish("", 3), "min_index")] {
        let refusal = refusal(&query(None, 5, value));
        assert_eq!(refusal.code, Code::InvalidArgument);
        assert!(refusal.message.starts_with(&format!("query.value: {field}: ")), "{refusal:?}");
    }
}

#[test]
fn operations_of_later_releases_are_unimplemented_and_not_taken_for_none() {
    for number in [14, 17, 19, 23] {
        let mut value = status("", 0, v1::Status::default());
        prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut value);
        value.push(1);
        let refusal = refusal(&query(None, 9, value));
        assert_eq!(refusal.code, Code::Unimplemented, "field {number}");
    }
}

#[test]
fn ticks_are_refused_from_clients() {
    let payload = command(target("#3", ""), 7, TICK.to_vec());
    let refusal = refusal(&payload);
    assert_eq!((refusal.correlation, refusal.code), (7, Code::InvalidArgument));
    assert_eq!(refusal.message, "command.value: tick: only members make it");
}

#[test]
fn operations_on_sessions_go_to_the_partition_that_is_named() {
    let operation = Some(v1::command::Operation::OpenSession(v1::OpenSession { ttl_ms: 5_000 }));
    let open = v1::Command { operation, ..v1::Command::default() }.encode_to_vec();
    let payload = command(target("#3", ""), 7, open);
    assert_eq!(decode_hot(&payload, ACCEPTANCE), None, "left to prost");
    let cold = decode_cold(&payload).unwrap();
    let request = cold.request(ACCEPTANCE).unwrap();
    assert_eq!((request.partition, request.map()), (Some(PartitionId(3)), ""));
    let Body::Command { command, .. } = request.body else { panic!("{request:?}") };
    assert_eq!(command.operation, Operation::OpenSession { ttl_s: 5 });
}
