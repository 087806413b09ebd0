//! I11: what is refused changes nothing.
//!
//! Compared is what only people change: the settings of pools, documents (sites and templates that operators added), and whether
//! the installation is closed. What services write by themselves is left out: a pool that is being removed goes when it is empty, one that is
//! being refreshed changes with every step, and those of the config file change when the file does. While an earlier request may still take
//! effect of which nobody knows what came of it, nothing is compared.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::PoolName;
use epu_core::invariant;
use epu_core::pool::{Origin, Pool};
use epu_store::{Document, MemoryStore, Store as _};

use super::Watch;
use crate::lock;

/// A request that was not answered may take effect within this time.
const UNSETTLED: Duration = Duration::from_secs(120);
/// What operators write besides pools.
const KINDS: [&str; 2] = [epu_provisioner::sites::KIND, epu_provisioner::templates::KIND];

/// What only people change, as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub(super) pools: BTreeMap<PoolName, Pool>,
    pub(super) documents: Vec<Document>,
    pub(super) closed: bool,
}

/// What only people change, as a store has it now; none while it fails.
pub async fn settings(store: &MemoryStore) -> Option<Settings> {
    let pools = store.pools().await.ok()?;
    let mut documents = Vec::new();
    for kind in KINDS {
        documents.extend(store.documents(kind).await.ok()?);
    }
    Some(Settings {
        pools: pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect(),
        documents,
        closed: store.closed().await.ok()?,
    })
}

impl Settings {
    /// Without the pools that services, or the config file, change.
    fn of_people(mut self, others: &Self) -> Self {
        let is_theirs = |pool: &Pool| pool.origin == Origin::Operator && !pool.removed && pool.refresh.is_none();
        let is_so = |pool: Option<&Pool>| pool.is_none_or(is_theirs);
        self.pools.retain(|name, pool| is_theirs(pool) && is_so(others.pools.get(name)));
        self
    }
}

impl Watch {
    /// A command was answered, with this fault if it was not carried out; what people change was and is so, where that could be read.
    pub fn answered(&self, op: &str, fault: Option<&Fault>, settings: Option<(Settings, Settings)>) {
        let mut seen = lock(&self.seen);
        let Some(fault) = fault else { return };
        if !fault.is_refusal() {
            seen.unsettled_until = seen.now + UNSETTLED;
            return;
        }
        if let Some((before, after)) = settings.filter(|_| seen.now >= seen.unsettled_until) {
            let (before, after) = (before.clone().of_people(&after), after.of_people(&before));
            let found = invariant::unchanged(op, &before, &after);
            seen.found(found);
        }
    }
}
