//! One history from its plan to its judgement.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use deia::sim::Sim;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    clients::{Client, Stage},
    house::House,
    judge::is_terminal,
    log::{Conversation, Fact, Heard, History, Message, Outcome, Reader, Ticks, Turn},
    place::{Record, Servers},
    plan::{Bot, Plan},
    readers,
    shared::support::{Api, Socket},
};

/// Rows of the outbox that are read at once.
const PAGE: u32 = 1000;
/// How long a reader may take to get what there is.
const READERS: Duration = Duration::from_secs(60);

/// How long nothing may happen in a conversation of which something has not ended. How long all of it takes is the affair of
/// the machine.
const REST: Duration = Duration::from_secs(30);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(5);

/// What a history consisted of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    pub faults: usize,
    /// Answers to commits that were kept back.
    pub cut_commits: usize,
    pub resumed: usize,
    pub given_up: usize,
    pub ends: BTreeMap<String, usize>,
}

impl Counts {
    fn of(history: &History, faults: usize, cut_commits: usize) -> Self {
        let mut counts = Self { faults, cut_commits, ..Self::default() };
        for sent in &history.sent {
            match sent.outcome {
                Outcome::Ok { .. } => counts.acknowledged += 1,
                Outcome::Refused => counts.refused += 1,
                Outcome::Unknown => counts.unknown += 1,
            }
        }
        for heard in history.readers.iter().flat_map(|reader| &reader.heard) {
            if let Heard::Subscribed { frame, .. } = heard {
                counts.resumed += usize::from(frame["recovered"] == true);
                counts.given_up += usize::from(frame["recovered"] == false);
            }
        }
        for turn in history.conversations.iter().flat_map(|c| &c.turns) {
            *counts.ends.entry(turn.state.clone()).or_default() += 1;
        }
        counts
    }

    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.faults += other.faults;
        self.cut_commits += other.cut_commits;
        self.resumed += other.resumed;
        self.given_up += other.given_up;
        for (state, n) in other.ends {
            *self.ends.entry(state).or_default() += n;
        }
    }
}

/// Lets a history happen; what happened, and of what it consisted. `doing` says how far it is.
pub async fn run(
    plan: &Plan,
    sim: &Sim,
    servers: &Arc<Servers>,
    doing: &watch::Sender<&'static str>,
) -> (History, Counts) {
    doing.send_replace("the start");
    let mut house = House::start(plan, sim, servers).await;
    let url = house.url();
    let api = Api::new(&url);
    let mut topics = vec!["bots".to_owned(), "tree".to_owned()];
    for bot in &plan.bots {
        let launched = launched(&api, bot).await;
        topics.push(format!("bot:{}", bot.id));
        topics.push(format!("conversation:{}", id(&launched["main_conversation_id"])));
    }
    doing.send_replace("clients and faults");
    let stage = Arc::new(Stage {
        url,
        bots: plan.bots.clone(),
        ticks: Ticks::default(),
        notes: Mutex::default(),
        up: watch::Sender::new(true),
        finished: watch::Sender::new(0),
    });
    let goal = watch::Sender::new(None);
    let mut following = JoinSet::new();
    let readers: Vec<_> = topics
        .iter()
        .map(|topic| {
            let reader = Arc::new(Mutex::new(Reader { topic: topic.clone(), heard: vec![] }));
            following.spawn(readers::follow(stage.clone(), reader.clone(), goal.subscribe()));
            reader
        })
        .collect();
    let mut clients = JoinSet::new();
    for (number, steps) in plan.clients.iter().enumerate() {
        clients.spawn(Client::new(number, stage.clone()).run(steps.clone()));
    }
    let faults = inject(plan, &mut house, &stage, &mut clients).await;
    doing.send_replace("healing");
    house.heal().await;
    doing.send_replace("coming to rest");
    // With connections of its own: one from before the last cut may only now learn of it.
    let Rest { heads, conversations, unrest } = rest(&Api::new(&stage.url), &stage, &topics).await;
    goal.send_replace(Some(heads.clone()));
    let arrived =
        tokio::time::timeout(READERS, async { while following.join_next().await.is_some() {} }).await;
    // Whoever did not arrive is judged by what it has.
    drop((arrived, following));
    let cut_commits = house.cut_commits();
    doing.send_replace("closing");
    let record = house.close().await;
    doing.send_replace("reading the record");
    let outbox = outbox(&record).await;
    record.close().await;
    let mut history = std::mem::take(&mut *stage.notes.lock());
    history.readers = readers.iter().map(|reader| reader.lock().clone()).collect();
    (history.heads, history.conversations, history.outbox) = (heads, conversations, outbox);
    history.unrest = unrest;
    let counts = Counts::of(&history, faults, cut_commits);
    (history, counts)
}

/// The bot, however slow the disk is: where the service can't tell whether it is stored, it is asked again.
async fn launched(api: &Api, bot: &Bot) -> Value {
    let launch = json!({"bot_id": bot.id, "config": {"model": bot.model}});
    let mut known = true;
    loop {
        let answer = api.post("/api/bot/launch", launch.clone()).await;
        match answer.status.as_u16() {
            503 => known = false,
            409 if !known => return api.get(format!("/api/bot/{}", bot.id)).await.expect(200),
            _ => return answer.expect(201),
        }
    }
}

/// Lets the planned faults happen while the clients are busy; answers how many did when all clients are done.
async fn inject(plan: &Plan, house: &mut House, stage: &Stage, clients: &mut JoinSet<()>) -> usize {
    let mut finished = stage.finished.subscribe();
    let mut happened = 0;
    let total: usize = plan.clients.iter().map(Vec::len).sum();
    for (after, micros, fault) in &plan.faults {
        // The sender lives in the stage.
        let _ = finished.wait_for(|finished| finished >= after).await;
        // The moment is what is tried: anything from the end of one step to the middle of another.
        tokio::time::sleep(Duration::from_micros(*micros)).await;
        if *finished.borrow() >= total {
            break;
        }
        house.suffer(*fault, stage).await;
        happened += 1;
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client does not panic");
    }
    happened
}

fn id(value: &Value) -> &str {
    value.as_str().expect("an id")
}

/// What is there when everything has come to rest.
#[derive(Default)]
struct Rest {
    heads: BTreeMap<String, u64>,
    conversations: Vec<Conversation>,
    /// What did not come to rest.
    unrest: Vec<String>,
}

/// Waits until every turn has ended, and reads what is there then.
async fn rest(api: &Api, stage: &Stage, topics: &[String]) -> Rest {
    let mut rest = Rest::default();
    for bot in &stage.bots {
        let (mut last, mut since) = (None, Instant::now());
        loop {
            // What was sent without an answer may begin only now.
            let seen = look(api, bot).await;
            if last != seen {
                (last, since) = (seen.clone(), Instant::now());
            }
            let over = since.elapsed() > REST;
            match seen {
                Some((conversation, at_rest)) if at_rest || over => {
                    if !at_rest {
                        let status = api.get(format!("/api/bot/{}/status", bot.id)).await.body;
                        let open = conversation.turns.iter().filter(|turn| !is_terminal(&turn.state));
                        rest.unrest.push(format!("{status}, {:?}", open.collect::<Vec<_>>()));
                    }
                    rest.conversations.push(conversation);
                    break;
                }
                None if over => {
                    rest.unrest.push(format!("{} can't be read", bot.id));
                    break;
                }
                // Between the service and its clients there is nothing to await.
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }
    let mut socket = Socket::connect(&stage.url).await;
    for topic in topics {
        let subscribed = socket.subscribe(topic).await;
        rest.heads.insert(topic.clone(), subscribed["seq"].as_u64().expect("a number"));
    }
    rest
}

/// The answer to a read; none where the service can't read its database at this moment.
async fn got(api: &Api, path: String) -> Option<Value> {
    let answer = api.get(&path).await;
    match answer.status.as_u16() {
        503 => None,
        _ => Some(answer.expect(200)),
    }
}

/// A bot's conversation, and whether nothing is going to happen in it.
async fn look(api: &Api, bot: &Bot) -> Option<(Conversation, bool)> {
    let status = got(api, format!("/api/bot/{}/status", bot.id)).await?;
    let idle = status["queue_depth"] == 0 && status["active_turns"] == Value::Array(vec![]);
    let now = got(api, format!("/api/bot/{}", bot.id)).await?;
    let id = id(&now["main_conversation_id"]).to_owned();
    let messages = messages(api, &bot.id).await?;
    let turns = turns(api, &messages).await?;
    let ended = messages.iter().all(|m| m.state != "pending") && turns.iter().all(|t| is_terminal(&t.state));
    let says = bot.says.clone();
    Some((Conversation { bot: bot.id.clone(), id, says, messages, turns }, idle && ended))
}

/// The turns of these messages.
async fn turns(api: &Api, messages: &[Message]) -> Option<Vec<Turn>> {
    let mut turns: Vec<Turn> = vec![];
    for turn in messages.iter().filter_map(|m| m.turn.as_ref()) {
        if turns.iter().all(|known| known.id != *turn) {
            let turn = got(api, format!("/api/turn/{turn}")).await?;
            let [id, message, reply, state] =
                ["id", "message_id", "reply_id", "state"].map(|field| id(&turn[field]).to_owned());
            turns.push(Turn { id, message, reply, state });
        }
    }
    Some(turns)
}

/// All messages of a bot's main conversation, oldest first.
async fn messages(api: &Api, bot: &str) -> Option<Vec<Message>> {
    let (mut all, mut before) = (vec![], String::new());
    loop {
        let page = got(api, format!("/api/chat/{bot}?limit=200{before}")).await?;
        let text = |item: &Value, field: &str| item[field].as_str().map(str::to_owned);
        let must =
            |item: &Value, field: &str| text(item, field).unwrap_or_else(|| panic!("{field} of {item}"));
        let mut items: Vec<Message> = page["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| Message {
                id: must(item, "id"),
                parent: text(item, "parent_id"),
                turn: text(item, "turn_id"),
                sender: must(item, "sender"),
                state: must(item, "state"),
                content: must(item, "content"),
            })
            .collect();
        items.append(&mut all);
        all = items;
        match page["before"].as_str() {
            Some(id) => before = format!("&before={id}"),
            None => return Some(all),
        }
    }
}

/// The whole outbox, by topic.
async fn outbox(record: &Record) -> BTreeMap<String, Vec<Fact>> {
    let (mut outbox, mut position) = (BTreeMap::<String, Vec<Fact>>::new(), 0);
    loop {
        let events = record.store().events_after(position, PAGE).await.expect("the outbox is read");
        let Some(last) = events.last() else { return outbox };
        position = last.position;
        for event in events {
            let data: Value = serde_json::from_str(&event.data).expect("the data of an event is JSON");
            let ends = data["turn"]["id"].as_str().map(str::to_owned);
            for (topic, seq) in &event.seqs {
                let fact = Fact { seq: *seq, event: event.name.to_string(), ends: ends.clone() };
                outbox.entry(topic.to_string()).or_default().push(fact);
            }
        }
    }
}
