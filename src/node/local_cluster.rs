//! A cluster on this machine, for trying out: each node a process of its own on loopback, all of
//! them below one folder, and all of them stopped together.
//!
//! Nodes are told by `--parent` whose children they are, so that none outlives whoever started
//! them, however that ends; and have process groups of their own, so that Ctrl-C reaches them once,
//! as a request to end in good order.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::config::value::Durability;
use super::placement;
use crate::base::cast::{u16_from, u64_from};
use crate::base::io_error::describe;
use crate::base::limits::{LOCAL_CLUSTER_END_MS_MAX, MEMORY_PERCENT_DEFAULT};

/// How often it is looked after the nodes.
const LOOK: Duration = Duration::from_millis(50);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    /// The program that nodes are run with: this one.
    pub program: PathBuf,
    /// How many nodes.
    pub node_count: usize,
    /// Where their data directories lie.
    pub folder: PathBuf,
    /// The first node's port; the others have those after it. 0: free ones.
    pub first_port: u16,
    /// When a write is answered.
    pub durability: Durability,
}

/// Why there is no such cluster. One line.
#[derive(Debug)]
pub enum LocalClusterError {
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
    /// A node ended before all were ready.
    Ended {
        /// Which one.
        node: String,
        /// Where it says why.
        log: PathBuf,
        /// Its last words.
        last_line: String,
    },
    /// Nobody can be told.
    Output(io::Error),
}

impl fmt::Display for LocalClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {}", path.display(), describe(error)),
            Self::Port(error) => write!(f, "no free ports on loopback: {}", describe(error)),
            Self::Spawn(error) => write!(f, "a node can't be started: {}", describe(error)),
            Self::Signals(error) => write!(f, "can't wait for signals: {}", describe(error)),
            Self::Ended { node, log, last_line } => {
                write!(f, "node {node} has ended: {last_line} (its log: {})", log.display())
            }
            Self::Output(error) => write!(f, "cannot write to stdout: {}", describe(error)),
        }
    }
}

impl std::error::Error for LocalClusterError {}

/// A node that was started. It is killed if nobody has waited for it.
struct Running {
    name: String,
    address: SocketAddr,
    log: PathBuf,
    child: Child,
    ready: Arc<AtomicBool>,
    has_ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            // It has ended by itself meanwhile, or ends now.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl LocalCluster {
    /// Runs it until a signal comes or all nodes have ended.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn run(&self, out: &mut impl Write) -> Result<(), LocalClusterError> {
        let asked = register_signals().map_err(LocalClusterError::Signals)?;
        let addresses = self.addresses().map_err(LocalClusterError::Port)?;
        fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, error))?;
        let mut nodes = Vec::new();
        for place in 0..self.node_count {
            nodes.push(self.start(place, &addresses)?);
        }
        while !nodes.iter().all(|node| node.ready.load(Ordering::Acquire)) {
            if asked.load(Ordering::Acquire) {
                return stop(&mut nodes, out);
            }
            if let Some(ended) = nodes.iter_mut().find_map(ended) {
                return Err(ended);
            }
            std::thread::park_timeout(LOOK);
        }
        self.explain(&nodes, out).map_err(LocalClusterError::Output)?;
        while !asked.load(Ordering::Acquire) && nodes.iter().any(|node| !node.has_ended) {
            for node in &mut nodes {
                self.look_after(node, out)?;
            }
            std::thread::park_timeout(LOOK);
        }
        stop(&mut nodes, out)
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        // Held together, so that no port is found twice.
        let mut found = Vec::new();
        for place in 0..self.node_count {
            let port = match self.first_port {
                0 => 0,
                first => first.saturating_add(u16_from(place)),
            };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            found.push((listener.local_addr()?, listener));
        }
        Ok(found.into_iter().map(|(address, _)| address).collect())
    }

    fn start(&self, place: usize, addresses: &[SocketAddr]) -> Result<Running, LocalClusterError> {
        let name = name(place);
        let settings = self.folder.join(format!("{name}.toml"));
        let log = self.folder.join(format!("{name}.log"));
        fs::write(&settings, self.settings(place, addresses))
            .map_err(|error| failed(&settings, error))?;
        let log_file = File::create(&log).map_err(|error| failed(&log, error))?;
        let mut command = Command::new(&self.program);
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in variables.filter(|name| name.to_string_lossy().starts_with("P2PMAP_")) {
            command.env_remove(name);
        }
        command.arg("serve").arg("--config").arg(&settings);
        command.arg("--parent").arg(std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).process_group(0);
        let mut child = command.spawn().map_err(LocalClusterError::Spawn)?;
        let ready = Arc::new(AtomicBool::new(false));
        if let Some(stdout) = child.stdout.take() {
            let ready = Arc::clone(&ready);
            // It ends with the node.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if line == "ready" {
                        ready.store(true, Ordering::Release);
                    }
                }
            });
        }
        Ok(Running { address: addresses[place], name, log, child, ready, has_ended: false })
    }

    /// A node's settings: what `p2pmap serve --config` needs to start it again.
    fn settings(&self, place: usize, addresses: &[SocketAddr]) -> String {
        let members = addresses.iter().enumerate();
        let members: Vec<String> = members
            .map(|(place, address)| format!("{:?}", format!("{}={address}", name(place))))
            .collect();
        // Cores are shared where there are fewer of them than nodes.
        let cores = placement::available();
        let core = cores.numbers()[place % cores.count()];
        let percent = (u64::from(MEMORY_PERCENT_DEFAULT) / u64_from(self.node_count)).max(1);
        let data_dir = self.folder.join(name(place));
        format!(
            "node-id = {:?}\nmembers = [{}]\ndata-dir = {:?}\ncores = [{core}]\n\
             durability = \"{}\"\nidle = \"park\"\nmemory-max = \"{percent}%\"\n",
            name(place),
            members.join(", "),
            data_dir.display().to_string(),
            self.durability,
        )
    }

    fn explain(&self, nodes: &[Running], out: &mut impl Write) -> io::Result<()> {
        for node in nodes {
            let Running { name, address, log, child, .. } = node;
            writeln!(out, "node {name}: {address}, pid {}, log {}", child.id(), log.display())?;
        }
        let (first, last) = (nodes[0].address, nodes[nodes.len() - 1].address);
        writeln!(out, "put a key on one node and get it from another:")?;
        writeln!(out, "  p2pmap put --node {first} greetings hello world")?;
        writeln!(out, "  p2pmap get --node {last} greetings hello")?;
        writeln!(out, "Ctrl-C stops all nodes")?;
        writeln!(out, "ready")?;
        out.flush()
    }

    fn look_after(
        &self,
        node: &mut Running,
        out: &mut impl Write,
    ) -> Result<(), LocalClusterError> {
        if node.has_ended {
            return Ok(());
        }
        let Ok(Some(status)) = node.child.try_wait() else { return Ok(()) };
        node.has_ended = true;
        let settings = self.folder.join(format!("{}.toml", node.name));
        let mut say = || {
            writeln!(out, "node {} has ended ({status}); start it again with:", node.name)?;
            writeln!(out, "  p2pmap serve --config {}", settings.display())?;
            out.flush()
        };
        say().map_err(LocalClusterError::Output)
    }
}

/// Has this process be sent a signal when its parent ends.
///
/// # Errors
/// If the system refuses, or the parent has ended already.
pub fn end_with_parent(parent: u32, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    let is_there =
        getppid().is_some_and(|found| found.as_raw_nonzero().get().unsigned_abs() == parent);
    if is_there { Ok(()) } else { Err(io::Error::other("the parent process has ended")) }
}

fn failed(path: &Path, error: io::Error) -> LocalClusterError {
    LocalClusterError::File { path: path.to_owned(), error }
}

/// The nodes are called `a`, `b`, `c` and so on.
fn name(place: usize) -> String {
    char::from(b'a' + u8::try_from(place).expect("they are few")).to_string()
}

fn register_signals() -> io::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(asked)
}

/// Why a node that should be starting isn't running any more.
fn ended(node: &mut Running) -> Option<LocalClusterError> {
    let status = node.child.try_wait().ok()??;
    node.has_ended = true;
    let said = fs::read_to_string(&node.log).unwrap_or_default();
    let last_line = said.lines().last().map_or_else(|| status.to_string(), str::to_owned);
    Some(LocalClusterError::Ended { node: node.name.clone(), log: node.log.clone(), last_line })
}

/// Asks all nodes to end and waits for them; those that don't are killed.
fn stop(nodes: &mut [Running], out: &mut impl Write) -> Result<(), LocalClusterError> {
    writeln!(out, "stopping").map_err(LocalClusterError::Output)?;
    for node in nodes.iter().filter(|node| !node.has_ended) {
        // An error means that it has ended meanwhile.
        let _ = kill_process(Pid::from_child(&node.child), Signal::TERM);
    }
    for _ in 0..LOCAL_CLUSTER_END_MS_MAX / u64::try_from(LOOK.as_millis()).unwrap_or(1) {
        for node in nodes.iter_mut().filter(|node| !node.has_ended) {
            node.has_ended = matches!(node.child.try_wait(), Ok(Some(_)));
        }
        if nodes.iter().all(|node| node.has_ended) {
            return Ok(());
        }
        std::thread::park_timeout(LOOK);
    }
    // Dropping them kills them.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::Config;
    use crate::node::config::source::Sources;

    fn cluster(folder: &Path, node_count: usize, first_port: u16) -> LocalCluster {
        LocalCluster {
            program: PathBuf::from("p2pmap"),
            node_count,
            folder: folder.to_owned(),
            first_port,
            durability: Durability::Sync,
        }
    }

    #[test]
    fn settings_of_each_node_are_a_sound_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = cluster(folder.path(), 3, 0);
        let addresses = cluster.addresses().unwrap();
        for (place, address) in addresses.iter().enumerate() {
            let file = folder.path().join("x.toml");
            fs::write(&file, cluster.settings(place, &addresses)).unwrap();
            let sources = Sources { config_file: Some(file), ..Sources::default() };
            let config = Config::load(&sources).unwrap().config;
            assert_eq!((config.listen, config.replication_factor), (*address, 3));
            assert_eq!(config.data_dir, folder.path().join(name(place)));
        }
    }

    #[test]
    fn port_of_another_is_refused_before_anything_is_started() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cluster = cluster(folder.path(), 1, taken.local_addr().unwrap().port());
        let error = cluster.addresses().expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
