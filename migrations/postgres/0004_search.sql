-- With the id in it, a whole conversation can be read page by page.
ALTER INDEX chat_messages_by_parent RENAME TO chat_messages_by_place;

-- The order of insertion, never given out twice.
ALTER TABLE chat_messages ADD COLUMN arrival bigint GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX chat_messages_by_arrival ON chat_messages (arrival);

-- Full-text search. The words come from deia, not from a parser of the database. `lexemes` finds candidates: the begin of
-- every word, one for the bot (:bID) and one for the conversation (:cID). `words` decides, and counts: all words in their
-- order, each between two spaces of its own. (A tsvector with positions would know only the first 256 of each word.)
-- Filled later, not by the commit that stores a message.
CREATE TABLE search_messages (
    message_id      uuid PRIMARY KEY,
    conversation_id uuid NOT NULL,
    lexemes         tsvector NOT NULL,
    words           text NOT NULL,
    length          bigint NOT NULL
);
CREATE INDEX search_messages_by_lexemes ON search_messages USING gin (lexemes);

-- Replies that had not ended when it was their turn to be indexed.
CREATE TABLE search_waiting (
    message_id uuid PRIMARY KEY
);

-- One row. What arrived up to the watermark is indexed, waits in search_waiting, or has no words.
CREATE TABLE search_state (
    watermark bigint NOT NULL
);
INSERT INTO search_state (watermark) VALUES (0);

-- Whoever deletes messages takes them out of the index.
CREATE FUNCTION chat_messages_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM search_messages WHERE message_id = ANY (ARRAY (SELECT id FROM gone));
    DELETE FROM search_waiting WHERE message_id = ANY (ARRAY (SELECT id FROM gone));
    RETURN NULL;
END $$;
CREATE TRIGGER chat_messages_deleted AFTER DELETE ON chat_messages
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chat_messages_deleted();
