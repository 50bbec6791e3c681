//! What every [`ToolRunner`] has to do.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    domain::ids::{BotId, ConversationId, TurnId},
    ports::tool_runner::{ToolCall, ToolError, ToolRunner},
};

/// A runner under test, with a tool that it has.
#[derive(Debug)]
pub struct Subject<R> {
    /// The runner.
    pub runner: R,
    /// A tool that it knows.
    pub name: String,
    /// What that tool takes.
    pub arguments: Value,
    /// What it does not take.
    pub wrong_arguments: Vec<Value>,
}

/// A call of a tool, of nobody in particular.
#[must_use]
pub fn call(name: &str, arguments: Value) -> ToolCall {
    ToolCall {
        bot_id: BotId::numbered(1),
        conversation_id: ConversationId::new(),
        turn_id: TurnId::new(),
        id: "call_1".into(),
        name: name.into(),
        arguments,
    }
}

/// Every obligation, one after the other.
pub async fn suite<R: ToolRunner>(subject: &Subject<R>) {
    let Subject { runner, name, arguments, wrong_arguments } = subject;
    assert!(runner.knows(name) && runner.knows(name), "it knows its tool");
    for unknown in ["", "no such tool", "\u{0}"] {
        assert!(!runner.knows(unknown));
        let refused = runner.run(&call(unknown, arguments.clone())).await;
        assert_eq!(refused, Err(ToolError::Unknown), "{unknown:?}");
    }
    for wrong in wrong_arguments {
        let refused = runner.run(&call(name, wrong.clone())).await;
        assert!(matches!(refused, Err(ToolError::Arguments(_))), "{wrong}: {refused:?}");
    }
    // Dropped before it is over.
    drop(runner.run(&call(name, arguments.clone())));
    let together = join_all((0..4).map(|_| async { runner.run(&call(name, arguments.clone())).await }));
    let results = timeout(Duration::from_secs(10), together).await.expect("calls do not wait for each other");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}
