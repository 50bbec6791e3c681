//! Events on their way to readers. BroadcastActor owns the directory's upkeep and attaches readers;
//! tokens and committed events go straight to the hub of their topic (control through actors,
//! bulk data beside them).
//!
//! Parent: root. Children: none. Ports: HistoryStore, for the head of a topic and what readers missed of it.

mod frame;
mod hub;
mod hubs;
mod live;
pub mod reader;
mod recent;
mod replay;

pub(crate) use hub::{Attached, Hub};
pub(crate) use hubs::{EndReceiver, Hubs};
pub(crate) use live::LiveReply;
pub(crate) use replay::{Record, Recovery};

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::Serialize;

use crate::domain::event::Topic;
use reader::Queue;

/// Messages of BroadcastActor.
#[derive(Debug)]
pub(crate) enum BroadcastMessage {
    /// Attach a reader to a hub; with a cursor, after it.
    Attach { hub: Arc<Hub>, reader: Arc<Queue>, after: Option<u64>, reply: RpcReplyPort<Attached> },
    /// Detach a reader from a topic.
    Detach { topic: Topic, reader: Arc<Queue> },
    /// What it looks after.
    Observe(RpcReplyPort<BroadcastObservation>),
}

/// What BroadcastActor looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BroadcastObservation {
    /// Topics with a hub.
    pub topics: usize,
    /// Readers attached, over all topics.
    pub readers: usize,
    /// Durable events published since the start.
    pub published: u64,
}

/// Attaches readers to topics.
pub(crate) struct BroadcastActor;

impl Actor for BroadcastActor {
    type Msg = BroadcastMessage;
    type State = Arc<Hubs>;
    type Arguments = Arc<Hubs>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        hubs: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(hubs)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        hubs: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            BroadcastMessage::Attach { hub, reader, after, reply } => {
                // The caller may have given up; then nobody holds the reader and the hub forgets it.
                let _ = reply.send(hub.attach(&reader, after));
            }
            BroadcastMessage::Detach { topic, reader } => hubs.hub(&topic).detach(&reader),
            BroadcastMessage::Observe(reply) => {
                let (topics, readers) = hubs.sizes();
                let _ = reply.send(BroadcastObservation { topics, readers, published: hubs.published() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
