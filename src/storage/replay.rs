//! From records to partitions: what is stable is handed on at once and forgotten, what isn't is
//! kept, so that recovery holds no more than (sync point, last] of each partition.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::error::{Damage, Place};
use super::ledger::{Ledger, Placed};
use super::record::{Adopted, Entry, PartitionSnapshot, Record, ShardSnapshot};
use super::slot_index::SlotIndex;
use super::state::StateError;
use crate::base::cast::usize_from;
use crate::base::chain::Chain;
use crate::base::ids::{BootEpoch, Index, MessageId, PartitionId, SegmentId, TermId};
use crate::base::limits::ADOPTED_HOLE_COUNT_MAX;
use crate::base::mutant::{self, Mutant};
use crate::base::time::Timestamp;
use crate::mark;

/// Slots that a snapshot may promise to follow; more is no log but a defect.
const SLOT_COUNT_MAX: u64 = 1 << 32;

/// Takes what is stable, in the order of slots of each partition, each slot once.
pub trait Apply {
    /// A checkpoint holds all slots up to `index`: it is to be loaded before the slots after it
    /// come, and replaces what came before.
    fn install(&mut self, partition: PartitionId, index: Index);

    /// The slot after the last one; without a value it is a no-op.
    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        term: TermId,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    );
}

/// A slot that isn't known to be stable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEntry {
    /// The slot.
    pub index: Index,
    /// The term whose sequencer stamped it.
    pub term: TermId,
    /// Its message id in that term.
    pub message_id: MessageId,
    /// The sequencer's time; 0 for a no-op.
    pub timestamp: Timestamp,
    /// The client's bytes; `None`: a no-op.
    pub value: Option<Bytes>,
}

/// A partition as its log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// Where it stands.
    pub state: PartitionSnapshot,
    /// The log's digest at its last slot; `None`: the log doesn't reach back far enough to say.
    pub chain: Option<Chain>,
    /// Slots (sync point, last], without a hole.
    pub log: Vec<LoggedEntry>,
}

/// The partitions of a shard while its records come in.
#[derive(Debug)]
pub(super) struct Replay<'a, A> {
    state: ShardSnapshot,
    partitions: Vec<PartitionReplay>,
    ledger: Ledger,
    slots: Option<SlotIndex>,
    /// All segments of the present boot are replayed: what it staged is known.
    boot_is_whole: bool,
    /// Something is missing since the last snapshot: the first of it.
    hole: Option<(Place, Damage)>,
    /// The first of all.
    first_hole: Option<(Place, Damage)>,
    apply: &'a mut A,
    closed: bool,
    record_count: u64,
}

/// What a log says once all of it was replayed.
#[derive(Debug)]
pub(super) struct Replayed {
    /// Where everything stands.
    pub(super) state: ShardSnapshot,
    /// Each partition, and what of it isn't stable.
    pub(super) partitions: Vec<RecoveredPartition>,
    /// Which partition needs which segment.
    pub(super) ledger: Ledger,
    /// Where the slots lie, if they are kept for peers.
    pub(super) slots: Option<SlotIndex>,
    /// The partitions of which something is missing, by their positions.
    pub(super) suspects: Vec<(usize, Place, Damage)>,
    /// Whether the last boot was closed.
    pub(super) closed: bool,
    /// How many records said so.
    pub(super) record_count: u64,
}

#[derive(Debug)]
struct PartitionReplay {
    partition: PartitionId,
    /// The checkpoint with which it began: what becomes of slots up to here doesn't matter.
    covered: Index,
    /// The last slot handed on.
    applied: Index,
    /// The digest there.
    chain: Option<Chain>,
    /// The slots after it; `None` until it is carried over.
    log: VecDeque<Option<LoggedEntry>>,
    /// The view being adopted, and its slots so far.
    adopting: TermId,
    staged: BTreeMap<Index, LoggedEntry>,
    /// The segment from which on its records count, while it hasn't come.
    begins: Option<SegmentId>,
    /// A record of it is missing since the last snapshot; those after it are left out.
    is_unsure: bool,
    /// Because of what is missing it isn't known what the present boot has staged.
    lost_staged: Option<(Place, Damage)>,
    /// What is missing of it.
    suspect: Option<(Place, Damage)>,
}

impl<'a, A: Apply> Replay<'a, A> {
    /// Begins where the oldest segment does; `newest` is the last snapshot, whose checkpoints are
    /// the ones to load. `serves_peers`: whether it is noted where slots lie.
    pub(super) fn begin(
        oldest: ShardSnapshot,
        (newest, serves_peers): (&ShardSnapshot, bool),
        apply: &'a mut A,
    ) -> Result<Self, Damage> {
        let mut partitions = Vec::with_capacity(oldest.partitions.len());
        for state in &oldest.partitions {
            let known = newest.partition(state.partition).unwrap_or(state);
            partitions.push(PartitionReplay::begin(state, known, apply)?);
        }
        let ledger = Ledger::new(partitions.len());
        let slots = serves_peers.then(|| SlotIndex::new(partitions.len()));
        let (boot_is_whole, closed) = (false, false);
        let (hole, first_hole, record_count, state) = (None, None, 0, oldest);
        Ok(Self {
            state,
            partitions,
            ledger,
            slots,
            boot_is_whole,
            hole,
            first_hole,
            apply,
            closed,
            record_count,
        })
    }

    /// A segment after the oldest begins, and `before` has ended: the snapshot must say what the
    /// records before it do.
    pub(super) fn on_snapshot(
        &mut self,
        before: SegmentId,
        snapshot: &ShardSnapshot,
    ) -> Result<(), Damage> {
        self.ledger.close(before);
        if self.state.partitions.len() != snapshot.partitions.len() {
            return Err(Damage::Partitions);
        }
        for (position, said) in snapshot.partitions.iter().enumerate() {
            self.compare(position, said)?;
        }
        self.hole = None;
        self.begin_boot(snapshot.boot_epoch);
        self.state.acts_early = snapshot.acts_early;
        for (folded, said) in self.state.partitions.iter_mut().zip(&snapshot.partitions) {
            folded.first = said.first;
        }
        self.closed = false;
        Ok(())
    }

    /// A snapshot says where a partition stands: as the records before it do, unless some are
    /// missing. That doesn't matter if its checkpoint covers all slots that there were; otherwise
    /// the partition is suspect from here on, and the snapshot is what is known of it.
    fn compare(&mut self, position: usize, said: &PartitionSnapshot) -> Result<(), Damage> {
        let folded = &mut self.state.partitions[position];
        let replay = &mut self.partitions[position];
        if replay.begins.is_some_and(|begins| begins != said.begins) {
            return Ok(());
        }
        let refuse = |error| Damage::State(Some(said.partition), error);
        if replay.begins.take().is_some() {
            replay.check_reach(said).map_err(refuse)?;
            let unknown_count = said.last.since(replay.applied);
            replay.log = (0..unknown_count).map(|_| None).collect();
        } else if !std::mem::take(&mut replay.is_unsure) && folded.agrees_with(said) {
            return Ok(());
        } else if replay.suspect.is_none() {
            let Some(hole) = self.hole else { return Err(refuse(StateError::Snapshot)) };
            replay.log.clear();
            replay.staged.clear();
            replay.lost_staged = Some(hole);
            if replay.covered < said.last {
                replay.suspect = Some(hole);
            }
        }
        if let Some(slots) = &mut self.slots {
            slots.forget(position, said.last);
        }
        folded.clone_from(said);
        Ok(())
    }

    /// Something is missing before the next record that comes: partitions of which a record is
    /// missing are found out by the next snapshot.
    pub(super) fn on_hole(&mut self, place: Place, damage: Damage) {
        self.hole.get_or_insert((place, damage));
        self.first_hole.get_or_insert((place, damage));
    }

    /// A segment begins, but its snapshot is missing. `boot`: who wrote it.
    pub(super) fn on_lost_snapshot(&mut self, before: SegmentId, boot: BootEpoch) {
        self.ledger.close(before);
        self.begin_boot(boot);
    }

    fn begin_boot(&mut self, boot: BootEpoch) {
        if boot == self.state.boot_epoch {
            return;
        }
        self.state.boot_epoch = boot;
        self.ledger.on_boot();
        if let Some(slots) = &mut self.slots {
            slots.on_boot();
        }
        self.boot_is_whole = false;
        for partition in &mut self.partitions {
            // What was staged by a process that is gone is never adopted.
            partition.staged.clear();
            partition.lost_staged = None;
        }
    }

    /// What follows from a record that doesn't fit those before it.
    fn mistrust(&mut self, position: usize, error: Damage) -> Result<(), Damage> {
        mark!("replay-mistrust");
        let replay = &mut self.partitions[position];
        match (self.hole, replay.lost_staged) {
            (Some(_), _) => replay.is_unsure = true,
            (None, Some(hole)) => replay.suspect = Some(hole),
            (None, None) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn on_record(&mut self, record: &Record<'_>, placed: &Placed) -> Result<(), Damage> {
        self.record_count += 1;
        self.closed = matches!(record, Record::CloseBoot { .. });
        let Some(partition) = record.partition() else { return self.on_boot(record) };
        let refuse = |error| Damage::State(Some(partition), error);
        let unknown = || refuse(StateError::UnknownPartition);
        let position = self.state.position(partition).ok_or_else(unknown)?;
        let replay = &self.partitions[position];
        if replay.begins.is_some() || replay.is_unsure || replay.suspect.is_some() {
            return Ok(());
        }
        let last = self.state.partitions[position].last;
        if let Err(error) = self.state.fold(record) {
            return self.mistrust(position, refuse(error));
        }
        let adopts = matches!(record, Record::Adopt { .. } | Record::Install { .. });
        if adopts && let Some(hole) = replay.lost_staged {
            self.partitions[position].suspect = Some(hole);
            return Ok(());
        }
        self.ledger.on_record(position, last, record, placed);
        if let Some(slots) = &mut self.slots {
            slots.on_record(position, record, placed);
        }
        match self.replay(position, record) {
            Ok(()) => Ok(()),
            Err(error) => self.mistrust(position, refuse(error)),
        }
    }

    fn replay(&mut self, position: usize, record: &Record<'_>) -> Result<(), StateError> {
        let state = &self.state.partitions[position];
        let replay = &mut self.partitions[position];
        match record {
            Record::Entry(entry) => replay.write(LoggedEntry::of(entry)),
            Record::NoOp { index, term, message_id, .. } => {
                replay.write(LoggedEntry::no_op(*index, *term, *message_id));
            }
            Record::Stage { adopting, entry } => {
                mark!("replay-stage");
                if mutant::is(Mutant::StagedWithoutAdoption) {
                    replay.carry(LoggedEntry::of(entry));
                }
                replay.stage(*adopting, LoggedEntry::of(entry));
            }
            Record::Adopt { term, base, kept, chain, .. } => {
                mark!("replay-adopt");
                let adopted = Adopted { term: *term, base: *base, chain: *chain };
                replay.adopt(&adopted, *kept, self.boot_is_whole)?;
            }
            Record::SyncPoint { .. } | Record::CheckpointDone { .. } => {
                replay.advance(state.sync_point, self.apply);
            }
            Record::Install { index, kept, adopted, .. } => {
                mark!("replay-install");
                replay.install(*index, *kept, self.apply);
                if let Some(adopted) = adopted {
                    let kept = (*kept).min(adopted.base);
                    replay.adopt(adopted, kept.max(*index), self.boot_is_whole)?;
                }
                replay.advance(state.sync_point, self.apply);
            }
            Record::Carry(entry) => {
                mark!("replay-carry");
                replay.carry(LoggedEntry::of(entry));
                replay.advance(state.sync_point, self.apply);
            }
            Record::View { .. } | Record::CrashVector { .. } => {}
            Record::OpenBoot { .. } | Record::CloseBoot { .. } | Record::Snapshot(_) => {
                unreachable!("these are about no partition")
            }
        }
        Ok(())
    }

    /// Nothing follows; `last` was the last segment.
    pub(super) fn finish(mut self, last: SegmentId) -> Result<Replayed, Damage> {
        self.ledger.close(last);
        let mut suspects = Vec::new();
        let mut partitions = Vec::with_capacity(self.partitions.len());
        for (position, replay) in self.partitions.into_iter().enumerate() {
            let state = &self.state.partitions[position];
            let suspect = replay.suspect;
            let empty = || RecoveredPartition { state: state.clone(), chain: None, log: vec![] };
            let finished = match suspect {
                Some(_) => Ok(empty()),
                None => replay.finish(state),
            };
            match (finished, suspect.or(self.first_hole)) {
                (Ok(partition), _) => {
                    suspects.extend(suspect.map(|(place, damage)| (position, place, damage)));
                    partitions.push(partition);
                }
                (Err(_), Some((place, damage))) => {
                    suspects.push((position, place, damage));
                    partitions.push(empty());
                }
                (Err(error), None) => return Err(Damage::State(Some(state.partition), error)),
            }
        }
        let Self { state, ledger, slots, closed, record_count, .. } = self;
        Ok(Replayed { state, partitions, ledger, slots, suspects, closed, record_count })
    }

    fn on_boot(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        let said: Option<BootEpoch> = match record {
            Record::OpenBoot { boot_epoch, .. } | Record::CloseBoot { boot_epoch } => {
                Some(*boot_epoch)
            }
            _ => None,
        };
        self.boot_is_whole |= matches!(record, Record::OpenBoot { .. });
        if said == Some(self.state.boot_epoch) { Ok(()) } else { Err(Damage::Snapshot) }
    }
}

impl PartitionReplay {
    /// Begins with where the partition stood when the oldest segment began; `known` is what the
    /// newest snapshot says.
    fn begin(
        state: &PartitionSnapshot,
        known: &PartitionSnapshot,
        apply: &mut impl Apply,
    ) -> Result<Self, Damage> {
        let checkpoint = known.checkpoint;
        let mut replay = Self {
            partition: state.partition,
            covered: checkpoint,
            applied: checkpoint,
            chain: (checkpoint == Index(0)).then_some(Chain::NONE),
            log: VecDeque::new(),
            adopting: TermId(0),
            staged: BTreeMap::new(),
            begins: (state.begins != known.begins).then_some(known.begins),
            is_unsure: false,
            lost_staged: None,
            suspect: None,
        };
        if replay.begins.is_none() {
            let refuse = |error| Damage::State(Some(state.partition), error);
            replay.check_reach(state).map_err(refuse)?;
            replay.log = (0..state.last.since(checkpoint)).map(|_| None).collect();
        }
        if checkpoint > Index(0) {
            apply.install(state.partition, checkpoint);
        }
        Ok(replay)
    }

    /// The log goes on where the checkpoint ends.
    fn check_reach(&self, state: &PartitionSnapshot) -> Result<(), StateError> {
        let checkpoint = self.applied;
        if state.first > checkpoint.next() || state.last.since(checkpoint) > SLOT_COUNT_MAX {
            return Err(StateError::Hole { last: checkpoint, found: state.first });
        }
        Ok(())
    }

    /// Where a slot lies in `log`; `None`: it was handed on or is in the checkpoint.
    fn position(&self, index: Index) -> Option<usize> {
        let distance = index.0.checked_sub(self.applied.0 + 1)?;
        Some(usize_from(distance))
    }

    /// A slot is appended or, being unstable, replaced: the later record wins (W5).
    fn write(&mut self, entry: LoggedEntry) {
        let Some(position) = self.position(entry.index) else { return };
        match self.log.get_mut(position) {
            Some(slot) => *slot = Some(entry),
            None => {
                assert_eq!(position, self.log.len(), "folding found no hole");
                self.log.push_back(Some(entry));
            }
        }
    }

    fn carry(&mut self, entry: LoggedEntry) {
        if let Some(slot) = self.position(entry.index).and_then(|at| self.log.get_mut(at)) {
            *slot = Some(entry);
        }
    }

    fn stage(&mut self, adopting: TermId, entry: LoggedEntry) {
        if adopting != self.adopting {
            self.staged.clear();
            self.adopting = adopting;
        }
        self.staged.insert(entry.index, entry);
    }

    /// A view is adopted (W2): own slots up to `kept` stay but for staged ones, those above are
    /// dropped. What was staged in a segment that is gone was carried over, and comes later;
    /// `is_whole`: there is no such segment.
    fn adopt(&mut self, adopted: &Adopted, kept: Index, is_whole: bool) -> Result<(), StateError> {
        let Adopted { term, base, chain } = *adopted;
        let mut staged = std::mem::take(&mut self.staged);
        if self.adopting != term {
            staged.clear();
        }
        self.log.truncate(usize_from(kept.since(self.applied)));
        for (index, entry) in staged {
            if index > base {
                return Err(StateError::Adopt { base, kept });
            }
            if index <= self.applied {
                // A checkpoint that was taken later covers it.
                continue;
            }
            self.expect_carried(index.previous(), is_whole)?;
            self.write(entry);
        }
        self.expect_carried(base, is_whole)?;
        match self.chain_at(base) {
            Some(own) if own != Chain(chain) && chain != Chain::NONE.0 => {
                Err(StateError::Chain { index: base })
            }
            _ => Ok(()),
        }
    }

    /// Slots up to `index` that aren't known yet will come as carried ones.
    fn expect_carried(&mut self, index: Index, is_whole: bool) -> Result<(), StateError> {
        let count = index.since(self.last());
        if count > 0 && (is_whole || count > ADOPTED_HOLE_COUNT_MAX) {
            return Err(StateError::Unstaged { index: self.last().next() });
        }
        self.log.extend((0..count).map(|_| None));
        Ok(())
    }

    fn last(&self) -> Index {
        self.applied.plus(crate::base::cast::u64_from(self.log.len()))
    }

    /// The digest at a slot that isn't before what was handed on, if all slots to it are known.
    fn chain_at(&self, index: Index) -> Option<Chain> {
        let count = index.0.checked_sub(self.applied.0)?;
        self.log
            .iter()
            .take(usize_from(count))
            .try_fold(self.chain?, |chain, entry| entry.as_ref().map(|entry| entry.extend(chain)))
    }

    /// A checkpoint of a peer takes the place of all slots up to it; own ones above `kept` are
    /// dropped.
    fn install(&mut self, checkpoint: Index, kept: Index, apply: &mut impl Apply) {
        self.log.truncate(usize_from(kept.since(self.applied)));
        if checkpoint <= self.applied {
            // A later one was loaded already.
            return;
        }
        let covered = usize_from(checkpoint.since(self.applied)).min(self.log.len());
        self.log.drain(..covered);
        self.applied = checkpoint;
        self.chain = None;
        apply.install(self.partition, checkpoint);
    }

    /// Hands on what is stable and known.
    fn advance(&mut self, sync_point: Index, apply: &mut impl Apply) {
        while self.applied < sync_point
            && let Some(Some(_)) = self.log.front()
            && let Some(Some(entry)) = self.log.pop_front()
        {
            assert_eq!(entry.index, self.applied.next(), "slots are handed on in order");
            self.applied = entry.index;
            self.chain = self.chain.map(|chain| entry.extend(chain));
            let LoggedEntry { index, term, message_id, timestamp, ref value } = entry;
            apply.apply(self.partition, index, term, message_id, timestamp, value.as_deref());
        }
    }

    fn finish(self, state: &PartitionSnapshot) -> Result<RecoveredPartition, StateError> {
        let chain = self.chain_at(self.last());
        let hole = StateError::Hole { last: self.applied, found: state.last };
        if self.applied < state.sync_point || self.last() != state.last {
            return Err(hole);
        }
        let log = self.log.into_iter().collect::<Option<Vec<_>>>().ok_or(hole)?;
        Ok(RecoveredPartition { state: state.clone(), chain, log })
    }
}

impl LoggedEntry {
    /// A slot without a value.
    pub(super) const fn no_op(index: Index, term: TermId, message_id: MessageId) -> Self {
        Self { index, term, message_id, timestamp: Timestamp(0), value: None }
    }

    /// A slot as a record has it.
    pub(super) fn of(entry: &Entry<'_>) -> Self {
        let value = (!entry.value.is_empty()).then(|| Bytes::copy_from_slice(entry.value));
        Self {
            index: entry.index,
            term: entry.term,
            message_id: entry.message_id,
            timestamp: if value.is_some() { entry.timestamp } else { Timestamp(0) },
            value,
        }
    }

    /// The slot as a record has it.
    #[must_use]
    pub fn as_entry(&self, partition: PartitionId) -> Entry<'_> {
        let Self { index, term, message_id, timestamp, ref value } = *self;
        let value = value.as_deref().unwrap_or_default();
        Entry { partition, index, term, message_id, timestamp, value }
    }

    fn extend(&self, chain: Chain) -> Chain {
        chain.extended(self.index, self.message_id, self.timestamp, self.value.as_deref())
    }
}
