//! Out and in again: the same bytes; and everything that is no whole, unchanged export is refused before anything is stored.
#![allow(clippy::unwrap_used)]

use std::{io::Cursor, sync::Arc};

use futures_util::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{csv::cell, *};
use crate::{
    domain::{
        ids::{ConversationId, MessageId},
        message::{Conversation, Message, MessageState, Sender},
        time::Timestamp,
    },
    ports::{
        history_store::{Change, HistoryStore},
        retention::{Prune, RetentionStore},
        scratch::{InMemory, Scratch},
    },
    testkit::{conformance::samples, fakes::memory_store::MemoryStore},
};

mod overtaken;

fn ada() -> BotId {
    BotId::parse("ada").unwrap()
}

async fn fresh() -> (MemoryStore, Conversation) {
    let store = MemoryStore::new();
    let (fact, main) = samples::launch(&ada());
    store.commit(vec![fact]).await.unwrap();
    (store, main)
}

async fn exported(store: &MemoryStore, format: ExportFormat, only: Option<ConversationId>) -> String {
    let export = export(Arc::new(store.clone()), &ada(), format, only).await.unwrap();
    let chunks: Vec<_> = export.body.map(|chunk| chunk.unwrap().to_vec()).collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

async fn imported(store: &MemoryStore, file: &str) -> Result<ImportReport, Problem> {
    let bot = ada();
    import(store, &Straight(store), Some(&bot), &mut Cursor::new(file.as_bytes().to_vec()), &scratch()).await
}

fn scratch() -> Arc<dyn Scratch> {
    Arc::new(InMemory)
}

/// With the checksum that fits, as somebody would make it who edits a file.
fn sealed(file: &str) -> String {
    let body = &file[..file.rfind("\"sha256\"").unwrap()];
    let sum: String = Sha256::digest(body.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!("{body}\"sha256\":\"{sum}\"}}\n")
}

/// How one message is made: which earlier one it follows, whose it is, what it says.
type Sketch = (u8, u8, String, Option<String>, f64);

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let one = (any::<u8>(), any::<u8>(), "[^\\x00\n]{0,12}", proptest::option::of("\\PC{0,8}"), any::<f64>());
    proptest::collection::vec(one, 0..25)
}

/// A history of two conversations and a fork, with branches, ended turns and one that runs.
async fn history(sketches: Vec<Sketch>) -> MemoryStore {
    let (store, main) = fresh().await;
    let aside = samples::conversation(&ada());
    let aside = Conversation { title: Some("a \"b\"\n".into()), archived: true, ..aside };
    store.commit(vec![Fact::new(Change::CreateConversation(aside.clone()), vec![])]).await.unwrap();
    let mut said: Vec<Message> = vec![];
    for (n, (parent, kind, text, thinking, number)) in sketches.into_iter().enumerate() {
        let home = if kind % 3 == 0 { &aside } else { &main };
        let own: Vec<_> = said.iter().filter(|m| m.conversation_id == home.id).collect();
        let parent = own.get(usize::from(parent)).or(own.last().filter(|_| parent < 200)).map(|m| m.id);
        let mut metadata = serde_json::Map::new();
        if number.is_finite() {
            metadata.insert("number".into(), json!({"is": number, "text": text}));
        }
        if kind % 2 == 0 {
            let message = Message {
                thinking: thinking.map(Into::into),
                images: (kind % 4 == 0).then(|| vec!["aGk=".into()]),
                tool_calls: (kind % 5 == 0).then(|| json!([{"name": "t", "arguments": {"n": n}}])),
                metadata,
                ..samples::message(home, parent, Sender::System, &text)
            };
            store.commit(vec![samples::append(&message)]).await.unwrap();
            said.push(message);
            continue;
        }
        let (turn, question, reply) = samples::turn(home, parent, &text);
        let change = Change::AcceptTurn {
            turn: turn.clone(),
            message: question.clone(),
            reply: reply.clone(),
            overrides: (kind % 7 == 0).then(|| json!({"options": {"seed": n}})),
            idempotency: None,
        };
        store.commit(vec![Fact::new(change, vec![])]).await.unwrap();
        let (mut done, mut answer) = samples::ended(&turn, &reply, &text);
        if number.is_finite() {
            done.timings.total_ms = Some(number);
        }
        answer.metadata = metadata;
        store.commit(vec![samples::finish(&done, &answer)]).await.unwrap();
        said.extend([question, answer]);
    }
    let leaf = store.conversation(main.id).await.unwrap().unwrap().leaf_message_id;
    let fork = Conversation { leaf_message_id: leaf, ..samples::conversation(&ada()) };
    let change = Change::CreateConversation(fork.clone());
    store.commit(vec![Fact::new(change, vec![])]).await.unwrap();
    let own = samples::message(&fork, leaf, Sender::User, "and from here?");
    store.commit(vec![samples::append(&own)]).await.unwrap();
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_was_exported_and_imported_is_exported_to_the_same_bytes(sketches in sketches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let first = history(sketches).await;
            let file = exported(&first, ExportFormat::Json, None).await;
            let (second, _) = fresh().await;
            let report = imported(&second, &file).await.unwrap();
            assert_eq!(report.unchanged, Counts::default());
            assert_eq!(exported(&second, ExportFormat::Json, None).await, file);
            let again = imported(&second, &file).await.unwrap();
            assert_eq!((again.imported, again.unchanged), (Counts::default(), report.imported));
            assert_eq!(exported(&second, ExportFormat::Json, None).await, file);
            // And it is one JSON document for everybody else.
            let document: Value = serde_json::from_str(&file).unwrap();
            assert_eq!(document["messages"].as_array().unwrap().len() as u64, report.imported.messages);
        });
    }

    #[test]
    fn a_text_survives_csv_and_is_no_formula(text in "[=+@\\-\t\r\n\",a ＝é']{0,8}") {
        let guarded = cell(&text);
        prop_assert!(!guarded.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝']));
        prop_assert!(guarded == text || guarded.strip_prefix('\'') == Some(text.as_str()));
        let (_, main) = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(fresh());
        let mut out = vec![];
        super::csv::CsvWriter.begin(&mut out);
        super::csv::CsvWriter.message(&mut out, &samples::message(&main, None, Sender::User, &text));
        let mut reader = ::csv::Reader::from_reader(out.as_slice());
        let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        prop_assert_eq!(rows.len(), 1);
        prop_assert_eq!(&rows[0][8], &*guarded);
    }
}

/// Two messages of one ended turn.
async fn small() -> (MemoryStore, String) {
    let (store, main) = fresh().await;
    let (turn, question, reply) = samples::turn(&main, None, "asked");
    store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
    let (done, answer) = samples::ended(&turn, &reply, "answered");
    store.commit(vec![samples::finish(&done, &answer)]).await.unwrap();
    let file = exported(&store, ExportFormat::Json, None).await;
    (store, file)
}

#[tokio::test]
async fn what_is_no_whole_unchanged_export_is_refused_before_anything_is_stored() {
    let (_, file) = small().await;
    let lines: Vec<&str> = file.lines().collect();
    let edited = |from: &str, to: &str| {
        assert!(file.contains(from), "{from}");
        file.replacen(from, to, 1)
    };
    let deep = format!("\"metadata\":{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let mut cases = vec![
        (String::new(), "empty"),
        ("hello".into(), "not the begin of an export"),
        (format!("\u{FEFF}{file}"), "changed by an editor"),
        (file.replace('\n', "\r\n"), "changed by an editor"),
        (format!("{file}and more"), "follows the end"),
        (file[..file.len() / 2].to_owned(), "breaks off in the middle of line"),
        (sealed(&edited("asked", "as\\u0000ked")), "must not contain NUL"),
        (edited("\"tokens\":", "\"tokens\":-"), "not of the kind"),
        (edited("\"parent_id\":null", "\"parent_id\":\"x\""), "not of the kind"),
        (edited("\"messages\":2", "\"messages\":3"), "1 conversations, 3 messages and 1 turns"),
        ("hello\n".into(), "Line 1"),
        ("{}\n".into(), "Line 1"),
        (format!("{}{}\n", "[".repeat(100_000), "]".repeat(100_000)), "Line 1"),
        (edited("\"metadata\":{}", &deep), "recursion"),
        (edited("\"version\":1", "\"version\":2"), "version 2"),
        (edited("\"bot_id\":\"ada\"", "\"bot_id\":\"eve\""), "of bot eve, not of ada"),
        (edited("asked", "Asked"), "checksum"),
        (edited("\"sender\":\"user\"", "\"sender\":\"cat\""), "unknown variant"),
        (edited("\"tokens\":", "\"tokens\": "), "not written as deia writes"),
        (edited("\"tokens\":", "\"secret\":1,\"tokens\":"), "unknown field `secret`"),
        (edited("\"messages\":2", "\"messages\":3"), "counts"),
        (edited("\"state\":\"complete\"", "\"state\":\"pending\""), "pending"),
        (edited("\"state\":\"completed\"", "\"state\":\"queued\""), "turn"),
        (format!("{file}{}\n", lines[0]), "follows the end"),
        (file.trim_end().to_owned(), "breaks off"),
        (
            sealed(&edited("\"parent_id\":null", &format!("\"parent_id\":\"{}\"", MessageId::new()))),
            "belongs",
        ),
    ];
    for cut in 1..lines.len() {
        cases.push((format!("{}\n", lines[..cut].join("\n")), "breaks off"));
    }
    // Both messages with one id, and one of a conversation that is not there.
    let message: Value = serde_json::from_str(lines[3].trim_end_matches(',')).unwrap();
    let reply: Value = serde_json::from_str(lines[4]).unwrap();
    let (first, second) = (message["id"].as_str().unwrap(), reply["id"].as_str().unwrap());
    let home = message["conversation_id"].as_str().unwrap();
    cases.push((
        sealed(&file.replace(&format!("\"id\":\"{second}\""), &format!("\"id\":\"{first}\""))),
        "twice",
    ));
    let other = ConversationId::new().to_string();
    let elsewhere = format!("\"conversation_id\":\"{home}\"");
    cases.push((sealed(&file.replace(&elsewhere, &format!("\"conversation_id\":\"{other}\""))), "lacks"));
    // A message that comes before itself, and one behind nothing.
    cases.push((
        sealed(&file.replace(&format!("\"parent_id\":\"{first}\""), &format!("\"parent_id\":\"{second}\""))),
        "before itself",
    ));
    let nothing = MessageId::new().to_string();
    cases.push((
        sealed(&file.replace(&format!("\"parent_id\":\"{first}\""), &format!("\"parent_id\":\"{nothing}\""))),
        "neither in it nor stored",
    ));
    let (store, _) = fresh().await;
    let before = store.groups();
    for (bad, expected) in cases {
        let problem = imported(&store, &bad).await.unwrap_err();
        assert_eq!(problem.code, Code::ImportInvalid, "{problem}");
        assert!(problem.detail.contains(expected), "{expected}: {problem}");
        assert_eq!(store.groups(), before, "nothing was stored: {problem}");
    }
    imported(&store, &file).await.unwrap();
}

#[tokio::test]
async fn what_is_stored_with_other_content_is_named_and_nothing_is_stored() {
    let (store, file) = small().await;
    let before = store.groups();
    let question: Value = serde_json::from_str(file.lines().nth(3).unwrap().trim_end_matches(',')).unwrap();
    let changed = sealed(&file.replace("asked", "Asked"));
    let problem = imported(&store, &changed).await.unwrap_err();
    assert_eq!(problem.code, Code::ImportConflict);
    assert!(problem.detail.contains(question["id"].as_str().unwrap()), "{problem}");
    for (from, to) in [
        ("\"model\":\"llama3.2\"", "\"model\":\"other\""),
        ("\"created_at\":\"2023", "\"created_at\":\"2022"),
    ] {
        assert!(file.contains(from), "{from}");
        let problem = imported(&store, &sealed(&file.replacen(from, to, 1))).await.unwrap_err();
        assert_eq!(problem.code, Code::ImportConflict, "{from}");
    }
    // Ids of another bot.
    let eve = BotId::parse("eve").unwrap();
    store.commit(vec![samples::launch(&eve).0]).await.unwrap();
    let stolen = sealed(&file.replace("\"bot_id\":\"ada\"", "\"bot_id\":\"eve\""));
    let mut source = Cursor::new(stolen.into_bytes());
    let problem = import(&store, &Straight(&store), Some(&eve), &mut source, &scratch()).await.unwrap_err();
    assert_eq!(problem.code, Code::ImportConflict, "{problem}");
    assert_eq!(store.groups(), before + 1, "only the launch");
}

#[tokio::test]
async fn what_retention_cut_off_comes_back_once_the_rest_is_cleared() {
    let (store, main) = fresh().await;
    let old = samples::message(&main, None, Sender::User, "long ago");
    let old = Message { created_at: Timestamp(1_000), ..old };
    let next = samples::message(&main, Some(old.id), Sender::Bot, "today");
    store.commit(vec![samples::append(&old), samples::append(&next)]).await.unwrap();
    let file = exported(&store, ExportFormat::Json, None).await;
    let before = Timestamp(2_000);
    assert_eq!(store.prune(Prune::Chat { before }, 10).await.unwrap().rows, 1);
    let problem = imported(&store, &file).await.unwrap_err();
    assert_eq!(problem.code, Code::ImportConflict);
    assert!(problem.detail.contains(&next.id.to_string()) && problem.detail.contains("Clear"), "{problem}");
    let clear = Change::ClearHistory { bot_id: ada(), conversation_id: None };
    store.commit(vec![Fact::new(clear, vec![])]).await.unwrap();
    imported(&store, &file).await.unwrap();
    assert_eq!(exported(&store, ExportFormat::Json, None).await, file);
}

#[tokio::test]
async fn what_runs_and_waits_is_left_out_with_its_question() {
    let (store, file) = small().await;
    let main = store.conversations(&ada()).await.unwrap().remove(0);
    let (running, question, reply) = samples::turn(&main, main.leaf_message_id, "still asked");
    store.commit(vec![samples::accept(&running, &question, &reply)]).await.unwrap();
    let (waiting, later, last) = samples::turn(&main, Some(reply.id), "asked behind it");
    store.commit(vec![samples::accept(&waiting, &later, &last)]).await.unwrap();
    assert_eq!(exported(&store, ExportFormat::Json, None).await, file);
    for format in [ExportFormat::Markdown, ExportFormat::Csv] {
        assert!(!exported(&store, format, None).await.contains("still asked"), "{format:?}");
    }
    // The other answer to an old question is left out, the question is not.
    let (store, file) = small().await;
    let own = store.conversations(&ada()).await.unwrap().remove(0);
    let path = store.path(own.leaf_message_id.unwrap(), usize::MAX).await.unwrap();
    let (mut again, _, mut reply) = samples::turn(&own, None, "");
    again.message_id = path[1].id;
    reply.parent_id = Some(path[1].id);
    store.commit(vec![samples::accept(&again, &path[1], &reply)]).await.unwrap();
    let expected = file.replace(
        &format!("\"leaf_message_id\":\"{}\"", path[0].id),
        &format!("\"leaf_message_id\":\"{}\"", path[1].id),
    );
    assert_eq!(exported(&store, ExportFormat::Json, None).await, sealed(&expected));
}

#[tokio::test]
async fn messages_of_a_clock_that_was_ahead_are_exported_and_what_is_said_later_is_not() {
    let (store, main) = fresh().await;
    let ahead = |n: u128| MessageId(uuid::Uuid::from_u128((u128::MAX >> 4) + n));
    let first = Message { id: ahead(1), ..samples::message(&main, None, Sender::User, "from the future") };
    let second = samples::message(&main, Some(first.id), Sender::Bot, "from now");
    let third = Message { id: ahead(2), ..samples::message(&main, Some(second.id), Sender::User, "the end") };
    for message in [&first, &second, &third] {
        store.commit(vec![samples::append(message)]).await.unwrap();
    }
    let begun = export(Arc::new(store.clone()), &ada(), ExportFormat::Json, None).await.unwrap();
    let later = Message { id: ahead(3), ..samples::message(&main, Some(third.id), Sender::User, "later") };
    let below = samples::message(&main, Some(later.id), Sender::Bot, "later still");
    for message in [&later, &below] {
        store.commit(vec![samples::append(message)]).await.unwrap();
    }
    let chunks: Vec<_> = begun.body.map(|chunk| chunk.unwrap().to_vec()).collect().await;
    let file = String::from_utf8(chunks.concat()).unwrap();
    let (other, _) = fresh().await;
    assert_eq!(imported(&other, &file).await.unwrap().imported.messages, 3);
    assert_eq!(exported(&other, ExportFormat::Json, None).await, file);
    assert!(!file.contains("later"), "{file}");
}

#[tokio::test]
async fn one_conversation_alone_is_exported_and_an_unknown_one_is_not() {
    let store = history(vec![]).await;
    let all = store.conversations(&ada()).await.unwrap();
    let aside = all.iter().find(|c| c.archived).unwrap();
    let file = exported(&store, ExportFormat::Json, Some(aside.id)).await;
    let (second, _) = fresh().await;
    assert_eq!(imported(&second, &file).await.unwrap().imported.conversations, 1);
    assert_eq!(exported(&second, ExportFormat::Json, Some(aside.id)).await, file);
    let none = export(Arc::new(store), &ada(), ExportFormat::Csv, Some(ConversationId::new())).await;
    assert_eq!(none.unwrap_err().code, Code::ConversationNotFound);
}

#[tokio::test]
async fn markdown_is_made_to_be_read() {
    let (store, main) = fresh().await;
    let first = samples::message(&main, None, Sender::User, "# not a title\n```rust\nlet a;");
    let mut second = samples::message(&main, Some(first.id), Sender::Bot, "=1+1");
    second.state = MessageState::Partial;
    second.mark_cut();
    let third = samples::message(&main, Some(first.id), Sender::System, "");
    for message in [&first, &second, &third] {
        store.commit(vec![samples::append(message)]).await.unwrap();
    }
    let expected = format!(
        "# ada\n\n## Main conversation\n\n`{}`, begun {}\n\n### User · {}\n\n# not a title\n```rust\nlet a;\n```\n\n\
         ### ada · {} · 1 of 2 · not finished · cut at its longest length\n\n=1+1\n\n### System · {} · 2 of 2\n",
        main.id, main.created_at, first.created_at, second.created_at, third.created_at
    );
    assert_eq!(exported(&store, ExportFormat::Markdown, None).await, expected);
    let csv = exported(&store, ExportFormat::Csv, None).await;
    assert!(csv.contains(",'=1+1,,length\r\n") && csv.ends_with("\r\n"), "{csv}");
}

#[tokio::test]
async fn a_long_list_of_conversations_comes_in_pieces_and_is_whole() {
    let (store, _) = fresh().await;
    for _ in 0..1100 {
        let change = Change::CreateConversation(samples::conversation(&ada()));
        store.commit(vec![Fact::new(change, vec![])]).await.unwrap();
    }
    let begun = export(Arc::new(store.clone()), &ada(), ExportFormat::Json, None).await.unwrap();
    let chunks: Vec<_> = begun.body.map(|chunk| chunk.unwrap().len()).collect().await;
    assert!(chunks.iter().all(|length| *length < 256 * 1024), "{chunks:?}");
    let file = exported(&store, ExportFormat::Json, None).await;
    let (second, _) = fresh().await;
    assert_eq!(imported(&second, &file).await.unwrap().imported.conversations, 1101);
    assert_eq!(exported(&second, ExportFormat::Json, None).await, file);
}
