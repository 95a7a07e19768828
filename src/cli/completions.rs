//! `completions`: print what makes a shell complete our commands and flags.

use std::io::{self, Write as _};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, Verdict};

/// For bash: `p2pmap completions bash > ~/.local/share/bash-completion/completions/p2pmap`.
/// For zsh: into a file `_p2pmap` in a folder of `$fpath`. For fish: into
/// `~/.config/fish/completions/p2pmap.fish`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: CompletionsArgs) -> Result<Verdict, Failure> {
    // Into memory first: the generator panics where a pipe's reader is gone.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "p2pmap", &mut script);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&script).and_then(|()| stdout.flush()).map_err(|e| Failure::stdout(&e))?;
    Ok(Verdict::Done)
}
