use super::*;
use crate::base::cast::u64_from;
use crate::base::ids::ShardId;
use crate::base::time::NS_PER_US;
use crate::sim::network::NetworkEvent;
use crate::sim::schedule::Schedule;
use crate::sim::swarm::NetworkWeather;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LANE: Lane = Lane::Protocol(ShardId(0), ShardId(1));

/// Two members and what is between them.
struct Pair {
    network: Network,
    schedule: Schedule<NetworkEvent>,
    links: [Links; 2],
    /// What each was sent.
    received: [Vec<Frame>; 2],
    listens: bool,
}

fn frame_of(text: &str) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn hello(of: NodeId) -> Vec<u8> {
    let mut hello = frame_of(&format!("hello of {of}"));
    hello[0] = Flag::Hello.byte();
    hello
}

impl Pair {
    fn new(resend_percent: u64) -> Self {
        let weather = NetworkWeather {
            delay_ns: 50 * NS_PER_US,
            jitter_ns: 100 * NS_PER_US,
            pieces_one_in: 2,
            resend_percent,
        };
        Self {
            network: Network::new(5, weather),
            schedule: Schedule::default(),
            links: [Links::new(A), Links::new(B)],
            received: Default::default(),
            listens: true,
        }
    }

    fn send(&mut self, text: &str) {
        let now = self.schedule.now();
        self.links[0].send(now, &mut self.network, (B, LANE), frame_of(text));
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
                let (_, _, lane) = network.ends(id).expect("it was accepted");
                self.links[1].on_accepted(now, network, id, ((A, lane), hello(B)));
            }
            NetworkEvent::Dialed(id) => network.refuse(now, id),
            NetworkEvent::Opened(id) => self.links[0].on_opened(now, network, id, hello(A)),
            NetworkEvent::Arrival { connection, to } => {
                let bytes = network.arrivals(now, connection, to).concat();
                let place = usize::from(to == Side::Acceptor);
                let frames = self.links[place].on_bytes(connection, &bytes).expect("whole frames");
                self.received[place].extend(frames);
            }
            NetworkEvent::Closed { connection, end } => {
                network.forget(connection);
                let place = usize::from(end == Endpoint::Node(B));
                self.links[place].on_closed(now, connection);
            }
            NetworkEvent::Unblocked { from, to } => network.on_unblocked(now, from, to),
        }
    }

    /// The texts that B received, but for hellos.
    fn texts(&self) -> Vec<String> {
        let messages = self.received[1].iter().filter(|frame| frame.flag == Flag::Message);
        messages.map(|frame| String::from_utf8(frame.payload.to_vec()).unwrap()).collect()
    }

    fn break_all(&mut self) {
        let open: Vec<ConnectionId> = self.network.open_connections().collect();
        for id in open {
            self.network.break_off(self.schedule.now(), id);
        }
    }
}

#[test]
fn first_frame_of_each_direction_is_a_hello_and_the_rest_comes_in_order() {
    let mut pair = Pair::new(0);
    for number in 0..20 {
        pair.send(&number.to_string());
    }
    pair.run(50 * NS_PER_MS);
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(pair.texts(), expected);
    for place in [0, 1] {
        let hellos = pair.received[place].iter().filter(|frame| frame.flag == Flag::Hello);
        assert_eq!(hellos.count(), 1);
        assert_eq!(pair.received[place][0].flag, Flag::Hello);
    }
}

#[test]
fn answer_goes_back_on_the_connection_that_brought_the_question() {
    let mut pair = Pair::new(0);
    pair.send("question");
    pair.run(50 * NS_PER_MS);
    let connection = pair.network.open_connections().next().expect("one is open");
    assert_eq!(pair.links[1].way(connection), Some((A, LANE)));
    let now = pair.schedule.now();
    let answers =
        |pair: &mut Pair| pair.links[1].answer(now, &mut pair.network, connection, frame_of("yes"));
    assert!(answers(&mut pair));
    pair.run(50 * NS_PER_MS);
    assert_eq!(pair.received[0].last().unwrap().payload, "yes");
    pair.break_all();
    pair.run(NS_PER_MS);
    assert!(!answers(&mut pair), "it is gone");
}

#[test]
fn line_that_breaks_is_dialled_again_and_some_messages_come_twice() {
    let mut pair = Pair::new(100);
    for text in ["a", "b", "c"] {
        pair.send(text);
    }
    pair.run(50 * NS_PER_MS);
    pair.break_all();
    pair.run(NS_PER_MS);
    pair.send("d");
    pair.run(200 * NS_PER_MS);
    let texts = pair.texts();
    assert_eq!(texts[..3], ["a", "b", "c"]);
    let again = &texts[3..texts.len() - 1];
    assert!(["a", "b", "c"].ends_with(&again.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(texts.last().unwrap(), "d");
    let hellos = pair.received[1].iter().filter(|frame| frame.flag == Flag::Hello);
    assert_eq!(hellos.count(), 2, "one for each connection, and never sent again");
}

#[test]
fn who_is_not_there_is_dialled_ever_less_often_and_what_waits_is_bounded() {
    let mut pair = Pair::new(0);
    pair.listens = false;
    for number in 0..SIMULATED_WAITING_COUNT_MAX + 7 {
        pair.send(&number.to_string());
    }
    pair.run(3_000 * NS_PER_MS);
    assert_eq!(pair.links[0].dropped_count(), 7);
    pair.listens = true;
    pair.run(2 * BACKOFF_NS_MAX);
    let texts = pair.texts();
    assert_eq!(texts.len(), SIMULATED_WAITING_COUNT_MAX);
    assert_eq!(texts[0], "7", "the oldest were given up");
    assert_eq!(u64_from(pair.network.open_connections().count()), 1);
}

#[test]
fn bytes_that_are_no_frame_are_refused() {
    let mut pair = Pair::new(0);
    pair.send("a");
    pair.run(50 * NS_PER_MS);
    let connection = pair.network.open_connections().next().expect("one is open");
    pair.links[1].on_bytes(connection, &[9, 9, 9]).expect_err("no frame begins so");
    assert_eq!(pair.links[1].on_bytes(ConnectionId(99), b"x"), Ok(Vec::new()), "nobody's");
}
