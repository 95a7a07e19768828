//! Redis' and Valkey's protocol: what a load says, and the replies to it.

use bytes::{BufMut as _, BytesMut};

use crate::bench::content::Content;
use crate::bench::response::Outcome;

/// The longest line that a reply may begin with: an error's text.
const LINE_SIZE_BYTES_MAX: usize = 4_096;
/// The longest value: Redis' own limit.
const VALUE_SIZE_BYTES_MAX: usize = 512 << 20;

/// Appends `SET key value`.
pub fn set(out: &mut BytesMut, key: &[u8], content: &Content, value_size_bytes: usize) {
    out.put_slice(b"*3\r\n$3\r\nSET\r\n");
    bulk(out, key);
    head(out, value_size_bytes);
    content.put(value_size_bytes, out);
    out.put_slice(b"\r\n");
}

/// Appends `GET key`.
pub fn get(out: &mut BytesMut, key: &[u8]) {
    out.put_slice(b"*2\r\n$3\r\nGET\r\n");
    bulk(out, key);
}

fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    head(out, bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn head(out: &mut BytesMut, mut size: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (size % 10).to_le_bytes()[0];
        size /= 10;
        if size == 0 {
            break;
        }
    }
    out.put_u8(b'$');
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// Reads a reply: how long it is, and what it says. `Some(None)`: it isn't whole yet; `None`: it is
/// none that `GET` and `SET` have.
#[must_use]
pub fn next(bytes: &[u8]) -> Option<Option<(usize, Outcome<'_>)>> {
    let Some((kind, rest)) = bytes.split_first() else { return Some(None) };
    let Some(length) = rest.windows(2).take(LINE_SIZE_BYTES_MAX).position(|two| two == b"\r\n")
    else {
        return (rest.len() <= LINE_SIZE_BYTES_MAX && b"+-$".contains(kind)).then_some(None);
    };
    let (line, body) = (&rest[..length], length + 3);
    match kind {
        b'+' if line == b"OK" => Some(Some((body, Outcome::Done))),
        b'-' => Some(Some((body, Outcome::Refused { code: 0 }))),
        b'$' if line == b"-1" => Some(Some((body, Outcome::Absent))),
        b'$' => {
            let size: usize = std::str::from_utf8(line).ok()?.parse().ok()?;
            if size > VALUE_SIZE_BYTES_MAX {
                return None;
            }
            let Some(end) = bytes.get(body + size..body + size + 2) else { return Some(None) };
            let value = &bytes[body..body + size];
            (end == b"\r\n").then_some(Some((body + size + 2, Outcome::Value { value })))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        let mut out = BytesMut::new();
        get(&mut out, b"0000000000000012");
        assert_eq!(out, "*2\r\n$3\r\nGET\r\n$16\r\n0000000000000012\r\n");
        out.clear();
        let content = Content { key: 12, writer: 3, sequence: 9 };
        set(&mut out, b"12", &content, 24);
        let mut value = BytesMut::new();
        content.put(24, &mut value);
        let expected = [b"*3\r\n$3\r\nSET\r\n$2\r\n12\r\n$24\r\n", &value[..], b"\r\n"].concat();
        assert_eq!(out, expected);
        out.clear();
        bulk(&mut out, b"");
        assert_eq!(out, "$0\r\n\r\n");
    }

    #[test]
    fn replies_are_read_and_cut_short_ones_waited_for() {
        let replies: [(&[u8], Outcome<'_>); 5] = [
            (b"+OK\r\n", Outcome::Done),
            (b"-OOM command not allowed\r\n", Outcome::Refused { code: 0 }),
            (b"$-1\r\n", Outcome::Absent),
            (b"$0\r\n\r\n", Outcome::Value { value: b"" }),
            (b"$5\r\na\r\nbc\r\n", Outcome::Value { value: b"a\r\nbc" }),
        ];
        for (reply, outcome) in replies {
            assert_eq!(next(reply), Some(Some((reply.len(), outcome))));
            let more = [reply, b"+OK\r\n"].concat();
            assert_eq!(next(&more), Some(Some((reply.len(), outcome))));
            for len in 0..reply.len() {
                assert_eq!(next(&reply[..len]), Some(None), "{len} of {reply:?}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let long = [b"$".as_slice(), &[b'1'; LINE_SIZE_BYTES_MAX + 2]].concat();
        let wrong: [&[u8]; 6] =
            [b"*1\r\n", b"hello", b"$x\r\n", b"$-2\r\n", b"$999999999999\r\n", &long];
        for reply in wrong {
            assert_eq!(next(reply), None, "{reply:?}");
        }
        assert_eq!(next(b"$1\r\nabc\r\n"), None, "it doesn't end where it says");
    }
}
