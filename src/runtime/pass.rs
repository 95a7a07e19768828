//! The frames that are handed to the service together, and the memory in which they lie.

use std::ops::Range;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};

use super::buffer_pool::{BufferPool, ReceivedBuffer};
use super::grpc::StreamId;
use super::service::Frame;
use crate::base::ids::Origin;
use crate::base::limits::{FRAME_PREFIX_SIZE_BYTES, PASS_COUNT_MAX};

/// Memory with received bytes.
#[derive(Debug)]
pub enum Chunk {
    /// As the kernel filled it.
    Received(ReceivedBuffer),
    /// Bytes that a connection held back.
    Held(BytesMut),
    /// One whole payload.
    Payload(Bytes),
}

impl Chunk {
    /// The bytes.
    #[must_use]
    pub fn bytes<'a>(&'a self, pool: &'a BufferPool) -> &'a [u8] {
        match self {
            Self::Received(buffer) => pool.bytes(buffer),
            Self::Held(bytes) => bytes,
            Self::Payload(bytes) => bytes,
        }
    }
}

/// A frame of the pass as it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// With its prefix.
    Frame(&'a [u8]),
    /// A payload that was cut out.
    Payload(&'a Bytes),
}

#[derive(Clone, Debug)]
struct Place {
    origin: Origin,
    chunk: usize,
    payload: Range<usize>,
}

/// A pass in the making. Frames lie where they were received; nothing is copied.
#[derive(Debug, Default)]
pub struct Pass {
    places: ArrayVec<Place, PASS_COUNT_MAX>,
    /// The last one is the one being cut into frames, if `cutting`.
    chunks: Vec<Chunk>,
    cutting: bool,
}

impl Pass {
    /// Whether it must be handed over before another frame fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.places.is_full()
    }

    /// Whether there is nothing to hand over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Begins to cut a chunk into frames.
    pub fn begin(&mut self, chunk: Chunk) {
        assert!(!self.cutting, "one chunk is cut at a time");
        self.chunks.push(chunk);
        self.cutting = true;
    }

    /// The bytes of the chunk that is being cut.
    #[must_use]
    pub fn current<'a>(&'a self, pool: &'a BufferPool) -> &'a [u8] {
        assert!(self.cutting, "a chunk is being cut");
        self.chunks.last().map_or(&[], |chunk| chunk.bytes(pool))
    }

    /// Adds a frame of the chunk that is being cut. There must be room.
    pub fn push(&mut self, origin: Origin, payload: Range<usize>) {
        assert!(self.cutting, "a frame lies in the chunk that is being cut");
        self.places.push(Place { origin, chunk: self.chunks.len() - 1, payload });
    }

    /// Adds a frame whose payload is already cut out. There must be room.
    pub fn push_payload(&mut self, origin: Origin, payload: Bytes) {
        assert!(!self.cutting, "one chunk is cut at a time");
        self.places.push(Place { origin, chunk: self.chunks.len(), payload: 0..payload.len() });
        self.chunks.push(Chunk::Payload(payload));
    }

    /// Cuts off what of the chunk being cut isn't cut yet, from `at` on, if a connection had held
    /// it: then it needn't be copied. It is empty if it was cut off before.
    pub fn take_rest(&mut self, at: usize) -> Option<BytesMut> {
        assert!(self.cutting, "a chunk is being cut");
        match self.chunks.last_mut() {
            Some(Chunk::Held(bytes)) => Some(bytes.split_off(at.min(bytes.len()))),
            _ => None,
        }
    }

    /// Cuts the frames at `places` off, and all that comes after them in their chunk, if that is
    /// one that their connection had held. With it comes where in it they begin.
    pub fn take_frames(&mut self, places: &[usize]) -> Option<(BytesMut, usize)> {
        let (first, last) = (&self.places[*places.first()?], &self.places[*places.last()?]);
        let begin = first.payload.start - FRAME_PREFIX_SIZE_BYTES;
        match &mut self.chunks[first.chunk] {
            Chunk::Held(bytes) if first.chunk == last.chunk => {
                Some((bytes.split_off(begin), begin))
            }
            _ => None,
        }
    }

    /// The chunk is cut: its memory stays until the pass was handed over.
    pub fn end(&mut self) {
        assert!(self.cutting, "a chunk is being cut");
        self.cutting = false;
    }

    /// The frames.
    #[must_use]
    pub fn frames<'a>(&'a self, pool: &'a BufferPool) -> ArrayVec<Frame<'a>, PASS_COUNT_MAX> {
        let frame = |place: &Place| Frame {
            origin: place.origin,
            payload: &self.chunks[place.chunk].bytes(pool)[place.payload.clone()],
        };
        self.places.iter().map(frame).collect()
    }

    /// Where a frame came from.
    #[must_use]
    pub fn origin(&self, place: usize) -> Origin {
        self.places[place].origin
    }

    /// The stream that a frame came on.
    #[must_use]
    pub fn stream(&self, place: usize) -> StreamId {
        StreamId(self.origin(place).stream)
    }

    /// A frame as it is stored.
    #[must_use]
    pub fn stored<'a>(&'a self, place: usize, pool: &'a BufferPool) -> Stored<'a> {
        let Place { chunk, payload, .. } = &self.places[place];
        match &self.chunks[*chunk] {
            Chunk::Payload(bytes) => Stored::Payload(bytes),
            chunk @ (Chunk::Received(_) | Chunk::Held(_)) => {
                let begin = payload.start - FRAME_PREFIX_SIZE_BYTES;
                Stored::Frame(&chunk.bytes(pool)[begin..payload.end])
            }
        }
    }

    /// The pass was handed over: returns its memory but for the chunk that is still being cut.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        self.places.clear();
        let done = self.chunks.len() - usize::from(self.cutting);
        for chunk in self.chunks.drain(..done) {
            match chunk {
                Chunk::Received(buffer) => pool.give_back(buffer),
                Chunk::Held(_) | Chunk::Payload(_) => {}
            }
        }
    }
}
