//! Bytes that some rooms carry and only others understand.

/// An encoded `p2pmap.v1.Result`. Most fit inline: `Written` takes at most 13 bytes.
pub type ResultBytes = smallvec::SmallVec<[u8; 24]>;
