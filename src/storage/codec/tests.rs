use proptest::prelude::*;

use super::*;

fn entry() -> impl Strategy<Value = Entry<'static>> {
    let value = proptest::collection::vec(any::<u8>(), 1..300);
    (any::<[u64; 4]>(), any::<u32>(), value).prop_map(|([index, term, message, time], p, value)| {
        Entry {
            partition: PartitionId(p),
            index: Index(index),
            term: TermId(term),
            message_id: MessageId(message),
            timestamp: Timestamp(time),
            value: value.leak(),
        }
    })
}

fn partition_snapshot() -> impl Strategy<Value = PartitionSnapshot> {
    let members = proptest::collection::vec(any::<u64>().prop_map(Incarnation), 0..=9);
    let counts = any::<([u64; 2], bool)>();
    (any::<[u64; 8]>(), any::<u32>(), any::<[u8; 16]>(), members, counts).prop_map(
        |(numbers, p, chain, members, ([record_count, begins], is_recovering))| {
            let [view, last_normal, base, sync, checkpoint, first, last, inc] = numbers;
            PartitionSnapshot {
                partition: PartitionId(p),
                view: TermId(view),
                last_normal: TermId(last_normal),
                base: Index(base),
                sync_point: Index(sync),
                checkpoint: Index(checkpoint),
                first: Index(first),
                last: Index(last),
                chain,
                incarnation: Incarnation(inc),
                crash_vector: members,
                record_count,
                begins: SegmentId(begins),
                is_recovering,
            }
        },
    )
}

fn record() -> impl Strategy<Value = Record<'static>> {
    let numbers = || (any::<u32>().prop_map(PartitionId), any::<[u64; 3]>(), any::<[u8; 16]>());
    let live = any::<[u64; 2]>().prop_map(|[segment, batch]| LiveSegment {
        segment: SegmentId(segment),
        last_batch: BatchId(batch),
    });
    let snapshot = (
        any::<u64>(),
        proptest::collection::vec(live, 0..5),
        proptest::collection::vec(partition_snapshot(), 0..5),
    );
    prop_oneof![
        entry().prop_map(Record::Entry),
        entry().prop_map(Record::Carry),
        (entry(), any::<u64>(), any::<bool>()).prop_map(|(entry, term, no_op)| Record::Stage {
            adopting: TermId(term),
            entry: Entry { value: if no_op { &[] } else { entry.value }, ..entry },
        }),
        numbers().prop_map(|(partition, [index, term, message_id], _)| Record::NoOp {
            partition,
            index: Index(index),
            term: TermId(term),
            message_id: MessageId(message_id),
        }),
        numbers()
            .prop_map(|(partition, [term, ..], _)| Record::View { partition, term: TermId(term) }),
        numbers().prop_map(|(partition, [term, base, kept], chain)| Record::Adopt {
            partition,
            term: TermId(term),
            base: Index(base),
            kept: Index(kept),
            chain,
        }),
        numbers().prop_map(|(partition, [index, ..], _)| Record::SyncPoint {
            partition,
            index: Index(index),
        }),
        numbers().prop_map(|(partition, [index, size_bytes, _], digest)| {
            Record::CheckpointDone { partition, index: Index(index), size_bytes, digest }
        }),
        (numbers(), proptest::option::of(numbers())).prop_map(
            |((partition, [index, size_bytes, kept], digest), adopted)| Record::Install {
                partition,
                index: Index(index),
                size_bytes,
                digest,
                kept: Index(kept),
                adopted: adopted.map(|(_, [term, base, _], chain)| Adopted {
                    term: TermId(term),
                    base: Index(base),
                    chain,
                }),
            }
        ),
        partition_snapshot().prop_map(|snapshot| Record::CrashVector {
            partition: snapshot.partition,
            incarnation: snapshot.incarnation,
            crash_vector: snapshot.crash_vector,
            is_recovering: false
        }),
        (any::<u64>(), any::<bool>())
            .prop_map(|(boot, clean)| Record::OpenBoot { boot_epoch: BootEpoch(boot), clean }),
        any::<u64>().prop_map(|boot| Record::CloseBoot { boot_epoch: BootEpoch(boot) }),
        snapshot.prop_map(|(boot, segments, partitions)| {
            let (boot_epoch, acts_early) = (BootEpoch(boot), boot % 2 == 1);
            Record::Snapshot(ShardSnapshot { boot_epoch, acts_early, segments, partitions })
        }),
    ]
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn records_come_back_as_they_went(records in proptest::collection::vec(record(), 1..6)) {
        let mut bytes = Vec::new();
        for record in &records {
            encode(record, &mut bytes);
        }
        let mut rest = &bytes[..];
        for record in &records {
            let (decoded, size) = decode(rest).unwrap().unwrap();
            prop_assert_eq!(&decoded, record);
            rest = &rest[size..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn beginning_of_a_record_asks_for_more_bytes(record in record(), cut in any::<usize>()) {
        let bytes = encoded(&record);
        prop_assert_eq!(decode(&bytes[..cut % bytes.len()]), Ok(None));
    }

    #[test]
    fn body_that_is_too_short_or_too_long_is_refused(record in record(), cut in any::<usize>()) {
        let bytes = encoded(&record);
        let begin = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let body = &bytes[begin..];
        let has_value =
            matches!(record, Record::Entry(_) | Record::Stage { .. } | Record::Carry(_));
        let fixed = if has_value { 9 } else { body.len() };
        let short = decode_body(&body[..cut % fixed]);
        prop_assert!(short.is_err(), "{short:?}");
        if !has_value {
            let long = [body, &[0]].concat();
            prop_assert_eq!(decode_body(&long), Err(RecordError::Trailing));
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = decode_body(&bytes);
    }
}

#[test]
fn impossible_records_are_named() {
    let cases: [(&[u8], RecordError); 9] = [
        (&[0], RecordError::Length),
        (&[0xFF, 0xFF, 0xFF, 0xFF, 1], RecordError::Length),
        (&[0xFF, 0xFF, 0xFF, 0x7F], RecordError::Length),
        (&[0x81, 0], RecordError::Length),
        (&[1, 0], RecordError::Kind(0)),
        (&[1, 12], RecordError::Kind(12)),
        (&[3, kind::VIEW, 0x80, 0], RecordError::Number),
        (&[2, kind::VIEW, 1], RecordError::Short),
        (&[3, kind::OPEN_BOOT, 1, 2], RecordError::Number),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(bytes), Err(error), "{bytes:?}");
    }
    let no_value = [13, kind::ENTRY, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&no_value), Err(RecordError::NoValue));
}

#[test]
fn partition_beyond_its_width_is_refused() {
    let body = [kind::VIEW, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1];
    assert_eq!(decode_body(&body), Err(RecordError::Number));
}

#[test]
fn count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
    let body = [kind::SNAPSHOT, 1, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
    assert_eq!(decode_body(&body), Err(RecordError::Short));
    let body = [kind::CRASH_VECTOR, 1, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode_body(&body), Err(RecordError::Number));
}

#[test]
fn longest_command_and_largest_snapshot_fit_a_record() {
    let value = vec![1; COMMAND_SIZE_BYTES_MAX];
    let most = u64::MAX;
    let entry = Entry {
        partition: PartitionId(u32::MAX),
        index: Index(most),
        term: TermId(most),
        message_id: MessageId(most),
        timestamp: Timestamp(most),
        value: &value,
    };
    let bytes = encoded(&Record::Stage { adopting: TermId(most), entry });
    assert!(decode(&bytes).unwrap().is_some());

    let partition = PartitionSnapshot {
        partition: PartitionId(u32::MAX),
        view: TermId(most),
        last_normal: TermId(most),
        base: Index(most),
        sync_point: Index(most),
        checkpoint: Index(most),
        first: Index(most),
        last: Index(most),
        chain: [0xFF; 16],
        incarnation: Incarnation(most),
        crash_vector: vec![Incarnation(most); MEMBER_COUNT_MAX],
        record_count: most,
        begins: SegmentId(most),
        is_recovering: true,
    };
    let count = crate::base::cast::usize_from_u32(PARTITION_COUNT_MAX);
    let snapshot = ShardSnapshot {
        boot_epoch: BootEpoch(most),
        acts_early: true,
        segments: vec![LiveSegment { segment: SegmentId(most), last_batch: BatchId(most) }; 1_000],
        partitions: vec![partition; count],
    };
    let bytes = encoded(&Record::Snapshot(snapshot.clone()));
    let decoded = decode(&bytes).unwrap().unwrap();
    assert_eq!(decoded, (Record::Snapshot(snapshot), bytes.len()));
}

#[test]
fn small_entry_costs_few_bytes() {
    let entry = Entry {
        partition: PartitionId(5),
        index: Index(100_000),
        term: TermId(3),
        message_id: MessageId(90_000),
        timestamp: Timestamp(1_700_000_000_000_000_000),
        value: &[0; 64],
    };
    assert_eq!(encoded(&Record::Entry(entry)).len(), 64 + 18);
}
