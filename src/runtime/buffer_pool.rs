//! The buffers into which the kernel receives: one pool for all connections of a core, so that an
//! idle connection costs no receive memory.
//!
//! The pool is a *provided buffer ring* of `io_uring`. A buffer is the kernel's from the moment it
//! is put into the ring until a completion names it; it is ours from then until it is given back. A
//! [`ReceivedBuffer`] is the proof of the second state: it can't be copied, only a completion makes
//! one, and giving it back consumes it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::base::cast::{u64_from, usize_from_u32};

/// The only buffer group of a core's ring.
pub(super) const BUFFER_GROUP: u16 = 0;

const PAGE_SIZE_BYTES: usize = 4_096;
/// Buffers of a power of two apart would all fall into the same few sets of the processor's
/// caches: each starts some lines after the last one's end.
const STAGGER_BYTES: usize = 192;

/// Zeroed memory of its own, freed when dropped.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size, PAGE_SIZE_BYTES)
            .expect("the sizes of a pool are far below the address space");
        assert!(layout.size() > 0, "a region is not empty");
        // SAFETY: the layout's size is not zero (asserted above).
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A buffer that the kernel filled and handed to us.
#[derive(Debug)]
#[must_use = "a buffer that isn't given back is lost to the pool"]
pub struct ReceivedBuffer {
    id: u16,
    len: u32,
}

impl ReceivedBuffer {
    /// How many bytes were received.
    #[must_use]
    pub const fn len(&self) -> usize {
        usize_from_u32(self.len)
    }

    /// Whether nothing was received.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The buffers of a core. See the module's documentation.
pub struct BufferPool {
    entries: Region,
    memory: Region,
    count: u16,
    size: u32,
    tail: u16,
    /// Which buffers are ours at the moment.
    ours: Box<[bool]>,
}

impl std::fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferPool")
            .field("count", &self.count)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl BufferPool {
    /// A pool of `count` buffers, a power of two, of `size` bytes each.
    #[must_use]
    pub(super) fn new(count: u16, size: u32) -> Self {
        assert!(count.is_power_of_two(), "the kernel wants a power of two of buffers");
        assert!(count <= 1 << 15, "the kernel's rings have at most 32,768 buffers");
        let entries = Region::new(usize::from(count) * size_of::<BufRingEntry>());
        let memory = Region::new(usize::from(count) * stride(size));
        let ours = vec![true; usize::from(count)].into_boxed_slice();
        Self { entries, memory, count, size, tail: 0, ours }
    }

    /// Registers the pool with a ring and lends all buffers to it.
    ///
    /// # Safety
    /// The pool must stay alive, where it is or moved, for as long as the ring may receive into it.
    pub(super) unsafe fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = u64_from(self.entries.start.as_ptr().addr());
        // SAFETY: `entries` has room for `count` entries, is page-aligned, and by the caller's
        // promise outlives the registration; moving the pool doesn't move the region.
        unsafe {
            submitter.register_buf_ring_with_flags(address, self.count, BUFFER_GROUP, 0)?;
        }
        for id in 0..self.count {
            self.give_back(ReceivedBuffer { id, len: 0 });
        }
        Ok(())
    }

    /// Takes the buffer that a completion named.
    ///
    /// # Safety
    /// `id` and `len` must come from one completion of the ring with which this pool is registered,
    /// and each completion may be taken only once.
    pub(super) unsafe fn take(&mut self, id: u16, len: u32) -> ReceivedBuffer {
        assert!(id < self.count, "the kernel named a buffer that it was never given");
        assert!(len <= self.size, "the kernel filled more than a buffer");
        let ours = &mut self.ours[usize::from(id)];
        assert!(!*ours, "the kernel handed out a buffer twice");
        *ours = true;
        ReceivedBuffer { id, len }
    }

    /// What was received.
    #[must_use]
    pub fn bytes(&self, buffer: &ReceivedBuffer) -> &[u8] {
        assert!(self.ours[usize::from(buffer.id)], "the buffer belongs to this pool");
        assert!(buffer.len <= self.size, "the buffer belongs to this pool");
        // SAFETY: the range lies inside `memory` (id < count and len <= size, asserted), was zeroed
        // at birth, and the kernel doesn't write to it while `ours` is set: only `give_back` lends
        // it again, and that needs `&mut self`, so not during this borrow.
        unsafe { std::slice::from_raw_parts(self.start_of(buffer.id).as_ptr(), buffer.len()) }
    }

    /// Lends a buffer to the kernel again.
    pub fn give_back(&mut self, buffer: ReceivedBuffer) {
        let ours = &mut self.ours[usize::from(buffer.id)];
        assert!(*ours, "a buffer is given back once");
        *ours = false;
        let start = self.start_of(buffer.id);
        let place = usize::from(self.tail & (self.count - 1));
        let base = self.entries.start.cast::<BufRingEntry>();
        // SAFETY: `place` < `count`, so the entry lies inside `entries`, which is aligned for it
        // and was zeroed, a valid entry. The kernel reads entries only below the tail that is
        // published below, and there are never more than `count` buffers, so it doesn't read this
        // one now. The setters leave the two bytes alone that in the first entry hold the tail.
        let entry = unsafe { base.add(place).as_mut() };
        entry.set_addr(u64_from(start.as_ptr().addr()));
        entry.set_len(self.size);
        entry.set_bid(buffer.id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the address of the ring's first entry, which is initialised. The tail
        // is two aligned bytes in it that only this thread writes, and the kernel reads them as an
        // atomic too. Release: the kernel sees the entry before the tail that covers it.
        unsafe {
            let tail = BufRingEntry::tail(base.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    fn start_of(&self, id: u16) -> NonNull<u8> {
        assert!(id < self.count, "a buffer's number is below the pool's count");
        // SAFETY: `memory` has `count` strides, so the result lies inside it.
        unsafe { self.memory.start.add(usize::from(id) * stride(self.size)) }
    }
}

const fn stride(size: u32) -> usize {
    usize_from_u32(size) + STAGGER_BYTES
}
