//! What is done to a cluster: the classes, and how one is drawn.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::proxy::Rule;
use crate::base::cast::{u64_from, usize_from};
use crate::base::prng::Prng;

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident $name:literal $demands:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultClass {
            $($(#[$doc])* $class,)*
        }

        impl FaultClass {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$class,)*];

            /// Its name in tables and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$class => $name,)*
                }
            }

            /// Whether writes must go on while it lasts: a majority of members is alive, and each
            /// of it hears all others of it.
            #[must_use]
            pub const fn demands_progress(self) -> bool {
                match self {
                    $(Self::$class => $demands,)*
                }
            }
        }
    };
}

classes! {
    /// A node is killed by `kill -9`, and started again.
    Kill "kill" true,
    /// A node is stopped by SIGSTOP, and goes on.
    Pause "pause" true,
    /// All nodes stand still again and again, for tenths of a second, as on an overloaded machine.
    Stutter "stutter" true,
    /// A node is asked to end in good order, and started again.
    Restart "restart" true,
    /// A node is started again on another number of cores.
    Cores "cores" true,
    /// A node is killed, loses its data directory, and takes its place again with an empty one.
    Replace "replace" true,
    /// All nodes are killed at once, and started again.
    Blackout "blackout" false,
    /// One node's connections to all others carry nothing.
    Isolate "isolate" true,
    /// A minority of several nodes hears nothing of the others, nor they of it.
    Halves "halves" true,
    /// One node's link is down: neither members nor clients hear it.
    LinkDown "link-down" true,
    /// Two groups hear nothing of each other; one node hears both.
    Bridge "bridge" false,
    /// Each node hears two others only.
    Ring "ring" false,
    /// A node isn't heard, or doesn't hear, and the other direction works.
    OneWay "one-way" false,
    /// Everything that members say takes longer.
    Delay "delay" true,
    /// One node's connections carry few bytes a second.
    Throttle "throttle" false,
    /// Connections are closed again and again.
    Cut "cut" false,
    /// A node's connections are closed, and only the others are told.
    HalfOpen "half-open" true,
    /// Stamped commands are lost.
    Loss "loss" true,
    /// Some stamped commands are lost each time that they are said, so that their slots must become
    /// no-ops where the leader doesn't stamp itself.
    Gap "gap" false,
    /// A node's filesystem is full.
    DiskFull "disk-full" false,
}

impl FaultClass {
    /// How many nodes it takes at least.
    #[must_use]
    pub const fn node_count_min(self) -> usize {
        match self {
            // With fewer it would be an isolated one, and no ring.
            Self::Halves | Self::Ring => 5,
            _ => 3,
        }
    }

    /// Whether it is done to processes, and not to what they say.
    pub(super) const fn is_of_processes(self) -> bool {
        self.ends_processes() || matches!(self, Self::Pause)
    }

    /// Whether processes end.
    pub(super) const fn ends_processes(self) -> bool {
        matches!(self, Self::Kill | Self::Restart | Self::Cores | Self::Replace | Self::Blackout)
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFault;

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = FaultClass::ALL.iter().map(|class| class.name()).collect();
        write!(f, "there is no such fault; there are {}", names.join(", "))
    }
}

impl std::error::Error for UnknownFault {}

impl FromStr for FaultClass {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        Self::ALL.iter().copied().find(|class| class.name() == name).ok_or(UnknownFault)
    }
}

/// What happens to what one node says to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) rule: Rule,
}

/// A fault as it was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) class: FaultClass,
    /// Those to which it is done.
    pub(super) nodes: Vec<usize>,
    /// What becomes of what members say.
    pub(super) heard: Vec<Heard>,
    pub(super) duration: Duration,
}

/// The shortest and the longest fault. A silent member is noticed in less than the longest.
const DURATION_MS: (u64, u64) = (300, 4_000);
const LONG_DURATION_MS: u64 = 9_000;
const LONG_ONE_IN: u64 = 4;
const BAD_NETWORK_ONE_IN: u64 = 3;

impl Fault {
    /// Draws one of the classes, which all are possible among so many nodes.
    pub(super) fn draw(prng: &mut Prng, classes: &[FaultClass], node_count: usize) -> Self {
        let class = classes[usize_from(prng.below(u64_from(classes.len())))];
        let ms = match prng.one_in(LONG_ONE_IN) {
            true => LONG_DURATION_MS,
            false => DURATION_MS.0 + prng.below(DURATION_MS.1 - DURATION_MS.0),
        };
        let order = shuffled(prng, node_count);
        let minority_max = (node_count - 1) / 2;
        let node_count_of = match class {
            FaultClass::Blackout => node_count,
            FaultClass::Halves => minority_max,
            FaultClass::Stutter
            | FaultClass::Delay
            | FaultClass::Loss
            | FaultClass::Gap
            | FaultClass::Cut
            | FaultClass::Ring => 0,
            FaultClass::Kill | FaultClass::Pause => {
                1 + usize_from(prng.below(u64_from(minority_max)))
            }
            _ => 1,
        };
        let nodes = order[..node_count_of].to_vec();
        let mut heard = heard(class, prng, &order, &nodes);
        // What is done to processes is done in a bad network now and then.
        let bad = [FaultClass::Delay, FaultClass::Loss].into_iter();
        let bad: Vec<FaultClass> = bad.filter(|class| classes.contains(class)).collect();
        if class.is_of_processes() && !bad.is_empty() && prng.one_in(BAD_NETWORK_ONE_IN) {
            let bad = bad[usize_from(prng.below(u64_from(bad.len())))];
            heard = self::heard(bad, prng, &order, &[]);
        }
        Self { class, nodes, heard, duration: Duration::from_millis(ms) }
    }

    /// What it is, for people.
    pub(super) fn describe(&self, name: impl Fn(usize) -> String) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|place| name(*place)).collect();
        let mut parts = vec![self.class.to_string(), nodes.join("+")];
        let held = self.heard.iter().filter(|heard| heard.rule.is_held);
        let held: Vec<String> =
            held.map(|heard| format!("{}>{}", name(heard.from), name(heard.to))).collect();
        if !held.is_empty() {
            parts.push(format!("({} held)", held.join(" ")));
        }
        // What doesn't hold all back is the same everywhere.
        if let Some(Rule { delay, rate_bytes, loses_one_in, .. }) =
            self.heard.iter().map(|heard| heard.rule).find(|rule| !rule.is_held)
        {
            let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            for (number, what) in [
                (delay, "ms late"),
                (rate_bytes >> 10, "KiB/s"),
                (loses_one_in, "stamped commands to one that is lost"),
            ] {
                if number > 0 {
                    parts.push(format!("({number} {what})"));
                }
            }
        }
        parts.retain(|part| !part.is_empty());
        parts.join(" ")
    }
}

fn shuffled(prng: &mut Prng, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        order.swap(place, usize_from(prng.below(u64_from(place) + 1)));
    }
    order
}

fn heard(class: FaultClass, prng: &mut Prng, order: &[usize], nodes: &[usize]) -> Vec<Heard> {
    let held = Rule { is_held: true, ..Rule::default() };
    let pairs = || {
        order
            .iter()
            .flat_map(|from| order.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from != to)
    };
    let all = |rule: Rule, is_meant: &dyn Fn(usize, usize) -> bool| -> Vec<Heard> {
        let meant = pairs().filter(|(from, to)| is_meant(*from, *to));
        meant.map(|(from, to)| Heard { from, to, rule }).collect()
    };
    let is_victim = |node: usize| nodes.contains(&node);
    match class {
        FaultClass::Isolate | FaultClass::Halves => {
            all(held, &|from, to| is_victim(from) != is_victim(to))
        }
        FaultClass::Bridge => {
            // The first is the bridge; the rest is split in two.
            let first_group = &order[1..=(order.len() - 1) / 2];
            let bridge = order[0];
            all(held, &|from, to| {
                from != bridge
                    && to != bridge
                    && first_group.contains(&from) != first_group.contains(&to)
            })
        }
        FaultClass::Ring => {
            let place = |node: usize| order.iter().position(|found| *found == node);
            let count = order.len();
            all(held, &|from, to| match (place(from), place(to)) {
                (Some(from), Some(to)) => (from + 1) % count != to && (to + 1) % count != from,
                _ => false,
            })
        }
        FaultClass::OneWay => match prng.below(3) {
            0 => all(held, &|from, _| is_victim(from)),
            1 => all(held, &|_, to| is_victim(to)),
            _ => all(held, &|from, to| (from, to) == (order[0], order[1])),
        },
        FaultClass::Delay => {
            let delay = Duration::from_millis(1 + prng.below(60));
            all(Rule { delay, ..Rule::default() }, &|_, _| true)
        }
        FaultClass::Throttle => {
            let rate_bytes = (8 + prng.below(120)) << 10;
            let rule = Rule { rate_bytes, ..Rule::default() };
            all(rule, &|from, to| is_victim(from) || is_victim(to))
        }
        FaultClass::Loss => {
            let loses_one_in = 3 + prng.below(40);
            all(Rule { loses_one_in, ..Rule::default() }, &|_, _| true)
        }
        FaultClass::Gap => {
            let loses_one_in = 5 + prng.below(60);
            all(Rule { loses_one_in, loses_all_copies: true, ..Rule::default() }, &|_, _| true)
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
