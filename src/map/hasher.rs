//! The table's hash: SipHash-1-3 of (map name, key) under the cluster's secret.
//!
//! Clients choose the keys, so an unkeyed hash would let one of them fill a single page with
//! thousands of keys. SipHash is a pseudorandom function of its input as long as the secret is
//! unknown; XXH3 with a secret is about twice as fast on short keys but makes no such promise. With
//! one round per word (the variant of Rust's own `HashMap`) a short name and a key of 16 bytes take
//! seven rounds, and the hashes of a pass overlap in the pipeline.
//!
//! All members share the secret and hash the *name* of a map, never a member's own number for it:
//! the order of `Entries`, which is the order of the hash, is the same on all members.

use crate::base::cast::u64_from;

/// Where a key of a map stands in its partition's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash(pub(super) u64);

/// The keyed hash of the cluster. Cheap to copy.
#[derive(Clone, Copy)]
pub struct KeyHasher {
    secret: [u64; 2],
    /// Lets tests provoke collisions: the bits that survive.
    #[cfg(test)]
    mask: u64,
}

impl std::fmt::Debug for KeyHasher {
    /// Shows nothing: a secret in a log is no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHasher").finish_non_exhaustive()
    }
}

impl KeyHasher {
    /// The hash under `secret`: the same on all members, unknown to clients.
    #[must_use]
    pub const fn new(secret: [u8; 16]) -> Self {
        let secret = u128::from_le_bytes(secret);
        Self {
            secret: [crate::base::cast::low_u64(secret), crate::base::cast::low_u64(secret >> 64)],
            #[cfg(test)]
            mask: u64::MAX,
        }
    }

    /// A hash of which only the bits in `mask` differ from key to key.
    #[cfg(test)]
    pub(super) const fn colliding(mask: u64) -> Self {
        Self { mask, ..Self::new([7; 16]) }
    }

    /// The hash of a key of a map.
    #[inline]
    #[must_use]
    pub fn hash(&self, map: &str, key: &[u8]) -> KeyHash {
        let mut state = SipState::new(self.secret);
        // Both lengths come first, so that no two pairs give the same words.
        state.absorb(u64_from(map.len()) | (u64_from(key.len()) << 32));
        state.absorb_bytes(map.as_bytes());
        state.absorb_bytes(key);
        let hash = state.finish();
        #[cfg(test)]
        let hash = hash & self.mask;
        KeyHash(hash)
    }
}

/// SipHash-1-3 (Aumasson and Bernstein) over 64-bit words; the caller frames its input.
struct SipState {
    v: [u64; 4],
}

impl SipState {
    #[inline]
    const fn new([k0, k1]: [u64; 2]) -> Self {
        let v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Self { v }
    }

    #[inline]
    fn absorb(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.v[0] ^= word;
    }

    /// Absorbs `bytes` in words, the last one filled up with zeros.
    #[inline]
    fn absorb_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.absorb(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            self.absorb(rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)));
        }
    }

    #[inline]
    fn finish(mut self) -> u64 {
        self.v[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    #[inline]
    const fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.v;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        self.v = [v0, v1, v2, v3];
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::*;

    /// SipHash-1-3 of bytes as the standard frames them.
    fn standard(bytes: &[u8]) -> u64 {
        let mut state = SipState::new([0, 0]);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            state.absorb(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        last[7] = bytes.len().to_le_bytes()[0];
        state.absorb(u64::from_le_bytes(last));
        state.finish()
    }

    #[test]
    fn rounds_are_those_of_siphash_1_3() {
        for len in [0, 1, 7, 8, 9, 16, 63, 300] {
            let bytes: Vec<u8> = (0_u8..=255).cycle().take(len).collect();
            let mut reference = std::collections::hash_map::DefaultHasher::new();
            reference.write(&bytes);
            assert_eq!(standard(&bytes), reference.finish(), "{len} bytes");
        }
    }

    #[test]
    fn border_between_name_and_key_counts() {
        let hasher = KeyHasher::new(*b"0123456789abcdef");
        assert_ne!(hasher.hash("ab", b"c"), hasher.hash("a", b"bc"));
        assert_ne!(hasher.hash("a", b"b"), hasher.hash("a", b"b\0"));
        assert_ne!(hasher.hash("abcdefgh", b"x"), hasher.hash("abcdefg", b"hx"));
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let (a, b) = (KeyHasher::new([1; 16]), KeyHasher::new([2; 16]));
        assert_eq!(a.hash("m", b"k"), KeyHasher::new([1; 16]).hash("m", b"k"));
        assert_ne!(a.hash("m", b"k"), b.hash("m", b"k"));
    }

    #[test]
    fn secret_is_not_printed() {
        assert!(!format!("{:?}", KeyHasher::new([0xAB; 16])).contains("ab"));
    }
}
