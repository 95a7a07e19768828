//! Where the command line meets the engine: the only file of this room that starts a loop, loads a
//! node, opens a log or looks at the host. Each function gets arguments that were checked, and
//! returns what comes of running it to its end.

use std::fmt;
use std::io::{self, BufWriter, Write as _};
use std::time::Duration;

use super::Verdict;
use super::bench::{BareEchoArgs, BenchDiskArgs};
use super::chaos::ChaosArgs;
use super::check_host::{self, CheckHostArgs};
use super::cluster::LocalArgs;
use super::drill::ClusterArgs;
use super::failure::Failure;
use super::inspect::{self, InspectError, InspectOptions};
use super::output::Output;
use crate::base::limits::SPIN_NS_DEFAULT;
use crate::base::time::Now;
use crate::bench::load::{self, LoadOptions};
use crate::bench::log_writes::{self, LogWriteOptions};
use crate::bench::recorder::Interval;
use crate::bench::report::Report;
use crate::bench::{bare_echo, disk};
use crate::chaos::fault::FaultClass;
use crate::chaos::network::Transport;
use crate::chaos::{self, Settings};
use crate::drill::results::Destination;
use crate::drill::{self, Drill};
use crate::node::banner::announce_ready;
use crate::node::config::Config;
use crate::node::config::value::Durability;
use crate::node::host::tree::Tree;
use crate::node::host::{HostFacts, Probes, Wanted};
use crate::node::local_cluster::LocalCluster;
use crate::node::placement;
use crate::runtime::executor::Idle;

/// Runs a node until it is told to stop.
pub(super) fn serve(config: &Config) -> Result<Verdict, Failure> {
    crate::node::serve::serve(config, &mut io::stdout())?;
    Ok(Verdict::Done)
}

/// Runs a cluster on this machine until it is told to stop.
pub(super) fn cluster_local(args: &LocalArgs) -> Result<Verdict, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program: {error}")))?;
    let cluster = LocalCluster {
        program,
        node_count: usize::from(args.nodes),
        folder: args.data_dir.clone(),
        first_port: args.port,
        durability: Durability::Sync,
    };
    cluster.run(&mut io::stdout()).map_err(|error| Failure::new(error.to_string()))?;
    Ok(Verdict::Done)
}

/// Runs a cluster under faults, and says what came of it.
pub(super) fn chaos(args: &ChaosArgs) -> Result<Verdict, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program: {error}")))?;
    let available = placement::available();
    let cores = available.numbers();
    let faults = match args.no_faults {
        true => Vec::new(),
        false if args.faults.is_empty() => FaultClass::ALL.to_vec(),
        false => args.faults.clone(),
    };
    let settings = Settings {
        program,
        folder: args.data_dir.clone(),
        seed: args.seed,
        node_count: args.nodes,
        seconds: args.seconds,
        client_count: args.clients,
        faults,
        cores: cores.iter().map(u16::to_string).collect(),
        other_cores: (cores.len() > 1).then(|| format!("{},{}", cores[0], cores[1])),
        transport: match args.namespaces {
            true => Transport::Namespaces,
            false => Transport::Proxies,
        },
        sequencer: args.sequencer.clone(),
        mutant: args.mutant,
        stall_ns_max: ns_of(args.stall_max),
        has_small_disks: args.small_disks,
    };
    let report = chaos::run(&settings, |line| {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush())
    });
    let report = report.map_err(|error| Failure::new(error.to_string()))?;
    print(&report)?;
    Ok(if report.violations.is_empty() { Verdict::Done } else { Verdict::Negative })
}

/// Has a cluster go through something, and says what its clients noticed.
pub(super) fn drill(
    drill: Drill,
    args: &ClusterArgs,
    results: Option<Destination>,
) -> Result<Verdict, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program: {error}")))?;
    let settings = drill::Settings {
        program,
        folder: args.data_dir.clone(),
        cores: placement::available().numbers().iter().map(u16::to_string).collect(),
        partition_count: args.partitions,
        interval: args.every,
        results,
    };
    let report = drill::run(&settings, drill, &mut |line| {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush())
    });
    let report = report.map_err(|error| Failure::new(error.to_string()))?;
    print(&report)?;
    Ok(if report.is_met() { Verdict::Done } else { Verdict::Negative })
}

/// Runs a node's loop that sends back what it receives, until it is told to stop.
pub(super) fn echo(config: &Config) -> Result<Verdict, Failure> {
    crate::node::echo::echo(config, &mut io::stdout())?;
    Ok(Verdict::Done)
}

/// Loads a node; see [`load::run`].
pub(super) fn bench_load(
    options: &LoadOptions,
    begun: impl FnOnce(Now),
    interval_over: impl FnMut(&Interval),
) -> Result<Report, Failure> {
    load::run(options, begun, interval_over).map_err(|e| Failure::new(e.to_string()))
}

/// Measures a disk and prints the figures: plain writes, then the log's.
pub(super) fn bench_disk(args: &BenchDiskArgs) -> Result<Verdict, Failure> {
    let duration_ns = ns_of(args.duration);
    load::pin(args.core).map_err(|e| Failure::new(e.to_string()))?;
    let plain = disk::run(&args.dir, args.write_size, duration_ns)
        .map_err(|e| Failure::new(format!("cannot write in {}: {e}", args.dir.display())))?;
    print(&plain)?;
    let log = log_writes::run(&LogWriteOptions {
        directory: args.dir.clone(),
        core: args.core,
        idle: if args.spin { Idle::Spin } else { Idle::Park { spin_ns: SPIN_NS_DEFAULT } },
        depth: args.depth,
        write_size_bytes: args.write_size,
        duration_ns,
        preparing: args.preparing,
    })?;
    print(&log)
}

/// Serves a plain echo until the process is ended.
pub(super) fn bench_bare_echo(args: &BareEchoArgs) -> Result<Verdict, Failure> {
    load::pin(args.core).map_err(|e| Failure::new(e.to_string()))?;
    let listening = |address| {
        // Whoever started it and doesn't listen needn't be told.
        let _ = announce_ready(&mut io::stdout(), address);
    };
    bare_echo::serve(args.listen, args.spin, listening)
        .map_err(|e| Failure::new(format!("cannot listen on {}: {e}", args.listen)))?;
    Ok(Verdict::Done)
}

/// Prints what is wrong on this host.
pub(super) fn check_host(args: &CheckHostArgs) -> Result<Verdict, Failure> {
    let data_dir = std::path::absolute(&args.data_dir)
        .map_err(|e| Failure::new(format!("--data-dir {}: {e}", args.data_dir.display())))?;
    let probes = Probes::of_this_host(&data_dir);
    let wanted = Wanted { data_dir, cores: args.cores.clone() };
    let facts = HostFacts::gather(&Tree::new("/"), &wanted, probes, Duration::from_secs(1));
    let report = facts.evaluate();
    let output = if args.json { Output::Json } else { Output::Human };
    output.print(|| report.to_string().trim_end().to_owned(), || check_host::object(&report))?;
    Ok(if report.has_problems() { Verdict::Negative } else { Verdict::Done })
}

/// Prints what a log holds.
pub(super) fn inspect(options: &InspectOptions) -> Result<Verdict, Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let inspected = inspect::run(options, &mut stdout);
    stdout.flush().map_err(|e| Failure::stdout(&e))?;
    match inspected {
        Ok(()) => Ok(Verdict::Done),
        Err(InspectError::Output(error)) => Err(Failure::stdout(&error)),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

pub(super) fn print(report: &impl fmt::Display) -> Result<Verdict, Failure> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{report}").and_then(|()| stdout.flush()).map_err(|e| Failure::stdout(&e))?;
    Ok(Verdict::Done)
}

pub(super) fn ns_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
