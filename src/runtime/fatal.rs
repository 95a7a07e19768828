//! Why a node stops, and the exit code that says so to whoever restarts it.

use std::fmt;

use super::halt;

/// The reasons, each with an exit code of its own; 1 and 2 are left to the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FatalReason {
    /// The machine can't run a node: no `io_uring`, no core, no memory.
    Environment = 10,
    /// The address can't be listened on.
    Listen = 11,
    /// The data directory can't be used.
    DataDirectory = 12,
    /// A write of the log failed. It is not tried again: what a second try says can't be trusted.
    LogWrite = 13,
    /// A segment could not be prepared.
    SegmentPreparation = 14,
    /// A core's `io_uring` failed.
    Ring = 15,
    /// A core's executor failed.
    Executor = 16,
    /// A broken invariant: a defect of ours.
    Panic = 17,
    /// The shutdown's time was up before everything in flight was finished.
    ShutdownTimeout = 18,
}

impl FatalReason {
    /// What the process exits with.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// Why the process must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// For whoever restarts it.
    pub reason: FatalReason,
    /// For people: one line.
    pub message: String,
}

impl Fatal {
    /// A reason with its message.
    #[must_use]
    pub fn new(reason: FatalReason, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fatal {}

/// Makes a panic of any thread end the whole process: never one dead shard among living ones. One
/// in a turn of a loop does so when the shard has left behind what it knows (see `runtime::halt`).
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!(%panic, "a broken invariant: the process exits");
        if halt::is_caught() {
            return;
        }
        std::process::exit(i32::from(FatalReason::Panic.exit_code()));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_exit_codes_of_their_own_above_those_of_the_command_line() {
        let codes = [
            FatalReason::Environment,
            FatalReason::Listen,
            FatalReason::DataDirectory,
            FatalReason::LogWrite,
            FatalReason::SegmentPreparation,
            FatalReason::Ring,
            FatalReason::Executor,
            FatalReason::Panic,
            FatalReason::ShutdownTimeout,
        ]
        .map(FatalReason::exit_code);
        assert!(codes.is_sorted_by(|a, b| a < b));
        assert!(codes.iter().all(|code| *code > 2));
    }
}
