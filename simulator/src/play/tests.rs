use std::sync::Arc;

use epu_core::Span;
use serde_json::{Value, json};

use super::boot::Takes;
use super::ideal::{erlang_c_wait, waits_of_fixed};
use super::outcome::Spread;
use super::workload::shape::Shape;
use super::workload::{Job, Workload};
use super::*;
use crate::{hours, seconds};

fn work(shape: Value) -> Workload {
    let shape: Shape = serde_json::from_value(shape).unwrap();
    let (jobs, lasts) = shape.jobs(None, 11).unwrap();
    Workload::of(jobs, lasts)
}

fn pool(name: &str, settings: Value, workload: Workload) -> Pool {
    let mut spec = json!({"template": "worker", "max": 10, "placements": [{"site": "here"}]});
    for (key, value) in settings.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let template = serde_json::from_value(json!({"run": ["worker"], "machine": {"price": 0.5}})).unwrap();
    let spec = serde_json::from_value(spec).unwrap();
    Pool::new(PoolName::new(name).unwrap(), spec, template, Arc::new(workload), &BTreeMap::new()).unwrap()
}

fn following(limits: Value) -> Value {
    json!({
        "engine": {"queue-length": {"sensor": "jobs", "low-water": 1, "high-water": 3}},
        "sensors": {"jobs": {"rabbitmq": {"url": "env:AMQP_URL", "queue": "jobs"}}},
        "limits": limits,
    })
}

fn play(pools: Vec<Pool>) -> Play {
    Play {
        pools,
        sites: BTreeMap::from([(SiteName::new("here").unwrap(), None)]),
        boot: Boot::default(),
        set_up: seconds(3),
        upsets: Upsets::None,
        seed: 1,
        before: minutes(5),
        after: minutes(15),
        target_wait: Duration::ZERO,
        price: None,
        billing: Billing::default(),
        points: 24,
    }
}

fn run(play: &Play) -> Played {
    play.run(&|_| true).unwrap_or_else(|error| panic!("{error}"))
}

fn bursts() -> Workload {
    work(
        json!({"burst": {"rate": "2/m", "high": "40/m", "at": "5m", "lasts": "5m", "every": "20m", "service": "exponential(20s)", "for": "1h"}}),
    )
}

fn mean_wait(waits: &[Duration]) -> f64 {
    waits.iter().map(Duration::as_secs_f64).sum::<f64>() / waits.len() as f64
}

#[test]
fn a_fixed_number_of_workers_waits_as_theory_says() {
    let workload = work(json!({"poisson": {"rate": "5.6/s", "service": "exponential(500ms)", "for": "2h"}}));
    let exact = mean_wait(&waits_of_fixed(workload.jobs(), 4));
    let mut play = play(vec![pool("web", json!({"engine": {"keep": {"n": 4}}}), workload)]);
    play.after = minutes(1);
    let found = run(&play);
    let Spread { mean, .. } = found.pools[0].waits_s;
    assert!(
        (mean / exact - 1.0).abs() < 0.03,
        "{mean} s, and first come first served by hand {exact} s"
    );
    let erlang = erlang_c_wait(5.6, 2.0, 4).unwrap();
    assert!((mean / erlang - 1.0).abs() < 0.1, "{mean} s, and Erlang C {erlang} s");
    assert_eq!((found.pools[0].workers.peak, found.pools[0].jobs.unfinished), (4, 0));
}

#[test]
fn a_run_is_the_same_each_time_and_whole() {
    let play = play(vec![pool("web", following(json!({})), bursts())]);
    let (one, two) = (run(&play), run(&play));
    assert_eq!(one, two);
    let web = &one.pools[0];
    assert_eq!(web.jobs.submitted, play.pools[0].workload.jobs().len());
    assert_eq!((web.jobs.done, web.jobs.lost, web.jobs.unfinished), (web.jobs.submitted, 0, 0));
    assert_eq!(web.interrupted, Interrupted::default());
    assert!(web.workers.peak > 3 && web.workers.peak <= 10, "{:?}", web.workers);
    assert!(one.broken.is_empty() && one.faults.is_empty());
    // What was worked on is the work that came.
    let work = play.pools[0].workload.work().as_secs_f64() / 3_600.0;
    assert!((web.workers.busy_hours / work - 1.0).abs() < 1e-3);
    assert!(web.workers.hours >= web.workers.busy_hours && web.machines.hours > web.workers.hours);
    assert!(web.machines.cost.unwrap() > web.machines.hours * 0.5);
    let other = Play { seed: 2, ..play };
    assert_ne!(run(&other), one);
    insta::assert_json_snapshot!(one);
}

#[test]
fn a_longer_stabilization_costs_more_hours_and_not_more_launches() {
    let of = |stabilization: &str| {
        let limits = json!({"stabilization": stabilization, "cooldown-down": "10s"});
        run(&play(vec![pool("web", following(limits), bursts())])).pools.remove(0)
    };
    let (short, long) = (of("0s"), of("30m"));
    assert!(
        long.workers.hours > 1.2 * short.workers.hours,
        "{:?} {:?}",
        long.workers,
        short.workers
    );
    assert!(
        long.machines.launched <= short.machines.launched,
        "{:?} {:?}",
        long.machines,
        short.machines
    );
    assert!(long.waits_s.mean <= short.waits_s.mean, "{:?} {:?}", long.waits_s, short.waits_s);
    assert!(long.elasticity.accuracy_over > short.elasticity.accuracy_over);
}

#[test]
fn slow_machines_make_jobs_wait_and_failed_ones_are_launched_anew() {
    let mut play = play(vec![pool("web", following(json!({})), bursts())]);
    let fast = run(&play).pools.remove(0);
    play.boot.takes = Takes::About(Span::secs(240), 0.0);
    let slow = run(&play).pools.remove(0);
    assert!(slow.waits_s.p95 > fast.waits_s.p95 + 30.0, "{:?} {:?}", slow.waits_s, fast.waits_s);
    play.boot = Boot {
        failing: 0.4,
        ..Boot::default()
    };
    play.pools[0].template.ready_within = Span::secs(90);
    let failing = run(&play).pools.remove(0);
    assert!(failing.machines.never_ready > 2, "{:?}", failing.machines);
    assert_eq!(failing.jobs.done, failing.jobs.submitted);
}

#[test]
fn a_job_that_outlasts_its_drain_is_counted_as_interrupted_by_choice() {
    // Three jobs of an hour keep three workers busy; with an empty queue only the last worker is kept whatever it does.
    let long = (0..6).map(|n| Job {
        at: seconds(n),
        takes: if n < 3 { hours(1) } else { seconds(30) },
    });
    let workload = Workload::of(long.collect(), minutes(40));
    let limits = json!({"stabilization": "0s", "cooldown-down": "5s", "drain": "2m"});
    let mut settings = following(limits);
    settings["engine"]["queue-length"]["high-water"] = 1.into();
    settings["min"] = 6.into();
    let mut play = play(vec![pool("web", settings, workload)]);
    play.after = Duration::ZERO;
    let all_there = run(&play).pools.remove(0);
    assert_eq!(all_there.interrupted, Interrupted::default());
    play.pools[0].spec.min = 0;
    let shrinking = run(&play).pools.remove(0);
    assert!(shrinking.interrupted.by_choice > 0, "{:?}", shrinking.interrupted);
    assert_eq!(shrinking.interrupted.by_fault, 0);
    assert!(shrinking.jobs.begun_again > 0 && shrinking.workers.wasted_hours > 0.0);
}

#[test]
fn faults_are_the_same_for_whatever_is_compared_and_are_told() {
    let mut play = play(vec![pool("web", following(json!({})), bursts())]);
    play.upsets = Upsets::Heavy;
    let one = run(&play);
    assert!(one.faults.len() > 3, "{:?}", one.faults);
    assert_eq!(one.broken, Vec::<String>::new());
    assert_eq!(one.pools[0].jobs.lost, 0);
    assert_eq!(run(&play), one);
}

#[test]
fn pools_share_a_world_and_whoever_watches_may_end_it() {
    let small = work(json!({"constant": {"rate": "1/m", "service": "5s", "for": "10m"}}));
    let keep = json!({"engine": {"keep": {"n": 1}}});
    let mut play = play(vec![pool("mail", keep.clone(), small.clone()), pool("web", keep, small)]);
    play.sites = BTreeMap::from([(SiteName::new("here").unwrap(), Some(1))]);
    let found = run(&play);
    assert_eq!(
        found.pools.iter().map(|pool| pool.pool.as_str()).collect::<Vec<_>>(),
        ["mail", "web"]
    );
    // There is room for one machine only.
    let done: Vec<usize> = found.pools.iter().map(|pool| pool.jobs.done).collect();
    assert_eq!(done.iter().sum::<usize>(), 10, "{done:?}");
    let ended = play.run(&|at| at < minutes(7)).unwrap_err();
    assert_eq!(ended, Unplayed::Ended(minutes(7)));
    assert_eq!(ended.to_string(), "ended after 7m of simulated time");
    let mut wrong = play.clone();
    wrong.pools[0].spec.engine.clear();
    assert!(matches!(wrong.run(&|_| true), Err(Unplayed::Refused(_))));
}
