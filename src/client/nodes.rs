//! The members of a cluster as a client sees them: one of them is talked to, and when it doesn't
//! answer, or can't, another one.
//!
//! Any member takes any request, so which one it is matters only while some are gone. A member that
//! says who leads (a hint) is believed if that one is among those that the client was told.

use std::time::{Duration, Instant};

use super::Client;
use super::error::{ClientError, Phase};
use super::waiting::{now, wait};
use crate::proto::p2pmap::v1::Error;
use crate::proto::p2pmap::v1::error::Code;

/// How long to wait before the first repetition; each later one waits half as long again.
const RETRY_AFTER: Duration = Duration::from_millis(10);
/// The same at most.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(100);
/// However many members there are, an attempt has so long, if there is so much time at all.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);

/// Some members, to one of which there is a connection while all is well.
#[derive(Debug)]
pub(super) struct Nodes {
    addresses: Vec<String>,
    /// Which of them is talked to.
    place: usize,
    client: Option<Client>,
}

/// When a request is given up that is made again and again.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Instant,
    pause: Duration,
}

/// What an error says of the request that ended with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// It was certainly not executed.
    None,
    /// It may have been executed.
    Unknown,
}

impl Nodes {
    /// Those that listen at `addresses`, hosts and ports.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn new(addresses: Vec<String>) -> Self {
        assert!(!addresses.is_empty(), "a client talks to somebody");
        Self { addresses, place: 0, client: None }
    }

    /// Where the one listens that is talked to.
    pub(super) fn address(&self) -> &str {
        &self.addresses[self.place]
    }

    /// Whether there is another one to go on with.
    pub(super) fn are_several(&self) -> bool {
        self.addresses.len() > 1
    }

    /// How long one attempt may take of all the time that there is: with several members so long
    /// that each of them can be tried.
    pub(super) fn share_of(&self, whole: Duration) -> Duration {
        match u32::try_from(self.addresses.len()) {
            Ok(count @ 2..) => (whole / count).max(ATTEMPT_MIN.min(whole)),
            _ => whole,
        }
    }

    /// How long the first attempt may take of something that can be made again safely, if each one
    /// may take `share`: with several members no longer than it takes to be found out that one of
    /// them is gone. Whoever finds that too short doubles it.
    pub(super) fn first_of(&self, share: Duration) -> Duration {
        if self.are_several() { share.min(ATTEMPT_MIN) } else { share }
    }

    /// The connection, which is made within `timeout` if there is none.
    pub(super) fn client(&mut self, timeout: Duration) -> Result<&mut Client, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(self.address(), timeout)?,
        };
        Ok(self.client.insert(client))
    }

    /// After an error: goes on with another member, unless this one can't help it.
    pub(super) fn leave(&mut self, error: &ClientError) {
        match error {
            ClientError::Refused(refused) => {
                // The connection is as good as before, but somebody else may know more.
                if refused.code() == Code::Unavailable && self.are_several() {
                    self.client = None;
                    self.place = self.hinted(refused).unwrap_or(self.next());
                }
            }
            ClientError::TooLong { .. } => {}
            _ => {
                self.client = None;
                self.place = self.next();
            }
        }
    }

    fn next(&self) -> usize {
        (self.place + 1) % self.addresses.len()
    }

    /// Who leads, as an error says, if it is another member that is known.
    fn hinted(&self, error: &Error) -> Option<usize> {
        let hint = error.hint.as_ref()?;
        let place = self.addresses.iter().position(|address| *address == hint.address);
        place.filter(|place| *place != self.place)
    }
}

impl Deadline {
    pub(super) fn after(patience: Duration) -> Self {
        Self { at: now() + patience, pause: RETRY_AFTER }
    }

    /// How much time is left.
    pub(super) fn left(&self) -> Duration {
        self.at.saturating_duration_since(now())
    }

    /// Waits a little before the next attempt. False: there is no time for one.
    pub(super) fn pause(&mut self) -> bool {
        if self.left() < self.pause {
            return false;
        }
        wait(self.pause);
        self.pause = (self.pause * 3 / 2).min(RETRY_AFTER_MAX);
        true
    }
}

/// What an error says of the request.
pub(super) fn trace_of(error: &ClientError) -> Trace {
    match error {
        ClientError::Address { .. }
        | ClientError::Unreachable { .. }
        | ClientError::TimedOut { phase: Phase::Connecting, .. }
        | ClientError::TooLong { .. } => Trace::None,
        ClientError::Refused(error) if error.code() != Code::OutcomeUnknown => Trace::None,
        _ => Trace::Unknown,
    }
}

/// Whether the same request may have another answer.
pub(super) fn is_worth_repeating(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::TimedOut { .. }
        | ClientError::Broken { .. }
        | ClientError::Closed { .. } => true,
        ClientError::Refused(error) => {
            matches!(error.code(), Code::Unavailable | Code::OutcomeUnknown | Code::SessionExpired)
        }
        ClientError::Ended { error, .. } => error.code() == Code::Unavailable,
        ClientError::Address { .. }
        | ClientError::Violation { .. }
        | ClientError::TooLong { .. }
        | ClientError::OutcomeUnknown { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::p2pmap::v1::Hint;

    fn nodes(addresses: &[&str]) -> Nodes {
        Nodes::new(addresses.iter().map(|address| (*address).to_owned()).collect())
    }

    fn refused(code: Code, hint: Option<&str>) -> ClientError {
        let hint = hint.map(|address| Hint { address: address.to_owned(), ..Hint::default() });
        let error = Error { code: code.into(), hint, ..Error::default() };
        ClientError::Refused(Box::new(error))
    }

    #[test]
    fn hint_is_followed_to_members_that_are_known() {
        let mut nodes = nodes(&["a:1", "b:1", "c:1"]);
        nodes.leave(&refused(Code::Unavailable, Some("c:1")));
        assert_eq!(nodes.place, 2);
        // To itself or to somebody unknown it leads nowhere: the next one is asked.
        nodes.leave(&refused(Code::Unavailable, Some("c:1")));
        assert_eq!(nodes.place, 0);
        nodes.leave(&refused(Code::Unavailable, Some("d:1")));
        assert_eq!(nodes.place, 1);
        nodes.leave(&refused(Code::Unavailable, None));
        assert_eq!(nodes.place, 2);
    }

    #[test]
    fn member_that_has_answered_is_not_left_for_another_one() {
        let mut nodes = nodes(&["a:1", "b:1"]);
        for error in [
            refused(Code::ConditionFailed, None),
            refused(Code::OutcomeUnknown, None),
            refused(Code::ResourceExhausted, Some("b:1")),
            ClientError::TooLong { size_bytes: 1 },
        ] {
            nodes.leave(&error);
            assert_eq!(nodes.place, 0, "{error}");
        }
        nodes.leave(&ClientError::Closed { node: "a:1".to_owned() });
        assert_eq!(nodes.place, 1);
    }

    #[test]
    fn attempts_share_the_time_that_there_is() {
        let second = Duration::from_secs(1);
        assert_eq!(nodes(&["a:1"]).share_of(second), second);
        assert_eq!(nodes(&["a:1", "b:1"]).share_of(second), second / 2);
        let nodes = nodes(&["a:1", "b:1", "c:1", "d:1", "e:1", "f:1"]);
        assert_eq!(nodes.share_of(second), ATTEMPT_MIN);
        assert_eq!(nodes.share_of(ATTEMPT_MIN / 2), ATTEMPT_MIN / 2);
    }

    #[test]
    fn first_attempt_is_short_only_where_another_member_can_be_asked() {
        let second = Duration::from_secs(1);
        assert_eq!(nodes(&["a:1"]).first_of(second), second);
        let nodes = nodes(&["a:1", "b:1"]);
        assert_eq!(nodes.first_of(second), ATTEMPT_MIN);
        assert_eq!(nodes.first_of(ATTEMPT_MIN / 2), ATTEMPT_MIN / 2);
    }

    #[test]
    fn only_what_was_not_sent_or_was_refused_has_certainly_left_no_trace() {
        let node = || "a:1".to_owned();
        let timed_out = |phase| ClientError::TimedOut { node: node(), phase, after: RETRY_AFTER };
        for error in [
            timed_out(Phase::Connecting),
            refused(Code::Unavailable, None),
            refused(Code::SessionExpired, None),
            ClientError::TooLong { size_bytes: 1 },
        ] {
            assert_eq!(trace_of(&error), Trace::None, "{error}");
        }
        for error in [
            timed_out(Phase::Answer),
            timed_out(Phase::Sending),
            refused(Code::OutcomeUnknown, None),
            ClientError::Closed { node: node() },
            ClientError::Broken { node: node(), source: std::io::ErrorKind::BrokenPipe.into() },
        ] {
            assert_eq!(trace_of(&error), Trace::Unknown, "{error}");
        }
    }
}
