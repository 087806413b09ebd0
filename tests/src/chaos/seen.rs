//! What there is, looked at from outside: the process table, the rows of the database, the site's own directory of machines, and what
//! workers wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::pool::Pool;
use epu_core::time::{Clock as _, SystemClock, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::spool::{Mark, Spool};
use crate::processes::Proc;
use crate::{Result, Trouble};

/// Longest time for one exchange with the database. A frozen one never answers.
pub const EXCHANGE: Duration = Duration::from_secs(5);

/// A living process that carries the installation's tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its id.
    pub pid: u32,
    /// Who started it.
    pub parent: u32,
    /// Which instance it says that it is of.
    pub instance: Option<InstanceId>,
    /// Of which launch.
    pub launch: Option<LaunchId>,
    /// At which place of it.
    pub index: Option<u32>,
    /// Of which pool.
    pub pool: String,
    /// Whether it is, or descends from, a worker: agents tell their programs a directory.
    pub is_worker: bool,
    /// Whether a signal stopped it.
    pub is_frozen: bool,
    /// When it started.
    pub started_at: Timestamp,
}

/// The process table, as far as it carries the tag.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table(pub Vec<Tagged>);

impl Table {
    /// As it is now, for the installation of this name.
    #[must_use]
    pub fn of(installation: &str) -> Self {
        let now = SystemClock::start().now();
        let tagged = Proc::all().into_iter().filter_map(|proc| {
            if !proc.is_alive() {
                return None;
            }
            let variables = proc.environment();
            if variables.get("EPU_INSTALLATION").is_none_or(|found| found != installation) {
                return None;
            }
            let read = |name: &str| variables.get(name).map(String::as_str);
            Some(Tagged {
                pid: proc.pid,
                parent: proc.parent()?,
                instance: read("EPU_INSTANCE").and_then(|id| id.parse().ok()),
                launch: read("EPU_LAUNCH").and_then(|id| id.parse().ok()),
                index: read("EPU_INDEX").and_then(|index| index.parse().ok()),
                pool: read("EPU_POOL").unwrap_or_default().to_owned(),
                is_worker: variables.contains_key("EPU_DIR"),
                is_frozen: proc.state()? == 'T',
                started_at: now - proc.age()?,
            })
        });
        Self(tagged.collect())
    }

    /// The agents: no workers, and not started by a process of the same instance, as whoever an agent is just starting is.
    pub fn agents(&self) -> impl Iterator<Item = &Tagged> {
        let of: BTreeMap<u32, Option<InstanceId>> = self.0.iter().map(|tagged| (tagged.pid, tagged.instance)).collect();
        self.0.iter().filter(move |tagged| {
            let started_by_its_own = of.get(&tagged.parent).is_some_and(|parent| *parent == tagged.instance);
            !tagged.is_worker && !started_by_its_own
        })
    }

    /// The instances that have any process.
    #[must_use]
    pub fn instances(&self) -> BTreeSet<InstanceId> {
        self.0.iter().filter_map(|tagged| tagged.instance).collect()
    }

    /// The workers of an instance that could do something: whatever an agent of it started, that is not frozen.
    pub fn workers_of(&self, id: InstanceId) -> impl Iterator<Item = &Tagged> {
        self.0
            .iter()
            .filter(move |tagged| tagged.instance == Some(id) && tagged.is_worker && !tagged.is_frozen)
    }
}

/// What the site wrote down when it started a machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Marker {
    /// Of which launch.
    pub launch: LaunchId,
    /// At which place of it.
    pub index: u32,
}

/// The whole.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// The process table.
    pub table: Table,
    /// The site's directory of machines: every one it ever started.
    pub site: BTreeMap<InstanceId, Marker>,
    /// Records of instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Records of launches.
    pub launches: BTreeMap<LaunchId, Launch>,
    /// Records of pools.
    pub pools: BTreeMap<PoolName, Pool>,
    /// The journal, oldest first.
    pub journal: Vec<Entry>,
    /// Commands that wait to be sent.
    pub waiting: u64,
    /// What workers wrote down of when they took work and were done with it.
    pub marks: BTreeMap<InstanceId, Vec<Mark>>,
    /// Jobs that were in the hands of an instance of which nothing runs any more.
    pub interrupted: BTreeMap<InstanceId, BTreeSet<String>>,
    /// Instances that the test itself harmed: whatever became of their work is the test's doing.
    pub harmed: BTreeSet<InstanceId>,
    /// The engine settings with which each pool was added.
    pub engines: BTreeMap<PoolName, Map<String, Value>>,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Place {
    /// The installation's name, which its machines carry.
    pub installation: String,
    /// The database's address, not through any wire that is cut.
    pub database: String,
    /// The data directory.
    pub data: PathBuf,
}

/// Waits for the database, but not for ever.
///
/// # Errors
/// When it refuses or does not answer in time.
pub async fn bounded<T>(doing: &str, asked: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(EXCHANGE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::new(doing, error)),
        Err(_) => Err(Trouble::new(doing, format!("no answer within {}", epu_core::Span(EXCHANGE)))),
    }
}

/// The name of the installation whose database this is.
///
/// # Errors
/// When it has none yet, or the database does not answer.
pub async fn installation(database: &str) -> Result<String> {
    let mut connection = bounded("log in to the database", PgConnection::connect(database)).await?;
    let asked = sqlx::query("SELECT value FROM kept WHERE name = 'installation'");
    let row = bounded("read the installation's name", asked.fetch_one(&mut connection)).await?;
    row.try_get(0).map_err(|error| Trouble::new("read the installation's name", error))
}

async fn bodies<T: DeserializeOwned>(connection: &mut PgConnection, what: &str, statement: &'static str) -> Result<Vec<T>> {
    let doing = format!("read {what}");
    let rows = bounded(&doing, sqlx::query(statement).fetch_all(connection)).await?;
    let read = rows.iter().map(|row| {
        let body: &str = row.try_get(0).map_err(|error| Trouble::new(&doing, error))?;
        serde_json::from_str(body).map_err(|error| Trouble::new(&doing, format!("{error}: {body}")))
    });
    read.collect()
}

/// The site's own list: a machine is one whose start was marked in its directory.
///
/// # Errors
/// When the directory or a mark cannot be read.
pub fn site(data: &Path) -> Result<BTreeMap<InstanceId, Marker>> {
    let home = data.join("instances");
    let doing = |path: &Path| format!("read {}", path.display());
    let entries = match fs::read_dir(&home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Trouble::new(doing(&home), error)),
    };
    let mut all = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| Trouble::new(doing(&home), error))?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse::<InstanceId>().ok()) else {
            continue;
        };
        let mark = path.join("started.json");
        match fs::read(&mark) {
            Ok(text) => {
                let marker = serde_json::from_slice(&text).map_err(|error| Trouble::new(doing(&mark), error))?;
                all.insert(id, marker);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Trouble::new(doing(&mark), error)),
        }
    }
    Ok(all)
}

/// Looks at everything. Processes are looked at between two readings of the records; it is done again when these differ, so that what is
/// seen is of one moment unless everything changes all the time.
///
/// # Errors
/// When something cannot be read.
pub async fn look(place: &Place, spool: &Spool) -> Result<Seen> {
    const LOOKS: usize = 5;
    let mut connection = bounded("log in to the database", PgConnection::connect(&place.database)).await?;
    let mut seen = rows(&mut connection).await?;
    for _ in 0..LOOKS {
        let (table, site) = (Table::of(&place.installation), site(&place.data)?);
        let again = rows(&mut connection).await?;
        let same = again.instances == seen.instances && again.launches == seen.launches;
        seen = Seen { table, site, ..again };
        if same {
            break;
        }
    }
    let entries = bodies(&mut connection, "the journal", "SELECT body FROM journal ORDER BY sequence").await?;
    seen.journal = (1..).zip(entries).map(|(sequence, entry)| Entry { sequence, ..entry }).collect();
    bounded("close", connection.close()).await?;
    seen.marks = spool.marks()?;
    seen.interrupted = spool.interrupted();
    seen.at = SystemClock::start().now();
    Ok(seen)
}

async fn rows(connection: &mut PgConnection) -> Result<Seen> {
    let instances: Vec<Instance> = bodies(connection, "instances", "SELECT body FROM instances").await?;
    let launches: Vec<Launch> = bodies(connection, "launches", "SELECT body FROM launches").await?;
    let pools: Vec<Pool> = bodies(connection, "pools", "SELECT body FROM pools").await?;
    let counted = sqlx::query("SELECT count(*) FROM outbox").fetch_one(connection);
    let row = bounded("count commands", counted).await?;
    let waiting: i64 = row.try_get(0).map_err(|error| Trouble::new("count commands", error))?;
    Ok(Seen {
        instances: instances.into_iter().map(|instance| (instance.id, instance)).collect(),
        launches: launches.into_iter().map(|launch| (launch.id, launch)).collect(),
        pools: pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect(),
        waiting: u64::try_from(waiting).unwrap_or(0),
        ..Seen::default()
    })
}
