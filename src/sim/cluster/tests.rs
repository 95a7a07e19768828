use super::*;

#[test]
fn seed_gives_the_same_trace_twice_and_another_one_another() {
    let hash = |seed| run(seed, Options::default()).trace_hash;
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}
