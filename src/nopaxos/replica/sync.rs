//! Synchronisation: what a quorum holds becomes stable (`NOPaxos`, synchronization; 3.3).

use super::*;
use crate::base::limits::{SYNC_BATCH_COUNT, SYNC_BATCH_SIZE_BYTES};

impl Replica {
    /// Moves the sync point of a leader (Y1, Y4). Its own durable prefix is a quorum's in a group
    /// of one, so there is nobody to ask and nothing to wait for.
    pub(super) fn sync(&mut self, effects: &mut impl Effects) {
        debug_assert_eq!(self.group.quorum_count(), 1, "others would have to be asked");
        self.prepared = self.durable.min(self.responded);
        if self.prepared > self.sync_point {
            self.sync_point = self.prepared;
            let before = self.log.size_bytes();
            self.log.release_to(self.sync_point);
            let stable_size_bytes = before - self.log.size_bytes();
            self.unwritten_size_bytes += stable_size_bytes;
            effects.stabilise(self.sync_point, stable_size_bytes);
        }
        // Few slots can hold many bytes, and a restart holds all above the sync point in memory.
        if self.sync_point.since(self.sync_point_written) >= SYNC_BATCH_COUNT
            || self.unwritten_size_bytes >= SYNC_BATCH_SIZE_BYTES
        {
            self.write_sync_point(effects);
        }
    }

    /// Writes the sync point to the durable log if it has moved: a restart then executes less
    /// again.
    pub fn write_sync_point(&mut self, effects: &mut impl Effects) {
        if self.sync_point > self.sync_point_written {
            effects.persist(Persist::SyncPoint(self.sync_point));
            self.sync_point_written = self.sync_point;
            self.unwritten_size_bytes = 0;
        }
    }
}
