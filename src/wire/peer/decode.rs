//! A member's frames as messages that can't be wrong any more.
//!
//! [`decode_hot`] reads stamped commands and the responses to them without prost; [`decode_cold`]
//! reads the rest through it, after a look at how much it would make of it, and finds the words for
//! what is wrong. Values are slices of the payload.

mod checks;
mod cold;
mod hot;
mod logs;
mod scan;

use bytes::Bytes;
use prost::Message as _;

use crate::base::cast;
use crate::base::ids::{MemberId, PartitionId};
use crate::base::limits::{FRAME_PREFIX_SIZE_BYTES, FRAME_SENT_SIZE_BYTES_MAX};
use crate::nopaxos::Group;
use crate::proto::atomix::map::Message as ProtoMessage;
use crate::proto::atomix::primitive::Name;
use crate::wire::peer::Received;
use crate::wire::peer::decode::checks::Context;
use crate::wire::peer::error::PeerError;
use crate::wire::target;

/// A connection to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The member at the other end, as its `Hello` proved.
    pub peer: &'a str,
}

/// Decodes what came from a member. `group_of` knows the partitions that this node holds.
///
/// # Errors
/// If it must not be taken; [`PeerError::verdict`] says what to do.
pub fn decode<'g>(
    payload: &Bytes,
    link: Link<'_>,
    group_of: impl Fn(PartitionId) -> Option<&'g Group>,
) -> Result<Received, PeerError> {
    match decode_hot(payload, link, &group_of) {
        Some(received) => Ok(received),
        None => decode_cold(payload, link, &group_of),
    }
}

/// Decodes a stamped command, or a response to one, in the usual encoding: each field at most once,
/// none unknown. `None` says nothing about the message: [`decode_cold`] decides.
#[inline]
#[must_use]
pub fn decode_hot<'g>(
    payload: &Bytes,
    link: Link<'_>,
    group_of: impl Fn(PartitionId) -> Option<&'g Group>,
) -> Option<Received> {
    hot::decode(payload, link, group_of)
}

/// Decodes whatever [`decode_hot`] doesn't, and what it does as well.
///
/// # Errors
/// As [`decode`].
pub fn decode_cold<'g>(
    payload: &Bytes,
    link: Link<'_>,
    group_of: impl Fn(PartitionId) -> Option<&'g Group>,
) -> Result<Received, PeerError> {
    let size_bytes = FRAME_PREFIX_SIZE_BYTES + payload.len();
    if size_bytes > FRAME_SENT_SIZE_BYTES_MAX {
        return Err(PeerError::TooLong { size_bytes });
    }
    scan::check(payload)?;
    let decoded = ProtoMessage::decode(payload.clone());
    let ProtoMessage { target, message } =
        decoded.map_err(|error| PeerError::Undecodable { error })?;
    let message = message.ok_or(PeerError::KindUnknown)?;
    let group = target_group(&target.unwrap_or_default(), link.cluster, group_of);
    let group = group.ok_or(PeerError::TargetUnknown)?;
    let sender = other_member(group, link.peer).ok_or(PeerError::TargetUnknown)?;
    let context = Context { link, group, sender };
    let body = cold::body(&context, message)?;
    Ok(Received { partition: group.partition(), sender, body })
}

/// The group that a target is about.
fn target_group<'g>(
    target: &Name,
    cluster: &str,
    group_of: impl Fn(PartitionId) -> Option<&'g Group>,
) -> Option<&'g Group> {
    let Name { name, namespace } = target;
    let is_ours = namespace.is_empty() || namespace == cluster;
    let partition = is_ours.then(|| partition_of(name.as_bytes())).flatten()?;
    group_of(partition)
}

/// The partition that a target between members names: `#7`.
#[inline]
fn partition_of(name: &[u8]) -> Option<PartitionId> {
    // A map's name before the `#` is for clients; here it would be another one than "".
    target::partition(name, "").ok().flatten()
}

/// The member of this name, unless it is oneself: nobody talks to itself over a connection.
#[inline]
fn other_member(group: &Group, name: &str) -> Option<MemberId> {
    member(group, name).filter(|member| *member != group.me())
}

/// The member of this name.
#[inline]
fn member(group: &Group, name: &str) -> Option<MemberId> {
    let count = u8::try_from(cast::u64_from(group.count())).ok()?;
    (0..count).map(MemberId).find(|member| group.name(*member) == name)
}

#[cfg(test)]
mod tests;
