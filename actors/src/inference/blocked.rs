//! Why nobody can be asked, in words for people: a server that is up and pauses is not one that is offline.

use std::{sync::Arc, time::Instant};

use super::{Gate, Inference, Preference, gate};
use crate::domain::{
    bot::BotConfig,
    problem::{Code, Problem},
};

/// Servers that a problem names.
const SERVERS_NAMED: usize = 5;

/// Where the list of servers is empty.
const NO_SERVER: &str = "There is no model server. Add one with POST /api/servers or on the page Models & servers of the dashboard.";

/// Why a server that answers gets no turns for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocked {
    /// What is the matter, as a clause.
    pub why: String,
    /// When it is tried again, as far as that is known.
    pub until: Option<Instant>,
}

impl Inference {
    /// The problem of a turn that waited in vain for somebody to ask.
    pub(super) fn in_vain(&self, preference: &Preference) -> Problem {
        let waited = self.limits.offline_wait.as_secs();
        let blocked = preference.models().iter().find_map(|model| self.blocked(model));
        let detail = blocked.as_ref().map_or_else(
            || match self.gates().is_empty() {
                true => format!("{NO_SERVER} This waited {waited} s for one. The message is kept; send it again then."),
                false => format!(
                    "No model server that can run this answered for {waited} s. The message is kept; start Ollama and send it again."
                ),
            },
            |b| format!("{}. This waited {waited} s for it. The message is kept; {}.", b.why, again(b, "send it again")),
        );
        offline(detail, blocked.as_ref())
    }

    /// The problem of a turn that waited in line as long as it may.
    pub(super) fn too_long(&self, server: &str) -> Problem {
        let waited = self.limits.queue_wait.unwrap_or_default().as_secs();
        let detail = format!(
            "This waited {waited} s in line, at last for {server}, and was not answered. The message is kept; send it again later."
        );
        Problem::new(Code::InferenceQueueTimeout, detail)
    }

    /// The problem of a model that this server was asked for and does not have, nor any other that answers.
    pub(crate) fn no_such_model(&self, model: &str, asked: &str) -> Problem {
        let gates = self.gates();
        let lack = |gate: &&Arc<Gate>| gate.is_up() && !gate.serves(model) && gate.spec.name != asked;
        let others = gates.iter().filter(lack).map(|gate| gate.spec.name.as_str());
        let servers: Vec<_> = std::iter::once(asked).chain(others).collect();
        Problem::new(Code::ModelNotFound, without(model, &servers))
    }

    /// The problem of a model of which nobody can be asked.
    pub(super) fn no_details(&self, model: &str) -> Problem {
        let blocked = self.blocked(model);
        let detail = blocked.as_ref().map_or_else(
            || match self.gates().is_empty() {
                true => NO_SERVER.to_owned(),
                false => "No model server answers, so the model can't be looked up.".to_owned(),
            },
            |b| format!("{}, so the model can't be looked up now; {}.", b.why, again(b, "try again")),
        );
        offline(detail, blocked.as_ref())
    }

    /// What is to be said of a bot whose model no server has: who answers until one does.
    pub(crate) fn absent(&self, config: &BotConfig) -> String {
        let model = &config.model;
        match self.choose(model, &config.fallback) {
            own if own == model => {
                format!("No server that answers has {model} now. Pull it before you send a message.")
            }
            other => {
                format!(
                    "No server that answers has {model} now. Until it is pulled, {other} answers (fallback)."
                )
            }
        }
    }

    /// What keeps a model from turns though a server that has it answers: of several the one that is over first.
    fn blocked(&self, model: &str) -> Option<Blocked> {
        let gates = self.gates();
        let blocked = gates.iter().filter_map(|gate| gate.blocked(model));
        blocked.min_by_key(|b| (b.until.is_none(), b.until))
    }
}

fn without(model: &str, servers: &[&str]) -> String {
    let named = &servers[..servers.len().min(SERVERS_NAMED)];
    let more = servers.len() - named.len();
    match named {
        [one] => format!("{one} has no model {model}. Pull it there, or choose another model."),
        [first @ .., last] if more == 0 => format!(
            "Neither {} nor {last} has a model {model}. Pull it to one of them, or choose another model.",
            first.join(", ")
        ),
        _ => format!(
            "None of {} and {more} more has a model {model}. Pull it to one of them, or choose another model.",
            named.join(", ")
        ),
    }
}

fn offline(detail: String, blocked: Option<&Blocked>) -> Problem {
    let problem = Problem::new(Code::OllamaOffline, detail);
    match blocked.and_then(seconds) {
        Some(seconds) => problem.retry_after(seconds),
        None => problem,
    }
}

/// Whole seconds until it is tried again, at least one.
fn seconds(blocked: &Blocked) -> Option<u32> {
    let left = blocked.until?.saturating_duration_since(gate::now());
    Some(left.as_secs_f64().ceil().max(1.0) as u32)
}

fn again(blocked: &Blocked, what: &str) -> String {
    match seconds(blocked) {
        Some(seconds) => format!("{what} in {seconds} s, when it is tried again"),
        None => format!("{what} later"),
    }
}
