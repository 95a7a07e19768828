//! What members say, cut into frames, so that whole ones can be lost as a datagram would be.

use std::ops::Range;

use prost::Message as _;

use crate::base::prng::Prng;
use crate::proto::atomix::map::Message;
use crate::proto::atomix::map::message::Message as Kinds;
use crate::wire::frame::{self, Flag};
use crate::wire::request::FORWARDED;

/// What tells a stamped command from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The partition, as it is named.
    pub(super) target: String,
    pub(super) term: u64,
    pub(super) number: u64,
}

impl Stamp {
    /// Whether it is one of so many that are chosen; all its copies are, whoever looks at them.
    pub(super) fn is_chosen(&self, one_in: u64) -> bool {
        let seed = self.term.rotate_left(32) ^ self.number;
        Prng::new(seed, &self.target).one_in(one_in)
    }
}

/// Cuts a stream into frames. Bytes that are no frames pass as they are, for good.
#[derive(Debug, Default)]
pub(super) struct FrameCutter {
    /// The beginning of a frame that isn't whole yet.
    carried: Vec<u8>,
    is_something_else: bool,
}

impl FrameCutter {
    /// Takes what was received, and appends to `out` what goes on: whole frames, but for stamped
    /// commands that `loses` says are lost, if any may be.
    pub(super) fn pass<F: FnMut(&Stamp) -> bool>(
        &mut self,
        received: &[u8],
        mut loses: Option<F>,
        out: &mut Vec<u8>,
    ) {
        if self.is_something_else {
            return out.extend_from_slice(received);
        }
        self.carried.extend_from_slice(received);
        let mut at = 0;
        loop {
            let rest = &self.carried[at..];
            let (flag, payload): (Flag, Range<usize>) = match frame::next(rest) {
                Ok(Some((header, payload))) => (header.flag, payload),
                Ok(None) => break,
                Err(_) => {
                    self.is_something_else = true;
                    out.extend_from_slice(rest);
                    at = self.carried.len();
                    break;
                }
            };
            let is_lost = loses.as_mut().is_some_and(|loses| {
                let message = (flag == Flag::Message).then(|| &rest[payload.clone()]);
                message.and_then(stamp_of).is_some_and(|stamp| loses(&stamp))
            });
            if !is_lost {
                out.extend_from_slice(&rest[..payload.end]);
            }
            at += payload.end;
        }
        self.carried.drain(..at);
    }
}

/// The stamp of a message between members, if it is a command with its number in the log's order,
/// which every member of a partition is sent. What is passed on for a client has none.
fn stamp_of(payload: &[u8]) -> Option<Stamp> {
    match Message::decode(payload) {
        Ok(Message { target, message: Some(Kinds::Command(command)) })
            if command.message_id & FORWARDED == 0 =>
        {
            let target = target.unwrap_or_default().name;
            Some(Stamp { target, term: command.term_id, number: command.message_id })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::proto::atomix::map::{CommandRequest, QueryRequest};

    fn framed(kind: Kinds) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame::encode(&mut out, Flag::Message, &Message { target: None, message: Some(kind) });
        out.to_vec()
    }

    fn command(message_id: u64) -> Vec<u8> {
        framed(Kinds::Command(CommandRequest { message_id, ..CommandRequest::default() }))
    }

    fn query() -> Vec<u8> {
        framed(Kinds::Query(QueryRequest { message_id: 3, ..QueryRequest::default() }))
    }

    #[test]
    fn stamped_commands_are_lost_whole_and_nothing_else_is() {
        let kept = [query(), command(FORWARDED | 5), query()].concat();
        let said = [command(1), query(), command(FORWARDED | 5), command(2), query()].concat();
        // Wherever the bytes are cut on their way.
        for cut in 0..=said.len() {
            let (mut frames, mut out, mut lost_count) = (FrameCutter::default(), Vec::new(), 0);
            for part in [&said[..cut], &said[cut..]] {
                let loses = |_: &Stamp| {
                    lost_count += 1;
                    true
                };
                frames.pass(part, Some(loses), &mut out);
            }
            assert_eq!((&out, lost_count), (&kept, 2), "cut at {cut}");
        }
    }

    #[test]
    fn whole_stream_passes_while_nothing_is_to_be_lost() {
        let said = [command(1), query(), command(2)].concat();
        let (mut frames, mut out) = (FrameCutter::default(), Vec::new());
        for byte in &said {
            frames.pass(&[*byte], Some(|_: &Stamp| false), &mut out);
        }
        assert_eq!(out, said);
    }

    #[test]
    fn what_is_no_frame_passes_as_it_is() {
        let said = [&command(1)[..], b"PRI * HTTP/2.0\r\n"].concat();
        let (mut frames, mut out) = (FrameCutter::default(), Vec::new());
        frames.pass(&said, Some(|_: &Stamp| false), &mut out);
        frames.pass(&command(2), Some(|_: &Stamp| true), &mut out);
        assert_eq!(out, [said, command(2)].concat());
    }

    #[test]
    fn all_copies_of_a_command_are_chosen_or_none_is() {
        let stamp = |number| Stamp { target: "#3".to_owned(), term: 2, number };
        let chosen = (0..4_000).filter(|number| stamp(*number).is_chosen(8)).count();
        assert!((350..650).contains(&chosen), "{chosen}");
        assert!((0..100).all(|number| stamp(number).is_chosen(8) == stamp(number).is_chosen(8)));
    }
}
