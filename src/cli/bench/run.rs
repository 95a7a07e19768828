//! `bench run`: load a node, print what came of it, keep it.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use super::super::failure::Failure;
use super::super::{Verdict, engine};
use super::servers::ServerArgs;
use super::{count, duration};
use crate::base::cast::{u64_from, usize_from};
use crate::base::limits::{
    CONNECTION_COUNT_MAX, ENTRY_STREAM_COUNT_MAX, KEY_SIZE_BYTES_MAX, REQUESTS_PER_CONNECTION_MAX,
    VALUE_SIZE_BYTES_MAX,
};
use crate::base::time::{NS_PER_US, Timestamp};
use crate::bench::content::CONTENT_SIZE_BYTES_MIN;
use crate::bench::dialect::{Dialect, etcd};
use crate::bench::encode::digit_count;
use crate::bench::keys::KeyChoice;
use crate::bench::load::{LoadOptions, Pace};
use crate::bench::mix::{Mix, Ycsb};
use crate::bench::recorder::Interval;
use crate::bench::report::Report;
use crate::bench::results::{IntervalLog, ResultFolder, utc, write_environment};
use crate::bench::schedule::{Arrivals, float};
use crate::bench::slo::{Search, Slo};
use crate::bench::summary::{About, Server, Summary};
use crate::bench::surroundings::{Environment, Steal};
use crate::bench::workload::Workload;
use crate::node::config::quantity::{format_size, parse_duration, parse_size};

/// Different keys of a load: what is known of each takes 16 bytes of memory.
const KEY_COUNT_MAX: usize = 100_000_000;
/// Requests in flight on a connection at a fixed rate, unless told otherwise.
const DEPTH_OPEN_DEFAULT: usize = 64;
/// Requests a second that can be asked for.
const RATE_MAX: u64 = 100_000_000;
/// Where a search for the highest rate begins.
const FIRST_RATE: f64 = 1_000.0;
/// The skew of the Yahoo! Cloud Serving Benchmark.
const THETA_DEFAULT: f64 = 0.99;

/// `--node` takes several nodes, with commas between them. Exit codes: 0 done; 1 an answer was
/// wrong or stale; 2 the run failed.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("pace").required(true).args(["rate", "closed_loop", "find_max"])))]
pub(in crate::cli) struct BenchRunArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Requests a second: latencies count from when each was meant to be sent.
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u64).range(1..=RATE_MAX))]
    rate: Option<u64>,
    /// Send the next request when an answer comes: for a maximum throughput only.
    #[arg(long)]
    closed_loop: bool,
    /// Search the highest rate that keeps a promise, as in `p99<1ms`: with a run of --duration at
    /// each rate that is tried.
    #[arg(long, value_name = "PERCENTILE<DURATION", value_parser = slo, conflicts_with = "out")]
    find_max: Option<Slo>,
    /// How requests follow each other at a fixed rate.
    #[arg(long, value_enum, default_value_t = ArrivalsArg::Constant)]
    arrivals: ArrivalsArg,
    /// Clients, each with a connection (with `--to-leaders` one to each node).
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = count::<CONNECTION_COUNT_MAX>
    )]
    connections: usize,
    /// Requests under way of each client, at most [default: 1 in a closed loop, else 64; of
    /// YCSB E 64 of all connections together].
    #[arg(long, value_name = "COUNT", value_parser = count::<REQUESTS_PER_CONNECTION_MAX>)]
    depth: Option<usize>,
    /// How long to measure.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How long to load before measuring.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    warm_up: Duration,
    /// How long to take to reach the rate, before the warm-up.
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "rate")]
    ramp: Option<Duration>,
    /// Puts among a hundred requests; the rest are gets.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    puts: u8,
    /// The mix and the choice of keys of a workload of the Yahoo! Cloud Serving Benchmark.
    #[arg(long, value_enum, ignore_case = true, conflicts_with_all = ["puts", "distribution"])]
    ycsb: Option<YcsbArg>,
    /// Which keys: `uniform`, `zipfian`, `zipfian:THETA`, `sequential`, `latest`, `latest:THETA`.
    #[arg(long, value_name = "CHOICE", default_value = "uniform", value_parser = distribution)]
    distribution: KeyChoice,
    /// Different keys.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 10_000,
        value_parser = count::<KEY_COUNT_MAX>
    )]
    keys: usize,
    /// The number of the first key, so that runs have keys of their own.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..1_000_000)
    )]
    first_key: u64,
    /// Length of a key, or a range of them as in `16B..32B`: at least 8 bytes.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "16B",
        value_parser = sizes::<8, KEY_SIZE_BYTES_MAX>
    )]
    key_size: Sizes,
    /// Length of a value, or a range of them.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64B",
        value_parser = sizes::<0, VALUE_SIZE_BYTES_MAX>
    )]
    value_size: Sizes,
    /// The map.
    #[arg(long, value_name = "MAP", default_value = "bench")]
    map: String,
    /// Of the choice of keys and operations: the same seed asks the same.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Put every key before measuring, so that gets find them.
    #[arg(long)]
    preload: bool,
    /// Don't check that answers are right and not stale.
    #[arg(long)]
    no_verify: bool,
    /// The cores that load, with a thread each; not the node's.
    #[arg(
        long,
        alias = "core",
        value_name = "NUMBERS",
        default_value = "1",
        value_delimiter = ','
    )]
    cores: Vec<usize>,
    /// Wait by spinning rather than sleeping.
    #[arg(long)]
    spin: bool,
    /// Where to keep the results: in a folder below it that is named by the scenario.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What the results are called.
    #[arg(long, value_name = "NAME", default_value = "run", value_parser = scenario)]
    scenario: String,
    /// The number of this round of several; each has a folder of its own.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    round: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArrivalsArg {
    /// Evenly.
    Constant,
    /// As those of many independent clients.
    Poisson,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum YcsbArg {
    /// Half reads, half updates, zipfian.
    A,
    /// 95 % reads, 5 % updates, zipfian.
    B,
    /// Reads, zipfian.
    C,
    /// 95 % reads of the latest, 5 % inserts.
    D,
    /// 95 % scans, 5 % inserts, zipfian; a core answers 64 scans at once and refuses more.
    E,
    /// Half reads, half reads followed by a write, zipfian.
    F,
}

/// A length, or a range of them.
#[derive(Clone, Debug)]
struct Sizes(RangeInclusive<usize>);

pub(super) fn run(args: &BenchRunArgs) -> Result<Verdict, Failure> {
    let options = args.load_options()?;
    if let Some(slo) = &args.find_max {
        return find_max(args, options, slo);
    }
    let is_watched = io::stderr().is_terminal();
    let mut keeper = args.out.as_deref().map(|out| Keeper::prepare(args, out)).transpose()?;
    let steal = Steal::now();
    let (begin, began) = channel();
    let mut log = None;
    let report = engine::bench_load(
        &options,
        |now| {
            // Its receiver lives until the run is over.
            let _ = begin.send(now);
        },
        |interval| {
            if let (Some(keeper), Ok(now)) = (&mut keeper, began.try_recv()) {
                log = Some(keeper.begin(now.wall));
            }
            if let Some(Ok(log)) = &mut log {
                log.add(interval);
            }
            if is_watched {
                // Nobody is left to watch if it can't be written.
                let _ = writeln!(io::stderr(), "{}", Progress(interval));
            }
        },
    )?;
    engine::print(&report)?;
    if let (Some(keeper), Some(log)) = (keeper, log) {
        let steal_percent = Steal::now().percent_since(&steal);
        keeper.finish(args, &options, log, &report, steal_percent)?;
    }
    Ok(if report.is_right() { Verdict::Done } else { Verdict::Negative })
}

/// Runs at rate after rate, and says at which the promise was kept.
fn find_max(args: &BenchRunArgs, mut options: LoadOptions, slo: &Slo) -> Result<Verdict, Failure> {
    let mut search = Search::from(FIRST_RATE);
    let mut best = None;
    while let Some(rate) = search.next_rate() {
        options.pace = Pace::Open { arrivals: args.arrivals.into(), rate };
        let report = engine::bench_load(&options, |_| {}, |_| {})?;
        let is_kept = slo.is_kept(&report, rate);
        search.tried(rate, is_kept);
        engine::print(&Tried { rate, slo, report: &report, is_kept })?;
        if !report.is_right() {
            engine::print(&report)?;
            return Ok(Verdict::Negative);
        }
        if is_kept {
            best = Some(report);
        }
        // Once is enough.
        options.preload = false;
    }
    match (search.held(), best) {
        (Some(rate), Some(report)) => {
            engine::print(&format!("highest rate  {rate:.0}/s with {slo}\n{report}"))?;
            Ok(Verdict::Done)
        }
        _ => Err(Failure::new(format!("no rate was found that keeps {slo}"))),
    }
}

/// A step of the search.
struct Tried<'a> {
    rate: f64,
    slo: &'a Slo,
    report: &'a Report,
    is_kept: bool,
}

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, slo, report, is_kept } = self;
        let ns = report.total.all_ns().value_at_quantile(slo.share);
        let verdict = if *is_kept { "kept" } else { "broken" };
        writeln!(
            f,
            "{rate:>9.0}/s asked {:>9}/s answered  {} {:>9.1} µs  errors {}  {verdict}",
            report.answers_per_second(),
            slo.percentile,
            float(ns) / float(NS_PER_US),
            report.counts.errors()
        )
    }
}

/// Keeps the results of a run.
struct Keeper {
    folder: ResultFolder,
    server: Option<Server>,
    started: Timestamp,
}

impl Keeper {
    /// Looks at the machine and the node, and makes the folder: before the load, so that a run
    /// isn't in vain.
    fn prepare(args: &BenchRunArgs, out: &Path) -> Result<Self, Failure> {
        // What isn't a node of ours doesn't answer this; an echo sends it back.
        let status = if args.servers.is_ours() { args.servers.status(false).ok() } else { None };
        let server = status.as_ref().map(Server::of);
        let data_dir = status.map(|status| PathBuf::from(status.data_directory));
        let build = server.as_ref().map(|server| server.build.clone());
        let environment = Environment::of_this_machine(build, data_dir.as_deref());
        let kept = write_environment(out, &environment)
            .and_then(|()| ResultFolder::create(out, &args.scenario, args.round));
        let folder = kept.map_err(|e| cannot_keep(out, &e))?;
        Ok(Self { folder, server, started: Timestamp::default() })
    }

    fn begin(&mut self, started: Timestamp) -> io::Result<IntervalLog> {
        self.started = started;
        self.folder.interval_log(started)
    }

    fn finish(
        self,
        args: &BenchRunArgs,
        options: &LoadOptions,
        log: io::Result<IntervalLog>,
        report: &Report,
        steal_percent: f64,
    ) -> Result<(), Failure> {
        let about = About {
            scenario: args.scenario.clone(),
            round: args.round,
            started: utc(self.started),
            settings: options.settings(),
            server: self.server,
            verified: options.verify,
            steal_percent,
        };
        let summary = Summary::of(report, about);
        let written = log
            .and_then(IntervalLog::finish)
            .and_then(|()| self.folder.write(&report.total.all_ns(), &summary));
        written.map_err(|e| cannot_keep(args.out.as_deref().unwrap_or(Path::new(".")), &e))
    }
}

fn cannot_keep(out: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot keep results in {}: {error}", out.display()))
}

/// A line for each second.
struct Progress<'a>(&'a Interval);

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.all_ns();
        let us = |share| float(all.value_at_quantile(share)) / float(NS_PER_US);
        write!(
            f,
            "{:>4}s {:>9}/s  p50 {:>9.1} µs  p99 {:>9.1} µs  errors {}",
            self.0.number + 1,
            all.len(),
            us(0.5),
            us(0.99),
            self.0.refusals_ns.len()
        )
    }
}

impl BenchRunArgs {
    fn load_options(&self) -> Result<LoadOptions, Failure> {
        let (key_sizes, value_sizes) = (&self.key_size.0, &self.value_size.0);
        let verify = !self.no_verify;
        if verify && *value_sizes.start() < CONTENT_SIZE_BYTES_MIN {
            return Err(Failure::new(format!(
                "--value-size: values of less than {CONTENT_SIZE_BYTES_MIN}B can't be checked; \
                 use longer ones, or --no-verify"
            )));
        }
        let dialect = self.servers.dialect()?;
        self.check_dialect(dialect)?;
        // Inserted keys have numbers above these; ten digits more than enough of them.
        let digits = digit_count(self.first_key + u64_from(self.keys) * 10);
        if *key_sizes.start() < digits {
            let line = format!("--key-size: that many keys need {digits}B each at least");
            return Err(Failure::new(line));
        }
        let rate = self.rate.map(float).or(self.find_max.as_ref().map(|_| FIRST_RATE));
        let pace = match rate {
            Some(rate) => Pace::Open { arrivals: self.arrivals.into(), rate },
            None => Pace::Closed,
        };
        let depth_default = match (pace, self.ycsb) {
            (Pace::Closed, _) => 1,
            // A core refuses more streamed answers at once.
            (_, Some(YcsbArg::E)) => (ENTRY_STREAM_COUNT_MAX / self.connections).max(1),
            _ => DEPTH_OPEN_DEFAULT,
        };
        let (mix, key_choice) = match self.ycsb {
            Some(ycsb) => Ycsb::from(ycsb).parts(),
            None => (Mix::of_puts(self.puts), self.distribution),
        };
        let nodes = self.servers.nodes()?;
        Ok(LoadOptions {
            leaders: self.servers.leaders(&nodes)?,
            nodes,
            dialect,
            cores: self.cores.clone(),
            spin: self.spin,
            connection_count: self.connections,
            depth: self.depth.unwrap_or(depth_default),
            pace,
            ramp_ns: self.ramp.map_or(0, engine::ns_of),
            warm_up_ns: engine::ns_of(self.warm_up),
            duration_ns: engine::ns_of(self.duration),
            workload: Workload {
                map: self.map.clone(),
                key_first: self.first_key,
                key_count: u64_from(self.keys),
                key_choice,
                key_size_bytes: key_sizes.clone(),
                value_size_bytes: value_sizes.clone(),
                mix,
                seed: self.seed,
            },
            preload: self.preload,
            verify,
        })
    }

    /// Refuses what can't be said.
    fn check_dialect(&self, dialect: Dialect) -> Result<(), Failure> {
        if !self.servers.is_ours() && matches!(self.ycsb, Some(YcsbArg::E)) {
            return Err(Failure::new("--ycsb e: only a node is asked for ranges of keys"));
        }
        if dialect == Dialect::Etcd && *self.value_size.0.end() > etcd::VALUE_SIZE_BYTES_MAX {
            let max = format_size(u64_from(etcd::VALUE_SIZE_BYTES_MAX));
            return Err(Failure::new(format!("--value-size: at most {max} for etcd")));
        }
        Ok(())
    }
}

impl From<ArrivalsArg> for Arrivals {
    fn from(arrivals: ArrivalsArg) -> Self {
        match arrivals {
            ArrivalsArg::Constant => Self::Constant,
            ArrivalsArg::Poisson => Self::Poisson,
        }
    }
}

impl From<YcsbArg> for Ycsb {
    fn from(ycsb: YcsbArg) -> Self {
        match ycsb {
            YcsbArg::A => Self::A,
            YcsbArg::B => Self::B,
            YcsbArg::C => Self::C,
            YcsbArg::D => Self::D,
            YcsbArg::E => Self::E,
            YcsbArg::F => Self::F,
        }
    }
}

fn slo(text: &str) -> Result<Slo, String> {
    let ns = |text: &str| parse_duration(text).map(engine::ns_of);
    Slo::parse(text, ns).ok_or_else(|| {
        "expected a percentile and a duration, as in p99<1ms; there are p50, p90, p99, p99.9 and \
         p99.99"
            .to_owned()
    })
}

fn distribution(text: &str) -> Result<KeyChoice, String> {
    let (name, theta) = match text.split_once(':') {
        Some((name, theta)) => (name, Some(theta)),
        None => (text, None),
    };
    let theta = match theta {
        Some(theta) => theta.parse().ok().filter(|theta| *theta > 0.0 && *theta < 1.0),
        None => Some(THETA_DEFAULT),
    };
    match (name, theta) {
        ("uniform", Some(_)) if name == text => Ok(KeyChoice::Uniform),
        ("sequential", Some(_)) if name == text => Ok(KeyChoice::Sequential),
        ("zipfian", Some(theta)) => Ok(KeyChoice::Zipfian { theta }),
        ("latest", Some(theta)) => Ok(KeyChoice::Latest { theta }),
        _ => Err("expected uniform, sequential, zipfian[:THETA] or latest[:THETA], THETA above 0 \
                  and below 1"
            .to_owned()),
    }
}

fn sizes<const MIN: usize, const MAX: usize>(text: &str) -> Result<Sizes, String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let size = |text| {
        let size = parse_size(text).map(usize_from);
        size.filter(|size| (MIN..=MAX).contains(size))
    };
    match (size(first), size(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Sizes(first..=last)),
        _ => {
            let (min, max) = (format_size(u64_from(MIN)), format_size(u64_from(MAX)));
            Err(format!("expected a size from {min} to {max}, or a range as in 16B..32B"))
        }
    }
}

/// The name of a folder that works everywhere.
fn scenario(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("expected up to 64 letters, digits, - and _".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_named_with_their_skew() {
        assert_eq!(distribution("zipfian"), Ok(KeyChoice::Zipfian { theta: 0.99 }));
        assert_eq!(distribution("latest:0.5"), Ok(KeyChoice::Latest { theta: 0.5 }));
        assert_eq!(distribution("sequential"), Ok(KeyChoice::Sequential));
        for wrong in
            ["", "zipf", "uniform:0.5", "zipfian:1", "zipfian:0", "latest:x", "zipfian:NaN"]
        {
            assert!(distribution(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_one_or_a_range_within_bounds() {
        let read = |text| sizes::<8, 100>(text).map(|sizes| sizes.0);
        assert_eq!(read("16B"), Ok(16..=16));
        assert_eq!(read("8B..100B"), Ok(8..=100));
        for wrong in ["7B", "101B", "20B..10B", "16", "16B..", "..16B", "8B..200B"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn scenarios_are_names_of_folders() {
        assert!(scenario("get-c50-p64").is_ok());
        for wrong in ["", "..", "a/b", "a b"] {
            assert!(scenario(wrong).is_err(), "{wrong:?}");
        }
    }
}
