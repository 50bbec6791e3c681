//! The recorder of this process: keeps what the parts count through the facade `metrics`, and writes it as Prometheus reads it.
//!
//! Without it (a host that embeds the library, or has a recorder of its own) counting does nothing here.

use std::{sync::Arc, time::Duration};

use deia_actors::metrics::{ALL, Kind};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Values of histograms wait in memory until they are sorted into their buckets; this often they are.
const UPKEEP: Duration = Duration::from_secs(5);
/// A gauge that nobody has set for so long is left out: its server is gone. Each probe sets those of a server, every few seconds.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Why metrics can't be recorded.
#[derive(Debug, thiserror::Error)]
#[error("the metrics can't be recorded: {0}")]
pub struct MetricsError(#[from] BuildError);

/// The recorder and the task that looks after it.
#[derive(Debug)]
pub struct Recorder {
    handle: PrometheusHandle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

fn builder(forgotten: Duration) -> Result<PrometheusBuilder, MetricsError> {
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(forgotten));
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)?;
        }
    }
    Ok(builder)
}

impl Recorder {
    /// Installs the global recorder of this process, to be done before anything counts. Needs a tokio runtime.
    ///
    /// # Errors
    /// The process has a recorder already.
    pub fn install() -> Result<Self, MetricsError> {
        let handle = builder(FORGOTTEN)?.install_recorder()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (looked_after, stopped) = (handle.clone(), stop.clone());
        tasks.spawn(async move {
            while stopped.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
                looked_after.run_upkeep();
            }
        });
        Ok(Self { handle, stop, tasks })
    }

    /// Writes all metrics in Prometheus' text format.
    #[must_use]
    pub fn page(&self) -> Arc<dyn Fn() -> String + Send + Sync> {
        let handle = self.handle.clone();
        Arc::new(move || handle.render())
    }

    /// Ends the task behind it.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use deia_actors::metrics::{QUEUE_DEPTH, REFUSALS, STOP_LATENCY, TURNS, describe};
    use metrics::{gauge, histogram, with_local_recorder};

    use super::*;

    #[test]
    fn a_page_says_what_each_metric_means_begins_at_zero_and_sorts_into_buckets() {
        let recorder = builder(FORGOTTEN).unwrap().build_recorder();
        with_local_recorder(&recorder, || {
            describe(ALL);
            histogram!(STOP_LATENCY.name, "phase" => "prompt").record(0.004);
        });
        let page = recorder.handle().render();
        for metric in [STOP_LATENCY, TURNS, REFUSALS] {
            assert!(page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{page}");
        }
        for line in [
            "# TYPE deia_stop_latency_seconds histogram",
            "deia_stop_latency_seconds_bucket{phase=\"prompt\",le=\"0.0025\"} 0",
            "deia_stop_latency_seconds_bucket{phase=\"prompt\",le=\"0.005\"} 1",
            "deia_stop_latency_seconds_count{phase=\"prompt\"} 1",
            "deia_turns_total{state=\"failed\"} 0",
            "deia_inference_refusals_total{code=\"inference_queue_full\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }
    #[test]
    fn a_gauge_that_nobody_sets_any_more_leaves_the_page_and_the_others_stay() {
        let recorder = builder(Duration::from_millis(1)).unwrap().build_recorder();
        with_local_recorder(&recorder, || {
            describe(ALL);
            gauge!(QUEUE_DEPTH.name, "server" => "gone").set(0.0);
            loop {
                gauge!(QUEUE_DEPTH.name, "server" => "here").set(0.0);
                let page = recorder.handle().render();
                assert!(page.contains("deia_inference_queue_depth{server=\"here\"} 0\n"), "{page}");
                assert!(page.contains("deia_turns_total{state=\"failed\"} 0\n"), "{page}");
                if !page.contains("gone") {
                    break;
                }
            }
        });
    }
}
