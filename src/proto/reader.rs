//! Reads protobuf's wire format from a slice without copying: what the decoders of hot messages
//! and the checks before a cold decoding are made of.
//!
//! It accepts exactly the varints that prost accepts, and it never panics. `None` always means the
//! same: the bytes are not well-formed from here on.

use crate::base::cast;

/// The wire type of varints.
pub const WIRE_VARINT: u8 = 0;
/// The wire type of everything that has a length: bytes, strings, messages, packed numbers.
pub const WIRE_BYTES: u8 = 2;

/// The single byte that tags a field with a number below 16.
///
/// # Panics
/// At compile time, if the number needs a longer tag.
#[must_use]
pub const fn tag(number: u8, wire_type: u8) -> u8 {
    assert!(number >= 1 && number < 16, "the tag takes more than one byte");
    number << 3 | wire_type
}

/// What is left to read of a message.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// A field of a message whose type isn't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number, at least 1.
    pub number: u32,
    /// Its value, as far as the wire type tells.
    pub value: Value<'a>,
}

/// A field's value, as far as the wire type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number or bool.
    Varint(u64),
    /// Eight bytes.
    Fixed64,
    /// Bytes, a string, a message or packed numbers.
    Bytes(&'a [u8]),
    /// The following fields belong to a group, an old kind of message.
    GroupStart,
    /// The group ends.
    GroupEnd,
    /// Four bytes.
    Fixed32,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the beginning.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything was read.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// So many bytes, without a length before them.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// The next byte. Of a field with a number below 16 it is the whole tag.
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// A varint of at most 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 0x80 { Some(u64::from(first)) } else { self.varint_after(first) }
    }

    fn varint_after(&mut self, first: u8) -> Option<u64> {
        let mut value = u64::from(first & 0x7F);
        for shift in (7..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        // The tenth byte has room for a single bit.
        match self.byte()? {
            last @ (0 | 1) => Some(value | u64::from(last) << 63),
            _ => None,
        }
    }

    /// A varint of at most 32 bits.
    #[inline]
    pub fn varint_u32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    /// A bool in its canonical form.
    #[inline]
    pub fn bool(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// A length and as many bytes.
    #[inline]
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let size = self.varint()?;
        let (bytes, rest) = self.rest.split_at_checked(usize::try_from(size).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The next field of whatever type. Fields of a group come one by one, between its two ends.
    pub fn field(&mut self) -> Option<Field<'a>> {
        let key = self.varint_u32()?;
        let number = key >> 3;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.fixed(8).map(|()| Value::Fixed64)?,
            2 => Value::Bytes(self.bytes()?),
            3 => Value::GroupStart,
            4 => Value::GroupEnd,
            5 => self.fixed(4).map(|()| Value::Fixed32)?,
            _ => return None,
        };
        (number > 0).then_some(Field { number, value })
    }

    fn fixed(&mut self, size: usize) -> Option<()> {
        self.rest = self.rest.get(size..)?;
        Some(())
    }
}

/// The fields of a message itself, without those inside of groups, up to where it is malformed.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    group_depth: u64,
    malformed: bool,
}

impl<'a> Fields<'a> {
    /// The fields of the message `bytes`.
    #[must_use]
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes), group_depth: 0, malformed: false }
    }

    /// Whether what was read so far is well-formed: after the last field, whether the message is.
    #[must_use]
    pub const fn is_well_formed(&self) -> bool {
        !self.malformed && (self.group_depth == 0 || !self.reader.is_empty())
    }

    /// The next field, also if it is inside of a group, and whether it is not.
    fn step(&mut self) -> Option<(Field<'a>, bool)> {
        let field = self.reader.field()?;
        let outside = self.group_depth == 0;
        match field.value {
            Value::GroupStart => self.group_depth += 1,
            Value::GroupEnd => self.group_depth = self.group_depth.checked_sub(1)?,
            Value::Varint(_) | Value::Fixed64 | Value::Bytes(_) | Value::Fixed32 => {}
        }
        Some((field, outside))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        while !self.malformed && !self.reader.is_empty() {
            match self.step() {
                Some((field, true)) => return Some(field),
                Some((_, false)) => {}
                None => self.malformed = true,
            }
        }
        None
    }
}

/// Remembers which fields of a message were met, to find those that come twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen(u32);

impl Seen {
    /// `None` if a field with this tag was met before.
    #[inline]
    pub fn first(&mut self, tag: u8) -> Option<()> {
        // A byte shifted by 3 is below 32: each tag has its bit.
        let bit = 1 << (tag >> 3);
        let before = self.0;
        self.0 |= bit;
        (before & bit == 0).then_some(())
    }
}

/// How many bytes a varint takes.
#[inline]
#[must_use]
pub const fn varint_size_bytes(value: u64) -> usize {
    // One byte per 7 bits begun; `| 1` because 0 takes a byte as well.
    cast::usize_from_u32(((value | 1).ilog2() * 9 + 73) / 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Option<u64> {
        Reader::new(bytes).varint()
    }

    #[test]
    fn varints_agree_with_prost_on_every_length_and_edge() {
        let edges = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]);
        for value in edges {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(value, &mut bytes);
            assert_eq!(varint(&bytes), Some(value));
            assert_eq!(varint_size_bytes(value), bytes.len());
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None, "truncated");
        }
    }

    #[test]
    fn varints_of_more_than_64_bits_are_refused() {
        let mut bytes = [0xFF; 10];
        bytes[9] = 0x01;
        assert_eq!(varint(&bytes), Some(u64::MAX));
        bytes[9] = 0x02;
        assert_eq!(varint(&bytes), None);
        assert_eq!(varint(&[0x80; 11]), None);
    }

    #[test]
    fn overlong_varints_are_read_as_prost_reads_them() {
        assert_eq!(varint(&[0x85, 0x80, 0x00]), Some(5));
        let mut bytes: &[u8] = &[0x85, 0x80, 0x00];
        assert_eq!(prost::encoding::decode_varint(&mut bytes).ok(), Some(5));
    }

    #[test]
    fn bytes_longer_than_what_is_left_are_refused() {
        assert_eq!(Reader::new(&[3, 1, 2]).bytes(), None);
        let mut huge = vec![0xFF; 9];
        huge.push(0x01);
        assert_eq!(Reader::new(&huge).bytes(), None);
    }

    #[test]
    fn fields_of_groups_do_not_count_as_the_messages_own() {
        // Field 1 = 7; group 2 { field 3 = 7; group 4 {} }; field 5 = 7.
        let bytes = [0x08, 7, 0x13, 0x18, 7, 0x23, 0x24, 0x14, 0x28, 7];
        let mut fields = Fields::of(&bytes);
        let numbers: Vec<u32> = fields.by_ref().map(|field| field.number).collect();
        assert_eq!(numbers, [1, 2, 5]);
        assert!(fields.is_well_formed());
    }

    #[test]
    fn groups_that_do_not_end_are_malformed() {
        let mut fields = Fields::of(&[0x13, 0x18, 7]);
        assert_eq!(fields.by_ref().count(), 1);
        assert!(!fields.is_well_formed());
    }

    #[test]
    fn fields_stop_at_what_is_malformed() {
        for bytes in [&[0x00, 0][..], &[0x0F, 0], &[0x0C], &[0x0D, 1, 2, 3], &[0x0A, 9, 1]] {
            let mut fields = Fields::of(bytes);
            assert_eq!(fields.next(), None, "{bytes:?}");
            assert!(!fields.is_well_formed(), "{bytes:?}");
        }
    }
}
