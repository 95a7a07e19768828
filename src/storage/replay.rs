//! From records to partitions: what is stable is handed on at once and forgotten, what isn't is
//! kept, so that recovery holds no more than (sync point, last] of each partition.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::error::Damage;
use super::ledger::{Ledger, Placed};
use super::record::{Entry, PartitionSnapshot, Record, ShardSnapshot};
use super::state::StateError;
use crate::base::cast::usize_from;
use crate::base::chain::Chain;
use crate::base::ids::{BootEpoch, Index, MessageId, PartitionId, SegmentId, TermId};
use crate::base::time::Timestamp;

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
    /// Whether the last boot was closed.
    pub(super) closed: bool,
    /// How many records said so.
    pub(super) record_count: u64,
}

#[derive(Debug)]
struct PartitionReplay {
    partition: PartitionId,
    /// The last slot handed on.
    applied: Index,
    /// The digest there.
    chain: Option<Chain>,
    /// The slots after it; `None` until it is carried over.
    log: VecDeque<Option<LoggedEntry>>,
    /// The view being adopted, and its slots so far.
    adopting: TermId,
    staged: BTreeMap<Index, LoggedEntry>,
}

impl<'a, A: Apply> Replay<'a, A> {
    /// Begins where the oldest segment does; `newest` is the last snapshot, whose checkpoints are
    /// the ones to load.
    pub(super) fn begin(
        oldest: ShardSnapshot,
        newest: &ShardSnapshot,
        apply: &'a mut A,
    ) -> Result<Self, Damage> {
        let mut partitions = Vec::with_capacity(oldest.partitions.len());
        for state in &oldest.partitions {
            let checkpoint = newest.partition(state.partition).map_or(Index(0), |p| p.checkpoint);
            partitions.push(PartitionReplay::begin(state, checkpoint, apply)?);
        }
        let ledger = Ledger::new(partitions.len());
        Ok(Self { state: oldest, partitions, ledger, apply, closed: false, record_count: 0 })
    }

    /// A segment after the oldest begins, and `before` has ended: the snapshot must say what the
    /// records before it do.
    pub(super) fn on_snapshot(
        &mut self,
        before: SegmentId,
        snapshot: &ShardSnapshot,
    ) -> Result<(), Damage> {
        self.ledger.close(before);
        let same_partitions = self.state.partitions.len() == snapshot.partitions.len();
        let pairs = self.state.partitions.iter().zip(&snapshot.partitions);
        let differing = pairs.clone().find(|(folded, said)| !folded.agrees_with(said));
        if let Some((folded, _)) = differing {
            return Err(Damage::State(Some(folded.partition), StateError::Snapshot));
        }
        if !same_partitions {
            return Err(Damage::Partitions);
        }
        if snapshot.boot_epoch != self.state.boot_epoch {
            self.ledger.on_boot();
            for partition in &mut self.partitions {
                // What was staged by a process that is gone is never adopted.
                partition.staged.clear();
            }
        }
        self.state.boot_epoch = snapshot.boot_epoch;
        for (folded, said) in self.state.partitions.iter_mut().zip(&snapshot.partitions) {
            folded.first = said.first;
        }
        self.closed = false;
        Ok(())
    }

    pub(super) fn on_record(&mut self, record: &Record<'_>, placed: &Placed) -> Result<(), Damage> {
        self.record_count += 1;
        self.closed = matches!(record, Record::CloseBoot { .. });
        let Some(partition) = record.partition() else { return self.on_boot(record) };
        let refuse = |error| Damage::State(Some(partition), error);
        let unknown = || refuse(StateError::UnknownPartition);
        let position = self.state.position(partition).ok_or_else(unknown)?;
        let last = self.state.partitions[position].last;
        self.state.fold(record).map_err(refuse)?;
        self.ledger.on_record(position, last, record, placed);
        let state = &self.state.partitions[position];
        let replay = &mut self.partitions[position];
        match record {
            Record::Entry(entry) => replay.write(LoggedEntry::of(entry)),
            Record::NoOp { index, term, message_id, .. } => replay.write(LoggedEntry {
                index: *index,
                term: *term,
                message_id: *message_id,
                timestamp: Timestamp(0),
                value: None,
            }),
            Record::Stage { adopting, entry } => replay.stage(*adopting, LoggedEntry::of(entry)),
            Record::Adopt { term, base, kept, chain, .. } => {
                replay.adopt(*term, *base, *kept, Chain(*chain)).map_err(refuse)?;
            }
            Record::SyncPoint { .. } => replay.advance(state.sync_point, self.apply),
            Record::CheckpointDone { index, .. } => {
                if *index > last && *index > replay.applied {
                    replay.install(*index, self.apply);
                }
                replay.advance(state.sync_point, self.apply);
            }
            Record::Carry(entry) => {
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
        let partitions = std::iter::zip(&self.state.partitions, self.partitions)
            .map(|(state, replay)| {
                replay.finish(state).map_err(|error| Damage::State(Some(state.partition), error))
            })
            .collect::<Result<_, _>>()?;
        let Self { state, ledger, closed, record_count, .. } = self;
        Ok(Replayed { state, partitions, ledger, closed, record_count })
    }

    fn on_boot(&self, record: &Record<'_>) -> Result<(), Damage> {
        let said: Option<BootEpoch> = match record {
            Record::OpenBoot { boot_epoch, .. } | Record::CloseBoot { boot_epoch } => {
                Some(*boot_epoch)
            }
            _ => None,
        };
        if said == Some(self.state.boot_epoch) { Ok(()) } else { Err(Damage::Snapshot) }
    }
}

impl PartitionReplay {
    fn begin(
        state: &PartitionSnapshot,
        checkpoint: Index,
        apply: &mut impl Apply,
    ) -> Result<Self, Damage> {
        let unknown_count = state.last.since(checkpoint);
        if state.first > checkpoint.next() || unknown_count > SLOT_COUNT_MAX {
            let hole = StateError::Hole { last: checkpoint, found: state.first };
            return Err(Damage::State(Some(state.partition), hole));
        }
        if checkpoint > Index(0) {
            apply.install(state.partition, checkpoint);
        }
        Ok(Self {
            partition: state.partition,
            applied: checkpoint,
            chain: (checkpoint == Index(0)).then_some(Chain::NONE),
            log: (0..unknown_count).map(|_| None).collect(),
            adopting: TermId(0),
            staged: BTreeMap::new(),
        })
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

    fn adopt(
        &mut self,
        term: TermId,
        base: Index,
        kept: Index,
        chain: Chain,
    ) -> Result<(), StateError> {
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
            if index > self.last().next() {
                return Err(StateError::Unstaged { index: self.last().next() });
            }
            self.write(entry);
        }
        if base > self.last() {
            return Err(StateError::Unstaged { index: self.last().next() });
        }
        match self.chain_at(base) {
            Some(own) if own != chain && chain != Chain::NONE => {
                Err(StateError::Chain { index: base })
            }
            _ => Ok(()),
        }
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

    fn install(&mut self, checkpoint: Index, apply: &mut impl Apply) {
        self.log.clear();
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
    fn of(entry: &Entry<'_>) -> Self {
        let value = (!entry.value.is_empty()).then(|| Bytes::copy_from_slice(entry.value));
        Self {
            index: entry.index,
            term: entry.term,
            message_id: entry.message_id,
            timestamp: if value.is_some() { entry.timestamp } else { Timestamp(0) },
            value,
        }
    }

    fn extend(&self, chain: Chain) -> Chain {
        chain.extended(self.index, self.message_id, self.timestamp, self.value.as_deref())
    }
}
