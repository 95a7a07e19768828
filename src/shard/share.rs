//! What the shards of a node ask each other: each for its share of an operation on a whole map.
//! Both ends are one process, so the format has no versions, and bytes that don't fit it are a
//! defect of ours.

use bytes::{BufMut, BytesMut};

use crate::base::cast::{u32_from, u64_from, usize_from, usize_from_u32};
use crate::base::ids::CorrelationId;
use crate::proto::p2pmap::v1::error::Code;

/// Stands where there is no error.
const NO_CODE: Code = Code::Unknown;

/// What a shard is asked for. The operation is encoded as clients' are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShareRequest<'a> {
    /// To execute a command in all of its partitions.
    Command(&'a [u8]),
    /// To answer a query of all of its partitions.
    Query(&'a [u8]),
    /// To go on with a streamed answer as long as its partitions are next.
    Entries(Part, &'a [u8]),
}

/// What is left to do of a streamed answer. How many entries, says its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// What the frames of the answer repeat.
    pub(super) correlation: CorrelationId,
    /// The partition to begin with.
    pub(super) first: u32,
    /// The partition with which the whole answer ends, of whatever shard.
    pub(super) last: u32,
    pub(super) size_bytes_left: usize,
    pub(super) sent_page: bool,
}

/// A shard's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShareAnswer<'a> {
    /// Partitions that were cleared, their entries, and why others were not.
    Cleared { partition_count: usize, entries: u64, failed: Option<(Code, &'a str)> },
    /// What its partitions hold.
    Sized { entries: u64, size_bytes: u64 },
    /// It has none.
    Failed(Code, &'a str),
    /// Frames of a streamed answer that goes on in the next shard.
    More { items_left: usize, size_bytes_left: usize, sent_page: bool, frames: &'a [u8] },
    /// The last frames of a streamed answer.
    Ended { failed: bool, frames: &'a [u8] },
}

impl ShareRequest<'_> {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match *self {
            Self::Command(command) => {
                out.put_u8(0);
                out.put_slice(command);
            }
            Self::Query(query) => {
                out.put_u8(1);
                out.put_slice(query);
            }
            Self::Entries(part, query) => {
                let Part { correlation, first, last, size_bytes_left, sent_page } = part;
                out.put_u8(2);
                out.put_u64_le(correlation);
                out.put_u32_le(first);
                out.put_u32_le(last);
                out.put_u64_le(u64_from(size_bytes_left));
                out.put_u8(u8::from(sent_page));
                out.put_slice(query);
            }
        }
    }
}

impl<'a> ShareRequest<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Self {
        let mut reader = Reader(bytes);
        match reader.u8() {
            0 => Self::Command(reader.0),
            1 => Self::Query(reader.0),
            2 => {
                let part = Part {
                    correlation: reader.u64(),
                    first: reader.u32(),
                    last: reader.u32(),
                    size_bytes_left: usize_from(reader.u64()),
                    sent_page: reader.u8() > 0,
                };
                Self::Entries(part, reader.0)
            }
            tag => panic!("no shard asks for {tag}"),
        }
    }
}

impl<'a> ShareAnswer<'a> {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match *self {
            Self::Cleared { partition_count, entries, failed } => {
                out.put_u8(0);
                out.put_u32_le(u32_from(partition_count));
                out.put_u64_le(entries);
                let (code, message) = failed.unwrap_or((NO_CODE, ""));
                out.put_i32_le(code.into());
                out.put_slice(message.as_bytes());
            }
            Self::Sized { entries, size_bytes } => {
                out.put_u8(1);
                out.put_u64_le(entries);
                out.put_u64_le(size_bytes);
            }
            Self::Failed(code, message) => {
                out.put_u8(2);
                out.put_i32_le(code.into());
                out.put_slice(message.as_bytes());
            }
            Self::More { items_left, size_bytes_left, sent_page, frames } => {
                out.put_u8(3);
                out.put_u32_le(u32_from(items_left));
                out.put_u64_le(u64_from(size_bytes_left));
                out.put_u8(u8::from(sent_page));
                out.put_slice(frames);
            }
            Self::Ended { failed, frames } => {
                out.put_u8(4);
                out.put_u8(u8::from(failed));
                out.put_slice(frames);
            }
        }
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Self {
        let mut reader = Reader(bytes);
        match reader.u8() {
            0 => {
                let partition_count = usize_from_u32(reader.u32());
                let entries = reader.u64();
                let (code, message) = (reader.code(), reader.text());
                let failed = (code != NO_CODE).then_some((code, message));
                Self::Cleared { partition_count, entries, failed }
            }
            1 => Self::Sized { entries: reader.u64(), size_bytes: reader.u64() },
            2 => Self::Failed(reader.code(), reader.text()),
            3 => Self::More {
                items_left: usize_from_u32(reader.u32()),
                size_bytes_left: usize_from(reader.u64()),
                sent_page: reader.u8() > 0,
                frames: reader.0,
            },
            4 => Self::Ended { failed: reader.u8() > 0, frames: reader.0 },
            tag => panic!("no shard answers {tag}"),
        }
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (array, rest) = self.0.split_first_chunk().expect("shards write whole messages");
        self.0 = rest;
        *array
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn code(&mut self) -> Code {
        Code::try_from(i32::from_le_bytes(self.array())).expect("shards write codes that exist")
    }

    fn text(&self) -> &'a str {
        std::str::from_utf8(self.0).expect("messages of shards are text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        let part = Part {
            correlation: u64::MAX,
            first: 7,
            last: 63,
            size_bytes_left: 1 << 20,
            sent_page: true,
        };
        let requests = [
            ShareRequest::Command(b"clear"),
            ShareRequest::Query(b""),
            ShareRequest::Entries(part, b"entries"),
            ShareRequest::Entries(Part { sent_page: false, ..part }, b""),
        ];
        for request in requests {
            let mut bytes = BytesMut::new();
            request.encode(&mut bytes);
            assert_eq!(ShareRequest::decode(&bytes), request);
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let answers = [
            ShareAnswer::Cleared { partition_count: 3, entries: 9, failed: None },
            ShareAnswer::Cleared {
                partition_count: 0,
                entries: 0,
                failed: Some((Code::OutcomeUnknown, "too slow")),
            },
            ShareAnswer::Sized { entries: 1, size_bytes: u64::MAX },
            ShareAnswer::Failed(Code::Unavailable, ""),
            ShareAnswer::More {
                items_left: 10_000,
                size_bytes_left: 5,
                sent_page: true,
                frames: b"\0\0",
            },
            ShareAnswer::Ended { failed: true, frames: b"" },
        ];
        for answer in answers {
            let mut bytes = BytesMut::new();
            answer.encode(&mut bytes);
            assert_eq!(ShareAnswer::decode(&bytes), answer);
        }
    }
}
