//! `GET /metrics` and `GET /healthz` for whoever watches the node: HTTP/1 on an address of its own,
//! served by one thread that waits for nobody.
//!
//! The thread runs wherever the scheduler puts it, at a lower priority than the loops, and reads
//! what they have published; so neither a slow reader nor a page that takes long disturbs a loop.
//! Everything is bounded: connections at a time, the head of a request, the time for a request to
//! come and for its answer to be read. A connection is closed after one answer, and for a new one
//! when there are too many: that which keeps its place longest without having done anything for it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::metrics_page::page;
use crate::base::limits::{
    LINGER_NS_MAX, METRICS_CONNECTION_COUNT_MAX, METRICS_HEAD_SIZE_BYTES_MAX,
    METRICS_HEADER_COUNT_MAX, METRICS_TIMEOUT_NS,
};
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::metrics::exposition;
use crate::runtime::clock::Clock;
use crate::runtime::core::Node;
use crate::runtime::fatal::{Fatal, FatalReason};

/// As that of the threads that prepare segments: with the lowest a thread hardly runs at all where
/// every core spins.
const NICE: i32 = 5;
/// How long accepting rests after it failed, for lack of descriptors as a rule.
const ACCEPT_PAUSE_NS: u64 = 100 * NS_PER_MS;
const TEXT: &str = "text/plain; charset=utf-8";

/// Where metrics will be served.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn bind(address: SocketAddr) -> Result<Self, Fatal> {
        let bind = || -> io::Result<Self> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Self { address: listener.local_addr()?, listener })
        };
        bind().map_err(|error| {
            let message = format!("can't listen on {address} for metrics: {error}");
            Fatal::new(FatalReason::Listen, message)
        })
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the metrics of `node` as long as the process lives. To be called from a thread that
    /// isn't pinned: the thread that serves inherits its cores.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn serve(self, node: Arc<Node>) -> Result<(), Fatal> {
        let endpoint = Endpoint {
            listener: self.listener,
            node,
            clock: Clock::start(),
            connections: Vec::new(),
            accepts_from: Monotonic(0),
        };
        let started = std::thread::Builder::new().name("metrics".into()).spawn(|| endpoint.run());
        let failed = |error| Fatal::new(FatalReason::Environment, error);
        started.map(drop).map_err(failed)
    }
}

struct Endpoint {
    listener: TcpListener,
    node: Arc<Node>,
    clock: Clock,
    connections: Vec<Connection>,
    /// Not before then, for it failed.
    accepts_from: Monotonic,
}

/// A connection that is served.
struct Connection {
    stream: TcpStream,
    phase: Phase,
    /// When the phase must be over.
    by: Monotonic,
}

enum Phase {
    /// The head of its request comes.
    Asking(Vec<u8>),
    /// The answer goes out.
    Answering(Vec<u8>, usize),
    /// It was answered; what still comes is read, or the answer might be lost with it.
    Lingering,
    /// It is to be closed.
    Over,
}

impl Endpoint {
    fn run(mut self) {
        // Without it the thread is only less considerate.
        let _ = rustix::process::setpriority_process(None, NICE);
        loop {
            let (ready, somebody_comes) = self.wait();
            let now = self.clock.monotonic();
            // Those that are accepted now were not waited for.
            for (connection, ready) in self.connections.iter_mut().zip(ready) {
                if connection.by <= now {
                    connection.give_up(now);
                } else if ready {
                    connection.go_on(&self.node, now);
                }
            }
            self.connections.retain(|connection| !matches!(connection.phase, Phase::Over));
            if somebody_comes {
                self.make_room();
            }
            self.accept(now);
        }
    }

    /// Waits until something can be done; says for each connection whether it can go on, and
    /// whether another one comes.
    fn wait(&self) -> (Vec<bool>, bool) {
        let now = self.clock.monotonic();
        let mut polled: Vec<PollFd<'_>> = self.connections.iter().map(Connection::wanted).collect();
        let connection_count = polled.len();
        let mut by: Vec<Monotonic> = self.connections.iter().map(|one| one.by).collect();
        if self.accepts_from > now {
            by.push(self.accepts_from);
        } else if self.has_room() {
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let timeout = by.into_iter().min().map(|by| timespec(by.since_ns(now)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {
                let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
                (ready.by_ref().take(connection_count).collect(), ready.next().unwrap_or(false))
            }
            // Interrupted: nobody can go on that couldn't before.
            Err(_) => (vec![false; connection_count], false),
        }
    }

    /// Whether there is room for another connection, or some will do without theirs.
    fn has_room(&self) -> bool {
        self.connections.len() < METRICS_CONNECTION_COUNT_MAX
            || self.connections.iter().any(Connection::is_idle)
    }

    /// Closes the connection that has been idle for longest, if all places are taken: one that asks
    /// for nothing rather than one that was answered. Those that are being answered keep theirs.
    fn make_room(&mut self) {
        if self.connections.len() < METRICS_CONNECTION_COUNT_MAX {
            return;
        }
        let idle = self.connections.iter().enumerate().filter(|(_, one)| one.is_idle());
        let oldest = idle.min_by_key(|(_, one)| (matches!(one.phase, Phase::Lingering), one.by));
        if let Some((place, _)) = oldest {
            self.connections.remove(place);
        }
    }

    fn accept(&mut self, now: Monotonic) {
        while self.connections.len() < METRICS_CONNECTION_COUNT_MAX && self.accepts_from <= now {
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    let by = now.after_ns(METRICS_TIMEOUT_NS);
                    self.connections.push(Connection {
                        stream,
                        phase: Phase::Asking(Vec::new()),
                        by,
                    });
                }
                // Its peer may try again.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics can't be accepted");
                    self.accepts_from = now.after_ns(ACCEPT_PAUSE_NS);
                }
            }
        }
    }
}

fn timespec(ns: u64) -> Timespec {
    // Rounded up, so that what is due then is due when it returns.
    let seconds = i64::try_from(ns / NS_PER_S).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::try_from(ns % NS_PER_S).unwrap_or_default() }
}

impl Connection {
    /// Whether its request hasn't come, or its answer has gone out.
    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Asking(_) | Phase::Lingering)
    }

    fn wanted(&self) -> PollFd<'_> {
        let flags = match self.phase {
            Phase::Answering(..) => PollFlags::OUT,
            Phase::Asking(_) | Phase::Lingering | Phase::Over => PollFlags::IN,
        };
        PollFd::new(&self.stream, flags)
    }

    fn go_on(&mut self, node: &Node, now: Monotonic) {
        let result = match &self.phase {
            Phase::Asking(_) => self.read_head(node, now),
            Phase::Answering(..) => self.write(now),
            Phase::Lingering => self.discard(),
            Phase::Over => Ok(()),
        };
        // Whoever resets the connection doesn't want the rest.
        if result.is_err_and(|error| !is_no_failure(&error)) {
            self.phase = Phase::Over;
        }
    }

    /// Its time is up.
    fn give_up(&mut self, now: Monotonic) {
        match &self.phase {
            Phase::Asking(head) if !head.is_empty() => {
                self.answer(
                    &Answer::line("408 Request Timeout", "the request took too long"),
                    true,
                    now,
                );
            }
            Phase::Asking(_) | Phase::Answering(..) | Phase::Lingering | Phase::Over => {
                self.phase = Phase::Over;
            }
        }
    }

    fn read_head(&mut self, node: &Node, now: Monotonic) -> io::Result<()> {
        let Phase::Asking(head) = &mut self.phase else { return Ok(()) };
        let mut part = [0; 4_096];
        let size = self.stream.read(&mut part)?;
        if size == 0 {
            self.phase = Phase::Over;
            return Ok(());
        }
        head.extend_from_slice(&part[..size]);
        match asked(head) {
            Asked::Nothing if head.len() > METRICS_HEAD_SIZE_BYTES_MAX => {
                self.answer(&Answer::too_large(), true, now);
            }
            Asked::Nothing => {}
            Asked::Page { path, with_body } => {
                let answer = Answer::to(&path, node);
                self.answer(&answer, with_body, now);
            }
            Asked::Wrong(answer) => self.answer(&answer, true, now),
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer, with_body: bool, now: Monotonic) {
        self.phase = Phase::Answering(answer.encode(with_body), 0);
        self.by = now.after_ns(METRICS_TIMEOUT_NS);
    }

    fn write(&mut self, now: Monotonic) -> io::Result<()> {
        let Phase::Answering(bytes, written) = &mut self.phase else { return Ok(()) };
        *written += self.stream.write(&bytes[*written..])?;
        if *written == bytes.len() {
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::Lingering;
            self.by = now.after_ns(LINGER_NS_MAX);
        }
        Ok(())
    }

    fn discard(&mut self) -> io::Result<()> {
        if self.stream.read(&mut [0; 4_096])? == 0 {
            self.phase = Phase::Over;
        }
        Ok(())
    }
}

fn is_no_failure(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What the head of a request asks for, as far as it has come.
enum Asked {
    /// It isn't whole.
    Nothing,
    Page {
        path: String,
        with_body: bool,
    },
    Wrong(Answer),
}

fn asked(head: &[u8]) -> Asked {
    let mut headers = [httparse::EMPTY_HEADER; METRICS_HEADER_COUNT_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return Asked::Nothing,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Asked::Wrong(Answer::too_large()),
        Err(httparse::Error::Version) => {
            let text = "HTTP/1.1 is spoken here";
            return Asked::Wrong(Answer::line("505 HTTP Version Not Supported", text));
        }
        Err(error) => {
            let text = format!("not a request: {error}");
            return Asked::Wrong(Answer::line("400 Bad Request", &text));
        }
    }
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => {
            let answer = Answer::line("405 Method Not Allowed", "GET and HEAD are served here");
            return Asked::Wrong(Answer { allow: true, ..answer });
        }
    };
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path).to_owned();
    Asked::Page { path, with_body }
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    /// Says which methods are served.
    allow: bool,
    body: String,
}

impl Answer {
    fn to(path: &str, node: &Node) -> Self {
        match path {
            "/metrics" => {
                let content_type = exposition::CONTENT_TYPE;
                Self { content_type, body: page(node), ..Self::line("200 OK", "") }
            }
            "/healthz" => {
                let status = if node.is_serving() { "200 OK" } else { "503 Service Unavailable" };
                Self::line(status, node.condition().name())
            }
            _ => Self::line("404 Not Found", "there are /metrics and /healthz"),
        }
    }

    fn line(status: &'static str, line: &str) -> Self {
        Self { status, content_type: TEXT, allow: false, body: format!("{line}\n") }
    }

    fn too_large() -> Self {
        let text = "the head of the request is too long";
        Self::line("431 Request Header Fields Too Large", text)
    }

    fn encode(&self, with_body: bool) -> Vec<u8> {
        let Self { status, content_type, allow, body } = self;
        let allow = if *allow { "Allow: GET, HEAD\r\n" } else { "" };
        let mut text = String::with_capacity(body.len() + 256);
        write!(
            text,
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            body.len()
        )
        .expect("writing to a string never fails");
        if with_body {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests;
