-- Each record is kept whole, as JSON, in `body`: the one form it has everywhere. The other columns are what is searched, sorted
-- or compared by, and repeat what the body says. Times are milliseconds since 1970 UTC, ids are UUIDs in their usual text form.

-- One row: what is true of the installation as a whole. `checks` only serves to find out whether it can be written.
CREATE TABLE installation (
    id BIGINT PRIMARY KEY NOT NULL CHECK (id = 1),
    closed BOOLEAN NOT NULL,
    checks BIGINT NOT NULL
);
INSERT INTO installation (id, closed, checks) VALUES (1, FALSE, 0);

-- What is made once and kept for ever: the installation's id and keys.
CREATE TABLE kept (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

CREATE TABLE pools (
    name TEXT PRIMARY KEY NOT NULL,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE memories (
    pool TEXT PRIMARY KEY NOT NULL,
    body TEXT NOT NULL
);

-- `place` keeps commands of one decision in the order in which they were given.
CREATE TABLE outbox (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    pool TEXT NOT NULL,
    since BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX outbox_pool ON outbox (pool);

CREATE TABLE launches (
    id TEXT PRIMARY KEY NOT NULL,
    accepted_at BIGINT NOT NULL,
    done BOOLEAN NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX launches_accepted ON launches (accepted_at);

-- `state` is the code, such as 600-RUNNING; codes sort as states do, and those from 800 on are ends.
CREATE TABLE instances (
    id TEXT PRIMARY KEY NOT NULL,
    launch TEXT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    state_since BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX instances_state ON instances (state);
CREATE INDEX instances_launch ON instances (launch, state);
CREATE INDEX instances_ended ON instances (state_since) WHERE state >= '800';

-- AUTOINCREMENT: a number is never given twice, even after the newest entries were retired.
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    pool TEXT,
    instance TEXT,
    body TEXT NOT NULL
);
CREATE INDEX journal_at ON journal (at);
CREATE INDEX journal_pool ON journal (pool, sequence) WHERE pool IS NOT NULL;
CREATE INDEX journal_instance ON journal (instance, sequence) WHERE instance IS NOT NULL;
