//! Frames: `flag: u8 | length: u32 big-endian | payload`, on raw connections and inside of gRPC.
//!
//! The one decoder of all who receive frames: they are looked at where they were received, and a
//! length is checked before a byte of the payload is kept or memory taken for it.

use std::error::Error;
use std::fmt;
use std::ops::Range;

use bytes::{BufMut as _, BytesMut};

use crate::base::cast;
use crate::base::limits::{
    FRAME_PREFIX_SIZE_BYTES, FRAME_SENT_SIZE_BYTES_MAX, FRAME_SIZE_BYTES_MAX,
};
use crate::wire::error::StatusCode;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// An `atomix.map.Message`.
    Message,
    /// A `p2pmap.v1.Hello`: the first frame of each direction between members.
    Hello,
    /// A member asks whether the other one is there, or says so: [`crate::wire::peer::ping`].
    Ping,
}

/// gRPC's flag of a compressed message.
const COMPRESSED: u8 = 1;

impl Flag {
    /// The byte on the wire.
    #[inline]
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Message => 0,
            Self::Hello => 2,
            Self::Ping => 3,
        }
    }

    const fn parse(byte: u8) -> Result<Self, FrameError> {
        match byte {
            0 => Ok(Self::Message),
            2 => Ok(Self::Hello),
            3 => Ok(Self::Ping),
            COMPRESSED => Err(FrameError::Compressed),
            flag => Err(FrameError::FlagUnknown { flag }),
        }
    }
}

/// What a frame's prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub flag: Flag,
    /// How long the payload is: at most what a frame may be without its prefix.
    pub payload_size_bytes: usize,
}

/// What is wrong with a frame. The sender's fault; the stream can't go on, because where the next
/// frame begins isn't known or isn't worth reading on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The payload is compressed; we never said that we understand that.
    Compressed,
    /// No frame begins with this byte.
    FlagUnknown {
        /// The byte.
        flag: u8,
    },
    /// The announced payload is too long.
    TooLong {
        /// How long it would be.
        payload_size_bytes: u32,
    },
}

impl FrameError {
    /// The status that ends a gRPC stream.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Compressed => StatusCode::Unimplemented,
            Self::FlagUnknown { .. } => StatusCode::InvalidArgument,
            Self::TooLong { .. } => StatusCode::ResourceExhausted,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed => write!(f, "frame: compressed messages are not accepted"),
            Self::FlagUnknown { flag } => {
                write!(f, "frame: flag {flag:#04x} is unknown (0: message, 2: hello, 3: ping)")
            }
            Self::TooLong { payload_size_bytes } => write!(
                f,
                "frame: a payload of {payload_size_bytes} bytes; {PAYLOAD_SIZE_BYTES_MAX} are \
                 allowed"
            ),
        }
    }
}

impl Error for FrameError {}

const PAYLOAD_SIZE_BYTES_MAX: usize = FRAME_SIZE_BYTES_MAX - FRAME_PREFIX_SIZE_BYTES;

/// The prefix at the beginning of `bytes`, or `None` if more bytes are needed. A wrong flag is
/// refused at its own byte.
///
/// # Errors
/// If no such frame is accepted.
#[inline]
pub fn header(bytes: &[u8]) -> Result<Option<FrameHeader>, FrameError> {
    let Some(&flag) = bytes.first() else { return Ok(None) };
    let flag = Flag::parse(flag)?;
    let Some(&[_, a, b, c, d]) = bytes.first_chunk::<FRAME_PREFIX_SIZE_BYTES>() else {
        return Ok(None);
    };
    let announced = u32::from_be_bytes([a, b, c, d]);
    let payload_size_bytes = cast::usize_from_u32(announced);
    if payload_size_bytes > PAYLOAD_SIZE_BYTES_MAX {
        return Err(FrameError::TooLong { payload_size_bytes: announced });
    }
    Ok(Some(FrameHeader { flag, payload_size_bytes }))
}

/// The frame at the beginning of `bytes` and where its payload lies, or `None` if more bytes are
/// needed. The next frame begins where the payload ends.
///
/// # Errors
/// If no such frame is accepted, as soon as its prefix is there.
#[inline]
pub fn next(bytes: &[u8]) -> Result<Option<(FrameHeader, Range<usize>)>, FrameError> {
    let Some(header) = header(bytes)? else { return Ok(None) };
    let end = FRAME_PREFIX_SIZE_BYTES + header.payload_size_bytes;
    Ok((bytes.len() >= end).then_some((header, FRAME_PREFIX_SIZE_BYTES..end)))
}

/// A frame whose length isn't known yet.
#[derive(Debug)]
#[must_use = "a frame without its length is no frame"]
pub struct FrameStart {
    /// Where the prefix lies in the buffer.
    position: usize,
}

/// Begins a frame in `out`; the payload is what is appended before [`finish`].
#[inline]
pub fn begin(out: &mut BytesMut, flag: Flag) -> FrameStart {
    let position = out.len();
    out.extend_from_slice(&[flag.byte(), 0, 0, 0, 0]);
    FrameStart { position }
}

/// Writes the length of the frame that [`begin`] began.
///
/// # Panics
/// If the frame is longer than we may send: an accepted request never has such an answer.
#[inline]
pub fn finish(out: &mut BytesMut, start: FrameStart) {
    let payload = start.position + FRAME_PREFIX_SIZE_BYTES;
    let length = length_of(out.len() - payload);
    out[start.position + 1..payload].copy_from_slice(&length);
}

/// The length in a prefix.
///
/// # Panics
/// If the frame is longer than we may send.
#[inline]
pub(super) fn length_of(payload_size_bytes: usize) -> [u8; 4] {
    let size = FRAME_PREFIX_SIZE_BYTES + payload_size_bytes;
    assert!(size <= FRAME_SENT_SIZE_BYTES_MAX, "a frame is longer than what we may send");
    cast::u32_from(payload_size_bytes).to_be_bytes()
}

/// Appends a frame with `message`.
///
/// # Panics
/// As [`finish`].
pub fn encode(out: &mut BytesMut, flag: Flag, message: &impl prost::Message) {
    let size = message.encoded_len();
    out.reserve(FRAME_PREFIX_SIZE_BYTES + size);
    out.put_u8(flag.byte());
    out.extend_from_slice(&length_of(size));
    message.encode(out).expect("a BytesMut grows");
}

#[cfg(test)]
mod tests;
