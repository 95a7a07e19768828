//! A member takes a checkpoint from a peer.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::checksum::Digest128;
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{
    CHECKPOINT_PART_WINDOW_COUNT, CHECKPOINT_SLICE_SIZE_BYTES, PEER_CHUNK_SIZE_BYTES_MAX,
};
use crate::map::arena::Arena;
use crate::map::checkpoint::{LoadError, MapLoader};
use crate::map::digest::StateDigest;
use crate::map::hasher::KeyHasher;
use crate::map::partition::PartitionMap;
use crate::nopaxos::message::CheckpointPart;
use crate::storage::block::Block;
use crate::storage::checkpoint::{
    CheckpointChunk, CheckpointEncoder, CheckpointHead, CheckpointId,
};

/// Bytes of a checkpoint's head.
const HEAD_SIZE_BYTES: usize = 64;

/// Why a transfer can't go on: what is there of it is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferError {
    /// A part of another checkpoint.
    Another,
    /// A part contradicts itself.
    Shape,
    /// The bytes aren't those that the sender had.
    Digest,
    /// The bytes are no checkpoint.
    Load(LoadError),
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Another => f.write_str("a part of another checkpoint"),
            Self::Shape => f.write_str("a part of a checkpoint that contradicts itself"),
            Self::Digest => f.write_str("the digest of what came isn't the sender's"),
            Self::Load(error) => write!(f, "what came is no checkpoint: {error}"),
        }
    }
}

impl std::error::Error for TransferError {}

/// What all parts of a transfer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    index: Index,
    size_bytes: u64,
    chunk_size_bytes: u64,
    digest: [u8; 32],
}

impl Shape {
    fn of(part: &CheckpointPart) -> Result<Self, TransferError> {
        let CheckpointPart { index, size_bytes, digest, .. } = *part;
        let chunk_size_bytes = u64::from(part.chunk_size_bytes);
        let shape = Self { index, size_bytes, chunk_size_bytes, digest };
        let is_possible = index > Index(0)
            && size_bytes >= u64_from(HEAD_SIZE_BYTES)
            && (1..=PEER_CHUNK_SIZE_BYTES_MAX).contains(&usize_from_u32(part.chunk_size_bytes))
            && part.number < shape.part_count()
            && u64_from(part.data.len()) == shape.part_size_bytes(part.number);
        if is_possible { Ok(shape) } else { Err(TransferError::Shape) }
    }

    const fn part_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.chunk_size_bytes)
    }

    fn part_size_bytes(&self, number: u64) -> u64 {
        let left = self.size_bytes - number * self.chunk_size_bytes;
        left.min(self.chunk_size_bytes)
    }
}

/// A checkpoint on its way here.
#[derive(Debug)]
pub(crate) struct CheckpointReceiver {
    partition: PartitionId,
    salt: u32,
    shape: Option<Shape>,
    /// The part that is being loaded or comes next, and how much of it was loaded.
    next: u64,
    loaded_size_bytes: usize,
    /// Parts from `next` on, within the window.
    held: BTreeMap<u64, Bytes>,
    running: Digest128,
    /// The head, until it is whole.
    head_bytes: Vec<u8>,
    /// The file that is written of it, once the head is known.
    file: Option<(CheckpointHead, CheckpointEncoder)>,
    loader: MapLoader,
}

/// A checkpoint that came, whole and checked.
#[derive(Debug)]
pub(crate) struct Received {
    /// What it begins with.
    pub(crate) head: CheckpointHead,
    /// The state.
    pub(crate) map: PartitionMap,
    /// Bytes of its file.
    pub(crate) file_size_bytes: u64,
}

impl CheckpointReceiver {
    /// Begins to receive a checkpoint of a partition, whichever comes. `salt`: that of the own
    /// files.
    #[must_use]
    pub(crate) fn new(
        partition: PartitionId,
        salt: u32,
        hasher: KeyHasher,
        arena: &mut Arena,
    ) -> Self {
        Self {
            partition,
            salt,
            shape: None,
            next: 0,
            loaded_size_bytes: 0,
            held: BTreeMap::new(),
            running: Digest128::default(),
            head_bytes: Vec::new(),
            file: None,
            loader: MapLoader::new(hasher, arena),
        }
    }

    /// Which checkpoint it is, once a part has come.
    #[must_use]
    pub(crate) fn id(&self) -> Option<CheckpointId> {
        let index = self.shape?.index;
        Some(CheckpointId { partition: self.partition, index })
    }

    #[cfg(test)]
    /// The parts to ask for, or to ask for again: none while what came waits to be loaded or
    /// written.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = u64> {
        let part_count = self.shape.map_or(1, |shape| shape.part_count());
        let is_ahead = self.file.as_ref().is_some_and(|(_, encoder)| encoder.has_chunk());
        let window = if is_ahead { 0 } else { CHECKPOINT_PART_WINDOW_COUNT };
        let end = part_count.min(self.next + window);
        (self.next..end).filter(|number| !self.held.contains_key(number))
    }

    /// A part has come. One that isn't wanted now is dropped: it is asked for again in its turn.
    ///
    /// # Errors
    /// If it is of another checkpoint than those before it, or contradicts itself.
    pub(crate) fn on_part(&mut self, part: &CheckpointPart) -> Result<(), TransferError> {
        let shape = Shape::of(part)?;
        if *self.shape.get_or_insert(shape) != shape {
            return Err(TransferError::Another);
        }
        let window = self.next..self.next + CHECKPOINT_PART_WINDOW_COUNT;
        if window.contains(&part.number) {
            self.held.entry(part.number).or_insert_with(|| part.data.clone());
        }
        Ok(())
    }

    /// Loads a little of what has come: a bounded piece of work. Whether there was any.
    ///
    /// # Errors
    /// If the bytes are no checkpoint: all that can be done then is
    /// [`CheckpointReceiver::discard`].
    pub(crate) fn step(&mut self, arena: &mut Arena) -> Result<bool, TransferError> {
        let Some(part) = self.held.get(&self.next).cloned() else { return Ok(false) };
        let rest = part.slice(self.loaded_size_bytes..);
        let slice = rest.slice(..rest.len().min(CHECKPOINT_SLICE_SIZE_BYTES));
        self.load(arena, &slice)?;
        self.loaded_size_bytes += slice.len();
        if slice.len() == rest.len() {
            self.held.remove(&self.next);
            self.next += 1;
            self.loaded_size_bytes = 0;
            if self.is_loaded()
                && let Some((_, encoder)) = &mut self.file
            {
                encoder.end();
            }
        }
        Ok(true)
    }

    fn load(&mut self, arena: &mut Arena, mut bytes: &[u8]) -> Result<(), TransferError> {
        self.running.update(bytes);
        if self.file.is_none() {
            let missing = HEAD_SIZE_BYTES - self.head_bytes.len();
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.head_bytes.extend_from_slice(head);
            bytes = rest;
            let id = self.id().ok_or(TransferError::Shape)?;
            let Some((head, _)) = CheckpointHead::decode(id, &self.head_bytes) else {
                return Ok(());
            };
            self.file = Some((head, CheckpointEncoder::new(self.salt, &head)));
        }
        self.loader.feed(arena, bytes).map_err(TransferError::Load)?;
        if let Some((_, encoder)) = &mut self.file {
            encoder.body().extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Whether all of it was loaded.
    #[must_use]
    pub(crate) fn is_loaded(&self) -> bool {
        self.shape.is_some_and(|shape| self.next == shape.part_count())
    }

    /// The next chunk of its file, if one is ready, in the memory of `blocks`.
    pub(crate) fn next_chunk(&mut self, blocks: Vec<Block>) -> Option<CheckpointChunk> {
        self.file.as_mut()?.1.next_chunk(blocks)
    }

    /// Whether all chunks of its file were handed out.
    #[must_use]
    pub(crate) fn is_written(&self) -> bool {
        self.file.as_ref().is_some_and(|(_, encoder)| encoder.is_complete())
    }

    /// Whether everything came and is what the sender had. To be asked before the file gets its
    /// name.
    ///
    /// # Errors
    /// If it isn't.
    pub(crate) fn check(&self) -> Result<CheckpointHead, TransferError> {
        let incomplete = TransferError::Load(LoadError::Incomplete);
        let (Some(shape), Some((head, _)), true) = (self.shape, &self.file, self.is_loaded())
        else {
            return Err(incomplete);
        };
        let bytes = self.running.value().to_le_bytes();
        if shape.digest[..16] != bytes || shape.digest[16..] != head.digest {
            return Err(TransferError::Digest);
        }
        let digest = StateDigest(u128::from_le_bytes(head.digest));
        self.loader.check(shape.index, digest).map_err(TransferError::Load)?;
        Ok(*head)
    }

    /// The checkpoint, if everything came and is what the sender had.
    ///
    /// # Errors
    /// If it isn't; what was loaded is freed then.
    pub(crate) fn finish(self, arena: &mut Arena) -> Result<Received, TransferError> {
        let head = match self.check() {
            Ok(head) => head,
            Err(error) => {
                self.discard(arena);
                return Err(error);
            }
        };
        let file_size_bytes = self.file.map_or(0, |(_, encoder)| encoder.size_bytes());
        let digest = StateDigest(u128::from_le_bytes(head.digest));
        let map = self
            .loader
            .finish(head.id.index, head.timestamp, digest)
            .map_err(TransferError::Load)?;
        Ok(Received { head, map, file_size_bytes })
    }

    /// Frees what was loaded.
    pub(crate) fn discard(self, arena: &mut Arena) {
        self.loader.discard(arena);
    }

    #[cfg(test)]
    /// Bytes that are held in memory besides the map.
    #[must_use]
    pub(crate) fn held_size_bytes(&self) -> usize {
        self.held.values().map(Bytes::len).sum()
    }
}
