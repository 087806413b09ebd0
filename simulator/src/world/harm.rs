//! What can be done to a world: to its work, its machines, its services and what is between them.

use std::time::Duration;

use epu_core::id::{InstanceId, PoolName, SensorName};
use epu_core::life::State;
use epu_core::request::Service;
use epu_core::time::Clock as _;

use crate::host::{Behaviour, killed};
use crate::machines::Order;
use crate::sensors::Mode;
use crate::setup::QUEUE_SENSOR;
use crate::world::World;

impl World {
    // ---- work

    /// So many jobs arrive, which take so long each.
    pub fn submit(&mut self, jobs: u64, takes: Duration) -> &mut Self {
        self.transcript.note(format_args!("{jobs} jobs arrive"));
        self.inside(|| self.queue.submit(jobs, takes));
        self
    }

    /// So many jobs arrive for a pool, which take so long each.
    pub(crate) fn submit_to(&mut self, pool: &str, jobs: u64, takes: Duration) {
        let Ok(pool) = PoolName::new(pool) else { return };
        self.transcript.note(format_args!("{jobs} jobs arrive for {pool}"));
        self.inside(|| self.queues.of(&pool).submit(jobs, takes));
    }

    /// How the sensors of a pool that read its queue behave from now on.
    pub fn sensor_of(&mut self, pool: &str, mode: Mode) -> &mut Self {
        let Ok(pool) = PoolName::new(pool) else { return self };
        self.transcript.note(format_args!("the sensor of {pool} is {mode:?}"));
        for name in self.setup.queue_sensors(&pool) {
            self.sources.set(&pool, &name, mode);
        }
        self
    }

    /// How the queue's sensor behaves from now on.
    ///
    /// # Panics
    /// Never: its name is a name.
    pub fn sensor(&mut self, mode: Mode) -> &mut Self {
        let name = SensorName::new(QUEUE_SENSOR).unwrap_or_else(|error| panic!("{error}"));
        self.transcript.note(format_args!("the sensor is {mode:?}"));
        self.sources.set(&self.pool, &name, mode);
        self
    }

    // ---- workers and machines

    /// How workers behave on machines that come up from now on.
    pub fn workers(&mut self, change: impl FnOnce(&mut Behaviour)) -> &mut Self {
        self.machines.behave(change);
        self
    }

    /// The first running instance.
    ///
    /// # Panics
    /// When none runs.
    #[must_use]
    pub fn any(&self) -> InstanceId {
        let all = self.all_in(State::Running);
        all.into_iter()
            .find(|id| !self.record(id).is_leaving())
            .unwrap_or_else(|| panic!("nothing runs\n{}", self.story()))
    }

    fn machine(&self, id: &InstanceId) -> String {
        self.machines
            .of(*id)
            .unwrap_or_else(|| panic!("instance {id} has no machine\n{}", self.story()))
    }

    /// One instance's agent reaches nobody any more.
    pub fn silence_one(&mut self) -> InstanceId {
        let id = self.any();
        self.silence(&id);
        id
    }

    /// An instance's agent reaches nobody any more.
    pub fn silence(&mut self, id: &InstanceId) -> &mut Self {
        self.transcript.note(format_args!("{id} falls silent"));
        self.net.silence(*id, true);
        self
    }

    /// An instance's agent reaches everybody again.
    pub fn let_speak(&mut self, id: &InstanceId) -> &mut Self {
        self.transcript.note(format_args!("{id} can speak again"));
        self.net.silence(*id, false);
        self
    }

    /// The worker of an instance is killed with SIGKILL.
    pub fn kill_worker(&mut self, id: &InstanceId) -> &mut Self {
        let body = self.body(id);
        self.transcript.note(format_args!("the worker of {id} is killed"));
        self.inside(|| body.end_worker(killed(9)));
        self
    }

    /// The worker of an instance ends by itself with this exit code.
    pub fn end_worker(&mut self, id: &InstanceId, code: i32) -> &mut Self {
        let body = self.body(id);
        self.inside(|| body.end_worker(crate::host::exited(code)));
        self
    }

    /// Gives the worker of an instance something to do that does not end.
    pub fn occupy(&mut self, id: &InstanceId) -> &mut Self {
        self.body(id).occupy(true);
        self
    }

    /// Lets it finish.
    pub fn release(&mut self, id: &InstanceId) -> &mut Self {
        self.body(id).occupy(false);
        self
    }

    /// The agent of an instance is killed, and another started in its place.
    pub fn restart_agent(&mut self, id: &InstanceId) -> &mut Self {
        let machine = self.machine(id);
        self.transcript.note(format_args!("the agent of {id} is killed and started again"));
        self.machines.kill_agent(&machine);
        self.inside(|| self.machines.start_agent(&machine));
        self
    }

    /// Everything on an instance's machine stands still.
    pub fn freeze(&mut self, id: &InstanceId) -> &mut Self {
        let machine = self.machine(id);
        self.transcript.note(format_args!("{id} freezes"));
        self.machines.freeze(&machine, true);
        self
    }

    /// It goes on.
    pub fn thaw(&mut self, id: &InstanceId) -> &mut Self {
        let machine = self.machine(id);
        self.transcript.note(format_args!("{id} thaws"));
        self.machines.freeze(&machine, false);
        self
    }

    /// The site loses an instance's machine.
    pub fn lose_machine(&mut self, id: &InstanceId) -> &mut Self {
        let machine = self.machine(id);
        self.inside(|| self.machines.power_off(&machine));
        self
    }

    /// The site calls an instance's machine gone, which runs on.
    pub fn call_gone(&mut self, id: &InstanceId) -> &mut Self {
        let machine = self.machine(id);
        self.transcript.note(format_args!("the site calls {machine} gone"));
        self.machines.call_gone(&machine);
        self
    }

    /// A machine comes up that no call of a service launched.
    pub fn launch_machine(&self, order: Order) -> String {
        self.inside(|| self.machines.launch(order))
    }

    /// A machine that carries an installation's tag and that nobody asked for.
    pub fn add_machine_of(&mut self, installation: &str) -> String {
        self.inside(|| self.cloud().add_machine_of(installation))
    }

    /// Whether a machine has power.
    #[must_use]
    pub fn is_there(&self, machine: &str) -> bool {
        self.machines
            .look(|all| all.get(machine).is_some_and(crate::machines::Machine::is_there))
    }

    // ---- services

    /// Nobody reaches a service with a request, or everybody does again.
    pub fn cut_off(&mut self, service: Service, cut: bool) -> &mut Self {
        self.transcript.note(format_args!(
            "{service:?} {}",
            if cut { "cannot be reached" } else { "can be reached" }
        ));
        self.net.cut_off(service, cut);
        self.watch.reached(service, !cut, self.clock.now());
        self
    }
}
