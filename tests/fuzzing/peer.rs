//! What members may say to each other, of each kind; and the same as prost's types, written without
//! a look at the code under test.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use p2pmap::base::chain::Chain;
use p2pmap::base::ids::{Incarnation, Index, MemberId, MessageId, PartitionId, TermId};
use p2pmap::base::limits::FRAME_PREFIX_SIZE_BYTES;
use p2pmap::base::prng::Prng;
use p2pmap::base::time::Timestamp;
use p2pmap::nopaxos::Group;
use p2pmap::nopaxos::message::{
    Answer, CheckpointPart, Entry, LogSummary, Message, RecoveryId, SlotRange, Stamped, Wanted,
};
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::proto::atomix::{map as proto, primitive};
use p2pmap::wire::peer::decode::{decode_cold, decode_hot};
use p2pmap::wire::peer::{Body, Forwarded, Link, PeerEncoder, PeerError, Received, decode};
use p2pmap::wire::request::FORWARDED;
use prost::Message as _;

use super::{byte, place};

pub const CLUSTER: &str = "test";
pub const MEMBERS: [&str; 3] = ["alpha", "b", "member-of-a-longer-name"];
pub const KIND_COUNT: u64 = 26;
const MAX: u64 = (1 << 63) - 1;

/// The members of a partition, seen by one of them.
pub fn group(partition: PartitionId, me: MemberId) -> Group {
    let members = MEMBERS.map(str::to_owned).to_vec();
    Group::new(partition, members, MEMBERS[usize::from(me.0)])
}

/// What `from` says to `to`.
#[derive(Clone, Debug)]
pub struct Said {
    pub partition: PartitionId,
    pub from: MemberId,
    pub to: MemberId,
    pub body: Body,
}

impl Said {
    pub fn arbitrary(prng: &mut Prng) -> Self {
        let kind = prng.below(KIND_COUNT);
        Self::of_kind(kind, prng)
    }

    /// Something of the kinds 0 to [`KIND_COUNT`].
    pub fn of_kind(kind: u64, prng: &mut Prng) -> Self {
        let partition = PartitionId(u32::try_from(prng.below(16_384)).expect("it is small"));
        let from = MemberId(u8::try_from(prng.below(3)).expect("it is small"));
        let to = MemberId((from.0 + 1 + u8::from(prng.one_in(2))) % 3);
        let mut speaker = Speaker { prng, group: group(partition, from) };
        let body = match kind {
            0..22 => Body::Message(speaker.message(kind)),
            _ => Body::Forwarded(speaker.forwarded(kind)),
        };
        Self { partition, from, to, body }
    }

    pub fn encoder(&self) -> (PeerEncoder, Group) {
        let group = group(self.partition, self.from);
        (PeerEncoder::new(CLUSTER, &group), group)
    }

    /// Our bytes, without the frame's prefix.
    pub fn payload(&self) -> Bytes {
        let (mut encoder, group) = self.encoder();
        let mut out = BytesMut::new();
        match &self.body {
            Body::Message(message) => encoder.encode(&mut out, &group, message),
            Body::Forwarded(forwarded) => encoder.encode_forwarded(&mut out, &group, forwarded),
        }
        .expect("it isn't too long");
        out.split_off(FRAME_PREFIX_SIZE_BYTES).freeze()
    }

    pub fn received(&self) -> Received {
        Received { partition: self.partition, sender: self.from, body: self.body.clone() }
    }

    pub fn link(&self) -> Link<'static> {
        Link { cluster: CLUSTER, peer: MEMBERS[usize::from(self.from.0)] }
    }

    /// What the receiver makes of these bytes.
    pub fn decode(&self, payload: &Bytes) -> Result<Received, PeerError> {
        let group = group(self.partition, self.to);
        decode(payload, self.link(), |id| (id == self.partition).then_some(&group))
    }

    pub fn decode_hot(&self, payload: &Bytes) -> Option<Received> {
        let group = group(self.partition, self.to);
        decode_hot(payload, self.link(), |id| (id == self.partition).then_some(&group))
    }

    pub fn decode_cold(&self, payload: &Bytes) -> Result<Received, PeerError> {
        let group = group(self.partition, self.to);
        decode_cold(payload, self.link(), |id| (id == self.partition).then_some(&group))
    }

    /// The same as prost's types.
    pub fn proto(&self) -> proto::Message {
        let group = group(self.partition, self.from);
        let kind = match &self.body {
            Body::Message(message) => proto_of(&group, message),
            Body::Forwarded(forwarded) => proto_of_forwarded(&group, forwarded),
        };
        let name = format!("#{}", self.partition);
        let target = primitive::Name { name, namespace: CLUSTER.to_owned() };
        proto::Message { target: Some(target), message: Some(kind) }
    }
}

/// What anybody who receives bytes from a member may do with them.
#[track_caller]
pub fn check_payload(said: &Said, payload: &Bytes) {
    let hot = said.decode_hot(payload);
    let cold = said.decode_cold(payload);
    if let Some(hot) = &hot {
        assert_eq!(cold.as_ref(), Ok(hot), "hot is as cold");
    }
    assert_eq!(said.decode(payload), cold);
    match cold {
        Ok(received) => check_possible(said, &received),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let PeerError::Undecodable { .. } | PeerError::NoProtobuf = error {
                assert!(proto::Message::decode(payload.clone()).is_err(), "{error}");
            }
        }
    }
}

/// Whatever is taken could have been said: its invariants hold, and said again it is the same.
#[track_caller]
fn check_possible(said: &Said, received: &Received) {
    assert_eq!((received.partition, received.sender), (said.partition, said.from));
    if let Body::Message(message) = &received.body {
        check_invariants(message);
    }
    let again = Said { body: received.body.clone(), ..said.clone() };
    assert_eq!(again.decode(&again.payload()).as_ref(), Ok(received));
}

#[track_caller]
fn check_invariants(message: &Message) {
    if let Some(term) = message.term() {
        assert!(term.0 <= MAX);
    }
    let slot = |index: Index| assert!((1..=MAX).contains(&index.0), "{message:?}");
    match message {
        Message::Command(Stamped { message_id, value, term, .. }) => {
            assert!((1..=MAX).contains(&message_id.0) && !value.is_empty() && term.0 > 0);
        }
        Message::CommandResponse { message_id, index, .. } => assert!(message_id.0 <= index.0),
        Message::GapCommitRequest { index, .. } | Message::GapCommitResponse { index, .. } => {
            slot(*index);
        }
        Message::ViewChange { term, last_normal, base, log } => {
            assert!(last_normal < term && *base <= log.last);
            check_log(log);
        }
        Message::StartView { term, source_term, log } => {
            assert!(source_term < term);
            check_log(log);
        }
        Message::SyncPrepare { message_id, log, .. } => {
            assert!(message_id.0 <= log.last.0);
            check_log(log);
        }
        Message::ViewChangeRepair { wanted, .. }
        | Message::ViewRepair { wanted, .. }
        | Message::SyncRepair { wanted, .. } => check_ranges(&wanted.slots),
        Message::ViewChangeRepairResponse { chunk, values, .. } => {
            check_chunk(chunk.as_ref());
            check_ranges(values);
        }
        Message::ViewRepairResponse { chunk, entries, .. }
        | Message::SyncRepairResponse { chunk, entries, .. }
        | Message::RecoverResponse { chunk, entries, .. } => {
            check_chunk(chunk.as_ref());
            entries.iter().for_each(|entry| slot(entry.index));
            assert!(entries.is_sorted_by(|a, b| a.index < b.index));
            assert!(entries.iter().all(|entry| entry.value != Some(Bytes::new())));
        }
        _ => {}
    }
}

#[track_caller]
fn check_log(log: &LogSummary) {
    assert!(log.first.0 >= 1 && log.first.0 <= log.last.0 + 1 && log.last.0 <= MAX);
    assert!(log.no_ops.iter().all(|slot| (log.first..=log.last).contains(slot)));
}

#[track_caller]
fn check_ranges(ranges: &[SlotRange]) {
    assert!(ranges.iter().all(|range| range.first.0 >= 1 && range.first <= range.last));
    assert!(ranges.is_sorted_by(|a, b| a.last < b.first));
    assert!(ranges.len() <= 1_024 && ranges.last().is_none_or(|range| range.last.0 <= MAX));
}

#[track_caller]
fn check_chunk(chunk: Option<&CheckpointPart>) {
    let Some(chunk) = chunk else { return };
    assert!(chunk.index.0 >= 1 && chunk.data.len() <= 1 << 20 && !chunk.data.is_empty());
    let begin = chunk.number * u64::from(chunk.chunk_size_bytes);
    let end = begin + chunk.data.len() as u64;
    assert!(end == chunk.size_bytes || chunk.data.len() == chunk.chunk_size_bytes as usize);
    assert!(end <= chunk.size_bytes);
}

// ---- what may be said ----

struct Speaker<'a> {
    prng: &'a mut Prng,
    group: Group,
}

impl Speaker<'_> {
    /// A number of any size up to 2⁶³ − 1; small ones and edges more often than by chance.
    fn number(&mut self) -> u64 {
        match self.prng.below(5) {
            0 => self.prng.below(4),
            1 => self.prng.below(300),
            2 => MAX - self.prng.below(3),
            3 => (1 << self.prng.below(63)) - self.prng.below(2),
            _ => self.prng.next_u64() >> (1 + self.prng.below(63)),
        }
    }

    fn positive(&mut self) -> u64 {
        self.number().max(1)
    }

    /// A number up to `max`.
    fn at_most(&mut self, max: u64) -> u64 {
        self.number().min(max)
    }

    fn any_u64(&mut self) -> u64 {
        if self.prng.one_in(2) { self.number() } else { self.prng.next_u64() }
    }

    fn term(&mut self) -> TermId {
        TermId(self.positive())
    }

    /// A term that the speaker leads, or one that it doesn't lead.
    fn term_led(&mut self, is_led: bool) -> TermId {
        loop {
            let term = TermId(1 + self.number() % (MAX - 4) + self.prng.below(3));
            if (self.group.leader(term) == self.group.me()) == is_led {
                return term;
            }
        }
    }

    fn index(&mut self) -> Index {
        Index(self.number())
    }

    fn bytes(&mut self, min: u64) -> Bytes {
        let bound = if self.prng.one_in(8) { 2_000 } else { 40 };
        let size = min + self.prng.below(bound);
        (0..size).map(|_| byte(self.prng)).collect()
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(self.any_u64())
    }

    fn digest<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| byte(self.prng))
    }

    fn log(&mut self) -> LogSummary {
        let first = self.positive();
        let length = if self.prng.one_in(2) { self.prng.below(300) } else { self.number() };
        let last = (first - 1).saturating_add(length).min(MAX);
        let mut no_ops = BTreeSet::new();
        let count = if last >= first { self.prng.below(20) } else { 0 };
        for _ in 0..count {
            let distance = self.number() % (last - first + 1);
            no_ops.insert(Index(first + distance));
        }
        let chain = Chain(self.digest());
        LogSummary { first: Index(first), last: Index(last), no_ops, chain }
    }

    fn ranges(&mut self) -> Vec<SlotRange> {
        let mut ranges = Vec::new();
        let mut before = 0_u64;
        for _ in 0..self.prng.below(12) {
            let first = before.saturating_add(1 + self.number() / 16).min(MAX);
            let last = first.saturating_add(self.number() / 16).min(MAX);
            if first <= before {
                break;
            }
            before = last;
            ranges.push(SlotRange { first: Index(first), last: Index(last) });
        }
        ranges
    }

    fn wanted(&mut self) -> Wanted {
        Wanted { checkpoint: self.index(), slots: self.ranges() }
    }

    fn chunk(&mut self) -> Option<CheckpointPart> {
        if self.prng.one_in(3) {
            return None;
        }
        let chunk_size_bytes = 1 + self.prng.below(100);
        let number = self.number() / 200;
        let begin = number * chunk_size_bytes;
        let is_last = self.prng.one_in(2);
        let size = if is_last { 1 + self.prng.below(chunk_size_bytes) } else { chunk_size_bytes };
        let behind = if is_last { 0 } else { 1 + self.number() / 200 };
        Some(CheckpointPart {
            index: Index(self.positive()),
            size_bytes: begin + size + behind,
            number,
            chunk_size_bytes: u32::try_from(chunk_size_bytes).expect("it is small"),
            digest: self.digest(),
            data: (0..size).map(|_| byte(self.prng)).collect(),
        })
    }

    fn entries(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut before = 0_u64;
        for _ in 0..self.prng.below(8) {
            let index = before.saturating_add(1 + self.number() / 16).min(MAX);
            if index <= before {
                break;
            }
            before = index;
            let message_id = MessageId(self.at_most(index).max(1));
            let value = (!self.prng.one_in(4)).then(|| self.bytes(1));
            let timestamp = if value.is_some() { self.time() } else { Timestamp(0) };
            entries.push(Entry { index: Index(index), message_id, timestamp, value });
        }
        entries
    }

    fn attempt(&mut self) -> RecoveryId {
        let nonce = u128::from(self.any_u64()) << 64 | u128::from(self.any_u64());
        RecoveryId { incarnation: Incarnation(self.number()), nonce }
    }

    fn command_response(&mut self) -> Message {
        let index = self.positive();
        let is_ack = self.prng.one_in(2);
        let term = if is_ack { self.term() } else { self.term_led(true) };
        let least = u64::from(!is_ack);
        let message_id = MessageId(self.at_most(index).max(least));
        let answer = match (is_ack, self.prng.below(4)) {
            (true, _) => Answer::Ack,
            (false, 0) => Answer::Dropped,
            // A `written`, and one that a later release may know.
            (false, 1) => Answer::Result([0x12, 2, 0x08, 9].as_slice().into()),
            (false, 2) => Answer::Result([0x0A, 2, 0x08, 5].as_slice().into()),
            (false, _) => {
                let value = self.bytes(0);
                let mut bytes = BytesMut::new();
                prost::encoding::bytes::encode(40, &value, &mut bytes);
                Answer::Result(bytes.as_ref().into())
            }
        };
        Message::CommandResponse { term, message_id, index: Index(index), answer }
    }

    fn query_response(&mut self) -> Message {
        let is_leader = self.prng.one_in(2);
        let (term, value) = if is_leader {
            (self.term_led(true), self.bytes(0))
        } else {
            (self.term(), Bytes::new())
        };
        Message::QueryResponse { term, query_id: self.positive(), index: self.index(), value }
    }

    fn recover_response(&mut self) -> Message {
        let (attempt, message_id) = (self.attempt(), MessageId(self.number()));
        let none = (None, Vec::new());
        let (term, (chunk, entries)) = match self.prng.below(3) {
            0 => (TermId(0), none),
            1 => (self.term_led(false), none),
            _ => (self.term_led(true), (self.chunk(), self.entries())),
        };
        Message::RecoverResponse { attempt, term, message_id, chunk, entries }
    }

    fn message(&mut self, kind: u64) -> Message {
        let term = self.term();
        match kind {
            0 => Message::Command(Stamped {
                term,
                message_id: MessageId(self.positive()),
                timestamp: self.time(),
                value: self.bytes(1),
            }),
            1 => self.command_response(),
            2 => {
                let value = self.bytes(0);
                Message::Query { term, query_id: self.positive(), covers: self.index(), value }
            }
            3 => self.query_response(),
            4 => Message::SlotLookup { term, message_id: MessageId(self.positive()) },
            5 => Message::GapCommitRequest { term, index: Index(self.positive()) },
            6 => Message::GapCommitResponse { term, index: Index(self.positive()) },
            7 => Message::ViewChangeRequest { term },
            8 => {
                let (log, last_normal) = (self.log(), TermId(self.at_most(term.0 - 1)));
                let base = Index(self.at_most(log.last.0));
                Message::ViewChange { term, last_normal, base, log }
            }
            9 => {
                let wanted = self.wanted();
                Message::ViewChangeRepair { term, request: self.any_u64(), wanted }
            }
            10 => {
                let (chunk, values) = (self.chunk(), self.ranges());
                let request = self.any_u64();
                Message::ViewChangeRepairResponse { term, request, chunk, values }
            }
            11 => {
                let source_term = TermId(self.at_most(term.0 - 1));
                Message::StartView { term, source_term, log: self.log() }
            }
            _ => self.repair_or_sync(kind, term),
        }
    }

    fn repair_or_sync(&mut self, kind: u64, term: TermId) -> Message {
        match kind {
            12 => {
                let wanted = self.wanted();
                Message::ViewRepair { term, request: self.any_u64(), wanted }
            }
            13 => {
                let chunk = self.chunk();
                Message::ViewRepairResponse { term, chunk, entries: self.entries() }
            }
            14 => {
                let log = self.log();
                let message_id = MessageId(self.at_most(log.last.0));
                Message::SyncPrepare { term, message_id, log }
            }
            15 => Message::SyncRepair { term, wanted: self.wanted() },
            16 => {
                let chunk = self.chunk();
                Message::SyncRepairResponse { term, chunk, entries: self.entries() }
            }
            17 => Message::SyncResponse { term, index: self.index() },
            18 => {
                let sync_point = self.index();
                let message_id = MessageId(self.at_most(sync_point.0));
                Message::SyncCommit { term, message_id, sync_point }
            }
            19 => {
                let member = MemberId(u8::try_from(place(self.prng, 3)).expect("it is small"));
                Message::Recover { member, attempt: self.attempt() }
            }
            20 => self.recover_response(),
            _ => Message::Ping { term },
        }
    }

    fn forwarded(&mut self, kind: u64) -> Forwarded {
        let correlation = self.any_u64() | FORWARDED;
        let term = if self.prng.one_in(4) { TermId(0) } else { self.term() };
        let (index, bytes) = (self.index(), self.bytes(1));
        match kind {
            22 => Forwarded::Command { correlation, value: bytes },
            23 => Forwarded::Query { correlation, value: bytes },
            24 => Forwarded::CommandAnswer { correlation, term, index, result: bytes },
            _ => Forwarded::QueryAnswer { correlation, term, index, result: bytes },
        }
    }
}

// ---- the same as prost's types ----

fn me(group: &Group) -> String {
    group.name(group.me()).to_owned()
}

fn view(group: &Group, term: TermId) -> Option<proto::ViewId> {
    let leader_id = group.name(group.leader(term)).to_owned();
    (term.0 > 0).then_some(proto::ViewId { leader_id, term_id: term.0 })
}

fn time(timestamp: Timestamp) -> Option<prost_types::Timestamp> {
    let seconds = i64::try_from(timestamp.0 / 1_000_000_000).expect("64 bits");
    let nanos = i32::try_from(timestamp.0 % 1_000_000_000).expect("30 bits");
    Some(prost_types::Timestamp { seconds, nanos })
}

fn indexed(index: Index, value: &Bytes) -> Bytes {
    proto::Indexed { index: index.0, value: value.clone() }.encode_to_vec().into()
}

fn numbers(ranges: &[SlotRange]) -> Vec<u64> {
    ranges.iter().flat_map(|range| [range.first.0, range.last.0]).collect()
}

fn put(out: &mut Vec<u8>, number: u64) {
    prost::encoding::encode_varint(number, out);
}

fn filter(source_term: Option<TermId>, log: &LogSummary) -> Bytes {
    let mut out = vec![1, if source_term.is_some() { 3 } else { 2 }];
    if let Some(term) = source_term {
        put(&mut out, term.0);
    }
    out.extend(log.chain.0);
    put(&mut out, log.no_ops.len() as u64);
    let mut before = None;
    for slot in &log.no_ops {
        put(&mut out, before.map_or(slot.0 - log.first.0, |before| slot.0 - before - 1));
        before = Some(slot.0);
    }
    out.into()
}

fn chunk(chunk: Option<&CheckpointPart>) -> (u64, Bytes) {
    let Some(chunk) = chunk else { return (0, Bytes::new()) };
    let mut out = vec![1, 1];
    put(&mut out, chunk.size_bytes);
    put(&mut out, chunk.number);
    put(&mut out, u64::from(chunk.chunk_size_bytes));
    out.extend(chunk.digest);
    out.extend_from_slice(&chunk.data);
    (chunk.index.0, out.into())
}

fn entries(entries: &[Entry]) -> Vec<proto::Entry> {
    let entry = |entry: &Entry| proto::Entry {
        index: entry.index.0,
        timestamp: entry.value.as_ref().and_then(|_| time(entry.timestamp)),
        message_num: entry.message_id.0,
        value: entry.value.clone().unwrap_or_default(),
    };
    entries.iter().map(entry).collect()
}

fn recovery_id(attempt: RecoveryId) -> String {
    format!("{}.{:032x}", attempt.incarnation, attempt.nonce)
}

/// An encoded `Result` with the error `DROPPED`.
fn dropped() -> Bytes {
    use p2pmap::proto::p2pmap::v1;
    let error = v1::Error { code: v1::error::Code::Dropped.into(), ..Default::default() };
    let outcome = Some(v1::result::Outcome::Error(error));
    v1::Result { outcome }.encode_to_vec().into()
}

fn proto_of(group: &Group, message: &Message) -> Kind {
    let sender_id = me(group);
    let view_id = message.term().and_then(|term| view(group, term));
    match message {
        Message::Command(stamped) => Kind::Command(proto::CommandRequest {
            term_id: stamped.term.0,
            message_id: stamped.message_id.0,
            timestamp: time(stamped.timestamp),
            value: stamped.value.clone(),
        }),
        Message::CommandResponse { message_id, index, answer, .. } => {
            let value = match answer {
                Answer::Ack => Bytes::new(),
                Answer::Result(result) => Bytes::copy_from_slice(result),
                Answer::Dropped => dropped(),
            };
            let (message_id, index) = (message_id.0, index.0);
            let response = proto::CommandResponse { message_id, sender_id, view_id, index, value };
            Kind::CommandResponse(response)
        }
        Message::Query { term, query_id, covers, value } => Kind::Query(proto::QueryRequest {
            term_id: term.0,
            message_id: *query_id,
            timestamp: None,
            value: indexed(*covers, value),
        }),
        Message::QueryResponse { query_id, index, value, .. } => {
            let (message_id, value) = (*query_id, indexed(*index, value));
            Kind::QueryResponse(proto::QueryResponse { message_id, sender_id, view_id, value })
        }
        Message::SlotLookup { message_id, .. } => {
            Kind::SlotLookup(proto::SlotLookup { sender_id, view_id, message_id: message_id.0 })
        }
        Message::GapCommitRequest { index, .. } => {
            Kind::GapCommit(proto::GapCommitRequest { sender_id, view_id, index: index.0 })
        }
        Message::GapCommitResponse { index, .. } => {
            let index = index.0;
            Kind::GapCommitResponse(proto::GapCommitResponse { sender_id, view_id, index })
        }
        Message::ViewChangeRequest { .. } => {
            Kind::ViewChangeRequest(proto::ViewChangeRequest { sender_id, view_id })
        }
        Message::Ping { .. } => Kind::Ping(proto::Ping { sender_id, view_id }),
        Message::SyncResponse { index, .. } => {
            Kind::SyncResponse(proto::SyncResponse { sender_id, view_id, index: index.0 })
        }
        Message::SyncCommit { message_id, sync_point, .. } => {
            let (message_id, sync_point) = (message_id.0, sync_point.0);
            Kind::SyncCommit(proto::SyncCommit { sender_id, view_id, message_id, sync_point })
        }
        other => proto_of_rare(group, other, sender_id, view_id),
    }
}

fn proto_of_rare(
    group: &Group,
    message: &Message,
    sender_id: String,
    view_id: Option<proto::ViewId>,
) -> Kind {
    match message {
        Message::ViewChange { last_normal, base, log, .. } => Kind::ViewChange(proto::ViewChange {
            sender_id,
            view_id,
            last_normal: view(group, *last_normal),
            message_id: log.last.0 - base.0,
            no_op_filter: filter(None, log),
            first_log_index: log.first.0,
            last_log_index: log.last.0,
        }),
        Message::StartView { source_term, log, .. } => Kind::StartView(proto::StartView {
            sender_id,
            view_id,
            message_id: 1,
            no_op_filter: filter(Some(*source_term), log),
            first_log_index: log.first.0,
            last_log_index: log.last.0,
        }),
        Message::SyncPrepare { message_id, log, .. } => Kind::SyncPrepare(proto::SyncPrepare {
            sender_id,
            view_id,
            message_id: message_id.0,
            no_op_filter: filter(None, log),
            first_log_index: log.first.0,
            last_log_index: log.last.0,
        }),
        Message::ViewChangeRepair { request: message_id, wanted, .. } => {
            let (message_id, checkpoint) = (*message_id, wanted.checkpoint.0);
            let indexs = numbers(&wanted.slots);
            let repair =
                proto::ViewChangeRepair { sender_id, view_id, message_id, checkpoint, indexs };
            Kind::ViewChangeRepair(repair)
        }
        Message::ViewRepair { request: message_id, wanted, .. } => {
            let (message_id, checkpoint) = (*message_id, wanted.checkpoint.0);
            let indexs = numbers(&wanted.slots);
            let repair = proto::ViewRepair { sender_id, view_id, message_id, checkpoint, indexs };
            Kind::ViewRepair(repair)
        }
        Message::SyncRepair { wanted, .. } => {
            let (checkpoint, indexs) = (wanted.checkpoint.0, numbers(&wanted.slots));
            Kind::SyncRepair(proto::SyncRepair { sender_id, view_id, checkpoint, indexs })
        }
        other => proto_of_answer(group, other, sender_id, view_id),
    }
}

fn proto_of_answer(
    group: &Group,
    message: &Message,
    sender_id: String,
    view_id: Option<proto::ViewId>,
) -> Kind {
    match message {
        Message::ViewChangeRepairResponse { request, chunk: part, values, .. } => {
            let (checkpoint_index, checkpoint) = chunk(part.as_ref());
            Kind::ViewChangeRepairResponse(proto::ViewChangeRepairResponse {
                sender_id,
                view_id,
                message_id: *request,
                checkpoint_index,
                checkpoint,
                indexs: numbers(values),
            })
        }
        Message::ViewRepairResponse { chunk: part, entries: slots, .. } => {
            let (checkpoint_index, checkpoint) = chunk(part.as_ref());
            let entries = entries(slots);
            Kind::ViewRepairResponse(proto::ViewRepairResponse {
                sender_id,
                view_id,
                checkpoint_index,
                checkpoint,
                entries,
            })
        }
        Message::SyncRepairResponse { chunk: part, entries: slots, .. } => {
            let (checkpoint_index, checkpoint) = chunk(part.as_ref());
            let entries = entries(slots);
            Kind::SyncRepairResponse(proto::SyncRepairResponse {
                sender_id,
                view_id,
                checkpoint_index,
                checkpoint,
                entries,
            })
        }
        Message::Recover { member, attempt } => Kind::Recover(proto::Recover {
            sender_id: group.name(*member).to_owned(),
            recovery_id: recovery_id(*attempt),
        }),
        Message::RecoverResponse { attempt, message_id, chunk: part, entries: slots, .. } => {
            let (checkpoint_index, checkpoint) = chunk(part.as_ref());
            Kind::RecoverResponse(proto::RecoverResponse {
                sender_id,
                recovery_id: recovery_id(*attempt),
                view_id,
                message_id: message_id.0,
                checkpoint_index,
                checkpoint,
                log: entries(slots),
            })
        }
        other => panic!("{other:?}"),
    }
}

fn proto_of_forwarded(group: &Group, forwarded: &Forwarded) -> Kind {
    let sender_id = me(group);
    match forwarded {
        Forwarded::Command { correlation, value } => Kind::Command(proto::CommandRequest {
            message_id: *correlation,
            value: value.clone(),
            ..Default::default()
        }),
        Forwarded::Query { correlation, value } => Kind::Query(proto::QueryRequest {
            message_id: *correlation,
            value: value.clone(),
            ..Default::default()
        }),
        Forwarded::CommandAnswer { correlation, term, index, result } => {
            Kind::CommandResponse(proto::CommandResponse {
                message_id: *correlation,
                sender_id,
                view_id: view(group, *term),
                index: index.0,
                value: result.clone(),
            })
        }
        Forwarded::QueryAnswer { correlation, term, index, result } => {
            Kind::QueryResponse(proto::QueryResponse {
                message_id: *correlation,
                sender_id,
                view_id: view(group, *term),
                value: indexed(*index, result),
            })
        }
    }
}
