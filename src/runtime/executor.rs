//! One glommio executor per core, and the loop that it hosts.
//!
//! The settings are not free: when glommio's preemption timer fires before any task has run, the
//! executor parks although tasks are runnable, and hangs. So the timer is long (the loop yields by
//! itself), no queue asks for low latency, and a ticker task is the safety net. Executors live as
//! long as the process: tearing them down leaks and panics.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};

use super::core::Node;
use super::disk::{Disk, Helpers, ask_for_long_slice};
use super::event_loop::{EventLoop, Turn};
use super::fatal::{Fatal, FatalReason};
use super::halt;
use super::mesh::Mesh;
use super::service::Service;
use super::uring::{RingSize, Uring, buffered_file};
use crate::base::time::{Monotonic, NS_PER_US};

/// What a loop does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It never sleeps: the lowest latency, at the price of the core.
    Spin,
    /// It spins so long and then sleeps until something comes.
    Park {
        /// How long it spins.
        spin_ns: u64,
    },
}

/// Everything that a core is given.
#[derive(Debug)]
pub(super) struct Assignment {
    /// Its ends of the rings to the others; they say which shard it is.
    pub(super) mesh: Mesh,
    /// The processor.
    pub(super) core: usize,
    pub(super) idle: Idle,
    pub(super) node: Arc<Node>,
    pub(super) listener: OwnedFd,
    pub(super) helpers: Option<Helpers>,
}

/// Longer than a thread can be kept from running, so that it never fires before a task has run.
const PREEMPT_TIMER: Duration = Duration::from_secs(3_600);
/// Pinned three times over: more, and executors fail under a memory lock limit of 8 MiB.
const IO_MEMORY_SIZE_BYTES: usize = 512 << 10;
const TICK: Duration = Duration::from_millis(5);
/// How often a loop that doesn't sleep lets the executor's other tasks run.
const EXECUTOR_INTERVAL_NS: u64 = 100 * NS_PER_US;
/// The shortest timer that isn't over before it is looked at: one that is over doesn't yield.
const YIELD_TIMER: Duration = Duration::from_micros(1);
/// Keeps the executor from sleeping while that timer runs.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(20);

/// What a core tells who watches over it.
#[derive(Debug)]
pub(super) enum Report {
    /// Its service serves requests.
    Ready,
    /// Its loop has ended.
    Ended(Result<(), Fatal>),
}

/// Starts a core. `make` makes its service on the core's own thread.
pub(super) fn start<S: Service + 'static>(
    assignment: Assignment,
    make: impl FnOnce() -> Result<S, Fatal> + Send + 'static,
    report: impl Fn(Report) + Send + Sync + 'static,
) -> Result<(), Fatal> {
    let name = format!("core-{}", assignment.mesh.me());
    let report = Arc::new(report);
    let unstarted = Unstarted { report: Some(Arc::clone(&report)) };
    LocalExecutorBuilder::new(Placement::Fixed(assignment.core))
        .name(&name)
        .preempt_timer(PREEMPT_TIMER)
        .spin_before_park(SPIN_BEFORE_PARK)
        .io_memory(IO_MEMORY_SIZE_BYTES)
        .spawn(move || async move {
            unstarted.started();
            let result = host(assignment, make, &*report).await;
            report(Report::Ended(result));
            // The executor lives as long as the process.
            std::future::pending::<()>().await;
        })
        .map(drop)
        .map_err(|error| Fatal::new(FatalReason::Executor, format!("no executor: {error}")))
}

/// Goes to an executor's thread with what it is to run: an executor that can't be made drops both
/// without a word.
struct Unstarted<F: Fn(Report)> {
    report: Option<Arc<F>>,
}

impl<F: Fn(Report)> Unstarted<F> {
    fn started(mut self) {
        self.report = None;
    }
}

impl<F: Fn(Report)> Drop for Unstarted<F> {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            let message = "an executor could not be made; most likely too little memory may be \
                           locked: raise the limit (ulimit -l), `p2pmap check-host` says to what";
            report(Report::Ended(Err(Fatal::new(FatalReason::Executor, message))));
        }
    }
}

async fn host<S: Service + 'static>(
    assignment: Assignment,
    make: impl FnOnce() -> Result<S, Fatal>,
    report: &impl Fn(Report),
) -> Result<(), Fatal> {
    let Assignment { mesh, idle, node, listener, helpers, .. } = assignment;
    let shard = usize::from(mesh.me().0);
    let is_alone = node.network.is_none();
    if helpers.is_some() && is_alone && !ask_for_long_slice() {
        tracing::debug!(shard, "the scheduler grants no long slice");
    }
    let mut ring = Uring::new(RingSize::default())
        .map_err(|error| Fatal::new(FatalReason::Environment, error))?;
    let core = &node.cores[shard];
    ring.register_eventfd(&core.eventfd)
        .map_err(|error| Fatal::new(FatalReason::Environment, error))?;
    ring.set_eventfd_signals(false);
    let alarm_bell = buffered_file(&core.eventfd)
        .map_err(|error| Fatal::new(FatalReason::Environment, error))?;
    start_ticker(&node, shard);
    let disk = Disk::new(Arc::clone(&node), helpers);
    let event_loop = EventLoop::new(make()?, ring, disk, listener, Arc::clone(&node), mesh);
    drive(event_loop, idle, &alarm_bell, report).await
}

fn start_ticker(node: &Arc<Node>, shard: usize) {
    let node = Arc::clone(node);
    glommio::spawn_local(async move {
        loop {
            glommio::timer::sleep(TICK).await;
            node.cores[shard].heartbeats.fetch_add(1, Ordering::Relaxed);
        }
    })
    .detach();
}

/// Lets the executor reap its own I/O and run its other tasks. (`yield_now` doesn't: a task that is
/// runnable at once is run at once. Nor does a timer of zero: it is ready when it is first polled.)
async fn yield_to_executor() {
    glommio::timer::sleep(YIELD_TIMER).await;
}

async fn drive<S: Service>(
    mut event_loop: EventLoop<S>,
    idle: Idle,
    alarm_bell: &BufferedFile,
    report: &impl Fn(Report),
) -> Result<(), Fatal> {
    let mut ready = false;
    let mut yielded_at = Monotonic(0);
    let mut busy_at = Monotonic(0);
    loop {
        let turn = match halt::catch(|| event_loop.turn()) {
            Ok(turn) => turn?,
            Err(said) => return Err(event_loop.halt(&said)),
        };
        let now = event_loop.monotonic();
        if !ready && event_loop.is_ready() {
            ready = true;
            report(Report::Ready);
        }
        match (turn, idle) {
            (Turn::Finished, _) => return Ok(()),
            (Turn::Busy, _) => busy_at = now,
            (Turn::Idle, Idle::Park { spin_ns }) if now.since_ns(busy_at) >= spin_ns => {
                park(&mut event_loop, alarm_bell).await?;
                yielded_at = event_loop.monotonic();
            }
            (Turn::Idle, _) => {}
        }
        if now.since_ns(yielded_at) >= EXECUTOR_INTERVAL_NS {
            yield_to_executor().await;
            yielded_at = now;
        }
    }
}

/// Sleeps until a completion, a doorbell or the next deadline.
async fn park<S: Service>(
    event_loop: &mut EventLoop<S>,
    alarm_bell: &BufferedFile,
) -> Result<(), Fatal> {
    let may_sleep = event_loop.prepare_to_sleep()?;
    if may_sleep {
        // The value doesn't matter: reading it makes it 0.
        let read = alarm_bell.read_at(0, size_of::<u64>()).await;
        read.map_err(|error| Fatal::new(FatalReason::Executor, format!("can't sleep: {error}")))?;
    }
    event_loop.wake();
    Ok(())
}
