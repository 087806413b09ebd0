//! Each rule, asked of the world directly: no sockets, no waiting.

mod asking;
mod failing;
mod launching;
mod living;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::time::{Span, Timestamp};

use super::bucket::{Rate, Throttle};
use super::catalogue::{ACCESS_KEY, ACCOUNT, Catalogue, GROUP, IMAGE, KEY, OTHER_ACCESS_KEY, PROFILE, SUBNETS, TEMPLATE};
use super::imds::Asking;
use super::plan::{Between, Chance, Effect, Fate, Fault, Plan, Room, Timings};
use super::world::{Doing, Heard, Reply, World};
use super::xml::{self, Node};

const START: Timestamp = Timestamp(1_795_000_000_000);

/// A world and what time it is in it.
struct Site {
    world: World,
    now: Timestamp,
    key: &'static str,
    region: &'static str,
}

impl Site {
    fn new(plan: Plan) -> Self {
        Self::seeded(7, plan)
    }

    fn seeded(seed: u64, plan: Plan) -> Self {
        Self {
            world: World::new(seed, Catalogue::default(), plan, None),
            now: START,
            key: ACCESS_KEY,
            region: "eu-central-1",
        }
    }

    /// Nothing lags, nothing is throttled.
    fn quick(plan: Plan) -> Self {
        Self::new(Plan {
            timings: plan.timings.or(Some(Timings::instant())),
            throttle: plan.throttle.clone().or(Some(Throttle::off())),
            ..plan
        })
    }

    fn pass(&mut self, length: Duration) {
        self.now = self.now + length;
    }

    fn reply(&mut self, text: &str) -> Reply {
        let heard = Heard {
            authorization: Some(format!(
                "AWS4-HMAC-SHA256 Credential={}/20261118/{}/ec2/aws4_request, SignedHeaders=host, Signature=0",
                self.key, self.region
            )),
            body: format!("Version=2016-11-15&{text}"),
            ..Heard::default()
        };
        self.world.handle(&heard, self.now)
    }

    fn ask(&mut self, text: &str) -> Node {
        let reply = self.reply(text);
        assert_eq!(reply.status, 200, "{text}: {}", reply.body);
        xml::read(&reply.body).unwrap()
    }

    /// The status and code of a refusal.
    fn refused(&mut self, text: &str) -> (u16, String) {
        let reply = self.reply(text);
        let root = xml::read(&reply.body).unwrap();
        assert_eq!(root.name, "Response", "{text} was not refused: {}", reply.body);
        (reply.status, root.text_of("Errors/Error/Code").to_owned())
    }

    fn code(&mut self, text: &str) -> String {
        self.refused(text).1
    }

    fn run(&mut self, min: u32, max: u32, more: &str) -> Vec<String> {
        let root = self.ask(&run(min, max, more));
        by_index(&root)
    }

    /// What is listed: ids in any order.
    fn listed(&mut self, more: &str) -> Vec<String> {
        let root = self.ask(&format!("Action=DescribeInstances&{more}"));
        let mut ids: Vec<String> = root
            .all("instancesSet")
            .iter()
            .flat_map(|set| &set.inside)
            .map(|m| m.text_of("instanceId").to_owned())
            .collect();
        ids.sort();
        ids
    }

    fn state_of(&mut self, id: &str) -> String {
        let root = self.ask(&format!("Action=DescribeInstances&InstanceId.1={id}"));
        root.all("instanceState")[0].text_of("name").to_owned()
    }
}

fn run(min: u32, max: u32, more: &str) -> String {
    format!("Action=RunInstances&ImageId={IMAGE}&InstanceType=m5.large&MinCount={min}&MaxCount={max}&{more}")
}

/// The ids of a launch in the order of their launch index.
fn by_index(root: &Node) -> Vec<String> {
    let set = &root.get("instancesSet").unwrap().inside;
    let mut all: Vec<(u32, String)> = set
        .iter()
        .map(|m| (m.text_of("amiLaunchIndex").parse().unwrap(), m.text_of("instanceId").to_owned()))
        .collect();
    all.sort();
    assert!(
        all.iter().enumerate().all(|(at, (index, _))| u32::try_from(at) == Ok(*index)),
        "{all:?}"
    );
    all.into_iter().map(|(_, id)| id).collect()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn tagged(pairs: &[(&str, &str)]) -> String {
    let tags = pairs.iter().enumerate();
    let tags = tags.map(|(at, (k, v))| {
        format!(
            "TagSpecification.1.Tag.{n}.Key={k}&TagSpecification.1.Tag.{n}.Value={v}",
            n = at + 1
        )
    });
    format!("TagSpecification.1.ResourceType=instance&{}", tags.collect::<Vec<_>>().join("&"))
}
