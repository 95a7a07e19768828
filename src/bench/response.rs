//! Reads of an answer just what must be checked: whose it is, and whether it is an error. A whole
//! decoding would make the load generator slower than what it measures.

use crate::base::cast::usize_from;
use crate::base::ids::CorrelationId;

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The request that it answers.
    pub correlation: CorrelationId,
    /// What came of it.
    pub outcome: Outcome<'a>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// A write was done.
    Written {
        /// The key's new version.
        version: u64,
    },
    /// A read found a value.
    Found {
        /// The key's version.
        version: u64,
        /// The value.
        value: &'a [u8],
    },
    /// A write was done; its version wasn't told.
    Done,
    /// A read found a value; its version wasn't told.
    Value {
        /// The value.
        value: &'a [u8],
    },
    /// A read found nothing.
    Absent,
    /// A part of the answer to a scan; another one follows.
    Page,
    /// The end of the answer to a scan.
    Closed,
    /// The request came back as it was: an echo answered.
    Echo,
    /// The node refused, with this code.
    Refused {
        /// A `p2pmap.v1.Error.Code`.
        code: u64,
    },
}

// The numbers of the fields, as the `.proto` files give them.
const COMMAND: u64 = 2;
const COMMAND_RESPONSE: u64 = 3;
const QUERY: u64 = 4;
const QUERY_RESPONSE: u64 = 5;
const REQUEST_MESSAGE_ID: u64 = 2;
const RESPONSE_MESSAGE_ID: u64 = 1;
const COMMAND_RESPONSE_VALUE: u64 = 5;
const QUERY_RESPONSE_VALUE: u64 = 4;
const INDEXED_VALUE: u64 = 2;
const RESULT_ERROR: u64 = 1;
const RESULT_WRITTEN: u64 = 2;
const RESULT_FOUND: u64 = 5;
const RESULT_PAGE: u64 = 8;
const RESULT_QUERY_CLOSE: u64 = 15;
const ERROR_CODE: u64 = 1;
const WRITTEN_VERSION: u64 = 1;
const FOUND_ENTRY: u64 = 1;
const VERSIONED_VALUE: u64 = 1;
const VERSIONED_VERSION: u64 = 2;

/// Reads the payload of a frame: a response, or a request that an echo sent back. `None`: neither.
#[must_use]
pub fn read(payload: &[u8]) -> Option<Answer<'_>> {
    let (kind, body) = Fields(payload).find_map(|field| match field {
        (kind @ (COMMAND | COMMAND_RESPONSE | QUERY | QUERY_RESPONSE), Value::Bytes(body)) => {
            Some((kind, body))
        }
        _ => None,
    })?;
    let id_field =
        if matches!(kind, COMMAND | QUERY) { REQUEST_MESSAGE_ID } else { RESPONSE_MESSAGE_ID };
    let correlation = number_field(body, id_field)?;
    let outcome = match kind {
        COMMAND_RESPONSE => outcome(bytes_field(body, COMMAND_RESPONSE_VALUE)?)?,
        QUERY_RESPONSE => {
            let indexed = bytes_field(body, QUERY_RESPONSE_VALUE)?;
            outcome(bytes_field(indexed, INDEXED_VALUE)?)?
        }
        _ => Outcome::Echo,
    };
    Some(Answer { correlation, outcome })
}

/// Reads a `p2pmap.v1.Result`. One without its oneof is none.
fn outcome(result: &[u8]) -> Option<Outcome<'_>> {
    let (number, Value::Bytes(body)) = Fields(result).next()? else { return None };
    let outcome = match number {
        RESULT_ERROR => Outcome::Refused { code: number_field(body, ERROR_CODE).unwrap_or(0) },
        RESULT_WRITTEN => Outcome::Written { version: number_field(body, WRITTEN_VERSION)? },
        RESULT_FOUND => match bytes_field(body, FOUND_ENTRY) {
            Some(entry) => Outcome::Found {
                version: number_field(entry, VERSIONED_VERSION)?,
                value: bytes_field(entry, VERSIONED_VALUE).unwrap_or_default(),
            },
            None => Outcome::Absent,
        },
        RESULT_PAGE => Outcome::Page,
        RESULT_QUERY_CLOSE => Outcome::Closed,
        _ => return None,
    };
    Some(outcome)
}

/// The first field of this number, if it is a number.
#[must_use]
pub fn number_field(message: &[u8], wanted: u64) -> Option<u64> {
    Fields(message).find_map(|field| match field {
        (number, Value::Number(value)) if number == wanted => Some(value),
        _ => None,
    })
}

/// The first field of this number, if it is bytes.
#[must_use]
pub fn bytes_field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    Fields(message).find_map(|field| match field {
        (number, Value::Bytes(bytes)) if number == wanted => Some(bytes),
        _ => None,
    })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of an encoded message, as far as they can be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let size = usize_from(self.varint()?);
                Value::Bytes(self.take(size)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::bench::mix::Mix;
    use crate::bench::workload::Workload;
    use crate::proto::atomix::map::{
        CommandResponse, Indexed, Message, QueryClose, QueryResponse, message,
    };
    use crate::proto::p2pmap::v1::{
        Error, Found, Page, Result as ProtoResult, Sized, Versioned, Written, result,
    };

    fn encode(outcome: result::Outcome, query: bool) -> Vec<u8> {
        let value = ProtoResult { outcome: Some(outcome) }.encode_to_vec().into();
        let message = if query {
            let value = Indexed { index: 9, value }.encode_to_vec().into();
            let response = QueryResponse { message_id: 300, value, ..QueryResponse::default() };
            message::Message::QueryResponse(response)
        } else {
            let response = CommandResponse { message_id: 300, value, ..CommandResponse::default() };
            message::Message::CommandResponse(response)
        };
        Message { target: None, message: Some(message) }.encode_to_vec()
    }

    fn found() -> result::Outcome {
        let entry = Versioned { value: "abc".into(), version: 1 << 40, ..Versioned::default() };
        result::Outcome::Found(Found { entry: Some(entry) })
    }

    fn outcome_of(outcome: result::Outcome, query: bool) -> Option<String> {
        let payload = encode(outcome, query);
        let answer = read(&payload)?;
        assert_eq!(answer.correlation, 300);
        Some(format!("{:?}", answer.outcome))
    }

    #[test]
    fn each_outcome_is_read_with_what_must_be_checked() {
        let error = || result::Outcome::Error(Error { code: 4, ..Error::default() });
        let written = result::Outcome::Written(Written { version: 7, previous: None });
        for (outcome, query, expected) in [
            (written, false, Outcome::Written { version: 7 }),
            (found(), true, Outcome::Found { version: 1 << 40, value: b"abc" }),
            (result::Outcome::Found(Found { entry: None }), true, Outcome::Absent),
            (result::Outcome::Page(Page::default()), true, Outcome::Page),
            (result::Outcome::QueryClose(QueryClose::default()), true, Outcome::Closed),
            (error(), false, Outcome::Refused { code: 4 }),
            (error(), true, Outcome::Refused { code: 4 }),
        ] {
            assert_eq!(outcome_of(outcome, query), Some(format!("{expected:?}")));
        }
        let unexpected = result::Outcome::Size(Sized::default());
        assert_eq!(outcome_of(unexpected, true), None);
    }

    #[test]
    fn echoed_requests_are_recognised() {
        let workload = Workload { mix: Mix::of_puts(50), key_count: 10, ..Workload::default() };
        for (correlation, frame) in (1..).zip(workload.frames()) {
            assert_eq!(read(&frame[5..]), Some(Answer { correlation, outcome: Outcome::Echo }));
        }
    }

    #[test]
    fn garbage_and_truncated_answers_are_no_answers() {
        let whole = encode(found(), true);
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(read(&[0xff; 32]), None);
    }
}
