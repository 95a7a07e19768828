//! What a shard shows of itself.

use super::*;
use crate::metrics::ServiceMetrics;
use crate::nopaxos::Status;
use crate::shard::PartitionState;

impl Host {
    fn take_changed(&mut self, count_max: usize) -> Vec<(PartitionId, PartitionState)> {
        let mut changed = Vec::new();
        self.shard.take_changed(count_max, |partition, state| changed.push((partition, state)));
        changed
    }

    fn measured(&self) -> ServiceMetrics {
        let mut metrics = ServiceMetrics::default();
        self.shard.measure(&mut metrics);
        metrics
    }
}

#[test]
fn wait_of_a_write_is_from_its_stamp_to_its_answer_and_counted_for_each() {
    let mut host = Host::start(Durability::Sync);
    let before = host.shard.commit_waits().clone();
    assert_eq!(before.count(), 0, "what a start writes is no client's");
    host.put("a", "1");
    host.put("b", "2");
    host.advance(5_000);
    host.put("c", "3");
    host.run();
    assert_eq!(host.answers().len(), 3);
    let waits = host.shard.commit_waits();
    assert_eq!(waits.count(), 3);
    // The first write has one, the second the others; each completion takes a microsecond.
    assert!(waits.max() >= 6_000 && waits.max() < 10_000, "{}", waits.max());
    assert!(waits.sum() > 2 * 6_000 && waits.sum() < 30_000, "{}", waits.sum());
}

#[test]
fn nobody_waits_without_sync_so_nothing_is_counted() {
    for durability in [Durability::Async, Durability::None] {
        let mut host = Host::start(durability);
        host.put("k", "v");
        host.run();
        assert_eq!(host.shard.commit_waits().count(), 0);
    }
}

#[test]
fn every_partition_is_shown_at_the_start_and_then_those_that_change() {
    let mut host = Host::start(Durability::Sync);
    assert_eq!(host.shard.changed_count(), usize_from_u32(PARTITION_COUNT));
    assert_eq!(host.take_changed(3).len(), 3);
    let rest = host.take_changed(100);
    assert_eq!(rest.len(), usize_from_u32(PARTITION_COUNT) - 3);
    for (_, state) in rest {
        assert_eq!((state.status, state.term), (Status::Normal, TermId(1)));
        assert_eq!((state.last, state.entries, state.size_bytes), (Index(0), 0, 0));
    }
    host.get("k");
    assert!(host.take_changed(100).is_empty(), "a read changes nothing");

    host.put("k", "value");
    host.put("k", "longer value");
    let [(partition, state)] = host.take_changed(100)[..] else { panic!("one has changed") };
    assert_eq!((state.last, state.sync_point), (Index(2), Index(0)));
    assert_eq!((state.entries, state.size_bytes), (1, 13));
    host.run();
    let [(again, state)] = host.take_changed(100)[..] else { panic!("it became stable") };
    assert_eq!((again, state.sync_point), (partition, Index(2)));
    assert_eq!(host.shard.changed_count(), 0);
}

#[test]
fn partition_is_shown_with_what_recovery_found() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    host.run();
    let disk = host.disk;
    let mut host = Host::boot(disk, Durability::Sync, 2);
    let shown = host.take_changed(100);
    let entries: u64 = shown.iter().map(|(_, state)| state.entries).sum();
    assert_eq!((shown.len(), entries), (usize_from_u32(PARTITION_COUNT), 1));
}

#[test]
fn what_waits_for_the_log_is_measured_while_it_waits() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    let waiting = host.measured();
    assert_eq!((waiting.counters.commands, waiting.gauges.awaiting), (1, 1));
    assert!(waiting.gauges.unsynced_size_bytes > 0 && waiting.gauges.results_size_bytes > 0);
    host.run();
    host.get("k");
    host.get("other");
    let done = host.measured();
    let gauges = done.gauges;
    assert_eq!((gauges.awaiting, gauges.unsynced_size_bytes, gauges.results_size_bytes), (0, 0, 0));
    assert_eq!((done.counters.queries, done.counters.reads, done.counters.answers), (2, 2, 3));
    assert!(gauges.map_used_size_bytes > 0);
    assert!(gauges.map_used_size_bytes <= gauges.map_reserved_size_bytes);
    assert!(gauges.log_used_size_bytes >= u64_from(SEGMENT_SIZE));
}

#[test]
fn question_about_the_node_is_not_a_shards_to_answer() {
    let mut host = Host::start(Durability::None);
    let query = v1::Query {
        operation: Some(query::Operation::Status(v1::Status::default())),
        ..v1::Query::default()
    };
    let correlation = host.send_query(&query);
    assert_eq!(error_code(&host.answers()[&correlation]), Some(Code::Unimplemented));
}
