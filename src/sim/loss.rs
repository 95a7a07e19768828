//! Single messages between members that are lost: stamped commands, and what is said of slots that
//! become no-ops.
//!
//! A stream loses nothing in its middle; but what is lost with a connection, while the next thing
//! said arrives over another one, is lost all the same, and by breaking connections alone it hardly
//! ever hits a command and all its repetitions. So messages are taken out of what a member sends,
//! whole and before they are on their way, for some of those to whom it is sent and for some time:
//! with a sequencer that isn't the leader, nobody can tell the leader then what was stamped.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::NodeId;
use super::swarm::pick;
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::proto::atomix::map::Message;
use crate::proto::atomix::map::message::Message as Kind;
use crate::wire::frame::{self, Flag};

/// How long a message is lost each time that it is sent.
const LOST_MS: [u64; 4] = [20, 50, 150, 600];

/// What is lost: all that says the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    /// A partition's stamped command of this term and number.
    Command(String, u64, u64),
    /// That a slot of a partition is a no-op in this view.
    NoOp(String, u64, u64),
}

/// Messages that are lost.
#[derive(Debug)]
pub struct Losses {
    prng: Prng,
    node_count: u8,
    /// Until when more are chosen.
    until: Monotonic,
    /// How many of them are.
    one_in: u64,
    /// What was met in that time: on its way to which nodes it is lost, to none perhaps, and until
    /// when.
    chosen: BTreeMap<Lost, (Vec<NodeId>, Monotonic)>,
}

impl Losses {
    /// Nothing is lost.
    #[must_use]
    pub fn new(seed: u64, node_count: usize) -> Self {
        Self {
            prng: Prng::new(seed, "losses"),
            node_count: u8::try_from(node_count).unwrap_or(u8::MAX),
            until: Monotonic(0),
            one_in: 1,
            chosen: BTreeMap::new(),
        }
    }

    /// From now on until then some messages are chosen. How many, in words.
    pub fn begin(&mut self, until: Monotonic) -> String {
        self.until = until;
        self.one_in = *pick(&mut self.prng, &[2, 8, 40]);
        format!("and all: one in {} until {}", self.one_in, until.0 / NS_PER_MS)
    }

    /// Nothing is lost any more.
    pub fn heal(&mut self) {
        self.until = Monotonic(0);
        self.chosen.clear();
    }

    /// What is left of the frames that a member sends to another one.
    ///
    /// # Panics
    /// If they aren't whole frames with messages: that was looked at before.
    #[must_use]
    pub fn sift(&mut self, now: Monotonic, to: NodeId, bytes: Vec<u8>) -> Vec<u8> {
        if now >= self.until {
            self.chosen.retain(|_, (_, until)| now < *until);
            if self.chosen.is_empty() {
                return bytes;
            }
        }
        let (mut left, mut bytes) = (Vec::new(), Bytes::from(bytes));
        while let Some((header, payload)) = frame::next(&bytes).expect("frames are sent") {
            let whole = bytes.split_to(payload.end);
            let message = (header.flag == Flag::Message).then(|| whole.slice(payload));
            if !message.is_some_and(|payload| self.is_lost(now, to, payload)) {
                left.extend_from_slice(&whole);
            }
        }
        left
    }

    fn is_lost(&mut self, now: Monotonic, to: NodeId, payload: Bytes) -> bool {
        let message = Message::decode(payload).expect("messages are sent");
        let Some(lost) = Lost::of(message) else { return false };
        if !self.chosen.contains_key(&lost) && now < self.until {
            let (nodes, until) = self.choose(now);
            self.chosen.insert(lost.clone(), (nodes, until));
        }
        let chosen = self.chosen.get(&lost);
        chosen.is_some_and(|(nodes, until)| now < *until && nodes.contains(&to))
    }

    /// To whom a message doesn't get that was met for the first time, and until when.
    fn choose(&mut self, now: Monotonic) -> (Vec<NodeId>, Monotonic) {
        let is_chosen = self.prng.one_in(self.one_in);
        let lost_ns = pick(&mut self.prng, &LOST_MS) * NS_PER_MS;
        let nodes = (0..self.node_count).map(NodeId);
        let nodes = nodes.filter(|_| !self.prng.one_in(4) && is_chosen).collect();
        (nodes, now.after_ns(lost_ns))
    }
}

impl Lost {
    /// `None`: it is nothing that is lost.
    fn of(message: Message) -> Option<Self> {
        let partition = message.target?.name;
        match message.message? {
            Kind::Command(command) if command.term_id > 0 => {
                Some(Self::Command(partition, command.term_id, command.message_id))
            }
            Kind::GapCommit(request) => {
                Some(Self::NoOp(partition, request.view_id?.term_id, request.index))
            }
            Kind::GapCommitResponse(response) => {
                Some(Self::NoOp(partition, response.view_id?.term_id, response.index))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::base::time::NS_PER_S;
    use crate::proto::atomix::map::{CommandRequest, GapCommitRequest, GapCommitResponse, ViewId};
    use crate::proto::atomix::primitive::Name;

    fn frame_of(kind: Kind) -> Vec<u8> {
        let target = Some(Name { name: "#3".to_owned(), namespace: String::new() });
        let mut bytes = BytesMut::new();
        frame::encode(&mut bytes, Flag::Message, &Message { target, message: Some(kind) });
        bytes.to_vec()
    }

    fn command(term_id: u64, message_id: u64) -> Vec<u8> {
        frame_of(Kind::Command(CommandRequest { term_id, message_id, ..CommandRequest::default() }))
    }

    fn no_ops(index: u64) -> [Vec<u8>; 2] {
        let (view_id, sender_id) =
            (Some(ViewId { term_id: 7, ..ViewId::default() }), String::new());
        let request = GapCommitRequest { sender_id: sender_id.clone(), view_id, index };
        let view_id = request.view_id.clone();
        let response = GapCommitResponse { sender_id, view_id, index };
        [frame_of(Kind::GapCommit(request)), frame_of(Kind::GapCommitResponse(response))]
    }

    /// Losses at work for a second.
    fn losses(seed: u64) -> Losses {
        let mut losses = Losses::new(seed, 3);
        losses.begin(Monotonic(NS_PER_S));
        losses
    }

    #[test]
    fn what_is_lost_is_lost_again_and_comes_through_in_time() {
        let (mut lost_count, mut runs) = (0, 0);
        for (seed, number) in (0..20).flat_map(|seed| (1..20).map(move |number| (seed, number))) {
            let (mut losses, to, sent) = (losses(seed), NodeId(1), command(7, number));
            let left = losses.sift(Monotonic(0), to, sent.clone());
            assert!(left.is_empty() || left == sent, "all of it or nothing");
            let again = losses.sift(Monotonic(NS_PER_MS), to, sent.clone());
            assert_eq!(again, left, "seed {seed}: a repetition fares like the first");
            let late = Monotonic(NS_PER_S + LOST_MS[3] * NS_PER_MS);
            assert_eq!(losses.sift(late, to, sent.clone()), sent);
            (lost_count, runs) = (lost_count + usize::from(left.is_empty()), runs + 1);
        }
        assert!((20..runs / 2).contains(&lost_count), "{lost_count} of {runs}");
    }

    #[test]
    fn only_stamped_commands_and_no_ops_are_lost_and_the_rest_stays_in_order() {
        let (unstamped, hello) = (command(0, 9), [Flag::Hello.byte(), 0, 0, 0, 0].to_vec());
        let mut has_lost = [false; 3];
        for seed in 0..50 {
            let [request, response] = no_ops(4);
            let lost = [command(7, 1), request, response];
            let [a, b, c] = lost.clone();
            let sent = [hello.clone(), a, unstamped.clone(), b, c, unstamped.clone()].concat();
            let left = losses(seed).sift(Monotonic(0), NodeId(2), sent);
            let is_there = |frame: &Vec<u8>| left.windows(frame.len()).any(|part| part == frame);
            let kept = lost.each_ref().map(is_there);
            assert_eq!(kept[1], kept[2], "who isn't asked doesn't answer");
            let of = |place: usize| if kept[place] { lost[place].clone() } else { Vec::new() };
            let rest = [hello.clone(), of(0), unstamped.clone(), of(1), of(2), unstamped.clone()];
            assert_eq!(left, rest.concat());
            has_lost = std::array::from_fn(|place| has_lost[place] || !kept[place]);
        }
        assert_eq!(has_lost, [true; 3]);
    }

    #[test]
    fn nothing_is_lost_before_it_begins_nor_once_all_is_healed() {
        let sent: Vec<u8> = (1..200).flat_map(|number| command(7, number)).collect();
        let mut losses = Losses::new(1, 3);
        assert_eq!(losses.sift(Monotonic(0), NodeId(1), sent.clone()), sent);
        losses.begin(Monotonic(NS_PER_S));
        assert_ne!(losses.sift(Monotonic(0), NodeId(1), sent.clone()), sent);
        losses.heal();
        assert_eq!(losses.sift(Monotonic(1), NodeId(1), sent.clone()), sent);
    }
}
