//! Stopping a bot, in order: its turns end, its actor ends, what is left open ends; all of it beside the mailbox.

use std::{sync::Arc, time::Duration};

use ractor::{ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{BotSupervisorMessage, BotSupervisorState, Child, Phase};
use crate::{
    bot::{
        BotMessage, RECOVER_AGAIN,
        recovery::{self, Cause},
        turn_context::TurnContext,
    },
    broadcast::Hubs,
    domain::{
        bot::{BotState, BotStep},
        event::{BotChange, EventBody},
        ids::BotId,
        problem::Code,
    },
    state::BotEntry,
    supervision::ActorSlot,
};

/// How long the turns of a bot that is being stopped may take to store their ends.
const HALT: Duration = Duration::from_secs(5);

impl BotSupervisorState {
    /// Ends what a bot without an actor left open, beside the mailbox.
    pub(super) fn settle(&self, me: &ActorRef<BotSupervisorMessage>, entry: &Arc<BotEntry>) {
        let (me, context) = (me.clone(), self.context(entry));
        self.args.tasks.spawn(async move {
            settle(&context, Cause::BotStopped).await;
            // A supervisor that died meanwhile has a successor that looks for itself.
            let _ = me.cast(BotSupervisorMessage::Settled { bot: context.entry.id() });
        });
    }

    pub(super) async fn stop(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        bot: BotId,
        again: bool,
        reply: RpcReplyPort<()>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get_mut(&bot) else {
            match self.args.roster.get(&bot) {
                Some(_) if again => return self.start(me, bot, Some(reply)).await,
                Some(entry) => self.stop_without_actor(me, bot, entry, reply),
                None => drop(reply.send(())),
            }
            return Ok(());
        };
        match &mut child.phase {
            Phase::Stopping { again: planned, replies } => {
                *planned = again;
                replies.push(reply);
            }
            Phase::Pausing { .. } => {
                let entry = child.entry.clone();
                self.children.remove(&bot);
                if again {
                    return self.start(me, bot, Some(reply)).await;
                }
                self.stop_without_actor(me, bot, entry, reply);
            }
            Phase::Up => {
                child.phase = Phase::Stopping { again, replies: vec![reply] };
                let entry = child.entry.clone();
                self.step(&entry, BotStep::Stop, None, None);
                self.halt(me, entry, again);
            }
        }
        Ok(())
    }

    fn stop_without_actor(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        bot: BotId,
        entry: Arc<BotEntry>,
        reply: RpcReplyPort<()>,
    ) {
        self.step(&entry, BotStep::Stop, None, None);
        self.settle(me, &entry);
        let phase = Phase::Stopping { again: false, replies: vec![reply] };
        self.children.insert(bot, Child::new(entry, None, phase));
    }

    /// Ends the turns of a bot beside the mailbox. For a restart the waiting ones are left to the next actor.
    fn halt(&self, me: &ActorRef<BotSupervisorMessage>, entry: Arc<BotEntry>, again: bool) {
        let (me, hubs) = (me.clone(), self.args.hubs.clone());
        self.args.tasks.spawn(async move {
            halt_turns(&entry.actor, &entry, &hubs, again).await;
            // A supervisor that died meanwhile took the bot with it.
            let _ = me.cast(BotSupervisorMessage::Halted { bot: entry.id() });
        });
    }

    pub(super) fn halted(&self, bot: &BotId) {
        if let Some(Child { cell: Some(cell), phase: Phase::Stopping { .. }, .. }) = self.children.get(bot) {
            cell.stop(Some("stopped".into()));
        }
    }

    pub(super) async fn settled(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        bot: BotId,
    ) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.remove(&bot) else { return Ok(()) };
        let Phase::Stopping { again, replies } = child.phase else {
            self.children.insert(bot, child);
            return Ok(());
        };
        self.stopped(&child.entry);
        if again {
            self.start(me, bot, None).await?;
        }
        for reply in replies {
            let _ = reply.send(());
        }
        Ok(())
    }

    pub(super) fn stopped(&self, entry: &BotEntry) {
        self.step(entry, BotStep::Stop, None, None);
        let change = BotChange { bot_id: entry.id(), state: BotState::Terminated, from: None, reason: None };
        self.step(entry, BotStep::Stopped, None, Some(EventBody::BotStopped(change)));
    }
}

/// As [`settle`], however long the database is away.
pub(super) async fn settle_at_last(context: &TurnContext, cause: Cause) {
    let mut told = false;
    while let Err(problem) = recovery::settle(context, cause).await {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(bot.id = %context.entry.id(), code = %problem.code, "open turns end when the database is back");
        }
        if problem.code != Code::StorageUnavailable {
            return;
        }
        tokio::time::sleep(RECOVER_AGAIN).await;
    }
}

/// Ends what a bot without an actor left open; what the database does not take now ends with its next start.
async fn settle(context: &TurnContext, cause: Cause) {
    if let Err(problem) = recovery::settle(context, cause).await {
        tracing::warn!(bot.id = %context.entry.id(), code = %problem.code, "open turns end with the bot's next start");
    }
}

/// Tells a bot's turns to stop and waits until their ends are stored, or [`HALT`] is over. With `running_only` the
/// waiting ones stay as they are.
async fn halt_turns(actor: &ActorSlot<BotMessage>, entry: &BotEntry, hubs: &Hubs, running_only: bool) {
    let halt = |reply| BotMessage::Halt { all: !running_only, reply };
    let Ok(stopped) = actor.call(halt, HALT).await else { return };
    let ended = async {
        for turn in stopped {
            let mut end = hubs.watch_end(turn);
            // One whose reply has left the directory ended before it was watched.
            if hubs.live(turn).is_some() {
                let _ = end.wait_for(Option::is_some).await;
            } else {
                hubs.unwatch_end(turn, end);
            }
        }
    };
    if tokio::time::timeout(HALT, ended).await.is_err() {
        tracing::warn!(bot.id = %entry.id(), "turns did not end in time; they are ended behind the stop");
    }
}
