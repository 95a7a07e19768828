//! How the time is read, and whether something keeps it right.

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;

const SOURCE: Check = Check::new(Subject::Clock, "source");
const SYNCHRONISED: Check = Check::new(Subject::Clock, "synchronised");

const SOURCE_FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
/// There once the clock was set from the network.
const TIMESYNCD_FILE: &str = "/run/systemd/timesync/synchronized";
/// There while the daemon runs.
const DAEMON_FILES: [&str; 4] =
    ["/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid", "/run/openntpd.pid"];

/// Sources that are read without a system call.
const FAST: [&str; 5] =
    ["tsc", "kvm-clock", "xen", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
/// Sources whose every reading is one, and an access to a slow device besides.
const SLOW: [&str; 5] = ["hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies"];

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct TimeKeeping {
    source: Option<String>,
    available: String,
    synchronised: bool,
    daemon: bool,
}

impl TimeKeeping {
    pub(super) fn gather(tree: &Tree) -> Self {
        let available = tree.text(format!("{SOURCE_FOLDER}/available_clocksource"));
        Self {
            source: tree.text(format!("{SOURCE_FOLDER}/current_clocksource")),
            available: available.unwrap_or_default(),
            synchronised: tree.has(TIMESYNCD_FILE),
            daemon: DAEMON_FILES.iter().any(|file| tree.has(file)),
        }
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        vec![self.check_source(), self.check_synchronised()]
    }

    /// A loop reads the clock in every turn.
    fn check_source(&self) -> Finding {
        let Some(source) = &self.source else {
            return SOURCE.not_visible(format!("{SOURCE_FOLDER}/current_clocksource"));
        };
        if FAST.contains(&source.as_str()) {
            return SOURCE.ok(source.clone());
        }
        if !SLOW.contains(&source.as_str()) {
            return SOURCE.not_visible(format!("whether {source} is read without a system call"));
        }
        let better = FAST.iter().find(|fast| self.available.split(' ').any(|name| name == **fast));
        let mend = match better {
            Some(better) => {
                format!("echo {better} | sudo tee {SOURCE_FOLDER}/current_clocksource")
            }
            None => "sudo dmesg | grep -i -e tsc -e clocksource: why the kernel gave tsc up".into(),
        };
        SOURCE.problem(
            format!("{source}: each turn of a loop reads it by a system call from a slow device"),
            mend,
        )
    }

    fn check_synchronised(&self) -> Finding {
        if self.synchronised {
            return SYNCHRONISED.ok("set from the network by systemd-timesyncd");
        }
        if self.daemon {
            return SYNCHRONISED.ok("a time daemon runs; ask it how far off it is");
        }
        SYNCHRONISED.not_visible(format!("{TIMESYNCD_FILE}, or a time daemon's pid file"))
    }
}
