//! Several records at once, as arrays: a statement costs a round trip, whatever it carries.

use std::collections::BTreeSet;
use std::sync::Arc;

use epu_core::id::InstanceId;
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use sqlx::{PgConnection, Row as _, query};

use crate::row::{Put, body, number};
use crate::stop::Stop;
use crate::tables::Last;

/// The highest numbers that were ever given out, and those that rows have.
const LAST: &str = "SELECT \
     greatest((SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM journal_sequence_seq), (SELECT max(sequence) FROM journal), 0), \
     greatest((SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_place_seq), (SELECT max(place) FROM outbox), 0)";
/// $1 of the journal, $2 of the outbox; 0 when there was none.
const SET_LAST: &str =
    "SELECT setval('journal_sequence_seq', greatest($1, 1), $1 > 0), setval('outbox_place_seq', greatest($2, 1), $2 > 0)";

/// Rows of one statement. Too many: memory on both sides. Too few: round trips.
const ROWS: usize = 1_000;

/// Adds entries, and lets nobody else add any before this transaction ends. Otherwise a number could become visible after a higher
/// one was read, and whoever reads page by page would miss it. It is the last thing a transaction does, so that the lock is held
/// for as long as a commit takes, and so that nothing is waited for while it is held.
///
/// The lock (its key spells "EPUjr") is taken before the first number is: without its row there is none to number. $1 at, $2 kind, $3 pool, $4 instance,
/// $5 body.
const APPEND: &str = "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(297700518514)) \
     INSERT INTO journal (at, kind, pool, instance, body) \
     SELECT entry.at, entry.kind, entry.pool, entry.instance, entry.body FROM turn, \
     UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) \
     WITH ORDINALITY AS entry (at, kind, pool, instance, body, place) ORDER BY entry.place";

macro_rules! put {
    ($conflict:literal) => {
        concat!(
            "INSERT INTO instances (id, launch, version, state, state_since, body) \
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::text[]) ON CONFLICT (id) DO ",
            $conflict,
            " RETURNING id"
        )
    };
}

/// As [`crate::sql::ADD_INSTANCE`], for many.
const ADD_INSTANCES: &str = put!("NOTHING");
/// As [`crate::sql::PUT_INSTANCE`], for many.
const PUT_INSTANCES: &str = put!(
    "UPDATE SET launch = excluded.launch, version = excluded.version, state = excluded.state, \
     state_since = excluded.state_since, body = excluded.body WHERE instances.version = excluded.version - 1"
);

/// Adds journal entries; the last thing of a transaction.
pub(super) async fn append(to: &mut PgConnection, journal: &[Entry]) -> Result<(), Stop> {
    for some in journal.chunks(ROWS) {
        let bodies: Result<Vec<String>, _> = some.iter().map(|entry| body(entry, "a journal entry")).collect();
        let text = |of: fn(&Entry) -> Option<String>| some.iter().map(of).collect::<Vec<Option<String>>>();
        query(APPEND)
            .bind(some.iter().map(|entry| entry.at.0).collect::<Vec<i64>>())
            .bind(some.iter().map(|entry| entry.event.kind().to_owned()).collect::<Vec<String>>())
            .bind(text(|entry| entry.pool.as_ref().map(ToString::to_string)))
            .bind(text(|entry| entry.instance.map(|id| id.to_string())))
            .bind(bodies?)
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

/// Writes instances, and says which one does not apply, if one does not.
pub(super) async fn put_instances(to: &mut PgConnection, how: Put, instances: &[Arc<Instance>]) -> Result<Option<InstanceId>, Stop> {
    let mut rest = instances;
    while !rest.is_empty() {
        // One statement cannot change a row twice.
        let mut ids = BTreeSet::new();
        let fit = rest.iter().take(ROWS).take_while(|instance| ids.insert(instance.id)).count();
        let (some, later) = rest.split_at(fit);
        if let Some(refused) = put_some(to, how, some).await? {
            return Ok(Some(refused));
        }
        rest = later;
    }
    Ok(None)
}

async fn put_some(to: &mut PgConnection, how: Put, instances: &[Arc<Instance>]) -> Result<Option<InstanceId>, Stop> {
    let statement = match how {
        Put::New => ADD_INSTANCES,
        Put::Next => PUT_INSTANCES,
    };
    // Always in one order, so that two transactions with the same instances wait for each other and never in a circle.
    let mut sorted: Vec<&Instance> = instances.iter().map(|instance| &**instance).collect();
    sorted.sort_unstable_by_key(|instance| instance.id);
    let column = |of: fn(&Instance) -> String| sorted.iter().map(|instance| of(instance)).collect::<Vec<String>>();
    let versions: Result<Vec<i64>, _> = sorted
        .iter()
        .map(|instance| number(instance.version, "an instance's version"))
        .collect();
    let bodies: Result<Vec<String>, _> = sorted.iter().map(|instance| body(*instance, "an instance")).collect();
    let written = query(statement)
        .bind(column(|instance| instance.id.to_string()))
        .bind(column(|instance| instance.launch.to_string()))
        .bind(versions?)
        .bind(column(|instance| instance.state.code().to_owned()))
        .bind(sorted.iter().map(|instance| instance.state_since.0).collect::<Vec<i64>>())
        .bind(bodies?)
        .fetch_all(to)
        .await?;
    if written.len() == sorted.len() {
        return Ok(None);
    }
    let written: Result<BTreeSet<String>, _> = written.iter().map(|row| row.try_get::<String, _>(0)).collect();
    let written = written?;
    Ok(sorted
        .iter()
        .map(|instance| instance.id)
        .find(|id| !written.contains(&id.to_string())))
}

/// The highest numbers that were ever given out.
pub(super) async fn last(of: &mut PgConnection) -> Result<Last, Stop> {
    let row = query(LAST).fetch_one(of).await?;
    Ok(Last {
        journal: row.try_get(0)?,
        outbox: row.try_get(1)?,
    })
}

/// From now on higher numbers are given out, also when there is no row with them.
pub(super) async fn set_last(to: &mut PgConnection, at_least: Last) -> Result<(), Stop> {
    let there = last(to).await?;
    query(SET_LAST)
        .bind(at_least.journal.max(there.journal))
        .bind(at_least.outbox.max(there.outbox))
        .execute(to)
        .await?;
    Ok(())
}
