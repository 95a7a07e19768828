//! What the machine can do: an echo in plain blocking or spinning code, with no frames and no
//! runtime. The built-in echo is held against it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const BUFFER_SIZE_BYTES: usize = 64 << 10;

/// Serves forever from the calling thread and, if not spinning, one thread per connection, which
/// run where the calling thread may. `listening` is told the address.
///
/// # Errors
/// If the address can't be had.
pub fn serve(
    address: SocketAddr,
    spin: bool,
    listening: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listening(listener.local_addr()?);
    if spin { serve_spinning(&listener) } else { serve_blocking(&listener) }
}

fn serve_spinning(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut buffer = vec![0; BUFFER_SIZE_BYTES];
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut turns: u32 = 0;
    loop {
        // Looking for connections costs a system call: not in every turn.
        let looks = connections.is_empty() || turns.is_multiple_of(1_024);
        if looks && let Ok((connection, _)) = listener.accept() {
            connection.set_nodelay(true)?;
            connection.set_nonblocking(true)?;
            connections.push(connection);
        }
        turns = turns.wrapping_add(1);
        connections.retain_mut(|connection| echo_once(connection, &mut buffer));
    }
}

/// False: the connection is over.
fn echo_once(connection: &mut TcpStream, buffer: &mut [u8]) -> bool {
    let received = match connection.read(buffer) {
        Ok(0) => return false,
        Ok(received) => received,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    let mut rest = &buffer[..received];
    while !rest.is_empty() {
        match connection.write(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}

fn serve_blocking(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut connection, _) = listener.accept()?;
        connection.set_nodelay(true)?;
        std::thread::Builder::new().name("bare-echo".into()).spawn(move || {
            let mut buffer = vec![0; BUFFER_SIZE_BYTES];
            while echo_once(&mut connection, &mut buffer) {}
        })?;
    }
}
