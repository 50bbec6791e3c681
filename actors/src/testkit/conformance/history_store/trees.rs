//! Deep trees: long chains, edits at every level, forks, imports of any shape, and deletions that leave holes. The pages of
//! every path must be those of a naive walk along `parent_id`. The seed is in the message of a failure.

use std::collections::BTreeMap;

use rand::{
    Rng, SeedableRng,
    rngs::SmallRng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{super::samples::*, Subject};
use crate::{
    domain::{
        ids::{BotId, ConversationId, MessageId},
        message::{Conversation, Message, Sender},
        turn::Turn,
    },
    ports::{
        archive::{Archive, Arrival, ImportPart},
        history_store::{Change, Cursor, Fact, HistoryStore},
        retention::{Prune, RetentionStore},
        storage::Storage,
    },
    testkit::fakes::memory_store::MemoryStore,
};

const TREES: u64 = 2;
const STEPS: usize = 40;
/// Steps between two checks.
const UNCHECKED: usize = 8;

/// The trees of one bot, and the model that knows what is left of them.
pub struct Grove {
    seed: u64,
    random: SmallRng,
    model: MemoryStore,
    bot: BotId,
    homes: Vec<Conversation>,
    messages: Vec<Message>,
    turns: Vec<(Turn, Message)>,
}

impl Grove {
    /// A bot with its main conversation, in the store and in the model.
    pub async fn plant(store: &impl Storage, seed: u64) -> Self {
        let bot = BotId::numbered(1);
        let (fact, main) = launch(&bot);
        let grove = Self {
            seed,
            random: SmallRng::seed_from_u64(seed),
            model: MemoryStore::new(),
            bot,
            homes: vec![main],
            messages: vec![],
            turns: vec![],
        };
        assert!(grove.commit(store, fact).await);
        grove
    }

    /// So many random steps, checked now and then and at the end.
    pub async fn grow(&mut self, store: &impl Storage, steps: usize) {
        for step in 1..=steps {
            match self.random.random_range(0..20) {
                0..2 => self.prune(store).await,
                2 => self.prune_turns(store).await,
                _ => {
                    let fact = self.fact();
                    self.commit(store, fact).await;
                }
            }
            if step % UNCHECKED == 0 || step == steps {
                self.check(store).await;
            }
        }
    }

    async fn commit(&self, store: &impl Storage, fact: Fact) -> bool {
        let expected = self.model.commit(vec![fact.clone()]).await.unwrap()[0].applied;
        let applied = store.commit(vec![fact.clone()]).await.unwrap()[0].applied;
        assert_eq!(applied, expected, "seed {}: {fact:?}", self.seed);
        applied
    }

    /// Deletes some of the oldest.
    async fn prune(&mut self, store: &impl Storage) {
        let Some(young) = self.message() else { return };
        let (what, limit) = (
            Prune::Chat { before: young.created_at },
            self.random.random_range(1..self.messages.len() as u32 + 2),
        );
        let expected = self.model.prune(what, limit).await.unwrap().rows;
        assert_eq!(store.prune(what, limit).await.unwrap().rows, expected, "seed {}", self.seed);
    }

    /// Clears everything; what open turns need is left.
    async fn prune_turns(&mut self, store: &impl Storage) {
        let conversation_id = self.homes.choose(&mut self.random).map(|home| home.id);
        let change = Change::ClearHistory { bot_id: self.bot.clone(), conversation_id };
        self.commit(store, Fact::new(change, vec![])).await;
    }

    /// Mostly one of the latest.
    fn message(&mut self) -> Option<Message> {
        let latest = self.messages.len().saturating_sub(if self.random.random_bool(0.6) { 40 } else { 400 });
        self.messages[latest..].choose(&mut self.random).cloned()
    }

    fn home(&self, id: ConversationId) -> Conversation {
        self.homes.iter().find(|home| home.id == id).unwrap_or(&self.homes[0]).clone()
    }

    /// A message and the conversation that something is said in behind it: its own, or a fork of it.
    fn place(&mut self) -> (Option<MessageId>, Conversation) {
        let any = self.homes.choose(&mut self.random).unwrap_or(&self.homes[0]).clone();
        match self.message() {
            Some(parent) if self.random.random_bool(0.9) => {
                (Some(parent.id), self.home(parent.conversation_id))
            }
            Some(parent) if self.random.random_bool(0.7) => (Some(parent.id), any),
            _ => (None, any),
        }
    }

    fn chain(&mut self, length: usize) -> Vec<Message> {
        let (mut parent, home) = self.place();
        let mut chain = vec![];
        for n in 0..length {
            let next = message(&home, parent, Sender::User, &format!("{n}"));
            parent = Some(next.id);
            chain.push(next);
        }
        chain
    }

    fn fact(&mut self) -> Fact {
        match self.random.random_range(0..20) {
            0..8 => {
                let length = self.random.random_range(1..90);
                let messages = self.chain(length);
                self.messages.extend(messages.clone());
                Fact::new(Change::AppendMessages { messages, idempotency: None }, vec![])
            }
            8..12 => {
                let length = self.random.random_range(1..4);
                let messages = self.chain(length);
                self.messages.extend(messages.clone());
                Fact::new(Change::AppendMessages { messages, idempotency: None }, vec![])
            }
            12 => {
                let fork =
                    Conversation { leaf_message_id: self.message().map(|m| m.id), ..conversation(&self.bot) };
                self.homes.push(fork.clone());
                Fact::new(Change::CreateConversation(fork), vec![])
            }
            13 => {
                let leaf_message_id = self.message().map(|m| m.id);
                let home = self.homes.choose(&mut self.random).unwrap_or(&self.homes[0]).clone();
                Fact::new(Change::UpdateConversation(Conversation { leaf_message_id, ..home }), vec![])
            }
            14..17 => {
                let (parent, home) = self.place();
                let (turn, question, reply) = turn(&home, parent, "asked");
                self.messages.extend([question.clone(), reply.clone()]);
                self.turns.push((turn.clone(), reply.clone()));
                accept(&turn, &question, &reply)
            }
            17 if !self.turns.is_empty() => {
                let at = self.random.random_range(0..self.turns.len());
                let (turn, reply) = self.turns.swap_remove(at);
                let (done, answer) = ended(&turn, &reply, "answered");
                finish(&done, &answer)
            }
            _ => self.import(),
        }
    }

    /// A tree from elsewhere, in any order, with ids and times in any order; or what was deleted comes back.
    fn import(&mut self) -> Fact {
        let part = |messages| ImportPart {
            bot_id: BotId::numbered(1),
            conversations: vec![],
            messages,
            turns: vec![],
        };
        if self.random.random_bool(0.3) {
            let again: Vec<_> = self.messages.iter().filter(|m| m.turn_id.is_none()).cloned().collect();
            let from = self.random.random_range(0..=again.len());
            let again = again.into_iter().skip(from).take(self.random.random_range(1..50)).collect();
            return Fact::new(Change::Import(part(again)), vec![]);
        }
        let length = self.random.random_range(1..60);
        let mut tree = self.chain(length);
        let mut ids: Vec<_> = tree.iter().map(|m| m.id).collect();
        let mut times: Vec<_> = tree.iter().map(|m| m.created_at).collect();
        ids.shuffle(&mut self.random);
        times.shuffle(&mut self.random);
        for at in 0..tree.len() {
            (tree[at].id, tree[at].created_at) = (ids[at], times[at]);
            if at > 0 {
                let branches = self.random.random_bool(0.1);
                tree[at].parent_id =
                    Some(ids[if branches { self.random.random_range(0..at) } else { at - 1 }]);
            }
        }
        tree.shuffle(&mut self.random);
        self.messages.extend(tree.clone());
        Fact::new(Change::Import(part(tree)), vec![])
    }

    /// Pages of every conversation, before and after messages of its path and at offsets; and what is no cursor.
    pub async fn check(&mut self, store: &impl Storage) {
        let mut left: BTreeMap<MessageId, Message> = BTreeMap::new();
        for home in &self.homes {
            let own =
                self.model.messages_after(home.id, None, Arrival::ALL, u32::MAX, usize::MAX).await.unwrap();
            left.extend(own.messages.into_iter().map(|m| (m.id, m)));
        }
        let ids: Vec<_> = left.keys().copied().collect();
        for home in self.homes.clone() {
            let leaf = self.model.conversation(home.id).await.unwrap().and_then(|c| c.leaf_message_id);
            let up = |m: &&Message| m.parent_id.and_then(|parent| left.get(&parent));
            let mut path: Vec<&Message> =
                std::iter::successors(leaf.and_then(|leaf| left.get(&leaf)), up).collect();
            path.reverse();
            if let Some((last, above)) = path.split_last() {
                let rest = above.len() as u32;
                assert_eq!(store.messages_above(last.id).await.unwrap(), rest, "seed {}", self.seed);
            }
            for _ in 0..12 {
                let limit = *[1, 7, 50].choose(&mut self.random).unwrap_or(&1);
                let offset = self.random.random_range(0..path.len() as u32 + 2);
                self.page(store, home.id, &path, Cursor::Newest { offset }, limit).await;
                let on = path.choose(&mut self.random).map(|m| m.id);
                // Most of these are not on the path; some of them are above a hole in it.
                let any = ids.choose(&mut self.random).copied();
                for id in [on, any, self.message().map(|m| m.id)].into_iter().flatten() {
                    self.page(store, home.id, &path, Cursor::Before(id), limit).await;
                    self.page(store, home.id, &path, Cursor::After(id), limit).await;
                }
            }
        }
    }

    async fn page(
        &self,
        store: &impl Storage,
        home: ConversationId,
        path: &[&Message],
        cursor: Cursor,
        limit: u32,
    ) {
        let (place, wanted) = (|id| path.iter().position(|m| m.id == id), limit as usize);
        let span = match cursor {
            Cursor::Newest { offset } => Some(path.len().saturating_sub(offset as usize)),
            Cursor::Before(id) => place(id),
            Cursor::After(id) => place(id).map(|at| path.len().min(at + 1 + wanted)),
        };
        let expected = span.map(|to| match cursor {
            Cursor::After(id) => (place(id).map_or(0, |at| at + 1), to, to < path.len()),
            Cursor::Newest { .. } | Cursor::Before(_) => (to.saturating_sub(wanted), to, to > wanted),
        });
        let expected =
            expected.map(|(from, to, more)| (path[from..to].iter().map(|m| m.id).collect::<Vec<_>>(), more));
        let page = store.page(home, cursor, limit).await.unwrap();
        let page = page.map(|page| (page.items.iter().map(|m| m.id).collect(), page.has_more));
        assert_eq!(page, expected, "seed {}, {home}, {cursor:?}, {limit}", self.seed);
    }
}

/// However deep and branched the tree is, forked, imported and full of holes.
pub async fn pages_of_deep_trees_are_those_of_a_walk<S: Subject>() {
    for seed in 0..TREES {
        let subject = S::create().await;
        Grove::plant(subject.store(), seed).await.grow(subject.store(), STEPS).await;
    }
}
