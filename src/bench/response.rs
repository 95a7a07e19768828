//! Reads of an answer just what must be checked: whose it is, and whether it is an error. A whole
//! decoding would make the load generator slower than what it measures.

use crate::base::cast::usize_from;
use crate::base::ids::CorrelationId;

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request that it answers.
    pub correlation: CorrelationId,
    /// Whether it is an error.
    pub is_error: bool,
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

/// Reads the payload of a frame: a response, or a request that an echo sent back. `None`: neither.
#[must_use]
pub fn read(payload: &[u8]) -> Option<Answer> {
    let (kind, body) = Fields(payload).find_map(|field| match field {
        (kind @ (COMMAND | COMMAND_RESPONSE | QUERY | QUERY_RESPONSE), Value::Bytes(body)) => {
            Some((kind, body))
        }
        _ => None,
    })?;
    let id_field =
        if matches!(kind, COMMAND | QUERY) { REQUEST_MESSAGE_ID } else { RESPONSE_MESSAGE_ID };
    let correlation = Fields(body).find_map(|field| match field {
        (number, Value::Number(id)) if number == id_field => Some(id),
        _ => None,
    })?;
    let is_error = match kind {
        COMMAND_RESPONSE => is_error(bytes_field(body, COMMAND_RESPONSE_VALUE)?),
        QUERY_RESPONSE => {
            let indexed = bytes_field(body, QUERY_RESPONSE_VALUE)?;
            is_error(bytes_field(indexed, INDEXED_VALUE)?)
        }
        _ => false,
    };
    Some(Answer { correlation, is_error })
}

fn is_error(result: &[u8]) -> bool {
    // A result without its oneof is none.
    Fields(result).next().is_none_or(|(number, _)| number == RESULT_ERROR)
}

fn bytes_field(message: &[u8], wanted: u64) -> Option<&[u8]> {
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
    use crate::bench::workload::Workload;
    use crate::proto::atomix::map::{CommandResponse, Indexed, Message, QueryResponse, message};
    use crate::proto::p2pmap::v1::{Error, Found, Result as Outcome, Written, result};

    fn encode(outcome: result::Outcome, query: bool) -> Vec<u8> {
        let value = Outcome { outcome: Some(outcome) }.encode_to_vec().into();
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

    #[test]
    fn responses_of_both_kinds_are_told_from_errors() {
        let written = result::Outcome::Written(Written { version: 1, previous: None });
        let found = result::Outcome::Found(Found { entry: None });
        let error = || result::Outcome::Error(Error { code: 4, ..Error::default() });
        let answer = |is_error| Some(Answer { correlation: 300, is_error });
        assert_eq!(read(&encode(written, false)), answer(false));
        assert_eq!(read(&encode(found, true)), answer(false));
        assert_eq!(read(&encode(error(), false)), answer(true));
        assert_eq!(read(&encode(error(), true)), answer(true));
    }

    #[test]
    fn echoed_requests_are_recognised() {
        let workload = Workload { put_percent: 50, key_count: 10, ..Workload::default() };
        for (index, frame) in (1..).zip(workload.frames()) {
            assert_eq!(read(&frame[5..]), Some(Answer { correlation: index, is_error: false }));
        }
    }

    #[test]
    fn garbage_and_truncated_answers_are_no_answers() {
        let found = result::Outcome::Found(Found { entry: None });
        let whole = encode(found, true);
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(read(&[0xff; 32]), None);
    }
}
