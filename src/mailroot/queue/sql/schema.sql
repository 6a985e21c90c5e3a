-- The queue, version 1. Times are seconds since the epoch, UTC. An id is 63 bits and rises with time of acceptance,
-- so rows are appended at the end of their tables.

CREATE TABLE message (
    id             INTEGER PRIMARY KEY,
    state          INTEGER NOT NULL,            -- 0 queued, 1 held, 2 finished
    worker         INTEGER NOT NULL,            -- who has it leased; 0: nobody
    due            REAL    NOT NULL,            -- when it is tried next; of a finished message: when it was finished
    attempts       INTEGER NOT NULL,            -- how often it was leased; with worker, what a settlement must know
    delay_reported INTEGER NOT NULL DEFAULT 0,  -- 1: the sender was told of the delay
    deleted        INTEGER NOT NULL DEFAULT 0,  -- 1: removed by the owner; what was pending then is deleted
    arrived        REAL    NOT NULL,
    size           INTEGER NOT NULL,            -- octets, prefix included
    envelope       TEXT    NOT NULL,            -- JSON: sender, recipients, BODY, SMTPUTF8, RET, ENVID
    origin         TEXT    NOT NULL,            -- JSON: door, client, helo, user
    message_id     TEXT    NOT NULL,
    subject        TEXT    NOT NULL,
    prefix         BLOB    NOT NULL,            -- what stands before the client's octets; empty once finished
    story          TEXT    NOT NULL DEFAULT ''  -- JSON lines, oldest first: what a host said about which recipients
);

-- Everything the queue asks of many messages is a range of this: what is due, what a dead worker had, how many there
-- are, what may be forgotten.
CREATE INDEX place ON message (state, worker, due);

-- The client's octets while they are needed, apart from the message so that listings never touch them.
CREATE TABLE body (
    id     INTEGER PRIMARY KEY,
    file   TEXT,  -- name of the file that holds the octets of a large message
    octets BLOB   -- those of a small one
);

-- The processes that have the queue open; `beat` rises while they live.
CREATE TABLE worker (
    id   INTEGER PRIMARY KEY,
    beat INTEGER NOT NULL
);
