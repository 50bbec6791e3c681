//! The façade: turns, read and stopped.

use super::*;
use crate::{
    bot::{BotMessage, recovery::stop_waiting},
    broadcast::EndReceiver,
    domain::turn::{QueuePlace, TurnState},
    ports::history_store::TurnSnapshot,
};

/// How long the end of a stopped turn may take to be stored.
const END: Duration = Duration::from_secs(10);
/// How often a stop is brought again to a bot that died with it or does not know the turn yet, and the pause before that.
pub(super) const STOP_TRIES: u32 = 20;
const STOP_AGAIN: Duration = Duration::from_millis(50);

fn no_such_turn(id: TurnId) -> Problem {
    Problem::new(Code::TurnNotFound, format!("There is no turn {id}."))
}

impl Controller {
    pub(super) async fn turn_snapshot(&self, id: TurnId) -> Result<TurnSnapshot, Problem> {
        let found = self.read(self.inner.store.turn_snapshot(id)).await?;
        let TurnSnapshot { turn, reply, seq } = found.ok_or_else(|| no_such_turn(id))?;
        Ok(TurnSnapshot { turn: self.placed(turn).await, reply, seq })
    }

    /// A turn with the place where it waits now.
    async fn placed(&self, turn: Turn) -> Turn {
        match self.place_of(&turn).await {
            Some(place) => Turn { queue: Some(place), server: None, ..turn },
            None => turn,
        }
    }

    /// Where a turn waits now, also one that began and waits for another server.
    async fn place_of(&self, turn: &Turn) -> Option<QueuePlace> {
        if turn.state.is_terminal() {
            return None;
        }
        if let Some(place) = self.inner.inference.place(turn.id) {
            return Some(place);
        }
        let entry = self.inner.roster.get(&turn.bot_id).filter(|_| turn.state == TurnState::Queued)?;
        let place = |reply| BotMessage::GetPlace { turn: turn.id, reply };
        entry.actor.call(place, CALL).await.ok().flatten()
    }

    /// One turn, as stored.
    pub(super) async fn stored_turn(&self, id: TurnId) -> Result<Turn, Problem> {
        self.turn_snapshot(id).await.map(|found| found.turn)
    }

    /// One turn; one that has not ended also while the database is away, from memory and marked `stale`.
    ///
    /// # Errors
    /// `turn_not_found`, `storage_unavailable`.
    pub async fn turn(&self, id: TurnId) -> Result<Turn, ControllerError> {
        let away = match self.stored_turn(id).await {
            Err(problem) if problem.code == Code::StorageUnavailable => problem,
            known => return known,
        };
        let turn = self.inner.hubs.live(id).and_then(|live| live.turn()).ok_or(away)?;
        Ok(Turn { stale: true, ..self.placed(turn).await })
    }

    /// Stops a turn and answers once its end is stored. Nothing to do for an ended one.
    ///
    /// # Errors
    /// `turn_not_found`, `storage_unavailable`.
    pub async fn stop_turn(&self, id: TurnId) -> Result<Turn, ControllerError> {
        // A turn that generates is known in memory: it is stopped also while the database is away.
        let entry = match self.inner.roster.all().into_iter().find(|entry| entry.runs(id)) {
            Some(entry) => Some(entry),
            None => {
                let found = self.stored_turn(id).await?;
                if found.state.is_terminal() {
                    return Ok(found);
                }
                self.inner.roster.get(&found.bot_id)
            }
        };
        let mut end = self.inner.hubs.watch_end(id);
        let stopped = self.stop_and_wait(entry, id, &mut end).await;
        self.inner.hubs.unwatch_end(id, end);
        stopped
    }

    async fn stop_and_wait(
        &self,
        entry: Option<Arc<BotEntry>>,
        id: TurnId,
        end: &mut EndReceiver,
    ) -> Result<Turn, Problem> {
        let told = match entry {
            Some(entry) => {
                let me = self.clone();
                self.carry_out(async move { me.bring_stop(&entry, id).await }).await?
            }
            None => false,
        };
        let watch = self.inner.history.watch();
        if told {
            tokio::select! {
                biased;
                ended = tokio::time::timeout(END, end.wait_for(Option::is_some)) => {
                    if let Ok(Ok(end)) = ended && let Some(end) = end.clone() {
                        return Ok(end.turn.clone());
                    }
                }
                () = watch.gave_up() => return Err(not_known(watch.limit(), false)),
            }
        }
        // It has ended, or its end is not stored yet.
        tokio::select! {
            biased;
            () = self.inner.history.barrier() => {}
            () = watch.gave_up() => return Err(not_known(watch.limit(), false)),
        }
        self.stored_turn(id).await
    }

    /// Brings the word to whoever has the turn: its bot, or the record where the bot has no actor. True where its end is on
    /// its way then; false where it has ended.
    async fn bring_stop(&self, entry: &Arc<BotEntry>, id: TurnId) -> Result<bool, Problem> {
        for _ in 0..STOP_TRIES {
            let stop = |reply| BotMessage::StopTurn { turn: id, reply };
            let here = match entry.actor.call(stop, CALL).await {
                Ok(here) => here?,
                // The actor died with the word; its successor, or the record, is next.
                Err(SlotError::Lost) => continue,
                Err(SlotError::Down) => match stop_waiting(&self.turn_context(entry.clone()), id).await? {
                    true => return Ok(false),
                    false => continue,
                },
                Err(SlotError::Timeout) => return Err(not_answered(SlotError::Timeout)),
            };
            // One that has left its line may have its end on the way.
            if here || self.inner.hubs.live(id).is_some_and(|live| live.decided().is_some()) {
                return Ok(true);
            }
            self.inner.history.barrier().await;
            if self.stored_turn(id).await?.state.is_terminal() {
                return Ok(false);
            }
            // Stored by a commit whose answer got lost: the bot does not know yet that it has this turn.
            let _ = entry.actor.cast(BotMessage::LookForStrays);
            tokio::time::sleep(STOP_AGAIN).await;
        }
        Ok(false)
    }
}
