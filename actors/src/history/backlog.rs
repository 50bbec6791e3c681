//! How much waits to be stored, counted wherever it waits: in the mailbox, in a group, with somebody who tries again.
//! New things are refused above a bound; what has begun is kept, because its own number is bounded.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use crate::{
    domain::message::Message,
    ports::history_store::{Change, Fact},
};

/// Facts that may wait before new ones are refused.
pub(super) const MAX_FACTS: u32 = 10_000;
/// Bytes of them.
const MAX_BYTES: usize = 64 << 20;
/// Text of all running answers together that may be stored nowhere but here.
const MAX_UNSAVED: usize = 64 << 20;
/// What a fact takes beside its texts, roughly.
const FACT: usize = 512;

/// Facts submitted and not decided yet: what the tree shows as the mailbox of history. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backlog(Arc<Sizes>);

#[derive(Debug, Default)]
struct Sizes {
    facts: AtomicU32,
    bytes: AtomicUsize,
    unsaved: AtomicUsize,
}

/// A fact that is counted as long as anybody holds it.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(super) fact: Fact,
    bytes: usize,
    backlog: Backlog,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Sizes { facts, bytes, .. } = &*self.backlog.0;
        facts.fetch_sub(1, Ordering::Relaxed);
        bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Backlog {
    pub fn len(&self) -> u32 {
        self.0.facts.load(Ordering::Relaxed)
    }

    /// Whether nothing new is taken.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= MAX_FACTS || self.0.bytes.load(Ordering::Relaxed) >= MAX_BYTES
    }

    pub(super) fn count(&self, fact: Fact) -> Arc<Counted> {
        let bytes = weight(&fact);
        self.0.facts.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Counted { fact, bytes, backlog: self.clone() })
    }

    /// The text of one answer that is stored nowhere else, none so far.
    pub fn unsaved(&self) -> Unsaved {
        Unsaved { bytes: 0, backlog: self.clone() }
    }
}

/// How much of an answer is stored nowhere else; given back when the answer is stored or given up.
#[derive(Debug)]
pub(crate) struct Unsaved {
    bytes: usize,
    backlog: Backlog,
}

impl Unsaved {
    /// It is this much now. False where that is more than all answers together may have.
    pub fn is_now(&mut self, bytes: usize) -> bool {
        let all = &self.backlog.0.unsaved;
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= before {
            all.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        all.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before) <= MAX_UNSAVED
    }
}

impl Drop for Unsaved {
    fn drop(&mut self) {
        self.backlog.0.unsaved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that a fact keeps in memory, roughly.
fn weight(fact: &Fact) -> usize {
    let of = |m: &Message| {
        let images = m.images.iter().flatten().map(|image| image.len()).sum::<usize>();
        m.content.len() + m.thinking.as_ref().map_or(0, |t| t.len()) + images
    };
    let change = match &fact.change {
        Change::AcceptTurn { message, reply, .. } => of(message) + of(reply),
        Change::FinishTurn { reply, .. } => of(reply),
        Change::AppendMessages { messages, .. } | Change::ToolRound { messages, .. } => {
            messages.iter().map(of).sum()
        }
        Change::Import(part) => part.messages.iter().map(of).sum(),
        Change::Checkpoint { content, thinking, .. } => {
            content.len() + thinking.as_ref().map_or(0, String::len)
        }
        _ => 0,
    };
    FACT + change + fact.events.iter().map(|event| event.data.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsaved_text_of_all_answers_together_has_a_bound_and_comes_back() {
        let backlog = Backlog::default();
        let (mut one, mut two) = (backlog.unsaved(), backlog.unsaved());
        assert!(one.is_now(MAX_UNSAVED - 10));
        assert!(two.is_now(10));
        assert!(!two.is_now(11));
        assert!(one.is_now(0), "shrinking is always possible");
        assert!(two.is_now(12));
        drop((one, two));
        assert!(backlog.unsaved().is_now(MAX_UNSAVED));
    }
}
