//! What gRPC clients notice, checked without sockets: the server's object on one side, h2's own
//! client or hand-made frames on the other, both in this thread and in virtual time.

#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

#[path = "grpc_conformance/h2_client.rs"]
mod h2_client;
#[path = "grpc_conformance/raw_client.rs"]
mod raw_client;

use bytes::{BufMut, Bytes, BytesMut};
use p2pmap::runtime::grpc::{GrpcConnection, StreamId};

const CONNECT: &str = "/atomix.map.P2PMapService/Connect";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn frame(payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(payload.len()).unwrap());
    bytes.put_slice(payload);
    bytes.freeze()
}

/// Answers a message with itself.
fn echo(server: &mut GrpcConnection, stream: StreamId, payload: &[u8]) {
    if let Some(replies) = server.reply_buffer(stream) {
        replies.extend_from_slice(&frame(payload));
    }
    server.reply_done(stream);
}
