//! `checkpoint`: one chunk of a checkpoint, which says itself what it is a part of.
//!
//! ```text
//! version     u8      1
//! kind        u8      1
//! total size  varint  bytes of the whole
//! number      varint  of the chunk, from 0
//! chunk size  varint  bytes of each chunk but the last
//! digest      32      of the whole
//! data
//! ```

use std::error::Error;
use std::fmt;

use bytes::Bytes;

use crate::base::cast;
use crate::base::ids::Index;
use crate::base::limits::PEER_CHUNK_SIZE_BYTES_MAX;
use crate::nopaxos::message::CheckpointPart;
use crate::proto::reader::Reader;
use crate::wire::peer::field::{Encode, Fields};
use crate::wire::peer::filter::minimal_varint;

const VERSION: u8 = 1;
const KIND: u8 = 1;

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// This release writes another version or kind.
    VersionUnknown,
    /// Its header is cut, or a number isn't written in its shortest form.
    HeaderMalformed,
    /// A checkpoint is never empty.
    Empty,
    /// Chunks are never so long, or have no size at all.
    SizeOutOfRange,
    /// It lies behind the end of the whole.
    NumberTooHigh,
    /// It has more or fewer bytes than its place in the whole says.
    DataSizeDiffers,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VersionUnknown => write!(f, "its version or kind is unknown"),
            Self::HeaderMalformed => write!(f, "its header is malformed"),
            Self::Empty => write!(f, "the whole has no bytes"),
            Self::SizeOutOfRange => {
                write!(f, "chunks have 1 to {PEER_CHUNK_SIZE_BYTES_MAX} bytes")
            }
            Self::NumberTooHigh => write!(f, "it lies behind the end of the whole"),
            Self::DataSizeDiffers => write!(f, "its size isn't the one that its place says"),
        }
    }
}

impl Error for ChunkError {}

/// The chunk that `bytes` are, of the checkpoint at `index`. Its data stays where it is.
///
/// # Errors
/// If they are none.
pub fn decode(index: Index, bytes: &Bytes) -> Result<CheckpointPart, ChunkError> {
    let mut reader = Reader::new(bytes);
    if reader.byte() != Some(VERSION) || reader.byte() != Some(KIND) {
        return Err(ChunkError::VersionUnknown);
    }
    let mut number = || minimal_varint(&mut reader).map_err(|_| ChunkError::HeaderMalformed);
    let (size_bytes, number, chunk_size) = (number()?, number()?, number()?);
    let digest = reader.array().ok_or(ChunkError::HeaderMalformed)?;
    let chunk_size_bytes = u32::try_from(chunk_size).ok();
    let chunk_size_bytes = chunk_size_bytes
        .filter(|size| (1..=PEER_CHUNK_SIZE_BYTES_MAX).contains(&cast::usize_from_u32(*size)))
        .ok_or(ChunkError::SizeOutOfRange)?;
    let data = bytes.slice_ref(reader.rest());
    let part = CheckpointPart { index, size_bytes, number, chunk_size_bytes, digest, data };
    check(&part)?;
    Ok(part)
}

/// Whether a chunk fits the whole that it says it is a part of.
pub(super) fn check(part: &CheckpointPart) -> Result<(), ChunkError> {
    let chunk_size = u64::from(part.chunk_size_bytes);
    if part.size_bytes == 0 {
        return Err(ChunkError::Empty);
    }
    let begin = part.number.checked_mul(chunk_size).filter(|begin| *begin < part.size_bytes);
    let left = part.size_bytes - begin.ok_or(ChunkError::NumberTooHigh)?;
    if cast::u64_from(part.data.len()) == left.min(chunk_size) {
        Ok(())
    } else {
        Err(ChunkError::DataSizeDiffers)
    }
}

impl Encode for CheckpointPart {
    fn encode(&self, out: &mut impl Fields) {
        out.put(&[VERSION, KIND]);
        out.varint(self.size_bytes);
        out.varint(self.number);
        out.varint(u64::from(self.chunk_size_bytes));
        out.put(&self.digest);
        out.put(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn part(size_bytes: u64, number: u64, chunk_size_bytes: u32, data: &[u8]) -> CheckpointPart {
        let data = Bytes::copy_from_slice(data);
        let (index, digest) = (Index(7), [3; 32]);
        CheckpointPart { index, size_bytes, number, chunk_size_bytes, digest, data }
    }

    fn encoded(part: &CheckpointPart) -> Bytes {
        let mut out = BytesMut::new();
        part.encode(&mut out);
        out.freeze()
    }

    #[test]
    fn chunks_are_written_as_specified() {
        let bytes = encoded(&part(300, 1, 200, &[5; 100]));
        let header = [1, 1, 0xAC, 0x02, 1, 0xC8, 0x01];
        assert_eq!(bytes, [&header[..], &[3; 32], &[5; 100]].concat());
    }

    #[test]
    fn chunks_come_back_and_their_data_stays_where_it_is() {
        for part in
            [part(300, 0, 200, &[5; 200]), part(300, 1, 200, &[5; 100]), part(1, 0, 9, &[1])]
        {
            let bytes = encoded(&part);
            let decoded = decode(Index(7), &bytes).unwrap();
            assert_eq!(decoded, part);
            assert!(bytes.as_ptr_range().contains(&decoded.data.as_ptr()));
        }
    }

    #[test]
    fn chunks_cut_anywhere_are_refused() {
        let bytes = encoded(&part(300, 1, 200, &[5; 100]));
        for end in 0..bytes.len() {
            assert!(decode(Index(7), &bytes.slice(..end)).is_err(), "{end}");
        }
    }

    #[test]
    fn chunks_that_do_not_fit_the_whole_are_refused() {
        let refused = |part: &CheckpointPart, error| {
            assert_eq!(decode(Index(7), &encoded(part)), Err(error), "{part:?}");
        };
        refused(&part(0, 0, 1, &[]), ChunkError::Empty);
        refused(&part(10, 0, 0, &[]), ChunkError::SizeOutOfRange);
        refused(&part(10, 0, (1 << 20) + 1, &[0; 10]), ChunkError::SizeOutOfRange);
        refused(&part(10, 0, u32::MAX, &[0; 10]), ChunkError::SizeOutOfRange);
        refused(&part(10, 2, 5, &[]), ChunkError::NumberTooHigh);
        refused(&part(10, u64::MAX, 5, &[]), ChunkError::NumberTooHigh);
        refused(&part(10, 1, 6, &[0; 5]), ChunkError::DataSizeDiffers);
        refused(&part(10, 0, 6, &[0; 5]), ChunkError::DataSizeDiffers);
        refused(&part(10, 0, 6, &[0; 7]), ChunkError::DataSizeDiffers);
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        let bytes = encoded(&part(1, 0, 1, &[1]));
        for at in 0..2 {
            let mut other = bytes.to_vec();
            other[at] = 2;
            assert_eq!(decode(Index(7), &other.into()), Err(ChunkError::VersionUnknown));
        }
        let overlong = [&[1, 1, 0x81, 0x00, 0, 1][..], &[3; 32], &[1]].concat();
        assert_eq!(decode(Index(7), &overlong.into()), Err(ChunkError::HeaderMalformed));
    }
}
