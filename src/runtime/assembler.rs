//! Cuts a stream of bytes into frames: `flag | length (u32, big-endian) | payload`.
//!
//! Nothing is allocated for a length that a peer merely announces: a frame that is too long is
//! refused by its prefix, a long one's memory grows as its bytes come.

use std::fmt;
use std::ops::Range;

use crate::base::cast::usize_from_u32;
use crate::base::limits::{FRAME_PREFIX_SIZE_BYTES, FRAME_SIZE_BYTES_MAX};
use crate::metrics::DropReason;
use crate::runtime::service::{StatusCode, WireStatus};

/// A frame's flag: a `Message`.
const FLAG_MESSAGE: u8 = 0;
/// A frame's flag: a compressed `Message`.
const FLAG_COMPRESSED: u8 = 1;
/// A frame's flag: a member's `Hello`.
const FLAG_HELLO: u8 = 2;

/// What stands at the beginning of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A whole frame; what follows begins where its payload ends.
    Frame {
        /// Where the payload is.
        payload: Range<usize>,
    },
    /// The beginning of a frame. At least so many bytes are missing to know more.
    Incomplete {
        /// How many.
        missing: usize,
    },
}

/// Why a stream can't be read on. The peer is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The frame is longer than we accept.
    TooLong {
        /// The announced length.
        size: usize,
    },
    /// The frame is compressed.
    Compressed,
    /// The frame is a member's greeting.
    Hello,
    /// The flag has no meaning.
    FlagUnknown {
        /// The flag.
        flag: u8,
    },
}

/// Looks at the frame that begins at `from`.
///
/// # Errors
/// If the prefix is one that we refuse.
pub fn cut(bytes: &[u8], from: usize) -> Result<Cut, FrameError> {
    let rest = &bytes[from..];
    if let Some(flag) = rest.first() {
        check_flag(*flag)?;
    }
    let Some(&[_, a, b, c, d]) = rest.first_chunk::<FRAME_PREFIX_SIZE_BYTES>() else {
        return Ok(Cut::Incomplete { missing: FRAME_PREFIX_SIZE_BYTES - rest.len() });
    };
    let size = usize_from_u32(u32::from_be_bytes([a, b, c, d]));
    if size > FRAME_SIZE_BYTES_MAX {
        return Err(FrameError::TooLong { size });
    }
    let frame_size = FRAME_PREFIX_SIZE_BYTES + size;
    if rest.len() < frame_size {
        return Ok(Cut::Incomplete { missing: frame_size - rest.len() });
    }
    Ok(Cut::Frame { payload: from + FRAME_PREFIX_SIZE_BYTES..from + frame_size })
}

fn check_flag(flag: u8) -> Result<(), FrameError> {
    match flag {
        FLAG_MESSAGE => Ok(()),
        FLAG_COMPRESSED => Err(FrameError::Compressed),
        FLAG_HELLO => Err(FrameError::Hello),
        flag => Err(FrameError::FlagUnknown { flag }),
    }
}

impl FrameError {
    /// What the peer is told.
    #[must_use]
    pub fn status(&self) -> WireStatus {
        let code = match self {
            Self::TooLong { .. } => StatusCode::ResourceExhausted,
            Self::Compressed => StatusCode::Unimplemented,
            Self::Hello => StatusCode::PermissionDenied,
            Self::FlagUnknown { .. } => StatusCode::InvalidArgument,
        };
        WireStatus { code, message: self.to_string() }
    }

    /// How it is counted.
    #[must_use]
    pub fn drop_reason(&self) -> DropReason {
        match self {
            Self::TooLong { .. } => DropReason::FrameTooLong,
            Self::Compressed => DropReason::FrameCompressed,
            Self::Hello => DropReason::HelloRefused,
            Self::FlagUnknown { .. } => DropReason::FrameFlagUnknown,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { size } => {
                write!(f, "frame of {size} bytes exceeds the limit of {FRAME_SIZE_BYTES_MAX}")
            }
            Self::Compressed => f.write_str("frame flag 1: compressed frames are not supported"),
            Self::Hello => f.write_str("frame flag 2: this connection is not a member's"),
            Self::FlagUnknown { flag } => write!(f, "frame flag {flag} has no meaning"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"\x00\x00\x00\x00\x03abc\x00\x00\x00\x00\x00";

    #[test]
    fn frames_are_cut_one_after_another() {
        assert_eq!(cut(TWO, 0), Ok(Cut::Frame { payload: 5..8 }));
        assert_eq!(cut(TWO, 8), Ok(Cut::Frame { payload: 13..13 }));
        assert_eq!(cut(TWO, 13), Ok(Cut::Incomplete { missing: 5 }));
    }

    #[test]
    fn truncated_frame_says_how_much_is_missing_at_each_byte() {
        for len in 0..5 {
            assert_eq!(cut(&TWO[..len], 0), Ok(Cut::Incomplete { missing: 5 - len }));
        }
        for len in 5..8 {
            assert_eq!(cut(&TWO[..len], 0), Ok(Cut::Incomplete { missing: 8 - len }));
        }
    }

    #[test]
    fn four_gibibytes_are_refused_by_their_prefix() {
        let error = cut(b"\x00\xff\xff\xff\xff", 0).expect_err("too long");
        assert_eq!(error, FrameError::TooLong { size: usize_from_u32(u32::MAX) });
        assert_eq!(error.status().code, StatusCode::ResourceExhausted);
    }

    #[test]
    fn longest_frame_is_awaited_and_one_byte_more_is_refused() {
        let missing = FRAME_SIZE_BYTES_MAX;
        assert_eq!(cut(b"\x00\x00\x40\x00\x00", 0), Ok(Cut::Incomplete { missing }));
        assert!(cut(b"\x00\x00\x40\x00\x01", 0).is_err());
    }

    #[test]
    fn flags_are_judged_by_their_one_byte() {
        assert_eq!(cut(b"\x01", 0), Err(FrameError::Compressed));
        assert_eq!(cut(b"\x02", 0), Err(FrameError::Hello));
        assert_eq!(cut(b"\x03", 0), Err(FrameError::FlagUnknown { flag: 3 }));
        assert_eq!(FrameError::Hello.status().code, StatusCode::PermissionDenied);
    }
}
