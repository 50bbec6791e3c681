//! What became of a change, as the writers of both databases tell it.

use deia_actors::domain::event::NewEvent;

/// What became of a change.
pub(super) struct Applied {
    /// Whether it changed anything.
    pub(super) applied: bool,
    /// Messages that it deleted.
    pub(super) deleted: u64,
    /// What it tells by itself, before the events of its fact.
    pub(super) events: Vec<NewEvent>,
}

impl Applied {
    pub(super) const NO: Self = Self { applied: false, deleted: 0, events: vec![] };
    pub(super) const YES: Self = Self { applied: true, deleted: 0, events: vec![] };

    /// Applied where rows were written; each driver counts them in its own type.
    pub(super) fn if_any<N: Default + PartialOrd>(rows: N) -> Self {
        if rows > N::default() { Self::YES } else { Self::NO }
    }

    /// Applied, and deleted messages.
    pub(super) fn deleted(deleted: u64) -> Self {
        Self { deleted, ..Self::YES }
    }
}
