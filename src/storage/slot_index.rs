//! Where the slots of each partition lie in the log's segments, so that they can be read back for
//! peers: sparse, one run of slots per 64 KiB, and bounded.
//!
//! A slot can be written more than once: as a value and then as a no-op, staged for a view and then
//! adopted, carried over. The index knows which of its records holds: of those that went to the
//! log itself the last one; of staged ones the last before the adoption that made them count, until
//! a later record takes the slot again. A *run* is a stretch of slots whose holding records lie in
//! the same blocks, all logged or all staged for the same view; within its blocks the last record
//! of the run's kind for a slot is the one that holds. (A later one of that kind elsewhere would
//! have given the slot to another run.)
//!
//! When there are too many runs, neighbours become one, and if that doesn't help the oldest are
//! forgotten: those slots can't be served, and a peer that wants them gets the checkpoint.

use std::collections::VecDeque;

use super::ledger::Placed;
use super::record::{Adopted, Record};
use crate::base::cast::{u16_from, u64_from, usize_from_u32};
use crate::base::ids::{Index, SegmentId, TermId};
use crate::base::limits::{
    OLD_SLOT_COARSE_MAX, OLD_SLOT_RUN_BLOCK_COUNT, OLD_SLOT_RUN_COUNT_MAX, OLD_SLOT_RUN_SIZE_BYTES,
};

/// Where slots lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotIndex {
    partitions: Vec<Runs>,
    run_count: usize,
    /// Runs are this often twice as long as they should be.
    coarse: u32,
}

/// Slots whose records lie in the same blocks of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub first: Index,
    /// The last of them.
    pub last: Index,
    /// The segment.
    pub segment: SegmentId,
    /// The view for which they were staged; 0: they went to the log itself.
    pub adopting: TermId,
    first_block: u16,
    last_block: u16,
    size_bytes: u32,
}

impl Run {
    /// The blocks in which the records lie from their beginning to their end.
    #[must_use]
    pub fn blocks(&self) -> std::ops::RangeInclusive<usize> {
        usize::from(self.first_block)..=usize::from(self.last_block)
    }

    /// Those of its slots that aren't above `index`, which isn't below its first.
    #[must_use]
    pub fn up_to(self, index: Index) -> Self {
        Self { last: self.last.min(index), ..self }
    }

    fn of(index: Index, adopting: TermId, placed: &Placed) -> Self {
        Self {
            first: index,
            last: index,
            segment: placed.segment,
            adopting,
            first_block: u16_from(placed.blocks.start),
            last_block: u16_from(placed.blocks.end - 1),
            size_bytes: u32::try_from(placed.size).expect("a record is shorter than 4 GiB"),
        }
    }

    /// Whether `next`, written later, may be taken into this run.
    fn takes(&self, next: &Self, coarse: u32) -> bool {
        let size_bytes = u64::from(self.size_bytes) + u64::from(next.size_bytes);
        let is_near = next.last_block >= self.last_block
            && usize::from(next.last_block - self.first_block) < OLD_SLOT_RUN_BLOCK_COUNT << coarse;
        next.first == self.last.next()
            && next.segment == self.segment
            && next.adopting == self.adopting
            && is_near
            && size_bytes <= u64_from(OLD_SLOT_RUN_SIZE_BYTES << coarse)
    }

    fn take(&mut self, next: &Self) {
        self.last = next.last;
        self.last_block = next.last_block;
        self.first_block = self.first_block.min(next.first_block);
        self.size_bytes += next.size_bytes;
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs {
    /// The slots of the log, ascending.
    held: VecDeque<Run>,
    /// Those staged for a view that isn't adopted.
    staged: VecDeque<Run>,
    adopting: TermId,
    /// Some of those that were staged are forgotten.
    forgot_staged: bool,
    /// Slots up to here can't be served.
    floor: Index,
}

impl SlotIndex {
    /// The index of a log without records.
    pub(super) fn new(partition_count: usize) -> Self {
        Self { partitions: vec![Runs::default(); partition_count], run_count: 0, coarse: 0 }
    }

    /// Takes note of a record of the partition at `position`.
    pub(super) fn on_record(&mut self, position: usize, record: &Record<'_>, placed: &Placed) {
        let coarse = self.coarse;
        let runs = &mut self.partitions[position];
        let before = runs.count();
        match record {
            Record::Entry(entry) | Record::Carry(entry) => {
                runs.write(Run::of(entry.index, TermId(0), placed), coarse);
            }
            Record::NoOp { index, .. } => runs.write(Run::of(*index, TermId(0), placed), coarse),
            Record::Stage { adopting, entry } => {
                runs.stage(Run::of(entry.index, *adopting, placed), coarse);
            }
            Record::Adopt { term, kept, base, .. } => {
                runs.cut(*kept);
                runs.adopt(*term, *base, coarse);
            }
            Record::Install { index, kept, adopted, .. } => {
                runs.cut(*kept);
                runs.raise(*index);
                if let Some(Adopted { term, base, .. }) = adopted {
                    runs.adopt(*term, *base, coarse);
                }
            }
            Record::View { term, .. } if runs.adopting < *term => runs.staged.clear(),
            _ => return,
        }
        let after = runs.count();
        self.run_count = self.run_count + after - before;
        while self.run_count > OLD_SLOT_RUN_COUNT_MAX {
            self.coarsen();
        }
    }

    /// A boot ended: what it had staged is never adopted.
    pub(super) fn on_boot(&mut self) {
        self.change_all(|runs| runs.staged.clear());
    }

    /// A segment is let go, the oldest one.
    pub(super) fn release(&mut self, segment: SegmentId) {
        self.change_all(|runs| {
            let gone = runs.held.iter().filter(|run| run.segment <= segment);
            if let Some(last) = gone.map(|run| run.last).max() {
                runs.raise(last);
            }
            runs.staged.retain(|run| run.segment > segment);
        });
    }

    /// Slots of a partition up to `index` can't be served.
    pub(super) fn forget(&mut self, position: usize, index: Index) {
        let runs = &mut self.partitions[position];
        let before = runs.count();
        runs.raise(index);
        runs.staged.clear();
        self.run_count = self.run_count + runs.count() - before;
    }

    /// A partition begins anew after `index`.
    pub(super) fn reset(&mut self, position: usize, index: Index) {
        let runs = &mut self.partitions[position];
        self.run_count -= runs.count();
        *runs = Runs { floor: index, ..Runs::default() };
    }

    /// Slots of a partition up to here can't be served.
    pub(super) fn floor(&self, position: usize) -> Index {
        self.partitions[position].floor
    }

    /// Where a slot lies, and those after it; `None`: not here.
    pub(super) fn find(&self, position: usize, index: Index) -> Option<Run> {
        let held = &self.partitions[position].held;
        let place = held.partition_point(|run| run.last < index);
        let run = held.get(place).filter(|run| run.first <= index)?;
        Some(Run { first: index, ..*run })
    }

    fn change_all(&mut self, change: impl FnMut(&mut Runs)) {
        self.partitions.iter_mut().for_each(change);
        self.run_count = self.partitions.iter().map(Runs::count).sum();
    }

    /// Makes runs longer, or forgets the older half of those of which there are most.
    fn coarsen(&mut self) {
        if self.coarse < OLD_SLOT_COARSE_MAX {
            self.coarse += 1;
        } else if let Some(most) = self.partitions.iter_mut().max_by_key(|runs| runs.count()) {
            most.forget_half();
        }
        let coarse = self.coarse;
        self.change_all(|runs| runs.join(coarse));
    }
}

impl Runs {
    fn count(&self) -> usize {
        self.held.len() + self.staged.len()
    }

    fn write(&mut self, run: Run, coarse: u32) {
        put(&mut self.held, run, coarse);
    }

    fn stage(&mut self, run: Run, coarse: u32) {
        if self.adopting != run.adopting {
            self.staged.clear();
            self.forgot_staged = false;
            self.adopting = run.adopting;
        }
        put(&mut self.staged, run, coarse);
    }

    /// What is staged takes its slots.
    fn adopt(&mut self, term: TermId, base: Index, coarse: u32) {
        let staged = std::mem::take(&mut self.staged);
        if std::mem::take(&mut self.forgot_staged) {
            self.raise(base);
        }
        if self.adopting != term {
            return;
        }
        for run in staged {
            put(&mut self.held, run, coarse);
        }
    }

    /// Slots above `index` are dropped.
    fn cut(&mut self, index: Index) {
        while self.held.pop_back_if(|run| run.first > index).is_some() {}
        if let Some(run) = self.held.back_mut() {
            run.last = run.last.min(index);
        }
    }

    /// Slots up to `index` are forgotten.
    fn raise(&mut self, index: Index) {
        self.floor = self.floor.max(index);
        while self.held.pop_front_if(|run| run.last <= index).is_some() {}
        if let Some(run) = self.held.front_mut() {
            run.first = run.first.max(index.next());
        }
    }

    /// Forgets the older half.
    fn forget_half(&mut self) {
        match self.held.get(self.held.len() / 2).copied() {
            Some(middle) => self.raise(middle.last),
            None => {
                self.staged.clear();
                self.forgot_staged = true;
            }
        }
    }

    fn join(&mut self, coarse: u32) {
        for list in [&mut self.held, &mut self.staged] {
            let mut joined: VecDeque<Run> = VecDeque::with_capacity(list.len());
            for run in list.drain(..) {
                match joined.back_mut().filter(|before| before.takes(&run, coarse)) {
                    Some(before) => before.take(&run),
                    None => joined.push_back(run),
                }
            }
            *list = joined;
        }
    }
}

/// Gives slots another place, or their first one.
fn put(runs: &mut VecDeque<Run>, new: Run, coarse: u32) {
    let follows = runs.back().is_none_or(|back| back.last < new.first);
    let place = if follows { runs.len() } else { carve(runs, new.first, new.last) };
    match place.checked_sub(1).and_then(|before| runs.get_mut(before)) {
        Some(before) if before.takes(&new, coarse) => before.take(&new),
        _ => runs.insert(place, new),
    }
}

/// Takes slots out of the runs that have them; where a run of them belongs.
fn carve(runs: &mut VecDeque<Run>, first: Index, last: Index) -> usize {
    let mut place = runs.partition_point(|run| run.last < first);
    while let Some(run) = runs.get(place).copied().filter(|run| run.first <= last) {
        match (run.first < first, run.last > last) {
            (false, false) => {
                runs.remove(place);
            }
            (false, true) => {
                runs[place].first = last.next();
                return place;
            }
            (true, goes_on) => {
                runs[place].last = first.previous();
                place += 1;
                if goes_on {
                    runs.insert(place, Run { first: last.next(), ..run });
                    return place;
                }
            }
        }
    }
    place
}

/// A run's blocks are numbered by `u16`, and there are so many in a segment.
const _: () = assert!(usize_from_u32(OLD_SLOT_COARSE_MAX) < 16);

#[cfg(test)]
mod tests;
