//! What connections hold back: the beginning of a frame whose end hasn't come, and frames for which
//! there is no room yet.
//!
//! A connection that holds much is read on many times, for a few of its frames each time. The rest
//! stays where it lies: it is cut off what the pass was given, and joined again with frames that
//! come back. Only when more lies unused before it than it is long is it copied, so that all
//! copying together is no more than what was held, and no memory is kept for long.

use bytes::BytesMut;

use super::connections::Connections;
use super::uring::Key;
use crate::base::limits::HELD_SIZE_BYTES_MAX;

impl Connections {
    /// Keeps bytes of a connection until they can be handed over, after those that it holds; false
    /// if all connections together hold too many already.
    pub fn hold(&mut self, key: Key, bytes: &[u8]) -> bool {
        if self.held_size + bytes.len() > HELD_SIZE_BYTES_MAX {
            return false;
        }
        let connection = self.of(key);
        if connection.held.is_empty() {
            connection.held_skipped_size = 0;
        }
        connection.held.extend_from_slice(bytes);
        self.recount_held(key);
        true
    }

    /// Takes out what a connection holds.
    pub fn take_held(&mut self, key: Key) -> BytesMut {
        let held = std::mem::take(&mut self.of(key).held);
        self.recount_held(key);
        held
    }

    /// Keeps what is left of what was taken out, but for its first `used` bytes, before what the
    /// connection holds by now. False as of [`Connections::hold`].
    pub(super) fn hold_again(&mut self, key: Key, mut rest: BytesMut, used: usize) -> bool {
        if self.held_size + rest.len() > HELD_SIZE_BYTES_MAX {
            return false;
        }
        let connection = self.of(key);
        connection.held_skipped_size = match connection.held.is_empty() {
            true => connection.held_skipped_size + used,
            false => connection.held_skipped_size.saturating_sub(rest.len()),
        };
        // In place, if the one was cut off the other.
        rest.unsplit(std::mem::take(&mut connection.held));
        if connection.held_skipped_size > rest.len() {
            rest = BytesMut::from(&rest[..]);
            connection.held_skipped_size = 0;
        }
        connection.held = rest;
        self.recount_held(key);
        true
    }

    /// Keeps the shard's count of held bytes true.
    pub(super) fn recount_held(&mut self, key: Key) {
        let connection = self.of(key);
        let held = connection.held_size();
        let counted = std::mem::replace(&mut connection.counted_held_size, held);
        self.held_size = self.held_size - counted + held;
    }

    pub(super) fn release_held(&mut self, key: Key) {
        self.of(key).given_back.clear();
        drop(self.take_held(key));
    }
}
