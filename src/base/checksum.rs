//! Checksums and digests: CRC-32 for what lies on disk, XXH3 for digests that members compare.

use xxhash_rust::xxh3::xxh3_128;

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

/// CRC-16/XMODEM (polynomial 0x1021, initial value 0), Redis Cluster's hash of keys.
#[inline]
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |crc: u16, byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

static CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)]
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
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
    fn crc32_has_the_check_value_of_its_catalogue_entry() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
