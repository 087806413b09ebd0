//! What is the matter for a while, and what ends it. Nothing here minds when what it is about is not there.

use std::sync::Arc;

use epu_core::id::{PoolName, SensorName, SiteName};
use epu_core::instance::Exit;
use epu_core::request::{PlacementReset, Request};

use crate::cloud::{SimCloud, Trouble};
use crate::fault::Begun;
use crate::ill::{Ill, Quirk};
use crate::machines::Machines;
use crate::sensors::Mode;
use crate::setup::QUEUE_SENSOR;
use crate::world::World;

impl Begun {
    /// Once it has ended this is done too.
    pub(crate) fn and_then(self, next: impl FnOnce(&mut World) + 'static) -> Self {
        let Some(lift) = self.lift else { return self };
        let both = move |world: &mut World| {
            lift(world);
            next(world);
        };
        Self {
            bit: self.bit,
            lift: Some(Box::new(both)),
        }
    }
}

impl World {
    /// A site, if there is one of that name.
    pub(crate) fn site(&self, name: &str) -> Option<Arc<SimCloud>> {
        self.clouds.get(&SiteName::new(name).ok()?).cloned()
    }

    /// Something is wrong with a site until it ends.
    #[must_use]
    pub fn trouble(&mut self, site: &str, trouble: Trouble) -> Begun {
        let Some(cloud) = self.site(site) else {
            return Begun::nothing();
        };
        let id = cloud.troubled_by(trouble);
        Begun::until(move |_| cloud.is_rid_of(id))
    }

    /// A person says of every pool that what its placements were parked for is put right. Pools of which nobody is there to be told stay
    /// as they are.
    pub fn reset_placements(&mut self) {
        let pools: Vec<PoolName> = self.setup.all_pools().keys().filter_map(|name| PoolName::new(name).ok()).collect();
        for pool in pools {
            drop(self.ask(Request::PlacementReset(PlacementReset { pool, placement: None })));
        }
    }

    /// Something is the matter with a machine until it ends.
    #[must_use]
    pub fn ill(&mut self, machine: &str, ill: Ill) -> Begun {
        let Some(body) = self.machines.body_on(machine) else {
            return Begun::nothing();
        };
        self.transcript.note(format_args!("{machine}: {ill:?}"));
        let id = self.inside(|| body.falls_ill(ill));
        let machine = machine.to_owned();
        Begun::until(move |world| {
            world.transcript.note(format_args!("{machine}: no longer {ill:?}"));
            world.inside(|| body.recovers(id));
        })
    }

    /// Something is the matter with every machine that comes up until it ends.
    #[must_use]
    pub fn quirk(&mut self, quirk: Quirk) -> Begun {
        let id = self.machines.come_with(quirk);
        Begun::until(move |world| world.machines.come_without(id))
    }

    /// The queue's sensor of a pool behaves so until it ends.
    #[must_use]
    pub fn sensor_trouble(&mut self, pool: &str, mode: Mode) -> Begun {
        let (Ok(pool), Ok(sensor)) = (PoolName::new(pool), SensorName::new(QUEUE_SENSOR)) else {
            return Begun::nothing();
        };
        self.transcript.note(format_args!("the sensor of {pool}: {mode:?}"));
        let id = self.sources.begins(&pool, &sensor, mode);
        Begun::until(move |world| {
            world.transcript.note(format_args!("the sensor of {pool}: no longer {mode:?}"));
            world.sources.ends(&pool, &sensor, id);
        })
    }

    /// The agent of a machine is dead until it ends, and is then started again.
    #[must_use]
    pub fn agent_dies(&mut self, machine: &str) -> Begun {
        self.transcript.note(format_args!("the agent of {machine} is killed"));
        self.machines.kill_agent(machine);
        let machine = machine.to_owned();
        Begun::until(move |world| {
            world.transcript.note(format_args!("the agent of {machine} is started again"));
            world.inside(|| world.machines.start_agent(&machine));
        })
    }

    /// A machine of this installation, or of another, comes up at a site, and nobody asked for it.
    pub(crate) fn stray_at(&mut self, site: &str, installation: &str) -> Begun {
        let Some(cloud) = self.site(site) else {
            return Begun::nothing();
        };
        self.inside(|| cloud.add_machine_of(installation));
        Begun::done()
    }

    /// A machine loses its power.
    pub(crate) fn vanish(&mut self, machine: &str) {
        self.inside(|| self.machines.power_off(machine));
    }

    /// A machine's worker ends so.
    pub(crate) fn worker_ends(&mut self, machine: &str, exit: Exit) {
        if let Some(body) = self.machines.body_on(machine) {
            self.transcript.note(format_args!("the worker of {machine} ends: {exit:?}"));
            self.inside(|| body.end_worker(exit));
        }
    }

    /// A machine does not end when it is told to, and its agent goes on, until it ends.
    pub(crate) fn becomes_a_zombie(&mut self, machine: &str) -> Begun {
        self.machines.linger(machine, true);
        let id = machine.to_owned();
        self.ill(machine, Ill::Zombie)
            .and_then(move |world| world.machines.linger(&id, false))
    }

    /// Something is so of a machine until it ends.
    pub(crate) fn until_lifted(&mut self, machine: &str, what: &'static str, set: fn(&Machines, &str, bool)) -> Begun {
        self.transcript.note(format_args!("machine {machine} {what}"));
        set(&self.machines, machine, true);
        let machine = machine.to_owned();
        Begun::until(move |world| {
            world.transcript.note(format_args!("machine {machine} {what} no longer"));
            set(&world.machines, &machine, false);
        })
    }
}
