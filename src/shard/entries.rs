//! Streamed answers: the entries of a map, partition by partition, a bounded piece of work in each
//! turn, so that no scan holds the core.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::partition::{Asker, Partition};
use super::{Effects, Shard};
use crate::base::cast::usize_from_u32;
use crate::base::ids::PartitionId;
use crate::base::limits::{
    ENTRIES_SIZE_BYTES_MAX, ENTRIES_VISITED_COUNT_MAX, ENTRY_STREAM_COUNT_MAX,
};
use crate::base::payload::ResultBytes;
use crate::map::operation::{Consistency, Query, QueryOperation};
use crate::map::outcome::Outcome;
use crate::map::reads::Scan;
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::response;

/// An answer that is being streamed.
#[derive(Debug)]
pub(super) struct EntryStream {
    asker: Asker,
    map: Box<str>,
    consistency: Consistency,
    prefix: Box<[u8]>,
    start_after: Box<[u8]>,
    keys_only: bool,
    /// The partition that comes next, and the last one.
    partitions: RangeInclusive<u32>,
    items_left: usize,
    size_bytes_left: usize,
    sent_page: bool,
}

/// Whether a stream has more to do.
enum Step {
    More,
    Done,
}

impl Shard {
    /// Begins to answer with the entries of some partitions: pages, each from one partition and
    /// with its index, then the close. The last page says where to go on.
    pub(super) fn stream_entries(
        &mut self,
        asker: Asker,
        query: &Query<'_>,
        partitions: RangeInclusive<PartitionId>,
        effects: &mut impl Effects,
    ) {
        let QueryOperation::Entries { prefix, start_after, limit, keys_only } = query.operation
        else {
            return;
        };
        let first = &self.partitions[self.place(*partitions.start())];
        if self.core.streams.len() >= ENTRY_STREAM_COUNT_MAX {
            let message = "too many streamed answers are under way; try again";
            self.core.fail(asker, &first.view.prefix, Code::ResourceExhausted, message, effects);
            return;
        }
        self.core.streams.push_back(EntryStream {
            asker,
            map: query.map.into(),
            consistency: query.consistency,
            prefix: prefix.into(),
            start_after: start_after.into(),
            keys_only,
            partitions: partitions.start().0..=partitions.end().0,
            items_left: usize_from_u32(limit),
            size_bytes_left: ENTRIES_SIZE_BYTES_MAX,
            sent_page: false,
        });
    }

    /// Goes on with the streams for a bounded piece of work.
    pub(super) fn stream(&mut self, effects: &mut impl Effects) {
        let mut visits_left = ENTRIES_VISITED_COUNT_MAX;
        while visits_left > 0
            && let Some(mut stream) = self.core.streams.pop_front()
        {
            if let Step::More = self.step(&mut stream, &mut visits_left, effects) {
                self.core.streams.push_back(stream);
            }
        }
    }

    /// Sends the page of one partition.
    fn step(
        &mut self,
        stream: &mut EntryStream,
        visits_left: &mut usize,
        effects: &mut impl Effects,
    ) -> Step {
        let (number, last) = (*stream.partitions.start(), *stream.partitions.end());
        let place = self.place(PartitionId(number));
        let asker = stream.asker;
        let as_of = match self.as_of(PartitionId(number), stream.consistency) {
            Ok(as_of) => as_of,
            Err(message) => {
                let prefix = &self.partitions[place].view.prefix;
                self.core.fail(asker, prefix, Code::Unavailable, message, effects);
                return Step::Done;
            }
        };
        let Partition { view, .. } = &self.partitions[place];
        let scan = Scan {
            prefix: &stream.prefix,
            start_after: &stream.start_after,
            limit: stream.items_left,
            keys_only: stream.keys_only,
            size_bytes_max: stream.size_bytes_left,
            visited_count_max: ENTRIES_VISITED_COUNT_MAX,
            cursor_tag: &view.cursor_tag,
        };
        let mut page = view.map.entries(&self.core.arena, as_of, &stream.map, &scan);
        // A partition without entries still costs something.
        *visits_left = visits_left.saturating_sub(page.visited_count.max(1));
        stream.items_left -= page.items.len();
        stream.size_bytes_left = stream.size_bytes_left.saturating_sub(page.size_bytes);
        let spent = stream.items_left == 0 || stream.size_bytes_left == 0;
        if page.next.is_empty() && spent && number < last {
            // This partition has no more, but others may. Going on after its last key goes on with
            // the next partition.
            let (key, _) = page.items.last().expect("what was spent was spent on items");
            page.next = key.to_vec();
        }
        let is_end = !page.next.is_empty() || number == last;
        if !page.items.is_empty() || !page.next.is_empty() || is_end && !stream.sent_page {
            let Some(buffer) = effects.reply_buffer(asker.origin, false) else {
                // Nobody reads on, but the host counts the request until its answer has ended.
                let _ = effects.reply_buffer(asker.origin, true);
                return Step::Done;
            };
            let mut result = ResultBytes::new();
            Outcome::Page(page).encode(&mut result);
            let correlation = asker.correlation;
            response::encode_query_response(buffer, &view.prefix, correlation, as_of, &result);
            stream.sent_page = true;
        }
        if !is_end {
            stream.partitions = number + 1..=last;
            stream.start_after = Box::default();
            return Step::More;
        }
        self.core.counters.answers += 1;
        if let Some(buffer) = effects.reply_buffer(asker.origin, true) {
            response::encode_query_close(buffer, &view.prefix, asker.correlation, as_of);
        }
        Step::Done
    }
}

/// The streams of a shard, in the order in which they go on.
pub(super) type Streams = VecDeque<EntryStream>;
