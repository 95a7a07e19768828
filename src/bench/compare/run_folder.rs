//! The results of a run as they lie on disk: an environment, and scenarios with their rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::bench::summary::{SUMMARY_SCHEMA, SUMMARY_SCHEMA_VERSION, Summary};
use crate::bench::surroundings::{ENVIRONMENT_SCHEMA, ENVIRONMENT_SCHEMA_VERSION, Environment};

/// All results of one side.
#[derive(Clone, Debug)]
pub struct RunFolder {
    /// Where they lie.
    pub path: PathBuf,
    /// Where they were measured.
    pub environment: Environment,
    /// Each scenario with its rounds, by their numbers.
    pub scenarios: BTreeMap<String, BTreeMap<u32, Round>>,
}

/// One round of a scenario.
#[derive(Clone, Debug)]
pub struct Round {
    /// Where its files lie.
    pub folder: PathBuf,
    /// Its summary.
    pub summary: Summary,
}

/// Why results can't be read.
#[derive(Debug)]
pub enum ResultsError {
    /// A file can't be read.
    File(PathBuf, io::Error),
    /// A file isn't what its name says.
    Malformed(PathBuf, serde_json::Error),
    /// A file is of a schema that this release doesn't know.
    Schema(PathBuf, String),
    /// There are no results.
    Empty(PathBuf),
    /// No folder of results has this name, nor is of this commit.
    Unknown(String, PathBuf),
    /// A line of a log of latencies can't be read.
    Log(PathBuf, usize),
    /// So many sides are more than a page can tell apart.
    Sides(usize, usize),
}

impl fmt::Display for ResultsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Malformed(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Schema(path, schema) => {
                write!(f, "{}: {schema} is not known to this release", path.display())
            }
            Self::Empty(path) => write!(f, "{} has no results", path.display()),
            Self::Unknown(name, below) => {
                write!(f, "{name:?} is no folder, and {} has no results of it", below.display())
            }
            Self::Log(path, line) => {
                write!(f, "{}: line {line} isn't one of a log of histograms", path.display())
            }
            Self::Sides(count, max) => {
                write!(f, "a page shows at most {max} results side by side, not {count}")
            }
        }
    }
}

impl std::error::Error for ResultsError {}

impl RunFolder {
    /// Reads a folder of results.
    ///
    /// # Errors
    /// If something in it isn't as it should be. Results without an environment are none.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        let environment_path = path.join("environment.json");
        let environment: Environment = json(&environment_path)?;
        let Environment { schema, schema_version, .. } = &environment;
        if schema != ENVIRONMENT_SCHEMA || *schema_version != ENVIRONMENT_SCHEMA_VERSION {
            let schema = format!("{schema} {schema_version}");
            return Err(ResultsError::Schema(environment_path, schema));
        }
        let mut scenarios: BTreeMap<String, BTreeMap<u32, Round>> = BTreeMap::new();
        for folder in folders(path)? {
            let rounds = [folder.clone()].into_iter().chain(folders(&folder)?);
            for folder in rounds.filter(|folder| folder.join("summary.json").exists()) {
                let summary = summary(&folder.join("summary.json"))?;
                let number = summary.round.unwrap_or(1);
                let rounds = scenarios.entry(summary.scenario.clone()).or_default();
                rounds.insert(number, Round { folder, summary });
            }
        }
        if scenarios.is_empty() {
            return Err(ResultsError::Empty(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), environment, scenarios })
    }

    /// Reads the results that `name` means: a folder, or a commit of which `below` has results,
    /// the latest ones.
    ///
    /// # Errors
    /// As of [`RunFolder::read`], and if there are none.
    pub fn find(name: &str, below: &Path) -> Result<Self, ResultsError> {
        if Path::new(name).is_dir() {
            return Self::read(Path::new(name));
        }
        let is_of = |folder: &PathBuf| {
            let name_of = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // <time>-<commit>[-dirty]; a beginning of the commit will do, as for git.
            let commit = name_of.split_once('-').map(|(_, commit)| commit.to_owned());
            commit.is_some_and(|commit| !name.is_empty() && commit.starts_with(name))
        };
        // They begin with their time.
        let latest = folders(below).ok().and_then(|all| all.into_iter().rev().find(is_of));
        match latest {
            Some(folder) => Self::read(&folder),
            None => Err(ResultsError::Unknown(name.to_owned(), below.to_owned())),
        }
    }
}

/// The folders in a folder, sorted.
fn folders(path: &Path) -> Result<Vec<PathBuf>, ResultsError> {
    let fail = |error| ResultsError::File(path.to_owned(), error);
    let entries = fs::read_dir(path).map_err(fail)?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn summary(path: &Path) -> Result<Summary, ResultsError> {
    let summary: Summary = json(path)?;
    let Summary { schema, schema_version, .. } = &summary;
    if schema != SUMMARY_SCHEMA || *schema_version != SUMMARY_SCHEMA_VERSION {
        return Err(ResultsError::Schema(path.to_owned(), format!("{schema} {schema_version}")));
    }
    Ok(summary)
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ResultsError> {
    let bytes = fs::read(path).map_err(|error| ResultsError::File(path.to_owned(), error))?;
    serde_json::from_slice(&bytes).map_err(|error| ResultsError::Malformed(path.to_owned(), error))
}
