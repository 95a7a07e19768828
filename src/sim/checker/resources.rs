//! Bounds are kept: what a shard holds never exceeds what it says that it may.

use super::{Checker, Violation};
use crate::base::cast::u64_from;
use crate::base::limits::{
    COMMAND_SIZE_BYTES_MAX, ENTRY_STREAM_COUNT_MAX, GATHER_COUNT_MAX, REQUESTS_PER_SHARD_MAX,
    UNSYNCED_SIZE_BYTES_MAX, WAITING_READ_COUNT_MAX,
};
use crate::metrics::ShardGauges;
use crate::sim::NodeId;

/// Checks what a shard holds. A log has one segment beyond its bound where it couldn't let any go
/// otherwise (`WalConfig::log_size_bytes_max`): never two, so that is what is checked.
///
/// # Errors
/// If a bound is exceeded.
pub fn check(
    node: NodeId,
    shard_count: u16,
    segment_size_bytes: u64,
    gauges: &ShardGauges,
) -> Result<(), Violation> {
    // What other shards ask for isn't refused: each of them keeps its own bound.
    let askers = u64::from(shard_count);
    let unsynced = u64_from(UNSYNCED_SIZE_BYTES_MAX);
    let bounds = [
        ("awaiting", gauges.awaiting, u64_from(REQUESTS_PER_SHARD_MAX)),
        ("unsynced bytes", gauges.unsynced_size_bytes, unsynced),
        ("bytes of results", gauges.results_size_bytes, unsynced),
        ("gathers", gauges.gathers, askers * u64_from(GATHER_COUNT_MAX)),
        ("waiting reads", gauges.waiting_reads, u64_from(WAITING_READ_COUNT_MAX)),
        ("streams", gauges.streams, askers * u64_from(ENTRY_STREAM_COUNT_MAX)),
        (
            "bytes of the log",
            gauges.log_used_size_bytes,
            gauges.log_size_bytes_max + segment_size_bytes,
        ),
        (
            "bytes that wait for the log",
            gauges.log_gathering_size_bytes,
            unsynced + u64_from(COMMAND_SIZE_BYTES_MAX),
        ),
    ];
    for (what, found, most) in bounds {
        if found > most {
            let what = format!("node {node}: {found} {what}, and {most} are allowed");
            return Err(Violation::new(Checker::Resources, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_that_is_exceeded_is_found() {
        const SEGMENT_SIZE_BYTES: u64 = 3;
        let gauges = ShardGauges { log_size_bytes_max: 9, ..ShardGauges::default() };
        let whole = ShardGauges { log_used_size_bytes: 12, ..gauges };
        for gauges in [gauges, whole] {
            check(NodeId(0), 1, SEGMENT_SIZE_BYTES, &gauges).expect("no bound is exceeded");
        }
        for gauges in [
            ShardGauges { log_used_size_bytes: 15, ..gauges },
            ShardGauges { waiting_reads: 1 << 20, ..gauges },
            ShardGauges { awaiting: 1 << 20, ..gauges },
            ShardGauges { unsynced_size_bytes: 1 << 30, ..gauges },
        ] {
            let violation =
                check(NodeId(0), 1, SEGMENT_SIZE_BYTES, &gauges).expect_err("a bound is exceeded");
            assert_eq!(violation.checker, Checker::Resources);
        }
    }
}
