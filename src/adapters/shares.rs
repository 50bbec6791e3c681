//! What a fork shares, as SQL for both dialects: the path that ends with the newest message of another conversation, older than
//! the fork, that a message of the fork hangs on. All of those stand on one path, so the newest is its end; the message that
//! hangs on it begins a branch, and the index of these finds it at once.

/// End of what the conversation `$1` shares; nothing where it is no fork, or where nothing was said in it yet.
macro_rules! end {
    () => {
        "SELECT f.parent_id FROM chat_messages f JOIN chat_messages p ON p.id = f.parent_id \
         WHERE f.conversation_id = $1 AND f.depth = 0 AND f.parent_id IS NOT NULL AND f.parent_id < $1 \
             AND p.conversation_id <> $1 ORDER BY f.parent_id DESC LIMIT 1"
    };
}

/// The message of the path that ends with `$1` that has `$2` messages below it; `$3` is one more.
macro_rules! nth {
    () => {
        concat!($crate::adapters::spans::walk!(), " SELECT id FROM up WHERE below = $2")
    };
}

/// The newest message of the conversation `$2` behind `$1`, which it shares.
macro_rules! newest_behind {
    () => {
        "WITH RECURSIVE down(id) AS ( \
             SELECT f.id FROM chat_messages f JOIN chat_messages p ON p.id = f.parent_id \
                 WHERE f.conversation_id = $2 AND f.depth = 0 AND f.parent_id IS NOT NULL AND f.parent_id >= $1 \
                     AND f.parent_id < $2 AND p.conversation_id <> $2 \
             UNION ALL \
             SELECT m.id FROM down JOIN chat_messages m ON m.conversation_id = $2 AND m.parent_id = down.id) \
         SELECT id FROM down ORDER BY id DESC LIMIT 1"
    };
}
pub(super) use {end, newest_behind, nth};
