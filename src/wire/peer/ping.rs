//! Whether the other member is there: asked on a connection that is otherwise silent, so that one
//! that is half open is noticed, and how long an answer takes.
//!
//! The payload of such a frame is nine bytes: 0 to ask or 1 to answer, then a number that whoever
//! asks has chosen and the answer repeats.

use bytes::{BufMut as _, BytesMut};

use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
use crate::wire::frame::{self, Flag};

/// The payload of such a frame.
const PAYLOAD_SIZE_BYTES: usize = 9;
/// Such a frame.
pub const PING_SIZE_BYTES: usize = FRAME_PREFIX_SIZE_BYTES + PAYLOAD_SIZE_BYTES;

/// Asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// Is the other one there?
    Ask(u64),
    /// Here I am; the number is that of the question.
    Answer(u64),
}

impl Ping {
    /// Appends a frame.
    pub fn encode(self, out: &mut BytesMut) {
        let (kind, number) = match self {
            Self::Ask(number) => (0, number),
            Self::Answer(number) => (1, number),
        };
        let start = frame::begin(out, Flag::Ping);
        out.put_u8(kind);
        out.put_u64(number);
        frame::finish(out, start);
    }

    /// The payload of a frame; `None`: no member sends that.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; PAYLOAD_SIZE_BYTES] = payload.try_into().ok()?;
        let (kind, number) = payload.split_first()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        match kind {
            0 => Some(Self::Ask(number)),
            1 => Some(Self::Answer(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back() {
        for ping in [Ping::Ask(0), Ping::Ask(u64::MAX), Ping::Answer(7)] {
            let mut out = BytesMut::new();
            ping.encode(&mut out);
            assert_eq!((out[0], out.len()), (Flag::Ping.byte(), PING_SIZE_BYTES));
            assert_eq!(Ping::decode(&out[FRAME_PREFIX_SIZE_BYTES..]), Some(ping));
        }
    }

    #[test]
    fn nothing_else_is_taken() {
        for bytes in [&[][..], &[0; 8], &[0; 10], &[2, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Ping::decode(bytes), None, "{bytes:?}");
        }
    }
}
