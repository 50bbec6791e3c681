//! PullActor: has the pulls carried out.
//!
//! Parent: tasks. Children: none (each pull is a tracked task). Ports: ChatModel.
//!
//! Invariants: a pull is carried out by one task at a time; it ends with the actor, and a successor takes up what had
//! not ended, so a crash costs a pull its connection and nothing else.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{PullTask, Pulls, run::carry_out};
use crate::history::History;

/// Messages of [`PullActor`].
#[derive(Debug)]
pub(crate) enum PullMessage {
    /// Carry this out.
    Begin(Arc<PullTask>),
}

/// What a [`PullActor`] starts with.
#[derive(Debug, Clone)]
pub(crate) struct PullArgs {
    pub pulls: Pulls,
    pub history: History,
    pub tasks: TaskTracker,
}

/// State of [`PullActor`].
pub(crate) struct PullActorState {
    args: PullArgs,
    /// Ends what was begun with this.
    stop: DropGuard,
}

impl PullActorState {
    fn begin(&self, pull: Arc<PullTask>) {
        let stop = self.stop.token().clone();
        self.args.tasks.spawn(carry_out(pull, self.args.history.clone(), stop));
    }
}

/// Has the pulls carried out.
pub(crate) struct PullActor;

impl Actor for PullActor {
    type Msg = PullMessage;
    type State = PullActorState;
    type Arguments = PullArgs;

    async fn pre_start(
        &self,
        _me: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let state = PullActorState { args, stop: CancellationToken::new().drop_guard() };
        for pull in state.args.pulls.running() {
            state.begin(pull);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PullMessage::Begin(pull) => state.begin(pull),
        }
        Ok(())
    }
}
