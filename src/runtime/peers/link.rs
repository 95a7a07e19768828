//! How far one connection between members has come.

use bytes::Bytes;

use super::WayId;
use crate::base::ids::ShardId;
use crate::base::limits::{PEER_PING_INTERVAL_NS, PEER_SILENCE_NS_MAX};
use crate::base::time::Monotonic;
use crate::wire::peer::hello::{Hello, Proof};

/// What is known of a connection between members.
#[derive(Debug)]
pub struct PeerLink {
    /// Which one it is; `None`: the other side hasn't said.
    pub way: Option<WayId>,
    /// How far it has come.
    pub stage: Stage,
    /// When something came last.
    pub heard_at: Monotonic,
    /// When the other side was asked last whether it is there.
    pub asked_at: Monotonic,
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
        Self { way, stage, heard_at: now, asked_at: now }
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
