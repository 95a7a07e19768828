//! The nodes: three real processes on loopback, with default settings but for what three of them on
//! one machine need.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{DrillError, Settings};
use crate::base::time::{Monotonic, NS_PER_S};
use crate::client::Client;
use crate::client::error::ClientError;
use crate::proto::p2pmap::v1::partition_status::Activity;
use crate::proto::p2pmap::v1::{NodeStatus, PartitionStatus};
use crate::runtime::clock::Clock;

/// How many there are.
pub(super) const NODE_COUNT: usize = 3;
const NAMES: [&str; NODE_COUNT] = ["a", "b", "c"];
/// How long a node may take to be ready, to be part of all its views, and to end in good order.
const READY_NS_MAX: u64 = 120 * NS_PER_S;
/// How long it may take to say how it stands.
const STATUS_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at a node.
const LOOK: Duration = Duration::from_millis(10);
/// What each of them may keep in memory.
const MEMORY_MAX: &str = "25%";

/// All nodes, running or not.
#[derive(Debug)]
pub(super) struct Nodes {
    settings: Settings,
    clock: Clock,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    address: SocketAddr,
    log: PathBuf,
    process: Option<Process>,
}

/// A process. It is killed when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    is_ready: Arc<AtomicBool>,
}

impl Nodes {
    /// Finds ports; starts no node yet.
    pub(super) fn prepare(settings: &Settings, clock: Clock) -> Result<Self, DrillError> {
        // Held together, so that no port is found twice.
        let mut found = Vec::new();
        for name in NAMES {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(DrillError::Port)?;
            let address = listener.local_addr().map_err(DrillError::Port)?;
            let log = settings.folder.join(format!("{name}.log"));
            found.push((Node { address, log, process: None }, listener));
        }
        let nodes = found.into_iter().map(|(node, _)| node).collect();
        Ok(Self { settings: settings.clone(), clock, nodes })
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.to_string()).collect()
    }

    /// The processes that run.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.pids_but(NODE_COUNT)
    }

    /// Those of the other nodes.
    pub(super) fn pids_but(&self, place: usize) -> Vec<u32> {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        let processes = others.filter_map(|(_, node)| node.process.as_ref());
        processes.map(|process| process.child.id()).collect()
    }

    /// Starts all nodes and waits until they are part of all their views.
    pub(super) fn start_all(&mut self) -> Result<(), DrillError> {
        (0..NODE_COUNT).try_for_each(|place| self.start(place))?;
        (0..NODE_COUNT).try_for_each(|place| self.await_normal(place))
    }

    /// Starts a node that isn't running.
    pub(super) fn start(&mut self, place: usize) -> Result<(), DrillError> {
        let command = self.command(place);
        let node = &mut self.nodes[place];
        assert!(node.process.is_none(), "a node runs once");
        node.process = Some(Process::start(command, &node.log)?);
        Ok(())
    }

    /// Ends a node with `kill -9`.
    pub(super) fn kill(&mut self, place: usize) {
        // Dropping it kills it and waits for its end.
        self.nodes[place].process = None;
    }

    /// Sends a signal to a node.
    pub(super) fn signal(&self, place: usize, signal: Signal) {
        if let Some(process) = &self.nodes[place].process {
            // An error means that it has ended; who waits for it will see.
            let _ = kill_process(Pid::from_child(&process.child), signal);
        }
    }

    /// Waits for the end of a node that was asked to end.
    pub(super) fn await_end(&mut self, place: usize) -> Result<(), DrillError> {
        let by = self.deadline();
        loop {
            if let Some(how) = self.ended(place) {
                self.nodes[place].process = None;
                return match how.is_empty() {
                    true => Ok(()),
                    false => Err(DrillError::Ended { node: NAMES[place].to_owned(), how }),
                };
            }
            self.look_again(by, || format!("node {} ends", NAMES[place]))?;
        }
    }

    /// Waits until a node says that it is ready, and that it is part of all its partitions' views.
    pub(super) fn await_normal(&mut self, place: usize) -> Result<(), DrillError> {
        self.await_status(place, "is part of all its views", |status| {
            let normal = i32::from(Activity::Normal);
            status.partitions.iter().all(|partition| partition.activity == normal)
        })
    }

    /// Waits until a node is ready and `holds`, of what it says of itself.
    pub(super) fn await_status(
        &mut self,
        place: usize,
        what: &str,
        holds: impl Fn(&NodeStatus) -> bool,
    ) -> Result<(), DrillError> {
        let by = self.deadline();
        loop {
            if let Some(how) = self.ended(place) {
                return Err(DrillError::Ended { node: NAMES[place].to_owned(), how });
            }
            let process = self.nodes[place].process.as_ref();
            let is_ready = process.is_some_and(|process| process.is_ready.load(Ordering::Acquire));
            if is_ready && self.status(place).is_ok_and(|status| holds(&status)) {
                return Ok(());
            }
            self.look_again(by, || format!("node {} {what}", NAMES[place]))?;
        }
    }

    /// What a node says of itself and its partitions.
    pub(super) fn status(&self, place: usize) -> Result<NodeStatus, ClientError> {
        let address = self.nodes[place].address.to_string();
        Client::connect(&address, STATUS_WAIT)?.status(true)
    }

    /// Who leads a partition, and all that it leads, as that one says itself.
    pub(super) fn leader_of(&self, partition: u32) -> Result<(usize, Vec<u32>), DrillError> {
        let by = self.deadline();
        loop {
            for (place, name) in NAMES.into_iter().enumerate() {
                let status = self.status(place)?;
                let is_led = |partition: &&PartitionStatus| partition.leader == name;
                let led: Vec<u32> =
                    status.partitions.iter().filter(is_led).map(|led| led.partition).collect();
                if led.contains(&partition) {
                    return Ok((place, led));
                }
            }
            self.look_again(by, || format!("somebody leads partition {partition}"))?;
        }
    }

    fn deadline(&self) -> Monotonic {
        self.clock.monotonic().after_ns(READY_NS_MAX)
    }

    fn look_again(&self, by: Monotonic, what: impl Fn() -> String) -> Result<(), DrillError> {
        if self.clock.monotonic() > by {
            return Err(DrillError::Late { what: what() });
        }
        std::thread::park_timeout(LOOK);
        Ok(())
    }

    /// How a process has ended, if it has; nothing is said of one that ended in good order.
    fn ended(&mut self, place: usize) -> Option<String> {
        let node = &mut self.nodes[place];
        let status = node.process.as_mut()?.child.try_wait().ok()??;
        if status.success() {
            return Some(String::new());
        }
        let said = fs::read(&node.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        Some(format!("{status}; {}", said.lines().last().unwrap_or_default()))
    }

    fn command(&self, place: usize) -> Command {
        let Self { settings, nodes, .. } = self;
        let members =
            nodes.iter().zip(NAMES).map(|(node, name)| format!("{name}={}", node.address));
        let members: Vec<String> = members.collect();
        let mut command = Command::new(&settings.program);
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in variables.filter(|name| name.to_string_lossy().starts_with("P2PMAP_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--node-id", NAMES[place], "--members", &members.join(",")]);
        command.args(["--cores", &settings.cores[place % settings.cores.len()]]);
        command.args(["--partitions", &settings.partition_count.to_string()]);
        command.args(["--memory-max", MEMORY_MAX]);
        command.arg("--data-dir").arg(settings.folder.join(NAMES[place]));
        // None of them outlives this process, however it ends, not even one that is stopped.
        command.args(["--parent", &std::process::id().to_string(), "--killed-with-parent"]);
        command
    }
}

/// What a node is called.
pub(super) fn name(place: usize) -> &'static str {
    NAMES[place]
}

impl Process {
    fn start(mut command: Command, log: &Path) -> Result<Self, DrillError> {
        let opened = OpenOptions::new().create(true).append(true).open(log);
        let log = opened.map_err(|error| DrillError::file(log, error))?;
        // In a process group of its own Ctrl-C doesn't reach it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(DrillError::Spawn)?;
        let is_ready = Arc::new(AtomicBool::new(false));
        if let Some(stdout) = child.stdout.take() {
            let is_ready = Arc::clone(&is_ready);
            // It ends with the node.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if line == "ready" {
                        is_ready.store(true, Ordering::Release);
                    }
                }
            });
        }
        Ok(Self { child, is_ready })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended by itself meanwhile, or ends now, stopped or not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
