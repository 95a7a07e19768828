//! Who leads: partitions are handed over to a member, one view change each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::ClientError;
use super::members::Members;
use super::nodes::Deadline;
use crate::base::ids::PartitionId;
use crate::proto::p2pmap::v1::PartitionStatus;
use crate::proto::p2pmap::v1::error::Code;

/// Which partitions a member is to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One.
    Partition(PartitionId),
    /// All.
    All,
}

/// Why a member doesn't lead what it is to lead.
#[derive(Debug)]
pub enum TransferError {
    /// Nobody has that name.
    NoMember {
        /// Who there is.
        members: Vec<String>,
    },
    /// There is no such partition.
    NoPartition {
        /// How many there are.
        count: usize,
    },
    /// The member can't be asked.
    Unreached(ClientError),
    /// It will never lead it: it doesn't hold it.
    Refused {
        /// Which partition.
        partition: u32,
        /// What its leader says.
        error: ClientError,
    },
    /// Time was up.
    TimedOut {
        /// The partitions that others lead, each with the reason.
        pending: BTreeMap<u32, String>,
    },
}

/// Lets a member lead partitions, and waits until it does. Returns how many it didn't lead before.
///
/// # Errors
/// If it doesn't lead all of them in time. Those that it leads by then it keeps.
pub fn transfer(
    members: &mut Members,
    wanted: Wanted,
    to: &str,
    patience: Duration,
) -> Result<usize, TransferError> {
    let mut deadline = Deadline::after(patience);
    let mut moved_count = None;
    loop {
        let Some(status) = members.ask(to, |client| client.status(true)) else {
            return Err(TransferError::NoMember { members: members.names() });
        };
        let partitions = status.map_err(TransferError::Unreached)?.partitions;
        let count = partitions.len();
        let is_wanted = |found: &PartitionStatus| match wanted {
            Wanted::All => true,
            Wanted::Partition(partition) => found.partition == partition.0,
        };
        let found: Vec<_> = partitions.into_iter().filter(is_wanted).collect();
        if found.is_empty() {
            return Err(TransferError::NoPartition { count });
        }
        let mut pending = BTreeMap::new();
        for partition in found.iter().filter(|found| found.leader != to) {
            let reason = ask_leader(members, partition, to)?;
            pending.insert(partition.partition, reason);
        }
        let moved_count = *moved_count.get_or_insert(pending.len());
        if pending.is_empty() {
            return Ok(moved_count);
        }
        if !deadline.pause() {
            return Err(TransferError::TimedOut { pending });
        }
    }
}

/// Asks who leads a partition, as the member that is to lead it says, to hand it over. Returns what
/// is to be said if nothing comes of it.
fn ask_leader(
    members: &mut Members,
    partition: &PartitionStatus,
    to: &str,
) -> Result<String, TransferError> {
    let PartitionStatus { partition: number, leader, last, .. } = partition;
    if leader.is_empty() {
        return Ok("it is between two views".to_owned());
    }
    let place = PartitionId(*number);
    let begun = members.ask(leader, |client| client.transfer_leadership(place, to));
    Ok(match begun {
        None => format!("{leader} leads it, whom nobody knows"),
        Some(Ok(_)) => format!("{leader} leads it, and {to}, at index {last}, hasn't taken over"),
        Some(Err(error)) if error.code() == Some(Code::InvalidArgument) => {
            return Err(TransferError::Refused { partition: *number, error });
        }
        Some(Err(error)) => format!("{leader}: {error}"),
    })
}

impl std::fmt::Display for TransferError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoMember { members } => {
                write!(f, "no member has that name; there are {}", members.join(", "))
            }
            Self::NoPartition { count } => {
                write!(f, "there is no such partition; there are {count}, from 0")
            }
            Self::Unreached(error) => write!(f, "who is to lead doesn't answer: {error}"),
            Self::Refused { partition, error } => write!(f, "partition {partition}: {error}"),
            Self::TimedOut { pending } => {
                let Some((partition, reason)) = pending.first_key_value() else { return Ok(()) };
                let count = pending.len();
                write!(f, "{count} not handed over in time; partition {partition}: {reason}")
            }
        }
    }
}

impl std::error::Error for TransferError {}
