//! Adopting a view's log (3.4, M4 to M6 and A): by the leader that has merged it and by the others
//! that are told of it. What lacks is fetched beside the log, which isn't touched before all of it
//! is here; then one record makes the view, its base and its log count together (W2).
//!
//! An own value is kept only where the own log is of the view that was merged (A2), and an own
//! no-op only where the view has one: one that no quorum held is replaced by the value (P7).
//!
//! A checkpoint that was fetched for an adoption is written before the adoption's record and counts
//! by itself: it holds stable slots only, so a crash between the two leaves a longer stable prefix
//! and no harm.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::gap::ranges;
use super::log_merge::Plan;
use super::*;
use crate::base::limits::{ENTRY_OVERHEAD_SIZE_BYTES, REPAIR_COUNT_MAX, REPAIR_SIZE_BYTES_MAX};
use crate::base::mutant::{self, Mutant};
use crate::nopaxos::message::{Entry, SlotRange, Wanted};

/// A checkpoint that has come in whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    pub(super) index: Index,
    pub(super) chain: Chain,
    pub(super) timestamp: Timestamp,
}

/// A log that is being fetched.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Adoption {
    /// This member leads the view: what it lacks comes from the voters.
    pub(super) is_merge: bool,
    source_term: TermId,
    /// The last slot with which the view starts.
    base: Index,
    /// The last slot that is copied: after a loss also what the leader has appended since.
    last: Index,
    /// Everything up to here is the own stable prefix, or a checkpoint's.
    floor: Index,
    no_ops: BTreeSet<Index>,
    /// What the leader has said, if it isn't this member.
    summary: Option<LogSummary>,
    keeps_own: bool,
    /// Slots that replace or follow own ones.
    staged: BTreeMap<Index, Slot>,
    wanted: BTreeSet<Index>,
    needs_checkpoint: bool,
    /// The log has no room for what is staged: a newer checkpoint would leave less of it.
    spares_room: bool,
    checkpoint: Option<Checkpoint>,
    /// Who has what lacks, and who of them is asked.
    sources: Vec<MemberId>,
    source: usize,
    request: u64,
    /// What was asked for and has not come yet, how much has, and whether anything has.
    asked: BTreeSet<Index>,
    received_size_bytes: usize,
    has_progressed: bool,
    delay_ns: u64,
}

impl Adoption {
    /// Whether nothing lacks.
    fn is_whole(&self) -> bool {
        self.wanted.is_empty() && (!self.needs_checkpoint || self.checkpoint.is_some())
    }

    /// Whether a checkpoint is to be fetched.
    fn lacks_checkpoint(&self) -> bool {
        (self.needs_checkpoint || self.spares_room) && self.checkpoint.is_none()
    }

    /// Whether only room lacks, which no other view would give it.
    pub(super) fn waits_for_room(&self) -> bool {
        self.spares_room && self.checkpoint.is_none()
    }

    /// What the log will be given.
    fn staged_size_bytes(&self) -> usize {
        let value = |slot: &Slot| slot.value.as_ref().map_or(0, Bytes::len);
        self.staged.values().map(|slot| value(slot) + ENTRY_OVERHEAD_SIZE_BYTES).sum()
    }

    /// Of a log of `source_term`, of which nothing is known yet.
    fn new(source_term: TermId, delay_ns: u64) -> Self {
        Self {
            is_merge: false,
            source_term,
            base: Index(0),
            last: Index(0),
            floor: Index(0),
            no_ops: BTreeSet::new(),
            summary: None,
            keeps_own: false,
            staged: BTreeMap::new(),
            wanted: BTreeSet::new(),
            needs_checkpoint: false,
            spares_room: false,
            checkpoint: None,
            sources: Vec::new(),
            source: 0,
            request: 0,
            asked: BTreeSet::new(),
            received_size_bytes: 0,
            has_progressed: true,
            delay_ns,
        }
    }

    /// What the leader has said the view starts with.
    pub(super) fn started(&self) -> Option<(TermId, &LogSummary)> {
        self.summary.as_ref().map(|summary| (self.source_term, summary))
    }

    pub(super) fn wants_checkpoint(&self, from: MemberId, index: Index, sync_point: Index) -> bool {
        let is_source = self.sources.contains(&from);
        is_source && self.checkpoint.is_none() && index > sync_point && index >= self.floor
    }

    fn source(&self) -> Option<MemberId> {
        self.sources.get(self.source).copied()
    }
}

impl Replica {
    /// Begins to make this member's log the merged one (M4, M5).
    pub(super) fn begin_merge(&mut self, plan: Plan, world: &mut impl World) {
        let Plan { source_term, source_base, floor, checkpoint_from, last, no_ops, .. } = plan;
        let me = self.group.me();
        let mut sources: Vec<MemberId> =
            plan.sources.into_iter().filter(|source| *source != me).collect();
        if let Some(from) = checkpoint_from {
            sources.sort_by_key(|source| *source != from);
        }
        let mut staged = BTreeMap::new();
        let missing: BTreeSet<Index> = plan.missing.into_iter().collect();
        let own_last =
            if self.last_normal == source_term { self.log.last() } else { self.sync_point };
        for index in no_ops.range(floor.max(own_last).next()..) {
            if !missing.contains(index) {
                let message_id = MessageId(index.since(source_base));
                let timestamp = Timestamp(0);
                let slot = Slot { term: source_term, message_id, timestamp, value: None };
                staged.insert(*index, slot);
            }
        }
        let adoption = Adoption {
            is_merge: true,
            base: last,
            last,
            floor,
            no_ops,
            keeps_own: self.last_normal == source_term,
            staged,
            wanted: missing,
            needs_checkpoint: checkpoint_from.is_some(),
            sources,
            ..Adoption::new(source_term, self.settings.timing.repair_retry_ns)
        };
        self.go_on_adopting(adoption, world);
    }

    /// Begins to make this member's log the one that its leader has merged (A1 to A3).
    pub(super) fn begin_adoption(
        &mut self,
        source_term: TermId,
        log: LogSummary,
        world: &mut impl World,
    ) {
        let last = log.last;
        let keeps_own = self.last_normal == source_term || mutant::is(Mutant::KeepStaleLog);
        let adoption = self.adoption_of(source_term, log, last, keeps_own);
        self.go_on_adopting(adoption, world);
    }

    /// What adopting a `StartView` and the leader's slots up to `last` needs.
    pub(super) fn adoption_of(
        &self,
        source_term: TermId,
        log: LogSummary,
        last: Index,
        keeps_own: bool,
    ) -> Adoption {
        let covered = log.first.previous();
        let mut adoption = Adoption {
            base: log.last,
            last,
            floor: self.sync_point.max(covered),
            no_ops: log.no_ops.clone(),
            summary: Some(log),
            keeps_own,
            needs_checkpoint: covered > self.sync_point,
            sources: vec![self.leader()],
            ..Adoption::new(source_term, self.settings.timing.repair_retry_ns)
        };
        self.want(&mut adoption);
        adoption
    }

    /// Computes what the own log doesn't hold (A3).
    fn want(&self, adoption: &mut Adoption) {
        let own_last = if adoption.keeps_own { self.log.last() } else { self.sync_point };
        let indexes = (adoption.floor.0 + 1..=adoption.last.0).map(Index);
        adoption.wanted = indexes
            .filter(|index| match self.log.slot(*index) {
                Some(own) if *index <= own_last.min(adoption.base) => {
                    let keeps_no_op = mutant::is(Mutant::KeepOwnNoOp);
                    own.value.is_none() && !adoption.no_ops.contains(index) && !keeps_no_op
                }
                _ => true,
            })
            .collect();
    }

    /// Fetches what lacks, or adopts, or waits for room: what is staged is logged at once (W2), and
    /// a log that it fills would have none for the checkpoint that empties it.
    fn go_on_adopting(&mut self, mut adoption: Adoption, world: &mut impl World) {
        if !adoption.is_whole() {
            self.adoption = Some(adoption);
            self.fetch(world);
        } else if adoption.staged.is_empty() || world.has_room(adoption.staged_size_bytes()) {
            self.complete_adoption(adoption, world);
        } else {
            mark!("adoption-without-room");
            adoption.spares_room = !adoption.is_merge;
            self.adoption = Some(adoption);
            self.fetch(world);
        }
    }

    /// Asks for what lacks, from the present source.
    fn fetch(&mut self, world: &mut impl World) {
        let Some(adoption) = &mut self.adoption else { return };
        self.timeouts.set(Timeout::Fetch, world.now().after_ns(adoption.delay_ns));
        if adoption.is_whole() && !adoption.lacks_checkpoint() {
            return;
        }
        let Some(source) = adoption.source() else { return };
        adoption.has_progressed = false;
        adoption.received_size_bytes = 0;
        let term = self.recovering_into().unwrap_or(self.view);
        let Some(adoption) = &mut self.adoption else { return };
        if adoption.lacks_checkpoint() {
            if self.transfer.is_some() {
                return;
            }
            mark!("fetch-checkpoint");
            let wanted = Wanted { checkpoint: adoption.floor, slots: Vec::new() };
            let message = match adoption.is_merge {
                true => Message::ViewChangeRepair { term, request: 0, wanted },
                false => Message::ViewRepair { term, request: 0, wanted },
            };
            world.send(source, message);
            return;
        }
        adoption.request += 1;
        adoption.asked = adoption.wanted.iter().copied().take(REPAIR_COUNT_MAX).collect();
        let slots = ranges(adoption.asked.iter().copied());
        let request = adoption.request;
        let wanted = Wanted { checkpoint: Index(0), slots };
        let message = match adoption.is_merge {
            true => {
                mark!("fetch-for-merge");
                Message::ViewChangeRepair { term, request, wanted }
            }
            false => {
                mark!("fetch-for-adoption");
                Message::ViewRepair { term, request, wanted }
            }
        };
        world.send(source, message);
    }

    /// Copies a view's log after a loss; some of it came with the answer.
    pub(super) fn copy(
        &mut self,
        adoption: Adoption,
        leader: MemberId,
        entries: Vec<Entry>,
        world: &mut impl World,
    ) {
        self.go_on_adopting(adoption, world);
        if !entries.is_empty() && self.adoption.is_some() {
            let _ = self.on_view_entries(leader, entries, world);
        }
    }

    /// A source has not sent what was asked for: another one may have it. Or there was no room.
    pub(super) fn on_fetch_timeout(&mut self, world: &mut impl World) {
        let delay_ns_max = self.settings.timing.repair_retry_ns_max;
        let Some(adoption) = &mut self.adoption else { return };
        adoption.delay_ns = (adoption.delay_ns * 2).min(delay_ns_max);
        if let Some(adoption) = self.adoption.take_if(|adoption| adoption.is_whole()) {
            self.go_on_adopting(adoption, world);
            return;
        }
        let Some(adoption) = &mut self.adoption else { return };
        if adoption.sources.len() > 1 && self.transfer.is_none() {
            mark!("fetch-elsewhere");
            adoption.source = (adoption.source + 1) % adoption.sources.len();
        }
        self.fetch(world);
    }

    /// A connection is there again: what was asked for on the old one may be lost.
    pub(super) fn resume_fetch(&mut self, member: MemberId, world: &mut impl World) {
        if self.adoption.as_ref().and_then(Adoption::source) == Some(member) {
            self.fetch(world);
            self.on_chunk_timeout(world);
        }
    }

    /// Slots that an adoption lacks.
    pub(super) fn on_view_entries(
        &mut self,
        from: MemberId,
        entries: Vec<Entry>,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        let Some(mut adoption) = self.adoption.take() else {
            return Err(IgnoreReason::Unasked);
        };
        if !adoption.sources.contains(&from) {
            self.adoption = Some(adoption);
            return Err(IgnoreReason::BadSender);
        }
        let wanted_count = adoption.wanted.len();
        for entry in entries {
            adoption.received_size_bytes += entry.size_bytes();
            adoption.asked.remove(&entry.index);
            stage(&mut adoption, entry);
        }
        if adoption.wanted.len() < wanted_count {
            self.note_progress();
        }
        if adoption.wanted.is_empty() {
            self.go_on_adopting(adoption, world);
            return Ok(());
        }
        let is_served =
            adoption.asked.is_empty() || adoption.received_size_bytes >= REPAIR_SIZE_BYTES_MAX;
        let goes_on = is_served && adoption.has_progressed && !adoption.is_merge;
        self.adoption = Some(adoption);
        if goes_on {
            self.fetch_at_once(world);
        }
        Ok(())
    }

    fn fetch_at_once(&mut self, world: &mut impl World) {
        if let Some(adoption) = &mut self.adoption {
            adoption.delay_ns = self.settings.timing.repair_retry_ns;
        }
        self.fetch(world);
    }

    /// A voter has sent what it has of what was asked for.
    pub(super) fn on_view_change_repair_response(
        &mut self,
        from: MemberId,
        request: u64,
        (chunk, _values): (Option<CheckpointPart>, &[SlotRange]),
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if let Some(part) = chunk {
            return self.on_part(from, part, world);
        }
        let Some(adoption) = &self.adoption else { return Err(IgnoreReason::Unasked) };
        let is_open =
            adoption.is_merge && adoption.request == request && adoption.source() == Some(from);
        if !is_open {
            return Err(IgnoreReason::Unasked);
        }
        // What it has and was too much for one request is asked for at once; what it hasn't, of the
        // next source, after a while.
        if adoption.has_progressed {
            self.fetch_at_once(world);
        }
        Ok(())
    }

    /// The checkpoint that an adoption needs is here.
    pub(super) fn on_adoption_checkpoint(
        &mut self,
        checkpoint: Checkpoint,
        world: &mut impl World,
    ) {
        let Some(mut adoption) = self.adoption.take() else { return };
        let index = checkpoint.index;
        adoption.floor = adoption.floor.max(index);
        adoption.wanted = adoption.wanted.split_off(&index.next());
        adoption.staged = adoption.staged.split_off(&index.next());
        adoption.checkpoint = Some(checkpoint);
        self.go_on_adopting(adoption, world);
    }

    /// The chain digest that the adopted log will have at its base; `None` if it can't be known.
    fn adopted_chain(&self, adoption: &Adoption) -> Option<Chain> {
        if adoption.floor > adoption.base {
            return None;
        }
        let mut chain = match adoption.checkpoint {
            Some(checkpoint) => checkpoint.chain,
            None => self.log.at(adoption.floor)?.0,
        };
        if chain == Chain::NONE && adoption.floor > Index(0) {
            return None;
        }
        for index in (adoption.floor.0 + 1..=adoption.base.0).map(Index) {
            let own = || self.log.slot(index).expect("what isn't staged is an own slot");
            let mut slot = adoption.staged.get(&index).unwrap_or_else(own).clone();
            if adoption.no_ops.contains(&index) {
                slot.value = None;
            }
            chain = slot.extend(chain, index);
        }
        Some(chain)
    }

    /// Everything is here: checks it, and adopts it.
    ///
    /// The specification lets a member fetch everything once more if the digest doesn't fit (A4).
    /// That is left out, for it can't help: up to the floor the log is a stable prefix, equal
    /// everywhere (I1), or the leader's checkpoint, whose digest is used; an own value is kept only
    /// of the term that was merged, in which a slot has one value (I3); no-ops are those that the
    /// leader has named; and all the rest came from it. What differs then is broken here or there,
    /// and no simulated run has ever come by.
    fn complete_adoption(&mut self, adoption: Adoption, world: &mut impl World) {
        let chain = self.adopted_chain(&adoption);
        let said = adoption.summary.as_ref().map(|summary| summary.chain);
        if let (Some(chain), Some(said)) = (chain, said)
            && said != Chain::NONE
            && !mutant::is(Mutant::KeepStaleLog)
            && !mutant::is(Mutant::KeepOwnNoOp)
        {
            invariant!(self, "I5", chain == said, "a view's log is not what it was said");
        }
        self.timeouts.cancel(Timeout::Fetch);
        self.timeouts.cancel(Timeout::Chunk);
        self.transfer = None;
        self.put_adopted(adoption, chain.unwrap_or(Chain::NONE), world);
    }

    /// Replaces the log (M6, A5). From here on memory says what the durable log will say; the view
    /// starts once it does.
    fn put_adopted(&mut self, adoption: Adoption, chain: Chain, world: &mut impl World) {
        let term = self.view;
        let Adoption { base, no_ops, mut staged, checkpoint, keeps_own, .. } = adoption;
        if self.applied > self.sync_point {
            mark!("undo");
            world.undo_to(self.sync_point);
            self.applied = self.sync_point;
        }
        self.drop_results();
        let own_last = if keeps_own { self.log.last() } else { self.sync_point };
        if let Some(checkpoint) = checkpoint {
            self.put_checkpoint(checkpoint, world);
        }
        let kept = own_last.min(base).max(self.sync_point);
        self.log.truncate(kept);
        let dropped: Vec<Index> = no_ops
            .range(self.sync_point.next()..)
            .copied()
            .take_while(|index| *index <= kept)
            .filter(|index| !self.log.no_ops().contains(index))
            .collect();
        self.log.make_no_ops(dropped.iter().copied());
        let appended = staged.split_off(&kept.next());
        self.log.replace(staged.clone());
        let replaced: BTreeSet<Index> = staged.into_keys().chain(dropped).collect();
        let mut appended_later = Vec::new();
        for (index, mut slot) in appended {
            if index > base {
                appended_later.push(slot);
                continue;
            }
            if slot.value.is_none() {
                slot.timestamp = self.log.last_timestamp();
            }
            self.log.append(slot);
        }
        for index in replaced.into_iter().chain((kept.0 + 1..=base.0).map(Index)) {
            let slot = self.log.slot(index).expect("it was just put there");
            world.persist(Persist::Stage { term, index, slot });
        }
        world.persist(Persist::Adopt { term, base, kept, chain });
        (self.last_normal, self.base) = (term, base);
        self.prepared = base.max(self.sync_point);
        self.responded = self.applied;
        self.started = Some(match adoption.summary {
            Some(summary) => (adoption.source_term, summary),
            None => {
                let no_ops = self.log.no_ops_in(self.first, base);
                let first = self.first.min(base.next());
                (adoption.source_term, LogSummary { first, last: base, no_ops, chain })
            }
        });
        self.finish_recovery_copy(appended_later, world);
    }
}

/// Takes a slot that was asked for, unless it isn't what the view has there.
fn stage(adoption: &mut Adoption, entry: Entry) {
    let Entry { index, message_id, timestamp, value } = entry;
    let is_no_op = value.is_none();
    let may_be_either = index > adoption.base;
    if is_no_op != adoption.no_ops.contains(&index) && !may_be_either {
        return;
    }
    if adoption.wanted.remove(&index) {
        adoption.has_progressed = true;
        let term = adoption.source_term;
        adoption.staged.insert(index, Slot { term, message_id, timestamp, value });
    }
}
