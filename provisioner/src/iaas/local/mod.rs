//! The local driver: workers as processes of this machine, for one installation without any cloud.
//!
//! A machine is the agent of one instance with everything it started. It lives in its own session, its output goes to files and it
//! holds no pipe to us, so that nothing happens to it when the control process dies, however it dies. What runs is read from the
//! process table (`table`); a machine's id is its instance's id.
//!
//! **Started at most once.** Before an agent is started a marker is made in the instance's directory, and only who makes it may
//! start. A marker without a process means that the machine has ended, or died with the control process in the very moment of its
//! start; either way it is gone and its instance is replaced. The agent locks the directory besides.
//!
//! **Two processes with one data directory**, of which one acted until a moment ago, need nothing more: the marker decides which of
//! them starts an instance, and both read the same process table. Should the later one look in the very moment between the other's
//! marker and its process, it believes that machine gone; the process that then appears explains itself to nobody and is swept.
//!
//! **Ending** (`ending`): SIGTERM to the agent, which ends its worker in good order; after the template's `stop-grace` and two
//! seconds SIGKILL to whatever still carries the tag, again and again until nothing does.

mod ending;
mod output;
mod start;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use epu_core::id::InstanceId;
use epu_core::request::{Finding, FindingVerdict, NamedTemplate};
use epu_core::time::{Span, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::ending::Endings;
use self::table::{Group, Table};

use super::{Capabilities, Class, Iaas, IaasError, IaasLaunch, Machine, MachineState};

/// How many directories one tidying removes at the most; the next one goes on.
const TIDY_MOST: u32 = 200;

/// A local site's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LocalSettings {
    /// Most instances at a time. Too high: the machine is overrun. Too low: pools cannot grow.
    #[serde(default = "LocalSettings::default_max_instances")]
    #[schemars(range(min = 1))]
    pub max_instances: u32,
    /// Variables of the control process that agents and workers inherit, besides the usual ones (PATH, HOME, LANG and their like).
    /// Nothing else is inherited, so that no secret of ours reaches a worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_environment: Vec<String>,
}

impl LocalSettings {
    fn default_max_instances() -> u32 {
        1_000
    }
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self {
            max_instances: Self::default_max_instances(),
            pass_environment: Vec::new(),
        }
    }
}

/// What is started for each instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProgram {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, such as `agent`.
    pub arguments: Vec<String>,
}

/// The local driver.
#[derive(Debug)]
pub struct Local {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: LocalSettings,
    agent: AgentProgram,
    installation: String,
    /// The authority by which agents know the services, a PEM text.
    ca: Option<String>,
    /// Where instances have their directories.
    home: PathBuf,
    table: Mutex<Table>,
    /// Held while agents are started: starting is looking first, and two must not look at once.
    starting: Mutex<()>,
    endings: Mutex<Endings>,
}

impl Inner {
    fn directory(&self, instance: InstanceId) -> PathBuf {
        self.home.join(instance.to_string())
    }

    fn groups(&self) -> Result<BTreeMap<InstanceId, Group>, IaasError> {
        held(&self.table).groups().map_err(|error| failed("read the process table", &error))
    }

    /// Machines as they are now; with `twice` the table is read a second time for those that the first look did not see, since a
    /// process can slip through one reading by starting another and ending.
    fn running(&self, twice: bool, wanted: &[String]) -> Result<BTreeMap<InstanceId, Group>, IaasError> {
        let mut groups = self.groups()?;
        let missing = |groups: &BTreeMap<InstanceId, Group>| {
            wanted
                .iter()
                .any(|id| id.parse().is_ok_and(|id: InstanceId| !groups.contains_key(&id)))
        };
        if twice && missing(&groups) {
            groups.extend(self.groups()?);
        }
        Ok(groups)
    }
}

/// A lock whose holder cannot leave half a change behind.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(doing: &str, error: &std::io::Error) -> IaasError {
    IaasError::new(Class::Retryable, format!("{doing}: {error}"))
}

async fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Arc<Inner>) -> Result<T, IaasError> + Send + 'static,
) -> Result<T, IaasError> {
    let inner = inner.clone();
    tokio::task::spawn_blocking(move || work(&inner)).await.unwrap_or_else(|error| {
        Err(IaasError::new(
            Class::Retryable,
            format!("the local driver's thread ended: {error}"),
        ))
    })
}

impl Local {
    /// A driver that keeps instances under `data_dir/instances`. `data_dir` and `agent.program` are best absolute.
    #[must_use]
    pub fn new(installation: &str, data_dir: &Path, agent: AgentProgram, settings: LocalSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                agent,
                installation: installation.to_owned(),
                ca: None,
                home: data_dir.join("instances"),
                table: Mutex::new(Table::new(installation)),
                starting: Mutex::new(()),
                endings: Mutex::new(Endings::default()),
            }),
        }
    }

    /// The same, with agents that know the services by this authority's certificate (PEM) alone. Nothing changes for a driver that is in
    /// use already.
    #[must_use]
    pub fn pinning(mut self, ca: Option<String>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.ca = ca;
        }
        self
    }
}

fn machine(group: &Group, state: MachineState) -> Machine {
    Machine {
        id: group.tag.instance.to_string(),
        launch: group.tag.launch,
        index: group.tag.index,
        instance: Some(group.tag.instance),
        state,
        address: Some("127.0.0.1".to_owned()),
    }
}

#[async_trait]
impl Iaas for Local {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "local",
            consistency_grace: Span::millis(0),
            gone_confirmations: 1,
            look_fast: Span::millis(250),
            look_steady: Span::secs(5),
            sweep_grace: Span::secs(5),
            launch_most: 1_000,
        }
    }

    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        let launch = launch.clone();
        blocking(&self.inner, move |inner| start::launch(inner, &launch)).await
    }

    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        let ids: Vec<InstanceId> = machines.iter().filter_map(|id| id.parse().ok()).collect();
        blocking(&self.inner, move |inner| ending::begin(inner, &ids)).await?;
        ending::see_to_it(&self.inner);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Machine>, IaasError> {
        blocking(&self.inner, |inner| {
            let groups = inner.groups()?;
            let endings = held(&inner.endings);
            Ok(groups
                .values()
                .map(|group| machine(group, endings.state(group.tag.instance)))
                .collect())
        })
        .await
    }

    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        let machines = machines.to_vec();
        blocking(&self.inner, move |inner| {
            let groups = inner.running(true, &machines)?;
            let endings = held(&inner.endings);
            Ok(machines
                .into_iter()
                .map(|text| {
                    let state = text.parse().ok().and_then(|id: InstanceId| {
                        if groups.contains_key(&id) {
                            Some(endings.state(id))
                        } else {
                            start::was_started(&inner.directory(id)).then_some(MachineState::Gone)
                        }
                    });
                    (text, state)
                })
                .collect())
        })
        .await
    }

    async fn output(&self, instance: InstanceId, _machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError> {
        blocking(&self.inner, move |inner| output::tail(&inner.directory(instance), lines)).await
    }

    async fn check(&self, _: &[NamedTemplate]) -> Vec<Finding> {
        vec![Finding {
            what: "site".to_owned(),
            verdict: FindingVerdict::Good,
            text: "this machine; it takes whatever it has room for".to_owned(),
        }]
    }

    async fn tidy(&self, before: Timestamp) -> Result<u32, IaasError> {
        blocking(&self.inner, move |inner| {
            let groups = inner.groups()?;
            output::tidy(&inner.home, before, TIDY_MOST, |id| groups.contains_key(&id))
        })
        .await
    }
}
