//! What commands print: lines for people, or JSON objects for programs.
//!
//! JSON keeps every byte: what isn't UTF-8 is given in base64 under a name that says so. Lines for
//! people keep to one line: control characters and what isn't UTF-8 are escaped. `get` alone
//! prints a value as it is.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::failure::Failure;
use crate::proto::p2pmap::v1::Versioned;

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Human,
    Json,
}

impl Output {
    /// Prints one item: as a line, or as an object.
    pub(super) fn print(
        self,
        human: impl FnOnce() -> String,
        object: impl FnOnce() -> Map<String, Value>,
    ) -> Result<(), Failure> {
        let line = match self {
            Self::Human => human(),
            Self::Json => Value::Object(object()).to_string(),
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(|e| Failure::stdout(&e))
    }
}

/// An object with one field of bytes.
pub(super) fn object_with(name: &str, bytes: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    insert_bytes(&mut object, name, bytes);
    object
}

/// Adds a field of bytes: as it is if it is UTF-8, else in base64 with `_base64` to its name.
pub(super) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

/// Adds the fields of an entry's history.
pub(super) fn insert_history(object: &mut Map<String, Value>, entry: &Versioned) {
    object.insert("version".to_owned(), json!(entry.version));
    object.insert("created_ms".to_owned(), json!(entry.created_ms));
    object.insert("updated_ms".to_owned(), json!(entry.updated_ms));
    if entry.ttl_ms > 0 {
        object.insert("ttl_ms".to_owned(), json!(entry.ttl_ms));
    }
}

/// An entry as an object: its value and its history.
pub(super) fn entry_object(entry: &Versioned) -> Map<String, Value> {
    let mut object = object_with("value", &entry.value);
    insert_history(&mut object, entry);
    object
}

/// The entry that a write replaced or removed, as the rest of a line.
pub(super) fn previous_line(previous: Option<&Versioned>) -> String {
    match previous {
        Some(entry) => format!("previous version {}: {}", entry.version, escape(&entry.value)),
        None => "previous none".to_owned(),
    }
}

/// The same as JSON.
pub(super) fn previous_value(previous: Option<&Versioned>) -> Value {
    previous.map_or(Value::Null, |entry| Value::Object(entry_object(entry)))
}

/// Bytes on one line: backslash, control characters and what isn't UTF-8 are escaped.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                control if control.is_control() => {
                    let mut utf8 = [0; 4];
                    escape_bytes(&mut line, control.encode_utf8(&mut utf8).as_bytes());
                }
                plain => line.push(plain),
            }
        }
        escape_bytes(&mut line, chunk.invalid());
    }
    line
}

fn escape_bytes(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(line, "\\x{byte:02x}").expect("writing to a string never fails");
    }
}

/// Base64 with the standard alphabet and padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for position in 0..4 {
            let sextet = ALPHABET[(bits >> (18 - 6 * position) & 0x3f) as usize];
            text.push(if position <= group.len() { char::from(sextet) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn any_bytes_fit_one_line() {
        assert_eq!(escape("a\tb\\\n ü".as_bytes()), "a\\tb\\\\\\n ü");
        assert_eq!(escape(b"\x00\xff\xc3"), "\\x00\\xff\\xc3");
        assert_eq!(escape("\u{85}\u{1b}".as_bytes()), "\\xc2\\x85\\x1b");
    }

    #[test]
    fn bytes_that_are_no_text_are_named_so() {
        assert_eq!(Value::Object(object_with("key", b"k")), json!({ "key": "k" }));
        assert_eq!(Value::Object(object_with("key", b"\xff")), json!({ "key_base64": "/w==" }));
    }
}
