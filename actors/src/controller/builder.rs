//! Puts a tree together: its settings, its record, its model servers.

use super::*;
use crate::{
    domain::model::ServerRecord,
    ports::{scratch::InMemory, tool_runner::NoTools},
};

/// Puts a tree together.
pub struct Builder {
    settings: Settings,
    store: Arc<dyn Storage>,
    servers: Vec<ServerSpec>,
    scratch: Arc<dyn Scratch>,
    tools: Arc<dyn ToolRunner>,
    factory: Option<Arc<dyn ServerFactory>>,
}

impl Builder {
    pub(super) fn new(store: Arc<dyn Storage>) -> Self {
        Self {
            settings: Settings::default(),
            store,
            servers: vec![],
            scratch: Arc::new(InMemory),
            tools: Arc::new(NoTools),
            factory: None,
        }
    }

    /// With these settings instead of the defaults.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// With one more model server.
    #[must_use]
    pub fn server(mut self, server: ServerSpec) -> Self {
        self.servers.push(server);
        self
    }

    /// With room for what is too much for memory; without it memory has to do.
    #[must_use]
    pub fn scratch(mut self, scratch: Arc<dyn Scratch>) -> Self {
        self.scratch = scratch;
        self
    }

    /// With tools that it runs itself when a model calls them; without it all calls are passed through.
    #[must_use]
    pub fn tools(mut self, tools: Arc<dyn ToolRunner>) -> Self {
        self.tools = tools;
        self
    }

    /// With a way to add model servers at run time, and to have those again that were added before.
    #[must_use]
    pub fn server_factory(mut self, factory: Arc<dyn ServerFactory>) -> Self {
        self.factory = Some(factory);
        self
    }

    /// Starts the tree: bots run and interrupted turns are settled when this returns.
    ///
    /// # Errors
    /// Where the record can't be read or an actor does not start.
    pub async fn start(self) -> Result<Controller, ControllerError> {
        let Self { settings, store, mut servers, scratch, tools, factory } = self;
        crate::metrics::describe(crate::metrics::ALL);
        let epoch = tokio::time::timeout(settings.storage_timeout, store.epoch()).await;
        let away = |_| read_problem(&silent(settings.storage_timeout));
        let epoch = epoch.map_err(away)?.map_err(|e| storage_problem(&e))?;
        let hubs = Arc::new(Hubs::new(epoch));
        let slots = Slots::default();
        let roster = Arc::new(Roster::default());
        let clock = Clock::new();
        if let Some(factory) = &factory {
            let stored = tokio::time::timeout(settings.storage_timeout, store.servers()).await;
            let stored = stored.map_err(away)?.map_err(|e| storage_problem(&e))?;
            stored.into_iter().for_each(|record| take_in(&mut servers, record, &**factory));
        }
        let inference = Inference::new(servers, settings.inference);
        let board = TaskBoard::default();
        let pulls = Pulls::default();
        let parts = Parts {
            settings: settings.clone(),
            store: store.clone(),
            hubs: hubs.clone(),
            slots: slots.clone(),
            roster: roster.clone(),
            inference: inference.clone(),
            board: board.clone(),
            pulls: pulls.clone(),
            tools: tools.clone(),
            clock,
        };
        let Root { actor, task, view, history, tree, tasks: tracker, gates } =
            root::start(parts).await.map_err(|error| {
                tracing::error!(%error, "the tree did not start");
                Problem::new(Code::Unavailable, format!("The actors did not start: {error}"))
            })?;
        let inner = Inner {
            history,
            hubs,
            record: Record::new(store.clone()),
            slots,
            roster,
            inference,
            store,
            scratch,
            tools,
            factory,
            gates,
            server_changes: tokio::sync::Mutex::new(()),
            settings,
            clock,
            tree,
            board,
            pulls,
            tasks: tracker,
            closing: AtomicBool::new(false),
            keys: KeysInUse::default(),
            root: actor,
            view,
            root_task: tokio::sync::Mutex::new(Some(task)),
        };
        Ok(Controller { inner: Arc::new(inner) })
    }
}

/// A server that was added before. Those of the configuration win, where it names the same: what an administrator wrote down is
/// newer than what somebody added by hand.
fn take_in(servers: &mut Vec<ServerSpec>, record: ServerRecord, factory: &dyn ServerFactory) {
    let ServerRecord { name, url, slots, .. } = record;
    let found = match factory.reconnect(&url) {
        Ok(found) => found,
        Err(error) => {
            return tracing::warn!(server.name = %name, %error, "a model server that was added is not used: its address is refused");
        }
    };
    let spec = servers::spec(found, Some(name), Some(slots));
    match servers.iter().find(|there| servers::is_same(there, &spec)) {
        Some(there) => {
            tracing::warn!(server.name = %spec.name, instead = %there.name, "a model server that was added is not used: the configuration names the same");
        }
        None => servers.push(spec),
    }
}
