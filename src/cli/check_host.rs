//! `check-host`: say what is wrong on this host for a latency-critical node, and what mends it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Verdict;
use super::engine;
use super::failure::Failure;
use crate::node::config::setting::{ALL_CORES, Setting};
use crate::node::config::value::Cores;
use crate::node::host::report::Report;
use crate::node::placement;

/// Looks only, needs no privileges, and takes a second. Exit code: 0 all is well or could be
/// better, 1 something is a problem.
#[derive(Debug, Args)]
pub(super) struct CheckHostArgs {
    /// Where the node would keep its data; need not exist.
    #[arg(
        long,
        value_name = "DIR",
        env = "P2PMAP_DATA_DIR",
        hide_env_values = true,
        default_value_os_t = data_dir_default()
    )]
    pub(super) data_dir: PathBuf,
    /// The cores that the node would run on; all: those that affinity and quota allow.
    #[arg(
        long,
        value_name = "LIST",
        env = "P2PMAP_CORES",
        hide_env_values = true,
        default_value = ALL_CORES,
        value_parser = cores
    )]
    pub(super) cores: Cores,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: CheckHostArgs) -> Result<Verdict, Failure> {
    engine::check_host(&args)
}

/// A report as an object. Names and words are an interface: they are added to, never changed.
pub(super) fn object(report: &Report) -> Map<String, Value> {
    let findings = report.findings.iter().map(|finding| {
        json!({
            "subject": finding.subject.word(),
            "check": finding.check,
            "verdict": finding.verdict.word(),
            "found": finding.found,
            "mend": finding.mend,
        })
    });
    let mut object = Map::new();
    object.insert("cores".to_owned(), json!(report.cores.numbers()));
    object.insert("seen_from".to_owned(), json!(report.place.word()));
    object.insert("has_problems".to_owned(), json!(report.has_problems()));
    object.insert("findings".to_owned(), findings.collect());
    object
}

fn data_dir_default() -> PathBuf {
    Setting::DataDir.default_text().expect("the data directory has a default").into()
}

fn cores(text: &str) -> Result<Cores, String> {
    if text == ALL_CORES {
        return Ok(placement::available());
    }
    Cores::parse(text).map_err(|reason| {
        reason.unwrap_or_else(|| format!("expected {}", Setting::Cores.allowed()))
    })
}
