//! What a node says on stdout when it starts: one item a line, then where it listens, then
//! `ready`.
//!
//! Scripts wait for these lines and read the port from them, so they are an interface: items are
//! added before `listening on`, and none is ever renamed. Everything else a node says is a log
//! line on stderr.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::config::Config;
use super::config::quantity::format_duration;
use super::config::value::{Cores, Durability, IdleMode};

/// The lines that come first.
#[derive(Clone, Debug)]
pub struct Banner<'a> {
    cores: &'a Cores,
    partition_count: u32,
    data_dir: &'a Path,
    durability: Durability,
    idle: IdleMode,
    spin_for: Duration,
    metrics: Option<SocketAddr>,
}

impl<'a> Banner<'a> {
    /// The banner of a node with this configuration. How many partitions it really has is known
    /// only once its data directory was read.
    #[must_use]
    pub fn new(config: &'a Config, partition_count: u32) -> Self {
        Self {
            cores: &config.cores,
            partition_count,
            data_dir: &config.data_dir,
            durability: config.durability,
            idle: config.idle,
            spin_for: config.spin_for,
            metrics: None,
        }
    }

    /// The same, saying where metrics are served.
    #[must_use]
    pub fn with_metrics(self, metrics: Option<SocketAddr>) -> Self {
        Self { metrics, ..self }
    }
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "p2pmap {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "cores: {}", self.cores)?;
        writeln!(f, "partitions: {}", self.partition_count)?;
        writeln!(f, "data directory: {}", self.data_dir.display())?;
        writeln!(f, "durability: {}", self.durability)?;
        match self.idle {
            IdleMode::Spin => writeln!(f, "idle: spin")?,
            IdleMode::Park => writeln!(f, "idle: park after {}", format_duration(self.spin_for))?,
        }
        match self.metrics {
            Some(address) => writeln!(f, "metrics: http://{address}/metrics"),
            None => Ok(()),
        }
    }
}

/// Says what is starting.
///
/// # Errors
/// If `out` can't be written.
pub fn announce(out: &mut impl Write, banner: &Banner<'_>) -> io::Result<()> {
    write!(out, "{banner}")?;
    out.flush()
}

/// Says that the node accepts connections at `address` and serves them.
///
/// # Errors
/// If `out` can't be written.
pub fn announce_ready(out: &mut impl Write, address: SocketAddr) -> io::Result<()> {
    writeln!(out, "listening on {address}")?;
    writeln!(out, "ready")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::source::Sources;

    #[test]
    fn banner_is_one_item_a_line_and_ends_with_ready() {
        let mut config = Config::load(&Sources::default()).unwrap().config;
        config.cores = Cores::parse("0-1").unwrap();
        let mut out = Vec::new();
        announce(&mut out, &Banner::new(&config, 64)).unwrap();
        announce_ready(&mut out, "127.0.0.1:40123".parse().unwrap()).unwrap();
        let expected = format!(
            "p2pmap {}\ncores: 0-1\npartitions: 64\ndata directory: ./p2pmap-data\n\
             durability: sync\nidle: park after 50us\nlistening on 127.0.0.1:40123\nready\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        let metrics = Some("[::1]:9".parse().unwrap());
        let banner = Banner::new(&config, 64).with_metrics(metrics).to_string();
        assert!(banner.ends_with("\nmetrics: http://[::1]:9/metrics\n"), "{banner}");
    }
}
