//! What a legal hold reaches, as SQL for both dialects. A held conversation shows more than its own messages where it begins
//! in another one: its path goes on there, up to the first message.

use deia_actors::{domain::ids::ConversationId, ports::retention::Held};
use uuid::Uuid;

/// What held conversations show of others, as `shown(held, home, branch, depth, top)`: of the conversation `home` the
/// messages of a branch from `top` down to `depth` (migration 0005 tells what that is). The argument narrows down the held
/// conversations `c`.
macro_rules! shown {
    ($which:literal) => {
        concat!(
            "WITH RECURSIVE shown(held, home, branch, depth, top) AS ( \
                 SELECT e.held, m.conversation_id, m.branch, m.depth, ",
            $crate::adapters::spans::top!(),
            " FROM (SELECT c.id AS held, f.parent_id AS id FROM conversations c JOIN chat_messages f \
                        ON f.conversation_id = c.id AND f.depth = 0 AND f.parent_id IS NOT NULL \
                     WHERE c.legal_hold",
            $which,
            " UNION SELECT c.id, c.leaf_message_id FROM conversations c WHERE c.legal_hold",
            $which,
            ") e JOIN chat_messages m ON m.id = e.id AND m.conversation_id <> e.held \
                 UNION \
                 SELECT shown.held, m.conversation_id, m.branch, m.depth, ",
            $crate::adapters::spans::top!(),
            " FROM shown JOIN chat_messages first ON first.id = shown.branch \
                     JOIN chat_messages m ON m.id = first.parent_id WHERE shown.top = 0) "
        )
    };
}

/// Every conversation of the bot `$1` that may lose nothing, with the held one that it is or that shows messages of it.
macro_rules! held {
    () => {
        concat!(
            $crate::adapters::holds::shown!(" AND c.bot_id = $1"),
            "SELECT id, id FROM conversations WHERE bot_id = $1 AND legal_hold \
             UNION SELECT home, held FROM shown ORDER BY 1, 2"
        )
    };
}

/// Whether the message `m` is shown by a held conversation that it is not of; behind [`shown`].
macro_rules! is_shown {
    () => {
        "m.branch IN (SELECT branch FROM shown) AND EXISTS (SELECT 1 FROM shown s \
             WHERE s.branch = m.branch AND m.depth BETWEEN s.top AND s.depth)"
    };
}
pub(super) use {held, is_shown, shown};

/// What the rows of [`held`] say.
pub(super) fn kept(rows: Vec<(Uuid, Uuid)>) -> Vec<Held> {
    let held =
        |(conversation, by)| Held { conversation: ConversationId(conversation), by: ConversationId(by) };
    rows.into_iter().map(held).collect()
}
