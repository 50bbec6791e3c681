//! Reading and clearing the history of a bot.

use deia_actors::{
    controller::{
        Controller,
        requests::{HistoryQuery, SearchHistory},
    },
    domain::problem::Problem,
};
use serde::Serialize;
use serde_json::json;

use crate::http::{
    problem::{Answer, json as answer},
    query::Params,
    render,
    route::PathValues,
};

pub(in crate::http) async fn page(
    path: PathValues,
    chat: Controller,
    query: Result<Params, Problem>,
) -> Answer {
    let (bot, mut query) = (path.bot()?, query?);
    let (wanted, q) = (wanted(&mut query)?, query.text("q"));
    let html = query.html()?;
    query.end()?;
    match q {
        Some(q) => {
            let page = chat.search(&bot, searched(q, &wanted)?).await?;
            show(&page, page.items.iter().map(|hit| hit.message.content.len()).sum(), html).await
        }
        None => {
            let page = chat.history(&bot, wanted).await?;
            show(&page, page.items.iter().map(|m| m.content.len()).sum(), html).await
        }
    }
}

/// Best matches have no place on a path: they are paged by offset.
fn searched(q: String, wanted: &HistoryQuery) -> Result<SearchHistory, Problem> {
    let HistoryQuery { conversation_id, limit, before, after, offset } = *wanted;
    for (cursor, given) in [("before", before.is_some()), ("after", after.is_some())] {
        if given {
            return Err(Problem::field(cursor, "can't be combined with q"));
        }
    }
    Ok(SearchHistory { q, conversation_id, limit, offset })
}

/// Answers a page with so many bytes of text, rendered where that is asked for.
async fn show(page: &impl Serialize, text: usize, html: bool) -> Answer {
    if !html {
        return answer(page);
    }
    let mut value = serde_json::to_value(page).unwrap_or_default();
    let value = render::aside(text, move || {
        render::add_html_to_all(&mut value["items"]);
        value
    });
    answer(&value.await)
}

fn wanted(query: &mut Params) -> Result<HistoryQuery, Problem> {
    let wanted = HistoryQuery {
        conversation_id: query.id("conversation_id")?,
        limit: query.limit()?,
        before: query.id("before")?,
        after: query.id("after")?,
        offset: query.value("offset", &format!("must be a whole number from 0 to {}", u32::MAX))?,
    };
    let ways = [
        ("before", wanted.before.is_some()),
        ("after", wanted.after.is_some()),
        ("offset", wanted.offset.is_some()),
    ];
    let mut given = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        return Err(Problem::field(second, format!("can't be combined with {first}")));
    }
    Ok(wanted)
}

pub(in crate::http) async fn message(
    path: PathValues,
    chat: Controller,
    query: Result<Params, Problem>,
) -> Answer {
    let (bot, id, mut query) = (path.bot()?, path.message()?, query?);
    let (html, seen_from) = (query.html()?, query.id("conversation_id")?);
    query.end()?;
    let found = chat.message(&bot, id, seen_from).await?;
    let mut value = serde_json::to_value(&found.message).unwrap_or_default();
    value["siblings"]["ids"] = json!(found.ids);
    value["newest_below"] = json!(chat.newest_below(&bot, id, seen_from).await?);
    if html {
        let text = found.message.content.len();
        value = render::aside(text, move || {
            render::add_html(&mut value);
            value
        })
        .await;
    }
    answer(&value)
}

pub(in crate::http) async fn clear(
    path: PathValues,
    chat: Controller,
    query: Result<Params, Problem>,
) -> Answer {
    let (bot, mut query) = (path.bot()?, query?);
    let conversation = query.id("conversation_id")?;
    query.end()?;
    let deleted = chat.clear(&bot, conversation).await?;
    answer(&json!({ "deleted": deleted }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::domain::ids::MessageId;

    use super::*;

    #[test]
    fn two_ways_of_paging_at_once_are_refused_by_name() {
        let (a, b) = (MessageId::new(), MessageId::new());
        let refused = |raw: String| wanted(&mut Params::parse(&raw).unwrap()).unwrap_err().errors[0].clone();
        let both = refused(format!("before={a}&after={b}"));
        assert_eq!((both.field.as_str(), both.reason.as_str()), ("after", "can't be combined with before"));
        assert_eq!(refused(format!("after={a}&offset=0")).field, "offset");
        assert_eq!(refused("offset=-1".into()).field, "offset");
        assert_eq!(refused("conversation_id=x".into()).field, "conversation_id");
        let query = HistoryQuery { after: Some(a), ..HistoryQuery::default() };
        assert_eq!(searched("x".into(), &query).unwrap_err().errors[0].field, "after");
        let one = wanted(&mut Params::parse(&format!("before={a}&limit=7")).unwrap()).unwrap();
        assert_eq!((one.before, one.limit, one.offset), (Some(a), Some(7), None));
    }

    #[test]
    fn an_offset_out_of_range_is_told_the_range() {
        let read = |raw: &str| wanted(&mut Params::parse(raw).unwrap());
        assert_eq!(read("offset=4294967295").unwrap().offset, Some(u32::MAX));
        for bad in ["offset=4294967296", "offset=-1", "offset=x"] {
            let problem = read(bad).unwrap_err();
            assert_eq!(problem.errors[0].field, "offset", "{bad}");
            assert_eq!(problem.errors[0].reason, "must be a whole number from 0 to 4294967295");
        }
    }
}
