//! Operations on a whole map: asked of every partition, and merged. Not atomic across partitions.

use prost::Message as _;

use super::partition::{Asker, Waiter};
use super::{Core, Effects, RoutedRequest, Shard};
use crate::base::ids::{Index, PartitionId};
use crate::base::payload::ResultBytes;
use crate::map::operation::{Command, Query, QueryOperation};
use crate::map::outcome::Outcome;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::{self, result};
use crate::wire::request::Body;

/// A command to all partitions, until the last of them has answered.
#[derive(Debug)]
pub(super) struct Gather {
    asker: Asker,
    remaining: usize,
    done: usize,
    entries: u64,
    failed: Option<(Code, String)>,
}

impl Shard {
    /// A client's request of a whole map.
    pub(super) fn fan_out(&mut self, request: &RoutedRequest<'_>, effects: &mut impl Effects) {
        let asker = Asker {
            origin: request.origin,
            correlation: request.request.correlation,
            kind: request.request.kind(),
            deadline: self.deadline(request.request.timeout_ms()),
        };
        match request.request.body {
            Body::Command { bytes, command } => self.gather(asker, bytes, &command, effects),
            Body::Query(query) if query.min_index > Index(0) => {
                let message = "min_index: an index belongs to one partition; name it in the target";
                self.core.fail_whole(asker, Code::InvalidArgument, message, effects);
            }
            // Hosts answer it: a shard knows only itself.
            Body::Status(_) => {
                let message = "status: asked of a shard";
                self.core.fail_whole(asker, Code::Unimplemented, message, effects);
            }
            Body::Query(query) => {
                self.core.counters.queries += 1;
                match query.operation {
                    QueryOperation::Entries { .. } => {
                        let all = self.first_partition(&query)..=self.last_partition();
                        self.stream_entries(asker, &query, all, effects);
                    }
                    _ => self.sum_sizes(asker, &query, effects),
                }
            }
        }
    }

    fn last_partition(&self) -> PartitionId {
        PartitionId(self.core.config.partitions.end - 1)
    }

    /// Where a page begins: with the partition of the key that it continues after.
    fn first_partition(&self, query: &Query<'_>) -> PartitionId {
        match query.operation {
            QueryOperation::Entries { start_after, .. } if !start_after.is_empty() => {
                self.core.router.partition_of_key(start_after)
            }
            _ => PartitionId(self.core.config.partitions.start),
        }
    }

    /// A command to every partition.
    fn gather(
        &mut self,
        asker: Asker,
        bytes: &[u8],
        command: &Command<'_>,
        effects: &mut impl Effects,
    ) {
        let gather = self.core.gathers.insert(Gather {
            asker,
            remaining: self.partitions.len(),
            done: 0,
            entries: 0,
            failed: None,
        });
        for partition in self.core.config.partitions.clone() {
            let waiter = Waiter::Gather { gather, deadline: asker.deadline };
            self.submit(PartitionId(partition), waiter, bytes, command, None, effects);
        }
    }

    fn sum_sizes(&mut self, asker: Asker, query: &Query<'_>, effects: &mut impl Effects) {
        let (mut entries, mut bytes) = (0, 0);
        for partition in self.core.config.partitions.clone() {
            let partition = PartitionId(partition);
            let as_of = match self.as_of(partition, query.consistency) {
                Ok(as_of) => as_of,
                Err(message) => {
                    self.core.fail_whole(asker, Code::Unavailable, message, effects);
                    return;
                }
            };
            let map = &self.partitions[self.place(partition)].view.map;
            let size = map.size(as_of, query.map);
            entries += size.entries;
            bytes += size.bytes;
        }
        let mut result = ResultBytes::new();
        Outcome::Sized { entries, bytes }.encode(&mut result);
        self.core.reply_whole(asker, &result, effects);
    }
}

impl Core {
    /// One partition's answer to a command to all of them.
    pub(super) fn gathered(&mut self, place: usize, result: &[u8], effects: &mut impl Effects) {
        let gather = &mut self.gathers[place];
        match v1::Result::decode(result).map(|result| result.outcome) {
            Ok(Some(result::Outcome::Cleared(cleared))) => {
                gather.done += 1;
                gather.entries += cleared.entries;
            }
            Ok(Some(result::Outcome::Error(error))) => {
                gather.failed = Some((error.code(), error.message));
            }
            other => panic!("a clear has no such result: {other:?}"),
        }
        self.gathered_one(place, effects);
    }

    /// One partition's failure.
    pub(super) fn gather_failed(
        &mut self,
        place: usize,
        code: Code,
        message: &str,
        effects: &mut impl Effects,
    ) {
        let gather = &mut self.gathers[place];
        // What may have happened outweighs what certainly has not.
        if gather.failed.as_ref().is_none_or(|(failed, _)| *failed != Code::OutcomeUnknown) {
            gather.failed = Some((code, message.into()));
        }
        self.gathered_one(place, effects);
    }

    fn gathered_one(&mut self, place: usize, effects: &mut impl Effects) {
        self.gathers[place].remaining -= 1;
        if self.gathers[place].remaining > 0 {
            return;
        }
        let Gather { asker, done, entries, failed, .. } = self.gathers.remove(place);
        if let Some((code, message)) = failed {
            if done == 0 {
                self.fail_whole(asker, code, &message, effects);
            } else {
                // A definite error would say that nothing was changed.
                let message = format!("{done} partitions were cleared, others not: {message}");
                self.fail_whole(asker, Code::OutcomeUnknown, &message, effects);
            }
            return;
        }
        let mut result = ResultBytes::new();
        Outcome::Cleared { entries }.encode(&mut result);
        self.reply_whole(asker, &result, effects);
    }

    fn fail_whole(&mut self, asker: Asker, code: Code, message: &str, effects: &mut impl Effects) {
        let prefix = self.prefix.clone();
        self.fail(asker, &prefix, code, message, effects);
    }

    /// Answers for all partitions: with index 0, for there is no one log to speak of.
    fn reply_whole(&mut self, asker: Asker, result: &[u8], effects: &mut impl Effects) {
        self.counters.answers += 1;
        asker.reply(&self.prefix, Index(0), result, effects);
    }
}
