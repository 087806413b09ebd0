//! Bringing a database to the form that this release uses.
//!
//! A migration, once released, is never changed: the database remembers what it was made by, and a difference is refused.
//!
//! **Numbers say who can go on.** A migration whose number is of the same thousand only adds (tables, indexes, columns with a
//! default), so that the release before works beside this one on the same database, and can be gone back to. What takes away or
//! changes a meaning begins the next thousand, and every release that knows only the one before refuses such a database.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

/// Where the database remembers what was done.
const TABLE: &str = "_sqlx_migrations";
/// Migrations that add only share these.
const FORM: i64 = 1_000;

/// One step: number, name, text.
pub(crate) type Step = (i64, &'static str, &'static str);

/// What became of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Migrated {
    /// The newest migration that it had; 0 when it was empty.
    pub from: i64,
    /// The newest that it has now.
    pub to: i64,
}

/// The newest migration that this release knows.
pub(crate) fn newest(steps: &[Step]) -> i64 {
    steps.iter().map(|(number, ..)| *number).max().unwrap_or_default()
}

/// Whether a release that knows migrations up to `known` can work with a database that has them up to `found`.
pub(crate) fn works(known: i64, found: i64) -> bool {
    found / FORM <= known / FORM
}

/// Does what is missing; one process at a time, where several can share a database.
pub(crate) async fn migrate<C: Migrate>(connection: &mut C, steps: &[Step]) -> Result<Migrated, MigrateError> {
    connection.lock().await?;
    let done = run(connection, steps).await;
    let unlocked = connection.unlock().await;
    // Why it failed says more than that the lock could not be given back then.
    let done = done?;
    unlocked.map(|()| done)
}

async fn run<C: Migrate>(connection: &mut C, steps: &[Step]) -> Result<Migrated, MigrateError> {
    connection.ensure_migrations_table(TABLE).await?;
    let applied = connection.list_applied_migrations(TABLE).await?;
    let from = applied.iter().map(|done| done.version).max().unwrap_or_default();
    let newest = newest(steps);
    if !works(newest, from) {
        return Err(MigrateError::VersionTooNew(from, newest));
    }
    let migrations = steps
        .iter()
        .map(|&(number, name, text)| Migration::new(number, name.into(), MigrationType::Simple, text.into_sql_str(), false))
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.set_ignore_missing(true).set_locking(false);
    migrator.run_direct(None, connection, false).await?;
    Ok(Migrated {
        from,
        to: from.max(newest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_adds_keeps_the_release_before_working() {
        assert!(works(2, 0) && works(2, 2) && works(2, 3) && works(2, 999));
        assert!(!works(2, 1_000) && !works(1_001, 2_000));
        assert!(works(1_001, 2), "an older one is migrated");
    }
}
