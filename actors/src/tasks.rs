//! Background work: what the tree does without being asked. `tasks` is a supervisor, one-for-one, below the root
//! between inference and bots; its children are the jobs.
//!
//! What is known of each task is on a board in shared memory, which outlives its actor: showing it sends no message.

mod pulls;
mod retention;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;

pub use self::{pulls::PullWatch, retention::RetentionRules};
pub(crate) use self::{
    pulls::{PullActor, PullArgs, PullMessage, Pulls},
    retention::{RetentionActor, RetentionArgs},
};
use crate::domain::{
    task::{Task, TaskState},
    time::Timestamp,
};

/// What every task is doing.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskBoard(Arc<Mutex<Vec<Task>>>);

impl TaskBoard {
    /// A task that exists; `on` or switched off.
    pub fn add(&self, task: &str, on: bool) {
        let state = if on { TaskState::Waiting } else { TaskState::Off };
        let (last_run, took_ms, next_run, error) = (None, None, None, None);
        self.0.lock().push(Task { task: task.into(), state, last_run, took_ms, rows: 0, next_run, error });
    }

    /// All tasks, in the order in which they run.
    pub fn all(&self) -> Vec<Task> {
        self.0.lock().clone()
    }

    fn change(&self, task: &str, change: impl FnOnce(&mut Task)) {
        if let Some(known) = self.0.lock().iter_mut().find(|t| t.task == task) {
            change(known);
        }
    }

    /// When those that wait run next.
    fn next_run(&self, at: Timestamp) {
        for task in self.0.lock().iter_mut().filter(|t| t.state != TaskState::Off) {
            (task.state, task.next_run) = (TaskState::Waiting, Some(at));
        }
    }
}
