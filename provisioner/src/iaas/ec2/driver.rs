//! The driver: the contract of [`Iaas`] on what the other files do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::id::{InstanceId, SiteName};
use epu_core::launch::Purpose;
use epu_core::random::Random;
use epu_core::request::{BucketView, Finding, NamedTemplate};
use epu_core::time::{Clock, Timestamp};
use tokio::sync::Semaphore;

use super::account::{Account, Membership, held};
use super::run::{self, Memory};
use super::settings::Ec2Settings;
use super::{Ec2Parts, check};
use crate::iaas::{Admission, Capabilities, Class, Iaas, IaasError, IaasLaunch, Machine, MachineState};
use crate::pace::{Action, capacity, unknown_names};

/// How often a machine must be called gone before it is believed: one answer may come from a part of the site that lags.
const GONE_CONFIRMATIONS: u32 = 2;
/// Machines of a launch where each takes a call of its own: then every machine has a launch, a record and a token to itself, and nothing
/// has to number them. The driver takes larger ones all the same.
const ONE_BY_ONE_MOST: u32 = 1;

/// The driver of one site.
pub(super) struct Ec2 {
    pub(super) name: SiteName,
    pub(super) settings: Ec2Settings,
    pub(super) account: Arc<Account>,
    _membership: Membership,
    pub(super) ca_pem: Option<String>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<Random>,
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) naming: Arc<Semaphore>,
    /// When machines were launched that the site may not know everywhere yet.
    fresh: Mutex<BTreeMap<String, Timestamp>>,
}

impl Ec2 {
    pub(super) fn new(name: &SiteName, settings: &Ec2Settings, parts: &Ec2Parts) -> Result<Self, Fault> {
        let refused = |why: String| Fault::new("bad-config", format!("site {name}: {why}"));
        let unknown: Vec<&str> = unknown_names(&settings.pace).collect();
        if !unknown.is_empty() {
            return Err(refused(format!(
                "`pace` has no bucket {}: there are {}",
                unknown.join(", "),
                crate::pace::NAMES.join(", ")
            )));
        }
        if let Some(credentials) = &settings.credentials {
            let keys = (credentials.access_key_id.is_some(), credentials.secret_access_key.is_some());
            match (credentials.profile.is_some(), keys) {
                (true, (false, false)) | (false, (true, true)) => {}
                (true, _) | (false, _) => {
                    return Err(refused(
                        "`credentials` has either `profile`, or both `access-key-id` and `secret-access-key`; left out, they are found as the \
                         vendor's tools find them"
                            .to_owned(),
                    ));
                }
            }
        }
        let (account, membership) = Account::of(name, settings, parts);
        Ok(Self {
            name: name.clone(),
            settings: settings.clone(),
            account,
            _membership: membership,
            ca_pem: parts.ca_pem.clone(),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            memory: run::memory(),
            naming: Arc::new(Semaphore::new(run::NAMING_MOST)),
            fresh: Mutex::default(),
        })
    }

    /// What is being done, for whoever reads of its failure.
    pub(super) fn doing(&self, what: &str) -> String {
        format!("{what} at site {}", self.name)
    }

    /// Remembers machines until the consistency grace is over.
    pub(super) fn just_launched(&self, machines: &[Machine]) {
        let now = self.clock.now();
        let mut fresh = held(&self.fresh);
        fresh.retain(|_, at| now.since(*at) < *self.settings.consistency_grace);
        for machine in machines.iter().filter(|machine| machine.state != MachineState::Gone) {
            fresh.entry(machine.id.clone()).or_insert(now);
        }
    }

    /// Whether it was launched a moment ago, so that a site that does not know it means nothing.
    fn is_fresh(&self, machine: &str) -> bool {
        let at = held(&self.fresh).get(machine).copied();
        at.is_some_and(|at| self.clock.now().since(at) < *self.settings.consistency_grace)
    }

    /// The most machines of one call that ends some: no more than their bucket holds.
    fn end_most(&self) -> usize {
        usize::try_from(capacity(&self.settings.pace, Action::TerminateInstances)).unwrap_or(usize::MAX)
    }

    /// Ends machines. One that was launched a moment ago and is not known yet has not been ended by that.
    pub(super) async fn end(&self, machines: &[String], doing: &str) -> Result<(), IaasError> {
        let unknown = self.account.terminate(machines, self.end_most(), doing).await?;
        match unknown.iter().find(|machine| self.is_fresh(machine)) {
            Some(machine) => Err(IaasError::new(
                Class::Retryable,
                format!("{doing}: the site does not know {machine} yet, which was launched a moment ago"),
            )),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Iaas for Ec2 {
    fn capabilities(&self) -> Capabilities {
        let most = if self.account.manner.batch { u32::MAX } else { ONE_BY_ONE_MOST };
        Capabilities {
            driver: "ec2",
            consistency_grace: self.settings.consistency_grace,
            gone_confirmations: GONE_CONFIRMATIONS,
            look_fast: self.settings.look_fast,
            look_steady: self.settings.look_steady,
            sweep_grace: self.settings.sweep_grace,
            launch_most: self
                .settings
                .launch_most
                .min(most)
                .min(capacity(&self.settings.pace, Action::RunInstances)),
        }
    }

    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        self.launch_all(launch).await
    }

    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        let doing = self.doing(&format!("end {} machines", machines.len()));
        self.end(machines, &doing).await
    }

    async fn list(&self) -> Result<Vec<Machine>, IaasError> {
        self.account.list(&self.name).await
    }

    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        let doing = self.doing(&format!("ask after {} machines", machines.len()));
        let mut said = self.account.describe(machines, &doing).await?;
        for (machine, state) in said.iter_mut().filter(|(_, state)| state.is_none()) {
            *state = self.is_fresh(machine).then_some(MachineState::Pending);
        }
        Ok(said)
    }

    async fn output(&self, _: InstanceId, machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError> {
        match machine {
            Some(machine) => self.account.console(machine, lines).await,
            None => Ok(None),
        }
    }

    async fn admit(&self, call: Admission) {
        match call {
            Admission::Launch { machines, purpose } => self.account.turn(Action::RunInstances, machines, purpose).await,
            Admission::Terminate { machines } => {
                let first = machines.min(u32::try_from(self.end_most()).unwrap_or(u32::MAX));
                self.account.turn(Action::TerminateInstances, first, Purpose::Replace).await;
            }
        }
    }

    /// RunInstances launches all that it can of a call, or answers with an error and has launched nothing. Where its machines are tagged
    /// afterwards, it may be that which was refused.
    fn refuses_whole(&self) -> bool {
        self.account.manner.batch && self.account.manner.tags
    }

    async fn identity(&self) -> Result<Option<String>, IaasError> {
        self.account.identity().await
    }

    async fn check(&self, templates: &[NamedTemplate]) -> Vec<Finding> {
        check::check(self, templates).await
    }

    fn standing(&self) -> (Option<String>, Vec<BucketView>) {
        let levels = self.account.known_pace().map(|pace| pace.levels());
        (self.account.number(), levels.unwrap_or_default())
    }

    /// The site forgets ended machines by itself.
    async fn tidy(&self, _: Timestamp) -> Result<u32, IaasError> {
        Ok(0)
    }
}
