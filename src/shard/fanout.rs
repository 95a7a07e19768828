//! Operations on a whole map: asked of every partition, and merged. Not atomic across partitions.
//!
//! The shard of the client asks the others for their shares and merges them with its own. Each
//! answers for its partitions as it would if there were no others.

use bytes::BytesMut;
use prost::Message as _;

use super::entries::Reader;
use super::partition::{self, Asker, Waiter};
use super::share::{ShareAnswer, ShareRequest};
use super::{Core, Effects, RoutedRequest, Shard};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{AskId, Index, Origin, PartitionId, ShardId};
use crate::base::limits::{GATHER_COUNT_MAX, SHARE_COUNT_MAX};
use crate::base::payload::ResultBytes;
use crate::base::time::Monotonic;
use crate::map::operation::cold::encode_query;
use crate::map::operation::{
    Command, Operation, Query, QueryOperation, decode_query, with_command,
};
use crate::map::outcome::Outcome;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::{self, result};
use crate::wire::request::Body;

/// Why nothing more is asked.
pub(super) const BEHIND: &str = "a shard of the node is behind with whole maps; try again";
/// Why a part of an answer is missing.
const NO_ANSWER: &str = "a shard of the node did not answer in time";
/// The same where it may have done what it was asked for.
const NO_CERTAINTY: &str = "the write was not durable in time; it may or may not take effect";

/// Something asked of all partitions, until the last of them has answered.
#[derive(Debug)]
pub(super) struct Gather {
    to: Recipient,
    what: Whole,
    /// Distinguishes those that have had this place.
    number: u32,
    deadline: Monotonic,
    /// Partitions of this shard, and other shards, that haven't answered.
    remaining: usize,
    /// The other shards among them.
    shares_pending: usize,
    /// Partitions that have done it.
    done: usize,
    entries: u64,
    size_bytes: u64,
    failed: Option<(Code, String)>,
}

/// Who gets what was gathered.
#[derive(Clone, Copy, Debug)]
enum Recipient {
    Client(Asker),
    /// Another shard, which merges it with others.
    Shard(Origin),
}

/// What is gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Clear,
    Size,
}

impl Shard {
    /// A client's request of a whole map.
    pub(super) fn fan_out(&mut self, request: &RoutedRequest<'_>, effects: &mut impl Effects) {
        let asker = Asker {
            to: partition::Recipient::Client(request.origin),
            correlation: request.request.correlation,
            kind: request.request.kind(),
            deadline: self.deadline(request.request.timeout_ms()),
        };
        let streams = matches!(
            request.request.body,
            Body::Query(Query { operation: QueryOperation::Entries { .. }, .. })
        );
        if !streams && self.core.gathers.len() >= GATHER_COUNT_MAX {
            let message = "too many operations on whole maps are under way; try again";
            self.core.fail_whole(asker, Code::ResourceExhausted, message, effects);
            return;
        }
        if !streams && !self.core.may_ask_others() {
            self.core.fail_whole(asker, Code::ResourceExhausted, BEHIND, effects);
            return;
        }
        match request.request.body {
            Body::Command { bytes, command } => {
                let to = Recipient::Client(asker);
                self.gather(to, asker.deadline, bytes, &command, effects);
            }
            Body::Query(query) if query.min_index > Index(0) => {
                let message = "min_index: an index belongs to one partition; name it in the target";
                self.core.fail_whole(asker, Code::InvalidArgument, message, effects);
            }
            // Hosts answer it: a shard knows only itself.
            Body::Status(_) | Body::Transfer(_) => {
                let message = "asked of a shard, and not of a node or a partition";
                self.core.fail_whole(asker, Code::Unimplemented, message, effects);
            }
            Body::Query(query) => {
                self.core.counters.queries += 1;
                match query.operation {
                    QueryOperation::Entries { .. } => {
                        let last = PartitionId(self.core.config.partition_count - 1);
                        let all = self.first_partition(&query)..=last;
                        self.stream_entries(Reader::Client(asker), &query, all, effects);
                    }
                    _ => self.sum_sizes(Recipient::Client(asker), &query, effects),
                }
            }
        }
    }

    /// Another shard asks for this one's share.
    pub(super) fn on_share_asked(
        &mut self,
        origin: Origin,
        request: &[u8],
        effects: &mut impl Effects,
    ) {
        let query = |bytes| decode_query(bytes).expect("shards encode in the usual way");
        match ShareRequest::decode(request) {
            ShareRequest::Command(bytes) => with_command(bytes, usize::MAX, |command| {
                let command = command.expect("the other shard has checked it");
                let deadline = self.deadline(command.timeout_ms);
                self.gather(Recipient::Shard(origin), deadline, bytes, &command, effects);
            }),
            ShareRequest::Query(bytes) => {
                self.sum_sizes(Recipient::Shard(origin), &query(bytes), effects);
            }
            ShareRequest::Entries(part, bytes) => {
                self.stream_part(origin, part, &query(bytes), effects);
            }
        }
    }

    /// Another shard's share.
    pub(super) fn on_share_answered(
        &mut self,
        ask: AskId,
        answer: &[u8],
        effects: &mut impl Effects,
    ) {
        self.core.shares_pending -= 1;
        let answer = ShareAnswer::decode(answer);
        if let ShareAnswer::More { .. } | ShareAnswer::Ended { .. } = answer {
            self.on_part(ask, &answer, effects);
        } else {
            self.core.gathered_share(ask, &answer, effects);
        }
    }

    /// Where a page begins: with the partition of the key that it continues after.
    fn first_partition(&self, query: &Query<'_>) -> PartitionId {
        match query.operation {
            QueryOperation::Entries { start_after, .. } if !start_after.is_empty() => {
                self.core.router.partition_of_key(start_after)
            }
            _ => PartitionId(0),
        }
    }

    /// A command to every partition.
    fn gather(
        &mut self,
        to: Recipient,
        deadline: Monotonic,
        bytes: &[u8],
        command: &Command<'_>,
        effects: &mut impl Effects,
    ) {
        let gather = self.core.begin_gather(to, Whole::Clear, deadline);
        self.core.gathers[gather].remaining = self.partitions.len();
        self.core.ask_others(gather, &ShareRequest::Command(&encoded_command(command)), effects);
        for partition in self.core.config.partitions.clone() {
            let waiter = Waiter::Gather { gather, deadline };
            self.submit(PartitionId(partition), waiter, bytes, command, None, effects);
        }
    }

    fn sum_sizes(&mut self, to: Recipient, query: &Query<'_>, effects: &mut impl Effects) {
        let deadline = self.deadline(query.timeout_ms);
        let gather = self.core.begin_gather(to, Whole::Size, deadline);
        if self.needs_round(query.consistency) {
            self.core.gathers[gather].remaining = self.partitions.len();
            self.core.ask_others(gather, &ShareRequest::Query(&encode_query(query)), effects);
            for partition in self.core.config.partitions.clone() {
                let waiter = Waiter::Gather { gather, deadline };
                self.read_in_round(PartitionId(partition), waiter, query, effects);
            }
            return;
        }
        self.core.gathers[gather].remaining = 1;
        match self.sum_own_sizes(query) {
            Ok((entries, size_bytes)) => {
                self.core.ask_others(gather, &ShareRequest::Query(&encode_query(query)), effects);
                let gather = &mut self.core.gathers[gather];
                gather.entries += entries;
                gather.size_bytes += size_bytes;
            }
            Err(message) => {
                self.core.gathers[gather].failed = Some((Code::Unavailable, message.into()));
            }
        }
        self.core.gathered_one(gather, effects);
    }

    fn sum_own_sizes(&self, query: &Query<'_>) -> Result<(u64, u64), &'static str> {
        let (mut entries, mut size_bytes) = (0, 0);
        for partition in self.core.config.partitions.clone() {
            let partition = PartitionId(partition);
            let as_of = self.as_of(partition, query.consistency)?;
            let map = &self.partitions[self.place(partition)].view.map;
            let size = map.size(as_of, query.map);
            entries += size.entries;
            size_bytes += size.bytes;
        }
        Ok((entries, size_bytes))
    }
}

impl Core {
    fn begin_gather(&mut self, to: Recipient, what: Whole, deadline: Monotonic) -> usize {
        let number = self.next_ask_number();
        self.gathers.insert(Gather {
            to,
            what,
            number,
            deadline,
            remaining: 0,
            shares_pending: 0,
            done: 0,
            entries: 0,
            size_bytes: 0,
            failed: None,
        })
    }

    /// A number for what other shards will be asked.
    pub(super) fn next_ask_number(&mut self) -> u32 {
        self.asks_count = self.asks_count.wrapping_add(1);
        self.asks_count
    }

    /// Whether other shards may be asked for something: what they haven't answered is bounded,
    /// whether or not those for whom they were asked still wait.
    pub(super) fn may_ask_others(&self) -> bool {
        let others = usize::from(self.config.shard_count - 1);
        others == 0 || self.shares_pending + others <= SHARE_COUNT_MAX * others
    }

    /// Asks another shard for its share of something.
    pub(super) fn ask(
        &mut self,
        to: ShardId,
        ask: AskId,
        request: &[u8],
        effects: &mut impl Effects,
    ) {
        self.shares_pending += 1;
        effects.ask(to, ask, request);
    }

    /// Asks all other shards for their shares of what a client wants.
    fn ask_others(&mut self, place: usize, request: &ShareRequest<'_>, effects: &mut impl Effects) {
        let Gather { to, number, .. } = self.gathers[place];
        if let Recipient::Shard(_) = to {
            return;
        }
        let me = self.config.shard;
        let others = (0..self.config.shard_count).map(ShardId).filter(|shard| *shard != me);
        let ask = AskId { place: u32_from(place), number };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        for other in others {
            self.gathers[place].remaining += 1;
            self.gathers[place].shares_pending += 1;
            self.ask(other, ask, &bytes, effects);
        }
        if self.gathers[place].shares_pending > 0 {
            self.sweep_later();
        }
    }

    /// One partition's answer to something asked of all of them.
    pub(super) fn gathered(&mut self, place: usize, result: &[u8], effects: &mut impl Effects) {
        let gather = &mut self.gathers[place];
        match v1::Result::decode(result).map(|result| result.outcome) {
            Ok(Some(result::Outcome::Cleared(cleared))) => {
                gather.done += 1;
                gather.entries += cleared.entries;
            }
            Ok(Some(result::Outcome::Size(size))) => {
                gather.entries += size.entries;
                gather.size_bytes += size.bytes;
            }
            Ok(Some(result::Outcome::Error(error))) => {
                gather.failed = Some((error.code(), error.message));
            }
            // Another node has said so: of a later release, perhaps.
            _ => gather.fail(Code::Internal, "a partition has answered with something else"),
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
        self.gathers[place].fail(code, message);
        self.gathered_one(place, effects);
    }

    /// Another shard's share. It may come when nobody waits for it any more.
    fn gathered_share(&mut self, ask: AskId, answer: &ShareAnswer<'_>, effects: &mut impl Effects) {
        let place = usize_from_u32(ask.place);
        let found = self.gathers.get_mut(place).filter(|gather| gather.number == ask.number);
        let Some(gather) = found.filter(|gather| gather.shares_pending > 0) else { return };
        gather.shares_pending -= 1;
        match *answer {
            ShareAnswer::Cleared { partition_count, entries, failed } => {
                gather.done += partition_count;
                gather.entries += entries;
                if let Some((code, message)) = failed {
                    gather.fail(code, message);
                }
            }
            ShareAnswer::Sized { entries, size_bytes } => {
                gather.entries += entries;
                gather.size_bytes += size_bytes;
            }
            ShareAnswer::Failed(code, message) => gather.fail(code, message),
            ShareAnswer::More { .. } | ShareAnswer::Ended { .. } => {
                panic!("a gather asks for no entries")
            }
        }
        self.gathered_one(place, effects);
    }

    /// Gives up the shares whose time is up. True: others are still waited for.
    pub(super) fn give_up_shares(&mut self, effects: &mut impl Effects) -> bool {
        let now = self.now.monotonic;
        let pending = self.gathers.iter().filter(|(_, gather)| gather.shares_pending > 0);
        let pending: Vec<usize> = pending.map(|(place, _)| place).collect();
        let mut waiting = false;
        for place in pending {
            let gather = &mut self.gathers[place];
            if gather.deadline > now {
                waiting = true;
                continue;
            }
            let missing = std::mem::take(&mut gather.shares_pending);
            match gather.what {
                Whole::Clear => gather.fail(Code::OutcomeUnknown, NO_CERTAINTY),
                Whole::Size => gather.fail(Code::Unavailable, NO_ANSWER),
            }
            // The last of them is counted as the one that answers.
            gather.remaining -= missing - 1;
            self.gathered_one(place, effects);
        }
        waiting
    }

    fn gathered_one(&mut self, place: usize, effects: &mut impl Effects) {
        self.gathers[place].remaining -= 1;
        if self.gathers[place].remaining > 0 {
            return;
        }
        let gather = self.gathers.remove(place);
        match gather.to {
            Recipient::Client(asker) => self.reply_gathered(asker, &gather, effects),
            Recipient::Shard(origin) => {
                if let Some(buffer) = effects.reply_buffer(origin, true) {
                    gather.share().encode(buffer);
                }
            }
        }
    }

    fn reply_gathered(&mut self, asker: Asker, gather: &Gather, effects: &mut impl Effects) {
        let Gather { what, done, entries, size_bytes, .. } = *gather;
        if let Some((code, message)) = &gather.failed {
            if done == 0 {
                self.fail_whole(asker, *code, message, effects);
            } else {
                // A definite error would say that nothing was changed.
                let message = format!("{done} partitions were cleared, others not: {message}");
                self.fail_whole(asker, Code::OutcomeUnknown, &message, effects);
            }
            return;
        }
        let mut result = ResultBytes::new();
        match what {
            Whole::Clear => Outcome::Cleared { entries }.encode(&mut result),
            Whole::Size => Outcome::Sized { entries, bytes: size_bytes }.encode(&mut result),
        }
        self.reply_whole(asker, &result, effects);
    }

    fn fail_whole(&mut self, asker: Asker, code: Code, message: &str, effects: &mut impl Effects) {
        let prefix = self.prefix.clone();
        self.fail(asker, &prefix, code, message, effects);
    }

    /// Answers for all partitions: with index 0, for there is no one log to speak of.
    fn reply_whole(&mut self, asker: Asker, result: &[u8], effects: &mut impl Effects) {
        self.counters.answers += 1;
        if let Some(buffer) = asker.client_buffer(true, effects) {
            asker.reply(buffer, &self.prefix, Index(0), result);
        }
    }
}

impl Gather {
    fn fail(&mut self, code: Code, message: &str) {
        // What may have happened outweighs what certainly has not.
        if self.failed.as_ref().is_none_or(|(failed, _)| *failed != Code::OutcomeUnknown) {
            self.failed = Some((code, message.into()));
        }
    }

    /// What was gathered, for the shard that asked for it.
    fn share(&self) -> ShareAnswer<'_> {
        let failed = self.failed.as_ref().map(|(code, message)| (*code, message.as_str()));
        let Self { done, entries, size_bytes, .. } = *self;
        match (self.what, failed) {
            (Whole::Clear, failed) => {
                ShareAnswer::Cleared { partition_count: done, entries, failed }
            }
            (Whole::Size, None) => ShareAnswer::Sized { entries, size_bytes },
            (Whole::Size, Some((code, message))) => ShareAnswer::Failed(code, message),
        }
    }
}

/// A command to all partitions in the usual encoding, whatever the client's was.
fn encoded_command(command: &Command<'_>) -> Vec<u8> {
    let Command { map, session, timeout_ms, no_forward, operation } = *command;
    assert!(session.is_none(), "the router refuses it: a session belongs to one partition");
    assert!(operation == Operation::Clear, "only this is asked of all partitions");
    let operation = Some(v1::command::Operation::Clear(v1::Clear {}));
    let map = map.to_owned();
    let message = v1::Command { map, timeout_ms, no_forward, operation, ..v1::Command::default() };
    message.encode_to_vec()
}
