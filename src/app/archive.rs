//! `deia export` and `deia import`: on the database itself, by the same code as the routes.

use std::{
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use deia_actors::{
    archive::{self, Export, ExportFormat, ImportReport, Straight},
    domain::{
        ids::{BotId, ConversationId},
        problem::{Code, Problem},
    },
    ports::{history_store::StoreError, scratch::Scratch, storage::Storage},
};
use futures_util::StreamExt;
use tokio::{fs::File, io::BufReader};

use super::{AppError, storage::Database};
use crate::{adapters::scratch::ScratchFolder, config::Config};

/// What `deia export` is asked for.
#[derive(Debug)]
pub struct ExportAsked {
    /// Whose history.
    pub bot: BotId,
    /// In which form.
    pub format: ExportFormat,
    /// Which conversation; none = all.
    pub conversation: Option<ConversationId>,
    /// Where to; none = standard output.
    pub output: Option<PathBuf>,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AppError {
    |source| AppError::File { path: path.to_owned(), source }
}

/// Opens the database, runs `work` on it and closes it. `route` is the way where a running deia holds it.
async fn on_store<T, F>(
    config: &Config,
    route: String,
    work: impl FnOnce(Arc<dyn Storage>) -> F,
) -> Result<T, AppError>
where
    F: Future<Output = Result<T, AppError>>,
{
    let database = match Database::open(&config.storage).await {
        Ok(database) => database,
        Err(AppError::Storage { database, source })
            if matches!(source.downcast_ref(), Some(StoreError::Unavailable(_))) =>
        {
            return Err(AppError::Held(Box::new(AppError::Storage { database, source }), route));
        }
        Err(error) => return Err(error),
    };
    let done = work(database.storage()).await;
    database.close().await;
    done
}

/// `deia export`: a file is there once its end is; what it lacks because it can't be read is an error behind that.
///
/// # Errors
/// See [`AppError`].
pub async fn export(config: &Config, asked: ExportAsked) -> Result<(), AppError> {
    let ExportAsked { bot, format, conversation, output } = asked;
    let route = format!("POST /api/chat/{bot}/export");
    on_store(config, route, async |store: Arc<dyn Storage>| {
        let roster = store.roster().await;
        let roster = roster.map_err(|e| AppError::Archive(unreadable(&e)))?;
        if !roster.iter().any(|(known, _)| known.id == bot) {
            let detail = format!("There is no bot {bot}");
            return Err(AppError::Archive(Problem::new(Code::BotNotFound, detail)));
        }
        let export = archive::export(store, &bot, format, conversation).await.map_err(AppError::Archive)?;
        let Some(path) = output else {
            return write(export, &mut io::stdout(), Path::new("standard output")).await;
        };
        let mut beside = path.clone().into_os_string();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let mut file = std::fs::File::create(&beside).map_err(failed(&beside))?;
        let written = write(export, &mut file, &beside).await;
        if matches!(written, Ok(()) | Err(AppError::Incomplete(_))) {
            file.sync_all().map_err(failed(&beside))?;
            tokio::fs::rename(&beside, &path).await.map_err(failed(&path))?;
            return written;
        }
        // What is left of it is of no use; the first error says more than a second one.
        tokio::fs::remove_file(&beside).await.ok();
        written
    })
    .await
}

fn unreadable(error: &StoreError) -> Problem {
    Problem::new(Code::StorageUnavailable, error.to_string())
}

/// Waits for the disk where it is: nothing else runs.
async fn write(mut export: Export, out: &mut dyn Write, path: &Path) -> Result<(), AppError> {
    while let Some(chunk) = export.body.next().await {
        out.write_all(&chunk.map_err(AppError::Archive)?).map_err(failed(path))?;
    }
    out.flush().map_err(failed(path))?;
    match export.left_out.load(Ordering::Relaxed) {
        0 => Ok(()),
        rows => Err(AppError::Incomplete(rows)),
    }
}

/// Standard input can be read once only, and an import reads twice. Waits where it is: nothing else runs.
fn spooled(folder: &Path) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let mut spool = tempfile::tempfile_in(folder)?;
    io::copy(&mut io::stdin().lock(), &mut spool)?;
    spool.rewind()?;
    Ok(File::from_std(spool))
}

/// `deia import`; `-` is standard input.
///
/// # Errors
/// See [`AppError`].
pub async fn import(config: &Config, path: &Path) -> Result<(), AppError> {
    let file = if path == Path::new("-") { spooled(&config.data_dir) } else { File::open(path).await };
    let file = file.map_err(failed(path))?;
    let report = on_store(config, "POST /api/chat/BOT/import".to_owned(), async |store: Arc<dyn Storage>| {
        let mut source = BufReader::with_capacity(1 << 16, file);
        let scratch: Arc<dyn Scratch> = Arc::new(ScratchFolder(config.data_dir.clone()));
        let imported = archive::import(&*store, &Straight(&*store), None, &mut source, &scratch).await;
        imported.map_err(AppError::Archive)
    })
    .await?;
    let ImportReport { bot_id, imported, unchanged, left_out } = report;
    // A closed standard output changes nothing about the result.
    let _ = writeln!(
        io::stdout(),
        "{bot_id}: {} messages in {} conversations imported, {} messages were there already",
        imported.messages,
        imported.conversations,
        unchanged.messages
    );
    if left_out > 0 {
        let _ = writeln!(io::stdout(), "{bot_id}: the export was not complete, it left out {left_out} rows");
    }
    Ok(())
}
