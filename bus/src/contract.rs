//! What every [`Bus`] must do, as a suite that each implementation runs in its tests.
//!
//! A suite of functions and not of types: a bus that cannot do one of these things is no bus, however it is made. Each function
//! is one sentence about buses, gets [`Ends`] of its own, and panics with that sentence when it does not hold. [`all`] runs
//! every one of them.
//!
//! A bus may carry facts and calls between processes, so nothing here expects them to have arrived the moment they were sent:
//! whatever must arrive is waited for, [`PATIENCE`] at the longest, and what must not arrive is shown by something sent later
//! that does.

use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::fact::{Fact, Kind, Listener, Snapshot};
use epu_core::request::{Answer, Caller, Nothing, Request, Service};
use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use crate::{Bus, Call, Calls, Facts};

/// How long anything that must arrive may take. Too low: a busy machine fails the suite. Too high: a failure takes that long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Two ends of one bus; the same object where there is only one.
pub struct Ends {
    /// Where services are and facts are told.
    pub near: Arc<dyn Bus>,
    /// Where is asked and listened.
    pub far: Arc<dyn Bus>,
    /// How many facts no listener can have waiting: more than that are lost.
    pub facts_waiting: usize,
    /// Waits until all that was begun at either end is in effect: a bus between processes needs a moment to begin.
    pub settle: Settle,
}

/// Waits until what was begun is in effect.
pub type Settle = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

impl Ends {
    /// Both ends the same, and everything in effect at once.
    #[must_use]
    pub fn same(bus: Arc<dyn Bus>, facts_waiting: usize) -> Self {
        Self {
            near: bus.clone(),
            far: bus,
            facts_waiting,
            settle: Arc::new(|| Box::pin(std::future::ready(()))),
        }
    }

    async fn settled(&self) {
        in_time("the effect of what was begun", (self.settle)()).await;
    }

    async fn serve(&self, service: Service) -> Calls {
        let calls = self.near.serve(service);
        self.settled().await;
        calls
    }
}

/// Runs the whole suite; `make` gives a bus that nobody used before.
///
/// # Panics
/// When the bus breaks the contract; the text says where.
pub async fn all<F: Future<Output = Ends>>(make: impl Fn() -> F) {
    an_answer_reaches_its_asker(make().await).await;
    every_service_gets_its_own_calls(make().await).await;
    a_fault_is_passed_through_unchanged(make().await).await;
    many_at_once_each_get_their_own_answer(make().await).await;
    where_nobody_serves_there_is_no_contact(make().await).await;
    where_the_service_has_gone_there_is_no_contact(make().await).await;
    without_an_answer_the_time_runs_out(make().await).await;
    a_dropped_call_is_no_contact(make().await).await;
    an_asker_who_went_away_harms_nobody(make().await).await;
    the_second_to_serve_replaces_the_first(make().await).await;
    facts_reach_every_listener_of_their_kind_in_order(make().await).await;
    facts_told_before_listening_are_not_heard(make().await).await;
    a_slow_listener_loses_facts_and_is_told(make().await).await;
    a_listener_that_went_away_is_forgotten(make().await).await;
}

fn operator() -> Caller {
    Caller::Operator("contract".to_owned())
}

fn status() -> Request {
    Request::Status(Nothing {})
}

/// A fact with a number on it.
fn numbered(number: usize) -> Fact {
    Fact::Snapshot(Arc::new(Snapshot {
        aggregator: "contract".to_owned(),
        listening_for_ms: i64::try_from(number).unwrap_or(i64::MAX),
        instances: Vec::new(),
        sensors: Vec::new(),
        complete: false,
    }))
}

fn number_of(fact: &Fact) -> usize {
    match fact {
        Fact::Snapshot(snapshot) => usize::try_from(snapshot.listening_for_ms).unwrap_or(usize::MAX),
        Fact::Instances(_) | Fact::Pools(_) | Fact::Listening(_) => panic!("a listener heard a kind that it did not ask for: {fact:?}"),
    }
}

async fn in_time<T>(what: &str, waited_for: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, waited_for).await {
        Ok(came) => came,
        Err(_) => panic!("{what} did not come within {PATIENCE:?}"),
    }
}

async fn next_call(calls: &mut Calls) -> Call {
    match in_time("a call", calls.recv()).await {
        Some(call) => call,
        None => panic!("the calls of a service that serves have ended"),
    }
}

async fn next_fact(facts: &mut Facts) -> Fact {
    match in_time("a fact", facts.next()).await {
        Some(fact) => fact,
        None => panic!("the facts have ended while the bus is there"),
    }
}

/// Answers every call with a text, until it is dropped.
async fn answer_all(mut calls: Calls, text: &str) {
    while let Some(call) = calls.recv().await {
        call.answer(Ok(Answer::Json(json!(text))));
    }
    std::future::pending().await
}

/// Asks, while something else goes on beside it.
async fn ask_beside(far: &Arc<dyn Bus>, request: Request, beside: impl Future<Output = ()>) -> Result<Answer, Fault> {
    tokio::select! {
        biased;
        answer = in_time("an answer", far.ask(operator(), request, PATIENCE)) => answer,
        () = beside => panic!("what goes on beside ended too early"),
    }
}

fn code(answer: &Result<Answer, Fault>) -> &str {
    match answer {
        Ok(_) => "an answer",
        Err(fault) => &fault.code,
    }
}

/// A request comes as it was sent, and its answer comes back.
///
/// # Panics
/// When it does not.
pub async fn an_answer_reaches_its_asker(ends: Ends) {
    let mut calls = ends.serve(Service::Controller).await;
    let serving = async {
        let call = next_call(&mut calls).await;
        assert_eq!(call.request, status(), "the request changed on its way");
        call.answer(Ok(Answer::Json(json!({"is": [1, "two", null]}))));
        std::future::pending().await
    };
    let answer = ask_beside(&ends.far, status(), serving).await;
    assert_eq!(answer.map(Answer::into_json), Ok(json!({"is": [1, "two", null]})));
}

/// Who serves one service gets no calls of another.
///
/// # Panics
/// When he does.
pub async fn every_service_gets_its_own_calls(ends: Ends) {
    let serving = futures::future::join3(
        answer_all(ends.serve(Service::Provisioner).await, "provisioner"),
        answer_all(ends.serve(Service::Controller).await, "controller"),
        answer_all(ends.serve(Service::Aggregator).await, "aggregator"),
    );
    let asking = async {
        for (request, expected) in [
            (Request::Sites(Nothing {}), "provisioner"),
            (status(), "controller"),
            (Request::Heartbeats(Vec::new()), "aggregator"),
        ] {
            let answer = in_time("an answer", ends.far.ask(Caller::Service("controller"), request, PATIENCE)).await;
            assert_eq!(answer.map(Answer::into_json), Ok(json!(expected)));
        }
    };
    tokio::select! {
        biased;
        () = asking => {}
        _ = serving => {}
    }
}

/// The fault that a service answers with arrives with its code and text.
///
/// # Panics
/// When it does not.
pub async fn a_fault_is_passed_through_unchanged(ends: Ends) {
    let mut calls = ends.serve(Service::Controller).await;
    let fault = Fault::new("no-such-pool", "no pool is called \"wéb\"\n");
    let serving = async {
        next_call(&mut calls).await.answer(Err(fault.clone()));
        std::future::pending().await
    };
    assert_eq!(ask_beside(&ends.far, status(), serving).await, Err(fault.clone()));
}

/// Answers given in another order than the calls came are not mixed up.
///
/// # Panics
/// When they are.
pub async fn many_at_once_each_get_their_own_answer(ends: Ends) {
    const MANY: u32 = 100;
    let mut calls = ends.serve(Service::Provisioner).await;
    let logs = |lines| {
        Request::Logs(epu_core::request::Logs {
            instance: epu_core::InstanceId(Default::default()),
            lines,
        })
    };
    let asking = join_all((0..MANY).map(|lines| {
        let far = ends.far.clone();
        async move { far.ask(operator(), logs(lines), PATIENCE).await.map(Answer::into_json) }
    }));
    let serving = async {
        let mut waiting = Vec::new();
        for _ in 0..MANY {
            waiting.push(next_call(&mut calls).await);
        }
        for call in waiting.into_iter().rev() {
            let Request::Logs(asked) = &call.request else {
                panic!("{:?} was not asked", call.request)
            };
            let lines = asked.lines;
            call.answer(Ok(Answer::Json(json!(lines))));
        }
    };
    let (answers, ()) = in_time("a hundred answers", futures::future::join(asking, serving)).await;
    let expected: Vec<Result<Value, Fault>> = (0..MANY).map(|lines| Ok(json!(lines))).collect();
    assert_eq!(answers, expected);
}

/// Asking where nobody ever served fails at once and not when the time is over.
///
/// # Panics
/// When it does not.
pub async fn where_nobody_serves_there_is_no_contact(ends: Ends) {
    let answer = in_time("a fault", ends.far.ask(operator(), status(), PATIENCE * 2)).await;
    assert_eq!(code(&answer), "no-contact", "{answer:?}");
}

/// The same where somebody served and has gone.
///
/// # Panics
/// When it does not.
pub async fn where_the_service_has_gone_there_is_no_contact(ends: Ends) {
    drop(ends.serve(Service::Controller).await);
    ends.settled().await;
    let answer = in_time("a fault", ends.far.ask(operator(), status(), PATIENCE * 2)).await;
    assert_eq!(code(&answer), "no-contact", "{answer:?}");
}

/// The asker does not wait longer than it said, and the service may still answer afterwards.
///
/// # Panics
/// When it does.
pub async fn without_an_answer_the_time_runs_out(ends: Ends) {
    let mut calls = ends.serve(Service::Controller).await;
    let asking = ends.far.ask(operator(), status(), Duration::from_millis(300));
    let (answer, call) = futures::future::join(in_time("a fault", asking), next_call(&mut calls)).await;
    assert_eq!(code(&answer), "timeout", "{answer:?}");
    call.answer(Ok(Answer::Json(Value::Null)));
}

/// A service that drops a call unanswered tells its asker so.
///
/// # Panics
/// When it does not.
pub async fn a_dropped_call_is_no_contact(ends: Ends) {
    let mut calls = ends.serve(Service::Controller).await;
    let serving = async {
        drop(next_call(&mut calls).await);
        std::future::pending().await
    };
    let answer = ask_beside(&ends.far, status(), serving).await;
    assert_eq!(code(&answer), "no-contact", "{answer:?}");
}

/// Answering somebody who waits no longer is harmless, and the next one is served.
///
/// # Panics
/// When it is not.
pub async fn an_asker_who_went_away_harms_nobody(ends: Ends) {
    let mut calls = ends.serve(Service::Controller).await;
    let orphan = {
        let asking = ends.far.ask(operator(), status(), PATIENCE);
        tokio::select! {
            biased;
            answer = asking => panic!("nobody answered, yet there is {answer:?}"),
            call = next_call(&mut calls) => call,
        }
    };
    orphan.answer(Ok(Answer::Json(json!("too late"))));
    let answer = ask_beside(&ends.far, status(), answer_all(calls, "in time")).await;
    assert_eq!(answer.map(Answer::into_json), Ok(json!("in time")));
}

/// Whoever serves last gets the calls; the one before gets no more, learns it, and may answer those that it has.
///
/// # Panics
/// When it is otherwise.
pub async fn the_second_to_serve_replaces_the_first(ends: Ends) {
    let mut first = ends.serve(Service::Controller).await;
    let asking = async { ends.far.ask(operator(), status(), PATIENCE).await };
    let replacing = async {
        let call = next_call(&mut first).await;
        let second = ends.near.serve(Service::Controller);
        call.answer(Ok(Answer::Json(json!("first"))));
        second
    };
    let (answer, second) = in_time("an answer", futures::future::join(asking, replacing)).await;
    assert_eq!(answer.map(Answer::into_json), Ok(json!("first")));
    assert!(
        in_time("the end of the first one's calls", first.recv()).await.is_none(),
        "the first one still gets calls"
    );
    let answer = ask_beside(&ends.far, status(), answer_all(second, "second")).await;
    assert_eq!(answer.map(Answer::into_json), Ok(json!("second")));
}

/// Everyone who listens to a kind hears its facts in the order they were told, and nothing of other kinds.
///
/// # Panics
/// When it is otherwise.
pub async fn facts_reach_every_listener_of_their_kind_in_order(ends: Ends) {
    let mut one = ends.far.listen(&[Kind::Snapshot]);
    let mut other = ends.far.listen(&[Kind::Snapshot, Kind::Listening]);
    ends.settled().await;
    for number in 0..50 {
        ends.near.tell(numbered(number));
        if number == 24 {
            ends.near.tell(Fact::Listening(Listener::Controller));
        }
    }
    for number in 0..50 {
        assert_eq!(number_of(&next_fact(&mut one).await), number);
        assert_eq!(number_of(&next_fact(&mut other).await), number);
        if number == 24 {
            assert_eq!(next_fact(&mut other).await, Fact::Listening(Listener::Controller));
        }
    }
    assert!(one.next_now().is_none() && other.next_now().is_none(), "a fact was heard twice");
    assert_eq!((one.lost(), other.lost()), (0, 0), "nothing was lost, yet it says so");
}

/// A listener hears what is told from then on, not what was told before.
///
/// # Panics
/// When it is otherwise.
pub async fn facts_told_before_listening_are_not_heard(ends: Ends) {
    ends.near.tell(numbered(1));
    ends.settled().await;
    let mut late = ends.far.listen(&[Kind::Snapshot]);
    ends.settled().await;
    ends.near.tell(numbered(2));
    assert_eq!(number_of(&next_fact(&mut late).await), 2);
}

/// Telling never waits. A listener that does not keep up loses facts, learns of it, and hears later ones; others lose none.
///
/// # Panics
/// When it is otherwise.
pub async fn a_slow_listener_loses_facts_and_is_told(ends: Ends) {
    let mut slow = ends.far.listen(&[Kind::Snapshot]);
    let mut elsewhere = ends.far.listen(&[Kind::Listening]);
    ends.settled().await;
    let told = ends.facts_waiting + 10;
    for number in 0..told {
        ends.near.tell(numbered(number));
    }
    ends.near.tell(Fact::Listening(Listener::Aggregator));
    assert_eq!(next_fact(&mut elsewhere).await, Fact::Listening(Listener::Aggregator));
    assert_eq!(elsewhere.lost(), 0, "one listener's slowness cost another one facts");

    // Once it reads, it hears again what is told from then on; that, and the word of what was lost, may still be on its way.
    ends.settled().await;
    let mut before = Some(number_of(&next_fact(&mut slow).await));
    let (mut heard, mut lost) = (1, usize::try_from(slow.lost()).unwrap_or(usize::MAX));
    ends.near.tell(numbered(told));
    while before != Some(told) {
        let number = number_of(&next_fact(&mut slow).await);
        assert!(before < Some(number), "{number} came after {before:?}");
        before = Some(number);
        heard += 1;
        lost += usize::try_from(slow.lost()).unwrap_or(usize::MAX);
    }
    assert!(
        lost > 0,
        "{heard} of {} facts were heard, and the listener was told of no loss",
        told + 1
    );
    assert!(heard + lost <= told + 1, "{heard} heard and {lost} lost of {} told", told + 1);
    assert_eq!(slow.lost(), 0, "the count of lost facts did not start anew");
    ends.near.tell(numbered(told + 1));
    assert_eq!(
        number_of(&next_fact(&mut slow).await),
        told + 1,
        "a listener that caught up hears nothing new"
    );
}

/// A listener that is dropped costs nothing any more: the bus keeps no fact for it.
///
/// # Panics
/// When it does.
pub async fn a_listener_that_went_away_is_forgotten(ends: Ends) {
    drop(ends.far.listen(&[Kind::Snapshot]));
    let mut stays = ends.far.listen(&[Kind::Snapshot]);
    ends.settled().await;
    let fact = numbered(1);
    ends.near.tell(fact.clone());
    drop(next_fact(&mut stays).await);
    let Fact::Snapshot(content) = fact else {
        panic!("a numbered fact is a snapshot")
    };
    let freed = async {
        while Arc::strong_count(&content) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("the end of the last copy", freed).await;
}
