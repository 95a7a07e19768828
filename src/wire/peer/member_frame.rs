//! Frames between members inside of gRPC: each is a `p2pmap.v1.MemberFrame` there, with gRPC's own
//! prefix, because gRPC has no flags for greetings and pings. What is in a frame stays as it is.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::field::Fields as _;
use crate::base::cast;
use crate::base::limits::{FRAME_SENT_SIZE_BYTES_MAX, FRAME_SIZE_BYTES_MAX};
use crate::proto::reader::{Reader, Value, varint_size_bytes};
use crate::wire::frame::{self, Flag};

/// Fields of a `MemberFrame`.
const MESSAGE: u32 = 1;
const HELLO: u32 = 2;
const PING: u32 = 3;

/// What stands before a payload in a `MemberFrame` at most: a tag and a length.
const HEAD_SIZE_BYTES_MAX: usize = 1 + 4;

// The longest frame that is sent is accepted in this form too.
const _: () = assert!(FRAME_SENT_SIZE_BYTES_MAX + HEAD_SIZE_BYTES_MAX <= FRAME_SIZE_BYTES_MAX);

/// Appends frames to `out` as messages of gRPC.
///
/// # Panics
/// If they aren't whole frames: members write no others.
pub fn wrap(frames: &[u8], out: &mut BytesMut) {
    let mut rest = frames;
    out.reserve(frames.len());
    while !rest.is_empty() {
        let next = frame::next(rest).expect("members write frames that members take");
        let (header, place) = next.expect("members write whole frames");
        let field = match header.flag {
            Flag::Message => MESSAGE,
            Flag::Hello => HELLO,
            Flag::Ping => PING,
        };
        let payload = &rest[place.clone()];
        let head_size = 1 + varint_size_bytes(cast::u64_from(payload.len()));
        out.put_u8(Flag::Message.byte());
        out.put_u32(cast::u32_from(head_size + payload.len()));
        out.length(field, payload.len());
        out.put_slice(payload);
        rest = &rest[place.end..];
    }
}

/// The frame that a message of gRPC stands for; `None`: no member sends it.
#[must_use]
pub fn unwrap(message: &Bytes) -> Option<(Flag, Bytes)> {
    let mut reader = Reader::new(message);
    let field = reader.field()?;
    let flag = match field.number {
        MESSAGE => Flag::Message,
        HELLO => Flag::Hello,
        PING => Flag::Ping,
        _ => return None,
    };
    let Value::Bytes(payload) = field.value else { return None };
    reader.is_empty().then(|| (flag, message.slice_ref(payload)))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::atomix::map::{self, message};
    use crate::proto::p2pmap::v1::{self, member_frame};
    use crate::wire::peer::ping::Ping;

    /// The messages in what was wrapped.
    fn messages(wrapped: &BytesMut) -> Vec<Bytes> {
        let (mut rest, mut messages) = (&wrapped[..], Vec::new());
        while let Some((header, place)) = frame::next(rest).unwrap() {
            assert_eq!(header.flag, Flag::Message, "gRPC has no other flag");
            messages.push(Bytes::copy_from_slice(&rest[place.clone()]));
            rest = &rest[place.end..];
        }
        assert!(rest.is_empty());
        messages
    }

    #[test]
    fn frames_are_the_messages_that_the_proto_says_and_come_back() {
        let message = |size| map::Message {
            target: None,
            message: Some(message::Message::Command(map::CommandRequest {
                value: vec![7; size].into(),
                ..map::CommandRequest::default()
            })),
        };
        let hello = v1::Hello { member: "a".to_owned(), ..v1::Hello::default() };
        let mut frames = BytesMut::new();
        frame::encode(&mut frames, Flag::Hello, &hello);
        for size in [0, 100, 20_000, 3 << 20] {
            frame::encode(&mut frames, Flag::Message, &message(size));
        }
        Ping::Ask(9).encode(&mut frames);
        let ping = frames[frames.len() - 9..].to_vec();
        let mut wrapped = BytesMut::new();
        wrap(&frames, &mut wrapped);
        let wrapped = messages(&wrapped);
        let mut expected = vec![member_frame::Frame::Hello(hello)];
        let sizes = [0, 100, 20_000, 3 << 20];
        expected.extend(sizes.map(|size| member_frame::Frame::Message(message(size))));
        expected.push(member_frame::Frame::Ping(ping.into()));
        let mut unwrapped = BytesMut::new();
        assert_eq!(wrapped.len(), expected.len());
        for (message, expected) in wrapped.iter().zip(expected) {
            let encoded = v1::MemberFrame { frame: Some(expected) }.encode_to_vec();
            assert!(*message == encoded, "{} bytes", message.len());
            let (flag, payload) = unwrap(message).unwrap();
            let prefix = u32::try_from(payload.len()).unwrap().to_be_bytes();
            unwrapped.put_u8(flag.byte());
            unwrapped.put_slice(&prefix);
            unwrapped.put_slice(&payload);
        }
        assert!(unwrapped == frames);
    }

    #[test]
    fn what_is_no_member_frame_is_refused() {
        let whole = [0x0a, 2, 1, 1];
        assert!(unwrap(&Bytes::copy_from_slice(&whole)).is_some());
        for len in 0..whole.len() {
            assert_eq!(unwrap(&Bytes::copy_from_slice(&whole[..len])), None, "{len} bytes");
        }
        // Another field, another type, two frames in one.
        for bytes in [&[0x22, 1, 1][..], &[0x08, 1], &[0x0a, 0, 0x0a, 0]] {
            assert_eq!(unwrap(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }
}
