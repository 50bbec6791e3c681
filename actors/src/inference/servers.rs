//! The list of gates, which may change while turns run: whoever looks at it has it as it was at one moment.

use std::sync::Arc;

use super::{Gate, GateActor, GateArgs, Inference, ServerSpec};
use crate::{broadcast::Hubs, history::History, supervision::ChildSpec};
use tokio_util::task::TaskTracker;

/// The gates at one moment, in the order in which they were added.
pub(crate) type Gates = Arc<[Arc<Gate>]>;

impl Inference {
    /// The gates now.
    pub fn gates(&self) -> Gates {
        self.gates.read().clone()
    }

    /// The gate of this server.
    pub fn gate(&self, server: &str) -> Option<Arc<Gate>> {
        self.gates.read().iter().find(|g| g.spec.name == server).cloned()
    }

    /// A gate that is in no list yet.
    pub fn new_gate(&self, spec: ServerSpec) -> Arc<Gate> {
        Arc::new(Gate::new(spec, self.limits, self.changed.clone()))
    }

    /// One more server, whose name the caller has found free.
    pub fn add(&self, gate: Arc<Gate>) {
        let mut gates = self.gates.write();
        *gates = gates.iter().cloned().chain([gate]).collect();
    }

    /// A server goes: what runs there ends there, who waits there looks for another one.
    pub fn remove(&self, gate: &Arc<Gate>) {
        {
            let mut gates = self.gates.write();
            *gates = gates.iter().filter(|g| !Arc::ptr_eq(g, gate)).cloned().collect();
        }
        gate.retire();
    }
}

/// What the actors of gates need.
#[derive(Debug, Clone)]
pub(crate) struct GateHouse {
    pub inference: Inference,
    pub hubs: Arc<Hubs>,
    pub history: History,
    pub tasks: TaskTracker,
}

impl GateHouse {
    /// How the actor of a gate is started.
    pub fn child(&self, gate: &Arc<Gate>) -> ChildSpec {
        let args = GateArgs {
            gate: gate.clone(),
            inference: self.inference.clone(),
            hubs: self.hubs.clone(),
            history: self.history.clone(),
            tasks: self.tasks.clone(),
        };
        ChildSpec::actor(gate.spec.name.as_str(), &gate.actor, move || (GateActor, args.clone()))
    }

    /// The actors of all gates that there are now.
    pub fn children(&self) -> Vec<ChildSpec> {
        self.inference.gates().iter().map(|gate| self.child(gate)).collect()
    }
}
