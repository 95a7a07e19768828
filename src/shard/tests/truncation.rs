//! What members say of their logs once some of it was let go.

use super::*;

#[test]
fn what_a_member_says_of_its_log_is_what_is_left_of_it() {
    let mut host = Host::start(Durability::Sync);
    for number in 0..PARTITION_COUNT * 4 {
        host.put(&format!("idle {number}"), "once");
    }
    host.run();
    host.answers();
    go_round(&mut host, 2 * LOG_SEGMENT_COUNT);
    host.handle(Input::Deadline);
    let mut truncated_count = 0;
    for Partition { member, view } in &host.shard.partitions {
        let partition = view.group.partition();
        let first = host.shard.core.log.first_slot(partition).expect("it serves peers");
        assert_eq!(member.replica().first(), first, "partition {partition}");
        truncated_count += u32::from(first > Index(1));
    }
    assert!(truncated_count > 0, "the busy one has let its old slots go");
}
