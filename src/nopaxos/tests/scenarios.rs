use super::cluster::{Cluster, m};
use crate::base::time::NS_PER_MS;

#[test]
fn new_group_starts_one_view_and_answers() {
    for seed in 0..20 {
        let mut cluster = Cluster::started(seed, 3, 0);
        let ops = cluster.submit_all(100);
        assert_eq!(cluster.observer.start_views_count(), 1);
        assert_eq!(cluster.observer.answered().count(), ops.len());
        let _ = (m(0), NS_PER_MS);
        cluster.finish();
    }
}
