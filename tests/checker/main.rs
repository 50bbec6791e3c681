//! The history checker. Clients send, stop and read while actors and processes are killed and connections cut; afterwards a
//! pure judge looks at what everybody saw and at what is stored. Everything that is chosen follows from a seed.
//!
//! ```text
//! cargo test --test checker                                    a few
//! scripts/test histories                                       what CI runs: 200 on SQLite, 60 on PostgreSQL
//! cargo test --test checker -- --histories 5000                more of them
//! cargo test --test checker -- --seed 1234 --histories 1       that one again
//! scripts/with-postgres cargo test --test checker -- --database postgres
//! ```
//!
//! The seed decides about the plan, not about the machine's timing: a failure that depends on it may need several runs, which
//! `--repeat N` does. What everybody saw in a failing history is written to `target/tmp/checker-SEED.json`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::print_stdout, reason = "a test harness of its own: it reports as libtest does")]

#[path = "../it"]
mod shared {
    pub mod support;
}

mod arguments;
mod clients;
mod house;
mod judge;
mod judge_tests;
mod log;
mod place;
mod plan;
mod proxy;
mod readers;
mod run;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use deia::sim::{Sim, SimConfig};
use tokio::{sync::watch, task::JoinSet};

use self::{
    arguments::Arguments,
    place::Servers,
    plan::{Database, Plan},
    run::Counts,
};

/// How long a phase of a history may take; all of them take half a second.
const DEADLINE: Duration = Duration::from_secs(300);

/// How the tests ended.
#[derive(Default)]
struct Results {
    passed: usize,
    /// Names, and what is wrong.
    failed: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            println!("{wrong}");
            return ExitCode::from(2);
        }
    };
    // Bots are crashed on purpose all the time: one line each is enough, and none for those.
    std::panic::set_hook(Box::new(|info| {
        if info.payload_as_str().is_none_or(|text| !text.contains("killed on purpose")) {
            println!("{info}");
        }
    }));
    let started = Instant::now();
    let mut results = Results::default();
    for (name, test) in judge_tests::tests() {
        if arguments.wants(&name) {
            let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
            results.note(&name, if passed { Ok(()) } else { Err("  it panicked".into()) });
        }
    }
    if arguments.wants("histories") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(histories(&arguments, &mut results));
        // Not for ever: what made a history hang would hold the end of all of them.
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    if !results.failed.is_empty() {
        println!("\nfailures:");
        for (name, wrong) in &results.failed {
            println!("    {name}\n{wrong}");
        }
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        if results.failed.is_empty() { "ok" } else { "FAILED" },
        results.passed,
        results.failed.len(),
        started.elapsed().as_secs_f64()
    );
    if results.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

impl Results {
    fn note(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(wrong) => {
                println!("test {name} ... FAILED");
                self.failed.push((name.to_owned(), wrong));
            }
        }
    }
}

/// Lets the histories happen, some at a time, and judges each.
async fn histories(arguments: &Arguments, results: &mut Results) {
    let sim = Arc::new(Sim::start(SimConfig::default()).await.expect("the model server starts"));
    let servers = Arc::new(Servers::default());
    let mut seeds = arguments.seeds();
    let (mut running, mut counts, mut judged) = (JoinSet::new(), Counts::default(), 0);
    loop {
        while running.len() < arguments.jobs
            && let Some(seed) = seeds.next()
        {
            let (plan, sim, servers) = (Plan::new(seed, arguments.database), sim.clone(), servers.clone());
            running.spawn(async move {
                let doing = watch::Sender::new("");
                let mut history = tokio::spawn(one(plan, sim, servers, doing.clone()));
                let mut phases = doing.subscribe();
                let ended = loop {
                    tokio::select! {
                        ended = &mut history => break ended,
                        Ok(()) = phases.changed() => {}
                        () = tokio::time::sleep(DEADLINE) => {
                            history.abort();
                            break Ok(Err(format!("  it hangs in {}: no end of that within {DEADLINE:?}", *doing.borrow())));
                        }
                    }
                };
                (seed, ended)
            });
        }
        let Some(ended) = running.join_next().await else { break };
        let (seed, ended) = ended.expect("the task of a history is waited for");
        let name = format!("history::{seed}");
        judged += 1;
        let judgement = ended.unwrap_or_else(|panicked| Err(format!("  {panicked}")));
        let judgement = judgement.map(|of_one| counts.add(of_one));
        results
            .note(&name, judgement.map_err(|wrong| format!("{wrong}\n  again: {}", arguments.again(seed))));
    }
    println!("{judged} histories: {counts:?}");
    if arguments.histories >= 50 {
        let rich = counts.acknowledged > judged * 5
            && counts.unknown > judged / 10
            && counts.resumed > judged / 2
            && (arguments.database == Database::Sqlite || counts.cut_commits > judged / 10)
            && ["completed", "stopped", "interrupted"].iter().all(|state| counts.ends.contains_key(*state));
        let poor = || format!("  too little happened in them: {counts:?}");
        results.note("histories::are_worth_judging", rich.then_some(()).ok_or_else(poor));
    }
    if let Some(sim) = Arc::into_inner(sim) {
        sim.stop().await;
    }
}

/// One history; what is wrong with it, in words.
async fn one(
    plan: Plan,
    sim: Arc<Sim>,
    servers: Arc<Servers>,
    doing: watch::Sender<&'static str>,
) -> Result<Counts, String> {
    let (history, counts) = run::run(&plan, &sim, &servers, &doing).await;
    let wrong = judge::judge(&history);
    if wrong.is_empty() {
        return Ok(counts);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("checker-{}.json", plan.seed));
    let whole = serde_json::json!({"plan": plan, "wrong": wrong, "history": history});
    let written = std::fs::write(&file, serde_json::to_vec_pretty(&whole).expect("it is JSON"));
    let more = wrong.len().saturating_sub(10);
    let shown: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
    Err(format!(
        "  {}\n  and {more} more; faults: {:?}; all of it: {} ({written:?})",
        shown.join("\n  "),
        plan.faults,
        file.display()
    ))
}
