//! How a core that has something for another one learns whether that one sleeps.
//!
//! The sleeper announces its sleep and looks once more; the other publishes and then looks whether
//! the sleeper sleeps. A full fence stands between the two steps on either side, so at least one of
//! them sees what the other did: no wake-up is lost.

use super::atomics::{AtomicBool, Ordering, fence};

/// Whether a loop sleeps, or is about to.
#[derive(Debug)]
pub struct Doorbell {
    sleeping: AtomicBool,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

impl Doorbell {
    /// That of a loop that is awake.
    #[must_use]
    pub fn new() -> Self {
        Self { sleeping: AtomicBool::new(false) }
    }

    /// The loop will sleep unless it finds something when it looks once more.
    pub fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The loop is awake.
    pub fn announce_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether the loop must be woken for what was published before this call.
    #[must_use]
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_sleeping()
    }

    /// Whether the loop sleeps.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }
}
