//! The index of the search, beyond what its suite asks for.

use deia_actors::{domain::search::Query, ports::search::SearchIndex};
use futures_util::FutureExt;

use super::*;

/// Words that are longer than a lexeme, more of one than a tsvector has positions for, more than it has room for.
#[tokio::test]
async fn words_are_found_whatever_the_limits_of_the_index() {
    let (server, bot, main) = OnServer::with_bot().await;
    let long = |end: &str| format!("{}{end}", "ŧ".repeat(30));
    let wide: String = (0..15_000).map(|n| format!("{}{n} ", "𐐨".repeat(58))).collect();
    let texts = [long("one"), long("two"), format!("{}needle in hay", "needle hay ".repeat(400)), wide];
    let mut said = vec![];
    for text in &texts {
        let (message, fact) = super::said(&main, text);
        assert!(server.store.commit(vec![fact]).await.unwrap()[0].applied);
        said.push(message.id);
    }
    for (query, expected) in [
        (long("one"), vec![said[0]]),
        (format!("{}*", long("")), vec![said[1], said[0]]),
        (format!("{}*", long("t")), vec![said[1]]),
        ("\"needle in hay\"".into(), vec![said[2]]),
        ("\"in needle\"".into(), vec![]),
        (format!("{}14999", "𐐨".repeat(50)), vec![]),
        (format!("{}14999", "𐐨".repeat(58)), vec![said[3]]),
    ] {
        let query = Query::parse(&query).unwrap();
        let found = server.store.search(&bot, None, &query, 10, 0).await.unwrap();
        let found: Vec<_> = found.items.iter().map(|m| m.id).collect();
        assert_eq!(found, expected, "{query:?}");
    }
}

#[tokio::test]
async fn a_search_that_is_given_up_leaves_the_rest_to_the_index() {
    let (server, bot, main) = OnServer::with_bot().await;
    server.store.commit((0..2000).map(|_| said(&main, "word").1).collect()).await.unwrap();
    assert_eq!(server.store.unindexed().await.unwrap(), 2000);
    let query = Query::parse("word").unwrap();
    assert!(server.store.search(&bot, None, &query, 1, 0).now_or_never().is_none());
    soon(async { while server.store.unindexed().await.unwrap() > 0 {} }).await;
    assert!(server.store.search(&bot, None, &query, 1, 0).await.unwrap().next.is_some());
}

#[tokio::test]
async fn what_was_said_is_indexed_in_peace_without_a_search() {
    let (server, _, main) = OnServer::with_bot().await;
    server.store.commit(["one", "two", "three"].map(|text| said(&main, text).1).into()).await.unwrap();
    let mut other = server.database.admin().await;
    let mut indexed = async || {
        let count = "SELECT count(*) FROM search_messages";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&mut other).await.unwrap()
    };
    assert_eq!(indexed().await, 0, "not by the commit");
    soon(async { while indexed().await < 3 {} }).await;
    let clear = Change::ClearHistory { bot_id: main.bot_id.clone(), conversation_id: None };
    assert!(server.store.commit(vec![Fact::new(clear, vec![])]).await.unwrap()[0].applied);
    assert_eq!(indexed().await, 0, "deleted texts are nowhere");
}
