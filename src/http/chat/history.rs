//! Reading and clearing the history of a bot.

use deia_actors::{
    controller::{Controller, requests::HistoryQuery},
    domain::problem::Problem,
};
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
    let wanted = wanted(&mut query)?;
    let html = query.html()?;
    query.end()?;
    let page = chat.history(&bot, wanted).await?;
    if !html {
        return answer(&page);
    }
    let text = page.items.iter().map(|m| m.content.len()).sum();
    let mut value = serde_json::to_value(&page).unwrap_or_default();
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
        offset: query.value("offset", "must be a number from 0 on")?,
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
    let html = query.html()?;
    query.end()?;
    let found = chat.message(&bot, id).await?;
    let mut value = serde_json::to_value(&found.message).unwrap_or_default();
    value["siblings"]["ids"] = json!(found.ids);
    value["newest_below"] = json!(chat.newest_below(&bot, id).await?);
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
        let one = wanted(&mut Params::parse(&format!("before={a}&limit=7")).unwrap()).unwrap();
        assert_eq!((one.before, one.limit, one.offset), (Some(a), Some(7), None));
    }
}
