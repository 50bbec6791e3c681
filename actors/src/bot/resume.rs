//! How an actor takes over from the one before: it looks for the turns that were left, keeps what comes meanwhile, and
//! goes on with what waits.

use std::{sync::Arc, time::Duration};

use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{
    BotActorState, BotMessage, RECOVER_AGAIN, SendReply, StopReply, StopRunningReply,
    accept::{Incoming, Refusal},
    lane::Place,
    recovery::{self, Cause, FoundTurn},
    rounds::Rounds,
    stop::{Phase, Stop},
    turn::{TurnJob, TurnShared},
    work::Work,
};
use crate::{
    controller::requests::Sent,
    domain::{
        ids::{ConversationId, MessageId, TurnId},
        problem::Problem,
    },
    inference::{Claim, queue::Class},
};

/// What came before its bot was ready for it.
#[derive(Default)]
pub(super) struct Early {
    pub sends: Vec<(Box<Incoming>, oneshot::Sender<Refusal>, SendReply)>,
    /// Whether such a turn is here is not known before the turns are.
    pub stops: Vec<(TurnId, StopReply)>,
    /// Nor what runs in a conversation.
    pub conversations: Vec<(ConversationId, StopRunningReply)>,
}

/// Whether messages can be taken.
pub(super) enum Readiness {
    Ready,
    /// The turns of the actor before are looked for; this came meanwhile.
    Recovering(Early),
    /// They can't be read while the database is away; nothing can be stored either.
    Waiting(Problem),
}

impl BotActorState {
    /// Answers a message whose turn was found in storage and is in its lane already.
    pub(super) async fn acknowledge_found(
        &self,
        me: &ActorRef<BotMessage>,
        incoming: Incoming,
        reply: SendReply,
    ) -> Result<(), ActorProcessingErr> {
        let context = self.args.context.clone();
        let job = async move {
            let answer = recovery::found(&context, incoming.turn, incoming.message).await.map(Sent::Turn);
            // The caller may be gone; the turn runs all the same.
            let _ = reply.send(answer);
        };
        Work::begin(me.get_cell(), Box::pin(job)).await?;
        Ok(())
    }

    pub(super) async fn recover(
        &mut self,
        me: &ActorRef<BotMessage>,
        cause: Cause,
    ) -> Result<(), ActorProcessingErr> {
        let (context, cell, me) = (self.args.context.clone(), me.get_cell(), me.clone());
        let job = async move {
            // From here on a stop finds this actor: the record is read behind everybody who found none.
            let _ = context.entry.actor.wait(RECOVER_AGAIN).await;
            let mut told = false;
            let found = loop {
                match recovery::recover(&context, cause).await {
                    Ok(found) => break found,
                    Err(problem) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!(bot.id = %context.entry.id(), code = %problem.code, "recovery waits for the database");
                        }
                        let _ = me.cast(BotMessage::RecoveryWaits(problem));
                        tokio::time::sleep(RECOVER_AGAIN).await;
                    }
                }
            };
            // If the actor is gone, its successor recovers.
            let _ = me.cast(BotMessage::Recovered(found));
        };
        self.readiness = Readiness::Recovering(Early::default());
        Work::begin(cell, Box::pin(job)).await?;
        Ok(())
    }

    pub(super) async fn recovered(
        &mut self,
        me: &ActorRef<BotMessage>,
        found: Vec<FoundTurn>,
    ) -> Result<(), ActorProcessingErr> {
        if self.halted {
            // Nothing begins any more: all of it is left to whoever comes next, who is asked again for what came early.
            return Ok(());
        }
        for found in found {
            self.resume(me, found).await?;
        }
        if let Readiness::Recovering(early) = std::mem::replace(&mut self.readiness, Readiness::Ready) {
            for (turn, reply) in early.stops {
                self.stop_turn(turn, reply);
            }
            for (conversation, reply) in early.conversations {
                self.stop_conversation(conversation, reply);
            }
            for (incoming, refused, reply) in early.sends {
                self.send(me, incoming, refused, reply).await?;
            }
        }
        Ok(())
    }

    pub(super) fn stop_turn(&mut self, turn: TurnId, reply: StopReply) {
        let answer = match &mut self.readiness {
            Readiness::Ready => {
                let kept = self.talks.values().find_map(|talk| talk.lane.get(turn));
                Ok(kept.inspect(|k| k.stop.ask()).is_some())
            }
            Readiness::Recovering(early) => return early.stops.push((turn, reply)),
            Readiness::Waiting(problem) => Err(problem.clone()),
        };
        // Nobody is left to be told where the caller gave up.
        let _ = reply.send(answer);
    }

    pub(super) fn stop_conversation(&mut self, conversation: ConversationId, reply: StopRunningReply) {
        let answer = match &mut self.readiness {
            Readiness::Ready => {
                let first = self.talks.get(&conversation).and_then(|talk| talk.lane.iter().next());
                Ok(first.inspect(|(_, kept)| kept.stop.ask()).map(|(turn, _)| *turn))
            }
            Readiness::Recovering(early) => return early.conversations.push((conversation, reply)),
            Readiness::Waiting(problem) => Err(problem.clone()),
        };
        // Nobody is left to be told where the caller gave up.
        let _ = reply.send(answer);
    }

    pub(super) fn recovery_waits(&mut self, problem: Problem) {
        if let Readiness::Recovering(early) =
            std::mem::replace(&mut self.readiness, Readiness::Waiting(problem.clone()))
        {
            for (_, refused, _) in early.sends {
                let _ = refused.send(Refusal::Problem(Box::new(problem.clone())));
            }
            for (_, reply) in early.stops {
                let _ = reply.send(Err(problem.clone()));
            }
            for (_, reply) in early.conversations {
                let _ = reply.send(Err(problem.clone()));
            }
        }
    }

    /// Looks for turns in storage that this actor does not know of, once the database answers.
    pub(super) async fn look_for_strays(
        &mut self,
        me: &ActorRef<BotMessage>,
    ) -> Result<(), ActorProcessingErr> {
        if self.halted || !matches!(self.readiness, Readiness::Ready) {
            // Whoever recovers finds them anyway.
            return Ok(());
        }
        if let Some(again) = &mut self.looking {
            *again = true;
            return Ok(());
        }
        let (context, cell, me) = (self.args.context.clone(), me.get_cell(), me.clone());
        let job = async move {
            let found = loop {
                match recovery::strays(&context).await {
                    Ok(found) => break found,
                    Err(_) => tokio::time::sleep(RECOVER_AGAIN).await,
                }
            };
            // If the actor is gone, its successor recovers.
            let _ = me.cast(BotMessage::Strays(found));
        };
        self.looking = Some(false);
        Work::begin(cell, Box::pin(job)).await?;
        Ok(())
    }

    pub(super) async fn strays(
        &mut self,
        me: &ActorRef<BotMessage>,
        found: Vec<FoundTurn>,
    ) -> Result<(), ActorProcessingErr> {
        let again = self.looking.take().unwrap_or_default();
        for found in found {
            let (turn, conversation) = (found.turn.id, found.turn.conversation_id);
            if self.halted || self.args.context.hubs.live(turn).is_some() {
                continue;
            }
            tracing::info!(bot.id = %found.turn.bot_id, turn.id = %turn, "a turn that nobody ran goes on");
            let end = self.end_with(&found);
            self.entry().turn_accepted(turn, false, |_| ());
            self.resume(me, found).await?;
            if let Some(talk) = self.talks.get_mut(&conversation) {
                talk.leaf = end;
            }
        }
        if again { self.look_for_strays(me).await } else { Ok(()) }
    }

    /// Where the conversation of a stray ends: with it, if nothing was said there since it got lost. What is in memory is
    /// newer than what was read.
    fn end_with(&self, found: &FoundTurn) -> Option<MessageId> {
        let Some(talk) = self.talks.get(&found.turn.conversation_id) else { return found.leaf };
        let again = found.turn.attempt_of.is_some();
        match talk.leaf {
            leaf if leaf == found.message.parent_id && !again => Some(found.reply.id),
            _ if again && talk.lane.is_empty() => found.leaf,
            leaf => leaf,
        }
    }

    /// A waiting turn that storage kept.
    async fn resume(
        &mut self,
        me: &ActorRef<BotMessage>,
        found: FoundTurn,
    ) -> Result<(), ActorProcessingErr> {
        let FoundTurn { turn, message, reply, overrides, leaf } = found;
        let conversation = turn.conversation_id;
        let context = self.args.context.clone();
        let record = context.entry.record();
        // Nothing can be said in one that was sealed for an end which then was not stored.
        let live = context.hubs.live(turn.id).filter(|live| !live.is_sealed()).unwrap_or_else(|| {
            context.hubs.forget_reply(turn.id);
            context.hubs.begin_reply(turn.bot_id.clone(), turn.id, reply.id, turn.conversation_id)
        });
        let talk = self.talks.entry(turn.conversation_id).or_default();
        let waits = (talk.lane.place(usize::MAX) != Place::Now).then(oneshot::channel);
        let (go, gone) = waits.map_or((None, None), |(sender, receiver)| (Some(sender), Some(receiver)));
        let unsaved = context.history.backlog().unsaved();
        let job = Box::new(TurnJob {
            context,
            bot: me.clone(),
            shared: TurnShared::new(turn, message, live),
            reply,
            options: overrides
                .options
                .map_or_else(|| record.config.options.clone(), |over| record.config.options.overlaid(&over)),
            config: Arc::new(record.config.clone()),
            think: overrides.think,
            format: overrides.format,
            summaries: self.summaries.clone(),
            stop: Stop::default(),
            phase: Phase::Queued,
            accept: None,
            go: gone,
            path: None,
            // Whoever waited for it may be gone.
            class: Class::Api,
            claim: Claim::Nothing,
            begun: None,
            asked: None,
            largest: None,
            refuted: false,
            most: u32::MAX,
            waited: Duration::ZERO,
            rounds: Rounds::default(),
            unsaved,
        });
        self.keep(me, job, go).await?;
        // More may have been said behind it than turns.
        if let Some(talk) = self.talks.get_mut(&conversation) {
            talk.leaf = leaf.or(talk.leaf);
        }
        Ok(())
    }
}
