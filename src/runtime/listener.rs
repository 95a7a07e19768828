//! The port of a node, listened on by every core.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::base::limits::LISTEN_BACKLOG_COUNT;

/// How often a port is tried that somebody else has.
const PROBE_COUNT: u32 = 10;
/// How long to wait in between.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// Why a node can't listen. One line.
#[derive(Debug)]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, error } = self;
        write!(f, "can't listen on {address}: {error}")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; another process listens there"),
            io::ErrorKind::AddrNotAvailable => f.write_str("; no interface has this address"),
            io::ErrorKind::PermissionDenied => {
                f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {}

/// Listens `count` times on `address` and returns the sockets, and the address with its port.
///
/// # Errors
/// If the address can't be had alone.
pub fn listen(
    address: SocketAddr,
    count: usize,
) -> Result<(Vec<OwnedFd>, SocketAddr), ListenError> {
    let fail = |error: rustix::io::Errno| ListenError { address, error: error.into() };
    let address = probe_patiently(address).map_err(fail)?;
    let sockets = (0..count).map(|_| open(address)).collect::<Result<_, _>>().map_err(fail)?;
    Ok((sockets, address))
}

/// A killed process keeps its port a little longer: the kernel takes its `io_uring` down, and the
/// listener with it, after the process is gone. A restart shouldn't fail for that.
fn probe_patiently(address: SocketAddr) -> rustix::io::Result<SocketAddr> {
    for _ in 1..PROBE_COUNT {
        match probe(address) {
            Err(rustix::io::Errno::ADDRINUSE) => std::thread::park_timeout(PROBE_PAUSE),
            result => return result,
        }
    }
    probe(address)
}

/// Binds once without `SO_REUSEPORT`, which fails if anybody listens there. With it a second
/// process of the same user would silently get a part of the first one's connections.
fn probe(address: SocketAddr) -> rustix::io::Result<SocketAddr> {
    let socket = socket_for(address)?;
    rustix::net::bind(&socket, &address)?;
    let mut bound = address;
    let name = rustix::net::getsockname(&socket)?;
    if let Ok(name) = SocketAddr::try_from(name) {
        bound.set_port(name.port());
    }
    Ok(bound)
}

fn open(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = socket_for(address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Accepted sockets inherit this: it costs no system call per connection.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, i32::from(LISTEN_BACKLOG_COUNT))?;
    Ok(socket)
}

fn socket_for(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Connections of a former process that linger don't keep a new one from starting.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn several_cores_share_one_port() {
        let (sockets, address) = listen(any(), 3).expect("a port");
        assert_eq!(sockets.len(), 3);
        assert_ne!(address.port(), 0);
    }

    #[test]
    fn port_of_another_is_refused_though_it_allows_sharing() {
        let (_sockets, address) = listen(any(), 1).expect("a port");
        let error = listen(address, 1).expect_err("the port is taken");
        assert!(error.to_string().contains("another process"), "{error}");
    }
}
