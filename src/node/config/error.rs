//! What can be wrong with a configuration: one line each, naming what, where and what to write
//! instead.

use std::fmt;
use std::path::PathBuf;

use super::setting::Setting;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said.
    Default,
    /// A line of the configuration file, from 1.
    File(PathBuf, usize),
    /// The setting's environment variable.
    Environment(Setting),
    /// The setting's flag.
    Flag(Setting),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "file {}:{line}", path.display()),
            Self::Environment(setting) => write!(f, "environment {}", setting.variable()),
            Self::Flag(setting) => write!(f, "flag --{}", setting.name()),
        }
    }
}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A value isn't one that its setting can have.
    Value {
        /// The setting.
        setting: Setting,
        /// What was given.
        text: String,
        /// By whom.
        origin: Origin,
        /// What is wrong with it, if more than that it isn't what is expected.
        reason: Option<String>,
    },
    /// A value in the file has a TOML type that its setting can't have.
    Type {
        /// The setting.
        setting: Setting,
        /// What it is in TOML's terms.
        found: &'static str,
        /// Where.
        origin: Origin,
    },
    /// An environment variable isn't UTF-8.
    NotUnicode(String),
    /// The file has a key that is no setting.
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// The file isn't TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// The file can't be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { setting, text, origin, reason } => {
                write!(f, "{} = {text:?} ({origin}): ", setting.name())?;
                if let Some(reason) = reason {
                    write!(f, "{reason}; ")?;
                }
                write!(f, "expected {}", setting.allowed())
            }
            Self::Type { setting, found, origin } => {
                let name = setting.name();
                write!(f, "{name} ({origin}) is a TOML {found}: expected {}", setting.allowed())
            }
            Self::NotUnicode(variable) => {
                write!(f, "environment {variable}: the value isn't UTF-8")
            }
            Self::UnknownKey { key, path, line, nearest } => {
                write!(f, "file {}:{line}: there is no setting {key:?}", path.display())?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {nearest:?}?"),
                    None => write!(f, "; `p2pmap serve --help` lists them"),
                }
            }
            Self::Syntax { path, line, message } => {
                write!(f, "file {}:{line}: not TOML: {message}", path.display())
            }
            Self::Unreadable { path, reason } => {
                write!(f, "can't read the configuration file {}: {reason}", path.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {}
