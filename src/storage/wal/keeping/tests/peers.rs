//! What the log keeps and reads back for peers.

use super::*;
use crate::base::limits::REPAIR_SIZE_BYTES_MAX;
use crate::storage::carry::SegmentRead;
use crate::storage::error::Damage;
use crate::storage::old_slots::{SlotReader, SlotRequest, SlotStep};
use crate::storage::record::Adopted;
use crate::storage::replay::LoggedEntry;

const P: PartitionId = PartitionId(3);
const Q: PartitionId = PartitionId(4);

fn slot(partition: PartitionId, index: u64, value: &[u8]) -> Entry<'_> {
    Entry {
        partition,
        index: Index(index),
        term: TermId(1),
        message_id: MessageId(index),
        timestamp: Timestamp(index),
        value,
    }
}

fn no_op(index: u64) -> Record<'static> {
    let (term, message_id) = (TermId(1), MessageId(index));
    Record::NoOp { partition: P, index: Index(index), term, message_id }
}

fn stage(term: u64, index: u64, value: &[u8]) -> Record<'_> {
    Record::Stage { adopting: TermId(term), entry: slot(P, index, value) }
}

fn adopt(term: u64, base: u64, kept: u64) -> Record<'static> {
    let (base, kept) = (Index(base), Index(kept));
    Record::Adopt { partition: P, term: TermId(term), base, kept, chain: [0; 16] }
}

impl Log {
    fn put(&mut self, record: &Record<'_>) {
        self.wal.append(record);
        self.serve();
    }

    fn blocks(&self, read: SegmentRead) -> Vec<Block> {
        self.files[&read.segment][read.first_block..read.first_block + read.block_count].to_vec()
    }

    /// What one request gets, and how it ends.
    fn read(&self, partition: PartitionId, first: u64, last: u64) -> (Vec<LoggedEntry>, SlotStep) {
        let request = SlotRequest { partition, first: Index(first), last: Index(last) };
        let mut reader = SlotReader::new(KEY, request);
        let mut entries = Vec::new();
        loop {
            match reader.step(&self.wal) {
                SlotStep::Read(read) => {
                    let blocks = self.blocks(read);
                    let give = |entry| entries.push(entry);
                    reader.on_read(&self.wal, &blocks, give).expect("nothing is damaged");
                }
                end => return (entries, end),
            }
        }
    }

    /// The slots of P with their values.
    fn held(&self, first: u64, last: u64) -> Vec<(u64, Option<Vec<u8>>)> {
        let (entries, end) = self.read(P, first, last);
        assert_eq!(end, SlotStep::Done);
        entries.into_iter().map(|e| (e.index.0, e.value.map(|value| value.to_vec()))).collect()
    }
}

fn some(value: &[u8]) -> Option<Vec<u8>> {
    Some(value.to_vec())
}

#[test]
fn all_slots_that_are_kept_are_read_back_and_the_others_are_gone() {
    let mut log = Log::open(16, true);
    log.go_round(40);
    for again in 0..2 {
        let mut served_count = 0;
        for partition in partitions() {
            let last = log.last[usize_from_u32(partition.0)];
            let first = log.wal.first_slot(partition).expect("it serves peers").0;
            if first > 1 {
                assert_eq!(log.read(partition, first - 1, last), (Vec::new(), SlotStep::Gone));
            }
            let mut next = first;
            while next <= last {
                let (entries, end) = log.read(partition, next, last);
                assert_eq!(end, SlotStep::Done, "partition {partition} from {next} of {last}");
                for entry in entries {
                    assert_eq!(entry.index.0, next);
                    assert_eq!(entry.timestamp.0, next);
                    assert_eq!(entry.value.map(|value| value.len()), Some(100_000));
                    next += 1;
                    served_count += 1;
                }
            }
        }
        assert!(served_count > 100, "{served_count} slots in start {again}");
        log.restart();
    }
}

#[test]
fn request_is_answered_up_to_its_bound() {
    let mut log = Log::open(16, true);
    for _ in 0..60 {
        log.entry(P, 100_000);
    }
    let (entries, end) = log.read(P, 1, 60);
    assert_eq!((entries.len(), end), (REPAIR_SIZE_BYTES_MAX.div_ceil(100_000), SlotStep::Done));
    assert_eq!(log.read(P, 58, 90).0.len(), 3, "no more than there are");
    assert_eq!(log.read(P, 61, 61), (Vec::new(), SlotStep::Gone));
}

#[test]
fn slot_is_read_back_as_the_record_that_holds_it_says() {
    let mut log = Log::open(16, true);
    for index in 1..=6 {
        log.put(&Record::Entry(slot(P, index, b"own")));
        log.put(&Record::Entry(slot(Q, index, b"other's")));
    }
    log.put(&no_op(2));
    let own = || some(b"own");
    assert_eq!(log.held(1, 3), [(1, own()), (2, None), (3, own())]);
    // Staged slots are nothing until they are adopted, and then they replace even a no-op (P7).
    log.put(&stage(4, 2, b"staged"));
    log.put(&stage(4, 5, b"first"));
    log.put(&stage(4, 5, b"staged"));
    log.put(&stage(4, 6, b""));
    assert_eq!(log.held(1, 3), [(1, own()), (2, None), (3, own())]);
    log.put(&adopt(4, 6, 4));
    let adopted =
        [(1, own()), (2, some(b"staged")), (3, own()), (4, own()), (5, some(b"staged")), (6, None)];
    assert_eq!(log.held(1, 6), adopted);
    // What was staged for a view that wasn't adopted stays nothing.
    log.put(&stage(5, 3, b"never"));
    log.put(&Record::View { partition: P, term: TermId(6) });
    assert_eq!(log.held(1, 6), adopted);
    log.restart();
    assert_eq!(log.held(1, 6), adopted, "after a restart");
    log.put(&adopt(7, 4, 4));
    log.put(&Record::Entry(slot(P, 5, b"new")));
    assert_eq!(log.held(4, 5), [(4, own()), (5, some(b"new"))]);
    assert_eq!(log.read(P, 6, 6).1, SlotStep::Gone, "it was dropped");
    assert_eq!(log.read(Q, 1, 6).0.len(), 6);
}

#[test]
fn received_checkpoint_leaves_only_what_lies_above_it() {
    let mut log = Log::open(16, true);
    for index in 1..=6 {
        log.put(&Record::Entry(slot(P, index, b"own")));
    }
    let install = |index, kept, adopted| Record::Install {
        partition: P,
        index: Index(index),
        size_bytes: 1,
        digest: [0; 16],
        kept: Index(kept),
        adopted,
    };
    log.put(&install(4, 6, None));
    assert_eq!(log.wal.first_slot(P), Some(Index(5)));
    assert_eq!(log.held(5, 6).len(), 2);
    assert_eq!(log.read(P, 4, 6), (Vec::new(), SlotStep::Gone));
    log.put(&stage(2, 9, b"staged"));
    let adopted = Adopted { term: TermId(2), base: Index(9), chain: [0; 16] };
    log.put(&install(8, 8, Some(adopted)));
    assert_eq!(log.wal.first_slot(P), Some(Index(9)));
    for _ in 0..2 {
        assert_eq!(log.held(9, 9), [(9, some(b"staged"))]);
        log.restart();
    }
}

#[test]
fn segment_that_is_let_go_while_it_is_read_gives_nothing() {
    let mut log = Log::open(8, true);
    for _ in 0..30 {
        log.entry(P, 100_000);
    }
    let request = SlotRequest { partition: P, first: Index(1), last: Index(30) };
    let mut reader = SlotReader::new(KEY, request);
    let SlotStep::Read(read) = reader.step(&log.wal) else { panic!("it is there") };
    let blocks = log.blocks(read);
    log.go_round(16);
    assert!(!log.wal.counts(read.segment));
    reader.on_read(&log.wal, &blocks, |entry| panic!("{entry:?}")).expect("it isn't looked at");
    assert_eq!(reader.step(&log.wal), SlotStep::Gone);
}

#[test]
fn blocks_of_what_a_file_was_before_are_refused() {
    let mut log = Log::open(8, true);
    log.go_round(20);
    let first = log.wal.first_slot(P).expect("it serves peers");
    let request = SlotRequest { partition: P, first, last: first };
    let mut reader = SlotReader::new(KEY, request);
    let SlotStep::Read(read) = reader.step(&log.wal) else { panic!("it is there") };
    // As if the write had been lost, of a segment whose file had been another's.
    let older = log.files.values().flat_map(|file| file.iter()).find(|block| {
        let state = crate::storage::block::BlockState::of(block, KEY.salt);
        matches!(state, crate::storage::block::BlockState::Valid(header)
            if header.segment < read.segment && usize::from(header.number) == read.first_block)
    });
    let mut blocks = log.blocks(read);
    blocks[0] = older.expect("files are used again").clone();
    let found = reader.on_read(&log.wal, &blocks, |entry| panic!("{entry:?}"));
    assert_eq!(found, Err((read.first_block, Damage::LostWrite)));
}

#[test]
fn slots_that_are_not_durable_yet_are_waited_for() {
    let mut log = Log::open(8, true);
    log.wal.append(&Record::Entry(slot(P, 1, b"v")));
    assert_eq!(log.read(P, 1, 1).1, SlotStep::Wait);
    log.serve();
    assert_eq!(log.held(1, 1), [(1, some(b"v"))]);
}

#[test]
fn segments_are_kept_for_peers_only_while_the_log_is_not_pressed() {
    let mut serving = Log::open(64, true);
    let mut other = Log::open(64, false);
    let live_counts = [&mut serving, &mut other].map(|log| {
        let mut counts = Vec::new();
        for _ in 0..60 {
            for _ in 0..40 {
                log.entry(P, 200_000);
            }
            log.checkpoint(P);
            assert_eq!(log.wal.pinned(), None, "what is kept for peers presses nobody");
            counts.push(log.wal.space().live_size_bytes / segment_size());
        }
        counts.into_iter().max().expect("there are some")
    });
    let [with_peers, without] = live_counts;
    assert!(without <= 3, "{without} segments");
    // 32 MiB of the partition, and the segments in which they end.
    assert!((5..=7).contains(&with_peers), "{with_peers} segments");
    let first = serving.wal.first_slot(P).expect("it serves peers");
    let last = serving.last[usize_from_u32(P.0)];
    let kept_size_bytes = (last - first.0) * 200_000;
    assert!(kept_size_bytes >= 32 << 20, "{kept_size_bytes} bytes");
    // A small log keeps less, and clients never wait for it.
    let mut small = Log::open(6, true);
    for _ in 0..400 {
        small.entry(P, 200_000);
        small.checkpoint(P);
        assert!(small.wal.space().client_size_bytes > 0);
    }
}

#[test]
fn promises_and_lives_survive_the_segment_in_which_they_were_made() {
    let mut log = Log::open(8, true);
    let crash_vector = [4, 7, 1].map(crate::base::ids::Incarnation).to_vec();
    log.put(&Record::View { partition: IDLE, term: TermId(9) });
    log.put(&Record::CrashVector {
        partition: IDLE,
        incarnation: crash_vector[1],
        crash_vector: crash_vector.clone(),
        is_recovering: false,
    });
    let made_in = log.wal.filling;
    for _ in 0..2 {
        log.go_round(16);
        assert!(!log.wal.counts(made_in), "the segment is another one by now");
        let (recovered, _) = log.recover();
        let state = &recovered.partitions[usize_from_u32(IDLE.0)].state;
        assert_eq!((state.view, state.incarnation), (TermId(9), crash_vector[1]));
        assert_eq!(state.crash_vector, crash_vector);
        log.restart();
    }
    let standing = log.wal.standing(IDLE).expect("it is the shard's");
    assert_eq!((standing.view, standing.last_normal), (TermId(9), TermId(0)));
    assert_eq!(log.wal.boot_epoch(), BootEpoch(3));
}

/// A view is adopted with some slots that were staged for it: one of them is a no-op, and one was
/// staged with another content at first.
fn adopt_staged(log: &mut Log, count: u64) {
    let partition = IDLE;
    let adopting = TermId(2);
    for (number, index) in (1..=count).chain([1]).enumerate() {
        let value: &[u8] = match (number, index) {
            (0, _) => b"replaced",
            (_, 2) => b"",
            _ => b"staged",
        };
        let message_id = MessageId(index);
        let timestamp = Timestamp(index);
        let index = Index(index);
        let entry = Entry { partition, index, term: TermId(1), message_id, timestamp, value };
        log.wal.append(&Record::Stage { adopting, entry });
        log.serve();
    }
    let (base, kept) = (Index(count), Index(0));
    log.wal.append(&Record::Adopt { partition, term: adopting, base, kept, chain: [0; 16] });
    log.serve();
}

#[test]
fn what_was_staged_and_adopted_is_carried_over_where_it_is_known_where_slots_lie() {
    const COUNT: u64 = 5;
    let mut log = Log::open(SEGMENT_COUNT_MAX, true);
    adopt_staged(&mut log, COUNT);
    let first = log.wal.filling;
    for round in 0..3 {
        // In it who must take a checkpoint is never the idle one.
        log.go_round(4 * SEGMENT_COUNT_MAX);
        assert!(!log.wal.is_live(first), "it keeps nothing");
        let (recovered, applied) = log.recover();
        let idle = &recovered.partitions[usize_from_u32(IDLE.0)];
        assert_eq!(applied.0.get(&IDLE), None, "nothing is stable");
        let found: Vec<_> =
            idle.log.iter().map(|slot| (slot.index.0, slot.value.as_deref())).collect();
        let expected = (1..=COUNT).map(|index| (index, (index != 2).then_some(&b"staged"[..])));
        assert_eq!(found, expected.collect::<Vec<_>>(), "round {round}");
        log.restart();
    }
    log.wal.append(&Record::SyncPoint { partition: IDLE, index: Index(COUNT) });
    log.serve();
    assert_eq!(log.recover().1.0[&IDLE], (1..=COUNT).collect::<Vec<_>>());
}

#[test]
fn where_it_is_not_known_it_is_not_carried_over_and_neither_is_what_is_only_staged() {
    let mut log = Log::open(SEGMENT_COUNT_MAX, false);
    adopt_staged(&mut log, 5);
    assert!(!log.wal.may_carry(IDLE));
    let mut log = Log::open(SEGMENT_COUNT_MAX, true);
    adopt_staged(&mut log, 5);
    assert!(log.wal.may_carry(IDLE));
    let (term, message_id) = (TermId(1), MessageId(6));
    let (index, timestamp) = (Index(6), Timestamp(6));
    let entry = Entry { partition: IDLE, index, term, message_id, timestamp, value: b"v" };
    log.wal.append(&Record::Stage { adopting: TermId(3), entry });
    assert!(!log.wal.may_carry(IDLE));
    // That it came to nothing is known with the next promise.
    log.wal.append(&Record::View { partition: IDLE, term: TermId(4) });
    assert!(log.wal.may_carry(IDLE));
    log.wal.refuse_carry(IDLE);
    assert!(!log.wal.may_carry(IDLE), "the segment can't be read");
}
