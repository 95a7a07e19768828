//! How long the runtime's own log writes take: a service that keeps some in flight, on the loop
//! that serves a node, and optionally has segments prepared meanwhile.

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use hdrhistogram::Histogram;

use super::report::{latencies, write_percentiles};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{BatchId, SegmentId};
use crate::base::limits::{BLOCK_SIZE_BYTES, SEGMENT_SIZE_BYTES_DEFAULT};
use crate::base::time::{Monotonic, Now};
use crate::runtime::disk::PrepareError;
use crate::runtime::executor::Idle;
use crate::runtime::fatal::{Fatal, FatalReason};
use crate::runtime::node_runtime::{Options, Runtime};
use crate::runtime::segment_workshop::{SegmentPlace, takes_direct_io};
use crate::runtime::service::{Frame, Output, Service, WriteError};
use crate::storage::block::{Block, SegmentWrite};
use crate::storage::wal::SegmentWanted;

/// Segments prepared during a run at most: they take room until its end.
const PREPARED_COUNT_MAX: u64 = 16;

/// What is written.
#[derive(Clone, Debug)]
pub struct LogWriteOptions {
    /// Where.
    pub directory: PathBuf,
    /// The loop's processor.
    pub core: usize,
    /// What the loop does while it waits.
    pub idle: Idle,
    /// Writes in flight.
    pub depth: usize,
    /// Bytes of each: a multiple of the block size.
    pub write_size_bytes: usize,
    /// How long.
    pub duration_ns: u64,
    /// Prepare one new segment after the other meanwhile.
    pub preparing: bool,
}

/// Latencies of log writes.
#[derive(Clone, Debug)]
pub struct LogWriteReport {
    /// In nanoseconds.
    pub latencies_ns: Histogram<u64>,
    /// Segments prepared meanwhile.
    pub prepared_count: u64,
    /// Whether direct I/O was used.
    pub direct: bool,
}

impl fmt::Display for LogWriteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { latencies_ns, prepared_count, direct } = self;
        let way = if *direct { "O_DIRECT | O_DSYNC" } else { "buffered, O_DSYNC" };
        writeln!(f, "the runtime's log writes, {way}, {prepared_count} segments made meanwhile")?;
        writeln!(f, "writes        {}", latencies_ns.len())?;
        write_percentiles(f, latencies_ns)
    }
}

/// Writes for so long on a runtime of its own, whose threads live as long as the process.
///
/// # Errors
/// If the machine can't run a node, or the disk fails.
pub fn run(options: &LogWriteOptions) -> Result<LogWriteReport, Fatal> {
    let unusable = |error| {
        let place = options.directory.display();
        Fatal::new(FatalReason::DataDirectory, format!("can't use {place}: {error}"))
    };
    let direct = takes_direct_io(&options.directory).map_err(unusable)?;
    let place = SegmentPlace {
        directory: options.directory.clone(),
        segment_size_bytes: SEGMENT_SIZE_BYTES_DEFAULT,
        direct,
        scrub: None,
    };
    // They are deleted at the end only: on a filesystem that is mounted with `discard` a deletion
    // stops the device for a while, and a node uses its segments again.
    let made = (1..=1 + PREPARED_COUNT_MAX + 1).map(|id| place.path(SegmentId(id)));
    let made: Vec<PathBuf> = made.collect();
    let runtime_options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        cores: vec![options.core],
        idle: options.idle,
        segments: vec![place],
    };
    let (outbox, results) = channel();
    let making = (options.clone(), outbox);
    let make = move |_| Ok(Writer::new(making.0.clone(), making.1.clone()));
    let runtime = Runtime::start(runtime_options, make)?;
    let node = runtime.node();
    let waiter = std::thread::spawn(move || runtime.wait());
    let finished = results.recv();
    node.begin_shutdown();
    let waited = waiter.join().expect("waiting doesn't panic");
    let (latencies_ns, prepared_count) = match finished {
        Ok(measured) => measured,
        Err(error) => {
            return Err(waited.err().unwrap_or_else(|| Fatal::new(FatalReason::Executor, error)));
        }
    };
    for path in made {
        // Most of them were never made.
        let _ = std::fs::remove_file(path);
    }
    waited.map(|()| LogWriteReport { latencies_ns, prepared_count, direct })
}

type Measured = (Histogram<u64>, u64);

#[derive(Debug)]
struct Writer {
    options: LogWriteOptions,
    outbox: Sender<Measured>,
    /// The segment that is written; 0 until it is ready.
    segment: SegmentId,
    last_asked: SegmentId,
    offset: usize,
    batch: BatchId,
    /// When each batch in flight was issued.
    issued: Vec<(BatchId, Monotonic)>,
    spare: Vec<Vec<Block>>,
    latencies_ns: Histogram<u64>,
    end: Option<Monotonic>,
    prepared_count: u64,
    stopping: bool,
}

impl Writer {
    fn new(options: LogWriteOptions, outbox: Sender<Measured>) -> Self {
        Self {
            options,
            outbox,
            segment: SegmentId(0),
            last_asked: SegmentId(0),
            offset: 0,
            batch: BatchId(0),
            issued: Vec::new(),
            spare: Vec::new(),
            latencies_ns: latencies(),
            end: None,
            prepared_count: 0,
            stopping: false,
        }
    }

    fn prepare(&mut self, output: &mut Output<'_>) {
        self.last_asked = self.last_asked.next();
        output.prepare_segment(SegmentWanted { segment: self.last_asked, from: None });
    }
}

impl Service for Writer {
    fn frames(&mut self, _now: Now, frames: &[Frame<'_>], output: &mut Output<'_>) {
        for frame in frames {
            output.finish(frame.origin);
        }
    }

    fn written(
        &mut self,
        now: Now,
        write: SegmentWrite,
        _result: Result<(), WriteError>,
        _output: &mut Output<'_>,
    ) {
        let of_this = |(batch, _): &(BatchId, Monotonic)| *batch == write.batch;
        let place = self.issued.iter().position(of_this).expect("a write is answered once");
        let (_, issued_at) = self.issued.swap_remove(place);
        self.latencies_ns.saturating_record(now.monotonic.since_ns(issued_at));
        self.spare.push(write.blocks);
    }

    fn segment_prepared(
        &mut self,
        now: Now,
        segment: SegmentId,
        result: Result<(), PrepareError>,
        output: &mut Output<'_>,
    ) {
        if let Err(error) = result {
            tracing::error!(%error, "the disk can't be measured");
            self.stopping = true;
        } else if self.segment == SegmentId(0) {
            self.segment = segment;
            self.end = Some(now.monotonic.after_ns(self.options.duration_ns));
        } else {
            self.prepared_count += 1;
        }
        let wants_more = self.prepared_count < PREPARED_COUNT_MAX;
        if self.options.preparing && wants_more && !self.stopping {
            self.prepare(output);
        }
    }

    fn turn_end(&mut self, now: Now, output: &mut Output<'_>) {
        if self.last_asked == SegmentId(0) {
            self.prepare(output);
        }
        if self.stopping || self.segment == SegmentId(0) {
            return;
        }
        let size = self.options.write_size_bytes;
        while self.issued.len() < self.options.depth {
            if self.offset + size > SEGMENT_SIZE_BYTES_DEFAULT {
                self.offset = 0;
            }
            let blocks = self
                .spare
                .pop()
                .unwrap_or_else(|| vec![Block([1; BLOCK_SIZE_BYTES]); size / BLOCK_SIZE_BYTES]);
            self.batch = self.batch.next();
            self.issued.push((self.batch, now.monotonic));
            let (batch, segment, offset) = (self.batch, self.segment, u64_from(self.offset));
            output.write(SegmentWrite { batch, segment, offset, blocks });
            self.offset = usize_from(offset) + size;
        }
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.end.filter(|_| !self.stopping)
    }

    fn deadline(&mut self, _now: Now, _output: &mut Output<'_>) {
        self.stopping = true;
        // Whoever waits for it may have gone.
        let _ = self.outbox.send((self.latencies_ns.clone(), self.prepared_count));
    }

    fn close(&mut self, _now: Now, _output: &mut Output<'_>) {
        self.stopping = true;
    }

    fn is_drained(&self) -> bool {
        self.issued.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::NS_PER_MS;

    #[test]
    fn writes_of_the_loop_are_measured_in_both_idle_modes() {
        for idle in [Idle::Spin, Idle::Park { spin_ns: 0 }] {
            let directory = tempfile::tempdir().expect("a directory");
            let options = LogWriteOptions {
                directory: directory.path().into(),
                core: 0,
                idle,
                depth: 2,
                write_size_bytes: BLOCK_SIZE_BYTES,
                duration_ns: 100 * NS_PER_MS,
                preparing: false,
            };
            let report = run(&options).expect("a disk");
            // The first ones are always measured; how many follow is the disk's affair.
            assert!(report.latencies_ns.len() >= 2, "{report}");
        }
    }
}
