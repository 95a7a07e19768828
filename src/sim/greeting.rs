//! What two shards of different nodes say first on a connection between them.
//!
//! What a member knows of lives must arrive before anything that it says knowing it (3.6). So each
//! side reads its lives in the turn from which on it sends, and says them before all else: the
//! acceptor when it has heard the dialer, the dialer, who had to speak first, once more when it has
//! heard the acceptor.

use bytes::{Buf, BufMut as _};

use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{BootEpoch, Incarnation, Index, NodeId, PartitionId, ShardId, TermId};
use crate::base::time::Timestamp;
use crate::storage::witness::Life;
use crate::wire::frame::Flag;
use crate::wire::peer::hello::PartitionState;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who speaks.
    pub node: NodeId,
    /// Which of its shards.
    pub shard: ShardId,
    /// How many shards it has.
    pub shard_count: u16,
    /// Which process of it, and which boot of its disk.
    pub life: Life,
    /// What its wall clock says.
    pub clock: Timestamp,
    /// How the shard's partitions stand, and what it knows of their members' lives.
    pub partitions: Vec<PartitionState>,
}

impl Greeting {
    /// As a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.put_u8(self.node.0);
        payload.put_u16_le(self.shard.0);
        payload.put_u16_le(self.shard_count);
        payload.put_u64_le(self.life.boot_epoch.0);
        payload.put_u64_le(self.life.nonce);
        payload.put_u64_le(self.clock.0);
        for state in &self.partitions {
            payload.put_u32_le(state.partition.0);
            for position in [state.term.0, state.last_normal.0, state.durable_last.0] {
                payload.put_u64_le(position);
            }
            payload.put_u32_le(u32_from(state.lives.len()));
            state.lives.iter().for_each(|life| payload.put_u64_le(life.0));
        }
        let mut frame = vec![Flag::Hello.byte()];
        frame.put_u32(u32_from(payload.len()));
        frame.extend_from_slice(&payload);
        frame
    }

    /// Out of a frame's payload; `None`: it is no greeting.
    #[must_use]
    pub fn decode(mut payload: &[u8]) -> Option<Self> {
        let node = NodeId(payload.try_get_u8().ok()?);
        let shard = ShardId(payload.try_get_u16_le().ok()?);
        let shard_count = payload.try_get_u16_le().ok().filter(|count| *count > shard.0)?;
        let boot_epoch = BootEpoch(payload.try_get_u64_le().ok()?);
        let life = Life { boot_epoch, nonce: payload.try_get_u64_le().ok()? };
        let clock = Timestamp(payload.try_get_u64_le().ok()?);
        let mut partitions = Vec::new();
        while payload.has_remaining() {
            let partition = PartitionId(payload.try_get_u32_le().ok()?);
            let term = TermId(payload.try_get_u64_le().ok()?);
            let last_normal = TermId(payload.try_get_u64_le().ok()?);
            let durable_last = Index(payload.try_get_u64_le().ok()?);
            let count = usize_from_u32(payload.try_get_u32_le().ok()?);
            let lives = (0..count).map(|_| payload.try_get_u64_le().map(Incarnation));
            let lives = lives.collect::<Result<_, _>>().ok()?;
            let state = PartitionState { partition, term, last_normal, durable_last, lives };
            partitions.push(state);
        }
        Some(Self { node, shard, shard_count, life, clock, partitions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn greeting_is_read_as_it_was_written_and_not_in_part() {
        let state = |partition, lives: &[u64]| PartitionState {
            partition: PartitionId(partition),
            term: TermId(5),
            last_normal: TermId(4),
            durable_last: Index(u64::MAX),
            lives: lives.iter().copied().map(Incarnation).collect(),
        };
        let greeting = Greeting {
            node: NodeId(3),
            shard: ShardId(1),
            shard_count: 4,
            life: Life { boot_epoch: BootEpoch(9), nonce: 1 << 63 },
            clock: Timestamp(77),
            partitions: vec![state(2, &[0, 5, 1]), state(3, &[u64::MAX, 0, 0])],
        };
        let bytes = greeting.encode();
        let (header, payload) = frame::next(&bytes).expect("it is a frame").expect("all of it");
        assert_eq!(header.flag, Flag::Hello);
        let payload = &bytes[payload];
        assert_eq!(Greeting::decode(payload), Some(greeting));
        let whole = [29, 29 + 32 + 24, payload.len()];
        for end in 0..=payload.len() {
            assert_eq!(Greeting::decode(&payload[..end]).is_some(), whole.contains(&end), "{end}");
        }
    }
}
