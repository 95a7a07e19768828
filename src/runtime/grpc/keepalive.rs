//! Notices a client that has gone without a word: one that was silent for long is asked for a sign
//! of life, and has some time to give it.

use std::task::Context;

use h2::{Ping, PingPong};

use crate::base::limits::{GRPC_KEEPALIVE_IDLE_NS, GRPC_KEEPALIVE_TIMEOUT_NS};
use crate::base::time::Monotonic;

/// When the client was heard last, and whether it was asked since.
#[derive(Debug)]
pub(super) struct Keepalive {
    pings: PingPong,
    /// Bytes came since the last look.
    heard: bool,
    heard_at: Monotonic,
    asked_at: Option<Monotonic>,
    /// h2 sends no other ping before it has handed over the answer to the last.
    answer_due: bool,
}

/// The client gave no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent;

impl Keepalive {
    pub(super) fn new(pings: PingPong, now: Monotonic) -> Self {
        Self { pings, heard: false, heard_at: now, asked_at: None, answer_due: false }
    }

    /// Bytes came. Any byte is a sign of life.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    pub(super) fn check(&mut self, now: Monotonic, cx: &mut Context<'_>) -> Result<(), Silent> {
        if self.answer_due && self.pings.poll_pong(cx).is_ready() {
            self.answer_due = false;
        }
        if self.heard {
            self.heard = false;
            self.heard_at = now;
            self.asked_at = None;
        }
        if now < self.deadline() {
            return Ok(());
        }
        if self.asked_at.is_some() {
            return Err(Silent);
        }
        if !self.answer_due {
            self.answer_due = self.pings.send_ping(Ping::opaque()).is_ok();
        }
        self.asked_at = Some(now);
        Ok(())
    }

    pub(super) fn deadline(&self) -> Monotonic {
        match self.asked_at {
            Some(asked_at) => asked_at.after_ns(GRPC_KEEPALIVE_TIMEOUT_NS),
            None => self.heard_at.after_ns(GRPC_KEEPALIVE_IDLE_NS),
        }
    }
}
