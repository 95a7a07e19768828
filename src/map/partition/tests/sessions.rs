//! Commands in sessions: what is executed and what isn't.

use super::*;
use crate::base::ids::{Sequence, SessionId};
use crate::base::limits::SESSION_RESULTS_SIZE_BYTES_MAX;
use crate::map::operation::SessionCall;
use crate::proto::p2pmap::v1::result::Outcome as Answer;

fn run_in(
    (arena, partition): &mut (Arena, PartitionMap),
    session: Option<SessionCall>,
    operation: Operation<'_>,
) -> Vec<u8> {
    let index = partition.applied().next();
    let run = Execution { index, time: Timestamp(index.0 * NS_PER_MS), undo: Undo::Keep };
    let hash = partition.hasher.hash("m", operation.key().unwrap_or_default());
    let command = Command { map: "m", session, timeout_ms: 0, no_forward: false, operation };
    let mut out = Vec::new();
    partition.execute(arena, run, &command, hash, &mut out);
    out
}

fn answer(result: &[u8]) -> Answer {
    v1::Result::decode(result).unwrap().outcome.unwrap()
}

fn error_code(result: &[u8]) -> Code {
    match answer(result) {
        Answer::Error(error) => error.code(),
        other => panic!("{other:?}"),
    }
}

fn open(world: &mut (Arena, PartitionMap)) -> SessionId {
    let opened = run_in(world, None, Operation::OpenSession { ttl_s: 60 });
    let session_id = world.1.applied().0;
    let expected = v1::Session { session_id, ttl_ms: 60_000 };
    assert_eq!(answer(&opened), Answer::Session(expected));
    SessionId(session_id)
}

fn call(session: SessionId, sequence: u64) -> Option<SessionCall> {
    Some(SessionCall { session, sequence: Sequence(sequence), ack_below: Sequence(0) })
}

fn put(value: &[u8]) -> Operation<'_> {
    Operation::Put { key: b"k", value, condition: None, ttl: Ttl::Unlimited, want_previous: true }
}

#[test]
fn retried_put_is_executed_once_and_answered_alike() {
    let mut world = world();
    let session = open(&mut world);
    let first = run_in(&mut world, call(session, 1), put(b"1"));
    let second = run_in(&mut world, call(session, 2), put(b"2"));
    let version = world.1.applied().0;
    assert_eq!(run_in(&mut world, call(session, 1), put(b"1")), first);
    assert_eq!(run_in(&mut world, call(session, 2), put(b"2")), second);
    let (arena, partition) = &world;
    assert_eq!(value_of(partition, arena, "m", b"k").as_deref(), Some(&b"2"[..]));
    let Answer::Written(written) = answer(&second) else { panic!("{second:?}") };
    assert_eq!((written.version, written.previous.unwrap().value), (version, "1".into()));
}

#[test]
fn failed_condition_is_answered_alike_though_it_would_hold_now() {
    let mut world = world();
    let session = open(&mut world);
    let present = Operation::Put {
        key: b"k",
        value: b"v",
        condition: Some(Condition::Present),
        ttl: Ttl::Unlimited,
        want_previous: false,
    };
    let failed = run_in(&mut world, call(session, 1), present);
    assert_eq!(error_code(&failed), Code::ConditionFailed);
    run_in(&mut world, None, put(b"other"));
    assert_eq!(run_in(&mut world, call(session, 1), present), failed);
}

#[test]
fn result_without_room_is_refused_before_anything_is_changed() {
    let mut world = world();
    let session = open(&mut world);
    let long = vec![1; SESSION_RESULTS_SIZE_BYTES_MAX];
    run_in(&mut world, None, put(&long));
    let digest = world.1.digest();
    let remove = Operation::Remove { key: b"k", condition: None, want_previous: true };
    for operation in [put(b"short"), remove] {
        let refused = run_in(&mut world, call(session, 1), operation);
        assert_eq!(error_code(&refused), Code::ResourceExhausted);
        assert_eq!(world.1.digest(), digest, "nothing was changed, nor kept");
    }
    // So the same number can still be executed.
    let modest = Operation::Remove { key: b"k", condition: None, want_previous: false };
    let removed = run_in(&mut world, call(session, 1), modest);
    assert_eq!(answer(&removed), Answer::Removed(v1::Removed { existed: true, previous: None }));
    // Without a session no result is too long.
    run_in(&mut world, None, put(&long));
    let replaced = run_in(&mut world, None, put(b"short"));
    assert!(replaced.len() > SESSION_RESULTS_SIZE_BYTES_MAX);
}

#[test]
fn command_of_an_unknown_session_is_not_executed() {
    let mut world = world();
    let session = open(&mut world);
    let closed = run_in(&mut world, call(session, 0), Operation::CloseSession);
    let expected = v1::Session { session_id: session.0, ttl_ms: 0 };
    assert_eq!(answer(&closed), Answer::Session(expected));
    for unknown in [session, SessionId(99)] {
        for operation in [put(b"v"), Operation::KeepSession, Operation::CloseSession] {
            let refused = run_in(&mut world, call(unknown, 1), operation);
            assert_eq!(error_code(&refused), Code::SessionExpired);
        }
    }
    assert_eq!(world.1.digest(), StateDigest::default());
}

/// A leader that goes and comes back: what it executed ahead of its followers is undone, with the
/// session's memory of it, and executed again where the log has it now.
#[test]
fn undone_command_of_a_session_is_executed_again() {
    let mut world = world();
    let session = open(&mut world);
    run_in(&mut world, call(session, 1), put(b"1"));
    let (index, digest) = (world.1.applied(), world.1.digest());
    run_in(&mut world, call(session, 2), put(b"2"));
    world.1.undo_to(&mut world.0, index);
    assert_eq!(world.1.digest(), digest);
    run_in(&mut world, None, put(b"in between"));
    let again = run_in(&mut world, call(session, 2), put(b"2"));
    let Answer::Written(written) = answer(&again) else { panic!("{again:?}") };
    assert_eq!(written.version, index.0 + 2);
    assert_eq!(written.previous.unwrap().value, "in between");
}
