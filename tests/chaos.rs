//! Guarantee: a real cluster under faults does nothing wrong, `p2pmap chaos` would see it if it
//! did, and however a run ends, no process outlives it. `scripts/chaos.sh` is the long run.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Between two looks, and how many there are at most: half a minute.
const PAUSE: Duration = Duration::from_millis(50);
const ATTEMPT_COUNT: usize = 600;

fn chaos(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pmap"));
    command.args(["chaos", "--clients", "4", "--data-dir"]).arg(folder).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// The processes that were told of a folder, but for this one's own.
fn processes_of(folder: &Path) -> Vec<u32> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_told = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&folder)
    };
    pids.filter(is_told).collect()
}

/// Waits until something holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..ATTEMPT_COUNT {
        if holds() {
            return;
        }
        std::thread::park_timeout(PAUSE);
    }
    panic!("in vain: {what}");
}

/// Whether a process is stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn cluster_of_three_does_nothing_wrong_under_faults() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        chaos(folder.path(), &["--seconds", "8", "--nodes", "3", "--seed", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{failed}");
    let number = |name: &str| -> u64 {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(number("violations"), 0, "{said}");
    // Two maps of sixty keys were read at three nodes, twice, and clients did more than that.
    assert!(number("get") > 2 * 60 * 3 * 2, "{said}");
    assert!(number("put") > 10, "{said}");
    assert_eq!(processes_of(folder.path()), []);
}

/// Shows that a run finds what is wrong: nodes are built with the bug.
#[cfg(feature = "mutants")]
#[test]
fn read_that_asks_no_quorum_is_found_when_a_leader_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--seconds", "60", "--mutant", "read-without-quorum", "--faults", "isolate"];
    let output = chaos(folder.path(), &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("linearizability:"), "{said}");
}

#[test]
fn faults_that_cannot_be_done_are_named_instead_of_left_out_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let output = chaos(folder.path(), &["--faults", "disk-full,ring"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(
        said,
        "disk-full is left out: it takes small disks\nring is left out: it takes more nodes\n"
    );
}

#[test]
fn interrupted_run_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = chaos(folder.path(), &["--seconds", "600", "--faults", "kill"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // A fault is told when it is over: the load has begun.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("s  kill "), "{line}");
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert_eq!(processes_of(folder.path()), []);
}

#[test]
fn killed_run_leaves_no_process_though_a_node_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = chaos(folder.path(), &["--seconds", "600", "--faults", "pause"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("a node is stopped", || processes_of(folder.path()).into_iter().any(is_stopped));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("all nodes end", || processes_of(folder.path()).is_empty());
}
