//! A configuration as typed: for each setting the text that someone wrote, and who.
//!
//! Flags win over the environment, the environment over the file, the file over the defaults.
//! Nothing is judged here but what can't be a value at all; that is [`Config::check`]'s.
//!
//! [`Config::check`]: super::Config::check

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::setting::{ENVIRONMENT_PREFIX, Form, Setting, nearest};
use crate::base::cast;
use crate::base::io_error::describe;
use crate::base::limits::CONFIG_FILE_SIZE_BYTES_MAX;

/// The environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "P2PMAP_CONFIG";
/// Variables with our prefix that are read elsewhere: by the commands that talk to a node.
const OTHER_VARIABLES: [&str; 3] = [CONFIG_VARIABLE, "P2PMAP_NODE", "P2PMAP_TIMEOUT"];

/// What the three sources say, before anything is read from it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Values given as flags.
    pub flags: BTreeMap<Setting, String>,
    /// The file named by `--config`.
    pub config_file: Option<PathBuf>,
    /// The process's environment, or what stands for it.
    pub environment: Vec<(OsString, OsString)>,
}

/// A setting's value as text, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedValue {
    /// What was written.
    pub text: String,
    /// By whom.
    pub origin: Origin,
}

/// A configuration as typed: each setting that has a value, with the text that won.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    values: BTreeMap<Setting, TypedValue>,
    warnings: Vec<String>,
}

impl Typed {
    /// Reads all sources. The errors are those of the sources themselves; what could be read is
    /// returned with them, so that one start reports everything that is wrong.
    #[must_use]
    pub fn gather(sources: &Sources) -> (Self, Vec<ConfigError>) {
        let mut typed = Self::default();
        let mut errors = Vec::new();
        typed.add_defaults();
        if let Some(path) = config_path(sources) {
            match read_file(&path) {
                Ok(text) => typed.add_file(&path, &text, &mut errors),
                Err(e) => errors.push(ConfigError::Unreadable { path, reason: describe(&e) }),
            }
        }
        typed.add_environment(&sources.environment, &mut errors);
        for (setting, text) in &sources.flags {
            typed.set(*setting, text.clone(), Origin::Flag(*setting));
        }
        (typed, errors)
    }

    /// The value of a setting, if it has one.
    #[must_use]
    pub fn value(&self, setting: Setting) -> Option<&TypedValue> {
        self.values.get(&setting)
    }

    /// What is likely a mistake but does no harm: variables whose names are almost a setting's.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The configuration as a TOML file that gives the same configuration when read; after each
    /// value, where it came from.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        for setting in Setting::ALL {
            let name = setting.name();
            let written = match self.values.get(&setting) {
                Some(TypedValue { text, origin }) => {
                    writeln!(toml, "{name} = {}  # {origin}", toml_value(setting.form(), text))
                }
                None => {
                    writeln!(toml, "# {name} = …  # default: {}", setting.otherwise())
                }
            };
            written.expect("writing to a string never fails");
        }
        toml
    }

    fn set(&mut self, setting: Setting, text: String, origin: Origin) {
        self.values.insert(setting, TypedValue { text, origin });
    }

    fn add_defaults(&mut self) {
        for setting in Setting::ALL {
            if let Some(text) = setting.default_text() {
                self.set(setting, text, Origin::Default);
            }
        }
    }

    fn add_file(&mut self, path: &Path, text: &str, errors: &mut Vec<ConfigError>) {
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(e) => {
                let line = line_of(text, e.span().map_or(0, |span| span.start));
                let message = e.message().trim_end().to_owned();
                errors.push(ConfigError::Syntax { path: path.to_owned(), line, message });
                return;
            }
        };
        for (key, value) in table.get_ref() {
            let line = line_of(text, key.span().start);
            let Some(setting) = Setting::named(key.get_ref()) else {
                errors.push(ConfigError::UnknownKey {
                    key: key.get_ref().to_string(),
                    path: path.to_owned(),
                    line,
                    nearest: nearest(key.get_ref(), Setting::ALL.into_iter().map(Setting::name)),
                });
                continue;
            };
            let origin = Origin::File(path.to_owned(), line);
            match text_of(setting.form(), value.get_ref()) {
                Some(text) => self.set(setting, text, origin),
                None => {
                    let found = value.get_ref().type_str();
                    errors.push(ConfigError::Type { setting, found, origin });
                }
            }
        }
    }

    fn add_environment(
        &mut self,
        environment: &[(OsString, OsString)],
        errors: &mut Vec<ConfigError>,
    ) {
        let variables: BTreeMap<String, Setting> =
            Setting::ALL.into_iter().map(|setting| (setting.variable(), setting)).collect();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))
            else {
                continue;
            };
            let Some(setting) = variables.get(name).copied() else {
                self.warn_if_mistyped(name, variables.keys().map(String::as_str));
                continue;
            };
            match value.to_str() {
                Some(text) => self.set(setting, text.to_owned(), Origin::Environment(setting)),
                None => errors.push(ConfigError::NotUnicode(name.to_owned())),
            }
        }
    }

    /// An unknown variable can't be an error as an unknown key is: orchestrators make up variables
    /// from a service's name (`P2PMAP_SERVICE_HOST`). One that is almost a setting's is a slip.
    fn warn_if_mistyped<'a>(&mut self, name: &str, known: impl Iterator<Item = &'a str>) {
        if OTHER_VARIABLES.contains(&name) {
            return;
        }
        let short = |name: &'a str| name.trim_start_matches(ENVIRONMENT_PREFIX);
        let typed = name.trim_start_matches(ENVIRONMENT_PREFIX);
        if let Some(meant) = nearest(typed, known.map(short)) {
            let meant = format!("{ENVIRONMENT_PREFIX}{meant}");
            self.warnings.push(format!(
                "environment {name} is no setting and is ignored; did you mean {meant}?"
            ));
        }
    }
}

fn config_path(sources: &Sources) -> Option<PathBuf> {
    let from_environment = || {
        let found =
            sources.environment.iter().find(|(name, _)| name == OsStr::new(CONFIG_VARIABLE));
        found.map(|(_, path)| PathBuf::from(path))
    };
    sources.config_file.clone().or_else(from_environment)
}

/// Reads a file of bounded size: someone may have named a device or a log by mistake.
fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bound = cast::u64_from(CONFIG_FILE_SIZE_BYTES_MAX);
    File::open(path)?.take(bound + 1).read_to_string(&mut text)?;
    if text.len() > CONFIG_FILE_SIZE_BYTES_MAX {
        return Err(io::Error::other("it is longer than a configuration can be"));
    }
    Ok(text)
}

/// The line, from 1, in which the byte at `offset` stands.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The text of a value that has a TOML type its setting may have.
fn text_of(form: Form, value: &DeValue<'_>) -> Option<String> {
    match (form, value) {
        (Form::Text | Form::List, DeValue::String(text)) => Some(text.to_string()),
        (Form::Integer | Form::List, DeValue::Integer(number)) if number.radix() == 10 => {
            Some(number.as_str().to_owned())
        }
        (Form::Boolean, DeValue::Boolean(flag)) => Some(flag.to_string()),
        (Form::List, DeValue::Array(items)) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(_) | DeValue::Integer(_) => text_of(form, item.get_ref()),
                    _ => None,
                })
                .collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

fn toml_value(form: Form, text: &str) -> String {
    match form {
        Form::Integer | Form::Boolean => text.to_owned(),
        Form::Text | Form::List => toml::Value::String(text.to_owned()).to_string(),
    }
}
