//! A long history as a file and back: 1,000,000 messages of one bot, half of them answers with their turns, in
//! conversations of 10,000.
//!
//! - Export in each form over HTTP and by `deia export`: messages and MB a second, beside what the database takes to give
//!   the same rows with nothing done with them (the raw limit). Both ways must give the same bytes.
//! - Import of the JSON over HTTP and by `deia import` into an empty database, beside a copy of the same rows from
//!   database to database. What was imported must be exported to the same bytes.
//! - Peak of the memory over what the process has when idle (aim: at most 32 MiB, however many messages). Idle is the
//!   settled service; of a command, the peak of an export of nothing.
//!
//! The search does not take the messages in meanwhile: they are marked as taken in.
//!
//! `cargo bench --bench export`, and on PostgreSQL: `scripts/with-postgres cargo bench --bench export`. Shorter:
//! `DEIA_BENCH_MESSAGES=100000`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use deia::adapters::{
    postgres::{PostgresConfig, PostgresStore},
    sqlite::SqliteStore,
};
use deia_actors::{
    domain::{ids::BotId, message::Conversation},
    ports::{
        archive::{ArchivedTurn, ImportPart},
        history_store::{Change, Fact, HistoryStore},
    },
    testkit::conformance::samples,
};
use harness::{
    files, head, introduce, knob, postgres_server,
    process::{self, Running},
    raw, row,
    stats::cells,
};
use sqlx::{Connection, Executor, PgConnection};

const MESSAGES: usize = 1_000_000;
/// Messages of a conversation, and of a part that is stored at once.
const EACH: usize = 10_000;
const PART: usize = 500;
const FORMATS: [&str; 3] = ["json", "markdown", "csv"];
const ANSWER: &str = "The capital is where the government sits. It has been that since the country was founded, with two breaks. ";
const MIB: f64 = 1024.0;

/// A folder with a database in it or beside it.
struct Home {
    data: PathBuf,
    /// PostgreSQL; none = SQLite in the folder.
    url: Option<String>,
}

impl Home {
    async fn new(folder: &Path, name: &str, server: Option<&str>) -> Self {
        let url = match server {
            Some(server) => Some(raw::database(server, name).await),
            None => None,
        };
        let home = Self { data: folder.join(name), url };
        let (fact, _) = samples::launch(&bot());
        home.with_store(async |store| drop(store.commit(vec![fact.clone()]).await.unwrap())).await;
        home
    }

    fn file(&self) -> PathBuf {
        self.data.join("deia.db")
    }

    fn prepare(&self, command: &mut Command) {
        command.env("DEIA_SERVER__MAX_IMPORT_BYTES", (1u64 << 34).to_string());
        // The messages of the samples are older than it lets them become.
        command.env("DEIA_RETENTION__CHAT_DAYS", "0");
        if let Some(url) = &self.url {
            command.env("DEIA_STORAGE__URL", url);
        }
    }

    async fn with_store(&self, work: impl AsyncFn(&dyn HistoryStore)) {
        match &self.url {
            None => {
                let store = SqliteStore::open(&self.file()).await.unwrap();
                work(&store).await;
                store.close().await;
            }
            Some(url) => {
                let store = PostgresStore::open(&PostgresConfig::new(url.as_str())).await.unwrap();
                work(&store).await;
                store.close().await;
            }
        }
    }

    /// Stores the history.
    async fn fill(&self, messages: usize) {
        self.with_store(async |store| {
            for n in 0..messages.div_ceil(EACH) {
                for part in conversation(EACH.min(messages - n * EACH)) {
                    let fact = Fact::new(Change::Import(part), vec![]);
                    assert!(store.commit(vec![fact]).await.unwrap()[0].applied);
                }
            }
        })
        .await;
        match &self.url {
            None => {
                let database = rusqlite::Connection::open(self.file()).unwrap();
                let sql = "UPDATE search_state SET watermark = (SELECT max(rowid) FROM chat_messages)";
                database.execute(sql, []).unwrap();
            }
            Some(url) => {
                let sql = "UPDATE search_state SET watermark = (SELECT max(arrival) FROM chat_messages)";
                PgConnection::connect(url).await.unwrap().execute(sql).await.unwrap();
            }
        }
    }

    async fn read_raw(&self, turns: bool) -> u64 {
        match &self.url {
            None => raw::read_sqlite(&self.file(), turns),
            Some(url) => raw::read_postgres(url, turns).await,
        }
    }

    async fn copy_raw(&self, to: &Self) {
        match (&self.url, &to.url) {
            (Some(from), Some(to)) => raw::copy_postgres(from, to).await,
            _ => raw::copy_sqlite(&self.file(), &to.file()),
        }
    }

    fn serve(&self, model_server: &Running) -> Running {
        let service = process::service_with(None, &self.data, model_server.address, |c| self.prepare(c));
        service.until_ready();
        service
    }
}

fn bot() -> BotId {
    BotId::parse("ada").unwrap()
}

/// A conversation of questions and answers, in parts.
fn conversation(messages: usize) -> Vec<ImportPart> {
    let mut home = samples::conversation(&bot());
    let mut last = None;
    let mut parts: Vec<ImportPart> = vec![];
    for n in 0..messages / 2 {
        let (turn, question, reply) = samples::turn(&home, last, harness::QUESTION);
        let (turn, reply) = samples::ended(&turn, &reply, &ANSWER.repeat(1 + n % 4));
        last = Some(reply.id);
        if n % (PART / 2) == 0 {
            parts.push(ImportPart { bot_id: bot(), conversations: vec![], messages: vec![], turns: vec![] });
        }
        let part = parts.last_mut().unwrap();
        part.messages.extend([question, reply]);
        part.turns.push(ArchivedTurn { turn, overrides: None });
    }
    home.leaf_message_id = last;
    if let Some(first) = parts.first_mut() {
        first.conversations = vec![Conversation { title: Some("a talk".into()), ..home }];
    }
    parts
}

/// What one line of the tables says.
struct Line {
    messages: u64,
    bytes: u64,
    seconds: f64,
    /// Peak and idle, in KiB; none for a raw limit.
    memory: Option<(f64, f64)>,
}

impl Line {
    fn print(&self, name: &str) {
        let megabytes = self.bytes as f64 / 1e6;
        let mut values = cells([self.seconds], 2);
        values.extend(cells([self.messages as f64 / self.seconds, megabytes / self.seconds], 0));
        if let Some((peak, idle)) = self.memory {
            values.extend(cells([idle / MIB, peak / MIB, (peak - idle) / MIB], 1));
        }
        row(name, &values);
    }
}

const COLUMNS: [&str; 6] = ["s", "messages/s", "MB/s", "idle MiB", "peak MiB", "over (32)"];

async fn measure(folder: &Path, server: Option<&str>) {
    let messages = knob("DEIA_BENCH_MESSAGES", MESSAGES);
    let place = if server.is_some() { "PostgreSQL" } else { "SQLite" };
    let full = Home::new(folder, "full", server).await;
    full.fill(messages).await;
    let simulator = process::simulator(None);
    head(&format!("{place}: export of {messages} messages"), &COLUMNS);
    for (name, turns) in [("raw: rows of messages", false), ("raw: rows of messages with turns", true)] {
        let start = Instant::now();
        let rows = full.read_raw(turns).await;
        assert_eq!(rows, messages as u64);
        Line { messages: rows, bytes: 0, seconds: start.elapsed().as_secs_f64(), memory: None }.print(name);
    }
    let by_http = |format: &str| folder.join(format!("http.{format}"));
    let service = full.serve(&simulator);
    let idle = service.settled_rss();
    for format in FORMATS {
        let body = format!(r#"{{"format":"{format}"}}"#);
        service.forget_peak();
        let start = Instant::now();
        let bytes = files::download(service.address, "/api/chat/ada/export", &body, &by_http(format));
        let (seconds, memory) = (start.elapsed().as_secs_f64(), Some((service.peak(), idle)));
        Line { messages: messages as u64, bytes, seconds, memory }.print(&format!("HTTP, {format}"));
    }
    service.stop();
    let empty = Home::new(folder, "empty", server).await;
    let file = folder.join("file");
    let export = |home: &Home, format: &str| {
        let arguments = ["export", "ada", "--format", format, "--output", file.to_str().unwrap()];
        process::run(&home.data, &arguments, |c| home.prepare(c))
    };
    let idle = export(&empty, "json").peak;
    for format in FORMATS {
        let ran = export(&full, format);
        assert!(files::same(&file, &by_http(format)), "HTTP and the command give different {format}");
        let bytes = file.metadata().unwrap().len();
        let (seconds, memory) = (ran.took.as_secs_f64(), Some((ran.peak, idle)));
        Line { messages: messages as u64, bytes, seconds, memory }.print(&format!("deia export, {format}"));
    }

    head(&format!("{place}: import of the same"), &COLUMNS);
    let json = by_http("json");
    let (messages, bytes) = (messages as u64, json.metadata().unwrap().len());
    let copy = Home::new(folder, "copy", server).await;
    let start = Instant::now();
    full.copy_raw(&copy).await;
    Line { messages, bytes: 0, seconds: start.elapsed().as_secs_f64(), memory: None }
        .print("raw: rows copied");

    let served = Home::new(folder, "served", server).await;
    let service = served.serve(&simulator);
    let resting = service.settled_rss();
    service.forget_peak();
    let start = Instant::now();
    let report = files::upload(service.address, "/api/chat/ada/import", &json);
    assert!(report.contains(&format!("\"messages\":{messages}")), "{report}");
    let (seconds, memory) = (start.elapsed().as_secs_f64(), Some((service.peak(), resting)));
    Line { messages, bytes, seconds, memory }.print("HTTP");
    service.stop();

    let commanded = Home::new(folder, "commanded", server).await;
    let ran = process::run(&commanded.data, &["import", json.to_str().unwrap()], |c| commanded.prepare(c));
    let (seconds, memory) = (ran.took.as_secs_f64(), Some((ran.peak, idle)));
    Line { messages, bytes, seconds, memory }.print("deia import");

    for home in [&served, &commanded] {
        export(home, "json");
        assert!(files::same(&file, &json), "what was imported is exported to other bytes");
    }
}

fn main() {
    introduce("export: a long history as a file and back");
    let folder = harness::folder();
    let server = postgres_server();
    harness::block_on(measure(folder.path(), server.as_deref()));
}
