//! Launching and ending.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use epu_provisioner::iaas::{Class, MachineState};

use super::cloud::{Asked, Cloud, Reply, launched, listed, machine, yes};
use super::{INSTALLATION, Process, id, ids};

/// Machines of the launch that was asked for, the last first.
fn machines_of(asked: &Asked) -> Reply {
    let most: u32 = asked.get("MaxCount").parse().unwrap();
    let machines: Vec<String> = (0..most)
        .rev()
        .map(|n| machine(&id(n), n, "pending", &[("epu:installation", INSTALLATION)]))
        .collect();
    launched(&machines)
}

#[tokio::test]
async fn a_launch_is_one_call_and_repeated_it_is_the_same_bytes() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "RunInstances" => machines_of(asked),
        other => yes(other),
    })
    .await;
    let (process, later) = (Process::new(), Process::new());
    let launch = process.launch(60);
    let machines = process.site("east", &cloud.url, "").launch(&launch).await.unwrap();
    // Another process, another day.
    later.clock.advance(Duration::from_secs(86_400));
    later.site("east", &cloud.url, "").launch(&launch).await.unwrap();
    let calls = cloud.asked("RunInstances");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].body, calls[1].body);
    assert_eq!(calls[0].get("ClientToken"), launch.launch.to_string());
    assert_eq!((calls[0].get("MinCount"), calls[0].get("MaxCount")), ("1", "60"));
    assert_eq!(calls[0].get("MetadataOptions.HttpTokens"), "required");
    assert_eq!(calls[0].get("InstanceInitiatedShutdownBehavior"), "terminate");
    assert_eq!(calls[0].get("TagSpecification.2.ResourceType"), "volume");
    assert!(!calls[0].body.contains("very-secret"), "user data is encoded");
    let expected: Vec<String> = (0..60).map(id).collect();
    assert_eq!(ids(&machines), expected, "not in the order of their index");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(cloud.asked("CreateTags").is_empty(), "so many machines are not named one by one");
}

#[tokio::test]
async fn a_few_machines_are_given_the_names_of_their_instances() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "RunInstances" => machines_of(asked),
        other => yes(other),
    })
    .await;
    let process = Process::new();
    let (site, launch) = (process.site("east", &cloud.url, ""), process.launch(3));
    site.launch(&launch).await.unwrap();
    for _ in 0..100 {
        if cloud.asked("CreateTags").len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let named: BTreeSet<(String, String)> = cloud
        .asked("CreateTags")
        .iter()
        .map(|asked| (asked.get("ResourceId.1").to_owned(), asked.get("Tag.1.Value").to_owned()))
        .collect();
    let expected = (0..).zip(&launch.instances).map(|(n, instance)| (id(n), instance.to_string()));
    assert_eq!(named, expected.collect());
}

#[tokio::test]
async fn what_the_site_says_is_classified() {
    let cases = [
        (500, "InsufficientInstanceCapacity", Class::Capacity),
        (400, "VcpuLimitExceeded", Class::Quota),
        (503, "RequestLimitExceeded", Class::Throttled),
        (403, "UnauthorizedOperation", Class::Credentials),
        (400, "RequestExpired", Class::Credentials),
        (400, "InvalidAMIID.NotFound", Class::Permanent),
        (400, "IdempotentParameterMismatch", Class::Changed),
        (500, "InternalError", Class::Retryable),
        (503, "NeverHeardOf", Class::Retryable),
        (400, "NeverHeardOf", Class::Permanent),
    ];
    for (status, code, class) in cases {
        let cloud = Cloud::that(move |_| Reply::No(status, code, "because of l.very-secret".to_owned())).await;
        let process = Process::new();
        let site = process.site("east", &cloud.url, "");
        let error = site.launch(&process.launch(1)).await.unwrap_err();
        assert_eq!(error.class, class, "{code}: {error}");
        assert!(
            error.text.contains(code) && error.text.starts_with("launch 1 machines at site east: "),
            "{error}"
        );
        assert!(!error.text.contains("very-secret"), "{error}");
        assert_eq!(cloud.asked("RunInstances").len(), 1, "the vendor's library repeated the call");
        if class == Class::Throttled {
            let (_, pace) = site.standing();
            let bucket = pace.iter().find(|bucket| bucket.what == "RunInstances").unwrap();
            assert!(bucket.level < 1.0 && bucket.refill < 2.0, "{bucket:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_makes_no_sense_may_be_asked_for_again() {
    for reply in [
        Reply::Nothing,
        Reply::Text(500, "Traceback"),
        Reply::Text(200, "<html>"),
        Reply::Text(502, ""),
    ] {
        let shown = format!("{reply:?}");
        let cloud = Cloud::that(move |_| reply.clone()).await;
        let process = Process::new();
        let error = process.site("east", &cloud.url, "").launch(&process.launch(1)).await.unwrap_err();
        assert_eq!(error.class, Class::Retryable, "{shown}: {error}");
        assert_eq!(cloud.asked("RunInstances").len(), 1, "{shown}");
    }
    let process = Process::new();
    let error = process.site("east", "http://127.0.0.1:1", "").list().await.unwrap_err();
    assert_eq!(error.class, Class::Retryable, "{error}");
}

#[tokio::test]
async fn machines_that_ended_are_found_where_a_site_refuses_to_repeat_their_launch() {
    let process = Process::new();
    let launch = process.launch(2);
    let tag = launch.launch.to_string();
    let cloud = Cloud::that(move |asked| match asked.action() {
        "RunInstances" => Reply::No(400, "IdempotentInstanceTerminated", "ended".to_owned()),
        _ => {
            let tags = [("epu:installation", INSTALLATION), ("epu:launch", tag.as_str())];
            listed(
                &[machine(&id(1), 1, "running", &tags), machine(&id(0), 0, "terminated", &tags)],
                None,
            )
        }
    })
    .await;
    let machines = process.site("east", &cloud.url, "").launch(&launch).await.unwrap();
    assert_eq!(ids(&machines), [id(0), id(1)]);
    assert_eq!(machines[0].state, MachineState::Gone);
    let question = &cloud.asked("DescribeInstances")[0];
    assert!(!question.body.contains("instance-state-name"), "those that ended are wanted too");
}

#[tokio::test]
async fn without_client_tokens_a_lost_answer_is_waited_for() {
    let process = Process::new();
    process.clock.advance(Duration::from_secs(60));
    let calls = AtomicU32::new(0);
    let lost = process.parts.random.number();
    let cloud = {
        let launch = std::sync::Mutex::new(String::new());
        Cloud::that(move |asked| match asked.action() {
            "RunInstances" => {
                *launch.lock().unwrap() = asked.get("ClientToken")[..36].to_owned();
                match calls.fetch_add(1, Ordering::Relaxed) {
                    // It launches, and nobody hears of it.
                    0 => Reply::Nothing,
                    n => launched(&[machine(&id(n), 0, "pending", &[])]),
                }
            }
            "DescribeInstances" => {
                let launch = launch.lock().unwrap();
                let tags = [
                    ("epu:installation", INSTALLATION),
                    ("epu:launch", launch.as_str()),
                    ("epu:index", "0"),
                ];
                let machines = [machine(&id(99), 0, "running", &tags)];
                listed(if launch.is_empty() { &[] } else { &machines }, None)
            }
            other => yes(other),
        })
        .await
    };
    let site = process.site("east", &cloud.url, "client-tokens: false, consistency-grace: 30s,");
    site.list().await.unwrap();
    process.clock.advance(Duration::from_secs(10));
    let launch = process.launch(2);
    let error = site.launch(&launch).await.unwrap_err();
    assert_eq!(error.class, Class::Retryable, "{error}");
    process.clock.advance(Duration::from_secs(29));
    let error = site.launch(&launch).await.unwrap_err();
    assert!(error.text.contains("client tokens"), "{error}");
    assert_eq!(
        cloud.asked("RunInstances").len(),
        1,
        "launched again before the first could be listed ({lost})"
    );
    process.clock.advance(Duration::from_secs(2));
    let machines = site.launch(&launch).await.unwrap();
    assert_eq!(ids(&machines), [id(99), id(1)], "the lost one is found, the missing one launched");
    let call = &cloud.asked("RunInstances")[1];
    assert_eq!((call.get("MinCount"), call.get("MaxCount")), ("1", "1"));
    assert!(call.body.contains("epu%3Aindex"), "{}", call.body);
}

#[tokio::test]
async fn fewer_than_make_it_worth_having_are_ended() {
    for (min, outcome) in [(1, Ok(vec![id(0), id(1)])), (3, Err(Class::Capacity))] {
        let calls = AtomicU32::new(0);
        let cloud = Cloud::that(move |asked| match asked.action() {
            "RunInstances" => match calls.fetch_add(1, Ordering::Relaxed) {
                n @ 0..=1 => launched(&[machine(&id(n), 0, "pending", &[])]),
                _ => Reply::No(500, "InsufficientInstanceCapacity", "none left".to_owned()),
            },
            other => yes(other),
        })
        .await;
        let process = Process::new();
        let site = process.site("east", &cloud.url, "launch-index: false,");
        let mut launch = process.launch(4);
        launch.min = min;
        let result = site.launch(&launch).await;
        assert_eq!(result.map(|machines| ids(&machines)).map_err(|error| error.class), outcome);
        let tokens: BTreeSet<String> = cloud
            .asked("RunInstances")
            .iter()
            .map(|asked| asked.get("ClientToken").to_owned())
            .collect();
        assert_eq!(tokens.len(), 3, "each machine has a token of its own: {tokens:?}");
        let ended = cloud.asked("TerminateInstances");
        assert_eq!(ended.len(), usize::from(min == 3));
        if let Some(ended) = ended.first() {
            assert_eq!(
                (ended.get("InstanceId.1"), ended.get("InstanceId.2")),
                (id(0).as_str(), id(1).as_str())
            );
        }
    }
}

#[tokio::test]
async fn a_protected_machine_does_not_keep_the_others_alive() {
    let cloud = Cloud::that(|asked| {
        if asked.body.contains(&id(1)) {
            Reply::No(
                400,
                "OperationNotPermitted",
                format!("The instance '{}' may not be terminated.", id(1)),
            )
        } else {
            yes(asked.action())
        }
    })
    .await;
    let process = Process::new();
    let error = process
        .site("east", &cloud.url, "")
        .terminate(&[id(0), id(1), id(2)])
        .await
        .unwrap_err();
    assert!(error.text.contains("protected"), "{error}");
    let calls = cloud.asked("TerminateInstances");
    assert_eq!(calls.len(), 2);
    assert_eq!(
        (calls[1].get("InstanceId.1"), calls[1].get("InstanceId.2")),
        (id(0).as_str(), id(2).as_str())
    );
}

#[tokio::test]
async fn without_client_tokens_a_launch_that_another_may_have_called_is_waited_for() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "RunInstances" => launched(&[machine(&id(0), 0, "pending", &[])]),
        _ => listed(&[], None),
    })
    .await;
    let process = Process::new();
    let site = process.site("east", &cloud.url, "client-tokens: false, consistency-grace: 30s,");
    let mut launch = process.launch(1);
    launch.doubtful = true;
    for _ in 0..2 {
        let error = site.launch(&launch).await.unwrap_err();
        assert!(error.class == Class::Retryable && error.text.contains("client tokens"), "{error}");
        process.clock.advance(Duration::from_secs(16));
    }
    assert!(cloud.asked("RunInstances").is_empty());
    assert_eq!(ids(&site.launch(&launch).await.unwrap()), [id(0)]);
}

#[tokio::test]
async fn only_where_tags_come_with_the_launch_is_a_refusal_one_of_the_whole() {
    let cloud = Cloud::that(|asked| match asked.action() {
        "RunInstances" => machines_of(asked),
        _ => Reply::No(503, "RequestLimitExceeded", "too many tags".to_owned()),
    })
    .await;
    let process = Process::new();
    assert!(process.site("east", &cloud.url, "").refuses_whole());
    let site = process.site("west", &cloud.url, "tags-on-create: false,");
    assert!(!site.refuses_whole());
    let mut launch = process.launch(1);
    launch.launch_token = epu_provisioner::iaas::LaunchToken("l.other".to_owned());
    let bare = Cloud::that(|asked| match asked.action() {
        "RunInstances" => launched(&[machine(&id(0), 0, "pending", &[])]),
        _ => Reply::No(503, "RequestLimitExceeded", "too many tags".to_owned()),
    })
    .await;
    let error = process
        .site("bare", &bare.url, "tags-on-create: false,")
        .launch(&launch)
        .await
        .unwrap_err();
    assert_eq!(error.class, Class::Retryable, "something was launched: {error}");
}

#[tokio::test]
async fn no_call_asks_for_more_machines_than_the_site_may_ever_give() {
    let cloud = Cloud::that(|asked| yes(asked.action())).await;
    let process = Process::new();
    let pace = "pace: {run-instances-machines: {capacity: 50, refill: 2}, terminate-instances-machines: {capacity: 40, refill: 20}},";
    let site = process.site("east", &cloud.url, pace);
    assert_eq!(site.capabilities().launch_most, 50);
    let machines: Vec<String> = (0..60).map(id).collect();
    let ending = {
        let site = site.clone();
        tokio::spawn(async move { site.terminate(&machines).await })
    };
    ending.await.unwrap().unwrap();
    let sizes: Vec<usize> = cloud
        .asked("TerminateInstances")
        .iter()
        .map(|asked| asked.form.keys().filter(|key| key.starts_with("InstanceId")).count())
        .collect();
    assert_eq!(sizes, [40, 20]);
}
