//! Which partition a request goes to. The rule is Redis Cluster's, and part of the format on disk:
//! it never changes without a new format version.

use crate::base::checksum::crc16;
use crate::base::ids::PartitionId;
use crate::base::limits::KEY_SLOT_COUNT;
use crate::wire::request::{Body, Refusal, Request};

use crate::proto::p2pmap::v1::error::Code;

/// The hash slot of a key, below 16,384: CRC-16/XMODEM of the key, or of its hash tag if it has
/// one. Keys with one hash tag share a slot. The map's name doesn't matter.
#[inline]
#[must_use]
pub fn key_slot(key: &[u8]) -> u16 {
    const MASK: u16 = 0x3FFF;
    const _: () = assert!(MASK as u32 == KEY_SLOT_COUNT - 1);
    crc16(hash_tag(key).unwrap_or(key)) & MASK
}

/// What stands between the first `{` and the next `}` after it, if that is anything.
#[inline]
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.contains(&b'{').then(|| key.iter().position(|byte| *byte == b'{'))??;
    let after = &key[open + 1..];
    let close = after.iter().position(|byte| *byte == b'}')?;
    (close > 0).then_some(&after[..close])
}

/// The partition of a slot: equal shares of consecutive slots.
#[inline]
#[must_use]
pub fn partition_of(slot: u16, partitions: u32) -> PartitionId {
    let partition = u64::from(slot) * u64::from(partitions) / u64::from(KEY_SLOT_COUNT);
    PartitionId(crate::base::cast::low_u32(partition))
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one partition.
    Partition(PartitionId),
    /// To each partition, and the answers are merged: an operation on a whole map.
    All,
    /// To whoever hosts the shard: a question about the node.
    Node,
}

/// Knows the number of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    partitions: u32,
}

impl Router {
    /// A router for a cluster with so many partitions.
    ///
    /// # Panics
    /// If there are none, or more than slots: the configuration was checked.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        assert!(partitions > 0, "a cluster has partitions");
        assert!(partitions <= KEY_SLOT_COUNT, "each partition owns a slot");
        Self { partitions }
    }

    /// The partition that holds a key.
    #[inline]
    #[must_use]
    pub fn partition_of_key(&self, key: &[u8]) -> PartitionId {
        partition_of(key_slot(key), self.partitions)
    }

    /// A hash tag of the partition: a string that begins with it belongs there.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn tag_of(&self, partition: PartitionId) -> Box<[u8]> {
        assert!(partition.0 < self.partitions, "the partition exists");
        let mut tags = (0_u32..).map(|number| format!("{{{number}}}").into_bytes());
        let found = tags.find(|tag| self.partition_of_key(tag) == partition);
        found.expect("every partition owns a slot, and a hash hits it at last").into()
    }

    /// Where `request` goes.
    ///
    /// # Errors
    /// If its target names a partition that isn't there, or not the one of its key, or if it names
    /// none although it must.
    #[inline]
    pub fn route(&self, request: &Request<'_>) -> Result<Route, Refusal> {
        let by_key = request.key().map(|key| self.partition_of_key(key));
        match (by_key, request.partition) {
            (None, None) if matches!(request.body, Body::Status(_)) => Ok(Route::Node),
            (None, Some(_)) if matches!(request.body, Body::Status(_)) => {
                let message = "target.name: a node's status is not that of a partition";
                Err(request.refusal(Code::InvalidArgument, message.to_owned()))
            }
            (Some(partition), None) => Ok(Route::Partition(partition)),
            (Some(partition), Some(named)) if partition == named => Ok(Route::Partition(partition)),
            (None, None) if is_of_a_session(&request.body) => {
                let message = "target.name: a session belongs to one partition; name it: `#7`";
                Err(request.refusal(Code::InvalidArgument, message.to_owned()))
            }
            (None, None) if matches!(request.body, Body::Transfer(_)) => {
                let message = "target.name: a leader is that of one partition; name it: `#7`";
                Err(request.refusal(Code::InvalidArgument, message.to_owned()))
            }
            (None, None) => Ok(Route::All),
            (None, Some(named)) if named.0 < self.partitions => Ok(Route::Partition(named)),
            (by_key, Some(named)) => Err(self.refusal(request, by_key, named)),
        }
    }

    #[cold]
    fn refusal(
        &self,
        request: &Request<'_>,
        by_key: Option<PartitionId>,
        named: PartitionId,
    ) -> Refusal {
        let message = match by_key {
            Some(partition) if named.0 < self.partitions => {
                format!("target.name: the key belongs to partition {partition}, not {named}")
            }
            _ => format!(
                "target.name: partition {named} does not exist; there are {}",
                self.partitions
            ),
        };
        request.refusal(Code::InvalidArgument, message)
    }
}

/// Whether it is a command about a session or in one.
fn is_of_a_session(body: &Body<'_>) -> bool {
    match body {
        Body::Command { command, .. } => {
            command.session.is_some() || command.operation.is_about_sessions()
        }
        Body::Query(_) | Body::Status(_) | Body::Transfer(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Sequence, SessionId};
    use crate::map::operation::{
        Command, Consistency, Operation, Query, QueryOperation, SessionCall,
    };

    fn request(partition: Option<u32>, key: Option<&[u8]>) -> Request<'_> {
        let operation = key.map_or(QueryOperation::Size, |key| QueryOperation::Get { key });
        Request {
            correlation: 9,
            partition: partition.map(PartitionId),
            body: Body::Query(Query {
                map: "orders",
                consistency: Consistency::Linearizable,
                min_index: crate::base::ids::Index(0),
                timeout_ms: 0,
                no_forward: false,
                operation,
            }),
        }
    }

    #[test]
    fn whatever_begins_with_a_partitions_tag_belongs_to_it() {
        for partitions in [1, 64, KEY_SLOT_COUNT] {
            let router = Router::new(partitions);
            for partition in [0, partitions / 2, partitions - 1].map(PartitionId) {
                let mut key = router.tag_of(partition).into_vec();
                assert_eq!(router.partition_of_key(&key), partition);
                key.extend(b"anything}{");
                assert_eq!(router.partition_of_key(&key), partition);
            }
        }
    }

    #[test]
    fn slots_are_those_of_redis() {
        // From the cluster specification and its implementation's documentation.
        assert_eq!(key_slot(b"123456789"), 0x31C3);
        assert_eq!(key_slot(b"foo"), 12_182);
        assert_eq!(key_slot(b"bar"), 5_061);
        assert_eq!(key_slot(b"hello"), 866);
        assert_eq!(key_slot(b"somekey"), 11_058);
        assert_eq!(key_slot(b"foo{hash_tag}"), 2_515);
        assert_eq!(key_slot(b""), 0);
    }

    #[test]
    fn keys_with_one_hash_tag_share_a_slot() {
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"{user1000}.followers"));
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"user1000"));
        assert_eq!(key_slot(b"foo{{bar}}zap"), key_slot(b"{bar"));
        assert_eq!(key_slot(b"foo{bar}{zap}"), key_slot(b"bar"));
    }

    #[test]
    fn empty_or_open_hash_tags_are_none() {
        for key in [&b"foo{}{bar}"[..], b"foo{bar", b"foo}bar", b"}{", b"{", b"{}"] {
            assert_eq!(key_slot(key), crc16(key) & 0x3FFF, "{key:?}");
        }
    }

    #[test]
    fn partitions_share_the_slots_evenly_and_in_order() {
        for partitions in [1, 2, 3, 64, 1_000, KEY_SLOT_COUNT] {
            let mut counts = vec![0_u32; crate::base::cast::usize_from_u32(partitions)];
            let mut last = PartitionId(0);
            for slot in 0..16_384 {
                let partition = partition_of(slot, partitions);
                assert!(partition >= last, "consecutive");
                last = partition;
                counts[crate::base::cast::usize_from_u32(partition.0)] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least >= 1 && most - least <= 1, "{partitions}: {least} to {most}");
        }
    }

    #[test]
    fn keys_decide_and_named_partitions_must_agree() {
        let router = Router::new(64);
        let home = router.partition_of_key(b"foo");
        assert_eq!(home, PartitionId(12_182 * 64 / 16_384));
        let to_home = Ok(Route::Partition(home));
        assert_eq!(router.route(&request(None, Some(b"foo"))), to_home);
        assert_eq!(router.route(&request(Some(home.0), Some(b"foo"))), to_home);
        let refusal = router.route(&request(Some(home.0 + 1), Some(b"foo"))).unwrap_err();
        assert_eq!((refusal.correlation, refusal.code), (9, Code::InvalidArgument));
        assert!(refusal.message.contains("belongs to partition 47, not 48"), "{refusal:?}");
    }

    #[test]
    fn whole_maps_go_to_all_partitions_or_to_the_named_one() {
        let router = Router::new(64);
        assert_eq!(router.route(&request(None, None)), Ok(Route::All));
        assert_eq!(router.route(&request(Some(63), None)), Ok(Route::Partition(PartitionId(63))));
        for key in [None, Some(&b"foo"[..])] {
            let refusal = router.route(&request(Some(64), key)).unwrap_err();
            assert!(refusal.message.contains("64 does not exist"), "{refusal:?}");
        }
    }

    #[test]
    fn status_goes_to_the_node_and_to_no_partition() {
        use crate::wire::request::StatusQuery;

        let body = Body::Status(StatusQuery { partitions_from: None, digests: false });
        let mut request = Request { correlation: 1, partition: None, body };
        assert_eq!(Router::new(64).route(&request), Ok(Route::Node));
        for named in [3, 64] {
            request.partition = Some(PartitionId(named));
            let refusal = Router::new(64).route(&request).unwrap_err();
            assert!(refusal.message.starts_with("target.name: a node's status"), "{refusal:?}");
        }
    }

    #[test]
    fn commands_are_routed_by_their_key_too() {
        let command = Command {
            map: "orders",
            session: None,
            timeout_ms: 0,
            no_forward: false,
            operation: Operation::Remove { key: b"foo", condition: None, want_previous: false },
        };
        let body = Body::Command { bytes: b"", command };
        let request = Request { correlation: 1, partition: None, body };
        let route = Router::new(16_384).route(&request);
        assert_eq!(route, Ok(Route::Partition(PartitionId(12_182))));
    }

    #[test]
    fn what_is_of_a_session_names_its_partition() {
        let call =
            SessionCall { session: SessionId(9), sequence: Sequence(1), ack_below: Sequence(0) };
        let clear = Command {
            map: "orders",
            session: Some(call),
            timeout_ms: 0,
            no_forward: false,
            operation: Operation::Clear,
        };
        let operation = Operation::OpenSession { ttl_s: 9 };
        let open = Command { map: "", session: None, operation, ..clear };
        for command in [clear, open] {
            let body = Body::Command { bytes: b"", command };
            let mut request = Request { correlation: 1, partition: None, body };
            let refusal = Router::new(64).route(&request).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidArgument);
            assert!(refusal.message.contains("belongs to one partition"), "{refusal:?}");
            request.partition = Some(PartitionId(7));
            let route = Router::new(64).route(&request);
            assert_eq!(route, Ok(Route::Partition(PartitionId(7))));
        }
    }
}
