//! A client: it connects to a node, has some requests under way, reads the answers out of the
//! bytes that come, and connects again, to any node, when the connection is gone. What it did and
//! was told goes into the history.

mod codec;
mod workload;

use std::collections::BTreeMap;

use bytes::BytesMut;

use self::codec::Reply;
use super::checker::{Checker, Violation};
use super::cluster::{Event, World};
use super::history::{Action, History, Key, Outcome, PageSeen, Seen};
use super::network::{Endpoint, Lane, Side};
use super::{ClientId, ConnectionId, NodeId};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{CorrelationId, Index, PartitionId};
use crate::base::prng::Prng;
use crate::base::time::NS_PER_MS;

/// Before a client dials again, at least.
const BACKOFF_NS_MIN: u64 = NS_PER_MS;
/// The same at most.
const BACKOFF_NS_MAX: u64 = 200 * NS_PER_MS;

/// Why a client looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// It may ask something.
    Think,
    /// It dials, if it isn't connected.
    Dial,
    /// It doesn't wait for an answer any longer.
    GiveUp(CorrelationId),
}

/// A request under way.
#[derive(Debug)]
struct Pending {
    operation: usize,
    action: Action,
    /// Pages that have come.
    pages: Vec<PageSeen>,
}

/// How a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Down,
    Dialing(ConnectionId),
    Open(ConnectionId),
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    prng: Prng,
    node_count: usize,
    line: Line,
    backoff_ns: u64,
    pending: BTreeMap<CorrelationId, Pending>,
    received: BytesMut,
    last_correlation: CorrelationId,
    /// The highest slot of each partition that it knows of.
    reached: BTreeMap<PartitionId, Index>,
    /// What it saw last of each key.
    seen: BTreeMap<Key, Seen>,
    /// What it still has to read before the run ends.
    last_questions: Vec<Action>,
}

impl Client {
    pub(super) fn new(id: ClientId, seed: u64, node_count: usize) -> Self {
        Self {
            id,
            prng: Prng::new(seed, &format!("client {}", id.0)),
            node_count,
            line: Line::Down,
            backoff_ns: BACKOFF_NS_MIN,
            pending: BTreeMap::new(),
            received: BytesMut::new(),
            last_correlation: 0,
            reached: BTreeMap::new(),
            seen: BTreeMap::new(),
            last_questions: Vec::new(),
        }
    }

    /// Whether everything that it asked is over, and nothing is left to be asked.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty() && self.last_questions.is_empty()
    }

    /// Begins: it connects, and thinks of what to ask.
    pub(super) fn begin(&mut self, world: &mut World) {
        self.wake_after(0, Wake::Dial, world);
        self.wake_after(0, Wake::Think, world);
    }

    /// These are the last things that it asks.
    pub(super) fn ask_last(&mut self, questions: Vec<Action>, world: &mut World) {
        self.last_questions = questions;
        self.wake_after(0, Wake::Think, world);
    }

    fn wake_after(&self, delay_ns: u64, wake: Wake, world: &mut World) {
        world.schedule.after(delay_ns, Event::Client { client: self.id, wake });
    }

    /// It looks up.
    pub(super) fn on_wake(&mut self, wake: Wake, world: &mut World, history: &mut History) {
        match wake {
            Wake::Dial => self.dial(world),
            Wake::Think => self.think(world, history),
            Wake::GiveUp(correlation) => self.give_up(correlation, world, history),
        }
    }

    fn dial(&mut self, world: &mut World) {
        if self.line == Line::Down {
            let node = usize_from(self.prng.below(u64_from(self.node_count)));
            let node = Endpoint::Node(NodeId(u8::try_from(node).unwrap_or(0)));
            let (now, me) = (world.now(), Endpoint::Client(self.id));
            self.line = Line::Dialing(world.network.dial(now, me, node, Lane::Client));
        }
    }

    fn think(&mut self, world: &mut World, history: &mut History) {
        let is_open = matches!(self.line, Line::Open(_));
        if let Some(question) = self.last_questions.last() {
            // A question that failed comes again.
            if is_open && self.pending.is_empty() {
                self.ask(*question, world, history);
            }
            return;
        }
        if !world.is_active {
            return;
        }
        let think_ns = world.swarm.workload.think_ns.max(1);
        let delay_ns = self.prng.below(2 * think_ns);
        self.wake_after(delay_ns, Wake::Think, world);
        if is_open && self.pending.len() < world.swarm.workload.depth {
            let action = self.choose(&world.swarm.workload, history);
            self.ask(action, world, history);
        }
    }

    fn ask(&mut self, action: Action, world: &mut World, history: &mut History) {
        let Line::Open(connection) = self.line else { return };
        let now = world.now();
        self.last_correlation += 1;
        let correlation = self.last_correlation;
        let patience_ns = world.swarm.workload.patience_ns;
        let bytes = codec::encode(&action, correlation, patience_ns, history);
        let operation = history.invoke(self.id, action, now);
        let words = [u64::from(self.id.0), correlation];
        world.trace.event(now, "ask", &words, || {
            format!("client {} #{correlation} {action:?}", self.id.0)
        });
        self.pending.insert(correlation, Pending { operation, action, pages: Vec::new() });
        world.network.send(now, connection, Side::Dialer, bytes);
        // The node gives up first, if it can.
        self.wake_after(2 * patience_ns, Wake::GiveUp(correlation), world);
    }

    fn give_up(&mut self, correlation: CorrelationId, world: &mut World, history: &mut History) {
        if let Some(pending) = self.pending.remove(&correlation) {
            self.end(&pending, Outcome::Unknown, world, history);
            // A node that doesn't answer isn't asked again, as a rule.
            if let Line::Open(connection) = self.line
                && self.prng.one_in(2)
            {
                let now = world.now();
                world.network.close(now, connection, Side::Dialer);
                self.hang_up(world, history);
            }
        }
    }

    /// The connection is open.
    pub(super) fn on_opened(&mut self, connection: ConnectionId, world: &mut World) {
        if self.line == Line::Dialing(connection) {
            self.line = Line::Open(connection);
            self.backoff_ns = BACKOFF_NS_MIN;
            if !self.last_questions.is_empty() {
                self.wake_after(0, Wake::Think, world);
            }
        }
    }

    /// The connection is gone, or was never made.
    pub(super) fn on_closed(
        &mut self,
        connection: ConnectionId,
        world: &mut World,
        history: &mut History,
    ) {
        if self.line == Line::Dialing(connection) || self.line == Line::Open(connection) {
            self.hang_up(world, history);
        }
    }

    fn hang_up(&mut self, world: &mut World, history: &mut History) {
        self.line = Line::Down;
        self.received.clear();
        for pending in std::mem::take(&mut self.pending).into_values() {
            self.end(&pending, Outcome::Unknown, world, history);
        }
        let delay_ns = self.backoff_ns + self.prng.below(self.backoff_ns);
        self.backoff_ns = (2 * self.backoff_ns).min(BACKOFF_NS_MAX);
        self.wake_after(delay_ns, Wake::Dial, world);
    }

    /// Bytes of a node.
    pub(super) fn on_bytes(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        world: &mut World,
        history: &mut History,
    ) -> Result<(), Violation> {
        if self.line != Line::Open(connection) {
            return Ok(());
        }
        self.received.extend_from_slice(bytes);
        let wrong = |what: String| Violation::new(Checker::Sense, what);
        while let Some(payload) = codec::take_frame(&mut self.received).map_err(wrong)? {
            let reply = codec::decode(payload).map_err(wrong)?;
            self.on_reply(reply, world, history).map_err(|found| found.at(world.now()))?;
        }
        Ok(())
    }

    fn on_reply(
        &mut self,
        reply: Reply,
        world: &mut World,
        history: &mut History,
    ) -> Result<(), Violation> {
        let correlation = reply.correlation;
        if correlation == 0 || correlation > self.last_correlation {
            let what = format!("an answer to nothing that was asked: {reply:?}");
            return Err(Violation::new(Checker::Sense, what));
        }
        let Some(pending) = self.pending.get_mut(&correlation) else { return Ok(()) };
        let answer = codec::understand(&pending.action, &reply, history)
            .map_err(|what| Violation::new(Checker::Sense, format!("{what}: {reply:?}")))?;
        let outcome = match answer {
            codec::Answer::Page(page) => {
                pending.pages.push(page);
                return Ok(());
            }
            codec::Answer::End => Outcome::Listed(std::mem::take(&mut pending.pages)),
            codec::Answer::Whole(outcome) => outcome,
        };
        let pending = self.pending.remove(&correlation).expect("it was found");
        let is_last_question = self.last_questions.last() == Some(&pending.action);
        if is_last_question && !matches!(outcome, Outcome::Failed(_) | Outcome::Unknown) {
            self.last_questions.pop();
        }
        self.end(&pending, outcome, world, history);
        if !self.last_questions.is_empty() {
            self.wake_after(NS_PER_MS, Wake::Think, world);
        }
        Ok(())
    }

    /// A request is over.
    fn end(
        &mut self,
        pending: &Pending,
        outcome: Outcome,
        world: &mut World,
        history: &mut History,
    ) {
        let now = world.now();
        let words = [u64::from(self.id.0), u64_from(pending.operation)];
        world.trace.event(now, "told", &words, || {
            format!("client {} operation {} {outcome:?}", self.id.0, pending.operation)
        });
        self.learn(pending, &outcome, world, history);
        let is_unknown = outcome == Outcome::Unknown;
        history.end(pending.operation, outcome, now);
        if is_unknown && !self.last_questions.is_empty() {
            self.wake_after(NS_PER_MS, Wake::Think, world);
        }
    }

    /// What it can use later: for conditions, and to ask for what it knows to be there.
    fn learn(
        &mut self,
        pending: &Pending,
        outcome: &Outcome,
        world: &mut World,
        history: &History,
    ) {
        let partition = history.partition_of(&pending.action);
        let (index, is_command) = match outcome {
            Outcome::Written { index, .. }
            | Outcome::ConditionFailed { index, .. }
            | Outcome::Removed { index, .. }
            | Outcome::Cleared { index, .. } => (*index, true),
            Outcome::Found { index, .. }
            | Outcome::Exists { index, .. }
            | Outcome::Sized { index, .. } => (*index, false),
            _ => return,
        };
        if let Some(partition) = partition {
            let reached = self.reached.entry(partition).or_default();
            *reached = index.max(*reached);
            if is_command {
                world.acknowledged.acknowledge(partition, index);
            }
        }
        let Some(key) = pending.action.key() else { return };
        let seen = match (pending.action, outcome) {
            (Action::Put { value, .. }, Outcome::Written { index, .. }) => {
                Some(Seen { value, version: *index, updated_ms: 0 })
            }
            (_, Outcome::Found { entry: seen, .. }) => *seen,
            (_, Outcome::ConditionFailed { current: seen, .. }) => *seen,
            _ => return,
        };
        match seen {
            Some(seen) => self.seen.insert(key, seen),
            None => self.seen.remove(&key),
        };
    }
}
