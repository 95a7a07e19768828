//! Guarantee: our messages are those of the service's document, byte for byte. The golden files
//! were encoded by another implementation of protobuf, those of `atomix.map` with field numbers
//! that were derived from the document and not from our `.proto` (`scripts/golden/make.py`). Each
//! case is decoded, compared value by value under the document's field names, and encoded again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use p2pmap::proto::atomix::{map, primitive};
use p2pmap::proto::p2pmap::v1;
use prost::Message;
use serde_json::{Map, Value};

const ATOMIX_MAP: &str = include_str!("golden/atomix_map.txt");
const P2PMAP_V1: &str = include_str!("golden/p2pmap_v1.txt");

/// A field's value as the golden files show it.
trait Shown {
    /// The value.
    fn shown(&self) -> Value;

    /// Whether the field is left out.
    fn is_absent(&self) -> bool;
}

macro_rules! shown_numbers {
    ($($number:ty)*) => {$(
        impl Shown for $number {
            fn shown(&self) -> Value {
                Value::from(*self)
            }

            fn is_absent(&self) -> bool {
                *self == <$number>::default()
            }
        }
    )*};
}

shown_numbers! { u64 u32 i64 i32 bool }

impl Shown for String {
    fn shown(&self) -> Value {
        Value::from(self.as_str())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl Shown for Bytes {
    fn shown(&self) -> Value {
        Value::from(hex(self))
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Value {
        self.as_ref().map_or(Value::Null, Shown::shown)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> Value {
        self.iter().map(Shown::shown).collect()
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

// Whichever of the two the generated types use.
macro_rules! shown_maps {
    ($($map:ident)*) => {$(
        impl Shown for $map<String, u64> {
            fn shown(&self) -> Value {
                let members = self.iter().map(|(key, value)| (key.clone(), value.shown()));
                members.collect::<Map<_, _>>().into()
            }

            fn is_absent(&self) -> bool {
                self.is_empty()
            }
        }
    )*};
}

shown_maps! { HashMap BTreeMap }

/// Names the fields of each message. A field that is forgotten here doesn't compile.
macro_rules! messages {
    ($(
        $package:literal $module:ident::$name:ident {
            $($field:ident),*
            $(; $oneof:ident: $outer:ident::$inner:ident {
                $($variant:ident $member:literal)*
            })?
        }
    )*) => {
        $(impl Shown for $module::$name {
            fn shown(&self) -> Value {
                let Self { $($field,)* $($oneof,)? } = self;
                #[allow(unused_mut)]
                let mut fields: Map<String, Value> = Map::new();
                $(if !$field.is_absent() {
                    fields.insert(stringify!($field).to_owned(), $field.shown());
                })*
                $(match $oneof {
                    None => {}
                    $(Some($module::$outer::$inner::$variant(member)) => {
                        fields.insert($member.to_owned(), member.shown());
                    })*
                })?
                fields.into()
            }

            fn is_absent(&self) -> bool {
                false
            }
        })*

        /// Each message by its name, with the check of a case and its fields.
        const MESSAGES: &[(&str, fn(&Case<'_>), &[&str])] = &[
            $((
                concat!($package, ".", stringify!($name)),
                check::<$module::$name>,
                &[$(stringify!($field),)* $($($member,)*)?],
            ),)*
        ];
    };
}

messages! {
    "atomix.primitive" primitive::Name { name, namespace }
    "atomix.map" map::CommandClose { message_id, sender_id, view_id }
    "atomix.map" map::CommandRequest { term_id, message_id, timestamp, value }
    "atomix.map" map::CommandResponse { message_id, sender_id, view_id, index, value }
    "atomix.map" map::Entry { index, timestamp, message_num, value }
    "atomix.map" map::GapCommitRequest { sender_id, view_id, index }
    "atomix.map" map::GapCommitResponse { sender_id, view_id, index }
    "atomix.map" map::Indexed { index, value }
    "atomix.map" map::Message {
        target;
        message: message::Message {
            Command "command"
            CommandResponse "command_response"
            Query "query"
            QueryResponse "query_response"
            SlotLookup "slot_lookup"
            GapCommit "gap_commit"
            GapCommitResponse "gap_commit_response"
            ViewChangeRequest "view_change_request"
            ViewChange "view_change"
            ViewChangeRepair "view_change_repair"
            ViewChangeRepairResponse "view_change_repair_response"
            StartView "start_view"
            ViewRepair "view_repair"
            ViewRepairResponse "view_repair_response"
            SyncPrepare "sync_prepare"
            SyncRepair "sync_repair"
            SyncRepairResponse "sync_repair_response"
            SyncResponse "sync_response"
            SyncCommit "sync_commit"
            Recover "recover"
            RecoverResponse "recover_response"
            Ping "ping"
        }
    }
    "atomix.map" map::Ping { sender_id, view_id }
    "atomix.map" map::QueryClose { message_id, sender_id, view_id }
    "atomix.map" map::QueryRequest { term_id, message_id, timestamp, value }
    "atomix.map" map::QueryResponse { message_id, sender_id, view_id, value }
    "atomix.map" map::Recover { sender_id, recovery_id }
    "atomix.map" map::RecoverResponse {
        sender_id, recovery_id, view_id, message_id, checkpoint_index, checkpoint, log
    }
    "atomix.map" map::SlotLookup { sender_id, view_id, message_id }
    "atomix.map" map::StartView {
        sender_id, view_id, message_id, no_op_filter, first_log_index, last_log_index
    }
    "atomix.map" map::SyncCommit { sender_id, view_id, message_id, sync_point }
    "atomix.map" map::SyncPrepare {
        sender_id, view_id, message_id, no_op_filter, first_log_index, last_log_index
    }
    "atomix.map" map::SyncRepair { sender_id, view_id, checkpoint, indexs }
    "atomix.map" map::SyncRepairResponse {
        sender_id, view_id, checkpoint_index, checkpoint, entries
    }
    "atomix.map" map::SyncResponse { sender_id, view_id, index }
    "atomix.map" map::ViewChange {
        sender_id, view_id, last_normal, message_id, no_op_filter, first_log_index, last_log_index
    }
    "atomix.map" map::ViewChangeRepair { sender_id, view_id, message_id, checkpoint, indexs }
    "atomix.map" map::ViewChangeRepairResponse {
        sender_id, view_id, message_id, checkpoint_index, checkpoint, indexs
    }
    "atomix.map" map::ViewChangeRequest { sender_id, view_id }
    "atomix.map" map::ViewId { leader_id, term_id }
    "atomix.map" map::ViewRepair { sender_id, view_id, message_id, checkpoint, indexs }
    "atomix.map" map::ViewRepairResponse {
        sender_id, view_id, checkpoint_index, checkpoint, entries
    }

    "p2pmap.v1" v1::Command {
        map, session_id, sequence, ack_below, timeout_ms, no_forward;
        operation: command::Operation {
            Put "put"
            Remove "remove"
            Clear "clear"
            OpenSession "open_session"
            KeepSession "keep_session"
            CloseSession "close_session"
            Tick "tick"
        }
    }
    "p2pmap.v1" v1::Put { key, value, condition, ttl_ms, keep_ttl, want_previous }
    "p2pmap.v1" v1::Remove { key, condition, want_previous }
    "p2pmap.v1" v1::Clear {}
    "p2pmap.v1" v1::OpenSession { ttl_ms }
    "p2pmap.v1" v1::KeepSession {}
    "p2pmap.v1" v1::CloseSession {}
    "p2pmap.v1" v1::Tick {}
    "p2pmap.v1" v1::Condition {
        ;
        condition: condition::Condition {
            Absent "absent" Present "present" Version "version" Value "value"
        }
    }
    "p2pmap.v1" v1::Query {
        map, consistency, min_index, timeout_ms, no_forward;
        operation: query::Operation {
            Get "get" Exists "exists" Size "size" Entries "entries" Status "status"
            TransferLeadership "transfer_leadership"
        }
    }
    "p2pmap.v1" v1::Get { key }
    "p2pmap.v1" v1::Exists { key }
    "p2pmap.v1" v1::Size {}
    "p2pmap.v1" v1::Entries { prefix, start_after, limit, keys_only }
    "p2pmap.v1" v1::Status { partitions, first_partition, digests }
    "p2pmap.v1" v1::TransferLeadership { to }
    "p2pmap.v1" v1::LeadershipTransfer { term }
    "p2pmap.v1" v1::MemberAddress { name, address }
    "p2pmap.v1" v1::IndexedDigest { index, digest }
    "p2pmap.v1" v1::Versioned { value, version, created_ms, updated_ms, ttl_ms }
    "p2pmap.v1" v1::Result {
        ;
        outcome: result::Outcome {
            Error "error"
            Written "written"
            Removed "removed"
            Cleared "cleared"
            Found "found"
            Exists "exists"
            Size "size"
            Page "page"
            Session "session"
            Status "status"
            LeadershipTransfer "leadership_transfer"
            CommandClose "command_close"
            QueryClose "query_close"
        }
    }
    "p2pmap.v1" v1::Written { version, previous }
    "p2pmap.v1" v1::Removed { existed, previous }
    "p2pmap.v1" v1::Cleared { entries }
    "p2pmap.v1" v1::Session { session_id, ttl_ms }
    "p2pmap.v1" v1::Found { entry }
    "p2pmap.v1" v1::Existence { exists }
    "p2pmap.v1" v1::Sized { entries, bytes }
    "p2pmap.v1" v1::Page { items, next }
    "p2pmap.v1" v1::NodeStatus {
        version, cluster, member, uptime_ms, condition, durability, idle, data_directory,
        partition_count, shards, partitions, next_partition, distributions, commit,
        members
    }
    "p2pmap.v1" v1::ShardStatus {
        shard, core, sleeping, connections, requests_in_flight, answers, commands, queries,
        refusals, drops, log_used_bytes, log_max_bytes, log_client_room_bytes, map_used_bytes,
        map_reserved_bytes, map_max_bytes, entries, entry_bytes, stalls, stalls_off_core, stands,
        checkpoints, checkpoint_failures
    }
    "p2pmap.v1" v1::Distribution { name, sum, max, buckets, counts }
    "p2pmap.v1" v1::PartitionStatus {
        partition, shard, activity, term, last, sync_point, checkpoint, entries, entry_bytes,
        leader, digests
    }
    "p2pmap.v1" v1::KeyValue { key, entry }
    "p2pmap.v1" v1::Error { code, message, hint, current }
    "p2pmap.v1" v1::Hint { term, member, address }
    "p2pmap.v1" v1::Hello {
        cluster, member, incarnation, crash_vector, configuration_hash, protocol_version, shard,
        shards, boot_epoch, process_nonce, proof, challenge, partitions, lane,
        clock_ns
    }
    "p2pmap.v1" v1::PartitionState { partition, term, last_normal, durable_last, lives }
}

impl Shown for prost_types::Timestamp {
    fn shown(&self) -> Value {
        let Self { seconds, nanos } = self;
        let mut fields = Map::new();
        for (name, absent, value) in [
            ("seconds", seconds.is_absent(), seconds.shown()),
            ("nanos", nanos.is_absent(), nanos.shown()),
        ] {
            if !absent {
                fields.insert(name.to_owned(), value);
            }
        }
        fields.into()
    }

    fn is_absent(&self) -> bool {
        false
    }
}

/// A line of a golden file.
#[derive(Debug)]
struct Case<'a> {
    message: &'a str,
    name: &'a str,
    /// Encoding the decoded message gives the same bytes.
    same: bool,
    bytes: Vec<u8>,
    value: Value,
}

impl<'a> Case<'a> {
    fn parse(line: &'a str) -> Self {
        let columns: Vec<&str> = line.split('\t').collect();
        let [message, name, mode, hex, json] = columns[..] else { panic!("five columns: {line}") };
        let same = match mode {
            "=" => true,
            "<" => false,
            _ => panic!("no such mode: {line}"),
        };
        let bytes = if hex == "-" { Vec::new() } else { unhex(hex) };
        let value = serde_json::from_str(json).expect("the last column is JSON");
        Self { message, name, same, bytes, value }
    }
}

fn cases(text: &str) -> impl Iterator<Item = Case<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).map(Case::parse)
}

fn check<M: Message + Shown + Default>(case: &Case<'_>) {
    let at = format!("{} {}", case.message, case.name);
    let decoded = M::decode(&case.bytes[..]).unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(decoded.shown(), case.value, "{at}");
    let encoded = decoded.encode_to_vec();
    if case.same {
        assert_eq!(hex(&encoded), hex(&case.bytes), "{at}");
    } else {
        let again = M::decode(&encoded[..]).expect("what we encode we decode");
        assert_eq!(again.shown(), case.value, "{at}, encoded anew");
    }
    // And no shorter prefix is taken for the whole, unless it ends between two fields.
    for end in 0..case.bytes.len() {
        if let Ok(part) = M::decode(&case.bytes[..end]) {
            assert_ne!(part.shown(), case.value, "{at}, cut at {end}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "hex has two digits a byte");
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Checks all cases of a file, and that it has a case for each field of each message.
fn check_file(text: &str, packages: &[&str]) {
    let messages: BTreeMap<&str, _> = MESSAGES.iter().map(|row| (row.0, row)).collect();
    let mut fields_met: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for case in cases(text) {
        let (name, check, _) = messages
            .get(case.message)
            .unwrap_or_else(|| panic!("{} is missing in this test", case.message));
        check(&case);
        let fields = fields_met.entry(name).or_default();
        if case.value.as_object().is_some_and(|fields| fields.keys().eq([case.name])) {
            fields.insert(case.name);
        }
    }
    for (name, _, fields) in MESSAGES {
        if packages.iter().any(|package| name.starts_with(package)) {
            let met = fields_met.remove(name).unwrap_or_else(|| panic!("no cases of {name}"));
            assert_eq!(met, fields.iter().copied().collect(), "{name}: a case for each field");
        }
    }
    assert!(fields_met.is_empty(), "the other packages have another file");
}

#[test]
fn messages_of_the_service_are_those_of_its_document() {
    check_file(ATOMIX_MAP, &["atomix."]);
    let messages = MESSAGES.iter().filter(|row| row.0.starts_with("atomix.map."));
    assert_eq!(messages.count(), 28);
}

#[test]
fn messages_of_the_map_are_as_another_implementation_encodes_them() {
    check_file(P2PMAP_V1, &["p2pmap."]);
}

#[test]
fn message_has_a_case_for_each_of_the_22_members_of_its_oneof() {
    let members: BTreeSet<String> = cases(ATOMIX_MAP)
        .filter(|case| case.message == "atomix.map.Message")
        .filter_map(|case| case.name.strip_prefix("all.").map(str::to_owned))
        .collect();
    assert_eq!(members.len(), 22);
}

#[test]
fn repeated_numbers_are_packed_when_written_and_read_in_both_forms() {
    for message in ["SyncRepair", "ViewChangeRepair", "ViewChangeRepairResponse", "ViewRepair"] {
        let name = format!("atomix.map.{message}");
        let forms: BTreeMap<&str, bool> = cases(ATOMIX_MAP)
            .filter(|case| case.message == name)
            .filter_map(|case| Some((case.name.strip_prefix("indexs")?, case.same)))
            .collect();
        let expected = [("", true), (".mixed", false), (".packs", false), (".unpacked", false)];
        assert_eq!(forms, BTreeMap::from(expected), "{name}");
    }
}
