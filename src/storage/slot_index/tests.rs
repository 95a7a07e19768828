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

    fn write(&mut self, (segment, block): (u64, usize), index: u64) -> Entry<'static> {
        self.held.insert(index, self.written.len());
        self.written.push(Written { segment, block, index, adopting: 0 });
        entry(index)
    }

    fn stage(&mut self, (segment, block): (u64, usize), index: u64, adopting: u64) {
        if self.adopting != adopting {
            self.staged.clear();
            self.adopting = adopting;
        }
        self.staged.insert(index, self.written.len());
        self.written.push(Written { segment, block, index, adopting });
    }

    fn adopt(&mut self, term: u64, kept: u64) {
        self.held.retain(|slot, _| *slot <= kept);
        let staged = std::mem::take(&mut self.staged);
        if self.adopting == term {
            let floor = self.floor;
            self.held.extend(staged.into_iter().filter(|(slot, _)| *slot > floor));
        }
    }

    fn install(&mut self, index: u64, kept: u64) {
        self.held.retain(|held, _| *held > index && *held <= kept);
        self.floor = index;
    }

    /// All segments up to this one are gone.
    fn release(&mut self, segment: u64) {
        let written = &self.written;
        let is_gone = |number: &usize| written[*number].segment <= segment;
        let gone = self.held.iter().filter(|(_, number)| is_gone(number));
        let floor = gone.map(|(slot, _)| *slot).max().unwrap_or(0).max(self.floor);
        self.held.retain(|slot, _| *slot > floor);
        self.staged.retain(|_, number| !is_gone(number));
        self.floor = floor;
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

/// The next record, and what the model makes of it.
fn draw(
    prng: &mut Prng,
    model: &mut Model,
    place: (u64, usize),
    term: &mut u64,
) -> Record<'static> {
    let (floor, last) = (model.floor, model.last());
    let any = floor + 1 + prng.below((last - floor).max(1));
    match prng.below(15) {
        0 if last > floor => {
            model.write(place, any);
            let (term, message_id) = (TermId(1), MessageId(1));
            Record::NoOp { partition: P, index: Index(any), term, message_id }
        }
        1 if last > floor => Record::Carry(model.write(place, any)),
        2..=4 => {
            let slot = floor + 1 + prng.below(last - floor + 2);
            let adopting = *term + prng.below(2);
            model.stage(place, slot, adopting);
            Record::Stage { adopting: TermId(adopting), entry: entry(slot) }
        }
        5 => {
            let kept = floor + prng.below(last - floor + 1);
            model.adopt(*term, kept);
            *term += 1;
            let (term, base, kept) = (TermId(*term - 1), Index(kept), Index(kept));
            Record::Adopt { partition: P, term, base, kept, chain: [0; 16] }
        }
        6 => {
            *term += 1;
            if model.adopting < *term {
                model.staged.clear();
            }
            Record::View { partition: P, term: TermId(*term) }
        }
        7 if prng.one_in(8) => {
            let index = floor + prng.below(last - floor + 3);
            let kept = index.max(last);
            model.install(index, kept);
            let (index, kept) = (Index(index), Index(kept));
            let (partition, size_bytes, digest) = (P, 1, [0; 16]);
            Record::Install { partition, index, size_bytes, digest, kept, adopted: None }
        }
        _ => Record::Entry(model.write(place, last + 1)),
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
        if released + 2 < segment && prng.one_in(16) {
            released += 1;
            index.release(SegmentId(released));
            model.release(released);
            continue;
        }
        let size = 1 << prng.below(17);
        let placed = Placed { segment: SegmentId(segment), blocks: block..block + 1, size };
        let record = draw(&mut prng, &mut model, (segment, block), &mut term);
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
