//! A world of somebody's own pools: what differs from the worlds of scenarios.

use std::sync::Arc;

use epu_core::id::PoolName;
use epu_core::time::{Clock as _, Timestamp};

use crate::play::workload::Workload;
use crate::sensors::Mode;
use crate::setup::Own;
use crate::world::World;

impl World {
    /// Before anything runs: how machines come up, what sensors say, and that queues keep the time of everything.
    pub(super) fn prepare(&self, own: &Own) {
        for (name, cloud) in &self.clouds {
            cloud.boots_by(own.boot);
            cloud.has_room_for(own.room.get(name).copied().flatten());
        }
        self.machines.behave(|behaviour| behaviour.set_up_takes = own.set_up);
        for (pool, sensor, value) in &own.held {
            self.sources.set(pool, sensor, Mode::Says(*value));
        }
        for pool in own.following.keys() {
            self.queues.of(pool).record(self.clock.clone());
        }
    }

    /// Jobs arrive for a pool as a workload has them, which begins at that time.
    pub(crate) fn feed(&self, pool: &PoolName, workload: Arc<Workload>, begins: Timestamp) {
        let (queue, clock) = (self.queues.of(pool), self.clock.clone());
        self.inside(|| {
            tokio::spawn(async move {
                for job in workload.jobs() {
                    let until = (begins + job.at).since(clock.now());
                    if !until.is_zero() {
                        tokio::time::sleep(until).await;
                    }
                    queue.submit(1, job.takes);
                }
            });
        });
    }
}
