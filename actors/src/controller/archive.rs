//! The façade: history out and in.

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::*;
pub use crate::archive::{Export, ExportBody, ExportFormat, ImportReport, Source};
use crate::{
    archive::{self, Commit},
    bot::{BotMessage, RECOVER_AGAIN},
    domain::event::{BotChange, EventBody, NewEvent, Topic},
    ports::history_store::Committed,
};

/// The way to the record while the tree runs.
struct Through<'c>(&'c Controller);

#[async_trait]
impl Commit for Through<'_> {
    async fn commit(&self, fact: Fact) -> Result<Committed, Problem> {
        self.0.inner.history.append(fact).await
    }

    fn go_on(&self) -> Result<(), Problem> {
        self.0.open()
    }
}

impl Controller {
    /// Begins an export of one conversation, or of all of a bot's. Audited. Running and waiting turns are not in it.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `storage_unavailable`.
    pub async fn export(
        &self,
        bot: &BotId,
        format: ExportFormat,
        conversation: Option<ConversationId>,
    ) -> Result<Export, ControllerError> {
        self.entry(bot)?;
        self.check_readable()?;
        let export = archive::export(self.inner.store.clone(), bot, format, conversation).await?;
        let target = conversation.map_or_else(|| format!("bot:{bot}"), |id| format!("conversation:{id}"));
        let detail =
            Map::from_iter([("format".to_owned(), serde_json::to_value(format).unwrap_or(Value::Null))]);
        let audit = Some(super::bots::audit("history.export", target, None, detail));
        self.inner.history.append(Fact { change: Change::None, events: vec![], audit }).await?;
        Ok(export)
    }

    /// Imports what [`Controller::export`] gave as JSON, of the same bot: all of it, or nothing where it can't be.
    /// Doing it again changes nothing, or completes what was cut. The bot may be talked to meanwhile. Audited.
    ///
    /// # Errors
    /// `bot_not_found`, `import_invalid`, `import_conflict`, `storage_unavailable`, `shutting_down`.
    pub async fn import(
        &self,
        bot: &BotId,
        mut source: impl Source + 'static,
    ) -> Result<ImportReport, ControllerError> {
        self.open()?;
        let entry = self.entry(bot)?;
        let (me, bot) = (self.clone(), bot.clone());
        self.carry_out(async move {
            let (store, commit) = (&*me.inner.store, Through(&me));
            let taken = archive::take_in(store, &commit, Some(&bot), &mut source, &me.inner.scratch).await;
            let taken = taken.inspect_err(|_| {
                // Parts may be stored.
                let _ = entry.actor.cast(BotMessage::ForgetTexts);
            })?;
            // Its record may name another main conversation after it. Nobody looks for the one that memory knows until then.
            let _patching = entry.patching.lock().await;
            let moving = entry.moving.write().await;
            if !Arc::ptr_eq(&me.entry(&bot)?, &entry) {
                let detail = "The bot was deleted while the file was imported, and there is another one of its id. Import the file again.";
                return Err(Problem::new(Code::ImportConflict, detail));
            }
            let shown = taken.show(store, &commit, &mut source).await;
            // Also after a failure: it may be stored.
            let mut followed = me.follow_import(&entry).await;
            drop(moving);
            // What is stored becomes known, however long the database is away.
            while followed.as_ref().is_err_and(|p| p.code == Code::StorageUnavailable) && me.open().is_ok() {
                tokio::time::sleep(RECOVER_AGAIN).await;
                followed = me.follow_import(&entry).await;
            }
            let report = shown?;
            followed.map(|()| report)
        })
        .await
    }

    /// What memory knows of the bot's conversations is what is stored again.
    async fn follow_import(&self, entry: &BotEntry) -> Result<(), Problem> {
        let before = entry.record();
        let roster = self.read(self.inner.store.roster()).await?;
        let stored = roster.into_iter().map(|(bot, _)| bot).find(|bot| bot.id == before.id);
        let main = stored.map(|bot| bot.main_conversation_id).filter(|id| *id != before.main_conversation_id);
        if let Some(main_conversation_id) = main {
            let id = before.id.clone();
            entry.replace_record(crate::domain::bot::BotRecord { main_conversation_id, ..(*before).clone() });
            let reason = Some("its main conversation was imported".to_owned());
            let change = BotChange { bot_id: id.clone(), state: entry.state(), from: None, reason };
            let event =
                NewEvent::new(vec![Topic::Bots, Topic::Bot(id)], &EventBody::BotConfigChanged(change));
            self.inner.history.append(Fact::new(Change::None, vec![event])).await?;
        }
        // A bot without an actor remembers nothing.
        let _ = entry.actor.cast(BotMessage::ForgetTexts);
        Ok(())
    }
}
