//! How an actor ended.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Longest reason kept, in bytes. Histories hold 100 reasons for each of thousands of children.
const MAX_REASON_BYTES: usize = 300;

/// How an actor ended. On the wire `{kind, reason}`; as text (`Display`) one short line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "reason", rename_all = "snake_case")]
pub enum Exit {
    /// It was stopped, or stopped itself, and its `post_stop` ran. The reason is the one given to `stop`.
    Normal(Option<Arc<str>>),
    /// A handler panicked or returned an error.
    Crashed(Arc<str>),
    /// It was killed, or its task was cancelled: no `post_stop` ran, so this counts as abnormal.
    Killed(Arc<str>),
    /// It never ran: `pre_start` panicked, failed or took too long.
    StartFailed(Arc<str>),
}

impl Exit {
    /// A normal exit with the reason given to `stop`.
    pub fn normal(reason: impl AsRef<str>) -> Self {
        Self::Normal(Some(tidy_reason(reason.as_ref())))
    }

    /// A crash with the text of the panic or error.
    pub fn crashed(reason: impl AsRef<str>) -> Self {
        Self::Crashed(tidy_reason(reason.as_ref()))
    }

    /// A kill.
    pub fn killed(reason: impl AsRef<str>) -> Self {
        Self::Killed(tidy_reason(reason.as_ref()))
    }

    /// A start that did not succeed.
    pub fn start_failed(reason: impl AsRef<str>) -> Self {
        Self::StartFailed(tidy_reason(reason.as_ref()))
    }

    /// Whether this is anything but a normal exit.
    pub fn is_abnormal(&self) -> bool {
        !matches!(self, Self::Normal(_))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal(None) => f.write_str("normal"),
            Self::Normal(Some(reason)) => write!(f, "normal: {reason}"),
            Self::Crashed(reason) => f.write_str(reason),
            Self::Killed(reason) if &**reason == "killed" => f.write_str("killed"),
            Self::Killed(reason) => write!(f, "killed: {reason}"),
            Self::StartFailed(reason) => write!(f, "start failed: {reason}"),
        }
    }
}

/// One line of at most 300 bytes: control characters become spaces, the rest is cut at a character boundary.
pub fn tidy_reason(text: &str) -> Arc<str> {
    let text = text.trim();
    let clean = text.len() <= MAX_REASON_BYTES && !text.contains(char::is_control);
    if clean {
        return Arc::from(text);
    }
    const ELLIPSIS: &str = "…";
    let mut line = String::with_capacity(text.len().min(MAX_REASON_BYTES));
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() + ELLIPSIS.len() > MAX_REASON_BYTES {
            line.push_str(ELLIPSIS);
            break;
        }
        line.push(c);
    }
    Arc::from(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_a_normal_exit_is_not_abnormal() {
        assert!(!Exit::Normal(None).is_abnormal());
        assert!(!Exit::normal("bye").is_abnormal());
        for exit in [Exit::crashed("boom"), Exit::killed("killed"), Exit::start_failed("no disk")] {
            assert!(exit.is_abnormal(), "{exit:?}");
        }
    }

    #[test]
    fn reasons_are_one_short_line_cut_between_characters() {
        assert_eq!(&*tidy_reason("  a\nb\tc "), "a b c");
        let long = tidy_reason(&"é".repeat(1000));
        assert!(long.len() <= MAX_REASON_BYTES && long.ends_with("é…"), "{} bytes", long.len());
    }

    #[test]
    fn the_wire_form_has_a_kind_and_a_reason() {
        let json = |exit: Exit| serde_json::to_value(exit).expect("an exit is plain data");
        assert_eq!(json(Exit::crashed("boom")), serde_json::json!({"kind": "crashed", "reason": "boom"}));
        assert_eq!(json(Exit::Normal(None)), serde_json::json!({"kind": "normal", "reason": null}));
        assert_eq!(json(Exit::start_failed("x"))["kind"], "start_failed");
    }

    #[test]
    fn the_text_form_says_what_happened_in_one_line() {
        let text = |exit: Exit| exit.to_string();
        assert_eq!(text(Exit::Normal(None)), "normal");
        assert_eq!(text(Exit::normal("bye")), "normal: bye");
        assert_eq!(text(Exit::crashed("boom")), "boom");
        assert_eq!(text(Exit::killed("killed")), "killed");
        assert_eq!(text(Exit::killed("actor_task_cancelled")), "killed: actor_task_cancelled");
        assert_eq!(text(Exit::start_failed("no disk")), "start failed: no disk");
    }
}
