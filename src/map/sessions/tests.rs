//! Sessions by themselves: their bounds, which the model of the whole doesn't come to.

use super::*;
use crate::base::ids::Index;
use crate::base::time::NS_PER_S;

fn run(index: u64, second: u64, undo: Undo) -> Execution {
    Execution { index: Index(index), time: Timestamp(second * NS_PER_S + 5), undo }
}

fn call(session: SessionId, sequence: u64, ack_below: u64) -> SessionCall {
    SessionCall { session, sequence: Sequence(sequence), ack_below: Sequence(ack_below) }
}

/// Sessions with one that was opened at index 1 and second 100, for 10 seconds.
fn opened() -> (Sessions, SessionId) {
    let mut sessions = Sessions::default();
    let id = sessions.open(run(1, 100, Undo::Discard), 10).unwrap();
    assert_eq!(id, SessionId(1));
    (sessions, id)
}

fn stored(sessions: &mut Sessions, index: u64, call: SessionCall, result: &[u8]) {
    let run = run(index, 100, Undo::Keep);
    assert!(matches!(sessions.call(run, call), Standing::New { .. }));
    sessions.store(run, call, result);
}

#[test]
fn results_are_given_again_until_they_are_acknowledged() {
    let (mut sessions, id) = opened();
    let long = vec![7; 1_000];
    stored(&mut sessions, 2, call(id, 1, 0), b"short");
    stored(&mut sessions, 3, call(id, 3, 1), &long);
    let later = run(4, 100, Undo::Keep);
    assert_eq!(sessions.call(later, call(id, 1, 1)), Standing::Answered(b"short"));
    assert_eq!(sessions.call(later, call(id, 3, 2)), Standing::Answered(&long));
    assert_eq!(sessions.call(later, call(id, 1, 1)), Standing::Acknowledged);
    // What was acknowledged stays so, though a late command says less.
    assert!(matches!(sessions.call(later, call(id, 2, 0)), Standing::New { .. }));
    assert_eq!(sessions.call(later, call(id, 1, 0)), Standing::Acknowledged);
}

#[test]
fn window_ends_where_it_should() {
    let (mut sessions, id) = opened();
    for sequence in (1..=SESSION_WINDOW_COUNT).rev() {
        stored(&mut sessions, 100 - sequence, call(id, sequence, 0), b"r");
    }
    let (beyond, run) = (SESSION_WINDOW_COUNT + 1, run(101, 100, Undo::Keep));
    assert_eq!(sessions.call(run, call(id, beyond, 0)), Standing::BeyondWindow);
    assert_eq!(sessions.call(run, call(id, beyond, 1)), Standing::BeyondWindow);
    assert!(matches!(sessions.call(run, call(id, beyond, 2)), Standing::New { .. }));
    let at_the_end = call(id, u64::MAX, u64::MAX - 1);
    assert!(matches!(sessions.call(run, at_the_end), Standing::New { .. }));
}

#[test]
fn long_results_are_bounded_and_short_ones_always_fit() {
    let (mut sessions, id) = opened();
    let room = |sessions: &mut Sessions, sequence| match sessions
        .call(run(50, 100, Undo::Keep), call(id, sequence, 0))
    {
        Standing::New { size_bytes_max } => size_bytes_max,
        other => panic!("{other:?}"),
    };
    assert_eq!(room(&mut sessions, 1), SESSION_RESULTS_SIZE_BYTES_MAX);
    stored(&mut sessions, 2, call(id, 1, 0), &vec![1; SESSION_RESULTS_SIZE_BYTES_MAX - 100]);
    assert_eq!(room(&mut sessions, 2), 100);
    stored(&mut sessions, 3, call(id, 2, 0), &[2; 90]);
    assert_eq!(room(&mut sessions, 3), SHORT_SIZE_BYTES_MAX);
    stored(&mut sessions, 4, call(id, 3, 0), &[3; SHORT_SIZE_BYTES_MAX]);
    let full = sessions.size_bytes();
    assert!(full > u64_from(SESSION_RESULTS_SIZE_BYTES_MAX));
    sessions.commit(Index(50));
    let acknowledging = call(id, 4, 4);
    assert!(matches!(
        sessions.call(run(60, 100, Undo::Discard), acknowledging),
        Standing::New { size_bytes_max: SESSION_RESULTS_SIZE_BYTES_MAX }
    ));
    assert!(sessions.size_bytes() < full - u64_from(SESSION_RESULTS_SIZE_BYTES_MAX) + 1_000);
}

#[test]
fn long_results_of_all_sessions_together_are_bounded() {
    let mut sessions = Sessions::default();
    let count = u64_from(SESSIONS_RESULTS_SIZE_BYTES_MAX / SESSION_RESULTS_SIZE_BYTES_MAX);
    let mut index = 0;
    for _ in 0..=count {
        index += 2;
        let id = sessions.open(run(index, 100, Undo::Discard), 600).unwrap();
        let run = run(index + 1, 100, Undo::Discard);
        let Standing::New { size_bytes_max } = sessions.call(run, call(id, 1, 0)) else {
            panic!("it is new")
        };
        sessions.store(run, call(id, 1, 0), &vec![9; size_bytes_max]);
        let is_last = index == 2 * (count + 1);
        let expected = if is_last { SHORT_SIZE_BYTES_MAX } else { SESSION_RESULTS_SIZE_BYTES_MAX };
        assert_eq!(size_bytes_max, expected);
    }
    assert_eq!(sessions.held.size_bytes, SESSIONS_RESULTS_SIZE_BYTES_MAX);
}

#[test]
fn session_outlives_its_last_command_by_its_time_and_no_more_than_a_second() {
    let (mut sessions, id) = opened();
    assert_eq!(sessions.keep(run(2, 110, Undo::Keep), call(id, 0, 0)), Some(10));
    assert_eq!(sessions.keep(run(3, 120, Undo::Keep), call(id, 0, 0)), Some(10));
    assert_eq!(sessions.next_due_ms(), Some(131_000));
    let late = run(4, 131, Undo::Keep);
    assert_eq!(sessions.call(late, call(id, 1, 0)), Standing::Unknown, "before it is removed");
    assert_eq!(sessions.keep(late, call(id, 0, 0)), None);
    assert!(!sessions.close(late, call(id, 0, 0)));
    assert_eq!(sessions.len(), 1);
    sessions.expire(late);
    assert_eq!((sessions.len(), sessions.next_due_ms()), (0, None));
    sessions.undo_to(Index(3));
    assert_eq!((sessions.len(), sessions.next_due_ms()), (1, Some(131_000)));
    assert_eq!(sessions.keep(run(4, 130, Undo::Keep), call(id, 0, 0)), Some(10));
}

#[test]
fn sessions_are_bounded_in_number_and_expire_in_order() {
    let mut sessions = Sessions::default();
    for index in 1..=u64_from(SESSION_COUNT_MAX) {
        // The later ones expire first.
        let second = 100_000 - index;
        assert!(sessions.open(run(index, second, Undo::Discard), 10).is_some());
    }
    let next = u64_from(SESSION_COUNT_MAX) + 1;
    assert_eq!(sessions.open(run(next, 95_800, Undo::Discard), 10), None);
    sessions.expire(run(next, 200_000, Undo::Discard));
    assert_eq!(sessions.len(), SESSION_COUNT_MAX - SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX);
    let left = sessions.table.keys().next_back().copied();
    let removed = u64_from(SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX);
    assert_eq!(left, Some(SessionId(next - 1 - removed)));
    assert!(sessions.open(run(next + 1, 200_000, Undo::Discard), 10).is_some());
}

#[test]
fn undoing_brings_back_digest_results_and_what_was_acknowledged() {
    let (mut sessions, id) = opened();
    stored(&mut sessions, 2, call(id, 1, 0), &[1; 100]);
    stored(&mut sessions, 3, call(id, 2, 0), b"two");
    sessions.commit(Index(3));
    let (digest, size_bytes) = (sessions.digest(), sessions.size_bytes());
    let other = sessions.open(run(4, 101, Undo::Keep), 60).unwrap();
    stored(&mut sessions, 5, call(id, 3, 3), &[3; 100]);
    assert_eq!(sessions.keep(run(6, 105, Undo::Keep), call(other, 0, 0)), Some(60));
    assert!(sessions.close(run(7, 105, Undo::Keep), call(id, 0, 0)));
    assert_ne!(sessions.digest(), digest);
    sessions.undo_to(Index(3));
    assert_eq!(sessions.digest(), digest);
    assert_eq!(sessions.undo_count(), 0);
    assert!(sessions.size_bytes() - sessions.journal_size_bytes() <= size_bytes);
    let again = run(4, 100, Undo::Keep);
    assert_eq!(sessions.call(again, call(id, 2, 0)), Standing::Answered(b"two"));
    assert_eq!(sessions.call(again, call(id, 1, 0)), Standing::Answered(&[1; 100]));
}
