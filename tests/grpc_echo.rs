//! gRPC through the loop's own sockets: an independent client against the echo.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use p2pmap::base::limits::SEND_QUEUE_SIZE_BYTES_MAX;
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::proto::atomix::map::{CommandRequest, Message};
use p2pmap::proto::health::health_check_response::ServingStatus;
use p2pmap::proto::health::{HealthCheckRequest, HealthCheckResponse};
use p2pmap::runtime::echo::EchoService;
use p2pmap::runtime::executor::Idle;
use p2pmap::runtime::node_runtime::{Options, Runtime};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

const CONNECT: PathAndQuery = PathAndQuery::from_static("/atomix.map.P2PMapService/Connect");
const CHECK: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
const WAIT: Duration = Duration::from_secs(30);

fn start(core_count: usize) -> Runtime {
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        cores: vec![0; core_count],
        idle: Idle::Park { spin_ns: 0 },
        segments: Vec::new(),
    };
    Runtime::start(options, |_| Ok(EchoService)).unwrap()
}

async fn dial(runtime: &Runtime) -> Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", runtime.address())).unwrap();
    Grpc::new(endpoint.connect().await.unwrap())
}

type Sender = tokio::sync::mpsc::Sender<Message>;

/// Opens a stream; it is open when the server's headers have come.
async fn open(client: &mut Grpc<Channel>) -> (Sender, Streaming<Message>) {
    let (sender, requests) = tokio::sync::mpsc::channel(64);
    let request = Request::new(ReceiverStream::new(requests));
    let codec = ProstCodec::<Message, Message>::default();
    client.ready().await.unwrap();
    let response = client.streaming(request, CONNECT, codec).await.unwrap();
    (sender, response.into_inner())
}

fn message(message_id: u64, value_size: usize) -> Message {
    let value = Bytes::from(vec![b'v'; value_size]);
    let command = CommandRequest { message_id, value, ..CommandRequest::default() };
    Message { target: None, message: Some(Kind::Command(command)) }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async { tokio::time::timeout(WAIT, test).await.expect("no hanging test") })
}

#[test]
fn messages_of_one_stream_come_back_in_order_whatever_their_size() {
    run(async {
        let runtime = start(1);
        let mut client = dial(&runtime).await;
        let (sender, mut answers) = open(&mut client).await;
        let sent: Vec<Message> =
            (1..=3_000).map(|id| message(id, if id % 500 == 0 { 1 << 20 } else { 40 })).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            for message in sent {
                sender.send(message).await.unwrap();
            }
        });
        for message in expected {
            assert!(answers.message().await.unwrap() == Some(message), "an answer differs");
        }
        writer.await.unwrap();
        assert_eq!(answers.message().await.unwrap(), None);
    });
}

#[test]
fn streams_of_one_connection_are_answered_apart() {
    run(async {
        let runtime = start(1);
        let mut client = dial(&runtime).await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(open(&mut client).await);
        }
        for round in 0..10 {
            for (id, (sender, _)) in (round * 100..).zip(&streams) {
                sender.send(message(id, 8)).await.unwrap();
            }
            for (id, (_, answers)) in (round * 100..).zip(&mut streams) {
                assert_eq!(answers.message().await.unwrap(), Some(message(id, 8)));
            }
        }
    });
}

#[test]
fn health_is_serving() {
    run(async {
        let runtime = start(1);
        let mut client = dial(&runtime).await;
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let request = Request::new(HealthCheckRequest::default());
        client.ready().await.unwrap();
        let response = client.unary(request, CHECK, codec).await.unwrap();
        assert_eq!(response.into_inner().status(), ServingStatus::Serving);
    });
}

#[test]
fn stream_whose_answers_are_not_read_stops_the_sender_and_goes_on_later() {
    run(async {
        let runtime = start(1);
        let mut client = dial(&runtime).await;
        let (sender, mut answers) = open(&mut client).await;
        let mut sent = 0;
        let stalls = Duration::from_millis(500);
        while tokio::time::timeout(stalls, sender.send(message(sent, 100_000))).await.is_ok() {
            sent += 1;
            assert!(sent < 2_000, "the server reads without limit");
        }
        for id in 0..sent {
            assert!(answers.message().await.unwrap() == Some(message(id, 100_000)));
        }
    });
}

#[test]
fn client_that_never_reads_is_bounded_and_raw_and_grpc_clients_are_served_meanwhile() {
    run(async {
        let runtime = start(1);
        let mut deaf = dial(&runtime).await;
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(open(&mut deaf).await);
        }
        let stalls = Duration::from_millis(300);
        for (sender, _) in &streams {
            let mut sent = 0;
            while tokio::time::timeout(stalls, sender.send(message(1, 500_000))).await.is_ok() {
                sent += 1;
                assert!(sent < 1_000, "the server reads without limit");
            }
        }
        let core = &runtime.node().cores[0];
        let received = usize::try_from(core.counter("received_size_bytes")).unwrap();
        assert!(received < 2 * SEND_QUEUE_SIZE_BYTES_MAX, "{received} bytes of a deaf client");
        assert!(core.counter("reads_stopped_count") >= 1);

        let mut client = dial(&runtime).await;
        let (sender, mut answers) = open(&mut client).await;
        for id in 0..100 {
            sender.send(message(id, 1_000)).await.unwrap();
            assert_eq!(answers.message().await.unwrap(), Some(message(id, 1_000)));
        }
        let mut raw = std::net::TcpStream::connect(runtime.address()).unwrap();
        for _ in 0..100 {
            raw.write_all(b"\x00\x00\x00\x00\x03raw").unwrap();
            let mut answer = [0; 8];
            raw.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"\x00\x00\x00\x00\x03raw");
        }
    });
}

#[test]
fn shutdown_answers_what_came_and_ends_streams_as_unavailable() {
    run(async {
        let runtime = start(1);
        let mut client = dial(&runtime).await;
        let (sender, mut answers) = open(&mut client).await;
        sender.send(message(1, 8)).await.unwrap();
        assert_eq!(answers.message().await.unwrap(), Some(message(1, 8)));
        let node = runtime.node();
        let waiter = std::thread::spawn(move || runtime.wait());
        node.begin_shutdown();
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
        drop((client, sender, answers));
        let ended = tokio::task::spawn_blocking(move || waiter.join().unwrap()).await.unwrap();
        assert_eq!(ended, Ok(()));
    });
}
