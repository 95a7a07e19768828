//! `Message.target`: what a request is about. It only routes; the operation names its map itself.
//!
//! | `target.name` | meaning |
//! | --- | --- |
//! | empty, or no target | as `orders`, of the operation's own map |
//! | `orders` | the map `orders`; the partition follows from the operation's key |
//! | `orders#7` | partition 7 of `orders` |
//! | `#7` | partition 7 |

use std::error::Error;
use std::fmt;

use crate::base::ids::PartitionId;
use crate::proto::reader::{Reader, Seen, WIRE_BYTES, tag};

/// What is wrong with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// It names another map than the operation.
    MapDiffers,
    /// What follows `#` is no partition.
    PartitionMalformed,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MapDiffers => write!(f, "target.name: names another map than the operation"),
            Self::PartitionMalformed => {
                write!(f, "target.name: what follows `#` is not the number of a partition")
            }
        }
    }
}

impl Error for TargetError {}

const NAME_NAME: u8 = tag(1, WIRE_BYTES);
const NAME_NAMESPACE: u8 = tag(2, WIRE_BYTES);

/// The name in an encoded target that is meant for this cluster, if it is in the usual encoding.
#[inline]
pub(super) fn hot_name<'a>(target: &'a [u8], cluster: &str) -> Option<&'a [u8]> {
    let mut reader = Reader::new(target);
    let mut seen = Seen::default();
    let mut name: &[u8] = &[];
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        let bytes = reader.bytes()?;
        match tag {
            NAME_NAME => name = bytes,
            NAME_NAMESPACE if bytes.is_empty() || bytes == cluster.as_bytes() => {}
            _ => return None,
        }
    }
    Some(name)
}

/// The partition that the target `name` asks for, given the operation's `map`.
///
/// # Errors
/// If the two contradict each other, or the name is malformed.
#[inline]
pub fn partition(name: &[u8], map: &str) -> Result<Option<PartitionId>, TargetError> {
    let map = map.as_bytes();
    // By far the most usual first.
    if name == map || name.is_empty() {
        return Ok(None);
    }
    // Names of maps hold no `#`, so the first one ends the name.
    let Some(at) = name.iter().position(|byte| *byte == b'#') else {
        return Err(TargetError::MapDiffers);
    };
    let (named, number) = (&name[..at], &name[at + 1..]);
    if !named.is_empty() && named != map {
        return Err(TargetError::MapDiffers);
    }
    number_of(number).map(|number| Some(PartitionId(number))).ok_or(TargetError::PartitionMalformed)
}

/// A decimal number in its only spelling: digits, no leading zero.
fn number_of(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_a_map_a_partition_of_it_or_a_partition() {
        let some = |number| Ok(Some(PartitionId(number)));
        assert_eq!(partition(b"", "orders"), Ok(None));
        assert_eq!(partition(b"orders", "orders"), Ok(None));
        assert_eq!(partition(b"orders#7", "orders"), some(7));
        assert_eq!(partition(b"#0", "orders"), some(0));
        assert_eq!(partition(b"#4294967295", "orders"), some(u32::MAX));
    }

    #[test]
    fn targets_of_another_map_are_refused() {
        for name in [&b"order"[..], b"orderss", b"others#7", b"orders ", b"\xFF", b"\xFF#7"] {
            assert_eq!(partition(name, "orders"), Err(TargetError::MapDiffers), "{name:?}");
        }
    }

    #[test]
    fn malformed_partitions_are_refused() {
        for suffix in ["", "07", "00", "+7", "-1", "7 ", " 7", "7#", "7#7", "x", "4294967296"] {
            for map in ["", "orders"] {
                let name = format!("{map}#{suffix}");
                let refused = Err(TargetError::PartitionMalformed);
                assert_eq!(partition(name.as_bytes(), "orders"), refused, "{name}");
            }
        }
    }
}
