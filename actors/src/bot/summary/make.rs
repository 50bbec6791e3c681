//! Making a summary: a generation behind everybody else's that gives its slot to any turn that comes to wait, and whose
//! failure harms nobody. It is a child of its bot's actor and ends with it, also when the process ends.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use ractor::ActorRef;

use super::{Due, MAX_BYTES, Making, Summary, due, first_bytes};
use crate::{
    bot::{BotActorState, BotMessage, context, turn::options_as_sent, turn_context::TurnContext, work::Work},
    domain::{
        bot::{BotConfig, Options, Overflow},
        ids::{ConversationId, TurnId},
        problem::Problem,
    },
    inference::{Claim, Preference, SlotPermit, Want, model_problem, queue::Class},
    ports::chat_model::{ChatRequest, ModelError, PieceKind},
};

/// How often one is begun; a turn that comes in between ends the attempt.
const ATTEMPTS: usize = 4;

impl BotActorState {
    /// Has a summary made where the next turn of the conversation needs one.
    pub(in crate::bot) async fn summarise(&self, me: &ActorRef<BotMessage>, conversation: ConversationId) {
        let record = self.entry().record();
        if self.halted || record.config.context.overflow != Overflow::Summarise {
            return;
        }
        let Some(path) = self.talks.get(&conversation).and_then(|talk| talk.path.clone()) else { return };
        let context = self.args.context.clone();
        let model = context.inference.model_for(&record.config);
        let estimator = context.inference.estimator(&model, &record.config);
        let known = self.summaries.of(&path);
        let Some(due) = due(&record.config, &path, known.as_deref(), estimator) else { return };
        let Some(making) = self.summaries.begin(conversation) else { return };
        let config = Arc::new(record.config.clone());
        let job = Job { context, config, model, conversation, due };
        if let Err(error) = Work::begin(me.get_cell(), Box::pin(job.run(making))).await {
            tracing::warn!(%error, "a summary was not begun");
        }
    }
}

struct Job {
    context: TurnContext,
    config: Arc<BotConfig>,
    model: String,
    conversation: ConversationId,
    due: Due,
}

impl Job {
    async fn run(self, making: Making) {
        let made = tokio::select! {
            biased;
            () = making.valid.cancelled() => return,
            made = self.made() => made,
        };
        let bot = self.context.entry.id();
        match made {
            Ok(Some(text)) => {
                tracing::debug!(bot.id = %bot, bytes = text.len(), "summary made");
                making.keep(Summary { through: self.due.through, text: text.into() });
            }
            Ok(None) => {
                tracing::debug!(bot.id = %bot, "no summary was made: turns went first, or no server takes any")
            }
            Err(problem) => tracing::info!(bot.id = %bot, code = %problem.code, "no summary was made"),
        }
    }

    /// The text; none where turns left no time for it, or no server can be asked. The next turn's end is another occasion.
    async fn made(&self) -> Result<Option<String>, Problem> {
        let inference = &self.context.inference;
        let Some(_leave) = inference.background() else { return Ok(None) };
        let only = Preference::new(&self.model, &[]);
        for _ in 0..ATTEMPTS {
            // An error means that no server takes any.
            let acquired = inference.acquire(&self.want(), &only, Claim::Nothing, drop).await;
            let Ok(mut permit) = acquired else { return Ok(None) };
            let Some(gate) = permit.gate().cloned() else { return Ok(None) };
            tokio::select! {
                biased;
                () = gate.wanted() => {}
                answer = self.answer(&mut permit) => match answer {
                    Ok(text) => return Ok(Some(text)),
                    Err(error) => {
                        permit.failed(&error);
                        return Err(model_problem(&error, &self.model, &gate.spec.name));
                    }
                },
            }
        }
        Ok(None)
    }

    fn want(&self) -> Want {
        Want {
            turn: TurnId::new(),
            conversation: self.conversation,
            bot: self.context.entry.id(),
            class: Class::Background,
            model: self.model.clone(),
            cost: self.due.used.saturating_add(self.due.answer),
            waited: Duration::ZERO,
            told: None,
            tried: vec![],
        }
    }

    fn request(&self) -> ChatRequest {
        // The context of the bot: with another one the server would load the model anew.
        let options = Options {
            num_ctx: Some(context::budget(&self.config.options).0),
            num_predict: i32::try_from(self.due.answer).ok(),
            stop: None,
            ..self.config.options.clone()
        };
        ChatRequest {
            model: self.model.clone(),
            messages: self.due.messages.clone(),
            options: options_as_sent(&options),
            think: Some(false.into()),
            format: None,
            tools: vec![],
            keep_alive: self.config.keep_alive.clone(),
        }
    }

    async fn answer(&self, permit: &mut SlotPermit) -> Result<String, ModelError> {
        let gate = permit.gate().cloned().ok_or(ModelError::Cut)?;
        let mut stream = gate.spec.model.chat(self.request()).await?;
        let mut text = String::new();
        loop {
            let burst = stream.next().await.unwrap_or(Err(ModelError::Cut))?;
            permit.answered();
            let pieces = burst.pieces.iter().filter(|piece| piece.kind == PieceKind::Content);
            pieces.for_each(|piece| text.push_str(&piece.text));
            let enough = text.len() > MAX_BYTES;
            if let Some(done) = &burst.done {
                permit.done(done.load);
            }
            if enough || burst.done.is_some() {
                let text = first_bytes(text.trim(), MAX_BYTES);
                return match text {
                    "" => Err(ModelError::Protocol("an empty summary".into())),
                    text => Ok(text.to_owned()),
                };
            }
        }
    }
}
