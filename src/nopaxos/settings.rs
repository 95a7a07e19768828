//! What a member is told about how it shall behave. The same for all members of a group, but for
//! what it keeps in memory.

use crate::base::limits::{RETAINED_SIZE_BYTES_DEFAULT, SYNC_BATCH_COUNT};
use crate::base::time::{NS_PER_MS, NS_PER_S};

/// When a member's promises survive its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Survival {
    /// Nothing leaves before it is on the disk: every restart goes on where it ended.
    #[default]
    Always,
    /// What left may be lost with the process, unless it ended cleanly: another restart begins a
    /// new life and recovers from the others.
    Clean,
    /// Nothing is kept: every restart begins a new life.
    Never,
}

/// A member's settings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What a restart keeps.
    pub survival: Survival,
    /// How long things take.
    pub timing: Timing,
    /// Bytes of stable slots that stay in memory for members that lag.
    pub retained_size_bytes: usize,
    /// Someone else tells the member that its unchanged views are alive
    /// ([`Member::on_heartbeat`](super::Member::on_heartbeat)), so that it need not say so itself.
    pub heartbeats: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            survival: Survival::default(),
            timing: Timing::default(),
            retained_size_bytes: RETAINED_SIZE_BYTES_DEFAULT,
            heartbeats: false,
        }
    }
}

/// The protocol's times (3.10). None of them matters for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a slot may be missing before it is asked for: streams overtake each other.
    pub gap_wait_ns: u64,
    /// When a command is asked for again, at first.
    pub slot_lookup_retry_ns: u64,
    /// The same at most.
    pub slot_lookup_retry_ns_max: u64,
    /// How long a leader looks for a command before it makes the slot a no-op.
    pub gap_request_timeout_ns: u64,
    /// When a no-op is announced again to those who have not confirmed it.
    pub gap_commit_retry_ns: u64,
    /// When a stamped command is sent again, at first.
    pub retransmit_ns: u64,
    /// The same at most.
    pub retransmit_ns_max: u64,
    /// How often a leader says that it is there.
    pub ping_interval_ns: u64,
    /// The same for a view that hasn't changed, if there are heartbeats.
    pub idle_ping_interval_ns: u64,
    /// How long a leader may be silent.
    pub leader_timeout_ns: u64,
    /// What is added to it at random, so that not all members act at once.
    pub leader_timeout_jitter_ns: u64,
    /// How long a view change may take, at first; half as much more each time.
    pub view_change_timeout_ns: u64,
    /// The same at most.
    pub view_change_timeout_ns_max: u64,
    /// How often votes, endorsements and started views are repeated.
    pub view_change_retry_ns: u64,
    /// How long a new leader waits for votes beyond a quorum.
    pub merge_grace_ns: u64,
    /// How often the sync point moves.
    pub sync_interval_ns: u64,
    /// After how many slots it moves at once.
    pub sync_batch_count: u64,
    /// When what a repair has not brought is asked for again, at first.
    pub repair_retry_ns: u64,
    /// The same at most.
    pub repair_retry_ns_max: u64,
    /// When a recovering member asks again, at first.
    pub recover_retry_ns: u64,
    /// The same at most.
    pub recover_retry_ns_max: u64,
    /// How long a leader tries to hand its place over.
    pub transfer_timeout_ns: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            gap_wait_ns: 5 * NS_PER_MS,
            slot_lookup_retry_ns: 10 * NS_PER_MS,
            slot_lookup_retry_ns_max: 160 * NS_PER_MS,
            gap_request_timeout_ns: 20 * NS_PER_MS,
            gap_commit_retry_ns: 50 * NS_PER_MS,
            retransmit_ns: 25 * NS_PER_MS,
            retransmit_ns_max: 400 * NS_PER_MS,
            ping_interval_ns: 25 * NS_PER_MS,
            idle_ping_interval_ns: NS_PER_S,
            leader_timeout_ns: 150 * NS_PER_MS,
            leader_timeout_jitter_ns: 75 * NS_PER_MS,
            view_change_timeout_ns: 300 * NS_PER_MS,
            view_change_timeout_ns_max: 5 * NS_PER_S,
            view_change_retry_ns: 50 * NS_PER_MS,
            merge_grace_ns: 2 * NS_PER_MS,
            sync_interval_ns: 20 * NS_PER_MS,
            sync_batch_count: SYNC_BATCH_COUNT,
            repair_retry_ns: 200 * NS_PER_MS,
            repair_retry_ns_max: 2 * NS_PER_S,
            recover_retry_ns: 500 * NS_PER_MS,
            recover_retry_ns_max: 5 * NS_PER_S,
            transfer_timeout_ns: 2 * NS_PER_S,
        }
    }
}

impl Timing {
    /// All times multiplied by `numerator / denominator`.
    ///
    /// # Panics
    /// If `denominator` is 0.
    #[must_use]
    pub fn scaled(self, numerator: u64, denominator: u64) -> Self {
        let scale = |ns: u64| (ns.saturating_mul(numerator) / denominator).max(1);
        Self {
            gap_wait_ns: scale(self.gap_wait_ns),
            slot_lookup_retry_ns: scale(self.slot_lookup_retry_ns),
            slot_lookup_retry_ns_max: scale(self.slot_lookup_retry_ns_max),
            gap_request_timeout_ns: scale(self.gap_request_timeout_ns),
            gap_commit_retry_ns: scale(self.gap_commit_retry_ns),
            retransmit_ns: scale(self.retransmit_ns),
            retransmit_ns_max: scale(self.retransmit_ns_max),
            ping_interval_ns: scale(self.ping_interval_ns),
            idle_ping_interval_ns: scale(self.idle_ping_interval_ns),
            leader_timeout_ns: scale(self.leader_timeout_ns),
            leader_timeout_jitter_ns: scale(self.leader_timeout_jitter_ns),
            view_change_timeout_ns: scale(self.view_change_timeout_ns),
            view_change_timeout_ns_max: scale(self.view_change_timeout_ns_max),
            view_change_retry_ns: scale(self.view_change_retry_ns),
            merge_grace_ns: scale(self.merge_grace_ns),
            sync_interval_ns: scale(self.sync_interval_ns),
            sync_batch_count: self.sync_batch_count,
            repair_retry_ns: scale(self.repair_retry_ns),
            repair_retry_ns_max: scale(self.repair_retry_ns_max),
            recover_retry_ns: scale(self.recover_retry_ns),
            recover_retry_ns_max: scale(self.recover_retry_ns_max),
            transfer_timeout_ns: scale(self.transfer_timeout_ns),
        }
    }

    /// How long an endorsement counts, and how long one must last to be followed alone (E3).
    pub(super) fn endorsement_ns(&self) -> u64 {
        4 * self.leader_timeout_ns
    }

    /// A view that is left before was brief, unless timeouts are longer already.
    pub(super) fn brief_view_ns(&self) -> u64 {
        8 * self.leader_timeout_ns
    }
}
