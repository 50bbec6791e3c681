-- Keys that clients chose for their sends, written in the transaction that stores what the send did.
-- turn_id is null for a slash command. A key is good for 24 hours; older rows may be deleted or replaced.
CREATE TABLE idempotency_keys (
    user_id     text COLLATE "C" NOT NULL,
    bot_id      text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    turn_id     uuid,
    message_id  uuid NOT NULL,
    reply_id    uuid NOT NULL,
    created_at  bigint NOT NULL,
    PRIMARY KEY (user_id, bot_id, key)
);
CREATE INDEX idempotency_keys_by_bot ON idempotency_keys (bot_id);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
