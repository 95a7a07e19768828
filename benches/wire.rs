//! What the wire room costs per request: cutting frames, decoding (hot, and prost for comparison),
//! routing, encoding responses. Keys of 16 bytes, values of 64.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p2pmap::base::ids::{Index, PartitionId, TermId};
use p2pmap::map::operation::cold::{OwnedCommand, OwnedQuery};
use p2pmap::proto::atomix::map::{CommandRequest, Message, QueryRequest, message};
use p2pmap::proto::atomix::primitive::Name;
use p2pmap::proto::p2pmap::v1;
use p2pmap::wire::frame::{self, Flag};
use p2pmap::wire::request::{Acceptance, decode_cold, decode_hot};
use p2pmap::wire::response::{
    ResponsePrefix, View, encode_command_response, encode_query_response,
};
use p2pmap::wire::route::{Router, key_slot};
use prost::Message as _;

const KEY: &[u8] = b"user:00000000042";
const VALUE: [u8; 64] = [b'v'; 64];
const ACCEPTANCE: Acceptance<'_> =
    Acceptance { cluster: "benchmark", value_size_bytes_max: 1 << 20 };
/// Requests in a buffer of a busy connection.
const FRAMES: u64 = 64;

fn message(message: message::Message) -> Vec<u8> {
    let target = Some(Name { name: "orders".into(), namespace: String::new() });
    Message { target, message: Some(message) }.encode_to_vec()
}

fn get() -> Vec<u8> {
    let get = v1::Get { key: KEY.into() };
    let operation = Some(v1::query::Operation::Get(get));
    let query = v1::Query { map: "orders".into(), operation, ..Default::default() };
    message(message::Message::Query(QueryRequest {
        message_id: 123_456,
        value: query.encode_to_vec().into(),
        ..Default::default()
    }))
}

fn put() -> Vec<u8> {
    let put = v1::Put { key: KEY.into(), value: VALUE.to_vec().into(), ..Default::default() };
    let operation = Some(v1::command::Operation::Put(put));
    let command = v1::Command { map: "orders".into(), operation, ..Default::default() };
    message(message::Message::Command(CommandRequest {
        message_id: 123_456,
        value: command.encode_to_vec().into(),
        ..Default::default()
    }))
}

fn frames(criterion: &mut Criterion) {
    let mut stream = BytesMut::new();
    for _ in 0..FRAMES {
        let start = frame::begin(&mut stream, Flag::Message);
        stream.extend_from_slice(&put());
        frame::finish(&mut stream, start);
    }
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Elements(FRAMES));
    group.bench_function("cut 64", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(&stream[..]);
            while let Ok(Some((_, payload))) = frame::next(rest) {
                black_box(&rest[payload.clone()]);
                rest = &rest[payload.end..];
            }
        });
    });
    group.finish();
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, payload) in [("get", get()), ("put", put())] {
        assert!(decode_hot(&payload, ACCEPTANCE).is_some());
        group.bench_function(format!("{name}, hot"), |bencher| {
            bencher.iter(|| black_box(decode_hot(black_box(&payload), ACCEPTANCE)));
        });
        group.bench_function(format!("{name}, hot and routed"), |bencher| {
            let router = Router::new(64);
            bencher.iter(|| {
                let request = decode_hot(black_box(&payload), ACCEPTANCE);
                black_box(request.map(|request| router.route(&request)))
            });
        });
        group.bench_function(format!("{name}, cold"), |bencher| {
            bencher.iter(|| {
                let cold = decode_cold(black_box(&payload)).expect("a request");
                black_box(cold.request(ACCEPTANCE).is_ok())
            });
        });
        group.bench_function(format!("{name}, prost alone"), |bencher| {
            bencher.iter(|| {
                match Message::decode(black_box(&payload[..])).expect("a message").message {
                    Some(message::Message::Command(request)) => {
                        drop(black_box(OwnedCommand::decode(&request.value)));
                    }
                    Some(message::Message::Query(request)) => {
                        drop(black_box(OwnedQuery::decode(&request.value)));
                    }
                    _ => unreachable!("a request"),
                }
            });
        });
    }
    group.bench_function("slot of a key", |bencher| {
        bencher.iter(|| key_slot(black_box(KEY)));
    });
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let view = View { leader: "node-1", term: TermId(7) };
    let prefix = ResponsePrefix::new("benchmark", Some(PartitionId(42)), "node-1", Some(view));
    let written = v1::Written { version: 1_234_567, previous: None };
    let written = v1::Result { outcome: Some(v1::result::Outcome::Written(written)) };
    let entry = v1::Versioned {
        value: VALUE.to_vec().into(),
        version: 1_234_567,
        created_ms: 1_700_000_000_000,
        updated_ms: 1_700_000_000_000,
        ttl_ms: 0,
    };
    let found = v1::Found { entry: Some(entry) };
    let found = v1::Result { outcome: Some(v1::result::Outcome::Found(found)) };
    let (written, found) = (written.encode_to_vec(), found.encode_to_vec());

    let mut group = criterion.benchmark_group("encode");
    let mut out = BytesMut::with_capacity(64 << 10);
    group.bench_function("response to put", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode_command_response(&mut out, &prefix, 123_456, Index(1_234_567), &written);
            black_box(&out);
        });
    });
    group.bench_function("response to get", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode_query_response(&mut out, &prefix, 123_456, Index(1_234_567), &found);
            black_box(&out);
        });
    });
    group.finish();
}

criterion_group!(benches, frames, decoding, encoding);
criterion_main!(benches);
