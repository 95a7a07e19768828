//! Bounds of the network stack that are tighter than ours.

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::base::limits::LISTEN_BACKLOG_COUNT;

const BACKLOG: Check = Check::new(Subject::Network, "backlog");

const SOMAXCONN_FILE: &str = "/proc/sys/net/core/somaxconn";

/// What there is to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    somaxconn: Option<u64>,
}

impl Network {
    pub(super) fn gather(tree: &Tree) -> Self {
        Self { somaxconn: tree.number(SOMAXCONN_FILE) }
    }

    /// The kernel cuts what a listener asks for to this.
    pub(super) fn check(self) -> Vec<Finding> {
        let wanted = u64::from(LISTEN_BACKLOG_COUNT);
        let finding = match self.somaxconn {
            None => BACKLOG.not_visible(SOMAXCONN_FILE),
            Some(count) if count < wanted => BACKLOG.advice(
                format!(
                    "net.core.somaxconn is {count}: of clients that all connect at once, those \
                     beyond it wait a second and more"
                ),
                format!("sudo sysctl -w net.core.somaxconn={wanted}"),
            ),
            Some(count) => BACKLOG.ok(format!("net.core.somaxconn is {count}")),
        };
        vec![finding]
    }
}
