//! Connections as streams: bytes that are sent arrive in their order, all of them or up to some
//! point, and different connections don't know of each other. Delays, breaks, ends that can't reach
//! each other in one direction or both, and clogging.
//!
//! What is on a stream are the bytes that real ends would put there; they may arrive in pieces. A
//! connection that breaks loses what is on its way. Between members, whoever says again after a
//! reconnection what it can't know to have arrived can do so ([`Network::keep`] and
//! [`Network::resend`]): so messages arrive twice. The network knows nothing of frames or of what
//! they mean: what may be said twice its sender decides.

use std::collections::{BTreeMap, VecDeque};

use super::swarm::NetworkWeather;
use super::{ClientId, ConnectionId, NodeId};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{PartitionId, ShardId};
use crate::base::limits::SIMULATED_RESENT_COUNT_MAX;
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS};

/// How long a connection stands it that nothing gets through.
const SILENCE_NS_MAX: u64 = 800 * NS_PER_MS;
/// How much longer everything takes on a clogged way.
const CLOG_FACTOR: u64 = 50;

/// An end of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A node.
    Node(NodeId),
    /// A client.
    Client(ClientId),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// A client's requests.
    Client,
    /// What the dialer's shard and the other node's shard that holds a partition say to each other.
    Peer(ShardId, PartitionId),
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Who has opened it.
    Dialer,
    /// Who was there.
    Acceptor,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Acceptor,
            Self::Acceptor => Self::Dialer,
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::Dialer => 0,
            Self::Acceptor => 1,
        }
    }
}

/// What the network lets happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A connection reaches the end that it was dialled to: [`Network::accept`] or
    /// [`Network::refuse`] it.
    Dialed(ConnectionId),
    /// It is open; the end that has dialled it learns of it.
    Opened(ConnectionId),
    /// Bytes reach an end: [`Network::arrivals`] has them.
    Arrival {
        /// On which connection.
        connection: ConnectionId,
        /// Which end.
        to: Side,
    },
    /// An end learns that there is no such connection any more.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Which end learns it.
        end: Endpoint,
        /// It was never open, and the other end's host has said so.
        refused: bool,
    },
    /// Two ends can reach each other again in this direction.
    Unblocked {
        /// Who sends.
        from: Endpoint,
        /// Who receives.
        to: Endpoint,
    },
}

#[derive(Debug)]
struct Connection {
    dialer: Endpoint,
    acceptor: Endpoint,
    lane: Lane,
    open: bool,
    /// What each side sends.
    streams: [Stream; 2],
}

#[derive(Debug, Default)]
struct Stream {
    /// What is on its way, and when it arrives.
    on_its_way: VecDeque<(Monotonic, Vec<u8>)>,
    /// When what was sent last arrives: nothing arrives before it.
    last_arrival: Monotonic,
    /// Since when something waits that can't get through.
    held_since: Option<Monotonic>,
}

impl Connection {
    const fn end(&self, side: Side) -> Endpoint {
        match side {
            Side::Dialer => self.dialer,
            Side::Acceptor => self.acceptor,
        }
    }

    /// Who sends, and who receives.
    const fn way(&self, from: Side) -> (Endpoint, Endpoint) {
        (self.end(from), self.end(from.other()))
    }
}

/// Sender, receiver and lane of messages between members.
type Way = (Endpoint, Endpoint, Lane);

/// All connections of a run.
#[derive(Debug)]
pub struct Network {
    prng: Prng,
    weather: NetworkWeather,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    /// Who can't reach whom, and until when.
    blocks: BTreeMap<(Endpoint, Endpoint), Monotonic>,
    /// Whose messages to whom take long, and until when.
    clogs: BTreeMap<(Endpoint, Endpoint), Monotonic>,
    /// A way that carries much falls behind: each delivery in pieces makes those after it wait.
    /// (That is a link with too little bandwidth, a fault like others.)
    falls_behind: bool,
    /// What members have said last that they may say again, on each way.
    sent: BTreeMap<Way, VecDeque<Vec<u8>>>,
    /// What is to be scheduled.
    outbox: Vec<(Monotonic, NetworkEvent)>,
}

impl Network {
    /// A network without connections.
    #[must_use]
    pub fn new(seed: u64, weather: NetworkWeather) -> Self {
        Self {
            prng: Prng::new(seed, "network"),
            weather,
            connections: BTreeMap::new(),
            next_connection: 1,
            blocks: BTreeMap::new(),
            clogs: BTreeMap::new(),
            falls_behind: true,
            sent: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    /// What is to be scheduled, since it was taken last.
    pub fn take_events(&mut self) -> impl Iterator<Item = (Monotonic, NetworkEvent)> + '_ {
        self.outbox.drain(..)
    }

    /// Begins to open a connection. It reaches the other end, or its dialler learns that it won't.
    pub fn dial(
        &mut self,
        now: Monotonic,
        dialer: Endpoint,
        acceptor: Endpoint,
        lane: Lane,
    ) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let connection =
            Connection { dialer, acceptor, lane, open: true, streams: Default::default() };
        self.connections.insert(id, connection);
        if self.is_blocked(dialer, acceptor, now) || self.is_blocked(acceptor, dialer, now) {
            // Nobody answers, and nobody says so.
            self.drop_connection(id);
            self.tell_closed(id, dialer, now.after_ns(SILENCE_NS_MAX));
        } else {
            let due = now.after_ns(self.delay_ns(dialer, acceptor, now));
            self.outbox.push((due, NetworkEvent::Dialed(id)));
        }
        id
    }

    /// The end that was dialled to takes the connection. False: its dialler has given it up.
    pub fn accept(&mut self, now: Monotonic, id: ConnectionId) -> bool {
        let Some((from, to)) = self.way(id, Side::Acceptor) else { return false };
        let due = now.after_ns(self.delay_ns(from, to, now));
        if let Some(connection) = self.connections.get_mut(&id) {
            // What the acceptor sends at once comes after that.
            connection.streams[Side::Acceptor.place()].last_arrival = due;
        }
        self.outbox.push((due, NetworkEvent::Opened(id)));
        true
    }

    /// Nobody listens where it was dialled to.
    pub fn refuse(&mut self, now: Monotonic, id: ConnectionId) {
        let Some((from, to)) = self.way(id, Side::Acceptor) else { return };
        let due = now.after_ns(self.delay_ns(from, to, now));
        self.drop_connection(id);
        let event = NetworkEvent::Closed { connection: id, end: to, refused: true };
        self.outbox.push((due, event));
    }

    /// Sends bytes. Nobody learns now whether they arrive.
    pub fn send(&mut self, now: Monotonic, id: ConnectionId, from: Side, bytes: Vec<u8>) {
        if self.way(id, from).is_some() {
            self.put_on_its_way(now, id, from, bytes);
        }
    }

    /// Keeps what a member may say again on a later connection between the same two ends.
    pub fn keep(&mut self, id: ConnectionId, from: Side, bytes: Vec<u8>) {
        let connection = self.connections.get(&id).filter(|found| found.open && !bytes.is_empty());
        let Some(connection) = connection else { return };
        let (sender, receiver) = connection.way(from);
        let sent = self.sent.entry((sender, receiver, connection.lane)).or_default();
        sent.push_back(bytes);
        if sent.len() > SIMULATED_RESENT_COUNT_MAX {
            sent.pop_front();
        }
    }

    /// Sends once more what was kept last on the connections of the same two ends and lane before
    /// this one, if the seed says so: each as it was, in its order. To be called when a connection
    /// between members is open and its `Hello` was sent. Returns how many there were.
    pub fn resend(&mut self, now: Monotonic, id: ConnectionId, from: Side) -> usize {
        let Some(connection) = self.connections.get(&id).filter(|found| found.open) else {
            return 0;
        };
        let (sender, receiver) = connection.way(from);
        let way = (sender, receiver, connection.lane);
        if self.prng.below(100) >= self.weather.resend_percent {
            return 0;
        }
        let again: Vec<Vec<u8>> = self.sent.get(&way).into_iter().flatten().cloned().collect();
        let skipped = usize_from(self.prng.below(u64_from(again.len()) + 1));
        let count = again.len() - skipped;
        for bytes in again.into_iter().skip(skipped) {
            self.put_on_its_way(now, id, from, bytes);
        }
        count
    }

    /// What arrives at an end: nothing if the connection is gone, nor while nothing gets through.
    pub fn arrivals(&mut self, now: Monotonic, id: ConnectionId, to: Side) -> Vec<Vec<u8>> {
        let Some((sender, receiver)) = self.way(id, to.other()) else { return Vec::new() };
        let is_blocked = self.is_blocked(sender, receiver, now);
        let connection = self.connections.get_mut(&id).expect("its way was found");
        let stream = &mut connection.streams[to.other().place()];
        if is_blocked {
            stream.held_since.get_or_insert(now);
            return Vec::new();
        }
        let mut arrived = Vec::new();
        while let Some((_, bytes)) = stream.on_its_way.pop_front_if(|(due, _)| *due <= now) {
            arrived.push(bytes);
        }
        arrived
    }

    /// One end closes the connection: what it has sent arrives, and then its end.
    pub fn close(&mut self, now: Monotonic, id: ConnectionId, by: Side) {
        let Some((from, to)) = self.way(id, by) else { return };
        let delay_ns = self.delay_ns(from, to, now);
        let connection = self.connections.get_mut(&id).expect("its way was found");
        let due = connection.streams[by.place()].last_arrival.max(now.after_ns(delay_ns));
        self.tell_closed(id, to, due);
    }

    /// The connection is gone for an end that was told so.
    pub fn forget(&mut self, id: ConnectionId) {
        self.drop_connection(id);
    }

    /// A connection breaks: what is on its way is lost, and both ends learn it in time.
    pub fn break_off(&mut self, now: Monotonic, id: ConnectionId) {
        let Some((dialer, acceptor)) = self.way(id, Side::Dialer) else { return };
        self.drop_connection(id);
        for (from, to) in [(acceptor, dialer), (dialer, acceptor)] {
            let due = now.after_ns(self.delay_ns(from, to, now));
            self.tell_closed(id, to, due);
        }
    }

    /// A process is gone. `silently`: with its machine, so that the other ends learn it only when
    /// they have heard nothing for long.
    pub fn end_gone(&mut self, now: Monotonic, end: Endpoint, silently: bool) {
        let gone: Vec<(ConnectionId, Side)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.open)
            .filter_map(|(id, connection)| {
                let is_dialer = connection.dialer == end;
                let is_acceptor = connection.acceptor == end;
                let left = if is_dialer { Side::Acceptor } else { Side::Dialer };
                (is_dialer || is_acceptor).then_some((*id, left))
            })
            .collect();
        for (id, left) in gone {
            let (from, to) = self.way(id, left.other()).expect("it was open");
            let mut delay_ns = self.delay_ns(from, to, now);
            if silently {
                delay_ns += self.prng.below(SILENCE_NS_MAX);
            }
            self.drop_connection(id);
            self.tell_closed(id, to, now.after_ns(delay_ns));
        }
    }

    /// A process is gone, and nobody remembers what it has sent.
    pub fn forget_sent(&mut self, end: Endpoint) {
        self.sent.retain(|(sender, ..), _| *sender != end);
    }

    /// Nothing gets from one end to another until `until`.
    pub fn block(&mut self, from: Endpoint, to: Endpoint, until: Monotonic) {
        let blocked_until = self.blocks.entry((from, to)).or_insert(until);
        *blocked_until = (*blocked_until).max(until);
        self.outbox.push((until, NetworkEvent::Unblocked { from, to }));
    }

    /// What gets from one end to another takes very long until `until`.
    pub fn clog(&mut self, from: Endpoint, to: Endpoint, until: Monotonic) {
        self.clogs.insert((from, to), until);
    }

    /// A block may have come to its end: what waited goes on, where it didn't wait too long.
    pub fn on_unblocked(&mut self, now: Monotonic, from: Endpoint, to: Endpoint) {
        if self.is_blocked(from, to, now) {
            return;
        }
        self.blocks.remove(&(from, to));
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            for side in [Side::Dialer, Side::Acceptor] {
                if self.way(id, side) == Some((from, to)) {
                    self.release(now, id, side);
                }
            }
        }
    }

    /// Ends all blocks and clogs, and gives each way the bandwidth that it needs.
    pub fn heal(&mut self, now: Monotonic) {
        let blocks: Vec<(Endpoint, Endpoint)> = self.blocks.keys().copied().collect();
        self.blocks.clear();
        self.clogs.clear();
        self.falls_behind = false;
        for (from, to) in blocks {
            self.on_unblocked(now, from, to);
        }
    }

    /// The connections that are open, in their order.
    pub fn open_connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.connections.iter().filter(|(_, connection)| connection.open).map(|(id, _)| *id)
    }

    /// The two ends of a connection that is open, and its lane: who has dialled, and who takes it.
    #[must_use]
    pub fn ends(&self, id: ConnectionId) -> Option<(Endpoint, Endpoint, Lane)> {
        let connection = self.connections.get(&id).filter(|connection| connection.open)?;
        Some((connection.dialer, connection.acceptor, connection.lane))
    }

    /// What couldn't get through goes on, unless it has waited for too long.
    fn release(&mut self, now: Monotonic, id: ConnectionId, from: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(since) = connection.streams[from.place()].held_since.take() else { return };
        if now.since_ns(since) > SILENCE_NS_MAX {
            self.break_off(now, id);
        } else {
            self.outbox.push((now, NetworkEvent::Arrival { connection: id, to: from.other() }));
        }
    }

    fn put_on_its_way(&mut self, now: Monotonic, id: ConnectionId, from: Side, bytes: Vec<u8>) {
        let (sender, receiver) = self.way(id, from).expect("the connection is open");
        let delay_ns = self.delay_ns(sender, receiver, now);
        let connection = self.connections.get_mut(&id).expect("its way was found");
        let stream = &mut connection.streams[from.place()];
        let mut due = now.after_ns(delay_ns).max(stream.last_arrival);
        let to = from.other();
        let mut pieces = vec![bytes];
        if pieces[0].len() > 1 && self.prng.one_in(self.weather.pieces_one_in) {
            let cut = usize_from(1 + self.prng.below(u64_from(pieces[0].len()) - 1));
            let rest = pieces[0].split_off(cut);
            pieces.push(rest);
        }
        for piece in pieces {
            stream.on_its_way.push_back((due, piece));
            self.outbox.push((due, NetworkEvent::Arrival { connection: id, to }));
            stream.last_arrival = due;
            let pause_ns = self.prng.below(self.weather.jitter_ns + 1);
            due = match self.falls_behind {
                true => due.after_ns(pause_ns),
                false => due.max(now.after_ns(delay_ns + pause_ns)),
            };
        }
    }

    fn drop_connection(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    fn tell_closed(&mut self, connection: ConnectionId, end: Endpoint, due: Monotonic) {
        self.outbox.push((due, NetworkEvent::Closed { connection, end, refused: false }));
    }

    fn is_blocked(&self, from: Endpoint, to: Endpoint, now: Monotonic) -> bool {
        self.blocks.get(&(from, to)).is_some_and(|until| now < *until)
    }

    /// From whom to whom a side of an open connection sends.
    fn way(&self, id: ConnectionId, from: Side) -> Option<(Endpoint, Endpoint)> {
        self.connections.get(&id).filter(|found| found.open).map(|found| found.way(from))
    }

    fn delay_ns(&mut self, from: Endpoint, to: Endpoint, now: Monotonic) -> u64 {
        let NetworkWeather { delay_ns, jitter_ns, .. } = self.weather;
        let usual = delay_ns + self.prng.below(jitter_ns + 1);
        let is_clogged = self.clogs.get(&(from, to)).is_some_and(|until| now < *until);
        if is_clogged { usual * (1 + self.prng.below(CLOG_FACTOR)) } else { usual }
    }
}

#[cfg(test)]
mod tests;
