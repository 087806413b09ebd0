//! The EC2 driver against moto, an EC2 that nobody here wrote. What moto does otherwise than EC2 is in `epu_tests::moto`; for that reason
//! sites here have no client tokens.

use std::collections::BTreeSet;
use std::sync::Arc;

use epu_core::id::LaunchId;
use epu_core::machine::{LaunchTemplate, MachineSpec, Market, Metadata, Spot, Volume};
use epu_core::request::{Finding, FindingVerdict as Verdict};
use epu_provisioner::iaas::ec2::{Ec2Parts, Ec2Settings};
use epu_provisioner::iaas::{Class, Iaas, MachineState};
use epu_tests::moto::{ACCOUNT, Moto, REGION, values};

use crate::ec2_sites::{Sites, ids, named};

/// An image that every moto has.
const IMAGE: &str = "ami-12c6146b";

/// Sites at one moto.
struct Cloud {
    moto: Moto,
    sites: Sites,
}

impl std::ops::Deref for Cloud {
    type Target = Sites;
    fn deref(&self) -> &Sites {
        &self.sites
    }
}

/// Moto takes no notice of client tokens, and shows at once what was launched.
fn as_moto_is(settings: &mut Ec2Settings) {
    settings.client_tokens = false;
    settings.consistency_grace = epu_core::Span::millis(0);
}

impl Cloud {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(environment: &[(&str, &str)]) -> Self {
        let moto = Moto::start(|command| {
            command.envs(environment.iter().copied());
        })
        .await
        .unwrap();
        let sites = Sites::at(moto.url(), "AKIATESTING", REGION, IMAGE);
        Self { moto, sites }
    }

    fn east(&self) -> Arc<dyn Iaas> {
        self.site("east", as_moto_is)
    }

    async fn ask(&self, parameters: &[(&str, &str)]) -> String {
        self.moto.ask("ec2", parameters).await.unwrap()
    }

    async fn value(&self, parameters: &[(&str, &str)], element: &str) -> String {
        self.moto.value("ec2", parameters, element).await.unwrap()
    }
}

/// And then neither tags in the call.
fn tagging_later(settings: &mut Ec2Settings) {
    as_moto_is(settings);
    settings.tags_on_create = false;
}

#[tokio::test]
async fn the_contract_holds_without_client_tokens() {
    let cloud = Cloud::new().await;
    let site = cloud.east();
    cloud.contract_holds(&*site).await;
    let (account, pace) = site.standing();
    assert_eq!(account.as_deref(), Some(ACCOUNT));
    assert!(pace.iter().any(|bucket| bucket.what == "RunInstances"), "{pace:?}");
}

#[tokio::test]
async fn the_contract_holds_without_tags_in_the_call() {
    let cloud = Cloud::new().await;
    let site = cloud.site("east", tagging_later);
    // Somebody else's, without a tag.
    cloud
        .ask(&[("Action", "RunInstances"), ("ImageId", IMAGE), ("MinCount", "1"), ("MaxCount", "1")])
        .await;
    cloud.contract_holds(&*site).await;
}

#[tokio::test]
async fn a_machine_whose_tagging_was_never_reached_is_found_and_tagged() {
    let cloud = Cloud::new().await;
    let untagging = cloud.site("east", tagging_later);
    let launch = cloud.launch(2, cloud.plain());
    let machines = untagging.launch(&launch).await.unwrap();
    // As if the process had ended between RunInstances and CreateTags.
    for machine in &machines {
        for key in ["epu:installation", "epu:launch", "epu:index", "epu:site", "epu:pool"] {
            cloud
                .ask(&[("Action", "DeleteTags"), ("ResourceId.1", &machine.id), ("Tag.1.Key", key)])
                .await;
        }
    }
    let successor = cloud.site_of(&cloud.parts_of_another_process(), "east", tagging_later);
    let listed = successor.list().await.unwrap();
    let known: BTreeSet<_> = listed.iter().map(|m| (m.id.clone(), m.launch, m.index)).collect();
    let expected = (0..)
        .zip(&machines)
        .map(|(index, m)| (m.id.clone(), Some(launch.launch), Some(index)));
    assert_eq!(known, expected.collect());
    let again = successor.launch(&launch).await.unwrap();
    assert_eq!(ids(&again), ids(&machines), "a repeated launch made others");
    let tags = cloud
        .ask(&[
            ("Action", "DescribeTags"),
            ("Filter.1.Name", "resource-id"),
            ("Filter.1.Value.1", &machines[1].id),
        ])
        .await;
    for tag in ["epu:installation", "epu:launch", "epu:index", "epu:site", "epu:pool"] {
        assert!(tags.contains(tag), "{tag} is missing in {tags}");
    }
}

/// Things that a machine can name, made in moto.
async fn full_spec(cloud: &Cloud) -> MachineSpec {
    cloud.ask(&[("Action", "CreateKeyPair"), ("KeyName", "team")]).await;
    let vpc = cloud.value(&[("Action", "CreateVpc"), ("CidrBlock", "10.0.0.0/16")], "vpcId").await;
    let zone = format!("{REGION}b");
    let subnet = [
        ("Action", "CreateSubnet"),
        ("VpcId", &vpc),
        ("CidrBlock", "10.0.1.0/24"),
        ("AvailabilityZone", &zone),
    ];
    let subnet = cloud.value(&subnet, "subnetId").await;
    let group = [
        ("Action", "CreateSecurityGroup"),
        ("GroupName", "workers"),
        ("GroupDescription", "x"),
        ("VpcId", &vpc),
    ];
    let group = cloud.value(&group, "groupId").await;
    let iam = |action: &'static str| [("Action", action), ("InstanceProfileName", "worker")];
    cloud.moto.ask("iam", &iam("CreateInstanceProfile")).await.unwrap();
    MachineSpec {
        key: Some("team".to_owned()),
        security_groups: vec![group],
        subnet: Some(subnet),
        instance_profile: Some("worker".to_owned()),
        volumes: vec![
            Volume {
                device: "/dev/sdf".to_owned(),
                size: 37,
                kind: Some("gp3".to_owned()),
                keep: false,
            },
            Volume {
                device: "/dev/sdg".to_owned(),
                size: 11,
                kind: None,
                keep: true,
            },
        ],
        metadata: Some(Metadata {
            token_required: true,
            hops: 2,
        }),
        market: Some(Market::Spot(Spot { max_price: Some(0.05) })),
        tags: [
            ("team".to_owned(), "a team".to_owned()),
            ("epu:launch".to_owned(), "a lie".to_owned()),
        ]
        .into(),
        ..cloud.plain()
    }
}

#[tokio::test]
async fn what_a_template_says_is_what_the_site_stores() {
    let cloud = Cloud::new().await;
    let spec = full_spec(&cloud).await;
    let launch = cloud.launch(1, spec.clone());
    let machine = cloud.east().launch(&launch).await.unwrap().remove(0);
    let stored = cloud.ask(&[("Action", "DescribeInstances"), ("InstanceId.1", &machine.id)]).await;
    let first = |element: &str| values(&stored, element).first().map(|value| (*value).to_owned());
    assert_eq!(first("imageId"), spec.image);
    assert_eq!(first("instanceType"), spec.size);
    assert_eq!(first("keyName"), spec.key);
    assert_eq!(first("subnetId"), spec.subnet);
    assert_eq!(first("availabilityZone"), Some(format!("{REGION}b")));
    assert!(values(&stored, "groupId").contains(&spec.security_groups[0].as_str()), "{stored}");
    assert_eq!(first("httpTokens").as_deref(), Some("required"));
    assert_eq!(first("httpPutResponseHopLimit").as_deref(), Some("2"));
    assert_eq!(first("instanceLifecycle").as_deref(), Some("spot"));
    assert!(stored.contains("instance-profile/worker"), "{stored}");
    let tags: BTreeSet<(&str, &str)> = values(&stored, "key").into_iter().zip(values(&stored, "value")).collect();
    let (id, instance) = (launch.launch.to_string(), launch.instances[0].to_string());
    let expected = [
        ("epu:installation", launch.installation.as_str()),
        ("epu:launch", &id),
        ("epu:pool", "web"),
        ("epu:site", "east"),
        ("epu:index", "0"),
        ("epu:instance", &instance),
        ("team", "a team"),
        ("Name", "web"),
    ];
    assert_eq!(tags, expected.into());

    let attached = [
        ("Filter.1.Name", "attachment.instance-id"),
        ("Filter.1.Value.1", machine.id.as_str()),
    ];
    let volumes = cloud.ask(&[&[("Action", "DescribeVolumes")][..], &attached].concat()).await;
    let sizes: BTreeSet<&str> = values(&volumes, "size").into_iter().collect();
    assert!(sizes.is_superset(&["37", "11"].into()), "{volumes}");
    assert!(volumes.contains(&launch.installation), "volumes have no tags: {volumes}");
    assert!(values(&stored, "deleteOnTermination").contains(&"false"), "{stored}");
    assert!(values(&stored, "deleteOnTermination").contains(&"true"), "{stored}");
    let asked = |attribute| {
        [
            ("Action", "DescribeInstanceAttribute"),
            ("InstanceId", machine.id.as_str()),
            ("Attribute", attribute),
        ]
    };
    let shutdown = cloud.ask(&asked("instanceInitiatedShutdownBehavior")).await;
    assert!(shutdown.contains("terminate"), "{shutdown}");
    let user_data = cloud.ask(&asked("userData")).await;
    let told = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, values(&user_data, "value")[0]).unwrap();
    let told = String::from_utf8(told).unwrap();
    assert!(told.starts_with("#cloud-config\n") && told.contains("l.very-secret"), "{told}");
}

#[tokio::test]
async fn a_launch_template_fills_in_what_is_left_out() {
    let cloud = Cloud::new().await;
    let made = [
        ("Action", "CreateLaunchTemplate"),
        ("LaunchTemplateName", "workers"),
        ("LaunchTemplateData.ImageId", IMAGE),
        ("LaunchTemplateData.InstanceType", "m5.large"),
    ];
    cloud.ask(&made).await;
    let spec = MachineSpec {
        launch_template: Some(LaunchTemplate {
            id: None,
            name: Some("workers".to_owned()),
            version: "1".to_owned(),
        }),
        ..MachineSpec::default()
    };
    let machine = cloud.east().launch(&cloud.launch(1, spec.clone())).await.unwrap().remove(0);
    let stored = cloud.ask(&[("Action", "DescribeInstances"), ("InstanceId.1", &machine.id)]).await;
    assert_eq!(values(&stored, "instanceType"), ["m5.large"]);
    let findings = cloud.east().check(&[named("pool web", spec)]).await;
    assert_eq!(verdict(&findings, "launch template workers"), Verdict::Good, "{findings:#?}");
}

fn verdict(findings: &[Finding], what: &str) -> Verdict {
    let found = findings.iter().find(|finding| finding.what.starts_with(what));
    found.unwrap_or_else(|| panic!("nothing of {what} in {findings:#?}")).verdict
}

#[tokio::test]
async fn a_check_finds_what_is_missing() {
    let cloud = Cloud::with(&[("MOTO_ENABLE_AMI_VALIDATION", "1"), ("MOTO_ENABLE_KEYPAIR_VALIDATION", "1")]).await;
    let (site, spec) = (cloud.east(), full_spec(&cloud).await);
    let findings = site
        .check(&[named("pool web", spec.clone()), named("pool batch", cloud.plain())])
        .await;
    for what in [
        "credentials",
        "clock",
        "list machines",
        "image",
        "key",
        "security group",
        "subnet",
        "user data",
    ] {
        assert_eq!(verdict(&findings, what), Verdict::Good, "{what}: {findings:#?}");
    }
    for what in ["launch, dry run (pool web)", "launch, dry run (pool batch)"] {
        assert_eq!(verdict(&findings, what), Verdict::Good, "{what}: {findings:#?}");
    }
    assert_eq!(verdict(&findings, "quota"), Verdict::Unknown);
    assert!(findings[0].text.contains(ACCOUNT), "{}", findings[0].text);
    let images = findings.iter().filter(|finding| finding.what.starts_with("image")).count();
    assert_eq!(images, 1, "one image of two templates is looked at once: {findings:#?}");
    assert!(site.list().await.unwrap().is_empty(), "checking launched something");

    let wrong = MachineSpec {
        image: Some("ami-00000000".to_owned()),
        key: Some("nobodys".to_owned()),
        subnet: Some("subnet-00000000".to_owned()),
        security_groups: vec!["sg-00000000".to_owned()],
        user_data: Some("#!/bin/sh\ntrue\n".to_owned()),
        ..cloud.plain()
    };
    let findings = site.check(&[named("pool web", wrong)]).await;
    // In moto a dry run looks at nothing of this.
    for what in ["image", "key", "security group", "subnet", "user data"] {
        assert_eq!(verdict(&findings, what), Verdict::Bad, "{what}: {findings:#?}");
    }

    // With a machine of ours the rights are tried on it.
    let machines = site.launch(&cloud.launch(1, cloud.plain())).await.unwrap();
    let findings = site.check(&[]).await;
    for what in ["terminate", "tag"] {
        assert_eq!(verdict(&findings, what), Verdict::Good, "{what}: {findings:#?}");
    }
    let said = site.describe(&[machines[0].id.clone()]).await.unwrap();
    assert_eq!(said[0].1, Some(MachineState::Running), "a dry run ended a machine");
}

#[tokio::test]
async fn an_image_that_is_not_there_is_refused_for_good() {
    let cloud = Cloud::with(&[("MOTO_ENABLE_AMI_VALIDATION", "1")]).await;
    let spec = MachineSpec {
        image: Some("ami-00000000".to_owned()),
        ..cloud.plain()
    };
    let error = cloud.east().launch(&cloud.launch(1, spec)).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent, "{error}");
    assert!(
        error.text.contains("InvalidAMIID.NotFound") && error.text.contains("machine.image"),
        "{error}"
    );
    assert!(error.text.contains("site east"), "{error}");
    assert_eq!(error.fault().code, "site-refused");
}

#[tokio::test]
async fn machines_that_the_site_does_not_know_are_no_trouble() {
    let cloud = Cloud::new().await;
    let site = cloud.east();
    let machines = site.launch(&cloud.launch(2, cloud.plain())).await.unwrap();
    let mut ids: Vec<String> = machines.into_iter().map(|machine| machine.id).collect();
    ids.insert(1, "i-00000000000000000".to_owned());
    ids.push("i-0123456789abcdef0".to_owned());
    let said = site.describe(&ids).await.unwrap();
    let (running, none) = (Some(MachineState::Running), None);
    assert_eq!(
        said.iter().map(|(_, state)| *state).collect::<Vec<_>>(),
        [running, none, running, none]
    );
    site.terminate(&ids).await.unwrap();
    let said = site.describe(&ids).await.unwrap();
    let gone = Some(MachineState::Gone);
    assert_eq!(said.iter().map(|(_, state)| *state).collect::<Vec<_>>(), [gone, none, gone, none]);
    assert_eq!(said.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), ids, "out of order");
}

#[tokio::test]
async fn a_machine_that_somebody_stopped_is_not_taken_for_one_that_works() {
    let cloud = Cloud::new().await;
    let site = cloud.east();
    let machine = site.launch(&cloud.launch(1, cloud.plain())).await.unwrap().remove(0).id;
    cloud.ask(&[("Action", "StopInstances"), ("InstanceId.1", &machine)]).await;
    let listed = cloud.east().list().await.unwrap();
    assert_eq!((listed.len(), listed[0].state), (1, MachineState::Stopped));
    assert_eq!(
        site.describe(std::slice::from_ref(&machine)).await.unwrap(),
        [(machine.clone(), Some(MachineState::Stopped))]
    );
}

#[tokio::test]
async fn a_console_is_read_from_its_end() {
    let cloud = Cloud::new().await;
    let (site, launch) = (cloud.east(), cloud.launch(1, cloud.plain()));
    let machine = site.launch(&launch).await.unwrap().remove(0).id;
    let console = site.output(launch.instances[0], Some(&machine), 2).await.unwrap().unwrap();
    assert_eq!(console.lines().count(), 2, "{console}");
    let nothing = site.output(launch.instances[0], Some("i-00000000000000000"), 2).await;
    assert_eq!(nothing, Ok(None));
}

/// More than a page, which moto counts in reservations.
#[tokio::test]
async fn a_list_of_several_pages_is_complete() {
    let cloud = Cloud::new().await;
    let site = cloud.east();
    let (each, calls) = ("2", 1_003);
    let launch = LaunchId(cloud.parts.random.uuid(cloud.parts.clock.now())).to_string();
    let machines: Vec<(&str, &str)> = vec![
        ("Action", "RunInstances"),
        ("ImageId", IMAGE),
        ("MinCount", each),
        ("MaxCount", each),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "epu:installation"),
        ("TagSpecification.1.Tag.1.Value", &cloud.parts.installation),
        ("TagSpecification.1.Tag.2.Key", "epu:launch"),
        ("TagSpecification.1.Tag.2.Value", &launch),
    ];
    for _ in 0..calls {
        cloud.ask(&machines).await;
    }
    let listed = site.list().await.unwrap();
    assert_eq!(listed.len(), 2 * calls, "a page is missing");
    let ids: BTreeSet<&String> = listed.iter().map(|machine| &machine.id).collect();
    assert_eq!(ids.len(), listed.len(), "a machine is listed twice");
}

#[tokio::test]
async fn sites_of_one_account_share_a_list_and_take_their_own() {
    let cloud = Cloud::new().await;
    let (east, west) = (cloud.east(), cloud.site("west", as_moto_is));
    let ours = east.launch(&cloud.launch(1, cloud.plain())).await.unwrap().remove(0).id;
    let theirs = west.launch(&cloud.launch(1, cloud.plain())).await.unwrap().remove(0).id;
    // Of a site that is configured no more.
    let old = cloud.site_of(&cloud.parts_of_another_process(), "old", as_moto_is);
    let lost = old.launch(&cloud.launch(1, cloud.plain())).await.unwrap().remove(0).id;
    let (in_east, in_west) = tokio::join!(east.list(), west.list());
    assert_eq!(
        ids(&in_east.unwrap()),
        sorted([ours, lost]),
        "the first site takes what is nobody's"
    );
    assert_eq!(ids(&in_west.unwrap()), [theirs]);
}

fn sorted<const N: usize>(mut ids: [String; N]) -> [String; N] {
    ids.sort();
    ids
}

#[tokio::test]
async fn another_installation_is_left_alone() {
    let cloud = Cloud::new().await;
    cloud.east().launch(&cloud.launch(1, cloud.plain())).await.unwrap();
    let parts = Ec2Parts {
        installation: "another".to_owned(),
        ..cloud.parts.clone()
    };
    assert!(cloud.site_of(&parts, "east", as_moto_is).list().await.unwrap().is_empty());
}
