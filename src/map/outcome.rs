//! What came of a command or query, and its encoding as a `p2pmap.v1.Result`.
//!
//! The encoder is written by hand because values are copied once, from the record into the reply,
//! and because a sender must know the length beforehand. Its bytes are those that prost makes of
//! the same message; the tests demand it.

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::base::{
    cast::u64_from,
    ids::{Index, SessionId},
};
use crate::proto::p2pmap::v1::error::Code;

use super::record::Record;
use crate::proto::reader::varint_size_bytes;

/// Where encoded results go.
pub trait Sink {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for BytesMut {
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl<const N: usize> Sink for SmallVec<[u8; N]>
where
    [u8; N]: smallvec::Array<Item = u8>,
{
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What came of a command or query. Borrows from the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Nothing was changed.
    Failed(Failure<'a>),
    /// A put was executed.
    Written {
        /// The command's index.
        version: Index,
        /// What was replaced, if asked for and present.
        previous: Option<Versioned<'a>>,
    },
    /// A remove was executed.
    Removed {
        /// Whether the key was present.
        existed: bool,
        /// What was removed, if asked for and present.
        previous: Option<Versioned<'a>>,
    },
    /// A clear was executed, or a tick.
    Cleared {
        /// How many entries were removed.
        entries: u64,
    },
    /// A session was opened, kept or closed.
    Session {
        /// Which.
        session: SessionId,
        /// How long it outlives its last command; 0: it has ended.
        ttl_ms: u64,
    },
    /// The answer to `Get`.
    Found(Option<Versioned<'a>>),
    /// The answer to `Exists`.
    Existence(bool),
    /// The answer to `Size`.
    Sized {
        /// The number of entries.
        entries: u64,
        /// Bytes of their keys and values.
        bytes: u64,
    },
    /// A part of the answer to `Entries`.
    Page(Page<'a>),
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: &'static str,
    /// The entry for which the condition failed, if present.
    pub current: Option<Versioned<'a>>,
}

/// A value with its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<'a> {
    /// The value; empty if it wasn't asked for.
    pub value: &'a [u8],
    /// The index of the command that wrote it.
    pub version: Index,
    /// When the key came to be.
    pub created_ms: u64,
    /// The time of the last write.
    pub updated_ms: u64,
    /// How long it is still present; 0: until it is removed.
    pub ttl_ms: u64,
}

/// A part of the answer to `Entries`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page<'a> {
    /// Keys and their entries, in the order of the table.
    pub items: Vec<(&'a [u8], Versioned<'a>)>,
    /// The key to continue after; empty: the end was reached.
    pub next: Vec<u8>,
    /// Bytes of the keys and values in `items`.
    pub size_bytes: usize,
    /// Records that were looked at for it, those of other maps among them.
    pub visited_count: usize,
}

impl<'a> Versioned<'a> {
    /// A record that is present; `now_ms` is asked for if it has a time to live.
    #[inline]
    pub(super) fn of(record: &Record<'a>, now_ms: impl FnOnce() -> u64) -> Self {
        let expires_ms = record.expires_ms();
        Self {
            value: record.value(),
            version: record.version,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            ttl_ms: expires_ms.map_or(0, |expires_ms| expires_ms.saturating_sub(now_ms())),
        }
    }

    fn size_bytes(&self) -> usize {
        bytes_field_size_bytes(self.value.len())
            + varint_field_size_bytes(self.version.0)
            + varint_field_size_bytes(self.created_ms)
            + varint_field_size_bytes(self.updated_ms)
            + varint_field_size_bytes(self.ttl_ms)
    }
}

impl Outcome<'_> {
    /// The length of the encoded `Result`.
    #[must_use]
    pub fn encoded_size_bytes(&self) -> usize {
        let body = self.body_size_bytes();
        1 + varint_size_bytes(u64_from(body)) + body
    }

    /// Appends the encoded `Result`.
    pub fn encode(&self, out: &mut impl Sink) {
        let mut writer = Writer::new(out);
        writer.message(self.field(), self.body_size_bytes());
        match self {
            Self::Failed(failure) => {
                writer.varint(1, u64::from(i32::from(failure.code).unsigned_abs()));
                writer.bytes(2, failure.message.as_bytes());
                writer.versioned(4, failure.current.as_ref());
            }
            Self::Written { version, previous } => {
                writer.varint(1, version.0);
                writer.versioned(2, previous.as_ref());
            }
            Self::Removed { existed, previous } => {
                writer.varint(1, u64::from(*existed));
                writer.versioned(2, previous.as_ref());
            }
            Self::Cleared { entries } => writer.varint(1, *entries),
            Self::Session { session, ttl_ms } => {
                writer.varint(1, session.0);
                writer.varint(2, *ttl_ms);
            }
            Self::Found(entry) => writer.versioned(1, entry.as_ref()),
            Self::Existence(exists) => writer.varint(1, u64::from(*exists)),
            Self::Sized { entries, bytes } => {
                writer.varint(1, *entries);
                writer.varint(2, *bytes);
            }
            Self::Page(page) => {
                for (key, entry) in &page.items {
                    writer.message(1, item_size_bytes(key, entry));
                    writer.bytes(1, key);
                    writer.versioned(2, Some(entry));
                }
                writer.bytes(2, &page.next);
            }
        }
        writer.finish();
    }

    /// The number of the field of `Result` that holds it.
    const fn field(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Written { .. } => 2,
            Self::Removed { .. } => 3,
            Self::Cleared { .. } => 4,
            Self::Found(_) => 5,
            Self::Existence(_) => 6,
            Self::Sized { .. } => 7,
            Self::Page(_) => 8,
            Self::Session { .. } => 11,
        }
    }

    fn body_size_bytes(&self) -> usize {
        match self {
            Self::Failed(failure) => {
                varint_field_size_bytes(u64::from(i32::from(failure.code).unsigned_abs()))
                    + bytes_field_size_bytes(failure.message.len())
                    + versioned_field_size_bytes(failure.current.as_ref())
            }
            Self::Written { version, previous } => {
                varint_field_size_bytes(version.0) + versioned_field_size_bytes(previous.as_ref())
            }
            Self::Removed { existed, previous } => {
                varint_field_size_bytes(u64::from(*existed))
                    + versioned_field_size_bytes(previous.as_ref())
            }
            Self::Cleared { entries } => varint_field_size_bytes(*entries),
            Self::Session { session, ttl_ms } => {
                varint_field_size_bytes(session.0) + varint_field_size_bytes(*ttl_ms)
            }
            Self::Found(entry) => versioned_field_size_bytes(entry.as_ref()),
            Self::Existence(exists) => varint_field_size_bytes(u64::from(*exists)),
            Self::Sized { entries, bytes } => {
                varint_field_size_bytes(*entries) + varint_field_size_bytes(*bytes)
            }
            Self::Page(page) => {
                let items = page.items.iter().map(|(key, entry)| {
                    let item = item_size_bytes(key, entry);
                    1 + varint_size_bytes(u64_from(item)) + item
                });
                items.sum::<usize>() + bytes_field_size_bytes(page.next.len())
            }
        }
    }
}

/// A varint field, as proto3 has it: left out if 0.
const fn varint_field_size_bytes(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_size_bytes(value) }
}

/// A field of bytes, as proto3 has it: left out if empty.
const fn bytes_field_size_bytes(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_size_bytes(u64_from(len)) + len }
}

fn versioned_field_size_bytes(entry: Option<&Versioned<'_>>) -> usize {
    entry.map_or(0, |entry| {
        let size_bytes = entry.size_bytes();
        1 + varint_size_bytes(u64_from(size_bytes)) + size_bytes
    })
}

fn item_size_bytes(key: &[u8], entry: &Versioned<'_>) -> usize {
    bytes_field_size_bytes(key.len()) + versioned_field_size_bytes(Some(entry))
}

/// Room for the fields of an entry but for its value.
const BUFFER_SIZE_BYTES: usize = 96;
/// Bytes up to here are gathered too.
const GATHERED_SIZE_BYTES_MAX: usize = 48;
/// A field's number and a varint.
const FIELD_SIZE_BYTES_MAX: usize = 11;

/// Gathers the small fields, so that a sink sees a few long pieces instead of many short ones.
struct Writer<'s, S> {
    out: &'s mut S,
    buffer: [u8; BUFFER_SIZE_BYTES],
    len: usize,
}

impl<'s, S: Sink> Writer<'s, S> {
    const fn new(out: &'s mut S) -> Self {
        Self { out, buffer: [0; BUFFER_SIZE_BYTES], len: 0 }
    }

    fn finish(self) {
        self.out.append(&self.buffer[..self.len]);
    }

    #[inline]
    fn reserve(&mut self, size_bytes: usize) {
        if self.len + size_bytes > BUFFER_SIZE_BYTES {
            self.out.append(&self.buffer[..self.len]);
            self.len = 0;
        }
    }

    #[inline]
    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer[self.len] = value.to_le_bytes()[0] | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.buffer[self.len] = value.to_le_bytes()[0];
        self.len += 1;
    }

    #[inline]
    fn varint(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.reserve(FIELD_SIZE_BYTES_MAX);
            self.raw(u64::from(field << 3));
            self.raw(value);
        }
    }

    /// The key and length of an embedded message, which is written even if it is empty.
    #[inline]
    fn message(&mut self, field: u8, size_bytes: usize) {
        self.reserve(FIELD_SIZE_BYTES_MAX);
        self.raw(u64::from((field << 3) | 2));
        self.raw(u64_from(size_bytes));
    }

    #[inline]
    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.message(field, bytes.len());
        if bytes.len() <= GATHERED_SIZE_BYTES_MAX {
            self.reserve(bytes.len());
            self.buffer[self.len..self.len + bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        } else {
            self.out.append(&self.buffer[..self.len]);
            self.len = 0;
            self.out.append(bytes);
        }
    }

    #[inline]
    fn versioned(&mut self, field: u8, entry: Option<&Versioned<'_>>) {
        let Some(entry) = entry else { return };
        self.message(field, entry.size_bytes());
        self.bytes(1, entry.value);
        self.varint(2, entry.version.0);
        self.varint(3, entry.created_ms);
        self.varint(4, entry.updated_ms);
        self.varint(5, entry.ttl_ms);
    }
}

#[cfg(test)]
mod tests;
