//! Encodes requests straight into a connection's output: what the generated types would encode,
//! without making them first. Lengths stand before what they are the length of, so each message is
//! reckoned from the inside and then written from the outside.

use bytes::{BufMut, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::content::Content;
use crate::base::cast::{u32_from, u64_from, usize_from};
use crate::base::ids::CorrelationId;

// The numbers of the fields, as the `.proto` files give them, with their wire type.
const MESSAGE_TARGET: u64 = 1 << 3 | 2;
const MESSAGE_COMMAND: u64 = 2 << 3 | 2;
const MESSAGE_QUERY: u64 = 4 << 3 | 2;
const NAME_NAME: u64 = 1 << 3 | 2;
const REQUEST_MESSAGE_ID: u64 = 2 << 3;
const COMMAND_REQUEST_VALUE: u64 = 4 << 3 | 2;
const QUERY_REQUEST_VALUE: u64 = 4 << 3 | 2;
const OPERATION_MAP: u64 = 1 << 3 | 2;
const COMMAND_PUT: u64 = 10 << 3 | 2;
const PUT_KEY: u64 = 1 << 3 | 2;
const PUT_VALUE: u64 = 2 << 3 | 2;
const QUERY_GET: u64 = 10 << 3 | 2;
const GET_KEY: u64 = 1 << 3 | 2;
const QUERY_ENTRIES: u64 = 13 << 3 | 2;
const ENTRIES_START_AFTER: u64 = 2 << 3 | 2;
const ENTRIES_LIMIT: u64 = 3 << 3;

/// Appends a frame with a put of `content`.
pub fn put(
    out: &mut BytesMut,
    map: &str,
    id: CorrelationId,
    key: &[u8],
    content: &Content,
    value_size_bytes: usize,
) {
    let value_size = match value_size_bytes {
        0 => 0,
        size => field_size(size),
    };
    let put_size = field_size(key.len()) + value_size;
    begin(out, map, id, MESSAGE_COMMAND, COMMAND_REQUEST_VALUE, (COMMAND_PUT, put_size));
    field(out, PUT_KEY, key);
    if value_size_bytes > 0 {
        encode_varint(PUT_VALUE, out);
        encode_varint(u64_from(value_size_bytes), out);
        content.put(value_size_bytes, out);
    }
}

/// Appends a frame with a get.
pub fn get(out: &mut BytesMut, map: &str, id: CorrelationId, key: &[u8]) {
    let get_size = field_size(key.len());
    begin(out, map, id, MESSAGE_QUERY, QUERY_REQUEST_VALUE, (QUERY_GET, get_size));
    field(out, GET_KEY, key);
}

/// Appends a frame that asks for at most `limit` entries after a key.
pub fn scan(out: &mut BytesMut, map: &str, id: CorrelationId, key: &[u8], limit: u32) {
    let limit_size = 1 + encoded_len_varint(u64::from(limit));
    let scan_size = field_size(key.len()) + limit_size;
    begin(out, map, id, MESSAGE_QUERY, QUERY_REQUEST_VALUE, (QUERY_ENTRIES, scan_size));
    field(out, ENTRIES_START_AFTER, key);
    encode_varint(ENTRIES_LIMIT, out);
    encode_varint(u64::from(limit), out);
}

/// Everything up to the fields of the operation, which take `operation.1` bytes.
fn begin(
    out: &mut BytesMut,
    map: &str,
    id: CorrelationId,
    message_tag: u64,
    value_tag: u64,
    operation: (u64, usize),
) {
    let (operation_tag, operation_size) = operation;
    let value_size = field_size(map.len()) + field_size(operation_size);
    let request_size = 1 + encoded_len_varint(id) + field_size(value_size);
    let target_size = field_size(map.len());
    let message_size = field_size(target_size) + field_size(request_size);
    out.put_u8(0);
    out.put_u32(u32_from(message_size));
    encode_varint(MESSAGE_TARGET, out);
    encode_varint(u64_from(target_size), out);
    field(out, NAME_NAME, map.as_bytes());
    encode_varint(message_tag, out);
    encode_varint(u64_from(request_size), out);
    encode_varint(REQUEST_MESSAGE_ID, out);
    encode_varint(id, out);
    encode_varint(value_tag, out);
    encode_varint(u64_from(value_size), out);
    field(out, OPERATION_MAP, map.as_bytes());
    encode_varint(operation_tag, out);
    encode_varint(u64_from(operation_size), out);
}

/// A field of bytes, whose number is below 16: its tag is one byte.
fn field(out: &mut BytesMut, tag: u64, bytes: &[u8]) {
    encode_varint(tag, out);
    encode_varint(u64_from(bytes.len()), out);
    out.put_slice(bytes);
}

fn field_size(size: usize) -> usize {
    1 + encoded_len_varint(u64_from(size)) + size
}

/// Writes the key with this number, in decimal with leading zeros.
pub fn key(out: &mut Vec<u8>, number: u64, size_bytes: usize) {
    out.clear();
    out.resize(size_bytes, b'0');
    let mut rest = number;
    for digit in out.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        *digit = b'0' + (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
    assert!(rest == 0, "a key is long enough for its number");
}

/// How many digits a number has.
#[must_use]
pub fn digit_count(number: u64) -> usize {
    usize_from(u64::from(number.checked_ilog10().unwrap_or(0))) + 1
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
    use crate::proto::atomix::map::{CommandRequest, Message, QueryRequest, message};
    use crate::proto::atomix::primitive::Name;
    use crate::proto::p2pmap::v1::{Command, Entries, Get, Put, Query, command, query};

    fn framed(map: &str, message: message::Message) -> Vec<u8> {
        let target = Some(Name { name: map.to_owned(), namespace: String::new() });
        let payload = Message { target, message: Some(message) }.encode_to_vec();
        let mut frame = vec![0];
        frame.extend_from_slice(&u32_from(payload.len()).to_be_bytes());
        frame.extend_from_slice(&payload);
        assert_eq!(frame.len(), payload.len() + FRAME_PREFIX_SIZE_BYTES);
        frame
    }

    fn query_of(map: &str, id: u64, operation: query::Operation) -> message::Message {
        let query = Query { map: map.into(), operation: Some(operation), ..Query::default() };
        let value = query.encode_to_vec().into();
        message::Message::Query(QueryRequest { message_id: id, value, ..QueryRequest::default() })
    }

    #[test]
    fn frames_are_those_of_the_generated_types() {
        let content = Content { key: 5, writer: 9, sequence: 300 };
        for (map, id, key_size, value_size) in [
            ("m", 1, 1, 0),
            ("bench", 127, 16, 64),
            ("bench", 128, 200, 5_000),
            ("x", 1 << 40, 9, 1),
        ] {
            let key = vec![b'k'; key_size];
            let mut out = BytesMut::new();
            put(&mut out, map, id, &key, &content, value_size);
            let mut value = BytesMut::new();
            content.put(value_size, &mut value);
            let operation = command::Operation::Put(Put {
                key: key.clone().into(),
                value: value.freeze(),
                ..Put::default()
            });
            let command =
                Command { map: map.into(), operation: Some(operation), ..Command::default() };
            let expected = message::Message::Command(CommandRequest {
                message_id: id,
                value: command.encode_to_vec().into(),
                ..CommandRequest::default()
            });
            assert_eq!(out, framed(map, expected));

            out.clear();
            get(&mut out, map, id, &key);
            let operation = query::Operation::Get(Get { key: key.clone().into() });
            assert_eq!(out, framed(map, query_of(map, id, operation)));

            out.clear();
            scan(&mut out, map, id, &key, 300);
            let operation = query::Operation::Entries(Entries {
                start_after: key.into(),
                limit: 300,
                ..Entries::default()
            });
            assert_eq!(out, framed(map, query_of(map, id, operation)));
        }
    }

    #[test]
    fn keys_are_numbers_with_leading_zeros() {
        let mut out = vec![1, 2, 3];
        key(&mut out, 1_203, 8);
        assert_eq!(out, b"00001203");
        key(&mut out, 0, 3);
        assert_eq!(out, b"000");
        assert_eq!([0, 9, 10, 999, 1_000].map(digit_count), [1, 1, 2, 3, 4]);
    }

    #[test]
    #[should_panic(expected = "long enough")]
    fn key_that_does_not_hold_its_number_is_refused() {
        key(&mut Vec::new(), 1_000, 3);
    }
}
