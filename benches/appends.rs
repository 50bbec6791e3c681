//! Durable appends: messages a second through HistoryActor, by as many callers as the row says, each waiting for its answer
//! before its next append; the same facts straight into the store's `commit`, in groups of that size; and two raw limits,
//! written by hand in groups of that size, taking turns in the same run on the same disk. All sync every group.
//!
//! The limit that counts is that of all rows an append has to write: the message, its event (the promise that no reader
//! ever misses one is kept by a row in the same transaction), and once a conversation its new end and count. What we
//! add to that is what the ratio is about: the way through the actor and back to every caller, looking whether home and parent
//! are there, numbering, recognising what is repeated. A table of messages alone (the other limit) would keep none of it.
//! Aim: 0.85 of the first at 100.
//!
//! Then what an acknowledgement takes at 133 messages a second over HTTP, beside the sync of the same disk before and after, one
//! after the other and at the same rate, and beside a server that does nothing but sync. Aim: p99 of at most twice the first sync's.
//!
//! `cargo bench --bench appends`, and on PostgreSQL too: `scripts/with-postgres cargo bench --bench appends`;
//! `… -- 100` for that size alone, `… -- ack` for the acknowledgement alone.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;
mod raw_acks;
mod raw_appends;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use deia::adapters::{
    postgres::{PostgresConfig, PostgresStore},
    sqlite::SqliteStore,
};
use deia_actors::{
    domain::{
        ids::{BotId, MessageId},
        message::{Conversation, Sender},
    },
    ports::history_store::{Change, Fact, HistoryStore},
    testkit::{conformance::samples, desk::HistoryDesk},
};
use harness::{
    head,
    http::Client,
    introduce, process, row,
    stats::{Sample, cells},
};
use parking_lot::Mutex;
use raw_appends::{Row, What};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const GROUPS: [usize; 4] = [1, 10, 100, 1000];
const ROUNDS: usize = 5;
const TEXT: &str = "What is the capital of this country, and since when has it been its capital?";
/// Messages a second that are acknowledged.
const RATE: u32 = 133;
const CONVERSATIONS: usize = 32;
/// Syncs of each kind before the messages, and after them.
const SYNCS: usize = 500;

/// Groups so that a round takes a noticeable time and not a long one.
fn groups(size: usize) -> usize {
    (10_000 / size).clamp(20, 300)
}

/// A conversation, its first and last message, and how many it has.
type Home = (Conversation, Option<(MessageId, MessageId)>, i64);

/// Conversations of one bot that grow in turns.
struct Growing {
    homes: Vec<Home>,
    told: i64,
}

impl Growing {
    /// On a new database. The bot's launch was its first event.
    async fn new(store: &dyn HistoryStore, homes: usize) -> Self {
        let bot = BotId::numbered(1);
        store.commit(vec![samples::launch(&bot).0]).await.unwrap();
        let homes: Vec<_> = (0..homes).map(|_| samples::conversation(&bot)).collect();
        let new = |home: &Conversation| Fact::new(Change::CreateConversation(home.clone()), vec![]);
        store.commit(homes.iter().map(new).collect()).await.unwrap();
        Self { homes: homes.into_iter().map(|home| (home, None, 0)).collect(), told: 1 }
    }

    /// The next messages, in as many conversations as `size`, or in one.
    fn rows(&mut self, size: usize) -> Vec<Row> {
        let homes = self.homes.len().min(size);
        (0..size * groups(size))
            .map(|n| {
                let (home, ends, seq) = &mut self.homes[n % homes];
                let message = samples::message(home, ends.map(|(_, leaf)| leaf), Sender::User, TEXT);
                let event = samples::append(&message).events.remove(0);
                let branch = ends.map_or(message.id, |(first, _)| first);
                (*ends, *seq, self.told) = (Some((branch, message.id)), *seq + 1, self.told + 1);
                Row { message, branch, depth: *seq - 1, event, bot_seq: self.told, conversation_seq: *seq }
            })
            .collect()
    }

    fn facts(&mut self, size: usize) -> Vec<Fact> {
        let fact = |row: Row| {
            let change = Change::AppendMessages { messages: vec![row.message], idempotency: None };
            Fact::new(change, vec![row.event])
        };
        self.rows(size).into_iter().map(fact).collect()
    }
}

/// What a second of one round held.
fn rate(size: usize, start: Instant) -> f64 {
    (size * groups(size)) as f64 / start.elapsed().as_secs_f64()
}

/// So many callers, each with one append on its way. The conversations keep the order of their messages.
async fn through_actor(desk: &HistoryDesk, into: &mut Growing, size: usize) -> f64 {
    let facts = Arc::new(Mutex::new(into.facts(size).into_iter()));
    let start = Instant::now();
    let callers: Vec<_> = (0..size)
        .map(|_| {
            let (desk, facts) = (desk.clone(), facts.clone());
            tokio::spawn(async move {
                let next = || {
                    let mut facts = facts.lock();
                    facts.next().map(|fact| desk.append(fact))
                };
                while let Some(appended) = next() {
                    assert!(appended.await.unwrap().applied);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    rate(size, start)
}

async fn through_store(store: &dyn HistoryStore, into: &mut Growing, size: usize) -> f64 {
    let mut facts = into.facts(size).into_iter();
    let start = Instant::now();
    loop {
        let group: Vec<_> = facts.by_ref().take(size).collect();
        if group.is_empty() {
            return rate(size, start);
        }
        assert!(store.commit(group).await.unwrap().iter().all(|done| done.applied));
    }
}

/// A connection that writes by hand.
enum Raw {
    Sqlite(Box<rusqlite::Connection>),
    Postgres(Box<PgConnection>),
}

impl Raw {
    async fn write(&mut self, into: &mut Growing, size: usize, what: What) -> f64 {
        let rows = into.rows(size);
        let start = Instant::now();
        for group in rows.chunks(size) {
            match self {
                Self::Sqlite(raw) => raw_appends::sqlite(raw, group, what),
                Self::Postgres(raw) => raw_appends::postgres(raw, group, what).await,
            }
        }
        rate(size, start)
    }
}

/// The four ways, each with a database of its own.
struct Ways {
    actor: (Arc<dyn HistoryStore>, Growing),
    store: (Arc<dyn HistoryStore>, Growing),
    everything: (Raw, Growing),
    messages: (Raw, Growing),
}

impl Ways {
    async fn compare(&mut self, on: &str, sizes: &[usize]) {
        let columns = ["actor", "commit", "raw rows", "raw msgs", "actor/rows", "actor/msgs", "a group"];
        head(&format!("{on}, messages a second"), &columns);
        let (desk, task) = HistoryDesk::start(self.actor.0.clone()).await.unwrap();
        for &size in sizes {
            let mut rates = [(); 4].map(|()| Sample::default());
            let before = desk.groups().await;
            for _ in 0..ROUNDS {
                rates[0].push(through_actor(&desk, &mut self.actor.1, size).await);
                rates[1].push(through_store(&*self.store.0, &mut self.store.1, size).await);
                rates[2].push(self.everything.0.write(&mut self.everything.1, size, What::Everything).await);
                rates[3].push(self.messages.0.write(&mut self.messages.1, size, What::Messages).await);
            }
            let after = desk.groups().await;
            let [actor, store, everything, messages] = rates.map(|rates| rates.at(50.0));
            let mut values = cells([actor, store, everything, messages], 0);
            values.extend(cells([actor / everything, actor / messages], 2));
            values.extend(cells([(after.1 - before.1) as f64 / (after.0 - before.0) as f64], 0));
            row(&format!("{size} at once"), &values);
        }
        desk.stop();
        task.await.unwrap();
    }
}

async fn sqlite(folder: &Path, sizes: &[usize], homes: usize, on: &str) {
    let file = |name: &str| folder.join(format!("{name}-{homes}.db"));
    let mut stores = vec![];
    for name in ["actor", "store", "everything", "messages"] {
        let store = Arc::new(SqliteStore::open(&file(name)).await.unwrap());
        let growing = Growing::new(&*store, homes).await;
        stores.push((store, growing));
    }
    let mut raw = vec![];
    for name in ["messages", "everything"] {
        let (store, growing) = stores.pop().unwrap();
        store.close().await;
        let connection = rusqlite::Connection::open(file(name)).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
                 PRAGMA cache_size = -8000; PRAGMA wal_autocheckpoint = 4000",
            )
            .unwrap();
        raw.push((Raw::Sqlite(Box::new(connection)), growing));
    }
    let (store, into) = stores.pop().unwrap();
    let (actors, appended) = stores.pop().unwrap();
    let (everything, messages) = (raw.pop().unwrap(), raw.pop().unwrap());
    let mut ways =
        Ways { actor: (actors.clone(), appended), store: (store.clone(), into), everything, messages };
    ways.compare(on, sizes).await;
    actors.close().await;
    store.close().await;
}

async fn database(server: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(server).await.unwrap();
    let name = format!("{name}_{}", std::process::id());
    connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}

async fn postgres(server: &str, sizes: &[usize], homes: usize, on: &str) {
    let mut stores = vec![];
    for name in ["actor", "store", "everything", "messages"] {
        let url = database(server, &format!("{name}_{homes}")).await;
        let store = Arc::new(PostgresStore::open(&PostgresConfig::new(url.as_str())).await.unwrap());
        let growing = Growing::new(&*store, homes).await;
        stores.push((url, store, growing));
    }
    let mut raw = vec![];
    for _ in ["messages", "everything"] {
        let (url, store, growing) = stores.pop().unwrap();
        store.close().await;
        raw.push((Raw::Postgres(Box::new(PgConnection::connect(&url).await.unwrap())), growing));
    }
    let (_, store, into) = stores.pop().unwrap();
    let (_, actors, appended) = stores.pop().unwrap();
    let (everything, messages) = (raw.pop().unwrap(), raw.pop().unwrap());
    let mut ways =
        Ways { actor: (actors.clone(), appended), store: (store.clone(), into), everything, messages };
    ways.compare(on, sizes).await;
    actors.close().await;
    store.close().await;
}

/// Syncs one after the other, and with pauses like those between the messages: a disk and a processor that had a rest take longer.
fn syncs(folder: &Path, every: Duration) -> (Sample, Sample) {
    let [hot, paced] = [Duration::ZERO, every].map(|pause| harness::fsync_paced(folder, SYNCS, pause));
    (Sample::from(hot), Sample::from(paced))
}

/// One send after the other falls due, whether the ones before it are answered or not; every client has its own request. A time
/// counts from the sending, and from the moment it was due where its connection was still busy: timers wake the client up
/// to a millisecond late, which is none of the service's doing. What each took, and how late it was sent.
async fn paced(clients: Vec<(Client, Vec<u8>)>, every: Duration) -> (Sample, Sample) {
    let begun = tokio::time::Instant::now();
    let total = u32::try_from(harness::seconds().as_millis() / every.as_millis()).unwrap_or(u32::MAX);
    let work = clients.into_iter().enumerate().map(|(n, (mut client, request))| async move {
        let (mut took, mut late) = (Sample::default(), Sample::default());
        let (n, step) = (u32::try_from(n).unwrap(), u32::try_from(CONVERSATIONS).unwrap());
        for due in (n..total).step_by(step as usize).map(|k| begun + every * k) {
            let busy = tokio::time::Instant::now() > due;
            tokio::time::sleep_until(due).await;
            late.push(due.elapsed().as_secs_f64() * 1e3);
            let from = if busy { due } else { tokio::time::Instant::now() };
            client.ask(&request, None).await;
            took.push(from.elapsed().as_secs_f64() * 1e3);
        }
        (took, late)
    });
    let (mut took, mut late) = (Sample::default(), Sample::default());
    for (of_one, late_of_one) in futures_util::future::join_all(work).await {
        took.extend(of_one);
        late.extend(late_of_one);
    }
    (took, late)
}

/// What requests of that rate take at the server of [`raw_acks`].
async fn raw_acknowledgements(folder: &Path, every: Duration) -> Sample {
    let request = TEXT.as_bytes().to_vec();
    let address = raw_acks::serve(folder, request.len());
    let mut clients = vec![];
    for _ in 0..CONVERSATIONS {
        clients.push((Client::connect(address).await, request.clone()));
    }
    paced(clients, every).await.0
}

async fn acknowledgements(folder: &Path) {
    let every = Duration::from_secs(1) / RATE;
    let (mut hot, mut cold) = syncs(folder, every);
    let mut raw = raw_acknowledgements(folder, every).await;
    let simulator = process::simulator(None);
    let service = process::service(None, &folder.join("data"), simulator.address);
    service.until_ready();
    let mut clients = vec![];
    for n in 0..CONVERSATIONS {
        let mut client = Client::connect(service.address).await;
        client.launch(&format!("bot-{n}"), "sim:tokens=1").await;
        let body = serde_json::json!({ "bot_id": format!("bot-{n}"), "content": TEXT }).to_string();
        let request = client.request("POST", "/api/chat/send?wait=false", "application/json", &body);
        clients.push((client, request));
    }
    let (took, late) = paced(clients, every).await;
    service.stop();
    raw.extend(raw_acknowledgements(folder, every).await);
    let (hot_again, cold_again) = syncs(folder, every);
    hot.extend(hot_again);
    cold.extend(cold_again);
    head("milliseconds", &["p50", "p95", "p99"]);
    row("4 KiB appended and synced, at once again", &cells(hot.usual(), 2));
    row(&format!("the same, {RATE} a second"), &cells(cold.usual(), 2));
    row("the same behind a request over loopback", &cells(raw.usual(), 2));
    row(&format!("acknowledgement at {RATE} a second"), &cells(took.usual(), 2));
    row("clients: sent later than due", &cells(late.usual(), 2));
    let over = |limit: &Sample| cells([50.0, 95.0, 99.0].map(|at| took.at(at) / limit.at(at)), 2);
    row("ratio to the sync (aim at p99: 2)", &over(&hot));
    row("to the sync at that rate", &over(&cold));
    row("to the one behind a request", &over(&raw));
}

#[allow(clippy::disallowed_methods, reason = "how scripts/with-postgres talks to what it runs")]
fn main() {
    introduce("appends: durable messages a second, and what an acknowledgement takes");
    let folder = harness::folder();
    let server = std::env::var("TEST_POSTGRES_URL").ok();
    let only: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if only.is_empty() { GROUPS.to_vec() } else { only.clone() };
    if std::env::args().any(|argument| argument == "ack") {
        return harness::block_on(acknowledgements(folder.path()));
    }
    // As the service has it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for (homes, of) in [(1, "one conversation"), (1000, "a conversation each")] {
            sqlite(folder.path(), &sizes, homes, &format!("SQLite, {of}")).await;
            if let Some(server) = &server {
                postgres(server, &sizes, homes, &format!("PostgreSQL, {of}")).await;
            }
        }
    });
    if server.is_none() {
        println!("\nno PostgreSQL: run it with scripts/with-postgres");
    }
    if only.is_empty() {
        harness::block_on(acknowledgements(folder.path()));
    }
}
