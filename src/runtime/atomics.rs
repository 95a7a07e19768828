//! The atomics with which cores talk, in one place: `tests/ring_model.rs` compiles `ring` and
//! `doorbell` against a checker's instead, which tries every order of their operations.

pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// A cell whose contents are reached by pointer.
#[derive(Debug, Default)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    /// A cell with a value.
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Looks at the value. Nobody may change it meanwhile.
    #[inline]
    pub fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    /// Changes the value. Nobody else may look at it meanwhile.
    #[inline]
    pub fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}
