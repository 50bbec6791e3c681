-- With the id in it, the children of a message come in order, and a whole conversation can be read page by page.
DROP INDEX IF EXISTS chat_messages_by_parent;
CREATE INDEX chat_messages_by_place ON chat_messages (conversation_id, parent_id, id);
