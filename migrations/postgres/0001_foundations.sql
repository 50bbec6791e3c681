-- Bots, conversations, messages, turns, the outbox of events and the audit log.
-- Times are microseconds since 1970 UTC, as in the SQLite schema: exact, and compared as numbers. JSON is text, because
-- it must come back byte for byte and jsonb refuses "\u0000". Texts of people and models can hold U+0000, which text
-- can't: it is stored as U+0001 U+0002, and U+0001 as U+0001 U+0001.
-- No foreign keys: rows of the hot path are written by one connection that keeps them consistent, and
-- every check would be one more look-up per row.

-- Facts about the database itself: `epoch` (the numbering of its events), `probed_at`.
CREATE TABLE meta (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);

-- One row per bot id for ever: `key` stands for the id in the outbox, so a bot launched again
-- under an old id continues the numbers of its topic. A deleted bot keeps its row, with deleted_at.
-- Its state is in bot_status, its only home.
CREATE TABLE bots (
    key                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                   text COLLATE "C" NOT NULL UNIQUE,
    name                 text NOT NULL,
    config               text NOT NULL,
    config_version       bigint NOT NULL,
    main_conversation_id uuid NOT NULL,
    port                 bigint,
    process_id           bigint,
    metadata             text NOT NULL,
    created_at           bigint NOT NULL,
    updated_at           bigint NOT NULL,
    deleted_at           bigint
);

CREATE TABLE bot_status (
    bot_id            text COLLATE "C" PRIMARY KEY,
    status            text NOT NULL,
    memory_mb         bigint,
    cpu_percent       double precision,
    uptime_seconds    bigint,
    last_message      bigint,
    error_count       bigint NOT NULL,
    restart_count     bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    updated_at        bigint NOT NULL
);

-- retired_at: its bot was deleted with its history kept. Readable by id, in no list, takes nothing new.
CREATE TABLE conversations (
    id              uuid PRIMARY KEY,
    bot_id          text COLLATE "C" NOT NULL,
    title           text,
    main            boolean NOT NULL,
    leaf_message_id uuid,
    message_count   bigint NOT NULL,
    archived        boolean NOT NULL,
    created_at      bigint NOT NULL,
    last_at         bigint,
    retired_at      bigint
);
CREATE INDEX conversations_by_bot ON conversations (bot_id);

CREATE TABLE chat_messages (
    id              uuid PRIMARY KEY,
    parent_id       uuid,
    conversation_id uuid NOT NULL,
    bot_id          text COLLATE "C" NOT NULL,
    turn_id         uuid,
    sender          text NOT NULL,
    state           text NOT NULL,
    tokens          bigint NOT NULL,
    created_at      bigint NOT NULL,
    metadata        text NOT NULL,
    content         text NOT NULL,
    thinking        text,
    tool_calls      text,
    images          text
);
-- The id at its end: siblings are counted up to one of them.
CREATE INDEX chat_messages_by_parent ON chat_messages (conversation_id, parent_id, id);

-- event_seq: number of the last event of the turn's topic, known once it has ended.
CREATE TABLE turns (
    id                uuid PRIMARY KEY,
    bot_id            text COLLATE "C" NOT NULL,
    conversation_id   uuid NOT NULL,
    message_id        uuid NOT NULL,
    reply_id          uuid NOT NULL,
    state             text NOT NULL,
    model             text NOT NULL,
    server            text,
    attempt_of        uuid,
    queue             text,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    queued_ms         double precision,
    first_token_ms    double precision,
    total_ms          double precision,
    num_ctx           bigint NOT NULL,
    context_used      bigint NOT NULL,
    trimmed_messages  bigint NOT NULL,
    trimmed_tokens    bigint NOT NULL,
    error             text,
    overrides         text,
    created_at        bigint NOT NULL,
    ended_at          bigint,
    event_seq         bigint
);
CREATE INDEX turns_open ON turns (bot_id) WHERE ended_at IS NULL;

-- One row per event, whatever the number of its topics. The unique indexes also guard the numbers.
CREATE TABLE outbox_events (
    position         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id               uuid NOT NULL,
    event            text NOT NULL,
    created_at       bigint NOT NULL,
    bots_seq         bigint,
    tree_seq         bigint,
    models_seq       bigint,
    bot_key          bigint,
    bot_seq          bigint,
    conversation_id  uuid,
    conversation_seq bigint,
    turn_id          uuid,
    turn_seq         bigint,
    data             text NOT NULL
);
CREATE UNIQUE INDEX outbox_by_conversation ON outbox_events (conversation_id, conversation_seq)
    WHERE conversation_id IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_bot ON outbox_events (bot_key, bot_seq) WHERE bot_key IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_bots ON outbox_events (bots_seq) WHERE bots_seq IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_tree ON outbox_events (tree_seq) WHERE tree_seq IS NOT NULL;
CREATE UNIQUE INDEX outbox_by_models ON outbox_events (models_seq) WHERE models_seq IS NOT NULL;

CREATE TABLE audit_logs (
    id         uuid PRIMARY KEY,
    bot_id     text COLLATE "C",
    action     text NOT NULL,
    user_id    text NOT NULL,
    target     text NOT NULL,
    reason     text,
    details    text NOT NULL,
    created_at bigint NOT NULL
);
CREATE INDEX audit_logs_by_time ON audit_logs (created_at);
