-- Who is there and who leads what, and documents. `holder` is '' when nobody has a lease; its row stays, since its epoch must grow.
CREATE TABLE leases (
    name TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    holder TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    since BIGINT NOT NULL,
    until BIGINT NOT NULL
);

CREATE TABLE members (
    name TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    until BIGINT NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE documents (
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);
