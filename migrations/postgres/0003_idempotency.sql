-- Keys that clients chose for their sends, written in the transaction that stores what the send did.
-- turn_id is null for a slash command. A key is good for 24 hours; older rows may be deleted or replaced.
CREATE TABLE idempotency_keys (
    user_id     TEXT NOT NULL,
    bot_id      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    turn_id     UUID,
    message_id  UUID NOT NULL,
    reply_id    UUID NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (user_id, bot_id, key)
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
