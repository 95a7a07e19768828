//! All cores of a node: starts them, watches over them, stops them.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

use super::core::{Node, NodeFacts};
use super::disk::Helpers;
use super::executor::{self, Assignment, Idle, Report};
use super::fatal::{Fatal, FatalReason};
use super::listener::listen;
use super::mesh::meshes;
use super::peers::PeerNetwork;
use super::segment_workshop::SegmentPlace;
use super::service::Service;
use super::steal;
use crate::base::limits::{
    CONNECTION_COUNT_MAX, DESCRIPTOR_COUNT_RESERVED, DESCRIPTOR_COUNT_RESERVED_PER_SHARD,
};

/// A loop that made no turn for so long is reported.
const STALL: Duration = Duration::from_millis(100);
/// The steal is read once in so many looks at the cores: about once a second.
const LOOKS_PER_STEAL: u32 = 10;

/// How a node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its processors; one shard each.
    pub cores: Vec<usize>,
    /// What a core does when there is nothing to do.
    pub idle: Idle,
    /// Where the shards' segments lie, one place each; empty for services without a log.
    pub segments: Vec<SegmentPlace>,
}

/// A running node. Its threads live as long as the process, whatever becomes of this value.
#[derive(Debug)]
pub struct Runtime {
    node: Arc<Node>,
    address: SocketAddr,
    reports: Receiver<(usize, Report)>,
    /// A byte comes in when a core's loop ended or a signal came.
    bell: UnixStream,
    bell_rope: UnixStream,
    /// Set by a signal.
    asked: Option<Arc<AtomicBool>>,
    watch: Vec<Watched>,
    /// Looks at the cores since the steal was read.
    looks_since_steal: u32,
}

/// What the watchdog remembers of a core.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    turns: u64,
    heartbeats: u64,
    ready: bool,
    finished: bool,
}

impl Runtime {
    /// Starts the cores. `make` makes the service of a shard, on its core's thread.
    ///
    /// # Errors
    /// If the machine can't run a node, or the address can't be had.
    ///
    /// # Panics
    /// If there are segment places, but not one for each core.
    pub fn start<S, F>(options: Options, make: F) -> Result<Self, Fatal>
    where
        S: Service + 'static,
        F: Fn(usize) -> Result<S, Fatal> + Clone + Send + 'static,
    {
        Self::start_node(options, NodeFacts::default(), make)
    }

    /// The same for a service that is a node, and tells whoever asks what it is.
    ///
    /// # Errors
    /// As of [`Runtime::start`].
    ///
    /// # Panics
    /// As of [`Runtime::start`].
    pub fn start_node<S, F>(options: Options, facts: NodeFacts, make: F) -> Result<Self, Fatal>
    where
        S: Service + 'static,
        F: Fn(usize) -> Result<S, Fatal> + Clone + Send + 'static,
    {
        Self::start_member(options, facts, None, make)
    }

    /// The same for a node that isn't alone.
    ///
    /// # Errors
    /// As of [`Runtime::start`].
    ///
    /// # Panics
    /// As of [`Runtime::start`].
    pub fn start_member<S, F>(
        options: Options,
        facts: NodeFacts,
        network: Option<Arc<PeerNetwork>>,
        make: F,
    ) -> Result<Self, Fatal>
    where
        S: Service + 'static,
        F: Fn(usize) -> Result<S, Fatal> + Clone + Send + 'static,
    {
        let Options { listen: address, cores, idle, segments } = options;
        assert!(segments.is_empty() || segments.len() == cores.len(), "one place for each core");
        let environment = |error| Fatal::new(FatalReason::Environment, error);
        let connection_count_max = connection_count_max(raise_descriptor_limit(), cores.len())?;
        let node = Node::new(cores.len(), connection_count_max).map_err(environment)?;
        let node = Arc::new(node.with_facts(facts, &cores).with_network(network));
        let (listeners, address) =
            listen(address, cores.len()).map_err(|error| Fatal::new(FatalReason::Listen, error))?;
        let (bell, bell_rope) = UnixStream::pair().map_err(environment)?;
        bell.set_read_timeout(Some(STALL)).map_err(environment)?;
        let (outbox, reports) = channel();
        let watch = vec![Watched::default(); cores.len()];
        let mut places = segments.into_iter();
        let meshes = meshes(cores.len());
        let cores = cores.into_iter().zip(meshes);
        for ((shard, (core, mesh)), listener) in cores.enumerate().zip(listeners) {
            let helpers = places.next().map(|place| start_helpers(place, &node, shard));
            let helpers = helpers.transpose()?;
            let node = Arc::clone(&node);
            let assignment = Assignment { mesh, core, idle, node, listener, helpers };
            let (make, outbox) = (make.clone(), outbox.clone());
            let rope = bell_rope.try_clone().map_err(environment)?;
            let report = move |report| {
                // Nobody listens any more only if the process is about to end.
                let _ = outbox.send((shard, report));
                ring(&rope);
            };
            executor::start(assignment, move || make(shard), report)?;
        }
        tracing::info!(%address, "listening");
        Ok(Self {
            node,
            address,
            reports,
            bell,
            bell_rope,
            asked: None,
            watch,
            looks_since_steal: 0,
        })
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stops it from another thread.
    #[must_use]
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.node)
    }

    /// Makes SIGINT and SIGTERM stop the node gracefully, and the second one end the process at
    /// once.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn stop_on_signals(&mut self) -> Result<(), Fatal> {
        let register = || -> std::io::Result<Arc<AtomicBool>> {
            let asked = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM] {
                let code = 128 + signal;
                signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&asked))?;
                signal_hook::flag::register(signal, Arc::clone(&asked))?;
                signal_hook::low_level::pipe::register(signal, self.bell_rope.try_clone()?)?;
            }
            // A write beyond a limit on file sizes is to fail, with its reason, rather than to end
            // the process without one.
            signal_hook::flag::register(SIGXFSZ, Arc::default())?;
            Ok(asked)
        };
        self.asked = Some(register().map_err(|error| Fatal::new(FatalReason::Environment, error))?);
        Ok(())
    }

    /// Waits until all cores serve requests. False: the node was told to stop before.
    ///
    /// # Errors
    /// The first reason for which a core stopped other than being told to.
    pub fn wait_until_ready(&mut self) -> Result<bool, Fatal> {
        while !self.watch.iter().all(|watched| watched.ready || watched.finished) {
            self.watch_once()?;
        }
        self.node.ready.store(true, Ordering::Release);
        Ok(!self.node.shutdown.load(Ordering::Acquire))
    }

    /// Waits until all cores have stopped, and reports loops that stand.
    ///
    /// # Errors
    /// The first reason for which a core stopped other than being told to.
    pub fn wait(mut self) -> Result<(), Fatal> {
        while !self.watch.iter().all(|watched| watched.finished) {
            self.watch_once()?;
        }
        Ok(())
    }

    /// Waits for a report, a signal or [`STALL`], and acts on it.
    fn watch_once(&mut self) -> Result<(), Fatal> {
        let mut byte = [0];
        let rung = self.bell.read(&mut byte).is_ok();
        if self.asked.as_ref().is_some_and(|asked| asked.load(Ordering::Acquire)) {
            self.asked = None;
            tracing::info!("a signal asks to stop");
            self.node.begin_shutdown();
        }
        while let Ok((shard, report)) = self.reports.try_recv() {
            match report {
                Report::Ready => self.watch[shard].ready = true,
                Report::Ended(result) => {
                    result?;
                    self.watch[shard].finished = true;
                }
            }
        }
        if !rung {
            self.look_after_cores();
        }
        Ok(())
    }

    /// Called when [`STALL`] has passed.
    fn look_after_cores(&mut self) {
        for (shard, (watched, core)) in self.watch.iter_mut().zip(&self.node.cores).enumerate() {
            let turns = core.turns.load(Ordering::Relaxed);
            let heartbeats = core.heartbeats.load(Ordering::Relaxed);
            // Before the first heartbeat the core is still starting.
            let stands = !watched.finished
                && watched.heartbeats > 0
                && (turns == watched.turns && !core.is_sleeping()
                    || heartbeats == watched.heartbeats);
            if stands {
                let stalls_count = core.stands_count.fetch_add(1, Ordering::Relaxed) + 1;
                let sleeping = core.is_sleeping();
                tracing::warn!(shard, stalls_count, sleeping, "a loop made no turn for 100 ms");
            }
            (watched.turns, watched.heartbeats) = (turns, heartbeats);
        }
        self.looks_since_steal += 1;
        if self.looks_since_steal >= LOOKS_PER_STEAL {
            self.looks_since_steal = 0;
            self.read_steal();
        }
    }

    fn read_steal(&self) {
        let steal_ns = steal::read_ns();
        for core in &self.node.cores {
            if let Some(ns) = steal_ns.get(&core.processor) {
                core.steal_ns.store(*ns, Ordering::Relaxed);
            }
        }
    }
}

fn start_helpers(place: SegmentPlace, node: &Arc<Node>, shard: usize) -> Result<Helpers, Fatal> {
    let node = Arc::clone(node);
    Helpers::start(place, move || node.cores[shard].ring_doorbell())
}

fn ring(mut rope: &UnixStream) {
    // It fails only if the other end is gone, and then nobody needs to be woken.
    let _ = std::io::Write::write(&mut rope, &[0]);
}

/// Raises the soft limit of open files to the hard one, and returns what it is then.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If that is refused, what counts is the limit that there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many connections each core may have under a limit on open files. Says so if that is fewer
/// than otherwise.
fn connection_count_max(limit: usize, core_count: usize) -> Result<usize, Fatal> {
    let reserved = DESCRIPTOR_COUNT_RESERVED + core_count * DESCRIPTOR_COUNT_RESERVED_PER_SHARD;
    let count = limit.saturating_sub(reserved) / core_count;
    if count == 0 {
        let message = format!(
            "a limit of {limit} open files leaves none for connections: raise it (ulimit -n) \
             above {}",
            reserved + core_count
        );
        return Err(Fatal::new(FatalReason::Environment, message));
    }
    if count < CONNECTION_COUNT_MAX {
        tracing::warn!(
            limit,
            connections = count,
            "open files are limited, and so are a shard's connections: raise the hard limit \
             (ulimit -Hn) for more"
        );
    }
    Ok(count.min(CONNECTION_COUNT_MAX))
}

/// Runs a service until a signal stops it: what the commands call.
///
/// # Errors
/// The reason for which it stopped other than by a signal.
pub fn run<S, F>(options: Options, make: F) -> Result<(), Fatal>
where
    S: Service + 'static,
    F: Fn(usize) -> Result<S, Fatal> + Clone + Send + 'static,
{
    super::fatal::exit_on_panic();
    let mut runtime = Runtime::start(options, make)?;
    runtime.stop_on_signals()?;
    runtime.wait()
}
