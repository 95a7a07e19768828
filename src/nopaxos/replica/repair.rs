//! What other members lack is sent to them: slots in messages of about 1 MiB, at most 4 MiB for one
//! request; what memory doesn't hold comes from the disk ([`Stored`]). And the other way round:
//! a checkpoint that comes in, chunk by chunk, from one member.
//!
//! Sender and receiver count the bytes of entries alike, so that the receiver knows without a word
//! that a request was answered as far as it will be, and asks for the rest.

use super::adoption::Checkpoint;
use super::gap::ranges;
use super::*;
use crate::base::cast::usize_from_u32;
use crate::base::limits::{
    PEER_CHUNK_SIZE_BYTES_MAX, PEER_MESSAGE_SIZE_BYTES, REPAIR_SIZE_BYTES_MAX,
};
use crate::nopaxos::message::{Entry, SlotRange, Wanted};

/// A checkpoint that is coming in.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Transfer {
    from: MemberId,
    index: Index,
    digest: [u8; 32],
    chunk_count: u64,
    /// The chunk that is awaited, or being kept.
    next: u64,
    is_being_kept: bool,
    delay_ns: u64,
}

/// In which message slots go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Sync,
    View,
}

impl Reply {
    fn message(self, term: TermId, entries: Vec<Entry>) -> Message {
        match self {
            Self::Sync => Message::SyncRepairResponse { term, chunk: None, entries },
            Self::View => Message::ViewRepairResponse { term, chunk: None, entries },
        }
    }
}

impl Replica {
    /// A follower lacks slots.
    pub(super) fn on_sync_repair(
        &mut self,
        from: MemberId,
        wanted: &Wanted,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_is_leading()?;
        if wanted.checkpoint > Index(0) {
            let reply = Reply::Sync.message(self.view, Vec::new());
            send_chunk(from, (wanted.checkpoint, 0), reply, world);
            return Ok(());
        }
        self.serve_sync(from, &wanted.slots, world);
        Ok(())
    }

    /// Sends slots up to the frontier: what is above it may yet get lost.
    pub(super) fn serve_sync(&mut self, to: MemberId, slots: &[SlotRange], world: &mut impl World) {
        self.serve(to, slots, (Reply::Sync, self.frontier()), None, world);
    }

    /// A member that adopts the view lacks slots, or a chunk. Who lacks the `StartView` itself asks
    /// for it by repeating its vote.
    pub(super) fn on_view_repair(
        &mut self,
        from: MemberId,
        request: u64,
        wanted: &Wanted,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_is_leading()?;
        if wanted.checkpoint > Index(0) {
            let reply = Reply::View.message(self.view, Vec::new());
            send_chunk(from, (wanted.checkpoint, request), reply, world);
        } else if wanted.slots.is_empty() {
            return Err(IgnoreReason::Malformed);
        } else {
            // Also above the frontier: a recovering member may have confirmed a no-op there in an
            // earlier life.
            self.serve(from, &wanted.slots, (Reply::View, self.log.last()), None, world);
        }
        Ok(())
    }

    /// The leader of the view that is to begin lacks what this member has voted with.
    pub(super) fn on_view_change_repair(
        &mut self,
        from: MemberId,
        request: u64,
        wanted: &Wanted,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if self.status != Status::ViewChange {
            return Err(IgnoreReason::NotChanging);
        }
        self.check_leads(from)?;
        if self.vote.is_none() {
            return Err(IgnoreReason::Unasked);
        }
        let term = self.view;
        if wanted.checkpoint > Index(0) {
            let reply = Message::ViewChangeRepairResponse {
                term,
                request,
                chunk: None,
                values: Vec::new(),
            };
            send_chunk(from, (wanted.checkpoint, request), reply, world);
            return Ok(());
        }
        mark!("view-change-repair");
        let last = self.log.last();
        let held = wanted
            .slots
            .iter()
            .flat_map(|range| range.first.max(self.first).0..=range.last.min(last).0)
            .map(Index)
            .filter(|index| !self.log.no_ops().contains(index));
        let values = ranges(held);
        let then = Message::ViewChangeRepairResponse { term, request, chunk: None, values };
        self.serve(from, &wanted.slots, (Reply::View, last), Some(then), world);
        Ok(())
    }

    /// Sends slots, and `then` a message.
    fn serve(
        &mut self,
        to: MemberId,
        slots: &[SlotRange],
        (reply, last): (Reply, Index),
        then: Option<Message>,
        world: &mut impl World,
    ) {
        let (term, floor) = (self.view, self.log.floor());
        if then.is_none() && slots.first().is_some_and(|range| range.first < self.first) {
            mark!("repair-by-checkpoint");
            send_chunk(to, (Index(0), 0), reply.message(term, Vec::new()), world);
            return;
        }
        let stored: Vec<SlotRange> = slots
            .iter()
            .map(|range| SlotRange {
                first: range.first.max(self.first),
                last: range.last.min(floor).min(last),
            })
            .filter(|range| range.first <= range.last)
            .collect();
        if !stored.is_empty() {
            mark!("repair-from-disk");
            let reply = reply.message(term, Vec::new());
            world.send_stored(to, Stored::Slots { reply, ranges: stored, then });
            return;
        }
        self.serve_from_memory(to, slots, (reply, last), world);
        if let Some(then) = then {
            world.send(to, then);
        }
    }

    fn serve_from_memory(
        &self,
        to: MemberId,
        slots: &[SlotRange],
        (reply, last): (Reply, Index),
        world: &mut impl World,
    ) {
        let mut entries = Vec::new();
        let (mut size_bytes, mut total_size_bytes) = (0, 0);
        let indexes = slots.iter().flat_map(|range| range.first.0..=range.last.min(last).0);
        for index in indexes.map(Index) {
            let Some(slot) = self.log.slot(index) else { continue };
            let entry = entry(index, slot);
            size_bytes += entry.size_bytes();
            total_size_bytes += entry.size_bytes();
            entries.push(entry);
            if size_bytes >= PEER_MESSAGE_SIZE_BYTES {
                world.send(to, reply.message(self.view, std::mem::take(&mut entries)));
                size_bytes = 0;
            }
            if total_size_bytes >= REPAIR_SIZE_BYTES_MAX {
                break;
            }
        }
        if !entries.is_empty() {
            world.send(to, reply.message(self.view, entries));
        }
    }

    /// Slots or a chunk from the leader, to a follower.
    pub(super) fn on_sync_repair_response(
        &mut self,
        from: MemberId,
        chunk: Option<CheckpointPart>,
        entries: Vec<Entry>,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_leads_me(from)?;
        if let Some(part) = chunk {
            self.on_part(from, part, world)?;
        }
        self.on_sync_entries(entries, world)
    }

    /// Slots or a chunk, to a member that adopts or to a leader that merges.
    pub(super) fn on_view_repair_response(
        &mut self,
        from: MemberId,
        chunk: Option<CheckpointPart>,
        entries: Vec<Entry>,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if let Some(part) = chunk {
            return self.on_part(from, part, world);
        }
        self.on_view_entries(from, entries, world)
    }

    /// A chunk of a checkpoint: the next of the one that is coming in, or the first of one that is
    /// of use.
    pub(super) fn on_part(
        &mut self,
        from: MemberId,
        part: CheckpointPart,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        let size = u64::from(part.chunk_size_bytes);
        if size == 0 || usize_from_u32(part.chunk_size_bytes) > PEER_CHUNK_SIZE_BYTES_MAX {
            return Err(IgnoreReason::Malformed);
        }
        let chunk_count = part.size_bytes.div_ceil(size).max(1);
        if part.number >= chunk_count || part.index == Index(0) {
            return Err(IgnoreReason::Malformed);
        }
        let open = self.transfer.as_ref();
        let is_next = open.is_some_and(|open| {
            (open.from, open.index, open.digest) == (from, part.index, part.digest)
                && open.next == part.number
        });
        if is_next && open.is_some_and(|open| open.is_being_kept) {
            return Err(IgnoreReason::Duplicate);
        }
        let is_other = open.is_none_or(|open| open.index < part.index || open.from != from);
        let begins = part.number == 0 && is_other && self.wants_checkpoint(from, part.index);
        if !is_next && !begins {
            return Err(IgnoreReason::Unasked);
        }
        mark!("checkpoint-chunk");
        let delay_ns = self.settings.timing.repair_retry_ns;
        self.transfer = Some(Transfer {
            from,
            index: part.index,
            digest: part.digest,
            chunk_count,
            next: part.number,
            is_being_kept: true,
            delay_ns,
        });
        self.timeouts.cancel(Timeout::Chunk);
        world.receive_chunk(part);
        Ok(())
    }

    fn wants_checkpoint(&self, from: MemberId, index: Index) -> bool {
        match self.status {
            Status::Normal => from == self.leader() && index > self.applied,
            Status::ViewChange | Status::Recovering => self
                .adoption
                .as_ref()
                .is_some_and(|adoption| adoption.wants_checkpoint(from, index, self.sync_point)),
        }
    }

    pub(super) fn on_chunk_outcome(&mut self, outcome: ChunkOutcome, world: &mut impl World) {
        if outcome != ChunkOutcome::Failed {
            // If it was busy with another one, then that gets on.
            self.note_progress();
        }
        let Some(transfer) = &mut self.transfer else { return };
        match outcome {
            ChunkOutcome::Kept => {
                transfer.next += 1;
                transfer.is_being_kept = false;
                transfer.delay_ns = self.settings.timing.repair_retry_ns;
                if transfer.next < transfer.chunk_count {
                    self.ask_for_chunk(world);
                }
            }
            ChunkOutcome::Failed => {
                mark!("checkpoint-failed");
                self.transfer = None;
            }
            ChunkOutcome::Busy => {
                mark!("checkpoint-waits");
                self.transfer = None;
            }
            ChunkOutcome::Complete { chain, timestamp } => {
                mark!("checkpoint-received");
                let index = transfer.index;
                self.transfer = None;
                let checkpoint = Checkpoint { index, chain, timestamp };
                match self.status {
                    Status::Normal => self.install(checkpoint, world),
                    _ => self.on_adoption_checkpoint(checkpoint, world),
                }
            }
        }
    }

    fn ask_for_chunk(&mut self, world: &mut impl World) {
        let Some(transfer) = &mut self.transfer else { return };
        let (to, request) = (transfer.from, transfer.next);
        let wanted = Wanted { checkpoint: transfer.index, slots: Vec::new() };
        let due = world.now().after_ns(transfer.delay_ns);
        transfer.delay_ns = (transfer.delay_ns * 2).min(self.settings.timing.repair_retry_ns_max);
        self.timeouts.set(Timeout::Chunk, due);
        let merges = self.adoption.as_ref().is_some_and(|adoption| adoption.is_merge);
        let term = self.view;
        let message = match merges {
            true => Message::ViewChangeRepair { term, request, wanted },
            false => Message::ViewRepair { term, request, wanted },
        };
        world.send(to, message);
    }

    pub(super) fn on_chunk_timeout(&mut self, world: &mut impl World) {
        let delay_ns_max = self.settings.timing.repair_retry_ns_max;
        let Some(transfer) = &self.transfer else { return };
        if transfer.is_being_kept {
            return;
        }
        if transfer.delay_ns >= delay_ns_max {
            // Whoever began to give it may not have it any more. What asked for it asks again, and
            // gets the newest one.
            mark!("checkpoint-given-up");
            self.transfer = None;
            return;
        }
        mark!("checkpoint-resumed");
        self.ask_for_chunk(world);
    }

    /// Whether a checkpoint is coming in.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.transfer.is_some()
    }

    /// Puts a checkpoint of the leader in the place of what it covers (K4).
    fn install(&mut self, checkpoint: Checkpoint, world: &mut impl World) {
        if checkpoint.index <= self.applied {
            return;
        }
        mark!("checkpoint-installed");
        self.put_checkpoint(checkpoint, world);
        self.prepared = self.prepared.max(checkpoint.index);
        self.stash.drop_up_to(self.base, self.log.last());
        if self.prepare.as_ref().is_some_and(|open| open.point() <= self.prepared) {
            self.prepare = None;
        }
        self.reply_to_prepare_later(world);
        self.ack_later(world);
        self.drain(world);
        self.try_prepare(world);
    }

    /// Replaces the state and the log up to a checkpoint's index.
    pub(super) fn put_checkpoint(&mut self, checkpoint: Checkpoint, world: &mut impl World) {
        let Checkpoint { index, chain, timestamp } = checkpoint;
        world.install(index);
        world.persist(Persist::Checkpoint { index, chain });
        self.durable.checkpoints.push_back((index, self.sync_point));
        self.log.rebase(index, chain, timestamp);
        // Own slots below it may be of a view that came to nothing: nobody shall get them.
        self.first = index.next();
        self.log.forget_no_ops(self.first);
        (self.sync_point, self.applied) = (index, index);
        self.sync_point_written = index;
        self.unwritten_size_bytes = 0;
    }
}

/// Sends a chunk of a checkpoint in `reply`. A transfer begins with the newest there is, whichever
/// was asked for, and goes on with the one that it began with.
fn send_chunk(
    to: MemberId,
    (wanted, number): (Index, u64),
    reply: Message,
    world: &mut impl World,
) {
    let index = if number == 0 { Index(0) } else { wanted };
    world.send_stored(to, Stored::Chunk { reply, index, number });
}

/// A slot as it is sent.
pub(super) fn entry(index: Index, slot: &Slot) -> Entry {
    Entry {
        index,
        message_id: slot.message_id,
        timestamp: if slot.value.is_some() { slot.timestamp } else { Timestamp(0) },
        value: slot.value.clone(),
    }
}
