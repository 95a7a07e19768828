//! A run: one generator for each core, all begun at the same time, and what they measured put
//! together.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::dialect::{Dialect, LineError};
use super::generator::{Generator, GeneratorOptions};
use super::leaders::Leaders;
use super::mix::Mix;
use super::recorder::{Counts, Interval, Recorder};
use super::report::{Report, latencies};
use super::schedule::{Arrivals, Schedule, float};
use super::work::{Span, Work};
use super::workload::Workload;
use crate::base::cast::{low_u32, u64_from};
use crate::base::time::{Monotonic, NS_PER_MS, Now};
use crate::runtime::clock::Clock;
use crate::runtime::uring::UringError;

/// Between the last generator's being ready and the first request.
const START_DELAY_NS: u64 = 5 * NS_PER_MS;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When there is room for them: for a maximum throughput only.
    Closed,
    /// At times that are fixed beforehand.
    Open {
        /// How they follow each other.
        arrivals: Arrivals,
        /// Requests a second, of all generators together.
        rate: f64,
    },
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The nodes; connections go to them in turn.
    pub nodes: Vec<SocketAddr>,
    /// Who leads which partition: then each client has a connection to each of the nodes and asks
    /// the leader. None: each connection is a client, and the node that it goes to passes requests
    /// on.
    pub leaders: Option<Leaders>,
    /// What they are spoken to in.
    pub dialect: Dialect,
    /// The processors of the generators: one for each.
    pub cores: Vec<usize>,
    /// Never sleep.
    pub spin: bool,
    /// Clients, of all generators together: as many connections, unless they ask leaders.
    pub connection_count: usize,
    /// Requests in flight of each of them, at most.
    pub depth: usize,
    /// When requests are sent.
    pub pace: Pace,
    /// How long it takes to reach the rate.
    pub ramp_ns: u64,
    /// How long the run goes at the full rate before it is measured.
    pub warm_up_ns: u64,
    /// How long is measured.
    pub duration_ns: u64,
    /// What is asked.
    pub workload: Workload,
    /// Give each key a value first.
    pub preload: bool,
    /// Check values.
    pub verify: bool,
}

impl LoadOptions {
    /// Everything that was asked for, but for where the nodes are: what must be the same for two
    /// runs to be compared.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let workload = &self.workload;
        let range = |sizes: &RangeInclusive<usize>| format!("{}..={}", sizes.start(), sizes.end());
        let (arrivals, rate) = match self.pace {
            Pace::Closed => ("closed loop".to_owned(), "none".to_owned()),
            Pace::Open { arrivals, rate } => {
                (format!("{arrivals:?}").to_lowercase(), format!("{rate}"))
            }
        };
        let Mix { update_percent, insert_percent, scan_percent, read_modify_write_percent } =
            workload.mix;
        let settings = [
            ("arrivals", arrivals),
            ("rate_per_s", rate),
            ("nodes", self.nodes.len().to_string()),
            ("protocol", self.dialect.name().to_owned()),
            (
                "generator_cores",
                self.cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            ),
            ("spin", self.spin.to_string()),
            ("connections", self.connection_count.to_string()),
            ("depth", self.depth.to_string()),
            ("ramp_ns", self.ramp_ns.to_string()),
            ("warm_up_ns", self.warm_up_ns.to_string()),
            ("duration_ns", self.duration_ns.to_string()),
            ("map", workload.map.clone()),
            ("key_first", workload.key_first.to_string()),
            ("key_count", workload.key_count.to_string()),
            ("key_choice", format!("{:?}", workload.key_choice).to_lowercase()),
            ("key_size_bytes", range(&workload.key_size_bytes)),
            ("value_size_bytes", range(&workload.value_size_bytes)),
            ("update_percent", update_percent.to_string()),
            ("insert_percent", insert_percent.to_string()),
            ("scan_percent", scan_percent.to_string()),
            ("read_modify_write_percent", read_modify_write_percent.to_string()),
            ("seed", workload.seed.to_string()),
            ("preload", self.preload.to_string()),
            ("verify", self.verify.to_string()),
        ];
        // What only some loads have stands only in theirs.
        let replica_count = match self.dialect {
            Dialect::Resp { replica_count: count @ 1.. } => Some(count.to_string()),
            _ => None,
        };
        let of_some = [
            ("replicas_waited_for", replica_count),
            ("to_leaders", self.leaders.as_ref().map(|_| true.to_string())),
        ];
        let of_some = of_some.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let settings = settings.into_iter().chain(of_some);
        settings.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Why a run failed.
#[derive(Debug)]
pub enum LoadError {
    /// There is no ring.
    Ring(UringError),
    /// The ring broke.
    Broken(io::Error),
    /// A connection could not be made.
    Connect(SocketAddr, io::Error),
    /// A connection failed during the run.
    Connection(io::Error),
    /// The node closed a connection.
    Closed,
    /// The server doesn't speak what it should.
    Line(LineError),
    /// The node didn't answer while keys were given their first values.
    Silent,
    /// Keys could not be given their first values: refusals by code.
    Preload(BTreeMap<u64, u64>),
    /// The thread can't be bound to its core.
    Core(usize),
    /// There are more generators than connections.
    Connections,
    /// A thread could not be started, or ended by itself.
    Thread,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Broken(error) => write!(f, "io_uring failed: {error}"),
            Self::Connect(address, error) => write!(f, "can't connect to {address}: {error}"),
            Self::Connection(error) => write!(f, "a connection failed: {error}"),
            Self::Closed => f.write_str("the node closed a connection"),
            Self::Line(error) => write!(f, "what the server sent can't be read: {error}"),
            Self::Silent => f.write_str("the node didn't answer while the keys were filled"),
            Self::Preload(refusals) => {
                let codes: Vec<String> = refusals.keys().map(ToString::to_string).collect();
                write!(f, "the keys could not be filled: refused with {}", codes.join(", "))
            }
            Self::Core(core) => write!(f, "the load generator can't be bound to core {core}"),
            Self::Connections => f.write_str("each generating core needs a connection"),
            Self::Thread => f.write_str("a thread of the load generator could not be started"),
        }
    }
}

impl std::error::Error for LoadError {}

/// Binds the calling thread to a core.
///
/// # Errors
/// If it isn't one that the process may use.
pub fn pin(core: usize) -> Result<(), LoadError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let id = cores.into_iter().find(|id| id.id == core).ok_or(LoadError::Core(core))?;
    if core_affinity::set_for_current(id) { Ok(()) } else { Err(LoadError::Core(core)) }
}

/// What a generator tells.
enum Told {
    /// It is connected, and the keys have values.
    Ready,
    /// An interval of this generator is over.
    Interval(usize, Box<Interval>),
    /// It is done.
    Done(Box<Recorder>),
    Failed(LoadError),
}

/// A generator, as whoever runs it sees it.
struct Lane {
    start: Sender<Monotonic>,
    blanks: Sender<Box<Interval>>,
}

/// Runs a load. `begun` is told when what is measured begins, and `interval_over` gets each second
/// of it, all generators together, when it is over.
///
/// # Errors
/// If a node can't be reached, or stops answering properly.
pub fn run(
    options: &LoadOptions,
    begun: impl FnOnce(Now),
    mut interval_over: impl FnMut(&Interval),
) -> Result<Report, LoadError> {
    let lane_count = options.cores.len();
    if options.connection_count < lane_count {
        return Err(LoadError::Connections);
    }
    let clock = Clock::start();
    // Writers of other runs must have other names: their values may still be there.
    let writer = low_u32((clock.now().wall.0 / NS_PER_MS).wrapping_mul(0x9E37_79B9)) | 1;
    let (tell, told) = channel();
    let mut lanes = Vec::with_capacity(lane_count);
    for lane in 0..lane_count {
        let (start, started) = channel();
        let (blanks, blank) = channel();
        let (options, tell) = (options.clone(), tell.clone());
        let writer = writer.wrapping_add(low_u32(u64_from(lane)));
        let body = move || {
            let result = generate(&options, lane, writer, clock, &tell, &started, &blank);
            // Whoever runs this may have given up.
            let _ = tell.send(match result {
                Ok(recorder) => Told::Done(Box::new(recorder)),
                Err(error) => Told::Failed(error),
            });
        };
        let name = format!("load-{lane}");
        thread::Builder::new().name(name).spawn(body).map_err(|_| LoadError::Thread)?;
        lanes.push(Lane { start, blanks });
    }
    drop(tell);
    for _ in &lanes {
        match told.recv() {
            Ok(Told::Failed(error)) => return Err(error),
            Ok(_) => {}
            Err(_) => return Err(LoadError::Thread),
        }
    }
    let now = clock.now();
    let start = now.monotonic.after_ns(START_DELAY_NS);
    let before_ns = START_DELAY_NS + options.ramp_ns + options.warm_up_ns;
    let wall = crate::base::time::Timestamp(now.wall.0 + before_ns);
    begun(Now { monotonic: now.monotonic.after_ns(before_ns), wall });
    for lane in &lanes {
        lane.start.send(start).map_err(|_| LoadError::Thread)?;
    }
    gather(options, &lanes, &told, &mut interval_over)
}

/// Takes what generators tell until all are done.
fn gather(
    options: &LoadOptions,
    lanes: &[Lane],
    told: &Receiver<Told>,
    interval_over: &mut impl FnMut(&Interval),
) -> Result<Report, LoadError> {
    let mut open: BTreeMap<u64, (Interval, usize)> = BTreeMap::new();
    let mut total = Interval::new(0);
    let (mut counts, mut send_delays_ns) = (Counts::default(), latencies());
    let mut running_count = lanes.len();
    while running_count > 0 {
        match told.recv().map_err(|_| LoadError::Thread)? {
            Told::Interval(lane, interval) => {
                total.add(&interval);
                let number = interval.number;
                let (sum, parts_count) =
                    open.entry(number).or_insert_with(|| (Interval::new(number), 0));
                sum.add(&interval);
                *parts_count += 1;
                let is_whole = *parts_count == lanes.len();
                // A generator that has ended needs none.
                let _ = lanes[lane].blanks.send(interval);
                if is_whole && let Some((sum, _)) = open.remove(&number) {
                    interval_over(&sum);
                }
            }
            Told::Done(recorder) => {
                counts.add(&recorder.counts);
                send_delays_ns
                    .add(&recorder.send_delays_ns)
                    .expect("histograms of one kind have the same bounds");
                running_count -= 1;
            }
            Told::Failed(error) => return Err(error),
            Told::Ready => {}
        }
    }
    let duration_ns = options.duration_ns;
    let is_open = options.pace != Pace::Closed;
    Ok(Report { total, counts, send_delays_ns, duration_ns, is_open })
}

/// The life of one generator, on its thread.
fn generate(
    options: &LoadOptions,
    lane: usize,
    writer: u32,
    clock: Clock,
    tell: &Sender<Told>,
    started: &Receiver<Monotonic>,
    blanks: &Receiver<Box<Interval>>,
) -> Result<Recorder, LoadError> {
    pin(options.cores[lane])?;
    let lane_count = options.cores.len();
    let clients = (lane..options.connection_count).step_by(lane_count);
    let share = float(u64_from(clients.len())) / float(u64_from(options.connection_count));
    let nodes = &options.nodes;
    let addresses = match options.leaders {
        Some(_) => clients.flat_map(|_| nodes).copied().collect(),
        None => clients.map(|client| nodes[client % nodes.len()]).collect(),
    };
    let generator_options = GeneratorOptions {
        addresses,
        leaders: options.leaders.clone(),
        dialect: options.dialect,
        depth: options.depth,
        spin: options.spin,
        workload: options.workload.clone(),
        lane: (lane, lane_count),
        verify: options.verify.then_some(writer),
    };
    let mut generator = Generator::connect(generator_options, clock)?;
    if options.preload {
        generator.preload(lane, lane_count)?;
    }
    let gone = |_| LoadError::Thread;
    tell.send(Told::Ready).map_err(gone)?;
    // Whoever runs this gives up when another generator has failed.
    let Ok(begin) = started.recv() else { return Err(LoadError::Thread) };
    let measure = begin.after_ns(options.ramp_ns + options.warm_up_ns);
    let span = Span { begin, measure, end: measure.after_ns(options.duration_ns) };
    let work = match options.pace {
        Pace::Closed => Work::Closed,
        Pace::Open { arrivals, rate } => {
            let phase = float(u64_from(lane)) / float(u64_from(lane_count));
            let seed = options.workload.seed.wrapping_add(u64_from(lane) << 32);
            let schedule = Schedule::new(arrivals, rate * share, options.ramp_ns, phase, seed);
            Work::Open(schedule)
        }
    };
    generator.run(work, span, |interval| {
        let blank = blanks.try_recv().unwrap_or_else(|_| Box::new(Interval::new(0)));
        let ended = std::mem::replace(interval, blank);
        // As above: then nobody needs it.
        let _ = tell.send(Told::Interval(lane, ended));
    })?;
    Ok(generator.recorder)
}
