//! Coverage marks: each path of the protocol says that it was taken, so that a run of the simulator
//! can tell which ones no seed has reached. Counted by thread in tests and with the feature
//! `mutants`; otherwise [`mark!`](crate::mark) is nothing.

/// Says that a path was taken.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {
        $crate::base::mark::hit($name)
    };
}

/// Does nothing.
#[cfg(not(any(test, feature = "mutants")))]
#[inline(always)]
pub const fn hit(_name: &'static str) {}

#[cfg(any(test, feature = "mutants"))]
pub use counted::{hit, take};

#[cfg(any(test, feature = "mutants"))]
mod counted {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        static HITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Counts a path that was taken in this thread.
    pub fn hit(name: &'static str) {
        HITS.with_borrow_mut(|hits| *hits.entry(name).or_default() += 1);
    }

    /// How often each path was taken in this thread since this was asked last.
    pub fn take() -> BTreeMap<&'static str, u64> {
        HITS.take()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_counted_until_they_are_asked_for() {
        super::take();
        for _ in 0..2 {
            mark!("some-path");
        }
        assert_eq!(super::take().get("some-path"), Some(&2));
        assert!(super::take().is_empty());
    }
}
