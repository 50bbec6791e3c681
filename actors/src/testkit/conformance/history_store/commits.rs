//! What a commit does to the record.

use serde_json::Map;

use super::{super::samples::*, Subject, commit, commit_one, refuse, with_bot};
use crate::{
    domain::{
        bot::{AuditEntry, BotRecord, BotState, StoredStatus},
        event::{EventBody, Topic},
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message, MessageState, Sender},
        turn::{Turn, TurnState},
    },
    ports::{
        history_store::{Change, Committed, Cursor, Fact, HistoryStore},
        state_store::StateStore,
    },
};

/// A group is stored whole, later facts on top of earlier ones.
pub async fn a_group_is_stored_whole_and_in_order<S: Subject>() {
    let subject = S::create().await;
    let id = BotId::numbered(1);
    let (create, main) = launch(&id);
    let (t, question, reply) = turn(&main, None, "hello");
    let (done, answer) = ended(&t, &reply, "hi");
    let group = vec![create, accept(&t, &question, &reply), finish(&done, &answer)];
    let committed = commit(&subject, group).await;
    assert!(committed.iter().all(|c| c.applied));
    assert_eq!(committed.iter().map(|c| c.events.len()).collect::<Vec<_>>(), [1, 2, 2]);
    let store = subject.store();
    let snapshot = store.turn_snapshot(t.id).await.unwrap().unwrap();
    assert_eq!(snapshot.turn, done);
    assert_eq!(snapshot.reply.as_ref(), Some(&answer));
    assert_eq!(snapshot.seq, 4);
    let conversation = store.conversation(main.id).await.unwrap().unwrap();
    assert_eq!(conversation.leaf_message_id, Some(reply.id));
    assert_eq!(conversation.message_count, 2);
    assert_eq!(conversation.last_at, Some(reply.created_at));
    assert_eq!(store.message(&id, question.id).await.unwrap(), Some(question));
}

/// A group that is given again, whole or in part, changes nothing.
pub async fn a_repeated_group_changes_nothing_and_adds_no_events<S: Subject>() {
    let subject = S::create().await;
    let id = BotId::numbered(1);
    let (create, main) = launch(&id);
    let (t, question, reply) = turn(&main, None, "hello");
    let (done, answer) = ended(&t, &reply, "hi");
    let side = conversation(&id);
    let note = message(&main, Some(reply.id), Sender::System, "note");
    let audit = AuditEntry {
        at: tick(),
        actor: "local".into(),
        action: "bot.patch".into(),
        target: id.to_string(),
        reason: None,
        detail: Map::new(),
    };
    let saved = Change::SaveStatus(status(&id, BotState::Processing));
    let group = vec![
        create,
        Fact { audit: Some(audit), ..Fact::new(saved, vec![life(&id)]) },
        Fact::new(Change::CreateConversation(side.clone()), vec![life(&id)]),
        accept(&t, &question, &reply),
        Fact::new(Change::None, vec![progress(&t)]),
        finish(&done, &answer),
        append(&note),
    ];
    assert!(commit(&subject, group.clone()).await.iter().all(|c| c.applied));
    let events = subject.store().events_after(0, 100).await.unwrap();
    let roster = subject.store().roster().await.unwrap();

    let part = group.get(3..).unwrap_or_default().to_vec();
    for again in [group.clone(), part.clone()] {
        for committed in commit(&subject, again).await {
            assert!(!committed.applied && committed.events.is_empty());
        }
    }
    let subject = subject.reopen().await;
    for committed in commit(&subject, group.clone()).await {
        assert!(!committed.applied && committed.events.is_empty(), "also after reopening");
    }
    // Ids alone are enough: the same changes under other events are not applied either.
    for mut fact in group {
        if matches!(fact.change, Change::None | Change::SaveStatus(_)) {
            continue;
        }
        fact.events = vec![life(&id)];
        refuse(&subject, fact).await;
    }
    assert_eq!(subject.store().events_after(0, 100).await.unwrap(), events);
    assert_eq!(subject.store().roster().await.unwrap(), roster);
    assert_eq!(subject.store().conversation(main.id).await.unwrap().unwrap().message_count, 3);
}

/// Creating a bot under an id in use does nothing.
pub async fn a_bot_id_in_use_is_not_taken_over<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (fact, other) = launch(&id);
    refuse(&subject, fact).await;
    assert_eq!(subject.store().conversation(other.id).await.unwrap(), None);
    assert_eq!(subject.store().conversations(&id).await.unwrap(), [main]);
}

/// Deleting a bot frees its id; what was said stays readable, and is not the new bot's.
pub async fn a_deleted_bot_keeps_its_history_and_frees_its_id<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let said = message(&main, None, Sender::User, "remember");
    commit_one(&subject, append(&said)).await;
    let before = subject.store().head(&Topic::Bot(id.clone())).await.unwrap();
    let delete = Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: false }, vec![life(&id)]);
    commit_one(&subject, delete).await;
    let store = subject.store();
    assert!(store.roster().await.unwrap().is_empty());
    assert!(store.conversations(&id).await.unwrap().is_empty());
    assert_eq!(store.message(&id, said.id).await.unwrap(), Some(said.clone()));
    refuse(&subject, append(&message(&main, Some(said.id), Sender::User, "too late"))).await;
    let again = Change::DeleteBot { bot_id: id.clone(), purge: false };
    refuse(&subject, Fact::new(again, vec![life(&id)])).await;

    let (fact, fresh) = launch(&id);
    let events = commit_one(&subject, fact).await.events;
    let number = events.iter().flat_map(|e| &e.seqs).find(|(t, _)| *t == Topic::Bot(id.clone()));
    assert_eq!(number.map(|n| n.1), Some(before + 2), "the topic of the id goes on");
    assert_eq!(subject.store().conversations(&id).await.unwrap(), [fresh]);
    assert_eq!(subject.store().message(&id, said.id).await.unwrap(), Some(said));
}

/// Turns that were open when their bot was deleted have ended; the next bot of the id has none.
pub async fn a_deleted_bot_leaves_no_open_turn_to_its_successor<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let point = Change::Checkpoint { reply_id: reply.id, content: "so far".into(), thinking: None };
    commit_one(&subject, Fact::new(point, vec![])).await;
    let gone = life(&id);
    let at = gone.time;
    let delete = Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: false }, vec![gone]);
    commit(&subject, vec![delete, launch(&id).0]).await;
    let store = subject.store();
    assert!(store.open_turns(None).await.unwrap().is_empty());
    assert!(store.open_turns(Some(&id)).await.unwrap().is_empty());
    let left = store.turn_snapshot(t.id).await.unwrap().unwrap();
    let interrupted = Turn { state: TurnState::Interrupted, queue: None, ended_at: Some(at), ..t.clone() };
    assert_eq!((left.turn, left.seq), (interrupted, 2));
    let left = left.reply.unwrap();
    assert_eq!((&*left.content, left.state), ("so far", MessageState::Partial));
    let (done, answer) = ended(&t, &reply, "late");
    refuse(&subject, finish(&done, &answer)).await;
}

/// Purging takes conversations, messages and turns along, of every bot that had the id.
pub async fn a_purged_bot_leaves_nothing_behind<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let old = message(&main, None, Sender::User, "old");
    commit_one(&subject, append(&old)).await;
    commit_one(&subject, Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: false }, vec![])).await;
    let (fact, second) = launch(&id);
    commit_one(&subject, fact).await;
    let (t, question, reply) = turn(&second, None, "new");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let purge = Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: true }, vec![life(&id)]);
    assert_eq!(commit_one(&subject, purge).await.deleted, 3);
    let store = subject.store();
    for gone in [old.id, question.id, reply.id] {
        assert_eq!(store.message(&id, gone).await.unwrap(), None);
    }
    assert_eq!(store.conversation(second.id).await.unwrap(), None);
    assert!(store.turn_snapshot(t.id).await.unwrap().is_none());
    assert!(store.open_turns(None).await.unwrap().is_empty());
    let (done, answer) = ended(&t, &reply, "never");
    refuse(&subject, finish(&done, &answer)).await;
}

/// The first end of a turn wins.
pub async fn a_turn_ends_once<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let running =
        Turn { state: TurnState::Generating, server: Some("local".into()), queue: None, ..t.clone() };
    commit_one(&subject, Fact::new(Change::StartTurn(running.clone()), vec![progress(&t)])).await;
    assert_eq!(subject.store().turn_snapshot(t.id).await.unwrap().unwrap().turn, running);
    let (done, answer) = ended(&running, &reply, "first");
    let end = finish(&done, &answer);
    let Change::FinishTurn { status, .. } = end.change.clone() else { unreachable!() };
    let committed = commit_one(&subject, end).await;
    assert_eq!(committed.events.last().and_then(|e| e.ends), Some(t.id));

    let (late, other) = ended(&running, &reply, "second");
    refuse(&subject, finish(&Turn { state: TurnState::Failed, ..late }, &other)).await;
    refuse(&subject, Fact::new(Change::StartTurn(running), vec![progress(&t)])).await;
    let snapshot = subject.store().turn_snapshot(t.id).await.unwrap().unwrap();
    assert_eq!((snapshot.turn, snapshot.reply), (done, Some(answer)));
    assert_eq!(snapshot.seq, 5, "2 at the start, 1 between, 2 at the end");
    assert_eq!(subject.store().roster().await.unwrap()[0].1, status);
    assert_eq!(subject.store().message(&id, question.id).await.unwrap(), Some(question));
}

/// A status that comes late does not replace a newer one; the end of a turn that carries it counts all the same.
pub async fn a_status_never_goes_back<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let (done, answer) = ended(&t, &reply, "hi");
    let end = finish(&done, &answer);
    let early = status(&id, BotState::Processing);
    let newest = status(&id, BotState::Quarantined);
    let save = |status: &StoredStatus| Fact::new(Change::SaveStatus(status.clone()), vec![life(&id)]);
    commit_one(&subject, save(&newest)).await;
    refuse(&subject, save(&early)).await;
    commit_one(&subject, end).await;
    assert_eq!(subject.store().turn_snapshot(t.id).await.unwrap().unwrap().turn, done);
    assert_eq!(subject.store().roster().await.unwrap()[0].1, newest);
    let same_moment = StoredStatus { state: BotState::Terminated, ..newest };
    commit_one(&subject, save(&same_moment)).await;
    assert_eq!(subject.store().roster().await.unwrap()[0].1, same_moment);
}

/// A checkpoint writes only while the reply is pending.
pub async fn a_checkpoint_stops_with_its_turn<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let point = |content: &str| Change::Checkpoint {
        reply_id: reply.id,
        content: content.into(),
        thinking: Some("hm".into()),
    };
    commit_one(&subject, Fact::new(point("par"), vec![])).await;
    let (_, _, stored) = subject.store().open_turns(Some(&id)).await.unwrap().remove(0);
    assert_eq!((&*stored.content, stored.thinking.as_deref()), ("par", Some("hm")));
    let (done, answer) = ended(&t, &reply, "partial and more");
    commit_one(&subject, finish(&done, &answer)).await;
    refuse(&subject, Fact::new(point("late"), vec![])).await;
    assert_eq!(subject.store().message(&id, reply.id).await.unwrap(), Some(answer));
}

/// Open turns are those without an end, of one bot or of all.
pub async fn open_turns_come_with_their_messages_oldest_first<S: Subject>() {
    let (subject, first, main) = with_bot::<S>().await;
    let second = BotId::numbered(2);
    let (fact, other) = launch(&second);
    commit_one(&subject, fact).await;
    let turns: Vec<_> = [&main, &other, &main].map(|home| turn(home, None, "?")).into();
    // Accepted in another order than they were created in.
    for (t, question, reply) in turns.iter().rev() {
        commit_one(&subject, accept(t, question, reply)).await;
    }
    let ids = |open: Vec<(Turn, Message, Message)>| -> Vec<(TurnId, MessageId, MessageId)> {
        open.into_iter().map(|(t, q, r)| (t.id, q.id, r.id)).collect()
    };
    let all: Vec<_> = turns.iter().map(|(t, q, r)| (t.id, q.id, r.id)).collect();
    assert_eq!(ids(subject.store().open_turns(None).await.unwrap()), all);
    assert_eq!(ids(subject.store().open_turns(Some(&first)).await.unwrap()), [all[0], all[2]]);
    let (t, _, reply) = &turns[0];
    let (done, answer) = ended(t, reply, "!");
    commit_one(&subject, finish(&done, &answer)).await;
    assert_eq!(ids(subject.store().open_turns(None).await.unwrap()), [all[1], all[2]]);
    assert!(subject.store().open_turns(Some(&BotId::numbered(3))).await.unwrap().is_empty());
}

/// Clearing deletes what has ended; a running answer keeps its messages and its place.
pub async fn clearing_leaves_running_turns_alone<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t1, q1, r1) = turn(&main, None, "one");
    let (t2, q2, r2) = turn(&main, Some(r1.id), "two");
    commit_one(&subject, accept(&t1, &q1, &r1)).await;
    let (done, answer) = ended(&t1, &r1, "1");
    commit_one(&subject, finish(&done, &answer)).await;
    commit_one(&subject, accept(&t2, &q2, &r2)).await;
    let clear = |only: Option<ConversationId>| {
        Fact::new(Change::ClearHistory { bot_id: id.clone(), conversation_id: only }, vec![])
    };
    assert_eq!(commit_one(&subject, clear(Some(main.id))).await.deleted, 2);
    let store = subject.store();
    assert!(store.turn_snapshot(t1.id).await.unwrap().is_none());
    let page = store.page(main.id, Cursor::Newest { offset: 0 }, 10).await.unwrap().unwrap();
    assert_eq!(page.items.iter().map(|m| m.id).collect::<Vec<_>>(), [q2.id, r2.id]);
    assert_eq!(page.items[0].parent_id, None, "it is a first message now");
    let conversation = store.conversation(main.id).await.unwrap().unwrap();
    assert_eq!((conversation.message_count, conversation.leaf_message_id), (2, Some(r2.id)));

    let (done, answer) = ended(&t2, &r2, "2");
    commit_one(&subject, finish(&done, &answer)).await;
    assert_eq!(commit_one(&subject, clear(None)).await.deleted, 2);
    assert_eq!(commit_one(&subject, clear(None)).await.deleted, 0);
    let conversation = subject.store().conversation(main.id).await.unwrap().unwrap();
    assert_eq!((conversation.message_count, conversation.leaf_message_id), (0, None));
    assert_eq!(conversation.last_at, None);
    refuse(&subject, clear(Some(ConversationId::new()))).await;
}

/// What was cleared is told in the transaction that clears it, once per conversation.
pub async fn clearing_tells_each_conversation_what_it_lost<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let said = message(&side, None, Sender::User, "one");
    commit_one(&subject, append(&said)).await;
    commit_one(&subject, append(&message(&side, Some(said.id), Sender::User, "two"))).await;
    let clear = |only: Option<ConversationId>| {
        Fact::new(Change::ClearHistory { bot_id: id.clone(), conversation_id: only }, vec![])
    };
    let expected = |home: &Conversation, deleted| EventBody::HistoryCleared {
        bot_id: id.clone(),
        conversation_id: Some(home.id),
        deleted,
        removed: false,
    };
    let bodies = |done: &Committed| done.events.iter().map(|e| e.body().unwrap()).collect::<Vec<_>>();
    let done = commit_one(&subject, clear(None)).await;
    assert_eq!(bodies(&done), [expected(&main, 0), expected(&side, 2)], "in the order of their ids");
    let topics = [(Topic::Bot(id.clone()), 5), (Topic::Conversation(side.id), 3)];
    assert_eq!(done.events[1].seqs, topics, "launch, two messages, main, side");
    let again = commit_one(&subject, clear(Some(side.id))).await;
    assert_eq!(bodies(&again), [expected(&side, 0)], "what is repeated is told again");
    let last = again.events[0].position;
    assert_eq!(subject.store().events_after(last - 1, 9).await.unwrap(), again.events);
}

/// A conversation is not deleted under an open turn; without one it is gone with its turns.
pub async fn a_conversation_is_deleted_with_its_turns_once_none_is_open<S: Subject>() {
    let (subject, id, _) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let (t, question, reply) = turn(&side, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let delete = || Fact::new(Change::DeleteConversation(side.id), vec![life(&id)]);
    refuse(&subject, delete()).await;
    assert_eq!(subject.store().conversation(side.id).await.unwrap().unwrap().message_count, 2);
    let (done, answer) = ended(&t, &reply, "in time");
    commit_one(&subject, finish(&done, &answer)).await;
    assert_eq!(commit_one(&subject, delete()).await.deleted, 2);
    assert_eq!(subject.store().conversation(side.id).await.unwrap(), None);
    assert!(subject.store().conversation_snapshot(side.id, 5).await.unwrap().is_none());
    assert!(subject.store().turn_snapshot(t.id).await.unwrap().is_none());
    refuse(&subject, finish(&done, &answer)).await;
    refuse(&subject, delete()).await;
}

/// The leaf of a conversation is that of its open turn; title and archiving change at any time.
pub async fn the_leaf_stays_while_a_turn_is_open<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let stored = subject.store().conversation(main.id).await.unwrap().unwrap();
    let update = |c: &Conversation| Fact::new(Change::UpdateConversation(c.clone()), vec![]);
    let titled = Conversation { title: Some("t".into()), archived: true, ..stored };
    commit_one(&subject, update(&titled)).await;
    let back = Conversation { leaf_message_id: Some(question.id), title: None, ..titled.clone() };
    refuse(&subject, update(&back)).await;
    refuse(&subject, update(&Conversation { leaf_message_id: None, ..titled.clone() })).await;
    assert_eq!(subject.store().conversation(main.id).await.unwrap(), Some(titled));
    let (done, answer) = ended(&t, &reply, "hi");
    commit_one(&subject, finish(&done, &answer)).await;
    commit_one(&subject, update(&back)).await;
    assert_eq!(subject.store().conversation(main.id).await.unwrap(), Some(back));
}

/// Changes of what is not there do not apply.
pub async fn what_has_no_target_does_not_apply<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let stranger = BotId::numbered(9);
    let (other, home, their_status) = bot(&stranger);
    let elsewhere = Conversation { bot_id: id.clone(), ..conversation(&id) };
    let (t, question, reply) = turn(&elsewhere, None, "hello");
    let (done, answer) = ended(&t, &reply, "hi");
    for change in [
        Change::UpdateBot(other.clone()),
        Change::SaveStatus(their_status),
        Change::DeleteBot { bot_id: stranger.clone(), purge: true },
        Change::CreateConversation(home.clone()),
        Change::UpdateConversation(home),
        Change::AppendMessages { messages: vec![], idempotency: None },
        Change::StartTurn(t.clone()),
        Change::Checkpoint { reply_id: reply.id, content: "x".into(), thinking: None },
        Change::ClearHistory { bot_id: stranger, conversation_id: None },
    ] {
        refuse(&subject, Fact::new(change, vec![life(&id)])).await;
    }
    refuse(&subject, accept(&t, &question, &reply)).await;
    refuse(&subject, finish(&done, &answer)).await;
    refuse(&subject, append(&question)).await;
    assert!(subject.store().turn_snapshot(t.id).await.unwrap().is_none());

    let renamed = BotRecord { id: id.clone(), main_conversation_id: main.id, config_version: 2, ..other };
    commit_one(&subject, Fact::new(Change::UpdateBot(renamed.clone()), vec![])).await;
    let stored = subject.store().roster().await.unwrap().remove(0).0;
    assert_eq!((stored.config_version, stored.name), (2, renamed.name));
}

/// Texts come back byte for byte.
pub async fn exact_texts_survive<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let long = "wide ✓ ".repeat(150_000);
    for text in ["", "a\0b", "  spaces\r\n\t", "quote ' \" ; --", "👩‍👩‍👧 \u{202e}", &long] {
        let mut said = message(&main, None, Sender::Tool, text);
        said.thinking = Some(text.into());
        said.images = Some(vec!["aGk=".into()]);
        said.tool_calls = Some(serde_json::json!([{"function": {"name": "f", "arguments": {"x": text}}}]));
        said.metadata.insert("k".into(), text.into());
        said.tokens = u32::MAX;
        commit_one(&subject, Fact { events: vec![], ..append(&said) }).await;
        let mut stored = subject.store().message(&id, said.id).await.unwrap().unwrap();
        stored.siblings = said.siblings;
        assert!(stored == said, "{} bytes of {:?}…", text.len(), text.chars().take(10).collect::<String>());
    }
}

/// Overrides come back as they were accepted, and none where there were none.
pub async fn a_turn_keeps_what_it_was_asked_with<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let (plain, question, reply) = turn(&main, None, "?");
    commit_one(&subject, accept(&plain, &question, &reply)).await;
    let (special, question, reply) = turn(&main, None, "??");
    let asked = serde_json::json!({"options": {"seed": 7}, "think": "low"});
    let mut fact = accept(&special, &question, &reply);
    if let Change::AcceptTurn { overrides, .. } = &mut fact.change {
        *overrides = Some(asked.clone());
    }
    commit_one(&subject, fact).await;
    assert_eq!(subject.store().turn_overrides(plain.id).await.unwrap(), None);
    assert_eq!(subject.store().turn_overrides(special.id).await.unwrap(), Some(asked));
    assert_eq!(subject.store().turn_overrides(TurnId::new()).await.unwrap(), None);
}

/// A message whose parent was never stored would hang in the air.
pub async fn a_turn_behind_a_message_that_is_not_there_is_not_stored<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, Some(MessageId::new()), "?");
    refuse(&subject, accept(&t, &question, &reply)).await;
    assert!(subject.store().turn_snapshot(t.id).await.unwrap().is_none());
    let loose = message(&main, Some(MessageId::new()), Sender::User, "/help");
    refuse(&subject, append(&loose)).await;
    assert_eq!(subject.store().message(&main.bot_id, loose.id).await.unwrap(), None);
}
