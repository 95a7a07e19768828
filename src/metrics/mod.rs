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
        /// Requests passed on to the node that stamps, for clients of this one.
        forwarded_out: Counter One "requests_passed_on_total",
        /// Requests that other nodes passed on to this one.
        forwarded_in: Counter One "requests_of_other_nodes_total",
        /// Answers to requests that were passed on, for which nobody waited any more.
        forwarded_late: Counter One "passed_on_answers_late_total",
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
