use proptest::prelude::*;

use super::*;
use crate::base::ids::Index;
use crate::map::record::MapId;

fn new<'a>(version: u64, key: &'a [u8], value: &'a [u8]) -> NewRecord<'a> {
    NewRecord {
        map: MapId(3),
        version: Index(version),
        created_ms: 5,
        updated_ms: 5,
        ttl_ms: 0,
        removed: false,
        key,
        value,
    }
}

#[test]
fn references_tell_pages_and_large_records_apart() {
    let mut records = Records::default();
    let small = records.insert(&new(1, b"small", b"value"));
    let large = records.insert(&new(2, b"large", &[7; 3_000]));
    assert_eq!(small.number(), 1);
    assert_eq!(large.number(), LARGE_REF_MIN + 1);
    assert_eq!(records.record(small).key(), b"small");
    assert_eq!(records.record(large).value(), [7; 3_000]);
    records.touch(small);
    records.touch(large);
}

#[test]
fn places_are_used_again_before_fresh_ones() {
    let mut records = Records::default();
    let kept = records.insert(&new(1, b"key", b"first"));
    let freed = records.insert(&new(2, b"key", b"other"));
    records.free(freed);
    assert_eq!(records.insert(&new(3, b"key", b"third")), freed);
    assert_eq!(records.record(kept).value(), b"first");
}

#[test]
fn span_that_one_size_has_left_serves_another() {
    let mut records = Records::default();
    let fill = |records: &mut Records, value: &[u8]| -> Vec<RecordRef> {
        let mut refs = Vec::new();
        while records.pages.len() < 2 {
            refs.push(records.insert(&new(1, b"key", value)));
        }
        refs
    };
    let refs = fill(&mut records, &[1; 100]);
    for record in refs {
        records.free(record);
    }
    assert_eq!(records.used_bytes, 0);
    // Two pages are reserved by now; records of another size fit into the same two.
    for _ in 0..2 * PAGE_SIZE_BYTES / 1_100 {
        records.insert(&new(1, b"key", &[2; 1_000]));
    }
    assert_eq!(records.pages.len(), 2);
}

/// What was announced is what is taken, whatever the size, and freed memory is announced as free.
#[test]
fn growth_is_announced_exactly() {
    let mut records = Records::default();
    let mut live = Vec::new();
    for number in 0..40_000_usize {
        let len = match number {
            _ if number.is_multiple_of(1_000) => 140_000,
            _ if number.is_multiple_of(50) => 2_500,
            _ => 10 + number % 7 * 90,
        };
        let value = vec![7; len];
        let new = new(1, b"key", &value);
        let (before, announced) =
            (records.reserved_bytes(), records.growth_size_bytes(new.size_bytes()));
        let lists = u64_from(records.large.len());
        live.push(records.insert(&new));
        let lists = (u64_from(records.large.len()) - lists) * 16 * u64_from(LARGE_PER_CHUNK);
        assert_eq!(records.reserved_bytes(), before + announced + lists);
        if number % 3 == 0 {
            let size_bytes = records.size_bytes(live[number / 2 % live.len()]);
            let used_bytes = records.used_bytes;
            let record = live.swap_remove(number / 2 % live.len());
            records.free(record);
            assert_eq!(records.used_bytes, used_bytes - size_bytes);
        }
    }
    assert!(records.pages.len() > 1);
    let in_stock = records.pages.iter().map(|page| usize_from_u32(page.stock.count_ones()));
    assert_eq!(records.stock_count, in_stock.sum::<usize>());
    live.into_iter().for_each(|record| records.free(record));
    assert_eq!((records.used_bytes, records.large_bytes), (0, 0));
    assert_eq!(records.growth_size_bytes(500), 0, "any page has room");
    assert!(records.fits_freed(500));
}

#[test]
#[should_panic(expected = "freed twice")]
fn second_free_of_the_only_record_of_a_span_is_caught() {
    let mut records = Records::default();
    let record = records.insert(&new(1, b"key", b"value"));
    records.free(record);
    records.free(record);
}

#[test]
#[should_panic(expected = "freed twice")]
fn second_free_of_a_large_record_is_caught() {
    let mut records = Records::default();
    let record = records.insert(&new(1, b"key", &[0; 10_000]));
    records.free(record);
    records.free(record);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Records keep their contents whatever is inserted and freed around them, and accounting ends
    /// where it began.
    #[test]
    fn records_keep_their_contents(
        steps in prop::collection::vec(
            (any::<bool>(), 0_usize..2_600, any::<prop::sample::Index>()),
            1..800,
        ),
    ) {
        let mut records = Records::default();
        let mut live: Vec<(RecordRef, u64, usize)> = Vec::new();
        for (number, (insert, len, pick)) in steps.into_iter().enumerate() {
            let number = u64_from(number);
            if insert || live.is_empty() {
                // Three sizes out of four repeat, so that places are shared.
                let len = if len % 4 == 0 { len } else { len % 4 * 700 };
                let byte = number.to_le_bytes()[0];
                let record = records.insert(&new(number, b"k", &vec![byte; len]));
                prop_assert!(live.iter().all(|(other, _, _)| *other != record));
                live.push((record, number, len));
            } else {
                let (record, ..) = live.swap_remove(pick.index(live.len()));
                records.free(record);
            }
            for (record, number, len) in &live {
                let read = records.record(*record);
                prop_assert_eq!(read.version, Index(*number));
                prop_assert_eq!(read.value(), &vec![number.to_le_bytes()[0]; *len][..]);
            }
        }
        for (record, ..) in live {
            records.free(record);
        }
        prop_assert_eq!(records.used_bytes, 0);
    }
}
