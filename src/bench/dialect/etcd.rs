//! etcd's `KV` service, as far as a load needs it: `Put` and `Range` of one key, by the field
//! numbers of its `rpc.proto`. Revisions are the versions: one for the whole store, which grows
//! with each write.

use bytes::{BufMut as _, BytesMut};
use prost::encoding::encode_varint;

use crate::base::cast::{low_u32, u32_from, u64_from};
use crate::base::ids::CorrelationId;
use crate::bench::content::Content;
use crate::bench::response::{Answer, Outcome, bytes_field, number_field};

/// Where calls go.
pub const PUT_PATH: &str = "/etcdserverpb.KV/Put";
/// As [`PUT_PATH`].
pub const RANGE_PATH: &str = "/etcdserverpb.KV/Range";
/// The longest value: a message stays below the least size of a frame and of a window.
pub const VALUE_SIZE_BYTES_MAX: usize = 8 << 10;

const REQUEST_KEY: u64 = 1 << 3 | 2;
const PUT_VALUE: u64 = 2 << 3 | 2;
const RESPONSE_HEADER: u64 = 1;
const HEADER_REVISION: u64 = 3;
const RANGE_KVS: u64 = 2;
const KEY_VALUE_MOD_REVISION: u64 = 3;
const KEY_VALUE_VALUE: u64 = 5;

/// The stream of a request: odd numbers that grow, as a client's must. A number that is left out
/// counts as used.
#[must_use]
pub fn stream_of(id: CorrelationId) -> u32 {
    low_u32(id) * 2 + 1
}

/// The request of a stream.
#[must_use]
pub fn request_of(stream: u32) -> CorrelationId {
    u64::from(stream / 2)
}

/// A message of gRPC with a `PutRequest`.
#[must_use]
pub fn put(key: &[u8], content: &Content, value_size_bytes: usize) -> BytesMut {
    message(|out| {
        field(out, REQUEST_KEY, key);
        encode_varint(PUT_VALUE, out);
        encode_varint(u64_from(value_size_bytes), out);
        content.put(value_size_bytes, out);
    })
}

/// A message of gRPC with a `RangeRequest` of one key.
#[must_use]
pub fn range(key: &[u8]) -> BytesMut {
    message(|out| field(out, REQUEST_KEY, key))
}

/// A flag and a length stand before each message.
fn message(body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::zeroed(5);
    body(&mut out);
    let size = u32_from(out.len() - 5);
    out[1..5].copy_from_slice(&size.to_be_bytes());
    out
}

fn field(out: &mut BytesMut, tag: u64, bytes: &[u8]) {
    encode_varint(tag, out);
    encode_varint(u64_from(bytes.len()), out);
    out.put_slice(bytes);
}

/// Reads what came of a call: `body` is all that came on its stream. A call that fails has none.
#[must_use]
pub fn read(
    correlation: CorrelationId,
    is_read: bool,
    body: &[u8],
    code: u32,
) -> Option<Answer<'_>> {
    let Some((prefix, message)) = body.split_first_chunk::<5>() else {
        let outcome = Outcome::Refused { code: u64::from(code) };
        return Some(Answer { correlation, outcome });
    };
    let [flag, size @ ..] = *prefix;
    if flag != 0 || u32::from_be_bytes(size) != u32_from(message.len()) {
        return None;
    }
    let outcome = if is_read {
        match bytes_field(message, RANGE_KVS) {
            Some(entry) => Outcome::Found {
                version: number_field(entry, KEY_VALUE_MOD_REVISION)?,
                value: bytes_field(entry, KEY_VALUE_VALUE).unwrap_or_default(),
            },
            None => Outcome::Absent,
        }
    } else {
        let header = bytes_field(message, RESPONSE_HEADER)?;
        Outcome::Written { version: number_field(header, HEADER_REVISION)? }
    };
    Some(Answer { correlation, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{ header { revision: 300 } }`.
    const PUT_RESPONSE: &[u8] = b"\0\0\0\0\x05\x0a\x03\x18\xac\x02";

    #[test]
    fn requests_are_messages_with_their_length() {
        assert_eq!(range(b"ab"), b"\0\0\0\0\x04\x0a\x02ab".as_slice());
        let content = Content { key: 1, writer: 2, sequence: 3 };
        let put = put(b"k", &content, 24);
        let mut value = BytesMut::new();
        content.put(24, &mut value);
        assert_eq!(put, [b"\0\0\0\0\x1d\x0a\x01k\x12\x18", &value[..]].concat());
    }

    #[test]
    fn streams_are_odd_and_lead_back_to_their_requests() {
        for id in [1, 2, 1_000_000] {
            assert_eq!(stream_of(id) % 2, 1);
            assert_eq!(request_of(stream_of(id)), id);
        }
    }

    #[test]
    fn answers_tell_revisions_and_values() {
        let outcome = |is_read, body| read(7, is_read, body, 0).map(|answer| answer.outcome);
        assert_eq!(outcome(false, PUT_RESPONSE), Some(Outcome::Written { version: 300 }));
        assert_eq!(outcome(true, PUT_RESPONSE), Some(Outcome::Absent));
        let found = b"\0\0\0\0\x0d\x0a\x02\x18\x09\x12\x07\x18\x05\x2a\x03abc";
        assert_eq!(outcome(true, found), Some(Outcome::Found { version: 5, value: b"abc" }));
        assert_eq!(outcome(false, b""), Some(Outcome::Refused { code: 0 }));
        for len in 5..PUT_RESPONSE.len() {
            assert_eq!(outcome(false, &PUT_RESPONSE[..len]), None, "{len} bytes");
        }
    }
}
