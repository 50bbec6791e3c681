-- With the id in it, the children of a message come in order, and a whole conversation can be read page by page.
DROP INDEX IF EXISTS chat_messages_by_parent;
CREATE INDEX chat_messages_by_place ON chat_messages (conversation_id, parent_id, id);

-- Full-text search. The lexemes and their positions come from deia, not from a parser of the database.
-- The index is filled later, not by the commit that stores a message; deleting a message deletes its row here.
CREATE TABLE search_messages (
    message_id      UUID PRIMARY KEY REFERENCES chat_messages (id) ON DELETE CASCADE,
    bot_id          TEXT NOT NULL,
    conversation_id UUID NOT NULL,
    words           TSVECTOR NOT NULL
);
CREATE INDEX search_messages_by_words ON search_messages USING gin (words);

-- Replies that had not ended when it was their turn to be indexed.
CREATE TABLE search_waiting (
    message_id UUID PRIMARY KEY REFERENCES chat_messages (id) ON DELETE CASCADE
);

-- The order of insertion, never given out twice; the index on it costs next to nothing.
ALTER TABLE chat_messages ADD COLUMN row BIGINT GENERATED ALWAYS AS IDENTITY;
CREATE INDEX chat_messages_by_row ON chat_messages USING brin (row);

-- One row. What has a row number up to the watermark is indexed, waits in search_waiting, or has no words.
CREATE TABLE search_state (
    watermark BIGINT NOT NULL
);
INSERT INTO search_state (watermark) VALUES (0);
