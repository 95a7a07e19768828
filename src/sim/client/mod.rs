//! A client: it connects to all nodes, has some requests under way, reads the answers out of the
//! bytes that come, and connects again when a connection is gone. What was refused without a trace
//! it asks again, of the node that is said to lead, or of any. What it did and was told goes into
//! the history.

pub mod codec;
mod sessions;
mod workload;

use std::collections::BTreeMap;

use bytes::BytesMut;

use self::codec::{Envelope, Reply};
use self::sessions::{Call, Sessions, as_of_first, check_repeated};
use super::checker::{Checker, Violation};
use super::cluster::{Event, World};
use super::history::{Action, History, Key, Outcome, PageSeen, Seen, SessionStep};
use super::network::{Endpoint, Lane, Side};
use super::node::member_name;
use super::{ClientId, ConnectionId, NodeId};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{CorrelationId, Index, PartitionId};
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::mark;
use crate::proto::p2pmap::v1::error::Code;

/// Before a client dials again, at least.
const BACKOFF_NS_MIN: u64 = NS_PER_MS;
/// The same at most.
const BACKOFF_NS_MAX: u64 = 200 * NS_PER_MS;
/// Before a client asks again what was refused without a trace, at most.
const RETRY_NS_MAX: u64 = 20 * NS_PER_MS;

/// How long a command of a session is sent again at most.
const INSISTENCE_NS_MAX: u64 = 20 * NS_PER_S;
/// One answered command of a session in so many is sent again.
const REPEATED_ONE_IN: u64 = 4;

/// Why a client looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// It may ask something.
    Think,
    /// It dials a node, if it isn't connected to it.
    Dial(NodeId),
    /// It asks again.
    Retry(CorrelationId),
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
    /// Who was asked; `None`: nobody is, at the moment, and the last one has refused with this.
    asked: Result<NodeId, Code>,
    /// It isn't asked again after that.
    deadline: Monotonic,
    /// Of a command of a session: which, and until when it is sent again whatever happens.
    call: Option<(Call, Monotonic)>,
    /// It was sent before, and may have been executed then.
    is_uncertain: bool,
    /// What came of it: it is sent once more to be told the same.
    first: Option<Outcome>,
}

impl Pending {
    /// Whether an answer may be that of an earlier time.
    const fn may_be_repeated(&self) -> bool {
        self.is_uncertain || self.first.is_some()
    }
}

/// How a client stands with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Dialing(ConnectionId),
    Open(ConnectionId),
}

/// A client's connection to a node.
#[derive(Debug)]
struct Line {
    state: State,
    backoff_ns: u64,
    received: BytesMut,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    prng: Prng,
    /// To each node.
    lines: Vec<Line>,
    pending: BTreeMap<CorrelationId, Pending>,
    last_correlation: CorrelationId,
    sessions: Sessions,
    /// Who stamps the commands of a partition, as it was said last.
    leaders: BTreeMap<PartitionId, NodeId>,
    /// The highest slot of each partition that it knows of.
    reached: BTreeMap<PartitionId, Index>,
    /// What it saw last of each key.
    seen: BTreeMap<Key, Seen>,
    /// What it still has to read before the run ends.
    last_questions: Vec<Action>,
}

impl Client {
    pub(super) fn new(id: ClientId, seed: u64, node_count: usize) -> Self {
        let line =
            |_| Line { state: State::Down, backoff_ns: BACKOFF_NS_MIN, received: BytesMut::new() };
        Self {
            id,
            prng: Prng::new(seed, &format!("client {}", id.0)),
            lines: (0..node_count).map(line).collect(),
            pending: BTreeMap::new(),
            last_correlation: 0,
            sessions: Sessions::default(),
            leaders: BTreeMap::new(),
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
        for node in 0..self.lines.len() {
            self.wake_after(0, Wake::Dial(node_id(node)), world);
        }
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
            Wake::Dial(node) => self.dial(node, world),
            Wake::Think => self.think(world, history),
            Wake::Retry(correlation) => self.ask_again(correlation, world, history),
            Wake::GiveUp(correlation) => self.give_up(correlation, world, history),
        }
    }

    fn dial(&mut self, node: NodeId, world: &mut World) {
        let line = &mut self.lines[usize::from(node.0)];
        if line.state == State::Down {
            let (now, me) = (world.now(), Endpoint::Client(self.id));
            let connection = world.network.dial(now, me, Endpoint::Node(node), Lane::Client);
            line.state = State::Dialing(connection);
        }
    }

    /// Whom it asks: who is said to lead the partition, or anybody. `None`: it has no connection.
    fn choose_node(&mut self, partition: Option<PartitionId>) -> Option<NodeId> {
        let is_open = |line: &Line| matches!(line.state, State::Open(_));
        let leader = partition.and_then(|partition| self.leaders.get(&partition)).copied();
        let leader = leader.filter(|node| is_open(&self.lines[usize::from(node.0)]));
        if leader.is_some() && !self.prng.one_in(20) {
            return leader;
        }
        let open = (0..self.lines.len()).filter(|node| is_open(&self.lines[*node]));
        let open: Vec<usize> = open.collect();
        let count = u64_from(open.len());
        (count > 0).then(|| node_id(open[usize_from(self.prng.below(count))]))
    }

    fn think(&mut self, world: &mut World, history: &mut History) {
        if let Some(question) = self.last_questions.last() {
            // A question that failed comes again.
            if self.pending.is_empty() {
                self.ask((*question, None), world, history);
            }
            return;
        }
        if !world.is_active {
            return;
        }
        let think_ns = world.swarm.workload.think_ns.max(1);
        let delay_ns = self.prng.below(2 * think_ns);
        self.wake_after(delay_ns, Wake::Think, world);
        let is_open = self.lines.iter().any(|line| matches!(line.state, State::Open(_)));
        if is_open && self.pending.len() < world.swarm.workload.depth {
            let is_alone = world.swarm.node_count() == 1;
            let action = self.choose(&world.swarm.workload, is_alone, history);
            let partition = history.partition_of(&action);
            let asked = self.choose_session(action, partition, &world.swarm.workload);
            self.ask(asked, world, history);
        }
    }

    fn ask(
        &mut self,
        (action, call): (Action, Option<Call>),
        world: &mut World,
        history: &mut History,
    ) {
        let Some(node) = self.choose_node(history.partition_of(&action)) else { return };
        let now = world.now();
        let operation = history.invoke(self.id, action, now);
        // The node gives up first, if it can.
        let deadline = now.after_ns(2 * world.swarm.workload.patience_ns);
        let pages = Vec::new();
        let call = call.map(|call| (call, now.after_ns(INSISTENCE_NS_MAX)));
        let pending = Pending {
            operation,
            action,
            pages,
            asked: Ok(node),
            deadline,
            call,
            is_uncertain: false,
            first: None,
        };
        self.send(pending, node, world, history);
    }

    /// Asks a node; what it is called from now on nobody has used before.
    fn send(&mut self, mut pending: Pending, node: NodeId, world: &mut World, history: &History) {
        let State::Open(connection) = self.lines[usize::from(node.0)].state else { return };
        let now = world.now();
        self.last_correlation += 1;
        let correlation = self.last_correlation;
        let action = pending.action;
        let patience_ns = pending.deadline.since_ns(now) / 2;
        let call = pending.call.map(|(call, _)| (call, self.sessions.ack_below(call)));
        let envelope = Envelope { correlation, patience_ns, call };
        let bytes = codec::encode(&action, envelope, history);
        let words = [u64::from(self.id.0), correlation, u64::from(node.0)];
        world.trace.event(now, "ask", &words, || {
            let (id, operation) = (self.id.0, pending.operation);
            let called =
                call.map_or(String::new(), |(Call { session, sequence, .. }, ack_below)| {
                    format!(" as {sequence} of session {session}, needs {ack_below}..")
                });
            let what = format!("operation {operation} {action:?}{called}");
            format!("client {id} node {node} #{correlation} {what}")
        });
        self.wake_after(pending.deadline.since_ns(now), Wake::GiveUp(correlation), world);
        pending.asked = Ok(node);
        self.pending.insert(correlation, pending);
        world.network.send(now, connection, Side::Dialer, bytes);
    }

    /// What was asked has certainly had no effect: it is asked again, of another one, perhaps.
    fn ask_later(&mut self, correlation: CorrelationId, pending: Pending, world: &mut World) {
        self.pending.insert(correlation, pending);
        let delay_ns = 1 + self.prng.below(RETRY_NS_MAX);
        self.wake_after(delay_ns, Wake::Retry(correlation), world);
    }

    fn ask_again(&mut self, correlation: CorrelationId, world: &mut World, history: &mut History) {
        let now = world.now();
        let is_idle = |pending: &Pending| pending.asked.is_err();
        let Some(pending) = self.pending.get(&correlation).filter(|found| is_idle(found)) else {
            return;
        };
        let partition = history.partition_of(&pending.action);
        let node = self.choose_node(partition);
        let Some(pending) = self.pending.remove(&correlation) else { return };
        match (node, pending.asked) {
            (Some(node), _) if now < pending.deadline => self.send(pending, node, world, history),
            (None, _) if now < pending.deadline => self.ask_later(correlation, pending, world),
            (_, Err(code)) => {
                self.settle(correlation, pending, Outcome::Failed(code), world, history);
            }
            (_, Ok(_)) => {}
        }
    }

    fn give_up(&mut self, correlation: CorrelationId, world: &mut World, history: &mut History) {
        let Some(pending) = self.pending.remove(&correlation) else { return };
        match pending.asked {
            Err(code) => self.settle(correlation, pending, Outcome::Failed(code), world, history),
            Ok(node) => {
                self.settle(correlation, pending, Outcome::Unknown, world, history);
                // A node that doesn't answer isn't asked again, as a rule.
                if let State::Open(connection) = self.lines[usize::from(node.0)].state
                    && self.prng.one_in(2)
                {
                    let now = world.now();
                    world.network.close(now, connection, Side::Dialer);
                    self.hang_up(node, world, history);
                }
            }
        }
    }

    /// The node to which a connection leads.
    fn node_of(&self, connection: ConnectionId) -> Option<NodeId> {
        let is_it = |line: &Line| {
            line.state == State::Dialing(connection) || line.state == State::Open(connection)
        };
        self.lines.iter().position(is_it).map(node_id)
    }

    /// The connection is open.
    pub(super) fn on_opened(&mut self, connection: ConnectionId, world: &mut World) {
        if let Some(node) = self.node_of(connection) {
            let line = &mut self.lines[usize::from(node.0)];
            line.state = State::Open(connection);
            line.backoff_ns = BACKOFF_NS_MIN;
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
        if let Some(node) = self.node_of(connection) {
            self.hang_up(node, world, history);
        }
    }

    fn hang_up(&mut self, node: NodeId, world: &mut World, history: &mut History) {
        let line = &mut self.lines[usize::from(node.0)];
        line.state = State::Down;
        line.received.clear();
        let delay_ns = line.backoff_ns + self.prng.below(line.backoff_ns);
        line.backoff_ns = (2 * line.backoff_ns).min(BACKOFF_NS_MAX);
        self.leaders.retain(|_, leader| *leader != node);
        let is_lost = |(_, pending): &(&CorrelationId, &Pending)| pending.asked == Ok(node);
        let lost = self.pending.iter().filter(is_lost);
        let lost: Vec<CorrelationId> = lost.map(|(correlation, _)| *correlation).collect();
        for correlation in lost {
            let Some(mut pending) = self.pending.remove(&correlation) else { continue };
            let may_ask_again = !pending.action.is_write() && self.lines.len() > 1;
            if may_ask_again && world.now() < pending.deadline {
                // A read has no effect: somebody else can answer it as well.
                pending.pages.clear();
                pending.asked = Err(Code::Unavailable);
                self.ask_later(correlation, pending, world);
            } else {
                self.settle(correlation, pending, Outcome::Unknown, world, history);
            }
        }
        self.wake_after(delay_ns, Wake::Dial(node), world);
    }

    /// Bytes of a node.
    pub(super) fn on_bytes(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        world: &mut World,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some(node) = self.node_of(connection) else { return Ok(()) };
        self.lines[usize::from(node.0)].received.extend_from_slice(bytes);
        let wrong = |what: String| Violation::new(Checker::Sense, what);
        loop {
            let received = &mut self.lines[usize::from(node.0)].received;
            let Some(payload) = codec::take_frame(received).map_err(wrong)? else { return Ok(()) };
            let reply = codec::decode(payload).map_err(wrong)?;
            self.on_reply(reply, world, history).map_err(|found| found.at(world.now()))?;
        }
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
        let answer = codec::understand(&pending.action, &reply, pending.may_be_repeated(), history)
            .map_err(|what| Violation::new(Checker::Sense, format!("{what}: {reply:?}")))?;
        let outcome = match answer {
            codec::Answer::Page(page) => {
                pending.pages.push(page);
                return Ok(());
            }
            codec::Answer::End => Outcome::Listed(std::mem::take(&mut pending.pages)),
            codec::Answer::Whole(outcome) => outcome,
        };
        let mut pending = self.pending.remove(&correlation).expect("it was found");
        if let Outcome::Failed(code) = outcome
            && code != Code::SessionExpired
            && self.lines.len() > 1
        {
            self.note_leader(&reply, history.partition_of(&pending.action));
            pending.pages.clear();
            pending.asked = Err(code);
            self.ask_later(correlation, pending, world);
            return Ok(());
        }
        let is_last_question = self.last_questions.last() == Some(&pending.action);
        if is_last_question && !matches!(outcome, Outcome::Failed(_) | Outcome::Unknown) {
            self.last_questions.pop();
        }
        if let Some(first) = &pending.first {
            check_repeated(&pending.action, first, &outcome)?;
        }
        if let (Some(index), Some(partition)) =
            (command_index(&outcome), history.partition_of(&pending.action))
        {
            world.acknowledged.acknowledge(partition, reply.term, index);
            world.replicas.on_answered(partition, reply.term, index)?;
        }
        self.settle(correlation, pending, outcome, world, history);
        if !self.last_questions.is_empty() {
            self.wake_after(NS_PER_MS, Wake::Think, world);
        }
        Ok(())
    }

    /// Something came of a request. A command of a session is sent again if that isn't an answer,
    /// and sometimes if it is.
    fn settle(
        &mut self,
        correlation: CorrelationId,
        mut pending: Pending,
        outcome: Outcome,
        world: &mut World,
        history: &mut History,
    ) {
        if let Action::Session { partition, step: SessionStep::Open { .. } } = pending.action {
            let id = if let Outcome::Session { id, .. } = outcome { Some(id) } else { None };
            self.sessions.on_opened(partition, id);
        }
        let Some((call, until)) = pending.call else {
            return self.end(&pending, outcome, world, history);
        };
        if outcome == Outcome::Failed(Code::SessionExpired) {
            mark!("session-expired");
            self.sessions.forget(call);
        }
        pending.is_uncertain |= outcome == Outcome::Unknown;
        let is_open = matches!(
            outcome,
            Outcome::Unknown | Outcome::Failed(Code::Unavailable | Code::ResourceExhausted)
        );
        if call.sequence > 0 && is_open && world.now() < until {
            mark!("session-retry");
            return self.insist(correlation, pending, world);
        }
        let is_answer = !matches!(outcome, Outcome::Unknown | Outcome::Failed(_));
        if pending.first.is_none() {
            let certain = as_of_first(outcome.clone(), pending.is_uncertain);
            self.end(&pending, certain, world, history);
            if call.sequence > 0 && is_answer && self.prng.one_in(REPEATED_ONE_IN) {
                pending.first = Some(outcome);
                return self.insist(correlation, pending, world);
            }
        } else if is_answer {
            mark!("session-answered-again");
        }
        self.sessions.acknowledge(call);
    }

    /// A command of a session is sent once more.
    fn insist(&mut self, correlation: CorrelationId, mut pending: Pending, world: &mut World) {
        pending.deadline = world.now().after_ns(2 * world.swarm.workload.patience_ns);
        pending.asked = Err(Code::Unavailable);
        self.ask_later(correlation, pending, world);
    }

    /// A node has refused, and perhaps said who wouldn't.
    fn note_leader(&mut self, reply: &Reply, partition: Option<PartitionId>) {
        let Some(partition) = partition else { return };
        let count = self.lines.len();
        let named = |node: &usize| reply.hint() == Some(member_name(node_id(*node)).as_str());
        match (0..count).find(named) {
            Some(node) => self.leaders.insert(partition, node_id(node)),
            None => self.leaders.remove(&partition),
        };
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
        self.learn(pending, &outcome, history);
        let is_answered = !matches!(outcome, Outcome::Unknown | Outcome::Failed(_));
        history.end(pending.operation, outcome, now);
        if !is_answered && !self.last_questions.is_empty() {
            self.wake_after(NS_PER_MS, Wake::Think, world);
        }
    }

    /// What it can use later: for conditions, and to ask for what it knows to be there.
    fn learn(&mut self, pending: &Pending, outcome: &Outcome, history: &History) {
        let partition = history.partition_of(&pending.action);
        let index = match outcome {
            Outcome::Found { index, .. }
            | Outcome::Exists { index, .. }
            | Outcome::Sized { index, .. } => Some(*index),
            _ => command_index(outcome),
        };
        let Some(index) = index else { return };
        if let Some(partition) = partition {
            let reached = self.reached.entry(partition).or_default();
            *reached = index.max(*reached);
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

/// The slot of a command, as its client is told.
fn command_index(outcome: &Outcome) -> Option<Index> {
    match outcome {
        Outcome::Written { index, .. }
        | Outcome::ConditionFailed { index, .. }
        | Outcome::Removed { index, .. }
        | Outcome::Session { index, .. }
        | Outcome::Cleared { index, .. } => Some(*index),
        _ => None,
    }
}

fn node_id(place: usize) -> NodeId {
    NodeId(u8::try_from(place).unwrap_or(u8::MAX))
}
