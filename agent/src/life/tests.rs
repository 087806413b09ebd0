#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one kind of action")]

use std::collections::BTreeMap;

use epu_core::heartbeat::{Condition, Heartbeat};
use epu_core::instance::{Cause, Drain};
use epu_core::pool::DrainSignal;
use epu_core::request::Report;
use epu_core::{InstanceId, LaunchId, PoolName, SensorName, Span};

use super::*;
use crate::host::WorkerMark;

const T0: Timestamp = Timestamp(1_000_000);

pub(super) fn after(seconds: f64) -> Timestamp {
    T0 + Duration::from_secs_f64(seconds)
}

fn id(text: &str) -> InstanceId {
    format!("01890000-0000-7000-8000-{text:0>12}").parse().unwrap()
}

pub(super) fn context() -> Context {
    Context {
        instance: id("1"),
        pool: PoolName::new("web").unwrap(),
        token: "i.token".to_owned(),
        run: vec!["/bin/worker".to_owned()],
        set_up: vec!["/bin/set-up".to_owned()],
        variables: BTreeMap::new(),
        directory: None,
        drain_signal: DrainSignal::USR1,
        stop_grace: Span::secs(10),
        heartbeat: Span::secs(5),
        ready_within: Span::secs(600),
        aggregators: vec!["http://a".to_owned(), "http://b".to_owned()],
        doors: Vec::new(),
    }
}

fn claim() -> ContextClaim {
    ContextClaim {
        launch: LaunchId(id("9").0),
        index: 0,
        nonce: "nonce".to_owned(),
    }
}

fn mark() -> WorkerMark {
    WorkerMark {
        pid: 7,
        started: 1,
        boot: "b".to_owned(),
    }
}

pub(super) fn exit(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
        output: "last words".to_owned(),
    }
}

pub(super) fn drain_by(deadline: Timestamp) -> Orders {
    Orders {
        drain: Some(Drain {
            since: T0,
            deadline,
            why: Cause::ScaleIn,
        }),
        stop: false,
    }
}

pub(super) fn stop() -> Orders {
    Orders { drain: None, stop: true }
}

pub(super) fn seen(work: Work, written_at: Timestamp) -> Event {
    Event::Seen(Seen {
        work,
        written_at: Some(written_at),
        readings: BTreeMap::from([(SensorName::new("load").unwrap(), 0.5)]),
        ignored: 0,
    })
}

pub(super) fn fault(code: &'static str) -> Fault {
    Fault::new(code, "x")
}

/// A life that takes steps with middling luck.
pub(super) struct Story(pub(super) Life);

impl Story {
    pub(super) fn begin(found: Found) -> (Self, Vec<Action>) {
        let (life, todo) = Life::begin(claim(), &["http://p".to_owned()], found, T0, 0.5);
        (Self(life), todo)
    }

    pub(super) fn at(&mut self, seconds: f64, event: Event) -> Vec<Action> {
        self.0.step(after(seconds), 0.5, event)
    }

    /// A life whose worker was started at second 0 and whose readiness was accepted at second 1; its first heartbeat is answered.
    pub(super) fn running() -> Self {
        let (mut story, _) = Self::begin(Found::default());
        let mut context = context();
        context.set_up.clear();
        story.at(0.0, Event::Context(Ok(Box::new(context))));
        story.at(0.0, Event::Started(Ok(mark())));
        let todo = story.at(0.05, Event::Tick);
        assert_eq!(reports(&todo), ["ready"], "{todo:?}");
        let todo = story.at(1.0, Event::Reported(Ok(Reported::default())));
        assert_eq!(todo, [Action::Look]);
        let todo = story.at(1.0, seen(Work::Idle, after(0.5)));
        let beat = beat(&todo);
        assert_eq!((beat.work, beat.work_for_ms, beat.sequence), (Work::Idle, 500, 1));
        assert_eq!(story.at(1.0, Event::Beaten(Ok(Orders::default()))), []);
        story
    }
}

pub(super) fn reports(todo: &[Action]) -> Vec<&'static str> {
    todo.iter()
        .filter_map(|action| match action {
            Action::Report(report) => Some(match &report.happened {
                Happened::Ready { .. } => "ready",
                Happened::Failed { .. } => "failed",
                Happened::Drained { .. } => "drained",
                Happened::Exited { .. } => "exited",
                Happened::Interruption { .. } => "interruption",
            }),
            _ => None,
        })
        .collect()
}

fn beat(todo: &[Action]) -> Heartbeat {
    let beats: Vec<_> = todo
        .iter()
        .filter_map(|action| match action {
            Action::Beat(beat, _) => Some((**beat).clone()),
            _ => None,
        })
        .collect();
    assert_eq!(beats.len(), 1, "{todo:?}");
    beats.into_iter().next().unwrap()
}

fn stages(todo: &[Action]) -> Vec<Stage> {
    todo.iter()
        .filter_map(|action| match action {
            Action::Keep(kept) => Some(kept.stage.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn the_nonce_is_kept_before_the_first_claim() {
    let (_, todo) = Story::begin(Found::default());
    assert!(matches!(&todo[..], [Action::Keep(kept), Action::AskContext(asked)]
        if kept.nonce == "nonce" && kept.context.is_none() && asked.nonce == "nonce"));
}

#[test]
fn a_claim_that_cannot_be_kept_is_not_made() {
    let (mut story, _) = Story::begin(Found::default());
    let todo = story.at(0.0, Event::NotKept(fault("internal")));
    assert!(matches!(&todo[..], [Action::End(Err(GivenUp::NotKept(_)))]));
}

#[test]
fn the_context_is_asked_for_with_growing_waits_until_it_comes() {
    let (mut story, _) = Story::begin(Found::default());
    let mut waits = Vec::new();
    let mut now = T0;
    for _ in 0..9 {
        assert_eq!(story.0.step(now, 0.5, Event::Context(Err(fault("no-contact")))), []);
        let next = story.0.wakes_at().unwrap();
        assert_eq!(story.0.step(next - Duration::from_millis(1), 0.5, Event::Tick), [], "too soon");
        waits.push(next.since(now).as_millis());
        now = next;
        assert!(matches!(&story.0.step(now, 0.5, Event::Tick)[..], [Action::AskContext(_)]));
        assert_eq!(story.0.step(now, 0.5, Event::Tick), [], "one question at a time");
        assert_eq!(story.0.wakes_at(), None, "nothing to do while a question is under way");
    }
    assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000]);
}

#[test]
fn a_refused_claim_ends_the_agent_and_a_refused_token_only_in_the_end() {
    let (mut story, _) = Story::begin(Found::default());
    let todo = story.at(0.0, Event::Context(Err(fault("claim-refused"))));
    assert!(matches!(&todo[..], [Action::End(Err(GivenUp::ClaimRefused(_)))]));

    let (mut story, _) = Story::begin(Found::default());
    let mut tries = 0;
    let given_up = loop {
        tries += 1;
        let todo = story
            .0
            .step(after(f64::from(tries) * 20.0), 0.5, Event::Context(Err(fault("unauthorized"))));
        if let Some(Action::End(Err(why))) = todo.last() {
            break why.clone();
        }
    };
    assert!(matches!(given_up, GivenUp::NoContext(_)));
    assert_eq!(tries, 20);
}

#[test]
fn nobody_there_for_an_hour_ends_an_agent_without_context() {
    let (mut story, _) = Story::begin(Found::default());
    assert_eq!(story.at(3_599.0, Event::Context(Err(fault("no-contact")))), []);
    let todo = story.at(3_601.0, Event::Context(Err(fault("no-contact"))));
    assert!(matches!(&todo[..], [Action::End(Err(GivenUp::NoContext(_)))]));
}

#[test]
fn set_up_then_worker_then_ready_each_kept_before_it_is_done() {
    let (mut story, _) = Story::begin(Found::default());
    let todo = story.at(0.0, Event::Context(Ok(Box::new(context()))));
    assert!(matches!(&todo[..], [Action::Keep(kept), Action::SetUp(_)]
        if kept.stage == Stage::SettingUp && kept.context.as_ref().unwrap().token == "i.token"));
    let todo = story.at(3.0, Event::SetUpEnded(Ok(exit(0))));
    assert!(matches!(&todo[..], [Action::Keep(kept), Action::Start(_)] if kept.stage == Stage::Starting));
    let todo = story.at(3.0, Event::Started(Ok(mark())));
    assert_eq!(stages(&todo), [Stage::Running(mark())]);
    assert_eq!(reports(&todo), [""; 0], "not ready before it has settled");
    assert_eq!(reports(&story.at(3.05, Event::Tick)), ["ready"]);
}

#[test]
fn a_failed_set_up_is_reported_with_the_end_of_its_output() {
    let (mut story, _) = Story::begin(Found::default());
    story.at(0.0, Event::Context(Ok(Box::new(context()))));
    let todo = story.at(3.0, Event::SetUpEnded(Ok(exit(3))));
    let Some(Action::Report(Report {
        happened: Happened::Failed { fault },
        ..
    })) = todo.last()
    else {
        panic!("{todo:?}");
    };
    assert_eq!(fault.code, "set-up-failed");
    assert_eq!(fault.text, "set-up ended with code 3; its output ends:\nlast words");
    assert!(matches!(&stages(&todo)[..], [Stage::Failed(_)]));
}

#[test]
fn set_up_has_a_deadline() {
    let (mut story, _) = Story::begin(Found::default());
    story.at(0.0, Event::Context(Ok(Box::new(context()))));
    assert_eq!(story.0.wakes_at(), Some(after(600.0)));
    assert_eq!(story.at(600.0, Event::Tick), [Action::AbortSetUp]);
    let todo = story.at(600.0, Event::SetUpAborted("waiting for apt".to_owned()));
    let Some(Action::Report(Report {
        happened: Happened::Failed { fault },
        ..
    })) = todo.last()
    else {
        panic!("{todo:?}");
    };
    assert_eq!(fault.code, "not-ready");
    assert!(
        fault.text.contains("10m") && fault.text.ends_with("waiting for apt"),
        "{}",
        fault.text
    );
}

#[test]
fn a_worker_that_cannot_start_or_dies_at_once_was_never_ready() {
    for dies in [false, true] {
        let (mut story, _) = Story::begin(Found::default());
        story.at(0.0, Event::Context(Ok(Box::new(context()))));
        story.at(1.0, Event::SetUpEnded(Ok(exit(0))));
        let todo = if dies {
            story.at(1.0, Event::Started(Ok(mark())));
            story.at(1.02, Event::WorkerEnded(exit(127)))
        } else {
            story.at(1.0, Event::Started(Err(fault("worker-failed"))))
        };
        assert_eq!(reports(&todo), ["failed"]);
        assert!(!story.0.has_worker());
        let todo = story.at(2.0, Event::Reported(Ok(Reported::default())));
        assert_eq!(todo, [], "then it waits");
        let Condition::ProcessError(fault) = beat(&story.at(7.0, Event::Tick)).condition else {
            panic!("a failed one says so");
        };
        assert_eq!(fault.code, "worker-failed");
    }
}

#[test]
fn a_batch_worker_that_is_done_at_once_was_ready() {
    let (mut story, _) = Story::begin(Found::default());
    story.at(0.0, Event::Context(Ok(Box::new(context()))));
    story.at(1.0, Event::SetUpEnded(Ok(exit(0))));
    story.at(1.0, Event::Started(Ok(mark())));
    let todo = story.at(1.01, Event::WorkerEnded(exit(0)));
    assert_eq!(reports(&todo), ["ready"]);
    let beaten = beat(&todo);
    assert_eq!((beaten.condition, beaten.work), (Condition::Ok, Work::Idle));
    assert_eq!(reports(&story.at(1.1, Event::Reported(Ok(Reported::default())))), ["exited"]);
}

#[test]
fn heartbeats_come_with_jitter_and_one_at_a_time() {
    for (luck, least) in [(0.0, 4_500), (0.5, 5_000), (0.999, 5_499)] {
        let mut story = Story::running();
        // The heartbeat after the one at 1.0, sent with this luck.
        story.0.step(after(6.0), luck, Event::Tick);
        let todo = story.0.step(after(6.0), luck, seen(Work::Idle, after(0.5)));
        assert_eq!(beat(&todo).sequence, 2);
        assert_eq!(story.0.beat_at.since(after(6.0)).as_millis(), least);
        // Unanswered, it is not doubled.
        assert_eq!(story.at(20.0, Event::Tick), [Action::Look]);
        assert_eq!(story.at(20.0, seen(Work::Idle, after(0.5))), []);
        story.at(20.0, Event::Beaten(Err(fault("timeout"))));
        assert_eq!(beat(&story.at(20.0, seen(Work::Idle, after(0.5)))).sequence, 3);
    }
}

#[test]
fn a_change_of_status_is_told_early_once_a_second() {
    let mut story = Story::running();
    assert_eq!(story.0.wakes_at(), Some(after(2.0)));
    assert_eq!(story.at(2.0, Event::Tick), [Action::Look]);
    let beaten = beat(&story.at(2.0, seen(Work::Busy, after(1.7))));
    assert_eq!((beaten.work, beaten.work_for_ms), (Work::Busy, 300));
    story.at(2.0, Event::Beaten(Ok(Orders::default())));
    assert_eq!(story.at(2.5, seen(Work::Idle, after(2.4))), [], "twice within a second");
    assert_eq!(beat(&story.at(3.0, seen(Work::Idle, after(2.4)))).work_for_ms, 600);
}

#[test]
fn where_news_is_noticed_nobody_looks_without_it_and_none_is_forgotten() {
    let mut story = Story(Story::running().0.hearing_news());
    assert_eq!(story.at(2.0, Event::Tick), [Action::Look]);
    assert_eq!(story.at(2.0, seen(Work::Idle, after(0.5))), []);
    assert!(story.0.wakes_at().unwrap() > after(4.0), "for the next heartbeat, not to look");
    assert_eq!(story.at(2.3, Event::News), [Action::Look]);
    assert_eq!(beat(&story.at(2.3, seen(Work::Busy, after(2.3)))).work, Work::Busy);
    story.at(2.3, Event::Beaten(Ok(Orders::default())));
    assert_eq!(story.at(2.6, Event::News), [Action::Look]);
    assert_eq!(story.at(2.6, seen(Work::Idle, after(2.6))), [], "twice within a second");
    assert_eq!(story.0.wakes_at(), Some(after(3.6)), "it is not said yet");
    assert_eq!(story.at(3.6, Event::Tick), [Action::Look]);
    assert_eq!(beat(&story.at(3.6, seen(Work::Idle, after(2.6)))).work, Work::Idle);
}

#[test]
fn the_same_word_written_again_is_no_change() {
    let mut story = Story::running();
    story.at(6.0, Event::Tick);
    let beaten = beat(&story.at(6.0, seen(Work::Idle, after(5.9))));
    assert_eq!(beaten.work_for_ms, 5_500);
    assert_eq!(beaten.readings.len(), 1);
}

/// The door of the heartbeat that is sent at this second, and what it came to.
fn beat_at(story: &mut Story, second: f64, answer: Result<Orders, Fault>) -> String {
    story.at(second, Event::Tick);
    let todo = story.at(second, seen(Work::Idle, after(0.5)));
    let Some(Action::Beat(_, to)) = todo.last() else {
        panic!("no heartbeat at {second}: {todo:?}");
    };
    story.at(second, Event::Beaten(answer));
    to.clone()
}

#[test]
fn a_heartbeat_that_nobody_takes_goes_to_the_next_door_at_once_and_a_door_that_is_back_is_used_again() {
    let mut story = Story::running();
    let shut = || Err(fault("no-contact"));
    let first = beat_at(&mut story, 6.0, shut());
    let second = beat_at(&mut story, 6.1, Ok(Orders::default()));
    assert!(
        first != second && first != "http://p" && second != "http://p",
        "aggregators first: {first} {second}"
    );
    assert_eq!(beat_at(&mut story, 12.0, shut()), first, "it may be back");
    assert_eq!(beat_at(&mut story, 12.1, shut()), second);
    assert_eq!(beat_at(&mut story, 12.2, shut()), "http://p", "any door will do");
    story.at(12.3, Event::Tick);
    assert_eq!(
        story.at(12.3, seen(Work::Idle, after(0.5))),
        [],
        "all are shut: the next heartbeat has its time"
    );
    assert_eq!(beat_at(&mut story, 18.0, Ok(Orders::default())), first);
    assert_eq!(beat_at(&mut story, 24.0, Ok(Orders::default())), first, "and it stays there");
}

#[test]
fn workers_of_one_pool_prefer_the_same_aggregator() {
    let mut chosen = std::collections::BTreeSet::new();
    for nonce in ["a", "b", "c", "d", "e", "f"] {
        let claim = ContextClaim {
            nonce: nonce.to_owned(),
            launch: LaunchId(id(nonce).0),
            ..claim()
        };
        let (mut life, _) = Life::begin(claim, &[], Found::default(), T0, 0.5);
        life.is_to_be(Arc::new(context()), T0);
        chosen.insert(life.beats.choose(T0).unwrap().to_owned());
    }
    assert_eq!(chosen.len(), 1, "{chosen:?}");
}

#[test]
fn questions_and_reports_go_from_door_to_door_and_only_then_wait() {
    let doors: Vec<String> = ["http://p", "http://q"].map(str::to_owned).into();
    let (mut life, _) = Life::begin(claim(), &doors, Found::default(), T0, 0.5);
    let first = life.asks_at().to_owned();
    let todo = life.step(T0, 0.5, Event::Context(Err(fault("no-contact"))));
    assert!(matches!(&todo[..], [Action::AskContext(_)]), "at once: {todo:?}");
    assert_ne!(life.asks_at(), first);
    assert_eq!(life.step(T0, 0.5, Event::Context(Err(fault("timeout")))), []);
    assert_eq!(life.wakes_at(), Some(after(0.2)), "all are shut");
    life.step(after(0.2), 0.5, Event::Tick);
    // What the provisioner itself says is no reason to ask elsewhere.
    let at = life.asks_at().to_owned();
    assert_eq!(life.step(after(0.3), 0.5, Event::Context(Err(fault("store-failed")))), []);
    life.step(after(2.0), 0.5, Event::Tick);
    assert_eq!(life.asks_at(), at);
}

#[test]
fn a_door_that_stays_shut_has_the_others_asked_for_once_an_hour() {
    let mut story = Story::running();
    let first = beat_at(&mut story, 6.0, Err(fault("no-contact")));
    let mut asked = Vec::new();
    let mut second = 6.1;
    while second < 4_000.0 {
        story.at(second, Event::Tick);
        let todo = story.at(second, seen(Work::Idle, after(0.5)));
        if let Some(Action::Beat(_, to)) = todo.last() {
            let answer = if *to == first {
                Err(fault("no-contact"))
            } else {
                Ok(Orders::default())
            };
            let todo = story.at(second, Event::Beaten(answer));
            if reports(&todo) == ["ready"] {
                asked.push(second);
                let now = Reported {
                    doors: vec!["http://new".to_owned()],
                    aggregators: vec!["http://new".to_owned()],
                    ..Reported::default()
                };
                story.at(second, Event::Reported(Ok(now)));
            }
        }
        second += 1.0;
    }
    assert!(asked.len() == 1 && (300.0..=610.0).contains(&asked[0]), "{asked:?}");
    assert_eq!(story.0.beats.choose(after(4_000.0)), Some("http://new"));
}

#[test]
fn the_first_drain_order_is_told_once_and_confirmed_at_once() {
    let mut story = Story::running();
    story.at(6.0, Event::Tick);
    story.at(6.0, seen(Work::Busy, after(0.5)));
    let told = Action::TellDrain(after(99.0), DrainSignal::USR1);
    assert_eq!(story.at(6.1, Event::Beaten(Ok(drain_by(after(99.0))))), [told]);
    assert_eq!(story.at(6.1, Event::DrainTold(true)), [Action::Look]);
    assert!(beat(&story.at(6.1, seen(Work::Busy, after(0.5)))).draining);
    assert_eq!(story.at(6.2, Event::Beaten(Ok(drain_by(after(99.0))))), [], "once");
    story.at(12.0, Event::Tick);
    assert!(beat(&story.at(12.0, seen(Work::Busy, after(0.5)))).draining);
    assert_eq!(story.at(12.1, Event::Beaten(Ok(Orders::default()))), [], "too late to withdraw");
}

#[test]
fn a_drain_that_did_not_reach_the_worker_is_told_again() {
    let mut story = Story::running();
    for second in [6.0, 12.0] {
        story.at(second, Event::Tick);
        story.at(second, seen(Work::Idle, after(0.5)));
        let todo = story.at(second, Event::Beaten(Ok(drain_by(after(99.0)))));
        assert_eq!(todo.len(), 1);
        story.at(second, Event::DrainTold(false));
    }
}

#[test]
fn drained_is_repeated_until_accepted_then_the_agent_ends() {
    let mut story = Story::running();
    story.at(6.0, Event::Beaten(Ok(drain_by(after(99.0)))));
    story.at(6.0, Event::DrainTold(true));
    let by_signal = Exit {
        code: None,
        signal: Some(15),
        output: String::new(),
    };
    let todo = story.at(8.0, Event::WorkerEnded(by_signal.clone()));
    assert_eq!(todo[0], Action::KeepExit(by_signal), "kept before it is reported");
    assert_eq!(reports(&todo), ["drained"]);
    assert_eq!(beat(&todo).condition, Condition::Ok, "it did as it was told");
    story.at(8.1, Event::Reported(Err(fault("no-contact"))));
    assert_eq!(reports(&story.at(8.2, Event::Tick)), [""; 0]);
    assert_eq!(reports(&story.at(8.3, Event::Tick)), ["drained"]);
    assert_eq!(
        story.at(8.4, Event::Reported(Ok(Reported::default()))),
        [Action::End(Ok(Ended::Drained))]
    );
    assert_eq!(story.at(9.0, Event::Tick), [], "over is over");
}

#[test]
fn a_worker_that_dies_unasked_is_reported_and_stays_reported() {
    let mut story = Story::running();
    let todo = story.at(8.0, Event::WorkerEnded(exit(1)));
    assert_eq!(reports(&todo), ["exited"]);
    assert!(matches!(beat(&todo).condition, Condition::ProcessError(_)));
    story.at(8.1, Event::Reported(Ok(Reported::default())));
    story.at(8.1, Event::Beaten(Ok(Orders::default())));
    assert!(matches!(beat(&story.at(14.0, Event::Tick)).condition, Condition::ProcessError(_)));
    assert_eq!(story.at(14.1, Event::Beaten(Ok(stop()))), [Action::End(Ok(Ended::Stopped))]);
}

#[test]
fn a_drain_order_for_an_ended_worker_is_answered() {
    let mut story = Story::running();
    story.at(8.0, Event::WorkerEnded(exit(1)));
    story.at(8.1, Event::Reported(Ok(Reported::default())));
    assert_eq!(reports(&story.at(8.2, Event::Beaten(Ok(drain_by(after(99.0)))))), ["drained"]);
}

#[test]
fn a_report_refused_for_good_does_not_hold_up_the_next() {
    let (mut story, _) = Story::begin(Found::default());
    let mut context = context();
    context.set_up.clear();
    story.at(0.0, Event::Context(Ok(Box::new(context))));
    story.at(0.0, Event::Started(Ok(mark())));
    assert_eq!(reports(&story.at(0.05, Event::Tick)), ["ready"]);
    story.at(0.1, Event::WorkerEnded(exit(1)));
    story.at(0.2, Event::Reported(Err(fault("conflict"))));
    assert_eq!(reports(&story.at(0.4, Event::Tick)), ["exited"]);
    story.at(0.5, Event::Reported(Err(fault("conflict"))));
    assert_eq!(reports(&story.at(10.0, Event::Tick)), ["exited"], "the last one is never dropped");
}

#[test]
fn stop_is_term_then_grace_then_kill_then_over() {
    let mut story = Story::running();
    assert_eq!(story.at(2.0, Event::Stop), [Action::Signal(Signal::Term)]);
    assert_eq!(story.at(5.0, Event::Stop), [], "once");
    assert_eq!(story.0.wakes_at(), Some(after(12.0)));
    assert_eq!(story.at(12.0, Event::Tick), [Action::Signal(Signal::Kill)]);
    let todo = story.at(12.1, Event::WorkerEnded(exit(0)));
    assert!(matches!(&todo[..], [Action::KeepExit(_), Action::End(Ok(Ended::Stopped))]));
}

#[test]
fn a_worker_that_cannot_be_killed_does_not_hold_the_agent() {
    let mut story = Story::running();
    story.at(2.0, Event::Stop);
    story.at(12.0, Event::Tick);
    assert_eq!(story.0.wakes_at(), Some(after(22.0)));
    assert_eq!(story.at(22.0, Event::Tick), [Action::End(Ok(Ended::Stopped))]);
}

#[test]
fn stop_before_there_is_a_worker_ends_at_once() {
    let (mut story, _) = Story::begin(Found::default());
    assert_eq!(story.at(1.0, Event::Stop), [Action::End(Ok(Ended::Stopped))]);
    let (mut story, _) = Story::begin(Found::default());
    story.at(0.0, Event::Context(Ok(Box::new(context()))));
    assert_eq!(story.at(1.0, Event::Stop), [Action::AbortSetUp, Action::End(Ok(Ended::Stopped))]);
}

#[test]
fn without_worker_and_contact_the_agent_ends_after_an_hour_but_never_while_the_worker_lives() {
    let mut story = Story::running();
    for hour in 1..=3 {
        let todo = story.at(f64::from(hour) * 3_600.0, Event::Tick);
        assert!(!todo.iter().any(|action| matches!(action, Action::End(_))), "{todo:?}");
    }
    let (mut story, _) = Story::begin(Found::default());
    story.at(0.0, Event::Context(Ok(Box::new(context()))));
    story.at(1.0, Event::SetUpEnded(Ok(exit(3))));
    assert_eq!(story.at(3_601.0, Event::Tick), [Action::End(Err(GivenUp::Forgotten))]);
}

fn left(stage: Stage) -> Found {
    Found {
        kept: Some(Kept {
            nonce: "older".to_owned(),
            context: Some(context()),
            launch: None,
            index: None,
            stage,
        }),
        ..Found::default()
    }
}

#[test]
fn a_restarted_agent_keeps_its_nonce() {
    let mut found = left(Stage::Asking);
    found.kept.as_mut().unwrap().context = None;
    let (_, todo) = Story::begin(found);
    assert!(matches!(&todo[..], [Action::AskContext(claim)] if claim.nonce == "older"));
}

#[test]
fn a_restarted_agent_adopts_a_living_worker_and_runs_nothing_again() {
    let mut found = left(Stage::Running(mark()));
    found.worker_lives = true;
    found.told = true;
    let (mut story, todo) = Story::begin(found);
    assert_eq!(todo[0], Action::Look);
    assert_eq!(reports(&todo), ["ready"]);
    assert!(story.0.has_worker());
    story.at(0.1, Event::Reported(Ok(drain_by(after(9.0)).into())));
    assert!(beat(&story.at(0.1, seen(Work::Busy, T0))).draining, "told before, not told again");
    assert_eq!(reports(&story.at(1.0, Event::WorkerEnded(unseen()))), ["drained"]);
}

#[test]
fn a_restarted_agent_reports_what_ended_meanwhile() {
    let mut found = left(Stage::Running(mark()));
    found.exit = Some(exit(4));
    let (mut story, todo) = Story::begin(found);
    assert!(todo.contains(&Action::KeepExit(exit(4))));
    assert_eq!(reports(&todo), ["ready"]);
    let todo = story.at(0.1, Event::Reported(Ok(Reported::default())));
    assert!(todo.iter().any(|action| matches!(action, Action::Report(report)
        if report.happened == Happened::Exited { exit: exit(4) })));

    let (mut story, _) = Story::begin(left(Stage::Running(mark())));
    let todo = story.at(0.1, Event::Reported(Ok(Reported::default())));
    assert_eq!(reports(&todo), ["exited"], "unseen, but ended");
}

#[test]
fn a_set_up_or_start_that_was_cut_off_is_a_failure_not_a_second_try() {
    for (stage, code) in [(Stage::SettingUp, "set-up-failed"), (Stage::Starting, "worker-failed")] {
        let (_, todo) = Story::begin(left(stage));
        let Some(Action::Report(Report {
            happened: Happened::Failed { fault },
            ..
        })) = todo.last()
        else {
            panic!("{todo:?}");
        };
        assert_eq!(fault.code, code);
        assert!(!todo.iter().any(|action| matches!(action, Action::SetUp(_) | Action::Start(_))));
    }
    let (_, todo) = Story::begin(left(Stage::Failed(fault("not-ready"))));
    assert_eq!(reports(&todo), ["failed"]);
}
