//! What a core counts and measures. Each number has one writer, the core's own loop, so they are
//! plain numbers; `runtime` shows them to other threads.
//!
//! [`table`] says what each number is called and means, [`stage`] which distributions there are;
//! [`exposition`] writes all of it as text for Prometheus.

mod drops;
pub mod exposition;
pub mod histogram;
pub mod stage;
pub mod table;

pub use drops::{DropReason, Drops};

use self::table::{Row, metrics};

metrics! {
    /// What a core's loop did, and what it holds.
    LoopMetrics {
        /// Turns of the loop.
        turns_count: Counter One "turns_total",
        /// Turns in which there was something to do.
        turns_busy_count: Counter One "turns_busy_total",
        /// Turns, busy or not, that took more than a millisecond.
        stalls_count: Counter One "stalls_total",
        /// Of those, turns that would have taken less if the loop's thread had not been kept from
        /// its core (by other threads, or the hypervisor where the kernel accounts for it).
        stalls_off_core_count: Counter One "stalls_off_core_total",
        /// The time that turns of more than a millisecond took.
        stalls_ns: Counter Nanoseconds "stall_seconds_total",
        /// The part of it in which the loop's thread was kept from its core.
        stalls_off_core_ns: Counter Nanoseconds "stall_off_core_seconds_total",
        /// Time that the loop's thread was ready to run and waited for its core, as the scheduler
        /// counts it.
        run_queue_wait_ns: Counter Nanoseconds "run_queue_wait_seconds_total",
        /// Times that the loop went to sleep.
        parks_count: Counter One "parks_total",
        /// Connections accepted.
        connections_accepted_count: Counter One "connections_accepted_total",
        /// Connections that are gone.
        connections_closed_count: Counter One "connections_closed_total",
        /// Failed accepts.
        accept_errors_count: Counter One "accept_errors_total",
        /// Bytes received.
        received_size_bytes: Counter One "received_bytes_total",
        /// Bytes sent.
        sent_size_bytes: Counter One "sent_bytes_total",
        /// Frames handed to the service.
        frames_count: Counter One "frames_total",
        /// Passes in which they were handed over.
        passes_count: Counter One "passes_total",
        /// Answers, counting each last answer to a request.
        answers_count: Counter One "answers_total",
        /// Requests that were understood and refused before they reached the shard.
        refusals_count: Counter One "requests_refused_total",
        /// Times that the reading of a connection was stopped by a bound.
        reads_stopped_count: Counter One "reads_stopped_total",
        /// Accepted connections that were handed to another core.
        handed_over_count: Counter One "connections_handed_over_total",
        /// Requests forwarded to other shards.
        forwarded_count: Counter One "requests_forwarded_total",
        /// Requests that had to wait until they could be forwarded.
        deferred_count: Counter One "requests_deferred_total",
        /// Requests of other shards.
        guests_count: Counter One "requests_of_other_cores_total",
        /// Turns in which something was published to another shard.
        published_count: Counter One "turns_published_total",
        /// Times that the receive pool was empty.
        receive_pool_empty_count: Counter One "receive_pool_empty_total",
        /// Writes to the log.
        log_writes_count: Counter One "log_writes_total",
        /// Bytes written to the log.
        log_written_size_bytes: Counter One "log_written_bytes_total",
        /// Segments prepared.
        segments_prepared_count: Counter One "segments_prepared_total",
        /// Connections to other members that were opened, with greetings of both sides.
        member_connects_count: Counter One "member_connections_opened_total",
        /// Connections of other members that were opened and are over.
        member_losses_count: Counter One "member_connections_lost_total",
        /// Attempts to connect to other members.
        member_dials_count: Counter One "member_dials_total",
        /// Frames of other members.
        member_frames_count: Counter One "member_frames_total",
        /// Frames of other members that came before all of their connections were there, or after
        /// one of them was gone.
        member_frames_untimely_count: Counter One "member_frames_untimely_total",
        /// Frames to other members that were not queued because too much waited for them.
        member_overflows_count: Counter One "member_queue_overflows_total",
        /// Questions to other members, whether they are there, that were answered.
        member_pings_count: Counter One "member_pings_total",
        /// How long all of these answers together took.
        member_pings_ns: Counter Nanoseconds "member_ping_seconds_total",
        /// Other nodes that are connected.
        members_connected: Gauge One "members_connected",
        /// Bytes that wait for other members to read them.
        member_queued_size_bytes: Gauge One "member_queued_bytes",
        /// Connections.
        connections: Gauge One "connections",
        /// Connections that aren't read until there is room for their requests.
        connections_waiting: Gauge One "connections_waiting",
        /// Frames handed over and not yet answered.
        requests_in_flight: Gauge One "requests_in_flight",
        /// Bytes received and not yet handed over.
        held_size_bytes: Gauge One "held_bytes",
        /// Bytes that wait for clients to read them.
        queued_size_bytes: Gauge One "queued_bytes",
        /// Completions taken from the kernel and left to the next turn.
        completions_waiting: Gauge One "completions_waiting",
        /// Writes to the log that are under way.
        log_writes_in_flight: Gauge One "log_writes_in_flight",
    } + {
        /// What was discarded, by reason.
        drops: Drops,
    }
}

metrics! {
    /// What a shard did.
    ShardCounters {
        /// Commands stamped.
        commands: Counter One "commands_total",
        /// Queries taken.
        queries: Counter One "queries_total",
        /// Queries answered at once, in the pass that brought them.
        reads: Counter One "reads_total",
        /// Requests answered with a result; a condition that failed is one.
        answers: Counter One "results_total",
        /// Requests answered with an error.
        failures: Counter One "failures_total",
        /// Commands refused because the partition was between two views, or the node going down.
        refused_unavailable: Counter One "commands_refused_total" reason "unavailable",
        /// Commands refused because too much waited for the log.
        refused_unsynced: Counter One "commands_refused_total" reason "unsynced",
        /// Commands refused because the log was full.
        refused_log_full: Counter One "commands_refused_total" reason "log_full",
        /// Commands refused because the map was full.
        refused_map_full: Counter One "commands_refused_total" reason "map_full",
        /// Slots appended again so that an old segment could be let go.
        carried: Counter One "slots_carried_total",
        /// Messages to other members.
        peer_sent: Counter One "member_messages_sent_total",
        /// Messages to other members that were not sent, for want of a connection as a rule.
        peer_unsent: Counter One "member_messages_unsent_total",
        /// Messages of other members.
        peer_received: Counter One "member_messages_received_total",
        /// Those of them that came while the node was going down, and were not taken.
        peer_unheard: Counter One "member_messages_unheard_total",
        /// Times that a member's disk was found to have gone back in time.
        rolled_back: Counter One "members_rolled_back_total",
        /// Requests passed on to the node that stamps, for clients of this one.
        forwarded_out: Counter One "requests_passed_on_total",
        /// Requests that other nodes passed on to this one.
        forwarded_in: Counter One "requests_of_other_nodes_total",
        /// Answers to requests that were passed on, for which nobody waited any more.
        forwarded_late: Counter One "passed_on_answers_late_total",
        /// Views that partitions have become part of.
        views_started: Counter One "views_started_total",
        /// Views that they have left.
        views_left: Counter One "views_left_total",
        /// Slots that a member missed and asked for, each time that it did.
        slot_lookups: Counter One "slot_lookups_total",
        /// Requests to a member to make a slot a no-op that nobody could find.
        gap_commits: Counter One "gap_commits_total",
        /// Requests for slots or checkpoints that others have, to catch up with a view.
        repairs: Counter One "repairs_requested_total",
        /// Reports of damage in segments that were written.
        damaged: Counter One "damage_reports_total",
    }
}

metrics! {
    /// What a shard holds at the moment.
    ShardGauges {
        /// Stamped commands and other records that wait for the log.
        awaiting: Gauge One "log_awaiting",
        /// Bytes of commands that aren't stable yet.
        unsynced_size_bytes: Gauge One "unsynced_bytes",
        /// Bytes of results that may not be given out yet.
        results_size_bytes: Gauge One "results_waiting_bytes",
        /// Commands to all partitions that are under way.
        gathers: Gauge One "gathers",
        /// Reads that wait for their `min_index`.
        waiting_reads: Gauge One "waiting_reads",
        /// Streamed answers that are under way.
        streams: Gauge One "streams",
        /// Partitions in which cleared maps have left entries that are being freed.
        sweeping_partitions: Gauge One "sweeping_partitions",
        /// Bytes of the log's files.
        log_used_size_bytes: Gauge One "log_used_bytes",
        /// Bytes that they may become.
        log_size_bytes_max: Gauge One "log_max_bytes",
        /// Bytes that clients' commands may still fill; at 0 they are refused.
        log_client_size_bytes: Gauge One "log_client_room_bytes",
        /// Bytes appended to the log and not yet handed out to be written.
        log_gathering_size_bytes: Gauge One "log_gathering_bytes",
        /// Bytes of entries and tables in use.
        map_used_size_bytes: Gauge One "map_used_bytes",
        /// Memory that was reserved for them.
        map_reserved_size_bytes: Gauge One "map_reserved_bytes",
        /// Memory that may be reserved for them.
        map_size_bytes_max: Gauge One "map_max_bytes",
    }
}

metrics! {
    /// Messages of other members that had no effect, by reason: those that the protocol ignores, in
    /// the order of `nopaxos::IgnoreReason`, and frames that no member should have sent, in that of
    /// `wire::peer::PeerDrop`.
    IgnoredMetrics {
        /// It is of a lower view.
        ignored_stale_view: Counter One "member_ignored_total" reason "stale_view",
        /// It is of a higher view and doesn't show that this one has begun.
        ignored_unknown_view: Counter One "member_ignored_total" reason "unknown_view",
        /// It names no view though it must.
        ignored_no_view: Counter One "member_ignored_total" reason "no_view",
        /// An earlier life of its sender sent it.
        ignored_stale_incarnation: Counter One "member_ignored_total" reason "stale_incarnation",
        /// Its sender may not say that.
        ignored_bad_sender: Counter One "member_ignored_total" reason "bad_sender",
        /// It contradicts itself.
        ignored_malformed: Counter One "member_ignored_total" reason "malformed",
        /// The member isn't part of a view at the moment.
        ignored_not_normal: Counter One "member_ignored_total" reason "not_normal",
        /// The member isn't between two views at the moment.
        ignored_not_changing: Counter One "member_ignored_total" reason "not_changing",
        /// The member recovers and knows nothing.
        ignored_recovering: Counter One "member_ignored_total" reason "recovering",
        /// The member led this view in an earlier life.
        ignored_barred: Counter One "member_ignored_total" reason "barred",
        /// Only the leader can do that.
        ignored_not_leading: Counter One "member_ignored_total" reason "not_leading",
        /// Only the sequencer can do that.
        ignored_not_sequencing: Counter One "member_ignored_total" reason "not_sequencing",
        /// It was said before.
        ignored_duplicate: Counter One "member_ignored_total" reason "duplicate",
        /// Nobody asked for it, or no longer.
        ignored_unasked: Counter One "member_ignored_total" reason "unasked",
        /// The slot has become a no-op.
        ignored_no_op_slot: Counter One "member_ignored_total" reason "no_op_slot",
        /// The slot isn't here.
        ignored_unknown_slot: Counter One "member_ignored_total" reason "unknown_slot",
        /// Too much waits already.
        ignored_full: Counter One "member_ignored_total" reason "full",
        /// It was answered just now.
        ignored_answered_just_now: Counter One "member_ignored_total" reason "answered_just_now",
        /// It is about a slot that is below what is stable.
        ignored_below_sync_point: Counter One "member_ignored_total" reason "below_sync_point",
        /// A vote differs from the one that its sender cast before.
        ignored_changed_vote: Counter One "member_ignored_total" reason "changed_vote",
        /// Its kind isn't known: as members of a later release will send it.
        peer_drop_unknown_kind: Counter One "member_frames_dropped_total" reason "unknown_kind",
        /// Its target isn't known here.
        peer_drop_unknown_target: Counter One "member_frames_dropped_total" reason "unknown_target",
        /// It is from somebody else.
        peer_drop_bad_sender: Counter One "member_frames_dropped_total" reason "bad_sender",
        /// Its view can't be.
        peer_drop_bad_view: Counter One "member_frames_dropped_total" reason "bad_view",
        /// A field can't be.
        peer_drop_malformed: Counter One "member_frames_dropped_total" reason "malformed",
    }
}

metrics! {
    /// How a shard's partitions stand, where they have several members.
    MemberGauges {
        /// Partitions that this node leads.
        partitions_led: Gauge One "partitions_led",
        /// The highest term of a partition.
        term_max: Gauge One "term_highest",
        /// Slots that a partition's log has and that aren't stable yet, where they are most.
        unstable_slots_max: Gauge One "unstable_slots_highest",
        /// Slots that a partition's quorum holds and that aren't applied, where they are most.
        unapplied_slots_max: Gauge One "unapplied_slots_highest",
        /// Requests that were passed on to other nodes and aren't answered.
        forwards: Gauge One "passed_on_requests",
    }
}

metrics! {
    /// What became of a shard's checkpoints.
    CheckpointMetrics {
        /// Checkpoints written.
        checkpoints_count: Counter One "checkpoints_total",
        /// Bytes written to checkpoints.
        checkpoint_size_bytes: Counter One "checkpoint_written_bytes_total",
        /// Checkpoints that could not be written.
        checkpoint_failures_count: Counter One "checkpoint_failures_total",
        /// How long the last checkpoint took, from its first slice to its name.
        checkpoint_last_ns: Gauge Nanoseconds "checkpoint_last_duration_seconds",
    }
}

metrics! {
    /// Everything that a loop's service counts.
    ServiceMetrics {} + {
        /// What the shard did.
        counters: ShardCounters,
        /// What it holds.
        gauges: ShardGauges,
        /// What other members said in vain.
        ignored: IgnoredMetrics,
        /// How its partitions stand.
        member: MemberGauges,
        /// Its checkpoints.
        checkpoints: CheckpointMetrics,
    }
}

metrics! {
    /// Everything that a core counts. Another room's numbers are added here, and are then
    /// published and exported.
    CoreMetrics {} + {
        /// Those of its loop.
        event_loop: LoopMetrics,
        /// Those of what the loop hosts.
        service: ServiceMetrics,
    }
}

impl CoreMetrics {
    /// The row of each metric, in the order of [`CoreMetrics::each`].
    #[must_use]
    pub fn rows() -> Vec<&'static Row> {
        let mut rows = Vec::new();
        Self::default().each(&mut |row, _| rows.push(row));
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::stage::Stage;
    use super::table::{Kind, LABELLED_FAMILIES, Unit};
    use super::*;

    #[test]
    fn each_metric_is_visited_under_its_name() {
        let mut metrics = CoreMetrics::default();
        metrics.event_loop.frames_count = 3;
        metrics.event_loop.drops.count(DropReason::FrameTooLong);
        metrics.service.gauges.streams = 2;
        let mut seen = Vec::new();
        metrics.each(&mut |row, value| {
            if value > 0 {
                seen.push((row.name, value));
            }
        });
        assert_eq!(seen, [("frames_count", 3), ("drop_frame_too_long", 1), ("streams", 2)]);
    }

    #[test]
    fn filling_is_the_reverse_of_visiting() {
        let (mut metrics, mut next) = (CoreMetrics::default(), 0);
        metrics.fill(&mut || {
            next += 1;
            next
        });
        let mut values = Vec::new();
        metrics.each(&mut |_, value| values.push(value));
        assert!(values.into_iter().eq(1..=next));
    }

    #[test]
    fn names_are_unique_and_families_agree_with_themselves() {
        let rows = CoreMetrics::rows();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        let mut families = BTreeMap::new();
        let mut series = BTreeSet::new();
        for row in &rows {
            let about = (row.kind, row.unit, row.family_help());
            assert_eq!(*families.entry(row.family).or_insert(about.clone()), about, "{row:?}");
            assert!(series.insert((row.family, row.label)), "{row:?} is there twice");
            let labelled = LABELLED_FAMILIES.iter().any(|(family, _)| *family == row.family);
            assert_eq!(row.label.is_some(), labelled, "{row:?}");
        }
        for stage in Stage::ALL {
            assert!(!families.contains_key(stage.family()), "{stage:?} is no number");
        }
    }

    #[test]
    fn names_say_what_a_metric_is_and_in_which_unit() {
        for row in CoreMetrics::rows() {
            let family = row.family;
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(family.bytes().all(is_name), "{family}");
            assert_eq!(family.ends_with("_total"), row.kind == Kind::Counter, "{family}");
            let base = family.trim_end_matches("_total");
            assert_eq!(base.ends_with("_seconds"), row.unit == Unit::Nanoseconds, "{family}");
            assert_eq!(row.name.contains("size_bytes"), base.ends_with("_bytes"), "{family}");
            let help = row.family_help();
            assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{family}: {help:?}");
        }
        for stage in Stage::ALL {
            let in_seconds = stage.family().ends_with("_seconds");
            assert_eq!(in_seconds, stage.unit() == Unit::Nanoseconds);
            assert!(stage.help().ends_with('.'));
        }
    }
}
