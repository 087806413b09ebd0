//! The EC2 driver against our own fake, which follows what Amazon documents where moto does not: client tokens, lists that lag, lost
//! answers, throttling, a lack of room.

use std::sync::Arc;
use std::time::Duration;

use epu_core::Span;
use epu_core::request::FindingVerdict as Verdict;
use epu_provisioner::iaas::ec2::Ec2Settings;
use epu_provisioner::iaas::{Admission, Class, Iaas, IaasLaunch, Machine, MachineState};
use epu_tests::fake_ec2::bucket::Throttle;
use epu_tests::fake_ec2::catalogue::{ACCESS_KEY, ACCOUNT, GROUP, IMAGE, KEY, SUBNETS};
use epu_tests::fake_ec2::plan::{Effect, Fault, Plan, Room};
use epu_tests::fake_ec2::{FakeEc2, Settings};
use epu_tests::wait;

use crate::ec2_sites::{Sites, ids, named};

const REGION: &str = "us-east-1";

/// Sites at one fake.
struct Cloud {
    fake: FakeEc2,
    sites: Sites,
}

impl std::ops::Deref for Cloud {
    type Target = Sites;
    fn deref(&self) -> &Sites {
        &self.sites
    }
}

impl Cloud {
    async fn with(plan: Plan) -> Self {
        let settings = Settings {
            seed: 4,
            plan,
            ..Settings::default()
        };
        let fake = FakeEc2::start(settings).await.unwrap();
        let sites = Sites::at(fake.url(), ACCESS_KEY, REGION, IMAGE);
        Self { fake, sites }
    }

    fn alive(&self) -> usize {
        self.fake.report().alive(&self.parts.installation).len()
    }
}

/// Lists of the fake lag by a second at the most.
fn short(settings: &mut Ec2Settings) {
    settings.consistency_grace = Span::millis(1_500);
}

/// With the calls of one test at a time nothing is throttled.
fn unthrottled() -> Plan {
    Plan {
        throttle: Some(Throttle::off()),
        ..Plan::default()
    }
}

async fn contract_holds(set: impl FnOnce(&mut Ec2Settings)) {
    let cloud = Cloud::with(unthrottled()).await;
    let site = cloud.site("east", |settings| {
        short(settings);
        set(settings);
    });
    cloud.contract_holds(&*site).await;
    wait::eventually(Duration::from_secs(10), "nothing is left", async || cloud.alive() == 0).await;
}

#[tokio::test]
async fn the_contract_holds_with_everything_on() {
    contract_holds(|_| ()).await;
}

#[tokio::test]
async fn the_contract_holds_without_client_tokens() {
    contract_holds(|settings| settings.client_tokens = false).await;
}

#[tokio::test]
async fn the_contract_holds_without_launch_indexes() {
    contract_holds(|settings| settings.launch_index = false).await;
}

#[tokio::test]
async fn the_contract_holds_without_tags_in_the_call() {
    contract_holds(|settings| settings.tags_on_create = false).await;
}

#[tokio::test]
async fn the_contract_holds_without_any_of_them() {
    contract_holds(|settings| {
        settings.client_tokens = false;
        settings.launch_index = false;
        settings.tags_on_create = false;
    })
    .await;
}

#[tokio::test]
async fn the_contract_holds_with_status_checks() {
    contract_holds(|settings| settings.status_checks = true).await;
}

/// Repeats a launch as the provisioner does, until it comes to something.
async fn repeated(site: &Arc<dyn Iaas>, launch: &IaasLaunch) -> Vec<Machine> {
    wait::until(Duration::from_secs(20), "the launch comes to something", async || {
        site.launch(launch).await.map_err(|error| {
            assert!(error.class.is_passing(), "{error}");
            error
        })
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_lost_answer_launches_nothing_twice() {
    for tokens in [true, false] {
        let plan = Plan {
            faults: vec![Fault::on("RunInstances", Effect::Dropped).next(2)],
            ..unthrottled()
        };
        let cloud = Cloud::with(plan).await;
        let site = cloud.site("east", |settings| {
            short(settings);
            settings.client_tokens = tokens;
        });
        let launch = cloud.launch(3, cloud.plain());
        let machines = repeated(&site, &launch).await;
        assert_eq!(machines.len(), 3);
        assert_eq!(ids(&repeated(&site, &launch).await), ids(&machines));
        assert_eq!(cloud.alive(), 3, "client tokens: {tokens}");
    }
}

#[tokio::test]
async fn a_successor_repeats_a_launch_and_launches_nothing() {
    let cloud = Cloud::with(unthrottled()).await;
    let launch = cloud.launch(4, cloud.plain());
    let machines = cloud.site("east", short).launch(&launch).await.unwrap();
    let successor = cloud.site_of(&cloud.parts_of_another_process(), "east", short);
    assert_eq!(ids(&successor.launch(&launch).await.unwrap()), ids(&machines));
    assert_eq!(cloud.alive(), 4);
    let mut other = launch.clone();
    other.template.machine.size = Some("t3.small".to_owned());
    let error = successor.launch(&other).await.unwrap_err();
    assert_eq!(error.class, Class::Changed);
    assert!(
        error.text.contains("IdempotentParameterMismatch") && error.text.contains("launches anew"),
        "{error}"
    );
}

#[tokio::test]
async fn what_becomes_of_a_launch_without_room_or_rights() {
    let cases = [
        (
            Plan {
                capacity: vec![Room::in_zone("us-east-1a", 0)],
                ..unthrottled()
            },
            Class::Capacity,
        ),
        (
            Plan {
                vcpus: Some(1),
                ..unthrottled()
            },
            Class::Quota,
        ),
        (
            Plan {
                faults: vec![Fault::on("RunInstances", Effect::error("UnauthorizedOperation"))],
                ..unthrottled()
            },
            Class::Credentials,
        ),
        (
            Plan {
                faults: vec![Fault::on("RunInstances", Effect::error("RequestLimitExceeded"))],
                ..unthrottled()
            },
            Class::Throttled,
        ),
        (
            Plan {
                faults: vec![Fault::on("RunInstances", Effect::Malformed)],
                ..unthrottled()
            },
            Class::Retryable,
        ),
    ];
    for (plan, class) in cases {
        let cloud = Cloud::with(plan).await;
        let mut machine = cloud.plain();
        machine.zone = Some("us-east-1a".to_owned());
        let error = cloud.site("east", short).launch(&cloud.launch(1, machine)).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
    }
}

#[tokio::test]
async fn some_of_a_launch_are_better_than_none() {
    let plan = Plan {
        capacity: vec![Room::in_zone("us-east-1a", 3)],
        ..unthrottled()
    };
    let cloud = Cloud::with(plan).await;
    let site = cloud.site("east", short);
    let mut machine = cloud.plain();
    machine.zone = Some("us-east-1a".to_owned());
    let mut launch = cloud.launch(5, machine.clone());
    launch.min = 4;
    assert_eq!(site.launch(&launch).await.unwrap_err().class, Class::Capacity);
    assert_eq!(cloud.alive(), 0);
    let machines = site.launch(&cloud.launch(5, machine)).await.unwrap();
    let indexes: Vec<Option<u32>> = machines.iter().map(|machine| machine.index).collect();
    assert_eq!(indexes, [Some(0), Some(1), Some(2)]);
}

#[tokio::test]
async fn many_machines_are_few_calls() {
    let cloud = Cloud::with(unthrottled()).await;
    let (site, other) = (cloud.site("east", short), cloud.site("west", short));
    for _ in 0..3 {
        let launch = cloud.launch(800, cloud.plain());
        site.admit(Admission::Launch {
            machines: 1,
            purpose: epu_core::launch::Purpose::Replace,
        })
        .await;
        assert_eq!(site.launch(&launch).await.unwrap().len(), 800);
    }
    assert_eq!(cloud.fake.report().called("RunInstances"), 3);
    let listed = wait::until(Duration::from_secs(20), "all are listed", async || {
        let before = cloud.fake.report().called("DescribeInstances");
        let (mine, theirs) = tokio::join!(site.list(), other.list());
        let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
        let pages = cloud.fake.report().called("DescribeInstances") - before;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        if mine.len() == 2_400 {
            Ok((mine, theirs.len(), pages))
        } else {
            Err(mine.len())
        }
    });
    let (mine, theirs, pages) = listed.await.unwrap();
    assert_eq!((theirs, pages), (0, 3), "2,400 machines of two sites are three pages");
    site.terminate(&ids(&mine)).await.unwrap();
    assert_eq!(cloud.fake.report().called("TerminateInstances"), 3);
    wait::eventually(Duration::from_secs(10), "all end", async || cloud.alive() == 0).await;
}

#[tokio::test]
async fn a_check_is_content_with_what_is_there() {
    let cloud = Cloud::with(unthrottled()).await;
    let site = cloud.site("east", short);
    site.launch(&cloud.launch(1, cloud.plain())).await.unwrap();
    let mut machine = cloud.plain();
    machine.key = Some(KEY.to_owned());
    machine.security_groups = vec![GROUP.to_owned()];
    machine.subnet = Some(SUBNETS[0].to_owned());
    let findings = wait::until(Duration::from_secs(10), "the machine is seen", async || {
        let findings = site.check(&[named("pool web", machine.clone())]).await;
        let good = findings.iter().filter(|finding| finding.verdict == Verdict::Good).count();
        if good + 1 == findings.len() {
            Ok(findings)
        } else {
            Err(format!("{findings:#?}"))
        }
    });
    let findings = findings.await.unwrap();
    assert!(findings[0].text.contains(ACCOUNT), "{findings:#?}");
    assert_eq!(cloud.alive(), 1, "checking launched something");
    cloud.fake.set_plan(Plan {
        clock_ahead_ms: 200_000,
        ..unthrottled()
    });
    let findings = site.check(&[]).await;
    let clock = findings.iter().find(|finding| finding.what == "clock").unwrap();
    assert_eq!(clock.verdict, Verdict::Doubtful, "{findings:#?}");
}

#[tokio::test]
async fn a_machine_that_the_site_ended_is_gone() {
    let cloud = Cloud::with(unthrottled()).await;
    let site = cloud.site("east", short);
    let machine = site.launch(&cloud.launch(1, cloud.plain())).await.unwrap().remove(0).id;
    let running = async |wanted: Option<MachineState>| {
        let said = site.describe(std::slice::from_ref(&machine)).await.unwrap();
        said[0].1 == wanted
    };
    wait::eventually(Duration::from_secs(10), "it runs", async || {
        running(Some(MachineState::Running)).await
    })
    .await;
    cloud
        .fake
        .befall(&machine, epu_tests::fake_ec2::plan::Fate::Terminated { after: Span::millis(0) })
        .unwrap();
    wait::eventually(Duration::from_secs(10), "it is gone", async || {
        running(Some(MachineState::Gone)).await
    })
    .await;
}
