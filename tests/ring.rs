//! The ring between two cores with real threads and a real allocator: nothing is lost, doubled or
//! leaked. (`ring_model.rs` tries the orders that a machine doesn't show.)

#![allow(unsafe_code, reason = "a counting allocator is unsafe by its signature")]
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread;

use bytes::BytesMut;
use p2pmap::base::limits::RING_INLINE_SIZE_BYTES;
use p2pmap::base::prng::Prng;
use p2pmap::runtime::ring::{Consumer, Producer, ring};

/// Counts the bytes that are allocated.
struct Counting;

thread_local! {
    /// What this thread has allocated and not freed. Of each thread for itself: the test harness
    /// has threads of its own.
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

fn allocated() -> isize {
    ALLOCATED.get()
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.set(ALLOCATED.get() - layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Long messages that are left in all the states that a ring can be dropped in.
fn leave_messages(mut producer: Producer<u32>, mut consumer: Consumer<u32>, state: usize) {
    let long = [7; 10_000];
    for number in 0..6 {
        assert!(producer.push(number, &long));
    }
    if state >= 1 {
        producer.publish();
    }
    if state >= 2 {
        assert_eq!(consumer.available(), 6);
        drop(consumer.take_large(1));
    }
    if state >= 3 {
        consumer.release(3);
    }
    if state >= 4 {
        // Round the end, unpublished.
        for number in 0..5 {
            assert!(producer.push(number, &long));
        }
    }
    if state >= 5 {
        assert!(!producer.push_owned(9, &mut BytesMut::from(&long[..])), "it is full");
    }
    if state.is_multiple_of(2) {
        drop(producer);
        drop(consumer);
    } else {
        drop(consumer);
        drop(producer);
    }
}

#[test]
fn ring_frees_what_is_left_in_it() {
    for state in 0..7 {
        let before = allocated();
        let (producer, consumer) = ring(8);
        leave_messages(producer, consumer, state);
        assert_eq!(allocated(), before, "state {state}");
    }
}

#[test]
fn ring_in_use_holds_no_more_than_its_messages() {
    let (mut producer, mut consumer) = ring(8);
    let before = allocated();
    for number in 0..1_000_u32 {
        assert!(producer.push(number, &[1; 4_096]));
        producer.publish();
        assert_eq!(consumer.available(), 1);
        consumer.release(1);
        assert_eq!(allocated(), before, "a released message is freed");
    }
}

/// The bytes of message `number`: their length and contents follow from it.
fn bytes_of(number: u32) -> Vec<u8> {
    let mut prng = Prng::new(number.into(), "bytes");
    let size = prng.below(3 * u64::try_from(RING_INLINE_SIZE_BYTES).unwrap() / 2);
    let fill = u8::try_from(number % 251).unwrap();
    vec![fill; usize::try_from(size).unwrap()]
}

#[test]
fn messages_cross_threads_whole_and_in_order_in_batches_of_all_sizes() {
    const COUNT: u32 = 200_000;
    for slot_count in [1, 2, 64] {
        let (mut producer, mut consumer) = ring(slot_count);
        let sender = thread::spawn(move || {
            let mut prng = Prng::new(1, "batches");
            let mut sent = 0;
            while sent < COUNT {
                for _ in 0..=prng.below(20) {
                    if sent == COUNT || !producer.push(sent, &bytes_of(sent)) {
                        break;
                    }
                    sent += 1;
                }
                producer.publish();
                thread::yield_now();
            }
        });
        let mut next = 0;
        while next < COUNT {
            let count = consumer.available();
            assert!(count <= slot_count);
            for place in 0..count {
                let expected = bytes_of(next);
                if expected.len() > RING_INLINE_SIZE_BYTES && next.is_multiple_of(3) {
                    assert_eq!(consumer.take_large(place).as_deref(), Some(&*expected));
                    assert_eq!(consumer.message(place), (next, &b""[..]));
                } else {
                    assert_eq!(consumer.message(place), (next, &*expected));
                }
                next += 1;
            }
            consumer.release(count);
            thread::yield_now();
        }
        sender.join().unwrap();
        assert!(!consumer.has_message());
    }
}
