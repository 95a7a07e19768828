//! Time goes on in partitions that nobody writes to.

use super::*;
use crate::base::limits::{EXPIRED_PER_SLOT_COUNT_MAX, TICKS_PER_TURN_COUNT_MAX};

fn put_for(key: &str, ttl_ms: u64) -> command::Operation {
    let command::Operation::Put(put) = put(key, "value") else { unreachable!("a put is a put") };
    command::Operation::Put(v1::Put { ttl_ms, ..put })
}

fn size(host: &mut Host) -> u64 {
    let correlation = host.query(query::Operation::Size(v1::Size {}));
    match host.answers().remove(&correlation).map(|mut answers| answers.remove(0).1) {
        Some(Outcome::Size(size)) => size.entries,
        other => panic!("no answer to a size: {other:?}"),
    }
}

#[test]
fn entry_that_expires_is_there_until_a_tick_that_is_final_removes_it() {
    for durability in [Durability::Sync, Durability::None] {
        let mut host = Host::start(durability);
        host.command(put_for("k", 5_000));
        host.command(put("other", "value"));
        host.run();
        assert_eq!(host.get("k").as_deref(), Some("value"));
        host.advance(5 * NS_PER_S);
        // What is told may not be taken back: until the tick is durable nothing else may be told.
        assert_eq!(host.get("k").as_deref(), Some("value"), "nothing is logged yet");
        assert_eq!(size(&mut host), 2, "not removed yet");
        assert!(host.shard.next_deadline().is_some_and(|due| due <= host.now.monotonic));
        host.handle(Input::Deadline);
        let found = host.get("k");
        let is_durable = durability == Durability::None;
        assert_eq!(found.is_none(), is_durable, "the tick is under way");
        host.run();
        assert_eq!((host.get("k"), size(&mut host)), (None, 1));
        assert_eq!(host.get("other").as_deref(), Some("value"));
        let mut answers = host.answers();
        assert!(answers.is_empty(), "nobody asked for the tick: {answers:?}");
        answers.clear();
    }
}

#[test]
fn absent_entry_never_comes_back_whenever_the_node_crashes_and_whatever_its_clock_says_then() {
    let mut prng = Prng::new(3, "crashes");
    let mut absent_count = 0;
    for boot in 0..40 {
        let mut host = Host::start(Durability::Sync);
        // It expires at 2,500 s, 1,500 s after the first start; the second one is at 2,000 s.
        host.command(put_for("k", 1_500_000));
        host.run();
        host.answers();
        host.advance(1_500 * NS_PER_S);
        host.handle(Input::Deadline);
        for _ in 0..prng.below(4) {
            host.log_step(0);
        }
        let before = host.get("k");
        let mut host = host.crash(&mut prng, 2);
        let after = host.get("k");
        assert!(before.is_some() || after.is_none(), "boot {boot}: absent, then there");
        absent_count += usize::from(before.is_none());
    }
    assert!(
        (5..35).contains(&absent_count),
        "{absent_count}: before and after the tick is durable"
    );
}

#[test]
fn what_a_tick_has_removed_stays_so_after_a_start_with_an_earlier_clock() {
    let mut host = Host::start(Durability::Sync);
    host.command(put_for("k", 1_500_000));
    host.run();
    host.advance(3_000 * NS_PER_S);
    host.handle(Input::Deadline);
    host.run();
    // At 2,000 s, before the entry would have expired.
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    assert_eq!((host.get("k"), size(&mut host)), (None, 0));
}

#[test]
fn entry_that_expires_while_the_node_is_down_is_removed_after_the_start() {
    let mut host = Host::start(Durability::Sync);
    host.command(put_for("k", 500_000));
    host.command(put_for("later", 5_000_000));
    host.run();
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    host.wait();
    host.run();
    assert_eq!((host.get("k"), host.get("later").as_deref()), (None, Some("value")));
    host.advance(NS_PER_S);
    host.handle(Input::Deadline);
    host.run();
    assert_eq!(size(&mut host), 1);
}

#[test]
fn many_that_expire_at_once_are_removed_a_bounded_number_a_turn() {
    let mut host = Host::start(Durability::None);
    let per_turn = EXPIRED_PER_SLOT_COUNT_MAX * TICKS_PER_TURN_COUNT_MAX;
    // One partition has them all: their keys have one hash tag.
    let count = u64_from(2 * per_turn + 10);
    for number in 0..count {
        host.command(put_for(&format!("{{tag}}{number}"), 5_000));
    }
    host.run();
    host.answers();
    host.advance(60 * NS_PER_S);
    host.handle(Input::Deadline);
    assert_eq!(size(&mut host), count - u64_from(per_turn));
    for left in [10, 0] {
        host.wait();
        assert_eq!(size(&mut host), left);
    }
    assert_eq!(host.shard.next_deadline().filter(|due| *due <= host.now.monotonic), None);
}

#[test]
fn command_of_a_session_is_executed_once_whatever_comes_between() {
    let mut host = Host::start(Durability::Sync);
    let in_session = |host: &mut Host, target: Option<PartitionId>, command: v1::Command| {
        let correlation = host.send_command(target, &command);
        host.run();
        host.answers().remove(&correlation).expect("it is answered").remove(0).1
    };
    let partition = Router::new(PARTITION_COUNT).partition_of_key(b"k");
    let operation = Some(command::Operation::OpenSession(v1::OpenSession { ttl_ms: 0 }));
    let open = v1::Command { operation, ..v1::Command::default() };
    let Outcome::Session(session) = in_session(&mut host, Some(partition), open) else {
        panic!("a session is opened")
    };
    assert_eq!(session.ttl_ms, 600_000);
    let retried = |sequence| v1::Command {
        map: "m".into(),
        session_id: session.session_id,
        sequence,
        operation: Some(put_for("k", 0)),
        ..v1::Command::default()
    };
    let first = in_session(&mut host, None, retried(1));
    host.put("k", "another");
    host.run();
    host.answers();
    assert_eq!(in_session(&mut host, None, retried(1)), first);
    // A later start knows the session, and that its time is over.
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    assert_eq!(host.get("k").as_deref(), Some("another"));
    let Outcome::Error(error) = in_session(&mut host, None, retried(1)) else {
        panic!("1,000 s are more than ten minutes")
    };
    assert_eq!(error.code(), Code::SessionExpired);
    assert_eq!(host.get("k").as_deref(), Some("another"));
}
