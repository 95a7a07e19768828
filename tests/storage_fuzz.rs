//! Guarantee: whatever lies in the place of a log, reading it doesn't panic, and nothing comes out
//! that was not written: damage is found, or it is beyond the end.
//!
//! Real logs are written by the real writer and then damaged, in two ways. As disks do it: bits,
//! blocks and files; then what is recovered must be what was written, up to some place. And as no
//! disk does it, with the checksum computed anew, so that what is behind the checksums is reached:
//! then there is only one rule left, that nothing panics and nothing grows.
//!
//! How to replay a round: `tests/fuzzing`.

#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod fuzzing;

use std::collections::BTreeMap;
use std::io;

use fuzzing::{byte, entropy, fuzz_rounds, place};
use p2pmap::base::checksum::crc32_salted;
use p2pmap::base::ids::{
    BootEpoch, Incarnation, Index, MessageId, PartitionId, SegmentId, ShardId, TermId,
};
use p2pmap::base::limits::{BLOCK_SIZE_BYTES, SEGMENT_SIZE_BYTES_MIN};
use p2pmap::base::prng::Prng;
use p2pmap::base::time::{Monotonic, Timestamp};
use p2pmap::storage::block::{Block, LogKey, SegmentWrite};
use p2pmap::storage::error::StorageError;
use p2pmap::storage::record::{Entry, Record};
use p2pmap::storage::recovery::{LogFolder, Recovered, SegmentFile, SegmentSource, recover};
use p2pmap::storage::replay::Apply;
use p2pmap::storage::wal::{Durability, Wal, WalConfig};

const KEY: LogKey = LogKey { shard: ShardId(2), salt: 0xA5A5_0001 };
const PARTITIONS: [PartitionId; 2] = [PartitionId(4), PartitionId(5)];

/// Segments as they lie on a disk; blocks that aren't there are zeros.
#[derive(Clone, Default)]
struct Disk {
    files: Vec<SegmentFile>,
    blocks: BTreeMap<(SegmentId, usize), Block>,
}

impl SegmentSource for &Disk {
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        for (distance, block) in blocks.iter_mut().enumerate() {
            let found = self.blocks.get(&(self.files[file].name, first_block + distance));
            block.clone_from(found.unwrap_or(&Block::ZERO));
        }
        Ok(())
    }
}

/// What was handed on: slots by partition and index.
type Slots = BTreeMap<(PartitionId, Index), Option<Vec<u8>>>;

#[derive(Default)]
struct Applied(Slots);

impl Apply for Applied {
    fn install(&mut self, _: PartitionId, _: Index) {}

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        value: Option<&[u8]>,
    ) {
        self.0.insert((partition, index), value.map(<[u8]>::to_vec));
    }
}

impl Disk {
    fn write(&mut self, write: &SegmentWrite) {
        let first = usize::try_from(write.offset).unwrap() / BLOCK_SIZE_BYTES;
        for (distance, block) in write.blocks.iter().enumerate() {
            self.blocks.insert((write.segment, first + distance), block.clone());
        }
    }

    fn recover(&self, boot: u64) -> Result<(Recovered, Slots), StorageError> {
        let folder = LogFolder {
            key: KEY,
            boot_epoch: BootEpoch(boot),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            partitions: &PARTITIONS,
            files: &self.files,
            serves_peers: true,
        };
        let mut applied = Applied::default();
        let recovered = recover(&folder, &mut &*self, &mut applied)?;
        let mut slots = applied.0;
        for partition in &recovered.partitions {
            for entry in &partition.log {
                let value = entry.value.as_deref().map(<[u8]>::to_vec);
                slots.insert((partition.state.partition, entry.index), value);
            }
        }
        Ok((recovered, slots))
    }

    fn some_block(&mut self, prng: &mut Prng) -> &mut Block {
        let at = place(prng, self.blocks.len());
        self.blocks.values_mut().nth(at).expect("there are so many")
    }
}

/// A log that a few boots wrote, and what it says at the end.
struct Written {
    disk: Disk,
    boot: u64,
    slots: Slots,
    last: BTreeMap<PartitionId, u64>,
    sync_point: BTreeMap<PartitionId, u64>,
}

impl Written {
    fn arbitrary(prng: &mut Prng) -> Self {
        let none = || PARTITIONS.map(|partition| (partition, 0)).into();
        let (disk, slots) = (Disk::default(), Slots::new());
        let mut written = Self { disk, boot: 0, slots, last: none(), sync_point: none() };
        for _ in 0..1 + prng.below(3) {
            written.boot(prng);
        }
        written
    }

    fn boot(&mut self, prng: &mut Prng) {
        self.boot += 1;
        let (recovered, slots) = self.disk.recover(self.boot).expect("it isn't damaged yet");
        assert_eq!(slots, self.slots);
        let config = WalConfig {
            key: KEY,
            boot_epoch: BootEpoch(self.boot),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            log_size_bytes_max: 1 << 40,
            writes_in_flight: 2,
            durability: Durability::Sync,
        };
        let mut wal = Wal::open(config, recovered.start);
        self.serve(&mut wal);
        for _ in 0..prng.below(40) {
            self.append(&mut wal, prng);
            self.serve(&mut wal);
        }
        if prng.one_in(2) {
            wal.close();
            self.serve(&mut wal);
        }
    }

    /// What a host does, at once.
    fn serve(&mut self, wal: &mut Wal) {
        let now = Monotonic(1 << 40);
        loop {
            while let Some(wanted) = wal.wants_segment(now) {
                let size_bytes = SEGMENT_SIZE_BYTES_MIN as u64;
                self.disk.files.push(SegmentFile { name: wanted.segment, size_bytes });
                wal.on_segment_prepared(wanted.segment);
            }
            let Some(write) = wal.poll_write(now) else { break };
            self.disk.write(&write);
            wal.on_written(write);
        }
    }

    fn append(&mut self, wal: &mut Wal, prng: &mut Prng) {
        let partition = PARTITIONS[place(prng, 2)];
        let (last, sync_point) = (self.last[&partition], self.sync_point[&partition]);
        let term = TermId(0);
        match prng.below(10) {
            0 => {
                let index = sync_point + prng.below(last - sync_point + 1);
                self.sync_point.insert(partition, index);
                wal.append(&Record::SyncPoint { partition, index: Index(index) });
            }
            1 if last > sync_point => {
                let index = Index(sync_point + 1 + prng.below(last - sync_point));
                let message_id = MessageId(index.0);
                self.slots.insert((partition, index), None);
                wal.append(&Record::NoOp { partition, index, term, message_id });
            }
            2 => {
                let incarnation = Incarnation(self.boot);
                let crash_vector = vec![incarnation; 3];
                wal.append(&Record::CrashVector {
                    partition,
                    incarnation,
                    crash_vector,
                    is_recovering: false,
                });
            }
            _ => {
                let mut value = entropy(prng, 500);
                value.push(1);
                if prng.one_in(6) {
                    value.resize(value.len() + place(prng, 60_000), 7);
                }
                let index = Index(last + 1);
                self.last.insert(partition, index.0);
                wal.append(&Record::Entry(Entry {
                    partition,
                    index,
                    term,
                    message_id: MessageId(index.0),
                    timestamp: Timestamp(prng.next_u64()),
                    value: &value,
                }));
                self.slots.insert((partition, index), Some(value));
            }
        }
    }

    /// Everything that was recovered was written: at each slot the value, or what was there before
    /// it became a no-op, or the no-op.
    #[track_caller]
    fn check(&self, slots: &Slots) {
        for ((partition, index), value) in slots {
            let written = self.slots.get(&(*partition, *index));
            let was_written = written.is_some_and(|written| written.is_none() || written == value);
            assert!(was_written, "slot {index} of {partition} was not written so");
        }
    }
}

/// What disks do.
fn damage_as_disks_do(disk: &mut Disk, prng: &mut Prng) {
    if disk.files.is_empty() || disk.blocks.is_empty() {
        return;
    }
    match prng.below(8) {
        0..=2 => {
            let at = place(prng, BLOCK_SIZE_BYTES);
            disk.some_block(prng).0[at] ^= 1 << prng.below(8);
        }
        3 => {
            let noise = byte(prng);
            let begin = place(prng, BLOCK_SIZE_BYTES);
            disk.some_block(prng).0[begin..].fill(noise);
        }
        // A lost write, a block in the place of another.
        4 => *disk.some_block(prng) = Block::ZERO,
        5 => {
            let other = disk.some_block(prng).clone();
            *disk.some_block(prng) = other;
        }
        // Everything behind some place was lost.
        6 => {
            let at = place(prng, disk.blocks.len());
            let key = *disk.blocks.keys().nth(at).expect("there are so many");
            disk.blocks.retain(|place, _| place.0 != key.0 || *place < key);
        }
        // A file is gone, or cut.
        _ => {
            let at = place(prng, disk.files.len());
            if prng.one_in(2) {
                disk.files.remove(at);
            } else {
                disk.files[at].size_bytes = prng.below(SEGMENT_SIZE_BYTES_MIN as u64);
            }
        }
    }
}

#[test]
fn damaged_logs_are_refused_or_what_was_written() {
    fuzz_rounds(150, |prng| {
        let written = Written::arbitrary(prng);
        for _ in 0..8 {
            let mut disk = written.disk.clone();
            for _ in 0..1 + prng.below(3) {
                damage_as_disks_do(&mut disk, prng);
            }
            match disk.recover(written.boot + 1) {
                Ok((_, slots)) => written.check(&slots),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}

/// Changes bytes of a block and computes its checksum anew.
fn reseal(block: &mut Block, prng: &mut Prng) {
    for _ in 0..1 + prng.below(4) {
        // Headers and the first records are the most telling.
        let bound = if prng.one_in(2) { 100 } else { BLOCK_SIZE_BYTES };
        let at = place(prng, bound);
        match prng.below(3) {
            0 => block.0[at] ^= 1 << prng.below(8),
            1 => block.0[at] = byte(prng),
            _ => block.0[at] = [0, 1, 2, 0x7F, 0x80, 0xFF][place(prng, 6)],
        }
    }
    let crc = crc32_salted(KEY.salt, &block.0[4..]);
    block.0[..4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn logs_with_sealed_garbage_are_read_without_a_panic() {
    fuzz_rounds(150, |prng| {
        let written = Written::arbitrary(prng);
        for _ in 0..8 {
            let mut disk = written.disk.clone();
            for _ in 0..1 + prng.below(3) {
                reseal(disk.some_block(prng), prng);
            }
            if prng.one_in(4) {
                damage_as_disks_do(&mut disk, prng);
            }
            match disk.recover(written.boot + 1) {
                Ok((recovered, _)) => assert_eq!(recovered.partitions.len(), PARTITIONS.len()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}

#[test]
fn files_of_garbage_are_read_without_a_panic() {
    fuzz_rounds(100, |prng| {
        let mut disk = Disk::default();
        for name in 1..=1 + prng.below(3) {
            let size_bytes = SEGMENT_SIZE_BYTES_MIN as u64;
            let name = SegmentId(name);
            disk.files.push(SegmentFile { name, size_bytes });
            for number in 0..place(prng, 20) {
                let mut block = Block::ZERO;
                let garbage = entropy(prng, 600);
                block.0[..garbage.len()].copy_from_slice(&garbage);
                if prng.one_in(2) {
                    // As much of a header as it takes to be looked into.
                    block.0[4..6].copy_from_slice(&KEY.shard.0.to_le_bytes());
                    block.0[6..8].copy_from_slice(&u16::try_from(number).unwrap().to_le_bytes());
                    block.0[8..16].copy_from_slice(&name.0.to_le_bytes());
                    block.0[31] = 1;
                    let crc = crc32_salted(KEY.salt, &block.0[4..]);
                    block.0[..4].copy_from_slice(&crc.to_le_bytes());
                }
                disk.blocks.insert((name, number), block);
            }
        }
        if let Ok((_, slots)) = disk.recover(1 + prng.below(3)) {
            assert!(slots.len() < 10_000);
        }
    });
}
