//! Streamed answers: the entries of a map, partition by partition, a bounded piece of work in each
//! turn, so that no scan holds the core.
//!
//! In a cluster a page must be known to be of the present view, unless a stale one will do: each
//! partition's members are asked in turn, by the node whose member stamps there, and the stream
//! waits meanwhile. A page then reflects every write to its partition that was answered before the
//! list was asked for; pages of different partitions are of different moments. A page of another
//! node may exceed what is left of the answer's bytes: that node knows only how many entries are.
//!
//! The shard of the client goes through the partitions in their order. When those of another shard
//! are next, that one is asked to go on as long as its own are, with what is left of the answer's
//! bounds; it sends its pages back and says what it has left.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::BytesMut;

use super::execute::World;
use super::fanout::BEHIND;
use super::partition::{Asker, Partition, PartitionView, Waiter};
use super::share::{Part, ShareAnswer, ShareRequest};
use super::{Core, Effects, Shard};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{AskId, Index, Origin, PartitionId, ShardId};
use crate::base::limits::{
    ENTRIES_SIZE_BYTES_MAX, ENTRIES_VISITED_COUNT_MAX, ENTRY_STREAM_COUNT_MAX,
};
use crate::base::payload::ResultBytes;
use crate::map::operation::cold::encode_query;
use crate::map::operation::{Consistency, Query, QueryOperation, decode_query};
use crate::map::outcome::{Outcome, Page, Versioned};
use crate::map::reads::Scan;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::{self, result};
use crate::wire::request::Kind;
use crate::wire::response::{self, ErrorOutcome, ResponsePrefix};

/// An answer that is being streamed.
#[derive(Debug)]
pub(super) struct EntryStream {
    reader: Reader,
    map: Box<str>,
    consistency: Consistency,
    min_index: Index,
    no_forward: bool,
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
    /// The members of the next partition must be asked.
    Asks(PartitionId),
    Done,
}

/// Whether a stream has ended with a page.
enum Ended {
    NotYet,
    Read,
    /// Nobody reads on.
    Unread,
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
            Self::Client(asker) => asker.client_buffer(last, effects),
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
        let core = &self.core;
        let streams_count =
            core.streams.len() + core.asked_streams.len() + core.waiting_streams.len();
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
        let waiting = self.core.waiting_streams.iter().map(|(_, stream)| stream);
        let others = self.core.streams.iter().chain(waiting).filter(is_of_same);
        if others.count() >= ENTRY_STREAM_COUNT_MAX {
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
            min_index: query.min_index,
            no_forward: query.no_forward,
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
                Step::Asks(partition) => self.ask_for_page(partition, stream, effects),
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
        let mut request = BytesMut::new();
        ShareRequest::Entries(part, &encode_query(&stream.query())).encode(&mut request);
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
                    let Some(buffer) = asker.client_buffer(false, effects) else {
                        // Nobody reads on, but the host waits for the end.
                        let _ = asker.client_buffer(true, effects);
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
                if let Some(buffer) = asker.client_buffer(true, effects) {
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

    /// Sends the page of one partition, or asks for it.
    fn step(
        &mut self,
        stream: &mut EntryStream,
        visits_left: &mut usize,
        effects: &mut impl Effects,
    ) -> Step {
        let number = PartitionId(*stream.partitions.start());
        if !self.core.config.partitions.contains(&number.0) {
            return Step::Elsewhere(self.core.config.shards().owner(number));
        }
        if self.needs_round(stream.consistency) {
            return Step::Asks(number);
        }
        let as_of = self.as_of(number, stream.consistency);
        let Partition { view, .. } = &self.partitions[self.place(number)];
        let as_of = match as_of {
            Ok(as_of) => as_of,
            Err(message) => {
                stream.fail(&mut self.core, &view.prefix, Code::Unavailable, message, effects);
                return Step::Done;
            }
        };
        let page = self.core.page(view, as_of, stream);
        // A partition without entries still costs something.
        *visits_left = visits_left.saturating_sub(page.visited_count.max(1));
        let ended = stream.put(&view.prefix, as_of, page, effects);
        self.core.count_stream(stream, ended)
    }

    /// Asks for the page of a partition whose members must say that its view is the present one:
    /// the stream goes on when that is there.
    fn ask_for_page(
        &mut self,
        partition: PartitionId,
        stream: EntryStream,
        effects: &mut impl Effects,
    ) {
        let deadline = match &stream.reader {
            Reader::Client(asker) => asker.deadline,
            // The client's shard knows its time, and gives up.
            Reader::Shard { .. } => self.deadline(0),
        };
        let query = encode_query(&stream.query());
        let stream = self.core.waiting_streams.insert(stream);
        let query = decode_query(&query).expect("it is in the usual encoding");
        self.read_in_round(partition, Waiter::Stream { stream, deadline }, &query, effects);
    }
}

impl Core {
    /// A page of a partition of this node.
    fn page<'a>(&'a self, view: &'a PartitionView, as_of: Index, stream: &EntryStream) -> Page<'a> {
        let scan = Scan {
            prefix: &stream.prefix,
            start_after: &stream.start_after,
            limit: stream.items_left,
            keys_only: stream.keys_only,
            size_bytes_max: stream.size_bytes_left,
            visited_count_max: ENTRIES_VISITED_COUNT_MAX,
            cursor_tag: &view.cursor_tag,
        };
        let at = self.at(as_of);
        view.map.entries(&self.arena, at, &stream.map, &scan)
    }

    fn count_stream(&mut self, stream: &EntryStream, ended: Ended) -> Step {
        match ended {
            Ended::NotYet => return Step::More,
            Ended::Read if matches!(stream.reader, Reader::Client(_)) => {
                self.counters.answers += 1;
            }
            Ended::Read | Ended::Unread => {}
        }
        Step::Done
    }
}

impl<E: Effects> World<'_, E> {
    /// The round is complete for which a stream has waited.
    pub(super) fn go_on_with_page(&mut self, stream: usize, as_of: Index) {
        let mut stream = self.core.waiting_streams.remove(stream);
        let page = self.core.page(self.view, as_of, &stream);
        let ended = stream.put(&self.view.prefix, as_of, page, self.effects);
        self.go_on_unless(stream, ended);
    }

    /// Another node has answered for a partition for which a stream has waited.
    pub(super) fn go_on_with_result(&mut self, place: usize, as_of: Index, result: &[u8]) {
        let message = "the node that stamps has answered with something else";
        match response::decode_result(result) {
            Some(result::Outcome::Page(page)) => {
                let mut stream = self.core.waiting_streams.remove(place);
                let ended = stream.put(&self.view.prefix, as_of, borrowed(&page), self.effects);
                self.go_on_unless(stream, ended);
            }
            Some(result::Outcome::Error(error)) => {
                self.fail_waiting_stream(place, error.code(), &error.message);
            }
            _ => self.fail_waiting_stream(place, Code::Internal, message),
        }
    }

    fn go_on_unless(&mut self, stream: EntryStream, ended: Ended) {
        if let Step::More = self.core.count_stream(&stream, ended) {
            self.core.streams.push_back(stream);
        }
    }

    /// Nothing comes of the partition for which a stream has waited.
    pub(super) fn fail_waiting_stream(&mut self, stream: usize, code: Code, message: &str) {
        let mut stream = self.core.waiting_streams.remove(stream);
        stream.fail(self.core, &self.view.prefix, code, message, self.effects);
    }
}

impl EntryStream {
    /// What is left to be asked, of the partition that comes next.
    fn query(&self) -> Query<'_> {
        Query {
            map: &self.map,
            consistency: self.consistency,
            min_index: self.min_index,
            timeout_ms: 0,
            no_forward: self.no_forward,
            operation: QueryOperation::Entries {
                prefix: &self.prefix,
                start_after: &self.start_after,
                limit: u32_from(self.items_left),
                keys_only: self.keys_only,
            },
        }
    }

    /// Sends the page of the partition that comes next.
    fn put(
        &mut self,
        prefix: &ResponsePrefix,
        as_of: Index,
        mut page: Page<'_>,
        effects: &mut impl Effects,
    ) -> Ended {
        let (number, last) = (*self.partitions.start(), *self.partitions.end());
        self.items_left = self.items_left.saturating_sub(page.items.len());
        self.size_bytes_left = self.size_bytes_left.saturating_sub(page.size_bytes);
        let spent = self.items_left == 0 || self.size_bytes_left == 0;
        if page.next.is_empty()
            && spent
            && number < last
            && let Some((key, _)) = page.items.last()
        {
            // This partition has no more, but others may. Going on after its last key goes on with
            // the next partition.
            page.next = key.to_vec();
        }
        let correlation = self.reader.correlation();
        let is_end = !page.next.is_empty() || number == last;
        if !page.items.is_empty() || !page.next.is_empty() || is_end && !self.sent_page {
            let Some(buffer) = self.reader.buffer(false, effects) else {
                // Nobody reads on, but the host counts the request until its answer has ended.
                let _ = self.reader.buffer(true, effects);
                return Ended::Unread;
            };
            let mut result = ResultBytes::new();
            Outcome::Page(page).encode(&mut result);
            response::encode_query_response(buffer, prefix, correlation, as_of, &result);
            self.sent_page = true;
        }
        if !is_end {
            self.partitions = number + 1..=last;
            self.start_after = Box::default();
            return Ended::NotYet;
        }
        if let Some(buffer) = self.reader.buffer(true, effects) {
            response::encode_query_close(buffer, prefix, correlation, as_of);
        }
        self.reader.end(false, effects);
        Ended::Read
    }

    fn fail(
        &mut self,
        core: &mut Core,
        prefix: &ResponsePrefix,
        code: Code,
        message: &str,
        effects: &mut impl Effects,
    ) {
        match &mut self.reader {
            Reader::Client(asker) => core.fail(*asker, prefix, code, message, effects),
            Reader::Shard { correlation, frames, .. } => {
                let error = ErrorOutcome { code, message, hint: None };
                response::encode_error(frames, prefix, *correlation, Kind::Query, error);
                self.reader.end(true, effects);
            }
        }
    }
}

/// A page as another node has encoded it.
fn borrowed(page: &v1::Page) -> Page<'_> {
    let time = |ms: i64| u64::try_from(ms).unwrap_or_default();
    let items = page.items.iter().filter_map(|item| {
        let entry = item.entry.as_ref()?;
        let entry = Versioned {
            value: &entry.value,
            version: Index(entry.version),
            created_ms: time(entry.created_ms),
            updated_ms: time(entry.updated_ms),
            ttl_ms: entry.ttl_ms,
        };
        Some((&*item.key, entry))
    });
    let items: Vec<_> = items.collect();
    let size_bytes = items.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
    Page { next: page.next.to_vec(), visited_count: items.len(), size_bytes, items }
}

/// The streams of a shard, in the order in which they go on.
pub(super) type Streams = VecDeque<EntryStream>;
