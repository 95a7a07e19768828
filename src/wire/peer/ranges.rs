//! `indexs`: slots as ranges, `a, b, a, b …`, both ends among them, ascending, disjoint.

use std::error::Error;
use std::fmt;

use crate::base::cast;
use crate::base::ids::Index;
use crate::nopaxos::message::{RANGE_COUNT_MAX, SlotRange};
use crate::wire::peer::field::{Encode, Fields};

/// What is wrong with ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangesError {
    /// There are more than [`RANGE_COUNT_MAX`].
    TooMany,
    /// The last one has no end.
    Odd,
    /// One begins at no slot, ends before it begins, or begins before the one before it ends.
    NotAscending,
}

impl fmt::Display for RangesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "more than {RANGE_COUNT_MAX} ranges"),
            Self::Odd => write!(f, "the last range has no end"),
            Self::NotAscending => write!(f, "the ranges don't ascend from slot 1 on"),
        }
    }
}

impl Error for RangesError {}

/// The ranges that these numbers are.
///
/// # Errors
/// If they are none.
pub fn decode(numbers: &[u64]) -> Result<Vec<SlotRange>, RangesError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if pairs.len() > RANGE_COUNT_MAX {
        return Err(RangesError::TooMany);
    }
    if !rest.is_empty() {
        return Err(RangesError::Odd);
    }
    let mut ranges = Vec::with_capacity(pairs.len());
    let mut before = 0;
    for &[first, last] in pairs {
        if first <= before || last < first {
            return Err(RangesError::NotAscending);
        }
        before = last;
        ranges.push(SlotRange { first: Index(first), last: Index(last) });
    }
    Ok(ranges)
}

/// Ranges, to be written as packed numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangesOf<'a>(pub(super) &'a [SlotRange]);

impl Encode for RangesOf<'_> {
    fn encode(&self, out: &mut impl Fields) {
        for range in self.0 {
            out.varint(range.first.0);
            out.varint(range.last.0);
        }
    }
}

/// How many numbers a packed field has: each varint has one byte without its high bit.
pub(super) fn packed_count(bytes: &[u8]) -> u64 {
    cast::u64_from(bytes.iter().filter(|byte| **byte < 0x80).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> SlotRange {
        SlotRange { first: Index(first), last: Index(last) }
    }

    #[test]
    fn ranges_are_pairs() {
        assert_eq!(decode(&[]), Ok(vec![]));
        assert_eq!(decode(&[1, 1]), Ok(vec![range(1, 1)]));
        assert_eq!(decode(&[3, 5, 6, 6, 9, 20]), Ok(vec![range(3, 5), range(6, 6), range(9, 20)]));
    }

    #[test]
    fn malformed_ranges_are_refused() {
        assert_eq!(decode(&[1]), Err(RangesError::Odd));
        assert_eq!(decode(&[1, 2, 3]), Err(RangesError::Odd));
        for numbers in [&[0, 0][..], &[0, 5], &[2, 1], &[1, 3, 3, 4], &[5, 6, 1, 2], &[1, 2, 2, 2]]
        {
            assert_eq!(decode(numbers), Err(RangesError::NotAscending), "{numbers:?}");
        }
        assert_eq!(decode(&[1, u64::MAX, 1, 1]), Err(RangesError::NotAscending));
    }

    #[test]
    fn ranges_are_bounded() {
        let numbers = |count: u64| -> Vec<u64> { (1..=2 * count).collect() };
        assert_eq!(decode(&numbers(1_024)).unwrap().len(), RANGE_COUNT_MAX);
        assert_eq!(decode(&numbers(1_025)), Err(RangesError::TooMany));
    }

    #[test]
    fn packed_numbers_are_counted_without_being_read() {
        assert_eq!(packed_count(&[]), 0);
        assert_eq!(packed_count(&[0, 0x80, 1, 0xFF, 0xFF, 0x7F, 5]), 4);
        assert_eq!(packed_count(&[0x80, 0x80]), 0);
    }
}
