//! Who recovers from the other members, and why.

use super::salvage::Kept;
use super::*;
use crate::base::limits::ASYNC_INTERVAL_NS;
use crate::storage::recovery::{FormerLife, Suspicion, recover_member};

fn start(image: &Image, boot: u64) -> Recovered {
    recover_member(&folder(boot, &image.files()), &mut &*image, &mut Kept::default()).unwrap()
}

fn start_alone(image: &Image, boot: u64) -> Result<Recovered, StorageError> {
    let files = image.files();
    let folder = LogFolder { serves_peers: false, ..folder(boot, &files) };
    recover_member(&folder, &mut &*image, &mut Kept::default())
}

/// What P and Q are suspected of; what a replica is told is the same.
fn suspicions(recovered: &Recovered) -> [Option<Suspicion>; 2] {
    [(P, 0), (Q, 1)].map(|(partition, position)| {
        let mut found = recovered.suspects.iter().filter(|found| found.partition == partition);
        let suspicion = found.next().map(|suspect| suspect.suspicion);
        assert!(found.next().is_none(), "each is named once");
        let is_recovering = recovered.partitions[position].state.is_recovering;
        assert_eq!(is_recovering, suspicion.is_some(), "{partition}");
        suspicion
    })
}

fn boot(durability: Durability, image: Image, number: u64) -> Boot {
    let wal = open_wal_with(durability, number, start(&image, number).start);
    let mut boot = Boot { wal, image, now: Monotonic(1 << 40) };
    write_all(&mut boot);
    boot
}

/// In mode `async` a batch waits for its interval.
fn write_all(boot: &mut Boot) {
    boot.write();
    boot.now = boot.now.after_ns(ASYNC_INTERVAL_NS);
    boot.write();
}

/// A boot that has logged a slot of P and a view of Q.
fn used(durability: Durability) -> Boot {
    let mut boot = boot(durability, Image::default(), 1);
    boot.wal.append(&entry(1, b"a"));
    boot.wal.append(&Record::View { partition: Q, term: TermId(3) });
    write_all(&mut boot);
    boot
}

const NOBODY: [Option<Suspicion>; 2] = [None; 2];
const BLANK: [Option<Suspicion>; 2] = [Some(Suspicion::Blank); 2];
const UNCLEAN: [Option<Suspicion>; 2] = [Some(Suspicion::Unclean); 2];
const UNRECOVERED: [Option<Suspicion>; 2] = [Some(Suspicion::Unrecovered); 2];

#[test]
fn blank_partition_recovers_until_it_has_logged_something() {
    let image = Image::default();
    assert_eq!(suspicions(&start(&image, 1)), BLANK);
    assert!(start(&image, 1).is_blank());
    // A boot that has met nobody leaves it blank, however it ends.
    let image = boot(Durability::Sync, image, 1).close();
    assert_eq!(suspicions(&start(&image, 2)), BLANK);
    assert!(start(&image, 2).is_blank());
    // One that knows of another member's life is none that can be taken for new.
    let mut boot = boot(Durability::Sync, image, 2);
    boot.append(&Record::CrashVector {
        partition: P,
        incarnation: Incarnation(0),
        crash_vector: vec![Incarnation(0), Incarnation(1)],
        is_recovering: true,
    });
    let recovered = start(&boot.image, 3);
    assert_eq!(suspicions(&recovered), [Some(Suspicion::Unrecovered), Some(Suspicion::Blank)]);
    assert!(!recovered.is_blank());
}

#[test]
fn member_with_sync_goes_on_however_it_ended() {
    let boot = used(Durability::Sync);
    assert_eq!(suspicions(&start(&boot.image, 2)), NOBODY);
    assert_eq!(suspicions(&start(&boot.close(), 2)), NOBODY);
}

#[test]
fn member_with_async_goes_on_only_after_a_clean_end() {
    let boot = used(Durability::Async);
    assert_eq!(suspicions(&start(&boot.image, 2)), UNCLEAN);
    assert_eq!(suspicions(&start(&boot.close(), 2)), NOBODY);
}

#[test]
fn segment_later_in_the_boot_says_too_that_it_acts_early() {
    let mut boot = used(Durability::Async);
    let value = vec![7; COMMAND_SIZE_BYTES_MAX / 2];
    let mut index = 2;
    while boot.wal.state().segments.is_empty() {
        boot.wal.append(&entry(index, &value));
        write_all(&mut boot);
        index += 1;
    }
    let recovered = start(&boot.image, 2);
    assert_eq!(recovered.start.state.segments.len(), 2);
    assert_eq!(suspicions(&recovered), UNCLEAN);
}

#[test]
fn that_the_next_start_asks_for_sync_makes_an_unclean_end_no_cleaner() {
    let image = used(Durability::Async).image;
    let boot = boot(Durability::Sync, image, 2);
    assert_eq!(suspicions(&start(&boot.image, 3)), UNRECOVERED);
}

#[test]
fn clean_end_of_a_boot_that_did_not_recover_is_no_recovery() {
    let image = used(Durability::Async).image;
    let image = boot(Durability::Async, image, 2).close();
    assert_eq!(suspicions(&start(&image, 3)), UNRECOVERED);
    // What makes an end of it is said by the replica.
    let mut boot = boot(Durability::Sync, image, 3);
    for partition in [P, Q] {
        boot.append(&Record::CrashVector {
            partition,
            incarnation: Incarnation(1),
            crash_vector: vec![Incarnation(1)],
            is_recovering: false,
        });
    }
    assert_eq!(suspicions(&start(&boot.image, 4)), NOBODY);
}

#[test]
fn clean_end_counts_for_one_start_that_acts() {
    let image = used(Durability::Async).close();
    let first = start(&image, 2);
    assert_eq!(suspicions(&first), NOBODY);
    // A start that writes nothing consumes nothing, and counts nothing as durable.
    let mut wal = open_wal_with(Durability::Async, 2, first.start);
    assert!(!wal.is_open());
    assert_eq!(suspicions(&start(&image, 3)), NOBODY);
    // Once its first batch is durable it acts, and must have a clean end of its own.
    let mut image = image;
    let wanted = wal.wants_segment(Monotonic(0)).unwrap();
    image.prepare(wanted);
    wal.on_segment_prepared(wanted.segment);
    assert!(wal.poll_write(Monotonic(0)).is_none(), "it gathers");
    let write = wal.poll_write(Monotonic(ASYNC_INTERVAL_NS)).unwrap();
    image.write(&write);
    assert!(!wal.is_open());
    wal.on_written(write);
    assert!(wal.is_open());
    assert_eq!(suspicions(&start(&image, 3)), UNCLEAN);
}

#[test]
fn log_that_keeps_nothing_is_open_at_once() {
    let recovered = start(&Image::default(), 1);
    assert_eq!(suspicions(&recovered), BLANK);
    assert!(open_wal_with(Durability::None, 1, recovered.start).is_open());
}

#[test]
fn damage_is_refused_in_a_group_of_one_and_recovered_in_a_group_of_several() {
    let mut boot = used(Durability::Sync);
    boot.prove();
    let mut image = boot.image;
    image.flip(1, 1);
    assert!(matches!(start_alone(&image, 2), Err(StorageError::Damaged { .. })));
    let damaged = suspicions(&start(&image, 2));
    assert!(damaged.iter().all(|why| matches!(why, Some(Suspicion::Damaged { .. }))));
    for why in damaged {
        let text = why.unwrap().to_string();
        assert!(text.contains("shard-1/000000000001.log"), "{text}");
    }
}

#[test]
fn nobody_recovers_in_a_group_of_one() {
    assert_eq!(start_alone(&Image::default(), 1).unwrap().suspects, []);
    let image = used(Durability::Async).image;
    let recovered = start_alone(&image, 2).unwrap();
    assert_eq!(recovered.suspects, []);
    assert!(recovered.start.lost.is_empty() && recovered.start.slots.is_none());
}

#[test]
fn life_that_only_others_know_was_on_another_disk() {
    let of = |own, known| FormerLife::of(P, Incarnation(own), Incarnation(known));
    let former = of(0, 3).unwrap();
    let line = former.to_string();
    assert!(
        line.contains("life 3") && line.contains("--replace") && !line.contains('\n'),
        "{line}"
    );
    // A group that begins; a member that has lived; one that has just begun a new life.
    for (own, known) in [(0, 0), (1, 1), (2, 1), (1, 2)] {
        assert_eq!(of(own, known), None);
    }
}
