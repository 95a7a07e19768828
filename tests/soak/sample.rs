//! What is seen of a node while it runs: from outside (disk, memory, waiting for a core) and from
//! its metrics, where it has them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::load::Worker;
use crate::machine::Pauses;

/// How often the latencies so far are put down to what the node was doing.
const WINDOW: Duration = Duration::from_millis(200);
/// How long it may be until the end of a checkpoint shows that one was under way.
const CHECKPOINT_WINDOWS_MAX: usize = 100;
/// Windows between two samples of disk and memory.
const WINDOWS_PER_SAMPLE: u64 = 5;
/// All values of a metric, over its labels, together.
type Metrics = BTreeMap<String, f64>;

/// Where workers put the latencies of the window that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Mutex<Histogram<u64>>>);

impl Recorder {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(latencies())))
    }

    pub(crate) fn record(&self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(ns);
    }

    fn take(&self) -> Histogram<u64> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, latencies())
    }
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 2).expect("the bounds are in order")
}

/// One look at the node.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) disk_size_bytes: u64,
    pub(crate) resident_size_bytes: u64,
    pub(crate) metrics: Metrics,
}

/// What a run showed.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    /// Latencies of windows in which a checkpoint was under way, and of the others.
    pub(crate) with_checkpoint: Histogram<u64>,
    pub(crate) without_checkpoint: Histogram<u64>,
    /// For how long the node's loops were ready to run and had no core.
    pub(crate) waited: Duration,
    /// For how long the host had taken the cores away.
    pub(crate) stolen: Duration,
    /// For how long the node's loops ran.
    pub(crate) ran: Duration,
    /// What the machine did to a loop that does nothing, before and after.
    pub(crate) machine: Pauses,
    pub(crate) acknowledged_count: u64,
    pub(crate) operation_count: u64,
    pub(crate) refused_count: u64,
}

pub(crate) struct Sampler {
    pid: u32,
    data_dir: PathBuf,
    metrics: SocketAddr,
    recorder: Recorder,
    begin: Instant,
    before: Metrics,
    /// The latest windows, and whether a checkpoint was under way in them.
    windows: VecDeque<(Histogram<u64>, bool)>,
    ran_before: Duration,
    waited_before: Duration,
    stolen_before: Duration,
    report: Report,
}

impl Sampler {
    pub(crate) fn new(pid: u32, data_dir: &Path, metrics: SocketAddr) -> Self {
        let report = Report {
            samples: Vec::new(),
            with_checkpoint: latencies(),
            without_checkpoint: latencies(),
            waited: Duration::ZERO,
            stolen: Duration::ZERO,
            ran: Duration::ZERO,
            machine: Pauses::default(),
            acknowledged_count: 0,
            operation_count: 0,
            refused_count: 0,
        };
        Self {
            pid,
            data_dir: data_dir.to_owned(),
            metrics,
            recorder: Recorder::new(),
            begin: Instant::now(),
            before: scrape(metrics),
            windows: VecDeque::new(),
            ran_before: ran(pid),
            waited_before: waited(pid),
            stolen_before: stolen(),
            report,
        }
    }

    pub(crate) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Samples until then.
    pub(crate) fn sample_until(&mut self, end: Instant) {
        let mut window_count = 0;
        while Instant::now() < end {
            std::thread::sleep(WINDOW);
            let now = scrape(self.metrics);
            self.put_down(&now);
            if u64::is_multiple_of(window_count, WINDOWS_PER_SAMPLE) {
                let sample = Sample {
                    at: self.begin.elapsed(),
                    disk_size_bytes: disk_size_bytes(&self.data_dir),
                    resident_size_bytes: resident_size_bytes(self.pid),
                    metrics: now.clone(),
                };
                if self.report.samples.len().is_multiple_of(60) {
                    println!("{sample}");
                }
                self.report.samples.push(sample);
            }
            self.before = now;
            window_count += 1;
        }
    }

    /// Ends a window. A checkpoint is known of when it has ended, and then how long it took.
    fn put_down(&mut self, now: &Metrics) {
        self.windows.push_back((self.recorder.take(), false));
        if value(now, "p2pmap_checkpoints_total") > value(&self.before, "p2pmap_checkpoints_total")
        {
            let took = value(now, "p2pmap_checkpoint_last_duration_seconds");
            // The last of each core together: rather too many windows than too few.
            let mut reached = Duration::ZERO;
            for (_, with_checkpoint) in self.windows.iter_mut().rev() {
                *with_checkpoint = true;
                reached += WINDOW;
                // One window more: it may have ended early in this one.
                if (reached - WINDOW).as_secs_f64() > took {
                    break;
                }
            }
        }
        if self.windows.len() > CHECKPOINT_WINDOWS_MAX {
            self.settle_oldest();
        }
    }

    fn settle_oldest(&mut self) {
        let Some((latencies, with_checkpoint)) = self.windows.pop_front() else { return };
        let class = if with_checkpoint {
            &mut self.report.with_checkpoint
        } else {
            &mut self.report.without_checkpoint
        };
        class.add(latencies).expect("their bounds are the same");
    }

    pub(crate) fn finish(mut self, workers: &[Worker]) -> Report {
        while !self.windows.is_empty() {
            self.settle_oldest();
        }
        self.report.ran = ran(self.pid).saturating_sub(self.ran_before);
        self.report.waited = waited(self.pid).saturating_sub(self.waited_before);
        self.report.stolen = stolen().saturating_sub(self.stolen_before);
        self.report.acknowledged_count = workers.iter().map(|w| w.acknowledged_count).sum();
        self.report.operation_count = workers.iter().map(|w| w.operation_count).sum();
        self.report.refused_count = workers.iter().map(|w| w.refused_count).sum();
        self.report
    }
}

fn value(metrics: &Metrics, name: &str) -> f64 {
    metrics.get(name).copied().unwrap_or_default()
}

/// `GET /metrics`. What doesn't answer in time counts as nothing seen.
fn scrape(address: SocketAddr) -> Metrics {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    parse(&fetch().unwrap_or_default())
}

/// The text format: `name{labels} value`, comments begin with `#`.
fn parse(answer: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in answer.lines().filter(|line| line.starts_with("p2pmap_")) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or(name);
        if let Ok(value) = value.parse::<f64>() {
            *metrics.entry(name.to_owned()).or_default() += value;
        }
    }
    metrics
}

/// What the files take of the device. A file may go while it is looked at.
fn disk_size_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_size_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

fn resident_size_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1_024
}

/// For how long the loops' threads ran.
fn ran(pid: u32) -> Duration {
    loops_time(pid, 0)
}

/// For how long the loops' threads were ready to run and didn't.
fn waited(pid: u32) -> Duration {
    loops_time(pid, 1)
}

/// A number of all loops' `schedstat`, summed.
fn loops_time(pid: u32, number: usize) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let time_ns = |thread: fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let is_loop = name.starts_with("core-");
        is_loop.then(|| times.split(' ').nth(number)?.parse::<u64>().ok()).flatten()
    };
    Duration::from_nanos(threads.filter_map(Result::ok).filter_map(time_ns).sum())
}

/// The time that the host took from all cores; the kernel counts it in hundredths of a second.
fn stolen() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    Duration::from_millis(10 * ticks.unwrap_or(0_u64))
}

fn mib(size_bytes: u64) -> f64 {
    size_bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = |name: &str| match self.metrics.get(name) {
            Some(value) => format!("{value:.0}"),
            None => "-".to_owned(),
        };
        write!(
            f,
            "{:>5} s  disk {:>8.1} MiB  resident {:>7.1} MiB  log used {}  checkpoints {}  \
             long turns {}, off core {}",
            self.at.as_secs(),
            mib(self.disk_size_bytes),
            mib(self.resident_size_bytes),
            metric("p2pmap_log_used_bytes"),
            metric("p2pmap_checkpoints_total"),
            metric("p2pmap_stalls_total"),
            metric("p2pmap_stalls_off_core_total"),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(last) = self.samples.last() {
            writeln!(f, "{last}")?;
        }
        let disk = self.samples.iter().map(|sample| sample.disk_size_bytes).max();
        writeln!(f, "disk at most       {:.1} MiB", mib(disk.unwrap_or_default()))?;
        writeln!(
            f,
            "operations         {}, {} writes acknowledged, {} refused",
            self.operation_count, self.acknowledged_count, self.refused_count
        )?;
        for (name, latencies) in
            [("with checkpoint", &self.with_checkpoint), ("without", &self.without_checkpoint)]
        {
            let us = |percent| latencies.value_at_percentile(percent) / 1_000;
            writeln!(
                f,
                "{name:<18} {} answers, p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
                latencies.len(),
                us(50.0),
                us(99.0),
                us(99.9),
                latencies.max() / 1_000
            )?;
        }
        write!(f, "without a core     waited {:?}, stolen {:?}", self.waited, self.stolen)?;
        // Whatever else the node says about its memory, from a third of the run on.
        let (Some(warm), Some(last)) = (self.warm().first(), self.samples.last()) else {
            return Ok(());
        };
        for (name, before) in &warm.metrics {
            let Some(after) = last.metrics.get(name) else { continue };
            if name.ends_with("_bytes") {
                write!(f, "\n{name:<40} {before:>14.0} when warm, {after:>14.0} at the end")?;
            }
        }
        Ok(())
    }
}

impl Report {
    /// The samples after the warm-up: the first third of the run.
    pub(crate) fn warm(&self) -> &[Sample] {
        &self.samples[self.samples.len() / 3..]
    }
}

#[test]
fn metrics_are_summed_over_their_labels() {
    let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE p2pmap_a_total counter\n\
                p2pmap_a_total{core=\"0\"} 2\np2pmap_a_total{core=\"1\"} 3\n\
                p2pmap_b NaNs\nother 1\n";
    assert_eq!(parse(text), Metrics::from([("p2pmap_a_total".to_owned(), 5.0)]));
}
