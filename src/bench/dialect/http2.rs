//! HTTP/2 as a load needs it to speak gRPC: requests whose headers are always written out, flow
//! control in both directions, and of what comes back the bodies. A client library would cost more
//! than the servers that are measured.
//!
//! Headers that come back aren't decoded: a call of gRPC that fails has no message, and one that
//! succeeds has one, so the body tells enough.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::ops::Range;

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::LineError;
use crate::base::cast::{u32_from, u64_from, usize_from_u32};
use crate::wire::frame;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a frame's own header.
const HEADER_SIZE_BYTES: usize = 9;
/// What both sides must take, and neither of us asks for more.
const FRAME_SIZE_BYTES_MAX: usize = 16_384;
/// What is sent is cut into parts of this: they wait for a window to have room for a whole one.
const PART_SIZE_BYTES_MAX: usize = 8_192;
/// A window before anybody has said anything.
const WINDOW_SIZE_BYTES_DEFAULT: i64 = 65_535;
/// The largest window that there is; ours, so that a server never waits for us.
const WINDOW_SIZE_BYTES_MAX: u32 = (1 << 31) - 1;
/// After so many bytes the windows are opened again.
const RECEIVED_BYTES_MAX: u32 = 1 << 30;

// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
// Settings.
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// gRPC's code for what isn't known.
const UNKNOWN: u32 = 2;

/// What a server did that a load can't go on after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Error {
    /// A frame is longer than we allow.
    TooLong,
    /// A frame is too short for what it is.
    Malformed,
    /// It closes the connection, with this code.
    GoneAway(u32),
    /// It ended a stream that has no end.
    Ended,
}

impl fmt::Display for Http2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("a frame of HTTP/2 is longer than allowed"),
            Self::Malformed => f.write_str("a frame of HTTP/2 is not what it says"),
            Self::GoneAway(code) => {
                write!(f, "it closes its connection of HTTP/2 with code {code}")
            }
            Self::Ended => f.write_str("it ended the call that all requests go through"),
        }
    }
}

/// What a frame that came was.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Nothing that ends a stream.
    Other,
    /// A stream is over.
    End {
        /// Which.
        stream: u32,
        /// All that came on it.
        body: &'a [u8],
        /// Why, if nothing came on it.
        code: u32,
    },
}

/// The client's side of a connection.
#[derive(Debug)]
pub struct Http2 {
    /// What came on streams that aren't over.
    bodies: Vec<(u32, BytesMut)>,
    /// What came on the one that was over last.
    ended: BytesMut,
    /// Of the first message of a body, if it was given out: it is taken away with the next one.
    given_out_bytes: usize,
    /// Where the message is that was found last.
    message_stream: u32,
    message: Range<usize>,
    received_bytes: u32,
    /// What may still be sent: in all, and on a stream that stays.
    connection_window: i64,
    stream_window: i64,
    stream_window_initial: i64,
    /// Frames that wait for windows, with the bytes that they take of them; whether of a stream's.
    waiting: VecDeque<(i64, bool, BytesMut)>,
}

impl Http2 {
    /// Begins a connection.
    #[must_use]
    pub fn open(out: &mut BytesMut) -> Self {
        out.put_slice(PREFACE);
        let settings = [
            (HEADER_TABLE_SIZE, 0),
            (ENABLE_PUSH, 0),
            (INITIAL_WINDOW_SIZE, WINDOW_SIZE_BYTES_MAX),
        ];
        header(out, settings.len() * 6, SETTINGS, 0, 0);
        for (name, value) in settings {
            out.put_u16(name);
            out.put_u32(value);
        }
        update(out, 0, WINDOW_SIZE_BYTES_MAX - 65_535);
        Self {
            bodies: Vec::new(),
            ended: BytesMut::new(),
            given_out_bytes: 0,
            message_stream: 0,
            message: 0..0,
            received_bytes: 0,
            connection_window: WINDOW_SIZE_BYTES_DEFAULT,
            stream_window: WINDOW_SIZE_BYTES_DEFAULT,
            stream_window_initial: WINDOW_SIZE_BYTES_DEFAULT,
            waiting: VecDeque::new(),
        }
    }

    /// Begins a call.
    pub fn request(&mut self, stream: u32, path: &str, out: &mut BytesMut) {
        // HPACK without its table: names of the static one by their number (`:method: POST`,
        // `:scheme: http`, `:path`, `:authority`, `content-type`), everything else written out.
        let mut block = [0; 128];
        let mut rest = &mut block[..];
        rest.put_slice(&[0x83, 0x86, 0x04]);
        string(&mut rest, path);
        rest.put_u8(0x01);
        string(&mut rest, "localhost");
        rest.put_slice(&[0x0f, 0x10]);
        string(&mut rest, "application/grpc");
        rest.put_u8(0x00);
        string(&mut rest, "te");
        string(&mut rest, "trailers");
        let size = 128 - rest.len();
        header(out, size, HEADERS, END_HEADERS, stream);
        out.put_slice(&block[..size]);
        self.bodies.push((stream, BytesMut::new()));
    }

    /// Sends a message, and with `ends` nothing more on its stream. A stream that ends is as short
    /// as a window is at least.
    pub fn data(&mut self, stream: u32, message: &[u8], ends: bool, out: &mut BytesMut) {
        let mut rest = message;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(PART_SIZE_BYTES_MAX));
            rest = after;
            let flags = if ends && rest.is_empty() { END_STREAM } else { 0 };
            let taken = i64::from(u32_from(part.len()));
            if self.waiting.is_empty() && self.take(taken, !ends) {
                header(out, part.len(), DATA, flags, stream);
                out.put_slice(part);
            } else {
                let mut frame = BytesMut::with_capacity(HEADER_SIZE_BYTES + part.len());
                header(&mut frame, part.len(), DATA, flags, stream);
                frame.put_slice(part);
                self.waiting.push_back((taken, !ends, frame));
            }
        }
    }

    /// Takes so many bytes from the windows, if they are there.
    fn take(&mut self, bytes: i64, stays: bool) -> bool {
        let has_room = self.connection_window >= bytes && (!stays || self.stream_window >= bytes);
        if has_room {
            self.connection_window -= bytes;
            self.stream_window -= if stays { bytes } else { 0 };
        }
        has_room
    }

    fn send_waiting(&mut self, out: &mut BytesMut) {
        while let Some((bytes, stays, frame)) = self.waiting.pop_front() {
            if !self.take(bytes, stays) {
                self.waiting.push_front((bytes, stays, frame));
                return;
            }
            out.put_slice(&frame);
        }
    }

    /// Whether the next message of a stream that stays is whole; the one before is taken away.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn has_message(&mut self, stream: u32) -> Result<bool, LineError> {
        self.message = 0..0;
        let given_out_bytes = mem::take(&mut self.given_out_bytes);
        let Some((_, body)) = self.bodies.iter_mut().find(|(open, _)| *open == stream) else {
            return Ok(false);
        };
        body.advance(given_out_bytes);
        let Some((_, payload)) = frame::next(body).map_err(LineError::Frame)? else {
            return Ok(false);
        };
        self.given_out_bytes = payload.end;
        (self.message_stream, self.message) = (stream, payload);
        Ok(true)
    }

    /// The message that was found last.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        let body = self.bodies.iter().find(|(open, _)| *open == self.message_stream);
        body.and_then(|(_, body)| body.get(self.message.clone())).unwrap_or_default()
    }

    /// Reads the next frame: how long it is, and what it was. `None`: it isn't whole yet.
    ///
    /// # Errors
    /// If the connection can't go on.
    pub fn next(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
    ) -> Result<Option<(usize, Part<'_>)>, Http2Error> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_SIZE_BYTES>() else {
            return Ok(None);
        };
        let [s0, s1, s2, kind, flags, stream @ ..] = *head;
        let size = usize_from_u32(u32::from_be_bytes([0, s0, s1, s2]));
        if size > FRAME_SIZE_BYTES_MAX {
            return Err(Http2Error::TooLong);
        }
        let Some(payload) = rest.get(..size) else { return Ok(None) };
        let stream = u32::from_be_bytes(stream) & WINDOW_SIZE_BYTES_MAX;
        let mut ends = None;
        match kind {
            DATA => {
                self.receive(stream, unpadded(payload, flags)?);
                self.count(u32_from(size), stream, out);
                ends = (flags & END_STREAM != 0).then_some(UNKNOWN);
            }
            HEADERS => ends = (flags & END_STREAM != 0).then_some(UNKNOWN),
            RESET => ends = Some(number(payload)?),
            SETTINGS if flags & ACK == 0 => self.set(payload, out)?,
            PING if flags & ACK == 0 => {
                header(out, payload.len(), PING, ACK, 0);
                out.put_slice(payload);
            }
            GO_AWAY => return Err(Http2Error::GoneAway(number(payload.get(4..).unwrap_or(&[]))?)),
            WINDOW_UPDATE => {
                let more = i64::from(number(payload)? & WINDOW_SIZE_BYTES_MAX);
                if stream == 0 {
                    self.connection_window += more;
                } else {
                    self.stream_window += more;
                }
                self.send_waiting(out);
            }
            _ => {}
        }
        let taken = HEADER_SIZE_BYTES + size;
        let place = self.bodies.iter().position(|(open, _)| *open == stream);
        let (Some(code), Some(place)) = (ends, place) else {
            return Ok(Some((taken, Part::Other)));
        };
        (_, self.ended) = self.bodies.swap_remove(place);
        Ok(Some((taken, Part::End { stream, body: &self.ended, code })))
    }

    fn receive(&mut self, stream: u32, data: &[u8]) {
        if let Some((_, body)) = self.bodies.iter_mut().find(|(open, _)| *open == stream) {
            body.extend_from_slice(data);
        }
    }

    /// Opens the windows again now and then: that of the connection, and that of a stream that
    /// takes all of it.
    fn count(&mut self, bytes: u32, stream: u32, out: &mut BytesMut) {
        self.received_bytes += bytes;
        if self.received_bytes > RECEIVED_BYTES_MAX {
            update(out, 0, self.received_bytes);
            if self.bodies.len() == 1 {
                update(out, stream, self.received_bytes);
            }
            self.received_bytes = 0;
        }
    }

    fn set(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), Http2Error> {
        if !payload.len().is_multiple_of(6) {
            return Err(Http2Error::Malformed);
        }
        let mut rest = payload;
        while rest.has_remaining() {
            let (name, value) = (rest.get_u16(), rest.get_u32());
            if name == INITIAL_WINDOW_SIZE {
                let initial = i64::from(value);
                self.stream_window += initial - self.stream_window_initial;
                self.stream_window_initial = initial;
            }
        }
        header(out, 0, SETTINGS, ACK, 0);
        self.send_waiting(out);
        Ok(())
    }
}

fn header(out: &mut BytesMut, size: usize, kind: u8, flags: u8, stream: u32) {
    out.put_uint(u64_from(size), 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

fn update(out: &mut BytesMut, stream: u32, more: u32) {
    header(out, 4, WINDOW_UPDATE, 0, stream);
    out.put_u32(more);
}

/// A string of HPACK, shorter than 127 bytes, not Huffman-coded.
fn string(out: &mut &mut [u8], text: &str) {
    out.put_uint(u64_from(text.len()), 1);
    out.put_slice(text.as_bytes());
}

fn number(payload: &[u8]) -> Result<u32, Http2Error> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Http2Error::Malformed)
}

fn unpadded(payload: &[u8], flags: u8) -> Result<&[u8], Http2Error> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Http2Error::Malformed)?;
    let size = rest.len().checked_sub(usize::from(*padding)).ok_or(Http2Error::Malformed)?;
    Ok(&rest[..size])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        header(&mut out, payload.len(), kind, flags, stream);
        out.put_slice(payload);
        out.to_vec()
    }

    fn opened() -> (Http2, BytesMut) {
        let mut out = BytesMut::new();
        let http2 = Http2::open(&mut out);
        out.clear();
        (http2, out)
    }

    #[test]
    fn body_of_a_call_is_put_together_and_given_out_at_its_end() {
        let (mut http2, mut out) = opened();
        http2.request(3, "/a/B", &mut out);
        http2.request(5, "/a/B", &mut out);
        for (kind, flags, stream, payload) in [
            (HEADERS, END_HEADERS, 3, b"\x88".as_slice()),
            (DATA, 0, 5, b"other"),
            (DATA, 0, 3, b"one "),
            (DATA, PADDED, 3, b"\x02two\0\0"),
        ] {
            let frame = frame_of(kind, flags, stream, payload);
            for len in 0..frame.len() {
                assert_eq!(http2.next(&frame[..len], &mut out), Ok(None));
            }
            assert_eq!(http2.next(&frame, &mut out), Ok(Some((frame.len(), Part::Other))));
        }
        let end = frame_of(HEADERS, END_HEADERS | END_STREAM, 3, b"\x88");
        let part = Part::End { stream: 3, body: b"one two", code: UNKNOWN };
        assert_eq!(http2.next(&end, &mut out), Ok(Some((end.len(), part))));
        let reset = frame_of(RESET, 0, 5, &8_u32.to_be_bytes());
        let part = Part::End { stream: 5, body: b"other", code: 8 };
        assert_eq!(http2.next(&reset, &mut out), Ok(Some((reset.len(), part))));
        let late = frame_of(DATA, END_STREAM, 5, b"x");
        assert_eq!(http2.next(&late, &mut out), Ok(Some((late.len(), Part::Other))));
    }

    #[test]
    fn what_has_no_room_in_a_window_waits_until_it_is_opened() {
        let (mut http2, mut out) = opened();
        http2.request(1, "/a/B", &mut out);
        out.clear();
        http2.data(1, &[7; 60_000], false, &mut out);
        let sent = out.len();
        assert_eq!(sent, 60_000 + 8 * HEADER_SIZE_BYTES);
        http2.data(1, &[8; 10_000], false, &mut out);
        http2.data(1, &[9; 10], false, &mut out);
        assert_eq!(out.len(), sent, "also what would have room waits: the order stays");
        let more = |stream| frame_of(WINDOW_UPDATE, 0, stream, &100_000_u32.to_be_bytes());
        http2.next(&more(0), &mut out).expect("a frame");
        assert_eq!(out.len(), sent, "the stream's own window is full as well");
        http2.next(&more(1), &mut out).expect("a frame");
        assert_eq!(out.len(), sent + 10_010 + 3 * HEADER_SIZE_BYTES);
    }

    #[test]
    fn settings_and_pings_are_answered_and_windows_follow_settings() {
        let (mut http2, mut out) = opened();
        let settings = [0, 4, 0, 1, 0, 0, 0, 3, 0, 0, 0, 9];
        let frame = frame_of(SETTINGS, 0, 0, &settings);
        assert_eq!(http2.next(&frame, &mut out), Ok(Some((frame.len(), Part::Other))));
        assert_eq!(out, frame_of(SETTINGS, ACK, 0, b""));
        assert_eq!(http2.stream_window, 65_536);
        out.clear();
        let ping = frame_of(PING, 0, 0, b"12345678");
        http2.next(&ping, &mut out).expect("a frame");
        assert_eq!(out, frame_of(PING, ACK, 0, b"12345678"));
        out.clear();
        for acknowledgement in [frame_of(SETTINGS, ACK, 0, b""), frame_of(PING, ACK, 0, &[0; 8])] {
            http2.next(&acknowledgement, &mut out).expect("a frame");
        }
        assert!(out.is_empty(), "an acknowledgement isn't acknowledged");
    }

    #[test]
    fn messages_of_a_stream_that_stays_come_one_by_one_however_they_were_cut() {
        let (mut http2, mut out) = opened();
        http2.request(1, "/a/B", &mut out);
        let stream = b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x03cde";
        let mut messages = Vec::new();
        for byte in stream {
            let frame = frame_of(DATA, 0, 1, &[*byte]);
            http2.next(&frame, &mut out).expect("a frame");
            while http2.has_message(1).expect("a message") {
                messages.push(http2.message().to_vec());
            }
        }
        assert_eq!(messages, [b"ab".to_vec(), b"".to_vec(), b"cde".to_vec()]);
    }

    #[test]
    fn server_that_breaks_the_protocol_or_goes_is_told() {
        let (mut http2, mut out) = opened();
        let mut error = |frame: &[u8]| http2.next(frame, &mut out).err();
        assert_eq!(error(&[0, 0x40, 1, DATA, 0, 0, 0, 0, 1]), Some(Http2Error::TooLong));
        let gone = frame_of(GO_AWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
        assert_eq!(error(&gone), Some(Http2Error::GoneAway(11)));
        for (kind, flags, payload) in
            [(RESET, 0, &b"123"[..]), (SETTINGS, 0, b"12345"), (DATA, PADDED, b"\x05abc")]
        {
            assert_eq!(error(&frame_of(kind, flags, 1, payload)), Some(Http2Error::Malformed));
        }
    }
}
