//! A pass of frames: decoded, routed, and handed to the shard or forwarded to the one that owns
//! the partition.

use bytes::Bytes;

use super::{MeshMessage, ShardHost};
use crate::base::ids::{Origin, ShardId};
use crate::base::limits::VALUE_SIZE_BYTES_DEFAULT;
use crate::base::time::Now;
use crate::proto::p2pmap::v1::error::Code;
use crate::shard::{Effects as _, RoutedRequest};
use crate::sim::checker::{Checker, Violation};
use crate::wire::error::WireError;
use crate::wire::request::{
    Acceptance, ColdRequest, Kind, Refusal, Request, decode_cold, decode_hot,
};
use crate::wire::response;
use crate::wire::route::Route;

/// A frame: a request that borrows from it, or what else became of it.
enum Parsed<'a> {
    Request(Request<'a>),
    Cold(ColdRequest),
    Failed(WireError),
}

impl ShardHost {
    /// Handles up to a pass of frames.
    pub(super) fn pass(&mut self, now: Now, frames: &[(Origin, Bytes)]) {
        let cluster = self.cluster.clone();
        let acceptance =
            Acceptance { cluster: &cluster, value_size_bytes_max: VALUE_SIZE_BYTES_DEFAULT };
        let parse = |payload| match decode_hot(payload, acceptance) {
            Some(request) => Parsed::Request(request),
            None => decode_cold(payload).map_or_else(Parsed::Failed, Parsed::Cold),
        };
        let parsed: Vec<Parsed<'_>> = frames.iter().map(|(_, payload)| parse(payload)).collect();
        let mut requests: Vec<RoutedRequest<'_>> = Vec::new();
        for ((origin, payload), parsed) in frames.iter().zip(&parsed) {
            let request = match parsed {
                Parsed::Request(request) => Ok(*request),
                Parsed::Cold(cold) => cold.request(acceptance),
                Parsed::Failed(error) => {
                    self.output.finish(*origin);
                    let what = format!("a client's message was not understood: {error}");
                    self.violation = Some(Violation::new(Checker::Sense, what));
                    continue;
                }
            };
            match self.routed(*origin, request) {
                Ok((request, route)) => match self.elsewhere(*origin, route) {
                    None => requests.push(RoutedRequest { origin: *origin, route, request }),
                    Some(to) => {
                        // What was asked of all shards before must be on its way before it.
                        if requests.iter().any(|before| before.route == Route::All) {
                            self.shard.handle_batch(now, &requests, &mut self.output);
                            requests.clear();
                        }
                        let (origin, payload) = (*origin, payload.clone());
                        self.output.messages.push((to, MeshMessage::Forward { origin, payload }));
                    }
                },
                Err(refusal) => self.refuse(*origin, &refusal),
            }
        }
        if !requests.is_empty() {
            self.shard.handle_batch(now, &requests, &mut self.output);
        }
    }

    fn routed<'a>(
        &self,
        origin: Origin,
        request: Result<Request<'a>, Refusal>,
    ) -> Result<(Request<'a>, Route), Refusal> {
        let request = request?;
        let route = self.router.route(&request)?;
        let is_own_write = request.kind() == Kind::Command && origin.home == self.me;
        if is_own_write && self.is_closing {
            return Err(request.refusal(Code::Unavailable, "the node is going down".to_owned()));
        }
        Ok((request, route))
    }

    /// The shard to which a request of one of this shard's clients goes; `None`: this one.
    fn elsewhere(&self, origin: Origin, route: Route) -> Option<ShardId> {
        let Route::Partition(partition) = route else { return None };
        let is_here = origin.home != self.me || self.own.contains(&partition.0);
        (!is_here).then(|| self.shards.owner(partition))
    }

    fn refuse(&mut self, origin: Origin, refusal: &Refusal) {
        if let Some(buffer) = self.output.reply_buffer(origin, true) {
            response::encode_refusal(buffer, &self.prefix, refusal);
        }
    }
}
