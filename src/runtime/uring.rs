//! A core's own `io_uring`: sockets, log writes and its alarm on one ring, one system call a turn.
//!
//! The interface is safe because memory that the kernel uses belongs to the ring meanwhile: a send
//! takes its bytes and a write its blocks by value, and the completion returns them; received bytes
//! come in buffers of the ring's pool. What is still lent when a ring is dropped is leaked, never
//! freed: the kernel may write to it a little longer.
//!
//! In-flight operations are bounded by their callers: per connection one receive and one send, one
//! accept, the log's few writes, one alarm. Completions beyond the completion queue are kept by the
//! kernel and end a multishot operation early, which its owner arms again.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use bytes::BytesMut;
use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::net::SocketAddrAny;
use rustix::net::addr::SocketAddrArg as _;
use slab::Slab;

use super::buffer_pool::{BUFFER_GROUP, BufferPool, ReceivedBuffer};
use crate::base::cast::u32_from;
use crate::base::time::Monotonic;
use crate::storage::block::Block;

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub struct RingSize {
    /// Operations that one system call can submit; more wait for the next call.
    pub submissions: u32,
    /// Completions that fit; more are kept by the kernel.
    pub completions: u32,
    /// Buffers of the receive pool, a power of two.
    pub buffer_count: u16,
    /// Bytes of each of them.
    pub buffer_size_bytes: u32,
}

impl Default for RingSize {
    fn default() -> Self {
        Self {
            submissions: 1_024,
            completions: 8_192,
            buffer_count: 512,
            buffer_size_bytes: 16 << 10,
        }
    }
}

/// Whose operation it is: what its owner calls it. Comes back with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// A place in a table of the owner's.
    pub slot: u32,
    /// Distinguishes successive uses of that place: 24 bits.
    pub generation: u32,
}

impl Key {
    /// The same place the next time that it is used.
    #[must_use]
    pub fn next_use(self) -> Self {
        Self { slot: self.slot, generation: self.generation.wrapping_add(1) & GENERATION_MASK }
    }
}

/// What came of an operation.
#[derive(Debug)]
pub enum Completion {
    /// A listener accepted a connection, or failed to.
    Accepted {
        /// The new socket.
        socket: io::Result<OwnedFd>,
        /// Whether the listener goes on accepting.
        more: bool,
    },
    /// Bytes came in. `Ok(None)` is the end of the stream.
    Received {
        /// The receiver.
        key: Key,
        /// What came.
        data: io::Result<Option<ReceivedBuffer>>,
        /// Whether the receive goes on.
        more: bool,
    },
    /// A send ended; possibly short.
    Sent {
        /// The sender.
        key: Key,
        /// The bytes, returned whole.
        bytes: BytesMut,
        /// How many were sent.
        result: io::Result<usize>,
    },
    /// A connection was made, or wasn't.
    Connected {
        /// Who asked for it.
        key: Key,
        /// Why not.
        result: io::Result<()>,
    },
    /// A write to a file ended; possibly short.
    Written {
        /// The writer.
        key: Key,
        /// The blocks, returned whole.
        blocks: Vec<Block>,
        /// How many bytes were written.
        result: io::Result<usize>,
    },
    /// The alarm went off.
    Alarm,
}

/// The kind of an operation, in the highest byte of its user data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept = 1,
    Receive = 2,
    Loan = 3,
    Alarm = 4,
    /// Cancellations: what matters is the completion of what they cancel.
    Cancel = 5,
}

const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

fn user_data(kind: Kind, key: Key) -> u64 {
    (u64::from(kind as u8) << 56)
        | (u64::from(key.generation & GENERATION_MASK) << 32)
        | u64::from(key.slot)
}

fn key_of(user_data: u64) -> Key {
    Key {
        slot: crate::base::cast::low_u32(user_data),
        generation: crate::base::cast::low_u32(user_data >> 32) & GENERATION_MASK,
    }
}

/// Memory that the kernel reads during an operation.
#[derive(Debug)]
enum Loan {
    Bytes(Key, BytesMut),
    Blocks(Key, Vec<Block>),
    /// Nobody reads it but the kernel.
    Address(Key, #[allow(dead_code)] Box<SocketAddrAny>),
}

/// All memory that the kernel may use.
#[derive(Debug)]
struct Memory {
    buffers: BufferPool,
    loans: Slab<Loan>,
    /// Read by the kernel when the alarm is submitted.
    alarm: Box<Timespec>,
}

/// The ring. It belongs to the thread that made it.
pub struct Uring {
    /// Dropped first: the kernel then begins to cancel what is in flight. `memory` goes last, and
    /// only if nothing was.
    ring: IoUring,
    memory: ManuallyDrop<Memory>,
    /// Operations for which the submission queue had no room, in order.
    backlog: VecDeque<squeue::Entry>,
    in_flight: usize,
    alarm_generation: u32,
    /// When the alarm goes off; `None`: it isn't set.
    alarm_due: Option<Monotonic>,
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            // SAFETY: `memory` is not used after this; with nothing in flight the kernel doesn't
            // use it either.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        }
    }
}

impl Uring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// If the kernel has no `io_uring` that is new enough, or forbids it.
    pub fn new(size: RingSize) -> Result<Self, UringError> {
        check_kernel()?;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(size.completions)
            .build(size.submissions)
            .map_err(UringError::from_setup)?;
        let buffers = BufferPool::new(size.buffer_count, size.buffer_size_bytes);
        let alarm = Box::new(Timespec::new());
        let mut memory = ManuallyDrop::new(Memory { buffers, loans: Slab::new(), alarm });
        // SAFETY: `Uring` keeps the pool alive while anything is in flight, see `Drop`.
        let registered = unsafe { memory.buffers.register(&ring.submitter()) };
        registered.map_err(UringError::from_setup)?;
        let backlog = VecDeque::new();
        Ok(Self { ring, memory, backlog, in_flight: 0, alarm_generation: 0, alarm_due: None })
    }

    /// Writes to `eventfd` whenever something completes while signals are on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn register_eventfd(&mut self, eventfd: &OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// Turns the signals of the registered eventfd on or off; a spinning loop doesn't need them.
    pub fn set_eventfd_signals(&mut self, on: bool) {
        let completions = self.ring.completion();
        if on {
            completions.enable_eventfd();
            // The caller looks for completions next: what came before the kernel saw the change is
            // seen there, what comes after it is signalled.
            fence(Ordering::SeqCst);
        } else {
            completions.disable_eventfd();
        }
    }

    /// Operations whose last completion hasn't come.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The receive buffers.
    #[must_use]
    pub fn buffers(&self) -> &BufferPool {
        &self.memory.buffers
    }

    /// The receive buffers, to give some back.
    pub fn buffers_mut(&mut self) -> &mut BufferPool {
        &mut self.memory.buffers
    }

    /// Accepts connections until told otherwise.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, key: Key) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(user_data(Kind::Accept, key));
        self.in_flight += 1;
        // SAFETY: the operation uses no memory of ours.
        unsafe { self.push(entry) }
    }

    /// Receives into the pool until the stream ends, it is cancelled or buffers run out.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, key: Key) {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), BUFFER_GROUP)
            .build()
            .user_data(user_data(Kind::Receive, key));
        self.in_flight += 1;
        // SAFETY: the operation writes only to the pool's lent buffers, which live long enough.
        unsafe { self.push(entry) }
    }

    /// Sends `bytes`, or a part of them.
    pub fn send(&mut self, socket: BorrowedFd<'_>, key: Key, bytes: BytesMut) {
        let (start, len) = (bytes.as_ptr(), u32_from(bytes.len()));
        let loan = self.memory.loans.insert(Loan::Bytes(key, bytes));
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), start, len)
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .user_data(user_data(Kind::Loan, loan_key(loan)));
        self.in_flight += 1;
        // SAFETY: the bytes lie on the heap, so they didn't move with `bytes` into `loans`, where
        // nobody touches them until the completion takes them out.
        unsafe { self.push(entry) }
    }

    /// Connects a socket. A shut down of the socket ends the attempt.
    pub fn connect(&mut self, socket: BorrowedFd<'_>, key: Key, address: SocketAddr) {
        let address = Box::new(address.as_any());
        let (start, len) = (address.as_ptr().cast(), address.addr_len());
        let loan = self.memory.loans.insert(Loan::Address(key, address));
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), start, len)
            .build()
            .user_data(user_data(Kind::Loan, loan_key(loan)));
        self.in_flight += 1;
        // SAFETY: as for `send`: the address lies in a box, which rests in `loans` meanwhile.
        unsafe { self.push(entry) }
    }

    /// Writes `blocks` to a file at `offset` bytes.
    pub fn write(&mut self, file: BorrowedFd<'_>, key: Key, blocks: Vec<Block>, offset: u64) {
        let start = blocks.as_ptr().cast::<u8>();
        let len = u32_from(blocks.len() * size_of::<Block>());
        let loan = self.memory.loans.insert(Loan::Blocks(key, blocks));
        let entry = opcode::Write::new(Fd(file.as_raw_fd()), start, len)
            .offset(offset)
            .build()
            .user_data(user_data(Kind::Loan, loan_key(loan)));
        self.in_flight += 1;
        // SAFETY: as for `send`: the blocks lie on the heap and rest in `loans` meanwhile.
        unsafe { self.push(entry) }
    }

    /// Ends a receive; its last completion says so.
    pub fn cancel_receive(&mut self, key: Key) {
        self.cancel(user_data(Kind::Receive, key), key);
    }

    /// Ends an accept; its last completion says so.
    pub fn cancel_accept(&mut self, key: Key) {
        self.cancel(user_data(Kind::Accept, key), key);
    }

    /// Sets the one alarm to go off at `due`. If it is set to go off before that it stays so, and
    /// has to be set again then. To be called at most once between two [`Uring::submit`]s.
    ///
    /// To take an alarm back rings the eventfd, for that completes it. A loop that did so whenever
    /// it goes to sleep would never sleep while an alarm is set.
    pub fn set_alarm(&mut self, due: Monotonic, now: Monotonic) {
        if self.alarm_due.is_some_and(|set| set <= due) {
            return;
        }
        if self.alarm_due.replace(due).is_some() {
            let key = Key { slot: 0, generation: self.alarm_generation };
            let entry = opcode::TimeoutRemove::new(user_data(Kind::Alarm, key))
                .build()
                .user_data(user_data(Kind::Cancel, key));
            self.in_flight += 1;
            // SAFETY: the operation uses no memory of ours.
            unsafe { self.push(entry) }
        }
        self.alarm_generation = self.alarm_generation.wrapping_add(1) & GENERATION_MASK;
        *self.memory.alarm = Timespec::from(Duration::from_nanos(due.since_ns(now)));
        let key = Key { slot: 0, generation: self.alarm_generation };
        let entry = opcode::Timeout::new(&raw const *self.memory.alarm)
            .build()
            .user_data(user_data(Kind::Alarm, key));
        self.in_flight += 1;
        // SAFETY: the box lives as long as the ring, and the kernel reads it once, at submission.
        // If it were changed before that, the alarm would only go off at another time.
        unsafe { self.push(entry) }
    }

    /// Submits what was asked for and lets the kernel finish what it can: one system call, or none
    /// if there is nothing to do.
    ///
    /// # Errors
    /// If the ring is broken.
    pub fn submit(&mut self) -> io::Result<()> {
        loop {
            let mut queue = self.ring.submission();
            while let Some(entry) = self.backlog.front() {
                // SAFETY: the caller of `Uring::push` promised what `push` wants.
                if unsafe { queue.push(entry) }.is_err() {
                    break;
                }
                self.backlog.pop_front();
            }
            queue.sync();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return Ok(());
            }
            drop(queue);
            match self.ring.submit() {
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(_) => {}
                // Completions must be reaped first, or a signal came: the next turn goes on.
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the kernel has work left that the next [`Uring::submit`] does, or something is left
    /// to submit.
    ///
    /// The kernel does a few dozen pieces of work in a call and leaves the others, and it rings the
    /// eventfd for new work only if no other waits. So while this is true, nothing may ring.
    #[must_use]
    pub fn has_work(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    /// Submits, and sleeps until something completed. For loops that have nothing else to wait for.
    ///
    /// # Errors
    /// If the ring is broken.
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        self.submit()?;
        if !self.ring.completion().is_empty() {
            return Ok(());
        }
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Moves up to `count_max` completions to the end of `completions`.
    pub fn reap(&mut self, completions: &mut VecDeque<Completion>, count_max: usize) {
        for _ in 0..count_max {
            let Some(entry) = self.ring.completion().next() else { return };
            if let Some(completion) = self.complete(&entry) {
                completions.push_back(completion);
            }
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        let key = key_of(entry.user_data());
        let kind = entry.user_data() >> 56;
        if kind == Kind::Receive as u64 {
            return Some(self.complete_receive(entry, key, more));
        }
        if kind == Kind::Loan as u64 {
            let result = result_of(entry).map(crate::base::cast::usize_from_u32);
            let loan = self.memory.loans.remove(crate::base::cast::usize_from_u32(key.slot));
            return Some(match loan {
                Loan::Bytes(key, bytes) => Completion::Sent { key, bytes, result },
                Loan::Blocks(key, blocks) => Completion::Written { key, blocks, result },
                Loan::Address(key, _) => Completion::Connected { key, result: result.map(|_| ()) },
            });
        }
        if kind == Kind::Accept as u64 {
            // SAFETY: a successful accept's result is a new descriptor that nobody else owns.
            let socket = result_of(entry).map(|_| unsafe { OwnedFd::from_raw_fd(entry.result()) });
            return Some(Completion::Accepted { socket, more });
        }
        if kind == Kind::Alarm as u64 && key.generation == self.alarm_generation {
            self.alarm_due = None;
            return Some(Completion::Alarm);
        }
        None
    }

    fn complete_receive(&mut self, entry: &cqueue::Entry, key: Key, more: bool) -> Completion {
        let result = result_of(entry);
        let len = result.as_ref().map_or(0, |len| *len);
        // SAFETY: both come from this completion, which is taken only here.
        let buffer = cqueue::buffer_select(entry.flags())
            .map(|id| unsafe { self.memory.buffers.take(id, len) });
        let data = match (result, buffer) {
            (Ok(0) | Err(_), Some(unused)) => {
                self.memory.buffers.give_back(unused);
                result_of(entry).map(|_| None)
            }
            (Ok(_), buffer) => Ok(buffer),
            (Err(error), None) => Err(error),
        };
        Completion::Received { key, data, more }
    }

    fn cancel(&mut self, target: u64, key: Key) {
        let entry =
            opcode::AsyncCancel::new(target).build().user_data(user_data(Kind::Cancel, key));
        self.in_flight += 1;
        // SAFETY: the operation uses no memory of ours.
        unsafe { self.push(entry) }
    }

    /// # Safety
    /// Memory that the operation uses must stay valid until its last completion.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: by the caller's promise.
        let full =
            !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err();
        if full {
            self.backlog.push_back(entry);
        }
    }
}

fn loan_key(loan: usize) -> Key {
    Key { slot: u32_from(loan), generation: 0 }
}

fn result_of(entry: &cqueue::Entry) -> io::Result<u32> {
    u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()))
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// A new eventfd: a counter that a thread can sleep on.
///
/// # Errors
/// If the process has no descriptor left.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An eventfd as a file that glommio can wait for. It has a descriptor of its own.
///
/// # Errors
/// If the process has no descriptor left.
pub fn buffered_file(eventfd: &OwnedFd) -> io::Result<glommio::io::BufferedFile> {
    let duplicate = eventfd.try_clone()?;
    // SAFETY: the descriptor is open and given away here.
    Ok(unsafe { glommio::io::BufferedFile::from_raw_fd(duplicate.into_raw_fd()) })
}

/// The first kernel with everything that the ring uses.
const KERNEL_MIN: (u32, u32) = (6, 1);

fn check_kernel() -> Result<(), UringError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version_of(&release) {
        Some(version) if version < KERNEL_MIN => Err(UringError::KernelTooOld { release }),
        _ => Ok(()),
    }
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Why there is no ring. Each is one line that names the cause and the cure.
#[derive(Debug)]
pub enum UringError {
    /// The kernel is older than we need.
    KernelTooOld {
        /// What it calls itself.
        release: String,
    },
    /// The kernel has no `io_uring`.
    Missing,
    /// A policy forbids it.
    Forbidden,
    /// Anything else.
    Other(io::Error),
}

impl UringError {
    fn from_setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            _ => Self::Other(error),
        }
    }
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelTooOld { release } => {
                write!(f, "Linux {release} is too old: io_uring as used here needs 6.1 or newer")
            }
            Self::Missing => f.write_str(
                "this kernel has no io_uring (or a seccomp profile hides it): use Linux 6.1 \
                 or newer, in a container with a profile that allows io_uring_setup, _enter and \
                 _register",
            ),
            Self::Forbidden => f.write_str(
                "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, and in a \
                 container use a seccomp profile that allows io_uring_setup, _enter, _register",
            ),
            Self::Other(error) => write!(f, "io_uring can't be set up: {error}"),
        }
    }
}

impl std::error::Error for UringError {}

const _: () = assert!(u64::BITS == 8 + GENERATION_BITS + u32::BITS);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::time::{NS_PER_MS, NS_PER_S};

    const KEY: Key = Key { slot: 7, generation: 3 };

    fn small() -> Uring {
        let size =
            RingSize { submissions: 4, completions: 16, buffer_count: 4, buffer_size_bytes: 16 };
        Uring::new(size).expect("a ring")
    }

    fn wait(ring: &mut Uring) -> Vec<Completion> {
        let mut completions = VecDeque::new();
        while completions.is_empty() {
            ring.submit_and_wait().expect("a working ring");
            ring.reap(&mut completions, 64);
        }
        completions.into()
    }

    #[test]
    fn user_data_keeps_kind_slot_and_generation_apart() {
        let key = Key { slot: u32::MAX, generation: GENERATION_MASK };
        assert_eq!(key_of(user_data(Kind::Cancel, key)), key);
        assert_eq!(user_data(Kind::Accept, key) >> 56, 1);
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version_of("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version_of("5.15.0-1.el9"), Some((5, 15)));
        assert!(version_of("6.10.1").is_some_and(|version| version > (6, 9)));
        assert_eq!(version_of("Linux"), None);
    }

    #[test]
    fn bytes_come_in_through_the_pool_and_go_out_by_value() {
        let mut ring = small();
        let (near, mut far) = UnixStream::pair().expect("a pair");
        ring.receive(near.as_fd(), KEY);
        far.write_all(b"hello").expect("room");
        let [Completion::Received { key, data: Ok(Some(buffer)), more: true }] =
            &wait(&mut ring)[..]
        else {
            panic!("one receive was expected")
        };
        assert_eq!((*key, ring.buffers().bytes(buffer)), (KEY, &b"hello"[..]));
        ring.send(near.as_fd(), KEY, BytesMut::from(&b"world"[..]));
        assert!(matches!(&wait(&mut ring)[..], [Completion::Sent { result: Ok(5), .. }]));
        let mut answer = [0; 5];
        far.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"world");
    }

    #[test]
    fn receive_ends_without_error_when_buffers_run_out_and_goes_on_when_armed_again() {
        let mut ring = small();
        let (near, mut far) = UnixStream::pair().expect("a pair");
        far.write_all(&[9; 100]).expect("room");
        ring.receive(near.as_fd(), KEY);
        let (mut total, mut ended) = (0, 0);
        while total < 100 {
            for completion in wait(&mut ring) {
                let Completion::Received { data, more, .. } = completion else { continue };
                match data {
                    Ok(Some(buffer)) => {
                        total += ring.buffers().bytes(&buffer).len();
                        ring.buffers_mut().give_back(buffer);
                    }
                    Ok(None) => panic!("the stream goes on"),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS)),
                }
                if !more {
                    ended += 1;
                    ring.receive(near.as_fd(), KEY);
                }
            }
        }
        assert!(ended > 0, "100 bytes don't fit four buffers of 16");
    }

    #[test]
    fn more_operations_than_the_queue_holds_are_all_submitted_in_order() {
        let mut ring = small();
        let (near, mut far) = UnixStream::pair().expect("a pair");
        for byte in 0..50 {
            ring.send(near.as_fd(), KEY, BytesMut::from(&[byte][..]));
        }
        let mut sent = 0;
        while sent < 50 {
            sent += wait(&mut ring).len();
        }
        let mut bytes = [0; 50];
        far.read_exact(&mut bytes).expect("fifty bytes");
        assert!(bytes.is_sorted());
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn only_the_last_alarm_goes_off() {
        let mut ring = small();
        ring.set_alarm(Monotonic(100 * NS_PER_S), Monotonic(0));
        ring.submit().expect("a working ring");
        ring.set_alarm(Monotonic(NS_PER_MS), Monotonic(0));
        assert!(matches!(&wait(&mut ring)[..], [Completion::Alarm]));
        ring.set_alarm(Monotonic(2 * NS_PER_MS), Monotonic(NS_PER_MS));
        assert!(matches!(&wait(&mut ring)[..], [Completion::Alarm]), "it can be set again");
    }

    /// A loop sets the alarm each time before it sleeps.
    #[test]
    fn alarm_that_is_set_for_the_same_time_or_a_later_one_ends_no_sleep() {
        let mut ring = small();
        let bell = eventfd().expect("an eventfd");
        rustix::io::ioctl_fionbio(&bell, true).expect("a descriptor");
        ring.register_eventfd(&bell).expect("a ring without one");
        ring.set_eventfd_signals(true);
        let has_rung = || rustix::io::read(&bell, &mut [0; 8]).is_ok();
        for (due_s, now_s) in [(100, 0), (100, 1), (200, 2), (100, 3)] {
            let of = |seconds| Monotonic(seconds * NS_PER_S);
            ring.set_alarm(of(due_s), of(now_s));
            ring.submit().expect("a working ring");
            assert!(!has_rung(), "{due_s} s, set after {now_s} s");
        }
        assert_eq!(ring.in_flight(), 1);
        // One that is earlier takes its place, which does.
        ring.set_alarm(Monotonic(50 * NS_PER_S), Monotonic(4 * NS_PER_S));
        ring.submit().expect("a working ring");
        assert!(has_rung());
    }

    #[test]
    fn ring_dropped_in_flight_leaks_what_it_lent() {
        let mut ring = small();
        let (near, _far) = UnixStream::pair().expect("a pair");
        ring.receive(near.as_fd(), KEY);
        ring.submit().expect("a working ring");
        assert_eq!(ring.in_flight(), 1);
    }

    #[test]
    fn errors_name_cause_and_cure() {
        let old = UringError::KernelTooOld { release: "5.4.0".into() }.to_string();
        assert!(old.contains("5.4.0") && old.contains("6.1"), "{old}");
        let error = UringError::from_setup(io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.to_string().contains("io_uring_disabled"), "{error}");
        let error = UringError::from_setup(io::Error::from_raw_os_error(libc::ENOSYS));
        assert!(error.to_string().contains("seccomp"), "{error}");
    }
}
