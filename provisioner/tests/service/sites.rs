//! Sites that come, change and go while the provisioner runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::id::{SiteName, TemplateName};
use epu_core::instance::Work;
use epu_core::journal::Event;
use epu_core::life::State;
use epu_core::pool::{Pool, Template};
use epu_core::request::KeptTemplate;
use epu_core::request::{Answer, Caller, Nothing, Request, SiteFile, SiteOrigin, SiteRemove, SiteStatus, TemplateFile, TemplateRef};
use epu_provisioner::iaas::Iaas;
use epu_provisioner::iaas::spec::SiteSpec;
use epu_provisioner::sites::{Desk, Offer, Offers, Unusable};
use epu_store::{Document, Store};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::world::{CONTROLLER, Does, Site, World, site_name};

fn named(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn offer(driver: Arc<Site>, place: &str) -> Offer {
    Offer {
        driver: Ok(driver),
        place: place.to_owned(),
        origin: Some(SiteOrigin::File {
            path: "epu.yaml".to_owned(),
            line: 3,
        }),
    }
}

async fn offered(world: &World, sites: &[(&str, Offer)]) {
    let sites: Offers = sites.iter().map(|(name, offer)| (named(name), offer.clone())).collect();
    world.offers.send_replace(Arc::new(sites));
    world.elapse(1).await;
}

async fn statuses(world: &World) -> BTreeMap<String, SiteStatus> {
    let sites = world.ask(CONTROLLER, Request::Sites(Nothing {})).await.unwrap();
    let sites: Vec<SiteStatus> = sites.read().unwrap();
    sites.into_iter().map(|site| (site.site.to_string(), site)).collect()
}

async fn refusal(world: &World, site: &str) -> Fault {
    let mut request = world.request(1);
    request.site = named(site);
    world.ask(CONTROLLER, Request::Launch(Box::new(request))).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_new_site_is_listed_at_once_and_launched_on() {
    let mut world = World::new().await;
    assert_eq!(refusal(&world, "there").await.code, "no-such-site");
    let there = world.another_site("there");
    offered(
        &world,
        &[
            ("here", offer(world.site.clone(), "here")),
            ("there", offer(there.clone(), "there")),
        ],
    )
    .await;
    assert!(there.look().lists > 0, "it was not looked at");
    let mut request = world.request(2);
    request.site = named("there");
    world.launch(&request).await;
    world.elapse(1).await;
    assert_eq!((there.running(), world.site.running()), (2, 0));
    let added = world.journal(|event| matches!(event, Event::SiteAdded { .. })).await;
    assert_eq!(added.len(), 1);
    assert_eq!(
        (added[0].who.as_ref(), &added[0].event),
        (
            "config",
            &Event::SiteAdded {
                site: named("there"),
                driver: "scripted".to_owned()
            }
        )
    );
    assert!(matches!(
        statuses(&world).await["there"].origin,
        Some(SiteOrigin::File { line: 3, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_changed_site_goes_on_where_it_was_with_the_new_driver() {
    let mut world = World::new().await;
    offered(&world, &[("here", offer(world.site.clone(), "here"))]).await;
    let ending = world.running_one().await;
    // A call under way, and an end that the former driver does not bring about.
    world.site.look().script.push_back(Does::AllAfter(Duration::from_secs(20)));
    let coming = world.launch(&world.request(1)).await[0];
    world.site.look().terminate_fails = true;
    world.terminate(ending).await.unwrap();
    world.elapse(2).await;
    let new = world.another_site("here");
    let machine = world.instance(ending).await.machine.unwrap();
    new.put(&machine, None, Some(ending));
    new.look().machines.get_mut(&machine).unwrap().launch = Some(world.instance(ending).await.launch);
    offered(&world, &[("here", offer(new.clone(), "here"))]).await;
    world.elapse(5).await;
    assert_eq!(
        new.look().terminates.first(),
        Some(&vec![machine]),
        "the new driver ends what was to end"
    );
    world.elapse(10).await;
    assert_eq!(world.state(ending).await, State::Terminated);
    world.elapse(20).await;
    assert!(world.instance(coming).await.machine.is_some(), "the call under way was lost");
    let calls = world.site.calls();
    world.launch(&world.request(1)).await;
    world.elapse(1).await;
    assert_eq!((world.site.calls(), new.calls()), (calls, 1));
    assert_eq!(world.journal(|event| matches!(event, Event::SiteChanged { .. })).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_site_that_went_away_is_watched_until_it_is_empty() {
    let mut world = World::new().await;
    let there = world.another_site("there");
    offered(
        &world,
        &[
            ("here", offer(world.site.clone(), "here")),
            ("there", offer(there.clone(), "there")),
        ],
    )
    .await;
    let id = world.running_one().await;
    offered(&world, &[("there", offer(there.clone(), "there"))]).await;
    let refused = refusal(&world, "here").await;
    assert_eq!(refused.code, "no-such-site");
    assert!(refused.text.contains("was removed"), "{refused}");
    let shown = statuses(&world).await["here"].clone();
    let fault = shown.fault.unwrap();
    assert_eq!((shown.live, fault.code.as_ref()), (1, "no-such-site"));
    assert!(fault.text.contains("1 instances is watched"), "{fault}");

    let lists = world.site.look().lists;
    world.elapse(60).await;
    assert!(world.site.look().lists > lists, "nobody looks at it any more");
    world.terminate(id).await.unwrap();
    world.elapse(30).await;
    assert_eq!(world.state(id).await, State::Terminated);
    assert_eq!(world.site.running(), 0);
    assert!(!statuses(&world).await.contains_key("here"), "it is shown though it is empty");
    let lists = world.site.look().lists;
    world.elapse(60).await;
    assert_eq!(world.site.look().lists, lists, "it is looked at though it is empty");
    assert_eq!(world.journal(|event| matches!(event, Event::SiteRemoved { .. })).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_site_that_went_away_is_watched_in_the_next_term_too() {
    let world = World::new().await;
    offered(&world, &[("here", offer(world.site.clone(), "here"))]).await;
    let id = world.running_one().await;
    offered(&world, &[]).await;
    world.store.fail_with(Some("the disk is full"));
    world.elapse(120).await;
    world.store.fail_with(None);
    world.elapse(120).await;
    assert!(world.metrics.leadership_changes.get() >= 3, "the term went on");
    let shown = statuses(&world).await["here"].clone();
    assert!(shown.live == 1 && shown.fault.unwrap().text.contains("was removed"));
    world.terminate(id).await.unwrap();
    world.elapse(30).await;
    assert_eq!((world.state(id).await, world.site.running()), (State::Terminated, 0));
    assert!(statuses(&world).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_launched_on_a_site_that_went_away_comes_to_nothing() {
    let world = World::new().await;
    offered(&world, &[("here", offer(world.site.clone(), "here"))]).await;
    world.site.look().always = Some(Does::Fails(epu_provisioner::iaas::Class::Retryable));
    let id = world.launch(&world.request(1)).await[0];
    world.elapse(2).await;
    let calls = world.site.calls();
    offered(&world, &[]).await;
    world.elapse(60).await;
    assert_eq!(world.site.calls(), calls, "it was called again");
    assert_eq!(world.state(id).await, State::Failed);
    assert!(statuses(&world).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_elsewhere_takes_the_place_of_the_former_one_once_that_is_empty() {
    let mut world = World::new().await;
    offered(&world, &[("here", offer(world.site.clone(), "east"))]).await;
    let id = world.running_one().await;
    let west = world.another_site("here");
    offered(&world, &[("here", offer(west.clone(), "west"))]).await;
    assert_eq!(refusal(&world, "here").await.code, "no-such-site");
    world.elapse(60).await;
    assert_eq!(world.state(id).await, State::Running, "it was looked for where it never was");
    assert_eq!(west.look().lists, 0);
    world.terminate(id).await.unwrap();
    world.elapse(30).await;
    assert_eq!((world.state(id).await, world.site.running()), (State::Terminated, 0));
    world.launch(&world.request(1)).await;
    world.elapse(1).await;
    assert_eq!((west.running(), statuses(&world).await["here"].fault.clone()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_site_without_a_driver_is_shown_and_breaks_nothing() {
    let world = World::new().await;
    let broken = Offer {
        driver: Err(Unusable {
            driver: "ec2".to_owned(),
            fault: Fault::new("driver-missing", "site cloud: built without EC2"),
        }),
        place: "cloud".to_owned(),
        origin: None,
    };
    let here = offer(world.site.clone(), "here");
    offered(&world, &[("here", here.clone()), ("cloud", broken.clone())]).await;
    let id = world.running_one().await;
    let shown = statuses(&world).await;
    assert_eq!(shown["cloud"].fault.as_ref().unwrap().code, "driver-missing");
    assert_eq!((shown["cloud"].driver.as_str(), shown["here"].live), ("ec2", 1));
    assert!(refusal(&world, "cloud").await.text.contains("built without EC2"));
    // One that had a driver keeps it for what lives there.
    offered(&world, &[("here", broken)]).await;
    assert_eq!(refusal(&world, "here").await.code, "no-such-site");
    world.elapse(60).await;
    assert_eq!(world.state(id).await, State::Running);
    offered(&world, &[("here", here)]).await;
    world.launch(&world.request(1)).await;
    assert_eq!(statuses(&world).await["here"].fault, None);
}

/// Offers every record as a site of its own, and one of a file.
struct Clerk {
    store: Arc<dyn Store>,
    offers: watch::Sender<Arc<Offers>>,
    drivers: Vec<(SiteName, Arc<Site>)>,
}

#[async_trait]
impl Desk for Clerk {
    fn read(&self, file: &SiteFile) -> Result<(SiteName, SiteSpec), Fault> {
        let spec = serde_json::from_str(&file.text).map_err(|e| Fault::new("bad-config", e.to_string()))?;
        Ok((file.name.clone().unwrap(), spec))
    }

    fn read_template(&self, file: &TemplateFile) -> Result<(TemplateName, Template), Fault> {
        let template = serde_json::from_str(&file.text).map_err(|e| Fault::new("bad-config", e.to_string()))?;
        Ok((file.name.clone().unwrap(), template))
    }

    async fn look(&self) {
        let mut offers = Offers::from([(site_name(), offer(self.drivers[0].1.clone(), "here"))]);
        for document in self.store.documents("site").await.unwrap() {
            let driver = self
                .drivers
                .iter()
                .find(|(name, _)| name.as_str() == document.name)
                .unwrap()
                .1
                .clone();
            let (by, owner) = (document.body["by"].as_str().unwrap(), document.body["owner"].as_str());
            let origin = SiteOrigin::Record {
                by: by.to_owned(),
                owner: owner.map(str::to_owned),
            };
            offers.insert(
                named(&document.name),
                Offer {
                    origin: Some(origin),
                    ..offer(driver, &document.name)
                },
            );
        }
        self.offers.send_replace(Arc::new(offers));
    }
}

async fn with_records(names: &[&str]) -> World {
    let mut world = World::new().await;
    let mut drivers = vec![(site_name(), world.site.clone())];
    for name in names {
        let driver = world.another_site(name);
        drivers.push((named(name), driver));
    }
    world.sites = BTreeMap::from([(site_name(), world.site.clone() as Arc<dyn Iaas>)]);
    world.stop().await.unwrap();
    world.desk = Arc::new(Clerk {
        store: world.store.clone(),
        offers: world.offers.clone(),
        drivers,
    });
    world.start().await;
    world.desk.look().await;
    world.elapse(1).await;
    world
}

fn operator() -> Caller {
    Caller::Operator("eve".to_owned())
}

fn ours(name: &str) -> Caller {
    Caller::OwnersOperator("bob".to_owned(), vec![name.to_owned()])
}

async fn add(world: &World, caller: Caller, name: &str, spec: Value) -> Result<Value, Fault> {
    let file = SiteFile {
        file: "site.yaml".to_owned(),
        text: spec.to_string(),
        name: Some(named(name)),
    };
    world.ask(caller, Request::SiteAdd(file)).await.map(Answer::into_json)
}

async fn remove(world: &World, caller: Caller, name: &str, force: bool) -> Result<Value, Fault> {
    let site = named(name);
    let remove = Request::SiteRemove(SiteRemove { site, force });
    world.ask(caller, remove).await.map(Answer::into_json)
}

fn in_region(region: &str) -> Value {
    json!({ "ec2": { "region": region } })
}

#[tokio::test(start_paused = true)]
async fn operators_add_change_and_remove_sites() {
    let world = with_records(&["west"]).await;
    assert_eq!(add(&world, operator(), "west", in_region("us-west-1")).await, Ok(json!("west")));
    assert!(
        matches!(statuses(&world).await["west"].origin, Some(SiteOrigin::Record { .. })),
        "in use when it is answered"
    );
    add(&world, operator(), "west", in_region("us-west-1")).await.unwrap();
    add(&world, operator(), "west", in_region("us-west-2")).await.unwrap();
    let kept = world.store.documents("site").await.unwrap();
    assert_eq!((kept.len(), kept[0].revision), (1, 2), "the same again is nothing new");
    assert_eq!(kept[0].body["by"], "eve");

    let mut request = world.request(1);
    request.site = named("west");
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    let refused = remove(&world, operator(), "west", false).await.unwrap_err();
    assert_eq!(refused.code, "conflict");
    assert!(refused.text.contains("1 instances live there"), "{refused}");
    assert_eq!(remove(&world, operator(), "west", true).await, Ok(json!(1)));
    assert_eq!(refusal(&world, "west").await.code, "no-such-site");
    let order = epu_core::request::Terminate {
        instances: vec![(id, Work::Idle)],
        why: epu_core::instance::Cause::Operator,
        epoch: 0,
    };
    world.ask(CONTROLLER, Request::Terminate(order)).await.unwrap();
    world.elapse(30).await;
    assert_eq!(world.state(id).await, State::Terminated);
    assert!(!statuses(&world).await.contains_key("west"));

    let is_about_sites = |event: &Event| {
        matches!(
            event,
            Event::SiteAdded { .. } | Event::SiteChanged { .. } | Event::SiteRemoved { .. }
        )
    };
    let remembered = world.journal(is_about_sites).await;
    let brief: Vec<(&str, &str)> = remembered.iter().map(|entry| (entry.who.as_ref(), entry.event.kind())).collect();
    assert_eq!(brief, [("eve", "site-added"), ("eve", "site-changed"), ("eve", "site-removed")]);
}

#[tokio::test(start_paused = true)]
async fn a_site_that_pools_use_stays_unless_it_is_forced() {
    let world = with_records(&["west"]).await;
    add(&world, operator(), "west", in_region("us-west-1")).await.unwrap();
    let pool: Pool = serde_json::from_value(json!({
        "name": "web", "revision": 1, "origin": {"is": "operator"}, "added_at": 1,
        "spec": {"template": "t", "max": 2, "engine": {"keep": {"n": 1}}, "placements": [{"site": "west"}]},
        "template": {"run": ["true"]}, "template_version": "t@1",
    }))
    .unwrap();
    world.store.put_pools(&[pool], Vec::new()).await.unwrap();
    let refused = remove(&world, operator(), "west", false).await.unwrap_err();
    assert!(refused.code == "conflict" && refused.text.contains("web"), "{refused}");
    assert_eq!(remove(&world, operator(), "west", true).await, Ok(json!(0)));
    assert_eq!(remove(&world, operator(), "west", false).await.unwrap_err().code, "no-such-site");
}

#[tokio::test(start_paused = true)]
async fn sites_are_changed_by_whom_they_belong_to() {
    let world = with_records(&["west", "east", "old"]).await;
    for refused in [
        add(&world, operator(), "here", in_region("x")).await,
        remove(&world, operator(), "here", true).await,
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, "from-file");
        assert!(refused.text.contains("epu.yaml, line 3"), "{refused}");
    }
    add(&world, ours("blue"), "west", in_region("us-west-1")).await.unwrap();
    assert_eq!(world.store.documents("site").await.unwrap()[0].body["owner"], "blue");
    for (caller, name) in [(ours("red"), "west"), (Caller::Reader("ray".to_owned()), "east")] {
        assert_eq!(
            add(&world, caller.clone(), name, in_region("us-west-2")).await.unwrap_err().code,
            "forbidden"
        );
        assert_eq!(remove(&world, caller, name, true).await.unwrap_err().code, "forbidden");
    }
    add(&world, operator(), "east", in_region("us-east-1")).await.unwrap();
    assert_eq!(remove(&world, ours("blue"), "east", false).await.unwrap_err().code, "forbidden");
    // What old clients describe is theirs.
    let described = Document {
        kind: "site".to_owned(),
        name: "old".to_owned(),
        revision: 1,
        body: json!({ "spec": in_region("us-east-1"), "owner": "blue", "by": "dtrs" }),
    };
    world.store.put_document(&described, Vec::new()).await.unwrap();
    assert_eq!(
        add(&world, operator(), "old", in_region("eu-west-1")).await.unwrap_err().code,
        "conflict"
    );
    assert_eq!(remove(&world, operator(), "old", false).await.unwrap_err().code, "conflict");
    assert_eq!(remove(&world, operator(), "old", true).await, Ok(json!(0)));
    assert_eq!(remove(&world, ours("blue"), "west", false).await, Ok(json!(0)));
}

#[tokio::test(start_paused = true)]
async fn this_machine_is_one_site() {
    let world = with_records(&["mine", "also"]).await;
    let kept = Document {
        kind: "site".to_owned(),
        name: "mine".to_owned(),
        revision: 1,
        body: json!({ "spec": { "local": {} }, "owner": null, "by": "eve" }),
    };
    world.store.put_document(&kept, Vec::new()).await.unwrap();
    let offers = Offers::from([(
        named("mine"),
        Offer {
            driver: Err(Unusable {
                driver: "local".to_owned(),
                fault: Fault::new("internal", "x"),
            }),
            ..offer(world.site.clone(), "mine")
        },
    )]);
    world.offers.send_replace(Arc::new(offers));
    world.elapse(1).await;
    let refused = add(&world, operator(), "also", json!({ "local": {} })).await.unwrap_err();
    assert!(refused.code == "conflict" && refused.text.contains("mine"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn templates_are_kept_for_pools_to_name() {
    let world = with_records(&[]).await;
    let name = TemplateName::new("worker").unwrap();
    let add = async |caller: Caller, text: &str| {
        let file = TemplateFile {
            file: "t.yaml".to_owned(),
            text: text.to_owned(),
            name: Some(name.clone()),
        };
        world.ask(caller, Request::TemplateAdd(file)).await.map(Answer::into_json)
    };
    let remove = async |caller: Caller| {
        world
            .ask(caller, Request::TemplateRemove(TemplateRef { template: name.clone() }))
            .await
    };
    let kept = async || -> Vec<KeptTemplate> {
        let asked = world.ask(Caller::Reader("ray".to_owned()), Request::Templates(Nothing {}));
        asked.await.unwrap().read().unwrap()
    };
    assert_eq!(remove(operator()).await.unwrap_err().code, "no-such-template");
    assert_eq!(add(ours("blue"), r#"{"run": ["one"]}"#).await, Ok(json!("worker")));
    assert_eq!(add(ours("red"), r#"{"run": ["two"]}"#).await.unwrap_err().code, "forbidden");
    assert_eq!(remove(ours("red")).await.unwrap_err().code, "forbidden");
    add(operator(), r#"{"run": ["one"]}"#).await.unwrap();
    assert_eq!(
        (kept().await[0].by.as_str(), kept().await[0].owner.as_deref()),
        ("bob", Some("blue")),
        "the same again is nothing new"
    );
    add(operator(), r#"{"run": ["two"]}"#).await.unwrap();
    let now = kept().await;
    assert_eq!(
        (now[0].by.as_str(), now[0].owner.as_deref(), now[0].template.run.as_slice()),
        ("eve", Some("blue"), &["two".to_owned()][..])
    );
    remove(ours("blue")).await.unwrap();
    assert_eq!(kept().await, []);
    let happened = world
        .journal(|event| matches!(event, Event::TemplateKept { .. } | Event::TemplateForgotten { .. }))
        .await;
    let who: Vec<&str> = happened.iter().map(|entry| entry.who.as_ref()).collect();
    assert_eq!(who, ["bob", "eve", "bob"]);
}
