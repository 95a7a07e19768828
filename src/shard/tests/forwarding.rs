//! Clients may ask any node: what it can't answer it passes on, once, and says what it knows of the
//! rest.

use super::cluster::{NODE_COUNT, Net, id};
use super::*;
use crate::base::limits::{FORWARDED_COUNT_MAX, OPERATION_TIMEOUT_NS_DEFAULT};
use crate::nopaxos::Group;
use crate::wire::peer::{Body, Forwarded, Link, PeerEncoder, decode};
use crate::wire::request::FORWARDED;

impl Net {
    /// A cluster that is ready, a node that doesn't stamp for the key "k", and the one that does.
    fn ready(seed: u64) -> (Self, usize, usize) {
        let mut net = Self::start(seed);
        net.wait_until_ready();
        for node in 0..NODE_COUNT {
            let addresses = (0..NODE_COUNT).map(|node| format!("host-{node}:1").into());
            net.host(node).shard.know_addresses(addresses.collect());
        }
        let stamper = net.stamper("k").expect("it is ready");
        (net, (stamper + 1) % NODE_COUNT, stamper)
    }

    fn ask(&mut self, node: usize, operation: query::Operation) -> Option<Outcome> {
        let correlation = self.host(node).query(operation);
        self.answer(node, correlation)
    }

    fn put_at(&mut self, node: usize, key: &str, value: &str) -> Option<Outcome> {
        let correlation = self.host(node).put(key, value);
        self.answer(node, correlation)
    }

    /// The only answer to a request.
    fn answered(&mut self, node: usize, correlation: u64) -> Outcome {
        let mut answers = self.host(node).answers().remove(&correlation).expect("it is answered");
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0).1
    }

    /// All frames of a streamed answer.
    fn pages(&mut self, node: usize, entries: v1::Entries) -> Vec<(u64, Outcome)> {
        let correlation = self.host(node).query(query::Operation::Entries(entries));
        let mut frames = Vec::new();
        for _ in 0..200 {
            let mut answers = self.host(node).answers();
            frames.extend(answers.remove(&correlation).unwrap_or_default());
            let is_end = |(_, outcome): &(u64, Outcome)| !matches!(outcome, Outcome::Page(_));
            if frames.iter().any(is_end) {
                return frames;
            }
            self.run_for(NS_PER_S / 100);
        }
        panic!("the list doesn't end: {frames:?}");
    }

    fn view_of(&mut self, node: usize, key: &str) -> (PartitionId, Group, TermId) {
        let shard = &self.host(node).shard;
        let partition = shard.core.router.partition_of_key(key.as_bytes());
        let view = &shard.partitions[shard.place(partition)].view;
        (partition, view.group.clone(), view.term)
    }

    /// Hands a node what another one passes on or answers.
    fn hand_over(&mut self, from: usize, to: usize, group: &Group, forwarded: &Forwarded) {
        let members = (0..group.count()).map(|place| ["a", "b", "c"][place].to_owned());
        let members: Vec<String> = members.collect();
        let sender = Group::new(group.partition(), members.clone(), &members[from]);
        let mut frame = BytesMut::new();
        let mut encoder = PeerEncoder::new("test", &sender);
        encoder.encode_forwarded(&mut frame, &sender, forwarded).expect("it is short");
        let payload = frame.freeze().slice(FRAME_PREFIX_SIZE_BYTES..);
        self.host(to).handle(Input::Peer { from: id(from), payload });
    }

    /// What a node has passed on to another one, or answered it, and is under way.
    fn forwarded(&mut self, from: usize, to: usize) -> Vec<Forwarded> {
        self.collect();
        let (_, group, _) = self.view_of(to, "k");
        let link = Link { cluster: "test", peer: ["a", "b", "c"][from] };
        let frames = self.links[&(from, to)].iter();
        let bodies = frames.filter_map(|payload| {
            decode(payload, link, |_| Some(&group)).ok().map(|received| received.body)
        });
        let forwarded = bodies.filter_map(|body| match body {
            Body::Forwarded(forwarded) => Some(forwarded),
            Body::Message(_) => None,
        });
        forwarded.collect()
    }
}

fn error(outcome: Outcome) -> v1::Error {
    let Outcome::Error(error) = outcome else { panic!("no error: {outcome:?}") };
    error
}

fn encoded(error: v1::Error) -> Bytes {
    v1::Result { outcome: Some(Outcome::Error(error)) }.encode_to_vec().into()
}

fn put_command(no_forward: bool) -> v1::Command {
    v1::Command {
        map: "m".into(),
        no_forward,
        operation: Some(put("k", "v")),
        ..v1::Command::default()
    }
}

#[test]
fn any_node_takes_any_request_of_a_key() {
    for seed in 0..4 {
        let (mut net, _, _) = Net::ready(seed);
        for number in 0..30 {
            let key = format!("k{number}");
            let put = net.put_at(number % NODE_COUNT, &key, &format!("{number}"));
            assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
            // Whoever is asked knows of it.
            for node in 0..NODE_COUNT {
                let found = net.ask(node, get(&key));
                let Some(Outcome::Found(v1::Found { entry: Some(entry) })) = found else {
                    panic!("seed {seed}: {key} at node {node}: {found:?}");
                };
                assert_eq!(entry.value, format!("{number}").as_bytes());
            }
        }
        let removed = command::Operation::Remove(v1::Remove {
            key: Bytes::from_static(b"k7"),
            ..v1::Remove::default()
        });
        let removal = net.host(2).command(removed);
        assert!(matches!(net.answer(2, removal), Some(Outcome::Removed(_))));
        let counters = net.nodes.iter().flatten().map(|host| *host.shard.counters());
        let counted: Vec<_> = counters.map(|c| (c.forwarded_out, c.forwarded_in)).collect();
        let sums = counted.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert!(sums.0 > 60 && sums.0 == sums.1, "{counted:?}");
        assert!(net.nodes.iter().flatten().all(|host| host.shard.core.forwards.count() == 0));
        net.assert_converged();
    }
}

#[test]
fn client_that_wants_nothing_passed_on_is_told_who_stamps_and_where() {
    let (mut net, other, stamper) = Net::ready(1);
    let (_, _, term) = net.view_of(other, "k");
    let host = net.host(other);
    let message_id = host.next_correlation + 1;
    let value = put_command(true).encode_to_vec().into();
    let request = CommandRequest { message_id, value, ..CommandRequest::default() };
    let asked = host.request(message::Message::Command(request));
    let query = v1::Query {
        map: "m".into(),
        no_forward: true,
        operation: Some(get("k")),
        ..v1::Query::default()
    };
    let read = host.send_query(&query);
    let mut answers = host.answers();
    for correlation in [asked, read] {
        let (_, outcome) = answers.remove(&correlation).expect("at once").remove(0);
        let error = error(outcome);
        assert_eq!(error.code(), Code::Unavailable);
        let hint = error.hint.expect("it is known");
        assert_eq!((hint.term, &*hint.member), (term.0, ["a", "b", "c"][stamper]));
        assert_eq!(hint.address, format!("host-{stamper}:1"));
    }
    assert!(net.forwarded(other, stamper).is_empty());
}

#[test]
fn what_was_sent_when_the_connection_broke_is_unknown_and_is_answered_once() {
    let (mut net, other, stamper) = Net::ready(2);
    let (written, read) = (net.host(other).put("k", "v"), net.host(other).query(get("k")));
    assert_eq!(net.forwarded(other, stamper).len(), 2);
    // The stamper gets both, and has the answers when the connection is gone.
    for payload in std::mem::take(net.links.get_mut(&(other, stamper)).unwrap()) {
        net.host(stamper).handle(Input::Peer { from: id(other), payload });
    }
    net.disconnect(other, stamper, false);
    net.connect(other, stamper);
    let mut answers = net.host(other).answers();
    let mut code = |correlation| error(answers.remove(&correlation).unwrap().remove(0).1).code();
    assert_eq!((code(written), code(read)), (Code::OutcomeUnknown, Code::Unavailable));
    net.run_for(NS_PER_S);
    assert!(net.host(other).answers().is_empty(), "each is answered once");
    assert_eq!(net.host(other).shard.counters().forwarded_late, 0, "the answer isn't sent");
    assert_eq!(net.get("k").as_deref(), Some("v"), "it was stamped");
}

#[test]
fn what_was_not_sent_is_refused_with_a_hint() {
    let (mut net, other, stamper) = Net::ready(3);
    net.disconnect(other, stamper, false);
    let (written, read) = (net.host(other).put("k", "v"), net.host(other).query(get("k")));
    let mut answers = net.host(other).answers();
    for correlation in [written, read] {
        let error = error(answers.remove(&correlation).expect("at once").remove(0).1);
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(error.hint.expect("it is known").member, ["a", "b", "c"][stamper]);
    }
}

#[test]
fn request_that_is_not_answered_in_time_ends_and_its_late_answer_is_dropped() {
    let (mut net, other, stamper) = Net::ready(4);
    let (written, read) = (net.host(other).put("k", "v"), net.host(other).query(get("k")));
    let sent = net.forwarded(other, stamper);
    net.links.get_mut(&(other, stamper)).unwrap().clear();
    let host = net.host(other);
    host.advance(OPERATION_TIMEOUT_NS_DEFAULT + NS_PER_S);
    host.handle(Input::Deadline);
    let mut answers = host.answers();
    let mut code = |correlation| error(answers.remove(&correlation).unwrap().remove(0).1).code();
    assert_eq!((code(written), code(read)), (Code::OutcomeUnknown, Code::Unavailable));
    // Another request has their place by the time that they are answered.
    let again = host.put("k", "w");
    let (_, group, term) = net.view_of(other, "k");
    for forwarded in sent {
        let correlation = forwarded.correlation();
        let result = encoded(v1::Error { code: Code::Internal.into(), ..v1::Error::default() });
        let index = Index(7);
        let answer = match forwarded {
            Forwarded::Query { .. } => Forwarded::QueryAnswer { correlation, term, index, result },
            _ => Forwarded::CommandAnswer { correlation, term, index, result },
        };
        net.hand_over(stamper, other, &group, &answer);
    }
    let host = net.host(other);
    assert_eq!(host.shard.counters().forwarded_late, 2);
    assert!(host.answers().is_empty() && host.shard.core.forwards.count() == 1);
    host.advance(10 * NS_PER_S);
    host.handle(Input::Deadline);
    assert_eq!(error(net.answered(other, again)).code(), Code::OutcomeUnknown);
}

#[test]
fn only_the_node_that_was_asked_can_answer_and_only_what_it_was_asked() {
    let (mut net, other, stamper) = Net::ready(5);
    let written = net.host(other).put("k", "v");
    let correlation = net.forwarded(other, stamper)[0].correlation();
    let third = (0..NODE_COUNT).find(|node| *node != other && *node != stamper).unwrap();
    let (_, group, term) = net.view_of(other, "k");
    let result = encoded(v1::Error { code: Code::Internal.into(), ..v1::Error::default() });
    let command =
        Forwarded::CommandAnswer { correlation, term, index: Index(1), result: result.clone() };
    let query = Forwarded::QueryAnswer { correlation, term, index: Index(1), result };
    net.hand_over(third, other, &group, &command);
    net.hand_over(stamper, other, &group, &query);
    assert!(net.host(other).answers().is_empty());
    assert_eq!(net.host(other).shard.counters().forwarded_late, 2);
    assert!(matches!(net.answer(other, written), Some(Outcome::Written(_))));
}

#[test]
fn what_was_passed_on_is_not_passed_on_again() {
    let (mut net, other, stamper) = Net::ready(6);
    let third = (0..NODE_COUNT).find(|node| *node != other && *node != stamper).unwrap();
    let (_, group, term) = net.view_of(other, "k");
    let value: Bytes = put_command(false).encode_to_vec().into();
    let command = Forwarded::Command { correlation: FORWARDED | 5, value };
    let query = v1::Query { map: "m".into(), operation: Some(get("k")), ..v1::Query::default() };
    let value = query.encode_to_vec().into();
    let query = Forwarded::Query { correlation: FORWARDED | 6, value };
    for forwarded in [command, query] {
        net.hand_over(other, third, &group, &forwarded);
        assert!(net.forwarded(third, stamper).is_empty());
        let answers = net.forwarded(third, other);
        let (Forwarded::CommandAnswer { correlation, ref result, .. }
        | Forwarded::QueryAnswer { correlation, ref result, .. }) = answers[0]
        else {
            panic!("no answer: {answers:?}")
        };
        assert_eq!(correlation, forwarded.correlation());
        let outcome = v1::Result::decode(result.clone()).unwrap().outcome.unwrap();
        let hint = error(outcome).hint.expect("it knows who stamps");
        assert_eq!((hint.term, &*hint.member), (term.0, ["a", "b", "c"][stamper]));
        net.links.get_mut(&(third, other)).unwrap().clear();
    }
}

#[test]
fn what_belongs_elsewhere_or_only_members_make_is_refused_though_another_node_passes_it_on() {
    let (mut net, other, stamper) = Net::ready(7);
    let (partition, group, _) = net.view_of(other, "k");
    let router = Router::new(PARTITION_COUNT);
    let keys = (0..100).map(|number| format!("x{number}"));
    let elsewhere =
        keys.into_iter().find(|key| router.partition_of_key(key.as_bytes()) != partition);
    let elsewhere = elsewhere.unwrap();
    let tick = v1::Command {
        operation: Some(command::Operation::Tick(v1::Tick {})),
        ..v1::Command::default()
    };
    let foreign = v1::Command { operation: Some(put(&elsewhere, "v")), ..put_command(false) };
    let read =
        v1::Query { map: "m".into(), operation: Some(get(&elsewhere)), ..v1::Query::default() };
    let correlation = FORWARDED | 1;
    for forwarded in [
        Forwarded::Command { correlation, value: tick.encode_to_vec().into() },
        Forwarded::Command { correlation, value: foreign.encode_to_vec().into() },
        Forwarded::Command { correlation, value: Bytes::from_static(b"\xFF") },
        Forwarded::Query { correlation, value: read.encode_to_vec().into() },
        Forwarded::Query { correlation, value: Bytes::from_static(b"\xFF") },
    ] {
        net.hand_over(other, stamper, &group, &forwarded);
        let answers = net.forwarded(stamper, other);
        let (Forwarded::CommandAnswer { ref result, .. }
        | Forwarded::QueryAnswer { ref result, .. }) = answers[0]
        else {
            panic!("no answer: {answers:?}")
        };
        let outcome = v1::Result::decode(result.clone()).unwrap().outcome.unwrap();
        assert_eq!(error(outcome).code(), Code::InvalidArgument, "{forwarded:?}");
        net.links.get_mut(&(stamper, other)).unwrap().clear();
    }
}

#[test]
fn request_that_was_not_stamped_is_tried_once_more_where_a_later_view_is() {
    let (mut net, other, stamper) = Net::ready(8);
    let third = (0..NODE_COUNT).find(|node| *node != other && *node != stamper).unwrap();
    let written = net.host(other).put("k", "v");
    let correlation = net.forwarded(other, stamper)[0].correlation();
    net.links.get_mut(&(other, stamper)).unwrap().clear();
    let (_, group, term) = net.view_of(other, "k");
    let later =
        (term.0 + 1..).map(TermId).find(|later| usize::from(group.sequencer(*later).0) == third);
    let untaken = |term: u64| {
        let hint = Some(v1::Hint { term, ..v1::Hint::default() });
        let code = Code::Unavailable.into();
        encoded(v1::Error { code, hint, ..v1::Error::default() })
    };
    let answer = |correlation, term: u64| Forwarded::CommandAnswer {
        correlation,
        term: TermId(0),
        index: Index(0),
        result: untaken(term),
    };
    net.hand_over(stamper, other, &group, &answer(correlation, later.unwrap().0));
    assert!(net.host(other).answers().is_empty(), "it is under way still");
    let again = net.forwarded(other, third);
    assert_eq!(again.len(), 1, "it is tried where the hint leads");
    // The second refusal is the client's answer, wherever it leads.
    let refused = answer(again[0].correlation(), later.unwrap().0 + 3);
    net.hand_over(third, other, &group, &refused);
    let error = error(net.answered(other, written));
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.hint.unwrap().term, later.unwrap().0 + 3);
    assert_eq!(net.host(other).shard.core.forwards.count(), 0);
}

#[test]
fn refusal_that_knows_of_no_later_view_is_the_answer() {
    let (mut net, other, stamper) = Net::ready(9);
    let written = net.host(other).put("k", "v");
    let correlation = net.forwarded(other, stamper)[0].correlation();
    let (_, group, term) = net.view_of(other, "k");
    for hint in [None, Some(v1::Hint { term: term.0, ..v1::Hint::default() })] {
        let error = v1::Error { code: Code::Unavailable.into(), hint, ..v1::Error::default() };
        let (term, index) = (TermId(0), Index(0));
        let answer = Forwarded::CommandAnswer { correlation, term, index, result: encoded(error) };
        net.hand_over(stamper, other, &group, &answer);
    }
    assert_eq!(error(net.answered(other, written)).code(), Code::Unavailable);
}

#[test]
fn requests_that_are_passed_on_are_bounded() {
    let (mut net, other, _) = Net::ready(10);
    let host = net.host(other);
    for _ in 0..FORWARDED_COUNT_MAX {
        host.query(get("k"));
    }
    assert!(host.answers().is_empty());
    let refused = host.query(get("k"));
    assert_eq!(error(net.answered(other, refused)).code(), Code::ResourceExhausted);
    let big = "v".repeat(1 << 20);
    let (mut net, other, _) = Net::ready(10);
    let host = net.host(other);
    let asked = (0..40).map(|_| host.put("k", &big)).collect::<Vec<_>>();
    let answers = host.answers();
    assert!((5..20).contains(&answers.len()), "{} of {}", answers.len(), asked.len());
}

#[test]
fn requests_follow_the_leader() {
    for seed in 0..4 {
        let (mut net, _, _) = Net::ready(seed);
        for round in 0..4 {
            let victim = net.stamper("k").expect("somebody stamps");
            net.kill(victim);
            let asked = (victim + 1) % NODE_COUNT;
            let mut answers = Vec::new();
            // The client asks the same node again and again.
            while !matches!(answers.last(), Some(Some(Outcome::Written(_)))) {
                assert!(answers.len() < 200, "seed {seed}: {answers:?}");
                answers.push(net.put_at(asked, "k", &format!("{round}")));
                net.run_for(NS_PER_S / 50);
            }
            net.boot(victim);
            net.wait_until_ready();
            let found = net.ask(victim, get("k"));
            let Some(Outcome::Found(v1::Found { entry: Some(entry) })) = found else {
                panic!("seed {seed}: {found:?}");
            };
            assert_eq!(entry.value, format!("{round}").as_bytes());
        }
        net.assert_converged();
    }
}

#[test]
fn whole_maps_are_read_and_cleared_through_any_node() {
    for seed in 0..4 {
        let (mut net, _, _) = Net::ready(seed);
        for number in 0..60 {
            let put = net.put_at(number % NODE_COUNT, &format!("k{number}"), "12345");
            assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
            // Each read reflects each write that was answered before it.
            let size = net.ask((number + 1) % NODE_COUNT, query::Operation::Size(v1::Size {}));
            let Some(Outcome::Size(size)) = size else { panic!("seed {seed}: {size:?}") };
            assert_eq!(size.entries, u64_from(number) + 1);
        }
        for node in 0..NODE_COUNT {
            let mut keys = BTreeSet::new();
            let frames = net.pages(node, v1::Entries::default());
            for (index, outcome) in &frames {
                if let Outcome::Page(page) = outcome {
                    assert!(*index > 0, "a page is of an index of its partition");
                    keys.extend(page.items.iter().map(|item| item.key.clone()));
                }
            }
            assert!(matches!(frames.last(), Some((_, Outcome::QueryClose(_)))), "{frames:?}");
            assert_eq!(keys.len(), 60, "node {node}");
            // And page by page, as a client goes on.
            let (mut keys, mut start_after) = (BTreeSet::new(), Bytes::new());
            for _ in 0..60 {
                let limit = 7;
                let list = v1::Entries { limit, start_after, ..v1::Entries::default() };
                let frames = net.pages(node, list);
                let pages = frames.iter().filter_map(|(_, outcome)| match outcome {
                    Outcome::Page(page) => Some(page),
                    _ => None,
                });
                let before = keys.len();
                start_after = pages.clone().last().expect("there is one").next.clone();
                keys.extend(pages.flat_map(|page| page.items.iter().map(|item| item.key.clone())));
                assert!(keys.len() <= before + 7);
                if start_after.is_empty() {
                    break;
                }
            }
            assert_eq!(keys.len(), 60, "node {node}, in pages");
        }
        let cleared = net.host(1).command(command::Operation::Clear(v1::Clear {}));
        let cleared = net.answer(1, cleared);
        assert!(matches!(&cleared, Some(Outcome::Cleared(c)) if c.entries == 60), "{cleared:?}");
        let size = net.ask(2, query::Operation::Size(v1::Size {}));
        assert!(matches!(&size, Some(Outcome::Size(size)) if size.entries == 0), "{size:?}");
        let idle = |host: &Host| {
            let core = &host.shard.core;
            core.gathers.is_empty() && core.waiting_streams.is_empty() && core.streams.is_empty()
        };
        assert!(net.nodes.iter().flatten().all(idle));
    }
}

#[test]
fn whole_maps_of_which_a_part_does_not_answer_fail_in_bounded_time() {
    let (mut net, other, stamper) = Net::ready(11);
    for number in 0..20 {
        net.put_at(other, &format!("k{number}"), "v");
    }
    net.disconnect(other, stamper, false);
    let size = net.ask(other, query::Operation::Size(v1::Size {}));
    assert_eq!(error(size.expect("it is answered")).code(), Code::Unavailable);
    let frames = net.pages(other, v1::Entries::default());
    let (_, last) = frames.into_iter().last().unwrap();
    assert_eq!(error(last).code(), Code::Unavailable);
    let cleared = net.host(other).command(command::Operation::Clear(v1::Clear {}));
    let cleared = net.answer(other, cleared).expect("it is answered");
    // Others were cleared: nothing less may be claimed.
    assert_eq!(error(cleared).code(), Code::OutcomeUnknown);
}

#[test]
fn node_that_goes_down_passes_on_what_it_is_asked_over_a_connection_that_is_made_then() {
    let (mut net, asked, stamper) = Net::ready(7);
    assert!(matches!(net.put("k", "v"), Some(Outcome::Written(_))));
    net.disconnect(asked, stamper, false);
    net.host(asked).handle(Input::Close);
    let refused = net.ask(asked, get("k")).expect("it is answered");
    assert_eq!(error(refused).code(), Code::Unavailable);
    net.connect(asked, stamper);
    match net.ask(asked, get("k")) {
        Some(Outcome::Found(found)) => assert_eq!(found.entry.expect("it is there").value, "v"),
        other => panic!("it isn't passed on: {other:?}"),
    }
}

#[test]
fn what_a_silent_leader_has_not_answered_is_given_up_when_another_one_leads() {
    let (mut net, other, stamper) = Net::ready(11);
    let (partition, ..) = net.view_of(other, "k");
    let opened = net.host(other).send_command(
        Some(partition),
        &v1::Command {
            operation: Some(command::Operation::OpenSession(v1::OpenSession { ttl_ms: 0 })),
            ..v1::Command::default()
        },
    );
    let Some(Outcome::Session(session)) = net.answer(other, opened) else {
        panic!("a session is opened");
    };
    let in_session = v1::Command {
        session_id: session.session_id,
        sequence: 1,
        ack_below: 1,
        ..put_command(false)
    };
    let written = net.host(other).send_command(None, &in_session);
    let plain = net.host(other).put("k", "w");
    let read = net.host(other).query(get("k"));
    // The connections stay, and nothing comes over them.
    net.loses = Some(Box::new(move |from, to, _| from == stamper || to == stamper));
    net.run_for(NS_PER_S / 2);
    assert_ne!(net.stamper("k"), Some(stamper), "another one leads");
    let mut answers = net.host(other).answers();
    let mut code = |correlation| error(answers.remove(&correlation).unwrap().remove(0).1).code();
    assert_eq!((code(written), code(read)), (Code::OutcomeUnknown, Code::Unavailable));
    // It could not be asked again, and its answer may come yet.
    assert!(answers.is_empty());
    assert_eq!(net.host(other).shard.core.forwards.count(), 1);
    net.run_for(2 * OPERATION_TIMEOUT_NS_DEFAULT);
    assert_eq!(error(net.answered(other, plain)).code(), Code::OutcomeUnknown);
    let again = net.host(other).send_command(None, &in_session);
    let outcome = net.answer(other, again);
    assert!(matches!(outcome, Some(Outcome::Written(_))), "{outcome:?}");
}
