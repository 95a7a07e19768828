//! The ring between two cores and the doorbell, in every order in which their operations may take
//! effect: the files of the runtime are compiled here against a model checker's atomics.

#![allow(dead_code, unreachable_pub, reason = "the modules have users elsewhere")]

use p2pmap::base;

/// What `src/runtime/atomics.rs` is to the runtime.
mod atomics {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

#[path = "../src/runtime/doorbell.rs"]
mod doorbell;
#[path = "../src/runtime/ring.rs"]
mod ring;

use std::sync::Arc;

use base::limits::RING_INLINE_SIZE_BYTES;
use doorbell::Doorbell;
use loom::thread;
use ring::{Consumer, ring};

/// The head that the mesh's messages have the size of.
type Head = [u32; 6];

fn head(number: u32) -> Head {
    [number; 6]
}

/// Bytes that tell which message they are of; every second one is too long for a slot.
fn bytes(number: u32) -> Vec<u8> {
    let size = if number.is_multiple_of(2) { 3 } else { RING_INLINE_SIZE_BYTES + 1 };
    vec![u8::try_from(number).expect("few messages"); size]
}

/// Takes what there is and checks that it is what comes next.
fn take_all(consumer: &mut Consumer<Head>, next: &mut u32) {
    let count = consumer.available();
    for place in 0..count {
        let (found, found_bytes) = consumer.message(place);
        assert_eq!(found, head(*next));
        assert_eq!(found_bytes, bytes(*next));
        *next += 1;
    }
    consumer.release(count);
}

#[test]
fn messages_arrive_whole_and_in_order_however_the_two_sides_take_turns() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<Head>(2);
        let sender = thread::spawn(move || {
            let mut sent = 0;
            // Three messages through two slots: the last needs a slot that came back.
            while sent < 3 {
                if producer.push(head(sent), &bytes(sent)) {
                    sent += 1;
                    // The first two are published together if nothing comes in between.
                    if sent != 1 {
                        assert!(producer.publish());
                    }
                } else {
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < 3 {
            take_all(&mut consumer, &mut next);
            thread::yield_now();
        }
        sender.join().expect("the sender doesn't panic");
        assert_eq!(consumer.available(), 0);
    });
}

#[test]
fn full_ring_gives_the_message_back_and_takes_it_when_a_slot_is_free() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<Head>(1);
        assert!(producer.push(head(0), &bytes(0)));
        assert!(!producer.push(head(1), &bytes(1)), "it isn't released, nor even published");
        assert_eq!(consumer.available(), 0);
        assert!(producer.publish());
        assert!(!producer.publish(), "nothing is new");
        let taker = thread::spawn(move || {
            let mut next = 0;
            while next < 2 {
                take_all(&mut consumer, &mut next);
                thread::yield_now();
            }
        });
        while !producer.push(head(1), &bytes(1)) {
            thread::yield_now();
        }
        producer.publish();
        taker.join().expect("the taker doesn't panic");
    });
}

#[test]
fn what_is_left_in_a_ring_is_dropped_with_it_whichever_side_goes_first() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<Head>(2);
        let kept = bytes::Bytes::from(bytes(1));
        assert!(producer.push_owned(head(1), &mut kept.clone().into()));
        assert!(producer.push(head(3), &bytes(3)));
        producer.publish();
        let taker = thread::spawn(move || {
            // One is taken or none; the other stays.
            if consumer.available() > 0 {
                consumer.release(1);
            }
        });
        drop(producer);
        taker.join().expect("the taker doesn't panic");
    });
}

/// The core's own steps, with a flag in the place of the eventfd.
#[test]
fn sleeper_sees_the_message_or_is_rung() {
    loom::model(|| {
        let bell = Arc::new(Doorbell::new());
        let (mut producer, consumer) = ring::<Head>(1);
        let sender = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                assert!(producer.push(head(0), &bytes(0)));
                producer.publish();
                bell.must_ring()
            })
        };
        bell.announce_sleep();
        let sleeps = !consumer.has_message();
        let rung = sender.join().expect("the sender doesn't panic");
        assert!(!sleeps || rung, "a loop sleeps though a message waits");
    });
}
