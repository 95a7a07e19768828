use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::base::payload::ResultBytes;
use crate::proto::p2pmap::v1;

type OwnedVersioned = (Vec<u8>, u64, u64, u64, u64);

fn bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..len_max)
}

fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(value, shift)| value >> shift)
}

fn versioned() -> impl Strategy<Value = OwnedVersioned> {
    // Times are below 2⁴⁸ in records.
    let ms = || number().prop_map(|ms| ms >> 16);
    (bytes(200), number(), ms(), ms(), prop_oneof![Just(0), ms()])
}

fn ours((value, version, created_ms, updated_ms, ttl_ms): &OwnedVersioned) -> Versioned<'_> {
    Versioned {
        value,
        version: Index(*version),
        created_ms: *created_ms,
        updated_ms: *updated_ms,
        ttl_ms: *ttl_ms,
    }
}

fn prosts((value, version, created_ms, updated_ms, ttl_ms): &OwnedVersioned) -> v1::Versioned {
    v1::Versioned {
        value: value.clone().into(),
        version: *version,
        created_ms: created_ms.cast_signed(),
        updated_ms: updated_ms.cast_signed(),
        ttl_ms: *ttl_ms,
    }
}

fn check(outcome: &Outcome<'_>, expected: v1::result::Outcome) {
    let expected = v1::Result { outcome: Some(expected) }.encode_to_vec();
    let mut encoded = Vec::new();
    outcome.encode(&mut encoded);
    assert_eq!(encoded, expected);
    assert_eq!(outcome.encoded_size_bytes(), expected.len());
    let mut small = ResultBytes::new();
    outcome.encode(&mut small);
    assert_eq!(&small[..], &expected[..]);
    let mut buffer = BytesMut::from(&b"before"[..]);
    outcome.encode(&mut buffer);
    assert_eq!(&buffer[6..], &expected[..]);
}

proptest! {
    #[test]
    fn results_of_commands_are_encoded_as_prost_does(
        version in number(),
        existed in any::<bool>(),
        previous in option::of(versioned()),
    ) {
        use v1::result::Outcome as Theirs;

        let our_previous = || previous.as_ref().map(ours);
        let their_previous = || previous.as_ref().map(prosts);
        check(
            &Outcome::Written { version: Index(version), previous: our_previous() },
            Theirs::Written(v1::Written { version, previous: their_previous() }),
        );
        check(
            &Outcome::Removed { existed, previous: our_previous() },
            Theirs::Removed(v1::Removed { existed, previous: their_previous() }),
        );
        check(
            &Outcome::Cleared { entries: version },
            Theirs::Cleared(v1::Cleared { entries: version }),
        );
        let ttl_ms = u64::from(existed) * version / 2;
        check(
            &Outcome::Session { session: SessionId(version), ttl_ms },
            Theirs::Session(v1::Session { session_id: version, ttl_ms }),
        );
    }

    #[test]
    fn answers_are_encoded_as_prost_does(
        entry in option::of(versioned()),
        exists in any::<bool>(),
        entries in number(),
        bytes in number(),
    ) {
        use v1::result::Outcome as Theirs;

        check(
            &Outcome::Found(entry.as_ref().map(ours)),
            Theirs::Found(v1::Found { entry: entry.as_ref().map(prosts) }),
        );
        check(&Outcome::Existence(exists), Theirs::Exists(v1::Existence { exists }));
        check(&Outcome::Sized { entries, bytes }, Theirs::Size(v1::Sized { entries, bytes }));
    }

    #[test]
    fn pages_are_encoded_as_prost_does(
        items in vec((bytes(100), versioned()), 0..6),
        next in bytes(100),
    ) {
        let page = Page {
            items: items.iter().map(|(key, entry)| (&key[..], ours(entry))).collect(),
            next: next.clone(),
            size_bytes: 0,
            visited_count: 0,
        };
        let items = items.iter().map(|(key, entry)| v1::KeyValue {
            key: key.clone().into(),
            entry: Some(prosts(entry)),
        });
        check(
            &Outcome::Page(page),
            v1::result::Outcome::Page(v1::Page { items: items.collect(), next: next.into() }),
        );
    }

    #[test]
    fn failures_are_encoded_as_prost_does(
        code in 0_i32..10,
        long in any::<bool>(),
        current in option::of(versioned()),
    ) {
        let message = if long {
            "a message that is longer than what the writer gathers, so that it is passed on"
        } else {
            ""
        };
        let failure = Failure {
            code: Code::try_from(code).unwrap(),
            message,
            current: current.as_ref().map(ours),
        };
        check(
            &Outcome::Failed(failure),
            v1::result::Outcome::Error(v1::Error {
                code,
                message: message.to_owned(),
                hint: None,
                current: current.as_ref().map(prosts),
            }),
        );
    }
}
