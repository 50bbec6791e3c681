-- A message's place in the tree, so that a page in the middle of a long path is found without a walk from its end. The first
-- child of a message in its conversation goes on in the branch of its parent, one deeper; every other message begins a
-- branch: `branch` is its own id, its `depth` 0. Both stay for good. Within a branch a message has its parent just above
-- it, down to a message without parent (one whose parent was deleted has none): above that the branch is somebody else's.
ALTER TABLE chat_messages ADD COLUMN branch uuid;
ALTER TABLE chat_messages ADD COLUMN depth bigint NOT NULL DEFAULT 0;

-- Nobody has counted the new column yet: taken for frequent, what begins a branch would be met by reading the whole table
-- at each step down.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL jit = off;
UPDATE chat_messages SET branch = id WHERE NOT EXISTS (
    SELECT 1 FROM chat_messages p WHERE p.id = chat_messages.parent_id
        AND p.conversation_id = chat_messages.conversation_id
) OR EXISTS (
    SELECT 1 FROM chat_messages s WHERE s.conversation_id = chat_messages.conversation_id
        AND s.parent_id = chat_messages.parent_id AND s.id < chat_messages.id
);
WITH RECURSIVE down(id, conversation_id, branch, depth) AS (
    SELECT id, conversation_id, branch, 0::bigint FROM chat_messages WHERE branch IS NOT NULL
    UNION ALL
    SELECT m.id, m.conversation_id, down.branch, down.depth + 1
    FROM down JOIN chat_messages m
        ON m.conversation_id = down.conversation_id AND m.parent_id = down.id AND m.branch IS NULL
)
UPDATE chat_messages SET branch = down.branch, depth = down.depth
    FROM down WHERE down.id = chat_messages.id AND down.depth > 0;

-- Every 32nd message of a branch: a walk to one in between is short, and most messages cost no entry.
CREATE UNIQUE INDEX chat_messages_marks ON chat_messages (branch, depth) WHERE depth % 32 = 0;
-- The messages without parent: where a branch is cut off.
CREATE INDEX chat_messages_tops ON chat_messages (branch, depth) WHERE parent_id IS NULL;
