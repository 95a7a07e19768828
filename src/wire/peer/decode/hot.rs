//! Stamped commands and the responses to them, in the usual encoding.

use bytes::Bytes;

use crate::base::ids::{Index, MessageId, PartitionId, TermId};
use crate::base::limits::{
    COMMAND_SIZE_BYTES_MAX, FRAME_PREFIX_SIZE_BYTES, FRAME_SENT_SIZE_BYTES_MAX, POSITION_END,
};
use crate::base::time::Timestamp;
use crate::nopaxos::Group;
use crate::nopaxos::message::{Answer, Message, Stamped};
use crate::proto::reader::{Reader, Seen, WIRE_BYTES, WIRE_VARINT, tag};
use crate::wire::peer::decode::{Link, checks, other_member, partition_of};
use crate::wire::peer::{Body, Received};
use crate::wire::target;

const MESSAGE_TARGET: u8 = tag(1, WIRE_BYTES);
const MESSAGE_COMMAND: u8 = tag(2, WIRE_BYTES);
const MESSAGE_COMMAND_RESPONSE: u8 = tag(3, WIRE_BYTES);
const REQUEST_TERM_ID: u8 = tag(1, WIRE_VARINT);
const REQUEST_MESSAGE_ID: u8 = tag(2, WIRE_VARINT);
const REQUEST_TIMESTAMP: u8 = tag(3, WIRE_BYTES);
const REQUEST_VALUE: u8 = tag(4, WIRE_BYTES);
const RESPONSE_MESSAGE_ID: u8 = tag(1, WIRE_VARINT);
const RESPONSE_SENDER_ID: u8 = tag(2, WIRE_BYTES);
const RESPONSE_VIEW_ID: u8 = tag(3, WIRE_BYTES);
const RESPONSE_INDEX: u8 = tag(4, WIRE_VARINT);
const RESPONSE_VALUE: u8 = tag(5, WIRE_BYTES);
const VIEW_LEADER_ID: u8 = tag(1, WIRE_BYTES);
const VIEW_TERM_ID: u8 = tag(2, WIRE_VARINT);
const TIMESTAMP_SECONDS: u8 = tag(1, WIRE_VARINT);
const TIMESTAMP_NANOS: u8 = tag(2, WIRE_VARINT);

/// See [`decode_hot`](super::decode_hot).
#[inline]
pub(super) fn decode<'g>(
    payload: &Bytes,
    link: Link<'_>,
    group_of: impl Fn(PartitionId) -> Option<&'g Group>,
) -> Option<Received> {
    if FRAME_PREFIX_SIZE_BYTES + payload.len() > FRAME_SENT_SIZE_BYTES_MAX {
        return None;
    }
    // A target and then one message: as members write them.
    let mut reader = Reader::new(payload);
    let target = (reader.byte()? == MESSAGE_TARGET).then(|| reader.bytes())??;
    let kind = reader.byte()?;
    if kind != MESSAGE_COMMAND && kind != MESSAGE_COMMAND_RESPONSE {
        return None;
    }
    let body = reader.bytes()?;
    if !reader.is_empty() {
        return None;
    }
    let group = group_of(partition_of(target::hot_name(target, link.cluster)?)?)?;
    let sender = other_member(group, link.peer)?;
    let message = if kind == MESSAGE_COMMAND {
        command(payload, body)?
    } else {
        let response = response(body, link, group)?;
        let from_leader = group.leader(response.term) == sender;
        let answer = checks::answer(response.value)?;
        if answer != Answer::Ack && !from_leader {
            return None;
        }
        let Response { term, message_id, index, .. } = response;
        Message::CommandResponse { term, message_id, index, answer }
    };
    let body = Body::Message(message);
    Some(Received { partition: group.partition(), sender, body })
}

#[inline]
fn command(payload: &Bytes, body: &[u8]) -> Option<Message> {
    let mut reader = Reader::new(body);
    let mut seen = Seen::default();
    let (mut term, mut message_id) = (0, 0);
    let mut timestamp = None;
    let mut value: &[u8] = &[];
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            REQUEST_TERM_ID => term = reader.varint()?,
            REQUEST_MESSAGE_ID => message_id = reader.varint()?,
            REQUEST_TIMESTAMP => timestamp = Some(time(reader.bytes()?)?),
            REQUEST_VALUE => value = reader.bytes()?,
            _ => return None,
        }
    }
    let is_stamped = is_set(term) && is_set(message_id);
    if !is_stamped || value.is_empty() || value.len() > COMMAND_SIZE_BYTES_MAX {
        return None;
    }
    Some(Message::Command(Stamped {
        term: TermId(term),
        message_id: MessageId(message_id),
        timestamp: timestamp?,
        value: payload.slice_ref(value),
    }))
}

#[inline]
fn time(bytes: &[u8]) -> Option<Timestamp> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let (mut seconds, mut nanos) = (0, 0);
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            TIMESTAMP_SECONDS => seconds = reader.varint()?,
            TIMESTAMP_NANOS => nanos = reader.varint_u32()?,
            _ => return None,
        }
    }
    Timestamp::from_parts(seconds, nanos)
}

/// A response whose value isn't understood yet.
struct Response<'a> {
    term: TermId,
    message_id: MessageId,
    index: Index,
    value: &'a [u8],
}

#[inline]
fn response<'a>(body: &'a [u8], link: Link<'_>, group: &Group) -> Option<Response<'a>> {
    let mut reader = Reader::new(body);
    let mut seen = Seen::default();
    let (mut message_id, mut index) = (0, 0);
    let (mut sender, mut view): (&[u8], Option<&[u8]>) = (&[], None);
    let mut value: &[u8] = &[];
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            RESPONSE_MESSAGE_ID => message_id = reader.varint()?,
            RESPONSE_SENDER_ID => sender = reader.bytes()?,
            RESPONSE_VIEW_ID => view = Some(reader.bytes()?),
            RESPONSE_INDEX => index = reader.varint()?,
            RESPONSE_VALUE => value = reader.bytes()?,
            _ => return None,
        }
    }
    if sender != link.peer.as_bytes() || index >= POSITION_END || message_id > index {
        return None;
    }
    // Only a cumulative ack may be of no command.
    if message_id == 0 && !value.is_empty() {
        return None;
    }
    let term = view_term(view?, group)?;
    Some(Response { term, message_id: MessageId(message_id), index: Index(index), value })
}

/// The term of a view that its leader leads.
#[inline]
fn view_term(bytes: &[u8], group: &Group) -> Option<TermId> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let mut leader: &[u8] = &[];
    let mut term = 0;
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            VIEW_LEADER_ID => leader = reader.bytes()?,
            VIEW_TERM_ID => term = reader.varint()?,
            _ => return None,
        }
    }
    let term = is_set(term).then_some(TermId(term))?;
    (group.name(group.leader(term)).as_bytes() == leader).then_some(term)
}

/// Whether a number is a real term or a stamped command's.
#[inline]
const fn is_set(number: u64) -> bool {
    number >= 1 && number < POSITION_END
}
