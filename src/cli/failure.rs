//! Why a command failed, for the person who typed it: what, where, and what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

use crate::base::io_error::describe;
use crate::client::error::{ClientError, Phase};
use crate::node::config::error::ConfigError;
use crate::proto::p2pmap::v1::error::Code;
use crate::runtime::fatal::Fatal;

/// The exit code of a command that failed without a reason that whoever restarts it must know.
const EXIT_FAILURE: u8 = 2;

/// A command's failure: the lines that go to stderr, and the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    lines: Vec<String>,
    reader_gone: bool,
    exit_code: u8,
}

impl Failure {
    /// A failure in one line.
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self { lines: vec![line.into()], reader_gone: false, exit_code: EXIT_FAILURE }
    }

    /// A file can't be read.
    pub(super) fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(format!("cannot read {}: {}", path.display(), describe(error)))
    }

    /// Standard input can't be read.
    pub(super) fn stdin(error: &io::Error) -> Self {
        Self::new(format!("cannot read standard input: {}", describe(error)))
    }

    /// Standard output can't be written. That its reader went away is how pipelines end.
    pub(super) fn stdout(error: &io::Error) -> Self {
        let reader_gone = error.kind() == io::ErrorKind::BrokenPipe;
        let line = format!("cannot write standard output: {}", describe(error));
        Self { reader_gone, ..Self::new(line) }
    }

    /// What the process exits with.
    pub(super) fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Whether all that went wrong is that nobody reads the output any more.
    pub(super) fn is_reader_gone(&self) -> bool {
        self.reader_gone
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "p2pmap: {line}")?;
        }
        Ok(())
    }
}

impl From<Vec<ConfigError>> for Failure {
    fn from(errors: Vec<ConfigError>) -> Self {
        let lines = errors.iter().map(ToString::to_string).collect();
        Self { lines, reader_gone: false, exit_code: EXIT_FAILURE }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match advice(&error) {
            Some(advice) => Self::new(format!("{error}; {advice}")),
            None => Self::new(error.to_string()),
        }
    }
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self { exit_code: fatal.reason.exit_code(), ..Self::new(fatal.to_string()) }
    }
}

fn advice(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Unreachable { source, .. }
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            Some("is the node running? start one with 'p2pmap serve'")
        }
        ClientError::Unreachable { .. } => Some("check --node and the network between"),
        ClientError::TimedOut { phase: Phase::Connecting, .. } => {
            Some("check --node, or allow more time with --timeout")
        }
        ClientError::TimedOut { phase: Phase::Sending | Phase::Answer, .. } => {
            Some("allow more time with --timeout")
        }
        ClientError::Broken { .. } | ClientError::Closed { .. } => Some("look at the node's log"),
        ClientError::OutcomeUnknown { .. } => {
            Some("the write may or may not have been done; read the key before trying again")
        }
        ClientError::Violation { .. } => Some("is that a p2pmap node's port?"),
        ClientError::Refused(error) => match error.code() {
            Code::Unavailable => Some("nothing was changed; try again"),
            Code::ResourceExhausted => {
                Some("nothing was changed; the node's log says which bound was reached")
            }
            Code::OutcomeUnknown => {
                Some("it may or may not have been done; read the key before trying again")
            }
            _ => None,
        },
        ClientError::Address { .. } | ClientError::Ended { .. } | ClientError::TooLong { .. } => {
            None
        }
    }
}
