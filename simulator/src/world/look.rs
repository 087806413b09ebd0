//! What can be seen of a world.

use std::collections::BTreeSet;
use std::sync::Arc;

use epu_core::health::Health;
use epu_core::id::{InstanceId, PoolName, SiteName};
use epu_core::instance::Instance;
use epu_core::journal::{Decided, Entry, Event};
use epu_core::lease::{Domain, Standing};
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::request::{Caller, EventsAfter, InstanceRef, InstanceView, Nothing, PoolRef, PoolView, Request, StatusView};
use epu_core::time::Timestamp;
use epu_store::{JournalQuery, Store as _};

use crate::cloud::SimCloud;
use crate::host::Body;
use crate::machines::Machines;
use crate::net::SimNet;
use crate::process::Process;
use crate::queue::SimQueue;
use crate::watch::Watch;
use crate::world::World;

impl World {
    /// How many instances are in a state.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        self.watch.records().iter().filter(|record| record.state == state).count()
    }

    /// How many instances run and are not told to go.
    #[must_use]
    pub fn staying(&self) -> usize {
        self.watch
            .count_live(|record| record.state == State::Running && !record.is_leaving())
    }

    /// How many instances are or may be machines.
    #[must_use]
    pub fn live(&self) -> usize {
        self.watch.count_live(|_| true)
    }

    /// The instances in a state, first come first.
    #[must_use]
    pub fn all_in(&self, state: State) -> Vec<InstanceId> {
        self.watch
            .records()
            .iter()
            .filter(|record| record.state == state)
            .map(|record| record.id)
            .collect()
    }

    /// The instances that run, first come first.
    #[must_use]
    pub fn running(&self) -> Vec<InstanceId> {
        self.all_in(State::Running)
    }

    /// An instance's record.
    ///
    /// # Panics
    /// When there never was such an instance.
    #[must_use]
    pub fn record(&self, id: &InstanceId) -> Arc<Instance> {
        self.watch.record(*id).unwrap_or_else(|| panic!("no instance {id}"))
    }

    /// Every record there ever was, first come first.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Instance>> {
        self.watch.records()
    }

    /// An instance's state.
    #[must_use]
    pub fn state_of(&self, id: &InstanceId) -> State {
        self.record(id).state
    }

    /// What the controller believes of an instance's health.
    ///
    /// # Panics
    /// When the controller does not answer.
    #[must_use]
    pub fn health_of(&self, id: &InstanceId) -> Health {
        let show = Request::InstanceShow(InstanceRef { instance: id.to_string() });
        self.read::<InstanceView>(show).health
    }

    /// The pool as the controller shows it.
    ///
    /// # Panics
    /// When the controller does not answer.
    #[must_use]
    pub fn pool(&self) -> PoolView {
        let pool = self.pool.clone();
        self.read(Request::PoolShow(PoolRef { pool }))
    }

    /// The whole as the controller shows it.
    ///
    /// # Panics
    /// When the controller does not answer.
    #[must_use]
    pub fn status(&self) -> StatusView {
        self.read(Request::Status(Nothing {}))
    }

    fn read<T: for<'de> serde::Deserialize<'de>>(&self, request: Request) -> T {
        let op = request.op();
        match self.ask_quietly(request).map(serde_json::from_value) {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => panic!("{op}: {error}"),
            Err(fault) => panic!("{op}: {fault}\n{}", self.story()),
        }
    }

    /// A pool as it is shown.
    ///
    /// # Panics
    /// When there is none, or no controller answers.
    #[must_use]
    pub fn pool_named(&self, name: &str) -> PoolView {
        let pool = PoolName::new(name).unwrap_or_else(|error| panic!("{error}"));
        self.read(Request::PoolShow(PoolRef { pool }))
    }

    /// How many instances of a pool run and are not told to go.
    #[must_use]
    pub fn staying_of(&self, pool: &str) -> usize {
        self.watch
            .count_live(|record| record.pool.as_str() == pool && record.state == State::Running && !record.is_leaving())
    }

    /// How many instances of a pool are or may be machines.
    #[must_use]
    pub fn live_of(&self, pool: &str) -> usize {
        self.watch.count_live(|record| record.pool.as_str() == pool)
    }

    /// A pool as a controller shows it, if one does.
    #[must_use]
    pub fn pool_if_shown(&self, name: &str) -> Option<PoolView> {
        let pool = PoolName::new(name).ok()?;
        let shown = self.ask_quietly(Request::PoolShow(PoolRef { pool })).ok()?;
        serde_json::from_value(shown).ok()
    }

    /// How many lines the transcript got since then.
    #[must_use]
    pub fn lines_since(&self, then: Timestamp) -> usize {
        self.transcript.lines_since(then)
    }

    /// The number made from everything that happened.
    #[must_use]
    pub fn print(&self) -> u64 {
        self.transcript.print()
    }

    /// What is the case now, in the words of [`crate::storm::coverage::SITUATIONS`].
    #[must_use]
    pub fn situation(&self) -> BTreeSet<&'static str> {
        let any = |is_so: &dyn Fn(&Instance) -> bool| self.watch.count_live(is_so) > 0;
        // A store that is away says neither.
        let standing = self.runtime.block_on(self.memory.standing()).ok();
        let closed = self.runtime.block_on(self.memory.closed()).unwrap_or(false);
        let runs = |name: &str| {
            self.services
                .values()
                .any(|running| running.name == name && !running.gate.is_held())
        };
        let leads = |pool: &PoolName| {
            let leader = standing.as_ref().map(|standing| standing.leader(Domain::of(pool)));
            leader.is_none_or(|leader| leader.is_some_and(runs))
        };
        let pools = self.watch.pool_specs();
        let is_full = |pool: &Pool| usize::try_from(pool.spec.max).is_ok_and(|max| self.live_of(pool.name.as_str()) >= max.max(1));
        [
            ("asked", any(&|i| i.state == State::Requested)),
            ("booting", any(&|i| i.state == State::Pending)),
            ("starting", any(&|i| i.state > State::Pending && i.state < State::Running)),
            ("draining", any(&|i| i.state == State::Running && i.is_leaving())),
            ("ending", any(&|i| i.state == State::Terminating)),
            ("empty", self.live() == 0),
            ("full", pools.iter().any(is_full)),
            ("work waits", pools.iter().any(|pool| self.queues.of(&pool.name).waiting() > 0)),
            ("removed", pools.iter().any(|pool| pool.removed)),
            ("refresh", pools.iter().any(|pool| pool.refresh.is_some())),
            ("closed", closed),
            ("no leader", !pools.iter().all(|pool| leads(&pool.name))),
            ("process away", !self.crashed.is_empty()),
            ("fault on", self.watch.is_excused()),
        ]
        .into_iter()
        .filter_map(|(word, is_so)| is_so.then_some(word))
        .collect()
    }

    /// The name of a process among the members.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn member(&self, process: Process) -> String {
        let running = self.services.get(&process);
        running.unwrap_or_else(|| panic!("{process} does not run")).name.clone()
    }

    /// Who leads what, by the store.
    ///
    /// # Panics
    /// When the store is failing.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let standing = self.runtime.block_on(self.memory.standing());
        standing.unwrap_or_else(|error| panic!("read who leads: {error}"))
    }

    /// The copy that leads a pool, if one does.
    #[must_use]
    pub fn leader_of(&self, pool: &str) -> Option<u8> {
        let pool = PoolName::new(pool).ok()?;
        let standing = self.standing();
        let leader = standing.leader(Domain::of(&pool))?;
        let is_it = |running: &&super::Running| running.name == leader;
        let copies = self.services.iter().filter(|(_, running)| is_it(running));
        copies.map(|(process, _)| process.copy).next()
    }

    /// The size that the pool aims at.
    #[must_use]
    pub fn target(&self) -> Option<u32> {
        self.pool().target
    }

    /// The whole journal.
    ///
    /// # Panics
    /// When the store is failing.
    #[must_use]
    pub fn journal(&self) -> Vec<Entry> {
        let all = JournalQuery {
            limit: u32::MAX,
            ..JournalQuery::default()
        };
        self.runtime
            .block_on(self.memory.journal(all))
            .unwrap_or_else(|error| panic!("read the journal: {error}"))
    }

    /// Whether something is in the journal.
    pub fn happened(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.journal().iter().any(|entry| is_it(&entry.event))
    }

    /// What the journal says of an instance's health, in order.
    #[must_use]
    pub fn healths_of(&self, id: &InstanceId) -> Vec<Health> {
        let of_it = self.journal().into_iter().filter(|entry| entry.instance == Some(*id));
        of_it
            .filter_map(|entry| {
                if let Event::HealthChanged { to, .. } = entry.event {
                    Some(to)
                } else {
                    None
                }
            })
            .collect()
    }

    /// Every decision that was recorded.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decided> {
        let of_it = self.journal().into_iter();
        of_it
            .filter_map(|entry| {
                if let Event::Decided(decided) = entry.event {
                    Some(*decided)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The codes of why the last decision is as it is: the engine's, then what held it back.
    #[must_use]
    pub fn why(&self) -> Vec<String> {
        let decisions = self.decisions();
        let last = decisions.last();
        last.map_or_else(Vec::new, |last| {
            last.reasons
                .iter()
                .chain(&last.suppressed)
                .map(|reason| reason.code.to_string())
                .collect()
        })
    }

    /// Whether some decision had this among its reasons.
    #[must_use]
    pub fn ever(&self, code: &str) -> bool {
        let decisions = self.decisions();
        decisions
            .iter()
            .any(|d| d.reasons.iter().chain(&d.suppressed).any(|reason| reason.code == code))
    }

    /// The whole transcript.
    #[must_use]
    pub fn transcript(&self) -> String {
        self.transcript.text()
    }

    /// The work of the pool.
    #[must_use]
    pub fn queue(&self) -> &SimQueue {
        &self.queue
    }

    /// The work of a pool.
    #[must_use]
    pub fn queue_of(&self, pool: &PoolName) -> Arc<SimQueue> {
        self.queues.of(pool)
    }

    /// The way between processes.
    #[must_use]
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// What is checked all the time.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The machines.
    #[must_use]
    pub fn machines(&self) -> &Arc<Machines> {
        &self.machines
    }

    /// How many machines of ours have power, as far as their site admits it.
    #[must_use]
    pub fn machines_there(&self) -> usize {
        let ours = |m: &&crate::machines::Machine| m.is_there() && !m.called_gone && m.installation == super::INSTALLATION;
        self.machines.look(|all| all.values().filter(ours).count())
    }

    /// How many machines there ever were.
    #[must_use]
    pub fn machines_ever(&self) -> usize {
        self.machines.look(std::collections::BTreeMap::len)
    }

    /// What is on the machine of an instance.
    ///
    /// # Panics
    /// When it never had one that came up.
    #[must_use]
    pub fn body(&self, id: &InstanceId) -> Arc<Body> {
        self.machines.body_of(*id).unwrap_or_else(|| panic!("no machine of {id} came up"))
    }

    /// The first site.
    #[must_use]
    pub fn cloud(&self) -> &SimCloud {
        self.cloud_named("here")
    }

    /// A site.
    ///
    /// # Panics
    /// When the setup has none of that name.
    #[must_use]
    pub fn cloud_named(&self, name: &str) -> &SimCloud {
        let cloud = SiteName::new(name).ok().and_then(|name| self.clouds.get(&name));
        cloud.unwrap_or_else(|| panic!("no site {name}"))
    }

    /// The newest events, as an operator asks for them.
    #[must_use]
    pub fn events(&self, limit: u32) -> Vec<Entry> {
        self.read(Request::Events(EventsAfter {
            limit: Some(limit),
            ..EventsAfter::default()
        }))
    }

    /// Asks as somebody else, such as an agent with a stolen token.
    ///
    /// # Errors
    /// What the service answered.
    pub fn ask_as(&mut self, caller: Caller, request: Request) -> Result<serde_json::Value, epu_core::Fault> {
        self.watched(&request.clone(), || {
            let asking = self.net.operator_asks(caller, request, crate::time::seconds(30));
            self.runtime.block_on(asking).map(epu_core::request::Answer::into_json)
        })
    }
}
