//! Health: `GET /health` (alive) · `/ready` · `/health/db` · `/health/ollama` · `/health/deep`.
//!
//! `/health` touches no dependency and no lock; the others ask, with a time limit of their own. `/health/deep` also asks the
//! actors how much waits: one message to each mailbox.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use deia_actors::{
    controller::{Controller, Observation},
    domain::{
        model::{BreakerState, Server, ServerState},
        task::Task,
        time::Timestamp,
        tree::TreeNode,
    },
};
use http::{HeaderValue, Method, StatusCode, header::RETRY_AFTER};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warp::{Filter, reply::Response};

use super::{
    Api,
    extract::with,
    problem::{json_with, respond},
    route::{Endpoint, PathValues},
};

/// Longest wait for the answer of a dependency.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// The state of an actor that is up.
const UP: &str = "up";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Degraded,
    Down,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Check {
    status: Status,
    latency_ms: Option<f64>,
    /// Since when it has this status; left out where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    detail: Option<String>,
    /// What each background task did and when it runs next, where the check is about them.
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<Task>>,
    /// Rows that were left out because they can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined_rows: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    status: Status,
    checks: BTreeMap<String, Check>,
}

/// Asks the dependencies. Since when they are as they are the parts themselves know: it does not begin with the first look.
#[derive(Clone)]
struct Health {
    tree: Controller,
    stopping: CancellationToken,
}

impl Check {
    fn new(status: Status, since: Option<Timestamp>, detail: Option<String>) -> Self {
        Self { status, latency_ms: None, since, detail, tasks: None, quarantined_rows: None }
    }
}

/// Since when all actors below the root are up, or the first of those that are not is down.
fn up_since(parts: &[TreeNode]) -> Option<Timestamp> {
    let of = |up: bool| parts.iter().filter(move |c| (c.state == UP) == up).map(|c| c.since);
    of(false).min().or_else(|| of(true).max())
}

/// Since when one of them is in its state; where it is up and does not answer all the same, nobody knows.
fn state_since(parts: &[TreeNode], name: &str, answers: bool) -> Option<Timestamp> {
    let node = parts.iter().find(|c| c.name == name)?;
    ((node.state == UP) == answers).then_some(node.since)
}

impl Health {
    /// The database: down within a second after it went away; degraded while rows of it can't be read.
    async fn db(&self) -> (String, Check) {
        let began = Instant::now();
        let asked = self.tree.probe_storage().await;
        let latency_ms = Some(began.elapsed().as_secs_f64() * 1000.0);
        let rows = self.tree.quarantined_rows();
        let (status, detail) = match asked {
            Ok(()) if rows == 0 => (Status::Ok, None),
            Ok(()) => {
                let words = format!("{rows} rows can't be read and are left out; the log names them");
                (Status::Degraded, Some(words))
            }
            Err(problem) => (Status::Down, Some(problem.detail)),
        };
        // When the first row was met that can't be read is in the log.
        let since = (status != Status::Degraded).then(|| self.tree.storage_since());
        let check = Check::new(status, since, detail);
        ("db".into(), Check { latency_ms, quarantined_rows: Some(rows), ..check })
    }

    async fn actors(&self) -> (String, Check) {
        let began = Instant::now();
        let (status, detail) = match timeout(PROBE_TIME, self.tree.ready()).await {
            Ok(Ok(())) => (Status::Ok, None),
            Ok(Err(problem)) => (Status::Down, Some(problem.detail)),
            Err(_) => (Status::Down, Some(format!("no answer within {} s", PROBE_TIME.as_secs()))),
        };
        let latency_ms = Some(began.elapsed().as_secs_f64() * 1000.0);
        let parts = self.tree.parts();
        let all_up = parts.iter().all(|c| c.state == UP);
        let since = up_since(&parts).filter(|_| (status == Status::Ok) == all_up);
        ("tree".into(), Check { latency_ms, ..Check::new(status, since, detail) })
    }

    /// What is needed to take messages.
    async fn needed(&self) -> BTreeMap<String, Check> {
        let (db, actors) = tokio::join!(self.db(), self.actors());
        let mut checks = BTreeMap::from([db, actors]);
        if self.stopping.is_cancelled() {
            let check = Check::new(Status::Down, None, Some("the service is shutting down".into()));
            checks.insert("process".into(), check);
        }
        checks
    }

    async fn ready(&self) -> Report {
        let checks = self.needed().await;
        Report { status: worst(&checks), checks }
    }

    /// Everything. Without a model server messages still are taken and wait: degraded, not down.
    async fn deep(&self) -> Report {
        let (mut checks, seen) = tokio::join!(self.needed(), self.observed());
        let mut servers = servers(&self.tree.servers());
        let ollama = if overall(&servers) == Status::Ok { Status::Ok } else { Status::Degraded };
        servers.values_mut().for_each(|check| check.status = check.status.min(Status::Degraded));
        let status = worst(&checks).max(worst(&seen)).max(ollama);
        checks.extend(servers.into_iter().map(|(name, check)| (format!("ollama:{name}"), check)));
        checks.extend(seen);
        Report { status, checks }
    }

    /// What the actors have to do: facts that wait to be stored say that the database does not keep up.
    async fn observed(&self) -> BTreeMap<String, Check> {
        let began = Instant::now();
        let seen = self.tree.observe().await;
        let latency_ms = Some(began.elapsed().as_secs_f64() * 1000.0);
        let parts = self.tree.parts();
        let words = details(&seen).map(|(name, detail)| {
            let since = state_since(&parts, name, detail.is_some());
            let status = if detail.is_some() { Status::Ok } else { Status::Degraded };
            let detail = detail.or_else(|| Some("does not answer; it is being restarted".into()));
            (name.into(), Check { latency_ms, ..Check::new(status, since, detail) })
        });
        let mut checks = BTreeMap::from(words);
        checks.insert("retention".into(), self.retention());
        checks
    }

    /// Deleting what is old: degraded while a kind's last run broke off. When each ran is said with the tasks.
    fn retention(&self) -> Check {
        let tasks = self.tree.tasks();
        let broken: Vec<_> =
            tasks.iter().filter_map(|t| Some(format!("{}: {}", t.task, t.error.as_ref()?))).collect();
        let status = if broken.is_empty() { Status::Ok } else { Status::Degraded };
        let rows: u64 = tasks.iter().map(|t| t.rows).sum();
        let detail =
            if broken.is_empty() { format!("{rows} old rows in the last run") } else { broken.join("; ") };
        Check { tasks: Some(tasks), ..Check::new(status, None, Some(detail)) }
    }

    fn ollama(&self) -> Report {
        let checks = servers(&self.tree.servers());
        Report { status: overall(&checks), checks }
    }
}

/// Each actor's work in words; none for one that does not answer.
fn details(seen: &Observation) -> [(&'static str, Option<String>); 4] {
    [
        (
            "history",
            seen.history
                .map(|h| format!("{} facts wait; {} taken in {} groups", h.waiting, h.facts, h.groups)),
        ),
        (
            "broadcast",
            seen.broadcast.map(|b| {
                format!("{} readers on {} topics; {} events published", b.readers, b.topics, b.published)
            }),
        ),
        (
            "state",
            seen.state
                .map(|s| format!("{} of {} bots run; {} being launched", s.running, s.bots, s.reserved)),
        ),
        ("bots", seen.bots.map(|b| format!("{} actors up; {} wait for their restart", b.up, b.restarting))),
    ]
}

fn worst(checks: &BTreeMap<String, Check>) -> Status {
    checks.values().map(|c| c.status).max().unwrap_or(Status::Ok)
}

/// Up while all servers are, degraded while one is.
fn overall(servers: &BTreeMap<String, Check>) -> Status {
    let up = servers.values().filter(|c| c.status == Status::Ok).count();
    match up {
        0 => Status::Down,
        n if n == servers.len() => Status::Ok,
        _ => Status::Degraded,
    }
}

/// What failed last there, if that is known.
fn known(before: &str, server: &Server, after: &str) -> String {
    server.breaker.reason.as_ref().map_or_else(String::new, |reason| format!("{before}{reason}{after}"))
}

fn servers(servers: &[Server]) -> BTreeMap<String, Check> {
    let check = |server: &Server| {
        // Of the pauses after failures nobody knows since when they follow each other.
        let paused = server.breaker.state != BreakerState::Closed || !server.breaker.paused_models.is_empty();
        let since = (server.state != ServerState::Up || !paused).then_some(server.since);
        let (status, detail) = match server.state {
            ServerState::Up if server.breaker.state != BreakerState::Closed => {
                let why = known(" (", server, ")");
                (Status::Degraded, Some(format!("gets no turns for a while: several failed in a row{why}")))
            }
            ServerState::Up if !server.breaker.paused_models.is_empty() => {
                let models: Vec<_> = server.breaker.paused_models.iter().map(|p| p.model.as_str()).collect();
                let words =
                    format!("gets no turns for a while for what failed several times: {}", models.join(", "));
                (Status::Degraded, Some(words))
            }
            ServerState::Up => (Status::Ok, server.version.as_ref().map(|v| format!("version {v}"))),
            ServerState::Draining => (Status::Degraded, Some("takes no new work".into())),
            ServerState::Down => {
                (Status::Down, Some(format!("{} does not answer{}", server.url, known(": ", server, ""))))
            }
        };
        Check { status, latency_ms: server.latency_ms, since, detail, tasks: None, quarantined_rows: None }
    };
    servers.iter().map(|server| (server.name.clone(), check(server))).collect()
}

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    let health = Health { tree: api.controller.clone(), stopping: api.stopping.clone() };
    let with_health = || with(&health);
    let alive = alive(api.version, Instant::now());
    vec![
        Endpoint::new(Method::GET, "/health", |at| at.map(move |_: PathValues| alive()).boxed()),
        Endpoint::new(Method::GET, "/ready", |at| {
            at.and(with_health()).then(async |_, health: Health| reported(&health.ready().await)).boxed()
        }),
        Endpoint::new(Method::GET, "/health/db", |at| {
            at.and(with_health())
                .then(async |_, health: Health| {
                    let checks = BTreeMap::from([health.db().await]);
                    reported(&Report { status: worst(&checks), checks })
                })
                .boxed()
        }),
        Endpoint::new(Method::GET, "/health/ollama", |at| {
            at.and(with_health()).map(|_, health: Health| reported(&health.ollama())).boxed()
        }),
        Endpoint::new(Method::GET, "/health/deep", |at| {
            at.and(with_health()).then(async |_, health: Health| reported(&health.deep().await)).boxed()
        }),
    ]
}

fn alive(version: &'static str, started: Instant) -> impl Fn() -> Response + Clone {
    move || {
        let uptime_seconds = started.elapsed().as_secs();
        respond(json_with(
            StatusCode::OK,
            &serde_json::json!({
                "status": Status::Ok, "checks": {}, "version": version, "uptime_seconds": uptime_seconds,
            }),
        ))
    }
}

fn reported(report: &Report) -> Response {
    let down = report.status == Status::Down;
    let status = if down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut response = respond(json_with(status, report));
    if down {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::domain::{
        model::{BreakerView, QueueDepth, Slots},
        tree::NodeKind,
    };

    use super::*;
    use crate::http::problem::tests::body;

    fn server(name: &str, state: ServerState) -> Server {
        Server {
            name: name.into(),
            url: "http://127.0.0.1:1".into(),
            state,
            version: Some("0.1".into()),
            latency_ms: Some(1.0),
            breaker: BreakerView::default(),
            slots: Slots { total: 1, busy: 0 },
            queue: QueueDepth { depth: 0, limit: 1, eta_s: None },
            since: Timestamp(1),
        }
    }

    #[test]
    fn the_model_servers_are_down_only_when_all_are() {
        let of = |states: &[ServerState]| {
            let list: Vec<_> = states.iter().enumerate().map(|(i, s)| server(&i.to_string(), *s)).collect();
            overall(&servers(&list))
        };
        assert_eq!(of(&[ServerState::Up, ServerState::Up]), Status::Ok);
        assert_eq!(of(&[ServerState::Up, ServerState::Down]), Status::Degraded);
        assert_eq!(of(&[ServerState::Down]), Status::Down);
        assert_eq!(of(&[]), Status::Down);
    }

    #[test]
    fn since_is_what_the_actors_themselves_know() {
        let node = |name: &str, state: &str, since| TreeNode {
            name: name.into(),
            path: format!("root/{name}"),
            kind: NodeKind::Worker,
            state: state.into(),
            since: Timestamp(since),
            strategy: None,
            intensity: None,
            restarts: 0,
            last_exit: None,
            history: vec![],
            mailbox: 0,
            children: vec![],
        };
        let mut parts = vec![node("history", "up", 5), node("state", "up", 9)];
        assert_eq!(up_since(&parts), Some(Timestamp(9)));
        assert_eq!(state_since(&parts, "history", true), Some(Timestamp(5)));
        assert_eq!(state_since(&parts, "history", false), None, "it hangs, and since when nobody knows");
        parts.push(node("bots", "restarting", 7));
        assert_eq!(up_since(&parts), Some(Timestamp(7)));
        assert_eq!(state_since(&parts, "bots", false), Some(Timestamp(7)));
    }

    #[tokio::test]
    async fn down_is_503_with_the_checks_and_degraded_is_200() {
        for (status, code) in [(Status::Ok, 200), (Status::Degraded, 200), (Status::Down, 503)] {
            let checks = servers(&[server("local", ServerState::Up)]);
            let response = reported(&Report { status, checks });
            assert_eq!(response.status(), code);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), code == 503);
            let body = body(response).await;
            assert_eq!(body["checks"]["local"]["since"], "1970-01-01T00:00:00.000001Z");
            assert_eq!(body["checks"]["local"]["status"], "ok");
        }
    }

    #[tokio::test]
    async fn being_alive_needs_nothing() {
        let body = body(alive("1.2.3", Instant::now())()).await;
        assert_eq!((body["status"].as_str(), body["version"].as_str()), (Some("ok"), Some("1.2.3")));
    }
}
