//! What is wrong on this host for a latency-critical node, and what mends it.
//!
//! First everything is gathered into a [`HostFacts`]: from the files in which the kernel describes
//! itself, below a root that a test can make up, and from two trials that only the host itself can
//! answer ([`Probes`]). Then facts are judged, by pure functions, one file for each subject.
//! Nothing here needs a privilege, changes anything, or fails: what can't be seen is a finding too.
//!
//! What is judged a problem or worth advice is so because it was measured for this design, or
//! because the kernel's own documentation says it.

mod block_device;
mod clock;
mod cores;
pub mod finding;
mod interrupts;
pub mod kernel;
mod limits;
mod load;
mod memory;
mod mount;
mod network;
mod processors;
pub mod report;
pub mod storage;
pub mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::finding::Finding;
use self::kernel::RingProbe;
use self::load::Reading;
use self::report::{Place, Report};
use self::tree::Tree;
use super::config::value::Cores;

/// What the host is to be good for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where the node would keep its data; absolute.
    pub data_dir: PathBuf,
    /// The cores that it would run on.
    pub cores: Cores,
}

/// What is found out by trying.
#[derive(Clone, Debug)]
pub struct Probes {
    /// What came of setting up a ring.
    pub ring: RingProbe,
    /// Whether the data directory's filesystem takes direct I/O; none: it can't be tried there.
    pub takes_direct_io: Option<bool>,
}

impl Probes {
    /// Tries it on this host. `data_dir` need not exist: the nearest folder above it counts.
    #[must_use]
    pub fn of_this_host(data_dir: &Path) -> Self {
        let folder = Tree::new("/").nearest(data_dir);
        Self {
            ring: RingProbe::run(),
            takes_direct_io: folder.as_deref().and_then(storage::takes_direct_io),
        }
    }
}

/// Everything that the checks know of a host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    place: Place,
    chosen: Cores,
    kernel: kernel::Kernel,
    limits: limits::Limits,
    allowance: cores::Allowance,
    processors: processors::Processors,
    memory: memory::Memory,
    storage: storage::Storage,
    interrupts: interrupts::Interrupts,
    time_keeping: clock::TimeKeeping,
    network: network::Network,
    load: load::Load,
}

impl HostFacts {
    /// Reads what there is to be read. The load is measured over `pause`.
    #[must_use]
    pub fn gather(tree: &Tree, wanted: &Wanted, probes: Probes, pause: Duration) -> Self {
        let before = Reading::take(tree);
        // Nothing unparks this thread; if something did, the load would be measured over less.
        std::thread::park_timeout(pause);
        let allowance = cores::Allowance::gather(tree);
        let chosen = wanted.cores.clone();
        let storage = storage::Storage::gather(tree, &wanted.data_dir, probes.takes_direct_io);
        let interrupts = interrupts::Interrupts::gather(tree, storage.devices());
        Self {
            place: Place::of(tree),
            kernel: kernel::Kernel::gather(tree, probes.ring),
            limits: limits::Limits::gather(tree),
            processors: processors::Processors::gather(tree, &chosen),
            memory: memory::Memory::gather(tree),
            time_keeping: clock::TimeKeeping::gather(tree),
            network: network::Network::gather(tree),
            load: load::Load::gather(tree, before),
            chosen,
            allowance,
            storage,
            interrupts,
        }
    }

    /// Judges them.
    #[must_use]
    pub fn evaluate(&self) -> Report {
        let Self { chosen, allowance, .. } = self;
        let online = allowance.online();
        let findings: Vec<Finding> = [
            self.kernel.check(),
            self.limits.check(chosen.count()),
            allowance.check(chosen),
            self.processors.check(chosen, online),
            self.memory.check(),
            self.storage.check(),
            self.interrupts.check(chosen, online),
            self.time_keeping.check(),
            self.network.check(),
            self.load.check(chosen),
        ]
        .concat();
        Report::new(self.place, chosen.clone(), findings)
    }
}

#[cfg(test)]
mod tests;
