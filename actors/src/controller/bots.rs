//! The façade: life of bots.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{abilities::Needs, merge::patched_object, *};
use crate::bot::context::window;
use crate::domain::{
    bot::{AuditEntry, BotConfig, BotRecord, BotState, DEFAULT_NUM_CTX, StoredStatus, TokenTotals},
    event::{BotChange, EventBody, NewEvent, Topic},
    problem::{ContextLimits, FieldError},
    time::Timestamp,
};

/// Longest name of a bot or title of a conversation, in characters.
pub(super) const NAME_MAX: usize = 200;
/// Largest metadata, in bytes of JSON.
const METADATA_MAX: usize = 16 * 1024;
/// Largest context where a model's own maximum is not known: more than any model has.
const MAX_NUM_CTX: u32 = 1 << 24;
/// Bots in a page.
const PAGE: (u32, u32) = (200, 1000);

/// Reads a configuration; what is missing is the default.
fn read_config(value: Value) -> Result<BotConfig, Problem> {
    let mut config: BotConfig = serde_json::from_value(value).map_err(|error| {
        let reason = error.to_string();
        let detail = format!("config: {reason}");
        let errors = vec![FieldError { field: "config".into(), reason }];
        Problem { errors, ..Problem::new(Code::InvalidRequest, detail) }
    })?;
    config.options.num_ctx.get_or_insert(DEFAULT_NUM_CTX);
    config.validate()?;
    Ok(config)
}

fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    if name.trim().is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(Problem::field(
            field,
            format!("1 to {NAME_MAX} characters, none of them control characters"),
        ));
    }
    Ok(())
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), Problem> {
    let size = serde_json::to_string(metadata).map_or(usize::MAX, |s| s.len());
    if size > METADATA_MAX {
        return Err(Problem::field("metadata", format!("at most {METADATA_MAX} bytes as JSON")));
    }
    Ok(())
}

fn bot_topics(id: &BotId) -> Vec<Topic> {
    vec![Topic::Bots, Topic::Bot(id.clone())]
}

/// An entry of the audit log.
pub(super) fn audit(
    action: &str,
    target: String,
    reason: Option<String>,
    detail: Map<String, Value>,
) -> AuditEntry {
    AuditEntry { at: Timestamp::now(), actor: USER.into(), action: action.into(), target, reason, detail }
}

impl Controller {
    /// Launches a bot.
    ///
    /// # Errors
    /// `bot_exists`, `bot_limit_reached`, `invalid_request`, `context_too_large`, `model_capability`, `storage_unavailable`.
    pub async fn launch(&self, request: LaunchBot) -> Result<Bot, ControllerError> {
        self.open()?;
        if let Some(name) = &request.name {
            check_name("name", name)?;
        }
        let metadata = request.metadata.unwrap_or_default();
        check_metadata(&metadata)?;
        let config = read_config(Value::Object(request.config.unwrap_or_default()))?;
        let (config, warnings) = self.settle_model(config).await?;
        let me = self.clone();
        let (id, name) = (request.bot_id, request.name);
        let work = async move {
            loop {
                let launched =
                    me.launch_checked(id.clone(), name.clone(), config.clone(), metadata.clone()).await;
                match launched {
                    // The next free id was that of a bot that can't be read; it is not given out again.
                    Err(problem) if id.is_none() && problem.code == Code::BotExists => {}
                    launched => return launched,
                }
            }
        };
        let mut bot = self.carry_out(work).await?;
        bot.warnings = warnings;
        Ok(bot)
    }

    /// Fills in the model and checks the context against it; warns of a model that no server has.
    async fn settle_model(&self, mut config: BotConfig) -> Result<(BotConfig, Vec<String>), Problem> {
        let inference = &self.inner.inference;
        if config.model.is_empty() {
            config.model = match &self.inner.settings.default_model {
                Some(default) => default.clone(),
                None => inference.any_that_chats().await.unwrap_or_default(),
            };
        }
        let mut warnings = vec![];
        if config.model.is_empty() {
            warnings.push(
                "No server that answers has a model that chats, so none was chosen. Start Ollama or pull a model, then patch config.model."
                    .into(),
            );
        } else {
            // The details are asked for once per model; a server that does not answer is no reason to refuse.
            let known = inference.details(&config.model).await;
            if known.as_ref().is_err_and(|e| e.code == Code::ModelNotFound)
                || (known.is_err() && !inference.has(&config.model))
            {
                warnings.push(inference.absent(&config));
            }
            if let Ok(details) = &known {
                Needs::of_config(&config).check(&config.model, &details.capabilities)?;
            }
            let maximum = known.ok().and_then(|d| d.context_length);
            // What nobody asked for is no reason to refuse a small model.
            if let Some(maximum) = maximum.filter(|m| *m < DEFAULT_NUM_CTX)
                && config.options.num_ctx == Some(DEFAULT_NUM_CTX)
            {
                config.options.num_ctx = Some(maximum);
                warnings.push(format!("num_ctx is {maximum}, the maximum of {}.", config.model));
            }
            check_context(&config, maximum, "config.options.num_ctx")?;
        }
        // A bot that could not take one message is a mistake, best told to whoever makes it.
        window::check_bot(&config, inference.estimator(&config.model, &config))?;
        Ok((config, warnings))
    }

    async fn launch_checked(
        &self,
        id: Option<BotId>,
        name: Option<String>,
        config: BotConfig,
        metadata: Map<String, Value>,
    ) -> Result<Bot, Problem> {
        let inner = &self.inner;
        let state = &inner.slots.state;
        let id =
            state.call(|reply| StateMessage::Reserve { id, reply }, CALL).await.map_err(not_answered)??;
        let now = Timestamp::now();
        let record = BotRecord {
            name: name.unwrap_or_else(|| id.to_string()),
            config,
            config_version: 1,
            main_conversation_id: ConversationId::new(),
            metadata,
            created_at: now,
            updated_at: now,
            id: id.clone(),
        };
        let main = Conversation {
            id: record.main_conversation_id,
            bot_id: id.clone(),
            title: None,
            main: true,
            leaf_message_id: None,
            message_count: 0,
            archived: false,
            legal_hold: false,
            created_at: now,
            last_at: None,
        };
        let status = StoredStatus {
            bot_id: id.clone(),
            state: BotState::Starting,
            last_message: None,
            error_count: 0,
            restart_count: 0,
            tokens: TokenTotals::default(),
            updated_at: now,
        };
        let entry =
            BotEntry::new(record.clone(), &status, inner.settings.bot_rules, inner.clock, rand::random());
        let change = BotChange { bot_id: id.clone(), state: BotState::Starting, from: None, reason: None };
        let event = NewEvent::new(bot_topics(&id), &EventBody::BotLaunched(change));
        let home = main.id;
        let created = inner
            .history
            .append(Fact::new(Change::CreateBot { bot: record, main, status }, vec![event]))
            .await;
        let created = match created {
            // Stored by an actor that died before it could say so, or there is such a bot that can't be read.
            Ok(done) if !done.applied => self.read(inner.store.conversation(home)).await.map(|c| c.is_some()),
            done => done.map(|_| true),
        };
        match created {
            Ok(true) => {}
            Ok(false) => {
                let _ = state.cast(StateMessage::Unusable(id.clone()));
                return Err(Problem::new(
                    Code::BotExists,
                    format!("A bot {id} is in the database and can't be read. Choose another id."),
                ));
            }
            Err(problem) => {
                let _ = state.cast(StateMessage::Release(id));
                return Err(problem);
            }
        }
        let entry = Arc::new(entry);
        let admitted = entry.clone();
        let admit = |reply| StateMessage::Admit { entry: admitted, reply };
        if state.call(admit, CALL).await.is_err() {
            // The state actor died with the reservation; the bot is durable, so it belongs on the roster.
            inner.roster.insert(entry.clone());
        }
        self.supervise(|reply| BotSupervisorMessage::Start { bot: id, reply }).await?;
        Ok(entry.bot())
    }

    /// Calls the supervisor of the bots; one that is restarting is waited for.
    async fn supervise<T: Send + 'static>(
        &self,
        message: impl FnOnce(ractor::RpcReplyPort<T>) -> BotSupervisorMessage,
    ) -> Result<T, Problem> {
        let bots = &self.inner.slots.bots;
        bots.wait(CALL).await.map_err(not_answered)?;
        bots.call(message, CALL).await.map_err(not_answered)
    }

    /// Bots by id.
    ///
    /// # Errors
    /// `invalid_request` for a limit out of range.
    pub fn bots(&self, query: &ListBots) -> Result<BotPage, ControllerError> {
        let limit = query.limit.unwrap_or(PAGE.0);
        if !(1..=PAGE.1).contains(&limit) {
            return Err(Problem::field("limit", format!("must be from 1 to {}", PAGE.1)));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let all = self.inner.roster.after(query.after.as_ref());
        let mut chosen = all.iter().filter(|e| query.state.is_none_or(|s| e.state() == s));
        let items: Vec<Bot> = chosen.by_ref().take(limit).map(|e| self.shown(e)).collect();
        let next = chosen.next().and(items.last().map(|b| b.id.clone()));
        Ok(BotPage { items, next })
    }

    /// A bot from memory, marked where the record may know more.
    pub(super) fn marked(&self, mut bot: Bot) -> Bot {
        bot.status.stale = self.inner.history.watch().is_stale();
        bot
    }

    fn shown(&self, entry: &BotEntry) -> Bot {
        let mut bot = self.marked(entry.bot());
        let inference = &self.inner.inference;
        let reachable = inference.gates().iter().any(|g| g.is_up());
        let known = inference.has(&bot.config.model) || inference.known_context(&bot.config.model).is_some();
        if reachable && !bot.config.model.is_empty() && !known {
            bot.warnings.push(inference.absent(&bot.config));
        }
        bot
    }

    /// One bot.
    ///
    /// # Errors
    /// `bot_not_found`.
    pub fn bot(&self, id: &BotId) -> Result<Bot, ControllerError> {
        self.entry(id).map(|entry| self.shown(&entry))
    }

    /// Status of a bot.
    ///
    /// # Errors
    /// `bot_not_found`.
    pub fn status(&self, id: &BotId) -> Result<BotStatus, ControllerError> {
        let stale = self.inner.history.watch().is_stale();
        self.entry(id).map(|entry| BotStatus { stale, ..entry.status() })
    }

    /// Starts a stopped or quarantined bot. Nothing to do for a running one.
    ///
    /// # Errors
    /// `bot_not_found`, `bot_limit_reached`.
    pub async fn start(&self, id: &BotId) -> Result<Bot, ControllerError> {
        self.move_bot(id, |bot, reply| BotSupervisorMessage::Start { bot, reply }, true).await
    }

    /// Stops a bot: its turns end as `stopped`, what is written is kept.
    ///
    /// # Errors
    /// `bot_not_found`.
    pub async fn stop(&self, id: &BotId) -> Result<Bot, ControllerError> {
        self.move_bot(id, |bot, reply| BotSupervisorMessage::Stop { bot, reply }, false).await
    }

    /// Stops and starts a bot; its waiting messages are kept. Releases a quarantined one.
    ///
    /// # Errors
    /// `bot_not_found`, `bot_limit_reached`.
    pub async fn restart(&self, id: &BotId) -> Result<Bot, ControllerError> {
        self.move_bot(id, |bot, reply| BotSupervisorMessage::Restart { bot, reply }, true).await
    }

    async fn move_bot(
        &self,
        id: &BotId,
        message: impl FnOnce(BotId, ractor::RpcReplyPort<()>) -> BotSupervisorMessage + Send + 'static,
        starts: bool,
    ) -> Result<Bot, Problem> {
        self.open()?;
        let entry = self.entry(id)?;
        let (me, id) = (self.clone(), id.clone());
        self.carry_out(async move {
            let state = &me.inner.slots.state;
            if starts {
                let may = |reply| StateMessage::MayStart { id: id.clone(), reply };
                state.call(may, CALL).await.map_err(not_answered)??;
            }
            let moved = me.supervise(|reply| message(id.clone(), reply)).await;
            if starts {
                // It counts itself by now, or it does not run.
                let _ = state.cast(StateMessage::Release(id));
            }
            moved.map(|()| me.shown(&entry))
        })
        .await
    }

    /// Patches name, configuration, metadata; the next turn uses it.
    ///
    /// # Errors
    /// `bot_not_found`, `invalid_request`, `context_too_large`, `model_capability`, `storage_unavailable`.
    pub async fn patch(&self, id: &BotId, patch: PatchBot) -> Result<Bot, ControllerError> {
        self.open()?;
        let entry = self.entry(id)?;
        let me = self.clone();
        self.carry_out(async move {
            // Patches of one bot come one after the other: each changes what the one before left.
            let _turn = entry.patching.lock().await;
            let (record, warnings) = me.patched((*entry.record()).clone(), patch).await?;
            let change =
                BotChange { bot_id: record.id.clone(), state: entry.state(), from: None, reason: None };
            let event = NewEvent::new(bot_topics(&record.id), &EventBody::BotConfigChanged(change));
            me.inner.history.append(Fact::new(Change::UpdateBot(record.clone()), vec![event])).await?;
            entry.replace_record(record);
            let mut bot = entry.bot();
            bot.warnings = warnings;
            Ok(bot)
        })
        .await
    }

    /// The record after a patch, with what the caller should know.
    async fn patched(
        &self,
        mut record: BotRecord,
        patch: PatchBot,
    ) -> Result<(BotRecord, Vec<String>), Problem> {
        if let Some(name) = patch.name {
            let name = name.unwrap_or_else(|| record.id.to_string());
            check_name("name", &name)?;
            record.name = name;
        }
        let mut warnings = vec![];
        if let Some(change) = patch.config {
            let before = serde_json::to_value(&record.config).unwrap_or_default();
            let value = patched_object("config", before, &change)?;
            (record.config, warnings) = self.settle_model(read_config(Value::Object(value))?).await?;
        }
        if let Some(change) = patch.metadata {
            let before = Value::Object(record.metadata);
            record.metadata = patched_object("metadata", before, &change)?;
            check_metadata(&record.metadata)?;
        }
        record.config_version += 1;
        record.updated_at = Timestamp::now();
        Ok((record, warnings))
    }

    /// Deletes a bot, with `purge` also its history. Answers with the bot as it was last.
    ///
    /// # Errors
    /// `bot_not_found`, `legal_hold` (with `purge`), `storage_unavailable`.
    pub async fn delete(&self, id: &BotId, purge: bool) -> Result<Bot, ControllerError> {
        self.open()?;
        let entry = self.entry(id)?;
        let (me, id) = (self.clone(), id.clone());
        self.carry_out(async move {
            // From here on nothing starts it again.
            entry.deleting.store(true, Ordering::Release);
            let done = me.stop_and_delete(&entry, id, purge).await;
            if done.is_err() {
                entry.deleting.store(false, Ordering::Release);
            }
            done
        })
        .await
    }

    async fn stop_and_delete(&self, entry: &BotEntry, id: BotId, purge: bool) -> Result<Bot, Problem> {
        if purge {
            self.nothing_held(&id, |_| true).await?;
        }
        self.supervise(|reply| BotSupervisorMessage::Stop { bot: id.clone(), reply }).await?;
        let bot = entry.bot();
        let change = BotChange { bot_id: id.clone(), state: bot.state, from: None, reason: None };
        let event = NewEvent::new(bot_topics(&id), &EventBody::BotDeleted(change));
        let detail = Map::from_iter([("purge".to_owned(), Value::Bool(purge))]);
        let fact = Fact {
            change: Change::DeleteBot { bot_id: id.clone(), purge },
            events: vec![event],
            audit: Some(audit("bot.delete", format!("bot:{id}"), None, detail)),
        };
        if !self.inner.history.append(fact).await?.applied && purge {
            self.nothing_held(&id, |_| true).await?;
        }
        let remove = |reply| StateMessage::Remove { id: id.clone(), reply };
        if self.inner.slots.state.call(remove, CALL).await.is_err() {
            self.inner.roster.remove(&id);
        }
        Ok(bot)
    }

    /// Crashes a bot on purpose, to see it recover. Audited. Answers what became of it: up again, waiting for its
    /// restart, or quarantined.
    ///
    /// # Errors
    /// `bot_not_found`, `bot_not_running`, `storage_unavailable` (nothing is killed without an audit entry).
    pub async fn kill(
        &self,
        id: &BotId,
        how: KillHow,
        reason: Option<String>,
    ) -> Result<Bot, ControllerError> {
        self.open()?;
        let entry = self.entry(id)?;
        if reason.as_ref().is_some_and(|r| r.chars().count() > NAME_MAX) {
            return Err(Problem::field("reason", format!("at most {NAME_MAX} characters")));
        }
        crate::bot::takes_messages(entry.state(), id.as_str())?;
        let (me, id) = (self.clone(), id.clone());
        self.carry_out(async move {
            let detail = Map::from_iter([("how".to_owned(), serde_json::to_value(how).unwrap_or_default())]);
            let fact = Fact {
                change: Change::None,
                events: vec![],
                audit: Some(audit("bot.kill", format!("bot:{id}"), reason.clone(), detail)),
            };
            me.inner.history.append(fact).await?;
            let reason = reason.unwrap_or_else(|| "killed on purpose".into());
            let kill = |reply| BotSupervisorMessage::Kill { bot: id.clone(), how, reason, reply };
            if !me.supervise(kill).await? {
                return Err(Problem::new(
                    Code::BotNotRunning,
                    format!("{id} has no running actor right now; try again when it is back."),
                ));
            }
            Ok(me.shown(&entry))
        })
        .await
    }
}

/// Refuses a context above the model's maximum.
pub(super) fn check_context(config: &BotConfig, maximum: Option<u32>, field: &str) -> Result<(), Problem> {
    let asked = config.options.num_ctx.unwrap_or(DEFAULT_NUM_CTX);
    let maximum = maximum.unwrap_or(MAX_NUM_CTX);
    if asked <= maximum {
        return Ok(());
    }
    Err(Problem {
        errors: vec![FieldError {
            field: field.into(),
            reason: format!("must be at most {maximum} for {}", config.model),
        }],
        context: Some(Box::new(ContextLimits {
            num_ctx: asked,
            maximum: Some(maximum),
            ..ContextLimits::default()
        })),
        ..Problem::new(
            Code::ContextTooLarge,
            format!("num_ctx {asked} is above the maximum of {}: {maximum}.", config.model),
        )
    })
}
