//! What can go wrong, by kind; and how often each kind was made to.

use std::fmt;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed: what it had in memory is lost.
    Kill,
    /// The power of a node fails: what its disk hadn't written is lost too, or written in part.
    PowerLoss,
    /// A process is told to stop, and started again.
    CleanStop,
    /// A process stands still for a while.
    Pause,
    /// A node starts with another number of shards.
    Rehome,
    /// A connection breaks; what is on its way is lost.
    Break,
    /// Nothing gets through between two ends, in either direction.
    Partition,
    /// The same in one direction.
    OneWay,
    /// What is sent between two ends takes very long.
    Clog,
    /// A disk is slow.
    SlowDisk,
    /// A disk is full.
    FullDisk,
    /// A disk fails to write the log: the node ends.
    WriteError,
    /// A disk fails to read.
    ReadError,
    /// A bit of what was written flips.
    BitFlip,
    /// What was written is not there.
    LostWrite,
    /// Something that belongs elsewhere lies there.
    Misdirected,
    /// A bit of a checkpoint flips.
    CheckpointFlip,
    /// The disk is gone; the node begins with an empty one. (More than the only member can bear.)
    DiskLost,
    /// The disk is what it was a while ago. (More than the only member can bear.)
    DiskRolledBack,
    /// A wall clock jumps.
    ClockJump,
    /// Stamped commands are lost, each as often as it is sent, and what is said of no-ops.
    LostCommand,
    /// Whoever leads a partition is told that another node shall.
    Transfer,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Kill,
        Self::PowerLoss,
        Self::CleanStop,
        Self::Pause,
        Self::Rehome,
        Self::Break,
        Self::Partition,
        Self::OneWay,
        Self::Clog,
        Self::SlowDisk,
        Self::FullDisk,
        Self::WriteError,
        Self::ReadError,
        Self::BitFlip,
        Self::LostWrite,
        Self::Misdirected,
        Self::CheckpointFlip,
        Self::DiskLost,
        Self::DiskRolledBack,
        Self::ClockJump,
        Self::LostCommand,
        Self::Transfer,
    ];

    /// Its name in traces and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power-loss",
            Self::CleanStop => "clean-stop",
            Self::Pause => "pause",
            Self::Rehome => "rehome",
            Self::Break => "break",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Clog => "clog",
            Self::SlowDisk => "slow-disk",
            Self::FullDisk => "full-disk",
            Self::WriteError => "write-error",
            Self::ReadError => "read-error",
            Self::BitFlip => "bit-flip",
            Self::LostWrite => "lost-write",
            Self::Misdirected => "misdirected",
            Self::CheckpointFlip => "checkpoint-flip",
            Self::DiskLost => "disk-lost",
            Self::DiskRolledBack => "disk-rolled-back",
            Self::ClockJump => "clock-jump",
            Self::LostCommand => "lost-command",
            Self::Transfer => "transfer",
        }
    }

    /// Whether it damages what is durable: the only member of a group can't make good for it, and
    /// must notice it.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        matches!(self, Self::BitFlip | Self::LostWrite | Self::Misdirected | Self::CheckpointFlip)
    }

    /// Whether it loses what is durable without a trace: no single member can notice it.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::DiskLost | Self::DiskRolledBack)
    }

    /// Whether a lone node can't have it.
    #[must_use]
    pub const fn needs_others(self) -> bool {
        self.is_loss() || matches!(self, Self::LostCommand | Self::Transfer)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
