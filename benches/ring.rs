//! The ring between two cores against crossbeam's queues, with what a forwarded request is: a head
//! and some hundred bytes. Ours is kept only because it wins; the other two carry the same bytes in
//! a message of the same size.
//!
//! `batch`: one thread, 64 messages in and out, as in a turn of either side: what a message costs
//! beside the cache misses. `round trip`: one message to another thread and back, both spinning.
//! `stream`: many messages to another thread, in batches of up to 64.

#![allow(missing_docs, reason = "criterion's macros make items without")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::channel;
use crossbeam::queue::ArrayQueue;
use p2pmap::base::limits::RING_INLINE_SIZE_BYTES;
use p2pmap::runtime::ring::ring;

type Head = [u32; 5];

const SLOT_COUNT: usize = 4_096;
const BATCH_COUNT: usize = 64;
const STREAM_COUNT: u32 = 100_000;
const HEAD: Head = [7; 5];
const BYTES: [u8; 100] = [9; 100];

/// A message of the same size as a slot of ours.
#[derive(Clone, Copy)]
struct Message {
    head: Head,
    size: usize,
    bytes: [u8; RING_INLINE_SIZE_BYTES],
}

impl Message {
    fn new() -> Self {
        let mut bytes = [0; RING_INLINE_SIZE_BYTES];
        bytes[..BYTES.len()].copy_from_slice(black_box(&BYTES));
        Self { head: HEAD, size: BYTES.len(), bytes }
    }

    fn read(&self) {
        black_box((self.head, &self.bytes[..self.size]));
    }
}

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/batch");
    group.throughput(Throughput::Elements(BATCH_COUNT as u64));
    group.bench_function("ours", |bencher| {
        let (mut producer, mut consumer) = ring::<Head>(SLOT_COUNT);
        bencher.iter(|| {
            for _ in 0..BATCH_COUNT {
                assert!(producer.push(HEAD, black_box(&BYTES)));
            }
            producer.publish();
            let count = consumer.available();
            for place in 0..count {
                black_box(consumer.message(place));
            }
            consumer.release(count);
        });
    });
    group.bench_function("ArrayQueue", |bencher| {
        let queue = ArrayQueue::new(SLOT_COUNT);
        bencher.iter(|| {
            for _ in 0..BATCH_COUNT {
                assert!(queue.push(Message::new()).is_ok());
            }
            while let Some(message) = queue.pop() {
                message.read();
            }
        });
    });
    group.bench_function("channel", |bencher| {
        let (sender, receiver) = channel::bounded(SLOT_COUNT);
        bencher.iter(|| {
            for _ in 0..BATCH_COUNT {
                assert!(sender.try_send(Message::new()).is_ok());
            }
            while let Ok(message) = receiver.try_recv() {
                message.read();
            }
        });
    });
    group.finish();
}

/// Runs `step` on another thread until the guard is dropped.
struct Partner {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Partner {
    fn start(mut step: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut idle = 0_u32;
            while !seen.load(Ordering::Relaxed) {
                idle = if step() { 0 } else { idle + 1 };
                // Where there is only one core the other side must run, too.
                if idle.is_multiple_of(10_000) && idle > 0 {
                    thread::yield_now();
                }
                std::hint::spin_loop();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the partner doesn't panic");
        }
    }
}

fn wait_for<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let mut tries = 0_u32;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        tries += 1;
        if tries.is_multiple_of(10_000) {
            thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

fn round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/round trip");
    group.bench_function("ours", |bencher| {
        let (mut requests, mut requests_in) = ring::<Head>(SLOT_COUNT);
        let (mut answers, mut answers_in) = ring::<Head>(SLOT_COUNT);
        let _partner = Partner::start(move || {
            let count = requests_in.available();
            for place in 0..count {
                let (head, bytes) = requests_in.message(place);
                assert!(answers.push(head, bytes));
            }
            requests_in.release(count);
            answers.publish()
        });
        bencher.iter(|| {
            assert!(requests.push(HEAD, black_box(&BYTES)));
            requests.publish();
            wait_for(|| (answers_in.available() > 0).then_some(()));
            black_box(answers_in.message(0));
            answers_in.release(1);
        });
    });
    group.bench_function("ArrayQueue", |bencher| {
        let requests = Arc::new(ArrayQueue::<Message>::new(SLOT_COUNT));
        let answers = Arc::new(ArrayQueue::<Message>::new(SLOT_COUNT));
        let (from, to) = (Arc::clone(&requests), Arc::clone(&answers));
        let _partner = Partner::start(move || {
            let Some(message) = from.pop() else { return false };
            to.push(message).is_ok()
        });
        bencher.iter(|| {
            assert!(requests.push(Message::new()).is_ok());
            wait_for(|| answers.pop()).read();
        });
    });
    group.bench_function("channel", |bencher| {
        let (requests, requests_in) = channel::bounded::<Message>(SLOT_COUNT);
        let (answers, answers_in) = channel::bounded::<Message>(SLOT_COUNT);
        let _partner = Partner::start(move || {
            let Ok(message) = requests_in.try_recv() else { return false };
            answers.try_send(message).is_ok()
        });
        bencher.iter(|| {
            assert!(requests.try_send(Message::new()).is_ok());
            wait_for(|| answers_in.try_recv().ok()).read();
        });
    });
    group.finish();
}

fn stream(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/stream");
    group.throughput(Throughput::Elements(STREAM_COUNT.into()));
    group.sample_size(20);
    group.bench_function("ours", |bencher| {
        let (mut producer, mut consumer) = ring::<Head>(SLOT_COUNT);
        let taken = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let told = Arc::clone(&taken);
        let _partner = Partner::start(move || {
            let count = consumer.available().min(BATCH_COUNT);
            for place in 0..count {
                black_box(consumer.message(place));
            }
            consumer.release(count);
            told.fetch_add(u32::try_from(count).expect("a batch"), Ordering::Release);
            count > 0
        });
        bencher.iter(|| {
            taken.store(0, Ordering::Relaxed);
            let mut sent = 0;
            while sent < STREAM_COUNT {
                for _ in 0..BATCH_COUNT {
                    if sent < STREAM_COUNT && producer.push(HEAD, black_box(&BYTES)) {
                        sent += 1;
                    }
                }
                if !producer.publish() {
                    thread::yield_now();
                }
            }
            wait_for(|| (taken.load(Ordering::Acquire) == STREAM_COUNT).then_some(()));
        });
    });
    group.bench_function("ArrayQueue", |bencher| {
        let queue = Arc::new(ArrayQueue::<Message>::new(SLOT_COUNT));
        let taken = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (from, told) = (Arc::clone(&queue), Arc::clone(&taken));
        let _partner = Partner::start(move || {
            let mut count = 0;
            while count < u32::try_from(BATCH_COUNT).expect("a batch")
                && let Some(message) = from.pop()
            {
                message.read();
                count += 1;
            }
            told.fetch_add(count, Ordering::Release);
            count > 0
        });
        bencher.iter(|| {
            taken.store(0, Ordering::Relaxed);
            let mut sent = 0;
            while sent < STREAM_COUNT {
                if queue.push(Message::new()).is_ok() {
                    sent += 1;
                } else {
                    thread::yield_now();
                }
            }
            wait_for(|| (taken.load(Ordering::Acquire) == STREAM_COUNT).then_some(()));
        });
    });
    group.finish();
}

criterion_group!(benches, batch, round_trip, stream);
criterion_main!(benches);
