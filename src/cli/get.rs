//! `get`: print a key's value as it is.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;

use super::failure::Failure;
use super::key::KeyArgs;
use super::node_address::NodeArgs;
use super::output::{Output, entry_object, insert_bytes, object_with};
use super::{Verdict, absent_key};

/// Without `--json` the value's bytes go to standard output as they are. Only on a terminal a
/// newline follows, so that `get … > file` and `put … --value-file file` keep every byte.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: GetArgs) -> Result<Verdict, Failure> {
    let (key, output) = (args.key.key(), args.node.output());
    let Some(entry) = args.node.client().get(&args.key.map.map, &key)? else {
        return absent_key(&args.key.map.map, &key, output, object_with("key", &key));
    };
    match output {
        Output::Human => print_value(&entry.value).map_err(|e| Failure::stdout(&e))?,
        Output::Json => output.print(String::new, || {
            let mut object = entry_object(&entry);
            insert_bytes(&mut object, "key", &key);
            object
        })?,
    }
    Ok(Verdict::Done)
}

fn print_value(value: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(value)?;
    if stdout.is_terminal() {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}
