//! A service without a map: every frame goes back as it came. What it can do is the limit that a
//! server's figures are held against.

use bytes::BufMut;

use super::service::{Frame, Output, Service};
use crate::base::cast::u32_from;
use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
use crate::base::time::Now;

/// Answers each frame with itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct EchoService;

impl Service for EchoService {
    fn frames(&mut self, _now: Now, frames: &[Frame<'_>], output: &mut Output<'_>) {
        for frame in frames {
            let Some(buffer) = output.reply_buffer(frame.origin, true) else { continue };
            buffer.reserve(FRAME_PREFIX_SIZE_BYTES + frame.payload.len());
            buffer.put_u8(0);
            buffer.put_u32(u32_from(frame.payload.len()));
            buffer.put_slice(frame.payload);
        }
    }

    fn is_drained(&self) -> bool {
        true
    }
}
