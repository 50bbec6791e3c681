-- Bots, conversations, messages, turns, the outbox of events and the audit log.
-- Times are microseconds since 1970 UTC, ids are the 16 bytes of a UUIDv7, JSON is TEXT.
-- No foreign keys: rows of the hot path are written by one thread that keeps them consistent, and
-- every check would be one more look-up per row.

-- Facts about the database itself: `epoch` (the numbering of its events), `probed_at`.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per bot id for ever: `key` stands for the id in the outbox, so a bot launched again
-- under an old id continues the numbers of its topic. A deleted bot keeps its row, with deleted_at.
-- Its state is in bot_status, its only home.
CREATE TABLE bots (
    key                  INTEGER PRIMARY KEY AUTOINCREMENT,
    id                   TEXT NOT NULL UNIQUE,
    name                 TEXT NOT NULL,
    config               TEXT NOT NULL,
    config_version       INTEGER NOT NULL,
    main_conversation_id BLOB NOT NULL,
    port                 INTEGER,
    process_id           INTEGER,
    metadata             TEXT NOT NULL,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    deleted_at           INTEGER
) STRICT;

CREATE TABLE bot_status (
    bot_id            TEXT PRIMARY KEY NOT NULL,
    status            TEXT NOT NULL,
    memory_mb         INTEGER,
    cpu_percent       REAL,
    uptime_seconds    INTEGER,
    last_message      INTEGER,
    error_count       INTEGER NOT NULL,
    restart_count     INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- retired_at: its bot was deleted with its history kept. Readable by id, in no list, takes nothing new.
CREATE TABLE conversations (
    id              BLOB PRIMARY KEY NOT NULL,
    bot_id          TEXT NOT NULL,
    title           TEXT,
    main            INTEGER NOT NULL,
    leaf_message_id BLOB,
    message_count   INTEGER NOT NULL,
    archived        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    last_at         INTEGER,
    retired_at      INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX conversations_by_bot ON conversations (bot_id);

-- The short columns stand first: a walk along parent_id never touches the pages of long contents.
CREATE TABLE chat_messages (
    id              BLOB NOT NULL UNIQUE,
    parent_id       BLOB,
    conversation_id BLOB NOT NULL,
    bot_id          TEXT NOT NULL,
    turn_id         BLOB,
    sender          TEXT NOT NULL,
    state           TEXT NOT NULL,
    tokens          INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    metadata        TEXT NOT NULL,
    content         TEXT NOT NULL,
    thinking        TEXT,
    tool_calls      TEXT,
    images          TEXT
) STRICT;
CREATE INDEX chat_messages_by_parent ON chat_messages (conversation_id, parent_id);

-- event_seq: number of the last event of the turn's topic, known once it has ended.
CREATE TABLE turns (
    id                BLOB PRIMARY KEY NOT NULL,
    bot_id            TEXT NOT NULL,
    conversation_id   BLOB NOT NULL,
    message_id        BLOB NOT NULL,
    reply_id          BLOB NOT NULL,
    state             TEXT NOT NULL,
    model             TEXT NOT NULL,
    server            TEXT,
    attempt_of        BLOB,
    queue             TEXT,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    queued_ms         REAL,
    first_token_ms    REAL,
    total_ms          REAL,
    num_ctx           INTEGER NOT NULL,
    context_used      INTEGER NOT NULL,
    trimmed_messages  INTEGER NOT NULL,
    trimmed_tokens    INTEGER NOT NULL,
    error             TEXT,
    overrides         TEXT,
    created_at        INTEGER NOT NULL,
    ended_at          INTEGER,
    event_seq         INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX turns_open ON turns (bot_id) WHERE ended_at IS NULL;

-- One row per event, whatever the number of its topics. The unique indexes also guard the numbers.
CREATE TABLE outbox_events (
    position         INTEGER PRIMARY KEY AUTOINCREMENT,
    id               BLOB NOT NULL,
    event            TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    bots_seq         INTEGER,
    tree_seq         INTEGER,
    models_seq       INTEGER,
    bot_key          INTEGER,
    bot_seq          INTEGER,
    conversation_id  BLOB,
    conversation_seq INTEGER,
    turn_id          BLOB,
    turn_seq         INTEGER,
    data             TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX outbox_by_conversation ON outbox_events (conversation_id, conversation_seq)
    WHERE conversation_id IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_bot ON outbox_events (bot_key, bot_seq) WHERE bot_key IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_bots ON outbox_events (bots_seq) WHERE bots_seq IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_tree ON outbox_events (tree_seq) WHERE tree_seq IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_models ON outbox_events (models_seq) WHERE models_seq IS NOT NULL;

CREATE TABLE audit_logs (
    id         BLOB PRIMARY KEY NOT NULL,
    bot_id     TEXT,
    action     TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    target     TEXT NOT NULL,
    reason     TEXT,
    details    TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_logs_by_time ON audit_logs (created_at);
