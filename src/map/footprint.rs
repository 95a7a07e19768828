//! How much of an arena entries will take, before they are there.

use super::arena::{Arena, CLASS_COUNT, PAGE_SIZE_BYTES, SPANS_PER_PAGE, WORDS_PER_SPAN};
use super::hasher::KeyHash;
use super::partition::PartitionMap;
use crate::base::cast::{u64_from, usize_from_u32};

/// What records take of the pages of an arena that holds nothing else. Records with an allocation
/// of their own take none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// How many records there are of each size in words.
    counts: Box<[u32; CLASS_COUNT]>,
}

impl Default for Footprint {
    fn default() -> Self {
        Self { counts: Box::new([0; CLASS_COUNT]) }
    }
}

impl Footprint {
    /// Adds a record of so many words.
    pub(super) fn add(&mut self, class: usize) {
        self.counts[class] += 1;
    }

    /// Adds what another one has: as if the entries of both were in one arena.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            // More than 2³² records don't fit an arena, whatever their size.
            *count = count.saturating_add(*more);
        }
    }

    /// The bytes of the pages that will be needed: a span holds records of one size only.
    #[must_use]
    pub fn pages_size_bytes(&self) -> u64 {
        let spans = |(class, count): (usize, &u32)| match class {
            0 => 0,
            class => usize_from_u32(*count).div_ceil(WORDS_PER_SPAN / class),
        };
        let span_count: usize = self.counts.iter().enumerate().map(spans).sum();
        u64_from(span_count.div_ceil(SPANS_PER_PAGE)) * u64_from(PAGE_SIZE_BYTES)
    }
}

impl PartitionMap {
    /// What the entries would take of an arena of their own: without what this one has lost to
    /// gaps, and without what cleared maps have left.
    #[must_use]
    pub fn footprint(&self, arena: &Arena) -> Footprint {
        let mut footprint = Footprint::default();
        let has_garbage = self.maps.has_garbage();
        let mut first = Some(0);
        while let Some(hash) = first {
            let last = self.table.visit_page(&arena.tables, KeyHash(hash), |at| {
                let Some(class) = arena.records.class(at) else { return };
                let is_garbage = || self.maps.life(arena.records.record(at).map).is_garbage();
                if !has_garbage || !is_garbage() {
                    footprint.add(class);
                }
            });
            first = last.0.checked_add(1);
        }
        footprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Index;
    use crate::base::prng::Prng;
    use crate::base::time::Timestamp;
    use crate::map::arena::PAGES_SIZE_BYTES_MAX;
    use crate::map::hasher::KeyHasher;
    use crate::map::operation::{Command, Operation, Ttl};
    use crate::map::partition::{Execution, Undo};

    struct Written {
        arena: Arena,
        map: PartitionMap,
        hasher: KeyHasher,
        index: Index,
    }

    impl Written {
        fn new() -> Self {
            let (hasher, mut arena) = (KeyHasher::new([7; 16]), Arena::new());
            let map = PartitionMap::new(hasher, &mut arena);
            Self { arena, map, hasher, index: Index(0) }
        }

        fn execute(&mut self, map: &str, operation: Operation<'_>) {
            self.index = self.index.next();
            let run = Execution { index: self.index, time: Timestamp(1), undo: Undo::Discard };
            let hash = self.hasher.hash(map, operation.key().unwrap_or_default());
            let command =
                Command { map, session: None, timeout_ms: 0, no_forward: false, operation };
            self.map.execute(&mut self.arena, run, &command, hash, &mut Vec::new());
        }

        fn put(&mut self, map: &str, number: u64, value: &[u8]) {
            let key = &number.to_le_bytes();
            let put = Operation::Put {
                key,
                value,
                condition: None,
                want_previous: false,
                ttl: Ttl::Unlimited,
            };
            self.execute(map, put);
        }

        fn footprint(&self) -> Footprint {
            self.map.footprint(&self.arena)
        }

        fn pages_size_bytes(&self) -> u64 {
            u64_from(PAGES_SIZE_BYTES_MAX) - self.arena.pages_size_bytes_left()
        }
    }

    #[test]
    fn arena_takes_what_the_footprints_of_its_entries_say() {
        let mut prng = Prng::new(3, "footprint");
        let (mut parts, mut whole) = ([(); 3].map(|()| Written::new()), Written::new());
        for number in 0..30_000 {
            let value = vec![7; usize_from_u32(u32::try_from(prng.below(2_200)).unwrap())];
            parts[number % 3].put("m", u64_from(number), &value);
            whole.put("m", u64_from(number), &value);
        }
        let mut merged = Footprint::default();
        for part in &parts {
            assert_eq!(part.footprint().pages_size_bytes(), part.pages_size_bytes());
            merged.merge(&part.footprint());
        }
        assert_eq!(merged, whole.footprint());
        assert_eq!(merged.pages_size_bytes(), whole.pages_size_bytes());
        assert_eq!(Footprint::default().pages_size_bytes(), 0);
    }

    #[test]
    fn what_a_cleared_map_has_left_is_not_counted() {
        let (mut written, mut kept) = (Written::new(), Written::new());
        for number in 0..1_000 {
            written.put("cleared", number, &[1; 1_000]);
            written.put("kept", number, &[1; 100]);
            kept.put("kept", number, &[1; 100]);
        }
        assert_ne!(written.footprint(), kept.footprint());
        written.execute("cleared", Operation::Clear);
        assert_eq!(written.footprint(), kept.footprint());
    }
}
