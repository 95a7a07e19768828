//! A node in a process of its own, for tests of what only a process shows.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod cluster;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running `p2pmap serve`.
#[derive(Debug)]
pub struct Node {
    child: Child,
    address: String,
    metrics: Option<String>,
    log: Log,
}

/// What a node has written to stderr so far. A thread reads it: a full pipe would stop the node.
#[derive(Debug)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// A node that has ended, with everything that it had to say.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: Vec<String>,
}

/// `p2pmap serve` on a port that the kernel picks, unless the arguments name one. The binary is the
/// one that was built, or `P2PMAP_BIN` names another.
pub fn serve(data_dir: &Path, arguments: &[&str]) -> Command {
    let named = std::env::var("P2PMAP_BIN");
    let binary = named.as_deref().unwrap_or(env!("CARGO_BIN_EXE_p2pmap"));
    serve_with(binary, &[], data_dir, arguments)
}

/// `p2pmap serve` by way of another program, which is given `before` and then the whole command.
pub fn serve_with(program: &str, before: &[&OsStr], data_dir: &Path, rest: &[&str]) -> Command {
    let mut command = Command::new(program);
    let variables = std::env::vars_os().map(|(name, _)| name);
    for name in variables.filter(|name| name.to_string_lossy().starts_with("P2PMAP_")) {
        command.env_remove(name);
    }
    command.args(before).args(["serve", "--data-dir"]).arg(data_dir);
    if !rest.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(rest).stdin(Stdio::null());
    command
}

impl Node {
    /// Starts a node on `data_dir` with further arguments, and waits until it is ready.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        Self::run(serve(data_dir, arguments))
    }

    /// Runs a command that becomes a node, and waits until that is ready.
    pub fn run(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let mut log = Log::of(&mut child);
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (mut address, mut metrics) = (None, None);
        loop {
            let Some(line) = lines.next() else {
                panic!("the node ended before it was ready:\n{}", log.end().join("\n"));
            };
            let line = line.expect("it is text");
            if let Some(found) = line.strip_prefix("listening on ") {
                address = Some(found.to_owned());
            }
            if let Some(found) = line.strip_prefix("metrics: http://") {
                metrics = found.strip_suffix("/metrics").map(str::to_owned);
            }
            if line == "ready" {
                break;
            }
        }
        // Nobody reads on: a node writes no more to its output, and the pipe is larger than that.
        Self { child, address: address.expect("the address comes before `ready`"), metrics, log }
    }

    /// Where it serves metrics.
    pub fn metrics_address(&self) -> &str {
        self.metrics.as_deref().expect("it was told to serve metrics")
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory.
    pub fn resident_size_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a size");
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("a number") * 1_024
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.so_far()
    }

    /// Ends it as a power switch would, as far as the process is concerned.
    pub fn kill(mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it is our child");
    }

    /// Asks it to end, and waits for it.
    pub fn terminate(self) -> ExitStatus {
        self.end().status
    }

    /// Asks it to end, waits for it, and returns its log too.
    pub fn end(mut self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it was running");
    }

    /// Waits for the end of a node that was asked to end.
    pub fn wait(&mut self) -> Ended {
        self.wait_at_most(Duration::from_secs(30))
    }

    /// Waits for the end of a node that ends by itself.
    pub fn wait_at_most(&mut self, limit: Duration) -> Ended {
        let status = wait_at_most(&mut self.child, limit);
        Ended { status, log: self.log.end() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It is gone already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            #[allow(clippy::print_stdout, reason = "the harness shows it with the failure")]
            {
                println!("the node's log:\n{}", self.log.so_far().join("\n"));
            }
        }
    }
}

impl Log {
    fn of(child: &mut Child) -> Self {
        let output = BufReader::new(child.stderr.take().expect("it is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All lines, once the process has ended.
    fn end(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it only reads");
        }
        self.so_far()
    }
}

impl Ended {
    /// One of the loops' counters, of all cores together; those that are 0 aren't logged.
    pub fn counter(&self, name: &str) -> u64 {
        self.counter_by_core(name).iter().sum()
    }

    /// The same, core by core.
    pub fn counter_by_core(&self, name: &str) -> Vec<u64> {
        let lines = self.log.iter().filter(|line| line.contains("what the loop counted"));
        let counters: Vec<u64> = lines.map(|line| counter_in(line, name)).collect();
        assert!(!counters.is_empty(), "no counters in {:#?}", self.log);
        counters
    }

    /// How many lines contain `text`.
    pub fn line_count(&self, text: &str) -> usize {
        self.log.iter().filter(|line| line.contains(text)).count()
    }
}

fn counter_in(line: &str, name: &str) -> u64 {
    let counted = line.split_once("counters=\"").and_then(|(_, rest)| rest.split_once('"'));
    let (counters, _) = counted.expect("the counters are in quotes");
    let mut pairs = counters.split(' ').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(found, _)| *found == name).map(|(_, value)| value);
    value.map_or(0, |value| value.parse().expect("a number"))
}

/// Waits for a process; kills it and fails if it takes longer than `limit`.
#[allow(clippy::disallowed_methods)]
pub fn wait_at_most(child: &mut Child, limit: Duration) -> ExitStatus {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("the process did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
