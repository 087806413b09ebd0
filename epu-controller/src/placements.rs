//! Placements as they are shown, and let launch again by a person.

use std::collections::BTreeMap;

use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::id::{PoolName, SiteName};
use epu_core::journal::{Entry, Event};
use epu_core::machine::{MachineSpec, Market};
use epu_core::pool::Placement;
use epu_core::request::{Answer, Caller, PlacementReset, PlacementView};
use epu_core::time::{Span, Timestamp};
use epu_store::{DecisionCommit, PoolMemory};
use tracing::info;

use crate::guards::{Breaker, Gate, Guards};
use crate::managing::Managed;
use crate::ops::{must_own, store_fault};
use crate::service::Controller;
use crate::view::{Class, View};

/// How much of a fault is quoted in one line.
const LINE_MAX: usize = 240;

impl Controller {
    /// The placements of one pool, or of all that are led here.
    pub(crate) fn placement_views(&self, only: Option<&PoolName>) -> Result<Vec<PlacementView>, Fault> {
        if let Some(only) = only {
            self.pool(only)?;
        }
        let now = self.parts.clock.now();
        let pools = self.pools.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        Ok(pools.flat_map(|(_, managed)| views(&managed.view, &managed.guards, now)).collect())
    }

    /// Lets placements of a pool launch again: written before it is answered, so that a restart parks none again.
    pub(crate) async fn placement_reset(&mut self, caller: &Caller, reset: &PlacementReset) -> Result<Answer, Fault> {
        let pool = self.pool(&reset.pool)?;
        must_own(caller, &pool, "reset placements of")?;
        let (Some(term), Some(managed)) = (self.term_of(&pool.name), self.pools.get(&pool.name)) else {
            let text = format!("reset placements of pool {}: another controller leads it by now; repeat", pool.name);
            return Err(Fault::new("stale-epoch", text));
        };
        if managed.unsure.is_some() {
            let text = format!(
                "reset placements of pool {}: a decision about it is just being written; repeat",
                pool.name
            );
            return Err(Fault::new("conflict", text));
        }
        let only = reset.placement.as_ref().map(|name| name.as_str());
        let known: Vec<&str> = pool.spec.placements.iter().map(Placement::called).collect();
        if let Some(only) = only.filter(|only| !known.contains(only)) {
            let near = epu_core::input::nearest(only, known.iter().copied());
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let text = format!("pool {} has no placement {only:?}{near}; it has {}", pool.name, known.join(", "));
            return Err(Fault::new("no-such-placement", text));
        }
        let now = self.parts.clock.now();
        let mut guards = managed.guards.clone();
        let mut freed = Vec::new();
        for (name, breaker) in &mut guards.launching {
            if only.is_none_or(|only| only == name) && breaker.holds() && breaker.reset(now) {
                freed.push(name.clone());
            }
        }
        if freed.is_empty() {
            return Answer::of(&freed);
        }
        let entry = |placement: &String| {
            let placement = placement.clone();
            Entry::new(now, caller.name(), Event::PlacementReset { placement }).of(&pool.name)
        };
        let commit = DecisionCommit {
            term: Some(term),
            memory: Some(PoolMemory {
                target: managed.target,
                engine: managed.engine.as_ref().map(|e| e.version().to_owned()).unwrap_or_default(),
                memory: managed.memory.0.clone(),
                guards: serde_json::to_value(&guards).unwrap_or_default(),
            }),
            journal: freed.iter().map(entry).collect(),
            ..DecisionCommit::default()
        };
        match self.parts.store.commit_decision(&pool.name, commit).await {
            Ok(_) => {}
            Err(error) => {
                if matches!(error, epu_store::Error::Deposed(_)) {
                    self.depose(term, "store");
                }
                self.noted(Err(Chain(&error).to_string()), "reset placements");
                return Err(store_fault(&error));
            }
        }
        info!(pool = %pool.name, by = caller.name(), placements = freed.join(", "), "placements may launch again");
        if let Some(managed) = self.pools.get_mut(&pool.name) {
            managed.guards = guards;
            managed.remembered_at = now;
            managed.unwritten = false;
        }
        self.mark(&pool.name);
        Answer::of(&freed)
    }
}

impl Managed {
    /// The gate of each of its placements, as a number.
    pub(crate) fn gates(&self, now: Timestamp) -> Vec<(String, i64)> {
        let placements = self.view.pool.spec.placements.iter();
        let gate = |placement: &Placement| {
            let called = placement.called();
            let breaker = self.guards.launching.get(called);
            let level = match breaker.map_or(Gate::Closed, |breaker| breaker.gate(now)) {
                Gate::Closed => 0,
                Gate::Open(_) => 1,
                Gate::Parked => 2,
                Gate::HalfOpen | Gate::Probing => 3,
            };
            (called.to_owned(), level)
        };
        placements.map(gate).collect()
    }
}

/// The placements of a pool with what is known of each, those behind that it has no more and that are not empty yet.
pub(crate) fn views(view: &View, guards: &Guards, now: Timestamp) -> Vec<PlacementView> {
    let pool = &view.pool;
    let untried = Breaker::default();
    let ranked = pool.spec.placements.iter().zip(1_u32..).map(|(placement, rank)| {
        let called = placement.called();
        let breaker = guards.launching.get(called).unwrap_or(&untried);
        let machine = placement.template(&pool.template).machine;
        let (live, max) = (view.staying_on(called), placement.max.unwrap_or(pool.spec.max).min(pool.spec.max));
        let gate = match breaker.gate(now) {
            Gate::Parked => "parked",
            Gate::Open(_) => "paused",
            Gate::HalfOpen | Gate::Probing => "trying",
            Gate::Closed if live >= max => "full",
            Gate::Closed => "open",
        };
        let parked = breaker.parked.as_ref().map(|parked| parked.fault.clone());
        PlacementView {
            pool: pool.name.clone(),
            placement: called.to_owned(),
            rank: Some(rank),
            site: placement.site.clone(),
            machine: in_one_line(&machine),
            live,
            max,
            gate: gate.to_owned(),
            until: breaker.open_until.filter(|until| *until > now && parked.is_none()),
            fault: parked.or_else(|| breaker.fault.clone().filter(|_| breaker.holds_now(now))),
            score: breaker.score.board(machine.price),
        }
    });
    let is_listed = |name: &str| pool.spec.placements.iter().any(|placement| placement.called() == name);
    let left = view.placed().filter(|(name, _)| !is_listed(name)).filter_map(|(name, live)| {
        Some(PlacementView {
            pool: pool.name.clone(),
            placement: name.to_owned(),
            rank: None,
            site: site_of(view, name)?,
            machine: String::new(),
            live,
            max: 0,
            gate: "full".to_owned(),
            until: None,
            fault: None,
            score: guards.launching.get(name).unwrap_or(&untried).score.board(None),
        })
    });
    ranked.chain(left).collect()
}

fn site_of(view: &View, placement: &str) -> Option<SiteName> {
    let mut members = view.members().filter(|member| member.class() != Class::Ended);
    members
        .find(|member| member.placed_by() == placement)
        .map(|member| member.instance.site.clone())
}

/// Image, size, zone and market, as far as they are said.
fn in_one_line(machine: &MachineSpec) -> String {
    let market = match &machine.market {
        Some(Market::Spot(spot)) => Some(
            spot.max_price
                .map_or_else(|| "spot".to_owned(), |most| format!("spot up to {most}")),
        ),
        Some(Market::OnDemand) => Some("on-demand".to_owned()),
        None => None,
    };
    let place = machine.subnet.clone().or_else(|| machine.zone.clone());
    let words = [machine.image.clone(), machine.size.clone(), place, market];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What holds up launching by a pool's placements, or is slow about it, in words.
pub(crate) fn concerns(managed: &Managed, now: Timestamp) -> Vec<String> {
    let view = &managed.view;
    let pool = &view.pool.name;
    let mut concerns = Vec::new();
    for (name, breaker) in &managed.guards.launching {
        let last = breaker.fault.as_ref().map(|fault| one_line(&fault.text)).unwrap_or_default();
        if let Some(parked) = &breaker.parked {
            concerns.push(format!(
                "placement {name} is parked since {}: {} ({}); mend that, then `epumgmt placement reset {pool} {name}`",
                parked.since,
                one_line(&parked.fault.text),
                parked.fault.code
            ));
        } else if let Some(until) = breaker.open_until.filter(|_| breaker.holds_now(now)) {
            let what = if breaker.full_since.is_some() {
                format!("{name} had no room {} times in a row", breaker.filled)
            } else {
                format!("{} launches came to nothing", breaker.failures)
            };
            let why = if last.is_empty() {
                last
            } else {
                format!("; the last fault: {last}")
            };
            concerns.push(if now < until {
                format!("launching on {name} pauses until {until} after {what}{why}")
            } else {
                format!("launching on {name} is tried with one instance after {what}{why}")
            });
        }
    }
    let mut slow: BTreeMap<&str, (u32, Span)> = BTreeMap::new();
    for member in view.members().filter(|member| member.class() == Class::Pending) {
        let name = member.placed_by();
        let limit = managed.guards.launching.get(name).and_then(|breaker| breaker.score.slow_after());
        if let Some(limit) = limit.filter(|limit| now.since(member.instance.created_at) > *limit) {
            slow.entry(name).or_insert((0, Span(limit))).0 += 1;
        }
    }
    for (name, (n, limit)) in slow {
        concerns.push(format!(
            "slow boot: {n} on {name} are not ready after {limit}, twice what 95 of 100 took there; each is given up at its template's ready-within"
        ));
    }
    concerns
}

/// A fault's text in one line: its beginning, and the end of the output that it quotes, where the reason mostly stands.
pub(crate) fn one_line(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let shortened = |line: &str| line.chars().take(LINE_MAX).collect::<String>();
    let first = lines.next().map(shortened).unwrap_or_default();
    lines
        .next_back()
        .map_or_else(|| first.clone(), |last| format!("{first} … {}", shortened(last)))
}
