//! One direction of one connection.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::frames::{FrameCutter, Stamp};
use super::{Rule, Shared, Way};
use crate::base::cast::u64_from;
use crate::base::prng::Prng;
use crate::base::time::NS_PER_S;

/// The most that is read at once.
const READ_SIZE_BYTES: usize = 64 << 10;
/// Of a stream that is throttled so much is sent at once.
const SLOW_SIZE_BYTES: usize = 1 << 10;

/// Passes on what is said in one direction.
#[derive(Debug)]
pub(super) struct Pump {
    /// Its connection.
    pub(super) number: u64,
    pub(super) way: Way,
    pub(super) from: TcpStream,
    pub(super) to: TcpStream,
    pub(super) shared: Arc<Shared>,
    /// Says which frames are lost.
    pub(super) prng: Prng,
}

impl Pump {
    pub(super) fn run(mut self) {
        if self.pass_all().is_ok() {
            // All has been said in this direction, and the other one may go on.
            let _ = self.to.shutdown(Shutdown::Write);
        } else {
            let _ = self.from.shutdown(Shutdown::Both);
            let _ = self.to.shutdown(Shutdown::Both);
        }
        self.shared.lock().end_direction(self.number);
    }

    fn pass_all(&mut self) -> io::Result<()> {
        let mut frames = FrameCutter::default();
        let (mut chunk, mut out) = (vec![0; READ_SIZE_BYTES], Vec::new());
        loop {
            let size = match self.from.read(&mut chunk) {
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // The end is held like anything else that is said.
            let rule = self.wait_until_it_passes()?;
            if size == 0 {
                return Ok(());
            }
            out.clear();
            let (prng, shared) = (&mut self.prng, &self.shared);
            let loses = |stamp: &Stamp| {
                let is_lost = match rule.loses_all_copies {
                    true => stamp.is_chosen(rule.loses_one_in),
                    false => prng.one_in(rule.loses_one_in),
                };
                shared.lost_count.fetch_add(u64::from(is_lost), Ordering::Relaxed);
                is_lost
            };
            let loses = (rule.loses_one_in > 0).then_some(loses);
            frames.pass(&chunk[..size], loses, &mut out);
            self.shared.pause(self.way, rule, rule.delay)?;
            self.send(&out)?;
        }
    }

    /// Waits while everything is held, and returns what else is the rule then.
    fn wait_until_it_passes(&self) -> io::Result<Rule> {
        let way = self.way;
        let waits = |state: &mut super::State| state.rule(way).is_held && !state.is_ending;
        let state = self.shared.changed.wait_while(self.shared.lock(), waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_ending {
            Err(ErrorKind::ConnectionAborted.into())
        } else {
            Ok(*state.rule(way))
        }
    }

    /// Sends it, at the rate that is the rule meanwhile.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let rule = self.wait_until_it_passes()?;
            let size = match rule.rate_bytes {
                0 => bytes.len(),
                _ => bytes.len().min(SLOW_SIZE_BYTES),
            };
            let (now, later) = bytes.split_at(size);
            self.to.write_all(now)?;
            bytes = later;
            if let Some(ns) = (u64_from(size) * NS_PER_S).checked_div(rule.rate_bytes) {
                self.shared.pause(self.way, rule, Duration::from_nanos(ns))?;
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Waits so long, or until another rule holds.
    fn pause(&self, way: Way, rule: Rule, pause: Duration) -> io::Result<()> {
        if pause.is_zero() {
            return Ok(());
        }
        let waits = |state: &mut super::State| *state.rule(way) == rule && !state.is_ending;
        let state = self.changed.wait_timeout_while(self.lock(), pause, waits);
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_ending { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}
