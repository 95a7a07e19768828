//! A disk that is again what it was a while ago: a restored backup, or a cloned volume.
//!
//! What a member has promised since is lost, and only others can know it, those that have met its
//! later process and remember: not even a majority has to. So that a majority without a loss must
//! get on whatever happens, it happens here only when all others do remember, and until the member
//! has begun a new life no process ends, and none forgets. What is left to be shown is that then
//! nothing goes wrong: the member says something wrong to nobody who believes it.

use super::Cluster;
use crate::base::ids::BootEpoch;
use crate::sim::checker::{Checker, Violation};
use crate::sim::disk::Directory;
use crate::sim::fault::Fault;
use crate::sim::node::Node;
use crate::storage::identity::{Boot, Current};

/// What a disk was.
#[derive(Debug)]
pub(super) struct Image {
    directory: Directory,
    boot_epoch: BootEpoch,
    shard_count: u16,
}

impl Image {
    /// `None`: no process is at work on the disk, or it holds what a start may refuse.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let directory = node.disk.image();
        let boot_epoch = Boot::decode(&directory.boot).ok()?.boot_epoch;
        let shard_count = Current::decode(&directory.current).ok()?.shard_count;
        let is_sound = node.is_serving() && node.is_whole();
        is_sound.then_some(Self { directory, boot_epoch, shard_count })
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

    /// Rolls a node's disk back, if it was another process's when the image was taken, and all
    /// others know of this one. Whether it did.
    pub(super) fn roll_back(&mut self, place: usize) -> bool {
        let Self { world, nodes, images, .. } = self;
        let Some(life) = nodes[place].process() else { return false };
        let node = crate::base::ids::NodeId(nodes[place].id.0);
        let is_witnessed = nodes.iter().enumerate().all(|(other, found)| {
            found.is_serving()
                && !found.disk.will_fail()
                && (other == place || found.has_met(node, life))
        });
        let is_older = |image: &mut Image| {
            image.boot_epoch < life.boot_epoch && image.shard_count == nodes[place].shard_count
        };
        if !is_witnessed || !nodes[place].is_whole() {
            return false;
        }
        let Some(image) = images[place].take_if(is_older) else { return false };
        nodes[place].roll_back_disk(image.directory, world);
        true
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
