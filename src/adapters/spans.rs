//! How the SQL of both dialects finds its way along a path without walking it. A path is a few spans, each a run of depths
//! of one branch (migration 0005 tells what that is); from the leaf's span the parent of a branch's first message leads
//! to the next. Within a span a place is found by its depth: at the next mark, from where it is a short walk.

/// Depth of the message where the span of `m` begins: the next above it that has no parent, or the first of the branch.
macro_rules! top {
    () => {
        "coalesce((SELECT t.depth FROM chat_messages t \
             WHERE t.branch = m.branch AND t.depth <= m.depth AND t.parent_id IS NULL \
             ORDER BY t.depth DESC LIMIT 1), 0)"
    };
}

/// The spans of the path that ends with `$1`, from there on: the last message of each, branch, depths from `depth` up to
/// `top`, and how many messages of the path are `below` them.
macro_rules! spans {
    () => {
        concat!(
            "WITH RECURSIVE spans(id, branch, depth, top, below) AS ( \
                 SELECT m.id, m.branch, m.depth, ",
            $crate::adapters::spans::top!(),
            ", CAST(0 AS BIGINT) FROM chat_messages m WHERE m.id = $1 \
                 UNION ALL \
                 SELECT m.id, m.branch, m.depth, ",
            $crate::adapters::spans::top!(),
            ", spans.below + spans.depth - spans.top + 1 \
                 FROM spans JOIN chat_messages first ON first.id = spans.branch \
                     JOIN chat_messages m ON m.id = first.parent_id WHERE spans.top = 0)"
        )
    };
}

/// How many messages of the path that ends with `$1` are above it; 0 where there is no such message.
macro_rules! above {
    () => {
        concat!($crate::adapters::spans::spans!(), " SELECT coalesce(max(below + depth - top), 0) FROM spans")
    };
}

/// How many messages of the path that ends with `$1` are below `$2`; nothing where that is not on the path.
macro_rules! place {
    () => {
        concat!(
            $crate::adapters::spans::spans!(),
            " SELECT spans.below + spans.depth - m.depth FROM spans JOIN chat_messages m \
                 ON m.branch = spans.branch AND m.depth BETWEEN spans.top AND spans.depth \
              WHERE m.id = $2 LIMIT 1"
        )
    };
}

/// Messages of the path that ends with `$1`, from the one with `$2` messages below it to that with `$3` (excluded), as
/// `up(id, parent_id, below)`; a few more stand in front of them.
macro_rules! walk {
    () => {
        concat!(
            $crate::adapters::spans::spans!(),
            ", near(id, below) AS ( \
                 SELECT coalesce(mark.id, spans.id), \
                     spans.below + spans.depth - coalesce(mark.depth, spans.depth) \
                 FROM spans LEFT JOIN chat_messages mark ON mark.branch = spans.branch AND mark.depth % 32 = 0 \
                     AND mark.depth >= spans.depth + spans.below - $2 \
                     AND mark.depth < spans.depth + spans.below - $2 + 32 AND mark.depth <= spans.depth \
                 WHERE $2 BETWEEN spans.below AND spans.below + spans.depth - spans.top LIMIT 1), \
             up(id, parent_id, below) AS ( \
                 SELECT m.id, m.parent_id, near.below FROM near JOIN chat_messages m ON m.id = near.id \
                 UNION ALL \
                 SELECT m.id, m.parent_id, up.below + 1 FROM up JOIN chat_messages m ON m.id = up.parent_id \
                 WHERE up.below + 1 < $3)"
        )
    };
}
pub(super) use {above, place, spans, top, walk};
