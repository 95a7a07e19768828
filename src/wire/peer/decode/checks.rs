//! The checks that messages share.

use bytes::Bytes;
use prost::Message as _;
use prost_types::Timestamp as ProtoTimestamp;

use crate::base::ids::{CorrelationId, Index, MemberId, MessageId, TermId};
use crate::base::limits::{COMMAND_SIZE_BYTES_MAX, POSITION_END};
use crate::base::payload::ResultBytes;
use crate::base::time::Timestamp;
use crate::nopaxos::Group;
use crate::nopaxos::message::Answer;
use crate::proto::atomix::map::{Indexed, ViewId};
use crate::proto::p2pmap::v1;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::reader::Fields;
use crate::wire::peer::decode::Link;
use crate::wire::peer::error::{Flaw, PeerError, ViewFlaw};
use crate::wire::request::FORWARDED;

/// What a message is held against.
pub(super) struct Context<'a> {
    pub(super) link: Link<'a>,
    pub(super) group: &'a Group,
    /// The member at the other end of the connection.
    pub(super) sender: MemberId,
}

/// Why a message is refused; its kind is added later.
pub(super) enum Refused {
    Sender,
    View(ViewFlaw),
    Field(&'static str, Flaw),
}

impl Refused {
    pub(super) const fn of(self, kind: &'static str) -> PeerError {
        match self {
            Self::Sender => PeerError::BadSender { kind },
            Self::View(flaw) => PeerError::BadView { kind, flaw },
            Self::Field(field, flaw) => PeerError::Malformed { kind, field, flaw },
        }
    }
}

impl From<ViewFlaw> for Refused {
    fn from(flaw: ViewFlaw) -> Self {
        Self::View(flaw)
    }
}

impl Context<'_> {
    /// The sender must be who is at the other end.
    pub(super) fn check_sender(&self, sender_id: &str) -> Result<(), Refused> {
        if sender_id == self.link.peer { Ok(()) } else { Err(Refused::Sender) }
    }

    /// The term of a message with a sender and a view.
    pub(super) fn term(&self, sender_id: &str, view: Option<ViewId>) -> Result<TermId, Refused> {
        self.check_sender(sender_id)?;
        let view = view.ok_or(ViewFlaw::Missing)?;
        self.term_of(&view)
    }

    /// The term of a view, which must have one.
    pub(super) fn term_of(&self, view: &ViewId) -> Result<TermId, Refused> {
        let term = real_term(view.term_id)?;
        if self.group.name(self.group.leader(term)) != view.leader_id {
            return Err(ViewFlaw::LeaderDiffers.into());
        }
        Ok(term)
    }

    /// The term of a view that may be none: absent, or with nothing in it.
    pub(super) fn term_or_none(&self, view: Option<&ViewId>) -> Result<TermId, Refused> {
        match view {
            None => Ok(TermId(0)),
            Some(view) if *view == ViewId::default() => Ok(TermId(0)),
            Some(view) => self.term_of(view),
        }
    }

    /// Whether the sender leads the term.
    pub(super) fn is_from_leader(&self, term: TermId) -> bool {
        term > TermId(0) && self.group.leader(term) == self.sender
    }

    /// What the value of a response to a command says.
    pub(super) fn answer(&self, term: TermId, value: &[u8]) -> Result<Answer, Refused> {
        let answer = answer(value).ok_or(Refused::Field("value", Flaw::Undecodable))?;
        if answer != Answer::Ack && !self.is_from_leader(term) {
            return Err(Refused::Field("value", Flaw::NotLeader));
        }
        Ok(answer)
    }
}

/// The answer that a value is; `None`: it is none.
pub(super) fn answer(value: &[u8]) -> Option<Answer> {
    if value.is_empty() {
        return Some(Answer::Ack);
    }
    let mut fields = Fields::of(value);
    // Errors are rare, and only an error can say `DROPPED`.
    let has_error = fields.by_ref().filter(|field| field.number == 1).count() > 0;
    if !fields.is_well_formed() {
        return None;
    }
    if has_error {
        let v1::Result { outcome } = v1::Result::decode(value).ok()?;
        if let Some(v1::result::Outcome::Error(error)) = outcome
            && error.code() == Code::Dropped
        {
            return Some(Answer::Dropped);
        }
    }
    Some(Answer::Result(ResultBytes::from_slice(value)))
}

/// A term that a view can have.
pub(super) const fn real_term(term_id: u64) -> Result<TermId, Refused> {
    if term_id >= 1 && term_id < POSITION_END {
        Ok(TermId(term_id))
    } else {
        Err(Refused::View(ViewFlaw::TermOutOfRange))
    }
}

/// A position, or a distance between two; may be 0.
pub(super) const fn position(field: &'static str, value: u64) -> Result<u64, Refused> {
    if value < POSITION_END { Ok(value) } else { Err(Refused::Field(field, Flaw::TooHigh)) }
}

/// A position that must be one.
pub(super) const fn position_set(field: &'static str, value: u64) -> Result<u64, Refused> {
    if value == 0 { Err(Refused::Field(field, Flaw::Missing)) } else { position(field, value) }
}

/// A slot that must be one.
pub(super) fn slot(field: &'static str, value: u64) -> Result<Index, Refused> {
    position_set(field, value).map(Index)
}

/// The number of a command that must be one.
pub(super) fn stamped_id(value: u64) -> Result<MessageId, Refused> {
    position_set("message_id", value).map(MessageId)
}

/// The distance from a base that is unknown here to `end`: the base isn't below 0.
pub(super) fn distance_to(end: Index, value: u64) -> Result<MessageId, Refused> {
    if value > end.0 {
        return Err(Refused::Field("message_id", Flaw::Contradiction));
    }
    Ok(MessageId(value))
}

/// What a member calls a client's request.
pub(super) fn forwarded_id(value: u64) -> Result<CorrelationId, Refused> {
    if value & FORWARDED == 0 {
        return Err(Refused::Field("message_id", Flaw::Missing));
    }
    Ok(value)
}

/// Bytes that must be there.
pub(super) fn not_empty(field: &'static str, value: Bytes) -> Result<Bytes, Refused> {
    if value.is_empty() { Err(Refused::Field(field, Flaw::Missing)) } else { Ok(value) }
}

/// A command's bytes.
pub(super) fn command(field: &'static str, value: Bytes) -> Result<Bytes, Refused> {
    if value.len() > COMMAND_SIZE_BYTES_MAX {
        return Err(Refused::Field(field, Flaw::TooLong));
    }
    not_empty(field, value)
}

/// The sequencer's time, which must be there.
pub(super) fn time(
    field: &'static str,
    timestamp: Option<ProtoTimestamp>,
) -> Result<Timestamp, Refused> {
    let ProtoTimestamp { seconds, nanos } =
        timestamp.ok_or(Refused::Field(field, Flaw::Missing))?;
    let parts = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
    parts
        .and_then(|(seconds, nanos)| Timestamp::from_parts(seconds, nanos))
        .ok_or(Refused::Field(field, Flaw::NoTime))
}

/// The `Indexed` in a query or its response.
pub(super) fn indexed(value: Bytes) -> Result<(Index, Bytes), Refused> {
    let Indexed { index, value } =
        Indexed::decode(value).map_err(|_| Refused::Field("value", Flaw::Undecodable))?;
    Ok((Index(position("value", index)?), value))
}
