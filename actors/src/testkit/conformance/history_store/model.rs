//! A random life, lived twice: on the store under test and on [`MemoryStore`], the naive model.
//! Every answer must be the same. The seed is in the message of a failure.

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use uuid::Uuid;

use super::{super::samples::*, Subject, keys::keyed, numbers::check_numbers};
use crate::{
    domain::{
        bot::BotState,
        event::{CommittedEvent, Topic},
        idempotency::{Idempotency, IdempotencyKey},
        ids::{BotId, EventId},
        message::{Conversation, Message, Sender},
        time::Timestamp,
        turn::{Turn, TurnState},
    },
    ports::{
        history_store::{Change, Committed, Cursor, Fact, HistoryStore},
        retention::{Prune, RetentionStore},
        state_store::StateStore,
        storage::Storage,
    },
    testkit::fakes::memory_store::MemoryStore,
};

const LIVES: u64 = 5;
const GROUPS: usize = 80;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// What was made so far, whether it is still there or not.
struct World {
    random: SmallRng,
    bots: Vec<BotId>,
    conversations: Vec<Conversation>,
    messages: Vec<Message>,
    turns: Vec<(Turn, Message)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: SmallRng::seed_from_u64(seed),
            bots: (1..=4).map(BotId::numbered).collect(),
            conversations: vec![],
            messages: vec![],
            turns: vec![],
        };
        // A bot that is never launched, and its conversation.
        world.conversations.push(conversation(&BotId::numbered(9)));
        world
    }

    /// Launches every bot.
    fn launches(&mut self) -> Vec<Fact> {
        let (facts, mains): (Vec<_>, Vec<_>) = self.bots.iter().map(launch).unzip();
        self.conversations.extend(mains);
        facts
    }

    /// Mostly one of the latest, which are the ones that are still there.
    fn pick<T: Clone>(&mut self, from: fn(&Self) -> &Vec<T>) -> Option<T> {
        let mut random = self.random.clone();
        let all = from(self);
        let latest = all.get(all.len().saturating_sub(6)..).unwrap_or_default();
        let picked = if random.random_bool(0.8) { latest } else { all }.choose(&mut random).cloned();
        self.random = random;
        picked
    }

    fn bot(&mut self) -> BotId {
        self.pick(|w| &w.bots).unwrap_or_else(|| BotId::numbered(1))
    }

    fn home(&mut self) -> Conversation {
        self.pick(|w| &w.conversations).unwrap_or_else(|| conversation(&BotId::numbered(1)))
    }

    /// A message of the same bot as the conversation, or none.
    fn parent(&mut self, home: &Conversation) -> Option<Message> {
        let message = self.pick(|w| &w.messages)?;
        (message.bot_id == home.bot_id && self.random.random_bool(0.9)).then_some(message)
    }

    /// Sometimes with one of a few keys, at times that are days apart.
    fn perhaps_keyed(&mut self, fact: Fact) -> Fact {
        if self.random.random_bool(0.85) {
            return fact;
        }
        let key = idempotency("local", KEYS[self.random.random_range(0..KEYS.len())], self.random.random());
        let at = Timestamp(key.at.0 + DAY / 2 * self.random.random_range(0..4));
        keyed(fact, Idempotency { at, ..key })
    }

    fn fact(&mut self) -> Option<Fact> {
        let fact = match self.random.random_range(0..100) {
            0..9 => {
                let (fact, main) = launch(&self.bot());
                self.conversations.push(main);
                fact
            }
            9 => {
                let change = Change::DeleteBot { bot_id: self.bot(), purge: self.random.random_bool(0.5) };
                Fact::new(change, vec![life(&self.bot())])
            }
            10..18 => {
                let id = self.bot();
                let mut new = status(&id, BotState::Idle);
                if self.random.random_bool(0.2) {
                    new.updated_at.0 -= 60;
                }
                Fact::new(Change::SaveStatus(new), vec![life(&id)])
            }
            18..26 => {
                let leaf = self.pick(|w| &w.messages);
                let home = conversation(leaf.as_ref().map_or(&self.bot(), |m| &m.bot_id));
                let home = Conversation { leaf_message_id: leaf.map(|m| m.id), ..home };
                self.conversations.push(home.clone());
                Fact::new(Change::CreateConversation(home), vec![])
            }
            26..30 => {
                let home = self.home();
                let leaf_message_id = self.parent(&home).map(|m| m.id);
                let title = Some("title".into());
                let change = Change::UpdateConversation(Conversation { leaf_message_id, title, ..home });
                Fact::new(change, vec![])
            }
            30 => Fact::new(Change::DeleteConversation(self.home().id), vec![]),
            31..52 => {
                let home = self.home();
                let parent = self.parent(&home).map(|m| m.id);
                let said = message(&home, parent, Sender::User, "said");
                self.messages.push(said.clone());
                let said = append(&said);
                self.perhaps_keyed(said)
            }
            52..72 => {
                let home = self.home();
                let parent = self.parent(&home).map(|m| m.id);
                let (t, question, reply) = turn(&home, parent, "asked");
                self.messages.extend([question.clone(), reply.clone()]);
                self.turns.push((t.clone(), reply.clone()));
                let asked = accept(&t, &question, &reply);
                self.perhaps_keyed(asked)
            }
            72..77 => {
                let (t, _) = self.pick(|w| &w.turns)?;
                let running = Turn { state: TurnState::Generating, server: Some("s".into()), ..t.clone() };
                Fact::new(Change::StartTurn(running), vec![progress(&t)])
            }
            77..82 => {
                let (_, reply) = self.pick(|w| &w.turns)?;
                let (content, thinking) = ("so far".into(), Some("hm".into()));
                Fact::new(Change::Checkpoint { reply_id: reply.id, content, thinking }, vec![])
            }
            82..98 => {
                let (t, reply) = self.pick(|w| &w.turns)?;
                let (done, answer) = ended(&t, &reply, "answered");
                finish(&done, &answer)
            }
            98 => {
                let (home, held) = (self.home(), self.random.random_bool(0.4));
                let change = Change::HoldConversation { conversation_id: home.id, bot_id: home.bot_id, held };
                Fact::new(change, vec![])
            }
            _ => {
                let home = self.home();
                let conversation_id = self.random.random_bool(0.7).then_some(home.id);
                Fact::new(Change::ClearHistory { bot_id: home.bot_id, conversation_id }, vec![])
            }
        };
        Some(fact)
    }
}

/// What a commit answered, aside from positions (an aborted transaction may cost some) and from
/// what each store makes up for the events that it adds.
fn outline(committed: Vec<Committed>) -> Vec<Committed> {
    committed.into_iter().map(|c| Committed { events: plain(c.events), ..c }).collect()
}

fn plain(events: Vec<CommittedEvent>) -> Vec<CommittedEvent> {
    let plain = |e: CommittedEvent| {
        let added = &*e.name == "history_cleared";
        let (id, time) = if added { (EventId(Uuid::nil()), Timestamp(0)) } else { (e.id, e.time) };
        CommittedEvent { position: 0, id, time, ..e }
    };
    events.into_iter().map(plain).collect()
}

/// Random groups, repetitions and restarts leave both stores with the same answers to every read.
pub async fn a_random_life_matches_the_model<S: Subject>() {
    for seed in 0..LIVES {
        let mut world = World::new(seed);
        let model = MemoryStore::new();
        let mut subject = S::create().await;
        let mut last: Vec<Fact> = vec![];
        for round in 0..GROUPS {
            let group: Vec<Fact> = if round == 0 {
                world.launches()
            } else if world.random.random_bool(0.1) {
                last.clone()
            } else {
                let size = world.random.random_range(1..8);
                (0..size).filter_map(|_| world.fact()).collect()
            };
            last.clone_from(&group);
            let expected = outline(model.commit(group.clone()).await.unwrap());
            let actual = outline(subject.store().commit(group.clone()).await.unwrap());
            assert_eq!(actual, expected, "seed {seed}, group {round}: {group:?}");
            if world.random.random_bool(0.05) {
                subject = subject.reopen().await;
            }
            if world.random.random_bool(0.1)
                && let Some(young) = world.pick(|w| &w.messages)
            {
                let (what, limit) =
                    (Prune::Chat { before: young.created_at }, world.random.random_range(1..9));
                let expected = model.prune(what, limit).await.unwrap();
                let actual = subject.store().prune(what, limit).await.unwrap();
                assert_eq!((actual.rows, actual.bots), (expected.rows, expected.bots), "seed {seed}");
            }
        }
        compare(&world, subject.store(), &model, seed).await;
    }
}

async fn compare<S: Storage>(world: &World, store: &S, model: &MemoryStore, seed: u64) {
    assert_eq!(store.roster().await, model.roster().await, "seed {seed}");
    assert_eq!(store.open_turns(None).await, model.open_turns(None).await, "seed {seed}");
    for bot in &world.bots {
        assert_eq!(store.conversations(bot).await, model.conversations(bot).await, "seed {seed}");
        assert_eq!(store.open_turns(Some(bot)).await, model.open_turns(Some(bot)).await, "seed {seed}");
        for key in KEYS {
            let key = IdempotencyKey::parse(key).unwrap();
            let expected = model.sent_before("local", bot, &key).await;
            assert_eq!(store.sent_before("local", bot, &key).await, expected, "seed {seed}, key {key:?}");
        }
    }
    for bot in &world.bots {
        assert_eq!(store.held(bot).await, model.held(bot).await, "seed {seed}");
    }
    for home in &world.conversations {
        let (id, why) = (home.id, format!("seed {seed}, conversation {}", home.id));
        assert_eq!(
            store.conversation_snapshot(id, 5).await,
            model.conversation_snapshot(id, 5).await,
            "{why}"
        );
        assert_eq!(store.children(id, None).await, model.children(id, None).await, "{why}");
        // Those of other conversations are cursors too, where the path is a fork's; most are not.
        let others = world.messages.iter().filter(|m| m.conversation_id != id).step_by(17);
        let own = world.messages.iter().filter(|m| m.conversation_id == id);
        for message in own.chain(others) {
            for cursor in [Cursor::Before(message.id), Cursor::After(message.id)] {
                assert_eq!(
                    store.page(id, cursor, 2).await,
                    model.page(id, cursor, 2).await,
                    "{why} {cursor:?}"
                );
            }
        }
        for offset in 0..6 {
            let cursor = Cursor::Newest { offset };
            assert_eq!(store.page(id, cursor, 3).await, model.page(id, cursor, 3).await, "{why} {cursor:?}");
        }
    }
    for message in &world.messages {
        let (bot, id) = (&message.bot_id, message.id);
        assert_eq!(store.message(bot, id).await, model.message(bot, id).await, "seed {seed}");
        assert_eq!(store.path(id, 20).await, model.path(id, 20).await, "seed {seed}");
        assert_eq!(store.messages_above(id).await, model.messages_above(id).await, "seed {seed}");
        let home = message.conversation_id;
        let newest = store.newest_below(home, id).await;
        assert_eq!(newest, model.newest_below(home, id).await, "seed {seed}");
        assert_eq!(store.children(home, Some(id)).await, model.children(home, Some(id)).await, "seed {seed}");
    }
    for (turn, _) in &world.turns {
        let stored = store.turn_snapshot(turn.id).await;
        assert_eq!(stored, model.turn_snapshot(turn.id).await, "seed {seed}");
    }
    let events = store.events_after(0, u32::MAX).await.unwrap();
    assert!(events.len() > GROUPS / 2, "something happened: {} events", events.len());
    assert_eq!(plain(events.clone()), plain(model.events()), "seed {seed}");
    for (topic, head) in check_numbers(&events) {
        assert_eq!(model.head(&topic).await.unwrap(), head, "seed {seed}, {topic}");
        let gone = match &topic {
            Topic::Turn(id) => model.turn_snapshot(*id).await.unwrap().is_none(),
            _ => false,
        };
        assert!(gone || store.head(&topic).await.unwrap() == head, "seed {seed}, {topic}");
    }
    let surplus = Prune::SurplusEvents { keep: 7 };
    for pruned in [store.prune(surplus, u32::MAX).await, model.prune(surplus, u32::MAX).await] {
        assert!(pruned.unwrap().rows > 0, "seed {seed}");
    }
    let left = store.events_after(0, u32::MAX).await.unwrap();
    assert_eq!(plain(left), plain(model.events()), "seed {seed}");
    for (topic, head) in check_numbers(&events) {
        let gone = matches!(topic, Topic::Turn(_));
        assert!(gone || store.head(&topic).await.unwrap() == head, "seed {seed}, {topic}");
    }
}
