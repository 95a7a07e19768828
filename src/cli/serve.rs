//! `serve`: run a node, or say what it would run with.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use rustix::process::Signal;
use tracing::warn;

use super::failure::Failure;
use super::settings::SettingFlags;
use super::{Verdict, engine, tell};
use crate::base::mutant::{self, Mutant};
use crate::node::config::{Config, Loaded};
use crate::node::logging::Logging;
use crate::node::{local_cluster, placement};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    flags: SettingFlags<false>,
    /// A TOML file with settings; flags and environment win over it [env: P2PMAP_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration as TOML, with where each value came from, and exit.
    #[arg(long)]
    print_config: bool,
    /// End when this process ends, whose child the node is.
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
    /// Be killed then, rather than end in good order: a process that is stopped can't do that.
    #[arg(long, requires = "parent", hide = true)]
    killed_with_parent: bool,
    /// With this planted bug. Needs a program that was built with `--features mutants`.
    #[arg(long, value_name = "NAME", hide = true, value_parser = planted)]
    mutant: Option<Mutant>,
}

/// A planted bug that can be switched on.
pub(super) fn planted(name: &str) -> Result<Mutant, String> {
    match mutant::ARE_HERE {
        true => name.parse().map_err(|error: mutant::UnknownMutant| error.to_string()),
        false => Err("this program was built without the feature `mutants`".to_owned()),
    }
}

pub(super) fn run(args: ServeArgs) -> Result<Verdict, Failure> {
    let loaded = args.flags.load(args.config)?;
    if args.print_config {
        return print_config(&loaded);
    }
    if let Some(parent) = args.parent {
        let signal = if args.killed_with_parent { Signal::KILL } else { Signal::TERM };
        local_cluster::end_with_parent(parent, signal).map_err(|e| Failure::new(e.to_string()))?;
    }
    if let Some(mutant) = args.mutant {
        mutant::switch_everywhere(mutant);
    }
    let _logging = prepare(&loaded)?;
    engine::serve(&loaded.config)
}

/// What every long-running command does before its loop: logs and cores.
pub(super) fn prepare(loaded: &Loaded) -> Result<Logging, Failure> {
    let Config { cores, log_format, log_level, .. } = &loaded.config;
    let logging =
        Logging::start(*log_format, *log_level).map_err(|e| Failure::new(e.to_string()))?;
    for warning in loaded.typed.warnings().iter().chain(&loaded.config.warnings()) {
        warn!("{warning}");
    }
    placement::check(cores).map_err(|e| Failure::new(e.to_string()))?;
    Ok(logging)
}

fn print_config(loaded: &Loaded) -> Result<Verdict, Failure> {
    for warning in loaded.typed.warnings() {
        tell(warning);
    }
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(loaded.typed.to_toml().as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|e| Failure::stdout(&e))?;
    Ok(Verdict::Done)
}
