//! A node in a process of its own, for tests of what only a process shows.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running `p2pmap serve`.
#[derive(Debug)]
pub struct Node {
    child: Child,
    address: String,
}

impl Node {
    /// Starts a node on `data_dir` with further arguments, and waits until it is ready. The port
    /// is one that the kernel picks; the binary is the one that was built, or `P2PMAP_BIN` names
    /// another.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        let binary =
            std::env::var_os("P2PMAP_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_p2pmap").into());
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut address = None;
        loop {
            let line = lines.next().expect("the node ended before it was ready");
            let line = line.expect("it is text");
            if let Some(found) = line.strip_prefix("listening on ") {
                address = Some(found.to_owned());
            }
            if line == "ready" {
                break;
            }
        }
        // Nobody reads on: a node writes no more to its output, and the pipe is larger than that.
        Self { child, address: address.expect("the address comes before `ready`") }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power switch would, as far as the process is concerned.
    pub fn kill(mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it is our child");
    }

    /// Asks it to end, and waits for it.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it was running");
        wait_at_most(&mut self.child, Duration::from_secs(30))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It is gone already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
