//! The limit on open files: a connection is one. Shells and service managers commonly set the
//! soft limit to 1,024 and leave the hard one high for whoever asks; a node asks.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::base::cast;
use crate::base::limits::CONNECTION_COUNT_MAX;

/// Files of a node that are no connections: the log, rings, eventfds, the standard streams.
const OTHER_FILE_COUNT: u64 = 256;

/// The limit after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit that applied at the start; none: unlimited.
    pub soft_before: Option<u64>,
    /// The limit that applies now; none: unlimited.
    pub soft: Option<u64>,
}

impl OpenFiles {
    /// How many connections the limit leaves room for, if fewer than a node would take.
    #[must_use]
    pub fn connection_count_short(&self) -> Option<u64> {
        let room = self.soft?.saturating_sub(OTHER_FILE_COUNT);
        (room < cast::u64_from(CONNECTION_COUNT_MAX)).then_some(room)
    }
}

/// Raises the soft limit to the hard one.
///
/// # Errors
/// If the kernel refuses what it allows by its own account.
pub fn raise() -> io::Result<OpenFiles> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)?;
    Ok(OpenFiles { soft_before: limit.current, soft: getrlimit(Resource::Nofile).current })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_becomes_the_hard_one() {
        let raised = raise().unwrap();
        assert_eq!(raised.soft, getrlimit(Resource::Nofile).maximum);
    }

    #[test]
    fn shortage_is_stated_in_connections() {
        let with = |soft| OpenFiles { soft_before: Some(1_024), soft };
        assert_eq!(with(None).connection_count_short(), None);
        assert_eq!(with(Some(1_048_576)).connection_count_short(), None);
        assert_eq!(with(Some(4_096)).connection_count_short(), Some(3_840));
        assert_eq!(with(Some(64)).connection_count_short(), Some(0));
    }
}
