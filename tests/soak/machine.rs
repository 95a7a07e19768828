//! What the machine does to a loop without being asked: a host may take a core away and tell its
//! guest nothing about it, and then a turn is long by nobody's fault that the node could see.

use std::time::{Duration, Instant};

/// A turn of the node's loop must not take longer.
const LONG: Duration = Duration::from_millis(1);

/// How often a loop that only looks at the clock lost more than [`LONG`], while it ran so long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pauses {
    pub(crate) count: u32,
    pub(crate) ran: Duration,
    pub(crate) longest: Duration,
}

impl Pauses {
    /// Watches the first of these cores.
    pub(crate) fn watch(cores: &str, time: Duration) -> Self {
        let first = cores.split([',', '-']).next().and_then(|text| text.parse().ok());
        let id = first.expect("cores are numbers");
        let watch = move || {
            assert!(core_affinity::set_for_current(core_affinity::CoreId { id }), "no core {id}");
            watch_for(time)
        };
        std::thread::spawn(watch).join().expect("it only looks at the clock")
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            ran: self.ran + other.ran,
            longest: self.longest.max(other.longest),
        }
    }

    /// How many of a loop that ran so long are still put down to the machine: what is to be
    /// expected of it, and three standard deviations more (events that come independently are
    /// spread like the root of their number), of both counts.
    pub(crate) fn allowed_count(&self, ran: Duration) -> f64 {
        let share = ran.as_secs_f64() / self.ran.as_secs_f64().max(f64::MIN_POSITIVE);
        // One that wasn't seen may still be there.
        let count = f64::from(self.count.max(1));
        let expected = count * share;
        expected + 3.0 * (expected + expected * share).sqrt()
    }
}

fn watch_for(time: Duration) -> Pauses {
    let begin = Instant::now();
    let (mut before, mut pauses) = (begin, Pauses::default());
    while before - begin < time {
        let now = Instant::now();
        pauses.count += u32::from(now - before > LONG);
        pauses.longest = pauses.longest.max(now - before);
        before = now;
    }
    pauses.ran = before - begin;
    pauses
}

#[test]
fn pauses_are_allowed_for_the_time_that_a_loop_ran() {
    let watched =
        Pauses { count: 100, ran: Duration::from_secs(100), longest: Duration::from_millis(2) };
    // 100 expected, and 3 × √200 more.
    assert!((watched.allowed_count(Duration::from_secs(100)) - 142.4).abs() < 0.1);
    // 1 expected, and 3 × √1.01 more.
    assert!((watched.allowed_count(Duration::from_secs(1)) - 4.01).abs() < 0.01);
}
