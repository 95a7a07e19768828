//! Checkpoints as a shard takes them, records them and starts from them.

use super::*;
use crate::base::limits::CHECKPOINT_RETRY_NS;

/// Puts until the shard asks for a checkpoint's first step.
pub(super) fn put_until_asked(host: &mut Host) {
    for number in 0..10_000 {
        host.put("k", &format!("{number}-{}", "x".repeat(1_000)));
        while host.log_step(0) {}
        if !host.asked.steps.is_empty() {
            return;
        }
    }
    panic!("no checkpoint was asked for");
}

fn checkpoint_count(host: &Host) -> u64 {
    host.shard.core.checkpoint_metrics.checkpoints_count
}

/// Does whatever is asked until nothing more is to be done now.
pub(super) fn run_to_the_end(host: &mut Host) {
    loop {
        host.run();
        match host.shard.next_deadline() {
            Some(due) if due <= host.now.monotonic.after_ns(NS_PER_MS) => host.wait(),
            _ => return,
        }
    }
}

#[test]
fn checkpoint_is_taken_once_enough_was_logged_and_a_restart_begins_with_it() {
    let mut host = Host::start(Durability::Sync);
    for number in 0..300 {
        host.put(&format!("key {number}"), "v");
    }
    put_until_asked(&mut host);
    run_to_the_end(&mut host);
    assert_eq!(checkpoint_count(&host), 1);
    assert_eq!(host.disk.checkpoints.len(), 1);
    let digests = host.digests();
    for boot in 2..4 {
        host = Host::boot(host.disk, Durability::Sync, boot);
        assert_eq!(host.digests(), digests, "boot {boot}");
        assert_eq!(host.get("key 299").as_deref(), Some("v"));
    }
}

#[test]
fn checkpoint_is_not_recorded_while_its_slots_are_not_stable() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    // It is begun ahead of a write that isn't durable.
    host.put("k", "not durable");
    let before = host.shard.core.log.appended();
    while !host.asked.steps.is_empty() {
        host.checkpoint_step();
        host.advance(NS_PER_MS);
        host.handle(Input::Deadline);
    }
    let id = *host.disk.checkpoints.keys().next().expect("its file is finished");
    let stable =
        host.shard.partitions[host.shard.place(id.partition)].member.replica().sync_point();
    assert_eq!(checkpoint_count(&host), u64::from(stable >= id.index));
    assert!(stable < id.index || host.shard.core.log.appended() > before);
    run_to_the_end(&mut host);
    assert_eq!(checkpoint_count(&host), 1);
}

#[test]
fn checkpoint_whose_file_fails_is_tried_again_later_and_harms_nobody() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    let Some(CheckpointStep::Begin(id)) = host.asked.steps.pop_front() else { panic!() };
    host.asked.steps.clear();
    host.handle(Input::Checkpoint(CheckpointProgress::Failed(id)));
    assert_eq!(host.shard.core.checkpoint_metrics.checkpoint_failures_count, 1);
    host.put("k", "v");
    host.run();
    assert!(host.asked.steps.is_empty(), "it rests");
    host.advance(CHECKPOINT_RETRY_NS);
    host.handle(Input::Deadline);
    run_to_the_end(&mut host);
    assert_eq!(checkpoint_count(&host), 1);
    assert_eq!(host.get("k").as_deref(), Some("v"));
}

#[test]
fn checkpoint_waits_until_what_the_last_one_has_left_is_freed_little_by_little() {
    let mut host = Host::start(Durability::Sync);
    for number in 0..5_000 {
        host.put(&format!("key {number}"), "v");
    }
    rest(&mut host);
    let before = checkpoint_count(&host);
    put_until_asked(&mut host);
    let id = host.shard.core.checkpoints.id_under_way().expect("one is under way");
    // The walk has its pauses: nothing of this is ahead of it when it is given up.
    for number in 0..5_000 {
        host.put(&format!("key {number}"), "w");
    }
    let place = host.shard.place(id.partition);
    let has_left = |host: &Host| host.shard.partitions[place].view.map.has_released_checkpoint();
    host.shard.give_checkpoint_up();
    host.asked.steps.clear();
    let mut sweeps_count = 0;
    while has_left(&host) {
        host.shard.checkpoint(&mut host.asked);
        assert_ne!(
            host.shard.core.checkpoints.id_under_way().map(|id| id.partition),
            Some(id.partition)
        );
        host.shard.sweep();
        sweeps_count += 1;
    }
    assert!(sweeps_count > 5, "{sweeps_count} pieces of work");
    rest(&mut host);
    assert!(checkpoint_count(&host) > before);
}

#[test]
fn finished_checkpoint_that_was_never_recorded_is_removed_after_the_next_start() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    let digests = host.digests();
    let lost = CheckpointId { partition: PartitionId(0), index: Index(1_000_000) };
    host.disk.checkpoints.insert(lost, vec![block()]);
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    run_to_the_end(&mut host);
    assert!(!host.disk.checkpoints.contains_key(&lost));
    assert_eq!(host.digests(), digests);
}

#[test]
fn checkpoint_of_a_slot_that_is_recorded_is_taken_again_only_if_its_file_is_damaged() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    run_to_the_end(&mut host);
    let id = *host.disk.checkpoints.keys().next().expect("its file is finished");
    let applied = |host: &Host| {
        host.shard.partitions[host.shard.place(id.partition)].member.replica().applied()
    };
    while applied(&host) > host.shard.core.log.state().partition(id.partition).unwrap().checkpoint {
        host.shard.core.checkpoints_wanted.push_back(id.partition);
        host.advance(NS_PER_MS);
        host.handle(Input::Deadline);
        run_to_the_end(&mut host);
    }
    let (count, appended) = (checkpoint_count(&host), host.shard.core.log.appended());
    for _ in 0..10 {
        host.shard.core.checkpoints_wanted.push_back(id.partition);
        host.advance(NS_PER_MS);
        host.handle(Input::Deadline);
        run_to_the_end(&mut host);
    }
    assert_eq!(checkpoint_count(&host), count, "it would let nothing go");
    assert_eq!(host.shard.core.log.appended(), appended, "nor is it logged");
    host.shard.core.on_checkpoint_damage(id.partition);
    host.advance(NS_PER_MS);
    host.handle(Input::Deadline);
    run_to_the_end(&mut host);
    assert_eq!(checkpoint_count(&host), count + 1, "its file is written anew");
}

#[test]
fn closing_shard_begins_no_checkpoint() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    host.handle(Input::Close);
    while !host.shard.is_drained() {
        host.run();
        host.wait();
    }
    assert_eq!(checkpoint_count(&host), 0);
    let digests = host.digests();
    assert_eq!(Host::boot(host.disk, Durability::Sync, 2).digests(), digests);
}

/// Where a checkpoint was when the power went.
fn point(host: &Host) -> &'static str {
    let Some(id) = host.shard.core.checkpoints.id_under_way() else {
        let recorded = checkpoint_count(host) > 0;
        let removing =
            host.asked.steps.iter().any(|step| matches!(step, CheckpointStep::Remove(_)));
        return match (removing, recorded) {
            (true, _) => "a superseded file is to be removed",
            (_, true) if host.shard.core.log.durable() < host.shard.core.log.appended() => {
                "recorded, perhaps not durably"
            }
            _ => "none under way",
        };
    };
    match (host.disk.unfinished.as_ref(), host.disk.checkpoints.contains_key(&id)) {
        (_, true) => "the file has its name, and is not recorded",
        (Some((unfinished, blocks)), _) if *unfinished == id && !blocks.is_empty() => {
            "chunks are written"
        }
        (Some((unfinished, _)), _) if *unfinished == id => "the file is begun",
        _ => "the file is to be begun",
    }
}

/// Small partitions that are rewritten over and over, so that checkpoints and segments come and
/// go, and power cuts at any moment: what was answered is there.
#[test]
fn no_power_cut_around_checkpoints_loses_anything() {
    let first_seed = std::env::var("P2PMAP_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut points: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in first_seed..first_seed + 40 {
        let mut prng = Prng::new(seed, "checkpoints");
        let mut host = Host::start(Durability::Sync);
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        for boot in 2..7 {
            let mut pending: BTreeMap<u64, (String, String)> = BTreeMap::new();
            let count = if prng.one_in(3) { prng.below(10) } else { prng.below(1_000) };
            for number in 0..count {
                let key = format!("key {}", prng.below(6));
                if pending.values().all(|(other, _)| *other != key) {
                    let fill = "x".repeat(usize_from(prng.below(6_000)));
                    let value = format!("{boot}-{number}-{fill}");
                    pending.insert(host.put(&key, &value), (key, value));
                }
                for _ in 0..prng.below(4) {
                    host.step(prng.next_u64());
                }
                if prng.one_in(4) {
                    host.advance(NS_PER_MS);
                    host.wait();
                }
                for (correlation, _) in host.answers() {
                    let (key, value) = pending.remove(&correlation).expect("answered once");
                    known.insert(key, value);
                }
            }
            host.run_ahead(&mut prng);
            *points.entry(point(&host)).or_default() += 1;
            host = host.crash(&mut prng, boot);
            for number in 0..6 {
                let key = format!("key {number}");
                let found = host.get(&key);
                let answered = known.get(&key);
                let unanswered = pending
                    .values()
                    .any(|(other, value)| *other == key && Some(value) == found.as_ref());
                assert!(
                    found.as_ref() == answered || unanswered,
                    "seed {seed}, boot {boot}: {key} was lost; P2PMAP_SEED={seed} repeats it"
                );
                known.extend(found.map(|found| (key, found)));
            }
        }
    }
    let expected = [
        "a superseded file is to be removed",
        "chunks are written",
        "none under way",
        "recorded, perhaps not durably",
        "the file has its name, and is not recorded",
        "the file is begun",
        "the file is to be begun",
    ];
    assert_eq!(points.keys().copied().collect::<Vec<_>>(), expected, "{points:?}");
}

/// Lets the shard do all that it has to do, with time to do it.
fn rest(host: &mut Host) {
    for _ in 0..50 {
        run_to_the_end(host);
        host.advance(NS_PER_MS);
        host.handle(Input::Deadline);
    }
}

#[test]
fn room_for_a_checkpoint_as_large_as_the_largest_is_kept_by_a_start_that_sees_no_record_of_it() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    rest(&mut host);
    // All slots are covered, so that the next start lets the record go, and the one after it sees
    // none.
    let segment = *host.disk.segments.keys().next().expect("there is one");
    host.handle(Input::SegmentDamaged(segment));
    rest(&mut host);
    for boot in 2..4 {
        host = Host::boot(host.disk, Durability::Sync, boot);
        rest(&mut host);
    }
    assert!(checkpoint_count(&host) == 0 && host.disk.checkpoints.len() == 1);
    let mut room = |left: usize| {
        host.handle(Input::DiskSpace(u64_from(left)));
        host.shard.core.log.space().client_size_bytes
    };
    let needed = (1..9).find(|count| room(count * SEGMENT_SIZE + (1 << 20)) > 0);
    let needed = needed.expect("some segments do");
    assert_eq!(room(needed * SEGMENT_SIZE), 0, "it isn't for segments alone");
}

#[test]
fn damaged_segment_that_was_made_good_for_is_not_needed_by_the_next_start() {
    let mut host = Host::start(Durability::Sync);
    for number in 0..100 {
        host.put(&format!("key {number}"), "v");
    }
    rest(&mut host);
    let damaged = *host.disk.segments.keys().next().expect("there is one");
    host.handle(Input::SegmentDamaged(damaged));
    rest(&mut host);
    let digests = host.digests();
    // It is gone, or another segment by now.
    host.disk.segments.remove(&damaged);
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    assert_eq!(host.digests(), digests);
    assert_eq!(host.get("key 99").as_deref(), Some("v"));
}

#[test]
fn damaged_checkpoint_that_was_made_good_for_is_not_needed_by_the_next_start() {
    let mut host = Host::start(Durability::Sync);
    put_until_asked(&mut host);
    rest(&mut host);
    // Now a snapshot names it.
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    rest(&mut host);
    let damaged = *host.disk.checkpoints.keys().next().expect("there is one");
    host.put("k", "and more");
    host.run();
    host.handle(Input::CheckpointDamaged(damaged.partition));
    rest(&mut host);
    let digests = host.digests();
    host.disk.checkpoints.remove(&damaged);
    assert_eq!(Host::boot(host.disk, Durability::Sync, 3).digests(), digests);
}
