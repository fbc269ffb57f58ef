-- name: ledger
-- description: what was sent, what came back, and the conversations and documents around it.
-- All instants are UTC. Ids are UUIDv7. No foreign keys: DuckDB refuses updates of referenced rows with list columns.

CREATE TABLE requests (                 -- one row per attempt, durable before it is sent
    id              UUID PRIMARY KEY,
    attempt         INTEGER NOT NULL,   -- 1, 2, ... of one call
    retry_of        UUID,               -- the first attempt of the call, for the later ones
    sent_at         TIMESTAMP NOT NULL,
    provider        VARCHAR,
    model           VARCHAR,
    endpoint        VARCHAR NOT NULL,   -- chat/completions, responses, embeddings ...
    base_url        VARCHAR,
    stream          BOOLEAN,
    cache_key       UUID,               -- hash of endpoint, model and the whole body
    body            VARCHAR,            -- as sent, without keys; NULL where only metadata is kept
    body_bytes      BLOB,               -- instead of body, where it is not text
    body_size       INTEGER,
    user_id         VARCHAR,
    source          VARCHAR,            -- magic, panel, batch, schedule, client, cli, function
    notebook        VARCHAR,
    cell_id         VARCHAR,
    conversation_id UUID,
    batch_id        UUID,
    session_id      UUID NOT NULL       -- the process that sent it
);
CREATE INDEX requests_by_cache_key ON requests (cache_key);

CREATE TABLE responses (                -- one row per request, durable before the caller sees it
    request_id          UUID PRIMARY KEY,
    received_at         TIMESTAMP NOT NULL,
    status              VARCHAR NOT NULL,   -- ok, error, timeout, cut, interrupted, canceled, refused, unknown
    http_status         SMALLINT,
    content_type        VARCHAR,
    body                VARCHAR,
    body_bytes          BLOB,
    body_size           INTEGER,
    text                VARCHAR,
    finish_reason       VARCHAR,
    model               VARCHAR,            -- as the provider named it
    input_tokens        INTEGER,
    cached_tokens       INTEGER,
    output_tokens       INTEGER,
    reasoning_tokens    INTEGER,
    cost_usd            DOUBLE,
    first_token_ms      DOUBLE,
    duration_ms         DOUBLE,
    error_code          VARCHAR,
    error_message       VARCHAR,
    provider_request_id VARCHAR
);

CREATE VIEW calls AS
SELECT r.id, r.attempt, r.retry_of, r.sent_at, r.provider, r.model, r.endpoint,
       coalesce(s.status, 'sending') AS status, s.http_status, s.text, s.finish_reason,
       s.input_tokens, s.cached_tokens, s.output_tokens, s.reasoning_tokens, s.cost_usd,
       s.first_token_ms, s.duration_ms, s.error_code, s.error_message,
       r.user_id, r.source, r.notebook, r.cell_id, r.conversation_id, r.batch_id,
       s.received_at, s.provider_request_id, r.cache_key, r.body AS request, s.body AS response, r.session_id
FROM requests r LEFT JOIN responses s ON s.request_id = r.id;

CREATE TABLE conversations (
    id         UUID PRIMARY KEY,
    created_at TIMESTAMP NOT NULL,
    title      VARCHAR,
    user_id    VARCHAR,
    system     VARCHAR
);

CREATE TABLE messages (
    id              UUID PRIMARY KEY,
    created_at      TIMESTAMP NOT NULL,
    conversation_id UUID NOT NULL,
    role            VARCHAR NOT NULL,   -- system, user, assistant, tool
    content         VARCHAR,
    status          VARCHAR NOT NULL,   -- done, cut, interrupted ...
    request_id      UUID                -- the call that gave it
);
CREATE INDEX messages_by_conversation ON messages (conversation_id);

CREATE TABLE documents (
    id         UUID PRIMARY KEY,        -- made from the content: equal texts are one document
    created_at TIMESTAMP NOT NULL,
    content    VARCHAR,                 -- NULL where only metadata is kept
    size       INTEGER NOT NULL,        -- characters
    source     VARCHAR                  -- where it was first met
);
