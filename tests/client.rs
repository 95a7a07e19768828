//! The client's guarantee: each request ends with its own answer or with an error that says what
//! happened, in bounded time, whatever the other side does.

mod mini_node;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use mini_node::{command_response, correlation, frame, query_response, read_message};
use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::client::error::{ClientError, Phase, Violation};
use p2pmap::proto::atomix::map::{Message, Ping, QueryClose, message};
use p2pmap::proto::p2pmap::v1::condition::Condition as Wanted;
use p2pmap::proto::p2pmap::v1::error::Code;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{
    Condition, Entries, Error, Existence, KeyValue, Page, Put, Remove, Sized, Written,
};

const TIMEOUT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

fn client() -> Client {
    Client::connect(&mini_node::start().to_string(), TIMEOUT).expect("it listens")
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put { key: key.into(), value: value.into(), ..Put::default() }
}

fn only_if(wanted: Wanted) -> Option<Condition> {
    Some(Condition { condition: Some(wanted) })
}

/// A node that answers the first request with `bytes` and then waits for the client to go.
fn answering(bytes: Vec<u8>) -> SocketAddr {
    mini_node::serve_each(move |mut stream| {
        read_message(&mut stream)?;
        stream.write_all(&bytes)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    })
}

fn size_of(address: SocketAddr, timeout: Duration) -> Result<Sized, ClientError> {
    Client::connect(&address.to_string(), timeout)?.size("m")
}

fn violation(answer: Vec<u8>) -> Violation {
    match size_of(answering(answer), TIMEOUT) {
        Err(ClientError::Violation { violation, .. }) => violation,
        other => panic!("expected a violation, got {other:?}"),
    }
}

#[test]
fn what_was_put_is_found_and_what_was_removed_is_not() {
    let mut client = client();
    let first = client.put("m", put("k", "one")).unwrap();
    let again = Put { want_previous: true, ..put("k", "two") };
    let second = client.put("m", again).unwrap();
    assert!(second.version > first.version);
    assert_eq!(second.previous.unwrap().value, "one");

    let found = client.get("m", "k").unwrap().unwrap();
    assert_eq!((found.value, found.version), (Bytes::from("two"), second.version));
    assert!(client.exists("m", "k").unwrap());
    assert_eq!(client.size("m").unwrap(), Sized { entries: 1, bytes: 4 });

    let remove = Remove { key: "k".into(), want_previous: true, ..Remove::default() };
    let removed = client.remove("m", remove.clone()).unwrap();
    assert_eq!((removed.existed, removed.previous.unwrap().value), (true, Bytes::from("two")));
    assert!(!client.remove("m", remove).unwrap().existed);
    assert_eq!(client.get("m", "k").unwrap(), None);
    assert!(!client.exists("m", "k").unwrap());
}

#[test]
fn keys_and_values_are_any_bytes() {
    let mut client = client();
    let key = Bytes::from_static(b"\0\xff\n#{}");
    let value = Bytes::from((0..=255).collect::<Vec<u8>>());
    let put = Put { key: key.clone(), value: value.clone(), ..Put::default() };
    client.put("m", put).unwrap();
    assert_eq!(client.get("m", key).unwrap().unwrap().value, value);
}

#[test]
fn failed_condition_is_refused_with_the_current_entry_and_the_connection_goes_on() {
    let mut client = client();
    let version = client.put("m", put("k", "one")).unwrap().version;
    let absent = Put { condition: only_if(Wanted::Absent(true)), ..put("k", "two") };
    match client.put("m", absent) {
        Err(ClientError::Refused(error)) => {
            assert_eq!(error.code(), Code::ConditionFailed);
            assert_eq!(error.current.unwrap().version, version);
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    let same = Put { condition: only_if(Wanted::Version(version)), ..put("k", "two") };
    assert!(client.put("m", same).unwrap().version > version);
}

#[test]
fn one_partition_of_a_map_can_be_asked_while_the_operation_names_the_map() {
    // The node in miniature checks that the operation names `m` alone.
    assert_eq!(client().size("m#7").unwrap().entries, 0);
}

#[test]
fn entries_are_gathered_over_pages_and_say_where_to_continue() {
    let mut client = client();
    let keys: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
    for key in &keys {
        let put = Put { key: key.clone().into(), value: "v".into(), ..Put::default() };
        client.put("m", put).unwrap();
    }
    let first = client.entries("m", Entries::default()).unwrap();
    assert_eq!(first.items.len(), mini_node::ANSWER_COUNT_MAX);
    assert_eq!(first.next.as_ref(), first.items.last().map(|item| &item.key));
    let rest = Entries { start_after: first.next.unwrap(), keys_only: true, ..Entries::default() };
    let rest = client.entries("m", rest).unwrap();
    assert_eq!(rest.next, None);
    assert!(rest.items.iter().all(|item| item.entry.as_ref().unwrap().value.is_empty()));
    let read: Vec<&Bytes> = first.items.iter().chain(&rest.items).map(|item| &item.key).collect();
    assert_eq!(read, keys.iter().collect::<Vec<_>>());
    assert_eq!(client.clear("m").unwrap(), 10);
    assert_eq!(client.entries("m", Entries::default()).unwrap().items, []);
}

#[test]
fn many_requests_are_under_way_and_each_gets_its_own_answer() {
    let mut connection = Connection::connect(&mini_node::start().to_string(), TIMEOUT).unwrap();
    let value = Bytes::from(vec![7; 1_000]);
    for number in 0..500 {
        let key = format!("k{number}").into();
        let put = Put { key, value: value.clone(), ..Put::default() };
        assert_eq!(connection.send("m", Operation::Put(put)).unwrap(), number + 1);
    }
    assert_eq!(connection.open_count(), 500);
    for number in 0..500 {
        let answer = connection.receive().unwrap();
        assert_eq!((answer.correlation, answer.index), (number + 1, number + 1));
        assert!(matches!(answer.outcome, Outcome::Written(_)) && answer.is_last());
    }
    assert_eq!(connection.open_count(), 0);
}

#[test]
fn answers_out_of_order_find_their_requests() {
    let address = mini_node::serve_each(|mut stream| {
        let requests = [read_message(&mut stream)?, read_message(&mut stream)?];
        for request in requests.iter().rev() {
            let id = correlation(request);
            let written = Outcome::Written(Written { version: id, previous: None });
            stream.write_all(&frame(&command_response(id, id, written)))?;
        }
        Ok(())
    });
    let mut connection = Connection::connect(&address.to_string(), TIMEOUT).unwrap();
    connection.send("m", Operation::Put(put("a", "1"))).unwrap();
    connection.send("m", Operation::Put(put("b", "2"))).unwrap();
    assert_eq!(connection.receive().unwrap().correlation, 2);
    assert_eq!(connection.receive().unwrap().correlation, 1);
}

#[test]
fn answer_that_comes_byte_by_byte_is_put_together() {
    let address = mini_node::serve_each(|mut stream| {
        let id = correlation(&read_message(&mut stream)?);
        let size = Outcome::Size(Sized { entries: 3, bytes: 9 });
        for byte in frame(&query_response(id, 1, size)) {
            stream.write_all(&[byte])?;
            stream.flush()?;
        }
        Ok(())
    });
    assert_eq!(size_of(address, TIMEOUT).unwrap(), Sized { entries: 3, bytes: 9 });
}

#[test]
fn address_that_is_none_is_refused_before_connecting() {
    for node in ["", "localhost", "localhost:", ":5678", "localhost:65536", "localhost:http"] {
        let error = Client::connect(node, TIMEOUT).unwrap_err();
        assert!(matches!(error, ClientError::Address { .. }), "{node:?}: {error}");
    }
}

#[test]
fn nobody_listening_is_told_from_no_answer() {
    let node = mini_node::nobody().to_string();
    let error = Client::connect(&node, TIMEOUT).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach {node}: connection refused"));
}

#[test]
fn node_that_never_answers_is_given_up_after_the_timeout() {
    let address = answering(Vec::new());
    match size_of(address, SHORT) {
        Err(ClientError::TimedOut { phase: Phase::Answer, after, .. }) => assert_eq!(after, SHORT),
        other => panic!("expected a timeout, got {other:?}"),
    }
}

#[test]
fn node_that_drips_bytes_for_ever_is_given_up_after_the_timeout() {
    let address = mini_node::serve_each(|mut stream| {
        read_message(&mut stream)?;
        stream.write_all(&[0, 0, 0, 0xff, 0xff])?;
        while stream.write_all(&[0]).is_ok() {
            thread::yield_now();
        }
        Ok(())
    });
    let announced = size_of(address, SHORT);
    // 64 KiB may come in time on a fast machine; then they are no message.
    assert!(
        matches!(
            announced,
            Err(ClientError::TimedOut { phase: Phase::Answer, .. } | ClientError::Violation { .. })
        ),
        "{announced:?}"
    );
}

#[test]
fn node_that_never_reads_is_given_up_after_the_timeout() {
    let address = mini_node::serve_each(|stream| {
        // Keeps the connection open, unread, for as long as the test runs.
        Box::leak(Box::new(stream));
        Ok(())
    });
    let mut connection = Connection::connect(&address.to_string(), SHORT).unwrap();
    let value = Bytes::from(vec![0; 1 << 20]);
    let mut send = || {
        let put = Put { key: "k".into(), value: value.clone(), ..Put::default() };
        connection.send("m", Operation::Put(put))
    };
    let error = (0..64).find_map(|_| send().err()).expect("64 MiB don't fit any socket buffer");
    assert!(matches!(error, ClientError::TimedOut { phase: Phase::Sending, .. }), "{error}");
}

#[test]
fn connection_that_is_closed_without_an_answer_is_an_error() {
    let address = mini_node::serve_each(|mut stream| {
        read_message(&mut stream)?;
        stream.shutdown(Shutdown::Both)
    });
    assert!(matches!(size_of(address, TIMEOUT), Err(ClientError::Closed { .. })));
}

#[test]
fn answer_cut_in_the_middle_is_no_answer() {
    let address = mini_node::serve_each(|mut stream| {
        let id = correlation(&read_message(&mut stream)?);
        let answer = frame(&query_response(id, 1, Outcome::Size(Sized::default())));
        stream.write_all(&answer[..answer.len() - 1])?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    assert!(matches!(size_of(address, TIMEOUT), Err(ClientError::Closed { .. })));
}

#[test]
fn frame_that_announces_too_much_is_refused_before_it_comes() {
    let four_gib = [&[0][..], &u32::MAX.to_be_bytes()].concat();
    assert_eq!(violation(four_gib), Violation::FrameTooLong(u32::MAX));
    assert_eq!(violation(vec![1, 0, 0, 0, 0]), Violation::FrameFlag(1));
}

#[test]
fn other_protocols_are_told_apart_from_ours() {
    assert_eq!(violation(b"HTTP/1.1 400 Bad Request\r\n".to_vec()), Violation::FrameFlag(b'H'));
    let garbage = vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff];
    assert!(matches!(violation(garbage), Violation::Undecodable(_)));
}

#[test]
fn message_that_answers_nothing_is_a_violation() {
    let ping = Message { target: None, message: Some(message::Message::Ping(Ping::default())) };
    assert_eq!(violation(frame(&ping)), Violation::UnexpectedMessage);
    assert_eq!(violation(frame(&Message::default())), Violation::UnexpectedMessage);
    let size = || Outcome::Size(Sized::default());
    assert_eq!(violation(frame(&query_response(2, 1, size()))), Violation::UnknownRequest(2));
    assert_eq!(violation(frame(&command_response(1, 1, size()))), Violation::WrongKind(1));
    let exists = Outcome::Exists(Existence { exists: true });
    assert_eq!(violation(frame(&query_response(1, 1, exists))), Violation::WrongOutcome);
}

#[test]
fn pages_that_never_advance_end_with_an_error_and_not_with_a_loop() {
    let address = mini_node::serve_each(|mut stream| {
        let id = correlation(&read_message(&mut stream)?);
        let page = Outcome::Page(Page { items: vec![], next: "k".into() });
        stream.write_all(&frame(&query_response(id, 1, page)))?;
        let close = Outcome::QueryClose(QueryClose::default());
        stream.write_all(&frame(&query_response(id, 1, close)))
    });
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    let entries = Entries { start_after: "k".into(), ..Entries::default() };
    match client.entries("m", entries) {
        Err(ClientError::Violation { violation, .. }) => {
            assert_eq!(violation, Violation::EntriesStandStill);
        }
        other => panic!("expected a violation, got {other:?}"),
    }
}

#[test]
fn pages_without_end_are_not_gathered_for_ever() {
    let address = mini_node::serve_each(|mut stream| {
        let id = correlation(&read_message(&mut stream)?);
        let items = vec![KeyValue { key: "k".into(), entry: None }; 100];
        let page = frame(&query_response(id, 1, Outcome::Page(Page { items, next: "k".into() })));
        loop {
            stream.write_all(&page)?;
        }
    });
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    match client.entries("m", Entries::default()) {
        Err(ClientError::Violation { violation, .. }) => {
            assert_eq!(violation, Violation::TooManyEntries);
        }
        other => panic!("expected a violation, got {other:?}"),
    }
}

#[test]
fn error_of_the_connection_is_told_with_the_nodes_own_words() {
    let error = Error {
        code: Code::InvalidArgument.into(),
        message: "target: the map name is empty".to_owned(),
        ..Error::default()
    };
    let ending = frame(&command_response(0, 0, Outcome::Error(error)));
    let address = answering(ending);
    let error = size_of(address, TIMEOUT).unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert_eq!(
        error.to_string(),
        format!("{address} ended the connection: target: the map name is empty (INVALID_ARGUMENT)")
    );
}

#[test]
fn after_an_error_of_the_connection_nothing_more_is_sent_or_received() {
    let mut client = Client::connect(&answering(vec![9; 5]).to_string(), TIMEOUT).unwrap();
    assert!(matches!(client.size("m"), Err(ClientError::Violation { .. })));
    assert!(matches!(client.size("m"), Err(ClientError::Closed { .. })));
    assert!(matches!(client.get("m", "k"), Err(ClientError::Closed { .. })));
}

#[test]
fn request_too_long_for_a_frame_is_not_sent_and_the_connection_goes_on() {
    let mut client = client();
    let value = Bytes::from(vec![0; 4 << 20]);
    let long = Put { key: "k".into(), value, ..Put::default() };
    let error = client.put("m", long).unwrap_err();
    assert!(matches!(error, ClientError::TooLong { .. }), "{error}");
    assert_eq!(client.size("m").unwrap().entries, 0);
}
