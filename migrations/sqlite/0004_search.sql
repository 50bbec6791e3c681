-- With the id in it, the children of a message come in order, and a whole conversation can be read page by page.
DROP INDEX chat_messages_by_parent;
CREATE INDEX chat_messages_by_place ON chat_messages (conversation_id, parent_id, id);

-- Full-text search. The words come from deia, parted by spaces, without capitals; for the tokenizer `ascii` every character
-- above 127 is part of a word, so it takes apart nothing more. `home`: a word each for the bot and the conversation.
-- The index is filled later, not by the commit that stores a message.
CREATE VIRTUAL TABLE search_text USING fts5 (
    home, words, content = '', contentless_delete = 1, tokenize = 'ascii'
);

-- Which message a row of search_text is. Not the rowid of chat_messages: that may change in a VACUUM.
CREATE TABLE search_messages (
    row        INTEGER PRIMARY KEY,
    message_id BLOB NOT NULL UNIQUE
) STRICT;

-- Replies that had not ended when it was their turn to be indexed.
CREATE TABLE search_waiting (
    message_id BLOB PRIMARY KEY NOT NULL
) STRICT, WITHOUT ROWID;

-- One row. What has a rowid up to the watermark is indexed, waits in search_waiting, or has no words.
CREATE TABLE search_state (
    watermark INTEGER NOT NULL
) STRICT;
INSERT INTO search_state (watermark) VALUES (0);

-- Whoever deletes messages takes them out of the index. The highest rowids are given out again.
CREATE TRIGGER chat_messages_deleted AFTER DELETE ON chat_messages BEGIN
    DELETE FROM search_text WHERE rowid = (SELECT row FROM search_messages WHERE message_id = old.id);
    DELETE FROM search_messages WHERE message_id = old.id;
    DELETE FROM search_waiting WHERE message_id = old.id;
    UPDATE search_state SET watermark = (SELECT coalesce(max(rowid), 0) FROM chat_messages)
        WHERE watermark > (SELECT coalesce(max(rowid), 0) FROM chat_messages);
END;
