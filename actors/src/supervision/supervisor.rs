//! A supervisor over a list of children, as a ractor actor. The list is that of its start; under a one-for-one supervisor
//! children may also come and go later.
//!
//! Owns: the children of its [`ChildSpec`]s, their timers and the tasks that start them. Parent: whoever spawns it.
//! It performs the effects of the pure machine (`machine.rs`) and reports facts back. Invariants:
//!
//! - No handler waits for a child: restarts run in tasks, stops end with an event, delays are timers. So it answers
//!   while a child takes a minute to start or to stop. (The one await in a handler is for the task of a child that
//!   has ended already, until its state is dropped.)
//! - The first start of all children happens in `pre_start`, in order: who spawned it has a running tree, or an
//!   error ([`BootError`]) and nothing left running.
//! - An orderly stop of the supervisor stops the children in reverse order in `post_stop`; there is no message to
//!   answer any more, and it takes at most the sum of the children's time limits (twice, if they must be killed).
//! - When it gives up it first stops the children in reverse order, then ends with [`GaveUp`] as its error. When it
//!   is *killed*, ractor kills all descendants at once, in no order.
//! - A child that survives a kill for its time limit is stuck in blocking code: the supervisor gives up.
//!
//! To embed a supervisor in a supervisor, give each incarnation a clone of the same [`SupervisorView`]:
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use deia_actors::supervision::*;
//! # fn gate(name: &str) -> ChildSpec { let _ = name; unimplemented!() }
//! let view = SupervisorView::new("inference", Strategy::OneForOne, RestartRules::new(3, Duration::from_secs(30)), 1);
//! let slot = ActorSlot::<SupervisorMessage>::new();
//! let spec = ChildSpec::actor("inference", &slot, {
//!     let view = view.clone();
//!     move || {
//!         let children = vec![gate("local"), gate("remote")];
//!         (Supervisor, SupervisorArgs { view: view.clone(), children, notify: ignore_notices() })
//!     }
//! })
//! .supervisor()
//! .shutdown(Duration::from_secs(12));
//! ```

mod ending;
mod state;

use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

use super::child_spec::{ChildHandle, ChildSpec};
use super::exit::Exit;
use super::notice::NoticeHook;
use super::observation::SupervisorObservation;
use super::ractor_exit::exit_of;
use super::view::SupervisorView;
use state::SupervisorState;

/// What can be asked of a supervisor, and what it tells itself.
#[derive(Debug)]
pub enum SupervisorMessage {
    /// The same as [`SupervisorView::observe`], but in line with the other messages: an answer proves that the
    /// supervisor works.
    GetObservation {
        /// The observation.
        reply: RpcReplyPort<SupervisorObservation>,
    },
    /// One more child; one-for-one only. Nothing where there is one of its name.
    AddChild {
        /// How to start it.
        spec: ChildSpec,
        /// Answered when it is taken in, which is before it is up.
        reply: RpcReplyPort<()>,
    },
    /// A child goes for good; its siblings are not touched. Nothing where there is none of this name.
    RemoveChild {
        /// Its name, free again when this is answered.
        id: Arc<str>,
        /// Answered when it was asked to stop.
        reply: RpcReplyPort<()>,
    },
    /// Sent by the task that started a child.
    #[doc(hidden)]
    ChildStarted(StartOutcome),
    /// A restart is due.
    #[doc(hidden)]
    RestartDue,
    /// A child had its time to stop.
    #[doc(hidden)]
    StopDue(ActorId),
}

/// Result of a start, on its way from the task that did it.
#[derive(Debug)]
pub struct StartOutcome {
    index: usize,
    result: Result<ChildHandle, Exit>,
}

/// What a supervisor needs to run.
pub struct SupervisorArgs {
    /// Name, strategy and rules; and where it shows what it does.
    pub view: SupervisorView,
    /// Its children in start order; names must differ.
    pub children: Vec<ChildSpec>,
    /// Whom it tells.
    pub notify: NoticeHook,
}

/// Why a supervisor could not start. All children that had been started were stopped again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// A child did not start.
    #[error("{supervisor} could not start {child}: {exit}")]
    Child {
        /// The supervisor.
        supervisor: Arc<str>,
        /// The child.
        child: Arc<str>,
        /// Why.
        exit: Exit,
    },
    /// Two children have the same name.
    #[error("{supervisor} has two children named {child}")]
    DuplicateChild {
        /// The supervisor.
        supervisor: Arc<str>,
        /// The name.
        child: Arc<str>,
    },
}

/// The actor. All it knows is in [`SupervisorArgs`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        SupervisorState::boot(&me.get_cell(), args).await.map_err(Into::into)
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::GetObservation { reply } => state.answer_observation(reply),
            SupervisorMessage::AddChild { spec, reply } => state.add_child(&me, spec, reply),
            SupervisorMessage::RemoveChild { id, reply } => state.remove_child(&me, &id, reply),
            SupervisorMessage::ChildStarted(outcome) => state.child_started(&me, outcome).await,
            SupervisorMessage::RestartDue => state.restart_due(&me),
            SupervisorMessage::StopDue(actor) => state.stop_due(&me, actor),
        }
        .map_err(Into::into)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let ended = exit_of(&event);
        // The event may carry the state of the ended child: gone before a successor is started.
        drop(event);
        match ended {
            Some((actor, exit)) => state.actor_ended(&me, actor, exit).await.map_err(Into::into),
            None => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        me: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.shut_down(&me.get_cell()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
