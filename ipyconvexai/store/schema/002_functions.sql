-- name: functions
-- description: documents of the users' own tables, scheduled functions, crons, limits.
-- An id of a document carries the number of its table (ids.py); rows that are older have plain UUIDv7, documents UUIDv5.

CREATE TABLE document_tables (          -- the tables that functions read and write
    number     SMALLINT PRIMARY KEY,    -- the one that ids carry
    name       VARCHAR NOT NULL,        -- of the SQL table
    schema     VARCHAR,                 -- JSON: columns and indexes as the class last declared them; NULL: the ledger's
    changed_at TIMESTAMP NOT NULL
);
INSERT INTO document_tables VALUES
    (1, 'conversations', NULL, '2026-01-01'), (2, 'messages', NULL, '2026-01-01'), (3, 'documents', NULL, '2026-01-01');

ALTER TABLE messages ADD COLUMN error_code VARCHAR;     -- why it failed
ALTER TABLE messages ADD COLUMN error_message VARCHAR;
ALTER TABLE messages ADD COLUMN finish_reason VARCHAR;
ALTER TABLE messages ADD COLUMN session_id UUID;        -- the process that writes it, while it is pending or streaming
ALTER TABLE documents ADD COLUMN summary VARCHAR;
ALTER TABLE requests ADD COLUMN reserved_tokens INTEGER;  -- estimated before it was sent, for limits and budgets
ALTER TABLE requests ADD COLUMN reserved_usd DOUBLE;

CREATE TABLE message_deltas (           -- a message's text while it streams; gone when it is settled
    id         UUID PRIMARY KEY,
    message_id UUID NOT NULL,
    start      INTEGER NOT NULL,        -- characters that stand before this piece
    text       VARCHAR NOT NULL
);
CREATE INDEX message_deltas_by_message ON message_deltas (message_id);

CREATE TABLE scheduled_functions (
    id             UUID PRIMARY KEY,
    name           VARCHAR NOT NULL,    -- the function's
    kind           VARCHAR NOT NULL,    -- mutation, action
    args           VARCHAR NOT NULL,    -- JSON
    user_id        VARCHAR,             -- who scheduled it, and as whom it runs
    created_at     TIMESTAMP NOT NULL,
    scheduled_time TIMESTAMP NOT NULL,  -- as it was asked for
    due_at         TIMESTAMP NOT NULL,  -- when its next attempt may begin
    state          VARCHAR NOT NULL,    -- pending, in_progress, success, failed, canceled
    attempts       INTEGER NOT NULL,    -- begun so far
    max_attempts   INTEGER NOT NULL,    -- 1: an action is never repeated
    started_at     TIMESTAMP,           -- of the last attempt
    finished_at    TIMESTAMP,
    result         VARCHAR,             -- JSON
    error_code     VARCHAR,
    error_message  VARCHAR,
    error_data     VARCHAR,             -- JSON: what an ApplicationError carried
    errors         VARCHAR,             -- JSON: the errors of earlier attempts
    session_id     UUID,                -- the process that runs it, while it is in progress
    scheduled_by   UUID,                -- the job that scheduled it
    cron           VARCHAR              -- the cron that it is a run of
);

CREATE TABLE crons (
    name       VARCHAR PRIMARY KEY,
    function   VARCHAR NOT NULL,
    schedule   VARCHAR NOT NULL,        -- JSON: a cron expression with its time zone, or an interval in seconds
    args       VARCHAR NOT NULL,        -- JSON
    user_id    VARCHAR,
    anchor     TIMESTAMP NOT NULL,      -- intervals count from here
    next_time  TIMESTAMP,               -- NULL: stopped
    last_time  TIMESTAMP,
    job_id     UUID,                    -- its last run
    runs       BIGINT NOT NULL,
    skipped    BIGINT NOT NULL          -- due while one was running, or no process was up
);

CREATE TABLE rate_limits (              -- limits that functions take from
    name       VARCHAR NOT NULL,
    key        VARCHAR NOT NULL,
    rule       VARCHAR NOT NULL,        -- JSON
    state      VARCHAR NOT NULL,        -- JSON
    updated_at TIMESTAMP NOT NULL,
    PRIMARY KEY (name, key)
);

CREATE TABLE limits (                   -- limits and budgets that every call passes
    name       VARCHAR PRIMARY KEY,
    definition VARCHAR NOT NULL,        -- JSON
    created_at TIMESTAMP NOT NULL
);
