//! What a shard leaves behind when an invariant is broken: it stops by a panic, and its host asks
//! it for this before the process exits. Nothing is done with the shard after that.

use super::{Partition, Shard};
use crate::base::cast::{u32_from, u64_from};
use crate::base::chain::Chain;
use crate::base::ids::Index;
use crate::base::limits::{HALT_SLOT_COUNT_MAX, HALT_VALUE_SIZE_BYTES_MAX};
use crate::nopaxos::Status;
use crate::storage::halt::{HaltDump, HaltedPartition, HaltedSlot, HaltedStatus};

impl Shard {
    /// Why the shard has stopped, as its panic says, and how it stood. Nothing is asserted of a
    /// shard that has found itself to be wrong.
    #[must_use]
    pub fn halt_dump(&self, reason: &str) -> HaltDump {
        HaltDump {
            shard: self.core.config.shard,
            boot_epoch: self.core.log.boot_epoch(),
            time: self.core.now.wall,
            reason: reason.to_owned(),
            partitions: self.partitions.iter().map(halted).collect(),
        }
    }
}

fn halted(Partition { member, view }: &Partition) -> HaltedPartition {
    let replica = member.replica();
    let log = replica.log();
    let Chain(chain) = log.chain();
    let positions = [
        replica.view().0,
        replica.last_normal().0,
        view.term.0,
        replica.base().0,
        replica.first().0,
        log.last().0,
        replica.durable().0,
        replica.prepared().0,
        replica.sync_point().0,
        replica.applied().0,
        member.readable().0,
    ];
    let last = log.last().0;
    let first = last.saturating_sub(u64_from(HALT_SLOT_COUNT_MAX)).max(log.floor().0) + 1;
    let slots = (first..=last).map(Index).filter_map(|index| {
        let slot = log.slot(index)?;
        let value = slot.value.as_deref().unwrap_or_default();
        let begin = &value[..value.len().min(HALT_VALUE_SIZE_BYTES_MAX)];
        Some(HaltedSlot {
            index,
            term: slot.term,
            message_id: slot.message_id,
            timestamp: slot.timestamp,
            size_bytes: u32_from(value.len()),
            begin: begin.to_vec().into(),
        })
    });
    HaltedPartition {
        partition: view.group.partition(),
        status: match replica.status() {
            Status::Normal => HaltedStatus::Normal,
            Status::ViewChange => HaltedStatus::ViewChange,
            Status::Recovering => HaltedStatus::Recovering,
        },
        is_leading: replica.is_leading(),
        positions,
        chain,
        digest: view.map.digest().0.to_le_bytes(),
        crash_vector: replica.crash_vector().iter().map(|life| life.0).collect(),
        slots: slots.collect(),
    }
}
