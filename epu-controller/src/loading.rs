//! What the store has of shards of pools that this controller now leads.
//!
//! Everything is read once for all shards gained together, in a task of its own: leases are renewed meanwhile. The order matters.
//! Commands are read before instances: whoever led before may yet note that a command was accepted, and then its instances must be
//! among those read afterwards. That nobody else decides for these pools any more is what the leases are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epu_core::id::PoolName;
use epu_core::instance::Instance;
use epu_core::lease::Domain;
use epu_core::pool::Pool;
use epu_store::{Outgoing, PoolMemory, Store};

use crate::error::Error;

/// Everything that is needed to go on with some pools.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) closed: bool,
    /// Each with what is remembered of it.
    pub(crate) pools: Vec<(Arc<Pool>, Option<PoolMemory>)>,
    /// Live ones, by pool.
    pub(crate) instances: BTreeMap<PoolName, Vec<Arc<Instance>>>,
    /// Commands not yet accepted, oldest first.
    pub(crate) outbox: Vec<Outgoing>,
}

/// Reads what there is of the pools of these shards.
pub(crate) async fn load(store: &dyn Store, domains: &BTreeSet<Domain>) -> Result<Loaded, Error> {
    let failed = |what| move |source| Error::Load { what, source };
    let wanted = |pool: &PoolName| domains.contains(&Domain::of(pool));
    let closed = store.closed().await.map_err(failed("whether the installation is closed"))?;
    let mut outbox = store.outbox().await.map_err(failed("commands not yet accepted"))?;
    outbox.retain(|command| wanted(&command.pool));
    let memories = store.memories().await.map_err(failed("what is remembered of pools"))?;
    let mut memories: BTreeMap<PoolName, PoolMemory> = memories.into_iter().filter(|(name, _)| wanted(name)).collect();
    let pools = store.pools().await.map_err(failed("pools"))?;
    let pools = pools.into_iter().filter(|pool| wanted(&pool.name)).map(|pool| {
        let memory = memories.remove(&pool.name);
        (Arc::new(pool), memory)
    });
    let pools: Vec<_> = pools.collect();
    let mut instances: BTreeMap<PoolName, Vec<Arc<Instance>>> = pools.iter().map(|(pool, _)| (pool.name.clone(), Vec::new())).collect();
    for instance in store.instances(true).await.map_err(failed("instances"))? {
        if let Some(of_pool) = instances.get_mut(&instance.pool) {
            of_pool.push(Arc::new(instance));
        }
    }
    Ok(Loaded {
        closed,
        pools,
        instances,
        outbox,
    })
}

#[cfg(test)]
mod tests {
    use epu_core::Timestamp;
    use epu_core::request::{Ids, Request};
    use epu_store::{DecisionCommit, MemoryStore};
    use uuid::Uuid;

    use super::*;

    fn name(pool: &str) -> PoolName {
        PoolName::new(pool).unwrap()
    }

    #[tokio::test]
    async fn only_what_belongs_to_the_shards_is_loaded_oldest_command_first() {
        let store = MemoryStore::new();
        let (web, jobs) = (name("web"), name("jobs"));
        assert_ne!(Domain::of(&web), Domain::of(&jobs));
        for (n, pool) in [(1, &web), (2, &jobs), (3, &web)] {
            let command = Outgoing {
                id: Uuid::from_u128(n),
                pool: pool.clone(),
                request: Request::WithdrawDrain(Ids {
                    instances: vec![],
                    epoch: 0,
                }),
                since: Timestamp(i64::try_from(10 - n).unwrap()),
            };
            let commit = DecisionCommit {
                memory: Some(PoolMemory::default()),
                outbox: vec![command],
                ..DecisionCommit::default()
            };
            store.commit_decision(pool, commit).await.unwrap();
        }
        let loaded = load(&store, &BTreeSet::from([Domain::of(&web)])).await.unwrap();
        let ids: Vec<u128> = loaded.outbox.iter().map(|command| command.id.as_u128()).collect();
        assert_eq!(ids, [3, 1]);
        store.fail_with(Some("gone"));
        let error = load(&store, &BTreeSet::new()).await.unwrap_err();
        assert!(matches!(error, Error::Load { .. }));
    }
}
