//! What a shard reads back for the other members of its groups: old slots, and its checkpoint.

use super::checkpoints::{put_until_asked, run_to_the_end};
use super::*;
use crate::base::limits::{
    CHECKPOINT_PART_WINDOW_COUNT, CHECKPOINT_TRANSFER_NS_MAX, OLD_SLOT_REQUEST_COUNT_MAX,
    PEER_MESSAGE_SIZE_BYTES,
};
use crate::nopaxos::message::CheckpointPart;
use crate::shard::old_slots::{SlotAsk, SlotsEnd};
use crate::shard::transfer::{CheckpointReceiver, PartAnswer, TransferError, TransferRefused};
use crate::storage::checkpoint::CheckpointDecoder;
use crate::storage::old_slots::SlotRequest;
use crate::storage::replay::LoggedEntry;

/// The partition that a key of map "m" is in, by where its slot went.
fn busy_partition(host: &Host) -> PartitionId {
    let state = host.shard.core.log.state();
    let busiest = state.partitions.iter().max_by_key(|state| state.last).expect("there are some");
    busiest.partition
}

impl Host {
    fn old_slots(&mut self, token: u64, request: SlotRequest) -> (Vec<LoggedEntry>, SlotsEnd) {
        self.shard.core.old_slots.ask(SlotAsk { token, request }).expect("there is room");
        self.handle(Input::Deadline);
        let mut entries = Vec::new();
        loop {
            self.run();
            while let Some(answer) = self.shard.core.old_slots.next_answer() {
                assert_eq!(answer.ask.token, token);
                let sizes = answer.entries.iter().map(|e| e.value.as_ref().map_or(0, Bytes::len));
                assert!(sizes.sum::<usize>() <= PEER_MESSAGE_SIZE_BYTES);
                entries.extend(answer.entries);
                if let Some(end) = answer.end {
                    return (entries, end);
                }
            }
            self.handle(Input::Deadline);
        }
    }

    fn ask_part(
        &mut self,
        partition: PartitionId,
        index: Index,
        number: u64,
    ) -> Result<(), TransferRefused> {
        let view = &self.shard.partitions[self.shard.place(partition)].view;
        let newest = (partition, view.checkpoint_size_bytes);
        self.shard.core.ask_part(1, newest, index, number)
    }

    /// A part of a partition's checkpoint.
    fn part(&mut self, partition: PartitionId, index: Index, number: u64) -> PartAnswer {
        self.ask_part(partition, index, number).expect("there is a checkpoint");
        loop {
            self.handle(Input::Deadline);
            self.run();
            if let Some(answer) = self.shard.core.serving.next_answer() {
                return answer;
            }
        }
    }

    fn receiver(&mut self, partition: PartitionId) -> CheckpointReceiver {
        let core = &mut self.shard.core;
        CheckpointReceiver::new(partition, SALT, core.hasher, &mut core.arena)
    }
}

#[test]
fn old_slots_come_back_as_they_went_in_parts_that_fit_a_message() {
    let mut host = Host::start(Durability::Sync);
    for number in 0..700 {
        host.put("k", &format!("{number:05}{}", "x".repeat(4_000)));
        host.run();
    }
    let partition = busy_partition(&host);
    let last = host.shard.core.log.state().partition(partition).unwrap().last;
    let (entries, end) =
        host.old_slots(7, SlotRequest { partition, first: Index(1), last: last.previous() });
    assert_eq!(end, SlotsEnd::Given);
    assert_eq!(entries.len(), 699);
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(entry.index.0, u64_from(number) + 1);
        let value = entry.value.as_ref().expect("no no-ops");
        let text = format!("{number:05}x");
        assert!(value.windows(text.len()).any(|window| window == text.as_bytes()));
    }
    let beyond = SlotRequest { partition, first: last.next(), last: last.plus(9) };
    assert_eq!(host.old_slots(8, beyond), (Vec::new(), SlotsEnd::Gone));
}

#[test]
fn requests_for_old_slots_are_bounded_and_answered_in_their_order() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    host.run();
    let partition = busy_partition(&host);
    let ask = |token| SlotAsk {
        token,
        request: SlotRequest { partition, first: Index(1), last: Index(1) },
    };
    for token in 0..u64_from(OLD_SLOT_REQUEST_COUNT_MAX) {
        assert_eq!(host.shard.core.old_slots.ask(ask(token)), Ok(()));
    }
    assert_eq!(host.shard.core.old_slots.ask(ask(999)), Err(ask(999)));
    host.handle(Input::Deadline);
    host.run();
    let mut answered = Vec::new();
    while let Some(answer) = host.shard.core.old_slots.next_answer() {
        assert_eq!((answer.entries.len(), answer.end), (1, Some(SlotsEnd::Given)));
        answered.push(answer.ask.token);
    }
    assert_eq!(answered, (0..u64_from(OLD_SLOT_REQUEST_COUNT_MAX)).collect::<Vec<_>>());
}

#[test]
fn old_slots_that_are_damaged_are_reported_and_the_request_ends() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    host.run();
    let partition = busy_partition(&host);
    for segment in host.disk.segments.values_mut() {
        for block in segment.iter_mut().filter(|block| block.0[28] > 0) {
            block.0[50] ^= 1;
        }
    }
    let request = SlotRequest { partition, first: Index(1), last: Index(1) };
    assert_eq!(host.old_slots(3, request), (Vec::new(), SlotsEnd::Damaged));
    assert_eq!(host.asked.damaged.len(), 1);
}

/// A host with a checkpoint of several parts, and whose it is.
fn with_checkpoint() -> (Host, CheckpointId) {
    let mut host = Host::start(Durability::Sync);
    for number in 0..900 {
        host.put("k", &format!("{number}-{}", "x".repeat(1_000)));
        host.command(put(&format!("{number}"), &"y".repeat(15_000)));
        while host.log_step(0) {}
    }
    put_until_asked(&mut host);
    run_to_the_end(&mut host);
    let partition = busy_partition(&host);
    let index = host.shard.core.log.state().partition(partition).expect("its own").checkpoint;
    (host, CheckpointId { partition, index })
}

fn all_parts(host: &mut Host, id: CheckpointId) -> Vec<CheckpointPart> {
    let first = host.part(id.partition, Index(0), 0).part.expect("it is there");
    let count = first.size_bytes.div_ceil(u64::from(first.chunk_size_bytes));
    assert!(count > CHECKPOINT_PART_WINDOW_COUNT, "{count} parts");
    let rest = (1..count).map(|number| host.part(id.partition, id.index, number).part.unwrap());
    let rest: Vec<_> = rest.collect();
    [vec![first], rest].concat()
}

#[test]
fn checkpoint_given_in_parts_is_received_whole_in_any_order_and_after_a_break() {
    let (mut host, id) = with_checkpoint();
    let parts = all_parts(&mut host, id);
    let expected = host.disk.checkpoints[&id].clone();
    let mut prng = Prng::new(5, "parts");
    for _ in 0..20 {
        let mut receiver = host.receiver(id.partition);
        let mut file = Vec::new();
        let mut rounds = 0;
        while !receiver.is_written() {
            rounds += 1;
            assert!(rounds < 10_000, "it gets on");
            let mut wanted: Vec<u64> = receiver.wanted().collect();
            assert!(u64_from(wanted.len()) <= CHECKPOINT_PART_WINDOW_COUNT);
            while !wanted.is_empty() {
                let chosen = prng.below(u64_from(wanted.len()));
                let number = wanted.swap_remove(usize_from(chosen));
                // Some are lost, some come twice.
                for _ in 0..prng.below(3) {
                    receiver.on_part(&parts[usize_from(number)]).expect("it is of the checkpoint");
                }
            }
            let early = prng.below(u64_from(parts.len()));
            receiver.on_part(&parts[usize_from(early)]).expect("it is of the checkpoint");
            let bound = CHECKPOINT_PART_WINDOW_COUNT * u64::from(parts[0].chunk_size_bytes);
            assert!(u64_from(receiver.held_size_bytes()) <= bound);
            while receiver.step(&mut host.shard.core.arena).expect("it is a checkpoint") {}
            while let Some(chunk) = receiver.next_chunk(Vec::new()) {
                file.extend(chunk.blocks);
            }
        }
        let received = receiver.finish(&mut host.shard.core.arena).expect("it is whole");
        assert_eq!(received.head.id, id);
        assert_eq!(received.map.applied(), id.index);
        assert_eq!(received.file_size_bytes, u64_from(file.len() * size_of::<Block>()));
        assert_eq!(received.map.digest().0.to_le_bytes(), received.head.digest);
        let mut decoder = CheckpointDecoder::new(SALT, id);
        for (chunk, other) in file.chunks(CHUNK_BLOCK_COUNT).zip(expected.chunks(CHUNK_BLOCK_COUNT))
        {
            assert_eq!(chunk[0].0, other[0].0, "the file is the sender's");
            decoder.chunk(chunk).expect("it is a chunk");
        }
        assert!(decoder.is_complete());
        received.map.discard(&mut host.shard.core.arena);
    }
}

#[test]
fn parts_that_are_not_of_the_checkpoint_are_refused() {
    let (mut host, id) = with_checkpoint();
    let parts = all_parts(&mut host, id);
    let mut receiver = host.receiver(id.partition);
    receiver.on_part(&parts[0]).expect("it is the first");
    let wrong = |change: &dyn Fn(&mut CheckpointPart)| {
        let mut part = parts[1].clone();
        change(&mut part);
        part
    };
    let last = u64_from(parts.len());
    for (part, error) in [
        (wrong(&|part| part.index = Index(3)), TransferError::Another),
        (wrong(&|part| part.digest[31] ^= 1), TransferError::Another),
        (wrong(&|part| part.index = Index(0)), TransferError::Shape),
        (wrong(&|part| part.number = last), TransferError::Shape),
        (wrong(&|part| part.number = u64::MAX), TransferError::Shape),
        (wrong(&|part| part.chunk_size_bytes = 0), TransferError::Shape),
        (wrong(&|part| part.chunk_size_bytes = u32::MAX), TransferError::Shape),
        (wrong(&|part| part.size_bytes = u64::MAX), TransferError::Another),
        (wrong(&|part| part.data = part.data.slice(1..)), TransferError::Shape),
    ] {
        assert_eq!(receiver.on_part(&part), Err(error));
    }
    receiver.discard(&mut host.shard.core.arena);
}

#[test]
fn any_flipped_bit_of_a_transfer_is_found() {
    let (mut host, id) = with_checkpoint();
    let parts = all_parts(&mut host, id);
    let mut prng = Prng::new(6, "flips");
    for draw in 0..40 {
        let mut parts = parts.clone();
        // The head is in the first part; its time is in no digest of the state.
        let number = if draw < 10 { 0 } else { usize_from(prng.below(u64_from(parts.len()))) };
        let mut data = parts[number].data.to_vec();
        let end = if draw < 10 { 40 } else { u64_from(data.len()) };
        data[usize_from(prng.below(end))] ^= 1 << prng.below(8);
        parts[number].data = data.into();
        let mut receiver = host.receiver(id.partition);
        let arena = &mut host.shard.core.arena;
        let result = parts.iter().try_for_each(|part| {
            receiver.on_part(part)?;
            while receiver.step(arena)? {}
            while receiver.next_chunk(Vec::new()).is_some() {}
            Ok::<_, TransferError>(())
        });
        match result {
            Ok(()) => assert!(receiver.finish(arena).is_err(), "draw {draw}"),
            Err(_) => receiver.discard(arena),
        }
    }
}

#[test]
fn replaced_checkpoint_stays_while_a_peer_reads_it_but_not_for_ever() {
    let (mut host, id) = with_checkpoint();
    let parts = all_parts(&mut host, id);
    put_until_asked(&mut host);
    run_to_the_end(&mut host);
    let newest = |host: &Host| {
        host.shard.core.log.state().partition(id.partition).expect("its own").checkpoint
    };
    assert!(newest(&host) > id.index, "there is a later one");
    // Its predecessor is superseded when a snapshot names it no more.
    host.shard.core.log.on_checkpoint_damaged();
    for _ in 0..50 {
        host.put("k", "v");
        run_to_the_end(&mut host);
    }
    assert!(host.shard.core.log.superseded_checkpoint().is_none());
    assert!(host.disk.checkpoints.contains_key(&id), "a peer reads it");
    let answer = host.part(id.partition, id.index, 1);
    assert_eq!(answer.part.as_ref(), Some(&parts[1]));
    host.advance(CHECKPOINT_TRANSFER_NS_MAX + 1);
    host.put("k", "v");
    run_to_the_end(&mut host);
    assert!(!host.disk.checkpoints.contains_key(&id), "it had its time");
    let asked = host.ask_part(id.partition, id.index, 1);
    assert_eq!(asked, Err(TransferRefused::NoCheckpoint));
}

#[test]
fn damaged_checkpoint_is_not_given_away_and_is_taken_anew() {
    let (mut host, id) = with_checkpoint();
    let file = host.disk.checkpoints.get_mut(&id).expect("it is there");
    let middle = file.len() / 2;
    file[middle].0[77] ^= 1;
    let count = u64_from(file.len().div_ceil(CHUNK_BLOCK_COUNT));
    let damaged = u64_from(middle / CHUNK_BLOCK_COUNT);
    for number in 0..count {
        let answer = host.part(id.partition, Index(0), number);
        assert_eq!(answer.is_damaged, number == damaged, "part {number}");
        if answer.is_damaged {
            break;
        }
    }
    run_to_the_end(&mut host);
    let newest = host.shard.core.log.state().partition(id.partition).expect("its own").checkpoint;
    assert!(newest >= id.index);
    assert!(host.shard.core.counters.damaged > 0);
}
