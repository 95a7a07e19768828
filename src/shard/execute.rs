//! The world as a partition's member sees it: what the protocol wants done is done here, on the
//! map, the log and the host.

use super::partition::{Asker, PartitionView, Waiter};
use super::reads::WaitingRead;
use super::{Awaiting, Core, Effects};
use crate::base::cast::u64_from;
use crate::base::chain::Chain;
use crate::base::ids::{AppendId, Index, MemberId, PartitionId, TermId};
use crate::base::limits::SWEEP_COUNT_MAX;
use crate::base::mutant::{self, Mutant};
use crate::base::payload::ResultBytes;
use crate::map::hasher::KeyHash;
use crate::map::operation::{Command, Operation, Ttl, decode_query, with_command};
use crate::map::outcome::{Failure, Outcome};
use crate::map::partition::{Execution, Undo};
use crate::metrics::ShardCounters;
use crate::nopaxos::message::{CheckpointPart, Message};
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{self, GivenBack, Persist, Persisted, Round, Stored, ViewStarted};
use crate::proto::p2pmap::v1::error::Code;
use crate::storage::record::{Adopted, Entry, Record};
use crate::storage::wal::Durability;
use crate::wire::peer::EncodeError;
use crate::wire::response::{self, ErrorOutcome, Hint, ResponsePrefix, View};

/// The world of one partition's member, for the time of one step.
pub(super) struct World<'a, E> {
    pub(super) view: &'a mut PartitionView,
    pub(super) core: &'a mut Core,
    pub(super) effects: &'a mut E,
    /// The command that is being appended, parsed already.
    parsed: Option<Parsed<'a>>,
}

/// A command with the slot that it will have, so that it isn't parsed again to be executed.
#[derive(Clone, Copy)]
pub(super) struct Parsed<'a> {
    pub(super) index: Index,
    pub(super) command: &'a Command<'a>,
    pub(super) hash: Option<KeyHash>,
}

impl<'a, E: Effects> World<'a, E> {
    pub(super) fn new(view: &'a mut PartitionView, core: &'a mut Core, effects: &'a mut E) -> Self {
        Self { view, core, effects, parsed: None }
    }

    pub(super) fn with_parsed(self, parsed: Parsed<'a>) -> Self {
        Self { parsed: Some(parsed), ..self }
    }

    /// The partition is to be shown anew.
    fn mark_changed(&mut self) {
        self.core.checkpoints.on_change();
        if !std::mem::replace(&mut self.view.changed, true) {
            self.core.changed.push_back(self.view.group.partition());
        }
    }

    /// Answers whoever waits for a command.
    pub(super) fn answer_waiter(&mut self, waiter: Waiter, index: Index, result: &[u8]) {
        match waiter {
            Waiter::Asker(asker) => {
                self.core.counters.answers += 1;
                let Some(buffer) = asker.buffer(self.view, self.effects) else { return };
                asker.reply(buffer, &self.view.prefix, index, result);
            }
            Waiter::Gather { gather, .. } => self.core.gathered(gather, result, self.effects),
            Waiter::Stream { stream, .. } => self.go_on_with_result(stream, index, result),
            Waiter::Nobody => {}
        }
    }

    /// Answers a read whose index is reached.
    pub(super) fn answer_read(&mut self, read: &WaitingRead, index: Index) {
        if index < read.min_index {
            let message = "min_index is not reached; try again";
            return self.fail(read.waiter, Code::Unavailable, message);
        }
        self.core.counters.reads += 1;
        match read.waiter {
            Waiter::Asker(asker) => {
                self.core.counters.answers += 1;
                let Some(buffer) = asker.buffer(self.view, self.effects) else { return };
                let outcome = self.core.evaluate(self.view, index, &read.query(), None);
                asker.reply_with(buffer, &self.view.prefix, index, &outcome);
            }
            Waiter::Stream { stream, .. } => self.go_on_with_page(stream, index),
            Waiter::Gather { .. } | Waiter::Nobody => {
                let mut result = ResultBytes::new();
                let outcome = self.core.evaluate(self.view, index, &read.query(), None);
                outcome.encode(&mut result);
                self.answer_waiter(read.waiter, index, &result);
            }
        }
    }

    /// Tells whoever waits that another member stamps, or that there is no view.
    pub(super) fn refuse_to_lead(&mut self, waiter: Waiter, sequencer: Option<MemberId>) {
        let Waiter::Asker(asker) = waiter else {
            return self.fail(waiter, Code::Unavailable, "another member leads the partition");
        };
        let Some(sequencer) = sequencer.filter(|member| *member != self.view.group.me()) else {
            let message = "the partition is between two views; try again";
            return self.fail(waiter, Code::Unavailable, message);
        };
        self.core.counters.failures += 1;
        let Some(buffer) = asker.buffer(self.view, self.effects) else { return };
        let member = self.view.group.name(sequencer);
        let node = self.view.nodes[usize::from(sequencer.0)];
        let address = &self.core.addresses[usize::from(node.0)];
        let hint = Some(Hint { term: self.view.term, member, address });
        let message = "another member leads the partition";
        let error = ErrorOutcome { code: Code::Unavailable, message, hint };
        let Asker { correlation, kind, .. } = asker;
        response::encode_error(buffer, &self.view.prefix, correlation, kind, error);
    }

    /// Tells whoever waits that nothing came of it, or that nobody knows what did.
    pub(super) fn fail(&mut self, waiter: Waiter, code: Code, message: &str) {
        match waiter {
            Waiter::Asker(asker) => {
                self.core.counters.failures += 1;
                let Some(buffer) = asker.buffer(self.view, self.effects) else { return };
                let error = ErrorOutcome { code, message, hint: None };
                let Asker { correlation, kind, .. } = asker;
                response::encode_error(buffer, &self.view.prefix, correlation, kind, error);
            }
            Waiter::Gather { gather, .. } => {
                self.core.gather_failed(gather, code, message, self.effects);
            }
            Waiter::Stream { stream, .. } => self.fail_waiting_stream(stream, code, message),
            Waiter::Nobody => {}
        }
    }
}

impl Core {
    /// Answers a client of this node with an error.
    pub(super) fn fail(
        &mut self,
        asker: Asker,
        prefix: &ResponsePrefix,
        code: Code,
        message: &str,
        effects: &mut impl Effects,
    ) {
        self.counters.failures += 1;
        if let Some(buffer) = asker.client_buffer(true, effects) {
            let error = ErrorOutcome { code, message, hint: None };
            response::encode_error(buffer, prefix, asker.correlation, asker.kind, error);
        }
    }

    /// Executes a command on a partition's map.
    fn execute_command(
        &mut self,
        view: &mut PartitionView,
        index: Index,
        slot: &Slot,
        command: &Command<'_>,
        hash: Option<KeyHash>,
        undo: Undo,
    ) -> ResultBytes {
        let hash = hash.unwrap_or_else(|| {
            self.hasher.hash(command.map, command.operation.key().unwrap_or_default())
        });
        let time = match mutant::is(Mutant::ExpiryByOwnClock) && may_expire(command) {
            true => self.now.wall,
            false => slot.timestamp,
        };
        let run = Execution { index, time, undo };
        let mut result = ResultBytes::new();
        view.map.execute(&mut self.arena, run, command, hash, &mut result);
        view.digests.executed(index, || view.map.digest());
        self.expect_expiry(&view.map);
        result
    }
}

impl<E: Effects> nopaxos::Effects<Waiter> for World<'_, E> {
    fn has_room(&mut self, size_bytes: usize) -> bool {
        self.core.log.ask_for_room(u64_from(size_bytes))
    }

    fn persist(&mut self, record: Persist<'_>) {
        let partition = self.view.group.partition();
        if let Persist::Adopt { term, base, kept, chain: Chain(chain) } = record
            && self.view.installed.is_some()
        {
            let adopted = Adopted { term, base, chain };
            return self.core.record_installed(self.view, Some((kept, adopted)));
        }
        if self.view.installed.is_some()
            && !matches!(record, Persist::Stage { .. } | Persist::Checkpoint { .. })
        {
            self.core.record_installed(self.view, None);
        }
        let (append, persisted) = match record {
            Persist::Slot(index, slot) => {
                let append = self.core.log.append(&slot_record(partition, index, slot));
                // Without `sync` nobody waits for the device, but at the very start: should that be
                // lost, the next start would take an earlier boot's clean end for this one's.
                let waits = (self.core.config.durability == Durability::Sync
                    && !mutant::is(Mutant::ReplyBeforeDurable))
                    || !self.core.log.is_open();
                (if waits { append } else { AppendId(0) }, Persisted::Slots(index))
            }
            Persist::View(term) => {
                (self.core.log.append(&Record::View { partition, term }), Persisted::View(term))
            }
            Persist::Adopt { term, base, kept, chain: Chain(chain) } => {
                let record = Record::Adopt { partition, term, base, kept, chain };
                (self.core.log.append(&record), Persisted::Adopted(term))
            }
            Persist::SyncPoint(index) => {
                self.core.log.append(&Record::SyncPoint { partition, index });
                return;
            }
            Persist::NoOp(index, slot) => {
                let append = self.core.log.append(&slot_record(partition, index, slot));
                (append, Persisted::NoOp(index))
            }
            Persist::Stage { term, index, slot } => {
                let record = Record::Stage { adopting: term, entry: entry(partition, index, slot) };
                self.core.log.append(&record);
                return;
            }
            // Recorded with what follows: see `record_installed`.
            Persist::Checkpoint { .. } => return,
            Persist::Lives { incarnation, crash_vector, is_lost } => {
                let crash_vector = crash_vector.to_vec();
                let is_recovering = is_lost;
                let record =
                    Record::CrashVector { partition, incarnation, crash_vector, is_recovering };
                (self.core.log.append(&record), Persisted::Lives)
            }
        };
        let since = self.core.now.monotonic;
        self.core.awaiting.push_back(Awaiting { append, partition, persisted, since });
        self.mark_changed();
    }

    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes {
        // A group of one whose slots count as durable at once never undoes one.
        let is_certain =
            self.view.group.is_alone() && self.core.config.durability != Durability::Sync;
        let undo = if is_certain { Undo::Discard } else { Undo::Keep };
        if let Some(parsed) = self.parsed.filter(|parsed| parsed.index == index) {
            let Parsed { command, hash, .. } = parsed;
            return self.core.execute_command(self.view, index, slot, command, hash, undo);
        }
        let value = slot.value.as_ref().expect("no-ops are not executed");
        with_command(value, usize::MAX, |command| {
            let command = command.expect("commands are checked before they are stamped");
            self.core.execute_command(self.view, index, slot, &command, None, undo)
        })
    }

    fn undo_to(&mut self, index: Index) {
        self.core.checkpoints.on_undo(self.view.group.partition(), index);
        self.view.map.undo_to(&mut self.core.arena, index);
        self.view.digests.undone_to(index);
        self.core.account_map(self.view);
    }

    fn stabilise(&mut self, index: Index) {
        self.mark_changed();
        self.view.map.commit(&mut self.core.arena, index);
        if !self.view.sweeping && self.view.map.sweep(&mut self.core.arena, SWEEP_COUNT_MAX) {
            self.view.sweeping = true;
            self.core.sweeping.push_back(self.view.group.partition());
        }
        self.core.account_map(self.view);
    }

    fn apply(&mut self, index: Index, slot: &Slot) {
        let value = slot.value.as_ref().expect("no-ops are not executed");
        with_command(value, usize::MAX, |command| {
            let command = command.expect("commands are checked before they are stamped");
            self.core.execute_command(self.view, index, slot, &command, None, Undo::Discard);
        });
    }

    fn answer(&mut self, waiter: Waiter, index: Index, result: ResultBytes) {
        self.answer_waiter(waiter, index, &result);
    }

    fn give_back(&mut self, waiter: Waiter, why: GivenBack) {
        match why {
            GivenBack::NotTaken => {
                let message = "the partition is between two views; try again";
                self.fail(waiter, Code::Unavailable, message);
            }
            GivenBack::Unknown => {
                let message = "the view changed before a quorum answered";
                self.fail(waiter, Code::OutcomeUnknown, message);
            }
        }
    }

    fn readable(&mut self, round: Round, index: Index) {
        self.view.round_done = (round, index);
        while self.view.round_reads.front().is_some_and(|(waits_for, _)| *waits_for <= round) {
            let Some((_, read)) = self.view.round_reads.pop_front() else { return };
            self.core.round_reads_count -= 1;
            self.answer_read(&read, index);
        }
    }

    fn unreadable(&mut self) {
        for (_, read) in std::mem::take(&mut self.view.round_reads) {
            self.core.round_reads_count -= 1;
            let message = "the partition is between two views; try again";
            self.fail(read.waiter, Code::Unavailable, message);
        }
    }

    fn evaluate(&mut self, index: Index, query: &[u8]) -> ResultBytes {
        let mut result = ResultBytes::new();
        // What another member has stamped was checked there, but by another release perhaps.
        match decode_query(query) {
            Some(query) => {
                self.core.evaluate(self.view, index, &query, None).encode(&mut result);
            }
            None => {
                let message = "the leader can't answer this query";
                let failure = Failure { code: Code::Unimplemented, message, current: None };
                Outcome::Failed(failure).encode(&mut result);
            }
        }
        result
    }

    fn answer_query(&mut self, waiter: Waiter, index: Index, result: &[u8]) {
        self.answer_waiter(waiter, index, result);
    }

    fn send(&mut self, to: MemberId, message: Message) {
        let node = self.view.nodes[usize::from(to.0)];
        if !self.view.links[usize::from(to.0)].is_connected {
            self.core.counters.peer_unsent += 1;
            return;
        }
        count_kind(&mut self.core.counters, &message);
        let partition = self.view.group.partition();
        let buffer = match message {
            // What carries a log or a checkpoint, or closes it.
            Message::ViewChangeRepairResponse { .. }
            | Message::ViewRepairResponse { .. }
            | Message::SyncRepairResponse { .. }
            | Message::RecoverResponse { .. } => self.effects.bulk_peer_buffer(node, partition),
            _ => self.effects.peer_buffer(node, partition),
        };
        let Some(buffer) = buffer else {
            self.core.counters.peer_unsent += 1;
            return;
        };
        match self.view.encoder.encode(buffer, &self.view.group, &message) {
            Ok(()) => self.core.counters.peer_sent += 1,
            // Somebody asks again, and a checkpoint makes it smaller meanwhile.
            Err(
                EncodeError::TooLong { .. }
                | EncodeError::TooManyNoOps { .. }
                | EncodeError::TooManyRanges { .. },
            ) => self.core.counters.peer_unsent += 1,
        }
    }

    fn send_stored(&mut self, to: MemberId, stored: Stored) {
        let newest = (self.view.group.partition(), self.view.checkpoint_size_bytes);
        self.core.read_for_peer(newest, to, stored);
    }

    fn receive_chunk(&mut self, part: CheckpointPart) {
        self.core.keep_part(self.view.group.partition(), &part);
    }

    fn install(&mut self, index: Index) {
        self.core.install_received(self.view, index);
        self.mark_changed();
    }

    fn view_started(&mut self, started: ViewStarted) {
        self.core.counters.views_started += 1;
        let view = &mut self.view;
        view.term = started.term;
        view.prefix = prefix(&self.core.config, &view.group, started.term);
        if self.core.forwards.count() > 0 {
            self.core.sweep_at_once();
        }
        self.mark_changed();
    }

    fn view_left(&mut self) {
        self.core.counters.views_left += 1;
    }
}

/// Counts what tells of trouble.
fn count_kind(counters: &mut ShardCounters, message: &Message) {
    match message {
        Message::SlotLookup { .. } => counters.slot_lookups += 1,
        Message::GapCommitRequest { .. } => counters.gap_commits += 1,
        Message::SyncRepair { .. }
        | Message::ViewRepair { .. }
        | Message::ViewChangeRepair { .. } => counters.repairs += 1,
        _ => {}
    }
}

/// Whether something expires by a command, or will because of it.
const fn may_expire(command: &Command<'_>) -> bool {
    match command.operation {
        Operation::Put { ttl, .. } => !matches!(ttl, Ttl::Unlimited),
        Operation::Tick => true,
        _ => false,
    }
}

/// What all responses of a partition in a term begin with.
pub(super) fn prefix(
    config: &super::Config,
    group: &nopaxos::Group,
    term: TermId,
) -> ResponsePrefix {
    let view = View { leader: group.name(group.leader(term)), term };
    // Members take no view with the term 0.
    let view = (term > TermId(0)).then_some(view);
    ResponsePrefix::new(&config.cluster, Some(group.partition()), config.member(), view)
}

fn slot_record(partition: PartitionId, index: Index, slot: &Slot) -> Record<'_> {
    let (term, message_id) = (slot.term, slot.message_id);
    match &slot.value {
        Some(_) => Record::Entry(entry(partition, index, slot)),
        None => Record::NoOp { partition, index, term, message_id },
    }
}

/// A slot as records have it; an empty value is a no-op.
fn entry(partition: PartitionId, index: Index, slot: &Slot) -> Entry<'_> {
    Entry {
        partition,
        index,
        term: slot.term,
        message_id: slot.message_id,
        timestamp: slot.timestamp,
        value: slot.value.as_deref().unwrap_or_default(),
    }
}
