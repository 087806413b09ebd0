//! What goes wrong, and how it is put right again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::id::InstanceId;
use rustix::process::Signal;

use super::disk::Disk;
use super::wire::{State, Wire};
use crate::Result;
use crate::cluster::Cluster;
use crate::processes::Proc;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A service is killed, and started again as a service manager does.
    ServiceKilled,
    /// All services of one kind are killed at once.
    ServicesKilled,
    /// A service is stopped (SIGSTOP) for longer than it may lead, and goes on believing that no time has passed.
    ServiceFrozen,
    /// An agent is killed; its worker lives on.
    AgentKilled,
    /// An agent with its whole group is frozen, for shorter or longer than silence may last.
    AgentFrozen,
    /// A worker is killed.
    WorkerKilled,
    /// An agent and its worker are killed at once, as the loss of a machine does.
    MachineLost,
    /// The broker is killed.
    BrokerKilled,
    /// The broker is stopped in good order.
    BrokerRestarted,
    /// The broker is frozen: connections stay open and nothing answers.
    BrokerFrozen,
    /// The database is killed with everything that belongs to it.
    DatabaseKilled,
    /// The database is stopped in good order.
    DatabaseRestarted,
    /// The database is frozen.
    DatabaseFrozen,
    /// A service and the broker do not reach each other.
    BrokerCutOff,
    /// A service and the database do not reach each other.
    DatabaseCutOff,
    /// There is no room left under the data directory.
    DiskFull,
}

/// All of them.
pub(super) const ALL: [Kind; 16] = [
    Kind::ServiceKilled,
    Kind::ServicesKilled,
    Kind::ServiceFrozen,
    Kind::AgentKilled,
    Kind::AgentFrozen,
    Kind::WorkerKilled,
    Kind::MachineLost,
    Kind::BrokerKilled,
    Kind::BrokerRestarted,
    Kind::BrokerFrozen,
    Kind::DatabaseKilled,
    Kind::DatabaseRestarted,
    Kind::DatabaseFrozen,
    Kind::BrokerCutOff,
    Kind::DatabaseCutOff,
    Kind::DiskFull,
];

/// Longer than a lease of 5 s and what its holder keeps clear of its end.
const LONGER_THAN_A_LEASE: std::ops::Range<u64> = 6_000..9_000;
const A_WHILE: std::ops::Range<u64> = 300..4_000;

impl Kind {
    /// In a word or two.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceKilled => "service-killed",
            Self::ServicesKilled => "services-killed",
            Self::ServiceFrozen => "service-frozen",
            Self::AgentKilled => "agent-killed",
            Self::AgentFrozen => "agent-frozen",
            Self::WorkerKilled => "worker-killed",
            Self::MachineLost => "machine-lost",
            Self::BrokerKilled => "broker-killed",
            Self::BrokerRestarted => "broker-restarted",
            Self::BrokerFrozen => "broker-frozen",
            Self::DatabaseKilled => "database-killed",
            Self::DatabaseRestarted => "database-restarted",
            Self::DatabaseFrozen => "database-frozen",
            Self::BrokerCutOff => "broker-cut-off",
            Self::DatabaseCutOff => "database-cut-off",
            Self::DiskFull => "disk-full",
        }
    }

    /// What it is done to: not twice at once.
    fn part(self) -> &'static str {
        match self {
            Self::ServiceKilled | Self::ServicesKilled | Self::ServiceFrozen => "service",
            Self::AgentKilled | Self::AgentFrozen | Self::WorkerKilled | Self::MachineLost => "instance",
            Self::BrokerKilled | Self::BrokerRestarted | Self::BrokerFrozen => "broker",
            Self::DatabaseKilled | Self::DatabaseRestarted | Self::DatabaseFrozen => "database",
            Self::BrokerCutOff | Self::DatabaseCutOff => "wire",
            Self::DiskFull => "disk",
        }
    }

    /// How long it lasts.
    pub(super) fn lasts(self, random: &mut fastrand::Rng) -> Duration {
        let long = match self {
            Self::ServiceFrozen => true,
            Self::AgentFrozen | Self::BrokerFrozen | Self::DatabaseFrozen | Self::BrokerCutOff | Self::DatabaseCutOff | Self::DiskFull => {
                random.bool()
            }
            Self::ServiceKilled
            | Self::ServicesKilled
            | Self::AgentKilled
            | Self::WorkerKilled
            | Self::MachineLost
            | Self::BrokerKilled
            | Self::BrokerRestarted
            | Self::DatabaseKilled
            | Self::DatabaseRestarted => false,
        };
        Duration::from_millis(random.u64(if long { LONGER_THAN_A_LEASE } else { A_WHILE }))
    }
}

/// Kinds in an order that a seed draws, each as often as any other, give or take one.
#[derive(Debug, Default)]
pub(super) struct Deck(Vec<Kind>);

impl Deck {
    /// The next ones, of different parts.
    pub(super) fn draw(&mut self, count: usize, random: &mut fastrand::Rng) -> Vec<Kind> {
        let mut drawn: Vec<Kind> = Vec::new();
        while drawn.len() < count {
            let fits = |kind: &Kind| drawn.iter().all(|other| other.part() != kind.part());
            if let Some(place) = self.0.iter().rposition(fits) {
                drawn.push(self.0.remove(place));
            } else {
                let mut more = ALL.to_vec();
                random.shuffle(&mut more);
                self.0.splice(0..0, more);
            }
        }
        drawn
    }
}

/// A service's ways to the outside.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) broker: Wire,
    pub(super) database: Wire,
}

/// What faults are done to.
#[derive(Debug)]
pub(super) struct Victims<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) ways: &'a BTreeMap<String, Ways>,
    pub(super) disk: &'a Disk,
    pub(super) harmed: &'a mut BTreeSet<InstanceId>,
}

/// What is still wrong.
#[derive(Debug)]
pub(super) enum Wrong {
    Dead(String),
    Frozen(String, Proc),
    FrozenAgent(Proc),
    BrokerGone,
    BrokerStill,
    DatabaseGone,
    DatabaseStill,
    Cut(String, Kind),
    Full,
}

impl Wrong {
    /// The service that does not answer now.
    pub(super) fn service(&self) -> Option<&str> {
        match self {
            Self::Dead(name) | Self::Frozen(name, _) | Self::Cut(name, _) => Some(name),
            Self::FrozenAgent(_) | Self::BrokerGone | Self::BrokerStill | Self::DatabaseGone | Self::DatabaseStill | Self::Full => None,
        }
    }
}

impl Victims<'_> {
    /// Does it; says to whom, and what has to be put right later.
    pub(super) async fn harm(&mut self, kind: Kind, random: &mut fastrand::Rng) -> Result<(String, Vec<Wrong>)> {
        let running = self.cluster.running();
        let service = running.get(random.usize(..running.len().max(1))).cloned().unwrap_or_default();
        let of_service = |wrong: Wrong| (service.clone(), vec![wrong]);
        Ok(match kind {
            Kind::ServiceKilled => {
                self.cluster.kill9(&service);
                of_service(Wrong::Dead(service.clone()))
            }
            Kind::ServicesKilled => {
                let kind = service.split('-').next().unwrap_or_default().to_owned();
                let mut dead = running;
                dead.retain(|name| name.starts_with(&kind));
                dead.iter().for_each(|name| self.cluster.kill9(name));
                (format!("every {kind}"), dead.into_iter().map(Wrong::Dead).collect())
            }
            Kind::ServiceFrozen => {
                let proc = self.cluster.process(&service);
                proc.signal(Signal::STOP);
                of_service(Wrong::Frozen(service.clone(), proc))
            }
            Kind::AgentKilled | Kind::AgentFrozen | Kind::WorkerKilled | Kind::MachineLost => self.harm_instance(kind, random),
            Kind::BrokerKilled => {
                self.cluster.rabbit.kill9();
                (String::new(), vec![Wrong::BrokerGone])
            }
            Kind::BrokerRestarted => {
                self.cluster.rabbit.stop().await;
                (String::new(), vec![Wrong::BrokerGone])
            }
            Kind::BrokerFrozen => {
                self.cluster.rabbit.freeze();
                (String::new(), vec![Wrong::BrokerStill])
            }
            Kind::DatabaseKilled => {
                self.cluster.postgres.kill9();
                (String::new(), vec![Wrong::DatabaseGone])
            }
            Kind::DatabaseRestarted => {
                self.cluster.postgres.stop().await;
                (String::new(), vec![Wrong::DatabaseGone])
            }
            Kind::DatabaseFrozen => {
                self.cluster.postgres.freeze();
                (String::new(), vec![Wrong::DatabaseStill])
            }
            Kind::BrokerCutOff | Kind::DatabaseCutOff => {
                let state = if random.bool() { State::Silent } else { State::Cut };
                self.set_way(&service, kind, state);
                (format!("{service} {state:?}"), vec![Wrong::Cut(service.clone(), kind)])
            }
            Kind::DiskFull => {
                self.disk.fill(&self.writers())?;
                (String::new(), vec![Wrong::Full])
            }
        })
    }

    fn harm_instance(&mut self, kind: Kind, random: &mut fastrand::Rng) -> (String, Vec<Wrong>) {
        let agents: Vec<Proc> = self.cluster.agents().into_iter().collect();
        let agent = agents.get(random.usize(..agents.len().max(1)));
        let id = agent.and_then(|agent| agent.variable("EPU_INSTANCE")?.parse::<InstanceId>().ok());
        let (Some(agent), Some(id)) = (agent.copied(), id) else {
            return ("nobody".to_owned(), Vec::new());
        };
        self.harmed.insert(id);
        let mut wrong = Vec::new();
        if kind == Kind::AgentKilled {
            agent.signal(Signal::KILL);
        } else if kind == Kind::AgentFrozen {
            agent.signal_group(Signal::STOP);
            wrong.push(Wrong::FrozenAgent(agent));
        } else if kind == Kind::MachineLost {
            agent.signal_group(Signal::KILL);
        } else if let Some(worker) = self.cluster.worker_of(id) {
            worker.signal(Signal::KILL);
        }
        (id.to_string(), wrong)
    }

    fn set_way(&self, service: &str, kind: Kind, state: State) {
        if let Some(ways) = self.ways.get(service) {
            let wire = if kind == Kind::BrokerCutOff { &ways.broker } else { &ways.database };
            wire.set(state);
        }
    }

    fn writers(&self) -> Vec<Proc> {
        let running = self.cluster.running();
        running.iter().map(|name| self.cluster.process(name)).collect()
    }

    /// Puts it right.
    pub(super) async fn mend(&mut self, wrong: Wrong) -> Result<()> {
        match wrong {
            Wrong::Dead(name) => self.cluster.start_unready(&name),
            Wrong::Frozen(_, proc) => proc.signal(Signal::CONT),
            Wrong::FrozenAgent(agent) => agent.signal_group(Signal::CONT),
            Wrong::BrokerGone => self.cluster.rabbit.restart().await?,
            Wrong::BrokerStill => self.cluster.rabbit.thaw(),
            Wrong::DatabaseGone => self.cluster.postgres.restart().await?,
            Wrong::DatabaseStill => self.cluster.postgres.thaw(),
            Wrong::Cut(name, kind) => self.set_way(&name, kind, State::Whole),
            Wrong::Full => self.disk.empty(&self.writers())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn_equally_often_and_never_two_of_a_part_at_once() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut deck = Deck::default();
        let mut times: BTreeMap<Kind, u32> = BTreeMap::new();
        for _ in 0..80 {
            let drawn = deck.draw(2, &mut random);
            assert_ne!(drawn[0].part(), drawn[1].part());
            for kind in drawn {
                *times.entry(kind).or_default() += 1;
            }
        }
        assert_eq!(times.len(), ALL.len());
        assert!(times.values().all(|n| (9..=11).contains(n)), "{times:?}");
    }
}
