//! Guarantee: the hand-written decoders and encoders agree with prost. What the hot decoder
//! accepts, prost reads alike; what is valid and usually encoded, the hot decoder accepts; what the
//! encoders write is what prost would write.

use bytes::{Bytes, BytesMut};
use p2pmap::base::ids::{Index, PartitionId, TermId};
use p2pmap::map::operation::cold::{OwnedCommand, OwnedQuery};
use p2pmap::map::operation::{decode_command, decode_query, with_command, with_query};
use p2pmap::proto::atomix::map::{
    CommandRequest, CommandResponse, Indexed, Message, QueryClose, QueryRequest, QueryResponse,
    ViewId, message,
};
use p2pmap::proto::atomix::primitive::Name;
use p2pmap::proto::p2pmap::v1;
use p2pmap::proto::p2pmap::v1::error::Code;
use p2pmap::wire::frame::{self, Flag};
use p2pmap::wire::request::{Acceptance, Kind, Refusal, Request, decode_cold, decode_hot};
use p2pmap::wire::response::{
    ErrorOutcome, Hint, ResponsePrefix, View, encode_command_response, encode_connection_error,
    encode_error, encode_query_close, encode_query_response, encode_refusal,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

const CLUSTER: &str = "test";
const VALUE_MAX: usize = 64;
const TTL_MS_MAX: u64 = p2pmap::base::limits::ENTRY_TTL_MS_MAX;
const ACCEPTANCE: Acceptance<'_> = Acceptance { cluster: CLUSTER, value_size_bytes_max: VALUE_MAX };

fn config() -> ProptestConfig {
    ProptestConfig { cases: 4_096, failure_persistence: None, ..ProptestConfig::default() }
}

// ---- what clients send ----

/// Numbers of all sizes; small ones and edges more often than chance would have it.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, Just(u64::MAX), Just(u64::from(u32::MAX)), any::<u64>()]
}

fn bytes(size_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=size_max).prop_map(Bytes::from)
}

fn valid_map() -> impl Strategy<Value = String> {
    prop_oneof![Just("orders".to_owned()), "[a-z]{1,20}", "[^#\\p{Cc}]{1,60}"]
}

fn valid_key() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..40).prop_map(Bytes::from)
}

fn valid_condition() -> impl Strategy<Value = v1::Condition> {
    use v1::condition::Condition;
    prop_oneof![
        Just(Condition::Absent(true)),
        Just(Condition::Present(true)),
        (1..=u64::MAX).prop_map(Condition::Version),
        bytes(VALUE_MAX).prop_map(Condition::Value),
    ]
    .prop_map(|condition| v1::Condition { condition: Some(condition) })
}

fn valid_command() -> impl Strategy<Value = v1::Command> {
    use v1::command::Operation;
    let ttl = prop_oneof![Just((0, false)), Just((0, true)), (1..=TTL_MS_MAX, Just(false))];
    let put = (valid_key(), bytes(VALUE_MAX), option::of(valid_condition()), ttl, any::<bool>());
    let put = put.prop_map(|(key, value, condition, (ttl_ms, keep_ttl), want_previous)| {
        Operation::Put(v1::Put { key, value, condition, ttl_ms, keep_ttl, want_previous })
    });
    let remove = (valid_key(), option::of(valid_condition()), any::<bool>());
    let remove = remove.prop_map(|(key, condition, want_previous)| {
        Operation::Remove(v1::Remove { key, condition, want_previous })
    });
    let operation = prop_oneof![put, remove, Just(Operation::Clear(v1::Clear {}))];
    (valid_map(), valid_session(), any::<u32>(), any::<bool>(), operation).prop_map(
        |(map, (session_id, sequence, ack_below), timeout_ms, no_forward, operation)| v1::Command {
            map,
            session_id,
            sequence,
            ack_below,
            timeout_ms,
            no_forward,
            operation: Some(operation),
        },
    )
}

/// No session, or a place in one.
fn valid_session() -> impl Strategy<Value = (u64, u64, u64)> {
    let place = (1..=u64::MAX, 1..=u64::MAX, any::<prop::sample::Index>());
    let place = place.prop_map(|(session_id, sequence, ack)| {
        let most = usize::try_from(sequence.saturating_add(1)).unwrap_or(usize::MAX);
        (session_id, sequence, ack.index(most) as u64)
    });
    prop_oneof![Just((0, 0, 0)), place]
}

fn valid_query() -> impl Strategy<Value = v1::Query> {
    use v1::query::Operation;
    let entries = (bytes(20), bytes(20), any::<u32>(), any::<bool>());
    let entries = entries.prop_map(|(prefix, start_after, limit, keys_only)| {
        Operation::Entries(v1::Entries { prefix, start_after, limit, keys_only })
    });
    let operation = prop_oneof![
        valid_key().prop_map(|key| Operation::Get(v1::Get { key })),
        valid_key().prop_map(|key| Operation::Exists(v1::Exists { key })),
        Just(Operation::Size(v1::Size {})),
        entries,
    ];
    (valid_map(), 0..=2, number(), any::<u32>(), any::<bool>(), operation).prop_map(
        |(map, consistency, min_index, timeout_ms, no_forward, operation)| v1::Query {
            map,
            consistency,
            min_index,
            timeout_ms,
            no_forward,
            operation: Some(operation),
        },
    )
}

/// Messages of the right type that are mostly refused for one reason or another.
fn any_command() -> impl Strategy<Value = v1::Command> {
    let numbers = (prop_oneof![Just(0), number()], prop_oneof![Just(0), number()], number());
    (valid_command(), ".{0,8}", numbers, any::<[bool; 6]>(), any::<u64>()).prop_map(
        |(mut command, map, (session_id, sequence, ttl_ms), change, ack_below)| {
            use v1::command::Operation;
            let [spoil_map, spoil_session, spoil_ttl, spoil_condition, spoil_key, none] = change;
            if spoil_map {
                command.map = map;
            }
            if spoil_session {
                (command.session_id, command.sequence) = (session_id, sequence);
                command.ack_below = ack_below;
            }
            if let Some(Operation::Put(put)) = &mut command.operation {
                if spoil_ttl {
                    (put.ttl_ms, put.keep_ttl) = (ttl_ms, ttl_ms % 2 == 0);
                }
                if spoil_condition {
                    let condition = v1::condition::Condition::Absent(false);
                    put.condition =
                        Some(v1::Condition { condition: (ttl_ms % 3 > 0).then_some(condition) });
                }
                if spoil_key {
                    put.key = Bytes::new();
                }
            }
            if none && spoil_key {
                command.operation = None;
            }
            command
        },
    )
}

fn valid_target(map: String) -> impl Strategy<Value = Option<Name>> {
    let partition = option::of(any::<u32>());
    let name = (any::<bool>(), partition).prop_map(move |(named, partition)| {
        let map = if named { map.as_str() } else { "" };
        partition.map_or_else(|| map.to_owned(), |partition| format!("{map}#{partition}"))
    });
    let namespace = prop_oneof![Just(String::new()), Just(CLUSTER.to_owned())];
    option::of((name, namespace).prop_map(|(name, namespace)| Name { name, namespace }))
}

fn valid_message() -> impl Strategy<Value = Message> {
    let correlation = number().prop_map(|number| number & !(1 << 63));
    let body = prop_oneof![
        valid_command().prop_map(|command| (command.map.clone(), Ok(command))),
        valid_query().prop_map(|query| (query.map.clone(), Err(query))),
    ];
    (body, correlation).prop_flat_map(|((map, body), message_id)| {
        let body = match body {
            Ok(command) => message::Message::Command(CommandRequest {
                message_id,
                value: command.encode_to_vec().into(),
                ..Default::default()
            }),
            Err(query) => message::Message::Query(QueryRequest {
                message_id,
                value: query.encode_to_vec().into(),
                ..Default::default()
            }),
        };
        valid_target(map).prop_map(move |target| Message { target, message: Some(body.clone()) })
    })
}

/// A way to damage an encoding.
#[derive(Clone, Debug)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index),
    /// A part of the encoding comes once more, somewhere.
    Repeat(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let index = any::<prop::sample::Index>;
    let damage = prop_oneof![
        index().prop_map(Damage::Truncate),
        (index(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (index(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        index().prop_map(Damage::Remove),
        (index(), index(), index()).prop_map(|(a, b, at)| Damage::Repeat(a, b, at)),
    ];
    vec(damage, 1..4)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let size = bytes.len();
        match damage {
            Damage::Truncate(at) => bytes.truncate(at.index(size + 1)),
            Damage::Flip(at, bit) if size > 0 => bytes[at.index(size)] ^= 1 << bit,
            Damage::Insert(at, inserted) => {
                let at = at.index(size + 1);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Damage::Remove(at) if size > 0 => drop(bytes.remove(at.index(size))),
            Damage::Repeat(a, b, at) => {
                let (a, b) = (a.index(size + 1), b.index(size + 1));
                let part = bytes[a.min(b)..a.max(b)].to_vec();
                let at = at.index(size + 1);
                bytes.splice(at..at, part);
            }
            Damage::Flip(..) | Damage::Remove(_) => {}
        }
    }
    bytes
}

/// The demand on the hot decoder, whatever the bytes: what it accepts, prost reads alike.
#[track_caller]
fn assert_agreement(payload: &[u8]) -> Option<Request<'_>> {
    let hot = decode_hot(payload, ACCEPTANCE);
    match decode_cold(payload) {
        Err(error) => assert_eq!(hot, None, "but: {error}"),
        Ok(cold) => match (hot, cold.request(ACCEPTANCE)) {
            (None, _) => {}
            (Some(hot), cold) => assert_eq!(Ok(hot), cold),
        },
    }
    if Message::decode(payload).is_err() {
        assert!(decode_cold(payload).is_err(), "prost refuses it, so do we");
    }
    hot
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn valid_messages_are_decoded_hot(message in valid_message()) {
        let payload = message.encode_to_vec();
        prop_assert!(assert_agreement(&payload).is_some());
    }

    #[test]
    fn valid_commands_are_decoded_hot(command in valid_command()) {
        let bytes = command.encode_to_vec();
        let hot = decode_command(&bytes, VALUE_MAX);
        prop_assert!(hot.is_some());
        let cold = OwnedCommand::decode(&bytes).unwrap();
        prop_assert_eq!(hot, cold.command(VALUE_MAX).ok());
    }

    #[test]
    fn valid_queries_are_decoded_hot(query in valid_query()) {
        let bytes = query.encode_to_vec();
        let hot = decode_query(&bytes);
        prop_assert!(hot.is_some());
        let cold = OwnedQuery::decode(&bytes).unwrap();
        prop_assert_eq!(hot, cold.query().ok());
    }

    #[test]
    fn hot_and_cold_refuse_the_same_commands(command in any_command()) {
        let bytes = command.encode_to_vec();
        let hot = decode_command(&bytes, VALUE_MAX);
        let cold = OwnedCommand::decode(&bytes).unwrap();
        prop_assert_eq!(hot, cold.command(VALUE_MAX).ok());
        with_command(&bytes, VALUE_MAX, |command| {
            prop_assert_eq!(command, cold.command(VALUE_MAX));
            Ok(())
        })?;
    }

    #[test]
    fn damaged_messages_never_panic_and_hot_agrees_with_prost(
        message in valid_message(),
        damages in damages(),
    ) {
        assert_agreement(&damaged(message.encode_to_vec(), &damages));
    }

    #[test]
    fn damaged_operations_never_panic_and_hot_agrees_with_prost(
        command in valid_command(),
        query in valid_query(),
        damages in damages(),
    ) {
        let bytes = damaged(command.encode_to_vec(), &damages);
        if let Some(hot) = decode_command(&bytes, VALUE_MAX) {
            let cold = OwnedCommand::decode(&bytes).unwrap();
            prop_assert_eq!(Ok(hot), cold.command(VALUE_MAX));
        }
        let bytes = damaged(query.encode_to_vec(), &damages);
        if let Some(hot) = decode_query(&bytes) {
            let cold = OwnedQuery::decode(&bytes).unwrap();
            prop_assert_eq!(Ok(hot), cold.query());
        }
        with_query(&bytes, |query| drop(query.map_err(|error| error.to_string())));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_hot_agrees_with_prost(payload in vec(any::<u8>(), 0..60)) {
        assert_agreement(&payload);
    }
}

// ---- what we send ----

/// What the prefix of a response is made of.
#[derive(Clone, Debug)]
struct Sender {
    cluster: String,
    partition: Option<u32>,
    member: String,
    view: Option<(String, u64)>,
}

fn sender() -> impl Strategy<Value = Sender> {
    let view = option::of(("[a-z0-9.-]{0,40}", number()));
    ("[a-z]{0,10}", option::of(any::<u32>()), "[a-z0-9.-]{0,128}", view)
        .prop_map(|(cluster, partition, member, view)| Sender { cluster, partition, member, view })
}

impl Sender {
    fn prefix(&self) -> ResponsePrefix {
        let view = self.view.as_ref().map(|(leader, term)| View { leader, term: TermId(*term) });
        ResponsePrefix::new(&self.cluster, self.partition.map(PartitionId), &self.member, view)
    }

    fn view_id(&self) -> Option<ViewId> {
        let view = self.view.clone();
        view.map(|(leader_id, term_id)| ViewId { leader_id, term_id })
    }

    /// The frame of a message, as prost writes it.
    fn frame(&self, message: message::Message) -> Vec<u8> {
        let name = self.partition.map(|partition| format!("#{partition}")).unwrap_or_default();
        let target = Some(Name { name, namespace: self.cluster.clone() });
        let mut out = BytesMut::new();
        frame::encode(&mut out, Flag::Message, &Message { target, message: Some(message) });
        out.to_vec()
    }

    fn command_response(&self, message_id: u64, index: u64, value: Vec<u8>) -> Vec<u8> {
        self.frame(message::Message::CommandResponse(CommandResponse {
            message_id,
            sender_id: self.member.clone(),
            view_id: self.view_id(),
            index,
            value: value.into(),
        }))
    }

    fn query_response(&self, message_id: u64, index: u64, value: Vec<u8>) -> Vec<u8> {
        self.frame(message::Message::QueryResponse(QueryResponse {
            message_id,
            sender_id: self.member.clone(),
            view_id: self.view_id(),
            value: Indexed { index, value: value.into() }.encode_to_vec().into(),
        }))
    }

    fn error(&self, kind: Kind, message_id: u64, error: v1::Error) -> Vec<u8> {
        let outcome = Some(v1::result::Outcome::Error(error));
        let value = v1::Result { outcome }.encode_to_vec();
        match kind {
            Kind::Command => self.command_response(message_id, 0, value),
            Kind::Query => self.query_response(message_id, 0, value),
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Command), Just(Kind::Query)]
}

fn code() -> impl Strategy<Value = Code> {
    (0..=9).prop_map(|number| Code::try_from(number).expect("a code"))
}

/// A buffer that holds something already, as a connection's may.
fn out() -> BytesMut {
    BytesMut::from(&b"earlier"[..])
}

fn appended(out: &BytesMut) -> &[u8] {
    out.strip_prefix(b"earlier").expect("nothing is overwritten")
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn responses_are_encoded_as_prost_does(
        sender in sender(),
        correlation in number(),
        index in number(),
        result in vec(any::<u8>(), 0..300),
    ) {
        let prefix = sender.prefix();
        let mut buffer = out();
        encode_command_response(&mut buffer, &prefix, correlation, Index(index), &result);
        let expected = sender.command_response(correlation, index, result.clone());
        prop_assert_eq!(appended(&buffer), expected);

        let mut buffer = out();
        encode_query_response(&mut buffer, &prefix, correlation, Index(index), &result);
        let mut expected = sender.query_response(correlation, index, result);
        prop_assert_eq!(appended(&buffer), &expected);

        let (_, payload) = frame::next(&expected).unwrap().unwrap();
        prop_assert_eq!(payload, 5..expected.len());
        expected.pop();
        prop_assert_eq!(frame::next(&expected), Ok(None));
    }

    #[test]
    fn closes_are_encoded_as_prost_does(
        sender in sender(),
        correlation in number(),
        index in number(),
    ) {
        let mut buffer = out();
        encode_query_close(&mut buffer, &sender.prefix(), correlation, Index(index));
        let close = QueryClose {
            message_id: correlation,
            sender_id: sender.member.clone(),
            view_id: sender.view_id(),
        };
        let outcome = Some(v1::result::Outcome::QueryClose(close));
        let value = v1::Result { outcome }.encode_to_vec();
        prop_assert_eq!(appended(&buffer), sender.query_response(correlation, index, value));
    }

    #[test]
    fn errors_are_encoded_as_prost_does(
        sender in sender(),
        correlation in number(),
        kind in kind(),
        code in code(),
        message in ".{0,200}",
        hint in option::of((number(), "[a-z]{0,20}", "[a-z0-9:]{0,40}")),
    ) {
        let error = ErrorOutcome {
            code,
            message: &message,
            hint: hint.as_ref().map(|(term, member, address)| {
                Hint { term: TermId(*term), member, address }
            }),
        };
        let mut buffer = out();
        encode_error(&mut buffer, &sender.prefix(), correlation, kind, error);
        let hint = hint.clone().map(|(term, member, address)| v1::Hint { term, member, address });
        let message = message.clone();
        let error = v1::Error { code: code.into(), message, hint, current: None };
        prop_assert_eq!(appended(&buffer), sender.error(kind, correlation, error));
    }

    #[test]
    fn refusals_and_connection_errors_are_encoded_as_prost_does(
        sender in sender(),
        correlation in number(),
        kind in kind(),
        code in code(),
        message in ".{0,200}",
    ) {
        let text = message.clone();
        let error = || v1::Error { code: code.into(), message: text.clone(), ..Default::default() };
        let refusal = Refusal { correlation, kind, code, message: message.clone() };
        let mut buffer = out();
        encode_refusal(&mut buffer, &sender.prefix(), &refusal);
        prop_assert_eq!(appended(&buffer), sender.error(kind, correlation, error()));

        let mut buffer = out();
        encode_connection_error(&mut buffer, &sender.prefix(), code, &message);
        prop_assert_eq!(appended(&buffer), sender.error(Kind::Command, 0, error()));
    }
}
