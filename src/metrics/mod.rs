//! Counters of a core. Each has one writer, the core's own loop, so they are plain numbers.

mod drops;

pub use drops::{DropReason, Drops};

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)*
            /// What was discarded, by reason.
            pub drops: Drops,
        }

        impl $name {
            /// Calls `visit` with each counter's name and value; those of `drops` come as
            /// `drop_<reason>`.
            pub fn each(&self, mut visit: impl FnMut(&'static str, u64)) {
                $(visit(stringify!($field), self.$field);)*
                for (reason, count) in self.drops.iter() {
                    visit(reason.counter_name(), count);
                }
            }
        }
    };
}

counters! {
    /// What a core's loop did.
    LoopMetrics {
        /// Turns of the loop.
        turns_count,
        /// Turns in which there was something to do.
        turns_busy_count,
        /// Times that the loop went to sleep.
        parks_count,
        /// Connections accepted.
        connections_accepted_count,
        /// Connections that are gone.
        connections_closed_count,
        /// Failed accepts.
        accept_errors_count,
        /// Bytes received.
        received_size_bytes,
        /// Bytes sent.
        sent_size_bytes,
        /// Frames handed to the service.
        frames_count,
        /// Passes in which they were handed over.
        passes_count,
        /// Answers, counting each last answer to a request.
        answers_count,
        /// Requests that were understood and refused before they reached the shard.
        refusals_count,
        /// Times that the reading of a connection was stopped by a bound.
        reads_stopped_count,
        /// Accepted connections that were handed to another core.
        handed_over_count,
        /// Requests forwarded to other shards.
        forwarded_count,
        /// Requests that had to wait until they could be forwarded.
        deferred_count,
        /// Requests of other shards.
        guests_count,
        /// Turns in which something was published to another shard.
        published_count,
        /// Times that the receive pool was empty.
        receive_pool_empty_count,
        /// Writes to the log.
        log_writes_count,
        /// Bytes written to the log.
        log_written_size_bytes,
        /// Segments prepared.
        segments_prepared_count,
    }
}

/// What a shard did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Commands stamped.
    pub commands: u64,
    /// Queries taken.
    pub queries: u64,
    /// Requests answered with a result; a condition that failed is one.
    pub answers: u64,
    /// Requests answered with an error.
    pub failures: u64,
    /// Commands refused because the partition was between two views, or the node going down.
    pub refused_unavailable: u64,
    /// Commands refused because too much waited for the log.
    pub refused_unsynced: u64,
    /// Commands refused because the log was full.
    pub refused_log_full: u64,
    /// Commands refused because the map was full.
    pub refused_map_full: u64,
    /// Slots appended again so that an old segment could be let go.
    pub carried: u64,
    /// Reports of damage in segments that were written.
    pub damaged: u64,
    /// Checkpoints recorded.
    pub checkpoints: u64,
    /// Bytes of their files.
    pub checkpoint_size_bytes: u64,
    /// Checkpoints given up because their file could not be written.
    pub checkpoint_failures: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_visited_under_its_name() {
        let mut metrics = LoopMetrics { frames_count: 3, ..LoopMetrics::default() };
        metrics.drops.count(DropReason::FrameTooLong);
        let mut seen = Vec::new();
        metrics.each(|name, value| {
            if value > 0 {
                seen.push((name.to_owned(), value));
            }
        });
        assert_eq!(seen, [("frames_count".into(), 3), ("drop_frame_too_long".into(), 1)]);
    }
}
