//! Every statement, as one text that SQLite and PostgreSQL both take: `$1` placeholders, `BIGINT`, `TEXT` and `BOOLEAN`, records as
//! JSON in `TEXT`. Only migrations, the way a transaction begins, and sizes on disk belong to one database.
//!
//! What must hold is said in the statement itself (`ON CONFLICT ... WHERE`), so that it takes one round trip and "no row changed"
//! is the answer no. Names are not sorted here, since databases disagree on how text sorts; records are sorted after reading.
//!
//! Whether an instance is live is `state < '800'`: written out, not a parameter, or the partial index on ended ones is not used.

/// Keeps a value once. $1 name, $2 value.
pub(crate) const KEEP: &str = "INSERT INTO kept (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
/// $1 name.
pub(crate) const KEPT: &str = "SELECT value FROM kept WHERE name = $1";

pub(crate) const CLOSED: &str = "SELECT closed FROM installation WHERE id = 1";
/// $1 closed.
pub(crate) const SET_CLOSED: &str = "UPDATE installation SET closed = $1 WHERE id = 1";
/// Writes something that nobody reads.
pub(crate) const CHECK: &str = "UPDATE installation SET checks = checks + 1 WHERE id = 1";

pub(crate) const LEASES: &str = "SELECT name, holder, epoch, since, until FROM leases";
/// Live members. $1 now.
pub(crate) const MEMBERS: &str = "SELECT name, body FROM members WHERE until > $1";
/// $1 now.
pub(crate) const FORGET_MEMBERS: &str = "DELETE FROM members WHERE until <= $1";
/// $1 name, $2 until, $3 body.
pub(crate) const PUT_MEMBER: &str = "INSERT INTO members (name, until, body) VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET until = excluded.until, body = excluded.body";
/// $1 name.
pub(crate) const FORGET_MEMBER: &str = "DELETE FROM members WHERE name = $1";
/// Every lease of one holder at once. $1 holder, $2 until.
pub(crate) const RENEW_LEASES: &str = "UPDATE leases SET until = $2 WHERE holder = $1";
/// $1 name, $2 holder, $3 now.
pub(crate) const GIVE_LEASE: &str = "UPDATE leases SET holder = '', until = $3 WHERE name = $1 AND holder = $2";
/// $1 holder, $2 now.
pub(crate) const GIVE_LEASES: &str = "UPDATE leases SET holder = '', until = $2 WHERE holder = $1";
/// No row: somebody else has it. $1 name, $2 holder, $3 now, $4 until.
pub(crate) const TAKE_LEASE: &str = "INSERT INTO leases (name, holder, epoch, since, until) VALUES ($1, $2, 1, $3, $4) \
     ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = leases.epoch + 1, since = excluded.since, \
     until = excluded.until WHERE leases.holder = '' OR leases.until <= excluded.since";
/// $1 name.
pub(crate) const LEASE: &str = "SELECT holder, epoch FROM leases WHERE name = $1";
/// What a single process that has the store to itself finds of its predecessors.
pub(crate) const FREE_LEASES: &str = "UPDATE leases SET holder = '', until = 0 WHERE holder <> ''";
pub(crate) const FORGET_EVERY_MEMBER: &str = "DELETE FROM members";

/// $1 kind.
pub(crate) const DOCUMENTS: &str = "SELECT name, body FROM documents WHERE kind = $1";
/// No row: it exists. $1 kind, $2 name, $3 revision, $4 body.
pub(crate) const ADD_DOCUMENT: &str =
    "INSERT INTO documents (kind, name, revision, body) VALUES ($1, $2, $3, $4) ON CONFLICT (kind, name) DO NOTHING";
/// No row: it is not one revision above what is stored. $1 kind, $2 name, $3 revision, $4 body.
pub(crate) const CHANGE_DOCUMENT: &str =
    "UPDATE documents SET revision = $3, body = $4 WHERE kind = $1 AND name = $2 AND revision = $3 - 1";
/// $1 kind, $2 name.
pub(crate) const FORGET_DOCUMENT: &str = "DELETE FROM documents WHERE kind = $1 AND name = $2";

pub(crate) const POOL_REVISIONS: &str = "SELECT name, revision FROM pools";
pub(crate) const POOLS: &str = "SELECT name, body FROM pools";
/// No row: it exists. $1 name, $2 revision, $3 body.
pub(crate) const ADD_POOL: &str = "INSERT INTO pools (name, revision, body) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
/// No row: it is not one revision above what is stored. $1 name, $2 revision, $3 body.
pub(crate) const CHANGE_POOL: &str = "UPDATE pools SET revision = $2, body = $3 WHERE name = $1 AND revision = $2 - 1";
/// No row: it is not there, or at another revision. $1 name, $2 revision.
pub(crate) const FORGET_POOL: &str = "DELETE FROM pools WHERE name = $1 AND revision = $2";
/// $1 name.
pub(crate) const POOL_REVISION: &str = "SELECT revision FROM pools WHERE name = $1";
/// $1 pool.
pub(crate) const FORGET_MEMORY: &str = "DELETE FROM memories WHERE pool = $1";
/// $1 pool.
pub(crate) const FORGET_OUTBOX: &str = "DELETE FROM outbox WHERE pool = $1";

pub(crate) const MEMORIES: &str = "SELECT pool, body FROM memories";
/// $1 pool, $2 body.
pub(crate) const PUT_MEMORY: &str =
    "INSERT INTO memories (pool, body) VALUES ($1, $2) ON CONFLICT (pool) DO UPDATE SET body = excluded.body";

pub(crate) const OUTBOX: &str = "SELECT id, body FROM outbox ORDER BY since, place";
/// $1 id, $2 pool, $3 since, $4 body.
pub(crate) const PUT_OUTBOX: &str = "INSERT INTO outbox (id, pool, since, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING";
/// $1 id.
pub(crate) const ACCEPTED: &str = "DELETE FROM outbox WHERE id = $1";

/// No row: it is recorded already. $1 id, $2 accepted_at, $3 done, $4 body.
pub(crate) const ADD_LAUNCH: &str =
    "INSERT INTO launches (id, accepted_at, done, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING";
/// $1 id, $2 accepted_at, $3 done, $4 body.
pub(crate) const PUT_LAUNCH: &str = "INSERT INTO launches (id, accepted_at, done, body) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (id) DO UPDATE SET accepted_at = excluded.accepted_at, done = excluded.done, body = excluded.body";
/// $1 id.
pub(crate) const LAUNCH: &str = "SELECT id, body FROM launches WHERE id = $1";
pub(crate) const OPEN_LAUNCHES: &str = "SELECT id, body FROM launches WHERE NOT done \
     OR EXISTS (SELECT 1 FROM instances WHERE instances.launch = launches.id AND instances.state < '800')";

/// No row: it exists. $1 id, $2 launch, $3 version, $4 state, $5 state_since, $6 body.
pub(crate) const ADD_INSTANCE: &str = "INSERT INTO instances (id, launch, version, state, state_since, body) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";
/// No row: it is not one version above what is stored. $1 id, $2 launch, $3 version, $4 state, $5 state_since, $6 body.
pub(crate) const PUT_INSTANCE: &str = "INSERT INTO instances (id, launch, version, state, state_since, body) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET launch = excluded.launch, version = excluded.version, \
     state = excluded.state, state_since = excluded.state_since, body = excluded.body \
     WHERE instances.version = excluded.version - 1";
/// $1 id.
pub(crate) const INSTANCE: &str = "SELECT id, body FROM instances WHERE id = $1";
pub(crate) const INSTANCES: &str = "SELECT id, body FROM instances";
pub(crate) const LIVE_INSTANCES: &str = "SELECT id, body FROM instances WHERE state < '800'";

/// $1 at, $2 kind, $3 pool, $4 instance, $5 body.
pub(crate) const APPEND: &str = "INSERT INTO journal (at, kind, pool, instance, body) VALUES ($1, $2, $3, $4, $5)";

/// Which statement reads the journal. $1 after, $2 limit, then pool and instance as far as they are asked for, in this order.
pub(crate) fn journal(newest: bool, pool: bool, instance: bool) -> &'static str {
    macro_rules! read {
        ($filter:literal, $order:literal) => {
            concat!(
                "SELECT sequence, body FROM journal WHERE sequence > $1",
                $filter,
                " ORDER BY sequence",
                $order,
                " LIMIT $2"
            )
        };
    }
    match (newest, pool, instance) {
        (false, false, false) => read!("", ""),
        (false, true, false) => read!(" AND pool = $3", ""),
        (false, false, true) => read!(" AND instance = $3", ""),
        (false, true, true) => read!(" AND pool = $3 AND instance = $4", ""),
        (true, false, false) => read!("", " DESC"),
        (true, true, false) => read!(" AND pool = $3", " DESC"),
        (true, false, true) => read!(" AND instance = $3", " DESC"),
        (true, true, true) => read!(" AND pool = $3 AND instance = $4", " DESC"),
    }
}

/// $1 before, $2 limit.
pub(crate) const RETIRE_INSTANCES: &str = "DELETE FROM instances WHERE id IN \
     (SELECT id FROM instances WHERE state >= '800' AND state_since < $1 ORDER BY state_since, id LIMIT $2)";
/// Only those that nothing is waited for and no instance is left of. $1 before, $2 limit.
pub(crate) const RETIRE_LAUNCHES: &str = "DELETE FROM launches WHERE id IN \
     (SELECT id FROM launches WHERE accepted_at < $1 AND done \
     AND NOT EXISTS (SELECT 1 FROM instances WHERE instances.launch = launches.id) ORDER BY accepted_at, id LIMIT $2)";
/// $1 before, $2 limit.
pub(crate) const RETIRE_JOURNAL: &str = "DELETE FROM journal WHERE sequence IN \
     (SELECT sequence FROM journal WHERE at < $1 ORDER BY at, sequence LIMIT $2)";

pub(crate) const COUNT_INSTANCES: &str = "SELECT count(*) FROM instances";
pub(crate) const COUNT_JOURNAL: &str = "SELECT count(*) FROM journal";

/// The newest migration that was done.
pub(crate) const VERSION: &str = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success";
