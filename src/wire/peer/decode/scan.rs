//! A look at a message before it is decoded. Decoding makes objects of it, and a few bytes of an
//! entry become many: 3.5 MiB of empty entries would become more than 100 MiB. So what is repeated
//! is counted first.
//!
//! A field of the oneof may come more than once, and prost merges what has come: all are counted.

use crate::base::cast;
use crate::base::limits::PEER_ENTRY_COUNT_MAX;
use crate::nopaxos::message::RANGE_COUNT_MAX;
use crate::proto::reader::{Fields, Value};
use crate::wire::peer::error::{Flaw, PeerError};
use crate::wire::peer::ranges::{RangesError, packed_count};

/// The shortest entry that can be one: an index and a message id.
const ENTRY_SIZE_BYTES_MIN: usize = 4;

/// What of a message is repeated.
struct Repeated {
    /// The field of `Message`.
    kind: &'static str,
    /// The field of that.
    field: &'static str,
    number: u32,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Entries,
    Indexes,
}

/// The repeated field of a kind of message; no kind has two.
const fn repeated(kind: u32) -> Option<Repeated> {
    let (kind, number, what) = match kind {
        11 => ("view_change_repair", 5, What::Indexes),
        12 => ("view_change_repair_response", 6, What::Indexes),
        14 => ("view_repair", 5, What::Indexes),
        15 => ("view_repair_response", 5, What::Entries),
        17 => ("sync_repair", 4, What::Indexes),
        18 => ("sync_repair_response", 5, What::Entries),
        22 => ("recover_response", 7, What::Entries),
        _ => return None,
    };
    let field = match what {
        What::Entries if number == 7 => "log",
        What::Entries => "entries",
        What::Indexes => "indexs",
    };
    Some(Repeated { kind, field, number, what })
}

/// How much there is of what is repeated.
#[derive(Default)]
struct Counts {
    entries: usize,
    indexes: u64,
}

/// Refuses what would become more than a small multiple of itself, and what isn't protobuf.
pub(super) fn check(payload: &[u8]) -> Result<(), PeerError> {
    let mut counts = Counts::default();
    let mut fields = Fields::of(payload);
    for field in fields.by_ref() {
        if let (Some(repeated), Value::Bytes(body)) = (repeated(field.number), field.value) {
            let flawed =
                |flaw| PeerError::Malformed { kind: repeated.kind, field: repeated.field, flaw };
            counts.add(&repeated, body).map_err(flawed)?;
        }
    }
    if fields.is_well_formed() { Ok(()) } else { Err(PeerError::NoProtobuf) }
}

impl Counts {
    /// Adds what a message has. Where it is malformed prost stops as well, and finds the words.
    fn add(&mut self, repeated: &Repeated, body: &[u8]) -> Result<(), Flaw> {
        for field in Fields::of(body).filter(|field| field.number == repeated.number) {
            match (repeated.what, field.value) {
                (What::Entries, Value::Bytes(entry)) => {
                    if entry.len() < ENTRY_SIZE_BYTES_MIN {
                        return Err(Flaw::Missing);
                    }
                    self.entries += 1;
                }
                (What::Indexes, Value::Bytes(packed)) => self.indexes += packed_count(packed),
                (What::Indexes, Value::Varint(_)) => self.indexes += 1,
                // Of the wrong type: prost refuses it.
                _ => {}
            }
            if self.entries > PEER_ENTRY_COUNT_MAX {
                return Err(Flaw::TooMany);
            }
            if self.indexes > 2 * cast::u64_from(RANGE_COUNT_MAX) {
                return Err(Flaw::Ranges(RangesError::TooMany));
            }
        }
        Ok(())
    }
}
