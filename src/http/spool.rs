//! A body that is too large for memory, on disk: a file without a name, which is gone with its handle.

use std::{io::SeekFrom, path::PathBuf};

use bytes::Buf;
use deia_actors::domain::problem::{Code, Problem};
use futures_util::{Stream, StreamExt, pin_mut};
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, EXPECT},
};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
    time::timeout,
};

use super::extract::{BODY_IDLE, check_type, drain};

/// Reads a body of at most `limit` bytes into a file in `folder`, and rewinds it. It may take as long as it takes, if
/// only it goes on.
pub(super) async fn spool<S, B, E>(
    headers: &HeaderMap,
    body: S,
    limit: u64,
    folder: PathBuf,
) -> Result<File, Problem>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    pin_mut!(body);
    let too_large = || Problem::new(Code::BodyTooLarge, format!("the file may have at most {limit} bytes"));
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let refusal = match check_type(headers) {
        Ok(()) if length.is_some_and(|length| length > limit) => Some(too_large()),
        Ok(()) => None,
        Err(problem) => Some(problem),
    };
    if let Some(refusal) = refusal {
        if !headers.contains_key(EXPECT) {
            drain(&mut body).await;
        }
        return Err(refusal);
    }
    // The folder is not there where the database is a server and nothing else was kept in it.
    let make = move || std::fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(folder));
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|_| Problem::new(Code::Internal, "the file could not be made"))?;
    let mut file = File::from_std(made.map_err(|e| no_room(&e))?);
    let mut so_far = 0u64;
    loop {
        let next = timeout(BODY_IDLE, body.next()).await.map_err(|_| {
            let detail = format!("the body stopped coming for {} s", BODY_IDLE.as_secs());
            Problem::new(Code::InvalidRequest, detail)
        })?;
        let Some(part) = next else { break };
        let mut part = part.map_err(|_| Problem::new(Code::InvalidRequest, "the body broke off"))?;
        so_far += part.remaining() as u64;
        if so_far > limit {
            drain(&mut body).await;
            return Err(too_large());
        }
        file.write_all_buf(&mut part).await.map_err(|e| no_room(&e))?;
    }
    file.flush().await.map_err(|e| no_room(&e))?;
    file.seek(SeekFrom::Start(0)).await.map_err(|e| no_room(&e))?;
    Ok(file)
}

fn no_room(error: &std::io::Error) -> Problem {
    let detail = format!("The file can't be kept while it is read ({error}). Nothing was stored; try again.");
    Problem::new(Code::StorageUnavailable, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;
    use http::header::CONTENT_TYPE;
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn spooled(kind: &str, parts: &[&'static str]) -> Result<String, Problem> {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
        let parts: Vec<Result<Bytes, Infallible>> =
            parts.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
        let mut file = spool(&headers, stream::iter(parts), 8, folder.clone()).await?;
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "it has no name");
        let mut text = String::new();
        file.read_to_string(&mut text).await.unwrap();
        Ok(text)
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_kept_and_one_above_is_413() {
        assert_eq!(spooled("application/json", &["1234", "", "5678"]).await.unwrap(), "12345678");
        let refused = async |kind, parts| spooled(kind, parts).await.unwrap_err().code;
        assert_eq!(refused("application/json", &["1234", "56789"]).await, Code::BodyTooLarge);
        assert_eq!(refused("text/plain", &["1"]).await, Code::UnsupportedMediaType);
    }
}
