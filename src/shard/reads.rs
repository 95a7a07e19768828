//! Queries: evaluated as of an index that is durable and answered, so that a read never waits for
//! a log write in flight and never shows what a restart could lose (3.7). A group of one needs no
//! round of its members.

use super::entries::Reader;
use super::partition::{Asker, Partition};
use super::{Effects, RoutedRequest, Shard};
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{PASS_COUNT_MAX, WAITING_READ_COUNT_MAX};
use crate::map::hasher::KeyHash;
use crate::map::operation::{Consistency, Query, QueryOperation};
use crate::nopaxos::Status;
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::request::Kind;
use crate::wire::route::Route;

/// A read of a key that must reflect an index that isn't reached yet.
#[derive(Debug)]
pub(super) struct WaitingRead {
    asker: Asker,
    partition: PartitionId,
    min_index: Index,
    consistency: Consistency,
    map: Box<str>,
    key: Box<[u8]>,
    wants_entry: bool,
}

impl WaitingRead {
    fn query(&self) -> Query<'_> {
        let key = &*self.key;
        let operation = match self.wants_entry {
            true => QueryOperation::Get { key },
            false => QueryOperation::Exists { key },
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
        match consistency {
            Consistency::Stale => Ok(partition.replica.sync_point()),
            Consistency::Linearizable if partition.replica.status() == Status::Normal => {
                Ok(partition.readable())
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
        let outcome = view.map.answer(&self.core.arena, as_of, asked, hash);
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
        self.core.waiting_reads.push_back(WaitingRead {
            asker,
            partition,
            min_index: query.min_index,
            consistency: query.consistency,
            map: query.map.into(),
            key: query.operation.key().unwrap_or_default().into(),
            wants_entry: matches!(query.operation, QueryOperation::Get { .. }),
        });
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
