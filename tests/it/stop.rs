//! Stop in each phase of a turn: the call to the model server is closed and the slot free, whatever the turn was doing.

use crate::support::Stage;

#[tokio::test]
async fn metrics_are_there_for_prometheus() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    api.send("ada", "hello").await.expect(200);
    let answer = api.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = answer.expect(200);
    let page = page.as_str().expect("text");
    let server = stage.sim.url().replace("http://", "");
    for line in [
        "# TYPE deia_stop_latency_seconds histogram".to_owned(),
        "deia_turns_total{state=\"completed\"} 1".to_owned(),
        "deia_turns_total{state=\"failed\"} 0".to_owned(),
        format!("deia_inference_slots_busy{{server=\"{server}\"}} 0"),
        format!("deia_inference_queue_depth{{server=\"{server}\"}} 0"),
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
}
