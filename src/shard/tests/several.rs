//! Several shards of one node, joined as a node joins them: what a client is told doesn't depend on
//! how many there are.

use super::*;
use crate::base::limits::{
    ENTRIES_SIZE_BYTES_MAX, ENTRY_STREAM_COUNT_MAX, GATHER_COUNT_MAX, SHARE_COUNT_MAX,
};
use crate::map::operation::cold::encode_query;
use crate::map::operation::{Consistency, Query, QueryOperation};
use crate::shard::share::{Part, ShareAnswer, ShareRequest};

/// The shards of a node. Clients are connected to one of them.
struct Node {
    hosts: Vec<Host>,
    shards: ShardMap,
    home: usize,
    next_correlation: u64,
    next_guest: u32,
    /// Shares that other shards have taken in and not answered: by shard and place, who asked.
    asked: BTreeMap<(usize, u32), (usize, AskId)>,
    /// This one answers no shares.
    silent: Option<usize>,
}

impl Node {
    fn start(shard_count: u16, home: usize, durability: Durability) -> Self {
        let boot =
            |shard| Host::boot_one((shard, shard_count), Disk::default(), durability, 1, u64::MAX);
        let mut hosts: Vec<Host> = (0..shard_count).map(ShardId).map(boot).collect();
        // They start at different speeds; from here on they have one clock.
        let now = hosts.iter().map(|host| host.now).max_by_key(|now| now.monotonic).unwrap();
        for host in &mut hosts {
            host.now.monotonic = now.monotonic;
            host.now.wall = Timestamp(10_000 * NS_PER_S);
        }
        let shards = ShardMap::new(PARTITION_COUNT, shard_count);
        Self {
            hosts,
            shards,
            home,
            next_correlation: 0,
            next_guest: 0,
            asked: BTreeMap::new(),
            silent: None,
        }
    }

    fn advance(&mut self, ns: u64) {
        for host in &mut self.hosts {
            host.advance(ns);
        }
    }

    fn guest(&mut self, from: usize) -> Origin {
        self.next_guest += 1;
        let home = ShardId(u16::try_from(from).unwrap());
        Origin { home, connection: self.next_guest, ..Origin::default() }
    }

    fn command(&mut self, operation: command::Operation) -> u64 {
        let value =
            v1::Command { map: "m".into(), operation: Some(operation), ..v1::Command::default() };
        let message_id = self.next_correlation + 1;
        let value = value.encode_to_vec().into();
        let request = CommandRequest { message_id, value, ..CommandRequest::default() };
        self.request(message::Message::Command(request), None)
    }

    fn query(&mut self, operation: query::Operation) -> u64 {
        self.query_of(operation, None)
    }

    fn query_of(&mut self, operation: query::Operation, target: Option<&str>) -> u64 {
        let value =
            v1::Query { map: "m".into(), operation: Some(operation), ..v1::Query::default() };
        let message_id = self.next_correlation + 1;
        let value = value.encode_to_vec().into();
        let request = QueryRequest { message_id, value, ..QueryRequest::default() };
        self.request(message::Message::Query(request), target)
    }

    /// Hands a client's request to the shard that is to handle it, as a host does.
    fn request(&mut self, message: message::Message, target: Option<&str>) -> u64 {
        self.advance(1_000);
        self.next_correlation += 1;
        let target = target.map(|name| Name { name: name.to_owned(), namespace: String::new() });
        let payload = Message { target, message: Some(message) }.encode_to_vec();
        let cold = decode_cold(&payload).expect("it is well-formed");
        let acceptance = Acceptance { cluster: "test", value_size_bytes_max: 2 << 20 };
        let request = cold.request(acceptance).expect("it is valid");
        let route = Router::new(PARTITION_COUNT).route(&request).expect("it has a route");
        let owner = match route {
            Route::Partition(partition) => usize::from(self.shards.owner(partition).0),
            Route::All | Route::Node => self.home,
        };
        let home = ShardId(u16::try_from(self.home).unwrap());
        let origin = match owner == self.home {
            true => Origin { home, ..Origin::default() },
            false => self.guest(self.home),
        };
        self.hosts[owner].handle(Input::Request(RoutedRequest { origin, route, request }));
        self.next_correlation
    }

    /// Brings what shards ask each other, one message, or lets one of them go on.
    fn step(&mut self) -> bool {
        for from in 0..self.hosts.len() {
            if let Some((to, ask, request)) = self.hosts[from].asked.asks.pop_front() {
                let origin = self.guest(from);
                let to = usize::from(to.0);
                self.asked.insert((to, origin.connection), (from, ask));
                self.hosts[to].handle(Input::ShareAsked { origin, request: &request });
                return true;
            }
        }
        for from in 0..self.hosts.len() {
            let ended = self.hosts[from].asked.guests.iter().find(|(_, (_, ended))| *ended);
            if let Some(place) = ended.map(|(place, _)| *place) {
                let (answer, _) = self.hosts[from].asked.guests.remove(&place).unwrap();
                match self.asked.remove(&(from, place)) {
                    _ if self.silent == Some(from) => {}
                    Some((to, ask)) => {
                        self.hosts[to].handle(Input::ShareAnswered { ask, answer: &answer });
                    }
                    // A forwarded request's: it goes to the client.
                    None => self.hosts[self.home].asked.replies.extend_from_slice(&answer),
                }
                return true;
            }
        }
        let now = self.hosts[0].now.monotonic;
        for host in &mut self.hosts {
            if host.shard.next_deadline().is_some_and(|due| due <= now) {
                host.handle(Input::Deadline);
                return true;
            }
        }
        false
    }

    fn run(&mut self) {
        while self.step() {}
    }

    /// Completes the writes of all shards, too.
    fn run_disks(&mut self) {
        loop {
            self.run();
            for host in &mut self.hosts {
                host.run();
            }
            if !self.step() {
                return;
            }
        }
    }

    /// The answers to a request, as they were encoded.
    fn answer_to(&mut self, correlation: u64) -> Vec<(u64, Outcome)> {
        self.run();
        self.hosts[self.home].answers().remove(&correlation).unwrap_or_default()
    }

    fn outcome(&mut self, correlation: u64) -> Outcome {
        let answers = self.answer_to(correlation);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.into_iter().next().unwrap().1
    }
}

fn entries(limit: u32, start_after: Bytes) -> query::Operation {
    query::Operation::Entries(v1::Entries { limit, start_after, ..v1::Entries::default() })
}

/// Everything that a client is told: a history of puts, lists of all kinds, sizes and a clear.
fn history(shard_count: u16, home: usize) -> Vec<Bytes> {
    let mut node = Node::start(shard_count, home, Durability::None);
    let mut prng = Prng::new(7, "history");
    let mut told = Vec::new();
    let mut tell = |node: &mut Node| {
        node.run();
        told.push(node.hosts[node.home].asked.replies.split().freeze());
    };
    for number in 0..300 {
        // A few are as long as half an answer, so that bytes end some of them.
        let size = if prng.one_in(40) { ENTRIES_SIZE_BYTES_MAX / 2 } else { 5 };
        node.command(put(&format!("key {number}"), &"v".repeat(size)));
        tell(&mut node);
    }
    node.query(query::Operation::Size(v1::Size {}));
    tell(&mut node);
    for limit in [0, 1, 3, 7, 50, 299, 300, 301, 10_000] {
        let mut start_after = Bytes::new();
        for _ in 0..400 {
            let listed = node.query(entries(limit, start_after));
            node.run();
            let replies = node.hosts[home].asked.replies.clone();
            let pages = node.answer_to(listed);
            node.hosts[home].asked.replies = replies;
            tell(&mut node);
            let next = pages.iter().rev().find_map(|(_, outcome)| match outcome {
                Outcome::Page(page) => Some(page.next.clone()),
                _ => None,
            });
            start_after = next.expect("there is a page");
            if start_after.is_empty() {
                break;
            }
        }
        assert!(start_after.is_empty(), "a list of pages of {limit} ends");
    }
    for partition in 0..PARTITION_COUNT {
        let target = format!("#{partition}");
        node.query_of(entries(9, Bytes::new()), Some(&target));
        tell(&mut node);
        node.query_of(query::Operation::Size(v1::Size {}), Some(&target));
        tell(&mut node);
    }
    node.query(query::Operation::Entries(v1::Entries {
        prefix: Bytes::from_static(b"key 1"),
        keys_only: true,
        ..v1::Entries::default()
    }));
    tell(&mut node);
    node.command(command::Operation::Clear(v1::Clear {}));
    tell(&mut node);
    node.query(query::Operation::Size(v1::Size {}));
    tell(&mut node);
    node.query(entries(0, Bytes::new()));
    tell(&mut node);
    told
}

#[test]
fn clients_are_told_the_same_to_the_byte_by_any_number_of_shards() {
    let alone = history(1, 0);
    assert!(alone.len() > 300);
    for (shard_count, home) in [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (8, 5)] {
        let several = history(shard_count, home);
        assert_eq!(several.len(), alone.len(), "{shard_count} shards, a client of {home}");
        for (place, (one, other)) in alone.iter().zip(&several).enumerate() {
            assert!(one == other, "{shard_count} shards, a client of {home}: answer {place}");
        }
    }
}

#[test]
fn clear_waits_for_the_logs_of_all_shards() {
    let mut node = Node::start(3, 1, Durability::Sync);
    for number in 0..30 {
        node.command(put(&format!("key {number}"), "v"));
    }
    node.run_disks();
    node.hosts[1].answers();
    let cleared = node.command(command::Operation::Clear(v1::Clear {}));
    node.run();
    for shard in [0, 1] {
        node.hosts[shard].run();
        assert!(node.answer_to(cleared).is_empty(), "shard 2 hasn't written it");
    }
    node.run_disks();
    assert!(matches!(node.outcome(cleared), Outcome::Cleared(cleared) if cleared.entries == 30));
}

#[test]
fn clear_that_another_shard_does_not_answer_has_an_unknown_outcome_and_its_late_answer_is_ignored()
{
    let mut node = Node::start(2, 0, Durability::Sync);
    let cleared = node.command(command::Operation::Clear(v1::Clear {}));
    node.run();
    node.hosts[0].run();
    node.advance(2 * NS_PER_S);
    // Only the client's shard looks at the clock.
    node.hosts[0].handle(Input::Deadline);
    let answers = node.hosts[0].answers();
    assert_eq!(error_code(&answers[&cleared]), Some(Code::OutcomeUnknown));
    // Another one has its place by the time the answer comes.
    let again = node.command(command::Operation::Clear(v1::Clear {}));
    node.run_disks();
    let answers = node.hosts[0].answers();
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [again]);
    assert!(matches!(&answers[&again][..], [(0, Outcome::Cleared(_))]), "{answers:?}");
    assert!(node.hosts.iter().all(|host| host.shard.core.gathers.is_empty()));
}

#[test]
fn reads_that_another_shard_does_not_answer_are_given_up() {
    for operation in [query::Operation::Size(v1::Size {}), entries(0, Bytes::new())] {
        let mut node = Node::start(2, 0, Durability::None);
        node.silent = Some(1);
        let asked = node.query(operation);
        assert!(node.answer_to(asked).is_empty());
        node.advance(2 * NS_PER_S);
        node.run();
        let answers = node.hosts[0].answers();
        assert_eq!(error_code(&answers[&asked]), Some(Code::Unavailable));
        assert_eq!(node.hosts[0].asked.finished_count, 1, "the client's request has ended");
        assert!(node.hosts[0].shard.core.gathers.is_empty());
        assert!(node.hosts[0].shard.core.asked_streams.is_empty());
    }
}

#[test]
fn clear_that_another_shard_refuses_does_not_claim_that_nothing_was_changed() {
    let mut node = Node::start(2, 0, Durability::None);
    node.hosts[1].handle(Input::Close);
    let cleared = node.command(command::Operation::Clear(v1::Clear {}));
    let Outcome::Error(error) = node.outcome(cleared) else { panic!("it was not done everywhere") };
    assert_eq!(error.code(), Code::OutcomeUnknown);
    assert!(error.message.starts_with("4 partitions were cleared, others not"), "{error:?}");
    // Where none has done anything, the reason is what it is.
    node.hosts[0].handle(Input::Close);
    let cleared = node.command(command::Operation::Clear(v1::Clear {}));
    let Outcome::Error(error) = node.outcome(cleared) else { panic!("it was done nowhere") };
    assert_eq!(error.code(), Code::Unavailable);
}

#[test]
fn list_whose_client_is_gone_asks_no_further_shard() {
    let mut node = Node::start(3, 0, Durability::None);
    for number in 0..30 {
        node.command(put(&format!("key {number}"), "v"));
    }
    node.run();
    node.hosts[0].asked.gone = true;
    let before = node.hosts[0].asked.finished_count;
    node.query(entries(0, Bytes::new()));
    node.run();
    assert_eq!(node.hosts[0].asked.finished_count, before + 1, "finished, and once");
    assert!(node.hosts.iter().all(|host| host.shard.core.asked_streams.is_empty()));
}

#[test]
fn operations_on_whole_maps_are_bounded() {
    let mut node = Node::start(2, 0, Durability::None);
    for _ in 0..GATHER_COUNT_MAX {
        node.query(query::Operation::Size(v1::Size {}));
    }
    assert!(node.hosts[0].answers().is_empty(), "the other shard hasn't heard of them");
    let refused = node.query(query::Operation::Size(v1::Size {}));
    let answers = node.hosts[0].answers();
    assert_eq!(error_code(&answers[&refused]), Some(Code::ResourceExhausted));
    node.run();
    assert_eq!(node.hosts[0].answers().len(), GATHER_COUNT_MAX);
}

#[test]
fn shard_that_stands_still_is_asked_for_a_bounded_number_of_shares_however_soon_they_are_given_up()
{
    for clears in [true, false] {
        let mut node = Node::start(3, 0, Durability::None);
        // The other two hear nothing.
        let ask = |node: &mut Node| match clears {
            true => node.command(command::Operation::Clear(v1::Clear {})),
            false => node.query(entries(0, Bytes::new())),
        };
        let mut refused = None;
        for _ in 0..2 * GATHER_COUNT_MAX / ENTRY_STREAM_COUNT_MAX * 3 {
            for _ in 0..ENTRY_STREAM_COUNT_MAX {
                let before = node.hosts[0].asked.asks.len();
                let asked = ask(&mut node);
                if let Some(answers) = node.hosts[0].answers().remove(&asked) {
                    assert_eq!(error_code(&answers), Some(Code::ResourceExhausted));
                    assert_eq!(node.hosts[0].asked.asks.len(), before, "before anything is sent");
                    refused = Some(asked);
                }
            }
            node.advance(2 * NS_PER_S);
            node.hosts[0].handle(Input::Deadline);
            node.hosts[0].answers();
        }
        assert!(refused.is_some());
        let most = 2 * SHARE_COUNT_MAX + ENTRY_STREAM_COUNT_MAX;
        assert!(node.hosts[0].asked.asks.len() <= most);
        // Once the others have caught up all is well.
        node.run();
        assert_eq!(node.hosts[0].shard.core.shares_pending, 0);
        node.hosts[0].answers();
        let asked = ask(&mut node);
        assert_eq!(error_code(&node.answer_to(asked)), None);
    }
}

#[test]
fn streams_that_another_shard_asks_for_are_bounded() {
    let mut node = Node::start(2, 0, Durability::None);
    let query = Query {
        map: "m",
        consistency: Consistency::Linearizable,
        min_index: Index(0),
        timeout_ms: 0,
        no_forward: false,
        operation: QueryOperation::Entries {
            prefix: b"",
            start_after: b"",
            limit: 10,
            keys_only: false,
        },
    };
    let part = Part {
        correlation: 5,
        first: 4,
        last: 7,
        size_bytes_left: ENTRIES_SIZE_BYTES_MAX,
        sent_page: false,
    };
    let mut request = BytesMut::new();
    ShareRequest::Entries(part, &encode_query(&query)).encode(&mut request);
    for _ in 0..=ENTRY_STREAM_COUNT_MAX {
        let origin = node.guest(0);
        let Host { shard, asked, now, .. } = &mut node.hosts[1];
        shard.handle(*now, Input::ShareAsked { origin, request: &request }, asked);
    }
    let host = &mut node.hosts[1];
    assert_eq!(host.shard.core.streams.len(), ENTRY_STREAM_COUNT_MAX);
    let ended: Vec<_> = host.asked.guests.values().filter(|(_, ended)| *ended).collect();
    assert_eq!(ended.len(), 1);
    let ShareAnswer::Ended { failed: true, frames } = ShareAnswer::decode(&ended[0].0) else {
        panic!("it is refused")
    };
    host.asked.replies = frames.into();
    assert_eq!(error_code(&host.answers()[&5]), Some(Code::ResourceExhausted));
}
