//! What a client asks next.

use super::Client;
use crate::base::cast::{low_u32, u16_from, u64_from, usize_from};
use crate::base::ids::PartitionId;
use crate::sim::history::{Action, Expectation, Freshness, History, Key, Scope};
use crate::sim::swarm::WorkloadMix;

impl Client {
    /// Draws a request.
    pub(super) fn choose(
        &mut self,
        mix: &WorkloadMix,
        is_alone: bool,
        history: &mut History,
    ) -> Action {
        let is_read = self.prng.below(100) < mix.read_percent;
        if self.prng.one_in(mix.whole_map_one_in) {
            return self.choose_of_map(is_read, mix, is_alone, history);
        }
        let key = self.choose_key(mix);
        if is_read {
            let freshness = self.choose_freshness(key, mix, history);
            return match self.prng.below(5) {
                0 => Action::Exists { key, freshness },
                _ => Action::Get { key, freshness },
            };
        }
        let condition = self.choose_condition(key, mix);
        let wants_previous = self.prng.one_in(3);
        if self.prng.one_in(4) {
            return Action::Remove { key, condition, wants_previous };
        }
        let size_bytes = usize_from(self.prng.below(u64_from(mix.value_size_bytes_max) + 1));
        let value = history.new_value(size_bytes);
        if self.prng.below(100) < mix.ttl_percent {
            history.set_ttl(value, 1 + self.prng.below(2 * mix.ttl_ms_mean));
        }
        Action::Put { key, value, condition, wants_previous }
    }

    fn choose_of_map(
        &mut self,
        is_read: bool,
        mix: &WorkloadMix,
        is_alone: bool,
        history: &History,
    ) -> Action {
        let map = u8::try_from(self.prng.below(u64::from(mix.map_count))).unwrap_or(0);
        // No node of several answers for all partitions yet, nor lists what is present.
        let scope = match self.prng.one_in(2) {
            true if is_alone => Scope::Whole,
            _ => {
                let count = u64::from(history.universe.partition_count);
                Scope::Partition(PartitionId(low_u32(self.prng.below(count))))
            }
        };
        match (is_read, self.prng.below(3)) {
            (true, 0) => Action::Size { map, scope },
            (true, _) if is_alone => {
                let limit = 1 + low_u32(self.prng.below(2 * u64::from(mix.key_count)));
                Action::Entries { map, scope, limit }
            }
            (false, 0) => Action::Clear { map, scope },
            // A map that is cleared all the time has nothing in it.
            _ => Action::Size { map, scope },
        }
    }

    fn choose_key(&mut self, mix: &WorkloadMix) -> Key {
        let map = u8::try_from(self.prng.below(u64::from(mix.map_count))).unwrap_or(0);
        let number = u16_from(usize_from(self.prng.below(u64::from(mix.key_count))));
        Key { map, number }
    }

    fn choose_freshness(&mut self, key: Key, mix: &WorkloadMix, history: &History) -> Freshness {
        if self.prng.below(100) >= mix.stale_percent {
            return Freshness::Linearizable;
        }
        // What it knows to be there must be in what it reads.
        let partition = history.universe.partition_of(key);
        let reached = self.reached.get(&partition).copied().unwrap_or_default();
        Freshness::Stale(reached)
    }

    fn choose_condition(&mut self, key: Key, mix: &WorkloadMix) -> Option<Expectation> {
        if self.prng.below(100) >= mix.condition_percent {
            return None;
        }
        let seen = self.seen.get(&key).copied();
        Some(match (self.prng.below(4), seen) {
            (0, _) => Expectation::Absent,
            (1, _) | (_, None) => Expectation::Present,
            (2, Some(seen)) => Expectation::Version(seen.version),
            (_, Some(seen)) => Expectation::Value(seen.value),
        })
    }
}
