//! What members give each other beyond messages: slots that have left memory, and checkpoints.
//!
//! Both are read back from the disk in the background and sent when they are there; whoever waits
//! for what never comes asks again. A checkpoint that comes in is loaded into a map of its own and
//! written to a file of its own, part by part; one at a time, since the writer of checkpoints has
//! one file in hand.

use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

use super::digests::Digests;
use super::execute::World;
use super::old_slots::{SlotAnswer, SlotAsk, SlotsEnd};
use super::partition::{Partition, PartitionView};
use super::transfer::{CheckpointReceiver, PartAnswer, Received};
use super::{Awaiting, Core, Effects, Shard};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{Index, MemberId, PartitionId};
use crate::base::limits::PEER_READ_COUNT_MAX;
use crate::map::partition::PartitionMap;
use crate::nopaxos::message::{CheckpointPart, Entry, Message, SlotRange};
use crate::nopaxos::{ChunkOutcome, Effects as _, Persisted, Stored};
use crate::storage::checkpoint::{
    CheckpointHead, CheckpointId, CheckpointProgress, CheckpointStep,
};
use crate::storage::old_slots::SlotRequest;
use crate::storage::record::{Adopted, Record};
use crate::storage::wal::Durability;

/// Chunks of a received checkpoint in the hands of the host's writer.
const CHUNKS_IN_FLIGHT_MAX: usize = 2;

/// What is being read for other members, and what comes from them.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// What other members have asked for, by the token of its request.
    reads: Slab<PeerRead>,
    receiving: Option<Receiving>,
    /// Checkpoints that are whole and durable, to be put in their places when their members say so.
    received: BTreeMap<PartitionId, Received>,
    /// What came of chunks, to be told to the members.
    outcomes: VecDeque<(PartitionId, ChunkOutcome)>,
}

/// Something that another member waits for.
#[derive(Debug)]
struct PeerRead {
    partition: PartitionId,
    to: MemberId,
    /// What it is put into.
    reply: Message,
    /// Slots that come after those that are being read.
    rest: VecDeque<SlotRange>,
    /// What is sent after them.
    then: Option<Message>,
}

/// A checkpoint that comes in.
#[derive(Debug)]
struct Receiving {
    partition: PartitionId,
    receiver: CheckpointReceiver,
    /// The file has been begun.
    is_begun: bool,
    chunks_in_flight: usize,
    /// A part was taken, and the member wants to hear what came of it.
    is_asked: bool,
    /// The file is being made durable.
    is_finishing: bool,
}

/// A checkpoint that was put in its place, until the log says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Installed {
    index: Index,
    size_bytes: u64,
    digest: [u8; 16],
}

impl Exchange {
    /// Whether the writer of checkpoints is in use.
    pub(super) fn is_receiving(&self) -> bool {
        self.receiving.is_some()
    }

    /// Whether there is something to do though nothing happens.
    pub(super) fn is_due(&self) -> bool {
        let goes_on = |receiving: &Receiving| {
            receiving.is_asked && receiving.chunks_in_flight == 0 && !receiving.is_finishing
        };
        !self.outcomes.is_empty() || self.receiving.as_ref().is_some_and(goes_on)
    }

    /// A chunk was written.
    fn on_written(&mut self) {
        if let Some(receiving) = &mut self.receiving {
            receiving.chunks_in_flight = receiving.chunks_in_flight.saturating_sub(1);
        }
    }
}

impl Shard {
    /// Does what members wait for: a bounded piece of work.
    pub(super) fn exchange(&mut self, effects: &mut impl Effects) {
        if self.core.closing {
            return;
        }
        while !self.core.exchange.reads.is_empty()
            && let Some(answer) = self.core.old_slots.next_answer()
        {
            self.send_slots(answer, effects);
        }
        while !self.core.exchange.reads.is_empty()
            && let Some(answer) = self.core.serving.next_answer()
        {
            self.send_part(answer, effects);
        }
        self.give_receiving_up();
        self.receive(effects);
        while let Some((partition, outcome)) = self.core.exchange.outcomes.pop_front() {
            let now = self.core.now;
            let place = self.place(partition);
            let Partition { member, view } = &mut self.partitions[place];
            let mut world = World::new(view, &mut self.core, effects);
            member.on_chunk(now, outcome, &mut world);
            self.core.after_step(&mut self.partitions[place]);
        }
    }

    /// Sends slots that were read back, and in the end what is to follow them.
    fn send_slots(&mut self, answer: SlotAnswer, effects: &mut impl Effects) {
        let token = usize_from(answer.ask.token);
        let Some(read) = self.core.exchange.reads.get_mut(token) else { return };
        let (partition, to) = (read.partition, read.to);
        let entries = answer.entries.into_iter().map(|entry| Entry {
            index: entry.index,
            message_id: entry.message_id,
            timestamp: entry.timestamp,
            value: entry.value,
        });
        let entries: Vec<Entry> = entries.collect();
        let message = (!entries.is_empty()).then(|| with_entries(&read.reply, entries));
        let next = match answer.end {
            None => None,
            Some(SlotsEnd::Given) => Some(read.rest.pop_front()),
            Some(SlotsEnd::Gone | SlotsEnd::Damaged) => Some(None),
        };
        let place = self.place(partition);
        let mut world = World::new(&mut self.partitions[place].view, &mut self.core, effects);
        if let Some(message) = message {
            world.send(to, message);
        }
        match next {
            None => {}
            Some(Some(range)) => world.core.ask_slots(token, partition, range),
            Some(None) => {
                let read = world.core.exchange.reads.remove(token);
                if let Some(then) = read.then {
                    world.send(to, then);
                } else if answer.end == Some(SlotsEnd::Gone) {
                    // Only a checkpoint has them.
                    world.core.want_unlogged_checkpoint(partition);
                    let (reply, index) = (with_entries(&read.reply, Vec::new()), Index(0));
                    world.send_stored(to, Stored::Chunk { reply, index, number: 0 });
                }
            }
        }
    }

    fn send_part(&mut self, answer: PartAnswer, effects: &mut impl Effects) {
        let token = usize_from(answer.ask.token);
        let Some(read) = self.core.exchange.reads.try_remove(token) else { return };
        let place = self.place(read.partition);
        let mut world = World::new(&mut self.partitions[place].view, &mut self.core, effects);
        world.send(read.to, with_chunk(read.reply, answer.part));
    }

    /// Ends what is coming in once its member waits for it no longer, in another view for instance:
    /// nothing more of it will come, and meanwhile no other checkpoint could come in or be taken.
    fn give_receiving_up(&mut self) {
        let Some(receiving) = &self.core.exchange.receiving else { return };
        let place = self.place(receiving.partition);
        let is_awaited = self.partitions[place].member.replica().is_receiving();
        if !is_awaited && !receiving.is_finishing {
            self.core.discard_receiving();
        }
    }

    /// Goes on with the checkpoint that comes in.
    fn receive(&mut self, effects: &mut impl Effects) {
        let Some(receiving) = &mut self.core.exchange.receiving else { return };
        let partition = receiving.partition;
        if receiving.is_finishing || receiving.chunks_in_flight >= CHUNKS_IN_FLIGHT_MAX {
            return;
        }
        let stepped = receiving.receiver.step(&mut self.core.arena);
        if let Some(id) = receiving.receiver.id()
            && !receiving.is_begun
        {
            receiving.is_begun = true;
            effects.checkpoint(CheckpointStep::Begin(id));
            self.core.checkpoints.on_begun(id);
        }
        while let Some(chunk) = receiving.receiver.next_chunk(Vec::new()) {
            receiving.chunks_in_flight += 1;
            effects.checkpoint(CheckpointStep::Write(chunk));
        }
        match stepped {
            Err(_) => self.fail_receiving(partition),
            Ok(true) => {}
            Ok(false) if receiving.chunks_in_flight > 0 => {}
            Ok(false) if receiving.receiver.is_written() => match receiving.receiver.check() {
                Ok(_) => {
                    receiving.is_finishing = true;
                    effects.checkpoint(CheckpointStep::Finish);
                }
                Err(_) => self.fail_receiving(partition),
            },
            Ok(false) => {
                if std::mem::take(&mut receiving.is_asked) {
                    let kept = (partition, ChunkOutcome::Kept);
                    self.core.exchange.outcomes.push_back(kept);
                }
            }
        }
    }

    /// What came so far is of no use.
    fn fail_receiving(&mut self, partition: PartitionId) {
        self.core.discard_receiving();
        self.core.exchange.outcomes.push_back((partition, ChunkOutcome::Failed));
    }

    /// The writer has got on with a checkpoint that came from another member; whether it was that.
    pub(super) fn on_receiving(&mut self, progress: &CheckpointProgress) -> bool {
        match progress {
            CheckpointProgress::Written(_) => {
                self.core.exchange.on_written();
                true
            }
            CheckpointProgress::Finished(id) => self.on_received(*id),
            CheckpointProgress::Failed(id) => {
                self.fail_receiving(id.partition);
                true
            }
            CheckpointProgress::Read(_) => false,
        }
    }

    /// The file of a checkpoint that came from another member is durable; whether it was one.
    fn on_received(&mut self, id: CheckpointId) -> bool {
        let is_it = |found: &mut Receiving| found.is_finishing && found.receiver.id() == Some(id);
        let Some(receiving) = self.core.exchange.receiving.take_if(is_it) else { return false };
        let outcome = match receiving.receiver.finish(&mut self.core.arena) {
            Ok(received) => {
                let CheckpointHead { chain, timestamp, .. } = received.head;
                self.core.drop_received(receiving.partition);
                self.core.exchange.received.insert(receiving.partition, received);
                ChunkOutcome::Complete { chain, timestamp }
            }
            Err(_) => ChunkOutcome::Failed,
        };
        self.core.exchange.outcomes.push_back((receiving.partition, outcome));
        true
    }
}

impl Core {
    /// Reads what another member waits for and memory doesn't hold.
    pub(super) fn read_for_peer(
        &mut self,
        (partition, checkpoint_size_bytes): (PartitionId, u64),
        to: MemberId,
        stored: Stored,
    ) {
        if self.exchange.reads.len() >= PEER_READ_COUNT_MAX {
            self.counters.peer_unsent += 1;
            return;
        }
        match stored {
            Stored::Slots { reply, ranges, then } => {
                let mut rest = VecDeque::from(ranges);
                let Some(first) = rest.pop_front() else { return };
                let read = PeerRead { partition, to, reply, rest, then };
                let token = self.exchange.reads.insert(read);
                self.ask_slots(token, partition, first);
            }
            Stored::Chunk { reply, index, number } => {
                let rest = VecDeque::new();
                let read = PeerRead { partition, to, reply, rest, then: None };
                let token = self.exchange.reads.insert(read);
                let asked = u64_from(token);
                let newest = (partition, checkpoint_size_bytes);
                if self.ask_part(asked, newest, index, number).is_err() {
                    self.exchange.reads.remove(token);
                    self.counters.peer_unsent += 1;
                    self.want_unlogged_checkpoint(partition);
                }
            }
        }
    }

    /// Lets a partition take a checkpoint that somebody asks for: without a log none is taken for
    /// the log's sake.
    fn want_unlogged_checkpoint(&mut self, partition: PartitionId) {
        let is_known = self.checkpoints_wanted.contains(&partition);
        if self.config.durability == Durability::None && !is_known {
            self.checkpoints_wanted.push_back(partition);
        }
    }

    fn ask_slots(&mut self, token: usize, partition: PartitionId, range: SlotRange) {
        let request = SlotRequest { partition, first: range.first, last: range.last };
        let ask = SlotAsk { token: u64_from(token), request };
        if self.old_slots.ask(ask).is_err() {
            self.exchange.reads.remove(token);
            self.counters.peer_unsent += 1;
        }
    }

    /// Keeps a part of a checkpoint that another member has sent.
    pub(super) fn keep_part(&mut self, partition: PartitionId, part: &CheckpointPart) {
        let receiving = self.exchange.receiving.as_ref();
        if receiving.is_some_and(|found| found.partition != partition) {
            // Each of many that are to come in would end the one before it, and none be whole.
            self.exchange.outcomes.push_back((partition, ChunkOutcome::Busy));
            return;
        }
        let is_other = |found: &Receiving| {
            let id = found.receiver.id();
            id.is_some_and(|id| id.index != part.index)
        };
        if part.number == 0 && receiving.is_some_and(is_other) {
            self.discard_receiving();
        }
        let (salt, hasher) = (self.config.checkpoint_salt, self.hasher);
        let arena = &mut self.arena;
        let receiving = self.exchange.receiving.get_or_insert_with(|| Receiving {
            partition,
            receiver: CheckpointReceiver::new(partition, salt, hasher, arena),
            is_begun: false,
            chunks_in_flight: 0,
            is_asked: false,
            is_finishing: false,
        });
        if !receiving.is_finishing && receiving.receiver.on_part(part).is_ok() {
            receiving.is_asked = true;
        } else {
            self.exchange.outcomes.push_back((partition, ChunkOutcome::Failed));
        }
    }

    fn discard_receiving(&mut self) {
        if let Some(receiving) = self.exchange.receiving.take() {
            receiving.receiver.discard(&mut self.arena);
        }
    }

    /// Puts the checkpoint that was received in the place of a partition's state.
    pub(super) fn install_received(&mut self, view: &mut PartitionView, index: Index) {
        let partition = view.group.partition();
        let received = self.exchange.received.remove(&partition);
        let received = received.expect("a checkpoint is installed once it is whole");
        assert_eq!(received.head.id.index, index, "it is the one that came last");
        let Received { head, map, file_size_bytes } = received;
        self.checkpoints.on_replaced(partition);
        view.digests = Digests::default();
        let mut former = std::mem::replace(&mut view.map, map);
        free(&mut former, self);
        former.discard(&mut self.arena);
        view.checkpoint_size_bytes = file_size_bytes;
        self.account_map(view);
        view.installed =
            Some(Installed { index, size_bytes: file_size_bytes, digest: head.digest });
    }

    /// Forgets a checkpoint that was received and not put in its place.
    fn drop_received(&mut self, partition: PartitionId) {
        if let Some(received) = self.exchange.received.remove(&partition) {
            received.map.discard(&mut self.arena);
        }
    }

    /// Lets a checkpoint that was put in its place count, together with the view that is adopted
    /// on top of it, if one is: one record, so that a crash leaves both or neither (W2, W6).
    pub(super) fn record_installed(
        &mut self,
        view: &mut PartitionView,
        adopted: Option<(Index, Adopted)>,
    ) {
        let Some(installed) = view.installed.take() else { return };
        let Installed { index, size_bytes, digest } = installed;
        let partition = view.group.partition();
        let last = self.log.state().partition(partition).map_or(index, |state| state.last);
        let former = self.log.state().partition(partition).map(|state| state.checkpoint);
        let durability = self.config.durability;
        let id = CheckpointId { partition, index };
        self.checkpoints.on_recorded(id, former.unwrap_or_default(), durability);
        let kept = adopted.map_or(last, |(kept, _)| kept).max(index);
        let record = Record::Install {
            partition,
            index,
            size_bytes,
            digest,
            kept,
            adopted: adopted.map(|(_, adopted)| adopted),
        };
        let append = self.log.append(&record);
        view.covered = (durability == Durability::None).then_some(index);
        let since = self.now.monotonic;
        let mut completed = vec![Persisted::Checkpoint(index)];
        completed.extend(adopted.map(|(_, adopted)| Persisted::Adopted(adopted.term)));
        for persisted in completed {
            self.awaiting.push_back(Awaiting { append, partition, persisted, since });
        }
    }
}

/// Frees what a map keeps besides its entries.
fn free(map: &mut PartitionMap, core: &mut Core) {
    if map.checkpoint_index().is_some() {
        map.abort_checkpoint(&mut core.arena);
    }
    map.undo_to(&mut core.arena, map.committed());
    while map.sweep(&mut core.arena, usize::MAX) {}
}

/// A reply with these slots.
fn with_entries(reply: &Message, slots: Vec<Entry>) -> Message {
    let mut reply = reply.clone();
    match &mut reply {
        Message::SyncRepairResponse { entries, .. }
        | Message::ViewRepairResponse { entries, .. }
        | Message::RecoverResponse { entries, .. } => *entries = slots,
        _ => unreachable!("slots are sent in answers to repairs"),
    }
    reply
}

/// A reply with this chunk, if there is one.
fn with_chunk(mut reply: Message, part: Option<CheckpointPart>) -> Message {
    match &mut reply {
        Message::SyncRepairResponse { chunk, .. }
        | Message::ViewRepairResponse { chunk, .. }
        | Message::ViewChangeRepairResponse { chunk, .. }
        | Message::RecoverResponse { chunk, .. } => *chunk = part,
        _ => unreachable!("chunks are sent in answers to repairs"),
    }
    reply
}
