use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::finding::{Subject, Verdict};
use super::kernel::RingProbe;
use super::report::{Place, Report};
use super::tree::Tree;
use super::{HostFacts, Probes, Wanted};
use crate::base::cast::{u64_from, usize_from};
use crate::base::prng::Prng;
use crate::node::config::value::Cores;

/// A host made of files.
#[derive(Clone, Debug, Default)]
struct Host {
    files: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
}

impl Host {
    fn with(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.to_owned(), content.as_bytes().to_vec());
        self
    }

    fn with_link(mut self, path: &str, target: &str) -> Self {
        self.links.insert(path.to_owned(), target.to_owned());
        self
    }

    fn without(mut self, prefix: &str) -> Self {
        self.files.retain(|path, _| !path.starts_with(prefix));
        self.links.retain(|path, _| !path.starts_with(prefix));
        self
    }

    fn report(&self, cores: &str, probes: Probes) -> Report {
        self.make().report(cores, probes)
    }

    fn works(&self, cores: &str) -> Report {
        self.report(cores, sound())
    }

    fn make(&self) -> Made {
        let made = Made { folder: tempfile::tempdir().unwrap() };
        for (path, content) in &self.files {
            fs::create_dir_all(made.at(path).parent().unwrap()).unwrap();
            fs::write(made.at(path), content).unwrap();
        }
        for (path, target) in &self.links {
            fs::create_dir_all(made.at(path).parent().unwrap()).unwrap();
            symlink(target, made.at(path)).unwrap();
        }
        made
    }
}

/// Its files, in a folder.
#[derive(Debug)]
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    fn report(&self, cores: &str, probes: Probes) -> Report {
        let wanted =
            Wanted { data_dir: "/data/p2pmap".into(), cores: Cores::parse(cores).unwrap() };
        let tree = Tree::new(self.folder.path());
        HostFacts::gather(&tree, &wanted, probes, Duration::ZERO).evaluate()
    }

    /// Whatever the files hold, there is a whole report, whose lines are printable.
    fn assert_whole(&self, cores: &str) {
        let table = self.report(cores, sound()).to_string();
        assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table:?}");
        for subject in Subject::ALL {
            assert!(table.lines().any(|line| line == subject.word()), "{table}");
        }
    }
}

fn sound() -> Probes {
    Probes { ring: RingProbe::Works, takes_direct_io: Some(true) }
}

/// Four cores of two threads each, the last two isolated for the node, an NVMe disk with a queue
/// for each of them, a network card that interrupts the first ones.
fn perfect() -> Host {
    let mut host = Host::default()
        .with("/proc/sys/kernel/osrelease", "6.12.9-amd64\n")
        .with("/proc/sys/kernel/io_uring_disabled", "0\n")
        .with(
            "/proc/self/status",
            "CapEff:\t0000000000000000\nSeccomp:\t0\nCpus_allowed_list:\t0-7\n",
        )
        .with(
            "/proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 524288               files     \n\
             Max locked memory         8388608              8388608              bytes     \n",
        )
        .with("/proc/self/cgroup", "0::/system.slice/p2pmap.service\n")
        .with("/sys/fs/cgroup/system.slice/p2pmap.service/cpu.max", "max 100000\n")
        .with(
            "/sys/fs/cgroup/system.slice/p2pmap.service/cpu.stat",
            "usage_usec 1\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
        )
        .with("/sys/devices/system/cpu/online", "0-7\n")
        .with("/sys/devices/system/cpu/isolated", "2-3,6-7\n")
        .with("/sys/devices/system/cpu/nohz_full", "2-3,6-7\n")
        .with("/sys/devices/system/node/node0/cpulist", "0-7\n")
        .with("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
        .with(
            "/sys/kernel/mm/transparent_hugepage/defrag",
            "always defer defer+madvise [madvise] never\n",
        )
        .with("/proc/swaps", "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n")
        .with("/proc/sys/vm/swappiness", "60\n")
        .with("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
        .with("/sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet\n")
        .with("/run/systemd/timesync/synchronized", "")
        .with("/proc/sys/net/core/somaxconn", "4096\n")
        .with("/proc/stat", &stat(8, 0))
        .with("/proc/pressure/cpu", "some avg10=0.00 avg60=0.10 avg300=0.00 total=1\n")
        .with("/proc/pressure/io", &pressure_of_io("0.00"));
    for core in 0..8 {
        let folder = format!("/sys/devices/system/cpu/cpu{core}");
        let siblings = format!("{},{}\n", core % 4, core % 4 + 4);
        host = host
            .with(&format!("{folder}/topology/thread_siblings_list"), &siblings)
            .with(&format!("{folder}/cpufreq/scaling_governor"), "performance\n")
            .with(&format!("{folder}/cpuidle/state0/name"), "POLL\n")
            .with(&format!("{folder}/cpuidle/state0/latency"), "0\n")
            .with(&format!("{folder}/cpuidle/state1/name"), "C1E\n")
            .with(&format!("{folder}/cpuidle/state1/latency"), "4\n")
            .with(&format!("{folder}/cpuidle/state2/name"), "C6\n")
            .with(&format!("{folder}/cpuidle/state2/latency"), "170\n")
            .with(&format!("{folder}/cpuidle/state2/disable"), "1\n");
    }
    with_network_card(with_nvme(host))
}

const NVME: &str = "/sys/devices/pci0000:00/0000:01:00.0";
const CARD: &str = "/sys/devices/pci0000:00/0000:02:00.0";

fn with_nvme(host: Host) -> Host {
    let disk = format!("{NVME}/nvme/nvme0/nvme0n1");
    let mut host = host
        .with(
            "/proc/self/mountinfo",
            "20 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
             21 20 259:3 / /data rw,noatime shared:2 - xfs /dev/nvme0n1p3 rw,attr2\n",
        )
        .with("/data/keep", "")
        .with(&format!("{disk}/queue/write_cache"), "write back\n")
        .with(&format!("{disk}/queue/fua"), "1\n")
        .with(&format!("{disk}/queue/rotational"), "0\n")
        .with(&format!("{disk}/queue/scheduler"), "[none] mq-deadline \n")
        .with(&format!("{disk}/nvme0n1p3/partition"), "3\n")
        .with_link(&format!("{disk}/device"), "..")
        .with_link(
            "/sys/dev/block/259:3",
            "../../devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p3",
        )
        .with_link(
            "/sys/class/block/nvme0n1p3",
            "../../devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p3",
        );
    for core in 0..8 {
        let number = 40 + core;
        host = host
            .with(&format!("{NVME}/msi_irqs/{number}"), "msix\n")
            .with(&format!("/proc/irq/{number}/effective_affinity_list"), &format!("{core}\n"));
    }
    host
}

fn with_network_card(host: Host) -> Host {
    let mut table =
        "            CPU0       CPU1       CPU2       CPU3       CPU4       CPU5       \
                     CPU6       CPU7\n"
            .to_owned();
    for core in 0..8 {
        table += &format!(
            " {}:  1 0 0 0 5 0 0 0  PCI-MSIX-0000:01:00.0  {core}-edge  nvme0q{core}\n",
            40 + core
        );
    }
    table += " 60:  9 0 0 0 0 0 0 0  PCI-MSIX-0000:02:00.0  0-edge  enp2s0-TxRx-0\n";
    table += "NMI:  1 1 1 1 1 1 1 1  Non-maskable interrupts\nERR:  0\n";
    host.with("/proc/interrupts", &table)
        .with(&format!("{CARD}/msi_irqs/60"), "msix\n")
        .with(&format!("{CARD}/net/enp2s0/operstate"), "up\n")
        .with_link(&format!("{CARD}/net/enp2s0/device"), "../..")
        .with_link("/sys/class/net/enp2s0", "../../devices/pci0000:00/0000:02:00.0/net/enp2s0")
        .with("/sys/class/net/lo/operstate", "unknown\n")
        .with("/proc/irq/60/effective_affinity_list", "0\n")
}

fn stat(core_count: u16, stolen: u64) -> String {
    let core = |core| format!("cpu{core} 100 0 50 9000 10 0 5 {stolen} 0 0\n");
    let cores: String = (0..core_count).map(core).collect();
    format!("cpu  800 0 400 72000 80 0 40 {stolen} 0 0\n{cores}intr 1\n")
}

fn pressure_of_io(full: &str) -> String {
    format!(
        "some avg10=0.00 avg60=50.00 avg300=0.00 total=1\n\
         full avg10=0.00 avg60={full} avg300=0.00 total=1\n"
    )
}

fn verdict(report: &Report, check: &str) -> Verdict {
    let found = report.findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("there is no check {check}")).verdict
}

fn found<'a>(report: &'a Report, check: &str) -> &'a str {
    &report.findings.iter().find(|finding| finding.check == check).unwrap().found
}

fn mend<'a>(report: &'a Report, check: &str) -> &'a str {
    let finding = report.findings.iter().find(|finding| finding.check == check).unwrap();
    finding.mend.as_deref().unwrap_or_default()
}

/// Asserts the verdicts of the checks that are named, and that all others are fine.
fn assert_verdicts(report: &Report, expected: &[(&str, Verdict)]) {
    for finding in &report.findings {
        let named = expected.iter().find(|(check, _)| *check == finding.check);
        let expected = named.map_or(Verdict::Ok, |(_, verdict)| *verdict);
        assert_eq!(finding.verdict, expected, "{finding:?}");
    }
    for (check, _) in expected {
        verdict(report, check);
    }
}

#[test]
fn nothing_is_wrong_with_a_perfect_host() {
    let report = perfect().works("2-3");
    assert_verdicts(&report, &[]);
    assert_eq!(report.place, Place::Host);
    assert!(found(&report, "device").contains("nvme0n1"), "{report}");
    assert!(found(&report, "siblings").contains("leave 6-7 to nobody"), "{report}");
    assert!(found(&report, "filesystem").contains("/data is on xfs (/data)"), "{report}");
}

/// All that one shouldn't serve from.
fn laptop() -> Host {
    let disk = "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda";
    let mut laptop = perfect()
        .without("/proc/self/mountinfo")
        .without("/run/systemd")
        .with("/proc/sys/kernel/osrelease", "5.15.0-91-generic\n")
        .with(
            "/proc/self/limits",
            "Max open files            1024                 4096                 files     \n\
             Max locked memory         65536                65536                bytes     \n",
        )
        .with("/proc/self/mountinfo", "20 1 0:31 /@ / rw - btrfs /dev/sda1 rw,discard,subvol=/@\n")
        .with_link("/sys/class/block/sda1", &format!("../../..{disk}/sda1"))
        .with(&format!("{disk}/sda1/partition"), "1\n")
        .with(&format!("{disk}/queue/rotational"), "1\n")
        .with(&format!("{disk}/queue/write_cache"), "write back\n")
        .with(&format!("{disk}/queue/fua"), "0\n")
        .with(&format!("{disk}/queue/scheduler"), "none mq-deadline [bfq]\n")
        .with_link(&format!("{disk}/device"), "../..")
        .with("/sys/devices/pci0000:00/0000:00:17.0/msi_irqs/60", "msi\n")
        .with("/sys/devices/system/cpu/isolated", "\n")
        .without("/sys/devices/system/cpu/nohz_full")
        .with("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
        .with(
            "/sys/kernel/mm/transparent_hugepage/defrag",
            "[always] defer defer+madvise madvise never\n",
        )
        .with("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2\n")
        .with("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n")
        .with("/proc/sys/net/core/somaxconn", "128\n")
        .with("/proc/stat", &stat(8, 1_000))
        .with("/proc/pressure/cpu", "some avg10=0.00 avg60=45.00 avg300=0.00 total=1\n")
        .with("/proc/pressure/io", &pressure_of_io("12.50"));
    for core in 0..8 {
        let folder = format!("/sys/devices/system/cpu/cpu{core}");
        laptop = laptop
            .with(&format!("{folder}/cpufreq/scaling_governor"), "powersave\n")
            .with(&format!("{folder}/cpuidle/state2/disable"), "0\n");
    }
    laptop
}

#[test]
fn everything_that_is_wrong_with_a_laptop_is_said_with_what_mends_it() {
    let probes = Probes { ring: RingProbe::TooOld, takes_direct_io: Some(false) };
    let report = laptop().report("0,4", probes);
    use Verdict::{Advice, NotVisible, Problem};
    assert_verdicts(
        &report,
        &[
            ("release", Problem),
            ("io_uring", Problem),
            ("memlock", Problem),
            ("nofile", Advice),
            ("siblings", Advice),
            ("isolation", Advice),
            ("governor", Advice),
            ("idle-states", Advice),
            ("huge-pages", Advice),
            ("swap", Advice),
            ("filesystem", Problem),
            ("mount-options", Advice),
            ("direct-io", Problem),
            ("device", Problem),
            ("write-cache", Advice),
            ("scheduler", Advice),
            ("disk", Advice),
            ("network", Advice),
            ("source", Problem),
            ("synchronised", NotVisible),
            ("backlog", Advice),
            ("steal", Advice),
            ("cpu-pressure", Advice),
            ("io-pressure", Advice),
        ],
    );
    assert!(report.has_problems());
    let unmended = report.findings.iter().filter(|finding| {
        finding.verdict >= Advice && finding.mend.as_ref().is_none_or(String::is_empty)
    });
    assert_eq!(unmended.count(), 0, "{report}");
    assert_eq!(mend(&report, "siblings"), "p2pmap serve --cores 0 …");
    assert!(mend(&report, "source").starts_with("echo tsc | sudo tee"), "{report}");
    assert!(mend(&report, "disk").starts_with("echo 1-3,5-7 | sudo tee /proc/irq/60/"), "{report}");
    assert!(mend(&report, "isolation").contains("isolcpus=domain,managed_irq,0,4"), "{report}");
    assert!(found(&report, "idle-states").contains("C6 takes 170"), "{report}");
}

#[test]
fn container_without_sys_says_what_it_hides_and_finds_what_it_does_not() {
    let container = perfect()
        .without("/sys")
        .without("/run")
        .with("/.dockerenv", "")
        .with("/proc/self/mountinfo", "20 1 0:50 / / rw - overlay overlay rw,lowerdir=/a\n")
        .with(
            "/proc/self/status",
            "CapEff:\t00000000a80425fb\nSeccomp:\t2\nCpus_allowed_list:\t0-1\n",
        )
        .with("/proc/self/cgroup", "0::/\n")
        .without("/proc/pressure");
    let probes = Probes { ring: RingProbe::Forbidden, takes_direct_io: None };
    let report = container.report("0-1", probes);
    assert_eq!(report.place, Place::Container);
    use Verdict::{NotVisible, Problem};
    let hidden = [
        "quota",
        "throttling",
        "siblings",
        "numa",
        "isolation",
        "governor",
        "idle-states",
        "huge-pages",
        "direct-io",
        "device",
        "write-cache",
        "scheduler",
        "disk",
        "network",
        "source",
        "synchronised",
        "cpu-pressure",
        "io-pressure",
    ];
    let mut expected: Vec<_> = hidden.map(|check| (check, NotVisible)).to_vec();
    expected.extend([("io_uring", Problem), ("filesystem", Problem)]);
    assert_verdicts(&report, &expected);
    assert!(found(&report, "io_uring").contains("seccomp"), "{report}");
    assert!(mend(&report, "io_uring").contains("seccomp=scripts/deploy/seccomp.json"), "{report}");
    for check in hidden {
        assert!(found(&report, check).starts_with("not visible from this container: "));
    }
}

#[test]
fn quotas_of_both_cgroup_versions_are_found_with_those_above_them() {
    let own = "/sys/fs/cgroup/system.slice/p2pmap.service";
    let second = perfect()
        .with(&format!("{own}/cpu.max"), "400000 100000\n")
        .with("/sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n")
        .with(&format!("{own}/cpu.stat"), "nr_throttled 7\nthrottled_usec 12345\n");
    let report = second.works("2-3");
    let expected = [("quota", Verdict::Problem), ("throttling", Verdict::Advice)];
    assert_verdicts(&report, &expected);
    assert!(found(&report, "quota").starts_with("1.50 cores for 2 chosen"), "{report}");
    assert!(mend(&report, "quota").contains("/sys/fs/cgroup/system.slice/cpu.max"), "{report}");
    assert!(found(&report, "throttling").contains("7 times so far, for 12 ms"), "{report}");

    let first = perfect()
        .without("/sys/fs/cgroup")
        .with("/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/cpu.stat", "nr_throttled 0\nthrottled_time 0\n");
    let report = first.works("2-3");
    assert_verdicts(&report, &[("quota", Verdict::Advice)]);
    assert!(found(&report, "quota").starts_with("2.50 cores"), "{report}");
    let unlimited = first.with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    assert_verdicts(&unlimited.works("2-3"), &[]);
}

#[test]
fn device_mapper_is_followed_down_to_the_disk_and_judged_by_its_own_queue() {
    let mapper = "/sys/devices/virtual/block/dm-0";
    let partition = "../../../../pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p3";
    let host = perfect()
        .with("/proc/self/mountinfo", "20 1 254:0 / / rw - ext4 /dev/mapper/vg-data rw\n")
        .with_link("/sys/dev/block/254:0", "../../devices/virtual/block/dm-0")
        .with(&format!("{mapper}/dm/name"), "vg-data\n")
        .with(&format!("{mapper}/queue/write_cache"), "write back\n")
        .with(&format!("{mapper}/queue/fua"), "0\n")
        .with_link(&format!("{mapper}/slaves/nvme0n1p3"), partition);
    let report = host.works("2-3");
    assert_verdicts(&report, &[("write-cache", Verdict::Advice)]);
    assert_eq!(found(&report, "device"), "dm-0 on nvme0n1");
    assert_eq!(found(&report, "scheduler"), "nvme0n1: none");
    assert!(found(&report, "write-cache").starts_with("dm-0: write back without FUA"), "{report}");
    let around = host.with_link(&format!("{mapper}/slaves/self"), "..");
    assert!(!around.works("2-3").has_problems(), "devices in a circle come to an end");
}

#[test]
fn partition_of_a_virtual_disk_is_found_with_the_core_that_it_interrupts() {
    let disk = "/sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda";
    let table = "           CPU0       CPU1\n\
                 35:          0          3 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config\n\
                 36:          0    3891743 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n";
    let host = perfect()
        .without("/sys/class/net")
        .with("/sys/devices/system/cpu/online", "0-1\n")
        .with("/proc/self/mountinfo", "20 1 253:1 / / rw - ext4 /dev/root rw,data=journal\n")
        .with_link("/sys/dev/block/253:1", &format!("../../..{disk}/vda1"))
        .with(&format!("{disk}/vda1/partition"), "1\n")
        .with(&format!("{disk}/queue/rotational"), "1\n")
        .with(&format!("{disk}/queue/write_cache"), "write back\n")
        .with(&format!("{disk}/queue/fua"), "0\n")
        .with(&format!("{disk}/queue/scheduler"), "[mq-deadline] none\n")
        .with_link(&format!("{disk}/device"), "../..")
        .with("/proc/interrupts", table)
        .with("/proc/irq/35/smp_affinity_list", "0-1\n")
        .with("/proc/irq/36/effective_affinity_list", "1\n");
    use Verdict::{Advice, NotVisible, Problem};
    let expected = [
        ("write-cache", Advice),
        ("network", NotVisible),
        ("mount-options", Problem),
        ("disk", Advice),
        ("isolation", Verdict::Ok),
    ];
    let report = host.works("0-1");
    assert_verdicts(&report, &expected);
    assert!(found(&report, "disk").starts_with("vda interrupts core 1,"), "{report}");
    assert_eq!(mend(&report, "disk"), "p2pmap serve --cores 0 …, if that is enough of them");
    assert_eq!(found(&report, "device"), "vda", "a hypervisor's `rotational` says nothing");
    // By the numbers that the bus lists it is the same, and off that core nothing is wrong.
    let listed = host.with("/sys/devices/pci0000:00/0000:00:02.0/msi_irqs/36", "msix\n");
    assert_eq!(verdict(&listed.works("1"), "disk"), Advice);
    assert_eq!(verdict(&listed.works("0"), "disk"), Verdict::Ok);
}

#[test]
fn every_filesystem_is_judged_by_what_it_keeps() {
    let on = |kind: &str, options: &str| {
        let line = format!("20 1 0:1 / / {options} - {kind} none rw\n");
        perfect().with("/proc/self/mountinfo", &line).works("2-3")
    };
    for (kind, expected) in [
        ("ext4", Verdict::Ok),
        ("tmpfs", Verdict::Problem),
        ("zfs", Verdict::Problem),
        ("overlay", Verdict::Problem),
        ("nfs4", Verdict::Advice),
        ("fuse.sshfs", Verdict::Advice),
        ("f2fs", Verdict::Advice),
    ] {
        assert_eq!(verdict(&on(kind, "rw"), "filesystem"), expected, "{kind}");
    }
    assert!(found(&on("ext4", "ro"), "filesystem").contains("read-only"));
    assert_eq!(verdict(&on("ext4", "rw,nobarrier"), "mount-options"), Verdict::Problem);
}

#[test]
fn cores_on_two_memory_nodes_are_worth_advice() {
    let host = perfect()
        .with("/sys/devices/system/node/node0/cpulist", "0-1,4-5\n")
        .with("/sys/devices/system/node/node1/cpulist", "2-3,6-7\n")
        .with("/sys/devices/system/cpu/isolated", "1-3,5-7\n")
        .with("/sys/devices/system/cpu/nohz_full", "1-3,5-7\n");
    assert_verdicts(&host.works("2-3"), &[]);
    assert_verdicts(&host.works("1-2"), &[("numa", Verdict::Advice)]);
}

#[test]
fn host_that_shows_nothing_has_a_finding_for_each_check_and_no_problem_but_the_trials() {
    let report = Host::default().report("0", sound());
    let count = perfect().works("2-3").findings.len();
    assert_eq!(report.findings.len(), count);
    for finding in report.findings.iter().filter(|finding| finding.check != "io_uring") {
        let visible = finding.check == "direct-io";
        let expected = if visible { Verdict::Ok } else { Verdict::NotVisible };
        assert_eq!(finding.verdict, expected, "{finding:?}");
    }
    for subject in Subject::ALL {
        assert!(report.findings.iter().any(|finding| finding.subject == subject), "{subject}");
    }
}

#[test]
fn garbage_in_every_file_never_does_harm() {
    let mut prng = Prng::new(7, "garbage");
    let host = perfect();
    let made = host.make();
    for round in 0..30 {
        for (path, content) in &host.files {
            let garbage: Vec<u8> = match round % 3 {
                0 => (0..prng.below(300)).map(|_| prng.below(256).to_le_bytes()[0]).collect(),
                1 => mutated(&mut prng, content),
                _ => mutated(&mut prng, b""),
            };
            fs::write(made.at(path), garbage).unwrap();
        }
        made.assert_whole("1-2");
    }
}

/// What it was, with a few bytes added or cut off.
fn mutated(prng: &mut Prng, content: &[u8]) -> Vec<u8> {
    const NASTY: [&str; 8] = ["18446744073709551615", "-1", " ", "\n", "\\", "0-65535", "é", "[]"];
    let mut bytes = content.to_vec();
    for _ in 0..=prng.below(3) {
        let at = usize_from(prng.below(u64_from(bytes.len()) + 1));
        match prng.below(3) {
            0 => bytes.truncate(at),
            1 => {
                let nasty = NASTY[usize_from(prng.below(u64_from(NASTY.len())))];
                bytes.splice(at..at, nasty.bytes());
            }
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

#[test]
fn each_file_alone_may_be_missing_or_cut_anywhere() {
    let host = perfect();
    let made = host.make();
    for (path, content) in &host.files {
        fs::write(made.at(path), &content[..content.len() / 2]).unwrap();
        made.assert_whole("1-2");
        fs::remove_file(made.at(path)).unwrap();
        made.assert_whole("0");
        fs::write(made.at(path), content).unwrap();
    }
}

#[test]
fn folders_in_the_place_of_files_are_passed_over() {
    let host = Host::default()
        .with("/proc/self/status/x", "")
        .with("/proc/stat/x", "")
        .with("/proc/interrupts/x", "")
        .with("/sys/class/net", "a file");
    host.make().assert_whole("0");
}
