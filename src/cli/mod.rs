//! The command line: parse, choose a command, turn what comes of it into an exit code.
//!
//! Each command is one thin function in a file of its name; what it does lives in the rooms below.
//! Exit codes: 0 done; 1 the key is absent, the condition doesn't hold, the host has a problem, the
//! node isn't ready or replicas aren't known to be equal; 2 an error, one line of it on stderr;
//! from 10 on, a node that stopped by itself
//! ([`FatalReason`](crate::runtime::fatal::FatalReason)). Whatever a program may want to read is on
//! stdout, as text or, with `--json`, as one JSON object a line. A reader that goes away (`| head`)
//! is no error.

mod bench;
mod chaos;
mod check_host;
mod clear;
mod cluster;
mod completions;
mod drill;
mod echo;
mod engine;
mod entries;
mod exists;
mod failure;
mod get;
pub mod inspect;
mod key;
mod leader;
mod log;
mod node_address;
mod output;
mod put;
mod remove;
mod serve;
mod settings;
mod simulate;
mod size;
mod status;
mod value_source;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};

use self::failure::Failure;
use self::output::{Output, escape, object_with, previous_value};
use crate::client::error::ClientError;
use crate::proto::p2pmap::v1::error::Code;

/// The exit code of a command that found the key absent, the condition not to hold, the host to
/// have a problem or the node not to be ready.
const EXIT_NEGATIVE: u8 = 1;

/// A replicated, partitioned key-value map server and its client.
#[derive(Debug, Parser)]
#[command(name = "p2pmap", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(Box<serve::ServeArgs>),
    /// Run a cluster.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Set a key's value.
    Put(put::PutArgs),
    /// Set the value of a key that is present.
    Replace(put::ReplaceArgs),
    /// Print a key's value.
    Get(get::GetArgs),
    /// Say whether a key is present.
    Exists(exists::ExistsArgs),
    /// Remove a key.
    Remove(remove::RemoveArgs),
    /// Print how many entries a map has.
    Size(size::SizeArgs),
    /// Print the entries of a map.
    Entries(entries::EntriesArgs),
    /// Remove all entries of a map (partition by partition, not at once).
    Clear(clear::ClearArgs),
    /// Say what is wrong on this host for a latency-critical node, and what mends it.
    CheckHost(check_host::CheckHostArgs),
    /// Say how a node stands.
    Status(status::StatusArgs),
    /// Compare all replicas of a cluster.
    Verify(verify::VerifyArgs),
    /// Say who leads.
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// Look into a log, offline.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Run clusters in virtual time under everything that can go wrong, and check them.
    Simulate(simulate::SimulateArgs),
    /// Run a real cluster under faults, and check what its clients were told.
    Chaos(Box<chaos::ChaosArgs>),
    /// Have a real cluster go through failures and restarts under load, and measure it.
    #[command(subcommand)]
    Drill(drill::DrillCommand),
    /// Run a node's loop with nothing behind it: each frame is sent back.
    Echo(Box<echo::EchoArgs>),
    /// Print what makes a shell complete commands and flags.
    Completions(completions::CompletionsArgs),
}

/// What came of a command that didn't fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It did what it was asked.
    Done,
    /// The key is absent, the condition doesn't hold, the host has a problem or the node isn't
    /// ready.
    Negative,
}

/// Runs the command that `arguments` name, the program's own name first.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout with exit code 0, usage errors to stderr with 2. If
            // that stream is gone, nobody is left to tell.
            let _ = e.print();
            return u8::try_from(e.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match dispatch(cli.command) {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::Negative) => ExitCode::from(EXIT_NEGATIVE),
        Err(failure) if failure.is_reader_gone() => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = write!(io::stderr().lock(), "{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<Verdict, Failure> {
    match command {
        Command::Serve(args) => serve::run(*args),
        Command::Cluster(command) => cluster::run(command),
        Command::Put(args) => put::run(args),
        Command::Replace(args) => put::run_replace(args),
        Command::Get(args) => get::run(args),
        Command::Exists(args) => exists::run(args),
        Command::Remove(args) => remove::run(args),
        Command::Size(args) => size::run(args),
        Command::Entries(args) => entries::run(args),
        Command::Clear(args) => clear::run(args),
        Command::CheckHost(args) => check_host::run(args),
        Command::Status(args) => status::run(args),
        Command::Verify(args) => verify::run(&args),
        Command::Leader(command) => leader::run(&command),
        Command::Log(command) => log::run(command),
        Command::Bench(command) => bench::run(command),
        Command::Simulate(args) => simulate::run(args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Drill(command) => drill::run(&command),
        Command::Echo(args) => echo::run(*args),
        Command::Completions(args) => completions::run(args),
    }
}

/// The key isn't there: for people a line on stderr, for programs an object on stdout.
fn absent_key(
    map: &str,
    key: &[u8],
    output: Output,
    object: Map<String, Value>,
) -> Result<Verdict, Failure> {
    match output {
        Output::Human => tell(&format!("{map} has no key {}", escape(key))),
        Output::Json => output.print(String::new, || {
            let mut object = object;
            object.insert("absent".to_owned(), json!(true));
            object
        })?,
    }
    Ok(Verdict::Negative)
}

/// What a write's error means: that its condition doesn't hold is an answer, all else a failure.
fn failed_condition(error: ClientError, key: &[u8], output: Output) -> Result<Verdict, Failure> {
    let refused = match error {
        ClientError::Refused(refused) if refused.code() == Code::ConditionFailed => refused,
        other => return Err(other.into()),
    };
    let current = refused.current.as_ref();
    match output {
        Output::Human => {
            let key = escape(key);
            let state = match current {
                Some(entry) => format!("{key} has version {}", entry.version),
                None => format!("{key} is absent"),
            };
            tell(&format!("nothing changed, the condition doesn't hold: {state}"));
        }
        Output::Json => output.print(String::new, || {
            let mut object = object_with("key", key);
            object.insert("condition_failed".to_owned(), json!(true));
            object.insert("current".to_owned(), previous_value(current));
            object
        })?,
    }
    Ok(Verdict::Negative)
}

/// A line on stderr. If that is gone, nobody is left to tell.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "p2pmap: {line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn commands_and_their_arguments_contradict_nowhere() {
        Cli::command().debug_assert();
    }
}
