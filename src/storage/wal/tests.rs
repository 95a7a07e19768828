use super::super::block::{BlockState, boot_of, first_batch};
use super::super::codec::decode;
use super::super::record::{Entry, PartitionSnapshot};
use super::super::supply::PREPARE_RETRY_NS;
use super::*;
use crate::base::ids::{BootEpoch, Index, MessageId, PartitionId, ShardId, TermId};
use crate::base::limits::COMMAND_SIZE_BYTES_MAX;
use crate::base::limits::SEGMENT_SIZE_BYTES_MIN;
use crate::base::time::Timestamp;

const P: PartitionId = PartitionId(7);
const KEY: LogKey = LogKey { shard: ShardId(1), salt: 5 };
const T0: Monotonic = Monotonic(1_000_000_000);

fn config() -> WalConfig {
    WalConfig {
        key: KEY,
        boot_epoch: BootEpoch(1),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        log_size_bytes_max: 1 << 30,
        writes_in_flight: 2,
        durability: Durability::Sync,
    }
}

fn start() -> WalStart {
    let partitions = vec![PartitionSnapshot::empty(P)];
    WalStart {
        state: ShardSnapshot { partitions, ..ShardSnapshot::default() },
        next_segment: SegmentId(1),
        ..WalStart::default()
    }
}

/// A log whose first batch, snapshot and opening, is durable.
fn opened(config: WalConfig) -> Wal {
    let mut wal = Wal::open(config, start());
    prepare(&mut wal);
    let write = wal
        .poll_write(T0.after_ns(ASYNC_INTERVAL_NS))
        .or_else(|| wal.poll_write(T0.after_ns(2 * ASYNC_INTERVAL_NS)));
    wal.on_written(write.unwrap());
    prepare(&mut wal);
    wal
}

fn prepare(wal: &mut Wal) {
    while let Some(segment) = wanted(wal, T0) {
        wal.on_segment_prepared(segment);
    }
}

fn wanted(wal: &mut Wal, now: Monotonic) -> Option<SegmentId> {
    wal.wants_segment(now).map(|wanted| wanted.segment)
}

fn entry(index: u64, value: &[u8]) -> Record<'_> {
    Record::Entry(Entry {
        partition: P,
        index: Index(index),
        term: TermId(1),
        message_id: MessageId(index),
        timestamp: Timestamp(index),
        value,
    })
}

fn header(block: &Block) -> BlockHeader {
    match BlockState::of(block, KEY.salt) {
        BlockState::Valid(header) => header,
        other => panic!("{other:?}"),
    }
}

fn payload(write: &SegmentWrite) -> Vec<u8> {
    write.blocks.iter().flat_map(|block| header(block).payload(block).to_vec()).collect()
}

#[test]
fn first_batch_of_a_boot_is_a_snapshot_and_the_opening() {
    let mut wal = Wal::open(config(), start());
    assert!(wal.poll_write(T0).is_none(), "no segment is prepared yet");
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(1)));
    assert_eq!(wanted(&mut wal, T0), None, "it is named once");
    wal.on_segment_prepared(SegmentId(1));
    let write = wal.poll_write(T0).unwrap();
    assert_eq!((write.segment, write.offset), (SegmentId(1), 0));
    assert_eq!(write.batch, first_batch(BootEpoch(1)));
    assert_eq!(boot_of(header(&write.blocks[0]).proven), BootEpoch(0));
    let payload = payload(&write);
    let (snapshot, size) = decode(&payload).unwrap().unwrap();
    let Record::Snapshot(snapshot) = snapshot else { panic!("{snapshot:?}") };
    assert_eq!(snapshot.boot_epoch, BootEpoch(1));
    assert_eq!(snapshot.partitions, start().state.partitions);
    let (opening, _) = decode(&payload[size..]).unwrap().unwrap();
    assert_eq!(opening, Record::OpenBoot { boot_epoch: BootEpoch(1), clean: false });
}

#[test]
fn records_gather_while_as_many_writes_as_allowed_are_in_flight() {
    let mut wal = opened(config());
    let mut writes = Vec::new();
    for index in 1..=4 {
        assert_eq!(wal.append(&entry(index, b"v")), AppendId(index));
        writes.extend(wal.poll_write(T0));
    }
    assert_eq!(writes.len(), 2);
    let [first, second] = writes.try_into().unwrap();
    assert_eq!(second.offset, first.offset + 4_096, "a partly filled block isn't written again");
    assert_eq!(header(&second.blocks[0]).proven, first.batch.previous());

    wal.on_written(second);
    assert_eq!(wal.durable(), AppendId(0), "durable in order only");
    wal.on_written(first);
    assert_eq!(wal.durable(), AppendId(2));
    let third = wal.poll_write(T0).unwrap();
    assert_eq!(decode(&payload(&third)).unwrap().unwrap().0, entry(3, b"v"));
    wal.on_written(third);
    assert_eq!(wal.durable(), AppendId(4));
}

#[test]
fn padding_is_zero_though_memory_is_used_again() {
    let mut wal = opened(config());
    wal.append(&entry(1, &[0xFF; 4_000]));
    let write = wal.poll_write(T0).unwrap();
    let memory = write.blocks.as_ptr();
    wal.on_written(write);
    for index in 2.. {
        wal.append(&entry(index, b"v"));
        let write = wal.poll_write(T0).unwrap();
        let used = usize::from(header(&write.blocks[0]).used);
        assert!(write.blocks[0].0[32 + used..].iter().all(|&byte| byte == 0));
        let again = write.blocks.as_ptr() == memory;
        wal.on_written(write);
        if again {
            return;
        }
    }
}

#[test]
fn steady_state_uses_the_same_memory_again() {
    let mut wal = opened(config());
    let mut memories = Vec::new();
    for index in 1..=100 {
        wal.append(&entry(index, b"v"));
        let write = wal.poll_write(T0).unwrap();
        assert_eq!(write.blocks.capacity(), BATCH_BLOCK_COUNT_MAX);
        let memory = write.blocks.as_ptr();
        if !memories.contains(&memory) {
            memories.push(memory);
        }
        wal.on_written(write);
    }
    assert!(memories.len() <= 3, "{} buffers", memories.len());
}

#[test]
fn longest_command_spans_batches_and_is_durable_with_the_last() {
    let mut wal = opened(WalConfig { writes_in_flight: 4, ..config() });
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    wal.append(&entry(1, b"small"));
    wal.append(&entry(2, &value));
    let mut stream = Vec::new();
    let mut batch_count = 0;
    while let Some(write) = wal.poll_write(T0) {
        assert!(write.blocks.len() <= BATCH_BLOCK_COUNT_MAX);
        assert!(wal.durable() < AppendId(2));
        stream.extend(payload(&write));
        batch_count += 1;
        wal.on_written(write);
        assert!(wal.durable() >= AppendId(1));
    }
    assert_eq!(wal.durable(), AppendId(2));
    assert_eq!(batch_count, 9);
    let (_, size) = decode(&stream).unwrap().unwrap();
    assert_eq!(decode(&stream[size..]).unwrap().unwrap().0, entry(2, &value));
}

#[test]
fn segment_that_cannot_take_a_record_is_left_for_the_next_whose_snapshot_lists_it() {
    let mut wal = opened(config());
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    let mut writes = Vec::new();
    for index in 1..=4 {
        wal.append(&entry(index, &value));
        while let Some(write) = wal.poll_write(T0) {
            writes.push((write.batch, write.segment, write.offset, payload(&write)));
            wal.on_written(write);
        }
    }
    let begin = writes.iter().position(|write| write.1 == SegmentId(2)).unwrap();
    let (_, _, offset, payload) = &writes[begin];
    assert_eq!(*offset, 0);
    let (record, size) = decode(payload).unwrap().unwrap();
    let Record::Snapshot(snapshot) = record else { panic!("{record:?}") };
    let live = LiveSegment { segment: SegmentId(1), last_batch: writes[begin - 1].0 };
    assert_eq!(snapshot.segments, [live]);
    assert_eq!(snapshot.partitions[0].last, Index(3), "of what lies before it");
    let rest: Vec<u8> = payload[size..]
        .iter()
        .copied()
        .chain(writes[begin + 1..].iter().flat_map(|write| write.3.clone()))
        .collect();
    assert_eq!(decode(&rest).unwrap().unwrap().0, entry(4, &value));
}

#[test]
fn log_without_room_for_its_end_is_closed_without_it_unless_something_was_promised() {
    for (durability, is_closed) in [(Durability::Sync, true), (Durability::Async, false)] {
        let log_size_bytes_max = SEGMENT_COUNT_MIN * u64_from(SEGMENT_SIZE_BYTES_MIN);
        let mut wal = opened(WalConfig { log_size_bytes_max, durability, ..config() });
        let value = vec![3; COMMAND_SIZE_BYTES_MAX];
        let mut now = T0;
        for index in 1..=40 {
            now = now.after_ns(ASYNC_INTERVAL_NS);
            wal.append(&entry(index, &value));
            prepare(&mut wal);
            while let Some(write) = wal.poll_write(now) {
                wal.on_written(write);
            }
        }
        assert!(wal.durable() < wal.appended(), "it is full");
        assert!(!wal.is_closed());
        wal.close();
        assert!(wal.poll_write(now.after_ns(ASYNC_INTERVAL_NS)).is_none());
        assert_eq!(wal.is_closed(), is_closed, "{durability:?}");
    }
}

#[test]
fn writing_waits_for_the_next_segment_and_appending_does_not() {
    let mut wal = Wal::open(config(), start());
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(1)));
    wal.on_segment_prepared(SegmentId(1));
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    for index in 1..=4 {
        wal.append(&entry(index, &value));
    }
    while let Some(write) = wal.poll_write(T0) {
        wal.on_written(write);
    }
    assert_eq!(wal.durable(), AppendId(3));
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(2)));
    wal.on_segment_prepared(SegmentId(2));
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(3)), "one is kept ahead");
    while let Some(write) = wal.poll_write(T0) {
        wal.on_written(write);
    }
    assert_eq!(wal.durable(), AppendId(4));
}

#[test]
fn empty_batch_proves_the_last_one_after_idleness_and_only_once() {
    let mut wal = opened(config());
    wal.append(&entry(1, b"v"));
    let write = wal.poll_write(T0).unwrap();
    let batch = write.batch;
    assert_eq!(wal.next_deadline(), None, "a write is in flight");
    wal.on_written(write);
    let deadline = T0.after_ns(PROOF_DELAY_NS);
    assert_eq!(wal.next_deadline(), Some(deadline));
    assert!(wal.poll_write(Monotonic(deadline.0 - 1)).is_none());
    let proof = wal.poll_write(deadline).unwrap();
    let header = header(&proof.blocks[0]);
    assert_eq!((header.used, header.proven, header.last), (0, batch, true));
    wal.on_written(proof);
    assert_eq!(wal.next_deadline(), None);
    assert!(wal.poll_write(deadline.after_ns(1 << 40)).is_none());
}

#[test]
fn closing_writes_what_is_pending_the_end_and_its_proof() {
    let mut wal = opened(config());
    wal.append(&entry(1, b"v"));
    wal.close();
    let end = wal.poll_write(T0).unwrap();
    let stream = payload(&end);
    let (_, size) = decode(&stream).unwrap().unwrap();
    let end_record = Record::CloseBoot { boot_epoch: BootEpoch(1) };
    assert_eq!(decode(&stream[size..]).unwrap().unwrap().0, end_record);
    assert!(wal.poll_write(T0).is_none() && !wal.is_closed());
    wal.on_written(end);
    let proof = wal.poll_write(T0).unwrap();
    assert_eq!(header(&proof.blocks[0]).used, 0);
    assert!(!wal.is_closed());
    wal.on_written(proof);
    assert!(wal.is_closed());
    assert_eq!(wal.durable(), AppendId(1));
}

#[test]
fn asynchronous_writes_gather_for_their_interval() {
    let mut wal = opened(WalConfig { durability: Durability::Async, ..config() });
    wal.append(&entry(1, b"v"));
    let begin = T0.after_ns(1 << 32);
    assert!(wal.poll_write(begin).is_none());
    wal.append(&entry(2, b"v"));
    let deadline = begin.after_ns(ASYNC_INTERVAL_NS);
    assert_eq!(wal.next_deadline(), Some(deadline));
    assert!(wal.poll_write(Monotonic(deadline.0 - 1)).is_none());
    let write = wal.poll_write(deadline).unwrap();
    wal.on_written(write);
    assert_eq!(wal.durable(), AppendId(2));

    // A full batch doesn't wait.
    wal.append(&entry(3, &[0; WRITE_SIZE]));
    assert!(wal.poll_write(deadline).is_some());
}

const WRITE_SIZE: usize = WRITE_BATCH_SIZE_BYTES_MAX;

#[test]
fn mode_none_writes_nothing_and_keeps_nobody_waiting() {
    let mut wal = Wal::open(WalConfig { durability: Durability::None, ..config() }, start());
    assert_eq!(wal.append(&entry(1, b"v")), AppendId(1));
    assert_eq!(wal.durable(), AppendId(1));
    assert_eq!(wanted(&mut wal, T0), None);
    assert!(wal.poll_write(T0).is_none());
    assert_eq!(wal.next_deadline(), None);
    assert_eq!(wal.state().partitions[0].last, Index(1));
    wal.close();
    assert!(wal.is_closed());
}

#[test]
fn last_segment_is_kept_for_the_protocol() {
    let size = u64_from(SEGMENT_SIZE_BYTES_MIN);
    let mut wal = opened(WalConfig { log_size_bytes_max: 3 * size, ..config() });
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    let mut rooms = Vec::new();
    for index in 1.. {
        let space = wal.space();
        assert_eq!(space.size_bytes_max, 3 * size);
        assert!(space.used_size_bytes <= 3 * size);
        rooms.push(space.client_size_bytes);
        if space.client_size_bytes == 0 {
            break;
        }
        wal.append(&entry(index, &value));
        while let Some(write) = wal.poll_write(T0) {
            wal.on_written(write);
            prepare(&mut wal);
        }
    }
    assert!(rooms.is_sorted_by(|earlier, later| earlier > later), "{rooms:?}");
    // It is there for what can't be refused.
    let view = wal.append(&Record::View { partition: P, term: TermId(9) });
    let write = wal.poll_write(T0).unwrap();
    assert_eq!(write.segment, SegmentId(3));
    wal.on_written(write);
    assert_eq!(wal.durable(), view);
    assert_eq!(wanted(&mut wal, T0), None, "the log is as large as it may be");
}

#[test]
fn segment_that_cannot_be_prepared_counts_as_no_room_and_is_asked_for_again() {
    let mut wal = Wal::open(config(), start());
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(1)));
    wal.on_segment_prepared(SegmentId(1));
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(2)));
    assert!(wal.space().client_size_bytes > 0);
    wal.on_segment_failed(SegmentId(2), T0);
    assert_eq!(wal.space().client_size_bytes, 0);
    assert_eq!(wanted(&mut wal, T0), None);
    let later = T0.after_ns(PREPARE_RETRY_NS);
    assert_eq!(wal.next_deadline(), Some(later));
    assert_eq!(wanted(&mut wal, later), Some(SegmentId(2)));
    assert_eq!(wal.next_deadline(), None);
    wal.on_segment_prepared(SegmentId(2));
    assert!(wal.space().client_size_bytes > 0);
}

#[test]
#[should_panic(expected = "slots are missing")]
fn hole_in_the_log_is_a_broken_invariant() {
    opened(config()).append(&entry(2, b"v"));
}

#[test]
#[should_panic(expected = "nothing follows the end of a boot")]
fn closed_log_takes_nothing() {
    let mut wal = opened(config());
    wal.close();
    wal.append(&entry(1, b"v"));
}

#[test]
#[should_panic(expected = "each boot has an epoch of its own")]
fn boot_epoch_of_an_earlier_boot_is_refused() {
    let mut start = start();
    start.state.boot_epoch = BootEpoch(1);
    let _ = Wal::open(config(), start);
}

/// Members of a group append what they are sent, room or not; the segment with which a boot begins
/// was skipped, and nothing was ever written again (`simulate --seed 161`).
#[test]
fn first_segment_is_asked_for_again_though_a_later_one_is_being_filled() {
    let mut wal = Wal::open(config(), start());
    assert_eq!(wanted(&mut wal, T0), Some(SegmentId(1)));
    wal.on_segment_failed(SegmentId(1), T0);
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    for index in 1..=4 {
        wal.append(&entry(index, &value));
    }
    let later = T0.after_ns(PREPARE_RETRY_NS);
    for segment in [1, 2, 3].map(SegmentId) {
        assert_eq!(wanted(&mut wal, later), Some(segment));
        wal.on_segment_prepared(segment);
    }
    while let Some(write) = wal.poll_write(later) {
        wal.on_written(write);
    }
    assert_eq!(wal.durable(), AppendId(4));
}
