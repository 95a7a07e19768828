//! The closed loop: connections on one ring, driven by one pinned thread.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf, Bytes, BytesMut};

use super::report::{Report, latencies};
use super::response;
use super::workload::{Cursor, Workload};
use crate::base::cast::{u32_from, u64_from, usize_from_u32};
use crate::base::ids::CorrelationId;
use crate::base::limits::YIELD_INTERVAL_NS;
use crate::base::time::{Monotonic, NS_PER_S};
use crate::runtime::clock::Clock;
use crate::runtime::uring::{Completion, Key, RingSize, Uring, UringError};
use crate::wire::frame::{self, FrameError};

/// How a run goes.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The node.
    pub address: SocketAddr,
    /// The generator's processor.
    pub core: usize,
    /// Never sleep.
    pub spin: bool,
    /// Connections.
    pub connection_count: usize,
    /// Requests in flight on each of them.
    pub depth: usize,
    /// How long is measured.
    pub duration_ns: u64,
    /// How long the run goes before.
    pub warm_up_ns: u64,
    /// What is asked.
    pub workload: Workload,
    /// Give each key a value first.
    pub preload: bool,
}

/// Why a run failed.
#[derive(Debug)]
pub enum LoadError {
    /// There is no ring.
    Ring(UringError),
    /// The ring broke.
    Broken(io::Error),
    /// A connection could not be made.
    Connect(SocketAddr, io::Error),
    /// A connection failed during the run.
    Connection(io::Error),
    /// The node closed a connection.
    Closed,
    /// The node sent what isn't a frame.
    Frame(FrameError),
    /// The thread can't be bound to its core.
    Core(usize),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Broken(error) => write!(f, "io_uring failed: {error}"),
            Self::Connect(address, error) => write!(f, "can't connect to {address}: {error}"),
            Self::Connection(error) => write!(f, "a connection failed: {error}"),
            Self::Closed => f.write_str("the node closed a connection"),
            Self::Frame(error) => write!(f, "the node sent what isn't a frame: {error}"),
            Self::Core(core) => write!(f, "the load generator can't be bound to core {core}"),
        }
    }
}

impl std::error::Error for LoadError {}

/// Runs a load from the calling thread, which is bound to its core.
///
/// # Errors
/// If the node can't be reached, or stops answering properly.
pub fn run(options: &LoadOptions) -> Result<Report, LoadError> {
    pin(options.core)?;
    let ring = Uring::new(RingSize::default()).map_err(LoadError::Ring)?;
    let mut generator = Generator::connect(ring, options)?;
    if options.preload {
        let frames = options.workload.preload_frames();
        generator.begin(&frames, Some(u64_from(frames.len())));
        while generator.in_flight > 0 {
            generator.turn(&frames)?;
        }
    }
    let frames = options.workload.frames();
    generator.begin(&frames, None);
    generator.run_for(&frames, options.warm_up_ns)?;
    generator.report = empty_report();
    generator.run_for(&frames, options.duration_ns)?;
    Ok(generator.report)
}

/// Binds the calling thread to a core.
///
/// # Errors
/// If it isn't one that the process may use.
pub fn pin(core: usize) -> Result<(), LoadError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let id = cores.into_iter().find(|id| id.id == core).ok_or(LoadError::Core(core))?;
    if core_affinity::set_for_current(id) { Ok(()) } else { Err(LoadError::Core(core)) }
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    cursor: Cursor,
    /// What was asked and when, oldest first.
    asked: VecDeque<(CorrelationId, Monotonic)>,
    /// The beginning of an answer.
    held: BytesMut,
    output: BytesMut,
    sending: bool,
}

#[derive(Debug)]
struct Generator {
    ring: Uring,
    clock: Clock,
    now: Monotonic,
    clients: Vec<Client>,
    completions: VecDeque<Completion>,
    spin: bool,
    yielded_at: Monotonic,
    depth: usize,
    in_flight: usize,
    /// Requests that may still be sent.
    allowance: u64,
    report: Report,
}

impl Generator {
    fn connect(mut ring: Uring, options: &LoadOptions) -> Result<Self, LoadError> {
        let fail = |error| LoadError::Connect(options.address, error);
        let mut clients = Vec::with_capacity(options.connection_count);
        for slot in 0..options.connection_count {
            let socket = TcpStream::connect(options.address).map_err(fail)?;
            socket.set_nodelay(true).map_err(fail)?;
            let socket = OwnedFd::from(socket);
            ring.receive(socket.as_fd(), key_of(slot));
            clients.push(Client {
                socket,
                cursor: Cursor::new(0, 1, &[]),
                asked: VecDeque::with_capacity(options.depth),
                held: BytesMut::new(),
                output: BytesMut::new(),
                sending: false,
            });
        }
        let clock = Clock::start();
        Ok(Self {
            ring,
            clock,
            now: clock.monotonic(),
            clients,
            completions: VecDeque::new(),
            spin: options.spin,
            yielded_at: Monotonic(0),
            depth: options.depth,
            in_flight: 0,
            allowance: 0,
            report: empty_report(),
        })
    }

    /// Sends the first requests of a phase: each connection gets its depth of them.
    fn begin(&mut self, frames: &[Bytes], allowance: Option<u64>) {
        self.allowance = allowance.unwrap_or(u64::MAX);
        self.now = self.clock.monotonic();
        let count = self.clients.len();
        for slot in 0..count {
            // With an allowance the frames go out once, in order, whoever sends them.
            let index = if allowance.is_some() { 0 } else { slot };
            self.clients[slot].cursor = Cursor::new(index, count, frames);
        }
        for slot in 0..count {
            for _ in 0..self.depth {
                self.ask(slot, frames, allowance.is_some());
            }
            self.send(slot);
        }
    }

    fn run_for(&mut self, frames: &[Bytes], duration_ns: u64) -> Result<(), LoadError> {
        let begun = self.clock.monotonic();
        let end = begun.after_ns(duration_ns);
        while self.now < end {
            self.turn(frames)?;
        }
        self.report.duration_ns = self.now.since_ns(begun);
        Ok(())
    }

    /// One turn. It counts as busy from its beginning if anything came of it: the system call that
    /// sends is the largest part of the work. Waiting doesn't count.
    fn turn(&mut self, frames: &[Bytes]) -> Result<(), LoadError> {
        let mut begun = self.clock.monotonic();
        self.ring.submit().map_err(LoadError::Broken)?;
        self.ring.reap(&mut self.completions, 256);
        if self.completions.is_empty() && !self.spin {
            self.ring.submit_and_wait().map_err(LoadError::Broken)?;
            begun = self.clock.monotonic();
            self.ring.reap(&mut self.completions, 256);
        }
        self.now = self.clock.monotonic();
        if !self.completions.is_empty() {
            while let Some(completion) = self.completions.pop_front() {
                self.complete(completion, frames)?;
            }
            self.report.busy_ns += self.clock.monotonic().since_ns(begun);
        }
        self.yield_core();
        Ok(())
    }

    /// Lets the scheduler run others now and then, as a node's loops do while it writes: the kernel
    /// finishes synced writes on the core that takes the disk's interrupts, and a generator that
    /// spins there would keep the node's disk waiting for milliseconds.
    fn yield_core(&mut self) {
        if self.spin && self.now.since_ns(self.yielded_at) >= YIELD_INTERVAL_NS {
            rustix::thread::sched_yield();
            self.yielded_at = self.now;
        }
    }

    fn complete(&mut self, completion: Completion, frames: &[Bytes]) -> Result<(), LoadError> {
        match completion {
            Completion::Received { key, data, more } => {
                let slot = usize_from_u32(key.slot);
                if !more {
                    self.ring.receive(self.clients[slot].socket.as_fd(), key);
                }
                match data {
                    Ok(Some(buffer)) => {
                        let held = &mut self.clients[slot].held;
                        held.extend_from_slice(self.ring.buffers().bytes(&buffer));
                        self.ring.buffers_mut().give_back(buffer);
                        self.take_answers(slot, frames)?;
                    }
                    Ok(None) => return Err(LoadError::Closed),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(LoadError::Connection(error)),
                }
                self.send(slot);
            }
            Completion::Sent { key, mut bytes, result } => {
                let slot = usize_from_u32(key.slot);
                bytes.advance(result.map_err(LoadError::Connection)?);
                let client = &mut self.clients[slot];
                client.sending = false;
                // What wasn't sent goes first; as a rule nothing.
                bytes.extend_from_slice(&client.output);
                client.output = bytes;
                self.send(slot);
            }
            Completion::Accepted { .. }
            | Completion::Connected { .. }
            | Completion::Written { .. }
            | Completion::Alarm => {}
        }
        Ok(())
    }

    fn take_answers(&mut self, slot: usize, frames: &[Bytes]) -> Result<(), LoadError> {
        let mut held = std::mem::take(&mut self.clients[slot].held);
        let mut at = 0;
        while let Some((_, payload)) = frame::next(&held[at..]).map_err(LoadError::Frame)? {
            self.answered(slot, &held[at + payload.start..at + payload.end]);
            at += payload.end;
            self.ask(slot, frames, self.allowance != u64::MAX);
        }
        held.advance(at);
        self.clients[slot].held = held;
        Ok(())
    }

    fn answered(&mut self, slot: usize, payload: &[u8]) {
        let asked = &mut self.clients[slot].asked;
        let answer = response::read(payload);
        // Answers come in order as a rule, so the first one fits.
        let place = answer.and_then(|answer| {
            asked.iter().position(|(correlation, _)| *correlation == answer.correlation)
        });
        let (Some(answer), Some(place)) = (answer, place) else {
            self.report.errors_count += 1;
            return;
        };
        self.in_flight -= 1;
        let Some((_, asked_at)) = asked.remove(place) else { return };
        if answer.is_error {
            self.report.errors_count += 1;
        } else {
            self.report.latencies_ns.saturating_record(self.now.since_ns(asked_at).max(1));
        }
    }

    fn ask(&mut self, slot: usize, frames: &[Bytes], shared: bool) {
        if self.allowance == 0 {
            return;
        }
        let source = if shared { 0 } else { slot };
        let (correlation, frame) = self.clients[source].cursor.next_of(frames);
        if shared {
            self.allowance -= 1;
        }
        let client = &mut self.clients[slot];
        client.output.extend_from_slice(frame);
        client.asked.push_back((correlation, self.now));
        self.in_flight += 1;
    }

    fn send(&mut self, slot: usize) {
        let client = &mut self.clients[slot];
        if !client.sending && !client.output.is_empty() {
            client.sending = true;
            let bytes = std::mem::take(&mut client.output);
            self.ring.send(client.socket.as_fd(), key_of(slot), bytes);
        }
    }
}

fn key_of(slot: usize) -> Key {
    Key { slot: u32_from(slot), generation: 0 }
}

fn empty_report() -> Report {
    Report { latencies_ns: latencies(), errors_count: 0, duration_ns: NS_PER_S, busy_ns: 0 }
}
