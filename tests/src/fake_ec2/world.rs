//! The whole of it as one machine without threads, sockets or a clock of its own: what is asked, and what time it is, goes in; an
//! answer, and what is to be done to real processes, comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use epu_core::time::Timestamp;

use super::bucket::{self, Buckets, Throttle};
use super::catalogue::Catalogue;
use super::count::{Call, Counts};
use super::life::Event;
use super::params::Params;
use super::plan::{Effect, Plan, Timings};
use super::refusal::{Outcome, Refusal};
use super::row::{Home, Row};
use super::{change, launch, list, things};

/// How far a request's clock may be off.
///
/// Source: "Troubleshoot signed requests for AWS APIs", <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>:
/// in most cases a request must reach AWS within five minutes of its time stamp. EC2's own page of errors speaks of 15 minutes for
/// `RequestExpired`; the stricter one is the safer one to be tested with.
pub const MAX_SKEW: Duration = Duration::from_secs(300);

/// What a request brings.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The header `X-Amz-Date`.
    pub date: Option<String>,
    /// The query of its address.
    pub query: String,
    /// Its body.
    pub body: String,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, XML.
    pub body: String,
    /// What time it is there, for the header `Date`.
    pub date: Timestamp,
    /// Answer so much later.
    pub delay: Duration,
    /// Answer nothing and close the connection.
    pub close: bool,
}

/// What is to be done to a machine's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// Run its user data.
    Boot {
        /// Which.
        id: String,
        /// User data in base64.
        user_data: String,
    },
    /// Ask its processes to end, then kill them, then say [`World::is_down`].
    End(String),
    /// Kill its processes, then say [`World::is_down`].
    Kill(String),
}

/// What one account has in one region.
#[derive(Debug, Default)]
pub(super) struct Region {
    /// Machines that are not forgotten, in the order of their launch.
    pub(super) listed: BTreeSet<u64>,
    /// Launches by client token: what was asked for, and what it gave.
    pub(super) tokens: BTreeMap<String, (String, Vec<u64>)>,
    pub(super) buckets: Buckets,
}

/// What a call meets by plan.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble {
    pub(super) tags_ignored: bool,
    pub(super) short: bool,
    pub(super) empty: bool,
    pub(super) stale: Option<Duration>,
    pub(super) missing: Option<f64>,
    malformed: bool,
    dropped: bool,
    lost: bool,
    delay: Duration,
    error: Option<Refusal>,
}

/// A call that is being answered.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) home: &'a Home,
    pub(super) params: &'a Params,
    pub(super) request: &'a str,
    pub(super) now: Timestamp,
    pub(super) trouble: &'a Trouble,
    pub(super) random: fastrand::Rng,
}

/// All accounts and regions.
#[derive(Debug)]
pub struct World {
    pub(super) catalogue: Catalogue,
    pub(super) plan: Plan,
    pub(super) timings: Timings,
    throttle: Throttle,
    /// For each fault of the plan: calls that it looked at, calls that it hit.
    looked: Vec<(u32, u32)>,
    /// For each chance of the plan: machines that it struck.
    pub(super) struck: Vec<u32>,
    seed: u64,
    requests: u64,
    pub(super) launches: u64,
    /// Where booted machines keep what they say; none when nothing is booted.
    pub(super) machines: Option<PathBuf>,
    pub(super) rows: BTreeMap<u64, Row>,
    pub(super) ids: BTreeMap<String, u64>,
    pub(super) homes: BTreeMap<Home, Region>,
    pub(super) events: BTreeMap<(Timestamp, u64), Event>,
    pub(super) happened: u64,
    pub(super) counts: Counts,
    pub(super) doings: Vec<Doing>,
}

impl World {
    /// An EC2 in which nobody has launched anything.
    #[must_use]
    pub fn new(seed: u64, catalogue: Catalogue, plan: Plan, machines: Option<PathBuf>) -> Self {
        let mut world = Self {
            catalogue,
            plan: Plan::default(),
            timings: Timings::default(),
            throttle: Throttle::default(),
            looked: Vec::new(),
            struck: Vec::new(),
            seed,
            requests: 0,
            launches: 0,
            machines,
            rows: BTreeMap::new(),
            ids: BTreeMap::new(),
            homes: BTreeMap::new(),
            events: BTreeMap::new(),
            happened: 0,
            counts: Counts::default(),
            doings: Vec::new(),
        };
        world.set_plan(plan);
        world
    }

    /// The plan in force; room that machines took is taken from it.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Replaces the plan.
    pub fn set_plan(&mut self, plan: Plan) {
        self.looked = vec![(0, 0); plan.faults.len()];
        self.struck = vec![0; plan.fates.len()];
        self.timings = plan.timings.unwrap_or(self.timings);
        self.throttle = plan.throttle.clone().unwrap_or_else(|| self.throttle.clone());
        self.plan = plan;
    }

    /// What is to be done to processes since this was last asked.
    pub fn doings(&mut self) -> Vec<Doing> {
        std::mem::take(&mut self.doings)
    }

    /// Random numbers for the n-th thing of a kind: the same for the same seed, whatever else happened before.
    pub(super) fn random(&self, kind: &str, number: u64) -> fastrand::Rng {
        // FNV-1a, which spreads what differs only a little; see draft-eastlake-fnv.
        let text = format!("{}/{kind}/{number}", self.seed);
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        fastrand::Rng::with_seed(text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// What time it is there.
    pub(super) fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add(self.plan.clock_ahead_ms))
    }

    /// Answers one request.
    pub fn handle(&mut self, heard: &Heard, now: Timestamp) -> Reply {
        self.advance(now);
        self.requests += 1;
        let number = self.random("request", self.requests).u128(..);
        let request = uuid::Uuid::from_u128(number).to_string();
        let params = Params::read(&heard.query, &heard.body);
        let action = params
            .as_ref()
            .ok()
            .and_then(|params| params.get("Action"))
            .unwrap_or("")
            .to_owned();
        let home = self.home(heard, now);
        let account = home.as_ref().map_or(String::new(), |home| home.account.clone());
        let mut trouble = Trouble::default();
        let done = home.and_then(|home| {
            let params = params?;
            if action.is_empty() {
                return Err(Refusal::new("MissingAction", "The request is missing an action"));
            }
            self.call(&action, &home, &params, &request, now, &mut trouble)
        });
        // What follows at once has happened before anybody asks again.
        self.advance(now);
        let code = done.as_ref().err().map_or(String::new(), |refusal| refusal.code.clone());
        let of_sts = params_are_for_sts(&action);
        let (status, mut body) = match done {
            Ok(body) => (200, body),
            Err(refusal) if of_sts => (refusal.status, refusal.document_of_sts(&request)),
            Err(refusal) => (refusal.status, refusal.document(&request)),
        };
        if trouble.malformed {
            let half = body.len() / 2;
            let cut = (0..=half).rev().find(|at| body.is_char_boundary(*at)).unwrap_or(0);
            body.truncate(cut);
        }
        self.counts.call(Call {
            at: now.0,
            account,
            action,
            code,
        });
        Reply {
            status,
            body,
            date: self.clock(now),
            delay: trouble.delay,
            close: trouble.dropped || trouble.lost,
        }
    }

    /// Who asks, and where. Only the access key of the signature's scope is looked at, not the signature: what is signed wrongly is the
    /// vendor's library's business.
    ///
    /// Source: "Authentication methods", <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html>:
    /// `Credential=<access key id>/<date>/<region>/<service>/aws4_request`.
    fn home(&self, heard: &Heard, now: Timestamp) -> Outcome<Home> {
        let missing = || Refusal::new("MissingAuthenticationToken", "Request is missing Authentication Token");
        let header = heard.authorization.as_deref().ok_or_else(missing)?;
        let scope = header.split_once("Credential=").ok_or_else(missing)?.1;
        let mut words = scope.split([',', ' ']).next().unwrap_or("").split('/');
        let (Some(key), Some(_), Some(region)) = (words.next(), words.next(), words.next()) else {
            return Err(missing());
        };
        let Some(account) = self.catalogue.accounts.get(key) else {
            let message = "AWS was not able to validate the provided access credentials";
            return Err(Refusal::new("AuthFailure", message));
        };
        if let Some(date) = &heard.date {
            let sent = read_date(date).ok_or_else(|| Refusal::new("IncompleteSignature", format!("cannot read date {date}")))?;
            let here = self.clock(now);
            if here.since(sent).max(sent.since(here)) > MAX_SKEW {
                return Err(Refusal::new("RequestExpired", "Request has expired."));
            }
        }
        Ok(Home {
            account: account.clone(),
            region: region.to_owned(),
        })
    }

    fn call(
        &mut self,
        action: &str,
        home: &Home,
        params: &Params,
        request: &str,
        now: Timestamp,
        trouble: &mut Trouble,
    ) -> Outcome<String> {
        let Some(known) = parameters(action) else {
            let message = format!("The action {action} is not valid for this web service.");
            return Err(Refusal::new("InvalidAction", message));
        };
        params.refuse_unknown(known)?;
        let plain = !params.has("MaxResults") && !params.has("NextToken") && !params.has("Filter");
        let (bucket, rate) = bucket::requests(action, plain);
        self.take(home, &bucket, rate, 1.0, now)?;
        *trouble = self.trouble(action, &home.account);
        if trouble.lost {
            return Ok(String::new());
        }
        if let Some(refusal) = trouble.error.take() {
            return Err(refusal);
        }
        let calls = self.counts.calls.get(action).copied().unwrap_or(0);
        let mut asked = Asked {
            home,
            params,
            request,
            now,
            trouble,
            random: self.random(action, calls),
        };
        match action {
            "RunInstances" => launch::run_instances(self, &mut asked),
            "TerminateInstances" => change::terminate_instances(self, &asked),
            "StopInstances" => change::stop_instances(self, &asked),
            "CreateTags" => change::create_tags(self, &asked),
            "DescribeInstances" => list::describe_instances(self, &mut asked),
            "DescribeInstanceStatus" => list::describe_instance_status(self, &mut asked),
            other => things::describe(self, other, &asked),
        }
    }

    /// Takes tokens from a bucket of an account and region.
    pub(super) fn take(&mut self, home: &Home, bucket: &str, rate: bucket::Rate, tokens: f64, now: Timestamp) -> Outcome<()> {
        if !self.throttle.on {
            return Ok(());
        }
        let rate = self.throttle.buckets.get(bucket).copied().unwrap_or(rate);
        if self.homes.entry(home.clone()).or_default().buckets.take(bucket, rate, tokens, now) {
            return Ok(());
        }
        Err(Refusal::new("RequestLimitExceeded", "Request limit exceeded."))
    }

    /// What this call meets. Draws are by action, so that calls of one action do not change what another one meets.
    fn trouble(&mut self, action: &str, account: &str) -> Trouble {
        let mut trouble = Trouble::default();
        for at in 0..self.plan.faults.len() {
            let fault = &self.plan.faults[at];
            let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
            if !fits(&fault.action, action) || !fits(&fault.account, account) {
                continue;
            }
            let (looked, hit) = self.looked[at];
            self.looked[at].0 = looked.saturating_add(1);
            let draw = self.random(&format!("fault/{at}/{action}"), u64::from(looked)).f64();
            let spared = looked < fault.skip || fault.next.is_some_and(|next| hit >= next);
            if spared || fault.probability.is_some_and(|share| draw >= share) {
                continue;
            }
            self.looked[at].1 += 1;
            *self.counts.faults.entry(fault.effect.word().to_owned()).or_default() += 1;
            match &fault.effect {
                Effect::Error { code, message, status } => {
                    let text = message.clone().unwrap_or_else(|| format!("{code}, as planned."));
                    let mut refusal = Refusal::new(code, text);
                    refusal.status = status.unwrap_or(refusal.status);
                    trouble.error = Some(refusal);
                }
                Effect::Lost => trouble.lost = true,
                Effect::Dropped => trouble.dropped = true,
                Effect::Delayed { by } => trouble.delay += **by,
                Effect::TagsIgnored => trouble.tags_ignored = true,
                Effect::Short => trouble.short = true,
                Effect::Empty => trouble.empty = true,
                Effect::Malformed => trouble.malformed = true,
                Effect::Stale { by } => trouble.stale = Some(**by),
                Effect::Missing { share } => trouble.missing = Some(*share),
            }
        }
        trouble
    }
}

fn params_are_for_sts(action: &str) -> bool {
    action == "GetCallerIdentity"
}

/// The parameters of an action, by their name before the first dot; none for an action that is not known.
fn parameters(action: &str) -> Option<&'static [&'static str]> {
    Some(match action {
        "RunInstances" => launch::PARAMETERS,
        "TerminateInstances" => &["InstanceId", "Force", "SkipOsShutdown"],
        "StopInstances" => &["InstanceId", "Force", "Hibernate", "SkipOsShutdown"],
        "CreateTags" => &["ResourceId", "Tag"],
        "DescribeInstances" => &["InstanceId", "Filter", "MaxResults", "NextToken"],
        "DescribeInstanceStatus" => &["InstanceId", "Filter", "MaxResults", "NextToken", "IncludeAllInstances"],
        other => return things::parameters(other),
    })
}

/// `20261122T193716Z`, as SigV4 writes it.
fn read_date(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    if date.len() != 8 || time.len() != 6 || !text.is_ascii() {
        return None;
    }
    let (date, time) = ((&date[..4], &date[4..6], &date[6..]), (&time[..2], &time[2..4], &time[4..]));
    let text = format!("{}-{}-{}T{}:{}:{}Z", date.0, date.1, date.2, time.0, time.1, time.2);
    text.parse::<jiff::Timestamp>().ok().map(|at| Timestamp(at.as_millisecond()))
}
