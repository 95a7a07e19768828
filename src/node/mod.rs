//! A node: its settings, its logs, and what it says about itself when it starts.
//!
//! A node is one process with one data directory and one listening port. The rooms below know
//! nothing of flags, files or environment variables: they get values that [`config`] has checked.

pub mod banner;
pub mod config;
pub mod data_dir;
pub mod echo;
pub mod host;
pub mod local_cluster;
pub mod logging;
pub mod memory;
pub mod metrics_endpoint;
pub mod metrics_page;
pub mod placement;
pub mod serve;
