//! The cluster's secret, and how members prove that they have it without showing it: each answers
//! the other's random challenge with a keyed digest (HMAC with SHA-256, RFC 2104) of both
//! challenges and of what they say about themselves. An answer can't be played back, neither on
//! another connection nor to who has given it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::base::cluster::Cluster;
use crate::base::limits::{SECRET_SIZE_BYTES_MAX, SECRET_SIZE_BYTES_MIN};
use crate::wire::peer::hello::{Hello, Lane, Proof};

/// What the digests are of, so that a later version's are of something else.
const DOMAIN: &[u8] = b"p2pmap hello 1";

/// What all members of a cluster know and nobody else does.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret of these bytes; `None`: they are too few or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let allowed = SECRET_SIZE_BYTES_MIN..=SECRET_SIZE_BYTES_MAX;
        allowed.contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// The proof of whoever sends `hello`, in answer to `asked`.
    #[must_use]
    pub(super) fn prove(&self, cluster: (&str, &Cluster), hello: &Hello, asked: &Asked) -> Proof {
        self.digest(cluster, hello, asked).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of whoever sends `hello`. Takes as long for any wrong one.
    #[must_use]
    pub(super) fn verify(
        &self,
        cluster: (&str, &Cluster),
        hello: &Hello,
        asked: &Asked,
        proof: &Proof,
    ) -> bool {
        self.digest(cluster, hello, asked).verify_slice(proof).is_ok()
    }

    fn keyed(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("a key of any length is one")
    }

    fn digest(
        &self,
        (name, cluster): (&str, &Cluster),
        hello: &Hello,
        asked: &Asked,
    ) -> Hmac<Sha256> {
        let mut digest = self.keyed();
        digest.update(DOMAIN);
        digest.update(&[u8::from(asked.is_dialler), u8::from(hello.lane == Lane::Bulk)]);
        digest.update(&asked.challenge);
        digest.update(&asked.own_challenge);
        for text in [name, cluster.name(hello.member)] {
            let length = crate::base::cast::u64_from(text.len());
            digest.update(&length.to_be_bytes());
            digest.update(text.as_bytes());
        }
        for number in
            [hello.process_nonce, hello.boot_epoch.0, hello.incarnation.0, hello.shard.0.into()]
        {
            digest.update(&number.to_be_bytes());
        }
        digest
    }
}

/// Challenges that nobody can guess and that never come again: digests of a count, with a key that
/// the process has drawn.
#[derive(Debug)]
pub struct Challenges {
    key: Secret,
    count: AtomicU64,
}

impl Challenges {
    /// Those of a process that has drawn this key.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self { key: Secret(key.to_vec()), count: AtomicU64::new(0) }
    }

    /// The next one.
    pub(super) fn next(&self) -> Proof {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut digest = self.key.keyed();
        digest.update(&count.to_be_bytes());
        digest.finalize().into_bytes().into()
    }
}

/// What a proof answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Whether it is the dialler that proves itself.
    pub(super) is_dialler: bool,
    /// What it was asked.
    pub(super) challenge: Proof,
    /// What it has asked the other side.
    pub(super) own_challenge: Proof,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{BootEpoch, Incarnation, NodeId, ShardId};
    use crate::base::time::Timestamp;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes()).expect("long enough")
    }

    fn hello() -> Hello {
        Hello {
            member: NodeId(1),
            incarnation: Incarnation(1),
            crash_vector: std::collections::BTreeMap::new(),
            shard: ShardId(0),
            shard_count: 1,
            boot_epoch: BootEpoch(1),
            process_nonce: 9,
            proof: None,
            challenge: None,
            partitions: Vec::new(),
            lane: Lane::Protocol,
            clock: Timestamp(0),
        }
    }

    fn cluster() -> Cluster {
        Cluster::new(["a", "b", "c"].map(str::to_owned).to_vec(), "a", 3)
    }

    const ASKED: Asked = Asked { is_dialler: true, challenge: [1; 32], own_challenge: [2; 32] };

    #[test]
    fn proof_is_taken_by_whoever_has_the_same_secret() {
        let cluster = cluster();
        let proof = secret("0123456789abcdef").prove(("p", &cluster), &hello(), &ASKED);
        let verify = |secret: Secret| secret.verify(("p", &cluster), &hello(), &ASKED, &proof);
        assert!(verify(secret("0123456789abcdef")));
        assert!(!verify(secret("0123456789abcdeF")));
        let mut wrong = proof;
        wrong[31] ^= 1;
        assert!(!secret("0123456789abcdef").verify(("p", &cluster), &hello(), &ASKED, &wrong));
    }

    #[test]
    fn proof_is_of_one_question_one_member_and_one_connection() {
        let (cluster, secret) = (cluster(), secret("0123456789abcdef"));
        let proof = secret.prove(("p", &cluster), &hello(), &ASKED);
        let other = |name: &str, hello: Hello, asked: Asked| {
            assert!(
                !secret.verify((name, &cluster), &hello, &asked, &proof),
                "{hello:?} {asked:?}"
            );
        };
        other("q", hello(), ASKED);
        other("p", Hello { member: NodeId(2), ..hello() }, ASKED);
        other("p", Hello { process_nonce: 8, ..hello() }, ASKED);
        other("p", Hello { lane: Lane::Bulk, ..hello() }, ASKED);
        other("p", hello(), Asked { is_dialler: false, ..ASKED });
        other("p", hello(), Asked { challenge: [3; 32], ..ASKED });
        other("p", hello(), Asked { own_challenge: [3; 32], ..ASKED });
    }

    #[test]
    fn challenges_differ() {
        let (one, other) = (Challenges::new([1; 16]), Challenges::new([2; 16]));
        let drawn = [one.next(), one.next(), other.next()];
        assert!(drawn[0] != drawn[1] && drawn[0] != drawn[2]);
    }

    #[test]
    fn secrets_are_neither_short_nor_shown() {
        assert!(Secret::new(&[b'x'; SECRET_SIZE_BYTES_MIN - 1]).is_none());
        assert!(Secret::new(&[b'x'; SECRET_SIZE_BYTES_MAX + 1]).is_none());
        assert_eq!(format!("{:?}", secret("0123456789abcdef")), "Secret");
    }
}
