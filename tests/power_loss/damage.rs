//! Damage in the log of a member of a group: whatever is hit, a partition that isn't named as
//! suspect is exactly what it was, and one that is named stays so until it has adopted a view.

use std::collections::BTreeSet;
use std::rc::Rc;

use p2pmap::base::cast::{u64_from, usize_from};
use p2pmap::base::ids::{BootEpoch, Index, PartitionId, SegmentId};
use p2pmap::base::prng::Prng;
use p2pmap::storage::error::StorageError;
use p2pmap::storage::recovery::{LogFolder, Recovered, Salvage, SegmentFile, recover_partly};
use p2pmap::storage::replay::Apply;
use p2pmap::storage::wal::Wal;

use super::{Applied, Disk, KEY, Model, PARTITIONS, Run, SEGMENT_SIZE_BYTES, model_of, seeds};

impl Salvage for Applied {
    fn is_whole(&self, _: PartitionId) -> bool {
        true
    }

    fn reset(&mut self, partition: PartitionId, checkpoint: Index) -> bool {
        self.slots.remove(&partition);
        if checkpoint > Index(0) {
            self.install(partition, checkpoint);
        }
        true
    }
}

fn salvage(
    disk: &Disk,
    files: &[SegmentFile],
    boot_epoch: BootEpoch,
) -> Result<(Recovered, Applied), StorageError> {
    let folder = LogFolder {
        key: KEY,
        boot_epoch,
        segment_size_bytes: SEGMENT_SIZE_BYTES,
        partitions: &PARTITIONS,
        files,
        serves_peers: true,
    };
    let mut applied = Applied { checkpoints: disk.checkpoints.clone(), ..Applied::default() };
    let recovered = recover_partly(&folder, &mut &*disk, &mut applied)?;
    Ok((recovered, applied))
}

fn suspects(recovered: &Recovered) -> BTreeSet<PartitionId> {
    recovered.suspects.iter().map(|suspect| suspect.partition).collect()
}

/// How often nothing, something and everything was suspect.
#[derive(Debug, Default)]
struct Seen {
    none: u64,
    some: u64,
    all: u64,
}

#[test]
fn partition_that_is_not_named_is_what_it_was_whatever_is_damaged() {
    let mut seen = Seen::default();
    for seed in seeds(3) {
        println!("P2PMAP_SEED={seed}");
        damage(seed, &mut seen);
    }
    println!("{seen:?}");
    if std::env::var_os("P2PMAP_SEED").is_none() {
        assert!(seen.some > 0 && seen.all > 0, "{seen:?}");
    }
}

fn damage(seed: u64, seen: &mut Seen) {
    let mut run = Run::new(seed);
    for _ in 0..3 {
        let mut boot = run.boot();
        for _ in 0..60 {
            run.step(&mut boot, false);
        }
        run.close(&mut boot);
        run.crash(&boot);
    }
    let whole = run.model.clone();
    let mut prng = Prng::new(seed, "damage");
    let counted = run.disk.recover(run.boot_epoch.next()).unwrap().0.start.state.segments;
    let newest = counted.last().unwrap().segment;
    let marker = *run.disk.blocks.keys().next_back().unwrap();
    let places: Vec<(SegmentId, usize)> = run.disk.blocks.keys().copied().collect();
    for _ in 0..60 {
        let place = places[usize_from(prng.below(u64_from(places.len())))];
        let mut disk = run.disk.clone();
        let mut files = disk.segment_files();
        match prng.below(5) {
            0 => drop(disk.blocks.remove(&place)),
            1 => {
                let other = places[usize_from(prng.below(u64_from(places.len())))];
                let block = disk.blocks[&other].clone();
                disk.blocks.insert(place, block);
            }
            2 => {
                let file = files.iter_mut().find(|file| file.name == place.0).unwrap();
                file.size_bytes = 4_096 * u64_from(place.1);
            }
            _ => {
                let position = usize_from(prng.below(4_096));
                let block = Rc::make_mut(disk.blocks.get_mut(&place).unwrap());
                block.0[position] ^= 1 << prng.below(8);
            }
        }
        let next_boot = run.boot_epoch.next();
        let (recovered, applied) = salvage(&disk, &files, next_boot).unwrap();
        let named = suspects(&recovered);
        let found = model_of(&recovered, &applied);
        check(&whole, &found, &named);
        match named.len() {
            0 => seen.none += 1,
            3 => seen.all += 1,
            _ => seen.some += 1,
        }
        if place.0 == newest && place != marker && disk.recover(next_boot).is_err() {
            assert_eq!(named.len(), 3, "nobody knows what was lost of the newest segment");
        }
        start_again(&mut run, disk, &files, &whole, named, &mut prng);
    }
}

fn check(whole: &Model, found: &Model, named: &BTreeSet<PartitionId>) {
    for partition in &PARTITIONS {
        let (whole, found) = (&whole[partition], &found[partition]);
        if !named.contains(partition) {
            assert_eq!(found, whole, "partition {partition} isn't named");
            continue;
        }
        assert_eq!(found.sync_point, found.checkpoint);
        assert_eq!(found.last(), found.checkpoint);
        assert!(found.checkpoint <= whole.checkpoint);
        assert!(found.view <= whole.view, "what is known of views is a lower bound");
        assert!(found.slots.iter().all(|(index, slot)| whole.slots.get(index) == Some(slot)));
    }
}

/// Boots on what was salvaged, and loses power before or after that is durable: the same are named
/// again, and nothing else has changed.
fn start_again(
    run: &mut Run,
    mut disk: Disk,
    files: &[SegmentFile],
    whole: &Model,
    named: BTreeSet<PartitionId>,
    prng: &mut Prng,
) {
    // A file that was cut is as long as it should be once it is used again.
    let mut cut: BTreeSet<SegmentId> = files
        .iter()
        .filter(|file| file.size_bytes < u64_from(SEGMENT_SIZE_BYTES))
        .map(|file| file.name)
        .collect();
    let lengths = |disk: &Disk, cut: &BTreeSet<SegmentId>| -> Vec<SegmentFile> {
        let mut lengths = disk.segment_files();
        for file in lengths.iter_mut().filter(|file| cut.contains(&file.name)) {
            let known = files.iter().find(|known| known.name == file.name);
            file.size_bytes = known.unwrap().size_bytes;
        }
        lengths
    };
    let mut boot_epoch = run.boot_epoch;
    for _ in 0..3 {
        boot_epoch = boot_epoch.next();
        let (recovered, applied) = salvage(&disk, &lengths(&disk, &cut), boot_epoch).unwrap();
        assert_eq!(suspects(&recovered), named, "boot {boot_epoch}");
        check(whole, &model_of(&recovered, &applied), &named);
        for segment in &recovered.garbage {
            cut.remove(segment);
            disk.remove(*segment);
        }
        let config = p2pmap::storage::wal::WalConfig { boot_epoch, ..run.config() };
        let mut wal = Wal::open(config, recovered.start);
        let now = p2pmap::base::time::Monotonic(1 << 40);
        let complete_count = prng.below(3);
        for number in 0..complete_count {
            while let Some(wanted) = wal.wants_segment(now) {
                if let Some(free) = wanted.from {
                    cut.remove(&free.segment);
                }
                disk.make(wanted.segment, wanted.from);
                wal.on_segment_prepared(wanted.segment);
            }
            let write = wal.poll_write(now).or_else(|| wal.poll_write(now.after_ns(1 << 30)));
            let Some(write) = write else { break };
            if number + 1 == complete_count && prng.one_in(2) {
                disk.tear(&write, prng);
                break;
            }
            disk.complete(&write);
            wal.on_written(write);
        }
    }
}
