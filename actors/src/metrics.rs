//! What the tree counts and measures, through the facade `metrics`: without a recorder of the process all of it does nothing.
//!
//! Every metric is declared here once, with what it means and what its labels may be; `docs/OBSERVABILITY.md` lists the same.
//! Labels are bounded: a closed list of words, or the names of model servers. Never a bot, a turn or a model,
//! which anybody can make more of.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size; these are the upper bounds of the buckets, in the unit of the name.
    Histogram(&'static [f64]),
}

/// A label and the values that it takes; none where they are the names of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All its values, where they are a closed list.
    pub values: &'static [&'static str],
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// `deia_<subsystem>_<name>_<unit>[_total]`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What tells its series apart.
    pub labels: &'static [Label],
    /// What it means, for whoever reads it.
    pub help: &'static str,
}

const SERVER: Label = Label { name: "server", values: &[] };

/// How long a turn took to let go after a stop reached it.
pub const STOP_LATENCY: Metric = Metric {
    name: "deia_stop_latency_seconds",
    kind: Kind::Histogram(&[
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
    ]),
    labels: &[Label {
        name: "phase",
        values: &["queued", "loading", "prompt", "thinking", "content", "tools"],
    }],
    help: "From a stop that reached the bot until the turn has let go of its slot and of the connection to the model server, by \
           what the turn was doing",
};

/// Turns by their end.
pub const TURNS: Metric = Metric {
    name: "deia_turns_total",
    kind: Kind::Counter,
    labels: &[Label { name: "state", values: &["completed", "stopped", "failed", "interrupted"] }],
    help: "Turns whose end was stored, by how they ended",
};

/// Turns in the line of a server.
pub const QUEUE_DEPTH: Metric = Metric {
    name: "deia_inference_queue_depth",
    kind: Kind::Gauge,
    labels: &[SERVER],
    help: "Turns that wait for a slot of the model server",
};

/// Slots of a server that are taken.
pub const SLOTS_BUSY: Metric = Metric {
    name: "deia_inference_slots_busy",
    kind: Kind::Gauge,
    labels: &[SERVER],
    help: "Slots of the model server that turns hold",
};

/// Messages and turns that inference refused.
pub const REFUSALS: Metric = Metric {
    name: "deia_inference_refusals_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "code",
        values: &["inference_queue_full", "inference_queue_timeout", "ollama_offline"],
    }],
    help: "Messages refused because the line was full, and turns given up because they waited too long or no model server answered, by error code",
};

/// How far the estimated tokens of prompts are from those that servers count.
pub const CONTEXT_ESTIMATE_ERROR: Metric = Metric {
    name: "deia_context_estimate_error_ratio",
    kind: Kind::Histogram(&[0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]),
    labels: &[],
    help: "How far the estimated tokens of a prompt were from the model server's count, as a share of the count; prompts of text only, \
           counts of whole prompts only",
};

/// Everything that the tree counts.
pub const ALL: &[Metric] = &[STOP_LATENCY, TURNS, QUEUE_DEPTH, SLOTS_BUSY, REFUSALS, CONTEXT_ESTIMATE_ERROR];

/// Tells the recorder, if there is one, what the metrics mean, and lets those with a closed list of labels begin at zero.
pub fn describe(metrics: &[Metric]) {
    for metric in metrics {
        let Metric { name, kind, labels, help } = *metric;
        match kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Histogram(_) => describe_histogram!(name, help),
        }
        let [label] = labels else { continue };
        for value in label.values {
            match kind {
                Kind::Counter => counter!(name, label.name => *value).increment(0),
                Kind::Histogram(_) => drop(histogram!(name, label.name => *value)),
                Kind::Gauge => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_and_say_their_unit() {
        for metric in ALL {
            assert!(metric.name.starts_with("deia_"), "{}", metric.name);
            let counts = metric.kind == Kind::Counter;
            assert_eq!(counts, metric.name.ends_with("_total"), "{}", metric.name);
            if let Kind::Histogram(buckets) = metric.kind {
                let unit = metric.name.ends_with("_seconds") || metric.name.ends_with("_ratio");
                assert!(buckets.is_sorted() && unit, "{}", metric.name);
            }
        }
    }
}
