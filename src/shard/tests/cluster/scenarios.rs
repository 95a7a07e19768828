//! Scenarios of the specification that concern clients, maps and whole messages: the table is in
//! `nopaxos/tests/scenarios.rs`.

use super::*;
use crate::proto::atomix::map::{
    CommandResponse, GapCommitRequest, Ping, StartView, SyncCommit, SyncRepair, ViewChange,
    ViewChangeRequest, ViewId,
};
use crate::proto::atomix::primitive::Name;

#[test]
fn s29_large_transfer_goes_on_across_broken_connections_and_stops_nobody() {
    let mut net = Net::start_as(1, Form { log_segment_count: 8, ..Form::default() });
    net.wait_until_ready();
    net.kill(2);
    net.run_for(2 * NS_PER_S);
    // One partition alone has more than its log keeps: its checkpoint is of several chunks.
    let keys: Vec<String> = (0..2_000).map(|number| format!("k{number}")).collect();
    let of_one = keys.into_iter().filter(|key| partition_of(key) == partition_of("k0"));
    let keys: Vec<String> = of_one.take(60).collect();
    let mut written = BTreeMap::new();
    for round in 0..6 {
        for key in &keys {
            let value = format!("{round}{}", "x".repeat(100 << 10));
            assert!(matches!(net.put(key, &value), Some(Outcome::Written(_))));
            written.insert(key.clone(), value);
        }
    }
    net.run_for(NS_PER_S);
    // Which chunks of which checkpoint are asked for: the number is the request's.
    let asked = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let asks = std::rc::Rc::clone(&asked);
    net.loses = Some(Box::new(move |from, _, message| {
        if let message::Message::ViewRepair(repair) = message
            && from == 2
            && repair.checkpoint > 0
        {
            asks.borrow_mut().push((repair.checkpoint, repair.message_id));
        }
        false
    }));
    drop(crate::base::mark::take());
    net.boot(2);
    let mut breaks = 0;
    for round in 0..400 {
        net.run_for(5 * NS_PER_MS);
        if net.replica(2, "k0").sync_point() >= net.replica(0, "k0").sync_point() {
            break;
        }
        for other in [0, 1] {
            net.disconnect(2, other, false);
            net.connect(2, other);
        }
        breaks += 1;
        // Who writes elsewhere doesn't wait for the transfer.
        let before = net.clock;
        let put = net.put("elsewhere", &format!("{round}"));
        assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
        assert!(net.clock.since_ns(before) <= 50 * NS_PER_MS);
    }
    net.loses = None;
    net.wait_until_whole(2);
    net.assert_converged();
    net.assert_has(&written);
    let marks = crate::base::mark::take();
    assert!(breaks > 3, "{breaks} breaks");
    assert!(marks.contains_key("checkpoint-received"), "{marks:?}");
    let asked = asked.borrow();
    let newest = asked.iter().max().expect("chunks are asked for").0;
    let chunks: Vec<u64> =
        asked.iter().filter(|(of, _)| *of == newest).map(|(_, chunk)| *chunk).collect();
    assert!(chunks.is_sorted(), "a transfer began anew: {chunks:?}");
}

/// A client with a session, which tries again until it is told what came of its command.
struct Client {
    session: u64,
    sequence: u64,
}

impl Client {
    fn open(net: &mut Net, key: &str) -> Self {
        let node = net.stamper(key).expect("somebody stamps");
        let operation = Some(command::Operation::OpenSession(v1::OpenSession { ttl_ms: 0 }));
        let open = v1::Command { operation, ..v1::Command::default() };
        let correlation = net.host(node).send_command(Some(partition_of(key)), &open);
        match net.answer(node, correlation) {
            Some(Outcome::Session(session)) => Self { session: session.session_id, sequence: 0 },
            other => panic!("no session: {other:?}"),
        }
    }

    fn next(&mut self, key: &str, value: &str) -> v1::Command {
        self.sequence += 1;
        v1::Command {
            map: "m".into(),
            session_id: self.session,
            sequence: self.sequence,
            operation: Some(put(key, value)),
            ..v1::Command::default()
        }
    }
}

#[test]
fn s39_command_of_a_session_is_executed_once_wherever_it_is_retried() {
    for seed in 0..6 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        let mut client = Client::open(&mut net, "k");
        let mut versions = Vec::new();
        let mut retried = Vec::new();
        for round in 0..12 {
            let command = client.next("k", &format!("{round}"));
            let node = net.stamper("k").expect("somebody stamps");
            net.host(node).send_command(None, &command);
            // Nobody hears the first answer; sometimes its node is gone with it.
            for _ in 0..net.prng.below(60) {
                net.step();
            }
            let killed = (round % 4 == 1).then_some(node);
            if let Some(node) = killed {
                net.kill(node);
                net.run_for(2 * NS_PER_S);
            }
            // Three times, at any nodes that are there: those that don't stamp say so.
            let mut answers = Vec::new();
            while answers.len() < 3 {
                for node in (0..NODE_COUNT).filter(|node| killed != Some(*node)) {
                    let correlation = net.host(node).send_command(None, &command);
                    match net.answer(node, correlation) {
                        Some(Outcome::Written(written)) => answers.push(written.version),
                        Some(Outcome::Error(error)) if error.code() == Code::Unavailable => {}
                        other => panic!("seed {seed}, round {round}: {other:?}"),
                    }
                }
            }
            assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
            versions.push(answers[0]);
            retried.push(command);
            if let Some(node) = killed {
                net.boot(node);
                net.wait_until_ready();
            }
            net.run_for(NS_PER_S);
        }
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!(net.get("k").as_deref(), Some("11"));
        // What the client has acknowledged is not kept, and never executed again.
        let mut last = client.next("k", "last");
        last.ack_below = 8;
        let node = net.stamper("k").expect("somebody stamps");
        let correlation = net.host(node).send_command(None, &last);
        assert!(matches!(net.answer(node, correlation), Some(Outcome::Written(_))));
        for (command, version) in retried.iter().zip(versions) {
            let correlation = net.host(node).send_command(None, command);
            match net.answer(node, correlation) {
                Some(Outcome::Error(error)) if command.sequence < 8 => {
                    assert_eq!(error.code(), Code::SessionExpired);
                }
                Some(Outcome::Written(written)) if command.sequence >= 8 => {
                    assert_eq!(written.version, version);
                }
                other => panic!("{}: {other:?}", command.sequence),
            }
        }
        assert_eq!(net.get("k").as_deref(), Some("last"));
        net.assert_converged();
    }
}

/// A view, as a message names it.
fn view(leader: &str, term_id: u64) -> Option<ViewId> {
    Some(ViewId { leader_id: leader.to_owned(), term_id })
}

/// Names and views that can't be.
fn hostile_names(leader: &str, sender: &str) -> Vec<message::Message> {
    let ping = |sender: &str, view_id| {
        message::Message::Ping(Ping { sender_id: sender.to_owned(), view_id })
    };
    let (sender_id, view_id) = (sender.to_owned(), view(leader, u64::MAX));
    let request = ViewChangeRequest { sender_id, view_id: view_id.clone() };
    vec![
        ping(if sender == "a" { "b" } else { "a" }, view(leader, 1)),
        ping(sender, view("z", 1)),
        ping(sender, view_id),
        ping(sender, None),
        message::Message::ViewChangeRequest(request),
    ]
}

/// What no member says: in each message one thing is wrong.
fn hostile(partition: u32, leader: &str, sender: &str) -> Vec<Message> {
    let (good, sender_id) = (view(leader, 1), sender.to_owned());
    let end = u64::MAX;
    let messages = [
        // 2⁶³ no-ops, says the filter.
        message::Message::ViewChange(ViewChange {
            sender_id: sender_id.clone(),
            view_id: good.clone(),
            no_op_filter: vec![1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 127].into(),
            first_log_index: 1,
            last_log_index: 1 << 62,
            ..ViewChange::default()
        }),
        message::Message::StartView(StartView {
            sender_id: sender_id.clone(),
            view_id: good.clone(),
            message_id: 1,
            first_log_index: 1,
            last_log_index: end,
            ..StartView::default()
        }),
        message::Message::SyncRepair(SyncRepair {
            sender_id: sender_id.clone(),
            view_id: good.clone(),
            indexs: vec![9, 10, 3, 4],
            ..SyncRepair::default()
        }),
        message::Message::SyncCommit(SyncCommit {
            sender_id: sender_id.clone(),
            view_id: good.clone(),
            sync_point: end,
            ..SyncCommit::default()
        }),
        message::Message::GapCommit(GapCommitRequest {
            sender_id: sender_id.clone(),
            view_id: good.clone(),
            index: end,
        }),
        message::Message::CommandResponse(CommandResponse {
            message_id: end,
            sender_id,
            view_id: good,
            index: end,
            ..CommandResponse::default()
        }),
        message::Message::Command(CommandRequest {
            term_id: end,
            message_id: 1,
            value: vec![1].into(),
            ..CommandRequest::default()
        }),
    ];
    let target = |name| Some(Name { name, namespace: "test".to_owned() });
    let all = hostile_names(leader, sender)
        .into_iter()
        .chain(messages)
        .map(|message| Message { target: target(format!("#{partition}")), message: Some(message) });
    let elsewhere = Message {
        target: target("#999".to_owned()),
        message: Some(message::Message::Ping(Ping::default())),
    };
    all.chain([elsewhere, Message::default()]).collect()
}

/// That none of it takes more memory than it is long: `peer_fuzz`'s
/// `hostile_frames_become_little_more_than_they_are`.
#[test]
fn s40_group_goes_on_whatever_a_member_or_a_client_sends() {
    let mut net = Net::start(1);
    net.wait_until_ready();
    net.put_all(0..10, "a");
    let names = ["a", "b", "c"];
    let mut refused_count = 0;
    for round in 0..40 {
        let (from, to) = (round % 3, (round + 1 + round / 3 % 2) % 3);
        let partition = u32::try_from(round).unwrap() % PARTITION_COUNT;
        let leader = names[(1 + usize_from_u32(partition)) % 3];
        let mut frames: Vec<Bytes> = hostile(partition, leader, names[from])
            .into_iter()
            .map(|message| message.encode_to_vec().into())
            .collect();
        for _ in 0..10 {
            let size = net.prng.below(200);
            frames.push((0..size).map(|_| net.prng.next_u64().to_le_bytes()[0]).collect());
        }
        let views = net.views();
        let frames_count = frames.len();
        net.host(to).asked.refused = Some(Vec::new());
        let before: u64 = net.host(to).shard.core.peer_drops.iter().sum();
        for payload in frames {
            net.host(to).handle(Input::Peer { from: id(from), payload });
        }
        let after: u64 = net.host(to).shard.core.peer_drops.iter().sum();
        let refused = net.host(to).asked.refused.take().unwrap();
        assert!(refused.iter().all(|node| *node == id(from)));
        let noticed = usize_from(after - before) + refused.len();
        assert!(noticed >= frames_count, "{noticed} of {frames_count} are noticed");
        assert_eq!(net.views(), views, "a hostile message changes a view");
        refused_count += refused.len();
        // Such a connection is ended, and made anew.
        if !refused.is_empty() {
            net.disconnect(from, to, false);
            net.connect(from, to);
        }
        let key = format!("k{round}");
        assert!(matches!(net.put(&key, "b"), Some(Outcome::Written(_))));
    }
    assert!(refused_count > 0);
    // A client can't stamp.
    let stamped = CommandRequest { term_id: 1, message_id: 1, ..CommandRequest::default() };
    let message = Some(message::Message::Command(stamped));
    let payload = Message { target: None, message }.encode_to_vec();
    assert!(decode_cold(&payload).is_err());
    net.assert_converged();
}

#[test]
fn s44_each_of_two_clients_gets_its_own_answer_to_what_was_doubled_or_dropped() {
    for seed in 0..6 {
        let mut net = Net::start_as(seed, Form { sequencer_offset: 1, ..Form::default() });
        net.wait_until_ready();
        let mut one = Client::open(&mut net, "k");
        let mut other = Client::open(&mut net, "k");
        assert_ne!(one.session, other.session);
        let node = net.stamper("k").expect("somebody stamps");
        // Nobody but the sequencer ever has this command where it is stamped first.
        let dropped = std::rc::Rc::new(std::cell::Cell::new(None));
        let first = std::rc::Rc::clone(&dropped);
        net.loses = Some(Box::new(move |_, _, message| {
            let message::Message::Command(command) = message else { return false };
            let holds = command.value.windows(4).any(|bytes| bytes == b"DROP");
            let place = (command.term_id, command.message_id);
            if holds && first.get().is_none() {
                first.set(Some(place));
            }
            first.get() == Some(place)
        }));
        // All in one turn: a command twice, one that is dropped, and one that shows the gap.
        let (mine, theirs) = (one.next("k", "one"), other.next("k", "DROP"));
        let asked = [&mine, &theirs, &mine, &one.next("k", "two")]
            .map(|command| net.host(node).send_command(None, command));
        let mut answers = BTreeMap::new();
        for _ in 0..200 {
            net.run_for(NS_PER_S / 100);
            answers.extend(net.host(node).answers());
        }
        let answers =
            asked.map(|correlation| match answers.get(&correlation).map(|all| &all[..]) {
                Some([(_, Outcome::Written(written))]) => written.version,
                other => panic!("seed {seed}: {other:?}"),
            });
        let [mine, theirs, again, two] = answers;
        assert_eq!(mine, again);
        assert!(mine < two && two < theirs, "{answers:?}");
        assert!(dropped.get().is_some());
        net.loses = None;
        // The last in the log is what was dropped first and stamped anew, once.
        assert_eq!(net.get("k").as_deref(), Some("DROP"));
        net.assert_converged();
        let no_ops = net.replica(node, "k").log().no_ops().len();
        assert!(no_ops <= 1, "{no_ops}");
    }
}
