//! That deleting costs what is deleted, that a lost answer to it forgets nobody, and that numbers go with their topics.

use deia_actors::{
    domain::{ids::MessageId, time::Timestamp},
    ports::retention::{Prune, RetentionStore},
};

use super::*;

/// Everything is old before it.
fn later() -> Timestamp {
    Timestamp(Timestamp::now().0 + 1_000_000)
}

/// Rows of messages that were looked at in this database so far, by index or not, and how often an index was asked.
async fn looked_at(database: &Database) -> i64 {
    let mut admin = database.admin().await;
    let sql = "SELECT CAST(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) + coalesce(idx_scan, 0) AS bigint) \
               FROM pg_stat_user_tables WHERE relname = 'chat_messages'";
    let rows = sqlx::query_scalar(sql).fetch_one(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    rows
}

#[tokio::test]
async fn what_age_takes_costs_the_same_beside_many_conversations() {
    let mut taken = vec![];
    for others in [3, 3000] {
        let (server, id, main) = OnServer::with_bot().await;
        let (mut parent, mut facts): (Option<MessageId>, _) = (None, vec![]);
        for _ in 0..200 {
            let next = samples::message(&main, parent, Sender::User, "old");
            parent = Some(next.id);
            facts.push(samples::append(&next));
        }
        let new = || Fact::new(Change::CreateConversation(samples::conversation(&id)), vec![]);
        facts.extend((0..others).map(|_| new()));
        for group in facts.chunks(500) {
            server.store.commit(group.to_vec()).await.unwrap();
        }
        let before = samples::tick();
        let fork = Conversation { leaf_message_id: parent, ..samples::conversation(&id) };
        let own = samples::message(&fork, parent, Sender::User, "own");
        let made = Fact::new(Change::CreateConversation(fork), vec![]);
        server.store.commit(vec![made, samples::append(&own)]).await.unwrap();
        server.database.run("ANALYZE").await;
        // What a connection counts is told at its end.
        let server = server.reopen().await;
        let so_far = looked_at(&server.database).await;
        assert_eq!(server.store.prune(Prune::Chat { before }, 500).await.unwrap().rows, 200);
        let server = server.reopen().await;
        taken.push(looked_at(&server.database).await - so_far);
        assert_eq!(server.store.message(&id, own.id).await.unwrap().unwrap().parent_id, None);
    }
    assert!(taken[0] >= 200 && taken[1] < 2 * taken[0], "beside 3 and beside 3000 conversations: {taken:?}");
}

#[tokio::test]
async fn a_deletion_whose_answer_is_lost_still_says_whose_messages_are_gone() {
    let database = Database::create().await;
    let mut admin = database.admin().await;
    let port: i32 = sqlx::query_scalar("SELECT inet_server_port()").fetch_one(&mut admin).await.unwrap();
    let proxy = Proxy::start(u16::try_from(port).unwrap()).await;
    let store = PostgresStore::open(&database.config_through(proxy.port)).await.unwrap();
    let (id, main) = launch(&store).await;
    let (message, fact) = said(&main, "secret");
    store.commit(vec![fact]).await.unwrap();
    let old = Prune::Chat { before: later() };
    proxy.cut(Cut::After, COMMIT);
    // The server may still have the lost connection: then it is asked for again, as the next run does.
    let again = async {
        loop {
            match store.prune(old, 100).await {
                Ok(pruned) => break pruned,
                Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
            }
        }
    };
    assert_eq!(soon(again).await.bots, std::slice::from_ref(&id));
    assert!(proxy.has_cut(), "the connection was cut");
    assert_eq!(store.message(&id, message.id).await.unwrap(), None);
    assert!(store.prune(old, 100).await.unwrap().bots.is_empty(), "it is told once");
}

#[tokio::test]
async fn numbers_go_with_their_topics() {
    let (server, id, main) = OnServer::with_bot().await;
    let (store, database) = (&server.store, &server.database);
    let heads = async || -> Vec<String> {
        let mut admin = database.admin().await;
        let sql = "SELECT topic FROM topic_heads ORDER BY topic";
        sqlx::query_scalar(sql).fetch_all(&mut admin).await.unwrap()
    };
    let forget = async || store.prune(Prune::Events { before: later() }, 1000).await.unwrap();
    let side = samples::conversation(&id);
    store.commit(vec![Fact::new(Change::CreateConversation(side.clone()), vec![])]).await.unwrap();
    let kept = format!("conversation:{}", main.id);
    let turn = async |home: &Conversation, delete: bool| {
        let (turn, question, reply) = samples::turn(home, None, "asked");
        store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
        forget().await;
        assert!(heads().await.contains(&format!("turn:{}", turn.id)));
        let (done, answer) = samples::ended(&turn, &reply, "answered");
        store.commit(vec![samples::finish(&done, &answer)]).await.unwrap();
        if delete {
            let gone = Fact::new(Change::DeleteConversation(home.id), vec![]);
            assert!(store.commit(vec![gone]).await.unwrap()[0].applied);
        }
        forget().await;
    };
    for (home, delete) in [(&main, false), (&side, true)] {
        turn(home, delete).await;
        assert_eq!(heads().await, ["bot:BOT-001", "bots", &kept]);
    }
    let purge = Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: true }, vec![]);
    store.commit(vec![purge]).await.unwrap();
    forget().await;
    assert_eq!(heads().await, ["bot:BOT-001", "bots"]);
}
