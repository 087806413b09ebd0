//! The methods of a store in SQL, each one transaction. One text, compiled once for each database: what differs between them (how a
//! transaction begins and ends, how many records are written at once, what is worth another try) comes from the module this one is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use sqlx::{Row as _, query};
use uuid::Uuid;

use super::batch::{append, put_instances};
use super::leases::stand;
use super::{ALL_WITHIN, Arguments, CLOSED_MEANWHILE, Connection, Db, Own, Row, SETTLE, WITHIN};
use crate::row::{Put, body, number};
use crate::stop::{Stop, attempt};
use crate::{DecisionCommit, Document, Error, JournalQuery, Outgoing, PoolMemory, ProvisionCommit, Size, Store, row, sql};

/// After so many records a long read lets other tasks run.
const DECODE_IN_A_ROW: usize = 1_000;

/// A record as it was stored, from a row whose first column names it.
pub(super) fn record<T: DeserializeOwned>(what: &str, row: &Row) -> Result<T, Stop> {
    let text: &str = row.try_get(1)?;
    Ok(row::record(
        what,
        || row.try_get::<String, _>(0).unwrap_or_else(|_| "?".to_owned()),
        text,
    )?)
}

impl Own {
    async fn one<T: DeserializeOwned>(&self, what: &str, statement: &'static str, id: Uuid) -> Result<Option<T>, Stop> {
        let row = query(statement).bind(id.to_string()).fetch_optional(self.readers()).await?;
        row.map(|row| record(what, &row)).transpose()
    }

    /// Every record of a statement. The database reads ahead on its own thread while this one decodes.
    async fn all<T: DeserializeOwned>(&self, what: &str, statement: &'static str) -> Result<Vec<T>, Stop> {
        let mut rows = query(statement).fetch(self.readers());
        let mut all = Vec::new();
        while let Some(row) = self.bounded(WITHIN, async { Ok(rows.try_next().await?) }).await? {
            all.push(record(what, &row)?);
            if all.len().is_multiple_of(DECODE_IN_A_ROW) {
                tokio::task::yield_now().await;
            }
        }
        Ok(all)
    }

    async fn count(&self, statement: &'static str) -> Result<u64, Stop> {
        let count: i64 = query(statement).fetch_one(self.readers()).await?.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// Whether it was written.
async fn put_launch(to: &mut Connection, statement: &'static str, launch: &Launch) -> Result<bool, Stop> {
    let done = query(statement)
        .bind(launch.id.to_string())
        .bind(launch.accepted_at.0)
        .bind(launch.outcome.is_some())
        .bind(body(launch, "a launch")?)
        .execute(to)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// With the statement that fits: one only looks, the other makes a change of it wait.
async fn closed(of: &mut Connection, statement: &'static str) -> Result<bool, Stop> {
    Ok(query(statement).fetch_one(of).await?.try_get(0)?)
}

#[async_trait]
impl Store for Own {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        attempt!(self, WITHIN, format!("keep {key}"), {
            let mut tx = self.begin().await?;
            query(sql::KEEP).bind(key).bind(value).execute(&mut *tx).await?;
            let kept: String = query(sql::KEPT).bind(key).fetch_one(&mut *tx).await?.try_get(0)?;
            self.commit(tx).await?;
            Ok(kept)
        })
    }

    async fn closed(&self) -> Result<bool, Error> {
        attempt!(self, WITHIN, "read whether the installation is closed", {
            let mut reader = self.readers().acquire().await?;
            closed(&mut reader, sql::CLOSED).await
        })
    }

    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        attempt!(self, WITHIN, "close or open the installation", {
            let mut tx = self.begin().await?;
            stand(&mut tx, term).await?;
            query(sql::SET_CLOSED).bind(closed).execute(&mut *tx).await?;
            append(&mut tx, &journal).await?;
            self.commit(tx).await
        })
    }

    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        attempt!(self, WITHIN, "renew leases", { self.renew(&ask).await })
    }

    async fn leave(&self, member: &str) -> Result<(), Error> {
        attempt!(self, WITHIN, "give leases back", { self.give_all_back(member).await })
    }

    async fn standing(&self) -> Result<Standing, Error> {
        attempt!(self, WITHIN, "read who leads what", { self.read_standing().await })
    }

    async fn settle(&self, domain: Domain) -> Result<(), Error> {
        attempt!(self, WITHIN, format!("wait for what is being written for {domain}"), {
            let mut tx = self.begin().await?;
            query(SETTLE).bind(domain.to_string()).fetch_optional(&mut *tx).await?;
            self.commit(tx).await
        })
    }

    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        let mut documents: Vec<Document> = attempt!(self, WITHIN, format!("read every {kind}"), {
            let rows = query(sql::DOCUMENTS).bind(kind).fetch_all(self.readers()).await?;
            rows.iter().map(|row| record(kind, row)).collect::<Result<Vec<Document>, _>>()
        })?;
        documents.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(documents)
    }

    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        attempt!(self, WITHIN, format!("write {} {}", document.kind, document.name), {
            let mut tx = self.begin().await?;
            let statement = if document.revision == 1 {
                sql::ADD_DOCUMENT
            } else {
                sql::CHANGE_DOCUMENT
            };
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
            self.commit(tx).await
        })
    }

    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        attempt!(self, WITHIN, format!("forget {kind} {name}"), {
            let mut tx = self.begin().await?;
            query(sql::FORGET_DOCUMENT).bind(kind).bind(name).execute(&mut *tx).await?;
            append(&mut tx, &journal).await?;
            self.commit(tx).await
        })
    }

    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        attempt!(self, WITHIN, "read pools' revisions", {
            let mut revisions = BTreeMap::new();
            for row in query(sql::POOL_REVISIONS).fetch_all(self.readers()).await? {
                let name = PoolName::new(row.try_get::<&str, _>(0)?).map_err(|error| Error::Corrupt {
                    what: "the name of a pool".to_owned(),
                    why: error.to_string(),
                })?;
                revisions.insert(name, u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default());
            }
            Ok(revisions)
        })
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        let mut pools: Vec<Pool> = attempt!(self, ALL_WITHIN, "read pools", { self.all("pool", sql::POOLS).await })?;
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pools)
    }

    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        attempt!(self, WITHIN, "write pools", {
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
            self.commit(tx).await
        })
    }

    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        attempt!(self, WITHIN, format!("forget pool {pool}"), {
            let mut tx = self.begin().await?;
            stand(&mut tx, term).await?;
            let gone = query(sql::FORGET_POOL)
                .bind(pool.as_str())
                .bind(number(revision, "a pool's revision")?)
                .execute(&mut *tx)
                .await?;
            if gone.rows_affected() == 0 {
                let there = query(sql::POOL_REVISION).bind(pool.as_str()).fetch_optional(&mut *tx).await?;
                return match there {
                    None => Ok(()),
                    Some(_) => Err(Stop::Said(Error::Conflict(format!("pool {pool}")))),
                };
            }
            for statement in [sql::FORGET_MEMORY, sql::FORGET_OUTBOX] {
                query(statement).bind(pool.as_str()).execute(&mut *tx).await?;
            }
            append(&mut tx, &journal).await?;
            self.commit(tx).await
        })
    }

    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        let mut memories: Vec<(PoolName, PoolMemory)> = attempt!(self, WITHIN, "read what pools remember", {
            let mut memories = Vec::new();
            for row in query(sql::MEMORIES).fetch_all(self.readers()).await? {
                let name: &str = row.try_get(0)?;
                let name = PoolName::new(name).map_err(|error| Error::Corrupt {
                    what: "the memory of a pool".to_owned(),
                    why: error.to_string(),
                })?;
                memories.push((name, record::<PoolMemory>("the memory of pool", &row)?));
            }
            Ok(memories)
        })?;
        memories.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(memories)
    }

    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        attempt!(self, WITHIN, format!("write the decision on pool {pool}"), {
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
            self.commit(tx).await
        })
    }

    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        attempt!(self, ALL_WITHIN, "read commands not yet accepted", {
            self.all("command", sql::OUTBOX).await
        })
    }

    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        attempt!(self, WITHIN, "forget accepted commands", {
            let mut tx = self.begin().await?;
            for id in ids {
                query(sql::ACCEPTED).bind(id.to_string()).execute(&mut *tx).await?;
            }
            self.commit(tx).await
        })
    }

    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        attempt!(self, WITHIN, format!("record launch {}", launch.id), {
            let mut tx = self.begin().await?;
            stand(&mut tx, terms.iter().copied()).await?;
            // Before the rest, since a repeated request stays accepted even if the installation was closed meanwhile.
            if !put_launch(&mut tx, sql::ADD_LAUNCH, launch).await? {
                return Ok(false);
            }
            if closed(&mut tx, CLOSED_MEANWHILE).await? {
                return Err(Stop::Said(Error::Closed));
            }
            if let Some(taken) = put_instances(&mut tx, Put::New, instances).await? {
                return Err(Stop::Said(Error::Exists(format!("instance {taken}"))));
            }
            append(&mut tx, &journal).await?;
            self.commit(tx).await?;
            Ok(true)
        })
    }

    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        attempt!(self, WITHIN, "write changes of instances", {
            let mut tx = self.begin().await?;
            stand(&mut tx, commit.term).await?;
            stand(&mut tx, commit.also.iter().copied()).await?;
            if let Some(changed) = put_instances(&mut tx, Put::Next, &commit.instances).await? {
                return Err(Stop::Said(Error::Conflict(format!("instance {changed}"))));
            }
            for launch in &commit.launches {
                put_launch(&mut tx, sql::PUT_LAUNCH, launch).await?;
            }
            append(&mut tx, &commit.journal).await?;
            self.commit(tx).await
        })
    }

    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error> {
        let statement = if live_only { sql::LIVE_INSTANCES } else { sql::INSTANCES };
        let mut instances: Vec<Instance> = attempt!(self, ALL_WITHIN, "read instances", {
            match self.paged_instances(live_only).await? {
                Some(all) => Ok(all),
                None => self.all("instance", statement).await,
            }
        })?;
        instances.sort_unstable_by_key(|instance| instance.id);
        Ok(instances)
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        attempt!(self, WITHIN, format!("read instance {id}"), {
            self.one("instance", sql::INSTANCE, id.0).await
        })
    }

    async fn open_launches(&self) -> Result<Vec<Launch>, Error> {
        let mut launches: Vec<Launch> = attempt!(self, ALL_WITHIN, "read open launches", {
            self.all("launch", sql::OPEN_LAUNCHES).await
        })?;
        launches.sort_unstable_by_key(|launch| launch.id);
        Ok(launches)
    }

    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error> {
        attempt!(self, WITHIN, format!("read launch {id}"), {
            self.one("launch", sql::LAUNCH, id.0).await
        })
    }

    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        attempt!(self, WITHIN, "write to the journal", {
            let mut tx = self.begin().await?;
            append(&mut tx, &journal).await?;
            self.commit(tx).await
        })
    }

    async fn journal(&self, asked: JournalQuery) -> Result<Vec<Entry>, Error> {
        let newest = asked.after.is_none();
        let mut entries = attempt!(self, WITHIN, "read the journal", {
            let statement = sql::journal(newest, asked.pool.is_some(), asked.instance.is_some());
            let mut read: sqlx::query::Query<'_, Db, Arguments> =
                query(statement).bind(asked.after.unwrap_or(i64::MIN)).bind(i64::from(asked.limit));
            if let Some(pool) = &asked.pool {
                read = read.bind(pool.as_str());
            }
            if let Some(instance) = asked.instance {
                read = read.bind(instance.to_string());
            }
            let mut entries = Vec::new();
            for row in read.fetch_all(self.readers()).await? {
                let mut entry: Entry = record("journal entry", &row)?;
                entry.sequence = row.try_get(0)?;
                entries.push(entry);
            }
            Ok(entries)
        })?;
        if newest {
            entries.reverse();
        }
        Ok(entries)
    }

    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error> {
        attempt!(self, WITHIN, "retire old records", {
            let mut tx = self.begin().await?;
            let mut gone = 0;
            // Launches after their instances, so that one call can take both.
            for statement in [sql::RETIRE_INSTANCES, sql::RETIRE_LAUNCHES, sql::RETIRE_JOURNAL] {
                let done = query(statement).bind(before.0).bind(i64::from(limit)).execute(&mut *tx).await?;
                gone += done.rows_affected();
            }
            self.commit(tx).await?;
            Ok(gone)
        })
    }

    async fn size(&self) -> Result<Size, Error> {
        attempt!(self, WITHIN, "measure the store", {
            Ok(Size {
                instances: self.count(sql::COUNT_INSTANCES).await?,
                journal: self.count(sql::COUNT_JOURNAL).await?,
                bytes: self.bytes().await?,
            })
        })
    }

    async fn check(&self) -> Result<(), Error> {
        attempt!(self, WITHIN, "write to the store", {
            let mut tx = self.begin().await?;
            query(sql::CHECK).execute(&mut *tx).await?;
            self.commit(tx).await
        })
    }
}
