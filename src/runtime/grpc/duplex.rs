//! The socket as h2 sees it: two byte buffers in memory. h2 asks for tokio's I/O traits; this is
//! all of tokio that the server uses.
//!
//! Neither direction registers a waker: bytes arrive, and room is made, only between two polls of
//! the connection, and whoever does either has to poll again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::limits::GRPC_OUTPUT_SIZE_BYTES_MAX;

/// What lies between the socket and h2.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// From the socket, not yet read by h2.
    pub(super) input: BytesMut,
    /// Nothing will follow `input`.
    pub(super) input_ended: bool,
    /// For the socket.
    pub(super) output: BytesMut,
    /// h2 has more to write than `output` may hold.
    pub(super) output_blocked: bool,
}

/// A handle on a [`Pipe`]: h2 has one, whoever drives h2 the other. The lock is never waited for:
/// it is there because both move to another core together when a member's call does.
#[derive(Clone, Debug, Default)]
pub(super) struct Duplex(Arc<Mutex<Pipe>>);

impl Duplex {
    /// The buffers, while neither h2 nor who drives it has them.
    pub(super) fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.0.try_lock().expect("both handles are one thread's, which uses one at a time")
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe();
        if pipe.input.is_empty() && !pipe.input_ended {
            return Poll::Pending;
        }
        let count = pipe.input.len().min(buffer.remaining());
        buffer.put_slice(&pipe.input[..count]);
        pipe.input.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.pipe();
        let room = GRPC_OUTPUT_SIZE_BYTES_MAX.saturating_sub(pipe.output.len());
        if room == 0 {
            pipe.output_blocked = true;
            return Poll::Pending;
        }
        let mut written = 0;
        for slice in slices {
            let count = slice.len().min(room - written);
            pipe.output.extend_from_slice(&slice[..count]);
            written += count;
        }
        Poll::Ready(Ok(written))
    }

    /// h2 then hands over a reply's bytes next to its frame's head, rather than copy them into a
    /// buffer of its own first.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
