//! Bytes that look like protobuf.

use arbitrary::Arbitrary;

/// Protobuf, more or less: fields with plausible numbers and any wire type, nested.
#[derive(Arbitrary, Debug)]
pub struct Soup(Vec<SoupField>);

#[derive(Arbitrary, Debug)]
struct SoupField {
    number: SoupNumber,
    value: SoupValue,
}

#[derive(Arbitrary, Debug)]
enum SoupNumber {
    Low(u8),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
enum SoupValue {
    Message(Soup),
    SameMessage(Soup),
    Small(u8),
    Number(u64),
    Overlong(u8, u8),
    Bytes(Vec<u8>),
    Text(String),
    Map,
    WrongLength(u64, Vec<u8>),
    Fixed64(u64),
    Fixed32(u32),
    Group(Soup),
    OpenGroup,
    WireType(u8),
}

pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}

impl Soup {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in &self.0 {
            field.encode(&mut out);
        }
        out
    }
}

impl SoupField {
    fn encode(&self, out: &mut Vec<u8>) {
        let number = match self.number {
            SoupNumber::Low(number) => u64::from(number % 24),
            SoupNumber::Any(number) => u64::from(number >> 3),
        };
        let key = |out: &mut Vec<u8>, wire_type: u8| {
            put_varint(out, number << 3 | u64::from(wire_type));
        };
        let delimited = |out: &mut Vec<u8>, bytes: &[u8]| {
            key(out, 2);
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        match &self.value {
            SoupValue::Message(soup) | SoupValue::SameMessage(soup) => {
                delimited(out, &soup.encode());
            }
            SoupValue::Small(number) => {
                key(out, 0);
                put_varint(out, u64::from(number % 3));
            }
            SoupValue::Number(number) => {
                key(out, 0);
                put_varint(out, *number);
            }
            SoupValue::Overlong(number, size) => {
                key(out, 0);
                out.push(number | 0x80);
                out.extend(vec![0x80; usize::from(size % 10)]);
                out.push(0);
            }
            SoupValue::Bytes(bytes) => delimited(out, bytes),
            SoupValue::Text(text) => delimited(out, text.as_bytes()),
            SoupValue::Map => delimited(out, b"orders"),
            SoupValue::WrongLength(size, bytes) => {
                key(out, 2);
                put_varint(out, *size);
                out.extend_from_slice(bytes);
            }
            SoupValue::Fixed64(number) => {
                key(out, 1);
                out.extend_from_slice(&number.to_le_bytes());
            }
            SoupValue::Fixed32(number) => {
                key(out, 5);
                out.extend_from_slice(&number.to_le_bytes());
            }
            SoupValue::Group(soup) => {
                key(out, 3);
                out.extend(soup.encode());
                key(out, 4);
            }
            SoupValue::OpenGroup => key(out, 3),
            SoupValue::WireType(wire_type) => key(out, wire_type % 8),
        }
    }
}
