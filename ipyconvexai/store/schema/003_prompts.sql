-- name: prompts
-- description: questions that people keep under a name.

CREATE TABLE prompts (                  -- one row per saving; the newest of a name is the prompt
    id         UUID PRIMARY KEY,
    created_at TIMESTAMP NOT NULL,
    name       VARCHAR NOT NULL,
    text       VARCHAR NOT NULL,        -- as it was written: its {names} are filled in where it is used
    user_id    VARCHAR
);
