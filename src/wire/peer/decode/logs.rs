//! Messages about logs: votes, views, repairs, recoveries.

use bytes::Bytes;

use crate::base::ids::{Index, MessageId, TermId};
use crate::base::time::Timestamp;
use crate::nopaxos::message::{CheckpointPart, Entry, LogSummary, Message, SlotRange, Wanted};
use crate::proto::atomix::map as proto;
use crate::wire::peer::decode::checks::{
    Context, Refused, command, distance_to, position, position_set, slot, time,
};
use crate::wire::peer::error::Flaw;
use crate::wire::peer::{chunk, filter, ranges, recovery_id};

pub(super) fn view_change(
    context: &Context<'_>,
    vote: proto::ViewChange,
) -> Result<Message, Refused> {
    let term = context.term(&vote.sender_id, vote.view_id)?;
    let last_normal = context.term_or_none(vote.last_normal.as_ref())?;
    if last_normal >= term {
        return Err(Refused::Field("last_normal", Flaw::Contradiction));
    }
    let (log, source_term) =
        summary(vote.first_log_index, vote.last_log_index, &vote.no_op_filter)?;
    expect_no_source(source_term)?;
    let distance = distance_to(log.last, vote.message_id)?;
    let base = Index(log.last.0 - distance.0);
    Ok(Message::ViewChange { term, last_normal, base, log })
}

pub(super) fn start_view(
    context: &Context<'_>,
    start: proto::StartView,
) -> Result<Message, Refused> {
    let term = context.term(&start.sender_id, start.view_id)?;
    if start.message_id != 1 {
        return Err(Refused::Field("message_id", Flaw::Contradiction));
    }
    let (log, source_term) =
        summary(start.first_log_index, start.last_log_index, &start.no_op_filter)?;
    let source_term = source_term.ok_or(Refused::Field("no_op_filter", Flaw::Missing))?;
    if source_term >= term {
        return Err(Refused::Field("no_op_filter", Flaw::Contradiction));
    }
    Ok(Message::StartView { term, source_term, log })
}

pub(super) fn sync_prepare(
    context: &Context<'_>,
    prepare: proto::SyncPrepare,
) -> Result<Message, Refused> {
    let term = context.term(&prepare.sender_id, prepare.view_id)?;
    let (log, source_term) =
        summary(prepare.first_log_index, prepare.last_log_index, &prepare.no_op_filter)?;
    expect_no_source(source_term)?;
    let message_id = distance_to(log.last, prepare.message_id)?;
    Ok(Message::SyncPrepare { term, message_id, log })
}

pub(super) fn view_change_repair(
    context: &Context<'_>,
    repair: proto::ViewChangeRepair,
) -> Result<Message, Refused> {
    let proto::ViewChangeRepair { sender_id, view_id, message_id, checkpoint, indexs } = repair;
    let term = context.term(&sender_id, view_id)?;
    let wanted = wanted(checkpoint, &indexs)?;
    Ok(Message::ViewChangeRepair { term, request: message_id, wanted })
}

pub(super) fn view_repair(
    context: &Context<'_>,
    repair: proto::ViewRepair,
) -> Result<Message, Refused> {
    let proto::ViewRepair { sender_id, view_id, message_id, checkpoint, indexs } = repair;
    let term = context.term(&sender_id, view_id)?;
    let wanted = wanted(checkpoint, &indexs)?;
    Ok(Message::ViewRepair { term, request: message_id, wanted })
}

pub(super) fn sync_repair(
    context: &Context<'_>,
    repair: proto::SyncRepair,
) -> Result<Message, Refused> {
    let proto::SyncRepair { sender_id, view_id, checkpoint, indexs } = repair;
    let term = context.term(&sender_id, view_id)?;
    Ok(Message::SyncRepair { term, wanted: wanted(checkpoint, &indexs)? })
}

pub(super) fn view_change_repair_response(
    context: &Context<'_>,
    end: proto::ViewChangeRepairResponse,
) -> Result<Message, Refused> {
    let term = context.term(&end.sender_id, end.view_id)?;
    let chunk = part(end.checkpoint_index, &end.checkpoint)?;
    let values = slots(&end.indexs)?;
    Ok(Message::ViewChangeRepairResponse { term, request: end.message_id, chunk, values })
}

pub(super) fn view_repair_response(
    context: &Context<'_>,
    response: proto::ViewRepairResponse,
) -> Result<Message, Refused> {
    let term = context.term(&response.sender_id, response.view_id)?;
    let chunk = part(response.checkpoint_index, &response.checkpoint)?;
    let entries = entries("entries", response.entries)?;
    Ok(Message::ViewRepairResponse { term, chunk, entries })
}

pub(super) fn sync_repair_response(
    context: &Context<'_>,
    response: proto::SyncRepairResponse,
) -> Result<Message, Refused> {
    let term = context.term(&response.sender_id, response.view_id)?;
    let chunk = part(response.checkpoint_index, &response.checkpoint)?;
    let entries = entries("entries", response.entries)?;
    Ok(Message::SyncRepairResponse { term, chunk, entries })
}

pub(super) fn recover_response(
    context: &Context<'_>,
    response: proto::RecoverResponse,
) -> Result<Message, Refused> {
    context.check_sender(&response.sender_id)?;
    let attempt = recovery_id::parse(&response.recovery_id)
        .ok_or(Refused::Field("recovery_id", Flaw::Undecodable))?;
    let term = context.term_or_none(response.view_id.as_ref())?;
    let message_id = MessageId(position("message_id", response.message_id)?);
    let chunk = part(response.checkpoint_index, &response.checkpoint)?;
    let entries = entries("log", response.log)?;
    if !context.is_from_leader(term) {
        let unexpected = |field| Err(Refused::Field(field, Flaw::NotLeader));
        if chunk.is_some() {
            return unexpected("checkpoint");
        }
        if !entries.is_empty() {
            return unexpected("log");
        }
    }
    Ok(Message::RecoverResponse { attempt, term, message_id, chunk, entries })
}

/// A log, and the source term in its filter.
fn summary(
    first: u64,
    last: u64,
    no_op_filter: &[u8],
) -> Result<(LogSummary, Option<TermId>), Refused> {
    let first = slot("first_log_index", first)?;
    let last = Index(position("last_log_index", last)?);
    if first > last.next() {
        return Err(Refused::Field("first_log_index", Flaw::Contradiction));
    }
    let flawed = |flaw| Refused::Field("no_op_filter", flaw);
    let filter = filter::decode(no_op_filter, first, last);
    let filter = filter.map_err(|error| flawed(Flaw::Filter(error)))?;
    let chain = filter.chain.ok_or(flawed(Flaw::Missing))?;
    let log = LogSummary { first, last, no_ops: filter.no_ops, chain };
    Ok((log, filter.source_term))
}

/// Only a `StartView` is of logs that were merged.
const fn expect_no_source(source_term: Option<TermId>) -> Result<(), Refused> {
    match source_term {
        None => Ok(()),
        Some(_) => Err(Refused::Field("no_op_filter", Flaw::Unexpected)),
    }
}

fn wanted(checkpoint: u64, indexs: &[u64]) -> Result<Wanted, Refused> {
    let checkpoint = Index(position("checkpoint", checkpoint)?);
    Ok(Wanted { checkpoint, slots: slots(indexs)? })
}

fn slots(indexs: &[u64]) -> Result<Vec<SlotRange>, Refused> {
    let ranges = ranges::decode(indexs);
    let ranges = ranges.map_err(|error| Refused::Field("indexs", Flaw::Ranges(error)))?;
    // They ascend: the last one is the highest.
    if let Some(range) = ranges.last() {
        position("indexs", range.last.0)?;
    }
    Ok(ranges)
}

/// A chunk, or none: then its index is 0.
fn part(index: u64, bytes: &Bytes) -> Result<Option<CheckpointPart>, Refused> {
    let index = Index(position("checkpoint_index", index)?);
    if bytes.is_empty() != (index == Index(0)) {
        return Err(Refused::Field("checkpoint", Flaw::Contradiction));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let part = chunk::decode(index, bytes);
    part.map(Some).map_err(|error| Refused::Field("checkpoint", Flaw::Chunk(error)))
}

fn entries(field: &'static str, entries: Vec<proto::Entry>) -> Result<Vec<Entry>, Refused> {
    let mut checked = Vec::with_capacity(entries.len());
    let mut before = Index(0);
    for entry in entries {
        let entry = self::entry(field, entry)?;
        if entry.index <= before {
            return Err(Refused::Field(field, Flaw::NotAscending));
        }
        before = entry.index;
        checked.push(entry);
    }
    Ok(checked)
}

fn entry(field: &'static str, entry: proto::Entry) -> Result<Entry, Refused> {
    let proto::Entry { index, timestamp, message_num, value } = entry;
    let index = slot(field, index)?;
    let message_id = MessageId(position_set(field, message_num)?);
    // A slot lies as far behind the base of its term as its message id says.
    if message_id.0 > index.0 {
        return Err(Refused::Field(field, Flaw::Contradiction));
    }
    if !value.is_empty() {
        let (timestamp, value) = (time(field, timestamp)?, Some(command(field, value)?));
        return Ok(Entry { index, message_id, timestamp, value });
    }
    if timestamp.is_some() {
        return Err(Refused::Field(field, Flaw::Unexpected));
    }
    Ok(Entry { index, message_id, timestamp: Timestamp(0), value: None })
}
