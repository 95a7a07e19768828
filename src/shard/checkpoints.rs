//! Checkpoints of the shard's partitions: which is due, and its way from the map to a file, a
//! bounded piece of work in each turn.
//!
//! ```text
//! due -> walking the map, chunk by chunk to the file -> whole -> durable -> stable -> recorded
//! ```
//!
//! A checkpoint is of what the replica has executed when it begins. It is recorded in the log, and
//! counts from then on, when its file is durable *and* its last slot is stable: until then its
//! slots may be undone, and if they are it is void. The log lets go of what lies below it, and says
//! when the one before it isn't needed any more. The host's writer sets the pace: two chunks are in
//! its hands at most, and the walk goes on when one comes back.

use std::collections::{BTreeSet, VecDeque};

use super::partition::Partition;
use super::{Effects, Shard};
use crate::base::cast::u64_from;
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{
    CHECKPOINT_CHUNK_SIZE_BYTES, CHECKPOINT_RETRY_NS, CHECKPOINT_SLICE_COUNT,
    CHECKPOINT_SLICE_INTERVAL_NS, CHECKPOINT_SLICE_SIZE_BYTES,
};
use crate::base::time::Monotonic;
use crate::map::checkpoint::{Progress, SliceBudget};
use crate::nopaxos::Status;
use crate::storage::block::Block;
use crate::storage::checkpoint::{
    CheckpointEncoder, CheckpointHead, CheckpointId, CheckpointProgress, CheckpointStep,
};
use crate::storage::record::Record;
use crate::storage::wal::Durability;

/// Chunks in the hands of the host's writer: one is written, one waits.
const CHUNKS_IN_FLIGHT_MAX: usize = 2;

/// The checkpoints of a shard.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Partitions whose checkpoint is due, each once.
    due: VecDeque<PartitionId>,
    under_way: Option<UnderWay>,
    /// Files that no recovery needs, once what this boot has written is durable.
    stale: Vec<CheckpointId>,
    /// Files that a later one has replaced, of a log that is never written: it can't say so.
    replaced: Vec<CheckpointId>,
    /// Partitions whose newest file isn't what was written: each is to be written anew, even if
    /// nothing has been executed since.
    damaged: BTreeSet<PartitionId>,
    /// Nothing is begun before: a file could not be written.
    rests_until: Option<Monotonic>,
    /// When the map was walked last: slices keep their distance, so that a turn of many passes
    /// doesn't hold many of them.
    walked_at: Monotonic,
    /// The state of the log's books for which it was asked who keeps a segment that it wants back:
    /// whoever that is has its checkpoint due, or under way.
    pin_asked_at: Option<u64>,
    /// Who had nothing to write, or can't now.
    declined: Vec<PartitionId>,
    /// The state of the log's books that members were told of last.
    truncated_at: u64,
    /// Memory of chunks that were written.
    spare: Vec<Vec<Block>>,
}

#[derive(Debug)]
struct UnderWay {
    encoder: CheckpointEncoder,
    digest: [u8; 16],
    stage: Stage,
    chunks_in_flight: usize,
    /// Slots that it covers were undone.
    is_void: bool,
    begun_at: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The map is being walked.
    Walking,
    /// All of it was seen; chunks are being written.
    Writing,
    /// The file is being made durable.
    Finishing,
    /// It is; what it covers may not be stable yet.
    Durable,
}

impl Checkpoints {
    /// The checkpoints of a shard that has just been recovered. `stale`: files that are of no use.
    pub(super) fn new(stale: Vec<CheckpointId>) -> Self {
        Self { stale, ..Self::default() }
    }

    /// Slots after `index` are undone.
    pub(super) fn on_undo(&mut self, partition: PartitionId, index: Index) {
        if let Some(under_way) = &mut self.under_way {
            let CheckpointId { partition: other, index: covered } = under_way.encoder.id();
            under_way.is_void |= partition == other && index < covered;
        }
    }

    /// The state of a partition is another one from here on.
    pub(super) fn on_replaced(&mut self, partition: PartitionId) {
        if let Some(under_way) = &mut self.under_way {
            under_way.is_void |= under_way.encoder.id().partition == partition;
        }
    }

    /// A checkpoint is recorded in the place of an earlier one (0: there was none). One of the same
    /// slot has taken its file's place already.
    pub(super) fn on_recorded(
        &mut self,
        CheckpointId { partition, index }: CheckpointId,
        former: Index,
        durability: Durability,
    ) {
        self.damaged.remove(&partition);
        if durability == Durability::None && former > Index(0) && former != index {
            self.replaced.push(CheckpointId { partition, index: former });
        }
    }

    /// The newest file of a partition can't be relied on.
    pub(super) fn on_damage(&mut self, partition: PartitionId) {
        self.damaged.insert(partition);
    }

    /// A partition has changed: one that could not take a checkpoint may be able to now.
    #[inline]
    pub(super) fn on_change(&mut self) {
        if !self.declined.is_empty() {
            self.pin_asked_at = None;
        }
    }

    /// A file is begun: it takes the place of one of that name which no recovery needed, and is not
    /// to be removed as that one.
    pub(super) fn on_begun(&mut self, id: CheckpointId) {
        self.stale.retain(|stale| *stale != id);
    }

    /// When to go on though nothing happened.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        match &self.under_way {
            Some(under_way) if under_way.may_walk() => Some(self.next_walk_at()),
            Some(_) => None,
            None if self.due.is_empty() => None,
            None => Some(self.rests_until.unwrap_or_default()),
        }
    }

    fn next_walk_at(&self) -> Monotonic {
        self.walked_at.after_ns(CHECKPOINT_SLICE_INTERVAL_NS)
    }

    /// The checkpoint that is being taken.
    pub(super) fn id_under_way(&self) -> Option<CheckpointId> {
        self.under_way.as_ref().map(|under_way| under_way.encoder.id())
    }
}

impl UnderWay {
    /// Whether the walk may add another slice: what waits for the writer is bounded.
    fn may_walk(&self) -> bool {
        self.stage == Stage::Walking
            && (self.chunks_in_flight < CHUNKS_IN_FLIGHT_MAX || !self.encoder.has_chunk())
    }
}

impl Shard {
    /// The writer of checkpoints has got on.
    pub(super) fn on_checkpoint(&mut self, progress: CheckpointProgress) {
        if self.core.exchange.is_receiving() && self.on_receiving(&progress) {
            return;
        }
        let now = self.core.now.monotonic;
        let checkpoints = &mut self.core.checkpoints;
        let under_way = checkpoints.under_way.as_mut();
        match progress {
            CheckpointProgress::Written(blocks) => {
                checkpoints.spare.push(blocks);
                if let Some(under_way) = under_way {
                    // A chunk of one that was given up may come back while the next is written:
                    // the count is of what the writer holds, whosever it is.
                    under_way.chunks_in_flight = under_way.chunks_in_flight.saturating_sub(1);
                }
            }
            CheckpointProgress::Read(found) => {
                if let Some(partition) = self.core.serving.on_read(&found) {
                    self.core.on_checkpoint_damage(partition);
                }
            }
            CheckpointProgress::Finished(id) => {
                // One that was given up while it was made durable may have been begun anew.
                let is_it = |found: &&mut UnderWay| {
                    found.encoder.id() == id && found.stage == Stage::Finishing
                };
                if let Some(under_way) = under_way.filter(is_it) {
                    under_way.stage = Stage::Durable;
                    let duration_ns = now.since_ns(under_way.begun_at);
                    self.core.checkpoint_metrics.checkpoint_last_ns = duration_ns;
                }
            }
            CheckpointProgress::Failed(id) => {
                if under_way.is_some_and(|found| found.encoder.id() == id) {
                    self.core.checkpoint_metrics.checkpoint_failures_count += 1;
                    self.core.checkpoints.rests_until = Some(now.after_ns(CHECKPOINT_RETRY_NS));
                    // Until one succeeds the partition must not keep old segments.
                    self.core.log.carry_whole(id.partition, true);
                    self.give_checkpoint_up();
                }
            }
        }
    }

    /// Notes that a partition has logged enough to be worth a checkpoint.
    pub(super) fn consider_checkpoint(&mut self, partition: PartitionId) {
        let place = self.place(partition);
        let logged_size_bytes = match self.core.config.durability {
            // What no log holds is in memory.
            Durability::None => {
                let log = self.partitions[place].member.replica().log();
                u64_from(log.kept_size_bytes())
            }
            _ => self.core.log.size_bytes_since_checkpoint(partition),
        };
        let last_size_bytes = self.partitions[place].view.checkpoint_size_bytes;
        let interval = self.core.config.checkpoint_interval_size_bytes;
        if logged_size_bytes >= interval.max(last_size_bytes) {
            self.require_checkpoint(partition);
        }
    }

    /// Goes on with what is under way, or begins what is due: a bounded piece of work.
    pub(super) fn checkpoint(&mut self, effects: &mut impl Effects) {
        // Without a log checkpoints are for members that have to copy what no log holds.
        let is_wanted =
            self.core.config.durability != Durability::None || self.core.config.is_replicated();
        if !is_wanted || self.core.closing {
            return;
        }
        self.remove_superseded(effects);
        self.tell_truncated();
        self.require_checkpoints();
        if self.core.checkpoints.under_way.as_ref().is_some_and(|under_way| under_way.is_void) {
            self.give_checkpoint_up();
        }
        if self.core.exchange.is_receiving() {
            // The writer has one file in hand.
            self.give_checkpoint_up();
            return;
        }
        if self.core.checkpoints.under_way.is_none() {
            self.begin_checkpoint(effects);
        }
        self.walk();
        self.write_checkpoint(effects);
        self.record_checkpoint();
    }

    /// Once some of the log was let go, its members are told from where on it is still there: what
    /// they say of it, votes above all, must be what they can give (W6, K3).
    fn tell_truncated(&mut self) {
        let changes = self.core.log.changes_count();
        if self.core.checkpoints.truncated_at == changes {
            return;
        }
        self.core.checkpoints.truncated_at = changes;
        for Partition { member, view } in &mut self.partitions {
            if let Some(first) = self.core.log.first_slot(view.group.partition()) {
                member.on_truncated(first);
            }
        }
    }

    /// Lets those take checkpoints who keep segments that the log wants back, and those whose
    /// segments are damaged: what is in memory makes good for them.
    fn require_checkpoints(&mut self) {
        let changes = self.core.log.changes_count();
        if self.core.checkpoints.pin_asked_at != Some(changes) {
            self.core.checkpoints.pin_asked_at = Some(changes);
            self.ask_declined();
            if let Some(pinned) = self.core.log.pinned() {
                self.require_checkpoint(pinned.partition);
            }
            // Those that were damaged when the process started: whoever isn't part of a view now
            // is asked again.
            for segment in self.core.log.damaged_segments().to_vec() {
                for partition in self.core.log.partitions_up_to(segment) {
                    self.require_checkpoint(partition);
                }
            }
        }
        while let Some(partition) = self.core.checkpoints_wanted.pop_front() {
            self.require_checkpoint(partition);
        }
    }

    /// Those that could not take a checkpoint, and can now, keep segments no less than others do.
    fn ask_declined(&mut self) {
        let mut declined = std::mem::take(&mut self.core.checkpoints.declined);
        declined.retain(|&partition| {
            let place = self.place(partition);
            let is_able = self.checkpointable(place).is_some();
            if is_able {
                self.core.log.carry_whole(partition, false);
            }
            !is_able
        });
        self.core.checkpoints.declined = declined;
    }

    /// Up to which slot a partition can take a checkpoint now that lets anything go.
    fn checkpointable(&self, place: usize) -> Option<Index> {
        let Partition { member, view } = &self.partitions[place];
        let (partition, replica) = (view.group.partition(), member.replica());
        let index = replica.applied();
        let recorded = self.core.log.state().partition(partition).map(|state| state.checkpoint);
        let is_new = recorded.is_none_or(|recorded| index > recorded)
            || self.core.checkpoints.damaged.contains(&partition);
        // Between two views what isn't stable may yet be undone. What is stable needs no view (K3
        // asks for one): a log that is full of it would have no room for the view that comes.
        let may_last = replica.status() == Status::Normal || index <= replica.sync_point();
        (may_last && index > Index(0) && is_new).then_some(index)
    }

    /// Puts a partition into the queue unless it is there already, or on its way.
    fn require_checkpoint(&mut self, partition: PartitionId) {
        let place = self.place(partition);
        let id = self.core.checkpoints.id_under_way();
        let due = &mut self.partitions[place].view.checkpoint_due;
        if !*due && id.is_none_or(|id| id.partition != partition) {
            *due = true;
            self.core.checkpoints.due.push_back(partition);
        }
    }

    fn remove_superseded(&mut self, effects: &mut impl Effects) {
        let now = self.core.now.monotonic;
        while let Some((partition, index)) = self.core.log.superseded_checkpoint() {
            let id = CheckpointId { partition, index };
            if self.core.serving.on_superseded(now, id) {
                effects.checkpoint(CheckpointStep::Remove(id));
            }
        }
        while let Some(id) = self.core.checkpoints.replaced.pop() {
            if self.core.serving.on_superseded(now, id) {
                effects.checkpoint(CheckpointStep::Remove(id));
            }
        }
        while let Some(id) = self.core.serving.released(now) {
            effects.checkpoint(CheckpointStep::Remove(id));
        }
        if let Some(read) = self.core.serving.wants() {
            effects.checkpoint(CheckpointStep::Read(read));
        }
        // The first record of a boot comes after a snapshot that names what this boot needs.
        if self.core.log.durable().0 > 0 {
            for id in self.core.checkpoints.stale.drain(..) {
                effects.checkpoint(CheckpointStep::Remove(id));
            }
        }
    }

    fn begin_checkpoint(&mut self, effects: &mut impl Effects) {
        let now = self.core.now.monotonic;
        if self.core.checkpoints.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(partition) = self.core.checkpoints.due.pop_front() else { return };
        let place = self.place(partition);
        if self.partitions[place].view.map.has_released_checkpoint() {
            // What is left of the last one is freed little by little: its turn comes again.
            self.core.checkpoints.due.push_back(partition);
            self.sweep_later(place);
            return;
        }
        self.core.checkpoints.rests_until = None;
        self.partitions[place].view.checkpoint_due = false;
        let Some(index) = self.checkpointable(place) else {
            // What is recorded lets nothing go by being recorded again: slots after it keep the
            // segments, and become stable when the group has a quorum, for which this member may
            // need room. So they are carried over. Once any partition has changed it is asked again
            // who keeps what the log wants back: to ask at once would be to ask for ever.
            if !self.core.checkpoints.declined.contains(&partition) {
                self.core.checkpoints.declined.push(partition);
            }
            self.core.log.carry_whole(partition, true);
            return;
        };
        let Partition { member, view } = &mut self.partitions[place];
        let replica = member.replica();
        let (chain, timestamp) = replica.log().at(index).expect("what is executed is in the log");
        let digest = view.map.digest().0.to_le_bytes();
        let id = CheckpointId { partition, index };
        let head = CheckpointHead { id, timestamp, chain, digest };
        view.map.begin_checkpoint(&mut self.core.arena);
        effects.checkpoint(CheckpointStep::Begin(id));
        self.core.checkpoints.on_begun(id);
        self.core.checkpoints.under_way = Some(UnderWay {
            encoder: CheckpointEncoder::new(self.core.config.checkpoint_salt, &head),
            digest,
            stage: Stage::Walking,
            chunks_in_flight: 0,
            is_void: false,
            begun_at: now,
        });
    }

    /// Adds a slice of the map, if there is room for it.
    fn walk(&mut self) {
        let now = self.core.now.monotonic;
        let Some(id) = self.core.checkpoints.id_under_way() else { return };
        let place = self.place(id.partition);
        let is_early = now < self.core.checkpoints.next_walk_at();
        let Some(under_way) = &mut self.core.checkpoints.under_way else { return };
        if is_early || !under_way.may_walk() {
            return;
        }
        self.core.checkpoints.walked_at = now;
        let budget = SliceBudget {
            record_count: CHECKPOINT_SLICE_COUNT,
            size_bytes: CHECKPOINT_SLICE_SIZE_BYTES,
        };
        let map = &mut self.partitions[place].view.map;
        let body = under_way.encoder.body();
        if let Progress::Done = map.checkpoint_slice(&mut self.core.arena, budget, body) {
            under_way.encoder.end();
            under_way.stage = Stage::Writing;
        }
    }

    /// Hands out the chunks that are ready, and in the end the file.
    fn write_checkpoint(&mut self, effects: &mut impl Effects) {
        let Checkpoints { under_way, spare, .. } = &mut self.core.checkpoints;
        let Some(under_way) = under_way else { return };
        while under_way.chunks_in_flight < CHUNKS_IN_FLIGHT_MAX {
            let blocks = spare.pop().unwrap_or_default();
            let Some(chunk) = under_way.encoder.next_chunk(blocks) else { break };
            under_way.chunks_in_flight += 1;
            effects.checkpoint(CheckpointStep::Write(chunk));
        }
        let is_written = under_way.encoder.is_complete() && under_way.chunks_in_flight == 0;
        if under_way.stage == Stage::Writing && is_written {
            under_way.stage = Stage::Finishing;
            effects.checkpoint(CheckpointStep::Finish);
        }
    }

    /// Lets a durable checkpoint count once what it covers is stable.
    fn record_checkpoint(&mut self) {
        let Some(under_way) = &self.core.checkpoints.under_way else { return };
        let CheckpointId { partition, index } = under_way.encoder.id();
        let place = self.place(partition);
        let Partition { member, view } = &mut self.partitions[place];
        let replica = member.replica();
        if under_way.stage != Stage::Durable || replica.sync_point() < index {
            return;
        }
        let size_bytes = under_way.encoder.size_bytes();
        let digest = under_way.digest;
        view.checkpoint_size_bytes = size_bytes;
        self.core.log.carry_whole(partition, false);
        let former = self.core.log.state().partition(partition).map(|state| state.checkpoint);
        let durability = self.core.config.durability;
        let id = CheckpointId { partition, index };
        self.core.checkpoints.on_recorded(id, former.unwrap_or_default(), durability);
        self.core.log.append(&Record::CheckpointDone { partition, index, size_bytes, digest });
        if !std::mem::replace(&mut view.changed, true) {
            self.core.changed.push_back(partition);
        }
        if durability == Durability::None && !view.group.is_alone() {
            member.keep_after(index);
        }
        self.core.checkpoint_metrics.checkpoints_count += 1;
        self.core.checkpoint_metrics.checkpoint_size_bytes += size_bytes;
        self.core.checkpoints.under_way = None;
        // Memory for one chunk and the next is enough, and none is needed for long.
        self.core.checkpoints.spare.clear();
    }

    /// Ends what is under way; its partition comes again.
    pub(super) fn give_checkpoint_up(&mut self) {
        let Some(under_way) = self.core.checkpoints.under_way.take() else { return };
        let partition = under_way.encoder.id().partition;
        let place = self.place(partition);
        let view = &mut self.partitions[place].view;
        // A map that was put in the place of the one that was walked knows nothing of it.
        if under_way.stage == Stage::Walking && view.map.checkpoint_index().is_some() {
            view.map.abort_checkpoint(&mut self.core.arena);
            // What was kept for it is freed little by little.
            self.sweep_later(place);
        }
        self.require_checkpoint(partition);
    }

    /// Frees what a partition's map doesn't need any more, though nobody writes to it.
    fn sweep_later(&mut self, place: usize) {
        let view = &mut self.partitions[place].view;
        if !std::mem::replace(&mut view.sweeping, true) {
            self.core.sweeping.push_back(view.group.partition());
        }
    }
}

const _: () = assert!(CHECKPOINT_SLICE_SIZE_BYTES < CHECKPOINT_CHUNK_SIZE_BYTES);
