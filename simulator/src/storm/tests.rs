use super::*;
use crate::time::minutes;
use epu_core::time::Span;

fn short() -> Settings {
    Settings {
        lasts: Span(minutes(8)),
        ..Settings::default()
    }
}

#[test]
fn a_plan_is_the_same_for_the_same_seed_and_can_be_written_down() {
    let plan = Plan::draw(3, &Settings::default());
    assert_eq!(plan, Plan::draw(3, &Settings::default()));
    assert_ne!(plan.events, Plan::draw(4, &Settings::default()).events);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    assert!(plan.events.len() > 10 && plan.events.is_sorted_by_key(|event| event.at));
}

#[test]
fn the_same_plan_gives_the_same_run_and_another_seed_another() {
    let plan = Plan::draw(1, &short());
    let (one, two) = (play(&plan), play(&plan));
    assert_eq!((one.found, one.print, one.simulated), (two.found, two.print, two.simulated));
    assert_ne!(one.print, play(&Plan::draw(2, &short())).print);
}

#[test]
fn rates_and_kinds_are_as_they_were_asked_for() {
    let mut settings = Settings {
        only: vec!["crash".to_owned()],
        ..Settings::default()
    };
    settings.rates.insert("crash".to_owned(), 60.0);
    let plan = Plan::draw(5, &settings);
    assert_eq!(plan.events.len(), 50);
    assert!(plan.events.iter().all(|event| event.fault.kind() == "crash"));
    settings.only.clear();
    settings.without = vec!["jobs".to_owned()];
    assert!(Plan::draw(5, &settings).events.iter().all(|event| event.fault.kind() != "jobs"));
}

#[test]
fn threads_make_no_difference() {
    let campaign = |threads| Campaign {
        from: 10,
        seeds: 3,
        threads,
        settings: short(),
    };
    let (one, two) = (campaign(1).run(|_| true), campaign(3).run(|_| true));
    assert_eq!((one.print, one.coverage, one.simulated), (two.print, two.coverage, two.simulated));
    assert_eq!(one.played, 3);
}
