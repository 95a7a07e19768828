//! The client's clock. It waits on real sockets; nothing of it is replayed.

use std::time::{Duration, Instant};

#[allow(clippy::disallowed_methods)]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)]
pub(super) fn wait(pause: Duration) {
    std::thread::sleep(pause);
}
