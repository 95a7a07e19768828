//! On which cores the devices that a node uses interrupt.

use std::path::{Path, PathBuf};

use super::block_device::Devices;
use super::cores::{cores_of, difference};
use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::base::limits::HOST_DEVICE_DEPTH_MAX;
use crate::node::config::value::Cores;

const DISK: Check = Check::new(Subject::Interrupts, "disk");
const NETWORK: Check = Check::new(Subject::Interrupts, "network");

const INTERRUPTS_FILE: &str = "/proc/interrupts";
const NETWORK_FOLDER: &str = "/sys/class/net";

/// A line of a device on which interrupts have come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    number: u32,
    cores: Cores,
}

/// A device and its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interrupting {
    name: String,
    lines: Vec<Line>,
}

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Interrupts {
    disks: Vec<Interrupting>,
    /// Network devices that are hardware, or a hypervisor's.
    networks: Vec<Interrupting>,
    /// Whether the kernel finishes synced writes on the core that the disk interrupts.
    needs_flush: bool,
}

impl Interrupts {
    pub(super) fn gather(tree: &Tree, devices: Option<&Devices>) -> Self {
        let used = used_lines(tree);
        let disks = devices.map_or(&[][..], |devices| &devices.disks).iter().filter_map(|disk| {
            let hardware = tree.resolve(disk.folder.join("device"))?;
            Some(interrupting(tree, &used, &disk.name, &hardware))
        });
        let networks = tree.names(NETWORK_FOLDER).into_iter().filter_map(|name| {
            let hardware = tree.resolve(format!("{NETWORK_FOLDER}/{name}/device"))?;
            let state = tree.text(format!("{NETWORK_FOLDER}/{name}/operstate"));
            (state.as_deref() != Some("down")).then(|| interrupting(tree, &used, &name, &hardware))
        });
        Self {
            disks: disks.collect(),
            networks: networks.collect(),
            needs_flush: devices.is_some_and(Devices::needs_flush),
        }
    }

    pub(super) fn check(&self, chosen: &Cores, online: Option<&Cores>) -> Vec<Finding> {
        let disk = judge(DISK, &self.disks, chosen, online, |found| {
            let harm = || format!("{found}, where the kernel also finishes durable writes");
            self.needs_flush.then(harm)
        });
        let network = judge(NETWORK, &self.networks, chosen, online, |found| {
            Some(format!("{found}: every packet holds up the loop there"))
        });
        vec![disk, network]
    }
}

/// `harm` says what is wrong with interrupts on a chosen core; none: nothing.
fn judge(
    check: Check,
    devices: &[Interrupting],
    chosen: &Cores,
    online: Option<&Cores>,
    harm: impl Fn(&str) -> Option<String>,
) -> Finding {
    let seen: Vec<&Interrupting> =
        devices.iter().filter(|device| !device.lines.is_empty()).collect();
    if seen.is_empty() {
        return check
            .not_visible(format!("{INTERRUPTS_FILE}, /proc/irq/*/effective_affinity_list"));
    }
    for device in &seen {
        let Some(hit) = cores_of(&overlap(&device.cores(), chosen)) else { continue };
        // With a line for each core there is nothing to choose: what a core asks for comes back to
        // itself.
        if online.is_some_and(|online| device.has_line_for_each(online)) {
            continue;
        }
        let found = format!("{} interrupts {}", device.name, named(&hit));
        if let Some(found) = harm(&found) {
            return check.advice(found, mend(device, &hit, chosen, online));
        }
    }
    let each = seen.iter().filter_map(|device| {
        Some(format!("{} interrupts {}", device.name, named(&cores_of(&device.cores())?)))
    });
    check.ok(each.collect::<Vec<_>>().join(", "))
}

/// Other cores for the node, or another core for the interrupts.
fn mend(device: &Interrupting, hit: &Cores, chosen: &Cores, online: Option<&Cores>) -> String {
    let rest = cores_of(&difference(chosen, hit));
    let spare = online.and_then(|online| cores_of(&difference(online, chosen)));
    let line = device.lines.iter().find(|line| !overlap(line.cores.numbers(), chosen).is_empty());
    match (spare, rest, line) {
        (Some(spare), _, Some(line)) => format!(
            "echo {spare} | sudo tee /proc/irq/{}/smp_affinity_list; where the driver refuses \
             that: p2pmap serve --cores LIST … without {hit}",
            line.number
        ),
        (_, Some(rest), _) => format!("p2pmap serve --cores {rest} …, if that is enough of them"),
        _ => "none here: there is no other core".to_owned(),
    }
}

fn named(cores: &Cores) -> String {
    if cores.count() == 1 { format!("core {cores}") } else { format!("cores {cores}") }
}

impl Interrupting {
    fn cores(&self) -> Vec<u16> {
        let mut cores: Vec<u16> =
            self.lines.iter().flat_map(|line| line.cores.numbers().iter().copied()).collect();
        cores.sort_unstable();
        cores.dedup();
        cores
    }

    fn has_line_for_each(&self, online: &Cores) -> bool {
        let on = self.cores();
        self.lines.len() >= online.count() && online.numbers().iter().all(|core| on.contains(core))
    }
}

fn overlap(cores: &[u16], chosen: &Cores) -> Vec<u16> {
    cores.iter().copied().filter(|core| chosen.numbers().contains(core)).collect()
}

/// The lines on which something has come, with what the kernel calls them.
fn used_lines(tree: &Tree) -> Vec<(u32, String)> {
    let table = tree.text(INTERRUPTS_FILE).unwrap_or_default();
    let cpu_count = table.lines().next().map_or(0, |head| head.split_whitespace().count());
    let line = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let mut words = rest.split_whitespace();
        let counts: Vec<u64> =
            words.by_ref().take(cpu_count).map_while(|count| count.parse().ok()).collect();
        let name = words.collect::<Vec<_>>().join(" ");
        counts.iter().any(|count| *count > 0).then_some((number, name))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// The lines of a piece of hardware: those that it or the bus above it lists, or, where none does,
/// those that bear its name.
fn interrupting(tree: &Tree, used: &[(u32, String)], name: &str, hardware: &Path) -> Interrupting {
    let own = hardware.file_name().and_then(|own| own.to_str()).unwrap_or_default();
    let bears = |text: &str, name: &str| {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        !name.is_empty() && words.any(|word| word == name)
    };
    let by_name = |wanted: &str| -> Vec<u32> {
        used.iter().filter(|(_, text)| bears(text, wanted)).map(|(number, _)| *number).collect()
    };
    let listed = listed_lines(tree, hardware);
    let numbers = [listed, by_name(own), by_name(name)]
        .into_iter()
        .find(|list| list.iter().any(|number| used.iter().any(|(used, _)| used == number)));
    // What only tells of a change in the device's settings is no traffic.
    let is_traffic = |number: &u32| {
        let found = used.iter().find(|(used, _)| used == number);
        found.is_some_and(|(_, text)| !text.ends_with("-config") && !text.ends_with("-mgmnt"))
    };
    let lines = numbers.unwrap_or_default().into_iter().filter(is_traffic).filter_map(|number| {
        let affinity = |file| tree.text(format!("/proc/irq/{number}/{file}"));
        let list = affinity("effective_affinity_list").or_else(|| affinity("smp_affinity_list"));
        Some(Line { number, cores: Cores::parse(&list?).ok()? })
    });
    Interrupting { name: name.to_owned(), lines: lines.collect() }
}

fn listed_lines(tree: &Tree, hardware: &Path) -> Vec<u32> {
    let above = hardware.ancestors().take(HOST_DEVICE_DEPTH_MAX);
    for folder in above.map(PathBuf::from) {
        let names = tree.names(folder.join("msi_irqs"));
        let numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        if !numbers.is_empty() {
            return numbers;
        }
        if let Some(number) = tree.number(folder.join("irq")).filter(|number| *number > 0) {
            return u32::try_from(number).into_iter().collect();
        }
    }
    Vec::new()
}
