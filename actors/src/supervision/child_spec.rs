//! How to start a child, and the terms on which it lives.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::task::JoinHandle;

use super::exit::Exit;
use super::machine::ChildPlan;
use super::policy::{ChildKind, RestartPolicy};
use super::ractor_exit::{panic_message, reason_of};
use super::slot::ActorSlot;

/// A child that was just started: what `spawn_linked` returns.
#[derive(Debug)]
pub struct ChildHandle {
    /// The actor.
    pub cell: ActorCell,
    /// Its task. It ends when the actor's state has been dropped, which after a crash is *later* than the
    /// supervisor learns of it; a successor is started after both, so two incarnations never overlap.
    pub task: JoinHandle<()>,
}

impl<M> From<(ActorRef<M>, JoinHandle<()>)> for ChildHandle {
    fn from((actor, task): (ActorRef<M>, JoinHandle<()>)) -> Self {
        Self { cell: actor.get_cell(), task }
    }
}

/// Starts one incarnation of a child, **linked** to the given supervisor (`spawn_linked`); one that is not linked
/// is never restarted. Runs in a task of its own, except for the first start, and may be dropped in mid-way.
pub type StartFn = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ChildHandle, SpawnErr>> + Send + Sync>;

/// How to start a child, and the terms on which it lives.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) id: Arc<str>,
    pub(super) kind: ChildKind,
    pub(super) restart: RestartPolicy,
    pub(super) shutdown: Duration,
    pub(super) start_timeout: Duration,
    pub(super) start: StartFn,
}

impl ChildSpec {
    /// A permanent worker with 5 s to stop and 60 s to start. `id` is unique among its siblings.
    pub fn new(id: impl Into<Arc<str>>, start: StartFn) -> Self {
        Self {
            id: id.into(),
            kind: ChildKind::Worker,
            restart: RestartPolicy::Permanent,
            shutdown: Duration::from_secs(5),
            start_timeout: Duration::from_secs(60),
            start,
        }
    }

    /// A child of one actor type. `make` gives the actor and its arguments for every incarnation, which is then
    /// put into `slot`, where its clients find it.
    pub fn actor<A, F>(id: impl Into<Arc<str>>, slot: &ActorSlot<A::Msg>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let (slot, make) = (slot.clone(), Arc::new(make));
        let start: StartFn = Arc::new(move |supervisor| {
            let (slot, make) = (slot.clone(), Arc::clone(&make));
            async move {
                let (actor, arguments) = make();
                let (actor, task) = Actor::spawn_linked(None, actor, arguments, supervisor).await?;
                slot.set(actor.clone());
                Ok((actor, task).into())
            }
            .boxed()
        });
        Self::new(id, start)
    }

    /// Says that the child is a supervisor itself. Give it more time to stop than its children may take together.
    #[must_use]
    pub fn supervisor(mut self) -> Self {
        self.kind = ChildKind::Supervisor;
        self
    }

    /// When the child is restarted.
    #[must_use]
    pub fn restart(mut self, restart: RestartPolicy) -> Self {
        self.restart = restart;
        self
    }

    /// How long it may take to stop before it is killed.
    #[must_use]
    pub fn shutdown(mut self, timeout: Duration) -> Self {
        self.shutdown = timeout;
        self
    }

    /// How long a start (`pre_start`) may take before it counts as failed.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Its name.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(super) fn plan(&self) -> ChildPlan {
        ChildPlan { id: self.id.clone(), kind: self.kind, restart: self.restart }
    }

    /// One start. Whatever goes wrong, also a panic of the closure, is an [`Exit::StartFailed`].
    pub(super) async fn start(&self, supervisor: ActorCell) -> Result<ChildHandle, Exit> {
        let attempt = AssertUnwindSafe(async { (self.start)(supervisor).await }).catch_unwind();
        match tokio::time::timeout(self.start_timeout, attempt).await {
            Ok(Ok(Ok(child))) => Ok(child),
            Ok(Ok(Err(SpawnErr::StartupFailed(error)))) => Err(Exit::StartFailed(reason_of(&error))),
            Ok(Ok(Err(error))) => Err(Exit::start_failed(error.to_string())),
            Ok(Err(panic)) => Err(Exit::StartFailed(panic_message(&*panic))),
            Err(_elapsed) => Err(Exit::start_failed(format!("not started within {:?}", self.start_timeout))),
        }
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
