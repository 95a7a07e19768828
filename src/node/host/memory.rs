//! What can hold a loop up on an access to memory: huge pages made on a fault, and swap.

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;

const HUGE_PAGES: Check = Check::new(Subject::Memory, "huge-pages");
const SWAP: Check = Check::new(Subject::Memory, "swap");

const HUGE_PAGE_FOLDER: &str = "/sys/kernel/mm/transparent_hugepage";
const SWAPS_FILE: &str = "/proc/swaps";
const SWAPPINESS_FILE: &str = "/proc/sys/vm/swappiness";
const CGROUP_FILE: &str = "/proc/self/cgroup";

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// Who gets huge pages: `always`, `madvise` or `never`.
    huge_pages: Option<String>,
    /// Who waits until memory is made contiguous for one.
    compaction: Option<String>,
    /// How many areas there are to swap to.
    swap_count: Option<usize>,
    swappiness: Option<u64>,
    /// Whether the cgroup forbids it.
    swap_forbidden: bool,
}

impl Memory {
    pub(super) fn gather(tree: &Tree) -> Self {
        let selected = |name: &str| {
            let text = tree.text(format!("{HUGE_PAGE_FOLDER}/{name}"))?;
            let (_, rest) = text.split_once('[')?;
            rest.split_once(']').map(|(word, _)| word.to_owned())
        };
        let swaps = tree.text(SWAPS_FILE);
        let cgroups = tree.text(CGROUP_FILE).unwrap_or_default();
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
        let swap_max = cgroup.and_then(|cgroup| {
            let folder = cgroup.trim_end_matches('/');
            tree.number(format!("/sys/fs/cgroup{folder}/memory.swap.max"))
        });
        Self {
            huge_pages: selected("enabled"),
            compaction: selected("defrag"),
            // The first line is the table's head.
            swap_count: swaps
                .filter(|table| table.starts_with("Filename"))
                .map(|table| table.lines().count() - 1),
            swappiness: tree.number(SWAPPINESS_FILE),
            swap_forbidden: swap_max == Some(0),
        }
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        vec![self.check_huge_pages(), self.check_swap()]
    }

    /// With both at `always` a page fault may wait until the kernel has moved other pages out of
    /// the way (its documentation, `admin-guide/mm/transhuge`); with any other pair it doesn't.
    fn check_huge_pages(&self) -> Finding {
        let Some(huge_pages) = &self.huge_pages else {
            return HUGE_PAGES.not_visible(format!("{HUGE_PAGE_FOLDER}/enabled"));
        };
        match self.compaction.as_deref() {
            Some("always") if huge_pages == "always" => HUGE_PAGES.advice(
                "enabled always, defrag always: a page fault may wait for memory to be compacted",
                format!("echo defer+madvise | sudo tee {HUGE_PAGE_FOLDER}/defrag"),
            ),
            Some(compaction) => HUGE_PAGES.ok(format!("enabled {huge_pages}, defrag {compaction}")),
            None => HUGE_PAGES.ok(format!("enabled {huge_pages}")),
        }
    }

    /// A page of a map that was swapped out costs the whole core a read from disk.
    fn check_swap(&self) -> Finding {
        match self.swap_count {
            None => SWAP.not_visible(SWAPS_FILE),
            Some(0) => SWAP.ok("none"),
            Some(_) if self.swap_forbidden => SWAP.ok("active, but not for this cgroup"),
            Some(_) => {
                let swappiness = self
                    .swappiness
                    .map_or_else(String::new, |value| format!(" (vm.swappiness {value})"));
                SWAP.advice(
                    format!(
                        "active{swappiness}: reading a key whose page was swapped out stops its \
                         core until the page is back"
                    ),
                    "sudo swapoff -a, or MemorySwapMax=0 in a systemd unit, or docker run \
                     --memory 8g --memory-swap 8g …",
                )
            }
        }
    }
}
