//! What is wrong with a message between members, and what to do about it. Most of it is dropped and
//! counted: the protocol repeats whatever matters, so a dropped message is no worse than a lost
//! one, while a closed connection takes all others with it.

use std::error::Error;
use std::fmt;

use crate::base::limits::{
    COMMAND_SIZE_BYTES_MAX, FRAME_SENT_SIZE_BYTES_MAX, NO_OP_COUNT_MAX, PEER_ENTRY_COUNT_MAX,
};
use crate::wire::error::StatusCode;
use crate::wire::peer::chunk::ChunkError;
use crate::wire::peer::filter::FilterError;
use crate::wire::peer::ranges::RangesError;

/// Why a member's message is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// It is longer than what members send.
    TooLong {
        /// How long.
        size_bytes: usize,
    },
    /// It isn't protobuf.
    NoProtobuf,
    /// It is no `atomix.map.Message`.
    Undecodable {
        /// What prost says: names the field.
        error: prost::DecodeError,
    },
    /// The oneof `message` is empty, or of a kind that only a later release knows.
    KindUnknown,
    /// Its target is no partition that both members hold.
    TargetUnknown,
    /// It claims to be from another member than the connection is to.
    BadSender {
        /// The field of `Message`.
        kind: &'static str,
    },
    /// It names no view, or one that cannot be.
    BadView {
        /// The field of `Message`.
        kind: &'static str,
        /// What is wrong with the view.
        flaw: ViewFlaw,
    },
    /// A field has a value that it can't have.
    Malformed {
        /// The field of `Message`.
        kind: &'static str,
        /// The field of that.
        field: &'static str,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

/// What is wrong with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewFlaw {
    /// There is none.
    Missing,
    /// Terms are 1 to 2⁶³ − 1.
    TermOutOfRange,
    /// Another member leads this term: the sender has another list of members, or a defect.
    LeaderDiffers,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It must be set.
    Missing,
    /// It must not be set here.
    Unexpected,
    /// It is 2⁶³ or more.
    TooHigh,
    /// It contradicts another field of the message.
    Contradiction,
    /// There are too many.
    TooMany,
    /// It is longer than a command may be.
    TooLong,
    /// It is no point in time of this or the following centuries.
    NoTime,
    /// The indexes don't ascend.
    NotAscending,
    /// It isn't the encoding of what it should hold.
    Undecodable,
    /// Only the leader of the view has anything to say here.
    NotLeader,
    /// It names no member of the partition.
    NoMember,
    /// It isn't a list of no-ops.
    Filter(FilterError),
    /// It isn't a list of slots.
    Ranges(RangesError),
    /// It isn't a chunk of a checkpoint.
    Chunk(ChunkError),
}

/// What to do with a message that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Close the connection: what follows on it can't be trusted either.
    Close(StatusCode),
    /// Drop the message and count it.
    Drop(PeerDrop),
}

/// Why a message was dropped, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerDrop {
    /// Its kind isn't known: as members of a later release will send it.
    UnknownKind,
    /// Its target isn't known here.
    UnknownTarget,
    /// It is from somebody else. A connection with too many of them is closed:
    /// [`BAD_SENDER_COUNT_MAX`](crate::base::limits::BAD_SENDER_COUNT_MAX).
    BadSender,
    /// Its view can't be.
    BadView,
    /// A field can't be.
    Malformed,
}

impl PeerDrop {
    /// All reasons.
    pub const ALL: [Self; 5] =
        [Self::UnknownKind, Self::UnknownTarget, Self::BadSender, Self::BadView, Self::Malformed];

    /// What it is called where it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownKind => "unknown_kind",
            Self::UnknownTarget => "unknown_target",
            Self::BadSender => "bad_sender",
            Self::BadView => "bad_view",
            Self::Malformed => "malformed",
        }
    }
}

impl PeerError {
    /// What to do.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::TooLong { .. } | Self::NoProtobuf | Self::Undecodable { .. } => {
                Verdict::Close(StatusCode::InvalidArgument)
            }
            Self::KindUnknown => Verdict::Drop(PeerDrop::UnknownKind),
            Self::TargetUnknown => Verdict::Drop(PeerDrop::UnknownTarget),
            Self::BadSender { .. } => Verdict::Drop(PeerDrop::BadSender),
            Self::BadView { .. } => Verdict::Drop(PeerDrop::BadView),
            Self::Malformed { .. } => Verdict::Drop(PeerDrop::Malformed),
        }
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { size_bytes } => write!(
                f,
                "message: {size_bytes} bytes in a frame; members send {FRAME_SENT_SIZE_BYTES_MAX} \
                 at most"
            ),
            Self::NoProtobuf => write!(f, "message: not the encoding of an atomix.map.Message"),
            Self::Undecodable { error } => write!(f, "message: {error}"),
            Self::KindUnknown => write!(f, "message: none is set that this release knows"),
            Self::TargetUnknown => write!(f, "target: no partition that both members hold"),
            Self::BadSender { kind } => {
                write!(f, "{kind}.sender_id: not the member at the other end of the connection")
            }
            Self::BadView { kind, flaw } => write!(f, "{kind}.view_id: {flaw}"),
            Self::Malformed { kind, field, flaw } => write!(f, "{kind}.{field}: {flaw}"),
        }
    }
}

impl Error for PeerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Undecodable { error } => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for ViewFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is none",
            Self::TermOutOfRange => "terms are 1 to 2^63 - 1",
            Self::LeaderDiffers => "another member leads this term",
        })
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "it must be set"),
            Self::Unexpected => write!(f, "it must not be set here"),
            Self::TooHigh => write!(f, "it is not below 2^63"),
            Self::Contradiction => write!(f, "it contradicts another field"),
            Self::TooMany => write!(f, "more than {PEER_ENTRY_COUNT_MAX}"),
            Self::TooLong => write!(f, "more than {COMMAND_SIZE_BYTES_MAX} bytes"),
            Self::NoTime => write!(f, "not a time between 1970 and 2554"),
            Self::NotAscending => write!(f, "the indexes don't ascend"),
            Self::Undecodable => write!(f, "not the encoding of what it should hold"),
            Self::NotLeader => write!(f, "only the leader of the view can say this"),
            Self::NoMember => write!(f, "not a member of the partition"),
            Self::Filter(error) => error.fmt(f),
            Self::Ranges(error) => error.fmt(f),
            Self::Chunk(error) => error.fmt(f),
        }
    }
}

/// Why a message can't be sent as it is: it must be made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// It is longer than a frame may be.
    TooLong {
        /// How long the frame would be.
        size_bytes: usize,
    },
    /// Its log has too many no-ops: a checkpoint and a truncation are due.
    TooManyNoOps {
        /// How many.
        count: usize,
    },
    /// It asks for too many ranges.
    TooManyRanges {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { size_bytes } => {
                write!(f, "a frame of {size_bytes} bytes; {FRAME_SENT_SIZE_BYTES_MAX} are allowed")
            }
            Self::TooManyNoOps { count } => {
                write!(f, "{count} no-ops; {NO_OP_COUNT_MAX} are allowed")
            }
            Self::TooManyRanges { count } => write!(f, "{count} ranges: too many"),
        }
    }
}

impl Error for EncodeError {}
