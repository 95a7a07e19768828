//! gRPC on a connection, as an object that a core's loop polls: HTTP/2 by h2 over two byte buffers
//! in memory, no tokio runtime, no task of its own. It depends on `base`, on the wire's frames and
//! on the generated types of the health service; what the messages of `Connect` mean is not its
//! business.
//!
//! It guarantees: whole messages only, in their stream's order, none longer than a frame may be; at
//! most [`REQUESTS_PER_CONNECTION_MAX`](crate::base::limits::REQUESTS_PER_CONNECTION_MAX) of them
//! unanswered; bounded buffers whatever the client does; and exactly one end of each stream, with a
//! status, after the replies that were appended before it.
//!
//! ```text
//! socket ─ receive ─► Pipe.input ─► h2 ─► Call ─► Assembler ─► (StreamId, payload) ─► shard
//! socket ◄─ output ── Pipe.output ◄─ h2 ◄─ Call.replies ◄──────── reply_buffer ◄────── shard
//! ```
//!
//! A member's call takes all of its connection, which becomes a [`GrpcLane`]: the same object at
//! both ends, with frames going in and out instead of messages.
//!
//! Flow control, from the client: h2's window for a stream is given back when the bytes have become
//! messages; while none are allowed, or too much is unanswered, it is not. To the client: encoded
//! replies stay in the stream's own buffer, and h2 gets only what the client's window and a small
//! output buffer take. [`GrpcConnection::queued_bytes`] tells the loop how far a reader is behind.

mod admission;
mod assembler;
mod call;
mod connection;
mod duplex;
mod health;
mod keepalive;
mod lane;
mod status;
mod wake;

use std::fmt;

pub use connection::GrpcConnection;
pub use lane::{GrpcLane, LaneEnd, LaneError};
pub use status::{GrpcCode, GrpcStatus};

/// A stream of an HTTP/2 connection. Never used twice on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// It is served.
    Open,
    /// After [`GrpcConnection::shutdown`]: what is open is being finished.
    Draining,
    /// It is over: what [`GrpcConnection::output`] holds is to be sent, then the socket closed.
    Closed(CloseReason),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Either side was done with it.
    Finished,
    /// The client broke HTTP/2's rules or our bounds, or said that we did.
    Http2(h2::Reason),
    /// It ended before, or did not begin with, HTTP/2's preface.
    NoPreface,
    /// The client gave no sign of life.
    Silent,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Http2(reason) => write!(f, "HTTP/2: {reason}"),
            Self::NoPreface => f.write_str("the client sent no HTTP/2 preface"),
            Self::Silent => f.write_str("the client gave no sign of life"),
        }
    }
}
