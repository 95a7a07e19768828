//! A disk that is again what it was a while ago: a restored backup, or a cloned volume.
//!
//! What a member has promised since is lost, and only others can know it, those that have met its
//! later process and remember: not even a majority has to. So that a majority without a loss must
//! get on whatever happens, it happens here only when all others do remember, and until the member
//! has begun a new life no process ends, and none forgets. What is left to be shown is that then
//! nothing goes wrong: the member says something wrong to nobody who believes it.

use super::Cluster;
use crate::base::ids::{BootEpoch, NodeId};
use crate::sim::checker::{Checker, Violation};
use crate::sim::disk::{Crash, Directory};
use crate::sim::fault::Fault;
use crate::sim::node::Node;
use crate::storage::identity::{Boot, Current};

/// What a disk was.
#[derive(Debug)]
pub(super) struct Image {
    place: usize,
    directory: Directory,
    boot_epoch: BootEpoch,
    shard_count: u16,
}

impl Image {
    /// `None`: no process is at work on the disk, or it holds what a start may refuse.
    fn of(place: usize, node: &Node) -> Option<Self> {
        let directory = node.disk.image();
        let boot_epoch = Boot::decode(&directory.boot).ok()?.boot_epoch;
        let shard_count = Current::decode(&directory.current).ok()?.shard_count;
        let is_sound = node.is_serving() && node.is_whole();
        is_sound.then_some(Self { place, directory, boot_epoch, shard_count })
    }
}

impl Cluster {
    /// Whether a fault may happen now for all that nobody has noticed yet of a disk that went back
    /// in time.
    pub(super) fn lets_happen(&self, fault: Fault) -> bool {
        let ends_no_process = matches!(
            fault,
            Fault::Pause
                | Fault::Break
                | Fault::Partition
                | Fault::OneWay
                | Fault::Clog
                | Fault::SlowDisk
                | Fault::FullDisk
                | Fault::ClockJump
                | Fault::LostCommand
                | Fault::Transfer
        );
        ends_no_process || self.nodes.iter().all(|node| !node.is_rolled_back())
    }

    /// Rolls a disk back to its image, if all others know of what came after it; or, if there is
    /// none, takes one of a node's disk, and ends the process that is at work on it. What it did.
    pub(super) fn roll_back(&mut self, place: usize) -> Option<String> {
        let place = self.image.as_ref().map_or(place, |image| image.place);
        if !self.may_lose(place) {
            return None;
        }
        let Self { world, nodes, image, .. } = self;
        let Some(Image { boot_epoch, shard_count, .. }) = image else {
            *image = Image::of(place, &nodes[place]);
            return image.is_some().then(|| {
                nodes[place].crash(world, Crash::Process);
                "is copied".to_owned()
            });
        };
        let node = NodeId(nodes[place].id.0);
        let life = nodes[place].process().filter(|life| *boot_epoch < life.boot_epoch)?;
        let is_witnessed = nodes.iter().enumerate().all(|(other, found)| {
            found.is_serving()
                && !found.disk.will_fail()
                && (other == place || found.has_met(node, life))
        });
        let is_possible = *shard_count == nodes[place].shard_count && nodes[place].is_whole();
        let Image { directory, .. } = image.take_if(|_| is_witnessed && is_possible)?;
        nodes[place].roll_back_disk(directory, world);
        world.report.mark("disk rolled back", 1);
        Some(format!("is what node {node} was"))
    }

    /// No disk went back in time without being noticed.
    pub(super) fn check_rolled_back(&self) -> Result<(), Violation> {
        let Some(node) = self.nodes.iter().find(|node| node.is_rolled_back()) else {
            return Ok(());
        };
        let what = format!("the disk of node {} went back in time, and nobody noticed", node.id);
        Err(Violation::new(Checker::Durability, what).at(self.world.now()))
    }
}
