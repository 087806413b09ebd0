//! Which controller answers what operators ask.
//!
//! A request may arrive at any controller. One about a single pool is answered by whoever leads it: it is passed on as the same
//! caller's, and the answer passed back. Lists are put together from what every live controller knows ([`crate::gathering`]). What
//! does not depend on what a controller knows, such as adding a pool or reading the journal, is done by whoever is asked.
//!
//! What another controller passes on is answered for own pools only, so that nothing goes in circles: whoever does not lead (any
//! more) says so, and the first one looks again at who does. All waiting happens in tasks; the loop goes on meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::{Answering, Bus, Call};
use epu_core::Fault;
use epu_core::id::PoolName;
use epu_core::lease::{Domain, SHARDS, Standing};
use epu_core::request::{Answer, Caller, InstanceFilter, PlacementFilter, Request, Service};
use epu_core::time::Timestamp;
use epu_store::Store;

use crate::gathering::Gathering;
use crate::service::{Back, Controller};

/// How long another controller may take for one pool. Too high: askers wait for one that is gone. Too low: a busy one seems gone.
const FORWARD_WITHIN: Duration = Duration::from_secs(10);
/// How often a pool that has just moved is looked for again, and how long before each.
const LOOK_AGAIN: u32 = 3;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(400);
/// How long a request waits for a pool that is being loaded.
const PARK_WITHIN: Duration = Duration::from_secs(10);
/// Requests that wait for such pools at the most.
const PARKED_MAX: usize = 1_024;
/// Requests being passed on or gathered for at the most; more wait in the bus.
const ROUTED_MAX: usize = 1_024;
/// What a controller says that is asked for a pool it does not lead.
const MOVED: &str = "stale-epoch";

/// Requests that are not answered at once.
#[derive(Default)]
pub(crate) struct Routes {
    parked: VecDeque<(Timestamp, Asking)>,
    routed: usize,
}

impl Routes {
    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.routed < ROUTED_MAX
    }

    pub(crate) fn done(&mut self) {
        self.routed = self.routed.saturating_sub(1);
    }
}

/// As what a controller is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// As one of those that answer for all pools.
    Any,
    /// As the one that leads, by another controller.
    Leader,
}

/// A request on its way to its answer.
pub(crate) struct Asking {
    to: As,
    caller: Caller,
    request: Request,
    answering: Answering,
}

/// Where a pool is managed.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here,
    /// Here as soon as it is loaded.
    Soon,
    At(String),
    Nowhere,
}

impl Controller {
    pub(crate) async fn take_call(&mut self, call: Call, to: As) {
        let (caller, request, answering) = call.into_parts();
        self.take_asking(Asking {
            to,
            caller,
            request,
            answering,
        })
        .await;
    }

    async fn take_asking(&mut self, asking: Asking) {
        if let Err(fault) = may_ask(&asking.caller, &asking.request) {
            return asking.answering.answer(Err(fault));
        }
        match (pool_of(&asking.request).cloned(), asking.to) {
            (Some(pool), to) => match (self.place_of(&pool), to) {
                (Place::Here, _) => self.answer_here(asking).await,
                (Place::Soon, _) => self.park(asking, &pool),
                (Place::At(leader), As::Any) => self.forward(asking, pool, leader),
                (Place::Nowhere, As::Any) => asking.answering.answer(Err(nobody(&asking.request, &pool))),
                (Place::At(_) | Place::Nowhere, As::Leader) => {
                    let text = format!("{} pool {pool}: it is led by another controller by now", asking.request.op());
                    asking.answering.answer(Err(Fault::new(MOVED, text)));
                }
            },
            (None, As::Any) if is_gathered(&asking.request) => self.gather(asking).await,
            (None, As::Leader) if is_gathered(&asking.request) => asking.answering.answer(self.answer_own(&asking.request)),
            (None, _) => self.answer_here(asking).await,
        }
    }

    async fn answer_here(&mut self, asking: Asking) {
        let op = asking.request.op();
        let before = (!asking.request.is_question()).then(|| self.settings_now());
        let answer = self.answer(&asking.caller, asking.request).await;
        if let (Some(before), true) = (before, answer.as_ref().is_err_and(Fault::is_refusal)) {
            self.check_unchanged(op, before);
        }
        asking.answering.answer(answer);
    }

    fn place_of(&self, pool: &PoolName) -> Place {
        let domain = Domain::of(pool);
        let now = self.parts.clock.now();
        let me = &self.leads.leading.member().name;
        if self.leads.leading.term(domain, now).is_some() {
            return if self.leads.led.contains(&domain) {
                Place::Here
            } else {
                Place::Soon
            };
        }
        match self.leads.leading.standing().leader(domain) {
            Some(leader) if leader != me => Place::At(leader.to_owned()),
            Some(_) | None if self.leads.is_coming(domain) => Place::Soon,
            Some(_) | None => Place::Nowhere,
        }
    }

    // ---- waiting for what is being loaded

    fn park(&mut self, asking: Asking, pool: &PoolName) {
        if self.routes.parked.len() >= PARKED_MAX {
            return asking.answering.answer(Err(nobody(&asking.request, pool)));
        }
        let until = self.parts.clock.now() + PARK_WITHIN;
        self.routes.parked.push_back((until, asking));
    }

    /// Looks again at what waits, now that something was loaded.
    pub(crate) async fn take_parked(&mut self) {
        for (until, asking) in std::mem::take(&mut self.routes.parked) {
            let place = pool_of(&asking.request).map(|pool| self.place_of(pool));
            if place == Some(Place::Soon) {
                self.routes.parked.push_back((until, asking));
            } else {
                self.take_asking(asking).await;
            }
        }
    }

    /// Gives up on those that waited too long.
    pub(crate) fn drop_parked(&mut self, now: Timestamp) {
        while self.routes.parked.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, asking)) = self.routes.parked.pop_front() {
                let fault = pool_of(&asking.request).map(|pool| nobody(&asking.request, pool));
                asking
                    .answering
                    .answer(Err(fault.unwrap_or_else(|| Fault::new("timeout", "not answered in time"))));
            }
        }
    }

    // ---- others

    fn forward(&mut self, asking: Asking, pool: PoolName, leader: String) {
        let (bus, store) = (self.parts.bus.clone(), self.parts.store.clone());
        self.routes.routed += 1;
        self.tasks.spawn(async move {
            let answer = pass_on(bus, store, leader, &pool, asking.caller, asking.request).await;
            asking.answering.answer(answer);
            Back::Routed
        });
    }

    /// Answers from what all controllers know. While this one leads everything, that is what it knows.
    async fn gather(&mut self, asking: Asking) {
        let me = &self.leads.leading.member().name;
        let members = self.leads.leading.standing().of(Service::Controller);
        let others: Vec<String> = members.map(|member| member.name.clone()).filter(|name| name != me).collect();
        if others.is_empty() && self.leads.led.len() == usize::from(SHARDS) {
            return self.answer_here(asking).await;
        }
        let own = self.answer_own(&asking.request);
        let gathering = Gathering {
            bus: self.parts.bus.clone(),
            store: self.parts.store.clone(),
            now: self.parts.clock.now(),
            caller: asking.caller,
            request: asking.request,
            own: (me.clone(), own),
            others,
        };
        self.routes.routed += 1;
        self.tasks.spawn(async move {
            asking.answering.answer(gathering.answer().await);
            Back::Routed
        });
    }
}

/// Asks the one that leads, and whoever leads instead when it has just moved.
async fn pass_on(
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    mut leader: String,
    pool: &PoolName,
    caller: Caller,
    request: Request,
) -> Result<Answer, Fault> {
    for _ in 0..LOOK_AGAIN {
        match bus.ask_member(&leader, caller.clone(), request.clone(), FORWARD_WITHIN).await {
            Err(fault) if fault.code == MOVED => {}
            Err(fault) if fault.code == "no-contact" => return Err(nobody(&request, pool)),
            answered => return answered,
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        let standing: Standing = store.standing().await.unwrap_or_default();
        match standing.leader(Domain::of(pool)) {
            Some(now) => now.clone_into(&mut leader),
            None => return Err(nobody(&request, pool)),
        }
    }
    Err(nobody(&request, pool))
}

fn nobody(request: &Request, pool: &PoolName) -> Fault {
    let text = format!(
        "{} pool {pool}: the controller that led it was lost, and another takes over within seconds; repeat it then",
        request.op()
    );
    Fault::new("no-contact", text)
}

/// Whoever may not change anything may look; agents have nothing to ask here.
fn may_ask(caller: &Caller, request: &Request) -> Result<(), Fault> {
    let may = match caller {
        Caller::Service(_) | Caller::Operator(_) | Caller::OwnersOperator(..) => true,
        Caller::Reader(_) => request.is_question(),
        Caller::Instance(_) | Caller::Launch(_) => false,
    };
    if may {
        return Ok(());
    }
    let text = format!("{}: {} may not ask that; it takes an operator", request.op(), caller.name());
    Err(Fault::new("forbidden", text))
}

/// The one pool that a request is about.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other one is about none, or about many")]
fn pool_of(request: &Request) -> Option<&PoolName> {
    match request {
        Request::PoolShow(which) | Request::PoolResume(which) => Some(&which.pool),
        Request::PoolReconfigure(change) => Some(&change.pool),
        Request::PoolPause(pause) => Some(&pause.pool),
        Request::PoolRefresh(refresh) => Some(&refresh.pool),
        Request::PoolRemove(remove) => Some(&remove.pool),
        Request::PlacementReset(reset) => Some(&reset.pool),
        Request::InstanceList(InstanceFilter { pool, .. }) | Request::PlacementList(PlacementFilter { pool }) => pool.as_ref(),
        _ => None,
    }
}

/// Whether its answer is put together from what all controllers know.
fn is_gathered(request: &Request) -> bool {
    matches!(
        request,
        Request::PoolList(_) | Request::PlacementList(_) | Request::InstanceList(_) | Request::InstanceShow(_) | Request::Status(_)
    )
}

#[cfg(test)]
mod tests {
    use epu_bus::local::LocalBus;
    use epu_core::lease::{LeaseAsk, Member};
    use epu_core::request::{Nothing, PoolRef, PoolRemove};
    use epu_core::time::Span;
    use epu_store::MemoryStore;

    use super::*;

    fn pool() -> PoolName {
        PoolName::new("web").unwrap()
    }

    fn show() -> Request {
        Request::PoolShow(PoolRef { pool: pool() })
    }

    async fn led_by(store: &MemoryStore, name: &str) {
        let member = Member {
            name: name.into(),
            service: Service::Controller,
            url: None,
            since: Timestamp(0),
        };
        let want = [Domain::of(&pool())].into();
        let lasts = Span::secs(5);
        store.lease(LeaseAsk { member, want, lasts }).await.unwrap();
    }

    #[test]
    fn readers_look_and_agents_ask_nothing_here() {
        let remove = Request::PoolRemove(PoolRemove {
            pool: pool(),
            force: false,
        });
        let reader = Caller::Reader("anna".into());
        assert_eq!(may_ask(&reader, &show()), Ok(()));
        assert_eq!(may_ask(&reader, &remove).unwrap_err().code, "forbidden");
        let agent = Caller::Launch(epu_core::LaunchId(uuid::Uuid::nil()));
        assert_eq!(may_ask(&agent, &show()).unwrap_err().code, "forbidden");
        assert_eq!(may_ask(&Caller::OwnersOperator("o".into(), vec![]), &remove), Ok(()));
    }

    #[test]
    fn what_is_about_one_pool_is_not_gathered() {
        let of = |pool| Request::InstanceList(InstanceFilter { pool, all: false });
        assert_eq!(pool_of(&of(Some(pool()))), Some(&pool()));
        assert_eq!(pool_of(&of(None)), None);
        assert!(is_gathered(&Request::Status(Nothing {})) && !is_gathered(&show()));
        let of = |pool| Request::PlacementList(PlacementFilter { pool });
        assert_eq!((pool_of(&of(Some(pool()))), pool_of(&of(None))), (Some(&pool()), None));
        assert!(is_gathered(&of(None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_has_just_moved_is_found_where_it_is_now() {
        let (bus, store) = (LocalBus::new(), Arc::new(MemoryStore::new()));
        led_by(&store, "new").await;
        let (mut old, mut new) = (bus.serve_member("old"), bus.serve_member("new"));
        let serving = tokio::spawn(async move {
            let moved = Fault::new(MOVED, "not here");
            old.recv().await.unwrap().answer(Err(moved));
            let call = new.recv().await.unwrap();
            assert_eq!(call.caller, Caller::Operator("anna".into()), "as the same caller");
            call.answer(Answer::of(&7));
        });
        let caller = Caller::Operator("anna".into());
        let answer = pass_on(bus, store, "old".into(), &pool(), caller, show()).await;
        assert_eq!(answer, Answer::of(&7));
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_was_lost_is_no_contact_and_says_what_happens() {
        let (bus, store) = (LocalBus::new(), Arc::new(MemoryStore::new()));
        let caller = Caller::Operator("anna".into());
        let fault = pass_on(bus, store, "gone".into(), &pool(), caller, show()).await.unwrap_err();
        assert_eq!(fault.code, "no-contact");
        assert!(fault.text.contains("another takes over"), "{fault}");
    }
}
