//! A member's connections to others: dialled, opened with a `Hello`, dialled again when they break,
//! with what is to be sent waiting meanwhile, in bounded number. What frames mean is their sender's
//! and receiver's business.
//!
//! One connection for each pair of shards and lane, from the one that has something to say; what
//! is answered may go back on it. A connection that breaks loses what was on its way: whoever needs
//! an answer asks again. After a reconnection some of what was sent last is sent once more
//! ([`Network::resend`]), for a sender can't know what has arrived.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, Bytes, BytesMut};

use super::network::{Endpoint, Lane, Network, Side};
use super::{ConnectionId, NodeId};
use crate::base::limits::SIMULATED_WAITING_COUNT_MAX;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::wire::frame::{self, Flag, FrameError};

/// Before a member dials again, at least.
const BACKOFF_NS_MIN: u64 = NS_PER_MS;
/// The same at most.
const BACKOFF_NS_MAX: u64 = 100 * NS_PER_MS;

/// To whom, and on which lane.
type Way = (NodeId, Lane);

/// How a way stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// It is dialled then.
    Down(Monotonic),
    Dialing(ConnectionId),
    Open(ConnectionId),
}

#[derive(Debug)]
struct Outgoing {
    line: Line,
    backoff_ns: u64,
    /// Frames that wait for the line.
    waiting: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Incoming {
    way: Way,
    /// Which side of the connection this member is.
    side: Side,
    /// What came and isn't a whole frame yet.
    received: BytesMut,
}

/// A frame, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What its payload is.
    pub flag: Flag,
    /// The payload.
    pub payload: Bytes,
}

/// The connections of one member to the others.
#[derive(Debug)]
pub struct Links {
    me: NodeId,
    outgoing: BTreeMap<Way, Outgoing>,
    /// All connections that are open, whoever has dialled them.
    open: BTreeMap<ConnectionId, Incoming>,
    /// Frames that were given up because too many waited.
    dropped_count: u64,
}

impl Links {
    /// A member without connections.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self { me, outgoing: BTreeMap::new(), open: BTreeMap::new(), dropped_count: 0 }
    }

    /// Sends a frame, now or when the line is open; the oldest of too many that wait is given up.
    pub fn send(
        &mut self,
        now: Monotonic,
        network: &mut Network,
        (to, lane): (NodeId, Lane),
        frame: Vec<u8>,
    ) {
        let outgoing = self.outgoing.entry((to, lane)).or_insert_with(|| Outgoing {
            line: Line::Down(now),
            backoff_ns: BACKOFF_NS_MIN,
            waiting: VecDeque::new(),
        });
        if let Line::Open(connection) = outgoing.line {
            network.send(now, connection, Side::Dialer, frame);
            return;
        }
        outgoing.waiting.push_back(frame);
        if outgoing.waiting.len() > SIMULATED_WAITING_COUNT_MAX {
            outgoing.waiting.pop_front();
            self.dropped_count += 1;
        }
        self.dial(now, network);
    }

    /// Sends a frame back on the connection that brought what it answers. False: that is gone.
    pub fn answer(
        &self,
        now: Monotonic,
        network: &mut Network,
        connection: ConnectionId,
        frame: Vec<u8>,
    ) -> bool {
        let Some(open) = self.open.get(&connection) else { return false };
        network.send(now, connection, open.side, frame);
        true
    }

    /// When [`Links::dial`] has something to do.
    #[must_use]
    pub fn next_dial(&self) -> Option<Monotonic> {
        let due = |outgoing: &Outgoing| match outgoing.line {
            Line::Down(due) => Some(due),
            Line::Dialing(_) | Line::Open(_) => None,
        };
        self.outgoing.values().filter_map(due).min()
    }

    /// Dials what is due.
    pub fn dial(&mut self, now: Monotonic, network: &mut Network) {
        for (&(to, lane), outgoing) in &mut self.outgoing {
            if let Line::Down(due) = outgoing.line
                && due <= now
            {
                let (me, to) = (Endpoint::Node(self.me), Endpoint::Node(to));
                outgoing.line = Line::Dialing(network.dial(now, me, to, lane));
            }
        }
    }

    /// A line is open: `hello` goes first, then perhaps what was sent last on the one before it,
    /// then what waits.
    pub fn on_opened(
        &mut self,
        now: Monotonic,
        network: &mut Network,
        connection: ConnectionId,
        hello: Vec<u8>,
    ) {
        let found = self.outgoing.iter_mut().find(|(_, o)| o.line == Line::Dialing(connection));
        let Some((&way, outgoing)) = found else { return };
        outgoing.line = Line::Open(connection);
        outgoing.backoff_ns = BACKOFF_NS_MIN;
        let waiting = std::mem::take(&mut outgoing.waiting);
        network.send_once(now, connection, Side::Dialer, hello);
        network.resend(now, connection, Side::Dialer);
        for frame in waiting {
            network.send(now, connection, Side::Dialer, frame);
        }
        let incoming = Incoming { way, side: Side::Dialer, received: BytesMut::new() };
        self.open.insert(connection, incoming);
    }

    /// Another member has dialled, and was accepted: `hello` goes back.
    pub fn on_accepted(
        &mut self,
        now: Monotonic,
        network: &mut Network,
        connection: ConnectionId,
        (way, hello): (Way, Vec<u8>),
    ) {
        network.send_once(now, connection, Side::Acceptor, hello);
        let incoming = Incoming { way, side: Side::Acceptor, received: BytesMut::new() };
        self.open.insert(connection, incoming);
    }

    /// A connection is gone, or was never made.
    pub fn on_closed(&mut self, now: Monotonic, connection: ConnectionId) {
        self.open.remove(&connection);
        for outgoing in self.outgoing.values_mut() {
            if outgoing.line == Line::Dialing(connection) || outgoing.line == Line::Open(connection)
            {
                outgoing.line = Line::Down(now.after_ns(outgoing.backoff_ns));
                outgoing.backoff_ns = (2 * outgoing.backoff_ns).min(BACKOFF_NS_MAX);
            }
        }
    }

    /// Whose connection it is, and on which lane; `None`: it isn't open.
    #[must_use]
    pub fn way(&self, connection: ConnectionId) -> Option<(NodeId, Lane)> {
        self.open.get(&connection).map(|open| open.way)
    }

    /// Bytes came on a connection: the frames that are whole now.
    ///
    /// # Errors
    /// If they aren't frames.
    pub fn on_bytes(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> Result<Vec<Frame>, FrameError> {
        let Some(open) = self.open.get_mut(&connection) else { return Ok(Vec::new()) };
        open.received.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some((header, payload)) = frame::next(&open.received)? {
            let mut whole = open.received.split_to(payload.end);
            whole.advance(payload.start);
            frames.push(Frame { flag: header.flag, payload: whole.freeze() });
        }
        Ok(frames)
    }

    /// How many frames were given up because too many waited.
    #[must_use]
    pub const fn dropped_count(&self) -> u64 {
        self.dropped_count
    }
}

#[cfg(test)]
mod tests;
