//! Real clusters that are made to fail on purpose, and checked: what the simulator does in virtual
//! time, done to processes, sockets and disks.
//!
//! ```text
//! load: clients ----------------------------------> node a, node b, node c  (processes)
//!   |  what they ask and are told                      \      |      /
//!   v                                                   links: a proxy for each pair
//! record: one history, one clock                               ^
//!   |                                                          |
//!   v                                                       nemesis: draws faults, does them,
//! check: linearizable? nothing lost? progress?                       undoes them
//! ```
//!
//! A run has three parts. *Load under faults*: clients read and write a few keys over the bundled
//! client, and a [`fault`] follows the other. *Rest*: everything is healed, the load ends, all
//! replicas must come to stand alike, and every key is read from every node; then all nodes are
//! killed at once and started again, and the same is asked of what their disks hold. *Judgement*:
//! the history, these last reads in it, must be linearizable by the simulator's own checker; so an
//! acknowledged write that isn't there any more is found as a read that contradicts it. Besides:
//! no node may end by itself, answer nonsense, not become ready or not end when asked; and writes
//! must go on while a majority of members is alive and connected.
//!
//! # How faults reach connections between members
//!
//! A node is told its members' addresses one by one, and they are no part of what all nodes must
//! be told alike. So each node that dials another one (the one whose name comes first dials) is
//! told the address of a `proxy`, and the other one listens where clients find it. No setting is
//! needed for it, and NAT or a real proxy could stand there as well. Clients aren't led through
//! proxies: to them a partition's minority looks as well as ever, which is the harder case. A hint
//! that names a proxy as the leader's address leads them nowhere, and they ask the next member.
//!
//! With a network namespace for each node there are no proxies: members reach each other directly,
//! and faults are done to routes and links ([`network`]).
//!
//! # What isn't repeated by a seed
//!
//! The seed says which faults come and what clients ask. When threads and processes run, the system
//! says; so two runs of a seed aren't the same run.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `nodes` | processes, and which way they find each other |
//! | `network` | how members reach each other: by proxies, or by routes of namespaces |
//! | `proxy` | what can happen to a connection |
//! | `fault` | which faults there are, and how one is drawn |
//! | `nemesis` | doing and undoing them, and looking after the nodes |
//! | `load` | the clients |
//! | `record` | the history while it is written |
//! | `counters` | what the nodes' metrics say |
//! | `check` | what must hold |
//! | `rest` | what nodes must say when nobody disturbs them any more |
//! | `report` | what is said in the end |

pub mod check;
pub mod counters;
pub mod fault;
mod load;
mod nemesis;
pub mod network;
mod nodes;
mod proxy;
mod record;
pub mod report;
mod rest;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::check::{Gap, Gaps, Stretches};
use self::counters::Counters;
use self::fault::FaultClass;
use self::load::Load;
use self::nemesis::{Event, Nemesis};
use self::network::Transport;
use self::nodes::Nodes;
use self::record::Record;
use self::report::Report;
use crate::base::io_error::describe;
use crate::base::mutant::Mutant;
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sim::checker::Violation;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program that nodes are run with: this one.
    pub program: PathBuf,
    /// Where each node has a folder, and its log.
    pub folder: PathBuf,
    /// What faults and load are drawn from.
    pub seed: u64,
    /// How many nodes.
    pub node_count: usize,
    /// How long the load lasts, in seconds.
    pub seconds: u64,
    /// How many clients.
    pub client_count: u32,
    /// Which faults may come.
    pub faults: Vec<FaultClass>,
    /// On which cores nodes run, in turn.
    pub cores: Vec<String>,
    /// On which they may run instead.
    pub other_cores: Option<String>,
    /// What members are connected by.
    pub transport: Transport,
    /// Where sequencers stand, as `serve` is told it.
    pub sequencer: String,
    /// A planted bug that nodes have, so that it can be seen whether it is found.
    pub mutant: Option<Mutant>,
    /// The longest time without an acknowledged write, where one is demanded, in ns.
    pub stall_ns_max: u64,
    /// The nodes' folders are small filesystems of their own, which may be filled.
    pub has_small_disks: bool,
}

impl Settings {
    /// Why a fault that may come can't be done here; `None`: it can.
    #[must_use]
    pub fn obstacle(&self, class: FaultClass) -> Option<&'static str> {
        match class {
            _ if self.node_count < class.node_count_min() => Some("it takes more nodes"),
            _ if !self.transport.can(class) => match self.transport {
                Transport::Proxies => Some("it takes namespaces"),
                Transport::Namespaces => Some("it takes proxies"),
            },
            FaultClass::Cores if self.other_cores.is_none() => Some("it takes a second core"),
            FaultClass::DiskFull if !self.has_small_disks => Some("it takes small disks"),
            _ => None,
        }
    }

    /// The faults that may come and can be done.
    fn faults_here(&self) -> Vec<FaultClass> {
        let faults = self.faults.iter().copied();
        faults.filter(|class| self.obstacle(*class).is_none()).collect()
    }
}

/// Why there was no such run. One line.
#[derive(Debug)]
pub enum ChaosError {
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
    /// Ctrl-C can't be waited for.
    Signals(io::Error),
    /// A command that makes or changes the network of a run failed.
    Ip {
        /// The command.
        command: String,
        /// What it said.
        said: String,
    },
    /// The network namespace isn't one that was made for a run.
    NamespaceInUse,
    /// None of the faults that are wanted can be done here.
    NoFault,
    /// Somebody asked it to end.
    Interrupted,
    /// Nobody can be told.
    Output(io::Error),
}

impl ChaosError {
    fn file(path: &Path, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}

impl fmt::Display for ChaosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {}", path.display(), describe(error)),
            Self::Port(error) => write!(f, "no free ports on loopback: {}", describe(error)),
            Self::Spawn(error) => write!(f, "a node can't be started: {}", describe(error)),
            Self::Signals(error) => write!(f, "can't wait for signals: {}", describe(error)),
            Self::Ip { command, said } => write!(f, "{command}: {said}"),
            Self::NamespaceInUse => f.write_str(
                "this network namespace is in use; run it in one of its own (unshare --net)",
            ),
            Self::NoFault => f.write_str("none of these faults can be done here"),
            Self::Interrupted => f.write_str("interrupted; all nodes have ended"),
            Self::Output(error) => write!(f, "cannot write to stdout: {}", describe(error)),
        }
    }
}

impl std::error::Error for ChaosError {}

/// Whether somebody has asked the run to end.
#[derive(Debug)]
struct Interruption(Arc<AtomicBool>);

impl Interruption {
    fn register() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self(asked))
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Makes a cluster, has it fail, and says what came of it. Afterwards no process is left; what the
/// nodes wrote is in the folder. `tell` is told of each fault when it is over.
///
/// # Errors
/// If it can't be done. What the cluster does wrong is no error, but a violation in the report.
pub fn run(
    settings: &Settings,
    mut tell: impl FnMut(&str) -> io::Result<()>,
) -> Result<Report, ChaosError> {
    for class in &settings.faults {
        if let Some(obstacle) = settings.obstacle(*class) {
            tell(&format!("{class} is left out: {obstacle}")).map_err(ChaosError::Output)?;
        }
    }
    if settings.faults_here().is_empty() && !settings.faults.is_empty() {
        return Err(ChaosError::NoFault);
    }
    let interruption = Interruption::register().map_err(ChaosError::Signals)?;
    let record = Arc::new(Record::start());
    let mut nodes = Nodes::prepare(settings)?;
    for place in 0..nodes.node_count() {
        let folder = nodes.folder(place);
        fs::create_dir_all(&folder).map_err(|error| ChaosError::file(&folder, error))?;
        nodes.start(place)?;
    }
    let mut nemesis = Nemesis {
        settings,
        record: &record,
        nodes: &mut nodes,
        interruption: &interruption,
        prng: Prng::new(settings.seed, "nemesis"),
        events: Vec::new(),
        violations: Vec::new(),
    };
    let mut load_time = Gap::default();
    let mut output = Ok(());
    if nemesis.wait_until_ready()? {
        let addresses = nemesis.nodes.addresses();
        let begun = record.now();
        let mut load = Load::start(settings.client_count, settings.seed, &addresses, &record);
        let until = begun.after_ns(settings.seconds.saturating_mul(NS_PER_S));
        nemesis.run(until, |event| {
            let line = line_of(event, begun);
            output = std::mem::replace(&mut output, Ok(())).and_then(|()| tell(&line));
        })?;
        load_time = Gap { from: begun, to: record.now() };
        load.stop();
        if nemesis.violations.is_empty() && !interruption.is_asked() {
            nemesis.rest()?;
        }
    }
    let (events, violations) = (nemesis.events, nemesis.violations);
    if interruption.is_asked() {
        return Err(ChaosError::Interrupted);
    }
    output.map_err(ChaosError::Output)?;
    let (lost_count, connection_count) = nodes.network().counts();
    let counters = nodes.counters().clone();
    // All nodes and links end here, if they haven't yet.
    drop(nodes);
    let record = Arc::into_inner(record).expect("no client is left");
    let report = judge(settings, record, &events, violations, load_time);
    Ok(Report { lost_count, connection_count, counters, ..report })
}

fn line_of(event: &Event, begun: Monotonic) -> String {
    let at = event.begun.since_ns(begun) / (NS_PER_S / 10);
    format!(
        "{:>6}.{} s  {}, {} ms; well after {} ms",
        at / 10,
        at % 10,
        event.what,
        event.healed.since_ns(event.begun) / NS_PER_MS,
        event.well.since_ns(event.healed) / NS_PER_MS
    )
}

fn judge(
    settings: &Settings,
    record: Record,
    events: &[Event],
    mut violations: Vec<Violation>,
    load_time: Gap,
) -> Report {
    let (history, nonsense) = record.finish();
    violations.extend(nonsense);
    let gaps = Gaps::of(&history, load_time);
    let stretches = Stretches::of(events, load_time);
    let of_each = gaps.partitions.iter();
    let standstills = of_each.map(|(partition, gaps)| (*partition, stretches.longest(gaps)));
    let checked = check::history(&history);
    let observation_count = checked.as_ref().map_or(0, |checked| checked.observations_count);
    violations.extend(checked.err());
    violations.extend(check::progress(&gaps, events, load_time, settings.stall_ns_max).err());
    Report {
        seed: settings.seed,
        node_count: settings.node_count,
        client_count: settings.client_count,
        sequencer: settings.sequencer.clone(),
        load: load_time,
        faults: report::fault_rows(&gaps, events),
        operations: report::operation_rows(&history),
        standstill: stretches.longest(&gaps.whole),
        standstills: standstills.collect(),
        lost_count: 0,
        connection_count: 0,
        counters: Counters::new(),
        observation_count,
        violations,
    }
}
