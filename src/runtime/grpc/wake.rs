//! A waker that raises a flag. There is no scheduler behind it: h2 wakes only from inside our own
//! calls, and the flag says that another pass over the connection has something to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// The flag and the waker that raises it.
#[derive(Debug)]
pub(super) struct WakeFlag {
    flag: Arc<Flag>,
    waker: Waker,
}

#[derive(Debug)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // One thread raises and lowers it; it is atomic only because a waker has to be `Sync`.
        self.0.store(true, Ordering::Relaxed);
    }
}

impl WakeFlag {
    pub(super) fn raised() -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        Self { waker: Waker::from(Arc::clone(&flag)), flag }
    }

    pub(super) fn raise(&self) {
        self.flag.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn lower(&self) {
        self.flag.0.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.flag.0.load(Ordering::Relaxed)
    }

    /// A handle of its own, so that a `Context` doesn't borrow the connection.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
