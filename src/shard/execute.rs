//! The world as a partition's replica sees it: what the protocol wants done is done here, on the
//! map, the log, the collector and the host.

use super::partition::{Asker, PartitionView, Waiter};
use super::{Awaiting, Core, Effects};
use crate::base::chain::Chain;
use crate::base::ids::{AppendId, Index, PartitionId, TermId};
use crate::base::limits::SWEEP_COUNT_MAX;
use crate::base::payload::ResultBytes;
use crate::map::hasher::KeyHash;
use crate::map::operation::{Command, with_command};
use crate::map::partition::{Execution, Undo};
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{self, Persist, Persisted, ViewStarted};
use crate::proto::p2pmap::v1::error::Code;
use crate::storage::record::{Entry, Record};
use crate::storage::wal::Durability;
use crate::wire::response::{self, ErrorOutcome, ResponsePrefix, View};

/// The world of one partition's replica, for the time of one step.
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
    fn answer(&mut self, waiter: Waiter, index: Index, result: &[u8]) {
        match waiter {
            Waiter::Client(asker) => self.reply(asker, index, result),
            Waiter::Gather { gather, .. } => self.core.gathered(gather, result, self.effects),
            Waiter::Nobody => {}
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
            Waiter::Nobody => {}
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
        self.expect_expiry(&view.map);
        result
    }
}

impl<E: Effects> nopaxos::Effects for World<'_, E> {
    fn persist(&mut self, record: Persist<'_>) {
        let partition = self.view.group.partition();
        let (append, persisted) = match record {
            Persist::Slot(index, slot) => {
                self.view.unsynced_size_bytes += slot.size_bytes();
                self.core.unsynced_size_bytes += slot.size_bytes();
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

    fn stabilise(&mut self, index: Index, size_bytes: usize) {
        self.view.unsynced_size_bytes -= size_bytes;
        self.core.unsynced_size_bytes -= size_bytes;
        self.mark_changed();
        self.view.map.commit(&mut self.core.arena, index);
        if !self.view.sweeping && self.view.map.sweep(&mut self.core.arena, SWEEP_COUNT_MAX) {
            self.view.sweeping = true;
            self.core.sweeping.push_back(self.view.group.partition());
        }
        self.core.account_map(self.view);
    }

    fn respond(&mut self, index: Index, result: ResultBytes) {
        let (me, term) = (self.view.group.me(), self.view.term);
        self.view.collector.on_command_response(me, term, index, Some(result));
        while let Some(completed) = self.view.collector.next_completed() {
            if let Some(waiter) = completed.waiter {
                self.answer(waiter, completed.index, &completed.result);
            }
        }
    }

    fn view_started(&mut self, started: ViewStarted) {
        let ViewStarted { term, base, last_timestamp, sequencing } = started;
        let view = &mut self.view;
        view.term = term;
        view.prefix = prefix(&self.core.config, &view.group, term);
        if sequencing {
            view.sequencer.activate(term, base, last_timestamp);
            view.collector.activate(&view.group, term, base);
        }
        self.mark_changed();
    }

    fn view_left(&mut self) {
        self.view.sequencer.deactivate();
        let waiters: Vec<Waiter> = self.view.collector.deactivate().collect();
        for waiter in waiters {
            self.fail(waiter, Code::OutcomeUnknown, "the view changed before a quorum answered");
        }
    }
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
