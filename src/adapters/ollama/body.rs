//! The body of `/api/chat`, borrowed from the request of the port.
//!
//! ollama-rs's own request type is not sent: it has no `truncate` and no `shift`, keeps `stream` to itself, and drops
//! the ids of tool calls. Its vocabulary of roles is used.

use deia_actors::ports::chat_model::{ChatRequest, PromptMessage, Role};
use ollama_rs::generation::chat::MessageRole;
use serde::Serialize;
use serde_json::Value;

#[derive(Serialize)]
pub(super) struct ChatBody<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
    /// What does not fit is our business: the server shall say so instead of dropping messages silently.
    truncate: bool,
    /// Nor may it forget the begin of the conversation while it writes.
    shift: bool,
    options: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    tools: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_alive: Option<&'a Value>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: MessageRole,
    content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

impl<'a> From<&'a ChatRequest> for ChatBody<'a> {
    fn from(request: &'a ChatRequest) -> Self {
        Self {
            model: &request.model,
            messages: request.messages.iter().map(Message::from).collect(),
            stream: true,
            truncate: false,
            shift: false,
            options: &request.options,
            think: request.think.as_ref(),
            format: request.format.as_ref(),
            tools: &request.tools,
            keep_alive: request.keep_alive.as_ref(),
        }
    }
}

impl<'a> From<&'a PromptMessage> for Message<'a> {
    fn from(message: &'a PromptMessage) -> Self {
        Self {
            role: match message.role {
                Role::System => MessageRole::System,
                Role::User => MessageRole::User,
                Role::Assistant => MessageRole::Assistant,
                Role::Tool => MessageRole::Tool,
            },
            content: &message.content,
            images: message.images.iter().map(AsRef::as_ref).collect(),
            tool_calls: message.tool_calls.as_ref(),
            tool_name: message.answers.as_ref().map(|call| call.name.as_str()),
            tool_call_id: message.answers.as_ref().map(|call| call.call_id.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_body_says_everything_and_nothing_more() {
        let message = PromptMessage {
            role: Role::User,
            content: "hi".into(),
            images: vec!["aGk=".into()],
            tool_calls: None,
            answers: None,
        };
        let mut request = ChatRequest {
            model: "m".into(),
            messages: vec![message],
            options: json!({"num_ctx": 4096, "temperature": 0.7}),
            think: None,
            format: None,
            tools: vec![],
            keep_alive: None,
        };
        assert_eq!(
            serde_json::to_value(ChatBody::from(&request)).unwrap(),
            json!({"model": "m", "messages": [{"role": "user", "content": "hi", "images": ["aGk="]}], "stream": true,
                   "truncate": false, "shift": false, "options": {"num_ctx": 4096, "temperature": 0.7}})
        );
        request.think = Some(json!("high"));
        request.keep_alive = Some(json!(0));
        request.tools = vec![json!({"type": "function"})];
        request.messages[0].tool_calls = Some(json!([{"id": "c1"}]));
        let body = serde_json::to_value(ChatBody::from(&request)).unwrap();
        assert_eq!((&body["think"], &body["keep_alive"]), (&json!("high"), &json!(0)));
        assert_eq!(
            (&body["tools"][0]["type"], &body["messages"][0]["tool_calls"][0]["id"]),
            (&json!("function"), &json!("c1"))
        );
    }
}
