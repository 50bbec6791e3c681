//! Imports that are cut: after any part the bot is as usable as before, and the same file completes it.

use std::{
    io::Cursor as Bytes,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::StreamExt;

use super::{Subject, apply, import, sample, samples, with_bot};
use crate::{
    archive::{self, Commit, ExportFormat, ImportReport, Straight},
    domain::{
        event::{EventBody, Topic},
        ids::{BotId, MessageId},
        message::{Conversation, Sender},
        problem::{Code, Problem},
    },
    ports::{
        archive::{Archive, ImportPart},
        history_store::{Change, Committed, Cursor, Fact, HistoryStore},
        scratch::{InMemory, Scratch},
        storage::Storage,
    },
    testkit::fakes::memory_store::MemoryStore,
};

/// Messages of the file: three parts of it.
const MESSAGES: usize = 1_200;

/// Takes so many facts; then the process is gone.
struct Cut<'s> {
    store: &'s dyn Storage,
    left: AtomicUsize,
}

#[async_trait]
impl Commit for Cut<'_> {
    async fn commit(&self, fact: Fact) -> Result<Committed, Problem> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map_err(|_| Problem::new(Code::StorageUnavailable, "cut"))?;
        Straight(self.store).commit(fact).await
    }
}

async fn exported(store: &MemoryStore, bot: &BotId) -> String {
    let export = archive::export(Arc::new(store.clone()), bot, ExportFormat::Json, None).await.unwrap();
    let chunks: Vec<_> = export.body.map(|chunk| chunk.unwrap().to_vec()).collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

/// A file of a main conversation and a fork of it.
async fn file(bot: &BotId) -> String {
    let origin = MemoryStore::new();
    let (launch, main) = samples::launch(bot);
    let (mut facts, mut parent) = (vec![launch], None);
    for n in 0..MESSAGES {
        let next = samples::message(&main, parent, Sender::System, &format!("m{n}"));
        parent = Some(next.id);
        facts.push(samples::append(&next));
    }
    let fork = Conversation { leaf_message_id: parent, ..samples::conversation(bot) };
    facts.push(Fact::new(Change::CreateConversation(fork), vec![]));
    origin.commit(facts).await.unwrap();
    exported(&origin, bot).await
}

async fn left_after(
    store: &dyn Storage,
    bot: &BotId,
    file: &str,
    parts: usize,
) -> Result<ImportReport, Problem> {
    let cut = Cut { store, left: AtomicUsize::new(parts) };
    let scratch: Arc<dyn Scratch> = Arc::new(InMemory);
    archive::import(store, &cut, Some(bot), &mut Bytes::new(file.as_bytes().to_vec()), &scratch).await
}

/// The main conversation is there, and every conversation ends with a message that is stored, or is empty to its readers.
async fn usable(store: &dyn Storage, bot: &BotId) -> Conversation {
    let main = store.roster().await.unwrap()[0].0.main_conversation_id;
    for conversation in store.conversations(bot).await.unwrap() {
        let page = store.page(conversation.id, Cursor::Newest { offset: 0 }, 10).await.unwrap().unwrap();
        assert_eq!(page.items.last().map(|m| m.id), conversation.leaf_message_id, "{conversation:?}");
        assert_eq!(conversation.main, conversation.id == main);
    }
    store.conversation(main).await.unwrap().expect("the main conversation")
}

/// Whatever was stored by then.
pub async fn an_import_that_is_left_after_any_part_hurts_nobody_and_the_same_file_completes_it<S: Subject>() {
    let (mut subject, bot, main) = with_bot::<S>().await;
    let file = file(&bot).await;
    for parts in 0..5 {
        left_after(subject.store(), &bot, &file, parts).await.unwrap_err();
        subject = subject.reopen().await;
        let now = usable(subject.store(), &bot).await;
        assert_eq!(now.id == main.id, parts < 4, "the main one changes with the last part: {parts}");
    }
    let report = left_after(subject.store(), &bot, &file, 5).await.unwrap();
    assert_eq!(report.unchanged.messages, MESSAGES as u64);
    assert_eq!(usable(subject.store(), &bot).await.message_count, MESSAGES as u64);
    let (again, _, _) = with_bot::<S>().await;
    left_after(again.store(), &bot, &file, usize::MAX).await.unwrap();
    let listed = subject.store().conversations(&bot).await.unwrap();
    assert_eq!(listed, again.store().conversations(&bot).await.unwrap(), "as one that was not cut");
}

/// It may be talked to and cleared between the parts.
pub async fn a_bot_goes_on_with_a_part_of_an_import<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let file = file(&bot).await;
    left_after(subject.store(), &bot, &file, 2).await.unwrap_err();
    for home in subject.store().conversations(&bot).await.unwrap() {
        let (turn, question, reply) = samples::turn(&home, home.leaf_message_id, "and now?");
        assert!(apply(&subject, samples::accept(&turn, &question, &reply)).await, "{home:?}");
        let (done, answer) = samples::ended(&turn, &reply, "this");
        assert!(apply(&subject, samples::finish(&done, &answer)).await);
    }
    left_after(subject.store(), &bot, &file, usize::MAX).await.unwrap();
    assert_eq!(usable(subject.store(), &bot).await.id, main.id, "one that was talked to keeps its own");
    left_after(subject.store(), &bot, &file, 2).await.unwrap_err();
    let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: None };
    assert!(apply(&subject, Fact::new(clear, vec![])).await);
    assert_eq!(usable(subject.store(), &bot).await.leaf_message_id, None);
    left_after(subject.store(), &bot, &file, usize::MAX).await.unwrap();
    usable(subject.store(), &bot).await;
}

/// An end that is not there, a message of a conversation that is not there: nothing of the part is stored.
pub async fn a_part_that_leads_to_nothing_is_not_stored<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let part = sample(&bot, true);
    let home = &part.conversations[0];
    let without_end = ImportPart { messages: part.messages[..3].to_vec(), ..part.clone() };
    assert!(!apply(&subject, import(&without_end)).await);
    let without_home = ImportPart { conversations: vec![], ..part.clone() };
    assert!(!apply(&subject, import(&without_home)).await);
    assert_eq!(subject.store().conversation(home.id).await.unwrap(), None);
    let ids: Vec<MessageId> = part.messages.iter().map(|m| m.id).collect();
    assert!(subject.store().messages_with(&ids).await.unwrap().is_empty());
    let begun = Conversation { leaf_message_id: None, ..home.clone() };
    assert!(apply(&subject, import(&ImportPart { conversations: vec![begun], ..without_end })).await);
    assert!(apply(&subject, import(&part)).await);
    usable(subject.store(), &bot).await;
}

/// With its last part, each conversation that is not as it was: in the record, so also to those who read on later.
pub async fn what_an_import_changed_is_told_once<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let file = file(&bot).await;
    let told = async || {
        let events = subject.store().events_after(0, 1_000).await.unwrap();
        let all = events.iter().filter_map(|event| match event.body().unwrap() {
            EventBody::ConversationChanged { conversation } => Some((conversation, event.seqs.clone())),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    left_after(subject.store(), &bot, &file, 3).await.unwrap_err();
    assert_eq!(told().await, [], "nothing that readers see has changed");
    for _ in 0..2 {
        left_after(subject.store(), &bot, &file, usize::MAX).await.unwrap();
        let (conversations, topics): (Vec<_>, Vec<_>) = told().await.into_iter().unzip();
        let mut stored = subject.store().conversations(&bot).await.unwrap();
        stored.sort_unstable_by_key(|c| c.id);
        assert_eq!(conversations, stored, "as it is now, in the order of the file");
        for (conversation, seqs) in conversations.iter().zip(topics) {
            let topics: Vec<_> = seqs.into_iter().map(|(topic, _)| topic).collect();
            assert_eq!(topics, [Topic::Bot(bot.clone()), Topic::Conversation(conversation.id)]);
        }
    }
    let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: None };
    assert!(apply(&subject, Fact::new(clear, vec![])).await);
    left_after(subject.store(), &bot, &file, usize::MAX).await.unwrap();
    assert_eq!(told().await.len(), 4, "both got their end back");
}
