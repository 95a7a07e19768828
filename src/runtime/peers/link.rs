//! How far one connection between members has come.

use std::fmt;

use bytes::Bytes;

use super::WayId;
use crate::base::ids::{BootEpoch, ShardId};
use crate::base::limits::{PEER_PING_INTERVAL_NS, PEER_SILENCE_NS_MAX};
use crate::base::time::Monotonic;
use crate::runtime::grpc::GrpcLane;
use crate::wire::peer::hello::{Hello, Proof};

/// What is known of a connection between members.
#[derive(Debug)]
pub struct PeerLink {
    /// Which one it is; `None`: the other side hasn't said.
    pub way: Option<WayId>,
    /// How far it has come.
    pub stage: Stage,
    /// What its frames travel in.
    pub carrier: Carrier,
    /// When something came last.
    pub heard_at: Monotonic,
    /// When the other side was asked last whether it is there.
    pub asked_at: Monotonic,
}

/// What frames between members travel in.
#[derive(Debug)]
pub enum Carrier {
    /// Nothing: they are raw.
    Frames,
    /// A call of gRPC. It moves to another core with its connection.
    Grpc(Box<GrpcLane>),
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames",
            Self::Grpc(_) => "grpc",
        })
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Stage {
    /// It is being made.
    Connecting {
        /// Only to see whether somebody listens.
        is_probe: bool,
    },
    /// We have dialled, said who we are, and wait for the same.
    Greeted {
        /// What we said.
        hello: Box<Hello>,
        /// The latest boot of the other side's node at that moment.
        known: BootEpoch,
    },
    /// Somebody has dialled: who it is, comes next.
    Expecting,
    /// Who has dialled wants another shard: it goes there with its greeting.
    Leaving {
        /// The shard.
        to: ShardId,
        /// The greeting.
        hello: Bytes,
    },
    /// Who has dialled was answered, and must greet once more: with its proof, if it was asked.
    Answered {
        /// What it has said.
        theirs: Box<Hello>,
        /// What it was asked.
        challenge: Option<Proof>,
        /// The latest boot of its node at that moment.
        known: BootEpoch,
    },
    /// Messages go both ways.
    Open,
    /// It is over.
    Over,
}

impl PeerLink {
    /// One that begins.
    #[must_use]
    pub const fn new(way: Option<WayId>, stage: Stage, now: Monotonic) -> Self {
        Self { way, stage, carrier: Carrier::Frames, heard_at: now, asked_at: now }
    }

    /// The same, whose frames travel in this.
    #[must_use]
    pub fn carried_by(self, carrier: Carrier) -> Self {
        Self { carrier, ..self }
    }

    /// The call that its frames travel in, if they aren't raw.
    pub fn lane(&mut self) -> Option<&mut GrpcLane> {
        match &mut self.carrier {
            Carrier::Frames => None,
            Carrier::Grpc(lane) => Some(lane),
        }
    }

    /// Bytes that wait in what carries its frames.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        match &self.carrier {
            Carrier::Frames => 0,
            Carrier::Grpc(lane) => lane.queued_bytes(),
        }
    }

    /// Bytes that came and that what carries its frames holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.carrier {
            Carrier::Frames => 0,
            Carrier::Grpc(lane) => lane.held_bytes(),
        }
    }

    /// Whether the kernel is still making it.
    #[must_use]
    pub const fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. })
    }

    /// Whether messages go both ways.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether it goes to another core.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }

    /// When the other side has been silent for too long.
    #[must_use]
    pub const fn silent_by(&self) -> Monotonic {
        self.heard_at.after_ns(PEER_SILENCE_NS_MAX)
    }

    /// When it is to be asked again whether it is there.
    #[must_use]
    pub const fn asks_by(&self) -> Monotonic {
        self.asked_at.after_ns(PEER_PING_INTERVAL_NS)
    }

    /// When one of the two is due, of an open connection.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.is_open().then(|| self.silent_by().min(self.asks_by()))
    }
}
