//! A shard's loop driven turn by turn on the test's own thread.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use prost::Message as _;

use super::*;
use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::ids::{BootEpoch, TermId};
use crate::base::limits::{SEGMENT_SIZE_BYTES_MIN, TURN_REQUEST_COUNT_MAX};
use crate::proto::atomix::map::{CommandRequest, Message, QueryRequest, message};
use crate::proto::p2pmap::v1::{self, command, query};
use crate::runtime::core::Node;
use crate::runtime::disk::Disk;
use crate::runtime::event_loop::EventLoop;
use crate::runtime::listener::listen;
use crate::runtime::mesh::meshes;
use crate::runtime::uring::{RingSize, Uring};
use crate::shard::{Config, Loading};
use crate::storage::block::LogKey;
use crate::storage::record::{PartitionSnapshot, ShardSnapshot};
use crate::storage::wal::{Durability, Wal, WalConfig, WalStart};

const PARTITION_COUNT: u32 = 100;

/// The only shard of a node without a log.
fn service() -> ShardService {
    let shard = ShardId(0);
    let shards = ShardMap::new(PARTITION_COUNT, 1);
    let partitions = (0..PARTITION_COUNT).map(PartitionId);
    let state = ShardSnapshot {
        partitions: partitions.map(PartitionSnapshot::empty).collect(),
        ..ShardSnapshot::default()
    };
    let wal = WalConfig {
        key: LogKey { shard, salt: 1 },
        boot_epoch: BootEpoch(1),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        log_size_bytes_max: 1 << 30,
        writes_in_flight: 1,
        durability: Durability::None,
    };
    let start = WalStart { state, next_segment: SegmentId(1), ..WalStart::default() };
    let loading = Loading::new(Config {
        cluster: "test".into(),
        nodes: crate::base::cluster::Cluster::alone("a"),
        sequencer_offset: 0,
        settings: crate::nopaxos::Settings::default(),
        seed: 0,
        shard,
        partitions: 0..PARTITION_COUNT,
        partition_count: PARTITION_COUNT,
        shard_count: 1,
        durability: Durability::None,
        first_term: TermId(1),
        hash_key: [3; 16],
        checkpoint_salt: 1,
        checkpoint_interval_size_bytes: 1 << 20,
        memory_size_bytes_max: u64::MAX,
    });
    let shard = Shard::new(loading, Vec::new(), Wal::open(wal, start), Vec::new());
    let config = RequestConfig {
        cluster: "test".into(),
        member: "a".into(),
        shard: ShardId(0),
        shards,
        value_size_bytes_max: 1 << 20,
        replaces: false,
    };
    ShardService::new(shard, config)
}

fn frame(message: message::Message) -> Vec<u8> {
    let payload = Message { target: None, message: Some(message) }.encode_to_vec();
    let size = u32::try_from(payload.len()).expect("a short message");
    [&[0][..], &size.to_be_bytes(), &payload].concat()
}

fn clear(message_id: u64) -> Vec<u8> {
    let operation = Some(command::Operation::Clear(v1::Clear {}));
    let value = v1::Command { map: "m".into(), operation, ..v1::Command::default() };
    let value = value.encode_to_vec().into();
    frame(message::Message::Command(CommandRequest { message_id, value, ..Default::default() }))
}

fn status(message_id: u64) -> Vec<u8> {
    let operation = Some(query::Operation::Status(v1::Status::default()));
    let value = v1::Query { operation, ..v1::Query::default() };
    let value = value.encode_to_vec().into();
    frame(message::Message::Query(QueryRequest { message_id, value, ..Default::default() }))
}

/// The numbers of the requests that the next answers are to.
fn answered(client: &mut TcpStream, count: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let mut prefix = [0; 5];
        client.read_exact(&mut prefix).expect("an answer");
        let size = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let mut payload = vec![0; usize_from_u32(size)];
        client.read_exact(&mut payload).expect("a whole answer");
        let message = Message::decode(&payload[..]).expect("an answer of ours");
        numbers.push(match message.message {
            Some(message::Message::CommandResponse(response)) => response.message_id,
            Some(message::Message::QueryResponse(response)) => response.message_id,
            other => panic!("no answer: {other:?}"),
        });
    }
    numbers
}

#[test]
fn turn_takes_no_more_of_requests_that_concern_all_partitions_than_it_takes_of_others() {
    const COUNT: u64 = 60;
    let node = Arc::new(Node::new(1, 10).expect("a node"));
    let (mut listeners, address) = listen(([127, 0, 0, 1], 0).into(), 1).expect("a port");
    let ring = Uring::new(RingSize::default()).expect("a ring");
    let disk = Disk::new(Arc::clone(&node), None);
    let listener = listeners.pop().expect("one listener");
    let mesh = meshes(1).pop().expect("one mesh");
    let mut event_loop = EventLoop::new(service(), ring, disk, listener, node, mesh);
    let mut client = TcpStream::connect(address).expect("a connection");
    let requests = (0..COUNT).flat_map(|number| match number % 3 {
        2 => status(number),
        _ => clear(number),
    });
    client.write_all(&requests.collect::<Vec<_>>()).expect("requests sent");
    let all = COUNT / 3 * 2 * u64::from(PARTITION_COUNT);
    let (mut before, mut most) = (0, 0);
    while event_loop.metrics().answers_count < COUNT {
        event_loop.turn().expect("a working loop");
        let commands = event_loop.service.shard.counters().commands;
        most = most.max(commands - before);
        before = commands;
    }
    assert_eq!(before, all);
    let partition_count = u64::from(PARTITION_COUNT);
    assert!(most > 5 * partition_count, "{most} partitions at most were cleared in a turn");
    assert!(most < u64_from(TURN_REQUEST_COUNT_MAX) + partition_count, "{most} in a turn");
    let reader = std::thread::spawn(move || answered(&mut client, COUNT));
    while !reader.is_finished() {
        event_loop.turn().expect("a working loop");
    }
    // What was put off keeps its place. (The node's status is nothing that a shard is asked for:
    // that answer is the first of its pass.)
    let (statuses, clears): (Vec<u64>, Vec<u64>) =
        reader.join().expect("a reader").into_iter().partition(|number| number % 3 == 2);
    assert!(statuses.is_sorted() && clears.is_sorted(), "{statuses:?} {clears:?}");
    assert_eq!(statuses.len() + clears.len(), 60);
}
