//! Redis' and Valkey's protocol: what a load says, and the replies to it.
//!
//! Redis answers a write when its master has it. `WAIT n` is answered when `n` replicas have all
//! that its connection has written so far, and nothing else of that connection is done until then.
//! So one `WAIT` follows the writes that are sent together, however many they are, rather than each
//! of them: with many writes in flight on a connection that takes one round to the replicas instead
//! of one after the other, and is as good as Redis can be used. A write counts as done when the
//! `WAIT` after it says that enough replicas have it; with too few its outcome is unknown.

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::{BufMut as _, BytesMut};

use super::{LineError, Read};
use crate::base::cast::u64_from;
use crate::base::ids::CorrelationId;
use crate::base::limits::LOAD_DRAIN_NS;
use crate::base::time::NS_PER_MS;
use crate::bench::content::Content;
use crate::bench::encode::digit_count;
use crate::bench::response::{Answer, Outcome};
use crate::proto::p2pmap::v1::error::Code;

/// The longest line that a reply may begin with: an error's text.
const LINE_SIZE_BYTES_MAX: usize = 4_096;
/// The longest value: Redis' own limit.
const VALUE_SIZE_BYTES_MAX: usize = 512 << 20;
/// How long replicas are waited for: less than the load waits for its last answers.
const REPLICA_WAIT_MS_MAX: u64 = 1_000;
const _: () = assert!(REPLICA_WAIT_MS_MAX * NS_PER_MS < LOAD_DRAIN_NS);
/// Redis has words for its errors, no numbers.
const CODE_OF_ERRORS: u64 = 0;
/// A write that too few replicas have in time is there, and may be lost.
const CODE_OF_UNKNOWN: u64 = Code::OutcomeUnknown as u64;

/// What was asked over a connection and has no reply yet, and what replies mean for it.
#[derive(Debug, Default)]
pub struct Dialogue {
    /// How many replicas must have a write; 0: `WAIT` isn't asked.
    replica_count: u32,
    /// In the order in which replies come.
    asked: VecDeque<Asked>,
    /// A write was asked that no `WAIT` follows yet.
    has_open_writes: bool,
    /// Writes that the master has, and no reply to a `WAIT` yet.
    unconfirmed: VecDeque<CorrelationId>,
    /// Those that the last `WAIT` was about and that nobody was told of yet.
    confirmed: VecDeque<CorrelationId>,
    /// Whether enough replicas have them.
    are_replicated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Get(CorrelationId),
    Set(CorrelationId),
    Wait,
}

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply<'a> {
    Outcome(Outcome<'a>),
    /// A number, as `WAIT` has it.
    Count(u64),
}

impl Dialogue {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(replica_count: u32) -> Self {
        Self { replica_count, ..Self::default() }
    }

    /// Appends `GET key`.
    pub fn get(&mut self, id: CorrelationId, key: &[u8], out: &mut BytesMut) {
        get(out, key);
        self.asked.push_back(Asked::Get(id));
    }

    /// Appends `SET key value`.
    pub fn set(
        &mut self,
        id: CorrelationId,
        key: &[u8],
        content: &Content,
        value_size_bytes: usize,
        out: &mut BytesMut,
    ) {
        set(out, key, content, value_size_bytes);
        self.asked.push_back(Asked::Set(id));
        self.has_open_writes = self.replica_count > 0;
    }

    /// Appends the `WAIT` of the writes that are about to be sent, if there are any.
    pub fn end_batch(&mut self, out: &mut BytesMut) {
        if self.has_open_writes {
            self.has_open_writes = false;
            wait(out, self.replica_count);
            self.asked.push_back(Asked::Wait);
        }
    }

    /// Reads the next answer: how many bytes it took, and what it is; `None`: more must be
    /// received.
    ///
    /// # Errors
    /// If it is no reply, or not one to what was asked.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(usize, Read<'a>)>, LineError> {
        if let Some(correlation) = self.confirmed.pop_front() {
            let outcome = self.confirmation();
            return Ok(Some((0, Read::Answer(Answer { correlation, outcome }))));
        }
        let Some((size, reply)) = next(bytes).ok_or(LineError::Resp)? else { return Ok(None) };
        let Some(asked) = self.asked.pop_front() else { return Ok(Some((size, Read::Stray))) };
        let read = match (asked, reply) {
            (Asked::Set(correlation), Reply::Outcome(Outcome::Done)) if self.replica_count > 0 => {
                self.unconfirmed.push_back(correlation);
                Read::Nothing
            }
            (Asked::Get(correlation) | Asked::Set(correlation), Reply::Outcome(outcome)) => {
                Read::Answer(Answer { correlation, outcome })
            }
            (Asked::Wait, Reply::Count(count)) => {
                self.confirm(count >= u64::from(self.replica_count))
            }
            (Asked::Wait, Reply::Outcome(Outcome::Refused { .. })) => self.confirm(false),
            _ => return Err(LineError::Resp),
        };
        Ok(Some((size, read)))
    }

    /// All writes that the master had by a `WAIT` are done, or of unknown outcome.
    fn confirm(&mut self, are_replicated: bool) -> Read<'static> {
        self.are_replicated = are_replicated;
        std::mem::swap(&mut self.confirmed, &mut self.unconfirmed);
        Read::Nothing
    }

    fn confirmation(&self) -> Outcome<'static> {
        match self.are_replicated {
            true => Outcome::Done,
            false => Outcome::Refused { code: CODE_OF_UNKNOWN },
        }
    }
}

fn set(out: &mut BytesMut, key: &[u8], content: &Content, value_size_bytes: usize) {
    out.put_slice(b"*3\r\n$3\r\nSET\r\n");
    bulk(out, key);
    head(out, value_size_bytes);
    content.put(value_size_bytes, out);
    out.put_slice(b"\r\n");
}

fn get(out: &mut BytesMut, key: &[u8]) {
    out.put_slice(b"*2\r\n$3\r\nGET\r\n");
    bulk(out, key);
}

fn wait(out: &mut BytesMut, replica_count: u32) {
    let digits = |number: u64| u64_from(digit_count(number));
    let (count, ms) = (u64::from(replica_count), REPLICA_WAIT_MS_MAX);
    let (of_count, of_ms) = (digits(count), digits(ms));
    let command =
        format_args!("*3\r\n$4\r\nWAIT\r\n${of_count}\r\n{count}\r\n${of_ms}\r\n{ms}\r\n");
    write!(out.writer(), "{command}").expect("a buffer grows");
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
/// none that `GET`, `SET` and `WAIT` have.
fn next(bytes: &[u8]) -> Option<Option<(usize, Reply<'_>)>> {
    let outcome = |size, outcome| Some(Some((size, Reply::Outcome(outcome))));
    let Some((kind, rest)) = bytes.split_first() else { return Some(None) };
    let Some(length) = rest.windows(2).take(LINE_SIZE_BYTES_MAX).position(|two| two == b"\r\n")
    else {
        return (rest.len() <= LINE_SIZE_BYTES_MAX && b"+-$:".contains(kind)).then_some(None);
    };
    let (line, body) = (&rest[..length], length + 3);
    match kind {
        b'+' if line == b"OK" => outcome(body, Outcome::Done),
        b'-' => outcome(body, Outcome::Refused { code: CODE_OF_ERRORS }),
        b'$' if line == b"-1" => outcome(body, Outcome::Absent),
        b'$' => {
            let size: usize = std::str::from_utf8(line).ok()?.parse().ok()?;
            if size > VALUE_SIZE_BYTES_MAX {
                return None;
            }
            let Some(end) = bytes.get(body + size..body + size + 2) else { return Some(None) };
            let value = &bytes[body..body + size];
            if end != b"\r\n" {
                return None;
            }
            outcome(body + size + 2, Outcome::Value { value })
        }
        b':' => {
            let count = std::str::from_utf8(line).ok()?.parse().ok()?;
            Some(Some((body, Reply::Count(count))))
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
        let replies = replies.map(|(reply, outcome)| (reply, Reply::Outcome(outcome)));
        for (reply, expected) in replies.into_iter().chain([(&b":12\r\n"[..], Reply::Count(12))]) {
            assert_eq!(next(reply), Some(Some((reply.len(), expected))));
            let more = [reply, b"+OK\r\n"].concat();
            assert_eq!(next(&more), Some(Some((reply.len(), expected))));
            for len in 0..reply.len() {
                assert_eq!(next(&reply[..len]), Some(None), "{len} of {reply:?}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let long = [b"$".as_slice(), &[b'1'; LINE_SIZE_BYTES_MAX + 2]].concat();
        let wrong: [&[u8]; 8] = [
            b"*1\r\n",
            b"hello",
            b"$x\r\n",
            b"$-2\r\n",
            b"$999999999999\r\n",
            b":\r\n",
            b":-1\r\n",
            &long,
        ];
        for reply in wrong {
            assert_eq!(next(reply), None, "{reply:?}");
        }
        assert_eq!(next(b"$1\r\nabc\r\n"), None, "it doesn't end where it says");
    }

    const CONTENT: Content = Content { key: 1, writer: 3, sequence: 9 };

    /// Writes with these ids are sent together.
    fn send(dialogue: &mut Dialogue, ids: &[CorrelationId]) -> String {
        let mut out = BytesMut::new();
        for id in ids {
            dialogue.set(*id, b"1", &CONTENT, 24, &mut out);
        }
        dialogue.end_batch(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// All answers in these replies.
    fn answers(dialogue: &mut Dialogue, mut replies: &[u8]) -> Vec<(CorrelationId, bool)> {
        let mut answers = Vec::new();
        while let Some((size, read)) = dialogue.next(replies).expect("they are replies") {
            replies = &replies[size..];
            if let Read::Answer(Answer { correlation, outcome }) = read {
                answers.push((correlation, outcome == Outcome::Done));
            }
        }
        assert_eq!(replies, b"", "all is read");
        answers
    }

    #[test]
    fn writes_that_are_sent_together_are_done_when_their_wait_says_so() {
        let mut dialogue = Dialogue::new(2);
        let sent = send(&mut dialogue, &[1, 2]);
        assert_eq!(sent.matches("SET").count(), 2);
        assert!(sent.ends_with("*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$4\r\n1000\r\n"), "{sent}");
        assert_eq!(sent.matches("WAIT").count(), 1);
        assert_eq!(answers(&mut dialogue, b"+OK\r\n+OK\r\n"), []);
        // More is sent before the first is confirmed: it has a `WAIT` of its own.
        assert!(send(&mut dialogue, &[3]).ends_with("1000\r\n"));
        assert_eq!(answers(&mut dialogue, b":2\r\n"), [(1, true), (2, true)]);
        assert_eq!(answers(&mut dialogue, b"+OK\r\n"), []);
        assert_eq!(answers(&mut dialogue, b":3\r\n"), [(3, true)]);
    }

    #[test]
    fn write_that_too_few_replicas_have_is_no_write_that_was_done() {
        for reply in [&b":1\r\n"[..], b":0\r\n", b"-ERR WAIT cannot be used here\r\n"] {
            let mut dialogue = Dialogue::new(2);
            send(&mut dialogue, &[1, 2]);
            let replies = [b"+OK\r\n+OK\r\n", reply].concat();
            assert_eq!(answers(&mut dialogue, &replies), [(1, false), (2, false)]);
        }
    }

    #[test]
    fn write_that_the_master_refuses_is_answered_at_once_and_once() {
        let mut dialogue = Dialogue::new(1);
        send(&mut dialogue, &[1, 2]);
        let replies = b"-OOM\r\n+OK\r\n:1\r\n";
        assert_eq!(answers(&mut dialogue, replies), [(1, false), (2, true)]);
    }

    #[test]
    fn reads_and_those_who_want_no_replica_never_wait() {
        let mut dialogue = Dialogue::new(0);
        assert!(!send(&mut dialogue, &[1]).contains("WAIT"));
        assert_eq!(answers(&mut dialogue, b"+OK\r\n"), [(1, true)]);
        let (mut dialogue, mut out) = (Dialogue::new(1), BytesMut::new());
        dialogue.get(7, b"1", &mut out);
        dialogue.end_batch(&mut out);
        assert!(!out.windows(4).any(|four| four == b"WAIT"));
        assert_eq!(answers(&mut dialogue, b"$-1\r\n"), [(7, false)]);
    }

    #[test]
    fn reply_to_another_question_ends_the_connection() {
        let mut dialogue = Dialogue::new(1);
        send(&mut dialogue, &[1]);
        assert_eq!(dialogue.next(b":1\r\n"), Err(LineError::Resp), "a SET isn't counted");
        let mut dialogue = Dialogue::new(1);
        send(&mut dialogue, &[1]);
        assert_eq!(dialogue.next(b"+OK\r\n"), Ok(Some((5, Read::Nothing))));
        assert_eq!(dialogue.next(b"+OK\r\n"), Err(LineError::Resp), "a WAIT is counted");
        assert_eq!(Dialogue::new(0).next(b"+OK\r\n"), Ok(Some((5, Read::Stray))));
    }
}
