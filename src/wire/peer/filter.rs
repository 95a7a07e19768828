//! `no_op_filter`: which slots of a stretch of the log are no-ops; an exact set.
//!
//! ```text
//! version      u8      1
//! flags        u8      bit 0: source term follows; bit 1: chain digest follows
//! source term  varint  of a `StartView`: the view whose logs were merged
//! chain        16      at the last slot of the stretch
//! count        varint  no-ops
//! distances    varints the first no-op less the first slot, then each less the one before, less 1
//! ```
//!
//! Each set has one encoding: varints are minimal and nothing follows. The empty field stands for
//! the empty set without source term and chain.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;

use crate::base::cast;
use crate::base::chain::Chain;
use crate::base::ids::{Index, TermId};
use crate::base::limits::NO_OP_COUNT_MAX;
use crate::nopaxos::message::LogSummary;
use crate::proto::reader::{Reader, varint_size_bytes};
use crate::wire::peer::field::{Encode, Fields};

const VERSION: u8 = 1;
const FLAG_SOURCE_TERM: u8 = 1;
const FLAG_CHAIN: u8 = 2;

/// What a filter says besides where its stretch lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The view whose logs were merged.
    pub source_term: Option<TermId>,
    /// The chain digest at the last slot.
    pub chain: Option<Chain>,
    /// The no-ops.
    pub no_ops: BTreeSet<Index>,
}

/// What is wrong with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// This release writes another one.
    VersionUnknown,
    /// A flag has no meaning here.
    FlagUnknown,
    /// It ends too early.
    Cut,
    /// A number isn't written in its shortest form.
    VarintMalformed,
    /// It says that there are more no-ops than slots, or than are allowed.
    CountTooHigh {
        /// How many.
        count: u64,
    },
    /// A no-op lies behind the last slot.
    SlotTooHigh,
    /// Something follows.
    Trailing,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VersionUnknown => write!(f, "its version is unknown"),
            Self::FlagUnknown => write!(f, "a flag is unknown"),
            Self::Cut => write!(f, "it is cut"),
            Self::VarintMalformed => write!(f, "a number isn't a varint in its shortest form"),
            Self::CountTooHigh { count } => {
                write!(
                    f,
                    "{count} no-ops: there aren't so many slots, or {NO_OP_COUNT_MAX} are \
                           allowed"
                )
            }
            Self::SlotTooHigh => write!(f, "a no-op lies behind the last slot"),
            Self::Trailing => write!(f, "something follows the last no-op"),
        }
    }
}

impl Error for FilterError {}

/// The filter of a log, to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilterOf<'a> {
    pub(super) source_term: Option<TermId>,
    pub(super) log: &'a LogSummary,
}

impl Encode for FilterOf<'_> {
    fn encode(&self, out: &mut impl Fields) {
        let flag = if self.source_term.is_some() { FLAG_SOURCE_TERM } else { 0 };
        out.put(&[VERSION, flag | FLAG_CHAIN]);
        if let Some(term) = self.source_term {
            out.varint(term.0);
        }
        out.put(&self.log.chain.0);
        out.varint(cast::u64_from(self.log.no_ops.len()));
        let mut next = self.log.first;
        for no_op in &self.log.no_ops {
            out.varint(no_op.since(next));
            next = no_op.next();
        }
    }
}

/// Reads the filter of the slots from `first` to `last`; there are none if `first` follows `last`.
///
/// # Errors
/// If it isn't the encoding of a set of these slots.
pub fn decode(bytes: &[u8], first: Index, last: Index) -> Result<Filter, FilterError> {
    let mut filter = Filter::default();
    if bytes.is_empty() {
        return Ok(filter);
    }
    let mut reader = Reader::new(bytes);
    let version = reader.byte().ok_or(FilterError::Cut)?;
    if version != VERSION {
        return Err(FilterError::VersionUnknown);
    }
    let flags = reader.byte().ok_or(FilterError::Cut)?;
    if flags & !(FLAG_SOURCE_TERM | FLAG_CHAIN) != 0 {
        return Err(FilterError::FlagUnknown);
    }
    if flags & FLAG_SOURCE_TERM != 0 {
        filter.source_term = Some(TermId(minimal_varint(&mut reader)?));
    }
    if flags & FLAG_CHAIN != 0 {
        let chain = reader.array().ok_or(FilterError::Cut)?;
        filter.chain = Some(Chain(chain));
    }
    filter.no_ops = no_ops(&mut reader, first, last)?;
    if reader.is_empty() { Ok(filter) } else { Err(FilterError::Trailing) }
}

fn no_ops(
    reader: &mut Reader<'_>,
    first: Index,
    last: Index,
) -> Result<BTreeSet<Index>, FilterError> {
    let count = minimal_varint(reader)?;
    let slot_count = if first > last { 0 } else { (last.0 - first.0).saturating_add(1) };
    // Each no-op takes a byte at least: what is announced must be there.
    if count > slot_count || count > NO_OP_COUNT_MAX {
        return Err(FilterError::CountTooHigh { count });
    }
    if count > cast::u64_from(reader.rest().len()) {
        return Err(FilterError::Cut);
    }
    let mut next = first.0;
    let mut slots = Vec::with_capacity(cast::usize_from(count));
    for _ in 0..count {
        let distance = minimal_varint(reader)?;
        let slot = next.checked_add(distance).filter(|slot| *slot <= last.0);
        let slot = slot.ok_or(FilterError::SlotTooHigh)?;
        slots.push(Index(slot));
        // Behind the greatest number there is no slot: the next one is too high.
        next = slot.checked_add(1).ok_or(FilterError::SlotTooHigh)?;
    }
    Ok(BTreeSet::from_iter(slots))
}

/// A varint in its shortest form.
pub(super) fn minimal_varint(reader: &mut Reader<'_>) -> Result<u64, FilterError> {
    let before = reader.rest().len();
    if before == 0 {
        return Err(FilterError::Cut);
    }
    let value = reader.varint().ok_or(FilterError::VarintMalformed)?;
    let size = before - reader.rest().len();
    if size == varint_size_bytes(value) { Ok(value) } else { Err(FilterError::VarintMalformed) }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::peer::field::size_bytes;

    fn log(first: u64, last: u64, no_ops: &[u64]) -> LogSummary {
        let no_ops = no_ops.iter().copied().map(Index).collect();
        LogSummary { first: Index(first), last: Index(last), no_ops, chain: Chain([9; 16]) }
    }

    fn encoded(source_term: Option<TermId>, log: &LogSummary) -> Vec<u8> {
        let filter = FilterOf { source_term, log };
        let mut out = BytesMut::new();
        filter.encode(&mut out);
        assert_eq!(out.len(), size_bytes(&filter));
        out.to_vec()
    }

    fn raw(flags: u8, rest: &[u8]) -> Vec<u8> {
        [&[VERSION, flags], rest].concat()
    }

    #[test]
    fn filters_are_written_as_specified() {
        let log = log(10, 500, &[10, 11, 13, 400]);
        let header = [&[1, 3, 5][..], &[9; 16]].concat();
        let expected = [&header[..], &[4, 0, 0, 1, 0x82, 0x03]].concat();
        assert_eq!(encoded(Some(TermId(5)), &log), expected);
    }

    #[test]
    fn filters_come_back() {
        for no_ops in [&[][..], &[7], &[7, 8, 9], &[8], &[9], &[7, 9]] {
            let log = log(7, 9, no_ops);
            for source_term in [None, Some(TermId(0)), Some(TermId(u64::MAX >> 1))] {
                let filter = decode(&encoded(source_term, &log), log.first, log.last).unwrap();
                assert_eq!(filter.no_ops, log.no_ops);
                assert_eq!((filter.source_term, filter.chain), (source_term, Some(log.chain)));
            }
        }
    }

    #[test]
    fn empty_field_is_the_empty_set_of_unknown_chain() {
        assert_eq!(decode(&[], Index(1), Index(9)), Ok(Filter::default()));
    }

    #[test]
    fn filters_cut_anywhere_are_refused() {
        let bytes = encoded(Some(TermId(300)), &log(10, 5_000, &[10, 11, 4_000]));
        for end in 1..bytes.len() {
            let error = decode(&bytes[..end], Index(10), Index(5_000)).unwrap_err();
            let is_expected = matches!(error, FilterError::Cut | FilterError::VarintMalformed);
            assert!(is_expected, "{end}: {error:?}");
        }
    }

    #[test]
    fn malformed_filters_are_refused() {
        let refused = |bytes: &[u8], error| {
            assert_eq!(decode(bytes, Index(5), Index(8)), Err(error), "{bytes:?}");
        };
        refused(&[0, 0, 0], FilterError::VersionUnknown);
        refused(&[2, 0, 0], FilterError::VersionUnknown);
        refused(&raw(4, &[0]), FilterError::FlagUnknown);
        refused(&raw(0x80, &[0]), FilterError::FlagUnknown);
        refused(&raw(0, &[0x80, 0]), FilterError::VarintMalformed);
        refused(&raw(0, &[1, 0x80, 0]), FilterError::VarintMalformed);
        refused(&raw(1, &[0x80, 0, 0]), FilterError::VarintMalformed);
        refused(&raw(0, &[5, 0, 0, 0, 0, 0]), FilterError::CountTooHigh { count: 5 });
        refused(&raw(0, &[2, 0]), FilterError::Cut);
        refused(&raw(0, &[1, 4]), FilterError::SlotTooHigh);
        refused(&raw(0, &[2, 3, 0]), FilterError::SlotTooHigh);
        refused(&raw(0, &[1, 0, 0]), FilterError::Trailing);
        refused(&raw(0, &[0, 0]), FilterError::Trailing);
    }

    #[test]
    fn empty_stretches_have_no_no_ops() {
        assert_eq!(decode(&raw(0, &[0]), Index(9), Index(8)), Ok(Filter::default()));
        let one = decode(&raw(0, &[1, 0]), Index(9), Index(8));
        assert_eq!(one, Err(FilterError::CountTooHigh { count: 1 }));
    }

    #[test]
    fn announced_counts_take_no_memory() {
        let huge = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
        let error = decode(&raw(0, &huge), Index(0), Index(u64::MAX));
        assert_eq!(error, Err(FilterError::CountTooHigh { count: u64::MAX >> 1 }));
    }

    #[test]
    fn distances_that_overflow_are_refused() {
        let max = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        let bytes = raw(0, &[&[2, 5][..], &max].concat());
        assert_eq!(decode(&bytes, Index(1), Index(u64::MAX)), Err(FilterError::SlotTooHigh));
        let last = raw(0, &[&[1][..], &max].concat());
        assert_eq!(decode(&last, Index(0), Index(u64::MAX)), Err(FilterError::SlotTooHigh));
    }
}
