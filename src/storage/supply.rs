//! The segments of a log as files: which are written, which are ready, which are free to be used
//! again, and how much room all of that leaves.
//!
//! A segment that a durable snapshot no longer counts is *free*: its file becomes the next segment
//! by a new name and directory sync. It is neither deleted nor filled with zeros on the way, both
//! of which would cost commits their device. Only where a crash left torn blocks in it (each boot
//! ends in a segment of its own) its old content is *wiped*: a torn block of a former life can't be
//! told from a torn block of the present one.

use std::collections::VecDeque;

use crate::base::cast::u64_from;
use crate::base::ids::{BatchId, SegmentId};
use crate::base::limits::SPARE_SEGMENT_COUNT;
use crate::base::time::{Monotonic, NS_PER_S};

/// How long to wait before a segment that couldn't be prepared is asked for again.
pub(super) const PREPARE_RETRY_NS: u64 = NS_PER_S;

/// A segment whose file may be used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSegment {
    /// Which it was: the name of its file.
    pub segment: SegmentId,
    /// Whether it must be filled with zeros first.
    pub wipe: bool,
}

/// A segment that the host should make ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentWanted {
    /// Which.
    pub segment: SegmentId,
    /// Of which file it is to be made; `None`: of a new one.
    pub from: Option<FreeSegment>,
}

/// How full the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of all segments' files: written, prepared and free ones.
    pub used_size_bytes: u64,
    /// Bytes of the segments whose records count, the one being written among them.
    pub live_size_bytes: u64,
    /// Bytes that they may become.
    pub size_bytes_max: u64,
    /// Bytes that clients' commands may still fill; the last segments aren't among them: they are
    /// for the protocol, which can't be refused, and for making room. 0: refuse commands before
    /// they are stamped.
    pub client_size_bytes: u64,
    /// Bytes appended but not yet handed out to be written.
    pub gathering_size_bytes: u64,
}

/// The files of a log.
#[derive(Debug)]
pub(super) struct Supply {
    segment_size_bytes: u64,
    segment_count_max: u64,
    /// Segments ready to be written after the one being written.
    prepared: VecDeque<SegmentId>,
    /// The segment that the host is preparing.
    preparing: Option<SegmentWanted>,
    /// The last one that was asked for couldn't be made ready.
    has_failed: bool,
    /// When another one may be asked for after that, until then.
    retry_at: Option<Monotonic>,
    /// Files whose segments count no more.
    free: VecDeque<FreeSegment>,
    /// Files that become free when the batch is durable.
    releasing: VecDeque<(BatchId, FreeSegment)>,
    /// The same of files that didn't count when the log was opened.
    releasing_void: VecDeque<(BatchId, FreeSegment)>,
    /// Files that were written and are neither free nor prepared.
    written_count: u64,
    /// What the filesystem has left; `None`: nobody has looked.
    disk_size_bytes: Option<u64>,
    /// Of this, what is kept for a checkpoint.
    reserved_size_bytes: u64,
    /// Counts what gives the log more room.
    changes_count: u64,
}

impl Supply {
    pub(super) fn new(
        segment_size_bytes: u64,
        log_size_bytes_max: u64,
        written_count: u64,
        prepared: Vec<SegmentId>,
    ) -> Self {
        Self {
            segment_size_bytes,
            segment_count_max: log_size_bytes_max / segment_size_bytes,
            prepared: prepared.into(),
            preparing: None,
            has_failed: false,
            retry_at: None,
            free: VecDeque::new(),
            releasing: VecDeque::new(),
            releasing_void: VecDeque::new(),
            written_count,
            disk_size_bytes: None,
            reserved_size_bytes: 0,
            changes_count: 0,
        }
    }

    /// The next segment that is ready.
    pub(super) fn next_prepared(&self) -> Option<SegmentId> {
        self.prepared.front().copied()
    }

    /// Whether the segment is ready.
    pub(super) fn has_prepared(&self, segment: SegmentId) -> bool {
        self.prepared.contains(&segment)
    }

    /// The next segment is written from now on.
    pub(super) fn begin(&mut self, segment: SegmentId) {
        assert_eq!(self.prepared.pop_front(), Some(segment), "a segment is prepared first");
        self.written_count += 1;
    }

    /// What is to be prepared now, if anything is, after `writing` (or `first`, if nothing was
    /// written yet) and one ahead of `filling`. A log as large as it may be gets one segment more
    /// if `would_release`, or if some wait for what isn't written yet, of which `issued` was the
    /// last that is: the snapshot with which that begins lets others go, and without it none ever
    /// would, unless some are on their way.
    pub(super) fn wants(
        &mut self,
        now: Monotonic,
        (writing, issued): (Option<SegmentId>, BatchId),
        (first, filling): (SegmentId, SegmentId),
        would_release: impl FnOnce() -> bool,
    ) -> Option<SegmentWanted> {
        if self.preparing.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        // Whatever is decided now: it is decided again with each turn, and needs no other one.
        self.retry_at = None;
        let segment = match self.prepared.back().copied().or(writing) {
            Some(last) if last > filling => return None,
            Some(last) => last.next(),
            None => first,
        };
        let from = self.free.pop_front();
        let room = (self.segment_count_max + 1).saturating_sub(self.file_count());
        let may_exceed =
            || !self.is_releasing_with(issued) && (self.is_releasing() || would_release());
        if from.is_none() && (room == 0 || room == 1 && !may_exceed()) {
            return None;
        }
        self.preparing = Some(SegmentWanted { segment, from });
        self.preparing
    }

    pub(super) fn on_prepared(&mut self, segment: SegmentId) {
        let prepared = self.take_preparing(segment);
        (self.has_failed, self.retry_at) = (false, None);
        self.prepared.push_back(prepared.segment);
        self.changes_count += 1;
    }

    pub(super) fn on_failed(&mut self, segment: SegmentId, now: Monotonic) {
        // Its file may have its new name already: who prepares it looks for that first.
        if let Some(free) = self.take_preparing(segment).from {
            self.free.push_front(free);
        }
        (self.has_failed, self.retry_at) = (true, Some(now.after_ns(PREPARE_RETRY_NS)));
    }

    /// Whether no segment is ready, and none will be unless a checkpoint lets some go or the disk
    /// gets room. `issued` is the last batch that was.
    pub(super) fn is_exhausted(&self, issued: BatchId) -> bool {
        let room = (self.segment_count_max + 1).saturating_sub(self.file_count());
        let may_make = !self.has_failed && (room > 1 || room == 1 && self.is_releasing());
        let is_coming =
            self.preparing.is_some() || !self.free.is_empty() || self.is_releasing_with(issued);
        self.prepared.is_empty() && !is_coming && !may_make
    }

    fn take_preparing(&mut self, segment: SegmentId) -> SegmentWanted {
        let preparing = self.preparing.take();
        preparing
            .filter(|wanted| wanted.segment == segment)
            .expect("segments are prepared when asked for")
    }

    /// When [`Supply::wants`] should be asked again after a failure.
    pub(super) const fn next_deadline(&self) -> Option<Monotonic> {
        self.retry_at
    }

    /// A snapshot that ends with `batch` doesn't count the segment any more.
    pub(super) fn release(&mut self, batch: BatchId, free: FreeSegment) {
        self.releasing.push_back((batch, free));
    }

    /// A snapshot that ends with `batch` makes damaged segments void. Until then their files are no
    /// part of the log, or there might be no room for the segment in which that snapshot lies.
    pub(super) fn release_void(&mut self, batch: BatchId, files: Vec<SegmentId>) {
        let free = |segment| (batch, FreeSegment { segment, wipe: true });
        self.releasing_void.extend(files.into_iter().map(free));
    }

    /// Everything up to `batch` is durable.
    pub(super) fn on_durable(&mut self, batch: BatchId) {
        while let Some((_, free)) = self.releasing_void.pop_front_if(|void| void.0 <= batch) {
            self.free.push_back(free);
            self.changes_count += 1;
        }
        while let Some((_, free)) = self.releasing.pop_front_if(|released| released.0 <= batch) {
            self.written_count -= 1;
            self.free.push_back(free);
            self.changes_count += 1;
        }
    }

    /// Counts what gives the log more room.
    pub(super) const fn changes_count(&self) -> u64 {
        self.changes_count
    }

    /// Whether segments wait for a snapshot to become durable.
    pub(super) fn is_releasing(&self) -> bool {
        !self.releasing.is_empty()
    }

    /// Whether some wait for one of the batches up to `issued`.
    fn is_releasing_with(&self, issued: BatchId) -> bool {
        self.releasing.front().is_some_and(|(batch, _)| *batch <= issued)
    }

    /// The filesystem has so much left, of which a checkpoint may need some.
    pub(super) fn on_disk(&mut self, left_size_bytes: u64, reserved_size_bytes: u64) {
        let was_short = self.is_short_of_disk();
        self.disk_size_bytes = Some(left_size_bytes);
        self.reserved_size_bytes = reserved_size_bytes;
        self.changes_count += u64::from(self.is_short_of_disk() != was_short);
    }

    /// Whether the filesystem has room for few segments more: then the log must not be as large as
    /// it may be.
    pub(super) fn is_short_of_disk(&self) -> bool {
        let left = self.disk_size_bytes.map(|left| left.saturating_sub(self.reserved_size_bytes));
        left.is_some_and(|left| left / self.segment_size_bytes < 2 * SPARE_SEGMENT_COUNT)
    }

    /// Files of the log, whatever is in them.
    fn file_count(&self) -> u64 {
        let ready = self.prepared.len() + self.free.len() + usize::from(self.preparing.is_some());
        self.written_count + u64_from(ready)
    }

    pub(super) fn used_size_bytes(&self) -> u64 {
        let being_made = self.preparing.is_some_and(|wanted| wanted.from.is_none());
        (self.file_count() - u64::from(being_made)) * self.segment_size_bytes
    }

    /// Segments that can follow `filling` when `live_count` count, it among them, and `freed` more
    /// have become free.
    fn further_count(&self, live_count: u64, filling: SegmentId, freed: u64) -> u64 {
        let releasing = u64_from(self.releasing.len());
        let allowed = self.segment_count_max.saturating_sub(live_count + releasing);
        let ready = self.prepared.iter().filter(|&&prepared| prepared > filling).count()
            + self.free.len()
            + usize::from(self.preparing.is_some_and(|wanted| wanted.from.is_some()));
        let makeable = match (self.has_failed, self.disk_size_bytes) {
            (true, _) => 0,
            (false, Some(left)) => {
                left.saturating_sub(self.reserved_size_bytes) / self.segment_size_bytes
            }
            (false, None) => self.segment_count_max,
        };
        allowed.min(u64_from(ready) + freed + makeable)
    }

    /// Bytes that clients may still fill: the rest of the segment being filled and those that may
    /// follow it, but for the spare ones.
    pub(super) fn client_size_bytes(
        &self,
        live_count: u64,
        filling: SegmentId,
        rest_size_bytes: u64,
    ) -> u64 {
        match self.further_count(live_count, filling, 0).checked_sub(self.spare_count()) {
            None => 0,
            Some(further) => rest_size_bytes + further * self.segment_size_bytes,
        }
    }

    /// Bytes of all segments that can follow `filling`.
    pub(super) fn further_size_bytes(&self, live_count: u64, filling: SegmentId) -> u64 {
        self.further_count(live_count, filling, 0) * self.segment_size_bytes
    }

    /// Whether clients could write again if the segment after `filling` were begun now, which would
    /// set `released` segments free.
    pub(super) fn would_help(
        &self,
        live_count: u64,
        filling: SegmentId,
        released_count: u64,
    ) -> bool {
        let live_count = live_count + 1 - released_count;
        let next = filling.next();
        released_count > 0
            && self.prepared.contains(&next)
            && self.further_count(live_count, next, released_count) >= self.spare_count()
    }

    /// Segments that clients leave to others: fewer in a log of few.
    fn spare_count(&self) -> u64 {
        SPARE_SEGMENT_COUNT.min(self.segment_count_max / 2)
    }
}
