//! The `deia` binary: a runtime around the command line.

use std::{
    io::{self, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Parser;
use deia::cli::Cli;

/// One worker that is kept busy must not keep `/health` from answering.
const MIN_WORKERS: usize = 2;
/// How long what still blocks a thread may hold up the end of the process.
const LAST_WORK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let workers = thread::available_parallelism().map_or(MIN_WORKERS, |cores| cores.get().max(MIN_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli.run());
            runtime.shutdown_timeout(LAST_WORK);
            code
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "deia: can't start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
