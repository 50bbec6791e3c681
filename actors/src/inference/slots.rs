//! How many turns a server is given at once: the configured number, fewer while it answers that it is busy (503).
//!
//! Down at once, to what ran beside the turn that was turned away, which is what the server was seen to carry. Back one by
//! one, each after a number of turns that went well; that number doubles with every 503 (8 to 128) and halves with
//! every slot that was won back. Never below 1, never above the configured number.

/// Turns that must go well before the next slot is tried, at first.
const CAREFUL: u32 = 8;
/// And after many disappointments.
const MOST_CAREFUL: u32 = 128;

/// Slots that follow what the server carries. Which of them are taken is the caller's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveSlots {
    configured: u32,
    now: u32,
    good: u32,
    needed: u32,
}

impl AdaptiveSlots {
    /// All configured slots; at least one.
    #[must_use]
    pub fn new(configured: u32) -> Self {
        let configured = configured.max(1);
        Self { configured, now: configured, good: 0, needed: CAREFUL }
    }

    /// Slots that may be taken now.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Slots that are allowed at most.
    #[must_use]
    pub fn configured(&self) -> u32 {
        self.configured
    }

    /// The server turned a turn away as busy, while `beside` others of ours ran there.
    pub fn busy(&mut self, beside: u32) {
        self.now = beside.min(self.now - 1).max(1);
        self.needed = (self.needed * 2).min(MOST_CAREFUL);
        self.good = 0;
    }

    /// A turn was answered to its end. True where that won a slot back: one more may begin.
    pub fn succeeded(&mut self) -> bool {
        if self.now >= self.configured {
            return false;
        }
        self.good += 1;
        if self.good < self.needed {
            return false;
        }
        self.good = 0;
        self.needed = (self.needed / 2).max(CAREFUL);
        self.now += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Turns that have to go well until the next slot.
    fn until_more(slots: &mut AdaptiveSlots) -> u32 {
        1 + (0..1000).take_while(|_| !slots.succeeded()).count() as u32
    }

    #[test]
    fn a_busy_server_gets_what_it_was_seen_to_carry_at_once() {
        let mut slots = AdaptiveSlots::new(8);
        // Eight began, three were taken in.
        for beside in [7, 6, 5, 4, 3] {
            slots.busy(beside);
        }
        assert_eq!(slots.now(), 3);
        slots.busy(0);
        assert_eq!(slots.now(), 1, "somebody else uses it; one is always tried");
    }

    #[test]
    fn slots_come_back_one_by_one_and_later_after_every_disappointment() {
        let mut slots = AdaptiveSlots::new(3);
        slots.busy(1);
        assert_eq!([until_more(&mut slots), slots.now()], [16, 2]);
        assert_eq!([until_more(&mut slots), slots.now()], [8, 3]);
        assert!(!slots.succeeded());
        (0..9).for_each(|_| slots.busy(2));
        assert_eq!([until_more(&mut slots), slots.now()], [128, 2]);
    }

    proptest! {
        #[test]
        fn there_is_always_one_slot_and_never_one_too_many(
            configured in 0u32..20,
            steps in prop::collection::vec(prop::option::weighted(0.2, 0u32..30), 0..500),
        ) {
            let mut slots = AdaptiveSlots::new(configured);
            for step in steps {
                let before = slots.now();
                match step {
                    Some(beside) => {
                        slots.busy(beside);
                        prop_assert!(slots.now() < before || before == 1);
                    }
                    None => {
                        let more = slots.succeeded();
                        prop_assert_eq!(slots.now(), before + u32::from(more));
                    }
                }
                prop_assert!((1..=configured.max(1)).contains(&slots.now()));
            }
            // Enough success brings everything back.
            for _ in 0..20 * MOST_CAREFUL {
                slots.succeeded();
            }
            prop_assert_eq!(slots.now(), slots.configured());
        }
    }
}
