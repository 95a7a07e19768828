//! Cuts messages out of a stream's bytes. HTTP/2 knows nothing of their bounds: a DATA frame may
//! hold many messages, and a message may stretch over many DATA frames.
//!
//! A message that lies inside one DATA frame is a slice of it; only one that doesn't is copied.
//! What a prefix announces is checked before anything is allocated for it.

use bytes::{Buf, Bytes, BytesMut};

use super::status::{GrpcCode, GrpcStatus};
use crate::base::cast::usize_from_u32;
use crate::base::limits::{FRAME_PREFIX_SIZE_BYTES, FRAME_SIZE_BYTES_MAX};

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

/// Why a stream's bytes are no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AssembleError {
    /// The message is compressed.
    Compressed,
    /// The first byte of a prefix is neither 0 nor 1.
    UnknownFlag(u8),
    /// The announced payload exceeds what is accepted.
    TooLong { size_bytes: usize },
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
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, AssembleError> {
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
                Some(size) => self.partial.reserve(size),
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

    fn finish_partial(&mut self) -> Result<Option<Bytes>, AssembleError> {
        self.move_to_partial(FRAME_PREFIX_SIZE_BYTES.saturating_sub(self.partial.len()));
        let Some(size) = frame_size(&self.partial)? else { return Ok(None) };
        self.partial.reserve(size - self.partial.len());
        self.move_to_partial(size - self.partial.len());
        if self.partial.len() < size {
            return Ok(None);
        }
        let mut frame = self.partial.split().freeze();
        frame.advance(FRAME_PREFIX_SIZE_BYTES);
        Ok(Some(frame))
    }

    fn move_to_partial(&mut self, size_max: usize) {
        let size = size_max.min(self.pending.len());
        self.partial.extend_from_slice(&self.pending[..size]);
        self.pending.advance(size);
    }
}

/// The size of the frame that `bytes` begin with, its prefix included; `None` if the prefix is not
/// complete.
fn frame_size(bytes: &[u8]) -> Result<Option<usize>, AssembleError> {
    let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<FRAME_PREFIX_SIZE_BYTES>() else {
        return Ok(None);
    };
    match flag {
        0 => {}
        1 => return Err(AssembleError::Compressed),
        _ => return Err(AssembleError::UnknownFlag(flag)),
    }
    let size_bytes = usize_from_u32(u32::from_be_bytes([a, b, c, d]));
    if size_bytes > FRAME_SIZE_BYTES_MAX {
        return Err(AssembleError::TooLong { size_bytes });
    }
    Ok(Some(FRAME_PREFIX_SIZE_BYTES + size_bytes))
}

impl From<AssembleError> for GrpcStatus {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::Compressed => {
                Self::new(GrpcCode::Unimplemented, "compressed messages are not supported")
            }
            AssembleError::UnknownFlag(flag) => {
                Self::new(GrpcCode::Internal, format!("a message's prefix has the flag {flag}"))
            }
            AssembleError::TooLong { size_bytes } => Self::new(
                GrpcCode::ResourceExhausted,
                format!("a message has {size_bytes} bytes; at most {FRAME_SIZE_BYTES_MAX} go"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

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
        assert_eq!(refused(&[1, 0, 0, 0, 1]), Err(AssembleError::Compressed));
        assert_eq!(refused(&[2, 0, 0, 0, 1]), Err(AssembleError::UnknownFlag(2)));
        let size_bytes = FRAME_SIZE_BYTES_MAX + 1;
        assert_eq!(refused(&[0, 0, 0x40, 0, 1]), Err(AssembleError::TooLong { size_bytes }));
        assert_eq!(refused(&[0, 0, 0x40, 0, 0]), Ok(None));
    }
}
