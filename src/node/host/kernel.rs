//! The kernel's version, and whether it lets us have the `io_uring` that a core's loop needs.

use std::io::ErrorKind;

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::runtime::uring::{RingSize, Uring, UringError};

const RELEASE: Check = Check::new(Subject::Kernel, "release");
const IO_URING: Check = Check::new(Subject::Kernel, "io_uring");

const RELEASE_FILE: &str = "/proc/sys/kernel/osrelease";
const DISABLED_FILE: &str = "/proc/sys/kernel/io_uring_disabled";
const STATUS_FILE: &str = "/proc/self/status";

/// The first kernel with everything that the ring uses.
const RELEASE_MIN: (u32, u32) = (6, 1);
/// The first one whose scheduler grants an ordinary thread the slice that it asks for.
const RELEASE_LONG_SLICE: (u32, u32) = (6, 12);

/// What came of setting up a ring as a core's loop does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingProbe {
    /// There is one.
    Works,
    /// The kernel is older than we need.
    TooOld,
    /// The kernel has none, or something hides it.
    Missing,
    /// A policy forbids it.
    Forbidden,
    /// What is left of the memory lock limit is too little for it.
    NoMemory,
    /// Anything else.
    Failed(String),
}

impl RingProbe {
    /// Sets up a ring with all that the loop needs, and lets it go.
    #[must_use]
    pub fn run() -> Self {
        match Uring::new(RingSize::default()) {
            Ok(_) => Self::Works,
            Err(UringError::KernelTooOld { .. }) => Self::TooOld,
            Err(UringError::Missing) => Self::Missing,
            Err(UringError::Forbidden) => Self::Forbidden,
            Err(UringError::Other(error)) if error.kind() == ErrorKind::OutOfMemory => {
                Self::NoMemory
            }
            Err(UringError::Other(error)) => Self::Failed(error.to_string()),
        }
    }
}

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    release: Option<String>,
    ring: RingProbe,
    /// 0: everybody may use `io_uring`; 1: the privileged and a group; 2: nobody.
    disabled: Option<u64>,
    /// Whether system calls of this process are filtered.
    filtered: bool,
}

impl Kernel {
    pub(super) fn gather(tree: &Tree, ring: RingProbe) -> Self {
        let status = tree.text(STATUS_FILE).unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            release: tree.text(RELEASE_FILE),
            ring,
            disabled: tree.number(DISABLED_FILE),
            filtered: seccomp.is_some_and(|mode| mode.trim() == "2"),
        }
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        vec![self.check_release(), self.check_ring()]
    }

    fn check_release(&self) -> Finding {
        let Some(release) = &self.release else {
            return RELEASE.not_visible(RELEASE_FILE);
        };
        match version_of(release) {
            None => RELEASE.not_visible(format!("{RELEASE_FILE} says {release:?}")),
            Some(version) if version < RELEASE_MIN => RELEASE.problem(
                format!("Linux {release} lacks what a core's loop needs: 6.1 is the oldest"),
                "boot a kernel of 6.1 or newer: Debian 12, Ubuntu 24.04 and RHEL 10 have one",
            ),
            Some(version) if version < RELEASE_LONG_SLICE => RELEASE.ok(format!(
                "Linux {release}; from 6.12 on loops also get the long slices that they ask for"
            )),
            Some(_) => RELEASE.ok(format!("Linux {release}")),
        }
    }

    fn check_ring(&self) -> Finding {
        match &self.ring {
            RingProbe::Works => IO_URING.ok("set up with all that a core's loop needs"),
            RingProbe::TooOld => IO_URING.problem(
                "not tried: the kernel is older than 6.1",
                "boot a kernel of 6.1 or newer: Debian 12, Ubuntu 24.04 and RHEL 10 have one",
            ),
            RingProbe::Missing | RingProbe::Forbidden => self.check_refused_ring(),
            RingProbe::NoMemory => IO_URING.problem(
                "one ring is already more than the memory that this user may lock",
                "ulimit -l unlimited (as root); see memlock",
            ),
            RingProbe::Failed(error) => {
                IO_URING.problem(format!("setting it up failed: {error}"), "sudo dmesg | tail")
            }
        }
    }

    /// Which of the policies that can refuse it did.
    fn check_refused_ring(&self) -> Finding {
        match self.disabled {
            Some(2) => IO_URING.problem(
                "forbidden to everybody: kernel.io_uring_disabled is 2",
                "sudo sysctl -w kernel.io_uring_disabled=0",
            ),
            _ if self.filtered => IO_URING.problem(
                "forbidden by the seccomp filter of this process, as by the default one of most \
                 container runtimes",
                "docker run --security-opt seccomp=scripts/deploy/seccomp.json …",
            ),
            Some(1) => IO_URING.problem(
                "forbidden to this user: kernel.io_uring_disabled is 1",
                "sudo sysctl -w kernel.io_uring_disabled=0, or add the user to the group that \
                 sysctl kernel.io_uring_group names",
            ),
            _ if self.ring == RingProbe::Missing => IO_URING.problem(
                "this kernel was built without it",
                "boot a kernel with CONFIG_IO_URING=y",
            ),
            _ => IO_URING.problem(
                "forbidden, neither by kernel.io_uring_disabled nor by a seccomp filter: by a \
                 security module, then",
                "sudo ausearch -m avc -ts recent | grep io_uring",
            ),
        }
    }
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn kernel(release: &str, ring: RingProbe, disabled: Option<u64>, filtered: bool) -> Kernel {
        Kernel { release: Some(release.to_owned()), ring, disabled, filtered }
    }

    #[test]
    fn kernels_older_than_the_ring_needs_are_problems() {
        let verdict = |release| kernel(release, RingProbe::Works, None, false).check()[0].verdict;
        assert_eq!(verdict("5.15.0-91-generic"), Verdict::Problem);
        assert_eq!(verdict("6.0.19"), Verdict::Problem);
        assert_eq!(verdict("6.1.0-18-amd64"), Verdict::Ok);
        assert_eq!(verdict("10.0"), Verdict::Ok);
        assert_eq!(verdict("next"), Verdict::NotVisible);
        assert_eq!(verdict("99999999999.1"), Verdict::NotVisible);
    }

    #[test]
    fn refused_ring_is_put_down_to_the_policy_that_refused_it() {
        let found = |ring, disabled, filtered| {
            kernel("6.8", ring, disabled, filtered).check().remove(1).found
        };
        let forbidden = RingProbe::Forbidden;
        assert!(found(forbidden.clone(), Some(2), true).contains("io_uring_disabled is 2"));
        assert!(found(forbidden.clone(), Some(0), true).contains("seccomp"));
        assert!(found(forbidden.clone(), Some(1), false).contains("io_uring_disabled is 1"));
        assert!(found(forbidden, Some(0), false).contains("security module"));
        assert!(found(RingProbe::Missing, None, true).contains("seccomp"));
        assert!(found(RingProbe::Missing, None, false).contains("built without"));
        assert!(found(RingProbe::NoMemory, None, true).contains("may lock"));
        assert!(found(RingProbe::Failed("odd".into()), None, false).contains("odd"));
    }

    #[test]
    fn ring_of_this_host_is_really_set_up() {
        assert_eq!(RingProbe::run(), RingProbe::Works);
    }
}
