-- Events that outlive the process, and what deletes the old.

-- Number of the last event of a topic (`bots`, `bot:ID`, `conversation:ID`, …) that has lost events to retention. Written
-- when events are deleted, read where a topic has no event left: its numbers go on.
CREATE TABLE topic_heads (
    topic text COLLATE "C" PRIMARY KEY,
    seq   bigint NOT NULL
);

-- The topic `tasks`.
ALTER TABLE outbox_events ADD COLUMN tasks_seq bigint;
CREATE UNIQUE INDEX outbox_by_tasks ON outbox_events (tasks_seq) WHERE tasks_seq IS NOT NULL;

-- A held conversation loses no message, whoever asks.
ALTER TABLE conversations ADD COLUMN legal_hold boolean NOT NULL DEFAULT false;

-- The oldest messages, for retention.
CREATE INDEX chat_messages_by_time ON chat_messages (created_at);
