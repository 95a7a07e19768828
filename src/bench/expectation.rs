//! What answers may say, given what was answered before.
//!
//! Versions order the writes of a key: they are unique and grow. So a request that is sent after an
//! answer has told of version v must not be answered from a state before v: a read that says less
//! is *stale*, and so is one that finds nothing, because the load never removes. It doesn't matter
//! who wrote v, nor how many writers there are. Beyond that, a value must be one that was written
//! (its checksum holds), for that key, with a number that its writer has given out, and one version
//! is never seen with two values. Each generator checks against the answers that it has had itself:
//! what others were told before is not known to it, so nothing is called stale that isn't.

use std::fmt;

use super::content::Content;
use crate::base::cast::{low_u32, usize_from};

/// What is known of a key: the greatest version that was answered, and a digest of the write that
/// it belongs to, if that was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    version: u64,
    digest: u32,
}

/// What an answer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It reflects a state that was over when the request was sent.
    Stale {
        /// The key's number.
        key: u64,
        /// What was known to be there.
        known: u64,
        /// What was found; 0: nothing.
        found: u64,
    },
    /// The value isn't one that was written to the key.
    Wrong {
        /// The key's number.
        key: u64,
        /// The version that came with it.
        version: u64,
        /// What is wrong.
        why: Wrong,
    },
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Its checksum doesn't hold.
    Broken,
    /// It is another key's.
    OtherKey,
    /// Its writer has not written it.
    NotWritten,
    /// Its version was seen with another value.
    TwoValues,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { key, known, found: 0 } => {
                write!(f, "key {key}: nothing was found, though version {known} was known before")
            }
            Self::Stale { key, known, found } => {
                write!(f, "key {key}: version {found}, though version {known} was known before")
            }
            Self::Wrong { key, version, why } => {
                let why = match why {
                    Wrong::Broken => "is not as it was written",
                    Wrong::OtherKey => "is another key's",
                    Wrong::NotWritten => "was never written by the one that it names",
                    Wrong::TwoValues => "is not the one that this version had before",
                };
                write!(f, "key {key}: the value of version {version} {why}")
            }
        }
    }
}

/// What one generator knows of the map.
#[derive(Clone, Debug)]
pub struct Expectation {
    known: Vec<Known>,
    /// What the number of a key in its name is above its place here.
    key_first: u64,
    writer: u32,
    /// Writes given out so far.
    sequence: u64,
}

impl Expectation {
    /// Knows nothing yet of the keys 0 up to `key_count`, whose names count from `key_first` on.
    #[must_use]
    pub fn new(key_count: u64, key_first: u64, writer: u32) -> Self {
        let known = vec![Known::default(); usize_from(key_count)];
        Self { known, key_first, writer, sequence: 0 }
    }

    /// What the next write of a key says of itself.
    pub fn next_write(&mut self, key: u64) -> Content {
        self.sequence += 1;
        Content { key: self.key_first + key, writer: self.writer, sequence: self.sequence }
    }

    /// The version that an answer to a request sent now must reflect; 0: none.
    #[must_use]
    pub fn floor(&self, key: u64) -> u64 {
        self.known.get(usize_from(key)).map_or(0, |known| known.version)
    }

    /// A write was answered with its version.
    ///
    /// # Errors
    /// If that can't be.
    pub fn on_written(
        &mut self,
        content: Content,
        floor: u64,
        version: u64,
    ) -> Result<(), Violation> {
        let key = content.key - self.key_first;
        if version <= floor {
            return Err(Violation::Stale { key, known: floor, found: version });
        }
        self.learn(key, version, digest(&content))
    }

    /// A read found a value.
    ///
    /// # Errors
    /// If that can't be.
    pub fn on_found(
        &mut self,
        key: u64,
        floor: u64,
        version: u64,
        value: &[u8],
    ) -> Result<(), Violation> {
        if version < floor {
            return Err(Violation::Stale { key, known: floor, found: version });
        }
        let content = self.read(key, version, value)?;
        self.learn(key, version, digest(&content))
    }

    /// A read found a value without its version: it may be an old one, but not a wrong one.
    ///
    /// # Errors
    /// If that can't be.
    pub fn on_value(&self, key: u64, value: &[u8]) -> Result<(), Violation> {
        self.read(key, 0, value).map(|_| ())
    }

    fn read(&self, key: u64, version: u64, value: &[u8]) -> Result<Content, Violation> {
        let wrong = |why| Err(Violation::Wrong { key, version, why });
        let Some(content) = Content::read(value) else { return wrong(Wrong::Broken) };
        if content.key != self.key_first + key {
            return wrong(Wrong::OtherKey);
        }
        if content.writer == self.writer && content.sequence > self.sequence {
            return wrong(Wrong::NotWritten);
        }
        Ok(content)
    }

    /// A read found nothing.
    ///
    /// # Errors
    /// If there was something.
    pub fn on_absent(&self, key: u64, floor: u64) -> Result<(), Violation> {
        if floor == 0 { Ok(()) } else { Err(Violation::Stale { key, known: floor, found: 0 }) }
    }

    fn learn(&mut self, key: u64, version: u64, digest: u32) -> Result<(), Violation> {
        let place = usize_from(key);
        if place >= self.known.len() {
            self.known.resize(place + 1, Known::default());
        }
        let known = &mut self.known[place];
        if version == known.version && digest != known.digest {
            return Err(Violation::Wrong { key, version, why: Wrong::TwoValues });
        }
        if version > known.version {
            *known = Known { version, digest };
        }
        Ok(())
    }
}

/// 32 bits of a write's identity.
fn digest(content: &Content) -> u32 {
    let mixed =
        (content.sequence ^ (u64::from(content.writer) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    low_u32(mixed >> 32)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn value(content: Content) -> BytesMut {
        let mut value = BytesMut::new();
        content.put(40, &mut value);
        value
    }

    #[test]
    fn read_that_knows_less_than_an_answer_before_it_is_stale() {
        let mut expectation = Expectation::new(10, 0, 1);
        let (old, new) = (expectation.next_write(3), expectation.next_write(3));
        assert_eq!(expectation.on_written(old, 0, 5), Ok(()));
        let floor = expectation.floor(3);
        assert_eq!(floor, 5);
        assert_eq!(expectation.on_written(new, floor, 9), Ok(()));
        // Sent before the second write was answered: both are right.
        assert_eq!(expectation.on_found(3, floor, 5, &value(old)), Ok(()));
        assert_eq!(expectation.on_found(3, floor, 9, &value(new)), Ok(()));
        let stale = Violation::Stale { key: 3, known: 9, found: 5 };
        assert_eq!(expectation.on_found(3, expectation.floor(3), 5, &value(old)), Err(stale));
        let lost = Violation::Stale { key: 3, known: 9, found: 0 };
        assert_eq!(expectation.on_absent(3, expectation.floor(3)), Err(lost));
        assert_eq!(expectation.on_absent(4, expectation.floor(4)), Ok(()));
    }

    #[test]
    fn version_that_another_writer_made_binds_later_reads_too() {
        let mut expectation = Expectation::new(10, 0, 1);
        let theirs = Content { key: 2, writer: 77, sequence: 900 };
        assert_eq!(expectation.on_found(2, 0, 12, &value(theirs)), Ok(()));
        assert_eq!(expectation.floor(2), 12);
        let own = expectation.next_write(2);
        let stale = Violation::Stale { key: 2, known: 12, found: 11 };
        assert_eq!(expectation.on_written(own, 12, 11), Err(stale));
        // A write takes a version of its own.
        assert!(expectation.on_written(own, 12, 12).is_err());
        assert_eq!(expectation.on_written(own, 12, 13), Ok(()));
    }

    #[test]
    fn value_of_another_key_or_of_nobody_is_wrong() {
        let mut expectation = Expectation::new(10, 0, 1);
        let wrong = |why| Err(Violation::Wrong { key: 2, version: 4, why });
        let other = value(expectation.next_write(1));
        assert_eq!(expectation.on_found(2, 0, 4, &other), wrong(Wrong::OtherKey));
        let unwritten = value(Content { key: 2, writer: 1, sequence: 2 });
        assert_eq!(expectation.on_found(2, 0, 4, &unwritten), wrong(Wrong::NotWritten));
        assert_eq!(expectation.on_found(2, 0, 4, b"anything"), wrong(Wrong::Broken));
        let (one, two) = (expectation.next_write(2), expectation.next_write(2));
        assert_eq!(expectation.on_found(2, 0, 4, &value(one)), Ok(()));
        assert_eq!(expectation.on_found(2, 0, 4, &value(two)), wrong(Wrong::TwoValues));
        assert_eq!(expectation.on_found(2, 0, 4, &value(one)), Ok(()));
    }

    #[test]
    fn runs_that_count_their_keys_from_elsewhere_understand_each_other() {
        let mut one = Expectation::new(10, 0, 1);
        let mut other = Expectation::new(10, 5, 2);
        let written = value(one.next_write(7));
        assert_eq!(other.on_found(2, 0, 3, &written), Ok(()));
        let wrong = Violation::Wrong { key: 7, version: 3, why: Wrong::OtherKey };
        assert_eq!(other.on_found(7, 0, 3, &written), Err(wrong));
        let own = other.next_write(2);
        assert_eq!((own.key, other.on_written(own, 3, 4)), (7, Ok(())));
    }

    #[test]
    fn keys_beyond_the_first_ones_are_learnt_as_they_come() {
        let mut expectation = Expectation::new(1, 0, 1);
        assert_eq!(expectation.floor(500), 0);
        let write = expectation.next_write(500);
        assert_eq!(expectation.on_written(write, 0, 3), Ok(()));
        assert_eq!((expectation.floor(500), expectation.floor(499)), (3, 0));
    }
}
