//! What the kernel says that a thread got of its core.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::clock::Clock;
use super::disk::blocked_count;

/// What a thread has got so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadReading {
    /// How long it ran, in nanoseconds.
    pub ran_ns: u64,
    /// How long it was ready to run and waited for its core.
    pub waited_ns: u64,
    /// How often it gave its core away to wait for something.
    pub blocked_count: u64,
}

/// Where that is read.
pub trait ThreadUsage {
    /// Everything: about two microseconds.
    fn read(&self) -> ThreadReading;

    /// How often the thread has blocked: a short system call.
    fn blocked_count(&self) -> u64;
}

/// The thread on which it was made.
#[derive(Debug)]
pub struct OwnThread {
    /// Kept open. Without it `waited_ns` stays 0.
    scheduler: Option<File>,
}

impl OwnThread {
    /// The calling thread: to be read on it alone.
    #[must_use]
    pub fn new() -> Self {
        Self { scheduler: File::open("/proc/thread-self/schedstat").ok() }
    }
}

impl Default for OwnThread {
    fn default() -> Self {
        Self::new()
    }
}

impl ThreadUsage for OwnThread {
    fn read(&self) -> ThreadReading {
        let mut text = [0; 96];
        let size = self.scheduler.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        ThreadReading {
            ran_ns: Clock::thread_cpu_ns(),
            waited_ns: size.and_then(|size| waited_ns(&text[..size])).unwrap_or_default(),
            blocked_count: blocked_count(),
        }
    }

    fn blocked_count(&self) -> u64 {
        blocked_count()
    }
}

/// The second number of a `schedstat` file.
fn waited_ns(schedstat: &[u8]) -> Option<u64> {
    std::str::from_utf8(schedstat).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheduler_is_read_and_anything_else_is_not_taken_for_it() {
        assert_eq!(waited_ns(b"551181046 1301693 31\n"), Some(1_301_693));
        for text in [&b""[..], b"5", b"5 x 7", b"\xff 3 1"] {
            assert_eq!(waited_ns(text), None);
        }
        assert!(OwnThread::new().scheduler.is_some(), "the kernel keeps these numbers");
    }

    #[test]
    fn thread_that_sleeps_blocks_and_doesnt_run_meanwhile() {
        let clock = Clock::start();
        let thread = OwnThread::new();
        let before = thread.read();
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        let after = thread.read();
        assert!(after.blocked_count > before.blocked_count);
        assert_eq!(thread.blocked_count(), after.blocked_count);
        assert!(after.ran_ns - before.ran_ns < clock.monotonic().0);
    }
}
