//! Members whose log has no room for values: they take none in, and go on by themselves once there
//! is room. Nobody else is disturbed.

use super::*;

fn last(cluster: &Cluster, id: MemberId) -> Index {
    cluster.member(id).replica().log().last()
}

#[test]
fn follower_without_room_takes_no_slots_in_and_catches_up_once_it_has() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        cluster.run_until(|cluster| cluster.member(C).replica().sync_point() == Index(5));
        let term = cluster.member(A).term();
        cluster.node_mut(C).host.is_full = true;
        cluster.submit_all(50);
        cluster.run_for(2 * NS_PER_S);
        assert_eq!(last(&cluster, C), Index(5), "seed {seed}");
        assert_eq!(cluster.member(A).replica().sync_point(), Index(55), "the others go on");
        let asked_count = cluster.sent_count("SyncRepair");
        assert!(
            asked_count < 100,
            "seed {seed}: it asked {asked_count} times for what it can't log"
        );
        cluster.node_mut(C).host.is_full = false;
        cluster.run_until(|cluster| cluster.member(C).replica().sync_point() == Index(55));
        assert_eq!(cluster.member(A).term(), term, "seed {seed}: the view was changed");
        cluster.finish();
    }
}

#[test]
fn adoption_waits_for_room_and_disturbs_no_view_meanwhile() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        cluster.isolate(C);
        cluster.submit_all(20);
        // C will have to adopt a view that the others have begun without it.
        cluster.restart(A);
        cluster.run_until(|cluster| {
            let is_begun = |id| {
                let replica = cluster.member(id).replica();
                replica.status() == Status::Normal && replica.view() > TermId(1)
            };
            is_begun(A) && is_begun(B)
        });
        cluster.node_mut(C).host.is_full = true;
        cluster.heal();
        cluster.run_for(3 * NS_PER_S);
        let before = cluster.member(B).term();
        cluster.run_for(10 * NS_PER_S);
        assert_eq!(cluster.member(C).replica().status(), Status::ViewChange, "seed {seed}");
        assert_eq!(cluster.member(B).term(), before, "seed {seed}: the view was changed");
        cluster.node_mut(C).host.is_full = false;
        cluster.run_until(|cluster| {
            let replica = cluster.member(C).replica();
            replica.status() == Status::Normal && last(cluster, C) >= Index(25)
        });
        assert_eq!(cluster.member(C).term(), before, "seed {seed}");
        cluster.finish();
    }
}
