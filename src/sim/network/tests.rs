use super::super::schedule::Schedule;
use super::*;
use crate::base::time::NS_PER_US;

const CLIENT: Endpoint = Endpoint::Client(ClientId(1));
const A: Endpoint = Endpoint::Node(NodeId(0));
const B: Endpoint = Endpoint::Node(NodeId(1));
const PEERS: Lane = Lane::Peer(ShardId(0), PartitionId(0));

fn weather() -> NetworkWeather {
    NetworkWeather {
        delay_ns: 50 * NS_PER_US,
        jitter_ns: 100 * NS_PER_US,
        pieces_one_in: 3,
        resend_percent: 100,
    }
}

/// A network with its schedule, and what its ends were told.
struct World {
    network: Network,
    schedule: Schedule<NetworkEvent>,
    /// Bytes by connection and end.
    received: BTreeMap<(ConnectionId, Side), Vec<u8>>,
    opened: Vec<ConnectionId>,
    closed: Vec<(ConnectionId, Endpoint)>,
    listens: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            network: Network::new(seed, weather()),
            schedule: Schedule::default(),
            received: BTreeMap::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            listens: true,
        }
    }

    /// Lets everything happen that is due until `until`.
    fn run_until(&mut self, until: Monotonic) {
        self.schedule.at(until, NetworkEvent::Unblocked { from: CLIENT, to: CLIENT });
        loop {
            for (due, event) in self.network.take_events().collect::<Vec<_>>() {
                self.schedule.at(due, event);
            }
            let Some(event) = self.schedule.advance() else { return };
            let now = self.schedule.now();
            match event {
                NetworkEvent::Dialed(id) if self.listens => {
                    self.network.accept(now, id);
                }
                NetworkEvent::Dialed(id) => self.network.refuse(now, id),
                NetworkEvent::Opened(id) => self.opened.push(id),
                NetworkEvent::Arrival { connection, to } => {
                    let bytes = self.network.arrivals(now, connection, to).concat();
                    self.received.entry((connection, to)).or_default().extend(bytes);
                }
                NetworkEvent::Closed { connection, end, .. } => {
                    self.network.forget(connection);
                    self.closed.push((connection, end));
                }
                NetworkEvent::Unblocked { from: CLIENT, to: CLIENT } if now >= until => return,
                NetworkEvent::Unblocked { from, to } => self.network.on_unblocked(now, from, to),
            }
        }
    }

    fn run(&mut self) {
        self.run_until(self.schedule.now().after_ns(5_000 * NS_PER_MS));
    }

    fn now(&self) -> Monotonic {
        self.schedule.now()
    }

    fn open(&mut self, from: Endpoint, to: Endpoint, lane: Lane) -> ConnectionId {
        let id = self.network.dial(self.now(), from, to, lane);
        self.run();
        assert!(self.opened.contains(&id));
        id
    }

    fn send(&mut self, id: ConnectionId, from: Side, text: &str) {
        self.network.send(self.now(), id, from, text.as_bytes().to_vec());
    }

    fn received(&self, id: ConnectionId, to: Side) -> String {
        let bytes = self.received.get(&(id, to)).cloned().unwrap_or_default();
        String::from_utf8(bytes).unwrap()
    }
}

#[test]
fn bytes_arrive_whole_and_in_their_order_in_whatever_pieces() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        let id = world.open(CLIENT, A, Lane::Client);
        let texts: Vec<String> = (0..40).map(|number| format!("<{number}>")).collect();
        for text in &texts {
            world.send(id, Side::Dialer, text);
            world.send(id, Side::Acceptor, text);
        }
        world.run();
        assert_eq!(world.received(id, Side::Acceptor), texts.concat());
        assert_eq!(world.received(id, Side::Dialer), texts.concat());
    }
}

#[test]
fn way_that_carries_much_falls_behind_until_it_is_healed() {
    for seed in 0..10 {
        for is_healed in [false, true] {
            let mut world = World::new(seed);
            let id = world.open(CLIENT, A, Lane::Client);
            if is_healed {
                let now = world.now();
                world.network.heal(now);
            }
            for _ in 0..1_000 {
                world.send(id, Side::Dialer, "<>");
                world.run_until(world.now().after_ns(10 * NS_PER_US));
            }
            let NetworkWeather { delay_ns, jitter_ns, .. } = weather();
            world.run_until(world.now().after_ns(delay_ns + 2 * jitter_ns));
            let came = world.received(id, Side::Acceptor).len();
            assert_eq!(came == 2_000, is_healed, "seed {seed}: {came} bytes of 2,000");
        }
    }
}

#[test]
fn connections_overtake_each_other() {
    let overtakes = (0..50).any(|seed| {
        let mut world = World::new(seed);
        let [one, other] = [(); 2].map(|()| world.open(CLIENT, A, Lane::Client));
        world.send(one, Side::Dialer, "first");
        world.send(other, Side::Dialer, "second");
        let mut came = Vec::new();
        for _ in 0..500 {
            world.run_until(world.now().after_ns(NS_PER_US));
            for id in [one, other] {
                if !world.received(id, Side::Acceptor).is_empty() && !came.contains(&id) {
                    came.push(id);
                }
            }
        }
        came == [other, one]
    });
    assert!(overtakes);
}

#[test]
fn break_loses_what_is_on_its_way_and_tells_both_ends() {
    let mut world = World::new(1);
    let id = world.open(CLIENT, A, Lane::Client);
    world.send(id, Side::Dialer, "arrives");
    world.run();
    world.send(id, Side::Dialer, "lost");
    let now = world.now();
    world.network.break_off(now, id);
    world.send(id, Side::Dialer, "nowhere");
    world.run();
    assert_eq!(world.received(id, Side::Acceptor), "arrives");
    let mut closed = world.closed.clone();
    closed.sort_unstable();
    assert_eq!(closed, [(id, A), (id, CLIENT)]);
    assert!(world.network.ends(id).is_none());
}

#[test]
fn closing_end_still_gets_through_what_it_has_sent() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let id = world.open(CLIENT, A, Lane::Client);
        world.send(id, Side::Acceptor, "the last words");
        let now = world.now();
        world.network.close(now, id, Side::Acceptor);
        world.run();
        assert_eq!(world.received(id, Side::Dialer), "the last words");
        assert_eq!(world.closed, [(id, CLIENT)]);
    }
}

#[test]
fn block_of_one_direction_holds_what_is_sent_there_and_nothing_else() {
    let mut world = World::new(4);
    let id = world.open(A, B, PEERS);
    let until = world.now().after_ns(100 * NS_PER_MS);
    world.network.block(A, B, until);
    world.send(id, Side::Dialer, "one");
    world.send(id, Side::Acceptor, "other");
    world.run_until(until.after_ns(0));
    assert_eq!(world.received(id, Side::Acceptor), "");
    assert_eq!(world.received(id, Side::Dialer), "other");
    // What is sent when nothing blocks any more doesn't overtake what was held.
    world.send(id, Side::Dialer, " two");
    world.run();
    assert_eq!(world.received(id, Side::Acceptor), "one two");
}

#[test]
fn connection_does_not_outlive_a_long_silence() {
    let mut world = World::new(4);
    let id = world.open(A, B, PEERS);
    let until = world.now().after_ns(2 * SILENCE_NS_MAX);
    world.network.block(A, B, until);
    world.send(id, Side::Dialer, "never");
    world.run();
    assert_eq!(world.received(id, Side::Acceptor), "");
    assert_eq!(world.closed.len(), 2);
}

#[test]
fn dialler_learns_that_nobody_listens_or_nobody_can_be_reached() {
    let mut world = World::new(4);
    world.listens = false;
    let refused = world.network.dial(world.now(), CLIENT, A, Lane::Client);
    world.run();
    assert_eq!(world.closed, [(refused, CLIENT)]);
    world.listens = true;
    let (now, until) = (world.now(), world.now().after_ns(NS_PER_MS));
    world.network.block(A, CLIENT, until);
    let silent = world.network.dial(now, CLIENT, A, Lane::Client);
    world.run();
    assert_eq!(world.closed[1..], [(silent, CLIENT)]);
}

#[test]
fn what_was_kept_is_sent_again_after_a_reconnection_and_nothing_else() {
    for (is_kept, expected) in [(true, "abc"), (false, "")] {
        let mut world = World::new(9);
        let first = world.open(A, B, PEERS);
        for text in ["a", "b", "c"] {
            world.send(first, Side::Dialer, text);
            if is_kept {
                world.network.keep(first, Side::Dialer, text.into());
            }
        }
        world.run();
        let now = world.now();
        world.network.break_off(now, first);
        world.run();
        let second = world.open(A, B, PEERS);
        let now = world.now();
        let count = world.network.resend(now, second, Side::Dialer);
        world.run();
        assert_eq!(world.received(first, Side::Acceptor), "abc");
        // The last so many of them, as they were.
        assert_eq!(world.received(second, Side::Acceptor), expected[expected.len() - count..]);
    }
}

#[test]
fn end_that_is_gone_takes_its_connections_along() {
    let mut world = World::new(2);
    let gone = world.open(A, B, PEERS);
    let other = world.open(CLIENT, B, Lane::Client);
    world.send(gone, Side::Dialer, "lost");
    let now = world.now();
    world.network.end_gone(now, A, true);
    world.run();
    assert_eq!(world.received(gone, Side::Acceptor), "");
    assert_eq!(world.closed, [(gone, B)]);
    assert_eq!(world.network.open_connections().collect::<Vec<_>>(), [other]);
}
