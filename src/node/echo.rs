//! A node that sends back what it receives: the runtime's own limit, without a map behind it.

use std::io::Write;

use super::banner::announce_ready;
use super::config::Config;
use super::serve::{idle, stdout_failed};
use crate::runtime::echo::EchoService;
use crate::runtime::fatal::{Fatal, exit_on_panic};
use crate::runtime::node_runtime::{Options, Runtime};

/// Runs an echo until a signal stops it.
///
/// # Errors
/// Why it can't start, or had to stop.
pub fn echo(config: &Config, out: &mut impl Write) -> Result<(), Fatal> {
    exit_on_panic();
    let options = Options {
        listen: config.listen,
        cores: config.cores.numbers().iter().copied().map(usize::from).collect(),
        idle: idle(config),
        segments: Vec::new(),
    };
    let mut runtime = Runtime::start(options, |_| Ok(EchoService))?;
    runtime.stop_on_signals()?;
    if runtime.wait_until_ready()? {
        announce_ready(out, runtime.address()).map_err(stdout_failed)?;
    }
    runtime.wait()
}
