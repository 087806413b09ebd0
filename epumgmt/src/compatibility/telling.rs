//! Subscribers of domains, and peers that are sent every node record.
//!
//! Driven by the provisioner's facts, which every process hears, and each fact more than once. So that a subscriber is told once, what was told of a
//! domain is a document of its own (instance, state, address): whoever changes it tells, and a process that comes second finds it changed. It
//! outlives us too: after a restart nobody is told again that an instance runs, and one that ended meanwhile is noticed by comparing the document
//! with the records, which is done at start and every [`COMPARE_EVERY`].
//!
//! As in the original, the state `600-RUNNING` is told as such and everything after it as `900-FAILED`, planned or not, once for each state; another
//! address of a running instance is told again. `instance_info` has a version in `update_counter`, by which its receivers drop what
//! comes twice, so it needs no document.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::amqp::dashi::{Failed, Fire};
use epu_core::fact::{Fact, Kind};
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::Instance;
use epu_core::life::State;
use epu_core::request::{Caller, InstanceFilter, InstanceView, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::domains::{Domain, Kept};
use super::nodes::{Index, NODE, Node};
use super::records;
use super::{OURSELVES, Office};

/// The kind of the documents that say what was told.
const TOLD: &str = "dashi-told";
/// How often documents and records are compared, and what nobody needs is forgotten. Too high: an end that was missed is told late.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// Facts that are worked off together.
const BATCH_MOST: usize = 256;
/// Instances that are remembered as told although they have ended, a domain. Too low: an end is told twice.
const ENDED_MOST: usize = 1_000;
/// How long a document may be there without what it belongs to, which may be on its way.
const GRACE: Duration = Duration::from_secs(120);
/// How long a node that was never launched is remembered.
const NODE_GRACE: Duration = Duration::from_secs(2 * 3_600);
/// How often a document is written anew that another process changed meanwhile.
const TRIES: usize = 8;

/// What was told of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    state: State,
    #[serde(default)]
    address: Option<String>,
}

/// What was told of a domain.
type Ledger = BTreeMap<InstanceId, Told>;

/// Tells until cancelled.
pub(super) async fn run(office: &Arc<Office>, cancel: &CancellationToken) {
    let mut facts = office.bus.listen(&[Kind::Instances]);
    let mut compare = interval(COMPARE_EVERY);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = compare.tick() => {
                if let Err(failed) = office.compare().await {
                    debug!(problem = %failed.problem, "what subscribers were told could not be compared; it is tried again");
                }
                if let Err(failed) = office.lower_all().await {
                    debug!(problem = %failed.problem, "protected instances stay so for now");
                }
                if let Err(failed) = office.tidy().await {
                    debug!(problem = %failed.problem, "old documents stay for now");
                }
            }
            fact = facts.next() => {
                let Some(fact) = fact else { return };
                let mut batch = vec![fact];
                while batch.len() < BATCH_MOST && let Some(fact) = facts.next_now() {
                    batch.push(fact);
                }
                let news = seen.news(batch);
                if news.is_empty() {
                    continue;
                }
                if let Err(failed) = office.tell(&news).await {
                    warn!(problem = %failed.problem, "subscribers could not be told; it is tried again");
                    seen.forget(&news);
                    compare.reset_immediately();
                }
                let leaves = |instance: &Arc<Instance>| instance.is_live() && instance.is_leaving();
                if news.values().any(leaves) && let Err(failed) = office.lower_all().await {
                    debug!(problem = %failed.problem, "protected instances stay so for now");
                }
            }
        }
    }
}

/// What has passed here already: facts are told again and again, and most say nothing new.
#[derive(Default)]
struct Seen(BTreeMap<InstanceId, u64>);

impl Seen {
    /// The newest word on each instance that has one.
    fn news(&mut self, facts: Vec<Fact>) -> BTreeMap<InstanceId, Arc<Instance>> {
        let mut news: BTreeMap<InstanceId, Arc<Instance>> = BTreeMap::new();
        for fact in facts {
            let Fact::Instances(instances) = fact else { continue };
            for instance in &instances.changed {
                if self.0.get(&instance.id).is_none_or(|known| *known < instance.version) {
                    self.0.insert(instance.id, instance.version);
                    news.insert(instance.id, instance.clone());
                }
            }
        }
        for instance in news.values().filter(|instance| !instance.is_live()) {
            self.0.remove(&instance.id);
        }
        news
    }

    fn forget(&mut self, news: &BTreeMap<InstanceId, Arc<Instance>>) {
        for id in news.keys() {
            self.0.remove(id);
        }
    }
}

impl Office {
    async fn tell(&self, news: &BTreeMap<InstanceId, Arc<Instance>>) -> Result<(), Failed> {
        if !self.config.instance_info_to.is_empty() {
            let index = Index::load(self).await?;
            for instance in news.values() {
                if let Some(about) = index.about(self, instance) {
                    self.inform(&records::node(instance, &about), None);
                }
            }
        }
        let mut by_pool: BTreeMap<&PoolName, Vec<&Instance>> = BTreeMap::new();
        for instance in news.values().filter(|instance| instance.state >= State::Running) {
            by_pool.entry(&instance.pool).or_default().push(instance);
        }
        if by_pool.is_empty() {
            return Ok(());
        }
        for kept in self.documents.domains().await? {
            let domain = kept.is;
            if let Some(instances) = by_pool.get(&domain.pool)
                && !domain.subscribers.is_empty()
            {
                self.tell_of(&domain, instances).await?;
            }
        }
        Ok(())
    }

    /// Tells a domain's subscribers what they have not been told.
    async fn tell_of(&self, domain: &Domain, instances: &[&Instance]) -> Result<(), Failed> {
        for _ in 0..TRIES {
            let mut kept = self.ledger(domain).await?;
            let news: Vec<&Instance> = instances
                .iter()
                .copied()
                .filter(|instance| is_news(&mut kept.is, instance))
                .collect();
            if news.is_empty() {
                return Ok(());
            }
            forget_ended(&mut kept.is);
            if !self.documents.put(TOLD, &kept).await? {
                continue;
            }
            for instance in news {
                self.notify(domain, instance);
            }
            return Ok(());
        }
        Ok(())
    }

    fn notify(&self, domain: &Domain, instance: &Instance) {
        let state = if instance.state == State::Running {
            State::Running
        } else {
            State::Failed
        };
        let args = json!({
            "node_id": instance.id,
            "state": state.code(),
            "domain_id": domain.id,
            "properties": { "hostname": instance.address },
        });
        let args: Map<String, Value> = args.as_object().cloned().unwrap_or_default();
        for (to, op) in &domain.subscribers {
            self.outlet.fire(Fire {
                from: self.config.management_name.clone(),
                to: to.clone(),
                op: op.clone(),
                args: args.clone(),
            });
        }
    }

    /// Takes what a domain has now for told: its first subscriber begins here.
    pub(super) async fn begin_telling(&self, domain: &Domain) -> Result<(), Failed> {
        let filter = InstanceFilter {
            pool: Some(domain.pool.clone()),
            all: true,
        };
        let views: Vec<InstanceView> = self
            .ask(Caller::Reader(OURSELVES.to_owned()), Request::InstanceList(filter))
            .await?;
        for _ in 0..TRIES {
            let mut kept = self.ledger(domain).await?;
            for view in views.iter().filter(|view| view.instance.state >= State::Running) {
                is_news(&mut kept.is, &view.instance);
            }
            forget_ended(&mut kept.is);
            if self.documents.put(TOLD, &kept).await? {
                break;
            }
        }
        Ok(())
    }

    async fn ledger(&self, domain: &Domain) -> Result<Kept<Ledger>, Failed> {
        let name = domain.pool.as_str();
        let all: Vec<Kept<Ledger>> = self.documents.all(TOLD).await?;
        let empty = || Kept {
            name: name.to_owned(),
            revision: 0,
            is: Ledger::new(),
        };
        Ok(all.into_iter().find(|kept| kept.name == name).unwrap_or_else(empty))
    }

    /// Looks for ends that nobody heard of: instances that were told to run and are recorded otherwise.
    async fn compare(&self) -> Result<(), Failed> {
        let ledgers: Vec<Kept<Ledger>> = self.documents.all(TOLD).await?;
        if ledgers.is_empty() {
            return Ok(());
        }
        for kept in self.documents.domains().await? {
            let domain = kept.is;
            let Some(ledger) = ledgers.iter().find(|ledger| ledger.name == domain.pool.as_str()) else {
                continue;
            };
            if domain.subscribers.is_empty() {
                continue;
            }
            let open: Vec<InstanceId> = ledger
                .is
                .iter()
                .filter(|(_, told)| !told.state.is_end())
                .map(|(id, _)| *id)
                .collect();
            let recorded = self.recorded(&open).await?;
            let instances: Vec<&Instance> = recorded.values().filter(|instance| instance.state >= State::Running).collect();
            self.tell_of(&domain, &instances).await?;
        }
        Ok(())
    }

    /// Forgets documents of what is no more.
    async fn tidy(&self) -> Result<(), Failed> {
        let now = self.clock.now();
        let pools = self.documents.pools().await?;
        let domains = self.documents.domains().await?;
        for kept in domains.iter().filter(|kept| !pools.contains(&kept.is.pool)) {
            if now.since(kept.is.added_at) > GRACE {
                self.documents.forget(TOLD, kept.is.pool.as_str()).await?;
                self.documents.forget_domain(&kept.name).await?;
            }
        }
        let nodes: Vec<Kept<Node>> = self.documents.all(NODE).await?;
        let old: Vec<&Kept<Node>> = nodes.iter().filter(|kept| now.since(kept.is.at) > NODE_GRACE).collect();
        let ids: Vec<InstanceId> = old.iter().map(|kept| kept.is.instance).collect();
        let recorded = self.recorded(&ids).await?;
        for kept in old.into_iter().filter(|kept| !recorded.contains_key(&kept.is.instance)) {
            self.documents.forget(NODE, &kept.name).await?;
        }
        Ok(())
    }
}

/// Whether an instance is further than was told, or runs at another address; then it counts as told.
fn is_news(ledger: &mut Ledger, instance: &Instance) -> bool {
    let now = Told {
        state: instance.state,
        address: instance.address.clone(),
    };
    let news = match ledger.get(&instance.id) {
        None => true,
        Some(told) => {
            now.state > told.state || (now.state == State::Running && told.state == State::Running && now.address != told.address)
        }
    };
    if news {
        ledger.insert(instance.id, now);
    }
    news
}

/// Forgets the oldest ends, so that the document stays small.
fn forget_ended(ledger: &mut Ledger) {
    let ended: Vec<InstanceId> = ledger.iter().filter(|(_, told)| told.state.is_end()).map(|(id, _)| *id).collect();
    for id in ended.iter().take(ended.len().saturating_sub(ENDED_MOST)) {
        ledger.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use epu_core::fact::Instances;

    use super::*;

    fn instance(state: State, version: u64, address: Option<&str>) -> Instance {
        let record = json!({
            "id": "018f3c5e-0000-7000-8000-000000000001", "pool": "web", "launch": "018f3c5e-0000-7000-8000-0000000000aa", "index": 0,
            "site": "local", "state": state.code(), "version": version, "created_at": 0, "state_since": 0, "address": address,
        });
        serde_json::from_value(record).expect("an instance")
    }

    #[test]
    fn each_state_and_each_address_is_told_once() {
        let mut ledger = Ledger::new();
        let mut told = |state, address| is_news(&mut ledger, &instance(state, 1, address));
        assert!(told(State::Running, None));
        assert!(!told(State::Running, None));
        assert!(told(State::Running, Some("10.0.0.1")));
        assert!(!told(State::Running, Some("10.0.0.1")));
        assert!(told(State::Terminating, Some("10.0.0.1")));
        assert!(!told(State::Running, Some("10.0.0.2")), "old news");
        assert!(!told(State::Terminating, None));
        assert!(told(State::Terminated, None));
    }

    #[test]
    fn a_fact_that_comes_again_is_no_news() {
        let mut seen = Seen::default();
        let fact = |version| {
            Fact::Instances(Arc::new(Instances {
                changed: vec![Arc::new(instance(State::Running, version, None))],
                ..Instances::default()
            }))
        };
        assert_eq!(
            seen.news(vec![fact(3), fact(2), fact(4)])
                .values()
                .map(|i| i.version)
                .collect::<Vec<_>>(),
            [4]
        );
        assert!(seen.news(vec![fact(4), fact(3)]).is_empty());
        let again = seen.news(vec![fact(5)]);
        seen.forget(&again);
        assert_eq!(seen.news(vec![fact(5)]).len(), 1);
    }

    #[test]
    fn the_ledger_forgets_the_oldest_ends_only() {
        let mut ledger: Ledger = (0..ENDED_MOST as u128 + 5)
            .map(|n| {
                let state = if n == 0 { State::Running } else { State::Terminated };
                (InstanceId(uuid::Uuid::from_u128(n)), Told { state, address: None })
            })
            .collect();
        forget_ended(&mut ledger);
        assert_eq!(ledger.len(), ENDED_MOST + 1);
        assert!(ledger.contains_key(&InstanceId(uuid::Uuid::from_u128(0))) && !ledger.contains_key(&InstanceId(uuid::Uuid::from_u128(4))));
    }
}
