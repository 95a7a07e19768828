//! Conversions between integer widths that cannot lose anything on the machines we support. They
//! have names so that the lossy `as` can be denied everywhere else.

/// p2pmap addresses more than 4 GiB and needs io_uring: there is no 32-bit build.
const _: () = assert!(usize::BITS == 64);

/// A count or length as a `u64`.
#[inline]
#[must_use]
pub const fn u64_from(value: usize) -> u64 {
    value as u64
}

/// A `u64` as a `usize`: the same width, see above.
#[inline]
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub const fn usize_from(value: u64) -> usize {
    value as usize
}

/// A `u32` as a `usize`.
#[inline]
#[must_use]
pub const fn usize_from_u32(value: u32) -> usize {
    value as usize
}

/// A length that a limit keeps below 4 GiB, as a `u32`.
///
/// # Panics
/// If it is not below 4 GiB: the caller broke its limit.
#[inline]
#[must_use]
pub const fn u32_from(value: usize) -> u32 {
    assert!(value <= u32::MAX as usize, "a bounded length exceeds 4 GiB");
    #[allow(clippy::cast_possible_truncation)]
    {
        value as u32
    }
}

/// A length that a limit keeps below 64 KiB, as a `u16`.
///
/// # Panics
/// If it is not below 64 KiB: the caller broke its limit.
#[inline]
#[must_use]
pub const fn u16_from(value: usize) -> u16 {
    assert!(value <= u16::MAX as usize, "a bounded length exceeds 64 KiB");
    #[allow(clippy::cast_possible_truncation)]
    {
        value as u16
    }
}

/// The low 32 bits.
#[inline]
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub const fn low_u32(value: u64) -> u32 {
    value as u32
}

/// The low 64 bits.
#[inline]
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub const fn low_u64(value: u128) -> u64 {
    value as u64
}
