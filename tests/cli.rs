//! The command line's guarantee: what it prints, where, and with which exit code, is what scripts
//! can rely on. Run as a shell runs it: the real binary against a node in miniature.

mod mini_node;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Child, Command, Stdio};

use mini_node::{CREATED_MS, command_response, correlation, frame, read_message};
use p2pmap::proto::p2pmap::v1::Error;
use p2pmap::proto::p2pmap::v1::error::Code;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What came of one run of the binary.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Run {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text was expected")
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.text()).expect("one JSON object was expected")
    }
}

/// The binary with an environment of its own: none of p2pmap's variables.
fn p2pmap(arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pmap"));
    for name in std::env::vars_os().map(|(name, _)| name).filter(is_ours) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn is_ours(name: &OsString) -> bool {
    name.to_string_lossy().starts_with("P2PMAP_")
}

fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the binary runs");
    let code = output.status.code().expect("it exits by itself");
    let stderr = String::from_utf8(output.stderr).expect("errors are text");
    Run { code, stdout: output.stdout, stderr }
}

fn at(node: SocketAddr, arguments: &[&str]) -> Run {
    run(p2pmap(arguments).env("P2PMAP_NODE", node.to_string()))
}

fn with_stdin(node: SocketAddr, arguments: &[&str], stdin: &[u8]) -> Run {
    let mut command = p2pmap(arguments);
    command.env("P2PMAP_NODE", node.to_string()).stdin(Stdio::piped());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut pipe = child.stdin.take().expect("its stdin is a pipe");
    // It may have refused its arguments and gone without reading.
    let _ = pipe.write_all(stdin);
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    let code = output.status.code().expect("it exits by itself");
    let stderr = String::from_utf8(output.stderr).expect("errors are text");
    Run { code, stdout: output.stdout, stderr }
}

fn done(stdout: &str) -> Run {
    Run { code: 0, stdout: stdout.as_bytes().to_vec(), stderr: String::new() }
}

fn negative(stdout: &str, stderr: &str) -> Run {
    Run { code: 1, stdout: stdout.as_bytes().to_vec(), stderr: stderr.to_owned() }
}

fn failed(stderr: &str) -> Run {
    Run { code: 2, stdout: Vec::new(), stderr: stderr.to_owned() }
}

/// The commands of a `console` block, each with what it prints.
fn session(readme: &str) -> Vec<(Vec<&str>, String)> {
    let part = readme.split("## A first session").nth(1).expect("the README has a session");
    let block = part.split("```console\n").nth(1).expect("the README has a session");
    let block = block.split("```").next().expect("a split has a first part");
    block
        .split("$ p2pmap ")
        .skip(1)
        .map(|command| {
            let (line, printed) = command.split_once('\n').expect("a command ends its line");
            (line.split(' ').collect(), printed.to_owned())
        })
        .collect()
}

/// Runs the README's session and compares what each command prints.
fn follow_the_readme(node: SocketAddr) {
    let session = session(include_str!("../README.md"));
    assert!(session.len() > 5, "the session was not found");
    for (arguments, printed) in session {
        let run = at(node, &arguments);
        let mut shown = format!("{}{}", run.text(), run.stderr);
        // A terminal is shown a value with a newline.
        if arguments[0] == "get" && run.code == 0 {
            shown.push('\n');
        }
        assert_eq!(shown, printed, "p2pmap {}", arguments.join(" "));
    }
}

#[test]
fn first_session_of_the_readme_prints_what_the_readme_says() {
    follow_the_readme(mini_node::start());
}

/// A node that doesn't outlive a failed test.
struct Serving(Child);

impl Serving {
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("it runs");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.0.kill();
    }
}

#[test]
fn node_says_when_it_is_ready_keeps_what_it_was_given_and_ends_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()];
    let start = || {
        let mut child =
            p2pmap(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said: Vec<String> =
            lines.map(Result::unwrap).take_while(|line| line != "ready").collect();
        (Serving(child), said)
    };
    let address = |said: &[String]| -> SocketAddr {
        let last = said.last().and_then(|line| line.strip_prefix("listening on "));
        last.expect("it says where it listens").parse().unwrap()
    };
    let (serving, said) = start();
    assert_eq!(said[0], format!("p2pmap {}", env!("CARGO_PKG_VERSION")));
    let cores = p2pmap::node::placement::available();
    let partitions = cores.partition_count_default();
    assert_eq!(said[1..3], [format!("cores: {cores}"), format!("partitions: {partitions}")]);
    assert_eq!(said[3], format!("data directory: {}", data_dir.display()));
    assert_eq!(said[4..6], ["durability: sync", "idle: park after 50us"]);
    let node = address(&said);
    follow_the_readme(node);
    assert_eq!(at(node, &["put", "m", "kept", "over a restart"]).code, 0);
    assert_eq!(serving.stop(), Some(0));

    let (serving, said) = start();
    assert_eq!(at(address(&said), &["get", "m", "kept"]), done("over a restart"));
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn settings_shown_in_the_readme_are_sound() {
    let readme = include_str!("../README.md");
    let toml = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(toml.expect("the README has a configuration").as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let printed = run(&mut p2pmap(&["serve", "--print-config", "--config", path]));
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
}

#[test]
fn each_operation_has_its_command() {
    let node = mini_node::start();
    assert_eq!(at(node, &["put", "orders", "k1", "hello"]), done("version 1\n"));
    assert_eq!(at(node, &["get", "orders", "k1"]), done("hello"));
    assert_eq!(at(node, &["exists", "orders", "k1"]), done("true\n"));
    assert_eq!(at(node, &["size", "orders"]), done("entries 1\nbytes 7\n"));
    assert_eq!(at(node, &["entries", "orders"]), done("k1\t1\thello\n"));
    assert_eq!(at(node, &["replace", "orders", "k1", "bye", "--if-value", "hello"]).code, 0);
    assert_eq!(at(node, &["remove", "orders", "k1"]), done(""));
    assert_eq!(at(node, &["clear", "orders"]), done("removed 0\n"));
}

#[test]
fn absent_key_is_exit_code_1_and_a_line_on_stderr() {
    let node = mini_node::start();
    let absent = negative("", "p2pmap: orders has no key k1\n");
    assert_eq!(at(node, &["get", "orders", "k1"]), absent);
    assert_eq!(at(node, &["remove", "orders", "k1"]), absent);
    assert_eq!(at(node, &["exists", "orders", "k1"]), negative("false\n", ""));
    let replaced = at(node, &["replace", "orders", "k1", "v"]);
    let line = "p2pmap: nothing changed, the condition doesn't hold: k1 is absent\n";
    assert_eq!(replaced, negative("", line));
}

#[test]
fn failed_condition_is_exit_code_1_and_names_the_version() {
    let node = mini_node::start();
    at(node, &["put", "m", "k", "one"]);
    let line = "p2pmap: nothing changed, the condition doesn't hold: k has version 1\n";
    assert_eq!(at(node, &["put", "m", "k", "two", "--if-absent"]), negative("", line));
    assert_eq!(at(node, &["put", "m", "k", "two", "--if-version", "9"]), negative("", line));
    assert_eq!(at(node, &["remove", "m", "k", "--if-version", "9"]), negative("", line));
    assert_eq!(at(node, &["replace", "m", "k", "two", "--if-value", "x"]), negative("", line));
    assert_eq!(at(node, &["replace", "m", "k", "two", "--if-version", "9"]), negative("", line));
    assert_eq!(at(node, &["get", "m", "k"]), done("one"));

    assert_eq!(at(node, &["put", "m", "k", "two", "--if-version", "1"]).code, 0);
    assert_eq!(at(node, &["put", "m", "new", "v", "--if-absent"]).code, 0);
    assert_eq!(at(node, &["get", "m", "k"]), done("two"));
}

#[test]
fn previous_entry_is_printed_when_asked_for() {
    let node = mini_node::start();
    let put = |value| at(node, &["put", "m", "k", value, "--previous"]);
    assert_eq!(put("a\tb"), done("version 1\nprevious none\n"));
    assert_eq!(put("two"), done("version 2\nprevious version 1: a\\tb\n"));
    assert_eq!(at(node, &["remove", "m", "k", "--previous"]), done("previous version 2: two\n"));
}

#[test]
fn json_gives_every_field_for_programs() {
    let node = mini_node::start();
    let object = |arguments: &[&str]| at(node, &[arguments, &["--json"]].concat()).json();
    let previous = json!({
        "value": "v", "version": 1, "created_ms": CREATED_MS, "updated_ms": CREATED_MS + 1
    });
    assert_eq!(object(&["put", "m", "k", "v"]), json!({ "key": "k", "version": 1 }));
    assert_eq!(
        object(&["get", "m", "k"]),
        json!({
            "key": "k", "value": "v", "version": 1,
            "created_ms": CREATED_MS, "updated_ms": CREATED_MS + 1
        })
    );
    assert_eq!(
        object(&["put", "m", "k", "w", "--if-absent"]),
        json!({ "key": "k", "condition_failed": true, "current": previous })
    );
    assert_eq!(
        object(&["put", "m", "k", "w", "--previous"]),
        json!({ "key": "k", "version": 3, "previous": previous })
    );
    assert_eq!(object(&["exists", "m", "k"]), json!({ "key": "k", "exists": true }));
    assert_eq!(object(&["size", "m"]), json!({ "map": "m", "entries": 1, "bytes": 2 }));
    assert_eq!(object(&["remove", "m", "k"]), json!({ "key": "k", "existed": true }));
    assert_eq!(
        object(&["remove", "m", "k"]),
        json!({ "key": "k", "existed": false, "absent": true })
    );
    assert_eq!(object(&["get", "m", "k"]), json!({ "key": "k", "absent": true }));
    assert_eq!(object(&["clear", "m"]), json!({ "map": "m", "removed": 0 }));
}

#[test]
fn values_come_from_argument_file_or_stdin_and_keep_every_byte() {
    let node = mini_node::start();
    let bytes: Vec<u8> = (0..=255).chain([b'\n', 0, b'\n']).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let path = file.path().to_str().unwrap();

    assert_eq!(at(node, &["put", "m", "file", "--value-file", path]).code, 0);
    assert_eq!(with_stdin(node, &["put", "m", "dash", "-"], &bytes).code, 0);
    assert_eq!(with_stdin(node, &["put", "m", "nothing"], &bytes).code, 0);
    for key in ["file", "dash", "nothing"] {
        assert_eq!(at(node, &["get", "m", key]).stdout, bytes, "{key}");
    }
    assert_eq!(at(node, &["put", "m", "empty", ""]).code, 0);
    assert_eq!(at(node, &["get", "m", "empty"]), done(""));
    assert_eq!(at(node, &["put", "m", "-5", "-7"]).code, 0);
    assert_eq!(at(node, &["get", "m", "-5"]), done("-7"));
    assert_eq!(at(node, &["put", "m", "--", "--key", "--value"]).code, 0);
    assert_eq!(at(node, &["get", "m", "--", "--key"]), done("--value"));
}

#[test]
fn keys_and_values_that_are_no_text_are_kept_and_shown_in_base64() {
    let node = mini_node::start();
    let key = OsString::from_vec(b"k\xff\n".to_vec());
    let value = OsString::from_vec(b"\xfev".to_vec());
    let arguments = |words: &[&OsStr]| -> Vec<OsString> {
        words.iter().map(|word| (*word).to_owned()).chain(["--json".into()]).collect()
    };
    let run_at =
        |words: &[&OsStr]| run(p2pmap(&arguments(words)).args(["--node", &node.to_string()]));
    assert_eq!(run_at(&["put".as_ref(), "m".as_ref(), &key, &value]).code, 0);
    let found = run_at(&["get".as_ref(), "m".as_ref(), &key]).json();
    assert_eq!((&found["key_base64"], &found["value_base64"]), (&json!("a/8K"), &json!("/nY=")));
    assert_eq!(at(node, &["entries", "m"]), done("k\\xff\\n\t1\t\\xfev\n"));
}

#[test]
fn value_too_long_is_refused_before_it_is_sent() {
    let node = mini_node::start();
    let longest = vec![b'v'; 1_984 << 10];
    assert_eq!(with_stdin(node, &["put", "m", "k"], &longest).code, 0);
    let longer = [longest.as_slice(), b"v"].concat();
    let refused = failed("p2pmap: the value is longer than 1984KiB, the most a node takes\n");
    assert_eq!(with_stdin(node, &["put", "m", "k"], &longer), refused);
    assert_eq!(at(node, &["size", "m", "--json"]).json()["bytes"], (1_984 << 10) + 1);
}

#[test]
fn entries_are_read_to_their_end_whatever_the_pages() {
    let node = mini_node::start();
    let keys: Vec<String> = (10..40).map(|number| format!("k{number}")).collect();
    for key in &keys {
        assert_eq!(at(node, &["put", "m", key, "v"]).code, 0);
    }
    let lines = |arguments: &[&str]| -> Vec<String> {
        let run = at(node, &[&["entries", "m", "--keys-only"], arguments].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        run.text().lines().map(str::to_owned).collect()
    };
    assert_eq!(lines(&[]), keys);
    assert_eq!(lines(&["--prefix", "k2"]), keys[10..20]);
    assert_eq!(lines(&["--limit", "0"]), [""; 0]);
    for limit in [1, 3, 7, 8, 15] {
        assert_eq!(lines(&["--limit", &limit.to_string()]), keys[..limit]);
    }
    let run = at(node, &["entries", "m", "--json", "--keys-only"]);
    let first: Value = serde_json::from_str(run.text().lines().next().unwrap()).unwrap();
    assert_eq!((&first["key"], first.get("value")), (&json!("k10"), None));
    assert_eq!(at(node, &["entries", "no-such-map"]), done(""));
}

#[test]
fn reader_that_goes_away_is_no_error() {
    let node = mini_node::start();
    let value = "v".repeat(100_000);
    for number in 0..30 {
        with_stdin(node, &["put", "m", &format!("k{number}")], value.as_bytes());
    }
    let mut child = p2pmap(&["entries", "m"])
        .env("P2PMAP_NODE", node.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn unreachable_node_is_one_line_with_what_to_do() {
    let node = mini_node::nobody();
    let line = format!(
        "p2pmap: cannot reach {node}: connection refused; is the node running? start one with \
         'p2pmap serve'\n"
    );
    assert_eq!(at(node, &["get", "m", "k"]), failed(&line));
    assert_eq!(at(node, &["put", "m", "k", "v", "--json"]), failed(&line));
}

#[test]
fn node_is_named_by_flag_before_environment() {
    let (node, nobody) = (mini_node::start(), mini_node::nobody());
    assert_eq!(at(nobody, &["size", "m", "--node", &node.to_string()]).code, 0);
    let bad = run(&mut p2pmap(&["size", "m", "--node", "somewhere"]));
    let line = "p2pmap: bad address \"somewhere\": expected HOST:PORT, e.g. 127.0.0.1:5678\n";
    assert_eq!(bad, failed(line));
}

#[test]
fn node_that_is_silent_is_given_up_after_the_timeout() {
    let node = mini_node::serve_each(|stream| {
        Box::leak(Box::new(stream));
        Ok(())
    });
    let line =
        format!("p2pmap: no answer from {node} within 100ms; allow more time with --timeout\n");
    assert_eq!(at(node, &["get", "m", "k", "--timeout", "100ms"]), failed(&line));
    let line = format!(
        "p2pmap: no certain answer: no answer from {node} within 100ms; the write may or may not \
         have been done; read the key before trying again\n"
    );
    assert_eq!(at(node, &["put", "m", "k", "v", "--timeout", "100ms"]), failed(&line));
    let zero = at(node, &["get", "m", "k", "--timeout", "0s"]);
    assert_eq!(zero.code, 2);
    assert!(zero.stderr.contains("expected a duration above 0 with its unit"), "{}", zero.stderr);
}

#[test]
fn what_is_no_node_is_told_so() {
    let node = mini_node::serve_each(|mut stream| {
        read_message(&mut stream)?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    });
    let line = format!(
        "p2pmap: {node} doesn't speak the protocol: a frame has the flag 72, expected 0; is that a \
         p2pmap node's port?\n"
    );
    assert_eq!(at(node, &["get", "m", "k"]), failed(&line));
}

#[test]
fn nodes_errors_are_told_in_its_words_with_what_to_do() {
    let node = mini_node::start();
    let unavailable = "p2pmap: no leader (UNAVAILABLE); nothing was changed; try again\n";
    assert_eq!(at(node, &["put", "forbidden", "k", "v"]), failed(unavailable));

    let ending = mini_node::serve_each(|mut stream| {
        correlation(&read_message(&mut stream)?);
        let (code, message) = (Code::InvalidArgument.into(), "target.name is empty".to_owned());
        let error = Outcome::Error(Error { code, message, ..Error::default() });
        stream.write_all(&frame(&command_response(0, 0, error)))
    });
    let line =
        format!("p2pmap: {ending} ended the connection: target.name is empty (INVALID_ARGUMENT)\n");
    assert_eq!(at(ending, &["get", "m", "k"]), failed(&line));
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    for arguments in [
        &["frobnicate"][..],
        &["put"],
        &["put", "m"],
        &["get", "m"],
        &["get", "m", "k", "--nonsense"],
        &["put", "m", "k", "v", "--if-version", "minus-one"],
        &["put", "m", "k", "v", "--if-version", "1", "--if-absent"],
        &["replace", "m", "k", "v", "--if-version", "1", "--if-value", "x"],
        &["put", "m", "k", "v", "--value-file", "/dev/null"],
        &["bench", "run", "--rate", "5", "--puts", "101"],
        &["bench", "run", "--closed-loop", "--key-size", "7B"],
        &["bench", "run"],
        &["bench", "run", "--closed-loop", "--rate", "5"],
        &["bench", "run", "--rate", "0"],
        &["bench", "run", "--closed-loop", "--depth", "0"],
        &["bench", "disk", "--write-size", "5KiB"],
    ] {
        let run = run(&mut p2pmap(arguments));
        assert_eq!((run.code, run.stdout.len()), (2, 0), "{arguments:?}: {run:?}");
        assert!(!run.stderr.is_empty());
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["get", "--help"]] {
        assert_eq!(run(&mut p2pmap(arguments)).code, 0);
    }
    let version = format!("p2pmap {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&mut p2pmap(&["--version"])), done(&version));
}

#[test]
fn unreadable_value_file_is_one_line() {
    let line = "p2pmap: cannot read /no/such/file: no such file or directory\n";
    let arguments = ["put", "m", "k", "--value-file", "/no/such/file"];
    assert_eq!(at(mini_node::nobody(), &arguments), failed(line));
}

#[test]
fn log_of_no_data_directory_is_one_line() {
    let inspected = run(&mut p2pmap(&["log", "inspect", "/no/such/directory"]));
    assert_eq!((inspected.code, inspected.stdout.len()), (2, 0));
    assert_eq!(inspected.stderr.lines().count(), 1, "{}", inspected.stderr);
    assert!(inspected.stderr.contains("/no/such/directory"), "{}", inspected.stderr);
}

#[test]
fn serve_prints_its_configuration_with_where_each_value_came_from() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"max-value = \"1KiB\"\nidle = \"park\"\ncluster = \"file\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = ["serve", "--print-config", "--config", path, "--idle=spin", "--must-exist"];
    let printed = run(p2pmap(&arguments).env("P2PMAP_CLUSTER", "environment"));
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = printed.text().lines().collect();
    let max_value = format!("max-value = \"1KiB\"  # file {path}:1");
    for line in [
        "listen = \"127.0.0.1:5678\"  # default",
        "idle = \"spin\"  # flag --idle",
        "must-exist = true  # flag --must-exist",
        "cluster = \"environment\"  # environment P2PMAP_CLUSTER",
        &max_value,
    ] {
        assert!(lines.contains(&line), "{line} is missing in {lines:#?}");
    }

    // Printed and read back, it is the same configuration.
    let mut copy = tempfile::NamedTempFile::new().unwrap();
    copy.write_all(&printed.stdout).unwrap();
    let path = copy.path().to_str().unwrap();
    let reread = run(&mut p2pmap(&["serve", "--print-config", "--config", path]));
    let values = |run: &Run| -> Vec<String> {
        run.text().lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&reread), values(&printed));
}

#[test]
fn faulty_configuration_is_a_line_for_each_fault_and_exit_code_2() {
    let refused = run(p2pmap(&["serve", "--idle", "sleep"]).env("P2PMAP_SPIN_FOR", "50"));
    assert_eq!(
        refused,
        failed(
            "p2pmap: idle = \"sleep\" (flag --idle): expected spin or park\n\
             p2pmap: spin-for = \"50\" (environment P2PMAP_SPIN_FOR): expected a duration from 0us \
             to 10ms, e.g. 50us\n"
        )
    );
}

#[test]
fn help_of_serve_names_each_setting_its_variable_and_its_default() {
    let help = run(&mut p2pmap(&["serve", "--help"]));
    for words in ["--spin-for <DURATION>", "[default: 50us]", "P2PMAP_SPIN_FOR", "--must-exist"] {
        assert!(help.text().contains(words), "{words} is missing in:\n{}", help.text());
    }
}
