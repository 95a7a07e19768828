//! What a member may say again on the next connection, when one has broken.
//!
//! Each message of the protocol may arrive twice, whoever repeats it: a replica asks again, and so
//! would a host that kept what it had sent. Nothing makes a request safe that was passed on for a
//! client, though: without a session a command that arrives twice is two commands, and nobody tells
//! them apart. So no host ever repeats one: what was on a connection that broke is gone, and the
//! node that has passed it on tells its client that the outcome is unknown (`shard::forwarding`).
//! Nor are the answers repeated: their numbers are those of one process. A run in which either came
//! twice would find what can't happen, and so says nothing.

use prost::Message as _;

use crate::base::ids::CorrelationId;
use crate::proto::atomix::map::Message;
use crate::proto::atomix::map::message::Message as Kind;
use crate::wire::frame::{self, Flag};

/// Set in the numbers of what is passed on for clients.
const FORWARDED: CorrelationId = 1 << 63;

/// Of these frames, those that may be said again; what isn't a frame ends them.
#[must_use]
pub fn of(mut frames: &[u8]) -> Vec<u8> {
    let mut again = Vec::new();
    while let Ok(Some((header, payload))) = frame::next(frames) {
        let (frame, rest) = frames.split_at(payload.end);
        let is_passed_on = header.flag == Flag::Message
            && Message::decode(&frame[payload]).is_ok_and(|message| is_passed_on(&message));
        if !is_passed_on {
            again.extend_from_slice(frame);
        }
        frames = rest;
    }
    again
}

/// Whether it is a client's request on its way to the node that stamps, or an answer on its way
/// back, rather than a message of the protocol.
#[must_use]
pub fn is_passed_on(message: &Message) -> bool {
    let id = match &message.message {
        Some(Kind::Command(request)) => request.message_id,
        Some(Kind::Query(request)) => request.message_id,
        Some(Kind::CommandResponse(response)) => response.message_id,
        Some(Kind::QueryResponse(response)) => response.message_id,
        _ => 0,
    };
    id & FORWARDED != 0
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::proto::atomix::map::{
        CommandRequest, CommandResponse, QueryRequest, QueryResponse, ViewChange,
    };

    fn frames(kinds: &[Kind]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        for kind in kinds {
            let message = Message { target: None, message: Some(kind.clone()) };
            frame::encode(&mut bytes, Flag::Message, &message);
        }
        bytes.to_vec()
    }

    #[test]
    fn what_is_passed_on_is_left_out_and_the_protocol_is_not() {
        let of_protocol = |message_id| {
            [
                Kind::Command(CommandRequest { message_id, ..CommandRequest::default() }),
                Kind::Query(QueryRequest { message_id, ..QueryRequest::default() }),
                Kind::CommandResponse(CommandResponse { message_id, ..CommandResponse::default() }),
                Kind::QueryResponse(QueryResponse { message_id, ..QueryResponse::default() }),
                Kind::ViewChange(ViewChange { message_id, ..ViewChange::default() }),
            ]
        };
        let (stamped, passed_on) = (of_protocol(7), of_protocol(FORWARDED | 7));
        assert_eq!(of(&frames(&stamped)), frames(&stamped));
        assert_eq!(of(&frames(&passed_on)), frames(&passed_on[4..]), "a vote has another number");
        let mixed = [&passed_on[..2], &stamped[..], &passed_on[2..4]].concat();
        assert_eq!(of(&frames(&mixed)), frames(&stamped));
    }

    #[test]
    fn what_is_no_frame_ends_them() {
        let whole = frames(&[Kind::ViewChange(ViewChange::default())]);
        assert_eq!(of(&[&whole[..], &whole[..whole.len() - 1]].concat()), whole);
    }
}
