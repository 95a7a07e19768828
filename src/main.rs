//! The `p2pmap` binary: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    p2pmap::cli::run(std::env::args_os())
}
