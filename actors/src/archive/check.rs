//! What must be true of a whole file before anything of it is stored: its order, its references, no circle. In memory that
//! does not grow with the messages.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use uuid::Uuid;

use super::{invalid, sorted::Sorter};
use crate::{
    domain::{
        ids::{ConversationId, MessageId},
        message::{Conversation, Message},
        problem::{Code, Problem},
    },
    ports::{archive::Place, scratch::Scratch},
};

/// Collects what is needed to judge a file.
pub(super) struct Checker {
    /// Conversations with their place in the file.
    conversations: HashMap<ConversationId, usize>,
    main: Option<ConversationId>,
    last_conversation: Option<ConversationId>,
    last: Option<(usize, Place)>,
    /// The first message that stands where it does not belong.
    stray: Option<MessageId>,
    /// Each message and the one before it; a first one has its own id there.
    nodes: Sorter<32>,
    /// Messages that something in the file hangs on; not where they stand right before it.
    needed: Sorter<16>,
    /// Messages that are not younger than the one before them: a clock was set back, or there is a circle.
    turned: Vec<(MessageId, MessageId)>,
}

impl Checker {
    /// `scratch` is for what is too much for memory.
    pub(super) fn new(scratch: &Arc<dyn Scratch>) -> Self {
        Self {
            conversations: HashMap::new(),
            main: None,
            last_conversation: None,
            last: None,
            stray: None,
            nodes: Sorter::new(scratch.clone()),
            needed: Sorter::new(scratch.clone()),
            turned: vec![],
        }
    }

    pub(super) fn conversation(&mut self, c: &Conversation) -> Result<(), Problem> {
        if self.last_conversation.replace(c.id).is_some_and(|last| last >= c.id) {
            return Err(invalid(format!("Conversation {} is not in the order of the ids", c.id)));
        }
        if c.main && self.main.replace(c.id).is_some() {
            return Err(invalid("The file has two main conversations"));
        }
        self.conversations.insert(c.id, self.conversations.len());
        c.leaf_message_id.map_or(Ok(()), |leaf| self.needed.push(bytes(leaf))).map_err(|e| no_room(&e))
    }

    pub(super) fn message(&mut self, m: &Message) -> Result<(), Problem> {
        let home = self.conversations.get(&m.conversation_id).copied();
        let home = home.ok_or_else(|| {
            invalid(format!(
                "Message {} is of conversation {}, which the file lacks",
                m.id, m.conversation_id
            ))
        })?;
        let place = (home, Place::of(m));
        let before = self.last.replace(place);
        if before.is_some_and(|before| before >= place) {
            self.stray.get_or_insert(m.id);
        }
        if let Some(parent) = m.parent_id {
            if before.is_none_or(|(_, place)| place.id != parent) {
                self.needed.push(bytes(parent)).map_err(|e| no_room(&e))?;
            }
            if parent >= m.id {
                self.turned.push((m.id, parent));
            }
        }
        let mut node = [0; 32];
        let (id, parent) = node.split_at_mut(16);
        id.copy_from_slice(&bytes(m.id));
        parent.copy_from_slice(&bytes(m.parent_id.unwrap_or(m.id)));
        self.nodes.push(node).map_err(|e| no_room(&e))
    }

    /// Answers with the messages that others of the file hang on and that must be stored already. Takes its time: not
    /// for a thread that others wait for. `left_out` is how many rows the file says it lacks.
    pub(super) fn end(self, left_out: u64) -> Result<Vec<MessageId>, Problem> {
        // What hung on a message that is left out stands where it stood.
        if let (Some(id), 0) = (self.stray, left_out) {
            return Err(invalid(format!("Message {id} does not stand where it belongs")));
        }
        let mut ways = Ways::new(&self.turned);
        let nodes = self.nodes.descending().map_err(|e| no_room(&e))?;
        let mut needed = self.needed.descending().map_err(|e| no_room(&e))?;
        let mut next_needed = || needed.next().transpose().map_err(|e| no_room(&e));
        let (mut outside, mut need, mut newer) = (vec![], next_needed()?, None);
        for node in nodes {
            let node = node.map_err(|e| no_room(&e))?;
            let (id, parent) = node.split_at(16);
            let (id, parent) = (message(id), message(parent));
            if newer.replace(id) == Some(id) {
                return Err(invalid(format!("Message {id} is in it twice")));
            }
            while let Some(given) = need.map(|given| message(&given)).filter(|given| *given >= id) {
                if given > id {
                    outside.push(given);
                }
                need = next_needed()?;
            }
            ways.pass(id, Some(parent).filter(|parent| *parent != id));
        }
        while let Some(given) = need {
            outside.push(message(&given));
            need = next_needed()?;
        }
        outside.dedup();
        ways.end()?;
        Ok(outside)
    }
}

fn bytes(id: MessageId) -> [u8; 16] {
    id.0.into_bytes()
}

fn message(bytes: &[u8]) -> MessageId {
    MessageId(Uuid::from_slice(bytes).unwrap_or_default())
}

fn no_room(error: &io::Error) -> Problem {
    let detail =
        format!("What is needed to check the file can't be kept ({error}). Nothing was stored; try again.");
    Problem::new(Code::StorageUnavailable, detail)
}

/// Looks for circles. Every circle has a message that is not younger than the one before it; from each of those the way goes
/// back in time, through messages that are passed newest first, to the next of its kind or to a begin.
struct Ways<'t> {
    turned: &'t [(MessageId, MessageId)],
    /// Which of the turned ones each of them leads to.
    next: Vec<Option<usize>>,
    /// Which of the turned ones have come to this message.
    at: BTreeMap<MessageId, Vec<usize>>,
    /// Places of the turned ones.
    of: HashMap<MessageId, usize>,
}

impl<'t> Ways<'t> {
    fn new(turned: &'t [(MessageId, MessageId)]) -> Self {
        let mut at: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (way, (_, before)) in turned.iter().enumerate() {
            at.entry(*before).or_default().push(way);
        }
        let of = turned.iter().enumerate().map(|(way, (id, _))| (*id, way)).collect();
        Self { turned, next: vec![None; turned.len()], at, of }
    }

    fn pass(&mut self, id: MessageId, before: Option<MessageId>) {
        let Some(ways) = self.at.remove(&id) else { return };
        if let Some(turned) = self.of.get(&id) {
            for way in ways {
                if let Some(next) = self.next.get_mut(way) {
                    *next = Some(*turned);
                }
            }
        } else if let Some(before) = before {
            let together = self.at.entry(before).or_default();
            if together.is_empty() {
                *together = ways;
            } else {
                together.extend(ways);
            }
        }
    }

    fn end(self) -> Result<(), Problem> {
        let mut walked = vec![0; self.next.len()];
        for start in 0..self.next.len() {
            let mut at = Some(start);
            while let Some(way) = at {
                match walked.get_mut(way) {
                    Some(mark @ 0) => *mark = start + 1,
                    Some(mark) if *mark == start + 1 => {
                        let id = self.turned.get(way).map_or_else(String::new, |(id, _)| id.to_string());
                        return Err(invalid(format!("Message {id} comes before itself")));
                    }
                    _ => break,
                }
                at = self.next.get(way).copied().flatten();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{ids::BotId, message::Sender},
        testkit::conformance::samples,
    };

    type Edge = (Option<u128>, u128);

    /// The same with everything in memory: what is wrong, or what must be there already.
    fn plain(edges: &[Edge]) -> Result<BTreeSet<u128>, &'static str> {
        let parents: HashMap<u128, Option<u128>> = edges.iter().map(|(parent, id)| (*id, *parent)).collect();
        if parents.len() < edges.len() {
            return Err("twice");
        }
        for (_, id) in edges {
            let mut at = *id;
            for _ in 0..=edges.len() {
                let Some(Some(parent)) = parents.get(&at) else { break };
                at = *parent;
                if at == *id {
                    return Err("before itself");
                }
            }
        }
        Ok(edges.iter().filter_map(|(parent, _)| *parent).filter(|id| !parents.contains_key(id)).collect())
    }

    fn checked(edges: &[Edge]) -> Result<BTreeSet<u128>, Problem> {
        let home = samples::conversation(&BotId::numbered(1));
        let mut checker = Checker::new(&(Arc::new(crate::ports::scratch::InMemory) as Arc<dyn Scratch>));
        checker.conversation(&home)?;
        for (parent, id) in edges {
            let [parent, id] = [*parent, Some(*id)].map(|id| id.map(|id| MessageId(Uuid::from_u128(id))));
            checker
                .message(&Message { id: id.unwrap(), ..samples::message(&home, parent, Sender::User, "") })?;
        }
        Ok(checker.end(0)?.into_iter().map(|id| id.0.as_u128()).collect())
    }

    proptest! {
        #[test]
        fn circles_doubles_and_what_is_missing_are_found_in_any_order_of_ids(
            edges in proptest::collection::btree_set((proptest::option::of(1..16u128), 1..16u128), 0..14)
        ) {
            let edges: Vec<Edge> = edges.into_iter().collect();
            match (plain(&edges), checked(&edges)) {
                (Ok(expected), Ok(outside)) => prop_assert_eq!(outside, expected),
                (Err(expected), Err(problem)) => prop_assert!(problem.detail.contains(expected), "{}", problem),
                (expected, given) => prop_assert!(false, "{:?}, not {:?}", given, expected),
            }
        }

        #[test]
        fn a_tree_of_any_order_of_ids_is_none_with_a_circle(
            parents in proptest::collection::vec(any::<u8>(), 1..40), ids in Just((1..=40u128).collect::<Vec<_>>()).prop_shuffle(),
            turn in any::<bool>(),
        ) {
            let at = |n: usize| ids[n % ids.len()];
            let mut edges: Vec<Edge> = parents
                .iter()
                .enumerate()
                .map(|(n, parent)| ((n > 0).then(|| at(usize::from(*parent) % n)), at(n)))
                .collect();
            if turn {
                // The first one hangs on the last one: a circle where that one hangs on it.
                edges[0].0 = edges.last().map(|edge| edge.1);
            }
            edges.sort_unstable();
            match (plain(&edges), checked(&edges)) {
                (Ok(expected), Ok(outside)) => prop_assert_eq!(outside, expected),
                (Err(expected), Err(problem)) => prop_assert!(problem.detail.contains(expected), "{}", problem),
                (expected, given) => prop_assert!(false, "{:?}, not {:?}", given, expected),
            }
        }
    }
}
