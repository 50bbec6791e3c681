//! A file of history back in: `POST /api/chat/:bot/import`.

use bytes::Buf;
use deia_actors::domain::problem::{Code, Problem};
use futures_util::Stream;
use http::HeaderMap;
use tokio::io::BufReader;

use crate::http::{
    Api,
    extract::drain,
    problem::{Answer, json as answer},
    route::PathValues,
    spool::spool,
};

/// Bytes of one read of the file.
const READ: usize = 64 * 1024;

pub(in crate::http) async fn import<S, B, E>(
    path: PathValues,
    api: Api,
    headers: HeaderMap,
    body: S,
) -> Answer
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let mut body = Box::pin(body);
    let admitted = path.bot().and_then(|bot| {
        api.controller.bot(&bot)?;
        let permit = api.imports.clone().try_acquire_owned().map_err(|_| {
            Problem::new(Code::Unavailable, "Other files are being imported. Try again in a moment.")
        })?;
        Ok((bot, permit))
    });
    let (bot, _permit) = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => {
            drain(&mut body).await;
            return Err(problem);
        }
    };
    let file = spool(&headers, body, api.max_import_bytes, api.spool.clone()).await?;
    answer(&api.controller.import(&bot, BufReader::with_capacity(READ, file)).await?)
}
