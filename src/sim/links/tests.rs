use super::*;
use crate::base::shards::ShardMap;
use crate::base::time::NS_PER_US;
use crate::sim::network::NetworkEvent;
use crate::sim::schedule::Schedule;
use crate::sim::swarm::NetworkWeather;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const PARTITION_COUNT: u32 = 8;
const SHARD: ShardId = ShardId(0);

/// A node with one shard, one with several, and what is between them.
struct Pair {
    network: Network,
    schedule: Schedule<NetworkEvent>,
    links: [Links; 2],
    /// The shards of B: how many.
    shards: ShardMap,
    /// What each received, and on which connection.
    received: [Vec<(ConnectionId, Frame)>; 2],
    listens: bool,
    refused_count: usize,
}

fn frame_of(flag: Flag, text: &str) -> Vec<u8> {
    let mut frame = vec![flag.byte()];
    frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

impl Pair {
    fn new(shard_count: u16, resend_percent: u64) -> Self {
        let weather = NetworkWeather {
            delay_ns: 50 * NS_PER_US,
            jitter_ns: 100 * NS_PER_US,
            pieces_one_in: 2,
            resend_percent,
        };
        let mut links = [Links::new(A), Links::new(B)];
        let all = || (0..PARTITION_COUNT).map(PartitionId).collect();
        links[0].want(SHARD, B, all());
        // B has the higher id, and waits.
        links[1].want(SHARD, A, all());
        Self {
            network: Network::new(5, weather),
            schedule: Schedule::default(),
            links,
            shards: ShardMap::new(PARTITION_COUNT, shard_count),
            received: Default::default(),
            listens: true,
            refused_count: 0,
        }
    }

    fn run(&mut self, ns: u64) {
        let until = self.schedule.now().after_ns(ns);
        let (from, to) = (Endpoint::Node(A), Endpoint::Node(A));
        self.schedule.at(until, NetworkEvent::Unblocked { from, to });
        while self.schedule.now() < until {
            let now = self.schedule.now();
            for links in &mut self.links {
                links.dial(now, &mut self.network);
                if let Some(due) = links.next_dial() {
                    self.schedule.at(due, NetworkEvent::Unblocked { from, to });
                }
            }
            for (due, event) in self.network.take_events().collect::<Vec<_>>() {
                self.schedule.at(due, event);
            }
            let event = self.schedule.advance().expect("the end is to come");
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: NetworkEvent) {
        let (now, network) = (self.schedule.now(), &mut self.network);
        match event {
            NetworkEvent::Dialed(id) if self.listens => {
                network.accept(now, id);
                let Some((_, _, Lane::Peer(_, partition))) = network.ends(id) else { return };
                let shard = self.shards.owner(partition);
                self.links[1].on_accepted(id, shard, A);
                let hello = frame_of(Flag::Hello, &shard.to_string());
                network.send(now, id, Side::Acceptor, hello);
            }
            NetworkEvent::Dialed(id) => network.refuse(now, id),
            NetworkEvent::Opened(id) => {
                assert_eq!(self.links[0].on_opened(id), Some(SHARD));
                network.send(now, id, Side::Dialer, frame_of(Flag::Hello, "A"));
                network.resend(now, id, Side::Dialer);
            }
            NetworkEvent::Arrival { connection, to } => {
                let bytes = network.arrivals(now, connection, to).concat();
                let place = usize::from(to == Side::Acceptor);
                let frames = self.links[place].on_bytes(connection, &bytes).expect("whole frames");
                for frame in frames {
                    if place == 0 && frame.flag == Flag::Hello {
                        let shard = std::str::from_utf8(&frame.payload).unwrap().parse().unwrap();
                        let all = self.shards.partitions_of(ShardId(shard));
                        self.links[0].on_greeted(now, connection, all);
                    }
                    self.received[place].push((connection, frame));
                }
            }
            NetworkEvent::Closed { connection, end, refused } => {
                network.forget(connection);
                let place = usize::from(end == Endpoint::Node(B));
                let gone = self.links[place].on_closed(now, connection);
                assert!(!refused || matches!(gone, Some(Gone::Dialed(SHARD, B))), "{gone:?}");
                self.refused_count += usize::from(refused);
            }
            NetworkEvent::Unblocked { from, to } => network.on_unblocked(now, from, to),
        }
    }

    /// Says something on each of A's connections.
    fn say(&mut self, text: &str) {
        let now = self.schedule.now();
        for (connection, side) in self.links[0].open().collect::<Vec<_>>() {
            self.network.send(now, connection, side, frame_of(Flag::Message, text));
            self.network.keep(connection, side, frame_of(Flag::Message, text));
        }
    }

    /// What B heard, but for hellos.
    fn texts(&self) -> Vec<String> {
        let messages = self.received[1].iter().filter(|(_, frame)| frame.flag == Flag::Message);
        messages.map(|(_, frame)| String::from_utf8(frame.payload.to_vec()).unwrap()).collect()
    }

    fn break_all(&mut self) {
        let open: Vec<ConnectionId> = self.network.open_connections().collect();
        for id in open {
            self.network.break_off(self.schedule.now(), id);
        }
    }
}

#[test]
fn shard_is_connected_once_to_each_shard_that_shares_partitions_with_it() {
    for shard_count in [1, 2, 3, 8] {
        let mut pair = Pair::new(shard_count, 0);
        pair.run(50 * NS_PER_MS);
        let shards: Vec<ShardId> = pair.links[1].open.values().map(|link| link.shard).collect();
        assert_eq!(shards, (0..shard_count).map(ShardId).collect::<Vec<_>>());
        assert_eq!(pair.network.open_connections().count(), usize::from(shard_count));
        assert_eq!(pair.links[0].next_dial(), None);
    }
}

#[test]
fn what_is_said_on_a_connection_comes_whole_and_in_order() {
    let mut pair = Pair::new(1, 0);
    pair.run(50 * NS_PER_MS);
    let said: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    said.iter().for_each(|text| pair.say(text));
    pair.run(50 * NS_PER_MS);
    assert_eq!(pair.texts(), said);
    assert!(pair.received.iter().all(|frames| frames[0].1.flag == Flag::Hello));
}

#[test]
fn connection_that_breaks_is_dialled_again_and_some_messages_come_twice() {
    let mut pair = Pair::new(1, 100);
    pair.run(50 * NS_PER_MS);
    ["a", "b", "c"].iter().for_each(|text| pair.say(text));
    pair.run(50 * NS_PER_MS);
    pair.break_all();
    pair.run(50 * NS_PER_MS);
    pair.say("d");
    pair.run(50 * NS_PER_MS);
    let texts = pair.texts();
    assert_eq!(texts[..3], ["a", "b", "c"]);
    let again: Vec<&str> = texts[3..texts.len() - 1].iter().map(String::as_str).collect();
    assert!(["a", "b", "c"].ends_with(&again), "{texts:?}");
    assert_eq!(texts.last().unwrap(), "d");
}

#[test]
fn process_that_ended_sends_nothing_again() {
    let mut pair = Pair::new(1, 100);
    pair.run(50 * NS_PER_MS);
    pair.say("of an earlier life");
    pair.run(50 * NS_PER_MS);
    pair.network.forget_sent(Endpoint::Node(A));
    pair.break_all();
    pair.run(50 * NS_PER_MS);
    assert_eq!(pair.texts().len(), 1);
}

#[test]
fn who_is_not_there_is_dialled_ever_less_often() {
    let mut pair = Pair::new(1, 0);
    pair.listens = false;
    pair.run(3_000 * NS_PER_MS);
    assert!((30..50).contains(&pair.refused_count), "{} times", pair.refused_count);
    pair.listens = true;
    pair.run(2 * BACKOFF_NS_MAX);
    assert_eq!(pair.network.open_connections().count(), 1);
}

#[test]
fn bytes_that_are_no_frame_are_refused() {
    let mut pair = Pair::new(1, 0);
    pair.run(50 * NS_PER_MS);
    let connection = pair.network.open_connections().next().expect("one is open");
    pair.links[1].on_bytes(connection, &[9, 9, 9]).expect_err("no frame begins so");
    assert_eq!(pair.links[1].on_bytes(ConnectionId(99), b"x"), Ok(Vec::new()), "nobody's");
}
