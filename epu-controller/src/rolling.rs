//! What a pool launches, when that changes: templates, going back to the one before, and refreshes as operators ask for them and as they
//! come to their end. Whom to drain is chosen in [`crate::rollout`].
//!
//! A pool remembers one template: what it launched before the last change. Going back puts that in place and remembers the other, so that
//! going back once more undoes it. All of it is in the pool's record, so that it survives restarts and moves with the pool.
//!
//! A pool whose settings belong to the config file can be gone back with, too, since a bad template is no time to look for who may edit
//! the file: what the file says is then held back until the file says something else, and that is shown for as long as it lasts.

use std::collections::BTreeMap;
use std::sync::Arc;

use epu_core::Fault;
use epu_core::id::{PoolName, TemplateName};
use epu_core::journal::{Entry, Event};
use epu_core::machine::MachineSpec;
use epu_core::pool::{Origin, Placement, Pool, PoolSpec, Previous, Refresh};
use epu_core::request::{Answer, Caller, PoolRefresh, RefreshStep, RefreshView};
use epu_core::time::Timestamp;
use tracing::info;

use crate::managing::Managed;
use crate::ops::{WHY_MAX, must_own};
use crate::rollout::{self, Step, Versions};
use crate::service::Controller;
use crate::spec::Resolved;

/// The longest text of why a refresh paused by itself.
const PAUSED_WHY_MAX: usize = 500;

impl Controller {
    pub(crate) async fn pool_refresh(&mut self, caller: &Caller, ask: PoolRefresh) -> Result<Answer, Fault> {
        let before = self.pool(&ask.pool)?;
        if ask.step != RefreshStep::Show {
            must_own(caller, &before, "refresh")?;
            if ask.why.len() > WHY_MAX {
                let text = format!("refresh pool {}: the reason is longer than {WHY_MAX} characters", before.name);
                return Err(Fault::new("bad-request", text));
            }
            let now = self.parts.clock.now();
            let asked = Asked {
                by: caller.name(),
                why: ask.why,
                now,
                in_file: self.version_in_file(&before),
                outdated: self.pools.get(&ask.pool).map_or(0, |managed| rollout::outdated(&managed.view).0),
            };
            if let Some((after, events)) = stepped(&before, ask.step, &asked)? {
                let entry = |event| Entry::new(now, asked.by.clone(), event).of(&before.name);
                self.keep_pools(vec![after], events.into_iter().map(entry).collect()).await?;
            }
        }
        let managed = self.pools.get(&ask.pool);
        let managed = managed.ok_or_else(|| Fault::new("no-such-pool", format!("no pool is named {}", ask.pool)))?;
        Answer::of(&refresh_view(managed))
    }

    /// The version that the config file has for a pool that belongs to it, where its placements ask for the same machines.
    fn version_in_file(&self, pool: &Pool) -> Option<String> {
        if !matches!(pool.origin, Origin::File { .. }) {
            return None;
        }
        let file = self.parts.file.borrow();
        let there = file.pools.iter().find(|resolved| resolved.name == pool.name);
        let there = there.filter(|resolved| same_machines(&machines(&pool.spec), &machines(&resolved.spec)));
        there.map(|resolved| resolved.template_version.clone())
    }

    /// Writes that a refresh paused or came to its end. Should the store not take it, the next look tries again.
    pub(crate) async fn roll(&mut self, name: &PoolName, step: &Step, now: Timestamp) {
        let Some(before) = self.pools.get(name).map(|managed| managed.view.pool.clone()) else {
            return;
        };
        let Some((after, event)) = ended(&before, step) else { return };
        info!(pool = %name, version = after.template_version, "refresh: {}", event_word(&event));
        let journal = vec![Entry::new(now, "controller", event).of(name)];
        let kept = self.keep_pools(vec![after], journal).await;
        if kept.as_ref().is_err_and(|fault| fault.code == "conflict") {
            // Somebody else changed it meanwhile, which is being looked at.
            return self.wake(name, now + *self.parts.config.tick);
        }
        if !self.noted(kept.map_err(|fault| fault.text), "write how a refresh goes") {
            self.wake(name, now + *self.parts.config.tick);
        }
    }
}

fn event_word(event: &Event) -> &str {
    if let Event::Refresh { step, .. } = event {
        step
    } else {
        event.kind()
    }
}

// ---- templates

/// Remembers what a pool launched so far, when it is to launch something else from now on.
pub(crate) fn with_former(before: &Pool, mut after: Pool) -> (Pool, Option<Event>) {
    let differs = Versions::of(before).any_differs(&Versions::of(&after));
    if before.template_version == after.template_version && !differs {
        return (after, None);
    }
    after.previous = Some(Box::new(former(before, false)));
    if let Some(refresh) = after.refresh.as_mut() {
        // It goes on, to what is the newest now.
        refresh.back = false;
    }
    let event = changed(before, &after);
    (after, Some(event))
}

/// What a pool launches now, as it is remembered.
fn former(pool: &Pool, held_back: bool) -> Previous {
    Previous {
        template: pool.template.clone(),
        template_version: pool.template_version.clone(),
        machines: machines(&pool.spec),
        held_back,
    }
}

/// What differs by each placement from the template's `machine`, by the placement's name.
fn machines(spec: &PoolSpec) -> BTreeMap<String, MachineSpec> {
    let by_name = |placement: &Placement| (placement.called().to_owned(), placement.machine.clone());
    spec.placements.iter().map(by_name).collect()
}

/// Whether placements that are in both ask for the same machines.
fn same_machines(one: &BTreeMap<String, MachineSpec>, other: &BTreeMap<String, MachineSpec>) -> bool {
    one.iter()
        .all(|(name, machine)| other.get(name).is_none_or(|other| other == machine))
}

/// Has the placements that are named ask for these machines again.
fn set_machines(spec: &mut PoolSpec, machines: &BTreeMap<String, MachineSpec>) {
    for placement in &mut spec.placements {
        if let Some(machine) = machines.get(placement.called()) {
            placement.machine.clone_from(machine);
        }
    }
}

fn changed(before: &Pool, after: &Pool) -> Event {
    Event::TemplateChanged {
        from: before.template_version.clone(),
        to: after.template_version.clone(),
    }
}

/// What the config file says of a pool, but for a template that was gone back from and that it still has.
pub(crate) fn unless_held_back(resolved: &Resolved, before: Option<&Arc<Pool>>) -> Resolved {
    let mut resolved = resolved.clone();
    if let Some(before) = before.filter(|pool| is_held_back(pool, &resolved)) {
        set_machines(&mut resolved.spec, &machines(&before.spec));
        resolved.spec.template.clone_from(&before.spec.template);
        resolved.template.clone_from(&before.template);
        resolved.template_version.clone_from(&before.template_version);
    }
    resolved
}

fn is_held_back(pool: &Pool, resolved: &Resolved) -> bool {
    let previous = pool.previous.as_deref().filter(|previous| previous.held_back);
    previous.is_some_and(|previous| {
        previous.template_version == resolved.template_version && same_machines(&previous.machines, &machines(&resolved.spec))
    })
}

// ---- what operators ask

/// What goes with a request about a refresh.
struct Asked {
    by: String,
    why: String,
    now: Timestamp,
    /// The version that the config file has, when the pool belongs to it and asks for the same machines there.
    in_file: Option<String>,
    /// Live instances of older versions.
    outdated: u32,
}

/// A pool's record after what was asked, with what that is in the journal; none when that changes nothing.
fn stepped(before: &Pool, step: RefreshStep, asked: &Asked) -> Result<Option<(Pool, Vec<Event>)>, Fault> {
    let doing = match step {
        RefreshStep::Show => return Ok(None),
        RefreshStep::Start => "refresh",
        RefreshStep::Pause => "pause the refresh of",
        RefreshStep::Resume => "resume the refresh of",
        RefreshStep::Stop => "stop the refresh of",
        RefreshStep::Rollback => "roll back",
    };
    let refused = |text: String| Err(Fault::new("conflict", format!("{doing} pool {}: {text}", before.name)));
    if before.removed {
        return refused("it is being removed".to_owned());
    }
    let none_is_on = "no refresh is under way; see `epumgmt pool show`".to_owned();
    let with = |refresh: Option<Refresh>, word: &str| {
        let after = Pool {
            refresh,
            revision: before.revision + 1,
            ..before.clone()
        };
        let event = said(&after, word, &asked.why);
        Ok(Some((after, vec![event])))
    };
    match (step, &before.refresh) {
        (RefreshStep::Show, _) | (RefreshStep::Start, Some(_)) | (RefreshStep::Stop, None) => Ok(None),
        // Nothing to replace is nothing to begin.
        (RefreshStep::Start, None) if asked.outdated == 0 => Ok(None),
        (RefreshStep::Start, None) => with(Some(begun(asked, false)), "started"),
        (RefreshStep::Pause | RefreshStep::Resume, None) => refused(none_is_on),
        (RefreshStep::Pause, Some(refresh)) => {
            let why = if asked.why.is_empty() {
                format!("by {}", asked.by)
            } else {
                asked.why.clone()
            };
            if refresh.paused.as_ref() == Some(&why) {
                return Ok(None);
            }
            let paused = Refresh {
                paused: Some(why),
                ..refresh.clone()
            };
            with(Some(paused), "paused")
        }
        (RefreshStep::Resume, Some(Refresh { paused: None, .. })) => Ok(None),
        (RefreshStep::Resume, Some(refresh)) => {
            let resumed = Refresh {
                paused: None,
                ..refresh.clone()
            };
            with(Some(resumed), "resumed")
        }
        (RefreshStep::Stop, Some(_)) => with(None, "stopped"),
        // It goes back already: asked twice, it would go forward again.
        (RefreshStep::Rollback, Some(Refresh { back: true, .. })) => Ok(None),
        (RefreshStep::Rollback, _) => {
            let Some(previous) = before.previous.as_deref() else {
                return refused("its template has not changed since it was added; there is nothing to go back to".to_owned());
            };
            let after = back(before, previous, asked);
            let events = vec![changed(before, &after), said(&after, "rolled-back", &asked.why)];
            Ok(Some((after, events)))
        }
    }
}

fn begun(asked: &Asked, back: bool) -> Refresh {
    Refresh {
        since: asked.now,
        by: asked.by.clone(),
        paused: None,
        back,
    }
}

fn said(pool: &Pool, step: &str, why: &str) -> Event {
    Event::Refresh {
        step: step.to_owned(),
        version: pool.template_version.clone(),
        why: why.to_owned(),
    }
}

/// A pool that launches again what it launched before.
fn back(before: &Pool, previous: &Previous, asked: &Asked) -> Pool {
    let mut after = Pool {
        template: previous.template.clone(),
        template_version: previous.template_version.clone(),
        revision: before.revision + 1,
        refresh: Some(begun(asked, true)),
        previous: Some(Box::new(former(before, asked.in_file.as_ref() == Some(&before.template_version)))),
        ..before.clone()
    };
    set_machines(&mut after.spec, &previous.machines);
    // A version is the template's name and a digest of its content.
    let name = previous.template_version.rsplit_once('@').map(|(name, _)| name);
    if let Some(name) = name.and_then(|name| TemplateName::new(name).ok()) {
        after.spec.template = name;
    }
    after
}

// ---- what it comes to by itself

/// A pool's record after its refresh paused by itself or came to its end; none when it has none that could.
fn ended(before: &Pool, step: &Step) -> Option<(Pool, Event)> {
    let refresh = before.refresh.as_ref()?;
    let (refresh, word, why) = match step {
        Step::Done => (None, "done", String::new()),
        Step::Pause(_) if refresh.paused.is_some() => return None,
        Step::Pause(why) => {
            let why: String = why.chars().take(PAUSED_WHY_MAX).collect();
            let paused = Refresh {
                paused: Some(why.clone()),
                ..refresh.clone()
            };
            (Some(paused), "paused", why)
        }
    };
    let after = Pool {
        refresh,
        revision: before.revision + 1,
        ..before.clone()
    };
    let event = said(&after, word, &why);
    Some((after, event))
}

// ---- what is shown

/// How far a pool's refresh is.
pub(crate) fn refresh_view(managed: &Managed) -> RefreshView {
    let pool = &managed.view.pool;
    let (outdated, draining) = rollout::outdated(&managed.view);
    RefreshView {
        pool: pool.name.clone(),
        refresh: pool.refresh.clone(),
        version: pool.template_version.clone(),
        previous: pool.previous.as_ref().map(|previous| previous.template_version.clone()),
        versions: rollout::versions(&managed.view),
        outdated,
        draining,
        held: pool.refresh.as_ref().and_then(|refresh| held(managed, refresh)),
    }
}

fn held(managed: &Managed, refresh: &Refresh) -> Option<String> {
    if let Some(why) = &refresh.paused {
        return Some(format!("paused: {why}"));
    }
    let suppressed = managed.last.iter().flat_map(|last| &last.suppressed);
    let mut reasons = suppressed.filter(|reason| reason.code.starts_with("refresh-") || reason.code == "closed");
    reasons.next().map(|reason| reason.text.clone())
}

/// What a person is to know about a pool's templates and refresh.
pub(crate) fn concerns(managed: &Managed) -> Vec<String> {
    let pool = &managed.view.pool;
    let mut concerns = Vec::new();
    if let Some(refresh) = &pool.refresh {
        let (outdated, draining) = rollout::outdated(&managed.view);
        let what = if refresh.back { "refresh back to" } else { "refresh to" };
        let held = held(managed, refresh).map_or(String::new(), |held| format!("; {held}"));
        let todo = if refresh.paused.is_some() {
            format!(
                "; `epumgmt pool refresh {0} --resume` goes on, `epumgmt pool refresh {0} --rollback` goes back",
                pool.name
            )
        } else {
            String::new()
        };
        concerns.push(format!(
            "{what} {}: {outdated} of {} run other versions, {draining} of them are on their way out{held}{todo}",
            pool.template_version,
            managed.view.live()
        ));
    }
    if let Some(previous) = pool.previous.as_ref().filter(|previous| previous.held_back) {
        concerns.push(format!(
            "the config file's template {} was rolled back and is not launched: change it in the file, or launch it again with \
             `epumgmt pool refresh {} --rollback`",
            previous.template_version, pool.name
        ));
    }
    concerns
}

#[cfg(test)]
mod tests;
