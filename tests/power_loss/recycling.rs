//! The same for a log that goes round and round in a few segments: checkpoints let old segments go,
//! small remains are carried over, files are renamed and written again. The power goes at every
//! kind of moment ([`POINTS`]), and each of them must have been hit.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use p2pmap::base::cast::{u64_from, usize_from};
use p2pmap::base::ids::{AppendId, Index, PartitionId, SegmentId, TermId};
use p2pmap::base::prng::Prng;
use p2pmap::storage::block::Block;
use p2pmap::storage::carry::{Carried, Carrier};
use p2pmap::storage::old_slots::SlotStep;
use p2pmap::storage::record::{Entry, Record};
use p2pmap::storage::wal::{CarryPlan, FreeSegment, SegmentWanted, Wal};

use super::slots::Reading;
use super::{
    Boot, Disk, Expected, KEY, PARTITIONS, Run, SEGMENT_SIZE_BYTES, Slot, model_of, seeds, slot_of,
    without_staged,
};

const IDLE: PartitionId = PARTITIONS[2];
const BUSY: &[PartitionId] = &[PARTITIONS[0], PARTITIONS[1]];
const SEGMENT_COUNT_MAX: u64 = 5;
const BOOT_COUNT: u64 = 4;
const STEP_COUNT_MIN: u64 = 300;
const STEP_COUNT: u64 = 1_500;

/// The moments at which the power goes.
const POINTS: [&str; 19] = [
    "a new file is being made",
    "a free file is being renamed",
    "a free file is being wiped",
    "a free file has its new name and was not written",
    "the snapshot that lets segments go is in flight",
    "that snapshot is there, and the segment before it is torn",
    "segments were let go and are not used again yet",
    "a recycled segment is written, its former blocks behind the end",
    "a checkpoint's file is durable, its record is not",
    "a checkpoint's record is durable, no snapshot names it yet",
    "a checkpoint's predecessor is deleted",
    "carried slots are in flight",
    "carried slots are durable, the segment they come from is still counted",
    "all of a plan is carried over, the segment still counts",
    "the carried segment is let go",
    "what was staged and adopted is carried over, and in flight",
    "the segment in which it was staged is let go",
    "old slots were read for a peer",
    "old slots were let go before they could be read",
];

#[test]
fn no_power_loss_while_segments_are_recycled_and_carried_loses_or_invents_a_record() {
    let mut hits = BTreeMap::new();
    for seed in seeds(3) {
        println!("P2PMAP_SEED={seed}");
        Recycling::new(seed).go(&mut hits);
    }
    for point in POINTS {
        println!("{:>6} × {point}", hits.get(point).unwrap_or(&0));
    }
    // One seed alone may miss some.
    if std::env::var_os("P2PMAP_SEED").is_none() {
        for point in POINTS {
            assert!(hits.contains_key(point), "the power never went while {point}");
        }
    }
}

/// What the host is about to do to a file; it may be done, or not, when the power goes.
#[derive(Clone, Copy)]
struct Making {
    segment: SegmentId,
    from: Option<FreeSegment>,
}

/// A run, and what goes on besides appending in a boot.
struct Recycling {
    run: Run,
    making: Option<Making>,
    carrying: Option<Carrying>,
    /// Appends that carried slots over, and that recorded checkpoints.
    carried: VecDeque<AppendId>,
    checkpointed: VecDeque<AppendId>,
    /// The segment that was carried over last, while it still counts.
    carried_segment: Option<SegmentId>,
    carried_segment_gone: bool,
    /// The last append that carried over what was staged and adopted, and the segment where that
    /// was, while it counts.
    adopted_carried: AppendId,
    adopted_segment: Option<SegmentId>,
    adopted_segment_gone: bool,
    deleted: bool,
    refused_count: u64,
    reading: Option<Reading>,
    /// Old slots were read, and weren't there any more.
    read_any: bool,
    gone_any: bool,
}

struct Carrying {
    carrier: Carrier,
    appended: AppendId,
}

impl Recycling {
    fn new(seed: u64) -> Self {
        let mut run = Run::new(seed);
        run.log_size_bytes_max = SEGMENT_COUNT_MAX * u64_from(SEGMENT_SIZE_BYTES);
        run.busy = BUSY;
        Self {
            run,
            making: None,
            carrying: None,
            carried: VecDeque::new(),
            checkpointed: VecDeque::new(),
            carried_segment: None,
            carried_segment_gone: false,
            adopted_carried: AppendId(0),
            adopted_segment: None,
            adopted_segment_gone: false,
            deleted: false,
            refused_count: 0,
            reading: None,
            read_any: false,
            gone_any: false,
        }
    }

    fn go(&mut self, hits: &mut BTreeMap<&'static str, u64>) {
        for _ in 0..BOOT_COUNT {
            let mut boot = self.run.boot();
            for _ in 0..STEP_COUNT_MIN + self.run.prng.below(STEP_COUNT) {
                self.step(&mut boot);
                // The last of them only where it lets others go.
                let most = self.run.log_size_bytes_max + u64_from(SEGMENT_SIZE_BYTES);
                assert!(boot.wal.space().used_size_bytes <= most);
                for _ in 0..self.image_count(&boot) {
                    self.lose_power(&boot, hits);
                }
            }
            let (disk, model) = self.lose_power(&boot, hits);
            (self.run.disk, self.run.model) = (disk, model);
            self.making = None;
            self.carrying = None;
            self.carried.clear();
            self.checkpointed.clear();
            self.carried_segment = None;
            self.carried_segment_gone = false;
            self.adopted_carried = AppendId(0);
            self.adopted_segment = None;
            self.adopted_segment_gone = false;
            self.deleted = false;
            self.reading = None;
            (self.read_any, self.gone_any) = (false, false);
        }
    }

    /// How many of the images to look at that a power loss now would leave: more at moments that
    /// are rare.
    fn image_count(&mut self, boot: &Boot) -> u64 {
        let head_in_flight = boot.in_flight.iter().any(|write| write.offset == 0);
        let reusing = self.making.is_some_and(|making| making.from.is_some());
        if head_in_flight && boot.in_flight.len() > 1 {
            4
        } else if head_in_flight || reusing {
            1
        } else {
            u64::from(self.run.prng.one_in(20))
        }
    }

    fn step(&mut self, boot: &mut Boot) {
        let prng = &mut self.run.prng;
        match prng.below(27) {
            0..=8 => self.append(boot),
            9 => boot.now = boot.now.after_ns(prng.below(8_000_000)),
            10..=16 => self.run.complete_one(boot),
            17 | 18 => self.make(boot),
            19 | 20 => self.carry(boot),
            21 | 22 => self.take_checkpoint(boot),
            23..=25 => self.read_old(boot),
            _ => self.delete_checkpoint(boot),
        }
        if self.making.is_none() {
            let wanted = boot.wal.wants_segment(boot.now);
            self.making = wanted.map(|SegmentWanted { segment, from }| Making { segment, from });
        }
        while let Some(write) = boot.wal.poll_write(boot.now) {
            boot.in_flight.push(write);
        }
        let durable = boot.wal.durable();
        for queue in [&mut self.carried, &mut self.checkpointed] {
            queue.retain(|append| *append > durable);
        }
        if let Some(segment) = self.carried_segment
            && !boot.wal.is_live(segment)
        {
            self.carried_segment = None;
            self.carried_segment_gone = true;
        }
        if self.adopted_segment.take_if(|segment| !boot.wal.is_live(*segment)).is_some() {
            self.adopted_segment_gone = true;
        }
        let acknowledged = usize_from(durable.0);
        boot.prefixes[..acknowledged].fill_with(Default::default);
    }

    /// What a client or the protocol has to say. Clients are refused when room is short.
    fn append(&mut self, boot: &mut Boot) {
        if boot.wal.space().client_size_bytes < 2 << 20 {
            self.refused_count += 1;
            assert!(self.refused_count < 3_000, "writes never resume");
            return;
        }
        self.refused_count = 0;
        if self.run.prng.one_in(60) || boot.prefixes.last().unwrap()[&IDLE].last() == 0 {
            match self.run.prng.one_in(3) {
                true => self.adopt_idle(boot),
                false => self.write_idle(boot),
            }
        } else {
            self.run.append(boot, true);
        }
    }

    /// A slot of the partition to which hardly anything happens, stable at once as a rule.
    fn write_idle(&mut self, boot: &mut Boot) {
        let mut model = boot.prefixes.last().unwrap().clone();
        let expected = model.get_mut(&IDLE).unwrap();
        let index = expected.last() + 1;
        let entry = Entry {
            timestamp: p2pmap::base::time::Timestamp(index),
            ..self.run.entry(IDLE, index, expected.view, false)
        };
        expected.slots.insert(index, slot_of(&entry));
        boot.wal.append(&Record::Entry(entry));
        boot.prefixes.push(model);
        if self.run.prng.one_in(2) {
            self.sync(boot, IDLE);
        }
    }

    /// The same, with a slot that comes by a view: staged, and adopted at once.
    fn adopt_idle(&mut self, boot: &mut Boot) {
        let mut model = boot.prefixes.last().unwrap().clone();
        let expected = model.get_mut(&IDLE).unwrap();
        let (kept, term) = (expected.last(), expected.view + 1);
        let index = kept + 1;
        // The last one that is staged holds.
        for number in 0..=self.run.prng.below(2) {
            let entry = Entry {
                timestamp: p2pmap::base::time::Timestamp(index + number),
                ..self.run.entry(IDLE, index, term, false)
            };
            expected.slots.insert(index, slot_of(&entry));
            boot.wal.append(&Record::Stage { adopting: TermId(term), entry });
            // It changes nothing yet.
            boot.prefixes.push(boot.prefixes.last().unwrap().clone());
        }
        (expected.view, expected.last_normal, expected.base) = (term, term, index);
        boot.prefixes.push(model);
        boot.wal.append(&Record::Adopt {
            partition: IDLE,
            term: TermId(term),
            base: Index(index),
            kept: Index(kept),
            chain: [0; 16],
        });
    }

    fn sync(&mut self, boot: &mut Boot, partition: PartitionId) {
        let mut model = boot.prefixes.last().unwrap().clone();
        let expected = model.get_mut(&partition).unwrap();
        expected.sync_point = expected.last();
        boot.wal.append(&Record::SyncPoint { partition, index: Index(expected.last()) });
        boot.prefixes.push(model);
    }

    /// The host's file operation is done, and durably so.
    fn make(&mut self, boot: &mut Boot) {
        if let Some(Making { segment, from }) = self.making.take() {
            self.run.disk.make(segment, from);
            boot.wal.on_segment_prepared(segment);
        }
    }

    fn take_checkpoint(&mut self, boot: &mut Boot) {
        let pinned = boot.wal.pinned().map(|pinned| pinned.partition);
        let prng = &mut self.run.prng;
        let chosen = pinned.or_else(|| prng.one_in(4).then(|| BUSY[usize_from(prng.below(2))]));
        let Some(partition) = chosen else { return };
        if pinned.is_some() && self.run.prng.one_in(3) {
            // As if it could take none.
            boot.wal.carry_whole(partition, true);
            return;
        }
        if boot.prefixes.last().unwrap()[&partition].sync_point
            == boot.prefixes.last().unwrap()[&partition].checkpoint
        {
            self.sync(boot, partition);
        }
        let mut model = boot.prefixes.last().unwrap().clone();
        let expected = model.get_mut(&partition).unwrap();
        let Expected { sync_point, checkpoint, .. } = *expected;
        let index = checkpoint + self.run.prng.below(sync_point - checkpoint + 1);
        let index = if self.run.prng.one_in(2) { sync_point } else { index };
        if index == checkpoint {
            return;
        }
        let covered: Vec<Slot> = expected.slots.range(..=index).map(|slot| *slot.1).collect();
        assert_eq!(u64_from(covered.len()), index);
        // The file is durable before its record is appended.
        self.run.disk.checkpoints.insert((partition, index), Rc::new(covered));
        expected.checkpoint = index;
        let index = Index(index);
        let record = Record::CheckpointDone { partition, index, size_bytes: 1, digest: [0; 16] };
        self.checkpointed.push_back(boot.wal.append(&record));
        boot.prefixes.push(model);
    }

    fn delete_checkpoint(&mut self, boot: &mut Boot) {
        if let Some((partition, index)) = boot.wal.superseded_checkpoint() {
            // It may have been deleted by a boot that didn't come far enough to say so.
            self.run.disk.checkpoints.remove(&(partition, index.0));
            self.deleted = true;
        }
    }

    /// Goes on with carrying over: begins, reads a chunk, or ends.
    fn carry(&mut self, boot: &mut Boot) {
        let Some(mut carrying) = self.carrying.take() else {
            let plan = boot.wal.carry_plan();
            self.carrying = plan.map(|plan: CarryPlan| Carrying {
                carrier: Carrier::new(KEY, plan),
                appended: AppendId(0),
            });
            return;
        };
        if carrying.appended > boot.wal.durable() {
            self.carrying = Some(carrying);
            return;
        }
        let segment = carrying.carrier.plan().segment;
        if !boot.wal.is_live(segment) {
            return;
        }
        let Some(read) = carrying.carrier.wants() else {
            for carried in &carrying.carrier.plan().partitions {
                if boot.wal.may_carry(carried.partition) {
                    boot.wal.on_carried(segment, carried.partition);
                    self.carried_segment = Some(segment);
                }
            }
            return;
        };
        let wal = &mut boot.wal;
        carrying.carrier.give_up(|carried| !wal.may_carry(carried.partition));
        let blocks: Vec<Block> = (read.first_block..read.first_block + read.block_count)
            .map(|number| Block::clone(&self.run.disk.blocks[&(read.segment, number)]))
            .collect();
        let model = boot.prefixes.last().unwrap().clone();
        let partitions = carrying.carrier.plan().partitions.iter();
        let adopted: Vec<_> =
            partitions.flat_map(|carried| adopted_in(wal, carried.partition, segment)).collect();
        let Carried { count, last } = carrying.carrier.on_read(wal, &blocks).unwrap();
        carrying.appended = carrying.appended.max(last);
        self.carried.extend((last.0 + 1 - count..=last.0).map(AppendId));
        boot.prefixes.extend((0..count).map(|_| model.clone()));
        // It is held elsewhere since.
        if adopted.iter().any(|&(partition, index)| !is_in(wal, partition, index, segment)) {
            self.adopted_carried = last;
            self.adopted_segment = Some(segment);
        }
        self.carrying = Some(carrying);
    }

    /// Goes on with reading old slots for a peer: what was asked for is read now or later, when
    /// its segment may be another one.
    fn read_old(&mut self, boot: &Boot) {
        let model = boot.prefixes.last().unwrap();
        let Some(mut reading) = self.reading.take() else {
            let partition = PARTITIONS[usize_from(self.run.prng.below(3))];
            let Expected { sync_point, .. } = model[&partition];
            let first = boot.wal.first_slot(partition).unwrap().0;
            if first <= sync_point {
                let first = first + self.run.prng.below(sync_point - first + 1);
                self.reading = Some(Reading::new(partition, first, sync_point));
            }
            return;
        };
        match reading.go_on(&boot.wal, &self.run.disk, &model[&reading.partition()]) {
            Some(SlotStep::Done) => self.read_any = true,
            Some(SlotStep::Gone) => self.gone_any = true,
            _ => self.reading = Some(reading),
        }
    }

    /// The power goes. What is found on one of the images that it can leave must be one of the
    /// prefixes that are no shorter than what was acknowledged.
    fn lose_power(
        &mut self,
        boot: &Boot,
        hits: &mut BTreeMap<&'static str, u64>,
    ) -> (Disk, super::Model) {
        let mut disk = self.run.disk.clone();
        for write in &boot.in_flight {
            disk.tear(write, &mut self.run.prng);
        }
        if let Some(making) = self.making {
            leave(&mut disk, making, &mut self.run.prng);
        }
        let (recovered, applied) = disk.recover(self.run.boot_epoch.next()).unwrap();
        let found = model_of(&recovered, &applied);
        let AppendId(acknowledged) = boot.wal.durable();
        let possible = &boot.prefixes[usize_from(acknowledged)..];
        assert!(
            possible.iter().any(|prefix| without_staged(prefix) == found),
            "boot {}: none of the {} states after the {acknowledged} acknowledged records",
            self.run.boot_epoch,
            possible.len(),
        );
        self.count_points(boot, &disk, recovered.torn.is_some(), hits);
        // A checkpoint's predecessor may be gone only if it isn't wanted: installing it would have
        // failed.
        (disk, found)
    }

    /// Which of the [`POINTS`] this was.
    fn count_points(
        &self,
        boot: &Boot,
        disk: &Disk,
        torn: bool,
        hits: &mut BTreeMap<&'static str, u64>,
    ) {
        let wal = &boot.wal;
        let first_of = |write: &&super::SegmentWrite| write.offset == 0;
        let heads: Vec<_> = boot.in_flight.iter().filter(first_of).collect();
        let head_is_there = |write: &&super::SegmentWrite| {
            super::blocks_of(write).all(|(number, block)| {
                disk.blocks.get(&(write.segment, number)).is_some_and(|found| found.0 == block.0)
            })
        };
        let before_is_torn = |head: &super::SegmentWrite| {
            let mut before = boot.in_flight.iter().filter(|write| write.segment < head.segment);
            before.any(|write| {
                super::blocks_of(write).any(|(number, block)| {
                    let found = disk.blocks.get(&(write.segment, number));
                    found.is_none_or(|found| found.0 != block.0)
                })
            })
        };
        let used = wal.space().used_size_bytes / u64_from(SEGMENT_SIZE_BYTES);
        let live = wal.space().live_size_bytes / u64_from(SEGMENT_SIZE_BYTES);
        let behind = |segment: SegmentId| {
            let end = disk.written.range(..(segment.next(), 0)).next_back();
            end.is_some_and(|&(file, last)| {
                file == segment && disk.blocks.contains_key(&(segment, last + 1))
            })
        };
        let newest = disk.written.iter().next_back().map(|(segment, _)| *segment);
        let unwritten = |segment: &SegmentId| {
            disk.blocks.contains_key(&(*segment, 0)) && !disk.written.contains(&(*segment, 0))
        };
        let making = self.making.map(|making| making.from);
        let complete = wal.durable() == wal.appended();
        let facts = [
            making == Some(None),
            making.flatten().is_some_and(|free| !free.wipe),
            making.flatten().is_some_and(|free| free.wipe),
            self.making.is_none() && disk.files.iter().any(unwritten),
            !heads.is_empty() && wal.is_releasing(),
            heads.iter().any(|head| head_is_there(head) && before_is_torn(head)) && torn,
            used > live + 1 && !wal.is_releasing(),
            newest.is_some_and(behind),
            !self.checkpointed.is_empty(),
            self.checkpointed.is_empty() && wal.has_unnamed_checkpoint(),
            self.deleted,
            !self.carried.is_empty(),
            self.carrying.as_ref().is_some_and(|c| c.appended.0 > 0) && self.carried.is_empty(),
            self.carried_segment.is_some() && complete,
            self.carried_segment_gone,
            self.adopted_carried > wal.durable(),
            self.adopted_segment_gone,
            self.read_any,
            self.gone_any,
        ];
        for (point, _) in POINTS.iter().zip(facts).filter(|(_, fact)| *fact) {
            *hits.entry(point).or_default() += 1;
        }
    }
}

/// The slots of a partition above its checkpoint that lie in a segment because they were staged
/// there and adopted.
fn adopted_in(wal: &Wal, partition: PartitionId, segment: SegmentId) -> Vec<(PartitionId, Index)> {
    let state = wal.state().partition(partition).unwrap();
    let indexes = (state.checkpoint.0 + 1..=state.last.0).map(Index);
    let adopted = |index: &Index| {
        let run = wal.find_slot(partition, *index).unwrap();
        run.segment == segment && run.adopting > TermId(0)
    };
    indexes.filter(adopted).map(|index| (partition, index)).collect()
}

fn is_in(wal: &Wal, partition: PartitionId, index: Index, segment: SegmentId) -> bool {
    wal.find_slot(partition, index).is_some_and(|run| run.segment == segment)
}

/// Leaves a file operation done, undone or half done.
fn leave(disk: &mut Disk, making: Making, prng: &mut Prng) {
    match (making.from, prng.below(3)) {
        (_, 0) => {}
        // While it is wiped it has a name that the next start removes.
        (Some(free), 1) if free.wipe => disk.remove(free.segment),
        _ => disk.make(making.segment, making.from),
    }
}
