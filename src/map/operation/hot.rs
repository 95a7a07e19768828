//! The hot decoders: `p2pmap.v1.Command` and `Query` in the encoding that every protobuf library
//! produces, read without a copy. Whatever is unusual (a field twice, an unknown one, an overlong
//! tag, a number out of range) is `None`, and prost reads it: there the rules of merging apply.
//!
//! Operations with a number above 15 are rare; they are left to prost too.
//!
//! `Some` promises that prost reads the same; `tests/wire_properties.rs` holds it to that.

use super::draft::{
    CommandDraft, ConditionDraft, OperationDraft, PutDraft, QueryDraft, QueryOperationDraft,
    RemoveDraft,
};
use crate::proto::reader::{Reader, Seen, WIRE_BYTES, WIRE_VARINT, tag};

mod command_tag {
    use super::{WIRE_BYTES, WIRE_VARINT, tag};

    pub(super) const MAP: u8 = tag(1, WIRE_BYTES);
    pub(super) const SESSION_ID: u8 = tag(2, WIRE_VARINT);
    pub(super) const SEQUENCE: u8 = tag(3, WIRE_VARINT);
    pub(super) const ACK_BELOW: u8 = tag(4, WIRE_VARINT);
    pub(super) const TIMEOUT_MS: u8 = tag(5, WIRE_VARINT);
    pub(super) const NO_FORWARD: u8 = tag(6, WIRE_VARINT);
    pub(super) const PUT: u8 = tag(10, WIRE_BYTES);
    pub(super) const REMOVE: u8 = tag(11, WIRE_BYTES);
    pub(super) const CLEAR: u8 = tag(12, WIRE_BYTES);
}

mod put_tag {
    use super::{WIRE_BYTES, WIRE_VARINT, tag};

    pub(super) const KEY: u8 = tag(1, WIRE_BYTES);
    pub(super) const VALUE: u8 = tag(2, WIRE_BYTES);
    pub(super) const CONDITION: u8 = tag(3, WIRE_BYTES);
    pub(super) const TTL_MS: u8 = tag(4, WIRE_VARINT);
    pub(super) const KEEP_TTL: u8 = tag(5, WIRE_VARINT);
    pub(super) const WANT_PREVIOUS: u8 = tag(6, WIRE_VARINT);
}

mod remove_tag {
    use super::{WIRE_BYTES, WIRE_VARINT, tag};

    pub(super) const KEY: u8 = tag(1, WIRE_BYTES);
    pub(super) const CONDITION: u8 = tag(2, WIRE_BYTES);
    pub(super) const WANT_PREVIOUS: u8 = tag(3, WIRE_VARINT);
}

mod condition_tag {
    use super::{WIRE_BYTES, WIRE_VARINT, tag};

    pub(super) const ABSENT: u8 = tag(1, WIRE_VARINT);
    pub(super) const PRESENT: u8 = tag(2, WIRE_VARINT);
    pub(super) const VERSION: u8 = tag(3, WIRE_VARINT);
    pub(super) const VALUE: u8 = tag(4, WIRE_BYTES);
}

mod query_tag {
    use super::{WIRE_BYTES, WIRE_VARINT, tag};

    pub(super) const MAP: u8 = tag(1, WIRE_BYTES);
    pub(super) const CONSISTENCY: u8 = tag(2, WIRE_VARINT);
    pub(super) const MIN_INDEX: u8 = tag(3, WIRE_VARINT);
    pub(super) const TIMEOUT_MS: u8 = tag(4, WIRE_VARINT);
    pub(super) const NO_FORWARD: u8 = tag(5, WIRE_VARINT);
    pub(super) const GET: u8 = tag(10, WIRE_BYTES);
    pub(super) const EXISTS: u8 = tag(11, WIRE_BYTES);
    pub(super) const SIZE: u8 = tag(12, WIRE_BYTES);
    pub(super) const ENTRIES: u8 = tag(13, WIRE_BYTES);
}

/// `Get` and `Exists` are alike.
const ONLY_KEY: u8 = tag(1, WIRE_BYTES);

mod entries_tag {
    use super::{WIRE_BYTES, WIRE_VARINT, tag};

    pub(super) const PREFIX: u8 = tag(1, WIRE_BYTES);
    pub(super) const START_AFTER: u8 = tag(2, WIRE_BYTES);
    pub(super) const LIMIT: u8 = tag(3, WIRE_VARINT);
    pub(super) const KEYS_ONLY: u8 = tag(4, WIRE_VARINT);
}

#[inline]
pub(super) fn command(bytes: &[u8]) -> Option<CommandDraft<'_>> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let mut draft = CommandDraft::default();
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        let operation = match tag {
            command_tag::MAP => {
                draft.map = reader.bytes()?;
                continue;
            }
            command_tag::PUT => OperationDraft::Put(put(reader.bytes()?)?),
            command_tag::REMOVE => OperationDraft::Remove(remove(reader.bytes()?)?),
            command_tag::CLEAR => empty(reader.bytes()?).map(|()| OperationDraft::Clear)?,
            _ => {
                command_number(&mut draft, tag, &mut reader)?;
                continue;
            }
        };
        // The members of the oneof have numbers of their own, so `seen` can't tell.
        if draft.operation.replace(operation).is_some() {
            return None;
        }
    }
    Some(draft)
}

#[inline]
fn command_number(draft: &mut CommandDraft<'_>, tag: u8, reader: &mut Reader<'_>) -> Option<()> {
    match tag {
        command_tag::SESSION_ID => draft.session_id = reader.varint()?,
        command_tag::SEQUENCE => draft.sequence = reader.varint()?,
        command_tag::ACK_BELOW => draft.ack_below = reader.varint()?,
        command_tag::TIMEOUT_MS => draft.timeout_ms = reader.varint_u32()?,
        command_tag::NO_FORWARD => draft.no_forward = reader.bool()?,
        _ => return None,
    }
    Some(())
}

#[inline]
fn put(bytes: &[u8]) -> Option<PutDraft<'_>> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let mut draft = PutDraft::default();
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            put_tag::KEY => draft.key = reader.bytes()?,
            put_tag::VALUE => draft.value = reader.bytes()?,
            put_tag::CONDITION => draft.condition = Some(condition(reader.bytes()?)?),
            put_tag::TTL_MS => draft.ttl_ms = reader.varint()?,
            put_tag::KEEP_TTL => draft.keep_ttl = reader.bool()?,
            put_tag::WANT_PREVIOUS => draft.want_previous = reader.bool()?,
            _ => return None,
        }
    }
    Some(draft)
}

fn remove(bytes: &[u8]) -> Option<RemoveDraft<'_>> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let mut draft = RemoveDraft::default();
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            remove_tag::KEY => draft.key = reader.bytes()?,
            remove_tag::CONDITION => draft.condition = Some(condition(reader.bytes()?)?),
            remove_tag::WANT_PREVIOUS => draft.want_previous = reader.bool()?,
            _ => return None,
        }
    }
    Some(draft)
}

fn condition(bytes: &[u8]) -> Option<ConditionDraft<'_>> {
    let mut reader = Reader::new(bytes);
    let condition = match reader.byte() {
        None => ConditionDraft::Unset,
        Some(condition_tag::ABSENT) => ConditionDraft::absent(reader.bool()?),
        Some(condition_tag::PRESENT) => ConditionDraft::present(reader.bool()?),
        Some(condition_tag::VERSION) => ConditionDraft::Version(reader.varint()?),
        Some(condition_tag::VALUE) => ConditionDraft::Value(reader.bytes()?),
        Some(_) => return None,
    };
    reader.is_empty().then_some(condition)
}

#[inline]
pub(super) fn query(bytes: &[u8]) -> Option<QueryDraft<'_>> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let mut draft = QueryDraft::default();
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        let operation = match tag {
            query_tag::MAP => {
                draft.map = reader.bytes()?;
                continue;
            }
            query_tag::GET => QueryOperationDraft::Get { key: only_key(reader.bytes()?)? },
            query_tag::EXISTS => QueryOperationDraft::Exists { key: only_key(reader.bytes()?)? },
            query_tag::SIZE => empty(reader.bytes()?).map(|()| QueryOperationDraft::Size)?,
            query_tag::ENTRIES => entries(reader.bytes()?)?,
            _ => {
                query_number(&mut draft, tag, &mut reader)?;
                continue;
            }
        };
        if draft.operation.replace(operation).is_some() {
            return None;
        }
    }
    Some(draft)
}

#[inline]
fn query_number(draft: &mut QueryDraft<'_>, tag: u8, reader: &mut Reader<'_>) -> Option<()> {
    match tag {
        query_tag::CONSISTENCY => {
            draft.consistency = i32::try_from(reader.varint()?).ok()?;
        }
        query_tag::MIN_INDEX => draft.min_index = reader.varint()?,
        query_tag::TIMEOUT_MS => draft.timeout_ms = reader.varint_u32()?,
        query_tag::NO_FORWARD => draft.no_forward = reader.bool()?,
        _ => return None,
    }
    Some(())
}

#[inline]
fn only_key(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let key = match reader.byte() {
        None => &[],
        Some(ONLY_KEY) => reader.bytes()?,
        Some(_) => return None,
    };
    reader.is_empty().then_some(key)
}

fn entries(bytes: &[u8]) -> Option<QueryOperationDraft<'_>> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let (mut prefix, mut start_after): (&[u8], &[u8]) = (&[], &[]);
    let (mut limit, mut keys_only) = (0, false);
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            entries_tag::PREFIX => prefix = reader.bytes()?,
            entries_tag::START_AFTER => start_after = reader.bytes()?,
            entries_tag::LIMIT => limit = reader.varint_u32()?,
            entries_tag::KEYS_ONLY => keys_only = reader.bool()?,
            _ => return None,
        }
    }
    Some(QueryOperationDraft::Entries { prefix, start_after, limit, keys_only })
}

#[inline]
fn empty(bytes: &[u8]) -> Option<()> {
    bytes.is_empty().then_some(())
}
