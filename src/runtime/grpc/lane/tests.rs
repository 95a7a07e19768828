use super::*;
use crate::base::time::Monotonic;
use crate::runtime::grpc::GrpcConnection;
use crate::runtime::grpc::status::GrpcCode;
use crate::wire::frame;

const NOW: Monotonic = Monotonic(1);

fn dialler() -> GrpcLane {
    GrpcLane::dial(SocketAddr::from(([127, 0, 0, 1], 1)))
}

fn append(lane: &mut GrpcLane, flag: Flag, payload: &[u8]) {
    let start = frame::begin(lane.frames(), flag);
    lane.frames().extend_from_slice(payload);
    frame::finish(lane.frames(), start);
}

/// What the dialler says first, as far as it says anything before it was answered.
fn first_bytes(lane: &mut GrpcLane) -> BytesMut {
    lane.poll();
    lane.output().split()
}

/// Moves bytes both ways, as much as fits, until both ends are quiet.
fn exchange((one, other): &mut (GrpcLane, GrpcLane)) {
    for _ in 0..10_000 {
        one.poll();
        other.poll();
        let (to_other, to_one) = (one.output().split(), other.output().split());
        if to_other.is_empty() && to_one.is_empty() && !one.needs_poll() && !other.needs_poll() {
            return;
        }
        other.receive(&to_other);
        one.receive(&to_one);
    }
    panic!("they are never quiet");
}

fn frames(lane: &mut GrpcLane) -> Vec<(Flag, Bytes)> {
    std::iter::from_fn(|| lane.next_frame().unwrap()).collect()
}

/// A dialler's connection, given byte by byte what it says first.
fn refused(connection: &mut GrpcConnection) -> Option<LaneEnd> {
    let mut dialler = dialler();
    append(&mut dialler, Flag::Hello, b"hello");
    let mut messages = Vec::new();
    for _ in 0..100 {
        connection.receive(&first_bytes(&mut dialler));
        let _ = connection.poll(NOW, &mut messages);
        dialler.receive(&connection.output().split());
        dialler.poll();
        assert_eq!(dialler.next_frame(), Ok(None));
        if let Some(end) = dialler.take_end() {
            assert!(connection.take_lane().is_none() && messages.is_empty());
            return Some(end);
        }
    }
    None
}

/// Both ends of a lane on which the dialler has greeted.
fn greeted() -> (GrpcLane, GrpcLane) {
    let mut dialler = dialler();
    append(&mut dialler, Flag::Hello, b"hello");
    let mut connection = GrpcConnection::new(true).taking_members();
    connection.receive(&first_bytes(&mut dialler));
    let _ = connection.poll(NOW, &mut Vec::new());
    let mut ends = (dialler, connection.take_lane().expect("a lane"));
    exchange(&mut ends);
    assert_eq!(frames(&mut ends.1), [(Flag::Hello, Bytes::from_static(b"hello"))]);
    ends
}

#[test]
fn frames_of_all_kinds_go_both_ways_in_order() {
    let mut ends = greeted();
    let said = [(Flag::Hello, &b"again"[..]), (Flag::Message, b""), (Flag::Ping, b"123456789")];
    for (flag, payload) in said {
        append(&mut ends.0, flag, payload);
        append(&mut ends.1, flag, payload);
    }
    exchange(&mut ends);
    let expected = said.map(|(flag, payload)| (flag, Bytes::from_static(payload)));
    assert_eq!(frames(&mut ends.0), expected);
    assert_eq!(frames(&mut ends.1), expected);
    assert_eq!((ends.0.queued_bytes(), ends.1.queued_bytes()), (0, 0));
}

#[test]
fn call_and_greeting_come_byte_by_byte() {
    let mut dialler = dialler();
    append(&mut dialler, Flag::Hello, b"hello");
    let mut connection = GrpcConnection::new(true).taking_members();
    let mut lane: Option<GrpcLane> = None;
    for byte in first_bytes(&mut dialler) {
        match &mut lane {
            Some(lane) => {
                lane.receive(&[byte]);
                lane.poll();
            }
            None => {
                connection.receive(&[byte]);
                let _ = connection.poll(NOW, &mut Vec::new());
                lane = connection.take_lane();
            }
        }
    }
    let expected = [(Flag::Hello, Bytes::from_static(b"hello"))];
    assert_eq!(frames(&mut lane.expect("a lane")), expected);
}

#[test]
fn frames_longer_than_every_window_arrive_whole() {
    let mut ends = greeted();
    let long = |byte: u8| vec![byte; 3 << 20];
    for byte in 0..2 {
        append(&mut ends.0, Flag::Message, &long(byte));
        append(&mut ends.1, Flag::Message, &long(byte));
    }
    exchange(&mut ends);
    for lane in [&mut ends.0, &mut ends.1] {
        let found = frames(lane);
        assert_eq!(found.len(), 2);
        for (byte, (_, payload)) in (0_u8..).zip(found) {
            assert!(payload == long(byte));
        }
        assert_eq!(lane.held_bytes(), 0);
    }
}

#[test]
fn what_the_other_end_does_not_take_is_counted_and_goes_no_further() {
    let mut ends = greeted();
    let payload = vec![7; 3 << 20];
    append(&mut ends.0, Flag::Message, &payload);
    // Nothing of it is read: it waits here, but for what windows and buffers take.
    for _ in 0..100 {
        ends.0.poll();
    }
    assert!(ends.0.queued_bytes() >= payload.len(), "{}", ends.0.queued_bytes());
    assert!(ends.0.output().len() <= GRPC_OUTPUT_SIZE_BYTES_MAX, "{}", ends.0.output.len());
    exchange(&mut ends);
    assert_eq!(ends.0.queued_bytes(), 0);
    assert_eq!(frames(&mut ends.1), [(Flag::Message, Bytes::from(payload))]);
}

#[test]
fn who_was_dialled_ends_with_a_last_frame_and_a_status() {
    let mut ends = greeted();
    append(&mut ends.1, Flag::Message, b"because");
    ends.1.finish(GrpcStatus::new(GrpcCode::PermissionDenied, "another secret"));
    assert!(ends.1.queued_bytes() > 0);
    exchange(&mut ends);
    assert_eq!(frames(&mut ends.0), [(Flag::Message, Bytes::from_static(b"because"))]);
    let end = ends.0.take_end().unwrap();
    assert_eq!(end.to_string(), "gRPC, status 7: another secret");
    assert_eq!(ends.1.queued_bytes(), 0);
}

#[test]
fn who_has_dialled_ends_with_a_last_frame() {
    let mut ends = greeted();
    append(&mut ends.0, Flag::Message, b"because");
    ends.0.finish(GrpcStatus::new(GrpcCode::PermissionDenied, "another secret"));
    exchange(&mut ends);
    assert_eq!(frames(&mut ends.1), [(Flag::Message, Bytes::from_static(b"because"))]);
    assert_eq!(ends.1.take_end(), Some(LaneEnd::Closed));
    assert_eq!(ends.0.queued_bytes(), 0);
}

#[test]
fn end_does_not_wait_for_an_end_that_reads_nothing() {
    let mut ends = greeted();
    append(&mut ends.1, Flag::Message, &vec![7; 3 << 20]);
    ends.1.finish(GrpcStatus::new(GrpcCode::Internal, "x"));
    for _ in 0..1_000 {
        ends.1.poll();
        ends.1.output().clear();
        if ends.1.queued_bytes() == 0 {
            return;
        }
    }
    panic!("{ends:?}");
}

#[test]
fn who_is_alone_or_leaving_takes_no_member() {
    let end = refused(&mut GrpcConnection::new(true)).expect("an end");
    assert_eq!(end, LaneEnd::Status("status 12: this node has no other members".to_owned()));
    let mut leaving = GrpcConnection::new(true).taking_members();
    leaving.shutdown();
    let end = refused(&mut leaving);
    assert!(matches!(end, Some(LaneEnd::Status(_) | LaneEnd::Broken(_))), "{end:?}");
}

#[test]
fn second_call_beside_a_lane_is_refused_and_the_lane_goes_on() {
    let duplex = Duplex::default();
    let handshake = pin!(client::Builder::new().handshake::<_, Bytes>(duplex.clone()));
    let waker = WakeFlag::raised().waker();
    let cx = &mut Context::from_waker(&waker);
    let Poll::Ready(Ok((mut requests, mut connection))) = handshake.poll(cx) else { panic!() };
    let request = || admission::lane_request(SocketAddr::from(([127, 0, 0, 1], 1)));
    let (mut first, mut said) = requests.send_request(request(), false).unwrap();
    let mut server = GrpcConnection::new(true).taking_members();
    let mut lane = None;
    let mut second = None;
    for _ in 0..100 {
        assert!(Pin::new(&mut connection).poll(cx).is_pending());
        let bytes = duplex.pipe().output.split();
        let answer = match &mut lane {
            None => {
                server.receive(&bytes);
                let _ = server.poll(NOW, &mut Vec::new());
                lane = server.take_lane();
                server.output().split()
            }
            Some(lane) => {
                let lane: &mut GrpcLane = lane;
                lane.receive(&bytes);
                lane.poll();
                let (second, _) =
                    second.get_or_insert_with(|| requests.send_request(request(), true).unwrap());
                let answer = lane.output().split();
                duplex.pipe().input.extend_from_slice(&answer);
                assert!(Pin::new(&mut connection).poll(cx).is_pending());
                if let Poll::Ready(response) = Pin::new(second).poll(cx) {
                    let told = status::told(response.unwrap().headers()).unwrap();
                    assert!(told.starts_with("status 9: the call of a member"), "{told}");
                    break;
                }
                BytesMut::new()
            }
        };
        duplex.pipe().input.extend_from_slice(&answer);
    }
    let mut lane = lane.expect("a lane");
    let Poll::Ready(Ok(response)) = Pin::new(&mut first).poll(cx) else { panic!("no response") };
    assert!(admission::is_grpc_response(&response));
    said.send_data(Bytes::from_static(&[0, 0, 0, 0, 3, 0x0a, 1, 9]), false).unwrap();
    assert!(Pin::new(&mut connection).poll(cx).is_pending());
    lane.receive(&duplex.pipe().output.split());
    lane.poll();
    assert_eq!(frames(&mut lane), [(Flag::Message, Bytes::from_static(&[9]))]);
}

/// A connection on which these are called at once, and how each call is answered: its status, or
/// that it goes on. Whether a lane came of it.
fn called_at_once(paths: [&str; 2]) -> (bool, [Option<String>; 2]) {
    let duplex = Duplex::default();
    let handshake = pin!(client::Builder::new().handshake::<_, Bytes>(duplex.clone()));
    let waker = WakeFlag::raised().waker();
    let cx = &mut Context::from_waker(&waker);
    let Poll::Ready(Ok((mut requests, mut connection))) = handshake.poll(cx) else { panic!() };
    let mut calls = paths.map(|path| {
        let mut request = admission::lane_request(SocketAddr::from(([127, 0, 0, 1], 1)));
        *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
        requests.send_request(request, false).unwrap()
    });
    let mut server = GrpcConnection::new(true).taking_members();
    for _ in 0..10 {
        assert!(Pin::new(&mut connection).poll(cx).is_pending());
        server.receive(&duplex.pipe().output.split());
        let _ = server.poll(NOW, &mut Vec::new());
        duplex.pipe().input.extend_from_slice(&server.output().split());
    }
    assert!(Pin::new(&mut connection).poll(cx).is_pending());
    let answers = calls.each_mut().map(|(response, _)| {
        let Poll::Ready(Ok(response)) = Pin::new(response).poll(cx) else { panic!("no answer") };
        status::told(response.headers())
    });
    (server.take_lane().is_some(), answers)
}

#[test]
fn lane_is_the_only_call_of_its_connection_whatever_came_first() {
    let (lane, client) = ("/p2pmap.v1.MemberService/Connect", "/atomix.map.P2PMapService/Connect");
    let refused = |answer: &Option<String>| {
        answer.as_ref().is_some_and(|told| told.starts_with("status 9: the call of a member"))
    };
    for second in [lane, client] {
        let (is_lane, [first, second]) = called_at_once([lane, second]);
        assert!(is_lane && first.is_none() && refused(&second), "{first:?} {second:?}");
    }
    let (is_lane, [first, second]) = called_at_once([client, lane]);
    assert!(!is_lane && first.is_none() && refused(&second), "{first:?} {second:?}");
}

#[test]
fn what_is_no_member_frame_is_an_error() {
    let mut ends = greeted();
    ends.0.messages.extend_from_slice(&[0, 0, 0, 0, 2, 0x22, 0]);
    exchange(&mut ends);
    assert_eq!(ends.1.next_frame(), Err(LaneError::Frame));
    let mut ends = greeted();
    ends.0.messages.extend_from_slice(&[2, 0, 0, 0, 0]);
    exchange(&mut ends);
    assert!(matches!(ends.1.next_frame(), Err(LaneError::Message(_))));
}

#[test]
fn connection_that_breaks_off_ends_the_lane() {
    let mut ends = greeted();
    ends.0.receive(b"this is no frame of HTTP/2 at all");
    ends.0.poll();
    assert!(matches!(ends.0.take_end(), Some(LaneEnd::Broken(_))), "{:?}", ends.0);
}

#[test]
fn lane_may_move_to_another_core() {
    fn moves<T: Send>(_: &T) {}
    moves(&dialler());
}
