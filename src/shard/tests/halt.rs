//! A shard that finds an invariant broken stops, and leaves behind what it knows.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::cluster::{NODE_COUNT, Net, id};
use super::*;
use crate::base::limits::{HALT_SLOT_COUNT_MAX, HALT_VALUE_SIZE_BYTES_MAX};
use crate::nopaxos::Group;
use crate::nopaxos::message::Message as PeerMessage;
use crate::storage::halt::{HaltDump, HaltedStatus, POSITION_NAMES};
use crate::wire::peer::PeerEncoder;

#[test]
fn shard_that_is_told_to_undo_what_is_stable_halts_and_its_dump_says_why_and_how_it_stood() {
    let mut net = Net::start(1);
    net.wait_until_ready();
    let value = "v".repeat(200);
    for _ in 0..HALT_SLOT_COUNT_MAX + 8 {
        let put = net.put("k", &value);
        assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
    }
    net.run_for(NS_PER_S);
    let leader = net.stamper("k").expect("somebody leads");
    let follower = (leader + 1) % NODE_COUNT;
    let shard = &net.host(follower).shard;
    let partition = shard.core.router.partition_of_key(b"k");
    let view = &shard.partitions[shard.place(partition)].view;
    let (term, names) = (view.term, ["a", "b", "c"].map(str::to_owned).to_vec());
    let last = shard.partitions[shard.place(partition)].member.replica().log().last();
    // A leader with a defect: the slot is a value on all members, and executed.
    let sender = Group::new(partition, names.clone(), &names[leader]);
    let mut frame = BytesMut::new();
    let message = PeerMessage::GapCommitRequest { term, index: last };
    PeerEncoder::new("test", &sender).encode(&mut frame, &sender, &message).expect("it is short");
    let payload = frame.freeze().slice(FRAME_PREFIX_SIZE_BYTES..);
    let host = net.host(follower);
    let digest = host.shard.digest(partition);
    let halted = catch_unwind(AssertUnwindSafe(|| {
        host.handle(Input::Peer { from: id(leader), payload });
    }));
    let reason = halted.expect_err("an invariant is broken");
    let reason = reason.downcast_ref::<String>().expect("a panic has a text");
    assert!(reason.contains(&format!("partition {partition}: invariant I2")), "{reason}");

    let file = host.shard.halt_dump(reason).encode();
    let dump = HaltDump::decode(&file).expect("it is whole");
    assert_eq!((dump.shard, &dump.reason, dump.time), (ShardId(0), reason, host.now.wall));
    assert_eq!(dump.partitions.len(), usize_from_u32(PARTITION_COUNT));
    let found = &dump.partitions[usize_from_u32(partition.0)];
    let position = |name: &str| {
        let place = POSITION_NAMES.iter().position(|known| *known == name);
        found.positions[place.expect("it has this name")]
    };
    assert_eq!((found.partition, found.status), (partition, HaltedStatus::Normal));
    assert!(!found.is_leading);
    assert_eq!((position("view"), position("started")), (term.0, term.0));
    for name in ["last", "durable", "prepared", "sync_point", "applied"] {
        assert_eq!(position(name), last.0, "{name}");
    }
    assert_eq!(found.digest, digest.0.to_le_bytes());
    assert_eq!(found.crash_vector.len(), NODE_COUNT);
    let last_slot = found.slots.last().expect("the last slots are in memory still");
    assert_eq!(last_slot.index, last);
    assert!(last_slot.size_bytes > 200 && last_slot.begin.len() == HALT_VALUE_SIZE_BYTES_MAX);
    assert!(found.slots.len() <= HALT_SLOT_COUNT_MAX);
    assert!(found.slots.windows(2).all(|pair| pair[0].index.next() == pair[1].index));
}
