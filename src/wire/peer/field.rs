//! Writes protobuf's fields: counted first, then written, by the same code. So no message is built
//! to be encoded, and no length is known in two places.
//!
//! The bytes are those that prost writes: fields in the order of their numbers, defaults left out.

use bytes::BytesMut;

use crate::base::cast;
use crate::base::time::Timestamp;
use crate::proto::reader::{WIRE_BYTES, WIRE_VARINT, varint_size_bytes};

/// Where fields go.
pub(super) trait Fields: Sized {
    /// Appends bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// Appends a varint.
    fn varint(&mut self, value: u64);

    /// A number; 0 is left out.
    #[inline]
    fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(key(field, WIRE_VARINT));
            self.varint(value);
        }
    }

    /// Bytes or a string; none are left out.
    #[inline]
    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.length(field, bytes.len());
            self.put(bytes);
        }
    }

    /// What stands before a field of so many bytes.
    #[inline]
    fn length(&mut self, field: u32, size_bytes: usize) {
        self.varint(key(field, WIRE_BYTES));
        self.varint(cast::u64_from(size_bytes));
    }

    /// A message, also if it is empty.
    #[inline]
    fn message(&mut self, field: u32, message: &impl Encode) {
        self.length(field, size_bytes(message));
        message.encode(self);
    }

    /// Bytes that have a structure of their own; none are left out.
    #[inline]
    fn encoded(&mut self, field: u32, value: &impl Encode) {
        if size_bytes(value) > 0 {
            self.message(field, value);
        }
    }

    /// A `google.protobuf.Timestamp`.
    #[inline]
    fn timestamp(&mut self, field: u32, timestamp: Timestamp) {
        self.message(field, &timestamp);
    }
}

/// What knows its fields.
pub(super) trait Encode {
    /// Writes them, in order.
    fn encode(&self, out: &mut impl Fields);
}

/// How many bytes a value takes, without a length before it.
#[inline]
pub(super) fn size_bytes(value: &impl Encode) -> usize {
    let mut counted = Counted(0);
    value.encode(&mut counted);
    counted.0
}

/// Bytes that are counted and not written.
struct Counted(usize);

impl Fields for Counted {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        self.0 += varint_size_bytes(value);
    }
}

impl Fields for BytesMut {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        let mut bytes = [0; VARINT_SIZE_BYTES_MAX];
        let mut size = 0;
        loop {
            let low = value.to_le_bytes()[0];
            value >>= 7;
            bytes[size] = if value == 0 { low & 0x7F } else { low | 0x80 };
            size += 1;
            if value == 0 {
                break;
            }
        }
        self.extend_from_slice(&bytes[..size]);
    }
}

const VARINT_SIZE_BYTES_MAX: usize = 10;

/// What stands before a field's value.
const fn key(field: u32, wire_type: u8) -> u64 {
    (field as u64) << 3 | wire_type as u64
}

impl Encode for Timestamp {
    #[inline]
    fn encode(&self, out: &mut impl Fields) {
        let (seconds, nanos) = self.parts();
        out.number(1, seconds);
        out.number(2, u64::from(nanos));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything;

    impl Encode for Everything {
        fn encode(&self, out: &mut impl Fields) {
            out.number(1, 0);
            for bit in 0..64 {
                out.number(16, 1 << bit);
                out.number(15, u64::MAX >> bit);
            }
            out.bytes(2, b"");
            out.bytes(3, &[7; 300]);
            out.timestamp(4, Timestamp(0));
            out.timestamp(5, Timestamp(1_700_000_000_123_456_789));
        }
    }

    #[test]
    fn what_is_counted_is_what_is_written() {
        let mut written = BytesMut::new();
        Everything.encode(&mut written);
        assert_eq!(size_bytes(&Everything), written.len());
    }

    #[test]
    fn varints_are_written_as_prost_writes_them() {
        let edges = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]);
        for value in edges {
            let (mut ours, mut theirs) = (BytesMut::new(), Vec::new());
            ours.varint(value);
            prost::encoding::encode_varint(value, &mut theirs);
            assert_eq!(ours, theirs);
        }
    }
}
