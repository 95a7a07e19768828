//! The world as a partition's member sees it: what the protocol wants done is done here, on the
//! map, the log and the host.

use super::partition::{Asker, PartitionView, Waiter};
use super::{Awaiting, Core, Effects};
use crate::base::chain::Chain;
use crate::base::ids::{AppendId, Index, MemberId, PartitionId, TermId};
use crate::base::limits::SWEEP_COUNT_MAX;
use crate::base::payload::ResultBytes;
use crate::map::hasher::KeyHash;
use crate::map::operation::{Command, with_command};
use crate::map::partition::{Execution, Undo};
use crate::nopaxos::message::{CheckpointPart, Message};
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{self, GivenBack, Persist, Persisted, Round, Stored, ViewStarted};
use crate::proto::p2pmap::v1::error::Code;
use crate::storage::record::{Entry, Record};
use crate::storage::wal::Durability;
use crate::wire::response::{self, ErrorOutcome, ResponsePrefix, View};

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
        if !std::mem::replace(&mut self.view.changed, true) {
            self.core.changed.push_back(self.view.group.partition());
        }
    }

    /// Answers whoever waits for a command.
    fn answer_waiter(&mut self, waiter: Waiter, index: Index, result: &[u8]) {
        match waiter {
            Waiter::Client(asker) => self.reply(asker, index, result),
            Waiter::Gather { gather, .. } => self.core.gathered(gather, result, self.effects),
        }
    }

    /// Answers a client.
    pub(super) fn reply(&mut self, asker: Asker, index: Index, result: &[u8]) {
        self.core.counters.answers += 1;
        asker.reply(&self.view.prefix, index, result, self.effects);
    }

    /// Tells whoever waits that nothing came of it, or that nobody knows what did.
    pub(super) fn fail(&mut self, waiter: Waiter, code: Code, message: &str) {
        match waiter {
            Waiter::Client(asker) => {
                self.core.fail(asker, &self.view.prefix, code, message, self.effects);
            }
            Waiter::Gather { gather, .. } => {
                self.core.gather_failed(gather, code, message, self.effects);
            }
        }
    }
}

impl Core {
    /// Answers a client with an error.
    pub(super) fn fail(
        &mut self,
        asker: Asker,
        prefix: &ResponsePrefix,
        code: Code,
        message: &str,
        effects: &mut impl Effects,
    ) {
        self.counters.failures += 1;
        if let Some(buffer) = effects.reply_buffer(asker.origin, true) {
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
    ) -> ResultBytes {
        let hash = hash.unwrap_or_else(|| {
            self.hasher.hash(command.map, command.operation.key().unwrap_or_default())
        });
        // A group of one whose slots count as durable at once never undoes one.
        let certain = view.group.count() == 1 && self.config.durability != Durability::Sync;
        let undo = if certain { Undo::Discard } else { Undo::Keep };
        let run = Execution { index, time: slot.timestamp, undo };
        let mut result = ResultBytes::new();
        view.map.execute(&mut self.arena, run, command, hash, &mut result);
        result
    }
}

impl<E: Effects> nopaxos::Effects<Waiter> for World<'_, E> {
    fn persist(&mut self, record: Persist<'_>) {
        let partition = self.view.group.partition();
        let (append, persisted) = match record {
            Persist::Slot(index, slot) => {
                let append = self.core.log.append(&slot_record(partition, index, slot));
                // Without `sync` nobody waits for the device.
                let sync = self.core.config.durability == Durability::Sync;
                (if sync { append } else { AppendId(0) }, Persisted::Slots(index))
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
            Persist::NoOp(..)
            | Persist::Stage { .. }
            | Persist::Checkpoint { .. }
            | Persist::Lives { .. } => unreachable!("a group of one has nobody to learn from"),
        };
        let since = self.core.now.monotonic;
        self.core.awaiting.push_back(Awaiting { append, partition, persisted, since });
        self.mark_changed();
    }

    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes {
        if let Some(parsed) = self.parsed.filter(|parsed| parsed.index == index) {
            return self.core.execute_command(self.view, index, slot, parsed.command, parsed.hash);
        }
        let value = slot.value.as_ref().expect("no-ops are not executed");
        with_command(value, usize::MAX, |command| {
            let command = command.expect("commands are checked before they are stamped");
            self.core.execute_command(self.view, index, slot, &command, None)
        })
    }

    fn undo_to(&mut self, index: Index) {
        self.core.checkpoints.on_undo(self.view.group.partition(), index);
        self.view.map.undo_to(&mut self.core.arena, index);
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

    fn apply(&mut self, _: Index, _: &Slot) {
        unreachable!("a group of one has no followers");
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

    fn readable(&mut self, _: Round, _: Index) {
        unreachable!("reads of a group of one need no rounds");
    }

    fn unreadable(&mut self) {}

    fn evaluate(&mut self, _: Index, _: &[u8]) -> ResultBytes {
        unreachable!("no other member stamps queries");
    }

    fn answer_query(&mut self, _: Waiter, _: Index, _: &[u8]) {
        unreachable!("no other member evaluates queries");
    }

    fn send(&mut self, _: MemberId, _: Message) {
        unreachable!("a group of one has nobody to talk to");
    }

    fn send_stored(&mut self, _: MemberId, _: Stored) {
        unreachable!("a group of one has nobody to talk to");
    }

    fn receive_chunk(&mut self, _: CheckpointPart) {
        unreachable!("a group of one has nobody to learn from");
    }

    fn install(&mut self, _: Index) {
        unreachable!("a group of one has nobody to learn from");
    }

    fn view_started(&mut self, started: ViewStarted) {
        let view = &mut self.view;
        view.term = started.term;
        view.prefix = prefix(&self.core.config, &view.group, started.term);
        self.mark_changed();
    }

    fn view_left(&mut self) {}
}

/// What all responses of a partition in a term begin with.
pub(super) fn prefix(
    config: &super::Config,
    group: &nopaxos::Group,
    term: TermId,
) -> ResponsePrefix {
    let view = View { leader: group.name(group.leader(term)), term };
    ResponsePrefix::new(&config.cluster, Some(group.partition()), &config.member, Some(view))
}

fn slot_record(partition: PartitionId, index: Index, slot: &Slot) -> Record<'_> {
    let (term, message_id) = (slot.term, slot.message_id);
    match &slot.value {
        Some(value) => Record::Entry(Entry {
            partition,
            index,
            term,
            message_id,
            timestamp: slot.timestamp,
            value,
        }),
        None => Record::NoOp { partition, index, term, message_id },
    }
}
