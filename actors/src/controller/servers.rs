//! The façade: model servers.

use super::*;
use crate::inference::{self, Gate};

impl Controller {
    /// The model servers.
    #[must_use]
    pub fn servers(&self) -> Vec<Server> {
        self.inner.inference.gates().iter().map(|gate| gate.server()).collect()
    }

    fn gate(&self, server: &str) -> Result<&Arc<Gate>, Problem> {
        let found = self.inner.inference.gates().iter().find(|g| g.spec.name == server);
        found.ok_or_else(|| {
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
        if inference::probe(gate).await {
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
}
