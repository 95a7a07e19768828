//! Queries: evaluated as of an index that is durable and answered, so that a read never waits for
//! a log write in flight and never shows what a restart could lose (3.7). A group of one needs no
//! round of its members.

use super::entries::Reader;
use super::execute::World;
use super::partition::{Asker, Partition, Waiter};
use super::{Effects, RoutedRequest, Shard};
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{PASS_COUNT_MAX, WAITING_READ_COUNT_MAX};
use crate::map::hasher::KeyHash;
use crate::map::operation::cold::encode_query;
use crate::map::operation::{Consistency, Query, QueryOperation};
use crate::map::reads::AsOf;
use crate::nopaxos::{Round, Status};
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::request::Kind;
use crate::wire::route::Route;

/// A read of a key that must reflect an index that isn't reached yet.
#[derive(Debug)]
pub(super) struct WaitingRead {
    pub(super) asker: Asker,
    partition: PartitionId,
    pub(super) min_index: Index,
    consistency: Consistency,
    map: Box<str>,
    key: Box<[u8]>,
    wants: Wants,
}

/// What a waiting read asks for.
#[derive(Clone, Copy, Debug)]
enum Wants {
    Entry,
    Existence,
    Size,
}

impl WaitingRead {
    /// A copy of a query; `None` if its answer is a stream.
    fn new(asker: Asker, partition: PartitionId, query: &Query<'_>) -> Option<Self> {
        let wants = match query.operation {
            QueryOperation::Get { .. } => Wants::Entry,
            QueryOperation::Exists { .. } => Wants::Existence,
            QueryOperation::Size => Wants::Size,
            QueryOperation::Entries { .. } => return None,
        };
        Some(Self {
            asker,
            partition,
            min_index: query.min_index,
            consistency: query.consistency,
            map: query.map.into(),
            key: query.operation.key().unwrap_or_default().into(),
            wants,
        })
    }

    pub(super) fn query(&self) -> Query<'_> {
        let key = &*self.key;
        let operation = match self.wants {
            Wants::Entry => QueryOperation::Get { key },
            Wants::Existence => QueryOperation::Exists { key },
            Wants::Size => QueryOperation::Size,
        };
        Query {
            map: &self.map,
            consistency: self.consistency,
            min_index: self.min_index,
            timeout_ms: 0,
            operation,
        }
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
            origin: request.origin,
            correlation: request.request.correlation,
            kind: Kind::Query,
            deadline: self.deadline(query.timeout_ms),
        };
        self.core.counters.queries += 1;
        if query.consistency == Consistency::Linearizable && self.core.config.is_replicated() {
            return self.read_in_round(partition, asker, query, effects);
        }
        let as_of = match self.as_of(partition, query.consistency) {
            Ok(index) if index >= query.min_index => index,
            Ok(_) => return self.wait(partition, asker, query, effects),
            Err(message) => {
                let prefix = &self.partitions[self.place(partition)].view.prefix;
                self.core.fail(asker, prefix, Code::Unavailable, message, effects);
                return;
            }
        };
        if matches!(query.operation, QueryOperation::Entries { .. }) {
            let reader = Reader::Client(asker);
            self.stream_entries(reader, query, partition..=partition, effects);
        } else {
            self.core.counters.reads += 1;
            self.answer(partition, asker, query, hash, as_of, effects);
        }
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
            Consistency::Stale => Ok(replica.sync_point()),
            Consistency::Linearizable if self.core.config.is_replicated() => {
                Err("ask one partition for this, by its number")
            }
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
        let place = self.place(partition);
        let Partition { view, .. } = &self.partitions[place];
        let hash = hash.unwrap_or_else(|| {
            self.core.hasher.hash(query.map, query.operation.key().unwrap_or_default())
        });
        let asked = (query.map, &query.operation);
        self.core.counters.answers += 1;
        let at = AsOf { index: as_of, time: self.core.now.wall };
        let outcome = view.map.answer(&self.core.arena, at, asked, hash);
        // Straight to where it goes: a value is copied once.
        asker.reply_with(&view.prefix, as_of, &outcome, effects);
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
        let prefix = &self.partitions[self.place(partition)].view.prefix;
        if let Some((code, message)) = refusal {
            self.core.fail(asker, prefix, code, message, effects);
            return;
        }
        self.core.sweep_later();
        self.core.reads_due |= self.core.closed;
        if let Some(read) = WaitingRead::new(asker, partition, query) {
            self.core.waiting_reads.push_back(read);
        }
    }

    /// Keeps a linearizable query until a quorum has said, after it came, that it is still in the
    /// view (3.7).
    fn read_in_round(
        &mut self,
        partition: PartitionId,
        asker: Asker,
        query: &Query<'_>,
        effects: &mut impl Effects,
    ) {
        let place = self.place(partition);
        let now = self.core.now;
        let has_room = self.core.round_reads_count < WAITING_READ_COUNT_MAX;
        let Partition { member, view } = &mut self.partitions[place];
        let me = view.group.me();
        let mut world = World::new(view, &mut self.core, effects);
        let waiter = Waiter::Client(asker);
        if !has_room {
            let message = "too many reads wait for their round";
            return world.fail(waiter, Code::ResourceExhausted, message);
        }
        let Some(read) = WaitingRead::new(asker, partition, query) else {
            let message = "entries are listed from a stale state only: set the consistency";
            return world.fail(waiter, Code::Unimplemented, message);
        };
        if let Some(round) = member.barrier(now, &mut world) {
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
            member.query(now, encode_query(&read.query()), waiter, &mut world);
            self.core.sweep_later();
        } else {
            world.refuse_to_lead(waiter, member.sequencer());
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
            let is_late = |read: &WaitingRead| read.asker.deadline <= now;
            let (late, waiting) = waiting.into_iter().partition(|(_, read)| is_late(read));
            view.round_reads = waiting;
            let late: std::collections::VecDeque<(Round, WaitingRead)> = late;
            self.core.round_reads_count -= late.len();
            let mut world = World::new(view, &mut self.core, effects);
            for (_, read) in late {
                let message = "a quorum has not answered in time; try again";
                world.fail(Waiter::Client(read.asker), Code::Unavailable, message);
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
            let query = read.query();
            match self.as_of(read.partition, read.consistency) {
                Ok(as_of) if as_of >= read.min_index => {
                    answers_left -= 1;
                    self.answer(read.partition, read.asker, &query, None, as_of, effects);
                }
                _ if closed || read.asker.deadline <= now => {
                    answers_left -= 1;
                    let prefix = &self.partitions[self.place(read.partition)].view.prefix;
                    let message = match closed {
                        true => "the node is going down",
                        false => "min_index was not reached in time",
                    };
                    self.core.fail(read.asker, prefix, Code::Unavailable, message, effects);
                }
                _ => self.core.waiting_reads.push_back(read),
            }
        }
    }
}
