//! What the whole tree does while the database is away, and once it is back.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use serde_json::{Map, json};
use tokio::time::{Instant, sleep};

use crate::{
    bot_supervisor::BotSupervisorMessage,
    controller::{requests::*, *},
    domain::{
        bot::BotState,
        event::{EventBody, Topic},
        idempotency::{Idempotency, IdempotencyKey},
        message::{MessageState, Sender},
        time::Timestamp,
        turn::TurnState,
    },
    ports::history_store::HistoryStore,
    testkit::{
        conformance::samples,
        fakes::{
            hand_model::{Answer, HAND_MODEL, HandModel},
            memory_store::{MemoryStore, Outage},
        },
    },
};

const LIMIT: Duration = Duration::from_secs(5);

pub(super) struct House {
    pub store: MemoryStore,
    pub model: Arc<HandModel>,
    pub tree: Controller,
}

impl House {
    async fn new() -> Self {
        let (store, model) = (MemoryStore::new(), Arc::new(HandModel::default()));
        let server = ServerSpec {
            name: "hand".into(),
            url: "http://hand".into(),
            slots: 10,
            simulated: false,
            model: model.clone(),
        };
        let settings = Settings { storage_timeout: LIMIT, seed: 7, ..Settings::default() };
        let tree = Controller::builder(Arc::new(store.clone())).settings(settings).server(server);
        Self { store, model, tree: tree.start().await.unwrap() }
    }

    pub async fn with_bot(id: &str) -> (Self, BotId) {
        let house = Self::new().await;
        let bot = house.launch(id).await.unwrap().id;
        (house, bot)
    }

    pub async fn launch(&self, id: &str) -> Result<Bot, Problem> {
        let config = Map::from_iter([("model".to_owned(), json!(HAND_MODEL))]);
        let bot_id = Some(BotId::parse(id).unwrap());
        self.tree.launch(LaunchBot { bot_id, config: Some(config), ..LaunchBot::default() }).await
    }

    pub async fn send(&self, bot: &BotId, text: &str) -> Result<AcceptedTurn, Problem> {
        match self.tree.send(SendMessage::text(bot.clone(), text)).await? {
            Sent::Turn(accepted) => Ok(accepted),
            Sent::Command { .. } => unreachable!("no command"),
        }
    }

    /// A turn that generates and has said something.
    pub async fn speaking(&self, bot: &BotId, text: &str) -> (AcceptedTurn, Answer) {
        let turn = self.send(bot, text).await.unwrap();
        let answer = self.model.called().await;
        assert!(answer.say("once ").await);
        (turn, answer)
    }

    pub fn crash(&self, bot: &BotId) {
        let (reply, _answer) = tokio::sync::oneshot::channel();
        let (bot, reason) = (bot.clone(), "a defect".to_owned());
        let kill = BotSupervisorMessage::Kill { bot, how: KillHow::Panic, reason, reply: reply.into() };
        self.tree.inner.slots.bots.cast(kill).unwrap();
    }

    fn root_restarts_left(&self) -> u32 {
        self.tree.inner.view.observe().intensity.left
    }

    /// Every stored turn has ended, each with one event that says so.
    pub async fn all_ended_once(&self) {
        until(async || self.store.open_turns(None).await.unwrap().is_empty()).await;
        let ends: Vec<_> = self.store.events().iter().filter_map(|event| event.ends).collect();
        let unique: std::collections::HashSet<_> = ends.iter().collect();
        assert_eq!(unique.len(), ends.len(), "one end per turn");
        let accepted = self.store.events().iter().filter(|e| &*e.name == "turn_accepted").count();
        assert_eq!(ends.len(), accepted);
    }

    pub async fn reply_of(&self, turn: &AcceptedTurn) -> (Turn, Message) {
        let found = self.store.turn_snapshot(turn.turn.id).await.unwrap().unwrap();
        (found.turn, found.reply.unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_does_not_wait_for_ever_for_its_index() {
    let (house, bot) = House::with_bot("ada").await;
    let ask = || SearchHistory { q: "word".into(), ..SearchHistory::default() };
    house.store.leave_unindexed(1_000_000);
    let began = Instant::now();
    let problem = house.tree.search(&bot, ask()).await.unwrap_err();
    assert_eq!((problem.code, problem.status, problem.retry_after_s), (Code::SearchBehind, 503, Some(5)));
    assert!(problem.detail.contains("1000000 messages"), "{problem}");
    assert_eq!(began.elapsed(), LIMIT);
    assert!(house.tree.probe_storage().await.is_ok(), "the database is not away");
    house.store.leave_unindexed(0);
    assert!(house.tree.search(&bot, ask()).await.unwrap().items.is_empty());
    house.store.go_away(Outage::Silent);
    let problem = house.tree.search(&bot, ask()).await.unwrap_err();
    assert_eq!(problem.code, Code::StorageUnavailable, "{problem}");
}

/// Time is paused: waiting costs nothing.
pub(super) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_send_to_a_silent_database_is_answered_in_time_and_runs_once_when_it_is_back() {
    let (house, bot) = House::with_bot("ada").await;
    let before = house.send(&bot, "are you there").await.unwrap();
    house.model.called().await.end().await;
    before.ended().await.unwrap();
    house.store.go_away(Outage::Silent);
    let asked = Instant::now();
    let problem = house.send(&bot, "hello").await.unwrap_err();
    assert_eq!((problem.code, problem.retry_after_s), (Code::StorageUnavailable, Some(5)));
    assert!(problem.detail.contains("not known"), "{}", problem.detail);
    assert!(asked.elapsed() < LIMIT + Duration::from_millis(200), "{:?}", asked.elapsed());
    // By now it is known that nothing gets through.
    let asked = Instant::now();
    let refused = house.send(&bot, "me too").await.unwrap_err();
    assert_eq!(refused.code, Code::StorageUnavailable);
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    house.store.come_back();
    // The acceptance became true although nobody waited for it any more, so the turn runs; the request that was begun
    // beside it is the one that answers.
    let answer = house.model.called().await;
    assert!(answer.say("hello").await && answer.end().await);
    house.all_ended_once().await;
    assert!(house.model.is_quiet().await, "no second run");
    let next = house.send(&bot, "again").await.unwrap();
    assert_eq!(
        next.message.parent_id,
        house.store.events().iter().rev().find_map(|e| match e.body() {
            Ok(EventBody::TurnCompleted(end)) => Some(end.turn.reply_id),
            _ => None,
        })
    );
    house.model.called().await.end().await;
    house.all_ended_once().await;
    assert!(house.store.events().iter().all(|e| !e.data.contains("me too")));
}

#[tokio::test(start_paused = true)]
async fn answers_go_on_to_their_readers_through_an_outage_and_are_stored_once_after_it() {
    for outage in [Outage::Refusing, Outage::Silent] {
        let (house, bot) = House::with_bot("ada").await;
        let (turn, answer) = house.speaking(&bot, "tell me").await;
        let reader = house.tree.reader();
        house.tree.subscribe(&reader, Topic::Turn(turn.turn.id), None).await.unwrap();
        house.store.go_away(outage);
        for _ in 0..40 {
            sleep(Duration::from_secs(1)).await;
            assert!(answer.say("and on ").await);
        }
        let history = house.tree.tree().children.into_iter().find(|n| n.name == "history").unwrap();
        // The reports of the background tasks wait, too.
        assert!(history.mailbox < 15, "{} facts wait: checkpoints pile up", history.mailbox);
        let live = house.tree.inner.hubs.live(turn.turn.id).unwrap();
        until(async || live.len() == "once ".len() + 40 * "and on ".len()).await;
        answer.end().await;
        sleep(Duration::from_secs(20)).await;
        assert!(house.store.events().iter().all(|e| e.ends.is_none()));
        house.store.come_back();
        house.all_ended_once().await;
        let (stored, reply) = house.reply_of(&turn).await;
        assert_eq!((stored.state, reply.state), (TurnState::Completed, MessageState::Complete));
        assert_eq!(&*reply.content, format!("once {}", "and on ".repeat(40)));
        assert_eq!(house.root_restarts_left(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_bot_took_to_its_grave_is_stored_by_its_successor() {
    let (house, bot) = House::with_bot("ada").await;
    let (first, answer) = house.speaking(&bot, "one").await;
    let second = house.send(&bot, "two").await.unwrap();
    let third = house.send(&bot, "three").await.unwrap();
    house.store.go_away(Outage::Refusing);
    // One ends, the next is stopped before its beginning is stored: both ends are known, and neither can be stored.
    answer.end().await;
    let decided = |turn: &AcceptedTurn| {
        house.tree.inner.hubs.live(turn.turn.id).is_some_and(|live| live.decided().is_some())
    };
    until(async || decided(&first)).await;
    let _away = house.tree.stop_turn(second.turn.id).await;
    until(async || decided(&second)).await;
    house.crash(&bot);
    until(async || house.tree.status(&bot).unwrap().restart_count == 1).await;
    house.store.come_back();
    house.model.called().await.end().await;
    house.all_ended_once().await;
    for (turn, state) in
        [(first, TurnState::Completed), (second, TurnState::Stopped), (third, TurnState::Completed)]
    {
        assert_eq!(house.reply_of(&turn).await.0.state, state);
    }
}

#[tokio::test(start_paused = true)]
async fn crashes_in_an_outage_quarantine_nobody_and_every_end_is_stored_once_after_it() {
    for outage in [Outage::Refusing, Outage::Silent] {
        let (house, ada) = House::with_bot("ada").await;
        let bob = house.launch("bob").await.unwrap().id;
        let (first, _answer) = house.speaking(&ada, "one").await;
        let waiting = house.send(&ada, "two").await.unwrap();
        let (other, _other) = house.speaking(&bob, "three").await;
        house.store.go_away(outage);
        for _ in 0..3 {
            sleep(Duration::from_secs(5)).await;
            house.crash(&ada);
        }
        sleep(Duration::from_secs(30)).await;
        assert_eq!(house.root_restarts_left(), 3, "an outage is not a crash");
        let left = house.tree.status(&ada).unwrap();
        assert_ne!(left.state, BotState::Quarantined);
        assert_eq!((left.restart_count, left.stale), (3, true));
        house.store.come_back();
        // What waited goes on; what was cut off has ended.
        house.model.called().await.end().await;
        let (interrupted, reply) = house.reply_of(&first).await;
        assert_eq!(interrupted.state, TurnState::Interrupted);
        assert_eq!((&*reply.content, reply.state), ("once ", MessageState::Partial));
        house.tree.stop_turn(other.turn.id).await.unwrap();
        house.all_ended_once().await;
        assert_eq!(house.reply_of(&waiting).await.0.state, TurnState::Completed);
        until(async || !house.tree.status(&ada).unwrap().stale).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bot_that_is_quarantined_in_an_outage_has_its_turn_ended_after_it() {
    let (house, ada) = House::with_bot("ada").await;
    let (turn, _answer) = house.speaking(&ada, "one").await;
    house.store.go_away(Outage::Refusing);
    for _ in 0..6 {
        until(async || house.tree.inner.roster.get(&ada).unwrap().actor.get().is_some()).await;
        house.crash(&ada);
        sleep(Duration::from_millis(100)).await;
    }
    until(async || house.tree.status(&ada).unwrap().state == BotState::Quarantined).await;
    sleep(Duration::from_secs(30)).await;
    house.store.come_back();
    house.all_ended_once().await;
    assert_eq!(house.reply_of(&turn).await.0.state, TurnState::Interrupted);
    until(async || house.store.events().iter().any(|e| &*e.name == "bot_quarantined")).await;
}

#[tokio::test(start_paused = true)]
async fn actors_that_die_in_an_outage_are_back_at_once_and_cost_one_restart_each() {
    for outage in [Outage::Refusing, Outage::Silent] {
        let (house, ada) = House::with_bot("ada").await;
        let (turn, _answer) = house.speaking(&ada, "one").await;
        house.store.go_away(outage);
        sleep(Duration::from_secs(1)).await;
        for (killed, left) in [("history", 2), ("state", 1)] {
            assert!(house.tree.kill_actor(killed));
            sleep(Duration::from_secs(6)).await;
            house.tree.ready().await.unwrap();
            assert_eq!(house.root_restarts_left(), left, "{killed}");
        }
        assert_eq!(house.tree.bots(&ListBots::default()).unwrap().items.len(), 1);
        house.store.come_back();
        house.all_ended_once().await;
        assert_eq!(house.reply_of(&turn).await.0.state, TurnState::Interrupted);
        let next = house.send(&ada, "two").await.unwrap();
        house.model.called().await.end().await;
        assert!(next.ended().await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_read_from_memory_is_marked_and_what_is_not_there_is_refused() {
    let (house, ada) = House::with_bot("ada").await;
    assert!(!house.tree.bot(&ada).unwrap().status.stale);
    house.store.go_away(Outage::Silent);
    let asked = Instant::now();
    let problem = house.tree.history(&ada, HistoryQuery::default()).await.unwrap_err();
    assert_eq!(problem.code, Code::StorageUnavailable);
    assert!(asked.elapsed() <= LIMIT, "{:?}", asked.elapsed());
    assert!(house.tree.bot(&ada).unwrap().status.stale);
    assert!(house.tree.bots(&ListBots::default()).unwrap().items.iter().all(|b| b.status.stale));
    let asked = Instant::now();
    assert_eq!(house.tree.probe_storage().await.unwrap_err().code, Code::StorageUnavailable);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    let asked = Instant::now();
    let problems = [
        house.tree.history(&ada, HistoryQuery::default()).await.unwrap_err(),
        house.tree.turn(TurnId::new()).await.unwrap_err(),
        house.tree.conversations(&ada).await.unwrap_err(),
        house.tree.export(&ada, ExportFormat::Json, None).await.map(drop).unwrap_err(),
        house.tree.clear(&ada, None).await.unwrap_err(),
    ];
    for problem in problems {
        assert_eq!((problem.code, problem.retry_after_s), (Code::StorageUnavailable, Some(5)));
        assert!(problem.detail.contains("can't be read now"), "{}", problem.detail);
    }
    assert!(asked.elapsed().is_zero(), "known by now: {:?}", asked.elapsed());
    house.store.come_back();
    until(async || !house.tree.bot(&ada).unwrap().status.stale).await;
    house.tree.probe_storage().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_the_database_kept_waiting_becomes_true_when_it_is_back() {
    let house = House::new().await;
    house.store.go_away(Outage::Silent);
    let problem = house.launch("ada").await.unwrap_err();
    assert_eq!(problem.code, Code::StorageUnavailable);
    assert_eq!(house.launch("ada").await.unwrap_err().code, Code::BotExists, "its id is taken");
    house.store.come_back();
    let ada = BotId::parse("ada").unwrap();
    until(async || house.tree.status(&ada).is_ok_and(|s| s.state.accepts_messages())).await;
    house.send(&ada, "hello").await.unwrap();
    house.model.called().await.end().await;
    house.all_ended_once().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_answer_is_stopped_although_its_end_must_wait() {
    let (house, ada) = House::with_bot("ada").await;
    let (turn, answer) = house.speaking(&ada, "one").await;
    house.store.go_away(Outage::Silent);
    let tree = house.tree.clone();
    let stopping = tokio::spawn(async move { tree.stop_turn(turn.turn.id).await });
    let asked = Instant::now();
    answer.closed().await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(stopping.await.unwrap().unwrap_err().code, Code::StorageUnavailable);
    house.store.come_back();
    house.all_ended_once().await;
}

#[tokio::test(start_paused = true)]
async fn text_that_can_not_be_stored_has_a_bound_and_the_turn_beyond_it_fails() {
    let house = House::new().await;
    let mut speaking = vec![];
    for n in 0..10 {
        let bot = house.launch(&format!("b{n}")).await.unwrap().id;
        speaking.push(house.speaking(&bot, "a lot").await);
    }
    house.store.go_away(Outage::Refusing);
    let piece = "x".repeat(1 << 20);
    let (turn, last) = speaking.pop().unwrap();
    for (_, answer) in &speaking {
        for _ in 0..7 {
            assert!(answer.say(&piece).await, "63 MiB have room");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let mut said = 0;
    while said < 7 && last.say(&piece).await {
        said += 1;
        sleep(Duration::from_millis(20)).await;
    }
    assert!((1..4).contains(&said), "{said} MiB more were taken");
    last.closed().await;
    house.store.come_back();
    for (_, answer) in speaking {
        assert!(answer.end().await, "the others go on");
    }
    house.all_ended_once().await;
    let (stored, reply) = house.reply_of(&turn).await;
    assert_eq!(stored.state, TurnState::Failed);
    assert_eq!(stored.error.unwrap().code, Code::StorageUnavailable);
    assert_eq!(reply.content.len(), "once ".len() + (1 << 20), "what readers saw is stored");
}

#[tokio::test(start_paused = true)]
async fn the_service_ends_in_time_although_the_database_is_silent() {
    let (house, ada) = House::with_bot("ada").await;
    let (_turn, _answer) = house.speaking(&ada, "one").await;
    house.store.go_away(Outage::Silent);
    let asked = Instant::now();
    house.tree.shutdown(Duration::from_secs(1)).await;
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_database_refuses_ends_failed_without_its_text() {
    let (house, ada) = House::with_bot("ada").await;
    let (turn, answer) = house.speaking(&ada, "one").await;
    house.store.refuse(|fact| {
        matches!(&fact.change, Change::FinishTurn { reply, .. } if reply.content.contains("forbidden"))
    });
    answer.say("forbidden").await;
    answer.end().await;
    house.all_ended_once().await;
    let (stored, reply) = house.reply_of(&turn).await;
    assert_eq!(stored.error.unwrap().code, Code::StorageRefused);
    assert_eq!((&*reply.content, reply.state), ("", MessageState::Partial));
    house.send(&ada, "two").await.unwrap();
    let next = house.model.called().await;
    let told = next.request.messages.iter().any(|message| message.content.contains("forbidden"));
    assert!(!told, "what is not in the record is not in a prompt");
    next.end().await;
    house.all_ended_once().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_dead_process_promised_begins_with_the_same_key_and_only_once() {
    let (house, bot) = House::with_bot("ada").await;
    let first = house.send(&bot, "one").await.unwrap();
    let before = first.turn.id;
    house.model.called().await.end().await;
    first.ended().await.unwrap();
    let main = house.tree.bot(&bot).unwrap().main_conversation_id;
    let key = Some(IdempotencyKey::parse("k").unwrap());
    let asked = SendMessage { idempotency_key: key.clone(), ..SendMessage::text(bot.clone(), "/retry") };
    // What the process had stored when it died.
    let promised = TurnId::new();
    let home = house.store.conversation(main).await.unwrap().unwrap();
    let question = samples::message(&home, home.leaf_message_id, Sender::User, "/retry");
    let mut answer =
        samples::message(&home, Some(question.id), Sender::System, "Asking the last message again.");
    for (name, turn) in [("turn_id", promised), ("attempt_of", before)] {
        answer.metadata.insert(name.into(), json!(turn.to_string()));
    }
    let idempotency = key.map(|key| Idempotency {
        user: USER.into(),
        key,
        fingerprint: once::fingerprint_of(&asked, main),
        at: Timestamp::now(),
    });
    let change = Change::AppendMessages { messages: vec![question.clone(), answer], idempotency };
    house.store.commit(vec![Fact::new(change, vec![])]).await.unwrap();

    for _ in 0..2 {
        let Sent::Command { message, replayed, .. } = house.tree.send(asked.clone()).await.unwrap() else {
            panic!("a command")
        };
        assert_eq!((message.id, replayed), (question.id, true));
    }
    house.model.called().await.end().await;
    house.all_ended_once().await;
    let turn = house.store.turn_snapshot(promised).await.unwrap().unwrap().turn;
    assert_eq!((turn.state, turn.attempt_of), (TurnState::Completed, Some(before)));
    assert!(house.model.is_quiet().await, "once");
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_room_stores_nothing() {
    let (house, bot) = House::with_bot("ada").await;
    let (_first, _answer) = house.speaking(&bot, "one").await;
    let mut sent = 0;
    while house.send(&bot, "more").await.is_ok() {
        sent += 1;
    }
    let before = house.store.events().len();
    let refused = house.tree.send(SendMessage::text(bot.clone(), "/retry")).await.unwrap_err();
    assert_eq!((sent, refused.code), (16, Code::ConversationQueueFull));
    assert_eq!(house.store.events().len(), before);
}
