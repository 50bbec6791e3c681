//! Asked to stop by the system: SIGTERM and SIGINT ask once, the second one insists.

use std::{io, pin::pin};

use tokio::{
    select,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Runs `work`, which gets a token that the first SIGTERM or SIGINT cancels; `work` then has the time that it takes
/// itself. A second signal ends the process at once, with 128 and the number of the signal as its exit code.
///
/// # Errors
/// The signal handlers can't be installed.
pub async fn run_until_asked_to_stop<F: Future>(
    work: impl FnOnce(CancellationToken) -> F,
) -> io::Result<F::Output> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let mut work = pin!(work(stop.clone()));
    let mut asked = false;
    loop {
        let kind = select! {
            output = &mut work => return Ok(output),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        let number = kind.as_raw_value();
        if asked {
            tracing::warn!(signal = number, "stopping at once");
            #[allow(
                clippy::disallowed_methods,
                reason = "whoever asks twice does not want to wait for anything"
            )]
            std::process::exit(128 + number);
        }
        tracing::info!(signal = number, "stopping");
        asked = true;
        stop.cancel();
    }
}
