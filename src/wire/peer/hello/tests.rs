use super::*;
use crate::base::limits::{FRAME_PREFIX_SIZE_BYTES, MEMBER_COUNT_MAX};

fn cluster(me: &str) -> Cluster {
    Cluster::new(["a", "b", "c"].map(str::to_owned).to_vec(), me, 3)
}

fn greeter(cluster: &Cluster) -> Greeter<'_> {
    Greeter { name: "test", cluster, partition_count: 64, configuration_hash: 7 }
}

fn hello() -> Hello {
    let state = |partition, term| PartitionState {
        partition: PartitionId(partition),
        term: TermId(term),
        last_normal: TermId(term / 2),
        durable_last: Index(100),
        lives: vec![Incarnation(1), Incarnation(4), Incarnation((1 << 63) - 1)],
    };
    Hello {
        member: NodeId(1),
        incarnation: Incarnation(4),
        crash_vector: [(NodeId(1), Incarnation(4)), (NodeId(2), Incarnation(9))].into(),
        shard: ShardId(3),
        shard_count: 8,
        boot_epoch: BootEpoch(5),
        process_nonce: u64::MAX,
        proof: Some([1; 32]),
        challenge: Some([2; 32]),
        partitions: vec![state(0, 0), state(7, 5), state(63, (1 << 63) - 1)],
        lane: Lane::Bulk,
        clock: Timestamp(u64::MAX),
    }
}

fn payload(hello: &Hello) -> Vec<u8> {
    let mut out = BytesMut::new();
    greeter(&cluster("b")).encode(&mut out, hello);
    assert_eq!(out[0], Flag::Hello.byte());
    out.split_off(FRAME_PREFIX_SIZE_BYTES).to_vec()
}

fn decoded(payload: &[u8]) -> Result<Hello, HelloError> {
    greeter(&cluster("a")).decode(payload)
}

/// What becomes of a greeting when it is changed on its way.
fn changed(change: impl FnOnce(&mut v1::Hello)) -> Result<Hello, HelloError> {
    let mut hello = v1::Hello::decode(&payload(&hello())[..]).unwrap();
    change(&mut hello);
    decoded(&hello.encode_to_vec())
}

#[test]
fn greetings_come_back() {
    assert_eq!(decoded(&payload(&hello())), Ok(hello()));
    let short = Hello {
        crash_vector: BTreeMap::new(),
        proof: None,
        challenge: None,
        partitions: Vec::new(),
        lane: Lane::Protocol,
        ..hello()
    };
    assert_eq!(decoded(&payload(&short)), Ok(short));
}

#[test]
fn equal_greetings_have_equal_bytes() {
    assert_eq!(payload(&hello()), payload(&hello()));
}

#[test]
fn who_does_not_belong_here_is_refused() {
    let refused = |result: Result<Hello, HelloError>, error: HelloError| {
        assert_eq!(error.status(), StatusCode::FailedPrecondition);
        assert_eq!(result, Err(error));
    };
    refused(changed(|hello| hello.cluster = "tset".into()), HelloError::ClusterDiffers);
    refused(changed(|hello| hello.cluster.clear()), HelloError::ClusterDiffers);
    let version = HelloError::VersionDiffers { version: 2 };
    refused(changed(|hello| hello.protocol_version = 2), version);
    refused(changed(|hello| hello.member = "d".into()), HelloError::MemberUnknown);
    refused(changed(|hello| hello.member.clear()), HelloError::MemberUnknown);
    refused(changed(|hello| hello.member = "a".into()), HelloError::MemberUnknown);
    refused(changed(|hello| hello.configuration_hash = 8), HelloError::ConfigurationDiffers);
}

#[test]
fn malformed_fields_are_named() {
    let refused = |field, change: fn(&mut v1::Hello)| {
        let error = HelloError::Malformed { field };
        assert_eq!(error.status(), StatusCode::InvalidArgument);
        assert!(error.to_string().contains(field));
        assert_eq!(changed(change), Err(error));
    };
    refused("incarnation", |hello| hello.incarnation = 1 << 63);
    refused("boot_epoch", |hello| hello.boot_epoch = u64::MAX);
    refused("crash_vector", |hello| hello.crash_vector = [("d".to_owned(), 1)].into());
    refused("crash_vector", |hello| hello.crash_vector = [("c".to_owned(), 1 << 63)].into());
    refused("shard", |hello| hello.shard = 65_536);
    refused("shards", |hello| hello.shards = 0);
    refused("shards", |hello| hello.shards = 65_536);
    refused("proof", |hello| hello.proof = vec![1; 31].into());
    refused("proof", |hello| hello.proof = vec![1; 33].into());
    refused("challenge", |hello| hello.challenge = vec![1].into());
    refused("lane", |hello| hello.lane = 2);
    refused("partitions", |hello| hello.partitions.swap(0, 1));
    refused("partitions", |hello| hello.partitions[1].partition = 0);
    refused("partitions", |hello| hello.partitions[2].partition = 64);
    refused("partitions", |hello| hello.partitions[1].last_normal = 6);
    refused("partitions", |hello| hello.partitions[1].term = 1 << 63);
    refused("partitions", |hello| hello.partitions[1].durable_last = u64::MAX);
    refused("partitions", |hello| hello.partitions[1].lives[2] = 1 << 63);
    refused("partitions", |hello| hello.partitions[1].lives.truncate(2));
    refused("partitions", |hello| hello.partitions[1].lives.push(0));
}

#[test]
fn what_is_repeated_is_counted_before_it_is_decoded() {
    let partitions = [0x6A, 0].repeat(16_385);
    assert_eq!(decoded(&partitions), Err(HelloError::Overfull));
    let lives = [0x22, 0].repeat(65);
    assert_eq!(decoded(&lives), Err(HelloError::Overfull));
    let long = vec![0; HELLO_SIZE_BYTES_MAX + 1];
    assert_eq!(decoded(&long), Err(HelloError::TooLong { size_bytes: long.len() }));
    assert_eq!(decoded(&[0x0A, 5]), Err(HelloError::Overfull), "cut");
}

#[test]
fn longest_greeting_is_taken() {
    let state = |partition| PartitionState {
        partition: PartitionId(partition),
        term: TermId((1 << 63) - 1),
        last_normal: TermId((1 << 63) - 1),
        durable_last: Index((1 << 63) - 1),
        lives: vec![Incarnation((1 << 63) - 1); MEMBER_COUNT_MAX],
    };
    let partitions = (0..PARTITION_COUNT_MAX).map(state).collect();
    let names: Vec<String> = (0..NODE_COUNT_MAX).map(|at| format!("{at:0>128}")).collect();
    let crash_vector = (0..NODE_COUNT_MAX).map(|at| u8::try_from(at).unwrap());
    let crash_vector = crash_vector.map(|node| (NodeId(node), Incarnation((1 << 63) - 1)));
    let hello = Hello { partitions, crash_vector: crash_vector.collect(), ..hello() };
    let cluster = |me: &str| Cluster::new(names.clone(), me, MEMBER_COUNT_MAX);
    let (ours, theirs) = (cluster(&names[0]), cluster(&names[1]));
    let of = |cluster| Greeter { partition_count: PARTITION_COUNT_MAX, ..greeter(cluster) };
    let mut out = BytesMut::new();
    of(&theirs).encode(&mut out, &hello);
    assert_eq!(of(&ours).decode(&out[FRAME_PREFIX_SIZE_BYTES..]), Ok(hello));
}

#[test]
fn greetings_cut_or_flipped_anywhere_are_refused_or_still_possible() {
    let payload = payload(&hello());
    for end in 0..payload.len() {
        check_possible(&payload[..end]);
    }
    for at in 0..payload.len() {
        for bit in 0..8 {
            let mut flipped = payload.clone();
            flipped[at] ^= 1 << bit;
            check_possible(&flipped);
        }
    }
}

/// Whatever is taken could have been sent.
fn check_possible(bytes: &[u8]) {
    if let Ok(hello) = decoded(bytes) {
        assert!(hello.member == NodeId(1) || hello.member == NodeId(2));
        let mut out = BytesMut::new();
        greeter(&cluster("b")).encode(&mut out, &hello);
        assert_eq!(decoded(&out[FRAME_PREFIX_SIZE_BYTES..]), Ok(hello));
    }
}

#[test]
fn second_greetings_prove_and_are_of_the_same_process() {
    let proving = hello().proving([9; 32]);
    assert_eq!(decoded(&payload(&proving)), Ok(proving.clone()));
    assert!(proving.is_once_more(&hello()));
    assert_eq!((proving.proof, proving.challenge), (Some([9; 32]), None));
    for other in [
        Hello { process_nonce: 1, ..hello() },
        Hello { member: NodeId(2), ..hello() },
        Hello { incarnation: Incarnation(5), ..hello() },
        Hello { shard: ShardId(4), ..hello() },
        Hello { lane: Lane::Protocol, ..hello() },
    ] {
        assert!(!proving.is_once_more(&other), "{other:?}");
    }
}
