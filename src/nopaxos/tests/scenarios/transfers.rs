//! Members that are given a checkpoint slowly: what has come is not thrown away, neither by them
//! nor by a view change that only they would need.

use super::*;

/// A group whose leader can give C nothing below its end but a checkpoint of some chunks.
fn far_ahead_of_c(seed: u64) -> Cluster {
    let settings = Settings { retained_size_bytes: 100, ..Settings::default() };
    let mut cluster = Cluster::new(seed, 3, 0, settings);
    cluster.start_all();
    cluster.submit_all(5);
    cluster.isolate(C);
    cluster.submit_all(60);
    cluster.run_until(|cluster| cluster.member(A).replica().sync_point() == Index(65));
    cluster.run_for(5 * NS_PER_MS);
    cluster
}

/// Each question of C for a chunk is lost once, so that a chunk takes most of the time in which a
/// view change, or a recovery, is to get on. The chunks that were asked for.
fn slow_down(cluster: &mut Cluster) -> Rc<RefCell<Vec<u64>>> {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let asks = Rc::clone(&asked);
    cluster.filter = Some(Box::new(move |from, _, message| {
        let Message::ViewRepair { request, wanted, .. } = message else { return Verdict::Deliver };
        if from != C || wanted.checkpoint == Index(0) || *request == 0 {
            return Verdict::Deliver;
        }
        let mut asked = asks.borrow_mut();
        let is_first = !asked.contains(request);
        asked.push(*request);
        if is_first { Verdict::Drop } else { Verdict::Deliver }
    }));
    asked
}

fn assert_each_came_once(asked: &RefCell<Vec<u64>>) {
    let chunk_count = 40_u64.div_ceil(u64::from(CHUNK_SIZE_BYTES));
    let expected: Vec<u64> = (1..chunk_count).flat_map(|chunk| [chunk, chunk]).collect();
    assert_eq!(*asked.borrow(), expected, "a transfer began anew");
}

#[test]
fn recovery_is_not_begun_anew_while_a_checkpoint_comes_in() {
    for seed in SEEDS {
        let mut cluster = far_ahead_of_c(seed);
        cluster.checkpoint(A);
        cluster.crash(C, 0);
        cluster.lose_disk(C);
        let asked = slow_down(&mut cluster);
        cluster.heal();
        cluster.start(C);
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert_each_came_once(&asked);
        cluster.finish();
    }
}

#[test]
fn member_that_is_given_a_checkpoint_asks_for_no_other_view_meanwhile() {
    for seed in SEEDS {
        let mut cluster = far_ahead_of_c(seed);
        // C will have to adopt a view that the others have begun without it.
        cluster.restart(A);
        cluster.run_until(|cluster| {
            [A, B].into_iter().all(|id| cluster.member(id).replica().status() == Status::Normal)
        });
        cluster.run_for(NS_PER_S);
        let leader = if cluster.member(A).replica().is_leading() { A } else { B };
        cluster.checkpoint(leader);
        let term = cluster.member(leader).term();
        let asked = slow_down(&mut cluster);
        cluster.heal();
        cluster.run_until(|cluster| {
            let replica = cluster.member(C).replica();
            replica.view() > TermId(1) && replica.status() == Status::Normal
        });
        assert_each_came_once(&asked);
        assert_eq!(cluster.member(C).term(), term, "the view was changed for C's sake");
        cluster.finish();
    }
}
