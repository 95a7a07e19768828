//! A bounded queue from one core to another: one producer, one consumer, messages of bytes.
//!
//! A message is a head and bytes: up to [`RING_INLINE_SIZE_BYTES`] lie in its slot, more in a
//! buffer of their own, which goes over to the consumer and is freed there (the allocator takes it
//! from any thread; handing it back would need a queue the other way). What was pushed is seen by
//! the consumer after [`Producer::publish`]: one store for a batch. Slots come back with
//! [`Consumer::release`], again one store for a batch. Each side keeps what it last saw of the
//! other's position, so the two share a cache line only when one has caught up with the other.
//!
//! Nothing blocks: a full ring gives the message back, an empty one has none.

use std::fmt;
use std::mem;
use std::sync::Arc;

use bytes::BytesMut;
use crossbeam::utils::CachePadded;

use super::atomics::{AtomicUsize, Ordering, UnsafeCell};
use crate::base::limits::RING_INLINE_SIZE_BYTES;

/// What a slot holds. It always holds something, if only what was there before: so a ring that is
/// dropped drops its slots like any other array.
struct Content<H> {
    head: H,
    /// How many of the inline bytes count; 0 if the bytes are in `large`.
    size: u32,
    inline: [u8; RING_INLINE_SIZE_BYTES],
    large: BytesMut,
}

/// Whole cache lines, so that the two sides never write to the same one.
#[repr(align(64))]
struct Slot<H>(UnsafeCell<Content<H>>);

struct Shared<H> {
    /// A power of two of them.
    slots: Box<[Slot<H>]>,
    /// Positions count messages and wrap around; a position's slot is its remainder.
    published: CachePadded<AtomicUsize>,
    released: CachePadded<AtomicUsize>,
}

// SAFETY: a slot is touched by one side at a time. Positions in `released..published` are the
// consumer's, which it learns by an acquiring load of `published` that the producer stores with
// release after it has filled them; all others are the producer's, which it learns likewise of
// `released`. There is one producer and one consumer: neither can be cloned, and both need `&mut`.
unsafe impl<H: Send> Sync for Shared<H> {}

/// The end that pushes.
pub struct Producer<H> {
    shared: Arc<Shared<H>>,
    /// Where the next message goes.
    tail: usize,
    /// Up to here the consumer sees.
    published: usize,
    /// How far the consumer was when it was last looked at.
    released: usize,
}

/// The end that takes.
pub struct Consumer<H> {
    shared: Arc<Shared<H>>,
    /// The oldest message.
    head: usize,
    /// How far the producer was when it was last looked at.
    published: usize,
}

/// A ring with room for `slot_count` messages.
///
/// # Panics
/// If that isn't a power of two.
#[must_use]
pub fn ring<H: Copy + Default>(slot_count: usize) -> (Producer<H>, Consumer<H>) {
    assert!(slot_count.is_power_of_two(), "positions wrap around with the ring");
    let slot = || {
        let inline = [0; RING_INLINE_SIZE_BYTES];
        let content = Content { head: H::default(), size: 0, inline, large: BytesMut::new() };
        Slot(UnsafeCell::new(content))
    };
    let shared = Arc::new(Shared {
        slots: (0..slot_count).map(|_| slot()).collect(),
        published: CachePadded::new(AtomicUsize::new(0)),
        released: CachePadded::new(AtomicUsize::new(0)),
    });
    let producer = Producer { shared: Arc::clone(&shared), tail: 0, published: 0, released: 0 };
    (producer, Consumer { shared, head: 0, published: 0 })
}

/// What a message takes up, in whole cache lines.
#[must_use]
pub const fn slot_size_bytes<H>() -> usize {
    size_of::<Slot<H>>()
}

impl<H> Shared<H> {
    fn slot(&self, position: usize) -> &UnsafeCell<Content<H>> {
        &self.slots[position & (self.slots.len() - 1)].0
    }
}

impl<H: Copy> Producer<H> {
    /// How many messages the ring has room for when it is empty.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.shared.slots.len()
    }

    /// Whether another message fits.
    pub fn has_room(&mut self) -> bool {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.released) == capacity {
            self.released = self.shared.released.load(Ordering::Acquire);
        }
        self.tail.wrapping_sub(self.released) < capacity
    }

    /// Adds a message with a copy of `bytes`. False: there is no room.
    #[must_use]
    pub fn push(&mut self, head: H, bytes: &[u8]) -> bool {
        if bytes.len() > RING_INLINE_SIZE_BYTES {
            return self.push_owned(head, &mut BytesMut::from(bytes));
        }
        self.fill(head, |content| {
            content.inline[..bytes.len()].copy_from_slice(bytes);
            content.size = u32::try_from(bytes.len()).expect("inline bytes are few");
        })
    }

    /// Adds a message and takes its bytes. False: there is no room, and they were left.
    #[must_use]
    pub fn push_owned(&mut self, head: H, bytes: &mut BytesMut) -> bool {
        self.fill(head, |content| {
            content.size = 0;
            content.large = mem::take(bytes);
        })
    }

    fn fill(&mut self, head: H, fill: impl FnOnce(&mut Content<H>)) -> bool {
        if !self.has_room() {
            return false;
        }
        self.shared.slot(self.tail).with_mut(|content| {
            // SAFETY: `tail` isn't below `published`, and less than a round above `released`: the
            // slot is the producer's (see `Sync`), and this is the only producer.
            let content = unsafe { &mut *content };
            content.head = head;
            fill(content);
        });
        self.tail = self.tail.wrapping_add(1);
        true
    }

    /// Shows the consumer what was pushed. False: there is nothing new.
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        self.shared.published.store(self.tail, Ordering::Release);
        true
    }
}

impl<H: Copy> Consumer<H> {
    /// How many messages can be taken, looking again only if it knows of none.
    pub fn available(&mut self) -> usize {
        if self.published == self.head {
            self.published = self.shared.published.load(Ordering::Acquire);
        }
        self.published.wrapping_sub(self.head)
    }

    /// Whether there is a message now.
    #[must_use]
    pub fn has_message(&self) -> bool {
        self.shared.published.load(Ordering::Acquire) != self.head
    }

    /// The message that comes after `place` others.
    ///
    /// # Panics
    /// If [`Consumer::available`] didn't say that there are so many.
    #[must_use]
    pub fn message(&self, place: usize) -> (H, &[u8]) {
        assert!(place < self.published.wrapping_sub(self.head), "only what is available is read");
        self.shared.slot(self.head.wrapping_add(place)).with(|content| {
            // SAFETY: the position is in `released..published`, so the slot is the consumer's (see
            // `Sync`), and stays so while the result borrows it: `release` and `take_large` need
            // `&mut self`.
            let content: &Content<H> = unsafe { &*content };
            let size = usize::try_from(content.size).expect("inline bytes are few");
            let inline = &content.inline[..size];
            (content.head, if content.large.is_empty() { inline } else { &content.large })
        })
    }

    /// Takes the bytes of the message that comes after `place` others out of it, if they are in a
    /// buffer of their own.
    ///
    /// # Panics
    /// If [`Consumer::available`] didn't say that there are so many.
    #[must_use]
    pub fn take_large(&mut self, place: usize) -> Option<BytesMut> {
        assert!(place < self.published.wrapping_sub(self.head), "only what is available is read");
        let bytes = self.shared.slot(self.head.wrapping_add(place)).with_mut(|content| {
            // SAFETY: as in `message`; `&mut self` says that nobody borrows it.
            let content: &mut Content<H> = unsafe { &mut *content };
            mem::take(&mut content.large)
        });
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Gives the slots of the oldest `count` messages back, and frees what they still hold.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn release(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        for place in 0..count {
            drop(self.take_large(place));
        }
        self.head = self.head.wrapping_add(count);
        self.shared.released.store(self.head, Ordering::Release);
    }
}

impl<H> fmt::Debug for Producer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tail, published, released, .. } = self;
        write!(f, "Producer {{ tail: {tail}, published: {published}, released: {released} }}")
    }
}

impl<H> fmt::Debug for Consumer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { head, published, .. } = self;
        write!(f, "Consumer {{ head: {head}, published: {published} }}")
    }
}
