//! What the chosen cores share with others, and what they do when they have nothing to do.

use super::cores::{cores_of, difference};
use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::base::limits::HOST_IDLE_EXIT_US_MAX;
use crate::node::config::value::Cores;

const SIBLINGS: Check = Check::new(Subject::Processors, "siblings");
const NUMA: Check = Check::new(Subject::Processors, "numa");
const ISOLATION: Check = Check::new(Subject::Processors, "isolation");
const GOVERNOR: Check = Check::new(Subject::Processors, "governor");
const IDLE_STATES: Check = Check::new(Subject::Processors, "idle-states");

const CPU_FOLDER: &str = "/sys/devices/system/cpu";
const NODE_FOLDER: &str = "/sys/devices/system/node";

/// A state in which an idle core rests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct IdleState {
    name: String,
    /// How long it takes to leave it.
    exit_us: u64,
}

/// What there is to know of one core.
#[derive(Clone, Debug)]
struct Processor {
    number: u16,
    /// The threads of the same physical core, itself among them.
    siblings: Option<Cores>,
    governor: Option<String>,
    /// The enabled state that takes longest to leave.
    deepest: Option<IdleState>,
}

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Processors {
    chosen: Vec<Processor>,
    /// The memory nodes and their cores.
    nodes: Vec<(String, Cores)>,
    /// Cores that the scheduler gives to nobody who doesn't ask for them.
    isolated: Option<String>,
    /// Cores without a timer tick while one thread alone runs there.
    tickless: Option<String>,
}

impl Processors {
    pub(super) fn gather(tree: &Tree, chosen: &Cores) -> Self {
        let nodes = tree.names(NODE_FOLDER).into_iter().filter_map(|name| {
            let list = tree.text(format!("{NODE_FOLDER}/{name}/cpulist"))?;
            Some((name, Cores::parse(&list).ok()?))
        });
        Self {
            chosen: chosen.numbers().iter().map(|&number| processor(tree, number)).collect(),
            nodes: nodes.collect(),
            isolated: tree.text_or_nothing(format!("{CPU_FOLDER}/isolated")),
            tickless: tree.text_or_nothing(format!("{CPU_FOLDER}/nohz_full")),
        }
    }

    pub(super) fn check(&self, chosen: &Cores, online: Option<&Cores>) -> Vec<Finding> {
        vec![
            self.check_siblings(chosen),
            self.check_nodes(chosen),
            self.check_isolation(chosen, online),
            self.check_governor(),
            self.check_idle_states(),
        ]
    }

    /// Two loops on the threads of one core share its units and caches.
    fn check_siblings(&self, chosen: &Cores) -> Finding {
        let mut shared = Vec::new();
        let mut firsts = Vec::new();
        let mut beside = Vec::new();
        for processor in &self.chosen {
            let Some(siblings) = &processor.siblings else {
                return SIBLINGS.not_visible(format!(
                    "{CPU_FOLDER}/cpu{}/topology/thread_siblings_list",
                    processor.number
                ));
            };
            let mut together = siblings.numbers().iter();
            let first = together.find(|core| chosen.numbers().contains(core));
            if first.is_none_or(|first| *first == processor.number) {
                firsts.push(processor.number);
            } else {
                shared.push(processor.number);
            }
            beside.extend(difference(siblings, chosen));
        }
        beside.sort_unstable();
        beside.dedup();
        match (cores_of(&firsts), cores_of(&beside)) {
            (Some(firsts), _) if !shared.is_empty() => SIBLINGS.advice(
                "some of the chosen cores are threads of one physical core: their loops slow \
                 each other down",
                format!("p2pmap serve --cores {firsts} …"),
            ),
            (_, Some(beside)) => SIBLINGS.ok(format!(
                "each chosen core is a physical one of its own; best leave {beside} to nobody"
            )),
            _ => SIBLINGS.ok("each chosen core is a physical one of its own"),
        }
    }

    fn check_nodes(&self, chosen: &Cores) -> Finding {
        if self.nodes.is_empty() {
            return NUMA.not_visible(NODE_FOLDER);
        }
        let used: Vec<&(String, Cores)> = self
            .nodes
            .iter()
            .filter(|(_, cores)| difference(chosen, cores).len() < chosen.count())
            .collect();
        match used.as_slice() {
            [] => NUMA.not_visible(format!("{NODE_FOLDER}/node*/cpulist names no chosen core")),
            [(name, _)] => NUMA.ok(format!("all on {name}")),
            [(name, cores), ..] => NUMA.advice(
                format!(
                    "the chosen cores are on {} memory nodes: requests between them cross the \
                     link, and memory may be on the far side",
                    used.len()
                ),
                format!("p2pmap serve --cores {cores} … ({name}), or one node of p2pmap for each"),
            ),
        }
    }

    /// Worth it only where other cores are left for everything else.
    fn check_isolation(&self, chosen: &Cores, online: Option<&Cores>) -> Finding {
        let Some(isolated) = &self.isolated else {
            return ISOLATION.not_visible(format!("{CPU_FOLDER}/isolated"));
        };
        let lacks = |list: &str| match Cores::parse(list) {
            Ok(listed) => difference(chosen, &listed),
            Err(_) => chosen.numbers().to_vec(),
        };
        let (exposed, ticking) = (lacks(isolated), lacks(self.tickless.as_deref().unwrap_or("")));
        if exposed.is_empty() && ticking.is_empty() {
            return ISOLATION.ok("the chosen cores are isolated and without a timer tick");
        }
        if online.is_none_or(|online| difference(online, chosen).is_empty()) {
            return ISOLATION.ok("none: all cores are chosen, or none other is known");
        }
        let what = match (exposed.is_empty(), ticking.is_empty()) {
            (false, false) => "the scheduler puts others on the chosen cores, and they have a tick",
            (false, true) => "the scheduler puts others on the chosen cores",
            (true, _) => "the chosen cores are isolated, but have a timer tick",
        };
        ISOLATION.advice(
            what,
            format!(
                "kernel parameters isolcpus=domain,managed_irq,{chosen} nohz_full={chosen}, then \
                 taskset -c 0-{} p2pmap serve --cores {chosen} …",
                online.and_then(|online| online.numbers().last().copied()).unwrap_or_default()
            ),
        )
    }

    fn check_governor(&self) -> Finding {
        let known = self.chosen.iter().filter_map(|processor| processor.governor.as_deref());
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        known.dedup();
        match known.as_slice() {
            [] => GOVERNOR.not_visible(format!(
                "{CPU_FOLDER}/cpu*/cpufreq/scaling_governor (on a virtual machine the host decides)"
            )),
            ["performance"] => GOVERNOR.ok("performance"),
            others => GOVERNOR.advice(
                format!("{}: a core that was idle begins slowly", others.join(", ")),
                "sudo cpupower frequency-set -g performance",
            ),
        }
    }

    fn check_idle_states(&self) -> Finding {
        let states = self.chosen.iter().filter_map(|processor| processor.deepest.as_ref());
        let Some(deepest) = states.max_by_key(|state| state.exit_us) else {
            return IDLE_STATES.not_visible(format!(
                "{CPU_FOLDER}/cpu*/cpuidle (on a virtual machine the host decides)"
            ));
        };
        let found = format!("leaving {} takes {} µs", deepest.name, deepest.exit_us);
        if deepest.exit_us > HOST_IDLE_EXIT_US_MAX {
            return IDLE_STATES.advice(
                format!("{found}, on top of the first request after a pause"),
                format!(
                    "sudo cpupower idle-set -D {HOST_IDLE_EXIT_US_MAX}, or p2pmap serve --idle \
                     spin …, whose cores are never idle"
                ),
            );
        }
        IDLE_STATES.ok(found)
    }
}

fn processor(tree: &Tree, number: u16) -> Processor {
    let folder = format!("{CPU_FOLDER}/cpu{number}");
    let siblings = tree.text(format!("{folder}/topology/thread_siblings_list"));
    let idle = format!("{folder}/cpuidle");
    let states = tree.names(&idle).into_iter().filter_map(|state| {
        let of = |name: &str| format!("{idle}/{state}/{name}");
        let enabled = tree.number(of("disable")).is_none_or(|disabled| disabled == 0);
        let exit_us = tree.number(of("latency"))?;
        enabled.then(|| IdleState { name: tree.text(of("name")).unwrap_or(state.clone()), exit_us })
    });
    Processor {
        number,
        siblings: siblings.and_then(|list| Cores::parse(&list).ok()),
        governor: tree.text(format!("{folder}/cpufreq/scaling_governor")),
        deepest: states.max_by_key(|state| state.exit_us),
    }
}
