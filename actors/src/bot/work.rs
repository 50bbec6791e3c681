//! Linked work: an actor that does one thing, the future it is given, and ends. Its parent is told how
//! it ended; when the parent dies, or kills it, the future is dropped where it stands, and with it
//! the connection to the model server and the slot.

use std::{future::Future, pin::Pin};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};

/// Something to do.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does one job.
pub(crate) struct Work;

impl Work {
    /// Begins a job as a child of `parent`.
    pub async fn begin(parent: ActorCell, job: Job) -> Result<ActorCell, SpawnErr> {
        let (work, _task) = Actor::spawn_linked(None, Self, job, parent).await?;
        Ok(work.get_cell())
    }
}

/// The one message: begin.
#[derive(Debug)]
pub(crate) struct Begin;

impl Actor for Work {
    type Msg = Begin;
    type State = Option<Job>;
    type Arguments = Job;

    async fn pre_start(&self, me: ActorRef<Begin>, job: Job) -> Result<Self::State, ActorProcessingErr> {
        me.cast(Begin)?;
        Ok(Some(job))
    }

    async fn handle(
        &self,
        me: ActorRef<Begin>,
        _: Begin,
        job: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(job) = job.take() {
            job.await;
        }
        me.stop(None);
        Ok(())
    }
}
