//! [`ToolRunner`] whose results a test writes by hand.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::ports::tool_runner::{ToolCall, ToolError, ToolRunner};

/// A tool that answers at once with its arguments; it takes objects only.
pub const ECHO_TOOL: &str = "echo";
/// A tool that answers what the test says.
pub const HAND_TOOL: &str = "by_hand";
/// A tool that panics.
pub const PANIC_TOOL: &str = "panics";
/// Calls that may wait for the test.
const QUEUE: usize = 1024;

/// A call that the test answers.
#[derive(Debug)]
pub struct HandCall {
    /// What was asked.
    pub call: ToolCall,
    /// Where the result goes; closed once nobody waits for it any more.
    pub result: oneshot::Sender<Result<String, ToolError>>,
}

/// Tools with nothing to say by themselves.
#[derive(Debug)]
pub struct HandTools {
    calls: mpsc::Sender<HandCall>,
    waiting: Mutex<mpsc::Receiver<HandCall>>,
    runs: AtomicU32,
}

impl Default for HandTools {
    fn default() -> Self {
        let (calls, waiting) = mpsc::channel(QUEUE);
        Self { calls, waiting: Mutex::new(waiting), runs: AtomicU32::new(0) }
    }
}

impl HandTools {
    /// The next call of [`HAND_TOOL`].
    pub async fn called(&self) -> HandCall {
        loop {
            if let Some(call) = self.waiting.lock().await.recv().await {
                return call;
            }
        }
    }

    /// How many calls were run.
    pub fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ToolRunner for HandTools {
    fn knows(&self, name: &str) -> bool {
        [ECHO_TOOL, HAND_TOOL, PANIC_TOOL].contains(&name)
    }

    #[allow(clippy::panic, reason = "it is there to panic")]
    async fn run(&self, call: &ToolCall) -> Result<String, ToolError> {
        if !self.knows(&call.name) {
            return Err(ToolError::Unknown);
        }
        self.runs.fetch_add(1, Ordering::SeqCst);
        match call.name.as_str() {
            ECHO_TOOL if call.arguments.is_object() => Ok(call.arguments.to_string()),
            ECHO_TOOL => Err(ToolError::Arguments("must be an object".into())),
            PANIC_TOOL => panic!("on purpose"),
            _ => {
                let (result, answer) = oneshot::channel();
                let over = |_| ToolError::Failed("the test is over".into());
                self.calls.try_send(HandCall { call: call.clone(), result }).map_err(|_| over(()))?;
                answer.await.map_err(|_| over(()))?
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testkit::conformance::tool_runner::{Subject, suite};

    #[tokio::test]
    async fn the_fake_passes_the_suite() {
        let subject = Subject {
            runner: HandTools::default(),
            name: ECHO_TOOL.into(),
            arguments: json!({}),
            wrong_arguments: vec![json!([]), json!(null)],
        };
        suite(&subject).await;
    }
}
