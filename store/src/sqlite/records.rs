//! The methods of the store, each one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use futures::TryStreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, SqliteConnection, query};
use uuid::Uuid;

use super::leases::stand;
use super::{SqliteStore, Stop, sql};
use crate::{DecisionCommit, Document, Error, JournalQuery, Outgoing, PoolMemory, ProvisionCommit, Size, Store};

/// After so many records a long read lets other tasks run.
const DECODE_IN_A_ROW: usize = 1_000;

/// A number as the database counts.
pub(super) fn number(value: u64, of: &str) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::Corrupt {
        what: of.to_owned(),
        why: format!("{value} is more than the store can count to"),
    })
}

/// A record as it is stored.
pub(super) fn body(record: &impl Serialize, what: &str) -> Result<String, Error> {
    serde_json::to_string(record).map_err(|error| Error::Database {
        doing: format!("write {what} as JSON"),
        source: Box::new(error),
    })
}

/// A record as it was stored, from a row whose first column names it.
pub(super) fn record<T: DeserializeOwned>(what: &str, row: &SqliteRow) -> Result<T, Stop> {
    let text: &str = row.try_get(1)?;
    serde_json::from_str(text).map_err(|error| {
        let name = row.try_get::<String, _>(0).unwrap_or_else(|_| "?".to_owned());
        Stop::Said(Error::Corrupt {
            what: format!("{what} {name}"),
            why: error.to_string(),
        })
    })
}

impl SqliteStore {
    async fn one<T: DeserializeOwned>(&self, what: &str, statement: &'static str, id: Uuid) -> Result<Option<T>, Stop> {
        let row = query(statement).bind(id.to_string()).fetch_optional(&self.readers).await?;
        row.map(|row| record(what, &row)).transpose()
    }

    /// Every record of a statement. The database reads ahead on its own thread while this one decodes.
    async fn all<T: DeserializeOwned>(&self, what: &str, statement: &'static str) -> Result<Vec<T>, Stop> {
        let mut rows = query(statement).fetch(&self.readers);
        let mut all = Vec::new();
        while let Some(row) = rows.try_next().await? {
            all.push(record(what, &row)?);
            if all.len().is_multiple_of(DECODE_IN_A_ROW) {
                tokio::task::yield_now().await;
            }
        }
        Ok(all)
    }

    async fn count(&self, statement: &'static str) -> Result<u64, Stop> {
        let count: i64 = query(statement).fetch_one(&self.readers).await?.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

async fn append(to: &mut SqliteConnection, journal: &[Entry]) -> Result<(), Stop> {
    for entry in journal {
        query(sql::APPEND)
            .bind(entry.at.0)
            .bind(entry.event.kind())
            .bind(entry.pool.as_ref().map(|pool| pool.as_str().to_owned()))
            .bind(entry.instance.map(|id| id.to_string()))
            .bind(body(entry, "a journal entry")?)
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

/// Whether it was written: a statement that does not apply changes no row.
async fn put_instance(to: &mut SqliteConnection, statement: &'static str, instance: &Instance) -> Result<bool, Stop> {
    let done = query(statement)
        .bind(instance.id.to_string())
        .bind(instance.launch.to_string())
        .bind(number(instance.version, "an instance's version")?)
        .bind(instance.state.code())
        .bind(instance.state_since.0)
        .bind(body(instance, "an instance")?)
        .execute(to)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether it was written.
async fn put_launch(to: &mut SqliteConnection, statement: &'static str, launch: &Launch) -> Result<bool, Stop> {
    let done = query(statement)
        .bind(launch.id.to_string())
        .bind(launch.accepted_at.0)
        .bind(launch.outcome.is_some())
        .bind(body(launch, "a launch")?)
        .execute(to)
        .await?;
    Ok(done.rows_affected() > 0)
}

async fn closed(of: &mut SqliteConnection) -> Result<bool, Stop> {
    Ok(query(sql::CLOSED).fetch_one(of).await?.try_get(0)?)
}

#[async_trait]
impl Store for SqliteStore {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        let done = async {
            let mut tx = self.begin().await?;
            query(sql::KEEP).bind(key).bind(value).execute(&mut *tx).await?;
            let kept: String = query(sql::KEPT).bind(key).fetch_one(&mut *tx).await?.try_get(0)?;
            tx.commit().await?;
            Ok(kept)
        };
        done.await.map_err(|stop| self.failed(stop, format!("keep {key}")))
    }

    async fn closed(&self) -> Result<bool, Error> {
        let done = async {
            let mut reader = self.readers.acquire().await?;
            closed(&mut reader).await
        };
        done.await
            .map_err(|stop| self.failed(stop, "read whether the installation is closed"))
    }

    async fn set_closed(&self, closed: bool, journal: Vec<Entry>) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            query(sql::SET_CLOSED).bind(closed).execute(&mut *tx).await?;
            append(&mut tx, &journal).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, "close or open the installation"))
    }

    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        self.renew(&ask).await.map_err(|stop| self.failed(stop, "renew leases"))
    }

    async fn leave(&self, member: &str) -> Result<(), Error> {
        self.give_all_back(member)
            .await
            .map_err(|stop| self.failed(stop, "give leases back"))
    }

    async fn standing(&self) -> Result<Standing, Error> {
        self.read_standing().await.map_err(|stop| self.failed(stop, "read who leads what"))
    }

    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        let done = async {
            let rows = query(sql::DOCUMENTS).bind(kind).fetch_all(&self.readers).await?;
            rows.iter().map(|row| record(kind, row)).collect::<Result<Vec<Document>, _>>()
        };
        let mut documents: Vec<Document> = done.await.map_err(|stop| self.failed(stop, format!("read every {kind}")))?;
        documents.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(documents)
    }

    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            let statement = if document.revision == 1 { sql::ADD_DOCUMENT } else { sql::CHANGE_DOCUMENT };
            let put = query(statement)
                .bind(&document.kind)
                .bind(&document.name)
                .bind(number(document.revision, "a document's revision")?)
                .bind(body(document, "a document")?)
                .execute(&mut *tx)
                .await?;
            if put.rows_affected() == 0 {
                return Err(Stop::Said(Error::Conflict(format!("{} {}", document.kind, document.name))));
            }
            append(&mut tx, &journal).await?;
            Ok(tx.commit().await?)
        };
        done.await
            .map_err(|stop| self.failed(stop, format!("write {} {}", document.kind, document.name)))
    }

    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            query(sql::FORGET_DOCUMENT).bind(kind).bind(name).execute(&mut *tx).await?;
            append(&mut tx, &journal).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, format!("forget {kind} {name}")))
    }

    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        let done = async {
            let mut revisions = BTreeMap::new();
            for row in query(sql::POOL_REVISIONS).fetch_all(&self.readers).await? {
                let name = PoolName::new(row.try_get::<&str, _>(0)?).map_err(|error| Error::Corrupt {
                    what: "the name of a pool".to_owned(),
                    why: error.to_string(),
                })?;
                revisions.insert(name, u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default());
            }
            Ok(revisions)
        };
        done.await.map_err(|stop| self.failed(stop, "read pools' revisions"))
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        let mut pools: Vec<Pool> = self.all("pool", sql::POOLS).await.map_err(|stop| self.failed(stop, "read pools"))?;
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pools)
    }

    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            for pool in pools {
                let statement = if pool.revision == 1 { sql::ADD_POOL } else { sql::CHANGE_POOL };
                let put = query(statement)
                    .bind(pool.name.as_str())
                    .bind(number(pool.revision, "a pool's revision")?)
                    .bind(body(pool, "a pool")?)
                    .execute(&mut *tx)
                    .await?;
                if put.rows_affected() == 0 {
                    return Err(Stop::Said(Error::Conflict(format!("pool {}", pool.name))));
                }
            }
            append(&mut tx, &journal).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, "write pools"))
    }

    async fn forget_pool(&self, pool: &PoolName, journal: Vec<Entry>) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            for statement in [sql::FORGET_POOL, sql::FORGET_MEMORY, sql::FORGET_OUTBOX] {
                query(statement).bind(pool.as_str()).execute(&mut *tx).await?;
            }
            append(&mut tx, &journal).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, format!("forget pool {pool}")))
    }

    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        let done = async {
            let mut memories = Vec::new();
            for row in query(sql::MEMORIES).fetch_all(&self.readers).await? {
                let name: &str = row.try_get(0)?;
                let name = PoolName::new(name).map_err(|error| Error::Corrupt {
                    what: "the memory of a pool".to_owned(),
                    why: error.to_string(),
                })?;
                memories.push((name, record::<PoolMemory>("the memory of pool", &row)?));
            }
            Ok(memories)
        };
        let mut memories: Vec<(PoolName, PoolMemory)> = done.await.map_err(|stop| self.failed(stop, "read what pools remember"))?;
        memories.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(memories)
    }

    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            stand(&mut tx, commit.term).await?;
            if let Some(memory) = &commit.memory {
                let text = body(memory, "what a pool remembers")?;
                query(sql::PUT_MEMORY).bind(pool.as_str()).bind(text).execute(&mut *tx).await?;
            }
            for outgoing in &commit.outbox {
                query(sql::PUT_OUTBOX)
                    .bind(outgoing.id.to_string())
                    .bind(outgoing.pool.as_str())
                    .bind(outgoing.since.0)
                    .bind(body(outgoing, "a command")?)
                    .execute(&mut *tx)
                    .await?;
            }
            append(&mut tx, &commit.journal).await?;
            Ok(tx.commit().await?)
        };
        done.await
            .map_err(|stop| self.failed(stop, format!("write the decision on pool {pool}")))
    }

    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        let all = self.all("command", sql::OUTBOX).await;
        all.map_err(|stop| self.failed(stop, "read commands not yet accepted"))
    }

    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            for id in ids {
                query(sql::ACCEPTED).bind(id.to_string()).execute(&mut *tx).await?;
            }
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, "forget accepted commands"))
    }

    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        let done = async {
            let mut tx = self.begin().await?;
            stand(&mut tx, terms.iter().copied()).await?;
            // Before the rest, since a repeated request stays accepted even if the installation was closed meanwhile.
            if !put_launch(&mut tx, sql::ADD_LAUNCH, launch).await? {
                return Ok(false);
            }
            if closed(&mut tx).await? {
                return Err(Stop::Said(Error::Closed));
            }
            for instance in instances {
                if !put_instance(&mut tx, sql::ADD_INSTANCE, instance).await? {
                    return Err(Stop::Said(Error::Exists(format!("instance {}", instance.id))));
                }
            }
            append(&mut tx, &journal).await?;
            tx.commit().await?;
            Ok(true)
        };
        done.await.map_err(|stop| self.failed(stop, format!("record launch {}", launch.id)))
    }

    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            stand(&mut tx, commit.term).await?;
            for instance in &commit.instances {
                if !put_instance(&mut tx, sql::PUT_INSTANCE, instance).await? {
                    return Err(Stop::Said(Error::Conflict(format!("instance {}", instance.id))));
                }
            }
            for launch in &commit.launches {
                put_launch(&mut tx, sql::PUT_LAUNCH, launch).await?;
            }
            append(&mut tx, &commit.journal).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, "write changes of instances"))
    }

    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error> {
        let statement = if live_only { sql::LIVE_INSTANCES } else { sql::INSTANCES };
        let all = self.all("instance", statement).await;
        let mut instances: Vec<Instance> = all.map_err(|stop| self.failed(stop, "read instances"))?;
        instances.sort_unstable_by_key(|instance| instance.id);
        Ok(instances)
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        let one = self.one("instance", sql::INSTANCE, id.0).await;
        one.map_err(|stop| self.failed(stop, format!("read instance {id}")))
    }

    async fn open_launches(&self) -> Result<Vec<Launch>, Error> {
        let all = self.all("launch", sql::OPEN_LAUNCHES).await;
        let mut launches: Vec<Launch> = all.map_err(|stop| self.failed(stop, "read open launches"))?;
        launches.sort_unstable_by_key(|launch| launch.id);
        Ok(launches)
    }

    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error> {
        let one = self.one("launch", sql::LAUNCH, id.0).await;
        one.map_err(|stop| self.failed(stop, format!("read launch {id}")))
    }

    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            append(&mut tx, &journal).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, "write to the journal"))
    }

    async fn journal(&self, asked: JournalQuery) -> Result<Vec<Entry>, Error> {
        let newest = asked.after.is_none();
        let done = async {
            let statement = sql::journal(newest, asked.pool.is_some(), asked.instance.is_some());
            let mut read: sqlx::query::Query<'_, sqlx::Sqlite, SqliteArguments> =
                query(statement).bind(asked.after.unwrap_or(i64::MIN)).bind(i64::from(asked.limit));
            if let Some(pool) = &asked.pool {
                read = read.bind(pool.as_str());
            }
            if let Some(instance) = asked.instance {
                read = read.bind(instance.to_string());
            }
            let mut entries = Vec::new();
            for row in read.fetch_all(&self.readers).await? {
                let mut entry: Entry = record("journal entry", &row)?;
                entry.sequence = row.try_get(0)?;
                entries.push(entry);
            }
            Ok(entries)
        };
        let mut entries = done.await.map_err(|stop| self.failed(stop, "read the journal"))?;
        if newest {
            entries.reverse();
        }
        Ok(entries)
    }

    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error> {
        let done = async {
            let mut tx = self.begin().await?;
            let mut gone = 0;
            // Launches after their instances, so that one call can take both.
            for statement in [sql::RETIRE_INSTANCES, sql::RETIRE_LAUNCHES, sql::RETIRE_JOURNAL] {
                let done = query(statement).bind(before.0).bind(i64::from(limit)).execute(&mut *tx).await?;
                gone += done.rows_affected();
            }
            tx.commit().await?;
            Ok(gone)
        };
        done.await.map_err(|stop| self.failed(stop, "retire old records"))
    }

    async fn size(&self) -> Result<Size, Error> {
        let done = async {
            let mut bytes = 0;
            for name in ["epu.db", "epu.db-wal"] {
                match tokio::fs::metadata(self.dir.join(name)).await {
                    Ok(found) => bytes += found.len(),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Stop::Disk(error)),
                }
            }
            Ok(Size {
                instances: self.count(sql::COUNT_INSTANCES).await?,
                journal: self.count(sql::COUNT_JOURNAL).await?,
                bytes,
            })
        };
        done.await.map_err(|stop| self.failed(stop, "measure the store"))
    }

    async fn check(&self) -> Result<(), Error> {
        let done = async {
            let mut tx = self.begin().await?;
            query(sql::CHECK).execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        };
        done.await.map_err(|stop| self.failed(stop, "write to the store"))
    }
}
