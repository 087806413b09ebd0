//! The fake EC2 beside moto, which nobody here wrote: the same requests to both, and what moto's answers have, the fake's must have. And
//! the fake as a program that boots machines for real.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::time::Span;
use epu_tests::fake_ec2::bucket::Throttle;
use epu_tests::fake_ec2::catalogue::{Catalogue, IMAGE};
use epu_tests::fake_ec2::machines::{self, Boot, TAG};
use epu_tests::fake_ec2::plan::{Chance, Effect, Fate, Fault, Plan, Timings};
use epu_tests::fake_ec2::xml::{self, Node};
use epu_tests::fake_ec2::{FakeEc2, FakeEc2Process, Settings};
use epu_tests::moto::Moto;
use epu_tests::processes::Proc;
use epu_tests::wait::eventually;
use epu_tests::{Result, web};

/// An image that moto knows, too.
const SHARED_IMAGE: &str = "ami-12c6146b";
const SOON: Duration = Duration::from_secs(20);

/// Sends parameters by the Query protocol, as they are; gives the HTTP status and the answer.
async fn ask(url: &str, service: &str, parameters: &[(&str, &str)]) -> Result<(u16, Node)> {
    let version = if service == "sts" { "2011-06-15" } else { "2016-11-15" };
    let pairs = std::iter::once(("Version", version)).chain(parameters.iter().copied());
    let pairs: Vec<String> = pairs.map(|(k, v)| format!("{}={}", web::escape(k), web::escape(v))).collect();
    let who = format!("AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=none");
    let page = web::get(&format!("{url}/?{}", pairs.join("&")), Some(&who)).await?;
    let root = xml::read(&page.body).map_err(|why| epu_tests::Trouble::new(why, &page.body))?;
    Ok((page.status, root))
}

/// Every path to an element, with the texts there; items of a list share a path.
fn paths(node: &Node, above: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    let path = format!("{above}/{}", node.name);
    found.entry(path.clone()).or_default().insert(node.text.clone());
    for inner in &node.inside {
        paths(inner, &path, found);
    }
}

fn instances(root: &Node) -> Vec<String> {
    let ids = root.all("instancesSet").into_iter().flat_map(|set| &set.inside);
    ids.map(|item| item.text_of("instanceId").to_owned()).collect()
}

/// What the fake leaves out on purpose: what is about public addresses, platforms and hardware that no caller of ours looks at.
const LEFT_OUT: &[&str] = &[
    "/association",
    "/dnsName",
    "/ipAddress",
    "/sriovNetSupport",
    "/hibernationOptions",
    // Of a machine that runs EC2 says nothing here, moto an empty code.
    "/stateReason",
    // Windows only.
    "/platform",
    "/imageOwnerAlias",
    "/kernelId",
    "/bootMode",
    "/ramdiskId",
    // EC2 leaves the set of tags out where there are none.
    "/imagesSet/item/tagSet",
];

/// What is the same for every EC2, given the same request.
const SAME: &[&str] = &[
    "/amiLaunchIndex",
    "/imageId",
    "/instanceType",
    "/clientToken",
    "/instanceLifecycle",
    "/placement/availabilityZone",
    "/placement/tenancy",
    "/tagSet/item/key",
    "/tagSet/item/value",
    "/metadataOptions/httpTokens",
    "/metadataOptions/httpEndpoint",
    "/metadataOptions/state",
    "/monitoring/state",
    "/architecture",
    "/rootDeviceType",
    "/virtualizationType",
    "/instanceState/code",
    "/instanceState/name",
    "/currentState/name",
    "/instanceStatus/status",
    "/systemStatus/status",
    "/userData/value",
    "/imageState",
    "/imageType",
    "/Code",
    "/attachment/deviceIndex",
];

/// What moto's answer has and ours has not, or has otherwise.
fn differences(of: &str, moto: &Node, fake: &Node) -> Vec<String> {
    let (mut theirs, mut ours) = (BTreeMap::new(), BTreeMap::new());
    paths(moto, "", &mut theirs);
    paths(fake, "", &mut ours);
    let mut all = Vec::new();
    for (path, values) in &theirs {
        if LEFT_OUT.iter().any(|left_out| path.contains(left_out)) {
            continue;
        }
        match ours.get(path) {
            None => all.push(format!("{of}: no {path} ({values:?})")),
            Some(own) if SAME.iter().any(|same| path.ends_with(same)) && own != values => {
                all.push(format!("{of}: {path} is {own:?} and moto says {values:?}"));
            }
            Some(_) => {}
        }
    }
    all
}

/// The two, asked the same.
struct Both {
    moto: String,
    fake: String,
    differences: Vec<String>,
}

/// A parameter that names a machine, which has other ids on each: for moto, for the fake.
type Named<'a> = (&'a str, &'a str, &'a str);

impl Both {
    /// Asks both and compares; gives the answers of moto and of the fake.
    async fn ask(&mut self, service: &str, asked: &[(&str, &str)], named: Option<Named<'_>>) -> (Node, Node) {
        let with = |id: Option<(&'_ str, &'_ str)>| {
            asked
                .iter()
                .copied()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .chain(id.map(|(k, v)| (k.to_owned(), v.to_owned())))
        };
        let to_moto: Vec<(String, String)> = with(named.map(|(by, moto, _)| (by, moto))).collect();
        let to_fake: Vec<(String, String)> = with(named.map(|(by, _, fake)| (by, fake))).collect();
        let moto = ask(&self.moto, service, &borrowed(&to_moto)).await.unwrap();
        let fake = ask(&self.fake, service, &borrowed(&to_fake)).await.unwrap();
        assert_eq!(moto.0, fake.0, "{to_fake:?}: moto {:?}, fake {:?}", moto.1, fake.1);
        assert_eq!(instances(&moto.1).len(), instances(&fake.1).len(), "{to_fake:?}");
        self.differences.extend(differences(&format!("{to_fake:?}"), &moto.1, &fake.1));
        (moto.1, fake.1)
    }
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

#[tokio::test]
async fn the_fake_answers_what_moto_answers() {
    let moto = Moto::start(|_| {}).await.unwrap();
    let mut catalogue = Catalogue::default();
    catalogue.images.push(SHARED_IMAGE.to_owned());
    let plan = Plan {
        timings: Some(Timings::instant()),
        ..Plan::default()
    };
    let fake = FakeEc2::start(Settings {
        catalogue,
        plan,
        ..Settings::default()
    })
    .await
    .unwrap();
    let mut both = Both {
        moto: moto.url(),
        fake: fake.url(),
        differences: Vec::new(),
    };

    let launch = [
        ("Action", "RunInstances"),
        ("ImageId", SHARED_IMAGE),
        ("InstanceType", "t3.micro"),
        ("MinCount", "2"),
        ("MaxCount", "2"),
        ("ClientToken", "a-token"),
        ("UserData", "aGVsbG8="),
        ("Placement.AvailabilityZone", "us-east-1b"),
        ("InstanceMarketOptions.MarketType", "spot"),
        ("MetadataOptions.HttpTokens", "required"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "epu:installation"),
        ("TagSpecification.1.Tag.1.Value", "one & <only>"),
        ("TagSpecification.1.Tag.2.Key", "epu:launch"),
        ("TagSpecification.1.Tag.2.Value", "l-1"),
    ];
    let (moto_says, fake_says) = both.ask("ec2", &launch, None).await;
    let (moto_ids, fake_ids) = (instances(&moto_says), instances(&fake_says));
    assert_eq!((moto_ids.len(), fake_ids.len()), (2, 2));

    let list = ("Action", "DescribeInstances");
    let tagged = |key, value| [list, ("Filter.1.Name", key), ("Filter.1.Value.1", value)];
    let named = |by| Some((by, moto_ids[0].as_str(), fake_ids[0].as_str()));
    let (_, found) = both.ask("ec2", &tagged("tag:epu:installation", "one & <only>"), None).await;
    assert_eq!(instances(&found).len(), 2);
    let tags = [("Action", "CreateTags"), ("Tag.1.Key", "epu:instance"), ("Tag.1.Value", "i")];
    both.ask("ec2", &tags, named("ResourceId.1")).await;
    let (_, found) = both.ask("ec2", &tagged("tag:epu:instance", "i"), None).await;
    assert_eq!(instances(&found), [fake_ids[0].clone()]);
    both.ask("ec2", &[list], named("InstanceId.1")).await;
    let user_data = [("Action", "DescribeInstanceAttribute"), ("Attribute", "userData")];
    both.ask("ec2", &user_data, named("InstanceId")).await;
    both.ask("ec2", &[("Action", "GetConsoleOutput")], named("InstanceId")).await;
    both.ask("ec2", &[("Action", "DescribeInstanceStatus")], named("InstanceId.1"))
        .await;
    both.ask("ec2", &[("Action", "DescribeImages"), ("ImageId.1", SHARED_IMAGE)], None)
        .await;

    let nobody = "i-0123456789abcdef0";
    both.ask("ec2", &[list, ("InstanceId.1", nobody)], None).await;
    both.ask("ec2", &[("Action", "TerminateInstances"), ("InstanceId.1", nobody)], None)
        .await;
    for (action, by, what) in [
        ("DescribeKeyPairs", "KeyName.1", "nobody"),
        ("DescribeSecurityGroups", "GroupId.1", "sg-0123456789abcdef0"),
        ("DescribeImages", "ImageId.1", "ami-00000000"),
        ("DescribeSubnets", "SubnetId.1", "subnet-00000000"),
    ] {
        both.ask("ec2", &[("Action", action), (by, what)], None).await;
    }
    let dry = [
        ("Action", "RunInstances"),
        ("ImageId", SHARED_IMAGE),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("DryRun", "true"),
    ];
    both.ask("ec2", &dry, None).await;
    both.ask("ec2", &[list, ("MaxResults", "5")], named("InstanceId.1")).await;

    both.ask("ec2", &[("Action", "TerminateInstances")], named("InstanceId.1")).await;
    // Of a machine that is gone moto still shows a network interface.
    for (url, id) in [(&both.moto, &moto_ids[0]), (&both.fake, &fake_ids[0])] {
        assert_eq!(state_of(url, id).await, "terminated", "{url}");
    }
    both.ask("sts", &[("Action", "GetCallerIdentity")], None).await;
    assert!(both.differences.is_empty(), "{}", both.differences.join("\n"));
}

#[tokio::test]
async fn a_reply_that_is_dropped_was_done_and_one_that_is_delayed_comes() {
    let plan = Plan {
        faults: vec![
            Fault::on("RunInstances", Effect::Dropped).next(1),
            Fault::on("DescribeInstances", Effect::Delayed { by: Span::millis(300) }),
        ],
        timings: Some(Timings::instant()),
        ..Plan::default()
    };
    let fake = FakeEc2::start(Settings {
        plan,
        ..Settings::default()
    })
    .await
    .unwrap();
    let launch = [
        ("Action", "RunInstances"),
        ("ImageId", IMAGE),
        ("MinCount", "2"),
        ("MaxCount", "2"),
        ("ClientToken", "t"),
    ];
    let trouble = ask(&fake.url(), "ec2", &launch).await.unwrap_err();
    assert!(!trouble.0.contains("no answer within"), "it was closed, not left open: {trouble}");
    assert_eq!(fake.report().ever, 2);
    let (status, root) = ask(&fake.url(), "ec2", &launch).await.unwrap();
    assert_eq!((status, instances(&root).len(), fake.report().ever), (200, 2, 2));
    let began = std::time::Duration::from_millis(300);
    let early = tokio::time::timeout(began / 2, ask(&fake.url(), "ec2", &[("Action", "DescribeInstances")])).await;
    assert!(early.is_err(), "it is not there before its time");
    let (_, root) = ask(&fake.url(), "ec2", &[("Action", "DescribeInstances")]).await.unwrap();
    assert_eq!(instances(&root).len(), 2);
    fake.stop().await;
}

/// A stand-in for the agent: says where and as whom it runs, and does not end when asked to.
fn stubborn_agent(directory: &Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join("agent");
    let text = "#!/bin/sh\ntrap '' TERM\nprintf '%s %s\\n' \"$1\" \"$EPU_METADATA\" >\"$HOME/agent-ran\"\nwhile :; do sleep 1; done\n";
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn user_data() -> String {
    let text = "#cloud-config\nwrite_files:\n- path: /var/lib/epu/start.sh\n  permissions: '0700'\n  content: |\n    echo starting as $EPU_FAKE_INSTANCE\n    \
                setsid epu-agent </dev/null >/dev/null 2>&1 &\n- path: /var/lib/epu/launch-token\n  permissions: '0600'\n  content: secret\n\
                runcmd:\n- [sh, /var/lib/epu/start.sh]\n";
    STANDARD.encode(text)
}

async fn launch(url: &str, count: &str, more: &[(&str, &str)]) -> Vec<String> {
    let data = user_data();
    let mut asked = vec![
        ("Action", "RunInstances"),
        ("ImageId", IMAGE),
        ("MinCount", count),
        ("MaxCount", count),
        ("UserData", &data),
    ];
    asked.extend(more);
    let (status, root) = ask(url, "ec2", &asked).await.unwrap();
    assert_eq!(status, 200, "{root:?}");
    instances(&root)
}

async fn state_of(url: &str, id: &str) -> String {
    let (_, root) = ask(url, "ec2", &[("Action", "DescribeInstances"), ("InstanceId.1", id)])
        .await
        .unwrap();
    root.all("instanceState")
        .first()
        .map_or("", |state| state.text_of("name"))
        .to_owned()
}

#[tokio::test]
async fn machines_boot_for_real_and_end_when_terminated() {
    let home = tempfile::tempdir().unwrap();
    let mut boot = Boot::new(home.path().join("machines"), stubborn_agent(home.path()));
    boot.grace = Duration::from_millis(500);
    let fake = FakeEc2::start(Settings {
        boot: Some(boot.clone()),
        plan: Plan {
            timings: Some(Timings::instant()),
            throttle: Some(Throttle::off()),
            ..Plan::default()
        },
        ..Settings::default()
    })
    .await
    .unwrap();
    let url = fake.url();
    let ids = launch(&url, "3", &[]).await;
    for id in &ids {
        let own = boot.directory.join(id);
        eventually(SOON, "the agent runs", async || own.join("agent-ran").is_file()).await;
        let said = std::fs::read_to_string(own.join("agent-ran")).unwrap();
        assert_eq!(said.trim(), format!("agent {url}/_imds/{id}"));
        let metadata = web::get(&format!("{url}/_imds/{id}/latest/meta-data/instance-id"), None)
            .await
            .unwrap();
        assert_eq!((metadata.status, metadata.body.as_str()), (200, id.as_str()));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(own.join("launch-token")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let (_, root) = ask(&url, "ec2", &[("Action", "GetConsoleOutput"), ("InstanceId", id)])
            .await
            .unwrap();
        let output = STANDARD.decode(root.text_of("output")).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), format!("starting as {id}\n"));
    }
    let first = ids[0].as_str();
    ask(&url, "ec2", &[("Action", "TerminateInstances"), ("InstanceId.1", first)])
        .await
        .unwrap();
    eventually(SOON, "it is terminated", async || {
        let alive = !Proc::carrying(TAG, first).is_empty();
        let state = state_of(&url, first).await;
        // Its processes were looked at before its state was: never the other way round.
        assert!(
            state != "terminated" || Proc::carrying(TAG, first).is_empty(),
            "terminated and alive: {alive}"
        );
        state == "terminated"
    })
    .await;
    assert!(!Proc::carrying(TAG, &ids[1]).is_empty(), "the others live on");
    fake.befall(&ids[1], Fate::Silent { after: Span::secs(0) }).unwrap();
    eventually(SOON, "it is silent", async || Proc::carrying(TAG, &ids[1]).is_empty()).await;
    assert_eq!(state_of(&url, &ids[1]).await, "running", "and EC2 does not know");
    fake.stop().await;
    assert!(Proc::carrying(TAG, &ids[2]).is_empty(), "what was booted ends with the fake");
}

#[tokio::test]
async fn the_program_serves_takes_plans_and_ends_with_its_machines() {
    let home = tempfile::tempdir().unwrap();
    let (directory, agent) = (home.path().join("machines"), stubborn_agent(home.path()));
    let plan = Plan {
        fates: vec![Chance::always(Fate::Stuck).next(1)],
        timings: Some(Timings::instant()),
        ..Plan::default()
    };
    let arguments = ["--boot", directory.to_str().unwrap(), "--agent", agent.to_str().unwrap()];
    let fake = FakeEc2Process::start(5, &plan, &arguments).await.unwrap();
    let ids = launch(fake.url(), "2", &[]).await;
    eventually(SOON, "the other machine boots", async || {
        ids.iter().filter(|id| directory.join(id).join("agent-ran").is_file()).count() == 1
    })
    .await;
    let report = fake.report().await.unwrap();
    assert_eq!((report.ever, report.doubled, report.alive("").len()), (2, 0, 2));
    let stuck = report.machines.iter().find(|machine| machine.index == 0).unwrap();
    assert_eq!((stuck.state.as_str(), stuck.times.booted), ("running", None));
    fake.befall(&stuck.id, Fate::Vanishes { after: Span::secs(0) }).await.unwrap();
    assert_eq!(fake.summary().await.unwrap().states["vanished"], 1);
    let refuse = Plan {
        faults: vec![Fault::on("RunInstances", Effect::error("UnauthorizedOperation"))],
        ..Plan::default()
    };
    fake.set_plan(&refuse).await.unwrap();
    let asked = [("Action", "RunInstances"), ("ImageId", IMAGE), ("MinCount", "1"), ("MaxCount", "1")];
    let (status, root) = ask(fake.url(), "ec2", &asked).await.unwrap();
    assert_eq!((status, root.text_of("Errors/Error/Code")), (403, "UnauthorizedOperation"));
    let booted: BTreeSet<Proc> = ids.iter().flat_map(|id| Proc::carrying(TAG, id)).collect();
    assert!(!booted.is_empty());
    let program = Proc::of(fake.pid()).unwrap();
    drop(fake);
    assert!(
        !program.is_alive() && booted.iter().all(|proc| !proc.is_alive()),
        "it left something behind"
    );
}

/// What the EC2 driver renders, pinned by its own tests, is what a booted machine is made of.
#[test]
fn the_drivers_user_data_is_understood() {
    let rendered = include_str!("../../provisioner/src/iaas/ec2/user_data/golden/fetched.yaml");
    let files = machines::read(&STANDARD.encode(rendered)).unwrap();
    let told: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.mode)).collect();
    assert_eq!(
        told,
        [
            ("agent.env", 0o600),
            ("launch-token", 0o600),
            ("ca.pem", 0o644),
            ("start.sh", 0o755)
        ]
    );
    let start = include_bytes!("../../provisioner/src/iaas/ec2/user_data/start.sh");
    assert_eq!(files[3].content, start);
}
