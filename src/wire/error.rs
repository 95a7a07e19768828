//! What ends a stream: frames and messages that can't be understood at all, or that the sender may
//! not send. What can be answered is a [`Refusal`](crate::wire::request::Refusal) instead.

use std::error::Error;
use std::fmt;

use crate::proto::p2pmap::v1::error::Code;
use crate::wire::request::Kind;

/// The status codes of gRPC that p2pmap uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCode {
    /// The sender is wrong about what can be sent.
    InvalidArgument,
    /// The sender may not send this.
    PermissionDenied,
    /// It is more than we take.
    ResourceExhausted,
    /// The sender is of another cluster, configuration or version.
    FailedPrecondition,
    /// We never said that we can do this.
    Unimplemented,
}

impl StatusCode {
    /// The number in the trailer `grpc-status`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::InvalidArgument => 3,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Unimplemented => 12,
        }
    }

    /// The nearest code of a `Result`, for raw connections: they have no status.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::InvalidArgument | Self::PermissionDenied | Self::FailedPrecondition => {
                Code::InvalidArgument
            }
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::Unimplemented => Code::Unimplemented,
        }
    }
}

/// Why a client's message ends its stream. The text names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// It is no `atomix.map.Message`.
    Undecodable {
        /// What prost says: names the field, if it got that far.
        error: prost::DecodeError,
    },
    /// It isn't even protobuf.
    Malformed,
    /// The oneof `message` is empty, or of a kind that this release doesn't know.
    KindMissing,
    /// Only members may send this kind.
    KindForbidden {
        /// The field of `Message`.
        field: &'static str,
    },
    /// Only sequencers stamp.
    Stamped {
        /// What was stamped.
        kind: Kind,
    },
    /// A frame for members came from a client.
    HelloForbidden,
}

impl WireError {
    /// The status that ends a gRPC stream.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Undecodable { .. } | Self::Malformed | Self::KindMissing => {
                StatusCode::InvalidArgument
            }
            Self::KindForbidden { .. } | Self::Stamped { .. } | Self::HelloForbidden => {
                StatusCode::PermissionDenied
            }
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable { error } => write!(f, "message: {error}"),
            Self::Malformed => write!(f, "message: not the encoding of an atomix.map.Message"),
            Self::KindMissing => {
                write!(f, "message: none is set; clients send `command` or `query`")
            }
            Self::KindForbidden { field } => write!(
                f,
                "{field}: only members of the cluster may send it; clients send `command` or \
                 `query`"
            ),
            Self::Stamped { kind } => {
                write!(f, "{}.term_id: only sequencers stamp; clients leave it 0", kind.field())
            }
            Self::HelloForbidden => write!(f, "hello: only members of the cluster may send it"),
        }
    }
}

impl Error for WireError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Undecodable { error } => Some(error),
            _ => None,
        }
    }
}
