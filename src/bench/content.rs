//! What stands in a value: whose it is, who wrote it and when, so that every read can be checked.
//!
//! ```text
//! 0       8        12         20        24
//! | key   | writer | sequence | crc32   | filler: one byte, again and again
//! ```
//!
//! Numbers are little-endian. The checksum is that of everything before it and of the length; the
//! filler is its lowest byte. Runs of one writer number all their writes, whatever key they are of.

use bytes::{BufMut, BytesMut};

use crate::base::cast::u32_from;
use crate::base::checksum::crc32_salted;

/// The shortest value that can be checked.
pub const CONTENT_SIZE_BYTES_MIN: usize = 24;

/// What a value says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The key's number.
    pub key: u64,
    /// Who wrote it.
    pub writer: u32,
    /// The number of the write among the writer's.
    pub sequence: u64,
}

impl Content {
    /// Appends a value of `size_bytes`: as much of it as fits.
    pub fn put(&self, size_bytes: usize, out: &mut BytesMut) {
        let head = self.head();
        let crc = crc32_salted(u32_from(size_bytes), &head);
        if size_bytes < CONTENT_SIZE_BYTES_MIN {
            out.put_bytes(filler(crc), size_bytes);
            return;
        }
        out.put_slice(&head);
        out.put_u32_le(crc);
        out.put_bytes(filler(crc), size_bytes - CONTENT_SIZE_BYTES_MIN);
    }

    /// Reads a value back; `None` if it isn't one, or not as it was written.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let (key, rest) = value.split_first_chunk()?;
        let (writer, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let content = Self {
            key: u64::from_le_bytes(*key),
            writer: u32::from_le_bytes(*writer),
            sequence: u64::from_le_bytes(*sequence),
        };
        let expected = crc32_salted(u32_from(value.len()), &content.head());
        let is_whole = u32::from_le_bytes(*crc) == expected
            && rest.iter().all(|byte| *byte == filler(expected));
        is_whole.then_some(content)
    }

    fn head(&self) -> [u8; 20] {
        let mut head = [0; 20];
        head[..8].copy_from_slice(&self.key.to_le_bytes());
        head[8..12].copy_from_slice(&self.writer.to_le_bytes());
        head[12..].copy_from_slice(&self.sequence.to_le_bytes());
        head
    }
}

const fn filler(crc: u32) -> u8 {
    crc.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content { key: 7, writer: 3, sequence: 1_000_000_007 };

    fn value(size_bytes: usize) -> BytesMut {
        let mut value = BytesMut::new();
        CONTENT.put(size_bytes, &mut value);
        assert_eq!(value.len(), size_bytes);
        value
    }

    #[test]
    fn content_of_every_length_that_can_be_checked_is_read_back() {
        for size_bytes in CONTENT_SIZE_BYTES_MIN..200 {
            assert_eq!(Content::read(&value(size_bytes)), Some(CONTENT));
        }
        for size_bytes in 0..CONTENT_SIZE_BYTES_MIN {
            assert_eq!(Content::read(&value(size_bytes)), None);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let whole = value(64);
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Content::read(&broken), None, "bit {bit}");
        }
        for size_bytes in 0..whole.len() {
            assert_eq!(Content::read(&whole[..size_bytes]), None, "{size_bytes} bytes");
        }
    }
}
