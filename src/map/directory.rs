//! Which page holds a range of the hash.
//!
//! An extendible directory in nodes of a radix tree. A node looks at the next few bits of the hash,
//! up to [`NODE_BITS_MAX`]; an entry is a page or a node that looks at further bits. When a page
//! is split, either its range has several entries and some of them change, or its node doubles, or,
//! if it is full-grown, a child of two entries takes the page's place. So the longest pause is the
//! copying of one node: 4 KiB. An empty page's range is joined with its other half again; nodes
//! stay. One node serves about 60,000 keys of a partition, two levels serve
//! 60 million.

use crate::base::cast::{u32_from, u64_from, usize_from, usize_from_u32};

use super::page_pool::PageId;

/// A node looks at so many bits at most.
const NODE_BITS_MAX: u32 = 10;
/// Keys that share so many bits of their hash stay on one page, whatever their number.
pub(super) const DEPTH_MAX: u32 = 48;
const IS_NODE: u32 = 1 << 31;

/// A partition's directory. Node 0 is the root.
#[derive(Debug)]
pub(super) struct Directory {
    nodes: Vec<Node>,
    /// Of all nodes.
    entry_count: usize,
}

#[derive(Debug)]
struct Node {
    /// How many bits of the hash lead to this node.
    base: u32,
    /// How many bits it looks at: it has 2^bits entries.
    bits: u32,
    /// Pages, or other nodes' numbers with [`IS_NODE`].
    entries: Vec<u32>,
}

impl Node {
    #[inline]
    fn position(&self, hash: u64) -> usize {
        // In two steps, for `bits` may be 0.
        usize_from((hash << self.base) >> 1 >> (63 - self.bits))
    }
}

impl Directory {
    /// The whole range on one page.
    pub(super) fn new(page: PageId) -> Self {
        Self { nodes: vec![Node { base: 0, bits: 0, entries: vec![page.0] }], entry_count: 1 }
    }

    /// The page for `hash`.
    #[inline]
    pub(super) fn page(&self, hash: u64) -> PageId {
        let mut node = &self.nodes[0];
        loop {
            let entry = node.entries[node.position(hash)];
            if entry & IS_NODE == 0 {
                return PageId(entry);
            }
            node = &self.nodes[usize_from_u32(entry & !IS_NODE)];
        }
    }

    /// Gives the upper half of the range of `hash`'s page, whose keys share `depth` bits, to
    /// `upper`.
    pub(super) fn split(&mut self, hash: u64, depth: u32, upper: PageId) {
        debug_assert!(depth < DEPTH_MAX, "pages beyond the greatest depth are not split");
        debug_assert!(upper.0 & IS_NODE == 0, "a page's number leaves room for the mark");
        let mut at = 0;
        loop {
            let node = &mut self.nodes[at];
            let position = node.position(hash);
            let entry = node.entries[position];
            if entry & IS_NODE != 0 {
                at = usize_from_u32(entry & !IS_NODE);
            } else if node.base + node.bits > depth {
                return node.assign_upper_half(position, depth, upper);
            } else if node.bits < NODE_BITS_MAX {
                node.entries = node.entries.iter().flat_map(|entry| [*entry, *entry]).collect();
                node.bits += 1;
                self.entry_count += node.entries.len() / 2;
            } else {
                let (base, child) = (node.base + node.bits, u32_from(self.nodes.len()));
                self.nodes[at].entries[position] = child | IS_NODE;
                self.nodes.push(Node { base, bits: 1, entries: vec![entry, entry] });
                self.entry_count += 2;
            }
        }
    }

    /// The page that shares all bits but the last of `depth` with `hash`'s page, if both are found
    /// in one node. It may be the page of a part of that range only.
    pub(super) fn buddy(&self, hash: u64, depth: u32) -> Option<PageId> {
        let node = &self.nodes[self.leaf(hash)];
        if depth <= node.base {
            return None;
        }
        let entry = node.entries[node.position(hash ^ (1 << (64 - depth)))];
        (entry & IS_NODE == 0).then_some(PageId(entry))
    }

    /// Gives the ranges of `hash`'s page and of its buddy, whose keys share `depth` bits each, to
    /// `page`. Nodes don't shrink.
    pub(super) fn join(&mut self, hash: u64, depth: u32, page: PageId) {
        let leaf = self.leaf(hash);
        let node = &mut self.nodes[leaf];
        assert!(depth > node.base, "buddies are found in one node");
        let count = 1 << (node.base + node.bits - depth + 1);
        let first = node.position(hash) & !(count - 1);
        node.entries[first..first + count].fill(page.0);
    }

    /// The node whose entry for `hash` is a page.
    fn leaf(&self, hash: u64) -> usize {
        let mut at = 0;
        loop {
            let node = &self.nodes[at];
            let entry = node.entries[node.position(hash)];
            if entry & IS_NODE == 0 {
                return at;
            }
            at = usize_from_u32(entry & !IS_NODE);
        }
    }

    /// Bytes of all nodes.
    pub(super) fn size_bytes(&self) -> u64 {
        let nodes_size_bytes = self.nodes.capacity() * size_of::<Node>();
        u64_from(nodes_size_bytes + self.entry_count * size_of::<u32>())
    }
}

impl Node {
    fn assign_upper_half(&mut self, position: usize, depth: u32, upper: PageId) {
        let half = 1 << (self.base + self.bits - depth - 1);
        let first = position & !(2 * half - 1);
        self.entries[first + half..first + 2 * half].fill(upper.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::prng::Prng;

    /// Splits at random and compares with a sorted list of the ranges' first hashes.
    #[test]
    fn every_hash_leads_to_the_page_of_its_range() {
        let mut prng = Prng::new(1, "directory");
        let mut directory = Directory::new(PageId(0));
        let mut ranges = BTreeMap::from([(0_u64, (PageId(0), 0_u32))]);
        for number in 1..5_000 {
            // Skewed, so that some ranges become deep.
            let hash = prng.next_u64() >> (prng.below(4) * 7);
            let (first, (page, depth)) = ranges.range(..=hash).next_back().unwrap();
            let (first, page, depth) = (*first, *page, *depth);
            if depth == DEPTH_MAX {
                continue;
            }
            assert_eq!(directory.page(hash), page);
            directory.split(hash, depth, PageId(number));
            ranges.insert(first, (page, depth + 1));
            ranges.insert(first | (1 << (63 - depth)), (PageId(number), depth + 1));
        }
        for (first, (page, depth)) in ranges {
            assert_eq!(directory.page(first), page);
            assert_eq!(directory.page(first | u64::MAX >> depth), page);
        }
        assert!(directory.nodes.len() > 10);
        let entry_count: usize = directory.nodes.iter().map(|node| node.entries.len()).sum();
        assert_eq!(directory.entry_count, entry_count);
        assert!(directory.nodes.iter().all(|node| node.entries.len() <= 1 << NODE_BITS_MAX));
    }
}
