//! RunInstances: tokens, checks, room, quotas; and what is booted.

use super::*;

#[test]
fn the_same_token_gives_the_same_machines_also_after_their_end() {
    let mut site = Site::quick(Plan::default());
    let first = site.run(1, 3, "ClientToken=abc&UserData=aGk%3D");
    assert_eq!(
        site.run(1, 3, "UserData=aGk%3D&ClientToken=abc"),
        first,
        "the order of parameters says nothing"
    );
    let ids: Vec<String> = first
        .iter()
        .enumerate()
        .map(|(at, id)| format!("InstanceId.{}={id}", at + 1))
        .collect();
    site.ask(&format!("Action=TerminateInstances&{}", ids.join("&")));
    site.pass(secs(7_200));
    assert!(site.listed("").is_empty(), "their rows are gone");
    let root = site.ask(&run(1, 3, "ClientToken=abc&UserData=aGk%3D"));
    assert_eq!(by_index(&root), first);
    assert!(root.all("instanceState").iter().all(|state| state.text_of("name") == "terminated"));
    assert_eq!(site.world.report(true).ever, 3);
    assert_eq!(site.world.report(false).doubled, 0);
}

#[test]
fn the_same_token_with_other_parameters_is_a_mismatch() {
    let mut site = Site::quick(Plan::default());
    site.run(1, 3, "ClientToken=abc");
    assert_eq!(
        site.refused(&run(1, 2, "ClientToken=abc")),
        (400, "IdempotentParameterMismatch".to_owned())
    );
    assert_eq!(
        site.code(&run(1, 3, "ClientToken=abc&KeyName=epu-key")),
        "IdempotentParameterMismatch"
    );
    site.region = "us-east-1";
    assert_eq!(site.run(1, 2, "ClientToken=abc").len(), 2, "tokens are per region");
    assert_eq!(
        site.code(&run(1, 1, &format!("ClientToken={}", "x".repeat(65)))),
        "InvalidParameterValue"
    );
}

#[test]
fn a_launch_that_was_refused_leaves_its_token_unused() {
    let mut site = Site::quick(Plan {
        capacity: vec![Room {
            zone: None,
            instance_type: None,
            market: None,
            left: 0,
        }],
        ..Plan::default()
    });
    assert_eq!(
        site.refused(&run(1, 3, "ClientToken=abc")),
        (500, "InsufficientInstanceCapacity".to_owned())
    );
    site.world.set_plan(Plan::default());
    assert_eq!(site.run(1, 3, "ClientToken=abc").len(), 3);
}

#[test]
fn what_is_launched_is_described_as_it_was_asked_for() {
    let mut site = Site::quick(Plan::default());
    let more = format!(
        "KeyName={KEY}&SecurityGroupId.1={GROUP}&SubnetId={}&IamInstanceProfile.Name={PROFILE}&MetadataOptions.HttpTokens=required&\
         MetadataOptions.HttpPutResponseHopLimit=2&InstanceMarketOptions.MarketType=spot&InstanceMarketOptions.SpotOptions.MaxPrice=0.5&\
         BlockDeviceMapping.1.DeviceName=/dev/xvdb&BlockDeviceMapping.1.Ebs.VolumeSize=20&BlockDeviceMapping.1.Ebs.VolumeType=gp3&{}",
        SUBNETS[1],
        tagged(&[("epu:launch", "l-1"), ("odd", "a%26b%3Cc")])
    );
    let id = site.run(1, 1, &more).remove(0);
    let root = site.ask(&format!("Action=DescribeInstances&InstanceId.1={id}"));
    let machine = root.get("reservationSet/item/instancesSet/item").unwrap();
    for (path, value) in [
        ("imageId", IMAGE),
        ("instanceType", "m5.large"),
        ("keyName", KEY),
        ("placement/availabilityZone", "eu-central-1b"),
        ("subnetId", SUBNETS[1]),
        ("groupSet/item/groupId", GROUP),
        ("instanceLifecycle", "spot"),
        ("metadataOptions/httpTokens", "required"),
        ("metadataOptions/httpPutResponseHopLimit", "2"),
        ("amiLaunchIndex", "0"),
        ("instanceState/code", "16"),
        ("launchTime", "2026-11-18T11:06:40.000Z"),
    ] {
        assert_eq!(machine.text_of(path), value, "{path}");
    }
    assert!(machine.text_of("iamInstanceProfile/arn").ends_with("/epu-worker"));
    assert_eq!(machine.get("blockDeviceMapping").unwrap().inside.len(), 2);
    let tags: Vec<_> = machine
        .get("tagSet")
        .unwrap()
        .inside
        .iter()
        .map(|tag| (tag.text_of("key"), tag.text_of("value")))
        .collect();
    assert_eq!(tags, [("epu:launch", "l-1"), ("odd", "a&b<c")]);
}

#[test]
fn what_does_not_exist_cannot_be_launched() {
    let mut site = Site::quick(Plan::default());
    let big = STANDARD.encode(vec![b'x'; 16_385]).replace('+', "%2B");
    for (more, code) in [
        ("KeyName=nix", "InvalidKeyPair.NotFound"),
        ("SecurityGroupId.1=sg-nix", "InvalidGroup.NotFound"),
        ("SubnetId=subnet-nix", "InvalidSubnetID.NotFound"),
        ("Placement.AvailabilityZone=mars-1a", "InvalidParameterValue"),
        ("IamInstanceProfile.Name=nix", "InvalidParameterValue"),
        ("LaunchTemplate.LaunchTemplateId=lt-nix", "InvalidLaunchTemplateId.NotFound"),
        (
            "LaunchTemplate.LaunchTemplateName=nix",
            "InvalidLaunchTemplateName.NotFoundException",
        ),
        ("UserData=not%20base64", "InvalidParameterValue"),
        (&format!("UserData={big}"), "InvalidParameterValue"),
        ("SubnetId=a&NetworkInterface.1.DeviceIndex=0", "InvalidParameterCombination"),
        ("InstanceMarketOptions.MarketType=flea", "InvalidParameterValue"),
        (
            "TagSpecification.1.ResourceType=cow&TagSpecification.1.Tag.1.Key=a",
            "InvalidParameterValue",
        ),
        (&tagged(&[("aws:mine", "1")]), "InvalidParameterValue"),
        (
            "BlockDeviceMapping.1.DeviceName=a&BlockDeviceMapping.1.Ebs.VolumeType=floppy",
            "InvalidParameterValue",
        ),
        (
            &format!("SubnetId={}&Placement.AvailabilityZone=eu-central-1b", SUBNETS[0]),
            "InvalidParameterValue",
        ),
    ] {
        assert_eq!(site.code(&run(1, 1, more)), code, "{more}");
    }
    let least = "Action=RunInstances&MinCount=1&MaxCount=1";
    assert_eq!(site.code(least), "MissingParameter");
    assert_eq!(site.code(&format!("{least}&ImageId=ami-0123")), "InvalidAMIID.NotFound");
    assert_eq!(site.code(&format!("{least}&ImageId=0123")), "InvalidAMIID.Malformed");
    assert_eq!(
        site.code(&format!("{least}&ImageId={IMAGE}&InstanceType=z9.huge")),
        "InvalidParameterValue"
    );
    assert_eq!(site.code(&run(2, 1, "")), "InvalidParameterValue");
    assert_eq!(site.code(&format!("Action=RunInstances&ImageId={IMAGE}")), "MissingParameter");
    assert_eq!(site.world.report(false).ever, 0);
}

#[test]
fn a_launch_template_fills_in_what_is_left_open() {
    let mut site = Site::quick(Plan::default());
    let of = |root: &Node| root.all("instanceType")[0].text.clone();
    let base = format!("Action=RunInstances&MinCount=1&MaxCount=1&LaunchTemplate.LaunchTemplateId={TEMPLATE}");
    assert_eq!(of(&site.ask(&base)), "t3.micro", "the default version");
    assert_eq!(of(&site.ask(&format!("{base}&LaunchTemplate.Version=2"))), "t3.small");
    assert_eq!(of(&site.ask(&format!("{base}&LaunchTemplate.Version=$Latest"))), "t3.small");
    assert_eq!(of(&site.ask(&format!("{base}&InstanceType=m5.large"))), "m5.large");
    assert_eq!(
        site.code(&format!("{base}&LaunchTemplate.Version=3")),
        "InvalidLaunchTemplateId.VersionNotFound"
    );
    let versions = format!("Action=DescribeLaunchTemplateVersions&LaunchTemplateId={TEMPLATE}");
    let root = site.ask(&versions);
    assert_eq!(root.get("launchTemplateVersionSet").unwrap().inside.len(), 2);
    let latest = site.ask(&format!("{versions}&LaunchTemplateVersion.1=$Latest"));
    let item = latest.get("launchTemplateVersionSet/item").unwrap();
    assert_eq!(
        (item.text_of("versionNumber"), item.text_of("launchTemplateData/instanceType")),
        ("2", "t3.small")
    );
    let wrong = site.code(&format!("{versions}&LaunchTemplateVersion.1=9"));
    assert_eq!(wrong, "InvalidLaunchTemplateId.VersionNotFound");
}

#[test]
fn a_dry_run_checks_everything_and_does_nothing() {
    let mut site = Site::quick(Plan::default());
    assert_eq!(
        site.refused(&run(1, 1, "DryRun=true&ClientToken=a")),
        (412, "DryRunOperation".to_owned())
    );
    assert_eq!(site.code(&run(1, 1, "DryRun=true&KeyName=nix")), "InvalidKeyPair.NotFound");
    assert_eq!(site.refused("Action=DescribeInstances&DryRun=true").0, 412);
    assert_eq!(site.refused("Action=DescribeImages&DryRun=true").0, 412);
    let ids = site.run(1, 1, "ClientToken=a");
    assert_eq!(
        site.code(&format!("Action=TerminateInstances&DryRun=true&InstanceId.1={}", ids[0])),
        "DryRunOperation"
    );
    assert_eq!(
        site.code(&format!(
            "Action=CreateTags&DryRun=true&ResourceId.1={}&Tag.1.Key=a&Tag.1.Value=b",
            ids[0]
        )),
        "DryRunOperation"
    );
    assert_eq!(site.state_of(&ids[0]), "running");
}

#[test]
fn what_does_not_fit_whole_is_filled_in_part_between_the_minimum_and_the_maximum() {
    let mut site = Site::quick(Plan {
        capacity: vec![Room::in_zone("eu-central-1a", 3)],
        ..Plan::default()
    });
    let there = "Placement.AvailabilityZone=eu-central-1a";
    assert_eq!(site.refused(&run(4, 9, there)), (500, "InsufficientInstanceCapacity".to_owned()));
    let ids = site.run(2, 9, there);
    assert_eq!(ids.len(), 3);
    assert_eq!(site.code(&run(1, 1, there)), "InsufficientInstanceCapacity");
    assert_eq!(site.run(1, 1, "Placement.AvailabilityZone=eu-central-1b").len(), 1);
    assert_eq!(site.run(9, 9, "").len(), 9, "without a zone it goes where there is room");
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={}", ids[0]));
    assert_eq!(site.run(1, 9, there).len(), 1, "what ends gives its room back");
}

#[test]
fn room_may_be_for_a_type_or_a_market() {
    let room = |kind: Option<&str>, market: Option<&str>, left| Room {
        zone: None,
        instance_type: kind.map(Into::into),
        market: market.map(Into::into),
        left,
    };
    let mut site = Site::quick(Plan {
        capacity: vec![room(Some("m5.large"), None, 2), room(None, Some("spot"), 1)],
        ..Plan::default()
    });
    assert_eq!(site.run(1, 5, "InstanceMarketOptions.MarketType=spot").len(), 1);
    assert_eq!(site.run(1, 5, "").len(), 1, "spot took one of the two");
    assert_eq!(site.code(&run(1, 5, "")), "InsufficientInstanceCapacity");
}

#[test]
fn quotas_count_what_runs() {
    let mut site = Site::quick(Plan {
        vcpus: Some(7),
        spot_instances: Some(1),
        spot_price: Some(0.2),
        ..Plan::default()
    });
    assert_eq!(site.run(1, 9, "").len(), 3, "two virtual processors each");
    assert_eq!(site.refused(&run(1, 1, "")), (400, "VcpuLimitExceeded".to_owned()));
    let spot = "InstanceMarketOptions.MarketType=spot";
    assert_eq!(
        site.code(&run(1, 1, &format!("{spot}&InstanceMarketOptions.SpotOptions.MaxPrice=0.1"))),
        "SpotMaxPriceTooLow"
    );
    assert_eq!(site.run(1, 9, spot).len(), 1);
    assert_eq!(site.code(&run(1, 1, spot)), "MaxSpotInstanceCountExceeded");
    site.world.set_plan(Plan {
        instances: Some(4),
        ..Plan::default()
    });
    assert_eq!(site.run(1, 9, "").len(), 1);
    assert_eq!(site.code(&run(1, 1, "")), "InstanceLimitExceeded");
}

#[test]
fn a_booted_machine_is_terminated_only_when_its_processes_are_gone() {
    let plan = Plan {
        timings: Some(Timings::instant()),
        ..Plan::default()
    };
    let mut site = Site::new(Plan::default());
    site.world = World::new(7, Catalogue::default(), plan, Some("/nonexistent".into()));
    let ids = site.run(1, 2, "UserData=aGk%3D");
    site.listed("");
    let boots = site.world.doings();
    assert_eq!(boots.len(), 2);
    assert!(boots.contains(&Doing::Boot {
        id: ids[0].clone(),
        user_data: "aGk=".to_owned()
    }));
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={}", ids[0]));
    assert_eq!(site.world.doings(), [Doing::End(ids[0].clone())]);
    site.pass(secs(600));
    assert_eq!(site.state_of(&ids[0]), "shutting-down");
    site.world.is_down(&ids[0], site.now);
    assert_eq!(site.state_of(&ids[0]), "terminated");
    site.world
        .befall(&ids[1], Fate::Vanishes { after: Span::secs(0) }, site.now)
        .unwrap();
    assert_eq!(site.world.doings(), [Doing::Kill(ids[1].clone())]);
    assert_eq!(
        site.world.report(false).states,
        [("terminated".to_owned(), 1), ("vanished".to_owned(), 1)].into()
    );
}
