//! Whoever does harm: draws a fault, does it, undoes it, and waits until all nodes are well again.
//!
//! Faults come one after the other, so what one of them allows (see
//! [`FaultClass::demands_progress`]) is all that is allowed meanwhile.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use super::fault::{Fault, FaultClass};
use super::nodes::Nodes;
use super::record::Record;
use super::{ChaosError, Interruption, Settings};
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::client::cluster::ClusterClient;
use crate::proto::p2pmap::v1::partition_status::Activity;
use crate::sim::checker::{Checker, Violation};

/// How often it is looked after the nodes.
const LOOK: Duration = Duration::from_millis(20);
/// The shortest and the longest time between two faults.
const CALM_MS: (u64, u64) = (200, 2_000);
/// How long a node may take to be ready, and to end in good order.
const READY_NS_MAX: u64 = 60 * NS_PER_S;
const END_NS_MAX: u64 = 30 * NS_PER_S;
/// How long it may take to say how it stands.
const STATUS_WAIT: Duration = Duration::from_secs(2);
/// Between two cuts.
const CUT_EVERY_MS: u64 = 300;
/// How long a node of those that stutter stands still, and goes on for, the shortest and the
/// longest time each.
const STANDSTILL_MS: (u64, u64) = (50, 350);
const STRIDE_MS: (u64, u64) = (5, 60);
/// How exactly.
const STEP: Duration = Duration::from_millis(5);
/// A file that takes all the room of a filesystem.
const BALLAST: &str = "ballast";

/// A fault that was.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) class: FaultClass,
    pub(super) what: String,
    pub(super) begun: Monotonic,
    /// When it was undone.
    pub(super) healed: Monotonic,
    /// When all nodes were ready again.
    pub(super) well: Monotonic,
}

/// The one who does harm.
#[derive(Debug)]
pub(super) struct Nemesis<'a> {
    pub(super) settings: &'a Settings,
    pub(super) record: &'a Arc<Record>,
    pub(super) nodes: &'a mut Nodes,
    pub(super) interruption: &'a Interruption,
    pub(super) prng: Prng,
    pub(super) events: Vec<Event>,
    pub(super) violations: Vec<Violation>,
}

impl Nemesis<'_> {
    /// Does harm until then, or until a node has ended by itself, or somebody interrupts. In the
    /// end nothing is wrong any more.
    pub(super) fn run(
        &mut self,
        until: Monotonic,
        mut tell: impl FnMut(&Event),
    ) -> Result<(), ChaosError> {
        let classes = self.settings.faults_here();
        while !classes.is_empty() {
            let calm = CALM_MS.0 + self.prng.below(CALM_MS.1 - CALM_MS.0);
            if !self.watch(Duration::from_millis(calm), &[]) || self.record.now() >= until {
                return Ok(());
            }
            let fault = Fault::draw(&mut self.prng, &classes, self.nodes.node_count());
            let what = fault.describe(|place| self.nodes.name(place).to_owned());
            let begun = self.record.now();
            self.begin(&fault)?;
            self.last(&fault);
            let healed = self.record.now();
            self.heal(&fault)?;
            let mut is_well = self.wait_until_ready()?;
            if fault.class == FaultClass::Replace {
                // Until then it holds nothing, and others that fail would be too many.
                is_well = is_well && self.wait_until_caught_up(&fault.nodes);
            }
            let event = Event { class: fault.class, what, begun, healed, well: self.record.now() };
            tell(&event);
            self.events.push(event);
            if !is_well {
                return Ok(());
            }
        }
        // There are no faults: the load is all there is.
        let left = Duration::from_nanos(until.since_ns(self.record.now()));
        self.watch(left, &[]);
        Ok(())
    }

    fn begin(&mut self, fault: &Fault) -> Result<(), ChaosError> {
        if fault.class.ends_processes() {
            fault.nodes.iter().for_each(|place| self.nodes.count(*place));
        }
        if let FaultClass::Kill | FaultClass::Replace | FaultClass::Blackout = fault.class {
            self.nodes.kill(&fault.nodes);
        }
        fault.nodes.iter().try_for_each(|place| self.begin_at(fault.class, *place))?;
        fault.heard.iter().try_for_each(|heard| self.nodes.network().set(heard))
    }

    /// Does to one node what is done to each for itself.
    fn begin_at(&mut self, class: FaultClass, place: usize) -> Result<(), ChaosError> {
        match class {
            FaultClass::Pause => self.nodes.signal(place, Signal::STOP),
            FaultClass::Restart => self.nodes.signal(place, Signal::TERM),
            FaultClass::Cores => {
                self.change_cores(place);
                match self.prng.one_in(2) {
                    true => self.nodes.kill(&[place]),
                    false => self.nodes.signal(place, Signal::TERM),
                }
            }
            FaultClass::DiskFull => self.fill(place)?,
            FaultClass::HalfOpen => self.nodes.network().half_open(place),
            FaultClass::LinkDown => self.nodes.network().take_down(place)?,
            _ => {}
        }
        Ok(())
    }

    /// The node's next start is on other cores than its last one.
    fn change_cores(&mut self, place: usize) {
        let Settings { cores, other_cores, .. } = self.settings;
        let own = &cores[place % cores.len()];
        let next = match other_cores {
            Some(other) if self.nodes.cores(place) == own => other,
            _ => own,
        };
        self.nodes.set_cores(place, next);
    }

    /// While it lasts.
    fn last(&mut self, fault: &Fault) {
        let ends_by_itself = matches!(fault.class, FaultClass::Restart | FaultClass::Cores);
        let ending: &[usize] = if ends_by_itself { &fault.nodes } else { &[] };
        match fault.class {
            FaultClass::Cut => self.cut_again_and_again(fault.duration),
            FaultClass::Stutter => self.stutter(fault.duration),
            _ => {
                self.watch(fault.duration, ending);
            }
        }
    }

    fn cut_again_and_again(&mut self, time: Duration) {
        let cuts = Duration::from_millis(CUT_EVERY_MS);
        for _ in 0..time.as_millis() / cuts.as_millis() {
            self.nodes.network().cut(self.prng.next_u64());
            if !self.watch(cuts, &[]) {
                return;
            }
        }
    }

    /// Each node stands still and goes on in its own time.
    fn stutter(&mut self, time: Duration) {
        // How often it is drawn from depends on the machine: what comes after this must not.
        let mut prng = Prng::new(self.prng.next_u64(), "stutter");
        let mut draw = |(least, most): (u64, u64)| (least + prng.below(most - least)) * NS_PER_MS;
        let begun = self.record.now();
        let until = begun.after_ns(ns_of(time));
        let mut nodes = vec![(begun, false); self.nodes.node_count()];
        while self.record.now() < until && self.watch(STEP, &[]) {
            let now = self.record.now();
            for (place, (due, is_still)) in nodes.iter_mut().enumerate() {
                if *due <= now {
                    *is_still = !*is_still;
                    let signal = if *is_still { Signal::STOP } else { Signal::CONT };
                    self.nodes.signal(place, signal);
                    *due = now.after_ns(draw(if *is_still { STANDSTILL_MS } else { STRIDE_MS }));
                }
            }
        }
        (0..nodes.len()).for_each(|place| self.nodes.signal(place, Signal::CONT));
    }

    /// Undoes it.
    pub(super) fn heal(&mut self, fault: &Fault) -> Result<(), ChaosError> {
        self.nodes.network().heal()?;
        for &place in &fault.nodes {
            match fault.class {
                FaultClass::Pause => self.nodes.signal(place, Signal::CONT),
                FaultClass::DiskFull => {
                    let path = self.ballast(place);
                    fs::remove_file(&path).map_err(|error| ChaosError::file(&path, error))?;
                }
                FaultClass::Restart | FaultClass::Cores => self.await_end(place),
                FaultClass::Replace => self.nodes.replace(place)?,
                _ => {}
            }
            if !self.nodes.is_running(place) && self.violations.is_empty() {
                self.nodes.start(place)?;
            }
        }
        Ok(())
    }

    fn ballast(&self, place: usize) -> PathBuf {
        self.nodes.folder(place).join(BALLAST)
    }

    /// Takes all the room of a node's filesystem.
    fn fill(&self, place: usize) -> Result<(), ChaosError> {
        let path = self.ballast(place);
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let mut file = opened.map_err(|error| ChaosError::file(&path, error))?;
        for chunk in [vec![1; 1 << 20], vec![1; 4 << 10]] {
            // It ends with the error that it is there for: no space is left.
            while file.write_all(&chunk).is_ok() {}
        }
        Ok(())
    }

    /// Waits for the end of a node that was asked to end.
    pub(super) fn await_end(&mut self, place: usize) {
        let by = self.record.now().after_ns(END_NS_MAX);
        while self.nodes.is_running(place) {
            if let Some(status) = self.nodes.take_ended(place) {
                if !status.success() {
                    self.has_ended(place, &status.to_string());
                }
                return;
            }
            if self.record.now() > by {
                let what = format!(
                    "node {} doesn't end within {} s:{}",
                    self.nodes.name(place),
                    END_NS_MAX / NS_PER_S,
                    self.nodes.last_words(place)
                );
                self.violate(Checker::Progress, what);
                self.nodes.kill(&[place]);
                return;
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Lets time pass. False: it is time to stop. `ending` were asked to end.
    pub(super) fn watch(&mut self, time: Duration, ending: &[usize]) -> bool {
        let until = self.record.now().after_ns(ns_of(time));
        loop {
            for place in (0..self.nodes.node_count()).filter(|place| !ending.contains(place)) {
                if let Some(status) = self.nodes.take_ended(place) {
                    self.has_ended(place, &status.to_string());
                }
            }
            if !self.violations.is_empty() || self.interruption.is_asked() {
                return false;
            }
            let left_ns = until.since_ns(self.record.now());
            if left_ns == 0 {
                return true;
            }
            std::thread::park_timeout(LOOK.min(Duration::from_nanos(left_ns)));
        }
    }

    /// Waits until all nodes are ready. False: it is time to stop.
    pub(super) fn wait_until_ready(&mut self) -> Result<bool, ChaosError> {
        let by = self.record.now().after_ns(READY_NS_MAX);
        loop {
            if !self.watch(LOOK, &[]) {
                return Ok(false);
            }
            let waits = (0..self.nodes.node_count()).find(|place| !self.nodes.is_ready(*place));
            let Some(place) = waits else { return Ok(true) };
            if self.record.now() > by {
                let what = format!(
                    "node {} isn't ready within {} s:{}",
                    self.nodes.name(place),
                    READY_NS_MAX / NS_PER_S,
                    self.nodes.last_words(place)
                );
                self.violate(Checker::Progress, what);
                return Ok(false);
            }
        }
    }

    /// Waits until nodes are part of the views of all their partitions. False: it is time to stop.
    fn wait_until_caught_up(&mut self, places: &[usize]) -> bool {
        let by = self.record.now().after_ns(READY_NS_MAX);
        let normal = i32::from(Activity::Normal);
        for &place in places {
            let address = self.nodes.addresses().swap_remove(place);
            let mut client = ClusterClient::new(vec![address], STATUS_WAIT);
            let mut is_caught_up = || {
                let status = client.status(true);
                status.is_ok_and(|status| {
                    status.partitions.iter().all(|partition| partition.activity == normal)
                })
            };
            while !is_caught_up() {
                if !self.watch(LOOK, &[]) {
                    return false;
                }
                if self.record.now() > by {
                    let name = self.nodes.name(place);
                    let limit = READY_NS_MAX / NS_PER_S;
                    let what = format!("node {name} hasn't caught up within {limit} s");
                    self.violate(Checker::Progress, what);
                    return false;
                }
            }
        }
        true
    }

    fn has_ended(&mut self, place: usize, how: &str) {
        let what = format!(
            "node {} has ended by itself ({how}):{}",
            self.nodes.name(place),
            self.nodes.last_words(place)
        );
        self.violate(Checker::Panic, what);
    }

    pub(super) fn violate(&mut self, checker: Checker, what: String) {
        self.violations.push(Violation::new(checker, what).at(self.record.now()));
    }
}

fn ns_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
