use std::collections::BTreeSet;

use super::*;

/// Many faults of a class.
fn drawn(class: FaultClass, node_count: usize) -> impl Iterator<Item = Fault> {
    let mut prng = Prng::new(7, "faults");
    (0..200).map(move |_| Fault::draw(&mut prng, &[class], node_count))
}

/// Who hears whom in both directions.
fn hear_each_other(fault: &Fault, one: usize, other: usize) -> bool {
    let held = |from, to| {
        fault.heard.iter().any(|heard| (heard.from, heard.to) == (from, to) && heard.rule.is_held)
    };
    !held(one, other) && !held(other, one)
}

#[test]
fn majority_lives_and_hears_itself_whenever_progress_is_demanded() {
    for node_count in [3, 5] {
        let classes = FaultClass::ALL.iter().copied();
        for class in classes.filter(|class| class.demands_progress()) {
            if node_count < class.node_count_min() {
                continue;
            }
            for fault in drawn(class, node_count) {
                let well: Vec<usize> =
                    (0..node_count).filter(|place| !fault.nodes.contains(place)).collect();
                assert!(well.len() > node_count / 2, "{fault:?}");
                for one in &well {
                    for other in well.iter().filter(|other| *other != one) {
                        assert!(hear_each_other(&fault, *one, *other), "{fault:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn shapes_of_partitions_are_what_they_are_called() {
    for fault in drawn(FaultClass::Isolate, 5) {
        assert_eq!(fault.heard.len(), 8, "both directions to four others");
    }
    for fault in drawn(FaultClass::Halves, 5) {
        assert_eq!((fault.nodes.len(), fault.heard.len()), (2, 2 * 3 * 2));
    }
    for fault in drawn(FaultClass::Bridge, 5) {
        let hears_all = |place: &usize| {
            (0..5).all(|other| other == *place || hear_each_other(&fault, *place, other))
        };
        assert_eq!((0..5).filter(hears_all).count(), 1);
        assert_eq!(fault.heard.len(), 2 * 2 * 2);
    }
    for fault in drawn(FaultClass::Bridge, 3) {
        assert_eq!(fault.heard.len(), 2);
    }
    for fault in drawn(FaultClass::Ring, 5) {
        for place in 0..5 {
            let heard =
                (0..5).filter(|other| *other != place && hear_each_other(&fault, place, *other));
            assert_eq!(heard.count(), 2);
        }
    }
    let ways = |fault: Fault| fault.heard.len();
    let counts: BTreeSet<usize> = drawn(FaultClass::OneWay, 5).map(ways).collect();
    assert_eq!(counts, BTreeSet::from([1, 4]));
    for fault in drawn(FaultClass::OneWay, 3) {
        for heard in &fault.heard {
            let back = (heard.to, heard.from);
            assert!(fault.heard.iter().all(|other| (other.from, other.to) != back), "{fault:?}");
        }
    }
}

#[test]
fn processes_fail_in_a_bad_network_too_where_that_is_possible() {
    let mut prng = Prng::new(9, "faults");
    let mut draw = |classes: &[FaultClass]| {
        let drawn = (0..200).map(|_| Fault::draw(&mut prng, classes, 3));
        drawn.filter(|fault| fault.class == FaultClass::Kill).collect::<Vec<Fault>>()
    };
    assert!(draw(&[FaultClass::Kill]).iter().all(|fault| fault.heard.is_empty()));
    let faults = draw(&[FaultClass::Kill, FaultClass::Loss]);
    let bad = faults.iter().filter(|fault| !fault.heard.is_empty());
    assert!((10..90).contains(&bad.clone().count()));
    for heard in bad.flat_map(|fault| &fault.heard) {
        assert!(heard.rule.loses_one_in > 0 && !heard.rule.is_held);
    }
}

#[test]
fn same_seed_draws_the_same_faults_and_each_class_is_drawn() {
    let draw = |seed| {
        let mut prng = Prng::new(seed, "faults");
        let drawn = (0..300).map(|_| Fault::draw(&mut prng, FaultClass::ALL, 5));
        drawn.collect::<Vec<Fault>>()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    let classes: BTreeSet<FaultClass> = draw(3).iter().map(|fault| fault.class).collect();
    assert_eq!(classes.len(), FaultClass::ALL.len());
}

#[test]
fn names_lead_back_to_their_classes() {
    for class in FaultClass::ALL {
        assert_eq!(class.name().parse(), Ok(*class));
    }
    assert_eq!("no-such".parse::<FaultClass>(), Err(UnknownFault));
}

#[test]
fn faults_are_described_by_what_is_done_to_whom() {
    let rule = |rule: Rule| vec![Heard { from: 0, to: 2, rule }];
    let describe = |class, nodes: &[usize], heard| {
        let fault = Fault { class, nodes: nodes.to_vec(), heard, duration: Duration::ZERO };
        fault.describe(|place| ["a", "b", "c"][place].to_owned())
    };
    assert_eq!(describe(FaultClass::Kill, &[1, 2], Vec::new()), "kill b+c");
    let held = rule(Rule { is_held: true, ..Rule::default() });
    assert_eq!(describe(FaultClass::OneWay, &[0], held), "one-way a (a>c held)");
    let late = rule(Rule { delay: Duration::from_millis(7), ..Rule::default() });
    assert_eq!(describe(FaultClass::Delay, &[], late), "delay (7 ms late)");
    let slow = rule(Rule { rate_bytes: 9 << 10, ..Rule::default() });
    assert_eq!(describe(FaultClass::Throttle, &[2], slow), "throttle c (9 KiB/s)");
}
