//! What is asked: frames made beforehand, so that sending one is a copy.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::base::cast::{u32_from, u64_from, usize_from};
use crate::base::ids::CorrelationId;
use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
use crate::base::prng::Prng;
use crate::proto::atomix::map::{CommandRequest, Message, QueryRequest, message};
use crate::proto::atomix::primitive::Name;
use crate::proto::p2pmap::v1::{Command, Get, Put, Query, command, query};

/// Frames made beforehand at most; a longer run repeats them.
const FRAME_COUNT_MAX: usize = 1 << 17;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The map.
    pub map: String,
    /// The number of the first key: keys are numbers, written out.
    pub key_first: u64,
    /// Different keys.
    pub key_count: usize,
    /// Bytes of a key: at least 8.
    pub key_size_bytes: usize,
    /// Bytes of a value.
    pub value_size_bytes: usize,
    /// Of a hundred requests, how many are puts; the others are gets.
    pub put_percent: u8,
    /// Of the choice of keys and operations.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            map: "bench".into(),
            key_first: 0,
            key_count: 10_000,
            key_size_bytes: 16,
            value_size_bytes: 64,
            put_percent: 0,
            seed: 1,
        }
    }
}

impl Workload {
    /// The requests of a run. The one at `index` has the correlation id `index + 1`.
    #[must_use]
    pub fn frames(&self) -> Vec<Bytes> {
        let mut keys = Prng::new(self.seed, "keys");
        let mut operations = Prng::new(self.seed, "operations");
        let count = FRAME_COUNT_MAX.min(self.key_count.max(1) * 4);
        (0..count)
            .map(|index| {
                let key = keys.below(u64_from(self.key_count.max(1)));
                let correlation = u64_from(index) + 1;
                if operations.below(100) < u64::from(self.put_percent) {
                    self.put(correlation, key)
                } else {
                    self.get(correlation, key)
                }
            })
            .collect()
    }

    /// Puts that give each key a value, one after the other.
    #[must_use]
    pub fn preload_frames(&self) -> Vec<Bytes> {
        let put = |index| self.put(u64_from(index) + 1, u64_from(index));
        (0..self.key_count).map(put).collect()
    }

    fn put(&self, correlation: CorrelationId, key: u64) -> Bytes {
        let value = vec![b'v'; self.value_size_bytes].into();
        let put = Put { key: self.key(key), value, ..Put::default() };
        let operation = Some(command::Operation::Put(put));
        let command = Command { map: self.map.clone(), operation, ..Command::default() };
        let request = CommandRequest {
            message_id: correlation,
            value: command.encode_to_vec().into(),
            ..CommandRequest::default()
        };
        self.frame(message::Message::Command(request))
    }

    fn get(&self, correlation: CorrelationId, key: u64) -> Bytes {
        let operation = Some(query::Operation::Get(Get { key: self.key(key) }));
        let query = Query { map: self.map.clone(), operation, ..Query::default() };
        let request = QueryRequest {
            message_id: correlation,
            value: query.encode_to_vec().into(),
            ..QueryRequest::default()
        };
        self.frame(message::Message::Query(request))
    }

    fn frame(&self, message: message::Message) -> Bytes {
        let target = Some(Name { name: self.map.clone(), namespace: String::new() });
        let message = Message { target, message: Some(message) };
        let mut frame = BytesMut::with_capacity(FRAME_PREFIX_SIZE_BYTES + message.encoded_len());
        frame.put_u8(0);
        frame.put_u32(u32_from(message.encoded_len()));
        message.encode(&mut frame).expect("a growing buffer has room");
        frame.freeze()
    }

    fn key(&self, number: u64) -> Bytes {
        let number = self.key_first + number;
        format!("{number:0width$}", width = self.key_size_bytes).into_bytes().into()
    }
}

/// The frames of a run, in turn. Each connection begins somewhere else.
#[derive(Clone, Copy, Debug)]
pub struct Cursor(u64);

impl Cursor {
    /// Of the connection `index` among `count`.
    #[must_use]
    pub fn new(index: usize, count: usize, frames: &[Bytes]) -> Self {
        Self(u64_from(index * frames.len() / count))
    }

    /// The next frame and its correlation id.
    pub fn next_of<'a>(&mut self, frames: &'a [Bytes]) -> (CorrelationId, &'a Bytes) {
        let index = self.0 % u64_from(frames.len());
        self.0 = index + 1;
        (index + 1, &frames[usize_from(index)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_repeat_with_the_seed_and_carry_their_number() {
        let workload = Workload { put_percent: 50, key_count: 100, ..Workload::default() };
        let frames = workload.frames();
        assert_eq!(frames, workload.frames());
        let message = Message::decode(&frames[41][FRAME_PREFIX_SIZE_BYTES..]).expect("a message");
        let correlation = match message.message.expect("a request") {
            message::Message::Command(command) => command.message_id,
            message::Message::Query(query) => query.message_id,
            other => panic!("{other:?} is no request"),
        };
        assert_eq!(correlation, 42);
    }

    #[test]
    fn mix_is_as_asked_for() {
        let count_puts = |put_percent| {
            let workload = Workload { put_percent, ..Workload::default() };
            let is_put = |frame: &Bytes| {
                let message =
                    Message::decode(&frame[FRAME_PREFIX_SIZE_BYTES..]).expect("a message");
                matches!(message.message, Some(message::Message::Command(_)))
            };
            let frames = workload.frames();
            frames.iter().filter(|frame| is_put(frame)).count() * 100 / frames.len()
        };
        assert_eq!(count_puts(0), 0);
        assert_eq!(count_puts(100), 100);
        assert!((45..55).contains(&count_puts(50)));
    }

    #[test]
    fn cursor_goes_round_and_starts_apart() {
        let frames: Vec<Bytes> = (0..4_u8).map(|byte| Bytes::from(vec![byte])).collect();
        let mut cursor = Cursor::new(1, 2, &frames);
        let drawn: Vec<u64> = (0..5).map(|_| cursor.next_of(&frames).0).collect();
        assert_eq!(drawn, [3, 4, 1, 2, 3]);
    }
}
