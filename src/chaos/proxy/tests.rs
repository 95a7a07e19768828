use std::io::{Read as _, Write as _};

use super::*;
use crate::base::time::NS_PER_MS;
use crate::runtime::clock::Clock;

const WAIT: Duration = Duration::from_secs(10);
/// Longer than what passes takes on its way.
const A_WHILE: Duration = Duration::from_millis(200);

/// A link, and both ends of a connection over it.
struct Pair {
    link: Link,
    listener: TcpListener,
    dialler: TcpStream,
    target: TcpStream,
}

fn pair() -> Pair {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let link = Link::start(listener.local_addr().unwrap(), 1).unwrap();
    let dialler = TcpStream::connect(link.address()).unwrap();
    let (target, _) = listener.accept().unwrap();
    for stream in [&dialler, &target] {
        stream.set_read_timeout(Some(WAIT)).unwrap();
    }
    Pair { link, listener, dialler, target }
}

fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, expected);
}

fn hears_nothing(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let error = stream.read(&mut [0]).expect_err("nothing is said");
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    stream.set_read_timeout(Some(WAIT)).unwrap();
}

#[test]
fn everything_passes_in_both_directions_and_so_does_its_end() {
    let Pair { link, listener: _listener, mut dialler, mut target } = pair();
    dialler.write_all(b"\x09hello").unwrap();
    hears(&mut target, b"\x09hello");
    target.write_all(b"\x09world").unwrap();
    hears(&mut dialler, b"\x09world");
    dialler.shutdown(Shutdown::Write).unwrap();
    assert_eq!(target.read(&mut [0]).unwrap(), 0);
    // The other direction goes on.
    target.write_all(b"more").unwrap();
    hears(&mut dialler, b"more");
    assert_eq!(link.connection_count(), 1);
}

#[test]
fn one_direction_is_held_while_the_other_one_passes_and_nothing_is_lost() {
    let Pair { link, listener: _listener, mut dialler, mut target } = pair();
    link.set(Way::Forth, Rule { is_held: true, ..Rule::default() });
    dialler.write_all(b"\x09late").unwrap();
    target.write_all(b"\x09at once").unwrap();
    hears(&mut dialler, b"\x09at once");
    hears_nothing(&mut target);
    link.heal();
    hears(&mut target, b"\x09late");
}

#[test]
fn connection_is_made_only_when_nothing_is_held() {
    let Pair { link, listener, .. } = pair();
    link.set(Way::Back, Rule { is_held: true, ..Rule::default() });
    let _waiting = TcpStream::connect(link.address()).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::park_timeout(A_WHILE);
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    link.heal();
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap();
}

#[test]
fn cut_connection_is_closed_at_both_ends_and_the_next_one_passes() {
    let Pair { link, listener, mut dialler, mut target } = pair();
    link.cut();
    assert_eq!(dialler.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(target.read(&mut [0]).unwrap_or(0), 0);
    let mut dialler = TcpStream::connect(link.address()).unwrap();
    let (mut target, _) = listener.accept().unwrap();
    dialler.write_all(b"\x09again").unwrap();
    hears(&mut target, b"\x09again");
}

#[test]
fn who_dials_a_node_that_is_down_is_refused_until_it_is_back() {
    let Pair { link, listener, dialler: _dialler, target: _target } = pair();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut attempts = (0..100).map(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        TcpStream::connect(link.address()).map_err(|error| error.kind())
    });
    assert!(attempts.any(|made| made.is_err_and(|kind| kind == io::ErrorKind::ConnectionRefused)));
    let listener = TcpListener::bind(address).unwrap();
    let mut dialler = (0..500)
        .find_map(|_| {
            std::thread::park_timeout(Duration::from_millis(10));
            TcpStream::connect(link.address()).ok()
        })
        .expect("it is back");
    dialler.write_all(b"\x09hello").unwrap();
    // It may have been looked first whether the node is there.
    let heard = (0..5).any(|_| {
        let (mut target, _) = listener.accept().unwrap();
        target.set_read_timeout(Some(WAIT)).unwrap();
        target.read_exact(&mut [0; 6]).is_ok()
    });
    assert!(heard);
}

#[test]
fn end_of_a_half_open_connection_is_told_to_one_side_only() {
    let Pair { link, listener: _listener, mut dialler, mut target } = pair();
    link.half_open(Way::Forth);
    assert_eq!(target.read(&mut [0]).unwrap_or(0), 0);
    dialler.write_all(b"\x09hello").unwrap();
    hears_nothing(&mut dialler);
    // Then it learns what the other side has known for long.
    link.heal();
    assert_eq!(dialler.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn throttled_stream_is_slow_and_whole() {
    let Pair { link, listener: _listener, mut dialler, mut target } = pair();
    link.set(Way::Forth, Rule { rate_bytes: 10 << 10, ..Rule::default() });
    dialler.write_all(&[9; 4 << 10]).unwrap();
    let clock = Clock::start();
    hears(&mut target, &[9; 4 << 10]);
    // Each of the four KiB takes a tenth of a second, and the last one's is after it.
    assert!(clock.monotonic().0 >= 300 * NS_PER_MS);
}

#[test]
fn link_ends_while_everything_waits() {
    let Pair { link, listener: _listener, mut dialler, .. } = pair();
    link.set(Way::Forth, Rule { is_held: true, ..Rule::default() });
    dialler.write_all(b"\x09never").unwrap();
    let _waiting = TcpStream::connect(link.address()).unwrap();
    drop(link);
    assert_eq!(dialler.read(&mut [0]).unwrap_or(0), 0);
}
