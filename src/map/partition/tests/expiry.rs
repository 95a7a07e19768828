//! Times to live: what they cost, and what happens where the model's few keys don't come to.

use super::*;
use crate::base::limits::EXPIRED_PER_SLOT_COUNT_MAX;
use crate::map::checkpoint::{MapLoader, Progress, SliceBudget};

const TTL: Ttl = Ttl::Ms(1_000);

fn put_at(world: &mut (Arena, PartitionMap), ms: u64, key: &[u8], ttl: Ttl, undo: Undo) {
    let operation =
        Operation::Put { key, value: b"value", condition: None, ttl, want_previous: false };
    run_at(world, ms, operation, undo);
}

fn run_at(
    (arena, partition): &mut (Arena, PartitionMap),
    ms: u64,
    operation: Operation<'_>,
    undo: Undo,
) -> v1::result::Outcome {
    let index = partition.applied().next();
    let run = Execution { index, time: Timestamp(ms * NS_PER_MS), undo };
    let map = if operation.is_internal() { "" } else { "m" };
    let hash = partition.hasher.hash(map, operation.key().unwrap_or_default());
    let mut out = Vec::new();
    let command = Command { map, session: None, timeout_ms: 0, no_forward: false, operation };
    partition.execute(arena, run, &command, hash, &mut out);
    v1::Result::decode(&out[..]).unwrap().outcome.unwrap()
}

fn is_present(
    (arena, partition): &(Arena, PartitionMap),
    index: Index,
    ms: u64,
    key: &[u8],
) -> bool {
    let time = Timestamp(ms * NS_PER_MS);
    let as_of = AsOf { index, time, asked: time };
    let operation = QueryOperation::Exists { key };
    let hash = partition.hasher.hash("m", key);
    match partition.answer(arena, as_of, ("m", &operation), hash) {
        Outcome::Existence(exists) => exists,
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_without_a_time_to_live_cost_what_they_did() {
    let mut world = world();
    for number in 0..1_000_u32 {
        put_at(&mut world, 5, &number.to_be_bytes(), Ttl::Unlimited, Undo::Discard);
    }
    let own_size_bytes = world.1.own_size_bytes();
    let used = world.0.usage().records_used_bytes;
    assert_eq!(used, 1_000 * 28, "15 + 3 + 4 + 5 bytes in steps of 4");
    assert_eq!(world.1.next_expiry(), None);
    // A time to live of a second takes two bytes of the record, and a place in the order.
    for number in 0..1_000_u32 {
        put_at(&mut world, 5, &number.to_be_bytes(), TTL, Undo::Discard);
    }
    assert_eq!(world.0.usage().records_used_bytes, 1_000 * 32);
    let expected = own_size_bytes + 1_001 * u64_from(EXPIRY_SIZE_BYTES);
    assert_eq!(world.1.own_size_bytes(), expected);
    assert_eq!(world.1.next_expiry(), Some(Timestamp(1_005 * NS_PER_MS)));
    for number in 0..1_000_u32 {
        put_at(&mut world, 5, &number.to_be_bytes(), Ttl::Unlimited, Undo::Discard);
    }
    assert_eq!(world.0.usage().records_used_bytes, used);
    assert_eq!((world.1.own_size_bytes(), world.1.next_expiry()), (own_size_bytes, None));
}

#[test]
fn growth_of_a_put_counts_its_place_in_the_order_of_expiry() {
    let mut world = world();
    put_at(&mut world, 5, b"k", Ttl::Unlimited, Undo::Discard);
    let (arena, partition) = &world;
    let hash = partition.hasher.hash("m", b"k");
    let growth =
        |ttl| partition.put_growth(arena, ("m", b"k", 5), (hash, ttl), Timestamp(5 * NS_PER_MS));
    assert_eq!((growth(Ttl::Unlimited).size_bytes, growth(Ttl::Unlimited).fits_freed), (0, true));
    assert_eq!(growth(Ttl::Keep), growth(Ttl::Unlimited), "there is nothing to keep");
    let expiring = growth(TTL);
    assert_eq!((expiring.size_bytes, expiring.fits_freed), (u64_from(EXPIRY_SIZE_BYTES), false));
}

#[test]
fn many_that_expire_at_once_are_hidden_at_once_and_removed_slot_by_slot() {
    for undo in [Undo::Discard, Undo::Keep] {
        let mut world = world();
        let count = 10 * EXPIRED_PER_SLOT_COUNT_MAX;
        for number in 0..count {
            put_at(&mut world, 0, &number.to_be_bytes(), TTL, undo);
        }
        let before = world.1.applied();
        let none_at = |world: &_, index, ms| {
            (0..count).all(|number| !is_present(world, index, ms, &number.to_be_bytes()))
        };
        assert!(is_present(&world, before, 999, &0_usize.to_be_bytes()));
        assert!(none_at(&world, before, 1_000), "by the reader's time");
        for slot in 1..=10 {
            let left = u64_from(count - slot * EXPIRED_PER_SLOT_COUNT_MAX);
            let ticked = run_at(&mut world, 1_000, Operation::Tick, undo);
            let entries = u64_from(EXPIRED_PER_SLOT_COUNT_MAX);
            assert_eq!(ticked, v1::result::Outcome::Cleared(v1::Cleared { entries }));
            let index = world.1.applied();
            assert!(none_at(&world, index, 0), "by the log's time");
            assert_eq!(world.1.size(index, "m").entries, left);
            assert_eq!(world.1.next_expiry().is_some(), left > 0);
        }
        if undo == Undo::Keep {
            let all = (0..count).all(|n| is_present(&world, before, 999, &n.to_be_bytes()));
            assert!(all, "as of before, and before their time");
        }
        let (arena, partition) = &mut world;
        let applied = partition.applied();
        partition.commit(arena, applied);
        assert_eq!((arena.usage().records_used_bytes, partition.map_count()), (0, 0));
        assert_eq!(partition.digest(), StateDigest::default());
    }
}

#[test]
fn cleared_entries_with_a_time_to_live_are_swept_before_and_after_it() {
    for swept_first in [true, false] {
        let mut world = world();
        for number in 0..500_u32 {
            put_at(&mut world, 0, &number.to_be_bytes(), TTL, Undo::Discard);
        }
        run_at(&mut world, 10, Operation::Clear, Undo::Discard);
        put_at(&mut world, 10, b"after", TTL, Undo::Discard);
        assert_eq!(world.1.next_expiry(), Some(Timestamp(1_010 * NS_PER_MS)));
        let sweep = |world: &mut (Arena, PartitionMap)| while world.1.sweep(&mut world.0, 64) {};
        if swept_first {
            sweep(&mut world);
        }
        let ticked = run_at(&mut world, 5_000, Operation::Tick, Undo::Discard);
        assert_eq!(ticked, v1::result::Outcome::Cleared(v1::Cleared { entries: 1 }));
        sweep(&mut world);
        assert_eq!(world.0.usage().records_used_bytes, 0);
        assert_eq!(world.1.next_expiry(), None);
    }
}

#[test]
fn expired_key_is_put_anew_before_its_turn_to_be_removed() {
    for undo in [Undo::Discard, Undo::Keep] {
        let mut world = world();
        let count = EXPIRED_PER_SLOT_COUNT_MAX + 5;
        for number in 0..count {
            put_at(&mut world, 0, &number.to_be_bytes(), TTL, undo);
        }
        // The last ones written expire last: their turn doesn't come with this slot.
        let key = &(count - 1).to_be_bytes();
        let (index, digest) = (world.1.applied(), world.1.digest());
        let absent = Operation::Put {
            key,
            value: b"new",
            condition: Some(Condition::Absent),
            ttl: Ttl::Keep,
            want_previous: true,
        };
        let written = run_at(&mut world, 1_000, absent, undo);
        let version = world.1.applied().0;
        let expected = v1::Written { version, previous: None };
        assert_eq!(written, v1::result::Outcome::Written(expected));
        assert_eq!(world.1.size(Index(version), "m").entries, 5);
        assert!(is_present(&world, Index(version), u64::MAX / NS_PER_MS, key), "for ever");
        if undo == Undo::Keep {
            let (arena, partition) = &mut world;
            partition.undo_to(arena, index);
            assert_eq!(partition.digest(), digest);
            assert!(is_present(&world, index, 999, key));
            assert!(!is_present(&world, index, 1_000, key));
        }
    }
}

/// A partition with five keys that have expired at 1,000 ms and aren't removed; one of them.
fn world_with_hidden_keys(undo: Undo) -> ((Arena, PartitionMap), [u8; 8]) {
    let mut world = world();
    let count = EXPIRED_PER_SLOT_COUNT_MAX + 5;
    for number in 0..count {
        put_at(&mut world, 0, &number.to_be_bytes(), TTL, undo);
    }
    run_at(&mut world, 1_000, Operation::Tick, undo);
    assert_eq!(world.1.size(world.1.applied(), "m").entries, 5);
    (world, (count - 1).to_be_bytes())
}

#[test]
fn commands_find_hidden_keys_absent() {
    use v1::result::Outcome as Answer;

    for undo in [Undo::Discard, Undo::Keep] {
        let absent = Answer::Removed(v1::Removed { existed: false, previous: None });
        let (mut world, key) = world_with_hidden_keys(undo);
        // More of them than a slot removes, so that the key's turn doesn't come.
        for number in 0..500_u32 {
            put_at(&mut world, 0, &number.to_be_bytes(), TTL, undo);
        }
        put_at(&mut world, 0, &key, TTL, undo);
        let remove = |condition| Operation::Remove { key: &key, condition, want_previous: true };
        assert_eq!(run_at(&mut world, 1_000, remove(None), undo), absent);
        assert_eq!(run_at(&mut world, 1_000, remove(Some(Condition::Absent)), undo), absent);
        let refused = run_at(&mut world, 1_000, remove(Some(Condition::Present)), undo);
        let Answer::Error(error) = refused else { panic!("{refused:?}") };
        assert_eq!((error.code(), error.current), (Code::ConditionFailed, None));
    }
}

#[test]
fn what_is_hidden_stays_hidden_when_it_is_loaded() {
    let ((mut arena, mut partition), key) = world_with_hidden_keys(Undo::Discard);
    let mut bytes = Vec::new();
    partition.begin_checkpoint(&mut arena);
    let all = SliceBudget { record_count: usize::MAX, size_bytes: usize::MAX };
    assert_eq!(partition.checkpoint_slice(&mut arena, all, &mut bytes), Progress::Done);
    let (index, time) = (partition.applied(), Timestamp(1_000 * NS_PER_MS));
    let mut arena = Arena::new();
    let mut loader = MapLoader::new(partition.hasher, &mut arena);
    loader.feed(&mut arena, &bytes).unwrap();
    let loaded = loader.finish(index, time, partition.digest()).unwrap();
    assert_eq!(loaded.size(index, "m").entries, 5);
    let world = (arena, loaded);
    assert!(!is_present(&world, index, 0, &key), "though the reader's clock is behind");
}

#[test]
fn entry_that_is_hidden_by_no_time_but_the_logs_has_some_of_its_own_left() {
    let mut world = world();
    put_at(&mut world, 0, b"k", TTL, Undo::Keep);
    let index = world.1.applied();
    let ttl_ms_at = |(arena, partition): &(Arena, PartitionMap), asked_ms: u64| {
        let asked = Timestamp(asked_ms * NS_PER_MS);
        let as_of = AsOf { index, time: Timestamp(0), asked };
        let hash = partition.hasher.hash("m", b"k");
        match partition.answer(arena, as_of, ("m", &QueryOperation::Get { key: b"k" }), hash) {
            Outcome::Found(found) => found.map(|entry| entry.ttl_ms),
            other => panic!("{other:?}"),
        }
    };
    let seen = [0, 400, 999, 1_000, 5_000].map(|asked_ms| ttl_ms_at(&world, asked_ms));
    assert_eq!(seen, [Some(1_000), Some(600), Some(1), Some(1), Some(1)]);
    run_at(&mut world, 1_000, Operation::Tick, Undo::Keep);
    assert_eq!(ttl_ms_at(&world, 5_000), Some(1), "as of before the tick");
    assert!(!is_present(&world, world.1.applied(), 0, b"k"), "and after it");
}

#[test]
fn replaced_value_keeps_its_time_only_if_told_to() {
    let mut world = world();
    put_at(&mut world, 0, b"k", TTL, Undo::Discard);
    put_at(&mut world, 600, b"k", Ttl::Keep, Undo::Discard);
    assert_eq!(world.1.next_expiry(), Some(Timestamp(1_000 * NS_PER_MS)));
    put_at(&mut world, 700, b"k", TTL, Undo::Discard);
    assert_eq!(world.1.next_expiry(), Some(Timestamp(1_700 * NS_PER_MS)));
    put_at(&mut world, 800, b"k", Ttl::Unlimited, Undo::Discard);
    assert_eq!(world.1.next_expiry(), None);
}
