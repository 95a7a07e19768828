use std::collections::BTreeSet;

use super::*;
use crate::base::cast::{low_u32, u64_from, usize_from_u32};
use crate::base::prng::Prng;

/// Records are numbers from 1; their hashes stand in a list.
struct Hashes(Vec<u64>);

impl Keys for Hashes {
    fn hash(&self, record: RecordRef) -> KeyHash {
        KeyHash(self.0[usize_from_u32(record.number())])
    }

    fn touch(&self, _: RecordRef) {}
}

fn record(number: u32) -> RecordRef {
    RecordRef::from_number(number).unwrap()
}

fn filled(hashes: &Hashes) -> (Table, PagePool) {
    let mut pool = PagePool::default();
    let mut table = Table::new(&mut pool);
    for (number, hash) in hashes.0.iter().enumerate().skip(1) {
        let record = record(low_u32(u64_from(number)));
        table.insert(&mut pool, KeyHash(*hash), record, hashes);
    }
    (table, pool)
}

/// All records in the order of the pages.
fn walk(table: &Table, pool: &PagePool) -> Vec<Vec<u32>> {
    let mut pages = Vec::new();
    let mut first = Some(0);
    while let Some(hash) = first {
        let mut page = Vec::new();
        let last = table.visit_page(pool, KeyHash(hash), |record| page.push(record.number()));
        pages.push(page);
        first = last.0.checked_add(1);
    }
    pages
}

fn random_hashes(count: usize, mask: u64) -> Hashes {
    let mut prng = Prng::new(5, "table");
    Hashes(std::iter::once(0).chain((0..count).map(|_| prng.next_u64() & mask)).collect())
}

#[test]
fn keys_are_found_after_many_splits_and_pages_stay_in_order() {
    let hashes = random_hashes(20_000, u64::MAX);
    let (table, pool) = filled(&hashes);
    for number in 1..=20_000 {
        let found = table.find(&pool, KeyHash(hashes.0[usize_from_u32(number)]), |other| {
            other.number() == number
        });
        assert_eq!(found.map(|(_, record)| record), Some(record(number)));
    }
    let pages = walk(&table, &pool);
    let all: BTreeSet<u32> = pages.iter().flatten().copied().collect();
    assert_eq!(all, (1..=20_000).collect());
    let mut last = 0;
    for page in pages {
        let of_page = page.iter().map(|number| hashes.0[usize_from_u32(*number)]);
        let (least, greatest) = (of_page.clone().min(), of_page.max());
        assert!(least.is_none_or(|least| least >= last));
        last = greatest.unwrap_or(last);
    }
    assert!(table.stash.is_empty());
}

#[test]
fn pages_are_full_before_they_split() {
    let mut split_at = 0;
    for seed in 0..200 {
        let mut prng = Prng::new(seed, "fill");
        let mut pool = PagePool::default();
        let page = pool.allocate(0);
        split_at += (1..)
            .take_while(|number| {
                place(&mut pool, page, Spot::of(KeyHash(prng.next_u64())), record(*number))
            })
            .count();
    }
    assert!(split_at / 200 >= 92, "only {} keys on average", split_at / 200);
}

#[test]
fn equal_hashes_go_to_the_stash_and_come_back_from_it() {
    let hashes = random_hashes(400, 0);
    let (mut table, mut pool) = filled(&hashes);
    assert!(table.stash.values().map(Vec::len).sum::<usize>() >= 400 - 96);
    for number in 1..=400 {
        let (place, _) =
            table.find(&pool, KeyHash(0), |other| other.number() == number).expect("it is there");
        table.remove(&mut pool, KeyHash(0), place);
        assert!(table.find(&pool, KeyHash(0), |other| other.number() == number).is_none());
    }
    assert!(table.stash.is_empty());
    assert!(walk(&table, &pool).iter().all(Vec::is_empty));
    let page = table.directory.page(0);
    assert!(!pool.line(page, 3).is_stashed());
}

#[test]
fn retained_pages_lose_what_is_refused() {
    let hashes = random_hashes(3_000, !0xFFFF);
    let (mut table, mut pool) = filled(&hashes);
    let mut first = Some(0);
    while let Some(hash) = first {
        let keep = |record: RecordRef| record.number().is_multiple_of(3);
        first = table.retain_page(&mut pool, KeyHash(hash), keep).0.checked_add(1);
    }
    let left: BTreeSet<u32> = walk(&table, &pool).into_iter().flatten().collect();
    assert_eq!(left, (1..=3_000).filter(|number| number % 3 == 0).collect());
}

#[test]
fn emptied_pages_are_joined_and_given_back() {
    let hashes = random_hashes(5_000, u64::MAX);
    let (mut table, mut pool) = filled(&hashes);
    assert!(pool.used_bytes() > 60 * 512);
    for number in 1..=5_000 {
        let hash = KeyHash(hashes.0[usize_from_u32(number)]);
        let (place, _) = table.find(&pool, hash, |other| other.number() == number).unwrap();
        table.remove(&mut pool, hash, place);
        if number.is_multiple_of(500) {
            let left: BTreeSet<u32> = walk(&table, &pool).into_iter().flatten().collect();
            assert_eq!(left, (number + 1..=5_000).collect());
        }
    }
    assert_eq!(pool.used_bytes(), 512);
}
