//! What operators and the config file ask of the controller.
//!
//! The store is the truth about pools. Those in the config file are applied at start and on reload, and belong to it: only the
//! file changes them, except that anyone may pause them. Taking one out of the file removes nothing until `pool remove`.

use std::collections::BTreeSet;
use std::sync::Arc;

use epu_core::code::Chain;
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Cause, Work};
use epu_core::journal::{Entry, Event};
use epu_core::lease::Domain;
use epu_core::pool::{Origin, Paused, Pool};
use epu_core::request::{
    Answer, Caller, EventsAfter, PlacementFilter, PoolChange, PoolFile, PoolPause, PoolRef, PoolRemove, Request, Terminate,
};
use epu_core::{Fault, Timestamp};
use epu_store::JournalQuery;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::rolling::{unless_held_back, with_former};
use crate::service::Controller;
use crate::spec;
use crate::view::Class;

/// The most journal entries in one answer.
const EVENTS_MAX: u32 = 1_000;
/// The longest reason for a pause or a refresh.
pub(crate) const WHY_MAX: usize = 500;

impl Controller {
    /// Answers a request from what this controller knows.
    #[expect(clippy::wildcard_enum_match_arm, reason = "what others answer is refused here")]
    pub(crate) async fn answer(&mut self, caller: &Caller, request: Request) -> Result<Answer, Fault> {
        match request {
            Request::PoolAdd(file) => self.pool_add(caller, &file).await,
            Request::PoolList(_) => Answer::of(&self.pool_views()),
            Request::PoolShow(PoolRef { pool }) => Answer::of(&self.pool_view(&pool)?),
            Request::PoolReconfigure(change) => self.pool_reconfigure(caller, change).await,
            Request::PoolPause(pause) => self.pool_pause(caller, pause).await,
            Request::PoolResume(PoolRef { pool }) => {
                self.pool_pause(
                    caller,
                    PoolPause {
                        pool,
                        paused: Paused::default(),
                    },
                )
                .await
            }
            Request::PoolRefresh(refresh) => self.pool_refresh(caller, refresh).await,
            Request::PoolRemove(remove) => self.pool_remove(caller, &remove).await,
            Request::PlacementList(PlacementFilter { pool }) => Answer::of(&self.placement_views(pool.as_ref())?),
            Request::PlacementReset(reset) => self.placement_reset(caller, &reset).await,
            Request::InstanceList(filter) => Answer::of(&self.instance_list(&filter).await?),
            Request::InstanceShow(which) => Answer::of(&self.instance_show(&which.instance).await?),
            Request::Status(_) => Answer::of(&self.status_view()),
            Request::Events(after) => self.events(after).await,
            other => Err(Fault::new(
                "bad-request",
                format!("the controller does not answer {:?}", other.op()),
            )),
        }
    }

    /// Applies the config file's pools, as far as they are led here: whoever leads the others applies them.
    pub(crate) async fn apply_file(&mut self) {
        let file = self.parts.file.borrow_and_update().clone();
        for managed in self.pools.values_mut() {
            managed.view.on_sites(file.sites.clone());
        }
        self.in_file = file.pools.iter().map(|p| p.name.clone()).collect();
        let now = self.parts.clock.now();
        let mut changed = Vec::new();
        let mut journal = Vec::new();
        for resolved in file.pools.iter().filter(|p| self.term_of(&p.name).is_some()) {
            let origin = Origin::File {
                path: file.path.clone(),
                line: resolved.line,
            };
            let before = self.pools.get(&resolved.name).map(|m| m.view.pool.clone());
            let resolved = &unless_held_back(resolved, before.as_ref());
            let same = before.as_ref().is_some_and(|p| {
                p.spec == resolved.spec
                    && p.template == resolved.template
                    && p.template_version == resolved.template_version
                    && p.origin == origin
                    && !p.removed
            });
            if same {
                continue;
            }
            let mut after = pool(resolved, origin, before.as_deref(), None, now);
            let mut events = Vec::new();
            if let Some(before) = &before {
                events.push(Event::PoolChanged {
                    revision: after.revision,
                    set: differences(before, resolved),
                });
                let (with_former, event) = with_former(before, after);
                after = with_former;
                events.extend(event);
            } else {
                events.push(Event::PoolAdded);
            }
            journal.extend(events.into_iter().map(|event| Entry::new(now, "config", event).of(&resolved.name)));
            changed.push(after);
        }
        let kept = self.keep_pools(changed, journal).await;
        if let Err(fault) = &kept
            && !self.file_failed
        {
            warn!(%fault, file = file.path, "the config file's pools could not be applied; trying again");
        }
        self.file_failed = kept.is_err();
    }

    /// Stores pools, then manages them as far as they are led here; whoever leads the others is told.
    pub(crate) async fn keep_pools(&mut self, pools: Vec<Pool>, journal: Vec<Entry>) -> Result<(), Fault> {
        if pools.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.parts.store.put_pools(&pools, journal).await {
            if matches!(error, epu_store::Error::Conflict(_)) {
                // Somebody else changed one: what is known of it is old.
                self.refresh();
            }
            return Err(store_fault(&error));
        }
        let now = self.parts.clock.now();
        for pool in &pools {
            info!(pool = %pool.name, revision = pool.revision, "pool settings");
            if self.leads.led.contains(&Domain::of(&pool.name)) {
                self.manage(Arc::new(pool.clone()), None, now);
            }
        }
        self.tell_of(pools);
        Ok(())
    }

    async fn pool_add(&mut self, caller: &Caller, file: &PoolFile) -> Result<Answer, Fault> {
        let known = self.parts.file.borrow().known.clone();
        let read = spec::read(&file.file, &file.text, &known)?;
        if read.is_empty() {
            return Err(Fault::new(
                "bad-config",
                format!("{}: there is no pool in it; write them under `pools:`", file.file),
            ));
        }
        // Those led elsewhere too.
        let there = self.parts.store.pool_revisions().await.map_err(|e| store_fault(&e))?;
        let taken = read.iter().map(|r| &r.name).filter(|name| there.contains_key(*name));
        let taken: Vec<&str> = taken.map(PoolName::as_str).collect();
        if !taken.is_empty() {
            let text = format!(
                "add pools: {} exists already; change it with `epumgmt pool reconfigure`, or choose another name",
                taken.join(", ")
            );
            return Err(Fault::new("conflict", text));
        }
        let now = self.parts.clock.now();
        let owner = caller.owner_of_new();
        let new = read.iter().map(|resolved| pool(resolved, Origin::Operator, None, owner, now));
        let pools: Vec<Pool> = new.collect();
        let names: Vec<PoolName> = pools.iter().map(|p| p.name.clone()).collect();
        let journal = names
            .iter()
            .map(|name| Entry::new(now, caller.name(), Event::PoolAdded).of(name))
            .collect();
        self.keep_pools(pools, journal).await?;
        Answer::of(&names)
    }

    async fn pool_reconfigure(&mut self, caller: &Caller, change: PoolChange) -> Result<Answer, Fault> {
        let before = self.pool(&change.pool)?;
        must_own(caller, &before, "change")?;
        self.refuse_file(&before, "change")?;
        if before.removed {
            return Err(Fault::new("conflict", format!("change pool {}: it is being removed", before.name)));
        }
        if change.if_revision.is_some_and(|revision| revision != before.revision) {
            let text = format!(
                "change pool {}: it is at revision {} by now; look at it again",
                before.name, before.revision
            );
            return Err(Fault::new("conflict", text));
        }
        let known = self.parts.file.borrow().known.clone();
        let patched = spec::patched(&before, &change.set, change.template.as_deref(), &known)?;
        if (&patched.spec, &patched.template, &patched.template_version) == (&before.spec, &before.template, &before.template_version) {
            // As when the same change arrives twice.
            return Answer::of(&before.revision);
        }
        let after = Pool {
            spec: patched.spec,
            template: patched.template,
            template_version: patched.template_version,
            revision: before.revision + 1,
            ..before.as_ref().clone()
        };
        let (after, changed) = with_former(&before, after);
        let now = self.parts.clock.now();
        let revision = after.revision;
        let event = Event::PoolChanged {
            revision,
            set: json!(change.set),
        };
        let events = [Some(event), changed].into_iter().flatten();
        let journal = events.map(|event| Entry::new(now, caller.name(), event).of(&before.name)).collect();
        self.keep_pools(vec![after], journal).await?;
        Answer::of(&revision)
    }

    async fn pool_pause(&mut self, caller: &Caller, pause: PoolPause) -> Result<Answer, Fault> {
        let before = self.pool(&pause.pool)?;
        must_own(caller, &before, if pause.paused.any() { "pause" } else { "resume" })?;
        if pause.paused.why.len() > WHY_MAX {
            return Err(Fault::new(
                "bad-request",
                format!("pause pool {}: the reason is longer than {WHY_MAX} characters", before.name),
            ));
        }
        if before.paused != pause.paused {
            let now = self.parts.clock.now();
            let journal = vec![Entry::new(now, caller.name(), Event::PoolPaused(pause.paused.clone())).of(&before.name)];
            let after = Pool {
                paused: pause.paused,
                revision: before.revision + 1,
                ..before.as_ref().clone()
            };
            self.keep_pools(vec![after], journal).await?;
        }
        Answer::of(&())
    }

    async fn pool_remove(&mut self, caller: &Caller, remove: &PoolRemove) -> Result<Answer, Fault> {
        let before = self.pool(&remove.pool)?;
        must_own(caller, &before, "remove")?;
        self.refuse_file(&before, "remove")?;
        let now = self.parts.clock.now();
        if !before.removed {
            let journal = vec![Entry::new(now, caller.name(), Event::PoolRemoved).of(&before.name)];
            let after = Pool {
                removed: true,
                revision: before.revision + 1,
                ..before.as_ref().clone()
            };
            self.keep_pools(vec![after], journal).await?;
        }
        let Some(managed) = self.pools.get(&remove.pool) else {
            return Answer::of(&0);
        };
        let live = managed.view.live();
        if remove.force && live > 0 {
            let instances: Vec<(InstanceId, Work)> = managed
                .view
                .members()
                .filter(|m| m.class() < Class::Ending)
                .map(|m| (m.instance.id, m.work))
                .collect();
            // An operator's force goes to the provisioner at once; should it get lost, the pool drains all the same.
            let order = Request::Terminate(Terminate {
                instances,
                why: Cause::PoolRemoved,
                epoch: 0,
            });
            self.send_once(&remove.pool, order);
        }
        self.mark(&remove.pool);
        Answer::of(&live)
    }

    async fn events(&self, after: EventsAfter) -> Result<Answer, Fault> {
        let query = JournalQuery {
            after: after.after,
            pool: after.pool,
            instance: None,
            limit: after.limit.unwrap_or(100).clamp(1, EVENTS_MAX),
        };
        Answer::of(&self.parts.store.journal(query).await.map_err(|e| store_fault(&e))?)
    }

    /// A pool's record.
    pub(crate) fn pool(&self, name: &PoolName) -> Result<Arc<Pool>, Fault> {
        let Some(managed) = self.pools.get(name) else {
            let known = self.pools.keys().map(PoolName::as_str);
            let near = epu_core::input::nearest(name.as_str(), known).map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            return Err(Fault::new("no-such-pool", format!("no pool is named {:?}{near}", name.as_str())));
        };
        Ok(managed.view.pool.clone())
    }

    fn refuse_file(&self, pool: &Pool, doing: &str) -> Result<(), Fault> {
        match &pool.origin {
            Origin::File { path, line } if self.in_file.contains(&pool.name) => {
                let text = format!(
                    "{doing} pool {}: its settings belong to {path}, line {line}; edit that file, then reload with SIGHUP",
                    pool.name
                );
                Err(Fault::new("from-file", text))
            }
            Origin::File { .. } | Origin::Operator => Ok(()),
        }
    }

    /// Names that the config file no longer has and that were not removed.
    pub(crate) fn left_the_file(&self) -> BTreeSet<&PoolName> {
        let from_file = |m: &&crate::managing::Managed| matches!(m.view.pool.origin, Origin::File { .. }) && !m.view.pool.removed;
        self.pools
            .values()
            .filter(from_file)
            .map(|m| &m.view.pool.name)
            .filter(|name| !self.in_file.contains(*name))
            .collect()
    }
}

/// Whoever acts for certain owners only changes nothing of others'.
pub(crate) fn must_own(caller: &Caller, pool: &Pool, doing: &str) -> Result<(), Fault> {
    if caller.owns(pool.owner.as_deref()) {
        return Ok(());
    }
    let whose = pool
        .owner
        .as_ref()
        .map_or("nobody in particular".to_owned(), |owner| format!("{owner:?}"));
    let text = format!(
        "{doing} pool {}: it belongs to {whose}, for whom {} may not act; ask an operator who may",
        pool.name,
        caller.name()
    );
    Err(Fault::new("forbidden", text))
}

/// A pool's record from what a file says, keeping what the file does not say of the one before.
fn pool(resolved: &spec::Resolved, origin: Origin, before: Option<&Pool>, owner: Option<&str>, now: Timestamp) -> Pool {
    Pool {
        name: resolved.name.clone(),
        spec: resolved.spec.clone(),
        template: resolved.template.clone(),
        template_version: resolved.template_version.clone(),
        origin,
        revision: before.map_or(1, |p| p.revision + 1),
        paused: before.map(|p| p.paused.clone()).unwrap_or_default(),
        removed: false,
        added_at: before.map_or(now, |p| p.added_at),
        refresh: before.and_then(|p| p.refresh.clone()),
        previous: before.and_then(|p| p.previous.clone()),
        owner: before.map_or_else(|| owner.map(str::to_owned), |p| p.owner.clone()),
    }
}

/// The settings that a file gives another value than they had, by key.
fn differences(before: &Pool, after: &spec::Resolved) -> Value {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(&before.spec), serde_json::to_value(&after.spec)) else {
        return Value::Null;
    };
    let mut set: serde_json::Map<String, Value> = new.into_iter().filter(|(key, value)| old.get(key) != Some(value)).collect();
    if before.template_version != after.template_version {
        set.insert("template".to_owned(), json!(after.template_version));
    }
    Value::Object(set)
}

pub(crate) fn store_fault(error: &epu_store::Error) -> Fault {
    let code = match error {
        epu_store::Error::Conflict(_) | epu_store::Error::Exists(_) => "conflict",
        epu_store::Error::Closed => "closed",
        epu_store::Error::Deposed(_) => "stale-epoch",
        epu_store::Error::InUse { .. } | epu_store::Error::Database { .. } | epu_store::Error::Corrupt { .. } => "store-failed",
    };
    Fault::new(code, Chain(error).to_string())
}
