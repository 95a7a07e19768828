//! Why a request to a node failed. The variants say whose fault it is and whether the connection
//! goes on.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::base::ids::CorrelationId;
use crate::base::io_error::describe;
use crate::base::limits::{FRAME_SENT_SIZE_BYTES_MAX, FRAME_SIZE_BYTES_MAX};
use crate::proto::p2pmap::v1::Error;
use crate::proto::p2pmap::v1::error::Code;

/// Why a request failed. Only [`Refused`](Self::Refused) and [`TooLong`](Self::TooLong) leave the
/// connection usable.
#[derive(Debug)]
pub enum ClientError {
    /// What was given as the node's address is none, or no host has that name.
    Address {
        /// What was given.
        node: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody accepts connections there.
    Unreachable {
        /// The node's address.
        node: String,
        /// What the system says.
        source: io::Error,
    },
    /// It took too long. A command may or may not have been executed.
    TimedOut {
        /// The node's address.
        node: String,
        /// What was waited for.
        phase: Phase,
        /// For how long.
        after: Duration,
    },
    /// The connection broke. A command under way may or may not have been executed.
    Broken {
        /// The node's address.
        node: String,
        /// What the system says.
        source: io::Error,
    },
    /// The node closed the connection, or an earlier error did.
    Closed {
        /// The node's address.
        node: String,
    },
    /// The other side doesn't keep to the protocol; perhaps it is no p2pmap.
    Violation {
        /// The node's address.
        node: String,
        /// What it did.
        violation: Violation,
    },
    /// The node ended the connection and said why.
    Ended {
        /// The node's address.
        node: String,
        /// What the node says.
        error: Box<Error>,
    },
    /// The request is longer than a frame can be; nothing was sent.
    TooLong {
        /// How long it is.
        size_bytes: usize,
    },
    /// The node answered this request with an error.
    Refused(Box<Error>),
    /// A write was sent, and nobody has said what came of it: it may or may not have been done.
    OutcomeUnknown {
        /// What happened last.
        last: Box<Self>,
    },
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To be connected.
    Connecting,
    /// That the node takes what is sent.
    Sending,
    /// An answer.
    Answer,
}

/// How a node broke the protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// A frame's flag isn't that of a plain message.
    FrameFlag(u8),
    /// A frame is announced as longer than any may be.
    FrameTooLong(u32),
    /// A frame's payload, or a value in it, can't be decoded.
    Undecodable(prost::DecodeError),
    /// A message that no node sends to a client.
    UnexpectedMessage,
    /// An answer without a result.
    NoOutcome,
    /// An answer to a request that wasn't made, or that was answered already.
    UnknownRequest(CorrelationId),
    /// A command was answered as a query is, or the reverse.
    WrongKind(CorrelationId),
    /// A result that doesn't fit what was asked.
    WrongOutcome,
    /// More entries, or more pages of them, than one answer may have.
    TooManyEntries,
    /// A page of entries that is empty and says to continue where it began.
    EntriesStandStill,
    /// A list of partitions that says to continue with one that it has, or with none that there is.
    PartitionsStandStill,
}

impl ClientError {
    /// What the node said for programs, if it said anything.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(error) | Self::Ended { error, .. } => Some(error.code()),
            Self::OutcomeUnknown { .. } => Some(Code::OutcomeUnknown),
            _ => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { node, reason } => write!(f, "bad address {node:?}: {reason}"),
            Self::Unreachable { node, source } => {
                write!(f, "cannot reach {node}: {}", describe(source))
            }
            Self::TimedOut { node, phase, after } => {
                let waited = match phase {
                    Phase::Connecting => "no connection to",
                    Phase::Sending => "requests not taken by",
                    Phase::Answer => "no answer from",
                };
                write!(f, "{waited} {node} within {after:?}")
            }
            Self::Broken { node, source } => {
                write!(f, "the connection to {node} broke: {}", describe(source))
            }
            Self::Closed { node } => write!(f, "the connection to {node} is closed"),
            Self::Violation { node, violation } => {
                write!(f, "{node} doesn't speak the protocol: {violation}")
            }
            Self::Ended { node, error } => {
                write!(f, "{node} ended the connection: {} ({})", error.message, name_of(error))
            }
            Self::TooLong { size_bytes } => write!(
                f,
                "the request is {size_bytes} bytes long, of {FRAME_SENT_SIZE_BYTES_MAX} at most"
            ),
            Self::Refused(error) => write!(f, "{} ({})", error.message, name_of(error)),
            Self::OutcomeUnknown { last } => write!(f, "no certain answer: {last}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } | Self::Broken { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameFlag(flag) => write!(f, "a frame has the flag {flag}, expected 0"),
            Self::FrameTooLong(size) => {
                write!(
                    f,
                    "a frame announces {size} bytes, at most {FRAME_SIZE_BYTES_MAX} are allowed"
                )
            }
            Self::Undecodable(error) => write!(f, "a frame can't be decoded: {error}"),
            Self::UnexpectedMessage => f.write_str("a message that isn't a response"),
            Self::NoOutcome => f.write_str("a response without a result"),
            Self::UnknownRequest(id) => write!(f, "an answer to request {id}, which isn't open"),
            Self::WrongKind(id) => {
                write!(f, "request {id} was answered by the wrong kind of response")
            }
            Self::WrongOutcome => f.write_str("a result that doesn't fit the request"),
            Self::TooManyEntries => f.write_str("an answer with entries without end"),
            Self::PartitionsStandStill => f.write_str("lists of partitions that don't advance"),
            Self::EntriesStandStill => f.write_str("pages of entries that don't advance"),
        }
    }
}

/// The name of an error's code as the protocol spells it.
fn name_of(error: &Error) -> &'static str {
    error.code().as_str_name()
}
