//! Several records at once: one by one, since a statement costs SQLite hardly more than a row.

use std::sync::Arc;

use epu_core::id::InstanceId;
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use sqlx::{Row as _, SqliteConnection, query};

use crate::row::{Put, body, number};
use crate::sql;
use crate::stop::Stop;
use crate::tables::Last;

/// SQLite's own table of the highest numbers, <https://www.sqlite.org/autoinc.html>. $1 table.
const LAST: &str = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = $1";
/// $1 table.
const FORGET_LAST: &str = "DELETE FROM sqlite_sequence WHERE name = $1";
/// $1 table, $2 number.
const SET_LAST: &str = "INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)";

/// Adds journal entries.
pub(super) async fn append(to: &mut SqliteConnection, journal: &[Entry]) -> Result<(), Stop> {
    for entry in journal {
        query(sql::APPEND)
            .bind(entry.at.0)
            .bind(entry.event.kind().to_owned())
            .bind(entry.pool.as_ref().map(|pool| pool.as_str().to_owned()))
            .bind(entry.instance.map(|id| id.to_string()))
            .bind(body(entry, "a journal entry")?)
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

/// Writes instances, and says which one does not apply, if one does not.
pub(super) async fn put_instances(to: &mut SqliteConnection, how: Put, instances: &[Arc<Instance>]) -> Result<Option<InstanceId>, Stop> {
    let statement = match how {
        Put::New => sql::ADD_INSTANCE,
        Put::Next => sql::PUT_INSTANCE,
    };
    for instance in instances {
        let done = query(statement)
            .bind(instance.id.to_string())
            .bind(instance.launch.to_string())
            .bind(number(instance.version, "an instance's version")?)
            .bind(instance.state.code())
            .bind(instance.state_since.0)
            .bind(body(&**instance, "an instance")?)
            .execute(&mut *to)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(Some(instance.id));
        }
    }
    Ok(None)
}

/// The highest numbers that were ever given out.
pub(super) async fn last(of: &mut SqliteConnection) -> Result<Last, Stop> {
    Ok(Last {
        journal: query(LAST).bind("journal").fetch_one(&mut *of).await?.try_get(0)?,
        outbox: query(LAST).bind("outbox").fetch_one(&mut *of).await?.try_get(0)?,
    })
}

/// From now on higher numbers are given out, also when there is no row with them.
pub(super) async fn set_last(to: &mut SqliteConnection, at_least: Last) -> Result<(), Stop> {
    let there = last(to).await?;
    for (table, number) in [
        ("journal", at_least.journal.max(there.journal)),
        ("outbox", at_least.outbox.max(there.outbox)),
    ] {
        query(FORGET_LAST).bind(table).execute(&mut *to).await?;
        query(SET_LAST).bind(table).bind(number).execute(&mut *to).await?;
    }
    Ok(())
}
