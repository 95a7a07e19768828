//! Two or three meshes on one thread.

use super::*;
use crate::base::limits::SEND_QUEUES_SIZE_BYTES_MAX;

const SLOT_COUNT: usize = 64;
const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn pair() -> (Mesh, Mesh) {
    let mut meshes = meshes_of(2, SLOT_COUNT);
    let b = meshes.pop().expect("two meshes");
    (meshes.pop().expect("two meshes"), b)
}

fn origin(number: u32) -> Origin {
    Origin { home: A, connection: number, generation: 1, stream: 2 }
}

/// Takes all that A has sent to B, and returns it with the places under which it is answered.
fn take_requests(b: &mut Mesh) -> Vec<(Head, Vec<u8>, Origin)> {
    let mut requests_in = b.link(A).requests_in.take().expect("nobody else has it");
    let count = requests_in.available();
    let taken = (0..count).map(|place| {
        let (head, bytes) = requests_in.message(place);
        (head, bytes.to_vec(), b.admit(head))
    });
    let taken = taken.collect();
    requests_in.release(count);
    b.link(A).requests_in = Some(requests_in);
    taken
}

/// Takes all answers of B.
fn take_answers(a: &mut Mesh) -> Vec<(Head, Vec<u8>)> {
    let link = a.link(B);
    let mut answers_in = link.answers_in.take().expect("nobody else has it");
    let count = answers_in.available();
    let mut taken = Vec::new();
    for place in 0..count {
        let large = answers_in.take_large(place);
        let (head, inline) = answers_in.message(place);
        link.take_credit_back(large.as_ref().map_or(0, |large| large.len()));
        taken.push((head, large.map_or(inline.to_vec(), |large| large.to_vec())));
    }
    answers_in.release(count);
    link.publish_taken();
    link.answers_in = Some(answers_in);
    taken
}

#[test]
fn credits_run_out_and_come_back_with_answers() {
    let (mut a, mut b) = pair();
    for number in 0..64 {
        assert!(a.forward(B, origin(number), b"request"));
    }
    assert!(!a.forward(B, origin(64), b"request"), "no credit is left");
    assert!(take_requests(&mut b).is_empty(), "nothing is published before the turn's end");
    assert!(a.publish());
    assert_eq!(a.bells().collect::<Vec<_>>(), [B]);
    assert!(!a.publish(), "nothing is new");
    let taken = take_requests(&mut b);
    assert_eq!(taken.len(), 64);
    assert!(!a.forward(B, origin(64), b"request"), "taken isn't answered");
    let (head, _, place) = taken[63];
    b.answer_buffer(place, true).extend_from_slice(b"answer");
    b.publish();
    let answers = take_answers(&mut a);
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].0.origin, &*answers[0].1), (head.origin, &b"answer"[..]));
    assert!(a.forward(B, origin(64), b"request"));
    assert!(!a.forward(B, origin(65), b"request"));
    assert!(!a.is_idle() && !b.is_idle());
}

#[test]
fn answers_of_all_sizes_and_of_many_frames_arrive_whole_and_each_as_one() {
    let (mut a, mut b) = pair();
    let sizes = [0, 1, 192, 193, 70_000, 3, 65_536, 200_000];
    for number in 0_u32..8 {
        assert!(a.forward(B, origin(number), &vec![7; 40 * usize_from_u32(number)]));
    }
    a.publish();
    let taken = take_requests(&mut b);
    for (number, (_, bytes, place)) in taken.iter().enumerate() {
        assert_eq!(bytes.len(), 40 * number);
        if number == 5 {
            // A frame, answers to others, and another frame.
            b.answer_buffer(*place, false).extend_from_slice(b"one");
            continue;
        }
        b.answer_buffer(*place, true).extend_from_slice(&vec![1; sizes[number]]);
    }
    b.answer_buffer(taken[5].2, true).extend_from_slice(b"two");
    b.publish();
    let mut answers = take_answers(&mut a);
    answers.sort_by_key(|(head, _)| head.origin);
    assert_eq!(answers.len(), 8);
    for (number, (_, bytes)) in answers.iter().enumerate() {
        match number {
            5 => assert_eq!(bytes, b"onetwo"),
            _ => assert!(*bytes == vec![1; sizes[number]], "{number}"),
        }
    }
    assert!(a.is_idle() && b.is_idle());
}

#[test]
fn request_without_an_answer_gives_its_credit_back() {
    let (mut a, mut b) = pair();
    assert!(a.forward(B, origin(3), b"request"));
    a.publish();
    let taken = take_requests(&mut b);
    let _ = b.answer_buffer(taken[0].2, true);
    b.publish();
    assert_eq!(take_answers(&mut a)[0].1, b"");
    assert!(a.is_idle() && b.is_idle());
}

#[test]
fn share_that_waits_for_a_credit_is_not_overtaken() {
    let (mut a, mut b) = pair();
    for number in 0..64 {
        assert!(a.forward(B, origin(number), b"before"));
    }
    let ask = AskId { place: 5, number: 6 };
    a.ask(B, ask, b"share");
    assert!(a.has_waiting_shares());
    a.publish();
    for (_, _, place) in take_requests(&mut b).into_iter().take(2) {
        b.answer_buffer(place, true).extend_from_slice(b"answer");
    }
    b.publish();
    take_answers(&mut a);
    assert!(!a.forward(B, origin(64), b"after"), "there are credits, but a share waits for one");
    a.next_served(&mut Vec::new());
    assert!(!a.has_waiting_shares());
    assert!(a.forward(B, origin(64), b"after"));
    a.publish();
    let taken = take_requests(&mut b);
    assert_eq!((taken[0].0.kind, ask_of(taken[0].0.origin)), (Kind::Share, ask));
    assert_eq!((taken[1].0.kind, &*taken[1].1), (Kind::Request, &b"after"[..]));
}

#[test]
fn waiting_connections_are_served_in_turn_and_only_as_many_as_there_are_credits_for() {
    let mut meshes = meshes_of(2, 4 * SLOT_COUNT);
    let mut b = meshes.pop().expect("two meshes");
    let mut a = meshes.pop().expect("two meshes");
    for number in 0..256 {
        assert!(a.forward(B, origin(number), b"request"));
    }
    for slot in 0..5 {
        a.wait_for(B, Key { slot, generation: 0 });
    }
    let mut served = Vec::new();
    a.next_served(&mut served);
    assert!(served.is_empty());
    a.publish();
    let taken = take_requests(&mut b);
    for (_, _, place) in &taken[..130] {
        b.answer_buffer(*place, true).extend_from_slice(b"answer");
    }
    b.publish();
    take_answers(&mut a);
    a.next_served(&mut served);
    assert_eq!(served.iter().map(|key| key.slot).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn requests_wait_while_their_answers_would_not_be_read() {
    let (mut a, mut b) = pair();
    const MUCH: usize = SEND_QUEUES_SIZE_BYTES_MAX;
    let most = |b: &mut Mesh, unread_size| b.serves_count_max(A, unread_size, MUCH);
    assert_eq!([0, MUCH - 1].map(|unread| most(&mut b, unread)), [PASS_COUNT_MAX; 2]);
    assert_eq!([MUCH, 2 * MUCH - 1].map(|unread| most(&mut b, unread)), [1; 2]);
    assert_eq!(most(&mut b, 2 * MUCH), 0, "clients of A don't read");
    assert!(a.forward(B, origin(0), b"request"));
    a.publish();
    let taken = take_requests(&mut b);
    b.answer_buffer(taken[0].2, true).extend_from_slice(&[0; 1 << 20]);
    b.publish();
    let rest = 2 * MUCH - (1 << 20);
    assert_eq!([rest, rest - 1].map(|unread| most(&mut b, unread)), [0, 1], "on its way counts");
    take_answers(&mut a);
    assert_eq!(most(&mut b, rest), 1);
}

#[test]
fn shards_do_not_disturb_each_other() {
    let mut meshes = meshes_of(3, SLOT_COUNT);
    for number in 0..64 {
        assert!(meshes[0].forward(B, origin(number), b"request"));
    }
    assert!(!meshes[0].forward(B, origin(64), b"request"));
    assert!(meshes[0].forward(ShardId(2), origin(64), b"request"));
    assert!(meshes[2].forward(B, Origin { home: ShardId(2), ..Origin::default() }, b"other"));
    meshes[0].publish();
    meshes[2].publish();
    assert_eq!(take_requests(&mut meshes[1]).len(), 64);
    assert!(meshes[1].has_incoming(), "that of the third");
    assert_eq!(meshes[0].bells().collect::<Vec<_>>(), [B, ShardId(2)]);
}

#[test]
fn rings_share_a_bounded_memory_however_many_shards_there_are() {
    for shard_count in [2, 3, 9, 100] {
        let mut meshes = meshes(shard_count);
        let slot_count = meshes[0].link(B).credits;
        assert!((RING_SLOT_COUNT_MIN..=RING_SLOT_COUNT_MAX).contains(&slot_count));
        let all = slot_count * (shard_count - 1);
        assert!(all <= RING_SLOTS_PER_SHARD.max(RING_SLOT_COUNT_MIN * (shard_count - 1)));
    }
}
