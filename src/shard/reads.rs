//! Queries: evaluated as of an index that is durable and answered, so that a read never waits for
//! a log write in flight and never shows what a restart could lose (3.7). A group of one needs no
//! round of its members.

use bytes::Bytes;

use super::entries::Reader;
use super::execute::World;
use super::forwarding::Passable;
use super::partition::{Asker, Partition, PartitionView, Recipient, Waiter};
use super::{Core, Effects, RoutedRequest, Shard};
use crate::base::cast::usize_from_u32;
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{
    ENTRIES_SIZE_BYTES_MAX, ENTRIES_VISITED_COUNT_MAX, PASS_COUNT_MAX, WAITING_READ_COUNT_MAX,
};
use crate::base::time::Timestamp;
use crate::map::hasher::KeyHash;
use crate::map::operation::cold::encode_query;
use crate::map::operation::{Consistency, Query, QueryOperation, decode_query};
use crate::map::outcome::Outcome;
use crate::map::reads::{AsOf, Scan};
use crate::nopaxos::{Round, Status};
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::request::Kind;
use crate::wire::route::Route;

/// A read that must reflect an index that isn't reached yet, or waits for a round.
#[derive(Debug)]
pub(super) struct WaitingRead {
    pub(super) waiter: Waiter,
    partition: PartitionId,
    pub(super) min_index: Index,
    consistency: Consistency,
    /// The query in the usual encoding.
    query: Bytes,
}

impl WaitingRead {
    fn new(waiter: Waiter, partition: PartitionId, query: &Query<'_>) -> Self {
        let Query { min_index, consistency, .. } = *query;
        Self { waiter, partition, min_index, consistency, query: encode_query(query) }
    }

    pub(super) fn query(&self) -> Query<'_> {
        decode_query(&self.query).expect("it is in the usual encoding")
    }
}

impl Shard {
    /// Hashes the keys of a pass and asks for the memory that it will touch.
    pub(super) fn prefetch(
        &self,
        requests: &[RoutedRequest<'_>],
    ) -> arrayvec::ArrayVec<Option<KeyHash>, PASS_COUNT_MAX> {
        let mut hashes = arrayvec::ArrayVec::new();
        for request in requests {
            let map = request.request.map();
            hashes.push(match (request.route, request.request.key()) {
                (Route::Partition(partition), Some(key)) => {
                    let map_slice = &self.partitions[self.place(partition)].view.map;
                    let hash = self.core.hasher.hash(map, key);
                    map_slice.touch_lines(&self.core.arena, hash);
                    Some(hash)
                }
                _ => None,
            });
        }
        for (request, hash) in requests.iter().zip(&hashes) {
            if let (Route::Partition(partition), Some(hash)) = (request.route, hash) {
                let map_slice = &self.partitions[self.place(partition)].view.map;
                map_slice.touch_record(&self.core.arena, *hash);
            }
        }
        hashes
    }

    /// A client's query of one partition.
    pub(super) fn on_query(
        &mut self,
        partition: PartitionId,
        request: &RoutedRequest<'_>,
        query: &Query<'_>,
        hash: Option<KeyHash>,
        effects: &mut impl Effects,
    ) {
        let asker = Asker {
            to: Recipient::Client(request.origin),
            correlation: request.request.correlation,
            kind: Kind::Query,
            deadline: self.deadline(query.timeout_ms),
        };
        self.core.counters.queries += 1;
        let is_list = matches!(query.operation, QueryOperation::Entries { .. });
        if self.needs_round(query.consistency) {
            if is_list {
                let reader = Reader::Client(asker);
                return self.stream_entries(reader, query, partition..=partition, effects);
            }
            return self.read_in_round(partition, Waiter::Asker(asker), query, effects);
        }
        let as_of = match self.as_of(partition, query.consistency) {
            Ok(index) if index >= query.min_index => index,
            Ok(_) => return self.wait(partition, asker, query, effects),
            Err(message) => {
                let (_, mut world) = self.partition(partition, effects);
                return world.fail(Waiter::Asker(asker), Code::Unavailable, message);
            }
        };
        if is_list {
            let reader = Reader::Client(asker);
            self.stream_entries(reader, query, partition..=partition, effects);
        } else {
            self.core.counters.reads += 1;
            self.answer(partition, asker, query, hash, as_of, effects);
        }
    }

    /// Whether a quorum has to say, after a query came, that it is still in the view (3.7).
    pub(super) fn needs_round(&self, consistency: Consistency) -> bool {
        consistency == Consistency::Linearizable && self.core.config.is_replicated()
    }

    /// The index that a query's answer will reflect, or why there is none.
    pub(super) fn as_of(
        &self,
        partition: PartitionId,
        consistency: Consistency,
    ) -> Result<Index, &'static str> {
        let partition = &self.partitions[self.place(partition)];
        let replica = partition.member.replica();
        match consistency {
            Consistency::Stale if replica.status() == Status::Recovering => {
                Err("the node copies the partition from others; try another one")
            }
            Consistency::Stale => Ok(replica.sync_point()),
            Consistency::Linearizable if replica.status() == Status::Normal => {
                Ok(partition.member.readable())
            }
            Consistency::Linearizable => Err("the partition is between two views; try again"),
        }
    }

    fn answer(
        &mut self,
        partition: PartitionId,
        asker: Asker,
        query: &Query<'_>,
        hash: Option<KeyHash>,
        as_of: Index,
        effects: &mut impl Effects,
    ) {
        let Partition { view, .. } = &self.partitions[self.place(partition)];
        self.core.counters.answers += 1;
        let Some(buffer) = asker.buffer(view, effects) else { return };
        let outcome = self.core.evaluate(view, as_of, query, hash);
        // Straight to where it goes: a value is copied once.
        asker.reply_with(buffer, &view.prefix, as_of, &outcome);
    }

    /// Keeps a query until the index that it asks for is reached.
    fn wait(
        &mut self,
        partition: PartitionId,
        asker: Asker,
        query: &Query<'_>,
        effects: &mut impl Effects,
    ) {
        let refusal = match query.operation {
            QueryOperation::Get { .. } | QueryOperation::Exists { .. }
                if self.core.waiting_reads.len() < WAITING_READ_COUNT_MAX =>
            {
                None
            }
            QueryOperation::Get { .. } | QueryOperation::Exists { .. } => {
                Some((Code::ResourceExhausted, "too many reads wait for their min_index"))
            }
            QueryOperation::Size | QueryOperation::Entries { .. } => {
                Some((Code::Unavailable, "min_index is not reached yet; try again"))
            }
        };
        if let Some((code, message)) = refusal {
            let (_, mut world) = self.partition(partition, effects);
            return world.fail(Waiter::Asker(asker), code, message);
        }
        self.core.sweep_later();
        self.core.reads_due |= self.core.closed;
        let read = WaitingRead::new(Waiter::Asker(asker), partition, query);
        self.core.waiting_reads.push_back(read);
    }

    /// Keeps a linearizable query until a quorum has said, after it came, that it is still in the
    /// view (3.7); or passes it on to the node that can ask one.
    pub(super) fn read_in_round(
        &mut self,
        partition: PartitionId,
        waiter: Waiter,
        query: &Query<'_>,
        effects: &mut impl Effects,
    ) {
        let place = self.place(partition);
        let now = self.core.now;
        let has_room = self.core.round_reads_count < WAITING_READ_COUNT_MAX;
        let Partition { member, view } = &mut self.partitions[place];
        let me = view.group.me();
        let mut world = World::new(view, &mut self.core, effects);
        if !has_room {
            let message = "too many reads wait for their round";
            return world.fail(waiter, Code::ResourceExhausted, message);
        }
        if let Some(round) = member.barrier(now, &mut world) {
            let read = WaitingRead::new(waiter, partition, query);
            let (done, index) = world.view.round_done;
            if round <= done {
                // A quorum of one's own ends a round at once.
                world.answer_read(&read, index);
            } else {
                world.view.round_reads.push_back((round, read));
                world.core.round_reads_count += 1;
            }
            self.core.sweep_later();
        } else if member.sequencer() == Some(me) {
            member.query(now, encode_query(query), waiter, &mut world);
            self.core.sweep_later();
        } else {
            let request = || Passable {
                kind: Kind::Query,
                value: encode_query(query),
                no_forward: query.no_forward,
                is_repeatable: true,
            };
            world.pass_on(waiter, request, member.sequencer());
        }
        self.core.after_step(&mut self.partitions[place]);
    }

    /// Gives up the reads whose round has not come in time; whether others wait.
    pub(super) fn give_up_round_reads(&mut self, effects: &mut impl Effects) -> bool {
        if self.core.round_reads_count == 0 {
            return false;
        }
        let now = self.core.now.monotonic;
        for Partition { view, .. } in &mut self.partitions {
            let waiting = std::mem::take(&mut view.round_reads);
            let is_late = |read: &WaitingRead| read.waiter.deadline() <= now;
            let (late, waiting) = waiting.into_iter().partition(|(_, read)| is_late(read));
            view.round_reads = waiting;
            let late: std::collections::VecDeque<(Round, WaitingRead)> = late;
            self.core.round_reads_count -= late.len();
            let mut world = World::new(view, &mut self.core, effects);
            for (_, read) in late {
                let message = "a quorum has not answered in time; try again";
                world.fail(read.waiter, Code::Unavailable, message);
            }
        }
        self.core.round_reads_count > 0
    }

    /// Answers the waiting reads whose index is reached, and those that have no time left: as many
    /// as a pass has. If there are more it is due again.
    pub(super) fn answer_waiting_reads(&mut self, effects: &mut impl Effects) {
        let (now, closed) = (self.core.now.monotonic, self.core.closed);
        let mut answers_left = PASS_COUNT_MAX;
        for _ in 0..self.core.waiting_reads.len() {
            if answers_left == 0 {
                self.core.reads_due = true;
                return;
            }
            let Some(read) = self.core.waiting_reads.pop_front() else { return };
            let late = closed || read.waiter.deadline() <= now;
            let as_of = self.as_of(read.partition, read.consistency);
            let as_of = as_of.ok().filter(|as_of| *as_of >= read.min_index);
            if as_of.is_none() && !late {
                self.core.waiting_reads.push_back(read);
                continue;
            }
            answers_left -= 1;
            let (_, mut world) = self.partition(read.partition, effects);
            match as_of {
                Some(as_of) => world.answer_read(&read, as_of),
                None => {
                    let message = match closed {
                        true => "the node is going down",
                        false => "min_index was not reached in time",
                    };
                    world.fail(read.waiter, Code::Unavailable, message);
                }
            }
        }
    }
}

impl Core {
    /// As of an index, and by no other time than the log's. This node's clock hides nothing: a tick
    /// makes final what has expired, and until that is durable another node, or this one after a
    /// start with an earlier clock, could show again what was absent.
    pub(super) fn at(&self, index: Index) -> AsOf {
        AsOf { index, time: Timestamp(0), asked: self.now.wall }
    }

    /// What the state of a partition as of an index answers to a query.
    pub(super) fn evaluate<'a>(
        &'a self,
        view: &'a PartitionView,
        as_of: Index,
        query: &Query<'_>,
        hash: Option<KeyHash>,
    ) -> Outcome<'a> {
        let at = self.at(as_of);
        if let QueryOperation::Entries { prefix, start_after, limit, keys_only } = query.operation {
            let scan = Scan {
                prefix,
                start_after,
                limit: usize_from_u32(limit),
                keys_only,
                size_bytes_max: ENTRIES_SIZE_BYTES_MAX,
                visited_count_max: ENTRIES_VISITED_COUNT_MAX,
                cursor_tag: &view.cursor_tag,
            };
            return Outcome::Page(view.map.entries(&self.arena, at, query.map, &scan));
        }
        let key = query.operation.key().unwrap_or_default();
        let hash = hash.unwrap_or_else(|| self.hasher.hash(query.map, key));
        view.map.answer(&self.arena, at, (query.map, &query.operation), hash)
    }
}
