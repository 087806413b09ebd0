//! Looks at the process table and the records several times a second while faults go on, and keeps what it finds.
//!
//! It runs on a thread of its own ([`Aside`]), reads the database directly and not through the wires that are cut, and passes over what it
//! cannot read just then: a moment in which the database does not answer is judged by the process table alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epu_core::id::InstanceId;
use epu_core::time::Timestamp;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::task::JoinHandle;

use super::judge::{Broken, Moment, moment};
use super::seen::{Place, Table};
use super::wire::Aside;

/// Between two looks: each reads every environment of the machine.
const EVERY: Duration = Duration::from_millis(300);
/// Longest time for one reading of the database.
const READING: Duration = Duration::from_secs(1);
/// What is kept at the most; the first is what matters.
const FOUND_MAX: usize = 50;

/// What was found so far.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Looks.
    pub looks: u64,
    /// Of these, with the database.
    pub whole: u64,
    /// What was broken, each once.
    pub broken: BTreeSet<Broken>,
    /// The most processes of workers at a time.
    pub most_workers: usize,
}

/// A watch that goes on until it is dropped.
#[derive(Debug)]
pub struct Watch {
    found: Arc<Mutex<Found>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Watches an installation.
    #[must_use]
    pub fn over(aside: &Aside, place: Place) -> Self {
        let found = Arc::new(Mutex::new(Found::default()));
        let task = aside.handle().spawn(go_on(place, found.clone()));
        Self { found, task }
    }

    /// What was found so far.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn go_on(place: Place, found: Arc<Mutex<Found>>) {
    let mut connection = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seen = look(&place, &mut connection).await;
        let broken = moment(&seen);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.looks += 1;
        found.whole += u64::from(seen.recorded.is_some());
        found.most_workers = found
            .most_workers
            .max(seen.table.0.iter().filter(|tagged| tagged.is_worker).count());
        let room = FOUND_MAX.saturating_sub(found.broken.len());
        found.broken.extend(broken.into_iter().take(room));
    }
}

/// One look, in the order that makes it fair: who has ended, then who runs, then who was ever recorded.
async fn look(place: &Place, connection: &mut Option<PgConnection>) -> Moment {
    let ended = ended(place, connection).await;
    let table = Table::of(&place.installation);
    let recorded = if ended.is_some() { recorded(connection).await } else { None };
    if recorded.is_none() {
        *connection = None;
    }
    Moment {
        ended: ended.unwrap_or_default(),
        table,
        recorded,
    }
}

async fn ended(place: &Place, connection: &mut Option<PgConnection>) -> Option<BTreeMap<InstanceId, Timestamp>> {
    if connection.is_none() {
        let connecting = tokio::time::timeout(READING, PgConnection::connect(&place.database)).await;
        *connection = connecting.ok()?.ok();
    }
    let asked = sqlx::query("SELECT id, state_since FROM instances WHERE state = '800-TERMINATED'");
    let rows = tokio::time::timeout(READING, asked.fetch_all(connection.as_mut()?))
        .await
        .ok()?
        .ok()?;
    let read = rows.iter().map(|row| {
        let id: &str = row.try_get(0).ok()?;
        Some((id.parse().ok()?, Timestamp(row.try_get(1).ok()?)))
    });
    read.collect()
}

async fn recorded(connection: &mut Option<PgConnection>) -> Option<BTreeSet<InstanceId>> {
    let asked = sqlx::query("SELECT id FROM instances");
    let rows = tokio::time::timeout(READING, asked.fetch_all(connection.as_mut()?))
        .await
        .ok()?
        .ok()?;
    let read = rows.iter().map(|row| row.try_get::<&str, _>(0).ok()?.parse().ok());
    read.collect()
}
