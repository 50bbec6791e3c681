-- The messages that begin a branch behind another message: the first ones of forks, and siblings. By their parent, for
-- whoever deletes that; by their conversation, for what it shows of others.
CREATE INDEX chat_messages_forks ON chat_messages (parent_id) WHERE depth = 0 AND parent_id IS NOT NULL;
CREATE INDEX chat_messages_begins ON chat_messages (conversation_id, parent_id) WHERE depth = 0 AND parent_id IS NOT NULL;

CREATE INDEX conversations_held ON conversations (bot_id) WHERE legal_hold;

-- From now on a number is not kept for longer than its topic.
DELETE FROM topic_heads WHERE topic LIKE 'conversation:%' AND NOT EXISTS (
    SELECT 1 FROM conversations c WHERE c.id = unhex(replace(substr(topic, 14), '-', ''))
);
DELETE FROM topic_heads WHERE topic LIKE 'turn:%' AND NOT EXISTS (
    SELECT 1 FROM turns t WHERE t.id = unhex(replace(substr(topic, 6), '-', '')) AND t.event_seq IS NULL
);
