//! Finding out that pools were added or changed by somebody else.
//!
//! Any controller may put a pool into the store; whoever leads its shard hears of it by a fact. A fact may be old, and the pool long
//! forgotten, so that it is only a reason to look: what is managed is what the store has. In case the fact got lost, revisions are
//! compared every now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::id::PoolName;
use epu_core::lease::Domain;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use tracing::info;

use crate::service::{Back, Controller};

/// How often revisions are compared. Too high: a change whose fact was lost waits. Too low: load on the store for nothing.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// Looking at the store's pools.
#[derive(Debug)]
pub(crate) struct Refresh {
    under_way: bool,
    again: bool,
    compared_at: Timestamp,
    /// Pools forgotten while the store's were being read: they may be among those read.
    forgotten: BTreeSet<PoolName>,
    /// Somebody told of pools of shards that were just being loaded.
    after_loading: bool,
    /// Of what was loaded when reading began: what was loaded since may be newer than what is read.
    stint: u64,
}

impl Refresh {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            under_way: false,
            again: false,
            compared_at: now,
            forgotten: BTreeSet::new(),
            after_loading: false,
            stint: 0,
        }
    }

    /// The task that was reading may be lost.
    pub(crate) fn lost(&mut self) {
        self.under_way = false;
    }

    /// A pool was forgotten.
    pub(crate) fn forgot(&mut self, pool: &PoolName) {
        if self.under_way {
            self.forgotten.insert(pool.clone());
        }
    }
}

impl Controller {
    /// Somebody says that pools are so.
    pub(crate) fn hear_of_pools(&mut self, told: &[Pool]) {
        if told.iter().any(|pool| self.is_news(&pool.name, pool.revision)) {
            self.refresh();
        }
        self.refresh.after_loading |= told.iter().any(|pool| self.leads.is_coming(Domain::of(&pool.name)));
    }

    /// Looks again when something was told while shards were being loaded.
    pub(crate) fn refresh_if_told(&mut self) {
        if std::mem::take(&mut self.refresh.after_loading) {
            self.refresh();
        }
    }

    fn is_news(&self, pool: &PoolName, revision: u64) -> bool {
        let known = self.pools.get(pool).map(|managed| managed.view.pool.revision);
        known.is_none_or(|known| known < revision) && self.leads.led.contains(&Domain::of(pool))
    }

    /// Looks at the pools in the store, now or once the look under way is over.
    pub(crate) fn refresh(&mut self) {
        if std::mem::replace(&mut self.refresh.under_way, true) {
            self.refresh.again = true;
            return;
        }
        self.refresh.forgotten.clear();
        self.refresh.stint = self.leads.stint;
        let store = self.parts.store.clone();
        self.tasks
            .spawn(async move { Back::Pools(store.pools().await.map_err(|error| Chain(&error).to_string())) });
    }

    /// Compares revisions when it is time to.
    pub(crate) fn compare(&mut self, now: Timestamp) {
        if now.since(self.refresh.compared_at) < COMPARE_EVERY || self.refresh.under_way {
            return;
        }
        self.refresh.compared_at = now;
        let store = self.parts.store.clone();
        self.tasks.spawn(async move {
            let revisions = store.pool_revisions().await;
            Back::Revisions(revisions.map_err(|error| Chain(&error).to_string()))
        });
    }

    pub(crate) fn take_revisions(&mut self, revisions: Result<BTreeMap<PoolName, u64>, String>) {
        // One that fails is followed by the next; others say that the store does.
        let Ok(revisions) = revisions else { return };
        if revisions.iter().any(|(pool, revision)| self.is_news(pool, *revision)) {
            self.refresh();
        }
    }

    pub(crate) fn take_pools(&mut self, pools: Result<Vec<Pool>, String>) {
        self.refresh.under_way = false;
        let again = std::mem::take(&mut self.refresh.again);
        match pools {
            Ok(pools) if self.refresh.stint == self.leads.stint => {
                let now = self.parts.clock.now();
                let mut new = Vec::new();
                for pool in pools {
                    if self.is_news(&pool.name, pool.revision) && !self.refresh.forgotten.contains(&pool.name) {
                        info!(pool = %pool.name, revision = pool.revision, "pool settings, changed elsewhere");
                        new.push(pool.clone());
                        self.manage(Arc::new(pool), None, now);
                    }
                }
                if !new.is_empty() {
                    self.tell_of(new);
                }
            }
            Ok(_) => return self.refresh(),
            // Compared again later.
            Err(_) => return,
        }
        if again {
            self.refresh();
        }
    }
}
