//! What a load speaks: frames and gRPC to a node, RESP to Redis and Valkey, and gRPC to etcd. The
//! same generator, schedule, histograms and checks stand behind each, so that the client isn't the
//! difference between two servers.
//!
//! A [`Line`] is what is known of one connection besides its requests. It writes them, and reads of
//! what comes back just what must be checked. Answers of Redis and Valkey come in order and have no
//! versions: their values are checked, but not whether they are stale. A write is answered there
//! before a replica has it; whoever wants it to be on some has the load ask `WAIT` ([`resp`]).
//! etcd's revisions are versions.

pub mod etcd;
pub mod http2;
pub mod resp;

use std::fmt;

use bytes::BytesMut;

use self::http2::{Http2, Http2Error, Part};
use self::resp::Dialogue;
use super::content::Content;
use super::response::{self, Answer};
use super::workload::{Request, Workload};
use crate::base::ids::CorrelationId;
use crate::wire::frame::{self, FrameError};

/// Our own service, for [`Dialect::Grpc`].
const CONNECT_PATH: &str = "/atomix.map.P2PMapService/Connect";
/// The stream that it has for itself.
const CONNECT_STREAM: u32 = 1;

/// What a load speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// A node's raw frames.
    #[default]
    Frames,
    /// A node's gRPC: one stream for each connection.
    Grpc,
    /// Redis' and Valkey's.
    Resp {
        /// How many replicas must have a write before it counts as done; 0: `WAIT` isn't asked.
        replica_count: u32,
    },
    /// etcd's gRPC: a call for each request.
    Etcd,
}

impl Dialect {
    /// As in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Grpc => "grpc",
            Self::Resp { .. } => "resp",
            Self::Etcd => "etcd",
        }
    }
}

/// Why a connection can't go on: its other end said what it can't say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It isn't a frame.
    Frame(FrameError),
    /// It isn't a reply of RESP.
    Resp,
    /// It isn't HTTP/2 as a server of gRPC speaks it.
    Http2(Http2Error),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "it isn't a frame: {error}"),
            Self::Resp => f.write_str("it isn't a reply of RESP"),
            Self::Http2(error) => error.fmt(f),
        }
    }
}

/// One connection.
#[derive(Debug, Default)]
pub enum Line {
    /// Raw frames.
    #[default]
    Frames,
    /// Replies in order.
    Resp(Dialogue),
    /// One stream of messages.
    Grpc(Http2),
    /// A stream for each request.
    Etcd(Http2),
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// Something that concerns no request.
    Nothing,
    /// An answer that couldn't be read.
    Stray,
    /// An answer.
    Answer(Answer<'a>),
}

impl Line {
    /// Begins to speak: what is to be said first goes to `out`.
    #[must_use]
    pub fn open(dialect: Dialect, out: &mut BytesMut) -> Self {
        match dialect {
            Dialect::Frames => Self::Frames,
            Dialect::Resp { replica_count } => Self::Resp(Dialogue::new(replica_count)),
            Dialect::Grpc => {
                let mut http2 = Http2::open(out);
                http2.request(CONNECT_STREAM, CONNECT_PATH, out);
                Self::Grpc(http2)
            }
            Dialect::Etcd => Self::Etcd(Http2::open(out)),
        }
    }

    /// Appends a request; a write is one of `content`. Where there are windows and they are full it
    /// waits in the line.
    pub fn ask(
        &mut self,
        workload: &Workload,
        (request, content): (&Request, Option<&Content>),
        id: CorrelationId,
        key: &mut Vec<u8>,
        out: &mut BytesMut,
    ) {
        match self {
            Self::Frames => workload.encode(request, content, id, key, out),
            Self::Resp(dialogue) => {
                workload.key(request.key, key);
                match content {
                    Some(content) => dialogue.set(id, key, content, request.size, out),
                    None => dialogue.get(id, key, out),
                }
            }
            Self::Grpc(http2) => {
                let mut message = BytesMut::new();
                workload.encode(request, content, id, key, &mut message);
                http2.data(CONNECT_STREAM, &message, false, out);
            }
            Self::Etcd(http2) => {
                workload.key(request.key, key);
                let (path, message) = match content {
                    Some(content) => (etcd::PUT_PATH, etcd::put(key, content, request.size)),
                    None => (etcd::RANGE_PATH, etcd::range(key)),
                };
                let stream = etcd::stream_of(id);
                http2.request(stream, path, out);
                http2.data(stream, &message, true, out);
            }
        }
    }

    /// Appends what ends the requests that are about to be sent together.
    pub fn end_batch(&mut self, out: &mut BytesMut) {
        if let Self::Resp(dialogue) = self {
            dialogue.end_batch(out);
        }
    }

    /// Reads the next thing of what was received: how many bytes it took, and what it is; `None`:
    /// more must be received. `writes` tells whether a request writes; `out` takes what the
    /// protocol itself has to say.
    ///
    /// # Errors
    /// If the connection can't go on.
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
        writes: impl Fn(CorrelationId) -> bool,
        out: &mut BytesMut,
    ) -> Result<Option<(usize, Read<'a>)>, LineError> {
        let read = |answer: Option<Answer<'a>>| answer.map_or(Read::Stray, Read::Answer);
        match self {
            Self::Frames => {
                let Some((_, payload)) = frame::next(bytes).map_err(LineError::Frame)? else {
                    return Ok(None);
                };
                Ok(Some((payload.end, read(response::read(&bytes[payload])))))
            }
            Self::Resp(dialogue) => dialogue.next(bytes),
            Self::Grpc(http2) => {
                // A message may come in several parts, and a part may have several messages.
                if http2.has_message(CONNECT_STREAM)? {
                    return Ok(Some((0, read(response::read(http2.message())))));
                }
                match http2.next(bytes, out).map_err(LineError::Http2)? {
                    Some((_, Part::End { .. })) => Err(LineError::Http2(Http2Error::Ended)),
                    Some((size, _)) => Ok(Some((size, Read::Nothing))),
                    None => Ok(None),
                }
            }
            Self::Etcd(http2) => match http2.next(bytes, out).map_err(LineError::Http2)? {
                Some((size, Part::End { stream, body, code })) => {
                    let correlation = etcd::request_of(stream);
                    let answer = etcd::read(correlation, !writes(correlation), body, code);
                    Ok(Some((size, read(answer))))
                }
                Some((size, _)) => Ok(Some((size, Read::Nothing))),
                None => Ok(None),
            },
        }
    }
}
