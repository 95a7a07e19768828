//! A client's request, parsed: it cannot be wrong any more.

use crate::base::ids::{CorrelationId, PartitionId};
use crate::map::operation::{Command, Query};
use crate::proto::p2pmap::v1::error::Code;

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What the response repeats.
    pub correlation: CorrelationId,
    /// The partition that `target` names, if it names one: `orders#7` or `#7`. Not yet checked
    /// against the number of partitions.
    pub partition: Option<PartitionId>,
    /// What is wanted.
    pub body: Body<'a>,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A write.
    Command {
        /// The encoded command, as it goes into the log.
        bytes: &'a [u8],
        /// The same, parsed.
        command: Command<'a>,
    },
    /// A read.
    Query(Query<'a>),
}

/// Which of the two a request is: the response is of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answered by a `CommandResponse`.
    Command,
    /// Answered by a `QueryResponse`.
    Query,
}

/// A request that was understood and is refused: it is answered, and its stream goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the response repeats.
    pub correlation: CorrelationId,
    /// What kind of response it wants.
    pub kind: Kind,
    /// For programs.
    pub code: Code,
    /// For people: names the field.
    pub message: String,
}
