//! A node's settings as flags, made from the table of settings, so that a flag, its variable, its
//! key in the file and its default are never told differently.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::failure::Failure;
use crate::node::config::setting::{Form, Setting};
use crate::node::config::source::Sources;
use crate::node::config::{Config, Loaded};

/// The flags of all settings, or of those of a loop alone.
#[derive(Debug, Default)]
pub(super) struct SettingFlags<const OF_A_LOOP: bool>(BTreeMap<Setting, String>);

impl<const OF_A_LOOP: bool> SettingFlags<OF_A_LOOP> {
    fn settings() -> &'static [Setting] {
        if OF_A_LOOP { &Setting::OF_A_LOOP } else { &Setting::ALL }
    }

    /// Reads the configuration from these flags, the process's environment and the file.
    pub(super) fn load(self, config_file: Option<PathBuf>) -> Result<Loaded, Failure> {
        let environment = std::env::vars_os().collect();
        Ok(Config::load(&Sources { flags: self.0, config_file, environment })?)
    }
}

impl<const OF_A_LOOP: bool> Args for SettingFlags<OF_A_LOOP> {
    fn augment_args(command: Command) -> Command {
        Self::settings().iter().fold(command, |command, setting| command.arg(flag(*setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const OF_A_LOOP: bool> FromArgMatches for SettingFlags<OF_A_LOOP> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in Self::settings() {
            if let Some(text) = matches.get_one::<String>(setting.name()) {
                self.0.insert(*setting, text.clone());
            }
        }
        Ok(())
    }
}

/// Whether the value is sound is for the configuration to say, which says it for all sources alike.
fn flag(setting: Setting) -> Arg {
    let default =
        setting.default_text().map_or(String::new(), |text| format!(" [default: {text}]"));
    let help = format!("{}{default} [env: {}]", setting.help(), setting.variable());
    let flag = Arg::new(setting.name())
        .long(setting.name())
        .value_name(setting.placeholder())
        .help(help)
        .allow_hyphen_values(true);
    match setting.form() {
        Form::Boolean => flag
            .num_args(0..=1)
            .require_equals(true)
            .allow_hyphen_values(false)
            .default_missing_value("true"),
        Form::Text | Form::List | Form::Integer => flag,
    }
}
