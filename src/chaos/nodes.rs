//! The nodes: real processes with real data directories.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, Signal, kill_process};

use super::counters::{self, Counters};
use super::network::Network;
use super::{ChaosError, Settings};
use crate::base::limits::CHAOS_PARTITION_COUNT;

/// A node, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where clients find it: no fault of a link keeps them from it.
    pub(super) listen: SocketAddr,
    /// The cores that it runs on the next time.
    pub(super) cores: String,
    log: PathBuf,
    process: Option<Process>,
}

/// A process. It is killed when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    is_ready: Arc<AtomicBool>,
    /// Where it serves metrics, as soon as it has said so.
    metrics: Arc<OnceLock<SocketAddr>>,
}

/// All nodes, and the network between them.
#[derive(Debug)]
pub(super) struct Nodes {
    settings: Settings,
    nodes: Vec<Node>,
    network: Network,
    counters: Counters,
}

impl Nodes {
    /// Makes the network; starts no node yet.
    pub(super) fn prepare(settings: &Settings) -> Result<Self, ChaosError> {
        let Settings { transport, node_count, seed, .. } = *settings;
        let (network, addresses) = Network::prepare(transport, node_count, seed)?;
        let nodes = addresses.into_iter().enumerate().map(|(place, listen)| Node {
            name: name(place),
            listen,
            cores: settings.cores[place % settings.cores.len()].clone(),
            log: settings.folder.join(format!("{}.log", name(place))),
            process: None,
        });
        Ok(Self {
            settings: settings.clone(),
            nodes: nodes.collect(),
            network,
            counters: Counters::new(),
        })
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn name(&self, place: usize) -> &str {
        &self.nodes[place].name
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Where clients find them.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.listen.to_string()).collect()
    }

    fn data_dir(&self, place: usize) -> PathBuf {
        self.folder(place).join("data")
    }

    /// The node's folder; its data directory is in it.
    pub(super) fn folder(&self, place: usize) -> PathBuf {
        self.settings.folder.join(self.name(place))
    }

    /// Starts a node that isn't running.
    pub(super) fn start(&mut self, place: usize) -> Result<(), ChaosError> {
        self.run(place, self.command(place))
    }

    /// Takes a node's data directory away from it, and starts it in its place with an empty one.
    pub(super) fn replace(&mut self, place: usize) -> Result<(), ChaosError> {
        let data_dir = self.data_dir(place);
        fs::remove_dir_all(&data_dir).map_err(|error| ChaosError::file(&data_dir, error))?;
        let mut command = self.command(place);
        command.arg("--replace");
        self.run(place, command)
    }

    fn run(&mut self, place: usize, command: Command) -> Result<(), ChaosError> {
        let node = &mut self.nodes[place];
        assert!(node.process.is_none(), "a node runs once");
        node.process = Some(Process::start(command, &node.log)?);
        Ok(())
    }

    /// The cores that a node runs on, or will the next time.
    pub(super) fn cores(&self, place: usize) -> &str {
        &self.nodes[place].cores
    }

    /// From its next start on a node runs on these cores.
    pub(super) fn set_cores(&mut self, place: usize, cores: &str) {
        cores.clone_into(&mut self.nodes[place].cores);
    }

    /// Ends nodes all at once, as a power switch would as far as processes are concerned.
    pub(super) fn kill(&mut self, places: &[usize]) {
        places.iter().for_each(|place| self.signal(*place, Signal::KILL));
        // Dropping them waits for their ends.
        places.iter().for_each(|place| self.nodes[*place].process = None);
    }

    /// Adds up what a node has counted, as far as it can be asked: it is about to end.
    pub(super) fn count(&mut self, place: usize) {
        let process = self.nodes[place].process.as_ref();
        if let Some(metrics) = process.and_then(|process| process.metrics.get()) {
            // Who doesn't answer isn't counted.
            let _ = counters::add(&mut self.counters, *metrics);
        }
    }

    /// What the nodes counted before they ended.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends a signal to a node that runs.
    pub(super) fn signal(&self, place: usize, signal: Signal) {
        if let Some(process) = &self.nodes[place].process {
            // An error means that it has ended; who looks after it will see.
            let _ = kill_process(Pid::from_child(&process.child), signal);
        }
    }

    pub(super) fn is_running(&self, place: usize) -> bool {
        self.nodes[place].process.is_some()
    }

    /// Whether a node has said that it is ready since it was started.
    pub(super) fn is_ready(&self, place: usize) -> bool {
        let process = self.nodes[place].process.as_ref();
        process.is_some_and(|process| process.is_ready.load(Ordering::Acquire))
    }

    /// How a process has ended that was running when it was looked at last.
    pub(super) fn take_ended(&mut self, place: usize) -> Option<ExitStatus> {
        let node = &mut self.nodes[place];
        let status = node.process.as_mut()?.child.try_wait().ok()??;
        node.process = None;
        Some(status)
    }

    /// The last lines of a node's log.
    pub(super) fn last_words(&self, place: usize) -> String {
        let text = fs::read(&self.nodes[place].log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(LAST_LINE_COUNT).collect();
        lines.into_iter().rev().map(|line| format!("\n    {line}")).collect()
    }

    fn command(&self, place: usize) -> Command {
        let Self { settings, nodes, .. } = self;
        let node = &nodes[place];
        let address =
            |other: usize| self.network.detour(place, other).unwrap_or(nodes[other].listen);
        let members =
            (0..nodes.len()).map(|other| format!("{}={}", nodes[other].name, address(other)));
        let members: Vec<String> = members.collect();
        let mut command = self.network.command(place, &settings.program);
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in variables.filter(|name| name.to_string_lossy().starts_with("P2PMAP_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--node-id", &node.name, "--members", &members.join(",")]);
        command.args(["--listen", &node.listen.to_string(), "--cores", &node.cores]);
        command.args(["--metrics-listen", &SocketAddr::from((node.listen.ip(), 0)).to_string()]);
        command.arg("--insecure-peers");
        command.args(["--partitions", &CHAOS_PARTITION_COUNT.to_string()]);
        command.args(["--segment-size", SEGMENT_SIZE, "--log-max", LOG_MAX, "--idle", "park"]);
        command.args(["--checkpoint-interval", CHECKPOINT_INTERVAL]);
        command.args(["--memory-max", MEMORY_MAX, "--sequencer", &settings.sequencer]);
        command.arg("--data-dir").arg(self.data_dir(place));
        if let Some(mutant) = settings.mutant {
            command.args(["--mutant", mutant.name()]);
        }
        // None of them outlives this process, however it ends, not even one that is stopped.
        command.args(["--parent", &std::process::id().to_string(), "--killed-with-parent"]);
        command
    }
}

/// Small, so that checkpoints are made and logs recycled within a run, and fit small disks.
const SEGMENT_SIZE: &str = "8MiB";
const LOG_MAX: &str = "256MiB";
const CHECKPOINT_INTERVAL: &str = "4MiB";
/// Five nodes are on one machine.
const MEMORY_MAX: &str = "512MiB";
/// Of a log that is shown.
const LAST_LINE_COUNT: usize = 4;

impl Process {
    fn start(mut command: Command, log: &Path) -> Result<Self, ChaosError> {
        let opened = OpenOptions::new().create(true).append(true).open(log);
        let log = opened.map_err(|error| ChaosError::file(log, error))?;
        // In a process group of its own Ctrl-C doesn't reach it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(ChaosError::Spawn)?;
        let is_ready = Arc::new(AtomicBool::new(false));
        let metrics = Arc::new(OnceLock::new());
        if let Some(stdout) = child.stdout.take() {
            let (is_ready, metrics) = (Arc::clone(&is_ready), Arc::clone(&metrics));
            // It ends with the node.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let address = line.strip_prefix("metrics: http://");
                    let address = address.and_then(|line| line.strip_suffix("/metrics"));
                    if let Some(address) = address.and_then(|address| address.parse().ok()) {
                        let _ = metrics.set(address);
                    }
                    if line == "ready" {
                        is_ready.store(true, Ordering::Release);
                    }
                }
            });
        }
        Ok(Self { child, is_ready, metrics })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended by itself meanwhile, or ends now, stopped or not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The nodes are called `a`, `b`, `c` and so on.
fn name(place: usize) -> String {
    char::from(b'a' + u8::try_from(place).expect("they are few")).to_string()
}
