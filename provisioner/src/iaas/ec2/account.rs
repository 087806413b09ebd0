//! What sites of one account in one region share: the connection, the pace of calls, and one list of machines.
//!
//! **The account is found out once**, by asking who we are, because the site counts calls by account and not by key. Where nobody can be
//! asked, or does not answer, calls are paced by key until somebody does.
//!
//! **One list for all sites**: who wants a list while one is being made, or was just made, gets that one. A site takes its own machines
//! out of it, by their tag; the first site, in the order of names, also takes machines of a site that is configured no more, so that they
//! are in somebody's list. Nothing is held across a call but the turn to list, which ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aws_sdk_ec2::config::ProvideCredentials;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use epu_core::id::SiteName;
use epu_core::launch::Purpose;
use epu_core::time::{Clock, Timestamp};
use tokio::sync::Semaphore;

use super::client::Client;
use super::failure::Failure;
use super::origin::{Manner, Origin, Seen};
use super::settings::Ec2Settings;
use super::{Accounts, Ec2Parts};
use crate::iaas::{Class, IaasError};
use crate::pace::{Action, Pace, Pacers};

/// For a call that only asks. Too low: a large page does not come. Too high: a lost answer holds a look up.
pub(super) const ASKING: Duration = Duration::from_secs(20);
/// For one that changes something: a little longer than the connection's own limit, which says more.
pub(super) const CHANGING: Duration = Duration::from_secs(56);
/// To find out who we are. Too high: the first call waits for it.
const WHO: Duration = Duration::from_secs(8);
/// Wait before that is asked again when there was no answer.
const WHO_AGAIN: Duration = Duration::from_secs(300);
/// How old a list may be that is given to another site.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// All accounts of a process.
#[derive(Debug, Default)]
pub(super) struct Known {
    accounts: BTreeMap<String, Weak<Account>>,
    /// Every site there is, whatever its account, with how many drivers of that name there are.
    sites: BTreeMap<SiteName, u32>,
}

/// A driver's place in its account; dropped with the driver. A site whose settings change has two for a moment.
#[derive(Debug)]
pub(super) struct Membership {
    account: Arc<Account>,
    site: SiteName,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut known = held(&self.account.accounts.known);
        leave(&mut known.sites, &self.site);
        let mut sites = held(&self.account.sites);
        leave(&mut sites, &self.site);
        if !sites.contains_key(&self.site) {
            let mut who = held(&self.account.who);
            who.limits.remove(&self.site);
            if let Some(pace) = &who.pace {
                pace.limit(self.site.as_str(), &BTreeMap::new());
            }
        }
    }
}

fn leave(sites: &mut BTreeMap<SiteName, u32>, site: &SiteName) {
    let left = sites.get(site).map_or(0, |drivers| drivers.saturating_sub(1));
    if left == 0 {
        sites.remove(site);
    } else {
        sites.insert(site.clone(), left);
    }
}

/// One account in one region, as one set of credentials reaches it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) client: Client,
    pub(super) manner: Manner,
    pub(super) status_checks: bool,
    pub(super) installation: String,
    pub(super) region: String,
    endpoint: Option<String>,
    pub(super) clock: Arc<dyn Clock>,
    pacers: Arc<Pacers>,
    accounts: Accounts,
    /// The sites that share it.
    sites: Mutex<BTreeMap<SiteName, u32>>,
    who: Mutex<Who>,
    finding_out: tokio::sync::Mutex<()>,
    pub(super) listed: tokio::sync::Mutex<Option<Listed>>,
    changes: AtomicU64,
    /// Missing tags are added by one task at a time.
    pub(super) mending: Arc<Semaphore>,
    /// The machines that were given theirs.
    pub(super) mended: Mutex<BTreeSet<String>>,
    /// A call succeeded, so that there were credentials.
    had_keys: AtomicBool,
    /// What the user data of untagged machines said; `None`: they are not ours.
    pub(super) origins: Mutex<BTreeMap<String, Option<Origin>>>,
}

/// The last list.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) began: Timestamp,
    /// How much we had changed by then.
    pub(super) changes: u64,
    pub(super) result: Result<Arc<Vec<Seen>>, IaasError>,
}

#[derive(Debug, Default)]
struct Who {
    /// The account's number, once known.
    number: Option<String>,
    pace: Option<Arc<Pace>>,
    asked: Option<Timestamp>,
    /// What sites set, for whatever buckets there will be.
    limits: BTreeMap<SiteName, BTreeMap<String, super::settings::BucketSpec>>,
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    /// The account of a site, shared with the sites that reach the same one in the same way.
    pub(super) fn of(name: &SiteName, settings: &Ec2Settings, parts: &Ec2Parts) -> (Arc<Self>, Membership) {
        let manner = Manner::of(settings);
        // References, not what they hold.
        let key = format!(
            "{:?}",
            (
                (
                    &parts.installation,
                    &settings.region,
                    &settings.endpoint,
                    &settings.identity_endpoint
                ),
                (&settings.credentials, manner, settings.status_checks),
            )
        );
        let mut known = held(&parts.accounts.known);
        *known.sites.entry(name.clone()).or_default() += 1;
        known.accounts.retain(|_, account| account.strong_count() > 0);
        let account = known.accounts.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let account = Arc::new(Self {
                client: Client::new(settings, parts.clock.clone()),
                manner,
                status_checks: settings.status_checks,
                installation: parts.installation.clone(),
                region: settings.region.clone(),
                endpoint: settings.endpoint.clone(),
                clock: parts.clock.clone(),
                pacers: parts.pacers.clone(),
                accounts: parts.accounts.clone(),
                sites: Mutex::default(),
                who: Mutex::default(),
                finding_out: tokio::sync::Mutex::default(),
                listed: tokio::sync::Mutex::default(),
                changes: AtomicU64::new(0),
                mending: Arc::new(Semaphore::new(1)),
                mended: Mutex::default(),
                had_keys: AtomicBool::new(false),
                origins: Mutex::default(),
            });
            known.accounts.insert(key, Arc::downgrade(&account));
            account
        });
        *held(&account.sites).entry(name.clone()).or_default() += 1;
        let mut who = held(&account.who);
        who.limits.insert(name.clone(), settings.pace.clone());
        if let Some(pace) = &who.pace {
            pace.limit(name.as_str(), &settings.pace);
        }
        drop(who);
        drop(known);
        let membership = Membership {
            account: account.clone(),
            site: name.clone(),
        };
        (account, membership)
    }

    /// Whether a machine with this tag, or none, is in the list of this site.
    pub(super) fn is_listed_by(&self, site: &SiteName, tag: Option<&str>) -> bool {
        if tag == Some(site.as_str()) {
            return true;
        }
        let is_somebodys = tag.is_some_and(|tag| held(&self.accounts.known).sites.keys().any(|known| known.as_str() == tag));
        !is_somebodys && held(&self.sites).keys().next() == Some(site)
    }

    /// The site, where there is only one.
    pub(super) fn only_site(&self) -> Option<SiteName> {
        let sites = held(&self.sites);
        sites.keys().next().filter(|_| sites.len() == 1).cloned()
    }

    /// Something was launched or ended: lists made before are old.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    // ---- who we are

    /// The account's number, where it is known.
    pub(super) fn number(&self) -> Option<String> {
        held(&self.who).number.clone()
    }

    /// The buckets, where some call was made already.
    pub(super) fn known_pace(&self) -> Option<Arc<Pace>> {
        held(&self.who).pace.clone()
    }

    async fn pace(&self) -> Arc<Pace> {
        if let Some(pace) = self.settled() {
            return pace;
        }
        let _one = self.finding_out.lock().await;
        if let Some(pace) = self.settled() {
            return pace;
        }
        let number = self.ask().await.ok().map(|(number, _)| number);
        let account = match &number {
            Some(number) => number.clone(),
            None => self.stand_in().await,
        };
        // Two clouds may have an account of the same number.
        let account = match self.endpoint.as_deref().and_then(host) {
            Some(host) => format!("{account}@{host}"),
            None => account,
        };
        let pace = self.pacers.account(&account, &self.region);
        let mut who = held(&self.who);
        for (site, limits) in &who.limits {
            pace.limit(site.as_str(), limits);
        }
        if let Some(before) = who.pace.as_ref().filter(|before| !Arc::ptr_eq(before, &pace)) {
            for site in who.limits.keys() {
                before.limit(site.as_str(), &BTreeMap::new());
            }
        }
        who.number = number;
        who.asked = Some(self.clock.now());
        who.pace = Some(pace.clone());
        pace
    }

    /// What there is, unless it is time to ask again who we are.
    fn settled(&self) -> Option<Arc<Pace>> {
        let who = held(&self.who);
        let is_due =
            self.client.sts.is_some() && who.number.is_none() && who.asked.is_none_or(|asked| self.clock.now().since(asked) >= WHO_AGAIN);
        who.pace.clone().filter(|_| !is_due)
    }

    /// The account's number and our name there, from whoever knows.
    pub(super) async fn ask(&self) -> Result<(String, String), Failure> {
        let doing = "ask who we are";
        let Some(sts) = &self.client.sts else {
            return Err(Failure::new(
                Class::Permanent,
                doing,
                "nobody to ask: the site has an `endpoint` and no `identity-endpoint`",
            ));
        };
        let answer = match tokio::time::timeout(WHO, sts.get_caller_identity().send()).await {
            Ok(answer) => answer.map_err(|error| Failure::of(doing, &error))?,
            Err(_) => return Err(Failure::late(doing, WHO)),
        };
        let number = answer.account().unwrap_or_default().to_owned();
        if number.is_empty() {
            return Err(Failure::new(Class::Retryable, doing, "the answer names no account"));
        }
        Ok((number, answer.arn().unwrap_or_default().to_owned()))
    }

    /// Whose account this is and where; none where nobody can say.
    pub(super) async fn identity(&self) -> Result<Option<String>, IaasError> {
        if self.client.sts.is_none() {
            return Ok(None);
        }
        let (number, _) = self.ask().await?;
        let at = self.endpoint.as_deref().map_or("", |endpoint| endpoint.trim_end_matches('/'));
        Ok(Some(format!("{number}/{}/{at}", self.region)))
    }

    /// What stands for the account while it is not known: the key, abbreviated, or the site.
    async fn stand_in(&self) -> String {
        match tokio::time::timeout(WHO, self.client.credentials.provide_credentials()).await {
            Ok(Ok(keys)) => format!("key-{:08x}", epu_core::hash::hash(keys.access_key_id().bytes()) >> 32),
            Ok(Err(_)) | Err(_) => {
                let first = held(&self.sites).keys().next().map(SiteName::to_string);
                format!("site-{}", first.unwrap_or_default())
            }
        }
    }

    // ---- calls

    /// Waits until a call may be made.
    pub(super) async fn turn(&self, action: Action, machines: u32, purpose: Purpose) {
        self.pace().await.turn(action, machines, purpose).await;
    }

    /// Makes a call that has its turn.
    pub(super) async fn call<T, E>(
        &self,
        action: Action,
        doing: &str,
        within: Duration,
        sent: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match tokio::time::timeout(within, sent).await {
            Ok(Ok(answer)) => {
                self.had_keys.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                let mut failure = Failure::of(doing, &error);
                if failure.is_keyless && self.had_keys.load(Ordering::Relaxed) {
                    failure.error.class = Class::Retryable;
                }
                if failure.error.class == Class::Throttled {
                    self.pace().await.throttled(action);
                }
                Err(failure)
            }
            Err(_) => Err(Failure::late(doing, within)),
        }
    }

    /// Waits for its turn and makes a call that only asks, or changes nothing that waits for it.
    pub(super) async fn asked<T, E>(
        &self,
        action: Action,
        doing: &str,
        sent: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        self.turn(action, 0, Purpose::Grow).await;
        self.call(action, doing, ASKING, sent).await
    }
}

/// Host and port of a url.
fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split('/').next()
}
