//! Where to find an actor that may be restarted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{ActorRef, ActorStatus, Message, RpcReplyPort};
use tokio::sync::watch;

/// Why a message through a slot got no answer. In each case the actor may be back a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Nobody is there: not started yet, ended, or being restarted. The message was not delivered.
    #[error("the actor is down")]
    Down,
    /// No answer within the time allowed. The message may still be handled.
    #[error("the actor did not answer in time")]
    Timeout,
    /// The actor ended, or dropped the reply port, with the message in its hands. It may have been handled.
    #[error("the actor ended before it answered")]
    Lost,
}

/// The present incarnation of one supervised actor. An `ActorRef` dies with its actor; a slot is kept for ever.
///
/// The pattern: the owner makes the slot; the start closure of the child's [`ChildSpec`](super::ChildSpec) puts
/// each new incarnation in ([`ChildSpec::actor`](super::ChildSpec::actor) does so); everybody else holds a clone
/// and asks it for every message, never keeping the `ActorRef` that it gives out. An incarnation that ended is not
/// given out any more, so nothing has to be cleared.
pub struct ActorSlot<M> {
    current: Arc<watch::Sender<Option<ActorRef<M>>>>,
}

impl<M: Message> ActorSlot<M> {
    /// An empty slot.
    pub fn new() -> Self {
        Self { current: Arc::new(watch::Sender::new(None)) }
    }

    /// Puts in a new incarnation.
    pub fn set(&self, actor: ActorRef<M>) {
        self.current.send_replace(Some(actor));
    }

    /// The incarnation that takes messages now, if any.
    pub fn get(&self) -> Option<ActorRef<M>> {
        self.current.borrow().as_ref().filter(|actor| takes_messages(actor)).cloned()
    }

    /// Waits until there is an incarnation that takes messages. `Timeout` if there is none in time.
    pub async fn wait(&self, timeout: Duration) -> Result<ActorRef<M>, SlotError> {
        let mut changes = self.current.subscribe();
        let there = changes.wait_for(|current| current.as_ref().is_some_and(takes_messages));
        match tokio::time::timeout(timeout, there).await {
            Ok(Ok(current)) => current.clone().ok_or(SlotError::Down),
            Ok(Err(_closed)) => Err(SlotError::Down),
            Err(_elapsed) => Err(SlotError::Timeout),
        }
    }

    /// Sends a message without waiting for anything.
    pub fn cast(&self, message: M) -> Result<(), SlotError> {
        let actor = self.get().ok_or(SlotError::Down)?;
        actor.send_message(message).map_err(|_| SlotError::Down)
    }

    /// Sends a message that carries a reply port and waits for the reply.
    pub async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> M,
        timeout: Duration,
    ) -> Result<T, SlotError> {
        let actor = self.get().ok_or(SlotError::Down)?;
        match actor.call(message, Some(timeout)).await {
            Ok(CallResult::Success(reply)) => Ok(reply),
            Ok(CallResult::Timeout) => Err(SlotError::Timeout),
            Ok(CallResult::SenderError) => Err(SlotError::Lost),
            Err(_) => Err(SlotError::Down),
        }
    }
}

fn takes_messages<M>(actor: &ActorRef<M>) -> bool {
    actor.get_status() < ActorStatus::Draining
}

impl<M> Clone for ActorSlot<M> {
    fn clone(&self) -> Self {
        Self { current: Arc::clone(&self.current) }
    }
}

impl<M: Message> Default for ActorSlot<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> fmt::Debug for ActorSlot<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorSlot").field(&*self.current.borrow()).finish()
    }
}
