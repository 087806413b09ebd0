//! Launching.
//!
//! **With client tokens and launch indexes** a launch is one RunInstances whose token is the launch id. Repeating it is what EC2's tokens
//! are for: the same machines, also ended ones. Nothing is looked up before.
//!
//! **Otherwise one machine is asked for at a time**, with its index in a tag, and only those that are missing. With tokens each has its
//! own token, made of launch and index. Without, the site is asked first which machines of the launch there are, by its tag, ended ones
//! too.
//!
//! **A list lags behind a launch.** Without tokens a call whose answer was lost must not be repeated before its machine would be listed.
//! So after such a call, and for a launch that another process may have called ([`IaasLaunch::doubtful`]), nothing is launched until the
//! consistency grace is over, counted from the end of the call, and an error of the kind *retryable* says so. What this process itself
//! was told of is remembered, so that it waits for nothing it knows.
//!
//! **Where tags cannot be given in the call** they are added right after it, and the launch has failed while they are not: it is repeated
//! and finds its machines by token, or by user data.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_ec2::operation::run_instances::RunInstancesOutput;
use aws_sdk_ec2::types::Instance;
use epu_core::id::LaunchId;
use epu_core::launch::Purpose;
use epu_core::time::Timestamp;
use tracing::debug;

use super::account::{CHANGING, held};
use super::classes;
use super::driver::Ec2;
use super::failure::Failure;
use super::origin::{self, Seen};
use super::request::{Wanted, tagged};
use crate::iaas::{Class, IaasError, IaasLaunch, Machine, MachineState};
use crate::pace::Action;

/// Machines of a launch that are given their instance's name afterwards. It takes a call for each: beyond this, requests that launching
/// and watching need would go into labels.
pub(super) const NAMED_MOST: usize = 50;
/// Launches whose machines are being named at the same time; others go without.
pub(super) const NAMING_MOST: usize = 4;
/// How long it is remembered what calls for a launch gave; launches are not repeated after an hour.
const REMEMBERED: Duration = Duration::from_secs(7_200);

/// What this process knows of launches at a site without client tokens.
#[derive(Debug, Default)]
pub(super) struct Memory {
    launches: BTreeMap<LaunchId, Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    touched: Timestamp,
    /// A call that ended then may have launched what is not listed yet.
    unsure_since: Option<Timestamp>,
    made: BTreeMap<u32, Machine>,
    /// One call at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Memory {
    /// What is known of a launch. One that is not known and may have been called by somebody else may have come to something just now.
    fn of(&mut self, launch: &IaasLaunch, now: Timestamp) -> &mut Remembered {
        self.launches
            .retain(|id, known| *id == launch.launch || now.since(known.touched) < REMEMBERED);
        let known = self.launches.entry(launch.launch).or_insert_with(|| Remembered {
            unsure_since: launch.doubtful.then_some(now),
            ..Remembered::default()
        });
        known.touched = now;
        known
    }
}

/// A call of which nobody knows yet what comes of it. Dropped unsettled, as when whoever waits for it gives up, it may have launched.
struct Unsure<'a> {
    site: &'a Ec2,
    launch: &'a IaasLaunch,
    is_settled: bool,
}

impl Unsure<'_> {
    /// It is known: what it launched was seen, or it was refused.
    fn settle(mut self) {
        let now = self.site.clock.now();
        held(&self.site.memory).of(self.launch, now).unsure_since = None;
        self.is_settled = true;
    }
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            let now = self.site.clock.now();
            held(&self.site.memory).of(self.launch, now).unsure_since = Some(now);
        }
    }
}

pub(super) fn memory() -> Arc<Mutex<Memory>> {
    Arc::default()
}

impl Ec2 {
    pub(super) async fn launch_all(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        let result = if self.account.manner.batch {
            self.in_one_call(launch).await
        } else {
            self.one_by_one(launch).await
        };
        self.account.changed();
        let machines = result.map_err(|mut error| {
            // The site may quote what it was sent.
            if !launch.launch_token.0.is_empty() {
                error.text = error.text.replace(&launch.launch_token.0, "***");
            }
            error
        })?;
        self.just_launched(&machines);
        if self.account.manner.batch {
            self.name_later(launch, &machines);
        }
        Ok(machines)
    }

    fn wanted<'a>(&'a self, launch: &'a IaasLaunch, index: Option<u32>) -> Wanted<'a> {
        Wanted {
            site: &self.name,
            launch,
            manner: self.account.manner,
            ca_pem: self.ca_pem.as_deref(),
            index,
        }
    }

    async fn run(&self, wanted: &Wanted<'_>, doing: &str) -> Result<RunInstancesOutput, Failure> {
        let request = wanted.request().map_err(|error| Failure {
            code: None,
            message: String::new(),
            is_keyless: false,
            error,
        })?;
        let sent = request.send_with(&self.account.client.ec2);
        self.account.call(Action::RunInstances, doing, CHANGING, sent).await
    }

    // ---- one call

    async fn in_one_call(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        let doing = self.doing(&format!("launch {} machines", launch.instances.len()));
        let wanted = self.wanted(launch, None);
        let mut seen: Vec<Seen> = match self.run(&wanted, &doing).await {
            Ok(answer) => answer
                .instances()
                .iter()
                .filter_map(|instance| self.launched(instance, &wanted))
                .collect(),
            Err(failure) if failure.is(classes::ENDED) => {
                let found = self.account.find(launch.launch).await?;
                if found.is_empty() {
                    return Err(failure.into());
                }
                found
            }
            Err(failure) => return Err(failure.into()),
        };
        seen.sort_by(|a, b| (a.machine.index, &a.machine.id).cmp(&(b.machine.index, &b.machine.id)));
        if !self.account.manner.tags {
            self.tag_now(&wanted, &seen).await?;
        }
        Ok(seen.into_iter().map(|seen| seen.machine).collect())
    }

    fn launched(&self, instance: &Instance, wanted: &Wanted<'_>) -> Option<Seen> {
        let is_tagged = origin::tag(instance, origin::INSTALLATION).is_some();
        let mut seen = origin::seen(instance, Some(wanted.origin()), self.account.manner, is_tagged)?;
        seen.machine.launch = Some(wanted.launch.launch);
        if wanted.index.is_some() {
            seen.machine.index = wanted.index;
        }
        Some(seen)
    }

    /// Tags that could not be given in the call.
    async fn tag_now(&self, wanted: &Wanted<'_>, seen: &[Seen]) -> Result<(), IaasError> {
        let bare: Vec<String> = seen
            .iter()
            .filter(|seen| !seen.is_tagged && seen.machine.state != MachineState::Gone)
            .map(|seen| seen.machine.id.clone())
            .collect();
        if bare.is_empty() {
            return Ok(());
        }
        match self.account.tag(&bare, wanted.tags(), Purpose::Replace).await {
            Ok(()) => Ok(()),
            Err(mut failure) => {
                // Launched just now, and perhaps not known everywhere yet. And it was launched: too many calls for tags does not mean that
                // nothing came of the launch.
                if failure.is_about_ids() || failure.error.class.is_passing() {
                    failure.error.class = Class::Retryable;
                }
                Err(failure.into())
            }
        }
    }

    /// Gives machines the names of their instances, for people. Whether that succeeds matters to nothing.
    fn name_later(&self, launch: &IaasLaunch, machines: &[Machine]) {
        let nameless: Vec<(String, Vec<aws_sdk_ec2::types::Tag>)> = machines
            .iter()
            .filter(|machine| machine.instance.is_none() && machine.state != MachineState::Gone)
            .filter_map(|machine| {
                let instance = launch.instances.get(usize::try_from(machine.index?).ok()?)?;
                let mut tags = vec![tagged(origin::INSTANCE, &instance.to_string())];
                if !launch.template.machine.tags.contains_key(origin::NAME) {
                    tags.push(tagged(origin::NAME, &format!("{} {}", launch.pool, instance.short())));
                }
                Some((machine.id.clone(), tags))
            })
            .collect();
        if nameless.is_empty() || machines.len() > NAMED_MOST {
            return;
        }
        let Ok(permit) = self.naming.clone().try_acquire_owned() else {
            return;
        };
        let account = self.account.clone();
        tokio::spawn(async move {
            let _permit = permit;
            for (id, tags) in nameless {
                if let Err(failure) = account.tag(&[id], tags, Purpose::Refresh).await {
                    debug!(error = %failure.error, "a machine was not given its instance's name");
                    return;
                }
            }
        });
    }

    // ---- one machine a call

    async fn one_by_one(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        let turn = held(&self.memory).of(launch, self.clock.now()).turn.clone();
        let _one_call_at_a_time = turn.lock().await;
        let mut machines = if self.account.manner.tokens {
            BTreeMap::new()
        } else {
            self.those_there(launch).await?
        };
        let mut is_first = true;
        for index in 0..u32::try_from(launch.instances.len()).unwrap_or(u32::MAX) {
            if machines.contains_key(&index) {
                continue;
            }
            // The first has its turn, with all their machines counted.
            if !std::mem::take(&mut is_first) {
                self.account.turn(Action::RunInstances, 0, Purpose::Grow).await;
            }
            match self.one(launch, index).await {
                Ok(machine) => {
                    machines.insert(index, machine);
                }
                Err(error) if error.class.is_passing() => return Err(error),
                Err(error) => {
                    let some = machines.values().filter(|machine| machine.state != MachineState::Gone).count();
                    if u32::try_from(some).unwrap_or(u32::MAX) >= launch.min.max(1) {
                        break;
                    }
                    // Fewer than make it worth having.
                    let begun: Vec<String> = machines.values().map(|machine| machine.id.clone()).collect();
                    if !begun.is_empty() {
                        self.account
                            .turn(
                                Action::TerminateInstances,
                                u32::try_from(begun.len()).unwrap_or(u32::MAX),
                                Purpose::Grow,
                            )
                            .await;
                        self.account
                            .terminate(&begun, usize::MAX, &self.doing("end a launch that came to too little"))
                            .await?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(machines.into_values().collect())
    }

    /// The machines of a launch that there are, or that this process was told of.
    async fn those_there(&self, launch: &IaasLaunch) -> Result<BTreeMap<u32, Machine>, IaasError> {
        let now = self.clock.now();
        let (unsure, made) = {
            let mut memory = held(&self.memory);
            let known = memory.of(launch, now);
            (known.unsure_since, known.made.clone())
        };
        let grace = *self.settings.consistency_grace;
        if let Some(since) = unsure {
            let passed = now.since(since);
            if passed < grace {
                let left = epu_core::Span(Duration::from_secs((grace - passed).as_secs() + 1));
                return Err(IaasError::new(
                    Class::Retryable,
                    format!(
                        "{}: it may have been called before, and what that launched is listed in {left} at the latest; this site has no \
                         client tokens, so that nothing is launched until then",
                        self.doing("launch")
                    ),
                ));
            }
        }
        let found = self.account.find(launch.launch).await?;
        let mut machines: BTreeMap<u32, Machine> = BTreeMap::new();
        for seen in &found {
            let Some(index) = seen.machine.index else { continue };
            if !self.account.manner.tags {
                self.tag_now(&self.wanted(launch, Some(index)), std::slice::from_ref(seen)).await?;
            }
            // Of two with one index the one that runs; the other is nobody's, and swept.
            let better = machines.get(&index).is_none_or(|known| known.state > seen.machine.state);
            if better {
                machines.insert(index, seen.machine.clone());
            }
        }
        for (index, machine) in made {
            machines.entry(index).or_insert(machine);
        }
        held(&self.memory).of(launch, now).unsure_since = None;
        Ok(machines)
    }

    async fn one(&self, launch: &IaasLaunch, index: u32) -> Result<Machine, IaasError> {
        let doing = self.doing(&format!("launch machine {index} of {}", launch.instances.len()));
        let wanted = self.wanted(launch, Some(index));
        let unsure = Unsure {
            site: self,
            launch,
            is_settled: false,
        };
        let result = self.run(&wanted, &doing).await;
        let is_known = match &result {
            Ok(answer) => !answer.instances().is_empty(),
            Err(failure) => failure.error.class != Class::Retryable,
        };
        if is_known {
            unsure.settle();
        } else {
            drop(unsure);
        }
        let seen = match result {
            Ok(answer) => answer.instances().first().and_then(|instance| self.launched(instance, &wanted)),
            Err(failure) if failure.is(classes::ENDED) => {
                let found = self.account.find(launch.launch).await?;
                let one = found.into_iter().find(|seen| seen.machine.index == Some(index));
                return one.map(|seen| seen.machine).ok_or(failure.error);
            }
            Err(failure) => return Err(failure.into()),
        };
        let seen = seen.ok_or_else(|| IaasError::new(Class::Retryable, format!("{doing}: the answer names no machine")))?;
        held(&self.memory)
            .of(launch, self.clock.now())
            .made
            .insert(index, seen.machine.clone());
        if !self.account.manner.tags {
            self.tag_now(&wanted, std::slice::from_ref(&seen)).await?;
        }
        Ok(seen.machine)
    }
}

#[cfg(test)]
mod tests {
    use epu_core::random::Random;

    use super::*;

    const BEGIN: Timestamp = Timestamp(1_763_840_236_000);

    fn at(seconds: u64) -> Timestamp {
        BEGIN + Duration::from_secs(seconds)
    }

    fn launch(id: LaunchId) -> IaasLaunch {
        IaasLaunch {
            installation: "here".to_owned(),
            launch: id,
            pool: epu_core::PoolName::new("web").unwrap(),
            instances: Vec::new(),
            min: 1,
            launch_token: crate::iaas::LaunchToken("l.token".to_owned()),
            url: String::new(),
            template: serde_json::from_value(serde_json::json!({ "run": ["work"] })).unwrap(),
            doubtful: false,
        }
    }

    #[test]
    fn memory_does_not_grow_for_ever() {
        let random = Random::seeded(2);
        let mut memory = Memory::default();
        for hour in 0..50 {
            let now = at(hour * 3_600);
            memory.of(&launch(LaunchId(random.uuid(now))), now);
        }
        assert!(memory.launches.len() <= 3, "{}", memory.launches.len());
    }
}
