//! Recognises by its first bytes what a connection speaks, and says what is spoken here to those
//! who speak something else.

use crate::metrics::DropReason;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Not enough to tell.
    Undecided,
    /// Raw frames, of a client.
    Raw,
    /// A member's greeting.
    Hello,
    /// HTTP/2, so gRPC.
    Http2,
    /// Something that we don't speak.
    Foreign(Foreign),
}

/// What we don't speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// HTTP/1.
    Http1,
    /// Anything else.
    Other,
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";
const HTTP1_METHODS: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];

const SPOKEN_HERE: &str =
    "p2pmap speaks gRPC (HTTP/2) and raw frames here: atomix.map.P2PMapService/Connect\n";
const HTTP1_ANSWER: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\n",
    "content-type: text/plain; charset=utf-8\r\n",
    "content-length: 82\r\n",
    "connection: close\r\n",
    "\r\n",
    "p2pmap speaks gRPC (HTTP/2) and raw frames here: atomix.map.P2PMapService/Connect\n",
);

/// What the first bytes of a connection say.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes.first() {
        None => return Sniffed::Undecided,
        Some(0..=1) => return Sniffed::Raw,
        Some(2) => return Sniffed::Hello,
        Some(_) => {}
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Sniffed::Http2;
    }
    if HTTP1_METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Sniffed::Foreign(Foreign::Http1);
    }
    let might_become = |whole: &[u8]| whole.starts_with(bytes);
    if might_become(HTTP2_PREFACE) || HTTP1_METHODS.into_iter().any(might_become) {
        return Sniffed::Undecided;
    }
    Sniffed::Foreign(Foreign::Other)
}

impl Foreign {
    /// What the peer is told, in its own language where we know that.
    #[must_use]
    pub const fn answer(self) -> &'static [u8] {
        match self {
            Self::Http1 => HTTP1_ANSWER.as_bytes(),
            Self::Other => SPOKEN_HERE.as_bytes(),
        }
    }

    /// How it is counted.
    #[must_use]
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Self::Http1 => DropReason::Http1,
            Self::Other => DropReason::UnknownProtocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_decides_for_raw_frames() {
        assert_eq!([0, 1].map(|first| sniff(&[first])), [Sniffed::Raw; 2]);
        assert_eq!(sniff(&[2]), Sniffed::Hello);
    }

    #[test]
    fn http2_is_told_from_http1_after_as_many_bytes_as_it_takes() {
        for len in 0..HTTP2_PREFACE.len() {
            assert_eq!(sniff(&HTTP2_PREFACE[..len]), Sniffed::Undecided, "{len} bytes");
        }
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Sniffed::Http2);
        assert_eq!(sniff(b"PRI * HTTP/3"), Sniffed::Foreign(Foreign::Other));
        assert_eq!(sniff(b"P"), Sniffed::Undecided);
        assert_eq!(sniff(b"PUT /x HTTP/1.1\r\n"), Sniffed::Foreign(Foreign::Http1));
        assert_eq!(sniff(b"GET "), Sniffed::Foreign(Foreign::Http1));
    }

    #[test]
    fn anything_else_is_refused_by_its_first_byte() {
        for first in (3..=u8::MAX).filter(|byte| !b"PGHDOCT".contains(byte)) {
            assert_eq!(sniff(&[first]), Sniffed::Foreign(Foreign::Other), "{first}");
        }
    }

    #[test]
    fn http_answer_announces_the_length_that_it_has() {
        let answer = std::str::from_utf8(Foreign::Http1.answer()).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert_eq!(body.as_bytes(), Foreign::Other.answer());
    }
}
