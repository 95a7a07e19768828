//! Drills: a real cluster on this machine does under load what a cluster must get through, many
//! times, and it is measured what its clients notice of it.
//!
//! ```text
//! load: a writer for each partition  ------------> node a, node b, node c  (processes)
//!   |   and others that don't repeat                        ^
//!   v                                                       | kill, stop, restart
//! acks: when each partition acknowledged what  <---  failover, restarts, catch_up
//!   |
//!   v
//! report: gaps and latencies, errors by kind, what the machine took meanwhile
//! ```
//!
//! Nothing is asked "is it back yet?" to know how long something took: every partition has a writer
//! that puts on a fixed schedule over the bundled client, and what is measured is the time between
//! two of its acknowledgements. So a gap has everything in it: that the failure is noticed, the
//! view change, that the client finds who leads, and the interval of the schedule.
//!
//! Everything runs on one machine, the clients too. What others take of its cores (steal), and how
//! long ready threads of the nodes waited for a core (run queue), stands beside what was measured.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `nodes` | processes, and what they say of themselves |
//! | `load` | the clients |
//! | `acks` | when puts were acknowledged, and what lies between |
//! | `machine` | what the machine gave to whom |
//! | `failover` | nodes that are killed or stopped while they lead |
//! | `restarts` | nodes that are restarted in good order |
//! | `catch_up` | a node that has missed much |
//! | `report` | what is said in the end |
//! | `results` | the same as `bench compare` takes it |

mod acks;
mod catch_up;
mod failover;
mod load;
mod machine;
mod nodes;
pub mod report;
mod restarts;
pub mod results;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::load::Load;
use self::nodes::Nodes;
use self::report::Report;
use self::results::Destination;
use crate::base::io_error::describe;
use crate::base::time::Monotonic;
use crate::client::error::ClientError;
use crate::runtime::clock::Clock;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drill {
    /// So many times the leader of some partition is killed, and as often one is stopped.
    Failover {
        /// How often each.
        count: u32,
    },
    /// So many times all nodes are restarted in good order, one after the other.
    Restarts {
        /// How often.
        count: u32,
    },
    /// A node is down while so much is written.
    CatchUp {
        /// How much.
        mib: u32,
    },
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program that nodes are run with: this one.
    pub program: PathBuf,
    /// Where each node has its data directory and its log.
    pub folder: PathBuf,
    /// On which cores nodes run, in turn.
    pub cores: Vec<String>,
    /// How many partitions there are.
    pub partition_count: u32,
    /// How often each of them is written to.
    pub interval: Duration,
    /// Where a failover's gaps are kept as results; none: they are printed only.
    pub results: Option<Destination>,
}

/// Why a drill didn't come to its end. One line.
#[derive(Debug)]
pub enum DrillError {
    /// A file or folder can't be made.
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no port.
    Port(io::Error),
    /// A node can't be started.
    Spawn(io::Error),
    /// A node has ended by itself, or didn't end in good order.
    Ended {
        /// Which one.
        node: String,
        /// How, and what it said last.
        how: String,
    },
    /// A node, or the cluster, didn't come so far in time.
    Late {
        /// What was waited for.
        what: String,
    },
    /// A client that the drill itself needs can't do its work.
    Client(ClientError),
    /// What was measured can't be kept.
    Results(io::Error),
    /// Nobody can be told.
    Output(io::Error),
}

impl DrillError {
    fn file(path: &Path, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}

impl fmt::Display for DrillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {}", path.display(), describe(error)),
            Self::Port(error) => write!(f, "no free ports on loopback: {}", describe(error)),
            Self::Spawn(error) => write!(f, "a node can't be started: {}", describe(error)),
            Self::Ended { node, how } => write!(f, "node {node} has ended: {how}"),
            Self::Late { what } => write!(f, "in vain it was waited until {what}"),
            Self::Client(error) => error.fmt(f),
            Self::Results(error) => write!(f, "results can't be kept: {}", describe(error)),
            Self::Output(error) => write!(f, "cannot write to stdout: {}", describe(error)),
        }
    }
}

impl std::error::Error for DrillError {}

impl From<ClientError> for DrillError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// What a drill works on.
struct Ground<'a> {
    clock: Clock,
    nodes: Nodes,
    load: Load,
    tell: &'a mut dyn FnMut(&str) -> io::Result<()>,
}

impl Ground<'_> {
    fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn say(&mut self, line: &str) -> Result<(), DrillError> {
        (self.tell)(line).map_err(DrillError::Output)
    }

    /// Lets time pass.
    fn wait(&self, time: Duration) {
        load::wait_until(&self.clock, self.now().after_ns(ns_of(time)));
    }
}

/// Makes a cluster of three, puts a load on it, does to it what is wanted and says what came of it.
/// Afterwards no process is left; what the nodes wrote is in the folder. `tell` is told of each
/// step when it is over.
///
/// # Errors
/// If it can't be done, or a node doesn't come back. That goals are missed, or clients were refused
/// something, is no error: the report says so.
pub fn run(
    settings: &Settings,
    drill: Drill,
    tell: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<Report, DrillError> {
    let clock = Clock::start();
    fs::create_dir_all(&settings.folder)
        .map_err(|error| DrillError::file(&settings.folder, error))?;
    let mut nodes = Nodes::prepare(settings, clock)?;
    nodes.start_all()?;
    let load = Load::start(settings, &nodes.addresses(), clock);
    let mut ground = Ground { clock, nodes, load, tell };
    ground.load.await_first_acks()?;
    match drill {
        Drill::Failover { count } => failover::run(&mut ground, count, settings),
        Drill::Restarts { count } => restarts::run(&mut ground, count),
        Drill::CatchUp { mib } => catch_up::run(&mut ground, mib),
    }
}

fn ns_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
