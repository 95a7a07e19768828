//! All kinds of messages, from what prost made of them.

use bytes::Bytes;

use crate::base::ids::{Index, TermId};
use crate::nopaxos::message::{Message, Stamped};
use crate::proto::atomix::map as proto;
use crate::proto::atomix::map::message::Message as Kind;
use crate::wire::peer::decode::checks::{
    Context, Refused, command, distance_to, forwarded_id, indexed, not_empty, position,
    position_set, real_term, slot, stamped_id, time,
};
use crate::wire::peer::decode::{logs, member};
use crate::wire::peer::error::{Flaw, PeerError};
use crate::wire::peer::{Body, Forwarded, recovery_id};
use crate::wire::request::FORWARDED;

/// What a message says, checked.
pub(super) fn body(context: &Context<'_>, message: Kind) -> Result<Body, PeerError> {
    let kind = field_name(&message);
    let body = match message {
        Kind::Command(request) => stamped_or_forwarded(request),
        Kind::CommandResponse(response) => command_response(context, response),
        Kind::Query(request) => query(request),
        Kind::QueryResponse(response) => query_response(context, response),
        other => replicas(context, other).map(Body::Message),
    };
    body.map_err(|refused| refused.of(kind))
}

/// What only replicas say.
fn replicas(context: &Context<'_>, message: Kind) -> Result<Message, Refused> {
    match message {
        Kind::SlotLookup(proto::SlotLookup { sender_id, view_id, message_id }) => {
            let term = context.term(&sender_id, view_id)?;
            Ok(Message::SlotLookup { term, message_id: stamped_id(message_id)? })
        }
        Kind::GapCommit(proto::GapCommitRequest { sender_id, view_id, index }) => {
            let term = context.term(&sender_id, view_id)?;
            Ok(Message::GapCommitRequest { term, index: slot("index", index)? })
        }
        Kind::GapCommitResponse(proto::GapCommitResponse { sender_id, view_id, index }) => {
            let term = context.term(&sender_id, view_id)?;
            Ok(Message::GapCommitResponse { term, index: slot("index", index)? })
        }
        Kind::ViewChangeRequest(proto::ViewChangeRequest { sender_id, view_id }) => {
            Ok(Message::ViewChangeRequest { term: context.term(&sender_id, view_id)? })
        }
        Kind::SyncResponse(proto::SyncResponse { sender_id, view_id, index }) => {
            let term = context.term(&sender_id, view_id)?;
            Ok(Message::SyncResponse { term, index: Index(position("index", index)?) })
        }
        Kind::SyncCommit(commit) => {
            let proto::SyncCommit { sender_id, view_id, message_id, sync_point } = commit;
            let term = context.term(&sender_id, view_id)?;
            let sync_point = Index(position("sync_point", sync_point)?);
            let message_id = distance_to(sync_point, message_id)?;
            Ok(Message::SyncCommit { term, message_id, sync_point })
        }
        Kind::Recover(recover) => self::recover(context, &recover),
        Kind::Ping(proto::Ping { sender_id, view_id }) => {
            Ok(Message::Ping { term: context.term(&sender_id, view_id)? })
        }
        Kind::ViewChange(vote) => logs::view_change(context, vote),
        Kind::ViewChangeRepair(repair) => logs::view_change_repair(context, repair),
        Kind::ViewChangeRepairResponse(end) => logs::view_change_repair_response(context, end),
        Kind::StartView(start) => logs::start_view(context, start),
        Kind::ViewRepair(repair) => logs::view_repair(context, repair),
        Kind::ViewRepairResponse(response) => logs::view_repair_response(context, response),
        Kind::SyncPrepare(prepare) => logs::sync_prepare(context, prepare),
        Kind::SyncRepair(repair) => logs::sync_repair(context, repair),
        Kind::SyncRepairResponse(response) => logs::sync_repair_response(context, response),
        Kind::RecoverResponse(response) => logs::recover_response(context, response),
        Kind::Command(_) | Kind::CommandResponse(_) | Kind::Query(_) | Kind::QueryResponse(_) => {
            unreachable!("`body` takes what clients have a part in")
        }
    }
}

fn stamped_or_forwarded(request: proto::CommandRequest) -> Result<Body, Refused> {
    let proto::CommandRequest { term_id, message_id, timestamp, value } = request;
    if term_id == 0 {
        let (correlation, value) = (forwarded_id(message_id)?, command("value", value)?);
        return Ok(Body::Forwarded(Forwarded::Command { correlation, value }));
    }
    Ok(Body::Message(Message::Command(Stamped {
        term: real_term(term_id)?,
        message_id: stamped_id(message_id)?,
        timestamp: time("timestamp", timestamp)?,
        value: command("value", value)?,
    })))
}

fn command_response(
    context: &Context<'_>,
    response: proto::CommandResponse,
) -> Result<Body, Refused> {
    let proto::CommandResponse { message_id, sender_id, view_id, index, value } = response;
    if message_id & FORWARDED != 0 {
        context.check_sender(&sender_id)?;
        let term = context.term_or_none(view_id.as_ref())?;
        return Ok(Body::Forwarded(Forwarded::CommandAnswer {
            correlation: message_id,
            term,
            index: Index(position("index", index)?),
            result: not_empty("value", value)?,
        }));
    }
    let term = context.term(&sender_id, view_id)?;
    let index = Index(position("index", index)?);
    let message_id = distance_to(index, message_id)?;
    // Only a cumulative ack may be of no command: it then says that the base is there.
    if !value.is_empty() {
        stamped_id(message_id.0)?;
    }
    let answer = context.answer(term, &value)?;
    Ok(Body::Message(Message::CommandResponse { term, message_id, index, answer }))
}

fn query(request: proto::QueryRequest) -> Result<Body, Refused> {
    // Nothing is evaluated by the timestamp of a query.
    let proto::QueryRequest { term_id, message_id, timestamp: _, value } = request;
    if term_id == 0 {
        let (correlation, value) = (forwarded_id(message_id)?, not_empty("value", value)?);
        return Ok(Body::Forwarded(Forwarded::Query { correlation, value }));
    }
    let term = real_term(term_id)?;
    let query_id = position_set("message_id", message_id)?;
    let (covers, value) = indexed(value)?;
    Ok(Body::Message(Message::Query { term, query_id, covers, value }))
}

fn query_response(context: &Context<'_>, response: proto::QueryResponse) -> Result<Body, Refused> {
    let proto::QueryResponse { message_id, sender_id, view_id, value } = response;
    if message_id & FORWARDED != 0 {
        context.check_sender(&sender_id)?;
        let term = context.term_or_none(view_id.as_ref())?;
        let (index, result) = indexed(value)?;
        let result = not_empty("value", result)?;
        let answer = Forwarded::QueryAnswer { correlation: message_id, term, index, result };
        return Ok(Body::Forwarded(answer));
    }
    let term = context.term(&sender_id, view_id)?;
    let query_id = position_set("message_id", message_id)?;
    let (index, value) = leaders_value(context, term, value)?;
    Ok(Body::Message(Message::QueryResponse { term, query_id, index, value }))
}

/// The index of a response, and the value that only the leader's has.
fn leaders_value(
    context: &Context<'_>,
    term: TermId,
    value: Bytes,
) -> Result<(Index, Bytes), Refused> {
    let (index, value) = indexed(value)?;
    if !value.is_empty() && !context.is_from_leader(term) {
        return Err(Refused::Field("value", Flaw::NotLeader));
    }
    Ok((index, value))
}

/// The only message that may be about somebody else: it is relayed.
fn recover(context: &Context<'_>, recover: &proto::Recover) -> Result<Message, Refused> {
    let proto::Recover { sender_id, recovery_id } = recover;
    let member =
        member(context.group, sender_id).ok_or(Refused::Field("sender_id", Flaw::NoMember))?;
    let attempt =
        recovery_id::parse(recovery_id).ok_or(Refused::Field("recovery_id", Flaw::Undecodable))?;
    Ok(Message::Recover { member, attempt })
}

/// The field of `Message` that is set.
const fn field_name(message: &Kind) -> &'static str {
    match message {
        Kind::Command(_) => "command",
        Kind::CommandResponse(_) => "command_response",
        Kind::Query(_) => "query",
        Kind::QueryResponse(_) => "query_response",
        Kind::SlotLookup(_) => "slot_lookup",
        Kind::GapCommit(_) => "gap_commit",
        Kind::GapCommitResponse(_) => "gap_commit_response",
        Kind::ViewChangeRequest(_) => "view_change_request",
        Kind::ViewChange(_) => "view_change",
        Kind::ViewChangeRepair(_) => "view_change_repair",
        Kind::ViewChangeRepairResponse(_) => "view_change_repair_response",
        Kind::StartView(_) => "start_view",
        Kind::ViewRepair(_) => "view_repair",
        Kind::ViewRepairResponse(_) => "view_repair_response",
        Kind::SyncPrepare(_) => "sync_prepare",
        Kind::SyncRepair(_) => "sync_repair",
        Kind::SyncRepairResponse(_) => "sync_repair_response",
        Kind::SyncResponse(_) => "sync_response",
        Kind::SyncCommit(_) => "sync_commit",
        Kind::Recover(_) => "recover",
        Kind::RecoverResponse(_) => "recover_response",
        Kind::Ping(_) => "ping",
    }
}
