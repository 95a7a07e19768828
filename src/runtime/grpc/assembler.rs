//! Cuts messages out of a stream's bytes. HTTP/2 knows nothing of their bounds: a DATA frame may
//! hold many messages, and a message may stretch over many DATA frames.
//!
//! A message that lies inside one DATA frame is a slice of it; only one that doesn't is copied.
//! What a prefix announces is checked before anything is allocated for it.

use bytes::{Buf, Bytes, BytesMut};

use crate::base::cast::usize_from_u32;
use crate::base::limits::{FRAME_PREFIX_SIZE_BYTES, GRPC_STREAM_WINDOW_SIZE_BYTES};
use crate::runtime::client_frame::{FrameRefusal, frame_size};

/// The bytes of one stream that have not become messages yet.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Not looked at yet; as a rule the rest of one DATA frame.
    pending: Bytes,
    /// What came while `pending` was not used up. One buffer, because a client's tiny DATA frames
    /// would each keep much more than their size alive.
    backlog: BytesMut,
    /// The message that has begun and doesn't end in `pending`, with its prefix.
    partial: BytesMut,
}

impl Assembler {
    /// Adds the bytes of a DATA frame.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.pending.is_empty() && self.backlog.is_empty() {
            self.pending = bytes;
        } else {
            self.backlog.extend_from_slice(&bytes);
        }
    }

    /// The payload of the next complete message.
    ///
    /// After an error the stream has no bounds any more and has to end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FrameRefusal> {
        loop {
            if self.pending.is_empty() {
                if self.backlog.is_empty() {
                    return Ok(None);
                }
                self.pending = self.backlog.split().freeze();
            }
            if !self.partial.is_empty() {
                if let Some(payload) = self.finish_partial()? {
                    return Ok(Some(payload));
                }
                continue;
            }
            match frame_size(&self.pending)? {
                Some(size) if size <= self.pending.len() => {
                    let mut frame = self.pending.split_to(size);
                    frame.advance(FRAME_PREFIX_SIZE_BYTES);
                    return Ok(Some(frame));
                }
                Some(size) => self.reserve(size),
                None => {}
            }
            self.move_to_partial(self.pending.len());
        }
    }

    /// Bytes that wait to be looked at.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len() + self.backlog.len()
    }

    /// Bytes of the message that has begun.
    pub(super) fn partial_len(&self) -> usize {
        self.partial.len()
    }

    fn finish_partial(&mut self) -> Result<Option<Bytes>, FrameRefusal> {
        self.move_to_partial(FRAME_PREFIX_SIZE_BYTES.saturating_sub(self.partial.len()));
        let Some(size) = frame_size(&self.partial)? else { return Ok(None) };
        self.reserve(size - self.partial.len());
        self.move_to_partial(size - self.partial.len());
        if self.partial.len() < size {
            return Ok(None);
        }
        let mut frame = self.partial.split().freeze();
        frame.advance(FRAME_PREFIX_SIZE_BYTES);
        Ok(Some(frame))
    }

    /// Memory for what can come at once; the rest of a long message is paid for when it comes.
    fn reserve(&mut self, size: usize) {
        self.partial.reserve(size.min(usize_from_u32(GRPC_STREAM_WINDOW_SIZE_BYTES)));
    }

    fn move_to_partial(&mut self, size_max: usize) {
        let size = size_max.min(self.pending.len());
        self.partial.extend_from_slice(&self.pending[..size]);
        self.pending.advance(size);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::wire::frame::FrameError;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.put_u32(crate::base::cast::u32_from(payload.len()));
        bytes.put_slice(payload);
        bytes
    }

    fn all(assembler: &mut Assembler) -> Vec<Bytes> {
        std::iter::from_fn(|| assembler.next().unwrap()).collect()
    }

    #[test]
    fn messages_inside_one_data_frame_are_slices_of_it() {
        let bytes = Bytes::from([frame(b"one"), frame(b""), frame(b"three")].concat());
        let mut assembler = Assembler::default();
        assembler.push(bytes.clone());
        let messages = all(&mut assembler);
        assert_eq!(messages, [&b"one"[..], b"", b"three"]);
        assert_eq!(messages[0].as_ptr(), bytes[5..].as_ptr());
        assert_eq!(messages[2].as_ptr(), bytes[18..].as_ptr());
    }

    #[test]
    fn messages_are_found_wherever_the_bytes_are_cut() {
        let bytes = [frame(b"one"), frame(b""), frame(&[7; 300]), frame(b"x")].concat();
        for piece in 1..bytes.len() {
            let mut assembler = Assembler::default();
            let mut messages = Vec::new();
            for chunk in bytes.chunks(piece) {
                assembler.push(Bytes::copy_from_slice(chunk));
                messages.extend(all(&mut assembler));
            }
            assert_eq!(messages, [&b"one"[..], b"", &[7; 300], b"x"], "pieces of {piece}");
            assert_eq!(assembler.pending_len() + assembler.partial_len(), 0);
        }
    }

    #[test]
    fn what_waits_is_kept_in_order() {
        let bytes = [frame(b"one"), frame(b"two"), frame(b"three")].concat();
        let mut assembler = Assembler::default();
        for chunk in bytes.chunks(4) {
            assembler.push(Bytes::copy_from_slice(chunk));
        }
        assert_eq!(assembler.pending_len(), bytes.len());
        assert_eq!(all(&mut assembler), [&b"one"[..], b"two", b"three"]);
    }

    #[test]
    fn a_bad_prefix_is_refused_before_its_payload_arrives() {
        let refused = |prefix: &[u8]| {
            let whole = {
                let mut assembler = Assembler::default();
                assembler.push(Bytes::copy_from_slice(prefix));
                assembler.next()
            };
            let mut assembler = Assembler::default();
            let mut cut = Ok(None);
            for byte in prefix {
                assembler.push(Bytes::copy_from_slice(&[*byte]));
                cut = assembler.next();
            }
            assert_eq!(whole, cut);
            whole
        };
        let malformed = |error| Err(FrameRefusal::Malformed(error));
        assert_eq!(refused(&[1]), malformed(FrameError::Compressed));
        assert_eq!(refused(&[2, 0, 0, 0, 0]), Err(FrameRefusal::Hello));
        assert_eq!(refused(&[4]), malformed(FrameError::FlagUnknown { flag: 4 }));
        let payload_size_bytes = 4 << 20;
        assert_eq!(
            refused(&[0, 0, 0x40, 0, 0]),
            malformed(FrameError::TooLong { payload_size_bytes })
        );
        assert_eq!(refused(&[0, 0, 0x3F, 0xFF, 0xFB]), Ok(None));
    }
}
