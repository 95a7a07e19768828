//! Guarantee: no bytes from a connection make the wire room panic, allocate without bound, or read
//! differently than prost does.
//!
//! Each round draws its bytes from its own seed and lets `arbitrary` shape them; how to replay a
//! round and how to make a run longer stands in `tests/fuzzing`.

mod fuzzing;

use arbitrary::Arbitrary;
use fuzzing::soup::{Soup, put_varint};
use p2pmap::base::ids::PartitionId;
use p2pmap::base::limits::{FRAME_PREFIX_SIZE_BYTES, FRAME_SIZE_BYTES_MAX};
use p2pmap::base::prng::Prng;
use p2pmap::map::operation::cold::{OwnedCommand, OwnedQuery};
use p2pmap::map::operation::{decode_command, decode_query, with_command, with_query};
use p2pmap::proto::atomix::map::{Message, message};
use p2pmap::proto::p2pmap::v1;
use p2pmap::wire::error::WireError;
use p2pmap::wire::frame::{self, Flag, FrameError};
use p2pmap::wire::request::{Acceptance, Request, decode_cold, decode_hot};
use p2pmap::wire::route::{Route, Router};
use prost::Message as _;

const ROUNDS_DEFAULT: u64 = 20_000;
const PARTITIONS: u32 = 64;
const ACCEPTANCE: Acceptance<'_> = Acceptance { cluster: "test", value_size_bytes_max: 64 };

/// Runs rounds of `check`, each on something arbitrary.
fn fuzz<T: for<'a> Arbitrary<'a>>(check: impl Fn(T, &mut Prng)) {
    fuzzing::fuzz(ROUNDS_DEFAULT, check);
}

// ---- frames ----

/// What a sender may put on a connection.
#[derive(Arbitrary, Debug)]
enum Sent {
    Message(Vec<u8>),
    Hello(Vec<u8>),
    Long(u8),
    Compressed(Vec<u8>),
    Flag(u8),
    Announced(u32),
    Truncated(Vec<u8>),
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let frame = |flag: u8, payload: &[u8]| {
            let size = u32::try_from(payload.len()).expect("short");
            [&[flag][..], &size.to_be_bytes(), payload].concat()
        };
        match self {
            Self::Message(payload) => frame(0, payload),
            Self::Hello(payload) => frame(2, payload),
            Self::Long(byte) => frame(0, &vec![*byte; 1_000 * usize::from(*byte)]),
            Self::Compressed(payload) => frame(1, payload),
            Self::Flag(flag) => frame(*flag, b"payload"),
            Self::Announced(size) => [&[0][..], &size.to_be_bytes()].concat(),
            Self::Truncated(payload) => {
                let frame = frame(0, payload);
                frame[..frame.len() / 2].to_vec()
            }
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Received {
    frames: Vec<(Flag, Vec<u8>)>,
    error: Option<FrameError>,
    unfinished: bool,
}

/// The whole stream at once, written without a look at the code under test.
fn received_at_once(bytes: &[u8]) -> Received {
    let mut received = Received::default();
    let mut at = 0;
    while at < bytes.len() {
        let flag = match bytes[at] {
            0 => Flag::Message,
            2 => Flag::Hello,
            3 => Flag::Ping,
            1 => {
                received.error = Some(FrameError::Compressed);
                return received;
            }
            flag => {
                received.error = Some(FrameError::FlagUnknown { flag });
                return received;
            }
        };
        let Some(size) = bytes.get(at + 1..at + 5) else { break };
        let size = u32::from_be_bytes(size.try_into().expect("four bytes"));
        if size as usize > FRAME_SIZE_BYTES_MAX - FRAME_PREFIX_SIZE_BYTES {
            received.error = Some(FrameError::TooLong { payload_size_bytes: size });
            return received;
        }
        let Some(payload) = bytes.get(at + 5..at + 5 + size as usize) else { break };
        received.frames.push((flag, payload.to_vec()));
        at += 5 + payload.len();
    }
    received.unfinished = at < bytes.len();
    received
}

/// The same in buffers of random sizes, as a connection gets it.
fn received_in_buffers(bytes: &[u8], prng: &mut Prng) -> Received {
    let mut received = Received::default();
    let mut size_max = 1 + prng.below(3_000);
    let (mut begun, mut arrived) = (0, 0);
    while arrived < bytes.len() {
        if prng.one_in(8) {
            size_max = 1 + prng.below(40);
        }
        let size = usize::try_from(1 + prng.below(size_max)).expect("64 bits");
        arrived = bytes.len().min(arrived + size);
        loop {
            match frame::next(&bytes[begun..arrived]) {
                Ok(Some((header, payload))) => {
                    received.frames.push((header.flag, bytes[begun..][payload.clone()].to_vec()));
                    begun += payload.end;
                }
                Ok(None) => break,
                Err(error) => {
                    received.error = Some(error);
                    return received;
                }
            }
        }
    }
    received.unfinished = begun < bytes.len();
    received
}

#[test]
fn frames_come_out_alike_however_the_stream_is_cut() {
    fuzz(|sent: Vec<Sent>, prng| {
        let bytes: Vec<u8> = sent.iter().flat_map(Sent::bytes).collect();
        assert_eq!(received_in_buffers(&bytes, prng), received_at_once(&bytes));
    });
}

#[test]
fn garbage_is_cut_into_frames_alike() {
    fuzz(|bytes: Vec<u8>, prng| {
        assert_eq!(received_in_buffers(&bytes, prng), received_at_once(&bytes));
    });
}

// ---- messages ----

/// What a connection does with a payload; and prost must agree.
#[track_caller]
fn check_payload(payload: &[u8]) {
    let router = Router::new(PARTITIONS);
    let route = |request: &Request<'_>| match router.route(request) {
        Ok(Route::Partition(PartitionId(partition))) => assert!(partition < PARTITIONS),
        Ok(Route::All | Route::Node) => assert_eq!(request.key(), None),
        Err(refusal) => assert!(refusal.message.contains("target.name"), "names the field"),
    };
    let hot = decode_hot(payload, ACCEPTANCE);
    let prost = Message::decode(payload);
    match decode_cold(payload) {
        Ok(cold) => {
            let message = prost.expect("cold decoding is prost's").message;
            assert!(matches!(
                message,
                Some(message::Message::Command(_) | message::Message::Query(_))
            ));
            match cold.request(ACCEPTANCE) {
                Ok(request) => {
                    route(&request);
                    assert!(hot.is_none_or(|hot| hot == request), "{hot:?} {request:?}");
                }
                Err(refusal) => {
                    assert_eq!(hot, None);
                    assert!(!refusal.message.is_empty());
                }
            }
        }
        Err(error) => {
            assert_eq!(hot, None, "{error}");
            if let WireError::Undecodable { .. } | WireError::Malformed = error {
                assert!(prost.is_err(), "{error}");
            }
        }
    }
}

#[track_caller]
fn check_operation(bytes: &[u8]) {
    let hot = decode_command(bytes, 64);
    with_command(bytes, 64, |command| assert!(hot.is_none_or(|hot| command == Ok(hot))));
    match OwnedCommand::decode(bytes) {
        Ok(cold) => assert!(hot.is_none_or(|hot| cold.command(64) == Ok(hot))),
        Err(_) => assert_eq!(hot, None),
    }
    let hot = decode_query(bytes);
    with_query(bytes, |query| assert!(hot.is_none_or(|hot| query == Ok(hot))));
    match OwnedQuery::decode(bytes) {
        Ok(cold) => assert!(hot.is_none_or(|hot| cold.query() == Ok(hot))),
        Err(_) => assert_eq!(hot, None),
    }
}

#[test]
fn soup_is_read_as_prost_reads_it() {
    fuzz(|soup: Soup, _| {
        let bytes = soup.encode();
        check_payload(&bytes);
        check_operation(&bytes);
    });
}

/// A request around soup, so that the inner decoders get some.
#[derive(Arbitrary, Debug)]
struct SoupRequest {
    target: Option<Soup>,
    command: bool,
    message_id: Option<u64>,
    around: Soup,
    operation: u8,
    inside: Soup,
    beside: Soup,
}

impl SoupRequest {
    fn encode(&self) -> Vec<u8> {
        let field = |number: u8, bytes: Vec<u8>| {
            let mut out = vec![number << 3 | 2];
            put_varint(&mut out, bytes.len() as u64);
            out.extend(bytes);
            out
        };
        let mut value = field(1, b"orders".to_vec());
        value.extend(field(10 + self.operation % 4, self.inside.encode()));
        value.extend(self.beside.encode());
        let mut request = field(4, value);
        if let Some(message_id) = self.message_id {
            request.push(0x10);
            put_varint(&mut request, message_id);
        }
        let mut payload = Vec::new();
        if let Some(target) = &self.target {
            payload.extend(field(1, target.encode()));
        }
        payload.extend(field(if self.command { 2 } else { 4 }, request));
        payload.extend(self.around.encode());
        payload
    }
}

#[test]
fn requests_around_soup_are_read_as_prost_reads_them() {
    fuzz(|request: SoupRequest, _| check_payload(&request.encode()));
}

#[test]
fn garbage_is_read_as_prost_reads_it() {
    fuzz(|bytes: Vec<u8>, _| {
        check_payload(&bytes);
        check_operation(&bytes);
    });
}

#[test]
fn requests_truncated_or_flipped_anywhere_are_read_as_prost_reads_them() {
    let put = v1::Put {
        key: "{user1000}.key".into(),
        value: "value".into(),
        condition: Some(v1::Condition { condition: Some(v1::condition::Condition::Version(300)) }),
        want_previous: true,
        ..Default::default()
    };
    let command = v1::Command {
        map: "orders".into(),
        timeout_ms: 1_000,
        operation: Some(v1::command::Operation::Put(put)),
        ..Default::default()
    };
    let mut payload = vec![0x0A, 0x0E, 0x0A, 0x06];
    payload.extend_from_slice(b"orders");
    payload.extend([0x12, 0x04]);
    payload.extend_from_slice(b"test");
    let value = command.encode_to_vec();
    payload.extend([0x12, u8::try_from(value.len() + 4).unwrap(), 0x10, 0x07]);
    payload.extend([0x22, u8::try_from(value.len()).unwrap()]);
    payload.extend(value);
    assert!(decode_hot(&payload, ACCEPTANCE).is_some(), "it is a request to begin with");
    for end in 0..payload.len() {
        check_payload(&payload[..end]);
    }
    for at in 0..payload.len() {
        for byte in 0..=255 {
            let mut flipped = payload.clone();
            flipped[at] = byte;
            check_payload(&flipped);
            let mut inserted = payload.clone();
            inserted.insert(at, byte);
            check_payload(&inserted);
        }
        let mut removed = payload.clone();
        removed.remove(at);
        check_payload(&removed);
    }
}

#[test]
fn frame_full_of_empty_entries_is_refused_before_it_becomes_objects() {
    // Field 22 (recover_response) with as many empty entries (field 7) as a frame holds: prost
    // would make 64 bytes or more of each two.
    let entries = [0x3A, 0x00].repeat((FRAME_SIZE_BYTES_MAX - 64) / 2);
    let mut payload = vec![0xB2, 0x01];
    put_varint(&mut payload, entries.len() as u64);
    payload.extend(entries);
    let error = decode_cold(&payload).unwrap_err();
    assert_eq!(error, WireError::KindForbidden { field: "recover_response" });
}

#[test]
fn deeply_nested_groups_do_not_exhaust_the_stack() {
    let groups = vec![0xFB; FRAME_SIZE_BYTES_MAX - 64];
    assert!(decode_cold(&groups).is_err());
    let open: Vec<u8> = [0xC3, 0x01].repeat((FRAME_SIZE_BYTES_MAX - 64) / 2);
    assert_eq!(decode_cold(&open).unwrap_err(), WireError::Malformed);
    let closed: Vec<u8> = [[0xC3, 0x01].repeat(100_000), [0xC4, 0x01].repeat(100_000)].concat();
    assert!(matches!(decode_cold(&closed).unwrap_err(), WireError::Undecodable { .. }));
    check_operation(&closed);
}
