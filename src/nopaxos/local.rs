//! The world as a replica sees it: the effects, and the sequencer, collector and queries that stand
//! beside it in the same member. What is for the collector of the view goes there directly when it
//! is this member's own, and as a message otherwise.

use super::collector::{Collector, Completed};
use super::effects::{Effects, GivenBack, Persist, Stored, ViewStarted};
use super::group::Group;
use super::ignored::{IgnoreReason, Ignored};
use super::message::{Answer, CheckpointPart, Message};
use super::queries::Queries;
use super::replica::World;
use super::replica::log::Slot;
use super::sequencer::Sequencer;
use crate::base::ids::{Index, MemberId, MessageId, TermId};
use crate::base::payload::ResultBytes;
use crate::base::time::{Monotonic, Now};

/// The view that was started last, as long as it isn't left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Present {
    pub(super) term: TermId,
    pub(super) base: Index,
    pub(super) leader: MemberId,
    pub(super) sequencer: MemberId,
}

/// What stands beside a replica.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Beside<W> {
    pub(super) group: Group,
    pub(super) present: Present,
    pub(super) sequencer: Sequencer,
    pub(super) collector: Collector<W>,
    pub(super) queries: Queries<W>,
    pub(super) ignored: Ignored,
}

/// A replica's world for the time of one step.
pub(super) struct Local<'a, W, E> {
    pub(super) now: Now,
    pub(super) beside: &'a mut Beside<W>,
    pub(super) effects: &'a mut E,
}

impl<W, E: Effects<W>> Local<'_, W, E> {
    /// Hands out what the collector has complete.
    pub(super) fn complete(&mut self) {
        while let Some(completed) = self.beside.collector.next_completed() {
            self.answer(completed);
        }
    }

    #[inline]
    fn answer(&mut self, completed: Completed<W>) {
        if let Some(waiter) = completed.waiter {
            self.effects.answer(waiter, completed.index, completed.result);
        }
    }
}

impl<W, E: Effects<W>> World for Local<'_, W, E> {
    fn now(&self) -> Monotonic {
        self.now.monotonic
    }

    fn persist(&mut self, record: Persist<'_>) {
        self.effects.persist(record);
    }

    fn has_room(&mut self, size_bytes: usize) -> bool {
        self.effects.has_room(size_bytes)
    }

    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes {
        self.effects.execute(index, slot)
    }

    fn apply(&mut self, index: Index, slot: &Slot) {
        self.effects.apply(index, slot);
    }

    fn undo_to(&mut self, index: Index) {
        self.effects.undo_to(index);
    }

    fn stabilise(&mut self, index: Index) {
        self.effects.stabilise(index);
    }

    fn send(&mut self, to: MemberId, message: Message) {
        debug_assert_ne!(to, self.beside.group.me(), "nobody sends to itself");
        self.effects.send(to, message);
    }

    fn send_stored(&mut self, to: MemberId, stored: Stored) {
        self.effects.send_stored(to, stored);
    }

    fn receive_chunk(&mut self, part: CheckpointPart) {
        self.effects.receive_chunk(part);
    }

    fn install(&mut self, index: Index) {
        self.effects.install(index);
    }

    fn respond(&mut self, message_id: MessageId, index: Index, answer: Answer) {
        let Present { term, sequencer, .. } = self.beside.present;
        let me = self.beside.group.me();
        if sequencer != me {
            let response = Message::CommandResponse { term, message_id, index, answer };
            self.effects.send(sequencer, response);
            return;
        }
        let collector = &mut self.beside.collector;
        match answer {
            Answer::Result(result) => match collector.complete_alone(index, result) {
                Ok(completed) => return self.answer(completed),
                Err(result) => collector.on_command_response(me, term, index, Some(result)),
            },
            Answer::Ack => collector.on_command_response(me, term, index, None),
            Answer::Dropped => collector.on_dropped(term, index),
        }
        self.complete();
    }

    fn view_started(&mut self, started: ViewStarted) {
        let ViewStarted { term, base, last_timestamp, sequencing } = started;
        let beside = &mut self.beside;
        let (leader, sequencer) = (beside.group.leader(term), beside.group.sequencer(term));
        beside.present = Present { term, base, leader, sequencer };
        if sequencing {
            beside.sequencer.activate(term, base, last_timestamp);
            beside.collector.activate(&beside.group, term, base);
            beside.queries.activate(term);
        }
        self.effects.view_started(started);
    }

    fn view_left(&mut self) {
        let beside = &mut self.beside;
        beside.sequencer.deactivate();
        let waiters: Vec<W> = beside.collector.deactivate().collect();
        for waiter in waiters {
            self.effects.give_back(waiter, GivenBack::Unknown);
        }
        for waiter in beside.queries.deactivate() {
            self.effects.give_back(waiter, GivenBack::NotTaken);
        }
        if !beside.group.is_alone() {
            self.effects.unreadable();
        }
        self.effects.view_left();
    }

    fn stop_stamping(&mut self) {
        self.beside.sequencer.pause(true);
    }

    fn void(&mut self, member: MemberId) {
        self.beside.collector.void(member);
        self.beside.queries.void(member);
    }

    fn ignore(&mut self, reason: IgnoreReason) {
        self.beside.ignored.count(reason);
    }
}
