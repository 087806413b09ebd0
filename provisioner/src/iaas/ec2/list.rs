//! All machines of this installation, in pages.
//!
//! The list is complete or an error: a page that does not come, pages that go in circles, or a machine that cannot be told ours from not
//! ours make it one. Where tags come with the launch, the site itself leaves out what is not ours. Elsewhere every machine of the account
//! is looked at, and one without tags is ours when its client token says so, or where there are no tokens its user data; tags that are
//! missing are then added.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_sdk_ec2::types::{Filter, Instance, InstanceAttributeName, SummaryStatus};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::id::{LaunchId, SiteName};
use epu_core::launch::Purpose;
use tracing::{debug, warn};

use super::account::{ASKING, Account, FRESH, Listed, held};
use super::failure::Failure;
use super::origin::{self, Origin, Seen};
use super::request::tagged;
use crate::iaas::{Class, IaasError, Machine, MachineState};
use crate::pace::Action;

/// Machines of a page: the most that EC2 gives.
const PAGE: i32 = 1_000;
/// Pages of a list. Too low: a large account cannot be listed. Too high: a site that never ends a list keeps us busy.
const PAGES_MOST: usize = 2_000;

/// How far a list of several pages is: it ends, and never reads a page twice.
struct Pages {
    doing: &'static str,
    /// The token of the page to read; none for the first.
    next: Option<String>,
    tokens: BTreeSet<String>,
    read: usize,
}

impl Pages {
    fn of(doing: &'static str) -> Self {
        Self {
            doing,
            next: None,
            tokens: BTreeSet::new(),
            read: 0,
        }
    }

    /// A page was read, and names the next so. Whether there is one.
    fn turn(&mut self, next: Option<String>) -> Result<bool, Failure> {
        self.read += 1;
        self.next = next.filter(|token| !token.is_empty());
        let Some(token) = &self.next else { return Ok(false) };
        let wrong = |why: String| Err(Failure::new(Class::Retryable, self.doing, why));
        if !self.tokens.insert(token.clone()) {
            return wrong("its pages go in circles: the same page comes next again".to_owned());
        }
        if self.read >= PAGES_MOST {
            return wrong(format!("it does not end after {PAGES_MOST} pages"));
        }
        Ok(true)
    }
}
/// Machines whose user data is read for one list. What was read is kept, so the next list goes on from there.
const USER_DATA_MOST: usize = 100;
/// Launches whose missing tags are added after one list.
const MEND_MOST: usize = 20;

/// What counts as being there.
const THERE: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

fn filter(name: &str, values: &[&str]) -> Filter {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

impl Account {
    /// The machines of a site, from a list that is at most a moment old.
    pub(super) async fn list(self: &Arc<Self>, site: &SiteName) -> Result<Vec<Machine>, IaasError> {
        let (wanted, changes) = (self.clock.now(), self.changes());
        let mut last = self.listed.lock().await;
        // Of two sites that look at the same time one waits here, and finds the other's list.
        let is_fresh = |listed: &&Listed| wanted.since(listed.began) < FRESH && listed.changes >= changes;
        let all = match last.as_ref().filter(is_fresh) {
            Some(listed) => listed.result.clone()?,
            None => {
                let (began, changes) = (self.clock.now(), self.changes());
                let result = self.survey(None).await.map(Arc::new).map_err(IaasError::from);
                *last = Some(Listed {
                    began,
                    changes,
                    result: result.clone(),
                });
                result?
            }
        };
        drop(last);
        let own = all.iter().filter(|seen| self.is_listed_by(site, seen.site.as_deref()));
        Ok(own.map(|seen| seen.machine.clone()).collect())
    }

    /// The machines of a launch, also those that have ended, with whether they are tagged.
    pub(super) async fn find(self: &Arc<Self>, launch: LaunchId) -> Result<Vec<Seen>, Failure> {
        let mut found = self.survey(Some(launch)).await?;
        found.retain(|seen| seen.machine.launch == Some(launch));
        Ok(found)
    }

    /// All machines of ours that are there; or all of a launch, whether they are there or not.
    async fn survey(self: &Arc<Self>, launch: Option<LaunchId>) -> Result<Vec<Seen>, Failure> {
        let mut filters = Vec::new();
        if launch.is_none() {
            filters.push(filter("instance-state-name", &THERE));
        }
        if self.manner.tags {
            filters.push(filter(&format!("tag:{}", origin::INSTALLATION), &[&self.installation]));
            if let Some(launch) = launch {
                filters.push(filter(&format!("tag:{}", origin::LAUNCH), &[&launch.to_string()]));
            }
        }
        let mut ours: BTreeMap<String, Seen> = BTreeMap::new();
        let mut unknown: BTreeMap<String, Instance> = BTreeMap::new();
        self.pages(filters, |instance| {
            let Some(id) = instance.instance_id() else { return };
            let (whose, origin) = self.whose(instance);
            match whose {
                Whose::Ours { is_tagged } => {
                    if let Some(seen) = origin::seen(instance, origin, self.manner, is_tagged) {
                        ours.insert(id.to_owned(), seen);
                    }
                }
                Whose::Unknown => {
                    unknown.insert(id.to_owned(), instance.clone());
                }
                Whose::Others => {}
            }
        })
        .await?;
        let read = self.read_user_data(&unknown, launch.is_none()).await?;
        for (id, origin) in read {
            let seen = unknown
                .get(&id)
                .and_then(|instance| origin::seen(instance, Some(origin), self.manner, false));
            if let Some(seen) = seen {
                ours.insert(id, seen);
            }
        }
        if launch.is_none() {
            self.mend(&ours);
            if self.status_checks {
                let passed = self.passed_checks().await?;
                for seen in ours.values_mut().filter(|seen| seen.machine.state == MachineState::Running) {
                    if !passed.contains(&seen.machine.id) {
                        seen.machine.state = MachineState::Pending;
                    }
                }
            }
        }
        Ok(ours.into_values().collect())
    }

    fn whose(&self, instance: &Instance) -> (Whose, Option<Origin>) {
        match origin::tag(instance, origin::INSTALLATION) {
            Some(tag) if tag == self.installation => {
                // Tags that were mended do not say for which site it is; the repeated launch adds that.
                let is_tagged = self.manner.tags || origin::tag(instance, origin::SITE).is_some();
                return (Whose::Ours { is_tagged }, None);
            }
            Some(_) => return (Whose::Others, None),
            None if self.manner.tags => return (Whose::Others, None),
            None => {}
        }
        if self.manner.tokens {
            let origin = instance
                .client_token()
                .and_then(|token| Origin::of_token(token, &self.installation));
            return match origin {
                Some(origin) => (Whose::Ours { is_tagged: false }, Some(origin)),
                None => (Whose::Others, None),
            };
        }
        // A machine that has ended does nothing any more, and may not say what it was told.
        match origin::state(instance) {
            MachineState::Gone => (Whose::Others, None),
            MachineState::Pending | MachineState::Running | MachineState::Stopping | MachineState::Stopped => (Whose::Unknown, None),
        }
    }

    /// Goes through all pages of DescribeInstances.
    async fn pages(&self, filters: Vec<Filter>, mut take: impl FnMut(&Instance)) -> Result<(), Failure> {
        let doing = "list machines";
        let mut pages = Pages::of(doing);
        loop {
            self.turn(Action::DescribeInstances, 0, Purpose::Replace).await;
            let asked = self.client.ec2.describe_instances().max_results(PAGE);
            let asked = asked
                .set_filters(Some(filters.clone()).filter(|filters| !filters.is_empty()))
                .set_next_token(pages.next.clone());
            let page = self.call(Action::DescribeInstances, doing, ASKING, asked.send()).await?;
            page.reservations()
                .iter()
                .flat_map(|reservation| reservation.instances())
                .for_each(&mut take);
            if !pages.turn(page.next_token)? {
                return Ok(());
            }
        }
    }

    /// The machines whose checks by the site passed.
    async fn passed_checks(&self) -> Result<BTreeSet<String>, Failure> {
        let doing = "list the status of machines";
        let (mut pages, mut passed) = (Pages::of(doing), BTreeSet::new());
        let is_ok = |status: Option<&SummaryStatus>| matches!(status, Some(SummaryStatus::Ok | SummaryStatus::NotApplicable));
        loop {
            self.turn(Action::DescribeInstanceStatus, 0, Purpose::Grow).await;
            let asked = self.client.ec2.describe_instance_status().max_results(PAGE);
            let asked = asked.set_next_token(pages.next.clone());
            let page = self.call(Action::DescribeInstanceStatus, doing, ASKING, asked.send()).await?;
            for status in page.instance_statuses() {
                let both = [status.system_status(), status.instance_status()];
                if both.into_iter().all(|one| is_ok(one.and_then(|one| one.status()))) {
                    passed.extend(status.instance_id().map(str::to_owned));
                }
            }
            if !pages.turn(page.next_token)? {
                return Ok(passed);
            }
        }
    }

    /// What the user data of these machines says; those that are ours.
    async fn read_user_data(&self, unknown: &BTreeMap<String, Instance>, is_all: bool) -> Result<BTreeMap<String, Origin>, Failure> {
        let missing: Vec<String> = {
            let mut origins = held(&self.origins);
            if is_all {
                origins.retain(|id, _| unknown.contains_key(id));
            }
            unknown.keys().filter(|id| !origins.contains_key(*id)).cloned().collect()
        };
        for id in missing.iter().take(USER_DATA_MOST) {
            let origin = self.user_data_origin(id).await?;
            held(&self.origins).insert(id.clone(), origin);
        }
        if missing.len() > USER_DATA_MOST {
            return Err(Failure::new(
                Class::Retryable,
                "list machines",
                format!(
                    "{} machines without tags have yet to be told ours from not ours, by their user data; the next list goes on",
                    missing.len() - USER_DATA_MOST
                ),
            ));
        }
        let origins = held(&self.origins);
        Ok(unknown.keys().filter_map(|id| Some((id.clone(), (*origins.get(id)?)?))).collect())
    }

    async fn user_data_origin(&self, id: &str) -> Result<Option<Origin>, Failure> {
        let asked = self.client.ec2.describe_instance_attribute().instance_id(id);
        let asked = asked.attribute(InstanceAttributeName::UserData);
        let doing = format!("read the user data of machine {id}");
        let answer = match self.asked(Action::Question, &doing, asked.send()).await {
            Ok(answer) => answer,
            // It ended since it was listed.
            Err(failure) if failure.is_about_ids() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let encoded = answer.user_data().and_then(|value| value.value()).unwrap_or_default();
        let text = STANDARD.decode(encoded.trim()).unwrap_or_default();
        Ok(Origin::of_user_data(&String::from_utf8_lossy(&text), &self.installation))
    }

    /// Adds tags that are missing because we, or a predecessor, ended between launching and tagging. In the background: the list is
    /// right without them, and the next one tries again.
    fn mend(self: &Arc<Self>, ours: &BTreeMap<String, Seen>) {
        let mut launches: BTreeMap<(LaunchId, Option<u32>), Vec<String>> = BTreeMap::new();
        let mended = {
            let mut mended = held(&self.mended);
            mended.retain(|id| ours.contains_key(id));
            mended.clone()
        };
        for seen in ours.values().filter(|seen| !seen.is_tagged && !mended.contains(&seen.machine.id)) {
            let Some(launch) = seen.machine.launch else { continue };
            let index = seen.machine.index.filter(|_| !self.manner.batch);
            launches.entry((launch, index)).or_default().push(seen.machine.id.clone());
        }
        if launches.is_empty() {
            return;
        }
        let Ok(permit) = self.mending.clone().try_acquire_owned() else {
            return;
        };
        let account = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            for ((launch, index), machines) in launches.into_iter().take(MEND_MOST) {
                let mut tags = vec![
                    tagged(origin::INSTALLATION, &account.installation),
                    tagged(origin::LAUNCH, &launch.to_string()),
                ];
                tags.extend(index.map(|index| tagged(origin::INDEX, &index.to_string())));
                // Of several sites the repeated launch says which it is.
                tags.extend(account.only_site().map(|site| tagged(origin::SITE, site.as_str())));
                match account.tag(&machines, tags, Purpose::Grow).await {
                    Ok(()) => {
                        debug!(%launch, "missing tags were added");
                        held(&account.mended).extend(machines);
                    }
                    Err(failure) => warn!(error = %failure.error, "missing tags were not added; the next list tries again"),
                }
            }
        });
    }
}

/// Whose a machine is.
enum Whose {
    Ours {
        is_tagged: bool,
    },
    Others,
    /// Only its user data can say.
    Unknown,
}
