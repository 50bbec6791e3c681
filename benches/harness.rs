//! What all benches share: the real release binary and the simulator as processes of their own, small clients whose
//! cost is known, and plain tables.
//!
//! Everything is on loopback and bounded: a round takes `DEIA_BENCH_SECONDS` (default 8). Every process that is started
//! here ends with its guard.
#![allow(dead_code, reason = "each bench uses a part")]
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "programs for people")]

pub mod files;
pub mod http;
pub mod process;
pub mod raw;
pub mod stats;
pub mod ws;

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

/// The model of a usual turn: 20 tokens of 5 bytes, as fast as they can be sent.
pub const TWENTY: &str = "sim:tokens=20";
/// The same with 5 ms between two tokens.
pub const TWENTY_GAP_5: &str = "sim:tokens=20,gap_ms=5";
/// Bytes of a token of these models.
pub const TOKEN_BYTES: usize = 5;
/// What a usual turn says.
pub const QUESTION: &str = "What is the capital of this country?";

/// How long a round takes.
pub fn seconds() -> Duration {
    Duration::from_secs_f64(knob("DEIA_BENCH_SECONDS", 8.0))
}

/// A size that the environment may make smaller or larger.
#[allow(clippy::disallowed_methods, reason = "the knobs of the benches")]
pub fn knob<T: std::str::FromStr>(name: &str, usual: T) -> T {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(usual)
}

/// The server of `scripts/with-postgres`, where the bench runs under it.
#[allow(clippy::disallowed_methods, reason = "how scripts/with-postgres talks to what it runs")]
pub fn postgres_server() -> Option<String> {
    std::env::var("TEST_POSTGRES_URL").ok()
}

fn words_of(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// Says what is measured, and on which machine.
pub fn introduce(what: &str) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    let cores = info.lines().filter(|l| l.starts_with("processor")).count();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    println!("# {what}");
    println!(
        "machine: {cores} cores, {}; kernel {}; {}; {}; load before: {load}",
        model.trim_start_matches([' ', '\t', ':']),
        words_of("uname", &["-r"]),
        words_of("rustc", &["--version"]),
        words_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
    );
}

/// One row of a table: the first column is a name, the others are right-aligned numbers.
pub fn row(name: &str, values: &[String]) {
    print!("{name:<46}");
    for value in values {
        print!(" {value:>11}");
    }
    println!();
    // Long benches are watched while they run.
    let _ = std::io::stdout().flush();
}

/// The head of a table.
pub fn head(name: &str, columns: &[&str]) {
    println!();
    row(name, &columns.iter().map(|&c| c.to_owned()).collect::<Vec<_>>());
}

/// A throwaway folder on the disk that holds the build, not in memory: fsync must cost what it costs.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What the disk takes for an appended page of 4 KiB and an fdatasync: the raw limit under every durable answer. In ms.
pub fn fsync(folder: &Path) -> Vec<f64> {
    fsync_paced(folder, 100, Duration::ZERO)
}

/// So many of them, with a pause before each.
pub fn fsync_paced(folder: &Path, count: usize, pause: Duration) -> Vec<f64> {
    let mut file = fs::File::create(folder.join("fsync")).unwrap();
    let page = [7; 4096];
    (0..count)
        .map(|_| {
            if !pause.is_zero() {
                process::pause(pause);
            }
            let start = Instant::now();
            file.write_all(&page).unwrap();
            file.sync_data().unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}

/// A runtime of one thread: a client with more would compete with what it measures.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
