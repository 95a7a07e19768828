//! How a stream ends: gRPC's status codes, and the trailers that carry them.

use std::borrow::Cow;
use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::base::limits::GRPC_STATUS_MESSAGE_SIZE_BYTES_MAX;
use crate::runtime::service::WireStatus;
use crate::wire::error::StatusCode;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// gRPC's status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    /// No error.
    Ok = 0,
    /// The caller cancelled.
    Cancelled = 1,
    /// An error that fits no other code.
    Unknown = 2,
    /// The caller's argument is wrong, whatever the state of the system.
    InvalidArgument = 3,
    /// The stream's `grpc-timeout` has passed.
    DeadlineExceeded = 4,
    /// What was asked for doesn't exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A bound was reached.
    ResourceExhausted = 8,
    /// The system's state doesn't allow it.
    FailedPrecondition = 9,
    /// A conflict; try again from further up.
    Aborted = 10,
    /// Beyond the valid range.
    OutOfRange = 11,
    /// Not known here.
    Unimplemented = 12,
    /// An invariant is broken.
    Internal = 13,
    /// Not now: try again, or elsewhere.
    Unavailable = 14,
    /// Data is lost.
    DataLoss = 15,
    /// The caller hasn't said who it is.
    Unauthenticated = 16,
}

/// How a stream ends: a code for programs and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcStatus {
    /// For programs.
    pub code: GrpcCode,
    /// For people; what is too long is cut.
    pub message: Cow<'static, str>,
}

impl GrpcStatus {
    /// The status of a stream that did what it was opened for.
    pub const OK: Self = Self { code: GrpcCode::Ok, message: Cow::Borrowed("") };

    /// A status with a text.
    #[must_use]
    pub fn new(code: GrpcCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// Adds the status to the trailers of a stream, or to the headers of a response that consists
    /// of nothing else.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as u16));
        if !self.message.is_empty() {
            let text = HeaderValue::try_from(percent_encoded(&self.message))
                .expect("percent-encoded text is printable ASCII");
            headers.insert(GRPC_MESSAGE, text);
        }
    }

    pub(super) fn trailers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(2);
        self.write(&mut headers);
        headers
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl From<&WireStatus> for GrpcStatus {
    fn from(status: &WireStatus) -> Self {
        let code = match status.code {
            StatusCode::InvalidArgument => GrpcCode::InvalidArgument,
            StatusCode::PermissionDenied => GrpcCode::PermissionDenied,
            StatusCode::ResourceExhausted => GrpcCode::ResourceExhausted,
            StatusCode::FailedPrecondition => GrpcCode::FailedPrecondition,
            StatusCode::Unimplemented => GrpcCode::Unimplemented,
        };
        Self::new(code, status.message.clone())
    }
}

/// The status in trailers that another server has sent, for people; `None`: there is none.
pub(super) fn told(headers: &HeaderMap) -> Option<String> {
    let code = headers.get(GRPC_STATUS)?.to_str().unwrap_or("unreadable");
    let message = headers.get(GRPC_MESSAGE).map_or(String::new(), percent_decoded);
    Some(format!("status {code}: {message}"))
}

/// What [`percent_encoded`] has made; what it can't have made stays as it is.
fn percent_decoded(value: &HeaderValue) -> String {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut rest, mut decoded) = (value.as_bytes(), Vec::new());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(first);
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// gRPC's encoding of `grpc-message`: printable ASCII but `%` stands for itself, other bytes as
/// `%XX`.
fn percent_encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut size_max = GRPC_STATUS_MESSAGE_SIZE_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(size_max) {
        size_max -= 1;
    }
    let mut encoded = String::with_capacity(size_max);
    for &byte in &text.as_bytes()[..size_max] {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_percent_encoded_where_a_header_could_not_hold_it() {
        assert_eq!(percent_encoded("field `key` is empty"), "field `key` is empty");
        assert_eq!(percent_encoded("100 %\r\nü"), "100 %25%0D%0A%C3%BC");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = "ü".repeat(GRPC_STATUS_MESSAGE_SIZE_BYTES_MAX);
        let encoded = percent_encoded(&text);
        assert_eq!(encoded, "%C3%BC".repeat(GRPC_STATUS_MESSAGE_SIZE_BYTES_MAX / 2));
        let text = format!("x{text}");
        assert!(percent_encoded(&text).ends_with("%BC"));
    }

    #[test]
    fn status_of_another_server_is_read_as_it_was_meant() {
        let status = GrpcStatus::new(GrpcCode::NotFound, "100 %\r\nü");
        assert_eq!(told(&status.trailers()).as_deref(), Some("status 5: 100 %\r\nü"));
        assert_eq!(told(&GrpcStatus::OK.trailers()).as_deref(), Some("status 0: "));
        assert_eq!(told(&HeaderMap::new()), None);
        for text in ["%", "a%2", "%zz"] {
            assert_eq!(percent_decoded(&HeaderValue::from_static(text)), text);
        }
    }

    #[test]
    fn trailers_carry_code_and_message() {
        let trailers = GrpcStatus::new(GrpcCode::NotFound, "no such service").trailers();
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(trailers["grpc-message"], "no such service");
        assert!(!GrpcStatus::OK.trailers().contains_key("grpc-message"));
    }
}
