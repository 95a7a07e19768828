//! Guarantee: no bytes from a member make the wire room panic or allocate much more than they take,
//! and whatever is taken of them could have been said: its invariants hold.
//!
//! Each round begins with a message that may be said, or with something that looks like one, and
//! does to it what networks and defects do. How to replay a round: `tests/fuzzing`.

#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod fuzzing;

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use fuzzing::peer::{CLUSTER, KIND_COUNT, MEMBERS, Said, check_payload, group};
use fuzzing::soup::{Soup, put_varint};
use fuzzing::{damage, entropy, fuzz, fuzz_rounds};
use p2pmap::base::ids::{Index, MemberId, PartitionId, TermId};
use p2pmap::base::limits::{FRAME_PREFIX_SIZE_BYTES, FRAME_SENT_SIZE_BYTES_MAX};
use p2pmap::base::prng::Prng;
use p2pmap::nopaxos::message::{Message, RecoveryId};
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::wire::peer::{
    Body, PeerEncoder, PeerError, chunk, decode, filter, ranges, recovery_id,
};
use prost::Message as _;

const ROUNDS: u64 = 20_000;

#[test]
fn messages_of_each_kind_cut_anywhere_are_never_misread() {
    for kind in 0..KIND_COUNT {
        let mut prng = Prng::new(kind, "cut");
        for _ in 0..10 {
            let said = Said::of_kind(kind, &mut prng);
            let payload = said.payload();
            for end in 0..payload.len() {
                check_payload(&said, &payload.slice(..end));
            }
        }
    }
}

#[test]
fn messages_of_each_kind_flipped_anywhere_are_never_misread() {
    for kind in 0..KIND_COUNT {
        let mut prng = Prng::new(kind, "flip");
        for _ in 0..4 {
            let said = Said::of_kind(kind, &mut prng);
            let payload = said.payload();
            for at in 0..payload.len().min(400) {
                for bit in 0..8 {
                    let mut flipped = payload.to_vec();
                    flipped[at] ^= 1 << bit;
                    check_payload(&said, &flipped.into());
                }
            }
        }
    }
}

#[test]
fn damaged_messages_are_refused_or_could_have_been_said() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::arbitrary(prng);
        let mut bytes = said.payload().to_vec();
        damage(&mut bytes, prng);
        check_payload(&said, &bytes.into());
    });
}

/// Two messages in one: prost merges them.
#[test]
fn messages_run_together_are_refused_or_could_have_been_said() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::arbitrary(prng);
        let kind = prng.below(KIND_COUNT);
        let other = Said { partition: said.partition, ..Said::of_kind(kind, prng) };
        let bytes = [said.payload(), other.payload()].concat();
        check_payload(&said, &bytes.into());
    });
}

#[test]
fn messages_are_refused_on_other_connections_but_for_relays() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::arbitrary(prng);
        let third = MemberId(3 - said.from.0 - said.to.0);
        let other = Said { from: third, ..said.clone() };
        match other.decode(&said.payload()) {
            Err(PeerError::BadSender { .. }) => {}
            // These have no sender of their own.
            Ok(received) => assert!(matches!(
                received.body,
                Body::Message(
                    Message::Command(_) | Message::Query { .. } | Message::Recover { .. }
                ) | Body::Forwarded(_)
            )),
            Err(error) => panic!("{error}"),
        }
    });
}

#[test]
fn results_in_views_that_others_lead_are_refused() {
    fuzz_rounds(ROUNDS, |prng| {
        let said = Said::of_kind(1, prng);
        let mut message = said.proto();
        let Some(Kind::CommandResponse(response)) = &mut message.message else { panic!() };
        let view = response.view_id.as_mut().unwrap();
        let group = group(said.partition, said.from);
        let term = TermId(1 + prng.below(1_000));
        (view.term_id, view.leader_id) = (term.0, group.name(group.leader(term)).to_owned());
        let is_taken = response.value.is_empty() || group.leader(term) == said.from;
        let payload = message.encode_to_vec().into();
        check_payload(&said, &payload);
        assert_eq!(said.decode(&payload).is_ok(), is_taken);
    });
}

#[test]
fn garbage_is_never_misread() {
    fuzz(ROUNDS, |bytes: Vec<u8>, prng| {
        let said = Said::arbitrary(prng);
        check_payload(&said, &bytes.into());
    });
}

#[test]
fn soup_in_a_message_is_never_misread() {
    fuzz(ROUNDS, |soup: Soup, prng| {
        let said = Said::arbitrary(prng);
        let mut bytes = vec![0x0A, 0];
        let name = format!("#{}", said.partition);
        bytes[1] = u8::try_from(name.len() + 2).unwrap();
        bytes.extend([0x0A, u8::try_from(name.len()).unwrap()]);
        bytes.extend(name.bytes());
        let body = soup.encode();
        put_varint(&mut bytes, (2 + prng.below(22)) << 3 | 2);
        put_varint(&mut bytes, body.len() as u64);
        bytes.extend(body);
        check_payload(&said, &bytes.into());
    });
}

// ---- what is inside of fields ----

#[test]
fn filters_are_read_as_they_could_have_been_written() {
    fuzz_rounds(ROUNDS, |prng| {
        let first = 1 + prng.below(1_000);
        let last = first + prng.below(3_000);
        let (first, last) = (Index(first), Index(last));
        let mut bytes = entropy(prng, 60);
        if !bytes.is_empty() && !prng.one_in(8) {
            bytes[0] = 1;
        }
        if bytes.len() > 1 && !prng.one_in(8) {
            bytes[1] &= 3;
        }
        // A count that is about right.
        let count_at = 2 + if bytes.get(1).is_some_and(|flags| flags & 2 != 0) { 16 } else { 0 };
        if bytes.len() > count_at && bytes[1] & 1 == 0 {
            bytes[count_at] = u8::try_from(bytes.len() - count_at - 1).unwrap();
            bytes[count_at + 1..].iter_mut().for_each(|distance| *distance &= 0x7F);
        }
        if let Ok(filter) = filter::decode(&bytes, first, last) {
            assert!(filter.no_ops.iter().all(|slot| (first..=last).contains(slot)));
            assert!(bytes.is_empty() || bytes == written_filter(&filter, first));
        }
    });
}

/// The one encoding of a filter.
fn written_filter(filter: &filter::Filter, first: Index) -> Vec<u8> {
    let source = u8::from(filter.source_term.is_some());
    let mut out = vec![1, source | u8::from(filter.chain.is_some()) << 1];
    if let Some(term) = filter.source_term {
        put_varint(&mut out, term.0);
    }
    out.extend(filter.chain.iter().flat_map(|chain| chain.0));
    put_varint(&mut out, filter.no_ops.len() as u64);
    let mut next = first.0;
    for slot in &filter.no_ops {
        put_varint(&mut out, slot.0 - next);
        next = slot.0 + 1;
    }
    out
}

#[test]
fn ranges_are_read_as_they_could_have_been_written() {
    fuzz_rounds(ROUNDS, |prng| {
        let mut numbers = Vec::new();
        let mut number = 0_u64;
        for _ in 0..prng.below(20) {
            let step = if prng.one_in(30) { prng.next_u64() } else { prng.below(4) };
            number = number.wrapping_add(step);
            numbers.push(number);
        }
        let decoded = ranges::decode(&numbers);
        let (pairs, rest) = numbers.as_chunks::<2>();
        let ascend = pairs.iter().all(|[first, last]| first <= last)
            && pairs.windows(2).all(|pair| pair[0][1] < pair[1][0])
            && pairs.first().is_none_or(|[first, _]| *first > 0);
        assert_eq!(decoded.is_ok(), rest.is_empty() && ascend, "{numbers:?}");
        let again = |range: &p2pmap::nopaxos::message::SlotRange| [range.first.0, range.last.0];
        if let Ok(ranges) = decoded {
            assert_eq!(ranges.iter().flat_map(again).collect::<Vec<_>>(), numbers);
        }
    });
}

#[test]
fn chunks_are_read_as_they_could_have_been_written() {
    fuzz_rounds(ROUNDS, |prng| {
        let data = entropy(prng, 50);
        let mut bytes = vec![1, 1];
        let chunk_size = 1 + prng.below(60);
        let number = prng.below(5);
        put_varint(&mut bytes, number * chunk_size + data.len() as u64 + prng.below(2));
        put_varint(&mut bytes, number);
        put_varint(&mut bytes, chunk_size);
        bytes.extend([7; 32]);
        bytes.extend(&data);
        if prng.one_in(2) {
            damage(&mut bytes, prng);
        }
        let bytes = Bytes::from(bytes);
        if let Ok(part) = chunk::decode(Index(1), &bytes) {
            let mut written = vec![1, 1];
            put_varint(&mut written, part.size_bytes);
            put_varint(&mut written, part.number);
            put_varint(&mut written, u64::from(part.chunk_size_bytes));
            written.extend(part.digest);
            written.extend(&part.data);
            assert_eq!(written, bytes);
            let begin = part.number * u64::from(part.chunk_size_bytes);
            let end = (begin + u64::from(part.chunk_size_bytes)).min(part.size_bytes);
            assert_eq!(begin + part.data.len() as u64, end);
        }
    });
}

#[test]
fn recovery_ids_have_one_spelling() {
    fuzz_rounds(ROUNDS, |prng| {
        let mut text = format!("{}.{:032x}", prng.below(200), prng.next_u64()).into_bytes();
        if !prng.one_in(4) {
            damage(&mut text, prng);
        }
        let Ok(text) = String::from_utf8(text) else { return };
        if let Some(RecoveryId { incarnation, nonce }) = recovery_id::parse(&text) {
            assert_eq!(format!("{incarnation}.{nonce:032x}"), text);
        }
    });
}

// ---- what decoding may allocate ----

/// However few bytes an object takes in a frame.
const ALLOCATED_SIZE_BYTES_MAX: u64 = 3 << 20;

/// Frames that are made to become more than they are.
fn hostile_bodies() -> Vec<(u64, Vec<u8>)> {
    const SIZE: usize = FRAME_SENT_SIZE_BYTES_MAX - 200;
    let repeated = |unit: &[u8]| unit.repeat(SIZE / unit.len());
    let mut bodies = Vec::new();
    for (kind, entries) in [(15, 0x2A), (18, 0x2A), (22, 0x3A)] {
        // Empty entries; entries that could be some; entries with an empty timestamp.
        bodies.push((kind, repeated(&[entries, 0])));
        bodies.push((kind, repeated(&[entries, 4, 0x08, 1, 0x18, 1])));
        bodies.push((kind, repeated(&[entries, 6, 0x08, 1, 0x12, 0, 0x18, 1])));
    }
    for (kind, indexs) in [(11, 0x2A_u8), (12, 0x32), (14, 0x2A), (17, 0x22)] {
        // Numbers in one pack, in many, and one by one.
        let mut pack = vec![indexs];
        put_varint(&mut pack, SIZE as u64);
        pack.extend(vec![1; SIZE]);
        bodies.push((kind, pack));
        bodies.push((kind, repeated(&[indexs, 2, 1, 2])));
        bodies.push((kind, repeated(&[indexs & !7, 1])));
    }
    for (kind, filter) in [(10, 0x2A), (13, 0x22), (16, 0x22)] {
        // As many no-ops as fit, and a count that lies.
        let mut dense = vec![1, 0];
        put_varint(&mut dense, SIZE as u64);
        dense.extend(vec![0; SIZE]);
        let mut body = vec![filter];
        put_varint(&mut body, dense.len() as u64);
        body.extend(dense);
        body.extend(log_fields(kind, 1, u64::MAX >> 1));
        bodies.push((kind, body));
        let lie = [&[filter, 11, 1, 0][..], &[0xFF; 8], &[0x7F]].concat();
        bodies.push((kind, [lie, log_fields(kind, 1, u64::MAX >> 1)].concat()));
    }
    // Strings, views over and over, groups in groups.
    for kind in 2..=23 {
        let mut string = vec![0x0A];
        put_varint(&mut string, SIZE as u64);
        string.extend(vec![b'a'; SIZE]);
        bodies.push((kind, string));
        bodies.push((kind, repeated(&[0x12, 0])));
        bodies.push((kind, repeated(&[0x1A, 3, 0x0A, 1, b'a'])));
        bodies.push((kind, repeated(&[0xFB])));
        bodies.push((kind, repeated(&[0xC3, 0x06])));
    }
    bodies
}

fn log_fields(kind: u64, first: u64, last: u64) -> Vec<u8> {
    let tag = if kind == 10 { 6 } else { 5 };
    let mut out = vec![tag << 3];
    put_varint(&mut out, first);
    out.push((tag + 1) << 3);
    put_varint(&mut out, last);
    out
}

#[test]
fn hostile_frames_become_little_more_than_they_are() {
    let (partition, me) = (PartitionId(4), MemberId(0));
    let group = group(partition, me);
    let link = p2pmap::wire::peer::Link { cluster: CLUSTER, peer: MEMBERS[1] };
    // Partition 4, term 9: the peer leads.
    let view = [&[0x0A, 1, b'b', 0x12, 5, 0x0A, 1, b'b', 0x10, 9][..]].concat();
    for (kind, body) in hostile_bodies() {
        for before in [&[][..], &view] {
            let body = [before, &body].concat();
            let mut payload = b"\x0A\x04\x0A\x02#4".to_vec();
            put_varint(&mut payload, kind << 3 | 2);
            put_varint(&mut payload, body.len() as u64);
            payload.extend(body);
            let payload = Bytes::from(payload);
            // What it takes at first, so that the buffer's own counter isn't counted.
            drop(payload.clone());
            let mut result = None;
            let allocated = measure(|| {
                result = Some(decode(&payload, link, |id| (id == partition).then_some(&group)));
            });
            let bound = payload.len() as u64 + ALLOCATED_SIZE_BYTES_MAX;
            let most = allocated.bytes_max;
            assert!(most <= bound, "kind {kind}: {most} for {} bytes", payload.len());
        }
    }
}

#[test]
fn damaged_messages_become_little_more_than_they_are() {
    fuzz_rounds(2_000, |prng| {
        let said = Said::arbitrary(prng);
        let mut bytes = said.payload().to_vec();
        damage(&mut bytes, prng);
        let payload = Bytes::from(bytes);
        drop(payload.clone());
        let group = group(said.partition, said.to);
        let allocated = measure(|| {
            drop(decode(&payload, said.link(), |_| Some(&group)));
        });
        let bound = 40 * payload.len() as u64 + 1_024;
        assert!(allocated.bytes_max <= bound, "{} for {}", allocated.bytes_max, payload.len());
    });
}

#[test]
fn hot_messages_are_written_and_read_without_an_allocation() {
    let mut prng = Prng::new(7, "hot");
    for kind in [0, 1, 2, 3, 4, 5, 6, 7, 14, 17, 18, 21] {
        let said = Said::of_kind(kind, &mut prng);
        let Body::Message(message) = &said.body else { panic!() };
        let (mut encoder, speaker) = said.encoder();
        let mut out = BytesMut::with_capacity(1 << 16);
        encoder.encode(&mut out, &speaker, message).unwrap();
        let written = measure(|| {
            for _ in 0..10 {
                encoder.encode(&mut out, &speaker, message).unwrap();
            }
        });
        assert_eq!(written.count_total, 0, "{message:?}");
    }
    for kind in [0, 1] {
        // A result that fits inline, or none.
        let mut said = std::iter::repeat_with(|| Said::of_kind(kind, &mut prng));
        let said = said.find(|said| said.payload().len() <= 100).unwrap();
        let payload = said.payload();
        let listener = group(said.partition, said.to);
        // The first one makes the payload shareable.
        drop(decode(&payload, said.link(), |_| Some(&listener)));
        drop(payload.clone());
        let read = measure(|| {
            drop(decode(&payload, said.link(), |_| Some(&listener)));
        });
        assert_eq!(read.count_total, 0, "{said:?}");
    }
}

#[test]
fn views_that_change_cost_an_encoder_nothing_either() {
    let speaker = group(PartitionId(4), MemberId(1));
    let mut encoder = PeerEncoder::new(CLUSTER, &speaker);
    let mut out = BytesMut::with_capacity(1 << 16);
    let ping = |term| Message::Ping { term: TermId(term) };
    for term in 1..=3 {
        encoder.encode(&mut out, &speaker, &ping(term)).unwrap();
    }
    let written = measure(|| {
        for term in 4..=9 {
            encoder.encode(&mut out, &speaker, &ping(term)).unwrap();
        }
    });
    assert_eq!(written.count_total, 0);
    assert!(out.len() > 9 * FRAME_PREFIX_SIZE_BYTES);
}
