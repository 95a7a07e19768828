//! Power loss without a device to cut. The real log writes to a disk that traces every write; at
//! any moment the power goes: each block of a write in flight is there, isn't, or is there in part,
//! whatever order the writes were issued in. The real recovery runs on such images and must find
//! what one of the prefixes of the appended records says that are no shorter than what was
//! acknowledged; then the next boot goes on from there.
//!
//! Each run draws a fresh seed and prints it. `P2PMAP_SEED=… cargo test --test power_loss` repeats
//! one, `P2PMAP_RUNS=…` makes more of them.

// The seed has to be seen; in a test a value that isn't there is a failure like any other.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "power_loss/damage.rs"]
mod damage;
#[path = "power_loss/recycling.rs"]
mod recycling;
#[path = "power_loss/slots.rs"]
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use p2pmap::base::cast::{u64_from, usize_from};
use p2pmap::base::checksum::digest128;
use p2pmap::base::ids::{
    AppendId, BootEpoch, Incarnation, Index, MessageId, PartitionId, SegmentId, ShardId, TermId,
};
use p2pmap::base::prng::Prng;
use p2pmap::base::time::{Monotonic, NS_PER_MS, Timestamp};
use p2pmap::storage::block::{Block, LogKey, SegmentWrite};
use p2pmap::storage::error::StorageError;
use p2pmap::storage::record::{Adopted, Entry, Record};
use p2pmap::storage::recovery::{LogFolder, Recovered, SegmentFile, SegmentSource, recover};
use p2pmap::storage::replay::{Apply, LoggedEntry};
use p2pmap::storage::wal::{Durability, FreeSegment, SegmentWanted, Wal, WalConfig};

const SEGMENT_SIZE_BYTES: usize = 8 << 20;
const BLOCK_COUNT: usize = SEGMENT_SIZE_BYTES / 4_096;
const PARTITIONS: [PartitionId; 3] = [PartitionId(4), PartitionId(5), PartitionId(6)];
const KEY: LogKey = LogKey { shard: ShardId(2), salt: 0xA5A5_0001 };
const BOOT_COUNT: u64 = 5;
const IMAGES_PER_CRASH: u64 = 4;

#[test]
fn no_power_loss_loses_or_invents_a_record() {
    for seed in seeds(10) {
        println!("P2PMAP_SEED={seed}");
        Run::new(seed).go();
    }
}

#[test]
fn any_byte_flipped_before_the_last_marker_is_found() {
    for seed in seeds(2) {
        println!("P2PMAP_SEED={seed}");
        flip_bytes(seed);
    }
}

#[test]
fn cut_after_the_last_marker_loses_nothing_and_a_cut_file_is_refused() {
    for seed in seeds(2) {
        println!("P2PMAP_SEED={seed}");
        cut(seed);
    }
}

fn seeds(default_count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    if let Some(seed) = number("P2PMAP_SEED") {
        return vec![seed];
    }
    let count = number("P2PMAP_RUNS").unwrap_or(default_count);
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    let first = u64::from_le_bytes(bytes) >> 16;
    (first..first + count).collect()
}

// ---- the disk ----

/// Segments as they would be found after a power loss. Blocks never written are zeros, or what a
/// recycled file held before.
#[derive(Clone, Default)]
struct Disk {
    files: Vec<SegmentId>,
    blocks: BTreeMap<(SegmentId, usize), Rc<Block>>,
    /// Blocks written since their file has its name.
    written: BTreeSet<(SegmentId, usize)>,
    checkpoints: Checkpoints,
}

/// Checkpoints' files: the slots that each covers.
type Checkpoints = BTreeMap<(PartitionId, u64), Rc<Vec<Slot>>>;

impl Disk {
    fn write_block(&mut self, segment: SegmentId, number: usize, block: &Block) {
        assert!(self.files.contains(&segment), "only prepared segments are written");
        self.blocks.insert((segment, number), Rc::new(block.clone()));
        self.written.insert((segment, number));
    }

    /// Makes a segment ready, of a free one if there is one.
    fn make(&mut self, segment: SegmentId, from: Option<FreeSegment>) {
        if let Some(free) = from.filter(|free| self.files.contains(&free.segment)) {
            let former = std::mem::take(&mut self.blocks);
            let renamed = former.into_iter().map(|((file, number), block)| {
                let name = if file == free.segment { segment } else { file };
                ((name, number), block)
            });
            self.blocks = renamed.collect();
            self.remove_name(free.segment);
            if free.wipe {
                self.remove(segment);
            }
        }
        if !self.files.contains(&segment) {
            self.files.push(segment);
        }
    }

    fn remove_name(&mut self, segment: SegmentId) {
        self.files.retain(|file| *file != segment);
        self.written.retain(|(file, _)| *file != segment);
    }

    fn remove(&mut self, segment: SegmentId) {
        self.remove_name(segment);
        self.blocks.retain(|(file, _), _| *file != segment);
    }

    fn complete(&mut self, write: &SegmentWrite) {
        for (number, block) in blocks_of(write) {
            let place = (write.segment, number);
            assert!(!self.written.contains(&place), "no block is written twice");
            self.write_block(write.segment, number, block);
        }
    }

    /// Any part of a write may be there: whole blocks, in any order, or sectors of one.
    fn tear(&mut self, write: &SegmentWrite, prng: &mut Prng) {
        let odds = prng.below(5);
        for (number, block) in blocks_of(write) {
            if odds == 0 || (odds < 4 && prng.below(4) > odds) {
                continue;
            }
            let former = self.blocks.get(&(write.segment, number)).map_or(&Block::ZERO, |b| b);
            let mut torn = block.clone();
            if prng.one_in(4) {
                for (sector, former) in torn.0.chunks_mut(512).zip(former.0.chunks(512)) {
                    if prng.one_in(2) {
                        sector.copy_from_slice(former);
                    }
                }
            }
            if torn.0 != former.0 {
                self.write_block(write.segment, number, &torn);
            }
        }
    }

    fn segment_files(&self) -> Vec<SegmentFile> {
        let file = |&name| SegmentFile { name, size_bytes: u64_from(SEGMENT_SIZE_BYTES) };
        self.files.iter().map(file).collect()
    }

    fn recover(&self, boot_epoch: BootEpoch) -> Result<(Recovered, Applied), StorageError> {
        let files = self.segment_files();
        let folder = LogFolder {
            key: KEY,
            boot_epoch,
            segment_size_bytes: SEGMENT_SIZE_BYTES,
            partitions: &PARTITIONS,
            files: &files,
            serves_peers: true,
        };
        let mut applied = Applied { checkpoints: self.checkpoints.clone(), ..Applied::default() };
        let recovered = recover(&folder, &mut &*self, &mut applied)?;
        Ok((recovered, applied))
    }
}

impl SegmentSource for &Disk {
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        for (distance, block) in blocks.iter_mut().enumerate() {
            let found = self.blocks.get(&(self.files[file], first_block + distance));
            block.clone_from(found.map_or(&Block::ZERO, |block| block));
        }
        Ok(())
    }
}

fn blocks_of(write: &SegmentWrite) -> impl Iterator<Item = (usize, &Block)> {
    let first = usize_from(write.offset / 4_096);
    write.blocks.iter().enumerate().map(move |(distance, block)| (first + distance, block))
}

// ---- what should be found ----

/// A slot, its value as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    term: TermId,
    message_id: MessageId,
    timestamp: Timestamp,
    value: Option<u128>,
}

/// Where a partition should stand: written anew, without the code under test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    slots: BTreeMap<u64, Slot>,
    staged: Vec<(u64, Slot)>,
    sync_point: u64,
    view: u64,
    last_normal: u64,
    base: u64,
    incarnation: u64,
    crash_vector: Vec<u64>,
    checkpoint: u64,
}

impl Expected {
    fn last(&self) -> u64 {
        self.slots.keys().next_back().copied().unwrap_or(0)
    }
}

type Model = BTreeMap<PartitionId, Expected>;

#[derive(Default)]
struct Applied {
    slots: BTreeMap<PartitionId, Vec<(Index, Slot)>>,
    checkpoints: Checkpoints,
}

impl Apply for Applied {
    fn install(&mut self, partition: PartitionId, index: Index) {
        let checkpoint = &self.checkpoints[&(partition, index.0)];
        let slots = (1..).map(Index).zip(checkpoint.iter().copied());
        self.slots.insert(partition, slots.collect());
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        term: TermId,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) {
        let slot = Slot { term, message_id, timestamp, value: value.map(digest128) };
        self.slots.entry(partition).or_default().push((index, slot));
    }
}

fn model_of(recovered: &Recovered, applied: &Applied) -> Model {
    let mut model = Model::new();
    for partition in &recovered.partitions {
        let state = &partition.state;
        let mut slots = BTreeMap::new();
        for (index, slot) in applied.slots.get(&state.partition).into_iter().flatten() {
            assert_eq!(index.0, u64_from(slots.len()) + 1, "slots are handed on in order, once");
            slots.insert(index.0, *slot);
        }
        assert_eq!(u64_from(slots.len()), state.sync_point.0, "all that is stable is handed on");
        for LoggedEntry { index, term, message_id, timestamp, value } in &partition.log {
            let value = value.as_deref().map(digest128);
            let (term, message_id, timestamp) = (*term, *message_id, *timestamp);
            assert_eq!(index.0, u64_from(slots.len()) + 1, "the log has no hole");
            slots.insert(index.0, Slot { term, message_id, timestamp, value });
        }
        assert_eq!(state.last.0, u64_from(slots.len()));
        let expected = Expected {
            slots,
            staged: Vec::new(),
            sync_point: state.sync_point.0,
            view: state.view.0,
            last_normal: state.last_normal.0,
            base: state.base.0,
            incarnation: state.incarnation.0,
            crash_vector: state.crash_vector.iter().map(|incarnation| incarnation.0).collect(),
            checkpoint: state.checkpoint.0,
        };
        model.insert(state.partition, expected);
    }
    model
}

fn without_staged(model: &Model) -> Model {
    let bare = |expected: &Expected| Expected { staged: Vec::new(), ..expected.clone() };
    model.iter().map(|(partition, expected)| (*partition, bare(expected))).collect()
}

// ---- a run ----

struct Run {
    prng: Prng,
    boot_epoch: BootEpoch,
    disk: Disk,
    model: Model,
    value: Vec<u8>,
    log_size_bytes_max: u64,
    /// The partitions that something happens to.
    busy: &'static [PartitionId],
}

/// A boot of a run: the log, its writes in flight, and what each prefix of its appends means.
struct Boot {
    wal: Wal,
    in_flight: Vec<SegmentWrite>,
    prefixes: Vec<Model>,
    now: Monotonic,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed, "power loss");
        let mut value = vec![0; 700 << 10];
        value.fill_with(|| prng.next_u64().to_le_bytes()[0]);
        let empty = |&partition| (partition, Expected::default());
        let model = PARTITIONS.iter().map(empty).collect();
        let (boot_epoch, disk) = (BootEpoch(0), Disk::default());
        let log_size_bytes_max = 1 << 40;
        Self { prng, boot_epoch, disk, model, value, log_size_bytes_max, busy: &PARTITIONS }
    }

    fn go(&mut self) {
        for _ in 0..BOOT_COUNT {
            let mut boot = self.boot();
            let step_count = self.prng.below(400);
            let large = self.prng.one_in(2);
            for _ in 0..step_count {
                self.step(&mut boot, large);
                if self.prng.one_in(50) {
                    slots::check(&self.disk, &boot.wal, boot.prefixes.last().unwrap());
                }
            }
            if self.prng.one_in(4) {
                self.close(&mut boot);
            }
            self.crash(&boot);
        }
    }

    fn boot(&mut self) -> Boot {
        self.boot_epoch = self.boot_epoch.next();
        let (recovered, applied) = self.disk.recover(self.boot_epoch).unwrap();
        assert_eq!(model_of(&recovered, &applied), self.model);
        for segment in &recovered.garbage {
            self.disk.remove(*segment);
        }
        let wal = Wal::open(self.config(), recovered.start);
        Boot { wal, in_flight: vec![], prefixes: vec![self.model.clone()], now: Monotonic(0) }
    }

    fn config(&mut self) -> WalConfig {
        WalConfig {
            key: KEY,
            boot_epoch: self.boot_epoch,
            segment_size_bytes: SEGMENT_SIZE_BYTES,
            log_size_bytes_max: self.log_size_bytes_max,
            writes_in_flight: 1 + usize_from(self.prng.below(4)),
            durability: if self.prng.one_in(4) { Durability::Async } else { Durability::Sync },
        }
    }

    fn step(&mut self, boot: &mut Boot, large: bool) {
        match self.prng.below(10) {
            0..=5 => self.append(boot, large),
            6 => boot.now = boot.now.after_ns(self.prng.below(8) * NS_PER_MS),
            _ => self.complete_one(boot),
        }
        self.serve(boot);
    }

    /// What a host does in a turn.
    fn serve(&mut self, boot: &mut Boot) {
        while let Some(SegmentWanted { segment, from }) = boot.wal.wants_segment(boot.now) {
            self.disk.make(segment, from);
            boot.wal.on_segment_prepared(segment);
        }
        while let Some(write) = boot.wal.poll_write(boot.now) {
            boot.in_flight.push(write);
        }
    }

    fn complete_one(&mut self, boot: &mut Boot) {
        if !boot.in_flight.is_empty() {
            let chosen = self.prng.below(u64_from(boot.in_flight.len()));
            let write = boot.in_flight.swap_remove(usize_from(chosen));
            self.disk.complete(&write);
            boot.wal.on_written(write);
        }
    }

    fn close(&mut self, boot: &mut Boot) {
        boot.wal.close();
        while !boot.wal.is_closed() {
            self.serve(boot);
            self.complete_one(boot);
        }
        assert_eq!(boot.wal.durable(), boot.wal.appended());
    }

    /// The power goes. Several of the images it can leave are recovered; the last one stays.
    fn crash(&mut self, boot: &Boot) {
        let AppendId(acknowledged) = boot.wal.durable();
        for image in 0..IMAGES_PER_CRASH {
            let mut disk = self.disk.clone();
            for write in &boot.in_flight {
                disk.tear(write, &mut self.prng);
            }
            let (recovered, applied) = disk.recover(self.boot_epoch.next()).unwrap();
            let found = model_of(&recovered, &applied);
            let possible = &boot.prefixes[usize_from(acknowledged)..];
            assert!(
                possible.iter().any(|prefix| without_staged(prefix) == found),
                "image {image} of boot {} is none of the {} states after the {acknowledged} \
                 acknowledged records",
                self.boot_epoch,
                possible.len(),
            );
            if image + 1 == IMAGES_PER_CRASH {
                self.disk = disk;
                self.model = found;
            }
        }
    }

    fn append(&mut self, boot: &mut Boot, large: bool) {
        let mut model = boot.prefixes.last().unwrap().clone();
        let chosen = self.prng.below(u64_from(self.busy.len()));
        let partition = self.busy[usize_from(chosen)];
        let expected = model.get_mut(&partition).unwrap();
        let unstable = expected.last() - expected.sync_point;
        match self.prng.below(20) {
            0 => {
                expected.view += self.prng.below(3);
                let term = TermId(expected.view);
                boot.wal.append(&Record::View { partition, term });
            }
            1 => {
                expected.incarnation += self.prng.below(2);
                expected.crash_vector.resize(3, 0);
                let member = usize_from(self.prng.below(3));
                expected.crash_vector[member] += 1;
                let incarnation = Incarnation(expected.incarnation);
                let crash_vector = expected.crash_vector.iter().copied().map(Incarnation).collect();
                boot.wal.append(&Record::CrashVector {
                    partition,
                    incarnation,
                    crash_vector,
                    is_recovering: false,
                });
            }
            2 | 3 => {
                expected.sync_point += self.prng.below(unstable + 1);
                let index = Index(expected.sync_point);
                boot.wal.append(&Record::SyncPoint { partition, index });
            }
            4 if unstable > 0 => {
                let index = expected.sync_point + 1 + self.prng.below(unstable);
                let (term, message_id) = (TermId(expected.view), MessageId(index));
                expected
                    .slots
                    .insert(index, Slot { term, message_id, timestamp: Timestamp(0), value: None });
                let index = Index(index);
                boot.wal.append(&Record::NoOp { partition, index, term, message_id });
            }
            5 => {
                let slot = expected.sync_point + 1 + self.prng.below(unstable + 2);
                let entry = self.entry(partition, slot, expected.view + 1, false);
                expected.staged.retain(|(index, _)| *index != slot);
                expected.staged.push((slot, slot_of(&entry)));
                boot.wal.append(&Record::Stage { adopting: TermId(expected.view + 1), entry });
            }
            6 => self.adopt(boot, partition, expected),
            7 if self.prng.one_in(3) => self.install(boot, partition, expected),
            _ => {
                let index = expected.last() + 1;
                let entry = self.entry(partition, index, expected.view, large);
                expected.slots.insert(index, slot_of(&entry));
                boot.wal.append(&Record::Entry(entry));
            }
        }
        if model[&partition].view != boot.prefixes.last().unwrap()[&partition].view {
            // What was staged for another view than the next is inert from here on.
            model.get_mut(&partition).unwrap().staged.clear();
        }
        boot.prefixes.push(model);
        let appended = boot.wal.appended().0;
        if u64_from(boot.prefixes.len()) <= appended {
            let last = boot.prefixes.last().unwrap().clone();
            boot.prefixes.resize(usize_from(appended) + 1, last);
        }
    }

    /// Adopts the next view with what is staged for it, if that fits the log.
    fn adopt(&mut self, boot: &mut Boot, partition: PartitionId, expected: &mut Expected) {
        let term = expected.view + 1;
        let kept = expected.sync_point + self.prng.below(expected.last() - expected.sync_point + 1);
        let mut slots = expected.slots.clone();
        slots.retain(|index, _| *index <= kept);
        let mut staged = expected.staged.clone();
        staged.sort_by_key(|(index, _)| *index);
        let fits = staged.iter().all(|&(index, slot)| {
            let follows = index > expected.sync_point && index <= u64_from(slots.len()) + 1;
            slots.insert(index, slot);
            follows
        });
        if !fits {
            expected.view += 1;
            boot.wal.append(&Record::View { partition, term: TermId(term) });
            return;
        }
        expected.slots = slots;
        expected.view = term;
        expected.last_normal = term;
        expected.base = expected.last();
        boot.wal.append(&Record::Adopt {
            partition,
            term: TermId(term),
            base: Index(expected.base),
            kept: Index(kept),
            chain: [0; 16],
        });
    }

    /// Installs a checkpoint of a peer, which is durable before its record is appended; perhaps
    /// with the next view on top of it.
    fn install(&mut self, boot: &mut Boot, partition: PartitionId, expected: &mut Expected) {
        let last = expected.last();
        let index = expected.sync_point + 1 + self.prng.below(last - expected.sync_point + 3);
        let kept = index + self.prng.below(last.saturating_sub(index) + 1);
        let mut slots = expected.slots.clone();
        slots.retain(|slot, _| *slot <= kept);
        for slot in expected.sync_point + 1..=index {
            // What others have agreed on is another thing than what is here.
            let entry = self.entry(partition, slot, expected.view, false);
            slots.insert(slot, slot_of(&entry));
        }
        let covered: Vec<Slot> = slots.range(..=index).map(|slot| *slot.1).collect();
        let mut adopted = None;
        if self.prng.one_in(2) {
            let mut staged = expected.staged.clone();
            staged.sort_by_key(|(index, _)| *index);
            let fits = staged.iter().all(|&(slot, content)| {
                let follows = slot > index && slot <= u64_from(slots.len()) + 1;
                slots.insert(slot, content);
                follows
            });
            if !fits {
                return;
            }
            let base = u64_from(slots.len());
            expected.view += 1;
            expected.last_normal = expected.view;
            expected.base = base;
            let (term, base) = (TermId(expected.view), Index(base));
            adopted = Some(Adopted { term, base, chain: [0; 16] });
        } else if kept < expected.base {
            return;
        }
        self.disk.checkpoints.insert((partition, index), Rc::new(covered));
        expected.slots = slots;
        expected.sync_point = index;
        expected.checkpoint = index;
        let (index, kept) = (Index(index), Index(kept));
        let (size_bytes, digest) = (1, [0; 16]);
        boot.wal.append(&Record::Install { partition, index, size_bytes, digest, kept, adopted });
    }

    fn entry(&mut self, partition: PartitionId, index: u64, term: u64, large: bool) -> Entry<'_> {
        let size = if large && self.prng.one_in(3) { 700 << 10 } else { 300 };
        let begin = usize_from(self.prng.below(u64_from(self.value.len())));
        let size = 1 + usize_from(self.prng.below(size));
        let end = (begin + size).min(self.value.len());
        Entry {
            partition,
            index: Index(index),
            term: TermId(term),
            message_id: MessageId(index),
            timestamp: Timestamp(self.prng.next_u64()),
            value: &self.value[begin..end],
        }
    }
}

fn slot_of(entry: &Entry<'_>) -> Slot {
    Slot {
        term: entry.term,
        message_id: entry.message_id,
        timestamp: entry.timestamp,
        value: Some(digest128(entry.value)),
    }
}

// ---- damage ----

/// A log that was closed: its last block is the marker that proves everything before it.
fn closed_run(seed: u64, step_count: u64, large: bool) -> Run {
    let mut run = Run::new(seed);
    for _ in 0..2 {
        let mut boot = run.boot();
        for _ in 0..step_count {
            run.step(&mut boot, large);
        }
        run.close(&mut boot);
        run.crash(&boot);
    }
    run
}

fn flip_bytes(seed: u64) {
    let run = closed_run(seed, 40, false);
    let mut prng = Prng::new(seed, "flips");
    let next_boot = run.boot_epoch.next();
    let (recovered, applied) = run.disk.recover(next_boot).unwrap();
    assert!(recovered.start.clean && recovered.torn.is_none());
    let counts = |segment| recovered.start.state.segments.iter().any(|l| l.segment == segment);
    let marker = *run.disk.blocks.keys().next_back().unwrap();
    for place in run.disk.blocks.keys().copied().filter(|(segment, _)| counts(*segment)) {
        // A sample of header and payload; that each bit of a block counts is tested with blocks.
        let sample: Vec<_> =
            (0..6).map(|draw| prng.below(if draw < 3 { 32 } else { 4_096 })).collect();
        for position in sample {
            let mut disk = run.disk.clone();
            let block = Rc::make_mut(disk.blocks.get_mut(&place).unwrap());
            let byte = &mut block.0[usize_from(position)];
            *byte ^= 1 << prng.below(8);
            match disk.recover(next_boot) {
                Err(StorageError::Damaged { .. }) => assert_ne!(place, marker),
                Err(error) => panic!("byte {position} of {place:?}: {error}"),
                Ok((found, found_applied)) => {
                    assert_eq!(place, marker, "byte {position} of {place:?} went unnoticed");
                    assert_eq!(model_of(&found, &found_applied), model_of(&recovered, &applied));
                }
            }
        }
    }
}

fn cut(seed: u64) {
    let run = closed_run(seed, 60, true);
    let next_boot = run.boot_epoch.next();
    let (recovered, applied) = run.disk.recover(next_boot).unwrap();
    let whole = model_of(&recovered, &applied);
    let (segment, marker) = *run.disk.blocks.keys().next_back().unwrap();

    // Zeros from the marker on: as if the power had gone before it was written.
    let mut disk = run.disk.clone();
    disk.blocks.remove(&(segment, marker));
    let (found, found_applied) = disk.recover(next_boot).unwrap();
    assert_eq!(model_of(&found, &found_applied), whole);

    // Any hole before the marker is named. (A sample of them: there are many blocks.)
    let holes: Vec<_> = run.disk.blocks.keys().filter(|&&hole| hole != (segment, marker)).collect();
    let stride = 1 + holes.len() / 100;
    for &place in holes.into_iter().step_by(stride) {
        let mut disk = run.disk.clone();
        disk.blocks.remove(&place);
        let error = disk.recover(next_boot).err();
        let named = matches!(&error, Some(StorageError::Damaged { place: named, .. })
            if named.segment == place.0);
        assert!(named, "hole at {place:?}: {error:?}");
    }

    // A file that was cut, anywhere, or is gone.
    for (position, &segment) in run.disk.files.iter().enumerate() {
        let mut files = run.disk.segment_files();
        files[position].size_bytes -= 4_096;
        let folder = LogFolder {
            key: KEY,
            boot_epoch: next_boot,
            segment_size_bytes: SEGMENT_SIZE_BYTES,
            partitions: &PARTITIONS,
            files: &files,
            serves_peers: true,
        };
        let error = recover(&folder, &mut &run.disk, &mut Applied::default()).unwrap_err();
        assert!(matches!(error, StorageError::Cut { segment: named, .. } if named == segment));
        let last = position + 1 == run.disk.files.len();
        let mut disk = run.disk.clone();
        disk.files.remove(position);
        match disk.recover(next_boot) {
            Err(StorageError::Missing { segment: named, .. }) => assert_eq!(named, segment),
            Ok(_) => assert!(last, "segment {segment} is gone and nobody noticed"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(run.disk.files.len() > 1 && marker < BLOCK_COUNT);
}
