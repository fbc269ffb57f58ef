-- name: batches
-- description: batches over rows, what became of each row, and what is at a provider's for later.

ALTER TABLE documents ADD COLUMN content_hash VARCHAR;  -- SHA-256 of the UTF-8, in hex
ALTER TABLE documents ADD COLUMN metadata VARCHAR;      -- JSON: where it came from, as the source says

CREATE TABLE batches (
    id            UUID PRIMARY KEY,
    created_at    TIMESTAMP NOT NULL,
    kind          VARCHAR NOT NULL,     -- summarize, map, reduce
    source        VARCHAR,              -- what was read, in words: "pandas DataFrame", a path, a query
    input         VARCHAR,              -- the column, or the template
    into_column   VARCHAR,
    provider      VARCHAR,
    model         VARCHAR,
    engine        VARCHAR,              -- NULL: this process
    options       VARCHAR NOT NULL,     -- JSON: whatever changes an answer
    fingerprint   VARCHAR,              -- of kind, options and data: whether it is the same batch
    budget_usd    DOUBLE,
    state         VARCHAR NOT NULL,     -- running, paused, done, stopped, canceled, failed
    wanted        VARCHAR,              -- pause, resume, cancel: said by another process
    total_rows    BIGINT NOT NULL,
    items         BIGINT NOT NULL,      -- distinct inputs met so far
    known         BIGINT NOT NULL,      -- of these, answered by the ledger
    done          BIGINT NOT NULL,      -- settled by requests of this batch, errors included
    failed        BIGINT NOT NULL,
    requests      BIGINT NOT NULL,
    input_tokens  BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_usd      DOUBLE NOT NULL,
    user_id       VARCHAR,
    notebook      VARCHAR,
    cell_id       VARCHAR,
    job_id        UUID,                 -- the scheduled function that runs it
    session_id    UUID,                 -- the process that runs it, while it runs
    updated_at    TIMESTAMP NOT NULL,
    finished_at   TIMESTAMP,
    error_code    VARCHAR,              -- why it stopped
    error_message VARCHAR
);

CREATE TABLE batch_items (              -- what became of each distinct input, once it is settled
    batch_id      UUID NOT NULL,
    row_numbers   BIGINT[] NOT NULL,    -- the rows that have it, from 0
    label         VARCHAR,              -- of a group: its values, as JSON
    document_id   UUID,
    request_id    UUID,                 -- the call that gave the answer, in this batch or before
    known         BOOLEAN NOT NULL,     -- answered by the ledger: nothing was sent
    status        VARCHAR NOT NULL,     -- ok, error
    error_code    VARCHAR,
    error_message VARCHAR,
    requests      INTEGER NOT NULL,     -- that it took, parts and second tries included
    tokens        BIGINT NOT NULL,
    cost_usd      DOUBLE
);

CREATE TABLE batch_parts (              -- what went into each request of inputs that take several
    batch_id      UUID NOT NULL,
    row_numbers   BIGINT[] NOT NULL,    -- of the input
    round         INTEGER NOT NULL,     -- 0: parts of the text; 1, 2, ...: answers of the round before, combined
    part          INTEGER NOT NULL,     -- within its round, from 0
    inputs        VARCHAR NOT NULL,     -- JSON: {"from": character, "to": character}, or {"rows": [...]}, or {"parts": [...]}
    request_id    UUID
);

CREATE TABLE batch_frames (             -- rows of batches that run later
    batch_id      UUID NOT NULL,        -- the job's
    part          INTEGER NOT NULL,
    data          BLOB NOT NULL         -- an Arrow IPC stream, compressed
);

CREATE TABLE provider_batches (         -- requests that were handed to a provider's Batch API
    id            UUID PRIMARY KEY,     -- stands as session_id in its requests: they are under way while this is open
    batch_id      UUID,
    created_at    TIMESTAMP NOT NULL,
    provider      VARCHAR NOT NULL,
    base_url      VARCHAR NOT NULL,
    model         VARCHAR NOT NULL,
    state         VARCHAR NOT NULL,     -- writing, written, submitted, collected, failed
    session_id    UUID,                 -- the process that submits it, while it does
    file_id       VARCHAR,              -- the provider's names
    provider_id   VARCHAR,
    provider_state VARCHAR,             -- in its words: validating, in_progress, ...
    requests      INTEGER NOT NULL,
    completed     INTEGER NOT NULL,
    failed        INTEGER NOT NULL,
    updated_at    TIMESTAMP NOT NULL,
    finished_at   TIMESTAMP,
    error_message VARCHAR
);

CREATE VIEW batch_results AS            -- one row for each row of a batch
SELECT i.batch_id, unnest(i.row_numbers) AS row_number, i.label, s.text, i.status, i.error_code, i.error_message,
       i.request_id, i.document_id, i.known, i.tokens, i.cost_usd
FROM batch_items i LEFT JOIN responses s ON s.request_id = i.request_id;
