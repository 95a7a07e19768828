//! A node as other programs see it: tonic's client over gRPC, and the same bytes without HTTP/2
//! around them. Each test starts a node of its own, from the binary that was built or from the one
//! that `P2PMAP_BIN` names.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]
#![allow(clippy::disallowed_methods, reason = "a test of a real node looks at a real clock")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use p2pmap::proto::atomix::map as atomix;
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::proto::atomix::primitive::Name;
use p2pmap::proto::health::health_check_response::ServingStatus;
use p2pmap::proto::health::{HealthCheckRequest, HealthCheckResponse};
use p2pmap::proto::p2pmap::v1;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

const CONNECT: PathAndQuery = PathAndQuery::from_static("/atomix.map.P2PMapService/Connect");
const MAP: &str = "interop";
const REQUEST_COUNT: u64 = 10_000;
/// Requests that one stream has unanswered at most.
const WINDOW_COUNT: usize = 256;
/// No single wait is longer: a node that hangs is a failure, not a hanging test.
const WAIT: Duration = Duration::from_secs(60);

/// A node spins on its cores: several at once would only disturb each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Node {
    process: support::Node,
    address: SocketAddr,
    _data_dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Node {
    fn start() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let data_dir = tempfile::tempdir().unwrap();
        let arguments = ["--durability", "none"];
        let process = support::Node::start(&data_dir.path().join("data"), &arguments);
        let address = process.address().parse().unwrap();
        Self { process, address, _data_dir: data_dir, _turn: turn }
    }

    async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.timeout(WAIT).connect().await.unwrap()
    }
}

fn message(kind: Kind) -> atomix::Message {
    let target = Name { name: MAP.to_owned(), namespace: String::new() };
    atomix::Message { target: Some(target), message: Some(kind) }
}

fn command(message_id: u64, operation: v1::command::Operation) -> atomix::Message {
    let command =
        v1::Command { map: MAP.to_owned(), operation: Some(operation), ..v1::Command::default() };
    let value = command.encode_to_vec().into();
    let request = atomix::CommandRequest { message_id, value, ..atomix::CommandRequest::default() };
    message(Kind::Command(request))
}

fn query(message_id: u64, operation: v1::query::Operation) -> atomix::Message {
    let query =
        v1::Query { map: MAP.to_owned(), operation: Some(operation), ..v1::Query::default() };
    let value = query.encode_to_vec().into();
    let request = atomix::QueryRequest { message_id, value, ..atomix::QueryRequest::default() };
    message(Kind::Query(request))
}

fn put(message_id: u64, key: &[u8], value: &[u8]) -> atomix::Message {
    let put = v1::Put {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        ..v1::Put::default()
    };
    command(message_id, v1::command::Operation::Put(put))
}

fn get(message_id: u64, key: &[u8]) -> atomix::Message {
    query(message_id, v1::query::Operation::Get(v1::Get { key: Bytes::copy_from_slice(key) }))
}

/// A response, taken apart.
#[derive(Debug)]
struct Answer {
    message_id: u64,
    index: u64,
    outcome: Outcome,
}

fn answer(message: atomix::Message) -> Answer {
    let (message_id, index, value) = match message.message {
        Some(Kind::CommandResponse(response)) => {
            (response.message_id, response.index, response.value)
        }
        Some(Kind::QueryResponse(response)) => {
            let indexed = atomix::Indexed::decode(response.value).unwrap();
            (response.message_id, indexed.index, indexed.value)
        }
        other => panic!("no response: {other:?}"),
    };
    let outcome = v1::Result::decode(value).unwrap().outcome.unwrap();
    Answer { message_id, index, outcome }
}

/// Sends all requests over one stream, pipelined, and returns the answers by correlation id.
async fn exchange(channel: &Channel, requests: Vec<atomix::Message>) -> BTreeMap<u64, Answer> {
    let expected_count = requests.len();
    let room = Semaphore::new(WINDOW_COUNT);
    let (sender, receiver) = tokio::sync::mpsc::channel(WINDOW_COUNT);
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = Request::new(ReceiverStream::new(receiver));
    let codec = ProstCodec::<atomix::Message, atomix::Message>::default();
    let mut responses = client.streaming(request, CONNECT, codec).await.unwrap().into_inner();

    let send = async {
        for request in requests {
            room.acquire().await.unwrap().forget();
            sender.send(request).await.unwrap();
        }
        drop(sender);
    };
    let receive = async {
        let mut answers = BTreeMap::new();
        // Ends with the stream, which the client has half-closed: the status is OK.
        while let Some(message) = responses.message().await.unwrap() {
            let answer = answer(message);
            let twice = answers.insert(answer.message_id, answer);
            assert!(twice.is_none(), "answered twice: {twice:?}");
            room.add_permits(1);
        }
        answers
    };
    let ((), answers) = tokio::join!(send, receive);
    assert_eq!(answers.len(), expected_count);
    answers
}

/// Puts and gets keys of its own and checks each answer.
async fn put_and_get(channel: Channel, name: &str, count: u64) {
    let key = |place: u64| format!("{name}/{place}").into_bytes();
    let value = |place: u64| {
        let repeats = usize::try_from(1 + place % 5).unwrap();
        format!("value {place} of {name}").repeat(repeats).into_bytes()
    };
    let puts = (0..count).map(|place| put(1 + place, &key(place), &value(place))).collect();
    let written = exchange(&channel, puts).await;
    let version = |place: u64| {
        let Answer { index, outcome, .. } = &written[&(1 + place)];
        let Outcome::Written(written) = outcome else { panic!("put {place}: {outcome:?}") };
        assert_eq!(written.version, *index, "put {place}");
        written.version
    };

    let gets = (0..count).map(|place| get(1 + place, &key(place))).collect();
    for (message_id, Answer { index, outcome, .. }) in exchange(&channel, gets).await {
        let place = message_id - 1;
        let Outcome::Found(v1::Found { entry: Some(entry) }) = outcome else {
            panic!("get {place}: {outcome:?}")
        };
        assert_eq!(entry.value, value(place), "get {place}");
        assert_eq!(entry.version, version(place), "get {place}");
        assert!(index >= entry.version, "get {place} reflects {index}");
    }
}

#[tokio::test]
async fn tonic_puts_and_gets_over_one_stream() {
    let node = Node::start();
    put_and_get(node.connect().await, "one", REQUEST_COUNT).await;
}

#[tokio::test]
async fn tonic_puts_and_gets_over_eight_streams_at_once() {
    let node = Node::start();
    let channel = node.connect().await;
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..8 {
        let channel = channel.clone();
        streams.spawn(async move {
            put_and_get(channel, &format!("eight-{number}"), REQUEST_COUNT / 8).await;
        });
    }
    while let Some(outcome) = streams.join_next().await {
        outcome.unwrap();
    }
}

/// Puts and gets over raw frames, pipelined.
fn put_and_get_raw(address: SocketAddr, name: &str, count: u64) {
    let mut socket = connect_raw(address);
    let key = |place: u64| format!("{name}/{place}").into_bytes();
    for from in (0..count).step_by(WINDOW_COUNT) {
        let places = from..count.min(from + u64::try_from(WINDOW_COUNT).unwrap());
        for place in places.clone() {
            send_raw(&mut socket, &put(place, &key(place), name.as_bytes()).encode_to_vec());
            send_raw(&mut socket, &get(place, &key(place)).encode_to_vec());
        }
        // Keys of different cores are answered in any order, but those of one in theirs.
        let mut written = std::collections::BTreeSet::new();
        for _ in places.flat_map(|place| [place, place]) {
            let answer = answer(atomix::Message::decode(receive_raw(&mut socket)).unwrap());
            let place = answer.message_id;
            match answer.outcome {
                Outcome::Written(_) => assert!(written.insert(place), "{place} is written once"),
                Outcome::Found(v1::Found { entry: Some(entry) }) => {
                    assert_eq!(entry.value, name.as_bytes());
                    assert!(written.remove(&place), "{place} is found after it was written");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(written.is_empty());
    }
}

#[tokio::test]
async fn several_grpc_and_raw_clients_work_at_once() {
    let node = Node::start();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4 {
        // A connection of its own each, with two streams.
        let channel = node.connect().await;
        for stream in 0..2 {
            let (channel, name) = (channel.clone(), format!("mixed-{number}-{stream}"));
            clients.spawn(async move { put_and_get(channel, &name, 1_000).await });
        }
        let address = node.address;
        clients.spawn_blocking(move || put_and_get_raw(address, &format!("raw-{number}"), 2_000));
    }
    while let Some(outcome) = clients.join_next().await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn tonic_hears_that_the_node_is_healthy() {
    let node = Node::start();
    let mut client = Grpc::new(node.connect().await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = Request::new(HealthCheckRequest { service: String::new() });
    let response = client.unary(request, path, codec).await.unwrap().into_inner();
    assert_eq!(response.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn node_that_is_asked_to_end_answers_and_ends_while_streams_are_open() {
    let node = Node::start();
    let (sender, mut responses) = open(node.connect().await).await;
    sender.send(put(1, b"key", b"value").encode_to_vec().into()).await.unwrap();
    responses.message().await.unwrap().unwrap();
    let begun_at = Instant::now();
    let Node { process, .. } = node;
    let ended = tokio::task::spawn_blocking(move || process.terminate());
    let status = responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(ended.await.unwrap().success());
    assert!(begun_at.elapsed() < Duration::from_secs(5), "{:?}", begun_at.elapsed());
}

#[tokio::test]
async fn tonic_is_told_that_a_method_is_unknown() {
    let node = Node::start();
    let mut client = Grpc::new(node.connect().await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/atomix.map.P2PMapService/Nothing");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = Request::new(HealthCheckRequest::default());
    let status = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// gRPC without the types: payloads as they are.
#[derive(Clone, Copy, Default)]
struct Payloads;

impl Codec for Payloads {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Payloads {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, payload: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(payload);
        Ok(())
    }
}

impl Decoder for Payloads {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn open(channel: Channel) -> (tokio::sync::mpsc::Sender<Bytes>, Streaming<Bytes>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let request = Request::new(ReceiverStream::new(receiver));
    (sender, client.streaming(request, CONNECT, Payloads).await.unwrap().into_inner())
}

async fn ask_by_grpc(channel: Channel, payloads: &[Bytes]) -> Vec<Bytes> {
    let (sender, mut responses) = open(channel).await;
    let mut answers = Vec::new();
    for payload in payloads {
        sender.send(payload.clone()).await.unwrap();
        answers.push(responses.message().await.unwrap().unwrap());
    }
    answers
}

fn connect_raw(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

fn send_raw(socket: &mut TcpStream, payload: &[u8]) {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(payload.len()).unwrap());
    frame.put_slice(payload);
    socket.write_all(&frame).unwrap();
}

fn receive_raw(socket: &mut TcpStream) -> Bytes {
    let mut prefix = [0; 5];
    socket.read_exact(&mut prefix).unwrap();
    let [flag, size @ ..] = prefix;
    assert_eq!(flag, 0);
    let mut payload = vec![0; u32::from_be_bytes(size).try_into().unwrap()];
    socket.read_exact(&mut payload).unwrap();
    payload.into()
}

fn ask_raw(address: SocketAddr, payloads: &[Bytes]) -> Vec<Bytes> {
    let mut socket = connect_raw(address);
    let ask = |payload: &Bytes| {
        send_raw(&mut socket, payload);
        receive_raw(&mut socket)
    };
    payloads.iter().map(ask).collect()
}

/// Requests that change nothing: their answers are the same however often they are asked.
fn unchanging_requests() -> Vec<Bytes> {
    let of_other_cluster = atomix::Message {
        target: Some(Name { name: MAP.to_owned(), namespace: "another-cluster".to_owned() }),
        ..get(7, b"fixed")
    };
    let of_other_map = atomix::Message {
        target: Some(Name { name: "another".to_owned(), namespace: String::new() }),
        ..get(8, b"fixed")
    };
    let exists = v1::Exists { key: Bytes::from_static(b"fixed") };
    let messages = [
        get(1, b"fixed"),
        get(2, b"absent"),
        get(u64::MAX, b"fixed"),
        query(3, v1::query::Operation::Exists(exists)),
        get(4, b""),
        put(5, b"", b"no key"),
        put(6, &[b'k'; 5_000], b"a key too long"),
        of_other_cluster,
        of_other_map,
    ];
    messages.iter().map(|message| message.encode_to_vec().into()).collect()
}

#[tokio::test]
async fn raw_frames_get_the_bytes_that_grpc_messages_get() {
    let node = Node::start();
    let channel = node.connect().await;
    exchange(&channel, vec![put(1, b"fixed", b"value")]).await;

    let requests = unchanging_requests();
    let by_grpc = ask_by_grpc(channel, &requests).await;
    let raw = ask_raw(node.address, &requests);
    assert_eq!(raw, by_grpc);

    let found = answer(atomix::Message::decode(raw[0].clone()).unwrap());
    let Outcome::Found(v1::Found { entry: Some(entry) }) = found.outcome else {
        panic!("{found:?}")
    };
    assert_eq!(entry.value, &b"value"[..]);
    for refused in &raw[4..] {
        let refused = answer(atomix::Message::decode(refused.clone()).unwrap());
        assert!(matches!(refused.outcome, Outcome::Error(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_understood_ends_both_with_the_same_words() {
    let node = Node::start();
    let channel = node.connect().await;
    let requests = [
        (Code::InvalidArgument, Bytes::new()),
        (Code::InvalidArgument, Bytes::from_static(&[0xFF; 4])),
        (Code::PermissionDenied, {
            let start_view = atomix::StartView::default();
            message(Kind::StartView(start_view)).encode_to_vec().into()
        }),
    ];
    for (code, payload) in requests {
        let (sender, mut responses) = open(channel.clone()).await;
        sender.send(payload.clone()).await.unwrap();
        let status = responses.message().await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(!status.message().is_empty());

        let mut socket = connect_raw(node.address);
        send_raw(&mut socket, &payload);
        let last = answer(atomix::Message::decode(receive_raw(&mut socket)).unwrap());
        assert_eq!(last.message_id, 0);
        let Outcome::Error(error) = last.outcome else { panic!("{last:?}") };
        assert_eq!(error.message, status.message());
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "the node closes the connection");
    }
}
