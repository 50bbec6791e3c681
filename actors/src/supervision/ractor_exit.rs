//! From ractor's words for an ending to ours. Used by every parent, whatever its children.

use std::any::Any;
use std::sync::Arc;

use ractor::{ActorId, ActorProcessingErr, SupervisionEvent};

use super::exit::{Exit, tidy_reason};

/// Reasons that ractor itself puts into `ActorTerminated` when no `post_stop` ran. Nobody may pass them to `stop`.
const KILL_REASONS: [&str; 2] = ["killed", "actor_task_cancelled"];

/// Which actor ended, and how; None for events that are not an ending.
///
/// The event of a crash arrives *before* the state of the crashed actor is dropped. Who starts a successor that
/// must not overlap with that state (a lock, a connection, permits) waits for the `JoinHandle` of the spawn first.
pub fn exit_of(event: &SupervisionEvent) -> Option<(ActorId, Exit)> {
    match event {
        SupervisionEvent::ActorFailed(cell, error) => Some((cell.get_id(), Exit::Crashed(reason_of(error)))),
        SupervisionEvent::ActorTerminated(cell, _, reason) => {
            let exit = match reason.as_deref() {
                Some(reason) if KILL_REASONS.contains(&reason) => Exit::killed(reason),
                Some(reason) => Exit::normal(reason),
                None => Exit::Normal(None),
            };
            Some((cell.get_id(), exit))
        }
        _ => None,
    }
}

/// The text of a panic or error with its causes, as one short line.
pub fn reason_of(error: &ActorProcessingErr) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many errors already repeat their cause in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    if text.trim().is_empty() { Arc::from("no reason given") } else { tidy_reason(&text) }
}

/// The text of a panic caught by `catch_unwind` or found in a `JoinError`.
pub fn panic_message(payload: &(dyn Any + Send)) -> Arc<str> {
    let text = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| Arc::from("panic without a text"), tidy_reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("append failed")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_reason_names_the_causes_once() {
        let error: ActorProcessingErr = Box::new(Outer(std::io::Error::other("disk full")));
        assert_eq!(&*reason_of(&error), "append failed: disk full");
        let error: ActorProcessingErr = "append failed".into();
        assert_eq!(&*reason_of(&error), "append failed");
        let error: ActorProcessingErr = "".into();
        assert_eq!(&*reason_of(&error), "no reason given");
    }

    #[test]
    fn a_panic_is_readable_whatever_its_payload() {
        let caught = |f: fn()| panic_message(&*std::panic::catch_unwind(f).unwrap_err());
        assert_eq!(&*caught(|| panic!("static")), "static");
        assert_eq!(&*caught(|| panic!("formatted {}", 1)), "formatted 1");
        assert_eq!(&*caught(|| std::panic::panic_any(7_u8)), "panic without a text");
    }
}
