//! The answers of `grpc.health.v1.Health`. The node as a whole is known by the empty name.

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::status::{GrpcCode, GrpcStatus};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::wire::frame::{self, Flag};

const SERVICES: [&str; 2] = ["", "atomix.map.P2PMapService"];

/// Answers `Check`.
pub(super) fn check(payload: Bytes, serving: bool, replies: &mut BytesMut) -> GrpcStatus {
    match names_known_service(payload) {
        Ok(true) => {
            append_response(replies, status(serving));
            GrpcStatus::OK
        }
        Ok(false) => GrpcStatus::new(GrpcCode::NotFound, "there is no such service"),
        Err(status) => status,
    }
}

/// A stream of `Watch`, once it has said what it watches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    knows_service: bool,
    /// What the client has been told last.
    told: Option<ServingStatus>,
}

impl Watch {
    pub(super) fn begin(payload: Bytes) -> Result<Self, GrpcStatus> {
        Ok(Self { knows_service: names_known_service(payload)?, told: None })
    }

    /// Tells the client when there is news, but not before it has read the last: changes between
    /// may be skipped, and a client that doesn't read costs nothing. Returns whether it knows all.
    pub(super) fn tell(&mut self, serving: bool, replies: &mut BytesMut) -> bool {
        let status =
            if self.knows_service { status(serving) } else { ServingStatus::ServiceUnknown };
        if self.told == Some(status) {
            return true;
        }
        if replies.is_empty() {
            append_response(replies, status);
            self.told = Some(status);
        }
        self.told == Some(status)
    }
}

fn names_known_service(payload: Bytes) -> Result<bool, GrpcStatus> {
    match HealthCheckRequest::decode(payload) {
        Ok(request) => Ok(SERVICES.contains(&request.service.as_str())),
        Err(error) => {
            Err(GrpcStatus::new(GrpcCode::Internal, format!("no HealthCheckRequest: {error}")))
        }
    }
}

const fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn append_response(replies: &mut BytesMut, status: ServingStatus) {
    let response = HealthCheckResponse { status: status.into() };
    frame::encode(replies, Flag::Message, &response);
}
