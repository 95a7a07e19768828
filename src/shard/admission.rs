//! What a shard takes in: every bound is checked before a command is stamped, so that a refused
//! command has left no trace.

use bytes::{Bytes, BytesMut};

use super::Core;
use super::partition::{Partition, PartitionView};
use crate::base::cast::{u64_from, usize_from};
use crate::base::limits::{
    COMMAND_SIZE_BYTES_MAX, MAP_SIZE_BYTES_SPARE, MEMORY_SIZE_BYTES_SPARE,
    PAYLOAD_CHUNK_SIZE_BYTES, PAYLOAD_CHUNK_SPENT_COUNT_MAX, REQUESTS_PER_SHARD_MAX,
    UNSYNCED_COUNT_MAX, UNSYNCED_PARTITION_SIZE_BYTES_MAX, UNSYNCED_SIZE_BYTES_MAX,
};
use crate::map::hasher::KeyHash;
use crate::map::operation::{Command, Operation};
use crate::metrics::ShardCounters;
use crate::proto::p2pmap::v1::error::Code;

/// Memory for the commands of slots that aren't stable: cut from chunks, which are used again once
/// all of their commands are stable.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    chunk: BytesMut,
    /// Chunks without room; their commands still have them, perhaps.
    spent: Vec<BytesMut>,
}

impl Payloads {
    /// A copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > PAYLOAD_CHUNK_SIZE_BYTES / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.next_chunk();
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }

    fn next_chunk(&mut self) {
        let is_free = |chunk: &mut BytesMut| chunk.try_reclaim(PAYLOAD_CHUNK_SIZE_BYTES);
        let next = match self.spent.iter_mut().position(is_free) {
            Some(place) => self.spent.swap_remove(place),
            None => BytesMut::with_capacity(PAYLOAD_CHUNK_SIZE_BYTES),
        };
        let spent = std::mem::replace(&mut self.chunk, next);
        if self.spent.len() < PAYLOAD_CHUNK_SPENT_COUNT_MAX {
            self.spent.push(spent);
        } else {
            // Those that are kept are all in use, and a later one will be free before them.
            self.spent[0] = spent;
        }
    }
}

/// Why a command isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The partition is between two views.
    NoView,
    /// The node is going down.
    Closing,
    /// Too much is stamped and not stable yet.
    Unsynced,
    /// The log has no room.
    LogFull,
    /// The map has no room.
    MapFull,
    /// The node's maps would take more memory than they may.
    MemoryFull,
}

impl Refused {
    pub(super) fn code(self) -> Code {
        match self {
            Self::NoView | Self::Closing => Code::Unavailable,
            Self::Unsynced | Self::LogFull | Self::MapFull | Self::MemoryFull => {
                Code::ResourceExhausted
            }
        }
    }

    pub(super) fn count(self, counters: &mut ShardCounters) {
        *match self {
            Self::NoView | Self::Closing => &mut counters.refused_unavailable,
            Self::Unsynced => &mut counters.refused_unsynced,
            Self::LogFull => &mut counters.refused_log_full,
            Self::MapFull | Self::MemoryFull => &mut counters.refused_map_full,
        } += 1;
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::NoView => "the partition is between two views; try again",
            Self::Closing => "the node is going down",
            Self::Unsynced => "too many writes wait for the log; try again",
            Self::LogFull => "no room for the log; reads go on",
            Self::MapFull => {
                "the map is full: the shard's bound is reached; reads, removals and clears go on"
            }
            Self::MemoryFull => {
                "the map is full: --memory-max is reached; reads, removals and clears go on"
            }
        }
    }
}

impl Core {
    /// Whether a command of `size_bytes` may be stamped in `partition`, as far as protocol and log
    /// are concerned.
    pub(super) fn admit(&self, partition: &Partition, size_bytes: usize) -> Result<(), Refused> {
        let Partition { member, view } = partition;
        let replica = member.replica();
        if self.closing {
            return Err(Refused::Closing);
        }
        if !member.is_stamping() {
            return Err(Refused::NoView);
        }
        let log = replica.log();
        if log.last().since(replica.sync_point()) >= UNSYNCED_COUNT_MAX
            || view.unsynced_size_bytes + replica.results_size_bytes() + size_bytes
                > UNSYNCED_PARTITION_SIZE_BYTES_MAX
            || self.unsynced_size_bytes + self.results_size_bytes + size_bytes
                > self.unsynced_size_bytes_max()
            || self.awaiting.len() >= REQUESTS_PER_SHARD_MAX
        {
            return Err(Refused::Unsynced);
        }
        let space = self.log.space();
        // Without `sync` nothing above waits for the device, but memory does.
        if space.gathering_size_bytes + u64_from(size_bytes) > u64_from(UNSYNCED_SIZE_BYTES_MAX) {
            return Err(Refused::Unsynced);
        }
        if space.client_size_bytes < u64_from(size_bytes) {
            return Err(Refused::LogFull);
        }
        Ok(())
    }

    /// Bytes of slots that may be stamped and not stable. Where others log them too they are no
    /// more than a quarter of the log: a member that has as many of a view that came to nothing
    /// must have room for those of the next before it can let them go.
    fn unsynced_size_bytes_max(&self) -> usize {
        if !self.config.is_replicated() {
            return UNSYNCED_SIZE_BYTES_MAX;
        }
        let share = usize_from(self.log.space().size_bytes_max / 4);
        share.clamp(COMMAND_SIZE_BYTES_MAX, UNSYNCED_SIZE_BYTES_MAX)
    }

    /// Whether the map has room for what a command may add to it. A put that finds room in memory
    /// that was freed is always admitted: so puts go on by themselves after removals.
    pub(super) fn admit_growth(
        &self,
        partition: &Partition,
        command: &Command<'_>,
        hash: Option<KeyHash>,
    ) -> Result<(), Refused> {
        let left = self.config.memory_size_bytes_max.saturating_sub(self.memory_size_bytes());
        if takes_session_memory(command) && left < MEMORY_SIZE_BYTES_SPARE {
            return Err(Refused::MemoryFull);
        }
        let Operation::Put { key, value, ttl, .. } = command.operation else { return Ok(()) };
        let has_pages = self.arena.pages_size_bytes_left() >= MAP_SIZE_BYTES_SPARE;
        let most = MEMORY_SIZE_BYTES_SPARE + PUT_GROWTH_SIZE_BYTES + 2 * u64_from(value.len());
        if has_pages && left >= most {
            return Ok(());
        }
        let hash = hash.unwrap_or_else(|| self.hasher.hash(command.map, key));
        let put = (command.map, key, value.len());
        let map = &partition.view.map;
        let growth = map.put_growth(&self.arena, put, (hash, ttl), self.now.wall);
        match growth.fits_freed {
            true => Ok(()),
            false if !has_pages => Err(Refused::MapFull),
            false if left >= growth.size_bytes + MEMORY_SIZE_BYTES_SPARE => Ok(()),
            false => Err(Refused::MemoryFull),
        }
    }

    /// Bytes that the maps have taken from the system.
    pub(super) fn memory_size_bytes(&self) -> u64 {
        self.arena.bytes_reserved() + self.maps_own_size_bytes
    }

    /// Counts what a partition's map has beside the arena.
    pub(super) fn account_map(&mut self, view: &mut PartitionView) {
        let before = std::mem::replace(&mut view.own_size_bytes, view.map.own_size_bytes());
        self.maps_own_size_bytes = self.maps_own_size_bytes + view.own_size_bytes - before;
    }
}

/// Whether a command leaves something beside an entry: a session, or a result. So do removals and
/// clears in a session, but what their results take, their entries give back.
fn takes_session_memory(command: &Command<'_>) -> bool {
    let is_put = matches!(command.operation, Operation::Put { .. });
    matches!(command.operation, Operation::OpenSession { .. })
        || command.session.is_some() && is_put
}

/// No put takes more from the system than this and twice its value: a page for records with its
/// notes, pages for tables, and the longest key.
const PUT_GROWTH_SIZE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again_once_nobody_has_their_copies() {
        let mut payloads = Payloads::default();
        let copies = |payloads: &mut Payloads| -> Vec<Bytes> {
            (0..3 * PAYLOAD_CHUNK_SIZE_BYTES / 1_000).map(|_| payloads.copy(&[7; 1_000])).collect()
        };
        let held = payloads.copy(&[5; 1_000]);
        for _ in 0..50 {
            drop(copies(&mut payloads));
        }
        assert!(payloads.spent.len() <= 6, "{} chunks", payloads.spent.len());
        let all: Vec<Vec<Bytes>> = (0..100).map(|_| copies(&mut payloads)).collect();
        assert_eq!(payloads.spent.len(), PAYLOAD_CHUNK_SPENT_COUNT_MAX);
        assert!(all.iter().flatten().all(|copy| *copy == [7; 1_000][..]));
        assert_eq!(held, [5; 1_000][..]);
    }

    #[test]
    fn copies_share_chunks_and_keep_their_bytes() {
        let mut payloads = Payloads::default();
        let sizes = [0, 1, 100, PAYLOAD_CHUNK_SIZE_BYTES / 4, PAYLOAD_CHUNK_SIZE_BYTES, 7];
        let originals: Vec<Vec<u8>> =
            (1..).zip(sizes).map(|(fill, size)| vec![fill; size]).collect();
        let mut copies = Vec::new();
        for _ in 0..10 {
            copies.extend(originals.iter().map(|bytes| payloads.copy(bytes)));
        }
        for (copy, original) in copies.iter().zip(originals.iter().cycle()) {
            assert_eq!(copy, original);
        }
    }
}
