//! Exports that a deletion overtakes: what is gone is left out and counted, everything else is in the file, and it can be imported.

use super::*;

/// The rest of an export, behind what was read of it.
async fn whole(begin: Vec<u8>, rest: ExportBody) -> String {
    let rest: Vec<_> = rest.map(|chunk| chunk.unwrap().to_vec()).collect().await;
    String::from_utf8([begin, rest.concat()].concat()).unwrap()
}

/// Messages in a row, each an hour after the one before it, from the epoch on.
async fn row(store: &MemoryStore, home: &Conversation, many: i64) -> Vec<Message> {
    let mut row: Vec<Message> = vec![];
    for n in 0..many {
        let parent = row.last().map(|m| m.id);
        let message = samples::message(home, parent, Sender::User, &format!("number {n}."));
        row.push(Message { created_at: Timestamp(n * 3_600_000_000), ..message });
    }
    for message in &row {
        store.commit(vec![samples::append(message)]).await.unwrap();
    }
    row
}

#[tokio::test]
async fn an_export_goes_on_without_a_conversation_that_is_deleted_under_it() {
    for format in [ExportFormat::Json, ExportFormat::Markdown, ExportFormat::Csv] {
        let (store, main) = fresh().await;
        let aside = samples::conversation(&ada());
        store.commit(vec![Fact::new(Change::CreateConversation(aside.clone()), vec![])]).await.unwrap();
        row(&store, &main, 3).await;
        let gone = samples::message(&aside, None, Sender::User, "to be deleted");
        store.commit(vec![samples::append(&gone)]).await.unwrap();
        let begun = export(Arc::new(store.clone()), &ada(), format, None).await.unwrap();
        let left_out = begun.left_out.clone();
        store.commit(vec![Fact::new(Change::DeleteConversation(aside.id), vec![])]).await.unwrap();
        let file = whole(vec![], begun.body).await;
        assert!(file.contains("number 2.") && !file.contains("to be deleted"), "{file}");
        assert_eq!(left_out.load(std::sync::atomic::Ordering::Relaxed), 1);
        match format {
            ExportFormat::Json => {
                let (other, _) = fresh().await;
                let report = imported(&other, &file).await.unwrap();
                assert_eq!((report.imported.messages, report.left_out), (3, 1));
            }
            ExportFormat::Markdown => {
                assert!(file.contains("**Not complete:** 1 rows") && !file.contains(&aside.id.to_string()));
            }
            ExportFormat::Csv => {}
        }
    }
}

#[tokio::test]
async fn an_export_has_every_message_that_stays_while_the_old_ones_are_pruned_under_it() {
    // Where the cut is: among what was written already, and behind it.
    for cut in [40, 160] {
        let (store, main) = fresh().await;
        let row = row(&store, &main, 250).await;
        let mut begun = export(Arc::new(store.clone()), &ada(), ExportFormat::Json, None).await.unwrap();
        let mut begin = vec![];
        while !begin.windows(7).any(|w| w == b"number ") {
            begin.extend(begun.body.next().await.unwrap().unwrap());
        }
        let before = row[cut].created_at;
        let pruned = store.prune(Prune::Chat { before }, 1000).await.unwrap().rows;
        let file = whole(begin, begun.body).await;
        for message in &row[cut..] {
            assert!(file.contains(&*message.content), "{} stays and is not in the file", message.content);
        }
        let (other, _) = fresh().await;
        let report = imported(&other, &file).await.unwrap();
        assert_eq!(report.imported.messages + report.left_out, 250, "{pruned} were pruned");
    }
}

#[tokio::test]
async fn an_export_of_what_is_cleared_under_it_ends_and_says_what_it_lacks() {
    let (store, _) = small().await;
    let begun = export(Arc::new(store.clone()), &ada(), ExportFormat::Json, None).await.unwrap();
    let clear = Change::ClearHistory { bot_id: ada(), conversation_id: None };
    store.commit(vec![Fact::new(clear, vec![])]).await.unwrap();
    let (other, _) = fresh().await;
    let report = imported(&other, &whole(vec![], begun.body).await).await.unwrap();
    assert_eq!((report.imported.messages, report.left_out), (0, 2));
}
