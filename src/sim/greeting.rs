//! What two shards of different nodes say first on a connection between them.
//!
//! What a member knows of lives must arrive before anything that it says knowing it (3.6). So each
//! side reads its lives in the turn from which on it sends, and says them before all else: the
//! acceptor when it has heard the dialer, the dialer, who had to speak first, once more when it has
//! heard the acceptor.

use bytes::{Buf, BufMut as _};

use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{Incarnation, NodeId, PartitionId, ShardId};
use crate::base::time::Timestamp;
use crate::shard::PartitionLives;
use crate::wire::frame::Flag;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who speaks.
    pub node: NodeId,
    /// Which of its shards.
    pub shard: ShardId,
    /// How many shards it has.
    pub shard_count: u16,
    /// What its wall clock says.
    pub clock: Timestamp,
    /// What the shard knows of the lives of the partitions' members.
    pub lives: Vec<PartitionLives>,
}

impl Greeting {
    /// As a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.put_u8(self.node.0);
        payload.put_u16_le(self.shard.0);
        payload.put_u16_le(self.shard_count);
        payload.put_u64_le(self.clock.0);
        for PartitionLives { partition, lives } in &self.lives {
            payload.put_u32_le(partition.0);
            payload.put_u32_le(u32_from(lives.len()));
            lives.iter().for_each(|life| payload.put_u64_le(life.0));
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
        let clock = Timestamp(payload.try_get_u64_le().ok()?);
        let mut all = Vec::new();
        while payload.has_remaining() {
            let partition = PartitionId(payload.try_get_u32_le().ok()?);
            let count = usize_from_u32(payload.try_get_u32_le().ok()?);
            let lives = (0..count).map(|_| payload.try_get_u64_le().map(Incarnation));
            let lives = lives.collect::<Result<_, _>>().ok()?;
            all.push(PartitionLives { partition, lives });
        }
        Some(Self { node, shard, shard_count, clock, lives: all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn greeting_is_read_as_it_was_written_and_not_in_part() {
        let lives = |partition, lives: &[u64]| PartitionLives {
            partition: PartitionId(partition),
            lives: lives.iter().copied().map(Incarnation).collect(),
        };
        let greeting = Greeting {
            node: NodeId(3),
            shard: ShardId(1),
            shard_count: 4,
            clock: Timestamp(77),
            lives: vec![lives(2, &[0, 5, 1]), lives(3, &[u64::MAX, 0, 0])],
        };
        let bytes = greeting.encode();
        let (header, payload) = frame::next(&bytes).expect("it is a frame").expect("all of it");
        assert_eq!(header.flag, Flag::Hello);
        let payload = &bytes[payload];
        assert_eq!(Greeting::decode(payload), Some(greeting));
        let whole = [13, 13 + 8 + 24, payload.len()];
        for end in 0..=payload.len() {
            assert_eq!(Greeting::decode(&payload[..end]).is_some(), whole.contains(&end), "{end}");
        }
    }
}
