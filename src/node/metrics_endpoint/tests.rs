//! The endpoint as a client of it sees it, with a node that has no loops.

use std::time::Duration;

use super::*;

/// Longer than anything takes here, so that what hangs fails.
const WAIT: Duration = Duration::from_secs(30);

fn start() -> (SocketAddr, Arc<Node>) {
    let node = Arc::new(Node::new(2, 10).expect("a node"));
    let listener = MetricsListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = listener.address();
    listener.serve(Arc::clone(&node)).expect("a thread");
    (address, node)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WAIT)).expect("a timeout can be set");
    stream
}

/// The status line and everything after the head.
fn exchange(address: SocketAddr, request: &[u8]) -> (String, String) {
    let mut stream = connect(address);
    stream.write_all(request).expect("it reads");
    answer(&mut stream)
}

fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers and closes");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    assert!(body.is_empty() || body.len() == length, "the body is whole");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

#[test]
fn health_follows_the_nodes_life() {
    let (address, node) = start();
    let unavailable = "HTTP/1.1 503 Service Unavailable".to_owned();
    assert_eq!(get(address, "/healthz"), (unavailable.clone(), "starting\n".to_owned()));
    node.ready.store(true, std::sync::atomic::Ordering::Release);
    let expected = ("HTTP/1.1 200 OK".to_owned(), "ready\n".to_owned());
    assert_eq!(get(address, "/healthz"), expected);
    assert_eq!(get(address, "/healthz?verbose"), expected);
    node.begin_shutdown();
    assert_eq!(get(address, "/healthz"), (unavailable, "stopping\n".to_owned()));
}

#[test]
fn requests_for_anything_else_are_refused_with_their_status() {
    let (address, _node) = start();
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /metrics/ HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405 Method Not Allowed"),
        ("GET /metrics HTTP/2.0\r\n\r\n", "505 HTTP Version Not Supported"),
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n", "400 Bad Request"),
        ("GET /metrics\r\n\r\n", "400 Bad Request"),
        (&many_headers, "431 Request Header Fields Too Large"),
    ] {
        let (line, body) = exchange(address, request.as_bytes());
        assert_eq!(line, format!("HTTP/1.1 {status}"), "{request:?}");
        assert!(body.ends_with('\n') && body.len() > 1, "it says why: {body:?}");
    }
}

#[test]
fn head_without_end_is_refused_at_its_bound_and_the_answer_arrives() {
    let (address, _node) = start();
    let mut request = b"GET /metrics HTTP/1.1\r\nx: ".to_vec();
    request.resize(METRICS_HEAD_SIZE_BYTES_MAX, b'y');
    let mut stream = connect(address);
    stream.write_all(&request).expect("it reads");
    // Whole pieces of what follows are still under way when the answer is sent.
    stream.write_all(&[b'y'; 8_192]).expect("it reads on");
    let (line, _) = answer(&mut stream);
    assert_eq!(line, "HTTP/1.1 431 Request Header Fields Too Large");
}

#[test]
fn request_that_comes_in_pieces_is_answered_once_it_is_whole() {
    let (address, _node) = start();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = connect(address);
    stream.set_nodelay(true).expect("an option");
    for byte in request {
        stream.write_all(&[*byte]).expect("it reads");
        std::thread::park_timeout(Duration::from_micros(200));
    }
    let (line, body) = answer(&mut stream);
    assert_eq!(line, "HTTP/1.1 200 OK");
    assert!(body.contains("p2pmap_turns_total{core=\"1\"} 0\n"));
}

#[test]
fn head_request_has_the_answers_head_alone() {
    let (address, _node) = start();
    let (line, body) = exchange(address, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert_eq!((line.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
}

#[test]
fn silent_clients_up_to_the_bound_keep_nobody_waiting() {
    let (address, _node) = start();
    let silent: Vec<_> = (1..METRICS_CONNECTION_COUNT_MAX).map(|_| connect(address)).collect();
    assert_eq!(get(address, "/healthz").1, "starting\n");
    // And those that go away make room.
    drop(silent);
    for _ in 0..3 * METRICS_CONNECTION_COUNT_MAX {
        drop(connect(address));
        assert_eq!(get(address, "/healthz").1, "starting\n");
    }
}

#[test]
fn silent_clients_beyond_the_bound_make_room_the_oldest_first() {
    let (address, _node) = start();
    let mut silent: Vec<_> = (0..METRICS_CONNECTION_COUNT_MAX).map(|_| connect(address)).collect();
    // One of them has begun to ask: that is no better.
    silent[0].write_all(b"GET /healthz").expect("it reads");
    assert_eq!(get(address, "/healthz").1, "starting\n");
    let mut oldest = silent.remove(0);
    assert_eq!(oldest.read(&mut [0; 100]).unwrap_or(0), 0, "it was closed");
    for stream in &mut silent {
        stream.set_nonblocking(true).expect("an option");
        let error = stream.read(&mut [0]).expect_err("it is still open");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
    // However many come.
    silent.extend((0..20 * METRICS_CONNECTION_COUNT_MAX).map(|_| connect(address)));
    assert_eq!(get(address, "/healthz").1, "starting\n");
}
