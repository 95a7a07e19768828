//! `echo`: run a node's loop with nothing behind it, to hold the map's figures against.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::settings::SettingFlags;
use super::{Verdict, engine, serve};

#[derive(Debug, Args)]
pub(super) struct EchoArgs {
    #[command(flatten)]
    flags: SettingFlags<true>,
    /// A TOML file with settings; flags and environment win over it [env: P2PMAP_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: EchoArgs) -> Result<Verdict, Failure> {
    let loaded = args.flags.load(args.config)?;
    let _logging = serve::prepare(&loaded)?;
    engine::echo(&loaded.config)
}
