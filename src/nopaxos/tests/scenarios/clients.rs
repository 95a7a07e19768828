//! Scenarios 36, 37 and 41 to 43: reads, the leader's place handed over, clocks, and bounds.

use super::*;
use crate::base::limits::UNSYNCED_COUNT_MAX;
use crate::base::time::Timestamp;
use crate::nopaxos::GivenBack;

const HOUR_NS: u64 = 3_600 * NS_PER_S;

#[test]
pub(super) fn s36_deposed_leader_that_doesnt_know_it_answers_no_read() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        cluster.isolate(A);
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        cluster.submit_all(3);
        let before = cluster.observer.reads_count;
        cluster.read_at(A);
        cluster.run_for(100 * NS_PER_MS);
        assert_eq!(cluster.observer.reads_count, before);
        let leader = cluster.stamping().unwrap();
        cluster.read_at(leader);
        cluster.run_until(move |cluster| cluster.observer.reads_count > before);
        cluster.finish();
    }
}

#[test]
fn s37_reads_see_every_write_that_was_answered_before() {
    for seed in SEEDS {
        for offset in [0, 1] {
            let mut cluster = Cluster::started(seed, 3, offset);
            for _ in 0..100 {
                cluster.submit();
                let id = cluster.stamping().unwrap();
                cluster.read_at(id);
                cluster.run_for(200_000);
                cluster.read_at(id);
            }
            cluster.run_until(|cluster| cluster.observer.reads_count == 200);
            cluster.finish();
        }
    }
}

#[test]
fn s41_leader_hands_its_place_over_without_losing_a_command() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(10);
        cluster.act(A, |member, now, host| member.transfer_leadership(now, C, host));
        cluster.run_until(|cluster| cluster.stamping() == Some(C));
        assert_eq!(cluster.observer.start_views_count(), 2);
        cluster.submit_all(3);
        cluster.finish();
    }
}

#[test]
fn s41_member_that_lags_is_handed_the_leaders_place_once_it_has_caught_up() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(10);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, to, message| {
            to == C && matches!(name(message), "Command" | "SyncPrepare")
        });
        let mut ops = cluster.submit_all(20);
        ops.extend(cluster.submit());
        let begun = cluster.now;
        cluster.act(A, |member, now, host| member.transfer_leadership(now, C, host));
        // What comes meanwhile is not taken, so that it can go to the next leader.
        let refused = cluster.submit_at(A);
        assert_eq!(cluster.given_back.get(&refused), Some(&GivenBack::NotTaken));
        cluster.run_for(500 * NS_PER_MS);
        assert!(cluster.stamping().is_none() && cluster.observer.start_views_count() == 1);
        assert_eq!(cluster.member(C).replica().log().last(), Index(10));
        cluster.filter = None;
        cluster.run_until(|cluster| cluster.stamping().is_some());
        assert_eq!(cluster.stamping(), Some(C));
        assert!(cluster.now - begun < 2 * NS_PER_S);
        assert_eq!(cluster.observer.start_views_count(), 2);
        cluster.finish();
        cluster.observer.check_once(&ops);
        assert_eq!(cluster.observer.places_of(refused), []);
    }
}

#[test]
fn s41_leader_goes_on_when_the_member_that_was_to_follow_it_is_dead() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        let mut ops = cluster.submit_all(10);
        cluster.crash(C, 0);
        ops.extend((0..5).filter_map(|_| cluster.submit()));
        let begun = cluster.now;
        cluster.act(A, |member, now, host| member.transfer_leadership(now, C, host));
        assert_eq!(cluster.stamping(), None);
        cluster.run_until(|cluster| cluster.stamping().is_some());
        assert_eq!(cluster.now - begun, 2 * NS_PER_S);
        assert_eq!(cluster.stamping(), Some(A));
        assert_eq!(cluster.observer.start_views_count(), 1);
        ops.extend(cluster.submit_all(3));
        cluster.finish();
        cluster.observer.check_once(&ops);
    }
}

/// The timestamps in a member's log.
fn timestamps(cluster: &Cluster, id: MemberId) -> Vec<Timestamp> {
    let slots = cluster.node(id).host.disk.durable.slots.values();
    slots.filter(|slot| slot.value.is_some()).map(|slot| slot.timestamp).collect()
}

/// How the log's time is the map's: `entry_that_expires_is_hidden_at_once_and_removed_by_a_tick`
/// and its neighbours in `shard/tests/ticks.rs`.
#[test]
fn s42_time_in_the_log_never_goes_back() {
    for seed in SEEDS {
        for offset in [0, 1] {
            let mut cluster = Cluster::new(seed, 3, offset, Settings::default());
            cluster.clock_skew_ns.fill(2 * HOUR_NS);
            cluster.start_all();
            let mut ops = cluster.submit_all(5);
            // The clock of whoever stamps is set back, later that of whoever comes after it.
            for _ in 0..3 {
                let stamps = cluster.stamping().unwrap();
                let skew = &mut cluster.clock_skew_ns[usize::from(stamps.0)];
                *skew = skew.saturating_sub(HOUR_NS);
                ops.extend(cluster.submit_all(5));
                cluster.restart(stamps);
                cluster
                    .run_until(move |cluster| cluster.stamping().is_some() && cluster.is_settled());
                ops.extend(cluster.submit_all(5));
            }
            cluster.finish();
            for id in cluster.members() {
                let timestamps = timestamps(&cluster, id);
                assert!(timestamps.len() >= ops.len());
                assert!(timestamps.is_sorted(), "seed {seed}: {timestamps:?}");
            }
        }
    }
}

#[test]
fn s43_one_member_that_is_away_stops_nobody_however_much_is_written() {
    let mut cluster = Cluster::started(1, 3, 0);
    cluster.isolate(C);
    let mut last = 0;
    for _ in 0..UNSYNCED_COUNT_MAX / 500 + 2 {
        for _ in 0..500 {
            last = cluster.submit_at(A);
        }
        cluster.run_for(2 * NS_PER_MS);
        assert!(cluster.given_back.is_empty(), "stamping stops at {last}");
    }
    assert!(last > UNSYNCED_COUNT_MAX);
    cluster.run_until(|cluster| cluster.member(A).replica().sync_point() == Index(last));
    assert_eq!(cluster.observer.start_views_count(), 1);
}

#[test]
fn s43_nothing_more_is_stamped_while_too_much_has_no_quorum() {
    let mut cluster = Cluster::started(1, 3, 0);
    lose(&mut cluster, u64::MAX, |_, _, message| {
        matches!(name(message), "CommandResponse" | "SyncResponse")
    });
    let mut last = 0;
    for _ in 0..UNSYNCED_COUNT_MAX / 512 {
        last = (0..512).map(|_| cluster.submit_at(A)).last().unwrap();
        cluster.run_for(NS_PER_MS / 10);
    }
    assert!(last == UNSYNCED_COUNT_MAX && cluster.given_back.is_empty());
    let refused = cluster.submit_at(A);
    assert_eq!(cluster.given_back.get(&refused), Some(&GivenBack::NotTaken));
    cluster.run_for(50 * NS_PER_MS);
    let refused = cluster.submit_at(A);
    assert_eq!(cluster.given_back.get(&refused), Some(&GivenBack::NotTaken));
    // Leader and followers hear each other all the time: nobody is deposed for it.
    assert_eq!(cluster.observer.start_views_count(), 1);
    // What was lost was lost with a connection: on the next one it is said again.
    cluster.filter = None;
    cluster.reconnect(A, B);
    cluster.reconnect(A, C);
    cluster.run_until(|cluster| cluster.observer.answer_of(last).is_some());
    let taken = cluster.submit_at(A);
    cluster.run_until(|cluster| cluster.observer.answer_of(taken).is_some());
}
