//! One generator: connections on one ring, driven by one pinned thread.
//!
//! In an *open* loop each request has its time from a `Schedule`, and its latency counts from
//! then, whenever it could be sent. It goes to the connection that has waited longest; when none
//! has room it waits, and the schedule doesn't. In a *closed* loop each connection keeps so many
//! requests in flight and sends the next one when an answer comes.

use std::collections::VecDeque;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf, BytesMut};

use super::content::Content;
use super::dialect::{Dialect, Line, Read};
use super::expectation::Expectation;
use super::leaders::Leaders;
use super::load::LoadError;
use super::mix::Kind;
use super::recorder::{Interval, Recorder};
use super::response::{Answer, Outcome};
use super::work::{Span, Work};
use super::workload::{Request, Requests, Workload};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::CorrelationId;
use crate::base::limits::{
    LATE_SEND_NS, LOAD_DRAIN_NS, LOAD_INTERVAL_NS, LOAD_WAKE_BEFORE_NS, YIELD_INTERVAL_NS,
};
use crate::base::time::Monotonic;
use crate::runtime::clock::Clock;
use crate::runtime::uring::{Completion, Key, RingSize, Uring};

/// Completions that are looked at in one turn.
const COMPLETION_COUNT_MAX: usize = 256;

/// A request without an answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: CorrelationId,
    request: Request,
    /// What it writes, if it does.
    content: Option<Content>,
    intended: Monotonic,
    is_measured: bool,
    /// The version that its answer must reflect.
    floor: u64,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    line: Line,
    /// Requests in flight, oldest first.
    asked: VecDeque<Asked>,
    /// The client whose first connection it is is among those with room.
    is_ready: bool,
    /// The beginning of an answer.
    held: BytesMut,
    output: BytesMut,
    is_sending: bool,
}

/// What a generator is made from.
#[derive(Clone, Debug)]
pub struct GeneratorOptions {
    /// Where each of its connections goes; with leaders those of a client follow each other.
    pub addresses: Vec<SocketAddr>,
    /// Whom of its connections a client asks what, if it has several.
    pub leaders: Option<Leaders>,
    /// What it speaks.
    pub dialect: Dialect,
    /// Requests in flight of a client.
    pub depth: usize,
    /// Never sleep.
    pub spin: bool,
    /// What is asked.
    pub workload: Workload,
    /// Its place among the generators of the run, and how many there are.
    pub lane: (usize, usize),
    /// Check values; its name as a writer.
    pub verify: Option<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Generator {
    ring: Uring,
    clock: Clock,
    now: Monotonic,
    connections: Vec<Connection>,
    leaders: Option<Leaders>,
    /// How many connections a client has.
    per_client: usize,
    /// Clients with room, by their first connections; the one that has waited longest first.
    ready: VecDeque<usize>,
    /// Connections with output.
    touched: Vec<usize>,
    completions: VecDeque<Completion>,
    spin: bool,
    yielded_at: Monotonic,
    depth: usize,
    workload: Workload,
    requests: Requests,
    expectation: Expectation,
    is_verifying: bool,
    work: Work,
    span: Span,
    interval_end: Monotonic,
    /// When a request last had to wait for room.
    blocked_at: Monotonic,
    in_flight: usize,
    last_id: CorrelationId,
    key: Vec<u8>,
    /// What was measured.
    pub recorder: Recorder,
}

impl Generator {
    /// Connects.
    ///
    /// # Errors
    /// If there is no ring, or a node can't be reached.
    pub fn connect(options: GeneratorOptions, clock: Clock) -> Result<Self, LoadError> {
        let mut ring = Uring::new(RingSize::default()).map_err(LoadError::Ring)?;
        let mut connections = Vec::with_capacity(options.addresses.len());
        for (slot, address) in options.addresses.iter().enumerate() {
            let fail = |error| LoadError::Connect(*address, error);
            let socket = TcpStream::connect(address).map_err(fail)?;
            socket.set_nodelay(true).map_err(fail)?;
            let socket = OwnedFd::from(socket);
            ring.receive(socket.as_fd(), key_of(slot));
            let mut output = BytesMut::new();
            connections.push(Connection {
                socket,
                line: Line::open(options.dialect, &mut output),
                asked: VecDeque::with_capacity(options.depth),
                is_ready: true,
                held: BytesMut::new(),
                output,
                is_sending: false,
            });
        }
        let now = clock.monotonic();
        let (lane, lanes) = options.lane;
        let writer = options.verify.unwrap_or(0);
        let key_count = if options.verify.is_some() { options.workload.key_count } else { 0 };
        let per_client = options.leaders.as_ref().map_or(1, Leaders::node_count);
        Ok(Self {
            ring,
            clock,
            now,
            ready: (0..connections.len()).step_by(per_client).collect(),
            // Each has something to say before the first request, or nothing to send.
            touched: (0..connections.len()).collect(),
            connections,
            leaders: options.leaders,
            per_client,
            completions: VecDeque::with_capacity(COMPLETION_COUNT_MAX),
            spin: options.spin,
            yielded_at: Monotonic(0),
            depth: options.depth,
            requests: options.workload.requests(lane, lanes),
            expectation: Expectation::new(key_count, options.workload.key_first, writer),
            is_verifying: options.verify.is_some(),
            workload: options.workload,
            work: Work::Drain,
            span: Span { begin: now, measure: now, end: now },
            interval_end: Monotonic(u64::MAX),
            blocked_at: Monotonic(0),
            in_flight: 0,
            last_id: 0,
            key: Vec::new(),
            recorder: Recorder::default(),
        })
    }

    /// Gives this generator's share of the keys their first values.
    ///
    /// # Errors
    /// If a node fails, refuses a value or doesn't answer.
    pub fn preload(&mut self, lane: usize, lanes: usize) -> Result<(), LoadError> {
        let end = self.workload.key_count;
        let (lane, lanes) = (u64::from(u32_from(lane)), u64::from(u32_from(lanes)));
        self.work = Work::Preload { next: lane, end, step: lanes };
        let mut answered_at = self.clock.monotonic();
        let mut left = usize::MAX;
        loop {
            self.turn(answered_at.after_ns(LOAD_DRAIN_NS))?;
            let is_asking = self.work.due(self.now, &self.span).is_some();
            if self.in_flight == 0 && !is_asking {
                break;
            }
            if is_asking || self.in_flight != left {
                (answered_at, left) = (self.now, self.in_flight);
            } else if self.now.since_ns(answered_at) > LOAD_DRAIN_NS {
                return Err(LoadError::Silent);
            }
        }
        match self.recorder.counts.errors() {
            0 => Ok(()),
            _ => Err(LoadError::Preload(self.recorder.counts.refusals.clone())),
        }
    }

    /// Loads. `publish` gets each interval that ends, and puts another one in its place.
    ///
    /// # Errors
    /// If a node closes a connection or stops to speak the protocol.
    pub fn run(
        &mut self,
        work: Work,
        span: Span,
        mut publish: impl FnMut(&mut Box<Interval>),
    ) -> Result<(), LoadError> {
        (self.work, self.span) = (work, span);
        self.interval_end = span.measure.after_ns(LOAD_INTERVAL_NS);
        self.now = self.clock.monotonic();
        self.blocked_at = Monotonic(0);
        while self.now < span.end {
            self.turn(span.end.min(self.interval_end))?;
            while self.now >= self.interval_end && self.interval_end < span.end {
                self.give_out(&mut publish);
            }
        }
        self.recorder.counts.measured_ns = span.end.since_ns(span.measure);
        let work = mem::replace(&mut self.work, Work::Drain);
        let deadline = span.end.after_ns(LOAD_DRAIN_NS);
        while self.in_flight > 0 && self.now < deadline {
            self.turn(deadline)?;
        }
        self.give_up(work);
        self.give_out(&mut publish);
        Ok(())
    }

    fn give_out(&mut self, publish: &mut impl FnMut(&mut Box<Interval>)) {
        let number = self.recorder.interval.number + 1;
        publish(&mut self.recorder.interval);
        self.recorder.interval.reset(number);
        self.interval_end = self.interval_end.after_ns(LOAD_INTERVAL_NS);
    }

    /// What has no answer by now has waited at least so long.
    fn give_up(&mut self, work: Work) {
        let now = self.now;
        for asked in self.connections.iter().flat_map(|connection| &connection.asked) {
            if asked.is_measured {
                self.recorder.counts.timeouts += 1;
                self.recorder.latency(asked.request.kind, now.since_ns(asked.intended));
            }
        }
        if let Work::Open(mut schedule) = work {
            loop {
                let intended = self.span.begin.after_ns(schedule.peek());
                if intended >= self.span.end {
                    break;
                }
                schedule.advance();
                if self.span.measures(intended) {
                    let kind = self.requests.draw().kind;
                    self.recorder.counts.unsent += 1;
                    self.recorder.latency(kind, now.since_ns(intended));
                }
            }
        }
    }

    /// One turn. It counts as busy from its beginning if anything came of it: the system call that
    /// sends is the largest part of the work. Waiting doesn't count.
    fn turn(&mut self, until: Monotonic) -> Result<(), LoadError> {
        let mut begun = self.clock.monotonic();
        self.now = begun;
        let mut has_worked = self.ask_due();
        self.ring.submit().map_err(LoadError::Broken)?;
        self.ring.reap(&mut self.completions, COMPLETION_COUNT_MAX);
        if self.completions.is_empty() && !has_worked && !self.spin && self.sleep(until)? {
            begun = self.clock.monotonic();
            self.ring.reap(&mut self.completions, COMPLETION_COUNT_MAX);
        }
        self.now = self.clock.monotonic();
        if !self.completions.is_empty() {
            has_worked = true;
            while let Some(completion) = self.completions.pop_front() {
                self.complete(completion)?;
            }
        }
        if has_worked && self.span.measures(begun) {
            self.recorder.counts.busy_ns += self.clock.monotonic().since_ns(begun);
        }
        self.yield_core();
        Ok(())
    }

    /// Sleeps until something completes or there is something to do; false if it isn't worth it.
    fn sleep(&mut self, until: Monotonic) -> Result<bool, LoadError> {
        let due = match &self.work {
            Work::Open(schedule) if !self.ready.is_empty() => {
                self.span.begin.after_ns(schedule.peek())
            }
            _ => until,
        };
        let wait_ns = due.min(until).since_ns(self.now);
        if wait_ns <= LOAD_WAKE_BEFORE_NS {
            return Ok(false);
        }
        let wake_at = self.now.after_ns(wait_ns - LOAD_WAKE_BEFORE_NS);
        self.ring.set_alarm(wake_at, self.now);
        self.ring.submit_and_wait().map_err(LoadError::Broken)?;
        Ok(true)
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

    /// Asks all that is due and has a connection with room.
    fn ask_due(&mut self) -> bool {
        let mut has_asked = false;
        while let Some(intended) = self.work.due(self.now, &self.span) {
            let Some(first) = self.ready.pop_front() else {
                self.blocked_at = self.now;
                break;
            };
            self.connections[first].is_ready = false;
            let request = match self.work.take() {
                Some(key) => self.workload.preload(key),
                None => self.requests.draw(),
            };
            let slot = first + self.place_of(&request);
            self.ask(slot, request, intended);
            self.make_ready(slot);
            has_asked = true;
        }
        while let Some(slot) = self.touched.pop() {
            self.send(slot);
        }
        has_asked
    }

    /// Which of a client's connections a request goes over.
    fn place_of(&mut self, request: &Request) -> usize {
        let Some(leaders) = &self.leaders else { return 0 };
        self.workload.key(request.key, &mut self.key);
        leaders.place_of(&self.key)
    }

    fn ask(&mut self, slot: usize, request: Request, intended: Monotonic) {
        let is_measured = self.span.measures(intended);
        if is_measured {
            let delay_ns = self.now.since_ns(intended);
            let counts = &mut self.recorder.counts;
            counts.sent += 1;
            if intended <= self.blocked_at {
                counts.held_back += u64::from(delay_ns > 0);
            } else if delay_ns > LATE_SEND_NS {
                counts.late += 1;
            }
            self.recorder.send_delays_ns.saturating_record(delay_ns);
        }
        let writes = request.kind == Kind::Write;
        let content = writes.then(|| self.expectation.next_write(request.key));
        self.put_out(slot, Asked { id: 0, request, content, intended, is_measured, floor: 0 });
        self.in_flight += 1;
    }

    /// Encodes a request and notes that it is in flight.
    fn put_out(&mut self, slot: usize, asked: Asked) {
        self.last_id += 1;
        let floor = if self.is_verifying { self.expectation.floor(asked.request.key) } else { 0 };
        let asked = Asked { id: self.last_id, floor, ..asked };
        let connection = &mut self.connections[slot];
        if connection.output.is_empty() && !connection.is_sending {
            self.touched.push(slot);
        }
        let request = (&asked.request, asked.content.as_ref());
        connection.line.ask(
            &self.workload,
            request,
            asked.id,
            &mut self.key,
            &mut connection.output,
        );
        connection.asked.push_back(asked);
    }

    /// Whoever has this connection is among those with room, if it has some.
    fn make_ready(&mut self, slot: usize) {
        let first = slot - slot % self.per_client;
        let client = &mut self.connections[first..first + self.per_client];
        let asked_count: usize = client.iter().map(|connection| connection.asked.len()).sum();
        if !client[0].is_ready && asked_count < self.depth {
            client[0].is_ready = true;
            self.ready.push_back(first);
        }
    }

    fn complete(&mut self, completion: Completion) -> Result<(), LoadError> {
        match completion {
            Completion::Received { key, data, more } => {
                let slot = usize_from_u32(key.slot);
                if !more {
                    self.ring.receive(self.connections[slot].socket.as_fd(), key);
                }
                match data {
                    Ok(Some(buffer)) => {
                        let held = &mut self.connections[slot].held;
                        held.extend_from_slice(self.ring.buffers().bytes(&buffer));
                        self.ring.buffers_mut().give_back(buffer);
                        self.take_answers(slot)?;
                    }
                    Ok(None) => return Err(LoadError::Closed),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(LoadError::Connection(error)),
                }
            }
            Completion::Sent { key, mut bytes, result } => {
                let slot = usize_from_u32(key.slot);
                bytes.advance(result.map_err(LoadError::Connection)?);
                let connection = &mut self.connections[slot];
                connection.is_sending = false;
                // What wasn't sent goes first; as a rule nothing.
                bytes.extend_from_slice(&connection.output);
                connection.output = bytes;
                self.touched.push(slot);
            }
            Completion::Alarm => {}
            Completion::Accepted { .. }
            | Completion::Connected { .. }
            | Completion::Written { .. } => {}
        }
        Ok(())
    }

    fn take_answers(&mut self, slot: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[slot];
        let mut held = mem::take(&mut connection.held);
        let mut line = mem::take(&mut connection.line);
        let (mut said, mut halves) = (BytesMut::new(), Vec::new());
        let mut at = 0;
        loop {
            let asked = &self.connections[slot].asked;
            let writes = |id| asked.iter().any(|asked| asked.id == id && asked.content.is_some());
            let next = line.next(&held[at..], writes, &mut said);
            let Some((size, read)) = next.map_err(LoadError::Line)? else { break };
            at += size;
            match read {
                Read::Answer(answer) => halves.extend(self.answered(slot, answer)),
                Read::Stray => self.recorder.counts.strays += 1,
                Read::Nothing => {}
            }
        }
        held.advance(at);
        let connection = &mut self.connections[slot];
        (connection.held, connection.line) = (held, line);
        if !said.is_empty() {
            connection.output.extend_from_slice(&said);
            self.touched.push(slot);
        }
        for asked in halves {
            let content = Some(self.expectation.next_write(asked.request.key));
            self.put_out(slot, Asked { content, ..asked });
        }
        self.make_ready(slot);
        Ok(())
    }

    /// Takes an answer. What it returns was the first half of a read followed by a write.
    fn answered(&mut self, slot: usize, answer: Answer<'_>) -> Option<Asked> {
        let all = &mut self.connections[slot].asked;
        // Answers come in order as a rule, so the first one fits.
        let Some(place) = all.iter().position(|asked| asked.id == answer.correlation) else {
            self.recorder.counts.strays += 1;
            return None;
        };
        if answer.outcome == Outcome::Page && all[place].request.kind == Kind::Scan {
            return None;
        }
        let asked = all.remove(place)?;
        let goes_on = self.take_answer(&asked, answer);
        if !goes_on {
            self.in_flight -= 1;
        }
        goes_on.then_some(asked)
    }

    /// Checks an answer and counts it. True: it was the first half of a read followed by a write.
    fn take_answer(&mut self, asked: &Asked, answer: Answer<'_>) -> bool {
        let Asked { request, floor, .. } = *asked;
        let counts = &mut self.recorder.counts;
        let checked = match (answer.outcome, asked.content) {
            (Outcome::Echo, _) => {
                counts.echoes += 1;
                Ok(())
            }
            (Outcome::Refused { code }, _) => {
                if asked.is_measured {
                    self.recorder.refusal(code, self.now.since_ns(asked.intended));
                } else if matches!(self.work, Work::Preload { .. }) {
                    *counts.refusals.entry(code).or_default() += 1;
                }
                return false;
            }
            (Outcome::Written { version }, Some(content)) if self.is_verifying => {
                counts.checked += 1;
                self.expectation.on_written(content, floor, version)
            }
            (Outcome::Found { version, value }, None) if self.is_verifying => {
                counts.checked += 1;
                self.expectation.on_found(request.key, floor, version, value)
            }
            (Outcome::Value { value }, None) if self.is_verifying => {
                counts.checked += 1;
                self.expectation.on_value(request.key, value)
            }
            (Outcome::Absent, None) if request.kind != Kind::Scan => {
                counts.absent += 1;
                self.expectation.on_absent(request.key, floor)
            }
            (Outcome::Written { .. } | Outcome::Done, Some(_))
            | (Outcome::Found { .. } | Outcome::Value { .. }, None) => Ok(()),
            (Outcome::Closed, None) if request.kind == Kind::Scan => Ok(()),
            // An answer to another question than was asked.
            _ => {
                counts.strays += 1;
                return false;
            }
        };
        if let Err(violation) = checked {
            self.recorder.counts.violation(violation);
        }
        let is_first_half = request.kind == Kind::ReadModifyWrite && asked.content.is_none();
        if asked.is_measured && !is_first_half {
            self.recorder.latency(request.kind, self.now.since_ns(asked.intended));
        }
        is_first_half
    }

    fn send(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_sending && !connection.output.is_empty() {
            connection.is_sending = true;
            connection.line.end_batch(&mut connection.output);
            let bytes = mem::take(&mut connection.output);
            self.ring.send(connection.socket.as_fd(), key_of(slot), bytes);
        }
    }
}

fn key_of(slot: usize) -> Key {
    Key { slot: u32_from(slot), generation: 0 }
}
