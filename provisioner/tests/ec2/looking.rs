//! Lists, credentials, clocks.

use std::time::Duration;

use epu_core::request::FindingVerdict;
use epu_provisioner::iaas::{Class, MachineState};

use super::cloud::{Cloud, Reply, listed, machine, yes};
use super::{INSTALLATION, Process, id, ids};

const OURS: [(&str, &str); 1] = [("epu:installation", INSTALLATION)];

fn of(site: &str) -> [(&str, &str); 2] {
    [OURS[0], ("epu:site", site)]
}

#[tokio::test]
async fn a_list_is_complete_or_an_error() {
    let process = Process::new();
    let pages = Cloud::that(|asked| match asked.get("NextToken") {
        "" => listed(&[machine(&id(0), 0, "running", &OURS)], Some("two")),
        "two" => listed(
            &[machine(&id(1), 0, "running", &OURS), machine(&id(2), 0, "running", &[])],
            Some("three"),
        ),
        _ => listed(&[machine(&id(3), 0, "stopping", &OURS)], None),
    })
    .await;
    let machines = process.site("east", &pages.url, "").list().await.unwrap();
    assert_eq!(ids(&machines), [id(0), id(1), id(3)], "one without our tag is not ours");
    assert_eq!(machines[2].state, MachineState::Stopped);
    let first = &pages.asked("DescribeInstances")[0];
    assert_eq!(first.get("MaxResults"), "1000");
    assert_eq!(
        (first.get("Filter.2.Name"), first.get("Filter.2.Value.1")),
        ("tag:epu:installation", INSTALLATION)
    );

    let circle = Cloud::that(|asked| match asked.get("NextToken") {
        "one" => listed(&[], Some("two")),
        _ => listed(&[], Some("one")),
    })
    .await;
    let error = process.site("circle", &circle.url, "").list().await.unwrap_err();
    assert!(error.class == Class::Retryable && error.text.contains("circles"), "{error}");
    assert_eq!(circle.asked("DescribeInstances").len(), 3);

    let broken = Cloud::that(|asked| match asked.get("NextToken") {
        "" => listed(&[machine(&id(0), 0, "running", &OURS)], Some("two")),
        _ => Reply::No(503, "Unavailable", "later".to_owned()),
    })
    .await;
    assert!(process.site("broken", &broken.url, "").list().await.is_err(), "half a list is none");
}

#[tokio::test]
async fn sites_of_one_account_share_a_list() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "DescribeInstances" => listed(
            &[
                machine(&id(0), 0, "running", &of("east")),
                machine(&id(1), 0, "running", &of("west")),
                machine(&id(2), 0, "running", &of("gone-from-the-config")),
            ],
            None,
        ),
        other => yes(other),
    })
    .await;
    let process = Process::new();
    let (east, west) = (process.site("east", &cloud.url, ""), process.site("west", &cloud.url, ""));
    let lists = || cloud.asked("DescribeInstances").len();
    let (a, b) = tokio::join!(east.list(), west.list());
    assert_eq!((ids(&a.unwrap()), ids(&b.unwrap())), (vec![id(0), id(2)], vec![id(1)]));
    assert_eq!(lists(), 1, "two sites, one list");
    process.clock.advance(Duration::from_secs(2));
    west.list().await.unwrap();
    assert_eq!(lists(), 2, "an old list is no list");
    west.terminate(&[id(1)]).await.unwrap();
    west.list().await.unwrap();
    assert_eq!(lists(), 3, "what was listed before a change is old");
}

#[tokio::test]
async fn a_machine_may_have_to_pass_the_checks_of_the_site() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "DescribeInstances" => listed(&[machine(&id(0), 0, "running", &OURS), machine(&id(1), 0, "running", &OURS)], None),
        _ => {
            let status = |n, how| {
                format!(
                    "<item><instanceId>{}</instanceId><systemStatus><status>ok</status></systemStatus>\
                     <instanceStatus><status>{how}</status></instanceStatus></item>",
                    id(n)
                )
            };
            Reply::Xml(format!(
                "<DescribeInstanceStatusResponse><instanceStatusSet>{}{}</instanceStatusSet></DescribeInstanceStatusResponse>",
                status(0, "ok"),
                status(1, "initializing")
            ))
        }
    })
    .await;
    let process = Process::new();
    let machines = process.site("east", &cloud.url, "status-checks: true,").list().await.unwrap();
    let states: Vec<MachineState> = machines.iter().map(|machine| machine.state).collect();
    assert_eq!(states, [MachineState::Running, MachineState::Pending]);
}

#[tokio::test]
async fn an_untagged_machine_is_ours_when_its_token_says_so() {
    let process = Process::new();
    let launch = process.launch(2);
    let made = std::sync::Mutex::new(String::new());
    let cloud = Cloud::that(move |asked| match asked.action() {
        "RunInstances" => {
            *made.lock().unwrap() = asked.get("ClientToken").to_owned();
            Reply::Nothing
        }
        "DescribeInstances" => {
            let token = format!("<clientToken>{}</clientToken><tagSet>", made.lock().unwrap());
            let ours = machine(&id(1), 1, "running", &[]).replace("<tagSet>", &token);
            let theirs = machine(&id(2), 0, "running", &[]).replace("<tagSet>", "<clientToken>terraform-1</clientToken><tagSet>");
            listed(&[ours, theirs], None)
        }
        other => yes(other),
    })
    .await;
    let site = process.site("east", &cloud.url, "tags-on-create: false,");
    site.launch(&launch).await.unwrap_err();
    assert!(!cloud.asked("RunInstances")[0].body.contains("TagSpecification"));
    let machines = site.list().await.unwrap();
    assert_eq!(ids(&machines), [id(1)]);
    assert_eq!((machines[0].launch, machines[0].index), (Some(launch.launch), Some(1)));
    for _ in 0..100 {
        if !cloud.asked("CreateTags").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mended = cloud.asked("CreateTags").remove(0);
    assert_eq!(
        (mended.get("ResourceId.1"), mended.get("Tag.2.Value")),
        (id(1).as_str(), launch.launch.to_string().as_str())
    );
}

#[tokio::test]
async fn keys_are_read_anew_for_each_call() {
    let cloud = Cloud::that(|_| listed(&[], None)).await;
    let process = Process::new();
    let site = process.site("east", &cloud.url, "");
    site.list().await.unwrap();
    std::fs::write(process.keys.path().join("id"), "AKIASECOND\n").unwrap();
    process.clock.advance(Duration::from_secs(2));
    site.list().await.unwrap();
    std::fs::remove_file(process.keys.path().join("id")).unwrap();
    process.clock.advance(Duration::from_secs(2));
    let error = site.list().await.unwrap_err();
    let calls = cloud.asked("DescribeInstances");
    assert!(calls[0].head.contains("Credential=AKIAFIRST/"), "{}", calls[0].head);
    assert!(calls[1].head.contains("Credential=AKIASECOND/"), "{}", calls[1].head);
    assert_eq!(calls.len(), 2);
    assert_eq!(error.class, Class::Credentials, "{error}");
    assert!(error.text.contains("/id") && !error.text.contains("AKIA"), "{error}");
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_told() {
    let process = Process::new();
    let cloud = Cloud::that(|asked| {
        let Reply::Xml(xml) = listed(&[], None) else {
            unreachable!("a list is XML")
        };
        match asked.action() {
            "DescribeInstances" => Reply::Late(xml),
            _ => Reply::No(412, "DryRunOperation", "it would have succeeded".to_owned()),
        }
    })
    .await;
    let findings = process.site("east", &cloud.url, "").check(&[]).await;
    let clock = findings.iter().find(|finding| finding.what == "clock").unwrap();
    assert_eq!(clock.verdict, FindingVerdict::Bad);
    assert!(clock.text.contains("ahead of"), "{}", clock.text);
    let terminate = findings.iter().find(|finding| finding.what.starts_with("terminate")).unwrap();
    assert_eq!(terminate.verdict, FindingVerdict::Good);
}

#[tokio::test]
async fn without_rights_a_check_says_which() {
    for is_there in [false, true] {
        let cloud = Cloud::that(move |asked| match asked.action() {
            "DescribeInstances" if is_there => listed(&[machine(&id(0), 0, "running", &OURS)], None),
            "DescribeInstances" => listed(&[], None),
            "TerminateInstances" => Reply::No(400, "InvalidInstanceID.NotFound", "no such".to_owned()),
            _ => Reply::No(403, "UnauthorizedOperation", "not you".to_owned()),
        })
        .await;
        let process = Process::new();
        let template = epu_core::request::NamedTemplate {
            name: "pool web".to_owned(),
            template: process.launch(1).template,
        };
        let findings = process.site("east", &cloud.url, "").check(&[template]).await;
        let verdict = |what: &str| findings.iter().find(|finding| finding.what.starts_with(what)).unwrap().verdict;
        assert_eq!(verdict("launch, dry run"), FindingVerdict::Bad);
        assert_eq!(verdict("image"), FindingVerdict::Unknown, "it is only needed for checking");
        assert_eq!(verdict("terminate"), FindingVerdict::Unknown);
        // A policy may be bound to our tag, which a machine that is not there does not have.
        let tag = if is_there {
            FindingVerdict::Doubtful
        } else {
            FindingVerdict::Unknown
        };
        assert_eq!(verdict("tag"), tag);
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let process = Process::new();
    let build = |more: &str| {
        let settings = process.settings("http://127.0.0.1:1", more);
        let name = epu_core::id::SiteName::new("east").unwrap();
        epu_provisioner::iaas::ec2::build(&name, &settings, &process.parts).err()
    };
    let fault = build("pace: {run-instanzes: {capacity: 1, refill: 1}},").unwrap();
    assert!(
        fault.code == "bad-config" && fault.text.contains("run-instances-machines"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_check_ends_no_machine_where_dry_runs_are_not_known() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "DescribeInstances" => listed(&[machine(&id(0), 0, "running", &OURS)], None),
        // Whatever it is asked to try it does.
        other => yes(other),
    })
    .await;
    let process = Process::new();
    process.site("east", &cloud.url, "").check(&[]).await;
    assert_eq!(cloud.asked("CreateTags").len(), 1);
    for asked in cloud.asked("TerminateInstances") {
        assert_ne!(asked.get("InstanceId.1"), id(0), "a check ended a machine");
    }
}

#[tokio::test]
async fn the_machines_of_a_site_that_is_there_no_more_are_in_the_list_of_another() {
    let cloud = Cloud::that(|_| listed(&[machine(&id(0), 0, "running", &of("east"))], None)).await;
    let process = Process::new();
    let (east, west) = (process.site("east", &cloud.url, ""), process.site("west", &cloud.url, ""));
    // Its settings change: for a moment there are two.
    let again = process.site("east", &cloud.url, "");
    drop(east);
    assert!(west.list().await.unwrap().is_empty());
    drop(again);
    assert_eq!(ids(&west.list().await.unwrap()), [id(0)]);
}

#[tokio::test]
async fn tags_are_missing_while_none_says_for_which_site_a_machine_is() {
    let process = Process::new();
    let launch = process.launch(1);
    let tag = launch.launch.to_string();
    let cloud = Cloud::that(move |asked| match asked.action() {
        "DescribeInstances" => listed(&[machine(&id(0), 0, "running", &[OURS[0], ("epu:launch", tag.as_str())])], None),
        other => yes(other),
    })
    .await;
    let site = process.site("east", &cloud.url, "tags-on-create: false,");
    for _ in 0..3 {
        assert_eq!(ids(&site.list().await.unwrap()), [id(0)]);
        process.clock.advance(Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mended = cloud.asked("CreateTags");
    assert_eq!(mended.len(), 1, "once is enough");
    assert!(mended[0].body.contains("epu%3Asite"), "{}", mended[0].body);
}

#[tokio::test]
async fn it_says_whose_account_it_is_where_somebody_can_be_asked() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "GetCallerIdentity" => Reply::Xml(
            "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::123:user/epu</Arn><UserId>U</UserId>\
             <Account>123</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
                .to_owned(),
        ),
        other => yes(other),
    })
    .await;
    let process = Process::new();
    let asked = format!("identity-endpoint: '{}',", cloud.url);
    let is = process.site("east", &cloud.url, &asked).identity().await.unwrap();
    assert_eq!(is, Some(format!("123/here-1/{}", cloud.url)));
    assert_eq!(process.site("west", &cloud.url, "").identity().await.unwrap(), None);
}
