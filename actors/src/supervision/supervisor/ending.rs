//! The end of a supervisor: children stop one after the other, and there is time to wait for them.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorCell;

use super::state::SupervisorState;
use crate::supervision::clock::Now;
use crate::supervision::exit::Exit;
use crate::supervision::machine::{Effect, Lifecycle};

impl SupervisorState {
    /// Stops everything, in order, and waits for it. No messages and events are handled any more.
    pub(super) async fn shut_down(&mut self, me: &ActorCell) {
        self.wake = None;
        let (now, mut fx, ()) = self.view.step(|machine, now, fx| machine.shut_down(now, fx));
        for index in 0..self.slots.len() {
            if let Some(task) = self.slots[index].starting.take() {
                task.abort();
                let _ = task.await;
                let (_, more, ()) = self.view.step(|machine, now, fx| {
                    machine.start_failed(index, Exit::start_failed("shutdown"), now, fx);
                });
                fx.extend(more);
            }
        }
        // A child whose start was told by a message that nobody will read, if there is one.
        for stray in me.get_children().into_iter().filter(|cell| !self.by_actor.contains_key(&cell.get_id()))
        {
            stop_and_wait(&stray, "shutdown", Duration::from_secs(5)).await;
        }
        self.perform_stops(now, fx).await;
    }

    /// Performs stops one after the other, waiting for each, until the machine asks for no more.
    pub(super) async fn perform_stops(&mut self, now: Now, fx: Vec<Effect>) {
        let (mut now, mut fx) = (now, fx);
        loop {
            let mut next = None;
            for effect in fx {
                match effect {
                    Effect::Stop(index, reason) => next = Some((index, reason)),
                    Effect::Notice(index, kind) => self.tell(now, index, kind),
                    Effect::Start(_) | Effect::Escalate(_) => {}
                }
            }
            let Some((index, reason)) = next.or_else(|| self.stopping_already()) else { return };
            let limit = self.slots[index].spec.shutdown;
            let exit = match self.forget(index) {
                Some(child) => {
                    let exit = stop_and_wait(&child.cell, &reason, limit).await;
                    // The task ends a moment later, with the state dropped.
                    let _ = tokio::time::timeout(limit, child.task).await;
                    exit
                }
                None => Exit::normal(reason),
            };
            (now, fx, ()) = self.view.step(|machine, now, fx| machine.exited(index, exit, now, fx));
        }
    }

    /// A child that was asked to stop before; its event will not be read any more.
    fn stopping_already(&self) -> Option<(usize, Arc<str>)> {
        let index = self.view.read(|machine, _| {
            (0..self.slots.len()).rev().find(|index| machine.lifecycle(*index) == Lifecycle::Stopping)
        });
        index.map(|index| (index, Arc::from("shutdown")))
    }
}

/// Stops an actor (again, if it was asked before) and waits; kills it when its time is over and waits as long.
async fn stop_and_wait(cell: &ActorCell, reason: &str, limit: Duration) -> Exit {
    cell.stop(Some(reason.to_owned()));
    if cell.wait(Some(limit)).await.is_ok() {
        return Exit::normal(reason);
    }
    cell.kill();
    if cell.wait(Some(limit)).await.is_err() {
        tracing::error!(actor = %cell.get_id(), "a killed actor does not end");
    }
    Exit::killed("did not stop in time")
}
