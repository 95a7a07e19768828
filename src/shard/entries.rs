//! Streamed answers: the entries of a map, partition by partition, a bounded piece of work in each
//! turn, so that no scan holds the core.
//!
//! The shard of the client goes through the partitions in their order. When those of another shard
//! are next, that one is asked to go on as long as its own are, with what is left of the answer's
//! bounds; it sends its pages back and says what it has left.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::BytesMut;

use super::fanout::{BEHIND, encoded_query};
use super::partition::{Asker, Partition};
use super::share::{Part, ShareAnswer, ShareRequest};
use super::{Effects, Shard};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{AskId, Index, Origin, PartitionId, ShardId};
use crate::base::limits::{
    ENTRIES_SIZE_BYTES_MAX, ENTRIES_VISITED_COUNT_MAX, ENTRY_STREAM_COUNT_MAX,
};
use crate::base::payload::ResultBytes;
use crate::map::operation::{Consistency, Query, QueryOperation};
use crate::map::outcome::Outcome;
use crate::map::reads::{AsOf, Scan};
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::request::Kind;
use crate::wire::response::{self, ErrorOutcome};

/// An answer that is being streamed.
#[derive(Debug)]
pub(super) struct EntryStream {
    reader: Reader,
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

/// Who reads a streamed answer.
#[derive(Debug)]
pub(super) enum Reader {
    /// A client of this shard.
    Client(Asker),
    /// The shard of the client, which takes all frames at once.
    Shard {
        /// Where they go.
        origin: Origin,
        /// What they repeat.
        correlation: u64,
        /// Those that there are.
        frames: BytesMut,
    },
}

/// A stream that another shard goes on with.
#[derive(Debug)]
pub(super) struct AskedStream {
    stream: EntryStream,
    asker: Asker,
    shard: ShardId,
    number: u32,
}

/// Whether a stream has more to do.
enum Step {
    More,
    /// The next partition is another shard's.
    Elsewhere(ShardId),
    Done,
}

impl Reader {
    fn correlation(&self) -> u64 {
        match self {
            Self::Client(asker) => asker.correlation,
            Self::Shard { correlation, .. } => *correlation,
        }
    }

    /// Where the next frame goes; `last`: the answer ends with it.
    fn buffer<'a>(
        &'a mut self,
        last: bool,
        effects: &'a mut impl Effects,
    ) -> Option<&'a mut BytesMut> {
        match self {
            Self::Client(asker) => effects.reply_buffer(asker.origin, last),
            Self::Shard { frames, .. } => Some(frames),
        }
    }

    /// The answer has ended: the shard that reads it is given what there is.
    fn end(&self, failed: bool, effects: &mut impl Effects) {
        if let Self::Shard { origin, frames, .. } = self
            && let Some(buffer) = effects.reply_buffer(*origin, true)
        {
            ShareAnswer::Ended { failed, frames }.encode(buffer);
        }
    }
}

impl Shard {
    /// Begins to answer with the entries of some partitions: pages, each from one partition and
    /// with its index, then the close. The last page says where to go on.
    pub(super) fn stream_entries(
        &mut self,
        reader: Reader,
        query: &Query<'_>,
        partitions: RangeInclusive<PartitionId>,
        effects: &mut impl Effects,
    ) {
        let streams_count = self.core.streams.len() + self.core.asked_streams.len();
        if let Reader::Client(asker) = reader
            && streams_count >= ENTRY_STREAM_COUNT_MAX
        {
            let prefix = self.core.prefix.clone();
            let message = "too many streamed answers are under way; try again";
            self.core.fail(asker, &prefix, Code::ResourceExhausted, message, effects);
            return;
        }
        let (first, last) = (partitions.start().0, partitions.end().0);
        let is_own = [first, last].iter().all(|p| self.core.config.partitions.contains(p));
        if let Reader::Client(asker) = reader
            && !is_own
            && !self.core.may_ask_others()
        {
            let prefix = self.core.prefix.clone();
            self.core.fail(asker, &prefix, Code::ResourceExhausted, BEHIND, effects);
            return;
        }
        let part = Part {
            correlation: reader.correlation(),
            first,
            last,
            size_bytes_left: ENTRIES_SIZE_BYTES_MAX,
            sent_page: false,
        };
        self.begin_stream(reader, part, query);
    }

    /// Goes on with the answer of another shard's client. Each shard may have as many of them here
    /// as it may have at all; there are more if it has given some up that aren't done.
    pub(super) fn stream_part(
        &mut self,
        origin: Origin,
        part: Part,
        query: &Query<'_>,
        effects: &mut impl Effects,
    ) {
        let Part { correlation, .. } = part;
        let is_of_same = |stream: &&EntryStream| match &stream.reader {
            Reader::Shard { origin: other, .. } => other.home == origin.home,
            Reader::Client(_) => false,
        };
        let mut frames = BytesMut::new();
        if self.core.streams.iter().filter(is_of_same).count() >= ENTRY_STREAM_COUNT_MAX {
            let error = ErrorOutcome { code: Code::ResourceExhausted, message: BEHIND, hint: None };
            let prefix = &self.core.prefix;
            response::encode_error(&mut frames, prefix, correlation, Kind::Query, error);
            Reader::Shard { origin, correlation, frames }.end(true, effects);
            return;
        }
        let reader = Reader::Shard { origin, correlation, frames };
        self.begin_stream(reader, part, query);
    }

    fn begin_stream(&mut self, reader: Reader, part: Part, query: &Query<'_>) {
        let QueryOperation::Entries { prefix, start_after, limit, keys_only } = query.operation
        else {
            panic!("only entries are streamed");
        };
        self.core.streams.push_back(EntryStream {
            reader,
            map: query.map.into(),
            consistency: query.consistency,
            prefix: prefix.into(),
            start_after: start_after.into(),
            keys_only,
            partitions: part.first..=part.last,
            items_left: usize_from_u32(limit),
            size_bytes_left: part.size_bytes_left,
            sent_page: part.sent_page,
        });
    }

    /// Goes on with the streams for a bounded piece of work.
    pub(super) fn stream(&mut self, effects: &mut impl Effects) {
        let mut visits_left = ENTRIES_VISITED_COUNT_MAX;
        while visits_left > 0
            && let Some(mut stream) = self.core.streams.pop_front()
        {
            match self.step(&mut stream, &mut visits_left, effects) {
                Step::More => self.core.streams.push_back(stream),
                Step::Elsewhere(shard) => self.leave_to(shard, stream, effects),
                Step::Done => {}
            }
        }
    }

    /// The next partition is that of another shard: the client's one asks it, and one that was
    /// asked itself is done.
    fn leave_to(&mut self, shard: ShardId, stream: EntryStream, effects: &mut impl Effects) {
        let EntryStream { items_left, size_bytes_left, sent_page, .. } = stream;
        let asker = match &stream.reader {
            Reader::Client(asker) => *asker,
            Reader::Shard { origin, frames, .. } => {
                if let Some(buffer) = effects.reply_buffer(*origin, true) {
                    ShareAnswer::More { items_left, size_bytes_left, sent_page, frames }
                        .encode(buffer);
                }
                return;
            }
        };
        let part = Part {
            correlation: asker.correlation,
            first: *stream.partitions.start(),
            last: *stream.partitions.end(),
            size_bytes_left,
            sent_page,
        };
        let query = Query {
            map: &stream.map,
            consistency: stream.consistency,
            min_index: Index(0),
            timeout_ms: 0,
            operation: QueryOperation::Entries {
                prefix: &stream.prefix,
                start_after: &stream.start_after,
                limit: u32_from(items_left),
                keys_only: stream.keys_only,
            },
        };
        let mut request = BytesMut::new();
        ShareRequest::Entries(part, &encoded_query(&query)).encode(&mut request);
        let number = self.core.next_ask_number();
        let asked = AskedStream { stream, asker, shard, number };
        let place = u32_from(self.core.asked_streams.insert(asked));
        self.core.sweep_later();
        self.core.ask(shard, AskId { place, number }, &request, effects);
    }

    /// Another shard's part of a streamed answer. It may come when nobody waits for it any more.
    pub(super) fn on_part(
        &mut self,
        ask: AskId,
        answer: &ShareAnswer<'_>,
        effects: &mut impl Effects,
    ) {
        let place = usize_from_u32(ask.place);
        let asked = self.core.asked_streams.get(place);
        if asked.is_none_or(|asked| asked.number != ask.number) {
            return;
        }
        let AskedStream { mut stream, asker, shard, .. } = self.core.asked_streams.remove(place);
        match *answer {
            ShareAnswer::More { items_left, size_bytes_left, sent_page, frames } => {
                if !frames.is_empty() {
                    let Some(buffer) = effects.reply_buffer(asker.origin, false) else {
                        // Nobody reads on, but the host waits for the end.
                        let _ = effects.reply_buffer(asker.origin, true);
                        return;
                    };
                    buffer.extend_from_slice(frames);
                }
                let next = self.core.config.shards().partitions_of(shard).end;
                stream.partitions = next..=*stream.partitions.end();
                stream.start_after = Box::default();
                (stream.items_left, stream.size_bytes_left) = (items_left, size_bytes_left);
                stream.sent_page = sent_page;
                self.core.streams.push_back(stream);
            }
            ShareAnswer::Ended { failed, frames } => {
                let counters = &mut self.core.counters;
                *if failed { &mut counters.failures } else { &mut counters.answers } += 1;
                if let Some(buffer) = effects.reply_buffer(asker.origin, true) {
                    buffer.extend_from_slice(frames);
                }
            }
            _ => panic!("a stream asks for entries only"),
        }
    }

    /// Gives up the streams with which another shard hasn't gone on in time. True: others are still
    /// waited for.
    pub(super) fn give_up_asked_streams(&mut self, effects: &mut impl Effects) -> bool {
        let now = self.core.now.monotonic;
        let asked = self.core.asked_streams.iter();
        let overdue = asked.filter(|(_, asked)| asked.asker.deadline <= now);
        let overdue: Vec<usize> = overdue.map(|(place, _)| place).collect();
        for place in overdue {
            let AskedStream { asker, .. } = self.core.asked_streams.remove(place);
            let prefix = self.core.prefix.clone();
            let message = "a shard of the node did not answer in time";
            self.core.fail(asker, &prefix, Code::Unavailable, message, effects);
        }
        !self.core.asked_streams.is_empty()
    }

    /// Sends the page of one partition.
    fn step(
        &mut self,
        stream: &mut EntryStream,
        visits_left: &mut usize,
        effects: &mut impl Effects,
    ) -> Step {
        let (number, last) = (*stream.partitions.start(), *stream.partitions.end());
        if !self.core.config.partitions.contains(&number) {
            return Step::Elsewhere(self.core.config.shards().owner(PartitionId(number)));
        }
        let place = self.place(PartitionId(number));
        let as_of = match self.as_of(PartitionId(number), stream.consistency) {
            Ok(as_of) => as_of,
            Err(message) => {
                self.fail_stream(stream, PartitionId(number), message, effects);
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
        let at = AsOf { index: as_of, time: self.core.now.wall };
        let mut page = view.map.entries(&self.core.arena, at, &stream.map, &scan);
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
        let correlation = stream.reader.correlation();
        let is_end = !page.next.is_empty() || number == last;
        if !page.items.is_empty() || !page.next.is_empty() || is_end && !stream.sent_page {
            let Some(buffer) = stream.reader.buffer(false, effects) else {
                // Nobody reads on, but the host counts the request until its answer has ended.
                let _ = stream.reader.buffer(true, effects);
                return Step::Done;
            };
            let mut result = ResultBytes::new();
            Outcome::Page(page).encode(&mut result);
            response::encode_query_response(buffer, &view.prefix, correlation, as_of, &result);
            stream.sent_page = true;
        }
        if !is_end {
            stream.partitions = number + 1..=last;
            stream.start_after = Box::default();
            return Step::More;
        }
        if let Some(buffer) = stream.reader.buffer(true, effects) {
            response::encode_query_close(buffer, &view.prefix, correlation, as_of);
        }
        if let Reader::Client(_) = stream.reader {
            self.core.counters.answers += 1;
        }
        stream.reader.end(false, effects);
        Step::Done
    }

    fn fail_stream(
        &mut self,
        stream: &mut EntryStream,
        partition: PartitionId,
        message: &str,
        effects: &mut impl Effects,
    ) {
        let place = self.place(partition);
        let prefix = &self.partitions[place].view.prefix;
        match &mut stream.reader {
            Reader::Client(asker) => {
                self.core.fail(*asker, prefix, Code::Unavailable, message, effects);
            }
            Reader::Shard { correlation, frames, .. } => {
                let error = ErrorOutcome { code: Code::Unavailable, message, hint: None };
                response::encode_error(frames, prefix, *correlation, Kind::Query, error);
                stream.reader.end(true, effects);
            }
        }
    }
}

/// The streams of a shard, in the order in which they go on.
pub(super) type Streams = VecDeque<EntryStream>;
