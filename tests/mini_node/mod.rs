//! A node in miniature for tests of what talks to one: a thread, a listener, a map in memory.
//!
//! It speaks raw frames, decoded here independently of the crate's own decoder, and does what
//! `proto/p2pmap/v1/map.proto` says of each operation; nothing of it is durable or fast. Answers to
//! `Entries` are small on purpose, so that whoever reads a dozen entries has to page.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use p2pmap::proto::atomix::map::message::Message as Kinds;
use p2pmap::proto::atomix::map::{CommandResponse, Indexed, Message, QueryClose, QueryResponse};
use p2pmap::proto::p2pmap::v1::condition::Condition as Wanted;
use p2pmap::proto::p2pmap::v1::error::Code;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{
    Cleared, Command, Condition, Entries, Error, Existence, Found, KeyValue, Page, Put, Query,
    Remove, Removed, Result as ProtoResult, Sized, Versioned, Written, command, query,
};
use prost::Message as _;

/// Entries in one page.
pub(crate) const PAGE_COUNT: usize = 3;
/// Entries in the whole answer to one request.
pub(crate) const ANSWER_COUNT_MAX: usize = 7;
/// When everything was created.
pub(crate) const CREATED_MS: i64 = 1_700_000_000_000;

type Entry = (Vec<u8>, Versioned);

#[derive(Default)]
struct State {
    maps: BTreeMap<String, BTreeMap<Vec<u8>, Versioned>>,
    index: u64,
}

/// Starts a node that serves until the test's process ends, and returns where it listens.
pub(crate) fn start() -> SocketAddr {
    let state = Arc::new(Mutex::new(State::default()));
    serve_each(move |stream| serve(stream, &state))
}

/// Starts a listener that leaves each of its connections to `serve`: a node that misbehaves.
pub(crate) fn serve_each(
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let address = listener.local_addr().expect("a bound listener has an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            // How a connection ends is what the client's test looks at.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    address
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    listener.local_addr().expect("a bound listener has an address")
}

/// The next frame's message.
pub(crate) fn read_message(stream: &mut impl Read) -> io::Result<Message> {
    let mut prefix = [0; 5];
    stream.read_exact(&mut prefix)?;
    let mut payload =
        vec![0; u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize];
    stream.read_exact(&mut payload)?;
    Ok(Message::decode(payload.as_slice())?)
}

/// A message as a frame.
pub(crate) fn frame(message: &Message) -> Vec<u8> {
    let payload = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(payload.len()).expect("a short message").to_be_bytes());
    frame.extend_from_slice(&payload);
    frame
}

/// A response to a command.
pub(crate) fn command_response(message_id: u64, index: u64, outcome: Outcome) -> Message {
    let value = ProtoResult { outcome: Some(outcome) }.encode_to_vec().into();
    let response = CommandResponse { message_id, index, value, ..CommandResponse::default() };
    Message { target: None, message: Some(Kinds::CommandResponse(response)) }
}

/// A response to a query.
pub(crate) fn query_response(message_id: u64, index: u64, outcome: Outcome) -> Message {
    let value = ProtoResult { outcome: Some(outcome) }.encode_to_vec().into();
    let value = Indexed { index, value }.encode_to_vec().into();
    let response = QueryResponse { message_id, value, ..QueryResponse::default() };
    Message { target: None, message: Some(Kinds::QueryResponse(response)) }
}

/// The correlation id of a request.
pub(crate) fn correlation(message: &Message) -> u64 {
    match &message.message {
        Some(Kinds::Command(request)) => request.message_id,
        Some(Kinds::Query(request)) => request.message_id,
        other => panic!("a client sent {other:?}"),
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let message = read_message(&mut stream)?;
        let target = message.target.expect("a client names a target");
        let frames = match message.message {
            Some(Kinds::Command(request)) => {
                assert_eq!(request.term_id, 0, "a client's command is not stamped");
                let command = Command::decode(request.value)?;
                check_target(&target.name, &command.map);
                let mut state = state.lock().expect("no test poisons the state");
                let outcome = state.command(command);
                frame(&command_response(request.message_id, state.index, outcome))
            }
            Some(Kinds::Query(request)) => {
                assert_eq!(request.term_id, 0, "a client's query is not stamped");
                let query = Query::decode(request.value)?;
                check_target(&target.name, &query.map);
                let state = state.lock().expect("no test poisons the state");
                let respond = |outcome| query_response(request.message_id, state.index, outcome);
                state
                    .query(query)
                    .into_iter()
                    .flat_map(|outcome| frame(&respond(outcome)))
                    .collect()
            }
            other => panic!("a client sent {other:?}"),
        };
        stream.write_all(&frames)?;
    }
}

fn check_target(target: &str, map: &str) {
    assert_eq!(target.split('#').next(), Some(map), "target and operation name one map");
}

impl State {
    fn command(&mut self, command: Command) -> Outcome {
        assert!(command.timeout_ms > 0, "a client says how long it waits");
        self.index += 1;
        if command.map == "forbidden" {
            return error(Code::Unavailable, "no leader", None);
        }
        let index = self.index;
        let map = self.maps.entry(command.map).or_default();
        match command.operation.expect("a command has an operation") {
            command::Operation::Put(put) => put_into(map, put, index),
            command::Operation::Remove(remove) => remove_from(map, remove),
            command::Operation::Clear(_) => {
                let entries = map.len() as u64;
                map.clear();
                Outcome::Cleared(Cleared { entries })
            }
            other => error(Code::Unimplemented, &format!("{other:?} isn't needed here"), None),
        }
    }

    fn query(&self, query: Query) -> Vec<Outcome> {
        let empty = BTreeMap::new();
        let map = self.maps.get(&query.map).unwrap_or(&empty);
        match query.operation.expect("a query has an operation") {
            query::Operation::Get(get) => {
                vec![Outcome::Found(Found { entry: map.get(get.key.as_ref()).cloned() })]
            }
            query::Operation::Exists(asked) => {
                vec![Outcome::Exists(Existence { exists: map.contains_key(asked.key.as_ref()) })]
            }
            query::Operation::Size(_) => {
                let bytes =
                    map.iter().map(|(key, entry)| key.len() + entry.value.len()).sum::<usize>();
                vec![Outcome::Size(Sized { entries: map.len() as u64, bytes: bytes as u64 })]
            }
            query::Operation::Entries(entries) => pages(map, &entries),
            // As a release that is older than the question.
            query::Operation::Status(_) => {
                vec![error(Code::Unimplemented, "operation: field 15 is unknown", None)]
            }
            query::Operation::TransferLeadership(_) => {
                vec![error(Code::Unimplemented, "operation: field 16 is unknown", None)]
            }
        }
    }
}

fn put_into(map: &mut BTreeMap<Vec<u8>, Versioned>, put: Put, index: u64) -> Outcome {
    let key = put.key.to_vec();
    if let Some(refused) = refusal(put.condition, map.get(&key)) {
        return refused;
    }
    let entry = Versioned {
        value: put.value,
        version: index,
        created_ms: CREATED_MS,
        updated_ms: CREATED_MS + i64::try_from(index).expect("few commands"),
        ttl_ms: 0,
    };
    let previous = map.insert(key, entry);
    Outcome::Written(Written { version: index, previous: previous.filter(|_| put.want_previous) })
}

fn remove_from(map: &mut BTreeMap<Vec<u8>, Versioned>, remove: Remove) -> Outcome {
    if let Some(refused) = refusal(remove.condition, map.get(remove.key.as_ref())) {
        return refused;
    }
    let previous = map.remove(remove.key.as_ref());
    let existed = previous.is_some();
    Outcome::Removed(Removed { existed, previous: previous.filter(|_| remove.want_previous) })
}

fn refusal(condition: Option<Condition>, current: Option<&Versioned>) -> Option<Outcome> {
    let holds = match condition.and_then(|condition| condition.condition)? {
        Wanted::Absent(_) => current.is_none(),
        Wanted::Present(_) => current.is_some(),
        Wanted::Version(version) => current.is_some_and(|entry| entry.version == version),
        Wanted::Value(value) => current.is_some_and(|entry| entry.value == value),
    };
    let refuse = || error(Code::ConditionFailed, "the condition does not hold", current.cloned());
    (!holds).then(refuse)
}

fn error(code: Code, message: &str, current: Option<Versioned>) -> Outcome {
    Outcome::Error(Error { code: code.into(), message: message.to_owned(), hint: None, current })
}

fn pages(map: &BTreeMap<Vec<u8>, Versioned>, wanted: &Entries) -> Vec<Outcome> {
    let after = |key: &[u8]| wanted.start_after.is_empty() || key > wanted.start_after.as_ref();
    let matching: Vec<Entry> = map
        .iter()
        .filter(|(key, _)| after(key) && key.starts_with(&wanted.prefix))
        .map(|(key, entry)| (key.clone(), entry.clone()))
        .collect();
    let limit = if wanted.limit == 0 { ANSWER_COUNT_MAX } else { wanted.limit as usize };
    let answered = &matching[..matching.len().min(limit).min(ANSWER_COUNT_MAX)];
    let mut sent = 0;
    let mut outcomes = Vec::new();
    for page in answered.chunks(PAGE_COUNT) {
        sent += page.len();
        let last = page.last().expect("a chunk is not empty").0.clone();
        let next = if sent < matching.len() { last } else { Vec::new() };
        let items = page.iter().map(|entry| item(entry, wanted.keys_only)).collect();
        outcomes.push(Outcome::Page(Page { items, next: next.into() }));
    }
    outcomes.push(Outcome::QueryClose(QueryClose::default()));
    outcomes
}

fn item((key, entry): &Entry, keys_only: bool) -> KeyValue {
    let mut entry = entry.clone();
    if keys_only {
        entry.value.clear();
    }
    KeyValue { key: key.clone().into(), entry: Some(entry) }
}
