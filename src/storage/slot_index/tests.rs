use std::collections::BTreeMap;

use super::*;
use crate::base::ids::{MessageId, PartitionId};
use crate::base::prng::Prng;
use crate::base::time::Timestamp;
use crate::storage::record::Entry;

const P: PartitionId = PartitionId(0);

/// A record that was written: where, and which slot of which kind.
#[derive(Clone, Copy, Debug)]
struct Written {
    segment: u64,
    block: usize,
    index: u64,
    adopting: u64,
}

/// What is held according to a plain model, and everything that was written.
#[derive(Default)]
struct Model {
    written: Vec<Written>,
    held: BTreeMap<u64, usize>,
    staged: BTreeMap<u64, usize>,
    adopting: u64,
    floor: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.held.keys().next_back().copied().unwrap_or(self.floor)
    }

    /// The record that reading the run's blocks would give for a slot.
    fn read(&self, run: &Run, index: u64) -> Option<usize> {
        self.written.iter().rposition(|written| {
            written.segment == run.segment.0
                && run.blocks().contains(&written.block)
                && written.index == index
                && written.adopting == run.adopting.0
        })
    }
}

fn entry(index: u64) -> Entry<'static> {
    Entry {
        partition: P,
        index: Index(index),
        term: TermId(1),
        message_id: MessageId(index),
        timestamp: Timestamp(1),
        value: b"v",
    }
}

fn go(seed: u64) {
    let mut prng = Prng::new(seed, "slot index");
    let mut index = SlotIndex::new(1);
    let mut model = Model::default();
    let (mut segment, mut block, mut term, mut released) = (1, 0, 1, 0);
    for _ in 0..400 {
        block += usize::from(prng.one_in(3));
        if prng.one_in(30) {
            segment += 1;
            block = 0;
        }
        let size = 1 << prng.below(17);
        let placed = Placed { segment: SegmentId(segment), blocks: block..block + 1, size };
        let number = model.written.len();
        let write = |model: &mut Model, index, adopting| {
            model.written.push(Written { segment, block, index, adopting });
        };
        let (floor, last) = (model.floor, model.last());
        let any = floor + 1 + prng.below((last - floor).max(1));
        let record = match prng.below(16) {
            0 if last > floor => {
                write(&mut model, any, 0);
                model.held.insert(any, number);
                let (term, message_id) = (TermId(1), MessageId(1));
                Record::NoOp { partition: P, index: Index(any), term, message_id }
            }
            1 if last > floor => {
                write(&mut model, any, 0);
                model.held.insert(any, number);
                Record::Carry(entry(any))
            }
            2..=4 => {
                let slot = floor + 1 + prng.below(last - floor + 2);
                let adopting = term + prng.below(2);
                write(&mut model, slot, adopting);
                if model.adopting != adopting {
                    model.staged.clear();
                    model.adopting = adopting;
                }
                model.staged.insert(slot, number);
                Record::Stage { adopting: TermId(adopting), entry: entry(slot) }
            }
            5 => {
                let kept = floor + prng.below(last - floor + 1);
                let adopts = model.adopting == term;
                model.held.retain(|slot, _| *slot <= kept);
                let staged = std::mem::take(&mut model.staged);
                let fits = |staged: &(u64, usize)| adopts && staged.0 > floor;
                model.held.extend(staged.into_iter().filter(fits));
                term += 1;
                let (base, kept) = (Index(kept), Index(kept));
                let term = TermId(term - 1);
                Record::Adopt { partition: P, term, base, kept, chain: [0; 16] }
            }
            6 => {
                if model.adopting < term + 1 {
                    model.staged.clear();
                }
                term += 1;
                Record::View { partition: P, term: TermId(term) }
            }
            7 if prng.one_in(8) => {
                let slot = floor + prng.below(last - floor + 3);
                let kept = slot.max(last);
                model.held.retain(|held, _| *held > slot && *held <= kept);
                model.floor = slot;
                let (index, kept) = (Index(slot), Index(kept));
                Record::Install {
                    partition: P,
                    index,
                    size_bytes: 1,
                    digest: [0; 16],
                    kept,
                    adopted: None,
                }
            }
            8 if released + 2 < segment => {
                released += 1;
                index.release(SegmentId(released));
                let is_gone = |number: &usize| model.written[*number].segment <= released;
                let gone = model.held.iter().filter(|(_, number)| is_gone(number));
                let floor = gone.map(|(slot, _)| *slot).max().unwrap_or(0).max(model.floor);
                model.floor = floor;
                model.held.retain(|slot, _| *slot > floor);
                let written = &model.written;
                model.staged.retain(|_, number| written[*number].segment > released);
                continue;
            }
            _ => {
                write(&mut model, last + 1, 0);
                model.held.insert(last + 1, number);
                Record::Entry(entry(last + 1))
            }
        };
        index.on_record(0, &record, &placed);
        for (&slot, &number) in &model.held {
            let run = index.find(0, Index(slot)).filter(|_| slot > model.floor);
            let read = run.and_then(|run| model.read(&run, slot));
            assert!(slot <= model.floor || read == Some(number), "slot {slot}: {record:?}");
        }
        let beyond = model.last() + 1;
        assert_eq!(index.find(0, Index(beyond)), None, "slot {beyond}: {record:?}");
        assert_eq!(index.run_count, index.partitions[0].count());
    }
}

#[test]
fn each_slot_is_found_where_the_record_that_holds_it_lies() {
    for seed in 0..300 {
        go(seed);
    }
}

#[test]
fn too_many_runs_become_longer_and_then_the_oldest_are_forgotten() {
    let mut index = SlotIndex::new(1);
    let put = |index: &mut SlotIndex, slot: u64, block: usize| {
        let segment = SegmentId(1 + slot / 60_000);
        let placed = Placed { segment, blocks: block..block + 1, size: 100 << 10 };
        index.on_record(0, &Record::Entry(entry(slot)), &placed);
    };
    let count = u64_from(OLD_SLOT_RUN_COUNT_MAX) * 3;
    for slot in 1..=count {
        put(&mut index, slot, usize::try_from(slot % 60_000).unwrap());
        assert!(index.run_count <= OLD_SLOT_RUN_COUNT_MAX);
    }
    assert!(index.coarse > 0);
    assert_eq!(index.floor(0), Index(0), "longer runs do");
    let run = index.find(0, Index(1)).unwrap();
    assert!(run.last > Index(1) && run.blocks().contains(&1));
    // Slots that can't be joined: each is written over by itself, backwards.
    for slot in (1..=count).rev().step_by(2) {
        put(&mut index, slot, 7);
        assert!(index.run_count <= OLD_SLOT_RUN_COUNT_MAX);
    }
    assert!(index.floor(0) > Index(0), "the oldest are forgotten");
    assert!(index.find(0, Index(count)).is_some());
}
