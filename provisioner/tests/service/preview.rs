//! What operators ask about sites.

use std::time::Duration;

use epu_core::Fault;
use epu_core::id::SiteName;
use epu_core::random::Random;
use epu_core::request::{Caller, FindingVerdict, NamedTemplate, Request, SiteCheck, SiteFilter, SiteReport, SweepVerdict, SweepView};
use epu_provisioner::iaas::MachineState;

use crate::world::{Does, World, site_name};

async fn sweep(world: &World, site: Option<&str>) -> Result<SweepView, Fault> {
    let site = site.map(|name| SiteName::new(name).unwrap());
    let reader = Caller::Reader("eve".to_owned());
    world.ask(reader, Request::Sweep(SiteFilter { site })).await?.read()
}

fn told(view: &SweepView) -> Vec<(String, SweepVerdict)> {
    let machines = view.machines.iter();
    machines.map(|stray| (stray.machine.clone(), stray.verdict)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_sweep_says_what_it_would_do_and_does_nothing_for_being_asked() {
    let mut world = World::new().await;
    world.crash().await;
    let other = world.another_site("there");
    world.start().await;
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    let random = Random::seeded(99);
    let launch = random.launch(world.clock.now());
    other.put("m-1", Some((request.launch, 0)), Some(id));
    world.site.put("stray", Some((launch, 3)), None);
    world.site.put("going", None, None);
    world.site.becomes("going", MachineState::Stopping);
    world.elapse(6).await;
    let seen = world.clock.now();
    world.elapse(2).await;
    let view = sweep(&world, None).await.unwrap();
    let expected = [
        ("going".to_owned(), SweepVerdict::Leave),
        ("stray".to_owned(), SweepVerdict::Terminate),
        ("m-1".to_owned(), SweepVerdict::Leave),
    ];
    assert_eq!(told(&view), expected);
    let stray = &view.machines[1];
    assert_eq!((stray.launch, stray.index, stray.site.as_str()), (Some(launch), Some(3), "here"));
    let at = stray.at.unwrap();
    assert!(
        stray.first_seen <= seen && at.since(stray.first_seen) >= Duration::from_secs(10),
        "{stray:?}"
    );
    assert!(stray.why.contains("no record explains it"), "{}", stray.why);
    assert!(view.machines[2].why.contains("another site"), "{}", view.machines[2].why);
    assert_eq!(
        view.sites.iter().map(|site| site.site.as_str()).collect::<Vec<_>>(),
        ["here", "there"]
    );
    assert!(world.site.look().terminates.is_empty());
    // It is done when it was said to be, asked or not.
    world.elapse(at.since(world.clock.now()).as_secs() + 1).await;
    assert_eq!(world.site.look().terminates, [["stray".to_owned()]]);
    let view = sweep(&world, Some("there")).await.unwrap();
    assert_eq!(told(&view), [("m-1".to_owned(), SweepVerdict::Leave)]);
    assert_eq!(sweep(&world, Some("nowhere")).await.unwrap_err().code, "no-such-site");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_seen_once_is_looked_at_again_and_one_of_a_launch_is_taken_in() {
    let mut world = World::new().await;
    world.site.look().script.push_back(Does::LaunchesAndHangs);
    world.site.look().always = Some(Does::Fails(epu_provisioner::iaas::Class::Retryable));
    let ids = world.launch(&world.request(1)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.crash().await;
    world.site.put("stray", None, None);
    world.config.look_fast = Some(epu_core::Span::secs(100));
    world.start().await;
    let view = sweep(&world, None).await.unwrap();
    let expected = [("stray".to_owned(), SweepVerdict::Wait), ("m-1".to_owned(), SweepVerdict::Adopt)];
    assert_eq!(told(&view), expected);
    assert!(view.machines[1].why.contains(&ids[0].to_string()));
    assert!(view.machines[0].at.is_some());
}

#[tokio::test(start_paused = true)]
async fn more_than_are_ended_at_once_say_that_others_come_first() {
    let world = World::new().await;
    for number in 0..25 {
        world.site.put(&format!("stray-{number:02}"), None, None);
    }
    world.elapse(5).await;
    let view = sweep(&world, None).await.unwrap();
    assert_eq!(view.machines.len(), 25);
    assert!(!view.machines[9].why.contains("come before it"));
    assert!(view.machines[10].why.contains("10 are ended after one look, and 10 come before it"));
}

async fn check(world: &World, templates: &[&str]) -> Result<SiteReport, Fault> {
    let template = world.request(1).template;
    let named = |name: &&str| NamedTemplate {
        name: (*name).to_owned(),
        template: template.clone(),
    };
    let check = SiteCheck {
        site: site_name(),
        templates: templates.iter().map(named).collect(),
    };
    let reader = Caller::Reader("eve".to_owned());
    world.ask(reader, Request::SiteCheck(check)).await?.read()
}

#[tokio::test(start_paused = true)]
async fn a_site_is_checked_beside_everything_else_and_not_for_ever() {
    let world = World::new().await;
    let report = check(&world, &["pool web", "pool db"]).await.unwrap();
    assert_eq!((report.site, report.driver.as_str()), (site_name(), "scripted"));
    assert_eq!(report.findings[0].text, "scripted, 2 templates");
    let began = world.clock.now();
    let report = check(&world, &["hangs"]).await.unwrap();
    assert_eq!(world.clock.now().since(began).as_secs(), 60);
    assert_eq!(report.findings[0].verdict, FindingVerdict::Unknown);
    assert!(
        report.findings[0].text.contains("no answer within 1m"),
        "{}",
        report.findings[0].text
    );
    let many: Vec<&str> = std::iter::repeat_n("x", 201).collect();
    assert_eq!(check(&world, &many).await.unwrap_err().code, "too-large");
    let nowhere = SiteCheck {
        site: SiteName::new("nowhere").unwrap(),
        templates: Vec::new(),
    };
    let operator = Caller::Operator("ann".to_owned());
    let refused = world.ask(operator, Request::SiteCheck(nowhere)).await.unwrap_err();
    assert_eq!(refused.code, "no-such-site");
}

#[tokio::test(start_paused = true)]
async fn few_checks_are_made_at_once() {
    let world = std::sync::Arc::new(World::new().await);
    let mut checks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let world = world.clone();
        checks.spawn(async move { check(&world, &["hangs"]).await });
    }
    world.elapse(1).await;
    assert_eq!(world.site.look().checks, 8);
    let lists = world.site.look().lists;
    world.elapse(20).await;
    assert!(world.site.look().lists > lists, "looking waits for checks");
}
