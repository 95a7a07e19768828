//! One connection: what it speaks, how far its life has come, and the bytes that wait on either
//! side of it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};

use super::grpc::{GrpcConnection, StreamId};
use super::peers::link::{Carrier, PeerLink};
use super::uring::Key;
use crate::base::limits::FORWARDED_PER_CONNECTION_MIN;
use crate::base::time::Monotonic;

/// What a connection speaks.
#[derive(Debug)]
pub enum Protocol {
    /// It hasn't said enough yet.
    Sniffing,
    /// Raw frames: one stream.
    Raw,
    /// gRPC: many streams. Boxed, so that raw connections don't pay for it.
    Grpc(Box<GrpcConnection>),
    /// Another member's. Boxed likewise.
    Peer(Box<PeerLink>),
}

/// How far a connection's life has come. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Frames are read and answered.
    Open,
    /// Nothing is read any more; what is queued still goes out. What comes in is discarded.
    Finishing,
    /// All was sent and our side is closed. Until the peer closes its side what comes in is
    /// discarded: closing with unread bytes would reset the connection and could destroy what the
    /// peer hasn't read yet.
    Lingering,
    /// Cut. It goes when the kernel has let go of it.
    Broken,
}

/// The state of the one receive of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// There is none.
    Idle,
    /// It goes on.
    Armed,
    /// It was cancelled and its last completion hasn't come.
    Cancelling,
}

/// What keeps a stopped connection stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing but the bounds of connections.
    None,
    /// Another shard takes no more requests of this one; it is queued to be read on.
    Credit,
    /// Too many of its own requests are with other shards.
    Forwarded,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its place; fixed.
    pub key: Key,
    /// Its socket.
    pub socket: OwnedFd,
    /// What it speaks.
    pub protocol: Protocol,
    /// How far its life has come.
    pub phase: Phase,
    /// Its receive.
    pub receive: Receive,
    /// Received and not yet handed over: the beginning of a frame, or whole frames too while
    /// `stopped`. Of a gRPC connection: nothing, it holds its bytes itself.
    pub held: BytesMut,
    /// Bytes before `held` in the same memory that were handed over.
    pub held_skipped_size: usize,
    /// What the shard's count of held bytes holds for this connection.
    pub counted_held_size: usize,
    /// Answers that aren't being sent yet.
    pub output: BytesMut,
    /// How many bytes are being sent; 0: no send is in flight.
    pub sending_size: usize,
    /// When some of what is being sent must have been read.
    pub read_by: Option<Monotonic>,
    /// When its phase is over at the latest, where that has a limit.
    pub phase_by: Option<Monotonic>,
    /// What the shard's count of queued bytes holds for this connection.
    pub counted_queued_size: usize,
    /// Frames handed over and not yet answered for the last time.
    pub requests_in_flight: usize,
    /// Those of them that other shards have.
    pub forwarded_count: usize,
    /// How many they may have: more with each short answer, few after a long one.
    pub forwarded_count_max: usize,
    /// Messages of a gRPC connection that were handed over and given back: they come first when
    /// it is read on. (Those of a raw one are in `held`.)
    pub given_back: VecDeque<(StreamId, Bytes)>,
    /// Why it is stopped, if a request has to wait for another shard.
    pub wait: Wait,
    /// A bound was reached: nothing is read until it is well below it again.
    pub stopped: bool,
    /// It is queued to be read on.
    pub resuming: bool,
    /// It is queued to be looked at when the shard has room for requests again.
    pub starved: bool,
    /// The peer closed its side.
    pub ended: bool,
    /// It is queued to be looked at at the end of the turn.
    pub dirty: bool,
}

impl Connection {
    /// A new one.
    #[must_use]
    pub fn new(key: Key, socket: OwnedFd) -> Self {
        Self {
            key,
            socket,
            protocol: Protocol::Sniffing,
            phase: Phase::Open,
            receive: Receive::Idle,
            held: BytesMut::new(),
            held_skipped_size: 0,
            counted_held_size: 0,
            output: BytesMut::new(),
            sending_size: 0,
            read_by: None,
            phase_by: None,
            counted_queued_size: 0,
            requests_in_flight: 0,
            forwarded_count: 0,
            forwarded_count_max: FORWARDED_PER_CONNECTION_MIN,
            given_back: VecDeque::new(),
            wait: Wait::None,
            stopped: false,
            resuming: false,
            starved: false,
            ended: false,
            dirty: false,
        }
    }

    /// Bytes that wait for the peer to read them.
    #[must_use]
    pub fn queued_size(&self) -> usize {
        let in_streams = match &self.protocol {
            Protocol::Grpc(grpc) => grpc.queued_bytes(),
            Protocol::Peer(link) => link.queued_bytes(),
            Protocol::Sniffing | Protocol::Raw => 0,
        };
        self.output.len() + self.sending_size + in_streams
    }

    /// Bytes that came and haven't been handed over.
    #[must_use]
    pub fn held_size(&self) -> usize {
        match &self.protocol {
            Protocol::Grpc(grpc) => {
                let given_back = self.given_back.iter().map(|(_, payload)| payload.len());
                grpc.held_bytes() + given_back.sum::<usize>()
            }
            Protocol::Peer(link) => self.held.len() + link.held_bytes(),
            Protocol::Sniffing | Protocol::Raw => self.held.len(),
        }
    }

    /// Whether the beginning of a frame came and not its end. (What is stopped holds whole frames,
    /// which are still served.)
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.phase == Phase::Open && !self.stopped && !self.held.is_empty()
    }

    /// When something of it is overdue.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let own = match &self.protocol {
            Protocol::Grpc(grpc) if self.phase == Phase::Open => grpc.next_deadline(),
            Protocol::Peer(link) if self.phase == Phase::Open => link.deadline(),
            Protocol::Sniffing | Protocol::Raw | Protocol::Grpc(_) | Protocol::Peer(_) => None,
        };
        [self.phase_by, self.read_by, own].into_iter().flatten().min()
    }

    /// When some of what it has to read must have been read, if it has left anything unread.
    #[must_use]
    pub fn unread_by(&self) -> Option<Monotonic> {
        let in_streams = match &self.protocol {
            Protocol::Grpc(grpc) if self.phase == Phase::Open => grpc.unread_until(),
            Protocol::Sniffing | Protocol::Raw | Protocol::Grpc(_) | Protocol::Peer(_) => None,
        };
        self.read_by.into_iter().chain(in_streams).min()
    }

    /// It has said what it speaks.
    pub fn recognise(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        self.phase_by = None;
    }

    /// Whether the kernel is busy with it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.sending_size > 0 || self.receive != Receive::Idle || self.is_connecting()
    }

    /// Whether the kernel is still making it.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(&self.protocol, Protocol::Peer(link) if link.is_connecting())
    }

    /// Another member's, and what is known of it.
    pub fn link(&mut self) -> Option<&mut PeerLink> {
        match &mut self.protocol {
            Protocol::Peer(link) => Some(link),
            Protocol::Sniffing | Protocol::Raw | Protocol::Grpc(_) => None,
        }
    }

    /// Where frames are appended that go to the other side, whatever they travel in.
    pub fn frames(&mut self) -> &mut BytesMut {
        if let Protocol::Peer(link) = &mut self.protocol
            && let Carrier::Grpc(lane) = &mut link.carrier
        {
            return lane.frames();
        }
        &mut self.output
    }

    /// Whether something should be received: frames while it is open and not stopped, and what is
    /// to be discarded while it closes.
    #[must_use]
    pub fn wants_receive(&self, draining: bool) -> bool {
        if self.ended {
            return false;
        }
        match (self.phase, &self.protocol) {
            // What is stopped are its messages: the rest of HTTP/2 goes on, and its windows say
            // how much a client may still send.
            (Phase::Open, Protocol::Grpc(grpc)) => grpc.wants_bytes(),
            (Phase::Open, Protocol::Peer(link)) => !link.is_connecting() && !link.is_leaving(),
            (Phase::Open, Protocol::Sniffing | Protocol::Raw) => !self.stopped && !draining,
            (Phase::Finishing | Phase::Lingering, _) => true,
            (Phase::Broken, _) => false,
        }
    }

    /// Whether everything that came was handed over and answered, and nothing more can come. A
    /// gRPC connection says itself when it is over, and one between members ends with the node.
    #[must_use]
    pub fn is_served(&self, draining: bool) -> bool {
        (self.ended && !self.stopped || draining)
            && self.requests_in_flight == 0
            && !matches!(self.protocol, Protocol::Grpc(_) | Protocol::Peer(_))
    }
}
