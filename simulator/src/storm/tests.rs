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

/// Workers that are given up before any can be ready: no pool ever has one.
fn impossible() -> Plan {
    let mut plan = Plan::draw(1, &short());
    plan.template["ready-within"] = serde_json::json!("5s");
    plan
}

#[test]
fn what_breaks_is_found_shrunk_and_told() {
    let plan = impossible();
    let found = play(&plan).found.unwrap();
    assert_eq!(found.trouble.name(), "I6");
    assert!(found.trouble.to_string().contains("0 of them stay"), "{}", found.trouble);
    let shrunk = shrink::shrink(&plan, found, 200, |_| {});
    assert_eq!(
        (shrunk.plan.events.len(), shrunk.plan.controllers, shrunk.plan.provisioners),
        (0, 1, 1),
        "nothing of it is needed"
    );
    let story = story::story(&shrunk.plan, &shrunk.found);
    assert!(
        story.starts_with("I6: ") && story.contains("pool pool: {") && story.contains("!! calm"),
        "{story}"
    );
    // As it was written down, it is the same again.
    let text = serde_json::to_string(&shrunk.plan).unwrap();
    let again = play(&serde_json::from_str(&text).unwrap()).found.unwrap();
    assert_eq!(again, shrunk.found);
}

#[test]
fn a_campaign_keeps_what_broke_by_seed_and_ends_when_told_to() {
    let campaign = Campaign {
        from: 0,
        seeds: 5,
        threads: 1,
        settings: short(),
    };
    let mut heard = 0;
    let report = campaign.run(|report| {
        heard += 1;
        report.played < 2
    });
    // One more may have begun by then.
    assert!(heard == report.played && (2..=3).contains(&heard), "{heard}");
    assert!(report.coverage.hits() > 0 && report.coverage.pairs().0 > 0 && !report.coverage.blind_spots().is_empty());
    let table = report.coverage.table();
    assert_eq!(table.lines().count(), crate::fault::Fault::kinds().len() + 1);
}
