//! Checksums and digests: CRC-32 for what lies on disk, XXH3 for digests that members compare.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// CRC-32 (IEEE 802.3) of `bytes`.
#[inline]
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of `bytes` that begins with `salt` instead of zero: equal bytes under different salts
/// always differ, so what was written elsewhere isn't taken for one's own.
#[inline]
#[must_use]
pub fn crc32_salted(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// XXH3-128 of `bytes`, unkeyed: a digest against accidents, not against malice.
#[inline]
#[must_use]
pub fn digest128(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// [`digest128`] of bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Digest128(Xxh3);

impl Digest128 {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces so far.
    #[must_use]
    pub fn value(&self) -> u128 {
        self.0.digest128()
    }
}

impl std::fmt::Debug for Digest128 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest128({:032x})", self.value())
    }
}

/// CRC-16/XMODEM (polynomial 0x1021, initial value 0), Redis Cluster's hash of keys. Eight bytes a
/// step: it is on the path of every request, and a step's loads don't wait for each other.
#[inline]
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut crc = 0_u16;
    for [a, b, c, d, e, f, g, h] in chunks {
        let [high, low] = crc.to_be_bytes();
        let lookup = |after: usize, byte: u8| CRC16_TABLES[after][usize::from(byte)];
        crc = lookup(7, a ^ high) ^ lookup(6, b ^ low) ^ lookup(5, *c) ^ lookup(4, *d);
        crc ^= lookup(3, *e) ^ lookup(2, *f) ^ lookup(1, *g) ^ lookup(0, *h);
    }
    rest.iter().fold(crc, |crc, byte| {
        let [high, low] = crc.to_be_bytes();
        u16::from_be_bytes([low, 0]) ^ CRC16_TABLES[0][usize::from(high ^ byte)]
    })
}

/// `CRC16_TABLES[n][byte]`: the CRC of `byte` followed by `n` zero bytes.
static CRC16_TABLES: [[u16; 256]; 8] = crc16_tables();

const fn crc16_tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)]
        let mut crc = (byte as u16) << 8;
        let mut after = 0;
        while after < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            tables[after][byte] = crc;
            after += 1;
        }
        byte += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc16_has_the_check_value_of_its_catalogue_entry() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn crc32_of_the_same_bytes_differs_by_salt() {
        assert_eq!(crc32_salted(0, b"123456789"), crc32(b"123456789"));
        assert_ne!(crc32_salted(1, b"123456789"), crc32(b"123456789"));
    }

    #[test]
    fn crc16_of_any_length_is_what_its_polynomial_says() {
        let bytes: Vec<u8> = (0..=255).map(|byte: u8| byte.wrapping_mul(167) ^ 0x5A).collect();
        for size in 0..bytes.len() {
            let bit_by_bit = bytes[..size].iter().fold(0_u16, |crc, byte| {
                (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
                })
            });
            assert_eq!(crc16(&bytes[..size]), bit_by_bit, "{size} bytes");
        }
    }

    #[test]
    fn digest_of_pieces_is_that_of_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5_000).collect();
        for size in [1, 7, 240, 1_024, 4_999] {
            let mut digest = Digest128::default();
            for piece in bytes.chunks(size) {
                digest.update(piece);
            }
            assert_eq!(digest.value(), digest128(&bytes), "pieces of {size}");
        }
    }

    #[test]
    fn crc32_has_the_check_value_of_its_catalogue_entry() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
