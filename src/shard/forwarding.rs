//! Requests that a client's node can't answer are passed on to the node that stamps, over the
//! connection between the two; what comes back goes to the client.
//!
//! ```text
//! client -> its node --Command, Query--> the sequencer's node -> sequencer, or round of reads
//! client <- its node <-- the answer ---- the sequencer's node <- collector
//! ```
//!
//! Only the client's node passes a request on: whoever gets one from another node answers for
//! itself, with a hint if it doesn't stamp either. If that answer says that nothing was stamped,
//! and its hint or what has happened here meanwhile leads to a later view, the client's node tries
//! once more there; the client hears of whatever comes of that.
//!
//! Whoever waits is told once, in bounded time. What was not sent has left no trace, and the answer
//! is `UNAVAILABLE`, with a hint. What was sent and not answered, because the connection broke or
//! time was up, is `OUTCOME_UNKNOWN` if it is a command: it may have been stamped. An answer that
//! comes later than that is counted and dropped: its number isn't known any more. Whoever can ask
//! again without harm, because it reads or writes in a session, is told so as soon as a later view
//! begins: who led before may never answer, and asking again is answered at once.

use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use super::execute::{World, prefix};
use super::partition::{Asker, Partition, PartitionView, Recipient, Waiter};
use super::{Effects, Shard};
use crate::base::cast::{low_u32, u32_from, usize_from_u32};
use crate::base::ids::{CorrelationId, Index, MemberId, NodeId, PartitionId, TermId};
use crate::base::limits::{FORWARDED_COUNT_MAX, FORWARDED_SIZE_BYTES_MAX, POSITION_END};
use crate::map::operation::{with_command, with_query};
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::wire::peer::Forwarded;
use crate::wire::request::{FORWARDED, Kind};
use crate::wire::response;

/// What was passed on and isn't answered.
#[derive(Debug)]
pub(super) struct Forwards {
    sent: Slab<Forward>,
    /// How many there have been; it wraps around.
    count: u32,
    /// By node.
    under_way: Vec<UnderWay>,
}

/// What one node was given and hasn't answered.
#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    count: usize,
    size_bytes: usize,
}

/// A request that was passed on.
#[derive(Debug)]
struct Forward {
    waiter: Waiter,
    kind: Kind,
    partition: PartitionId,
    node: NodeId,
    /// The term in which a member of that node stamps.
    term: TermId,
    value: Bytes,
    /// It was passed on before, to another node.
    is_retry: bool,
    /// See [`Passable::is_repeatable`].
    is_repeatable: bool,
    /// Distinguishes those that have had this place.
    number: u32,
}

/// A request as it can be passed on.
#[derive(Clone, Debug)]
pub(super) struct Passable {
    pub(super) kind: Kind,
    /// The encoded command or query.
    pub(super) value: Bytes,
    /// The client wants a hint instead.
    pub(super) no_forward: bool,
    /// However often it is done, it is as if it were done once: a read, or a write in a session.
    pub(super) is_repeatable: bool,
}

/// What came of a request that was passed on.
struct ForwardAnswer {
    kind: Kind,
    correlation: CorrelationId,
    term: TermId,
    index: Index,
    result: Bytes,
}

impl Forwards {
    pub(super) fn new(node_count: usize) -> Self {
        Self { sent: Slab::new(), count: 0, under_way: vec![UnderWay::default(); node_count] }
    }

    fn has_room(&self, node: NodeId, size_bytes: usize) -> bool {
        let under_way = self.under_way[usize::from(node.0)];
        under_way.count < FORWARDED_COUNT_MAX
            && under_way.size_bytes + size_bytes <= FORWARDED_SIZE_BYTES_MAX
    }

    /// Keeps a request until it is answered: what it is called meanwhile.
    fn insert(&mut self, forward: Forward) -> CorrelationId {
        const NUMBER_MASK: u32 = u32::MAX >> 1;
        self.count = self.count.wrapping_add(1) & NUMBER_MASK;
        let under_way = &mut self.under_way[usize::from(forward.node.0)];
        under_way.count += 1;
        under_way.size_bytes += forward.value.len();
        let place = self.sent.insert(Forward { number: self.count, ..forward });
        FORWARDED | u64::from(self.count) << 32 | u64::from(u32_from(place))
    }

    /// Where the request lies that is called so, if it is there still.
    fn find(&self, correlation: CorrelationId) -> Option<usize> {
        let place = usize_from_u32(low_u32(correlation));
        let number = low_u32((correlation & !FORWARDED) >> 32);
        self.sent.get(place).filter(|forward| forward.number == number).map(|_| place)
    }

    fn remove(&mut self, place: usize) -> Forward {
        let forward = self.sent.remove(place);
        let under_way = &mut self.under_way[usize::from(forward.node.0)];
        under_way.count -= 1;
        under_way.size_bytes -= forward.value.len();
        forward
    }

    fn places(&self, is_wanted: impl Fn(&Forward) -> bool) -> Vec<usize> {
        let wanted = self.sent.iter().filter(|(_, forward)| is_wanted(forward));
        wanted.map(|(place, _)| place).collect()
    }

    /// How many aren't answered.
    pub(super) fn count(&self) -> usize {
        self.sent.len()
    }
}

impl<E: Effects> World<'_, E> {
    /// Passes a request on to the member that stamps; or tells whoever waits which one it is, or
    /// that there is none.
    pub(super) fn pass_on(
        &mut self,
        waiter: Waiter,
        request: impl FnOnce() -> Passable,
        sequencer: Option<MemberId>,
    ) {
        let other = sequencer.filter(|member| *member != self.view.group.me());
        let Some(to) = other.filter(|_| waiter.is_of_this_node()) else {
            return self.refuse_to_lead(waiter, sequencer);
        };
        let Passable { kind, value, no_forward, is_repeatable } = request();
        if no_forward {
            return self.refuse_to_lead(waiter, sequencer);
        }
        let (partition, term) = (self.view.group.partition(), self.view.term);
        let node = self.view.nodes[usize::from(to.0)];
        let (is_retry, number) = (false, 0);
        let forward =
            Forward { waiter, kind, partition, node, term, value, is_retry, is_repeatable, number };
        self.forward(forward, to);
    }

    /// Sends a request to a member.
    fn forward(&mut self, forward: Forward, to: MemberId) {
        let Forward { waiter, kind, partition, node, .. } = forward;
        if !self.core.forwards.has_room(node, forward.value.len()) {
            let message = "too many requests wait for the node that stamps; try again";
            return self.fail(waiter, Code::ResourceExhausted, message);
        }
        let is_connected = self.view.links[usize::from(to.0)].is_connected;
        let buffer = is_connected.then(|| self.effects.peer_buffer(node, partition)).flatten();
        let Some(buffer) = buffer else { return self.refuse_to_lead(waiter, Some(to)) };
        let value = forward.value.clone();
        let correlation = self.core.forwards.insert(forward);
        let forwarded = match kind {
            Kind::Command => Forwarded::Command { correlation, value },
            Kind::Query => Forwarded::Query { correlation, value },
        };
        let view = &mut *self.view;
        if view.encoder.encode_forwarded(buffer, &view.group, &forwarded).is_ok() {
            self.core.counters.forwarded_out += 1;
            self.core.sweep_later();
        } else if let Some(place) = self.core.forwards.find(correlation) {
            self.core.forwards.remove(place);
            let message = "too long to be passed on to the node that stamps";
            self.fail(waiter, Code::InvalidArgument, message);
        }
    }

    /// Gives whoever waits what another node has answered.
    fn give_answer(&mut self, waiter: Waiter, answer: &ForwardAnswer) {
        let ForwardAnswer { term, index, ref result, .. } = *answer;
        let Waiter::Asker(asker) = waiter else {
            return self.answer_waiter(waiter, index, result);
        };
        let counters = &mut self.core.counters;
        *if is_error(result) { &mut counters.failures } else { &mut counters.answers } += 1;
        let view = &*self.view;
        let other_term = (term != view.term).then(|| prefix(&self.core.config, &view.group, term));
        let prefix = other_term.as_ref().unwrap_or(&view.prefix);
        if let Some(buffer) = asker.buffer(view, self.effects) {
            asker.reply(buffer, prefix, index, result);
        }
    }

    /// Tells whoever waits that no answer came.
    fn give_forward_up(&mut self, forward: &Forward) {
        match forward.kind {
            Kind::Command => {
                let message = "the node that stamps has not answered; the write may or may not \
                               take effect";
                self.fail(forward.waiter, Code::OutcomeUnknown, message);
            }
            Kind::Query => {
                let message = "the node that stamps has not answered; try again";
                self.fail(forward.waiter, Code::Unavailable, message);
            }
        }
    }
}

impl Shard {
    /// Whether requests were passed on to other nodes that aren't answered.
    #[must_use]
    pub fn waits_for_members(&self) -> bool {
        self.core.forwards.count() > 0
    }

    /// What another node passes on for its clients, or answers to what was passed on to it.
    pub(super) fn on_forwarded(
        &mut self,
        partition: PartitionId,
        from: MemberId,
        forwarded: Forwarded,
        effects: &mut impl Effects,
    ) {
        match forwarded {
            Forwarded::Command { correlation, value } => {
                self.on_forwarded_command(partition, (from, correlation), &value, effects);
            }
            Forwarded::Query { correlation, value } => {
                self.on_forwarded_query(partition, (from, correlation), &value, effects);
            }
            Forwarded::CommandAnswer { correlation, term, index, result } => {
                let kind = Kind::Command;
                let answer = ForwardAnswer { kind, correlation, term, index, result };
                self.on_forward_answered(partition, from, &answer, effects);
            }
            Forwarded::QueryAnswer { correlation, term, index, result } => {
                let kind = Kind::Query;
                let answer = ForwardAnswer { kind, correlation, term, index, result };
                self.on_forward_answered(partition, from, &answer, effects);
            }
        }
    }

    fn on_forwarded_command(
        &mut self,
        partition: PartitionId,
        from: (MemberId, CorrelationId),
        value: &[u8],
        effects: &mut impl Effects,
    ) {
        // The client's node has seen to it that the value isn't longer than is configured there.
        with_command(value, usize::MAX, |command| {
            let timeout_ms = command.as_ref().map_or(0, |command| command.timeout_ms);
            let waiter = self.other_nodes(partition, from, Kind::Command, timeout_ms);
            match command {
                Err(error) => {
                    let (_, mut world) = self.partition(partition, effects);
                    world.fail(waiter, error.code(), &error.to_string());
                }
                Ok(command)
                    if command.operation.is_internal()
                        || !self.is_of(partition, command.operation.key()) =>
                {
                    self.refuse_forwarded(partition, waiter, effects);
                }
                Ok(command) => self.submit(partition, waiter, value, &command, None, effects),
            }
        });
    }

    fn on_forwarded_query(
        &mut self,
        partition: PartitionId,
        from: (MemberId, CorrelationId),
        value: &[u8],
        effects: &mut impl Effects,
    ) {
        with_query(value, |query| {
            let timeout_ms = query.as_ref().map_or(0, |query| query.timeout_ms);
            let waiter = self.other_nodes(partition, from, Kind::Query, timeout_ms);
            self.core.counters.queries += 1;
            match query {
                Err(error) => {
                    let (_, mut world) = self.partition(partition, effects);
                    world.fail(waiter, error.code(), &error.to_string());
                }
                Ok(query) if !self.is_of(partition, query.operation.key()) => {
                    self.refuse_forwarded(partition, waiter, effects);
                }
                Ok(query) => self.read_in_round(partition, waiter, &query, effects),
            }
        });
    }

    /// Another node that waits for what it has passed on.
    fn other_nodes(
        &mut self,
        partition: PartitionId,
        (member, correlation): (MemberId, CorrelationId),
        kind: Kind,
        timeout_ms: u32,
    ) -> Waiter {
        self.core.counters.forwarded_in += 1;
        let view = &self.partitions[self.place(partition)].view;
        let connection = view.links[usize::from(member.0)].breaks_count;
        Waiter::Asker(Asker {
            to: Recipient::Member { member, connection },
            correlation,
            kind,
            deadline: self.deadline(timeout_ms),
        })
    }

    /// Whether a partition is that of a key; without a key any is.
    fn is_of(&self, partition: PartitionId, key: Option<&[u8]>) -> bool {
        key.is_none_or(|key| self.core.router.partition_of_key(key) == partition)
    }

    fn refuse_forwarded(
        &mut self,
        partition: PartitionId,
        waiter: Waiter,
        effects: &mut impl Effects,
    ) {
        let message = "another node has passed on what isn't this partition's";
        let (_, mut world) = self.partition(partition, effects);
        world.fail(waiter, Code::InvalidArgument, message);
    }

    /// What came of something that was passed on.
    fn on_forward_answered(
        &mut self,
        partition: PartitionId,
        from: MemberId,
        answer: &ForwardAnswer,
        effects: &mut impl Effects,
    ) {
        let place = self.place(partition);
        let from = self.partitions[place].view.nodes[usize::from(from.0)];
        let forwards = &mut self.core.forwards;
        let asked = forwards.find(answer.correlation).filter(|place| {
            let Forward { partition: of, node, kind, .. } = forwards.sent[*place];
            (of, node, kind) == (partition, from, answer.kind)
        });
        let Some(asked) = asked else {
            self.core.counters.forwarded_late += 1;
            return;
        };
        let forward = forwards.remove(asked);
        let Partition { member, view } = &mut self.partitions[place];
        let elsewhere = match hint_of_untaken(&answer.result) {
            Some(hint) if !forward.is_retry => {
                let present = member.sequencer().map(|member| (view.term, member));
                later_sequencer(view, forward.term, present, hint)
            }
            _ => None,
        };
        let is_stamping = member.is_stamping();
        let mut world = World::new(view, &mut self.core, effects);
        match elsewhere {
            Some((term, to)) if to != world.view.group.me() => {
                let node = world.view.nodes[usize::from(to.0)];
                world.forward(Forward { node, term, is_retry: true, ..forward }, to);
            }
            Some(_) if is_stamping => self.take_back(&forward, effects),
            _ => world.give_answer(forward.waiter, answer),
        }
    }

    /// This node stamps now.
    fn take_back(&mut self, forward: &Forward, effects: &mut impl Effects) {
        let Forward { waiter, partition, ref value, .. } = *forward;
        match forward.kind {
            Kind::Command => with_command(value, usize::MAX, |command| {
                let command = command.expect("it was checked before it was passed on");
                self.submit(partition, waiter, value, &command, None, effects);
            }),
            Kind::Query => with_query(value, |query| {
                let query = query.expect("it was checked before it was passed on");
                self.read_in_round(partition, waiter, &query, effects);
            }),
        }
    }

    /// The connection is gone by which requests of these partitions were passed on to a node.
    pub(super) fn give_up_forwards_to(
        &mut self,
        node: NodeId,
        partitions: &Range<u32>,
        effects: &mut impl Effects,
    ) {
        let is_theirs = |of: PartitionId| partitions.contains(&of.0);
        let is_lost = |forward: &Forward| forward.node == node && is_theirs(forward.partition);
        let places = self.core.forwards.places(is_lost);
        self.give_forwards_up(&places, effects);
    }

    /// Gives up what nodes of earlier views have not answered, as far as it can be asked again
    /// without harm: they may never answer.
    pub(super) fn give_up_left_behind(&mut self, effects: &mut impl Effects) {
        let is_left_behind = |forward: &Forward| {
            let place = self.place(forward.partition);
            forward.is_repeatable && self.partitions[place].view.term > forward.term
        };
        let places = self.core.forwards.places(is_left_behind);
        self.give_forwards_up(&places, effects);
    }

    /// Gives up the requests that were passed on and have no time left; whether others wait.
    pub(super) fn give_up_late_forwards(&mut self, effects: &mut impl Effects) -> bool {
        let now = self.core.now.monotonic;
        let places = self.core.forwards.places(|forward| forward.waiter.deadline() <= now);
        self.give_forwards_up(&places, effects);
        self.core.forwards.count() > 0
    }

    fn give_forwards_up(&mut self, places: &[usize], effects: &mut impl Effects) {
        for &place in places {
            let forward = self.core.forwards.remove(place);
            let (_, mut world) = self.partition(forward.partition, effects);
            world.give_forward_up(&forward);
        }
    }
}

/// Where to try again what a member of `term` has not taken: the sequencer of a later view, as far
/// as one is known here, or by the hint.
fn later_sequencer(
    view: &PartitionView,
    term: TermId,
    present: Option<(TermId, MemberId)>,
    hint: Option<TermId>,
) -> Option<(TermId, MemberId)> {
    let hinted = hint.map(|term| (term, view.group.sequencer(term)));
    let latest = present.into_iter().chain(hinted).max_by_key(|(term, _)| *term);
    latest.filter(|(later, _)| *later > term)
}

/// If a result says that nothing was stamped: the term of the view that it hints at, if it does.
fn hint_of_untaken(result: &[u8]) -> Option<Option<TermId>> {
    if !is_error(result) {
        return None;
    }
    let Some(Outcome::Error(error)) = response::decode_result(result) else { return None };
    let term = error.hint.as_ref().map(|hint| TermId(hint.term));
    let is_term = |term: &TermId| (1..POSITION_END).contains(&term.0);
    (error.code() == Code::Unavailable).then_some(term.filter(is_term))
}

/// Whether a result is an error: its first field says so.
fn is_error(result: &[u8]) -> bool {
    const RESULT_ERROR: u8 = 0x0A;
    result.first() == Some(&RESULT_ERROR)
}
