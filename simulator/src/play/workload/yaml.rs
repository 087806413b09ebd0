//! Workloads in YAML, of which JSON is a part: jobs one by one, or generators; for the pool that it is given to, or for pools by name.
//!
//! ```yaml
//! generator: {diurnal: {low: 2/m, high: 60/m, service: 30s, for: 24h}}
//! then:                       # one after another
//!   - poisson: {rate: 5/m, service: 30s, for: 1h}
//! and:                        # at the same time as all of these
//!   - burst: {rate: 0/m, high: 200/m, at: 9h, lasts: 5m, service: 10s, for: 24h}
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::input::{Flaw, Flaws, Tree, check, pointer, schema_of};
use epu_core::{PoolName, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::service::Service;
use super::shape::Shape;
use super::{JOBS_MAX, Job, LASTS_MAX, Reading, Workload, Written, whole_millis};

/// Most generators of one workload.
const SHAPES_MAX: usize = 100;

/// What a file may say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
struct File {
    /// How long jobs take that do not say it.
    service: Option<Service>,
    /// Jobs one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<Given>,
    /// What makes them up.
    generator: Option<Shape>,
    /// What follows on that, one after another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    then: Vec<Shape>,
    /// What arrives beside all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    and: Vec<Shape>,
    /// The same for pools by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pools: BTreeMap<PoolName, Part>,
}

/// What arrives for one pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
struct Part {
    /// How long jobs take that do not say it; left out: as it is said for all.
    service: Option<Service>,
    /// Jobs one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<Given>,
    /// What makes them up.
    generator: Option<Shape>,
    /// What follows on that, one after another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    then: Vec<Shape>,
    /// What arrives beside all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    and: Vec<Shape>,
}

/// A job, or several alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
struct Given {
    /// When it arrives, after the beginning.
    at: Span,
    /// How long it takes; left out: `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    takes: Option<Service>,
    /// How many of them.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 2_000_000))]
    count: u32,
}

fn one() -> u32 {
    1
}

pub(super) fn read(file: &str, text: &str, how: &Reading) -> Result<Written, Flaws> {
    let tree = Tree::read(file, text)?;
    let mut flaws = check(&tree, &schema_of::<File>());
    super::rates_and_times(&tree, "", tree.value(), &mut flaws);
    Flaws::none_in(flaws)?;
    let written: File = tree.get("")?;
    let mut flaws = Vec::new();
    let part = Part {
        service: written.service,
        jobs: written.jobs,
        generator: written.generator,
        then: written.then,
        and: written.and,
    };
    let all = part.workload(&tree, &[], how, &mut flaws);
    let mut pools = BTreeMap::new();
    for (number, (name, mut part)) in (1..).zip(written.pools) {
        part.service = part.service.or(written.service);
        let own = Reading {
            // Pools whose generators are alike do not get their jobs at the same moments.
            seed: how.seed.wrapping_add(u64::wrapping_mul(number, 1_000_003)),
            ..how.clone()
        };
        match part.workload(&tree, &["pools", name.as_str()], &own, &mut flaws) {
            Some(workload) => drop(pools.insert(name, workload)),
            None => flaws.push(empty(&tree, &pointer(["pools", name.as_str()]))),
        }
    }
    if all.is_none() && pools.is_empty() && flaws.is_empty() {
        flaws.push(empty(&tree, ""));
    }
    Flaws::none_in(flaws)?;
    Ok(Written { all, pools })
}

fn empty(tree: &Tree, at: &str) -> Flaw {
    let flaw = tree.flaw_at_key(at, "there is no work in it");
    flaw.help("write `jobs:` with a list, `generator:`, or `pools:` with the same for each pool")
}

impl Part {
    /// What arrives; none when nothing is said.
    fn workload(&self, tree: &Tree, below: &[&str], how: &Reading, flaws: &mut Vec<Flaw>) -> Option<Workload> {
        let at = |keys: &[&str]| pointer(below.iter().chain(keys).copied());
        let service = self.service.or(how.service);
        let mut whole: Option<Workload> = self.given(tree, &at, how, flaws);
        let shapes = self.then.len() + self.and.len();
        if shapes > SHAPES_MAX {
            flaws.push(tree.flaw_at_key(&at(&[]), format!("there are {shapes} generators, and {SHAPES_MAX} are the most")));
            return whole;
        }
        let mut seed = how.seed;
        let mut made = |shape: &Shape, place: String| {
            seed = seed.wrapping_add(1);
            match shape.jobs(service, seed) {
                Ok((jobs, lasts)) => Workload::of(jobs, lasts),
                Err(why) => {
                    flaws.push(tree.flaw(&place, why));
                    Workload::default()
                }
            }
        };
        if let Some(shape) = &self.generator {
            let first = made(shape, at(&["generator"]));
            whole = Some(whole.unwrap_or_default().and(first));
        }
        for (n, shape) in self.then.iter().enumerate() {
            let next = made(shape, at(&["then", &n.to_string()]));
            whole = Some(whole.unwrap_or_default().then(next));
        }
        for (n, shape) in self.and.iter().enumerate() {
            let beside = made(shape, at(&["and", &n.to_string()]));
            whole = Some(whole.unwrap_or_default().and(beside));
        }
        let jobs = whole.as_ref().map_or(0, |whole| whole.jobs().len());
        if jobs > JOBS_MAX {
            flaws.push(tree.flaw(&at(&[]), format!("there are {jobs} jobs, and {JOBS_MAX} are the most")));
        }
        if whole.as_ref().is_some_and(|whole| whole.lasts() > LASTS_MAX) {
            flaws.push(tree.flaw(&at(&[]), format!("it lasts longer than {}", Span(LASTS_MAX))));
        }
        whole
    }

    fn given(&self, tree: &Tree, at: &dyn Fn(&[&str]) -> String, how: &Reading, flaws: &mut Vec<Flaw>) -> Option<Workload> {
        if self.jobs.is_empty() {
            return None;
        }
        let random = super::chance(how.seed);
        let mut jobs = Vec::new();
        for (n, job) in self.jobs.iter().enumerate() {
            let Some(takes) = job.takes.or(self.service).or(how.service) else {
                let flaw = tree.flaw(&at(&["jobs", &n.to_string()]), "it is not said how long this job takes");
                flaws.push(flaw.help("add `takes: 30s`, `service: 30s` for all, or give --service-time"));
                continue;
            };
            if jobs.len() + usize::try_from(job.count).unwrap_or(usize::MAX) > JOBS_MAX {
                flaws.push(tree.flaw(
                    &at(&["jobs", &n.to_string()]),
                    format!("with these there are more than {JOBS_MAX} jobs, the most"),
                ));
                break;
            }
            jobs.extend((0..job.count).map(|_| Job {
                at: whole_millis(*job.at),
                takes: takes.draw(&random),
            }));
        }
        Some(Workload::of(jobs, Duration::ZERO))
    }
}
