//! Damage, and the partitions that it names.

use super::*;
use crate::storage::recovery::{Salvage, Suspicion, recover_partly};

type Slots = Vec<(u64, Option<Vec<u8>>)>;

/// What a member of a group has of its partitions after a start.
#[derive(Debug, Default)]
pub(super) struct Kept {
    slots: BTreeMap<PartitionId, Slots>,
    /// Checkpoints that can't be loaded.
    broken: Vec<(PartitionId, u64)>,
    failed: Vec<PartitionId>,
}

impl Apply for Kept {
    fn install(&mut self, partition: PartitionId, index: Index) {
        if self.broken.contains(&(partition, index.0)) {
            self.failed.push(partition);
        } else {
            self.slots.insert(partition, vec![(index.0, some(b"checkpoint"))]);
        }
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        value: Option<&[u8]>,
    ) {
        if !self.failed.contains(&partition) {
            let slots = self.slots.entry(partition).or_default();
            let last = slots.last().map_or(0, |slot| slot.0);
            assert_eq!(index.0, last + 1, "slots are applied in order");
            slots.push((index.0, value.map(<[u8]>::to_vec)));
        }
    }
}

impl Salvage for Kept {
    fn is_whole(&self, partition: PartitionId) -> bool {
        !self.failed.contains(&partition)
    }

    fn reset(&mut self, partition: PartitionId, checkpoint: Index) -> bool {
        self.failed.retain(|failed| *failed != partition);
        self.slots.remove(&partition);
        if checkpoint > Index(0) {
            self.install(partition, checkpoint);
        }
        let is_whole = self.is_whole(partition);
        self.failed.retain(|failed| *failed != partition);
        is_whole
    }
}

impl Image {
    fn salvage_with(&self, boot: u64, kept: &mut Kept) -> Result<Recovered, StorageError> {
        recover_partly(&folder(boot, &self.files()), &mut &*self, kept)
    }

    fn salvage(&self, boot: u64) -> (Recovered, Kept) {
        let mut kept = Kept::default();
        let recovered = self.salvage_with(boot, &mut kept).unwrap();
        (recovered, kept)
    }
}

fn suspects(recovered: &Recovered) -> Vec<PartitionId> {
    let mut suspects: Vec<_> = recovered.suspects.iter().map(|found| found.partition).collect();
    suspects.sort_unstable();
    suspects
}

fn q_entry(index: u64) -> Record<'static> {
    Record::Entry(slot(Q, index, b"q"))
}

/// Segment 1, of a boot that was closed: block 1 holds a record of P, block 2 one of Q, block 3 a
/// no-op of P in a slot that it had, block 4 one of Q. Segment 2 is the newest.
fn two_boots() -> Image {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.append(&q_entry(1));
    boot.append(&no_op(1));
    boot.append(&q_entry(2));
    let mut boot = Boot::open(boot.close(), 2);
    boot.append(&entry(2, b"b"));
    boot.append(&q_entry(3));
    boot.close()
}

/// A boot on what was salvaged.
fn boot_on(image: Image, boot: u64, start: WalStart) -> Boot {
    let wal = open_wal(boot, start);
    let mut boot = Boot { wal, image, now: Monotonic(1 << 40) };
    boot.write();
    boot
}

#[test]
fn log_that_is_whole_has_no_suspects() {
    let image = two_boots();
    let (recovered, _) = image.salvage(3);
    let (expected, _) = image.recover(3).unwrap();
    assert_eq!(recovered, expected);
    assert_eq!(recovered.suspects, []);
}

#[test]
fn damage_in_an_old_segment_names_those_that_had_records_there_and_no_others() {
    for (block, named) in [(1, P), (2, Q), (3, P), (4, Q)] {
        for kind in 0..3 {
            let mut image = two_boots();
            let place = (1, block);
            match kind {
                0 => image.flip(1, block),
                1 => drop(image.blocks.remove(&place)),
                _ => {
                    let misdirected = image.blocks[&(2, 1)].clone();
                    image.blocks.insert(place, misdirected);
                }
            }
            assert!(image.recover(3).is_err(), "a group of one refuses it");
            let (recovered, kept) = image.salvage(3);
            assert_eq!(suspects(&recovered), [named], "block {block}");
            let Suspicion::Damaged { place, .. } = recovered.suspects[0].suspicion else {
                panic!("{:?}", recovered.suspects);
            };
            assert_eq!((place.segment, place.offset), (SegmentId(1), offset_of(block)));
            assert_eq!(recovered.start.damaged, [SegmentId(1)]);
            let (whole, _) = two_boots().recover(3).unwrap();
            for (found, whole) in recovered.partitions.iter().zip(&whole.partitions) {
                if found.state.partition == named {
                    assert!(found.state.is_recovering && found.log.is_empty());
                    assert_eq!((found.state.last, found.state.first), (Index(0), Index(1)));
                    assert_eq!(found.state.view, whole.state.view, "what it says of views stays");
                } else {
                    assert_eq!(found, whole);
                }
            }
            assert!(!kept.slots.contains_key(&named));
        }
    }
}

#[test]
fn lost_no_op_makes_its_partition_suspect_though_no_slot_is_missing() {
    let mut image = two_boots();
    image.flip(1, 3);
    let (recovered, _) = image.salvage(3);
    assert_eq!(suspects(&recovered), [P]);
}

#[test]
fn lost_no_op_is_missed_though_its_slot_became_stable_before_the_next_snapshot() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.append(&no_op(1));
    boot.append(&sync_point(1));
    let mut image = Boot::open(boot.close(), 2).close();
    image.flip(1, 2);
    let (recovered, kept) = image.salvage(3);
    assert_eq!(suspects(&recovered), [P]);
    assert_eq!(kept.slots.get(&P), None, "what was executed is forgotten");
}

#[test]
fn lost_promise_and_life_are_known_from_the_next_snapshot() {
    let lives = Record::CrashVector {
        partition: Q,
        incarnation: Incarnation(2),
        crash_vector: vec![Incarnation(2), Incarnation(1)],
        is_recovering: false,
    };
    for record in [Record::View { partition: Q, term: TermId(5) }, lives] {
        let mut boot = Boot::open(Image::default(), 1);
        boot.append(&record);
        boot.append(&entry(1, b"a"));
        let mut image = Boot::open(boot.close(), 2).close();
        image.flip(1, 1);
        let (recovered, _) = image.salvage(3);
        assert_eq!(suspects(&recovered), [], "it had no slots that could be lost");
        assert_eq!(unstable(&recovered), [(1, some(b"a"))]);
        let state = &recovered.partitions[1].state;
        assert!(state.view == TermId(5) || state.incarnation == Incarnation(2), "{state:?}");
    }
}

#[test]
fn damage_to_the_newest_segment_makes_all_suspect() {
    let mut boot = Boot::open(two_boots(), 3);
    boot.append(&Record::View { partition: P, term: TermId(7) });
    let image = Boot::open(boot.close(), 4).close();
    let newest = image.files[image.files.len() - 2].0;
    assert!(image.blocks.contains_key(&(newest, 0)));
    for block in 0..2 {
        let mut image = image.clone();
        image.flip(newest, block);
        let (recovered, kept) = image.salvage(5);
        assert_eq!(suspects(&recovered), [P, Q], "block {block}");
        let view = recovered.partitions[0].state.view;
        assert!(view == TermId(7) || block == 0, "the snapshot says so");
        assert!(kept.slots.is_empty());
        assert_eq!(recovered.garbage, [], "nothing is removed before it is durable who is suspect");
    }
}

#[test]
fn file_that_is_cut_or_gone_counts_as_damage() {
    let image = two_boots();
    let mut cut = image.files();
    cut[0].size_bytes = 3 * u64_from(BLOCK_SIZE_BYTES);
    let mut kept = Kept::default();
    let recovered = recover_partly(&folder(3, &cut), &mut &image, &mut kept).unwrap();
    assert_eq!(suspects(&recovered), [P, Q], "blocks 3 and 4 are gone");
    // Of the newest segment nothing is left that would say that more was written.
    for block_count in 0..4 {
        let mut cut = image.files();
        cut[1].size_bytes = block_count * u64_from(BLOCK_SIZE_BYTES);
        let recovered = recover_partly(&folder(3, &cut), &mut &image, &mut kept).unwrap();
        assert_eq!(suspects(&recovered), [P, Q], "{block_count} blocks are left");
    }
    for (gone, counts) in [(1, true), (2, false)] {
        let mut without = image.clone();
        without.files.retain(|file| file.0 != gone);
        let (recovered, _) = without.salvage(3);
        assert_eq!(suspects(&recovered), [P, Q]);
        assert!(recovered.start.damaged.is_empty(), "{counts}");
    }
    let mut image = image;
    image.broken = Some((1, 2));
    let (recovered, _) = image.salvage(3);
    assert_eq!(suspects(&recovered), [Q], "a block that can't be read is one that is damaged");
}

#[test]
fn what_a_checkpoint_covers_can_be_missing() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.append(&q_entry(1));
    boot.append(&sync_point(1));
    let mut boot = Boot::open(boot.close(), 2);
    boot.append(&entry(2, b"b"));
    boot.append(&Record::CheckpointDone {
        partition: P,
        index: Index(1),
        size_bytes: 1,
        digest: [0; 16],
    });
    let image = Boot::open(boot.close(), 3).close();
    for (block, named) in [(1, vec![]), (2, vec![Q]), (3, vec![])] {
        let mut image = image.clone();
        image.flip(1, block);
        let (recovered, kept) = image.salvage(4);
        assert_eq!(suspects(&recovered), named, "block {block}");
        assert_eq!(unstable(&recovered), [(2, some(b"b"))]);
        assert_eq!(kept.slots[&P], [(1, some(b"checkpoint"))]);
    }
}

#[test]
fn segment_that_is_gone_harms_nobody_at_later_starts_whom_it_did_not_harm_at_once() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&q_entry(1));
    let mut boot = Boot::open(boot.close(), 2);
    boot.append(&entry(1, b"a"));
    boot.append(&sync_point(1));
    let mut boot = Boot::open(boot.close(), 3);
    boot.append(&Record::CheckpointDone {
        partition: P,
        index: Index(1),
        size_bytes: 1,
        digest: [0; 16],
    });
    let mut image = Boot::open(boot.close(), 4).close();
    image.files.retain(|file| file.0 != 2);
    for boot in 5..8 {
        let (recovered, kept) = image.salvage(boot);
        assert_eq!(suspects(&recovered), [], "boot {boot}: the checkpoint covers what is gone");
        assert_eq!(kept.slots[&P], [(1, some(b"checkpoint"))]);
        assert_eq!(recovered.partitions[1].log.len(), 1);
        image = boot_on(image, boot, recovered.start).image;
    }
}

#[test]
fn checkpoint_that_cannot_be_loaded_makes_its_partition_suspect() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.append(&q_entry(1));
    boot.append(&Record::CheckpointDone {
        partition: P,
        index: Index(1),
        size_bytes: 1,
        digest: [0; 16],
    });
    let image = Boot::open(boot.close(), 2).close();
    let mut kept = Kept { broken: vec![(P, 1)], ..Kept::default() };
    let recovered = image.salvage_with(3, &mut kept).unwrap();
    assert_eq!(suspects(&recovered), [P]);
    assert_eq!(recovered.suspects[0].suspicion, Suspicion::Checkpoint);
    let state = &recovered.partitions[0].state;
    assert_eq!((state.checkpoint, state.last, state.sync_point), (Index(0), Index(0), Index(0)));
    assert_eq!(recovered.start.superseded, [(P, Index(1))], "its file goes");
    assert_eq!(recovered.partitions[1].log.len(), 1);
}

#[test]
fn suspect_is_named_at_each_start_until_it_says_that_it_has_recovered() {
    for (segment, block) in [(1, 1), (2, 1)] {
        let mut image = two_boots();
        image.flip(segment, block);
        let (recovered, _) = image.salvage(3);
        let named = suspects(&recovered);
        // The power goes before anything of the next boot is durable.
        let (again, _) = image.salvage(4);
        assert_eq!(suspects(&again), named);

        let boot = boot_on(image, 4, again.start);
        let mut image = boot.image;
        for boot in 5..7 {
            let (recovered, kept) = image.salvage(boot);
            assert_eq!(suspects(&recovered), named, "boot {boot}");
            assert!(!kept.slots.contains_key(&P));
            image = boot_on(image, boot, recovered.start).image;
        }
        let (recovered, _) = image.salvage(7);
        let mut boot = boot_on(image, 7, recovered.start);
        boot.append(&Record::Stage { adopting: TermId(9), entry: slot(P, 4, b"staged") });
        boot.append(&install(3, 3, Some((9, 4))));
        let adopted = boot.image.clone();
        assert!(suspects(&adopted.salvage(8).0).contains(&P), "it may lack what followed");
        boot.append(&Record::CrashVector {
            partition: P,
            incarnation: Incarnation(1),
            crash_vector: vec![Incarnation(1)],
            is_recovering: false,
        });
        let (recovered, kept) = boot.image.salvage(8);
        assert!(!suspects(&recovered).contains(&P), "{:?}", recovered.suspects);
        assert_eq!(kept.slots[&P], [(3, some(b"checkpoint"))]);
        assert_eq!(unstable(&recovered), [(4, some(b"staged"))]);
        let state = &recovered.partitions[0].state;
        assert_eq!((state.last_normal, state.is_recovering), (TermId(9), false));
    }
}

#[test]
fn void_files_are_used_again_only_when_it_is_durable_that_they_are_void() {
    let mut image = two_boots();
    image.flip(2, 1);
    let (recovered, _) = image.salvage(3);
    assert_eq!(recovered.start.void, image.files);
    let next = recovered.start.next_segment;
    assert!(image.files.iter().all(|file| *file < next));
    let mut wal = open_wal(3, recovered.start);
    let now = Monotonic(0);
    let wanted = wal.wants_segment(now).unwrap();
    assert_eq!((wanted.segment, wanted.from), (next, None));
    wal.on_segment_prepared(next);
    let first = wal.poll_write(now).unwrap();
    assert_eq!(wal.wants_segment(now).map(|wanted| wanted.from), Some(None));
    wal.on_segment_prepared(next.next());
    wal.on_written(first);
    wal.append(&entry(1, &vec![1; COMMAND_SIZE_BYTES_MAX]));
    while wal.state().segments.is_empty() {
        let index = wal.state().partitions[0].last.next();
        wal.append(&entry(index.0, &vec![1; COMMAND_SIZE_BYTES_MAX]));
    }
    while let Some(write) = wal.poll_write(now) {
        wal.on_written(write);
    }
    let free = wal.wants_segment(now).unwrap().from.unwrap();
    assert!(free.wipe && image.files.contains(&free.segment), "{free:?}");
}

#[test]
fn log_of_a_later_time_is_not_salvaged() {
    let image = two_boots();
    let error = image.salvage_with(2, &mut Kept::default()).unwrap_err();
    assert!(matches!(error, StorageError::FromTheFuture { .. }), "{error}");
}
