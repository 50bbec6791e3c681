//! A conversation in the memory of its bot: the line of its turns, where its path ends, what was said.

use std::{collections::HashMap, sync::Arc, time::Instant};

use ractor::ActorId;
use tokio::sync::oneshot;

use super::{context::Path, lane::Lane, stop::Stop};
use crate::{
    domain::ids::{ConversationId, MessageId},
    inference::Want,
};

/// Conversations of one bot that are kept in memory for their next message.
const MAX_KEPT: usize = 256;

/// A conversation in memory.
#[derive(Default)]
pub(super) struct Talk {
    pub lane: Lane<Kept>,
    /// End of the conversation's active path, accepted turns included.
    pub leaf: Option<MessageId>,
    /// Messages that continue it there already, on other branches.
    pub beyond: u32,
    /// Ends that it had for a while and that were not stored, each with the end before it.
    pub lost: HashMap<MessageId, Option<MessageId>>,
    /// What is said so far, as far as it is in memory.
    pub path: Option<Arc<Path>>,
    /// The history changed under the running turn: what that turn knows of it is not to be kept.
    pub forgotten: bool,
    /// When something was said last; none for one that was only looked at.
    pub used: Option<Instant>,
}

/// Makes room for one more conversation: of those where nothing runs or waits, what was used longest ago goes. Storage knows
/// it, or will behind what is on its way.
pub(super) fn make_room(talks: &mut HashMap<ConversationId, Talk>) {
    while talks.len() >= MAX_KEPT {
        let idle = talks.iter().filter(|(_, talk)| talk.lane.is_empty());
        match idle.min_by_key(|(_, talk)| talk.used).map(|(id, _)| *id) {
            Some(oldest) => talks.remove(&oldest),
            None => break,
        };
    }
}

impl Talk {
    pub fn forget(&mut self) {
        (self.path, self.forgotten) = (None, true);
    }

    /// The path goes on to `end`; answers with the end before it.
    pub fn grow(&mut self, end: MessageId) -> Option<MessageId> {
        self.used = Some(Instant::now());
        self.beyond = 0;
        // One that was given up before may come again.
        self.lost.remove(&end);
        self.leaf.replace(end)
    }

    /// `end` was not stored, and nothing behind it will be.
    pub fn lose(&mut self, end: MessageId, behind: Option<MessageId>) {
        self.lost.insert(end, behind);
        // One that was given up and came again may stand behind one that stood behind it, both lost: then there is no way out
        // of the circle, what comes now is not stored either, and storage is asked once the lane is empty.
        for _ in 0..self.lost.len() {
            match self.leaf.and_then(|leaf| self.lost.get(&leaf)) {
                Some(behind) => self.leaf = *behind,
                None => break,
            }
        }
        if self.path.as_ref().and_then(|path| path.leaf).is_some_and(|leaf| self.lost.contains_key(&leaf)) {
            self.path = None;
        }
    }
}

/// A turn in a lane.
pub(super) struct Kept {
    /// What it will want of a model server, and the place that was told last.
    pub want: Want,
    /// Stops it.
    pub stop: Stop,
    /// The reply that it writes: the end of the path while it is the last one.
    pub reply: MessageId,
    /// The end before it.
    pub behind: Option<MessageId>,
    /// Tells a waiting turn that it may begin.
    pub go: Option<oneshot::Sender<Arc<Path>>>,
    pub work: Option<ActorId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ids::{BotId, TurnId},
        inference::queue::Class,
    };

    #[test]
    fn what_was_not_stored_leaves_the_end_where_it_was_in_whatever_order_that_is_learnt() {
        let [stored, first, second, third] = std::array::from_fn(|_| MessageId::new());
        let behind = [(first, Some(stored)), (second, Some(first)), (third, Some(second))];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
            let mut talk = Talk { leaf: Some(third), ..Talk::default() };
            for at in order {
                let (end, before) = behind[at];
                talk.lose(end, before);
            }
            assert_eq!(talk.leaf, Some(stored), "{order:?}");
        }
        let mut talk = Talk { leaf: Some(third), ..Talk::default() };
        talk.lose(second, Some(first));
        assert_eq!(talk.leaf, Some(third), "the last one may have got through");
        let mut talk = Talk { leaf: Some(first), ..Talk::default() };
        talk.lose(first, None);
        assert_eq!(talk.leaf, None, "it was to be the first message");
    }

    #[test]
    fn a_bot_with_more_conversations_than_it_keeps_lets_go_of_what_was_used_longest_ago() {
        let mut talks = HashMap::new();
        let add = |talks: &mut HashMap<_, _>, runs: bool| {
            make_room(talks);
            let (id, mut talk) = (ConversationId::new(), Talk::default());
            talk.grow(MessageId::new());
            if runs {
                let turn = TurnId::new();
                let want = Want {
                    turn,
                    conversation: id,
                    bot: BotId::numbered(1),
                    class: Class::Api,
                    model: "m".into(),
                    cost: 1,
                    waited: std::time::Duration::ZERO,
                    told: None,
                    tried: vec![],
                };
                let (stop, reply) = (Stop::default(), MessageId::new());
                let kept = Kept { want, stop, reply, behind: None, go: None, work: None };
                talk.lane.push(turn, kept);
            }
            talks.insert(id, talk);
            id
        };
        let busy = add(&mut talks, true);
        let oldest = add(&mut talks, false);
        let second = add(&mut talks, false);
        let rest: Vec<_> = (3..MAX_KEPT).map(|_| add(&mut talks, false)).collect();
        let one_more = add(&mut talks, false);
        assert_eq!(talks.len(), MAX_KEPT);
        assert!(!talks.contains_key(&oldest));
        assert!([busy, second, one_more].iter().chain(&rest).all(|id| talks.contains_key(id)));
        for _ in 0..2 * MAX_KEPT {
            add(&mut talks, true);
        }
        assert!(talks.values().all(|talk| !talk.lane.is_empty()), "what runs or waits is never let go");
    }

    #[test]
    fn two_that_stood_behind_each_other_in_turns_are_no_endless_way_back() {
        let [stored, first, second] = std::array::from_fn(|_| MessageId::new());
        let mut talk = Talk { leaf: Some(stored), ..Talk::default() };
        let behind_first = talk.grow(first);
        let behind_second = talk.grow(second);
        talk.lose(first, behind_first);
        let again = talk.grow(first);
        assert_eq!(again, Some(second));
        talk.lose(second, behind_second);
        talk.lose(first, again);
        assert!(
            talk.leaf.is_some_and(|leaf| talk.lost.contains_key(&leaf)),
            "what comes now stands behind a lost one"
        );
    }
}
