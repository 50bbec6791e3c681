//! The façade: model servers, those of the configuration and those that come and go at run time.

use serde_json::{Map, Value};

use super::*;
use crate::{
    domain::{
        event::{EventBody, NewEvent, Topic},
        model::{SERVER_NAME_MAX, SERVER_SLOTS_MAX, ServerRecord, address_key, is_server_name},
        time::Timestamp,
    },
    inference::{self, Gate},
    ports::server_factory::{AddressRefused, Connection},
    supervision::SupervisorMessage,
};

/// How long one that is added may take to answer before whoever adds it is told that it has not.
const FIRST_PROBE: Duration = Duration::from_secs(2);

impl Controller {
    /// The model servers.
    #[must_use]
    pub fn servers(&self) -> Vec<Server> {
        self.inner.inference.gates().iter().map(|gate| gate.server()).collect()
    }

    fn gate(&self, server: &str) -> Result<Arc<Gate>, Problem> {
        self.inner.inference.gate(server).ok_or_else(|| {
            let detail = format!("There is no model server {server:?}; GET /api/servers lists them.");
            Problem::new(Code::ServerNotFound, detail)
        })
    }

    /// Asks a model server how it is, now. One that answers gets its turns again at once: the pauses for what failed before
    /// are over.
    ///
    /// # Errors
    /// `server_not_found`.
    pub async fn probe_server(&self, name: &str) -> Result<Server, ControllerError> {
        let gate = self.gate(name)?;
        if inference::probe(&gate).await {
            gate.forgive();
        }
        Ok(gate.server())
    }

    /// Gives a model server no new turns any more, until it is resumed or the process ends: what runs there goes on, who waits
    /// there moves on to another one that has the model.
    ///
    /// # Errors
    /// `server_not_found`.
    pub fn drain_server(&self, name: &str) -> Result<Server, ControllerError> {
        self.gate(name).map(|gate| {
            gate.drain(true);
            gate.server()
        })
    }

    /// Ends a drain.
    ///
    /// # Errors
    /// `server_not_found`.
    pub fn resume_server(&self, name: &str) -> Result<Server, ControllerError> {
        self.gate(name).map(|gate| {
            gate.drain(false);
            gate.server()
        })
    }

    /// Adds a model server; it is there again after a restart. It is asked how it is, for at most two seconds, and need not
    /// answer yet: what it has is asked for when it does. Audited.
    ///
    /// # Errors
    /// `invalid_request` with the field (an address that is refused, too), `server_exists`, `storage_unavailable`.
    pub async fn add_server(&self, add: AddServer) -> Result<Server, ControllerError> {
        self.open()?;
        let AddServer { name, url, slots } = add;
        if name.as_ref().is_some_and(|name| !is_server_name(name)) {
            return Err(Problem::field(
                "name",
                format!("1 to {SERVER_NAME_MAX} of A-Z a-z 0-9 . : _ -, not . or .."),
            ));
        }
        if slots.is_some_and(|slots| !(1..=SERVER_SLOTS_MAX).contains(&slots)) {
            return Err(Problem::field("slots", format!("a whole number from 1 to {SERVER_SLOTS_MAX}")));
        }
        let refused = |why: AddressRefused| Problem::field("url", why.to_string());
        let factory = self.inner.factory.as_ref().ok_or_else(|| {
            Problem::new(Code::Unavailable, "This process was built without a way to add model servers.")
        })?;
        let found = factory.connect(&url).await.map_err(refused)?;
        let spec = spec(found, name, slots);
        let me = self.clone();
        self.carry_out(async move { me.carry_out_addition(spec).await }).await
    }

    async fn carry_out_addition(&self, spec: ServerSpec) -> Result<Server, Problem> {
        let _one_by_one = self.inner.server_changes.lock().await;
        let inference = &self.inner.inference;
        if let Some(there) = inference.gates().iter().find(|g| is_same(&g.spec, &spec)) {
            let Server { name, url, .. } = there.server();
            let detail = format!("There is the model server {name} at {url}. Delete it first, or use it.");
            return Err(Problem::new(Code::ServerExists, detail));
        }
        let record = ServerRecord {
            name: spec.name.clone(),
            url: spec.url.clone(),
            slots: spec.slots,
            created_at: Timestamp::now(),
        };
        let detail = Map::from_iter([
            ("url".to_owned(), Value::from(record.url.clone())),
            ("slots".to_owned(), record.slots.into()),
        ]);
        let gate = inference.new_gate(spec);
        // What is told of it is what was found, and not that it is down because nobody has asked.
        inference::probe_within(&gate, FIRST_PROBE).await;
        let fact = about("server.add", &gate, Change::AddServer(record), false, detail);
        self.inner.history.append(fact).await?;
        inference.add(gate.clone());
        let spec = self.inner.gates.child(&gate);
        self.tell_inference(|reply| SupervisorMessage::AddChild { spec, reply }).await;
        Ok(gate.server())
    }

    /// Removes a model server, also one that is drained or the last one. What runs there goes on to its end; who waits there
    /// moves on to another one, or waits for one. One of the configuration is back after a restart. Audited.
    ///
    /// # Errors
    /// `server_not_found`, `storage_unavailable`.
    pub async fn remove_server(&self, name: &str) -> Result<(), ControllerError> {
        self.open()?;
        let (me, name) = (self.clone(), name.to_owned());
        self.carry_out(async move { me.carry_out_removal(name).await }).await
    }

    async fn carry_out_removal(&self, name: String) -> Result<(), Problem> {
        let _one_by_one = self.inner.server_changes.lock().await;
        let gate = self.gate(&name)?;
        let change = Change::RemoveServer(name.clone());
        let fact = about("server.remove", &gate, change, true, Map::new());
        self.inner.history.append(fact).await?;
        self.inner.inference.remove(&gate);
        self.tell_inference(|reply| SupervisorMessage::RemoveChild { id: name.as_str().into(), reply }).await;
        Ok(())
    }

    /// One that is being restarted takes the list as it is when it starts, so it is only waited for.
    async fn tell_inference(&self, message: impl FnOnce(ractor::RpcReplyPort<()>) -> SupervisorMessage) {
        let slot = &self.inner.slots.inference;
        let told = match slot.wait(CALL).await {
            Ok(_) => slot.call(message, CALL).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::error!(%error, "the supervisor of the model servers was not told of a change; its next start sees it");
        }
    }
}

/// What the tree runs turns on.
pub(super) fn spec(found: Connection, name: Option<String>, slots: Option<u32>) -> ServerSpec {
    ServerSpec {
        name: name.unwrap_or(found.name),
        url: found.url,
        slots: slots.unwrap_or(found.slots),
        simulated: false,
        model: found.model,
    }
}

/// Whether two would be the same server to those who see them.
pub(super) fn is_same(a: &ServerSpec, b: &ServerSpec) -> bool {
    a.name == b.name || address_key(&a.url) == address_key(&b.url)
}

fn about(action: &str, gate: &Gate, change: Change, removed: bool, detail: Map<String, Value>) -> Fact {
    let server = gate.server();
    let audit = Some(bots::audit(action, format!("server:{}", server.name), None, detail));
    let event = NewEvent::new(vec![Topic::Models], &EventBody::ServerStateChanged { server, removed });
    Fact { change, events: vec![event], audit }
}
