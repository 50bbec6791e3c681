//! The suites of the ports on a real server, and what only a server can do: be set up wrongly, go away, lose an answer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod poison;
mod proxy;
mod retention;
mod search;
mod server;

use std::{task::Poll, time::Duration};

use deia_actors::{
    archive_suite,
    domain::{
        event::Topic,
        message::{Conversation, Message, Sender},
    },
    history_store_suite,
    ports::{
        history_store::{Change, Committed, Cursor, Fact, HistoryStore, StoreError},
        state_store::StateStore,
    },
    retention_store_suite, search_suite, state_store_suite,
    testkit::conformance::{Subject, history_store::Grove, samples},
};
use sqlx::Connection;

use self::{
    proxy::{At, Cut, Proxy},
    server::{Database, OnServer, launch, soon},
};
use super::{PostgresConfig, PostgresStore};

history_store_suite!(OnServer);
retention_store_suite!(OnServer);
state_store_suite!(OnServer);
archive_suite!(OnServer);
search_suite!(OnServer);

fn said(home: &Conversation, text: &str) -> (Message, Fact) {
    let message = samples::message(home, None, Sender::User, text);
    let fact = samples::append(&message);
    (message, fact)
}

async fn refused_open(config: &PostgresConfig) -> StoreError {
    soon(PostgresStore::open(config)).await.err().expect("the database is refused")
}

/// Ends the sessions of every store on this database, as a restart of the server does.
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[tokio::test]
async fn a_server_that_may_lose_commits_is_refused_with_what_to_set() {
    let database = Database::create().await;
    let name = &database.name;
    for (setting, refused) in [("off", true), ("local", false), ("remote_write", false)] {
        let mut admin = database.admin().await;
        let sql = format!("ALTER DATABASE {name} SET synchronous_commit = {setting}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        if refused {
            let error = refused_open(&database.config()).await;
            let StoreError::Unavailable(why) = &error else { panic!("{error}") };
            assert!(why.contains("synchronous_commit") && why.contains("ALTER ROLE"), "{why}");
        } else {
            PostgresStore::open(&database.config()).await.unwrap().close().await;
        }
    }
}

#[tokio::test]
async fn a_setting_that_turns_unsafe_later_is_found_by_the_next_connection() {
    let (server, _, main) = OnServer::with_bot().await;
    server.database.run("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$").await;
    server.database.run(END_SESSIONS).await;
    let error = server.store.commit(vec![said(&main, "hello").1]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("synchronous_commit")), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let database = Database::create().await;
    PostgresStore::open(&database.config()).await.unwrap().close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', true, '\\x00', 1)";
    database.run(newer).await;
    let error = refused_open(&database.config()).await;
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("newer version")), "{error}");
    let states = PostgresStore::migration_status(&database.config()).await.unwrap();
    assert!(states.iter().all(|m| m.applied), "{states:?}");
    assert_eq!(states.last().map(|m| (m.version, &*m.name)), Some((9999, "later")));
}

#[tokio::test]
async fn of_two_migrations_at_once_one_waits() {
    let database = Database::create().await;
    let config = database.config();
    let before = PostgresStore::migration_status(&config).await.unwrap();
    assert!(before.iter().all(|m| !m.applied) && before[0].name == "foundations", "{before:?}");
    let (one, two) =
        soon(async { tokio::join!(PostgresStore::migrate_up(&config), PostgresStore::migrate_up(&config)) })
            .await;
    for states in [one, two] {
        assert!(states.unwrap().iter().all(|m| m.applied));
    }
}

#[tokio::test]
async fn a_database_in_use_is_not_migrated() {
    let server = OnServer::with_bot().await.0;
    let config = server.database.config();
    PostgresStore::migrate_up(&config).await.expect("there is nothing to do");
    // As if this were a newer version.
    server.database.run("DELETE FROM _sqlx_migrations").await;
    let error = soon(PostgresStore::migrate_up(&config)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("stop that first")), "{error}");
}

#[tokio::test]
async fn a_second_process_is_kept_out_until_the_first_is_gone() {
    let server = OnServer::with_bot().await.0;
    let config = server.database.config();
    let error = refused_open(&config).await;
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("another process")), "{error}");
    // Not closed: the server notices by itself.
    let OnServer { store, database: _database } = server;
    drop(store);
    soon(PostgresStore::open(&config)).await.unwrap();
}

#[tokio::test]
async fn a_process_that_lost_its_place_commits_nothing_until_it_has_it_again() {
    let (server, id, main) = OnServer::with_bot().await;
    let mut other = server.database.admin().await;
    // In line for the lock; the end of the session that holds it passes it on.
    let (taken, ()) = tokio::join!(
        sqlx::query("SELECT pg_advisory_lock(1684367713, 1)").execute(&mut other),
        async {
            let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            let mut admin = server.database.admin().await;
            while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut admin).await.unwrap() == 0 {
                tokio::task::yield_now().await;
            }
            let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            sqlx::query(end).execute(&mut admin).await.unwrap();
        }
    );
    taken.unwrap();
    let (message, fact) = said(&main, "hello");
    let error = server.store.commit(vec![fact.clone()]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("another process")), "{error}");
    assert_eq!(server.store.message(&id, message.id).await.unwrap(), None);
    other.close().await.unwrap();
    assert!(server.store.commit(vec![fact]).await.unwrap()[0].applied);
}

#[tokio::test]
async fn after_the_server_ended_every_session_commits_and_reads_go_on() {
    let (server, id, main) = OnServer::with_bot().await;
    assert_eq!(server.store.roster().await.unwrap().len(), 1);
    let mut parent = None;
    for n in 0..3 {
        server.database.run(END_SESSIONS).await;
        let next = samples::message(&main, parent, Sender::User, "hello");
        parent = Some(next.id);
        let done = server.store.commit(vec![samples::append(&next)]).await.unwrap();
        assert_eq!(done[0].events[0].seqs[1], (Topic::Conversation(main.id), n + 1));
        assert!(server.store.message(&id, next.id).await.unwrap().is_some());
        server.database.run(END_SESSIONS).await;
        server.store.probe().await.unwrap();
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_unavailable_and_then_it_works_again() {
    let database = Database::create().await;
    // Short for the test, far longer than a statement takes that nothing holds up, and shorter than a wait for a lock may be.
    let config = PostgresConfig { statement_timeout: Duration::from_millis(1500), ..database.config() };
    let store = PostgresStore::open(&config).await.unwrap();
    let (id, main) = launch(&store).await;
    let mut other = database.admin().await;
    let mut lock = other.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE outbox_events IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let (message, fact) = said(&main, "hello");
    let error = soon(store.commit(vec![fact.clone()])).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("statement timeout")), "{error}");
    lock.rollback().await.unwrap();
    assert_eq!(store.message(&id, message.id).await.unwrap(), None);
    let done = store.commit(vec![fact]).await.unwrap();
    assert_eq!(done[0].events[0].seqs[1].1, 1, "no number was lost");
}

/// Polls as long as there is progress, but gives up where the future has to wait for the `waits`th time.
async fn abandon(work: impl Future, waits: usize) {
    let mut work = std::pin::pin!(work);
    let mut waited = 0;
    std::future::poll_fn(|context| {
        let ready = work.as_mut().poll(context).is_ready();
        waited += 1;
        if ready || waited == waits { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn a_read_that_is_given_up_leaves_no_old_view_of_the_data_behind() {
    let database = Database::create().await;
    let config = PostgresConfig { pool_max: 1, ..database.config() };
    let store = PostgresStore::open(&config).await.unwrap();
    let (id, main) = launch(&store).await;
    for waits in 1..8 {
        abandon(store.page(main.id, Cursor::Newest { offset: 0 }, 10), waits).await;
        let (message, fact) = said(&main, "hello");
        assert_eq!(store.message(&id, message.id).await.unwrap(), None);
        store.commit(vec![fact]).await.unwrap();
        let read = store.message(&id, message.id).await.unwrap();
        assert!(read.is_some(), "given up at wait {waits}: what was just committed is not seen");
    }
}

#[tokio::test]
async fn numbers_follow_what_another_program_wrote() {
    let (server, _, main) = OnServer::with_bot().await;
    server.store.commit(vec![said(&main, "one").1]).await.unwrap();
    let mut other = server.database.admin().await;
    let sql = "INSERT INTO outbox_events (id, event, created_at, conversation_id, conversation_seq, data) \
               VALUES (gen_random_uuid(), 'x', 0, $1, 2, '{}')";
    sqlx::query(sql).bind(main.id.0).execute(&mut other).await.unwrap();
    let committed = server.store.commit(vec![said(&main, "two").1]).await.unwrap();
    assert_eq!(committed[0].events[0].seqs[1].1, 3);
}

#[tokio::test]
async fn a_group_that_breaks_a_rule_is_refused_for_its_content_and_leaves_nothing() {
    let (server, id, main) = OnServer::with_bot().await;
    server.database.run("ALTER TABLE chat_messages ADD CONSTRAINT decent CHECK (content <> 'poison')").await;
    let ((good, first), (_, second)) = (said(&main, "good"), said(&main, "poison"));
    let side = Fact::new(Change::CreateConversation(samples::conversation(&id)), vec![]);
    for group in [vec![first.clone(), second.clone()], vec![first.clone(), side, second]] {
        let error = server.store.commit(group).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(why) if why.contains("decent")), "{error}");
        assert_eq!(server.store.message(&id, good.id).await.unwrap(), None);
        assert_eq!(server.store.conversations(&id).await.unwrap().len(), 1);
    }
    let done = server.store.commit(vec![first]).await.unwrap();
    assert_eq!(done[0].events[0].seqs[1].1, 1, "no number was lost");
}

#[tokio::test]
async fn what_stands_before_a_repeated_fact_is_known_to_those_behind_it() {
    let (server, id, main) = OnServer::with_bot().await;
    let side = Change::CreateConversation(samples::conversation(&id));
    let repeated = Fact::new(side, vec![samples::life(&id)]);
    server.store.commit(vec![repeated.clone()]).await.unwrap();
    let (question, first) = said(&main, "question");
    let answer = samples::message(&main, Some(question.id), Sender::Bot, "answer");
    let done = server.store.commit(vec![first, repeated, samples::append(&answer)]).await.unwrap();
    assert_eq!(done.iter().map(|c| c.applied).collect::<Vec<_>>(), [true, false, true]);
    let page = server.store.page(main.id, Cursor::Newest { offset: 0 }, 10).await.unwrap().unwrap();
    assert_eq!(page.items.iter().map(|m| m.id).collect::<Vec<_>>(), [question.id, answer.id]);
}

#[tokio::test]
async fn what_comes_behind_a_message_that_is_stored_already_is_put_behind_it() {
    let (server, id, main) = OnServer::with_bot().await;
    let (question, first) = said(&main, "question");
    server.store.commit(vec![first.clone()]).await.unwrap();
    // What the writer remembers of messages goes with it.
    server
        .store
        .commit(vec![Fact::new(Change::CreateConversation(samples::conversation(&id)), vec![])])
        .await
        .unwrap();
    let answer = samples::message(&main, Some(question.id), Sender::Bot, "answer");
    let done = server.store.commit(vec![first, samples::append(&answer)]).await.unwrap();
    assert_eq!(done.iter().map(|c| c.applied).collect::<Vec<_>>(), [false, true]);
    let mut admin = server.database.admin().await;
    let place: (uuid::Uuid, i64) = sqlx::query_as("SELECT branch, depth FROM chat_messages WHERE id = $1")
        .bind(answer.id.0)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert_eq!(place, (question.id.0, 1), "in the branch of its question");
    admin.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let server = OnServer::with_bot().await.0;
    server.store.close().await;
    server.store.close().await;
    assert!(matches!(server.store.commit(vec![]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(server.store.roster().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_in_time() {
    let database = Database::create().await;
    let config = PostgresConfig { acquire_timeout: Duration::from_millis(200), ..database.config_through(1) };
    let error = refused_open(&config).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    for (wrong, told) in [
        ("sslmode=nonsense", "nonsense"),
        ("sslmod=verify-full", "sslmod"),
        ("sslmode=verify-full&sslrootcert=/no/such/file", "/no/such/file"),
    ] {
        let config = PostgresConfig::new(format!("postgres://localhost/x?{wrong}"));
        let error = refused_open(&config).await;
        let StoreError::Unavailable(why) = &error else { panic!("{error}") };
        assert!(why.contains("storage.url") && why.contains(told), "{why}");
    }
}

#[tokio::test]
async fn an_encrypted_or_verified_connection_is_never_replaced_by_a_plain_one() {
    let database = Database::create().await;
    let mut admin = database.admin().await;
    let tls: String =
        sqlx::query_scalar("SELECT current_setting('ssl')").fetch_one(&mut admin).await.unwrap();
    let with = |mode: &str| {
        let config = database.config();
        let (plain, _) = config.url.split_once('?').unwrap();
        PostgresConfig { url: format!("{plain}?sslmode={mode}"), ..config }
    };
    assert_eq!(PostgresStore::migration_status(&with("require")).await.is_ok(), tls == "on");
    // Nobody in the world signed the certificate of a server that is thrown away.
    for mode in ["verify-ca", "verify-full"] {
        let error = refused_open(&with(mode)).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}

/// What a group was answered with whose connection was cut, and the store behind the proxy.
async fn cut(how: Cut, at: At, group: impl FnOnce(&Conversation) -> Vec<Fact>) -> (Outcome, OnServer) {
    let database = Database::create().await;
    let mut admin = database.admin().await;
    let port: i32 = sqlx::query_scalar("SELECT inet_server_port()").fetch_one(&mut admin).await.unwrap();
    let proxy = Proxy::start(u16::try_from(port).unwrap()).await;
    let store = PostgresStore::open(&database.config_through(proxy.port)).await.unwrap();
    let (_, main) = launch(&store).await;
    let facts = group(&main);
    proxy.cut(how, at);
    let answer = soon(store.commit(facts.clone())).await;
    assert!(proxy.has_cut(), "the connection was cut");
    // Closed through the proxy; what follows goes to the server itself.
    store.close().await;
    let store = PostgresStore::open(&database.config()).await.unwrap();
    (Outcome { answer, facts, main }, OnServer { store, database })
}

struct Outcome {
    answer: Result<Vec<Committed>, StoreError>,
    facts: Vec<Fact>,
    main: Conversation,
}

impl Outcome {
    /// The answer is true, and the group can be given again.
    async fn check(self, server: OnServer, expected: Option<bool>) {
        let stored = server.store.events_after(0, 100).await.unwrap().split_off(1);
        match &self.answer {
            Ok(committed) => {
                let told: Vec<_> = committed.iter().flat_map(|c| c.events.clone()).collect();
                assert_eq!(told, stored, "what was answered is what is stored");
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
                assert!(stored.is_empty(), "nothing is stored: {stored:?}");
            }
        }
        assert!(expected.is_none_or(|ok| ok == self.answer.is_ok()), "{:?}", self.answer);
        let new = self.answer.is_err();
        let again = server.store.commit(self.facts).await.unwrap();
        assert!(again.iter().all(|c| c.applied == new), "stored once: {again:?}");
        let page = server.store.page(self.main.id, Cursor::Newest { offset: 0 }, 10).await.unwrap().unwrap();
        assert_eq!(page.items.len(), 1);
    }
}

/// One statement, whose end is its commit; told by its text.
const STATEMENT: At = (b'B', "cut here");
/// The end of an explicit transaction.
const COMMIT: At = (b'Q', "COMMIT");

fn hot(main: &Conversation) -> Vec<Fact> {
    vec![said(main, "cut here").1]
}

fn mixed(main: &Conversation) -> Vec<Fact> {
    let side = samples::conversation(&main.bot_id);
    let told = vec![samples::life(&main.bot_id)];
    vec![said(main, "said").1, Fact::new(Change::CreateConversation(side), told)]
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_answered_all_the_same() {
    for (at, group) in [(STATEMENT, hot as fn(&Conversation) -> Vec<Fact>), (COMMIT, mixed)] {
        let (outcome, server) = cut(Cut::After, at, group).await;
        outcome.check(server, Some(true)).await;
    }
}

#[tokio::test]
async fn a_commit_that_never_reached_the_server_is_an_error_and_nothing_is_stored() {
    for (at, group) in [(STATEMENT, hot as fn(&Conversation) -> Vec<Fact>), (COMMIT, mixed)] {
        let (outcome, server) = cut(Cut::Before, at, group).await;
        outcome.check(server, Some(false)).await;
    }
}

#[tokio::test]
async fn a_commit_that_is_cut_in_the_middle_is_answered_truly() {
    for _ in 0..5 {
        for (at, group) in [(STATEMENT, hot as fn(&Conversation) -> Vec<Fact>), (COMMIT, mixed)] {
            let (outcome, server) = cut(Cut::During, at, group).await;
            outcome.check(server, None).await;
        }
    }
}

/// Without events only the server's log of transactions knows.
#[tokio::test]
async fn a_lost_answer_to_a_group_without_events_is_found_out_too() {
    let silent = |main: &Conversation| {
        vec![Fact::new(Change::CreateConversation(samples::conversation(&main.bot_id)), vec![])]
    };
    for (how, stored) in [(Cut::After, true), (Cut::Before, false)] {
        let (outcome, server) = cut(how, COMMIT, silent).await;
        assert_eq!(outcome.answer.is_ok(), stored, "{:?}", outcome.answer);
        let listed = server.store.conversations(&outcome.main.bot_id).await.unwrap();
        assert_eq!(listed.len(), if stored { 2 } else { 1 });
    }
}

#[tokio::test]
async fn a_group_is_tried_again_where_the_connection_was_lost_before_its_end() {
    let (outcome, server) = cut(Cut::After, (b'Q', "BEGIN"), mixed).await;
    outcome.check(server, Some(true)).await;
}

/// What takes the schema back to that of migration 4.
const BEFORE_BRANCHES: &str = "DROP INDEX chat_messages_forks; DROP INDEX chat_messages_begins; \
     DROP INDEX conversations_held; DROP INDEX chat_messages_marks; DROP INDEX chat_messages_tops; \
     ALTER TABLE chat_messages DROP COLUMN branch; ALTER TABLE chat_messages DROP COLUMN depth; \
     DELETE FROM _sqlx_migrations WHERE version IN (5, 6)";

#[tokio::test]
async fn a_database_without_branches_gets_them_and_has_the_same_pages() {
    let server = OnServer::create().await;
    let mut grove = Grove::plant(&server.store, 7).await;
    grove.grow(&server.store, 40).await;
    server.store.close().await;
    server.database.run(BEFORE_BRANCHES).await;
    let server = server.reopen().await;
    grove.check(&server.store).await;
    grove.grow(&server.store, 20).await;
}
