//! Lives of machines, and lists of them.

use super::*;

#[test]
fn a_machine_goes_through_its_states_and_its_row_vanishes_after_an_hour() {
    let exactly = |s| Between::exactly(Span::secs(s));
    let timings = Timings {
        pending: exactly(10),
        ending: exactly(5),
        lag: exactly(0),
        ..Timings::default()
    };
    let mut site = Site::quick(Plan {
        timings: Some(timings),
        ..Plan::default()
    });
    let id = site.run(1, 1, "").remove(0);
    site.pass(secs(9));
    assert_eq!(site.state_of(&id), "pending");
    site.pass(secs(1));
    assert_eq!(site.state_of(&id), "running");
    let root = site.ask(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    let item = root.get("instancesSet/item").unwrap();
    assert_eq!(
        (item.text_of("previousState/name"), item.text_of("currentState/name")),
        ("running", "shutting-down")
    );
    assert_eq!(site.state_of(&id), "shutting-down");
    site.pass(secs(5));
    assert_eq!(site.state_of(&id), "terminated");
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    site.pass(secs(3_599));
    let root = site.ask("Action=DescribeInstances");
    assert_eq!(root.all("stateReason")[0].text_of("code"), "Client.UserInitiatedShutdown");
    site.pass(secs(1));
    assert!(site.listed("").is_empty());
    assert_eq!(
        site.refused(&format!("Action=DescribeInstances&InstanceId.1={id}")),
        (400, "InvalidInstanceID.NotFound".to_owned())
    );
    assert_eq!(
        site.code(&format!("Action=TerminateInstances&InstanceId.1={id}")),
        "InvalidInstanceID.NotFound"
    );
    assert_eq!(
        site.code("Action=TerminateInstances&InstanceId.1=i-zzz"),
        "InvalidInstanceID.Malformed"
    );
}

#[test]
fn one_wrong_id_and_none_is_terminated() {
    let mut site = Site::quick(Plan::default());
    let id = site.run(1, 1, "").remove(0);
    let wrong = format!("Action=TerminateInstances&InstanceId.1={id}&InstanceId.2=i-00000000000000000");
    assert_eq!(site.code(&wrong), "InvalidInstanceID.NotFound");
    assert_eq!(site.state_of(&id), "running");
}

#[test]
fn a_stopped_machine_stays_and_can_be_terminated() {
    let mut site = Site::quick(Plan::default());
    let id = site.run(1, 1, "").remove(0);
    site.ask(&format!("Action=StopInstances&InstanceId.1={id}"));
    assert_eq!(site.state_of(&id), "stopped");
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    assert_eq!(site.state_of(&id), "terminated");
    assert_eq!(
        site.code(&format!("Action=StopInstances&InstanceId.1={id}")),
        "IncorrectInstanceState"
    );
}

#[test]
fn what_happens_is_seen_later_and_in_its_order() {
    let timings = Timings {
        lag: Between(Span::secs(2), Span::secs(20)),
        ..Timings::instant()
    };
    let mut site = Site::quick(Plan {
        timings: Some(timings),
        ..Plan::default()
    });
    let id = site.run(1, 1, "").remove(0);
    for action in [
        "DescribeInstances&InstanceId.1",
        "TerminateInstances&InstanceId.1",
        "CreateTags&Tag.1.Key=a&Tag.1.Value=b&ResourceId.1",
    ] {
        assert_eq!(
            site.code(&format!("Action={action}={id}")),
            "InvalidInstanceID.NotFound",
            "{action}"
        );
    }
    assert!(site.listed("").is_empty());
    site.pass(secs(20));
    assert_eq!(site.listed(""), std::slice::from_ref(&id));
    site.pass(secs(20));
    assert_eq!(site.state_of(&id), "running");
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    assert_eq!(site.state_of(&id), "running", "it is not seen yet");
    site.pass(secs(1));
    let mut seen = vec![];
    for _ in 0..400 {
        site.pass(Duration::from_millis(100));
        seen.push(site.state_of(&id));
    }
    seen.dedup();
    let order = ["running", "shutting-down", "terminated"];
    assert!(
        seen.windows(2)
            .all(|two| order.iter().position(|s| *s == two[0]) < order.iter().position(|s| *s == two[1])),
        "{seen:?}"
    );
    assert_eq!(seen.last().unwrap(), "terminated");
}

#[test]
fn pages_count_machines_and_a_launch_is_spread_over_them() {
    let mut site = Site::quick(Plan::default());
    let first = site.run(1, 7, &tagged(&[("epu:installation", "one")]));
    let second = site.run(1, 6, &tagged(&[("epu:installation", "one")]));
    site.run(1, 3, &tagged(&[("epu:installation", "two")]));
    let filter = "Filter.1.Name=tag:epu:installation&Filter.1.Value.1=one";
    let (mut token, mut sizes, mut all) = (String::new(), vec![], vec![]);
    loop {
        let next = if token.is_empty() {
            String::new()
        } else {
            format!("&NextToken={token}")
        };
        let root = site.ask(&format!("Action=DescribeInstances&{filter}&MaxResults=5{next}"));
        let ids: Vec<_> = root.all("instanceId").iter().map(|id| id.text.clone()).collect();
        sizes.push(ids.len());
        all.extend(ids);
        token = root.text_of("nextToken").to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 3]);
    let mut wanted = [first.clone(), second].concat();
    wanted.sort();
    all.sort();
    assert_eq!(all, wanted);
    for (wrong, code) in [
        (format!("MaxResults=5&InstanceId.1={}", first[0]), "InvalidParameterCombination"),
        ("MaxResults=4".to_owned(), "InvalidParameterValue"),
        ("MaxResults=1001".to_owned(), "InvalidParameterValue"),
        ("MaxResults=5&NextToken=bm9uc2Vuc2U".to_owned(), "InvalidPaginationToken"),
    ] {
        assert_eq!(site.code(&format!("Action=DescribeInstances&{wrong}")), code, "{wrong}");
    }
    let root = site.ask(&format!("Action=DescribeInstances&{filter}&MaxResults=13"));
    assert!(root.get("nextToken").is_none(), "a page that is exactly full is the last");
}

#[test]
fn filters_are_joined_by_and_their_values_by_or() {
    let mut site = Site::quick(Plan::default());
    let a = site.run(1, 1, &format!("ClientToken=ta&{}", tagged(&[("pool", "web"), ("x", "1")])));
    let b = site.run(1, 2, &tagged(&[("pool", "batch")]));
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={}", b[0]));
    let f = |pairs: &[(&str, &str)]| {
        let each = pairs.iter().enumerate().map(|(at, (name, values))| {
            let values: String = values
                .split(',')
                .enumerate()
                .map(|(v, value)| format!("&Filter.{}.Value.{}={value}", at + 1, v + 1))
                .collect();
            format!("Filter.{}.Name={name}{values}", at + 1)
        });
        each.collect::<Vec<_>>().join("&")
    };
    assert_eq!(site.listed(&f(&[("tag:pool", "web,batch")])).len(), 3);
    assert_eq!(
        site.listed(&f(&[("tag:pool", "*a*"), ("instance-state-name", "running,pending")])),
        [b[1].clone()]
    );
    assert_eq!(site.listed(&f(&[("tag-key", "x")])), a);
    assert_eq!(site.listed(&f(&[("client-token", "ta")])), a);
    assert_eq!(site.listed(&f(&[("instance-id", &a[0])])), a);
    assert_eq!(site.listed(&f(&[("launch-index", "1")])), [b[1].clone()]);
    assert!(site.listed(&f(&[("tag:pool", "WEB")])).is_empty(), "case matters");
    assert_eq!(site.code("Action=DescribeInstances&Filter.1.Name=tag-key"), "InvalidParameterValue");
}

#[test]
fn tags_are_added_and_overwritten() {
    let mut site = Site::quick(Plan::default());
    let ids = site.run(1, 2, &tagged(&[("a", "1"), ("b", "2")]));
    site.ask(&format!(
        "Action=CreateTags&ResourceId.1={}&ResourceId.2={}&Tag.1.Key=b&Tag.1.Value=3&Tag.2.Key=Name&Tag.2.Value=n",
        ids[0], ids[1]
    ));
    assert_eq!(
        site.listed("Filter.1.Name=tag:b&Filter.1.Value.1=3&Filter.2.Name=tag:a&Filter.2.Value.1=1")
            .len(),
        2
    );
    let many: String = (0..48)
        .map(|at| format!("&Tag.{}.Key=k{at}&Tag.{}.Value=v", at + 1, at + 1))
        .collect();
    assert_eq!(
        site.code(&format!("Action=CreateTags&ResourceId.1={}{many}", ids[0])),
        "TagLimitExceeded"
    );
    assert_eq!(site.code("Action=CreateTags&ResourceId.1=vol-1&Tag.1.Key=a"), "InvalidID");
}

#[test]
fn status_checks_pass_after_a_while() {
    let timings = Timings {
        checks: Between::exactly(Span::secs(60)),
        ..Timings::instant()
    };
    let mut site = Site::quick(Plan {
        timings: Some(timings),
        fates: vec![Chance::always(Fate::Impaired).next(1)],
        ..Plan::default()
    });
    let ids = site.run(2, 2, "");
    let status = |site: &mut Site, id: &str| {
        let root = site.ask(&format!("Action=DescribeInstanceStatus&InstanceId.1={id}"));
        root.all("item")
            .first()
            .map(|item| item.text_of("instanceStatus/status").to_owned())
    };
    assert_eq!(status(&mut site, &ids[1]).unwrap(), "initializing");
    site.pass(secs(60));
    assert_eq!(status(&mut site, &ids[1]).unwrap(), "ok");
    assert_eq!(status(&mut site, &ids[0]).unwrap(), "impaired");
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={}", ids[0]));
    assert_eq!(status(&mut site, &ids[0]), None, "only what runs, unless all are asked for");
}

#[test]
fn what_else_there_is_can_be_looked_up() {
    let mut site = Site::quick(Plan::default());
    for (asked, set, count, missing, code) in [
        (
            format!("DescribeImages&ImageId.1={IMAGE}"),
            "imagesSet",
            1,
            "DescribeImages&ImageId.1=ami-0",
            "InvalidAMIID.NotFound",
        ),
        (
            format!("DescribeKeyPairs&KeyName.1={KEY}"),
            "keySet",
            1,
            "DescribeKeyPairs&KeyName.1=nix",
            "InvalidKeyPair.NotFound",
        ),
        (
            format!("DescribeSecurityGroups&GroupId.1={GROUP}"),
            "securityGroupInfo",
            1,
            "DescribeSecurityGroups&GroupId.1=sg-0",
            "InvalidGroup.NotFound",
        ),
        (
            "DescribeSubnets".to_owned(),
            "subnetSet",
            3,
            "DescribeSubnets&SubnetId.1=subnet-0",
            "InvalidSubnetID.NotFound",
        ),
        (
            "DescribeAvailabilityZones".to_owned(),
            "availabilityZoneInfo",
            3,
            "DescribeAvailabilityZones&ZoneName.1=mars",
            "InvalidParameterValue",
        ),
        (
            "DescribeInstanceTypes&InstanceType.1=m5.large".to_owned(),
            "instanceTypeSet",
            1,
            "DescribeInstanceTypes&InstanceType.1=z9",
            "InvalidInstanceType",
        ),
        (
            format!("DescribeLaunchTemplates&LaunchTemplateId.1={TEMPLATE}"),
            "launchTemplates",
            1,
            "DescribeLaunchTemplates&LaunchTemplateId.1=lt-0",
            "InvalidLaunchTemplateId.NotFound",
        ),
    ] {
        let root = site.ask(&format!("Action={asked}"));
        assert_eq!(root.get(set).unwrap().inside.len(), count, "{asked}");
        assert_eq!(site.code(&format!("Action={missing}")), code);
    }
    let id = site.run(1, 1, "UserData=aGVsbG8%3D").remove(0);
    let root = site.ask(&format!("Action=DescribeInstanceAttribute&Attribute=userData&InstanceId={id}"));
    assert_eq!(root.text_of("userData/value"), "aGVsbG8=");
    assert_eq!(
        site.ask(&format!("Action=GetConsoleOutput&InstanceId={id}")).text_of("instanceId"),
        id
    );
}
