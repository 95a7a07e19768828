//! The last frame of a raw connection that we refuse to read on: what gRPC would say in a status.

use bytes::BytesMut;
use prost::Message as _;

use super::service::WireStatus;
use crate::proto::atomix::map::{CommandResponse, Message, message};
use crate::proto::p2pmap::v1::{Error, Result as Outcome, result};
use crate::wire::frame::{self, Flag};

/// Appends a frame with an error `Result` whose `message_id` is 0: no request's.
pub fn append(status: &WireStatus, output: &mut BytesMut) {
    let error = Error {
        code: status.code.code().into(),
        message: status.message.clone(),
        ..Error::default()
    };
    let outcome = Outcome { outcome: Some(result::Outcome::Error(error)) };
    let response =
        CommandResponse { value: outcome.encode_to_vec().into(), ..CommandResponse::default() };
    let message =
        Message { target: None, message: Some(message::Message::CommandResponse(response)) };
    frame::encode(output, Flag::Message, &message);
}

/// What such a frame's payload says; `None`: it isn't one.
#[must_use]
pub fn text(payload: &[u8]) -> Option<String> {
    let message = Message::decode(payload).ok()?;
    let Some(message::Message::CommandResponse(response)) = message.message else { return None };
    let outcome = Outcome::decode(response.value).ok()?;
    match outcome.outcome {
        Some(result::Outcome::Error(error)) => Some(error.message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::p2pmap::v1::error::Code;
    use crate::wire::error::StatusCode;

    #[test]
    fn refusal_is_a_frame_with_an_error_and_no_correlation_id() {
        let mut output = BytesMut::new();
        let status = WireStatus { code: StatusCode::ResourceExhausted, message: "too long".into() };
        append(&status, &mut output);
        assert_eq!(output[0], 0);
        assert_eq!(text(&output[5..]).as_deref(), Some("too long"));
        assert_eq!(text(b"nonsense"), None);
        let message = Message::decode(&output[5..]).expect("a message");
        let Some(message::Message::CommandResponse(response)) = message.message else {
            panic!("a command response was expected")
        };
        assert_eq!(response.message_id, 0);
        let outcome = Outcome::decode(response.value).expect("a result");
        let Some(result::Outcome::Error(error)) = outcome.outcome else { panic!("an error") };
        assert_eq!((error.code(), error.message.as_str()), (Code::ResourceExhausted, "too long"));
    }
}
