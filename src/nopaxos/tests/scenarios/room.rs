//! Members whose log has no room for values: they take none in, and go on by themselves once there
//! is room. Nobody else is disturbed.

use super::*;

fn last(cluster: &Cluster, id: MemberId) -> Index {
    cluster.member(id).replica().log().last()
}

/// A has all slots, C has lost its disk and has no room for what it copies.
fn recovering_without_room(seed: u64) -> Cluster {
    let mut cluster = Cluster::started(seed, 3, 0);
    cluster.submit_all(20);
    cluster.run_until(|cluster| cluster.member(A).replica().sync_point() == Index(20));
    cluster.crash(C, 0);
    cluster.lose_disk(C);
    cluster.start(C);
    cluster.node_mut(C).host.is_full = true;
    cluster.run_for(2 * NS_PER_S);
    assert_eq!(cluster.member(C).replica().status(), Status::Recovering, "seed {seed}");
    cluster
}

/// C has five slots, and no room for those that are on their way to it in this view.
fn following_without_room(seed: u64) -> (Cluster, TermId) {
    let mut cluster = Cluster::started(seed, 3, 0);
    cluster.submit_all(5);
    cluster.run_until(|cluster| cluster.member(C).replica().sync_point() == Index(5));
    let term = cluster.member(A).term();
    cluster.node_mut(C).host.is_full = true;
    cluster.submit_all(50);
    (cluster, term)
}

/// Until A and B have begun a later view than this.
fn run_until_later_view(cluster: &mut Cluster, former: TermId) {
    cluster.run_until(|cluster| {
        [A, B].into_iter().all(|id| {
            let replica = cluster.member(id).replica();
            replica.status() == Status::Normal && replica.view() > former
        })
    });
}

#[test]
fn follower_without_room_takes_no_slots_in_and_catches_up_once_it_has() {
    for seed in SEEDS {
        let (mut cluster, term) = following_without_room(seed);
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

/// What is stable at it lets go of nothing more, and it can't hold what would make more stable.
#[test]
fn follower_without_room_copies_a_checkpoint_if_that_lasts() {
    for seed in SEEDS {
        let (mut cluster, term) = following_without_room(seed);
        cluster.run_until(|cluster| cluster.member(A).replica().sync_point() == Index(55));
        cluster.checkpoint(A);
        cluster.run_until(|cluster| cluster.member(C).replica().sync_point() == Index(55));
        assert_eq!(cluster.member(A).term(), term, "seed {seed}: the view was changed");
        cluster.node_mut(C).host.is_full = false;
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
        run_until_later_view(&mut cluster, TermId(1));
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

/// Nothing is stable at it, so it says of no slot that the checkpoint must cover it.
#[test]
fn member_that_lost_its_disk_and_has_no_room_copies_a_checkpoint() {
    for seed in SEEDS {
        let mut cluster = recovering_without_room(seed);
        cluster.checkpoint(A);
        cluster.run_until(|cluster| cluster.member(C).replica().sync_point() == Index(20));
        cluster.node_mut(C).host.is_full = false;
        cluster.finish();
    }
}

/// Nothing is stable beyond what the view has begun with, so no checkpoint helps.
#[test]
fn member_that_recovers_and_has_no_room_follows_the_others_into_later_views() {
    for seed in SEEDS {
        let mut cluster = recovering_without_room(seed);
        let former = cluster.member(B).term();
        cluster.restart(A);
        run_until_later_view(&mut cluster, former);
        let term = cluster.member(B).term();
        cluster.run_for(10 * NS_PER_S);
        cluster.node_mut(C).host.is_full = false;
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert_eq!(cluster.member(C).term(), term, "seed {seed}");
        cluster.finish();
    }
}
