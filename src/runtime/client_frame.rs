//! Frames as clients may send them, on raw connections and inside of gRPC: what [`frame`] decodes,
//! but for those that are the members'.

use std::fmt;

use super::service::WireStatus;
use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
use crate::metrics::DropReason;
use crate::wire::error::WireError;
use crate::wire::frame::{self, Flag, FrameError};

/// Why a stream can't be read on. The client is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRefusal {
    /// It is no frame that anybody may send.
    Malformed(FrameError),
    /// It is a member's greeting.
    Hello,
}

/// How long the frame at the beginning of `bytes` is with its prefix, or `None` if more bytes are
/// needed to know that. What is refused is refused by its prefix.
///
/// # Errors
/// If no such frame is accepted from a client.
#[inline]
pub fn frame_size(bytes: &[u8]) -> Result<Option<usize>, FrameRefusal> {
    let Some(header) = frame::header(bytes).map_err(FrameRefusal::Malformed)? else {
        return Ok(None);
    };
    match header.flag {
        Flag::Message => Ok(Some(FRAME_PREFIX_SIZE_BYTES + header.payload_size_bytes)),
        Flag::Hello => Err(FrameRefusal::Hello),
        // Between members alone does this flag say anything.
        Flag::Ping => {
            Err(FrameRefusal::Malformed(FrameError::FlagUnknown { flag: header.flag.byte() }))
        }
    }
}

impl FrameRefusal {
    /// What the client is told.
    #[must_use]
    pub fn status(&self) -> WireStatus {
        let code = match self {
            Self::Malformed(error) => error.status(),
            Self::Hello => WireError::HelloForbidden.status(),
        };
        WireStatus { code, message: self.to_string() }
    }

    /// How it is counted.
    #[must_use]
    pub const fn drop_reason(&self) -> DropReason {
        match self {
            Self::Malformed(FrameError::TooLong { .. }) => DropReason::FrameTooLong,
            Self::Malformed(FrameError::Compressed) => DropReason::FrameCompressed,
            Self::Malformed(FrameError::FlagUnknown { .. }) => DropReason::FrameFlagUnknown,
            Self::Hello => DropReason::HelloRefused,
        }
    }
}

impl fmt::Display for FrameRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Hello => WireError::HelloForbidden.fmt(f),
        }
    }
}

impl std::error::Error for FrameRefusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::StatusCode;

    #[test]
    fn size_is_known_once_the_prefix_is_there() {
        let bytes = b"\x00\x00\x00\x00\x03abc";
        for len in 0..5 {
            assert_eq!(frame_size(&bytes[..len]), Ok(None));
        }
        for len in 5..=8 {
            assert_eq!(frame_size(&bytes[..len]), Ok(Some(8)));
        }
    }

    #[test]
    fn greeting_of_a_member_is_refused_by_its_prefix() {
        assert_eq!(frame_size(b"\x02\x00\x00\x00\x00"), Err(FrameRefusal::Hello));
        assert_eq!(FrameRefusal::Hello.status().code, StatusCode::PermissionDenied);
    }

    #[test]
    fn what_is_no_frame_is_refused_in_the_words_of_the_decoder() {
        let refusal = frame_size(b"\x01").expect_err("compressed");
        assert_eq!(refusal, FrameRefusal::Malformed(FrameError::Compressed));
        assert_eq!(refusal.status().code, StatusCode::Unimplemented);
        assert_eq!(refusal.status().message, FrameError::Compressed.to_string());
        assert_eq!(refusal.drop_reason(), DropReason::FrameCompressed);
    }
}
