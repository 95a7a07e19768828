//! What members say to each other, in a line for whoever reads a trace.

use std::fmt::Write as _;

use prost::Message as _;

use crate::proto::atomix::map::message::Message as Kind;
use crate::proto::atomix::map::{Entry, Message, ViewId};
use crate::wire::frame::{self, Flag};

/// Says what the frames among these bytes are; it ends where they make no sense.
pub(super) fn transcript(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while let Ok(Some((header, payload))) = frame::next(bytes) {
        let end = payload.end;
        if !text.is_empty() {
            text.push_str(", ");
        }
        match (header.flag, Message::decode(&bytes[payload])) {
            (Flag::Message, Ok(message)) => write_message(&mut text, &message),
            (Flag::Message, Err(_)) => text.push_str("no message"),
            (flag @ (Flag::Ping | Flag::Hello), _) => write(&mut text, format_args!("{flag:?}")),
        }
        bytes = &bytes[end..];
    }
    text
}

fn write(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}

fn write_message(text: &mut String, message: &Message) {
    let name = message.target.as_ref().map_or("", |target| &target.name);
    write(text, format_args!("{name} "));
    match &message.message {
        None => text.push_str("nothing"),
        Some(kind) => write_kind(text, kind),
    }
}

fn write_kind(text: &mut String, kind: &Kind) {
    let term = |view: &Option<ViewId>| view.as_ref().map_or(0, |view| view.term_id);
    match kind {
        Kind::Command(it) => {
            let (term, size) = (it.term_id, it.value.len());
            write(text, format_args!("Command {term}/{:x} of {size}", it.message_id));
        }
        Kind::CommandResponse(it) => {
            let (term, size) = (term(&it.view_id), it.value.len());
            let (number, index) = (it.message_id, it.index);
            write(text, format_args!("CommandResponse {term}/{number:x} at {index} of {size}"));
        }
        Kind::Query(it) => write(text, format_args!("Query {}/{:x}", it.term_id, it.message_id)),
        Kind::QueryResponse(it) => {
            write(text, format_args!("QueryResponse {}/{:x}", term(&it.view_id), it.message_id));
        }
        Kind::SlotLookup(it) => {
            write(text, format_args!("SlotLookup {}/{:x}", term(&it.view_id), it.message_id));
        }
        Kind::GapCommit(it) => {
            write(text, format_args!("GapCommit {} at {}", term(&it.view_id), it.index));
        }
        Kind::GapCommitResponse(it) => {
            write(text, format_args!("GapCommitResponse {} at {}", term(&it.view_id), it.index));
        }
        Kind::ViewChangeRequest(it) => {
            write(text, format_args!("ViewChangeRequest {}", term(&it.view_id)));
        }
        Kind::ViewChange(it) => {
            let (normal, first, last) =
                (term(&it.last_normal), it.first_log_index, it.last_log_index);
            let term = term(&it.view_id);
            write(text, format_args!("ViewChange {term} after {normal}: {first} to {last}"));
        }
        Kind::StartView(it) => {
            let (term, first, last) = (term(&it.view_id), it.first_log_index, it.last_log_index);
            write(text, format_args!("StartView {term}: {first} to {last}"));
        }
        Kind::SyncPrepare(it) => {
            let (term, first, last) = (term(&it.view_id), it.first_log_index, it.last_log_index);
            write(text, format_args!("SyncPrepare {term}: {first} to {last}"));
        }
        Kind::SyncResponse(it) => {
            write(text, format_args!("SyncResponse {} at {}", term(&it.view_id), it.index));
        }
        Kind::SyncCommit(it) => {
            write(text, format_args!("SyncCommit {} at {}", term(&it.view_id), it.sync_point));
        }
        Kind::Recover(it) => {
            let member = &it.sender_id;
            write(text, format_args!("Recover {member} {:.12}", it.recovery_id));
        }
        Kind::RecoverResponse(it) => {
            let (term, number, count) = (term(&it.view_id), it.message_id, it.log.len());
            let id = &it.recovery_id;
            write(text, format_args!("RecoverResponse {id:.12} {term}/{number} with {count}"));
        }
        Kind::Ping(it) => write(text, format_args!("Ping {}", term(&it.view_id))),
        Kind::ViewChangeRepair(_)
        | Kind::ViewChangeRepairResponse(_)
        | Kind::ViewRepair(_)
        | Kind::ViewRepairResponse(_)
        | Kind::SyncRepair(_)
        | Kind::SyncRepairResponse(_) => write_repair(text, kind),
    }
}

/// What is asked for, and what comes of it: of slots in ranges, or of a checkpoint.
fn write_repair(text: &mut String, kind: &Kind) {
    let term = |view: &Option<ViewId>| view.as_ref().map_or(0, |view| view.term_id);
    match kind {
        Kind::ViewChangeRepair(it) => {
            let (term, number, slots) = (term(&it.view_id), it.message_id, &it.indexs);
            let name = "ViewChangeRepair";
            write(text, format_args!("{name} {term}/{number}: {} {slots:?}", it.checkpoint));
        }
        Kind::ViewRepair(it) => {
            let (term, number, slots) = (term(&it.view_id), it.message_id, &it.indexs);
            write(text, format_args!("ViewRepair {term}/{number}: {} {slots:?}", it.checkpoint));
        }
        Kind::SyncRepair(it) => {
            let (term, slots) = (term(&it.view_id), &it.indexs);
            write(text, format_args!("SyncRepair {term}: {} {slots:?}", it.checkpoint));
        }
        Kind::ViewChangeRepairResponse(it) => {
            let (term, number, slots) = (term(&it.view_id), it.message_id, &it.indexs);
            let (index, size) = (it.checkpoint_index, it.checkpoint.len());
            let name = "ViewChangeRepairResponse";
            write(text, format_args!("{name} {term}/{number}: {index} of {size} {slots:?}"));
        }
        Kind::ViewRepairResponse(it) => {
            let (index, size) = (it.checkpoint_index, it.checkpoint.len());
            let (term, slots) = (term(&it.view_id), indexes(&it.entries));
            write(text, format_args!("ViewRepairResponse {term}: {index} of {size} {slots:?}"));
        }
        Kind::SyncRepairResponse(it) => {
            let (index, size) = (it.checkpoint_index, it.checkpoint.len());
            let (term, slots) = (term(&it.view_id), indexes(&it.entries));
            write(text, format_args!("SyncRepairResponse {term}: {index} of {size} {slots:?}"));
        }
        _ => {}
    }
}

/// The first and the last of some slots.
fn indexes(entries: &[Entry]) -> Option<(u64, u64)> {
    Some((entries.first()?.index, entries.last()?.index))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::proto::atomix::map::{Ping, StartView};
    use crate::proto::atomix::primitive::Name;

    #[test]
    fn each_frame_is_named_until_one_makes_no_sense() {
        let mut bytes = BytesMut::new();
        let view_id = || Some(ViewId { leader_id: "a".to_owned(), term_id: 7 });
        let start = StartView { view_id: view_id(), last_log_index: 9, ..StartView::default() };
        let ping = Ping { view_id: view_id(), ..Ping::default() };
        for kind in [Kind::StartView(start), Kind::Ping(ping)] {
            let target = Some(Name { name: "#2".to_owned(), namespace: String::new() });
            frame::encode(&mut bytes, Flag::Message, &Message { target, message: Some(kind) });
        }
        assert_eq!(transcript(&bytes), "#2 StartView 7: 0 to 9, #2 Ping 7");
        bytes.truncate(bytes.len() - 1);
        assert_eq!(transcript(&bytes), "#2 StartView 7: 0 to 9");
    }
}
