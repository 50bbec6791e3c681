//! Which class is served next: the highest that waits, but none is passed over for ever.
//!
//! The rule: interactive goes before api, and api before background. A class that waits and was passed over as many times
//! in a row as its patience allows goes next, whatever waits above it. So with all three waiting without end, api gets one
//! pop in five and background one in seventeen or eighteen; interactive has the rest, about three in four.

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Somebody sits in front of it and waits.
    Interactive,
    /// A program waits.
    Api,
    /// Nobody waits: summaries, titles, batches.
    Background,
}

impl Class {
    /// From the highest to the lowest.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Api, Self::Background];

    /// How often in a row it is passed over at most; background once more, where api is as overdue as it is.
    #[must_use]
    pub const fn patience(self) -> u32 {
        match self {
            // Not waited for: only api and background, each overdue, can both go before it.
            Self::Interactive => 2,
            Self::Api => 4,
            Self::Background => 16,
        }
    }

    /// Its name in metrics and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Api => "api",
            Self::Background => "background",
        }
    }
}

/// How often each class was passed over since it was served last, or since it began to wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience([u32; 3]);

impl Patience {
    /// The class to be served next, among those that wait.
    pub fn next(self, waits: impl Fn(Class) -> bool) -> Option<Class> {
        let overdue = |c: &Class| *c != Class::Interactive && self.0[*c as usize] >= c.patience();
        let waiting = || Class::ALL.into_iter().filter(|c| waits(*c));
        waiting().find(overdue).or_else(|| waiting().next())
    }

    /// A class was served.
    pub fn served(&mut self, class: Class, waits: impl Fn(Class) -> bool) {
        for c in Class::ALL {
            let passed = &mut self.0[c as usize];
            *passed = if c == class || !waits(c) { 0 } else { passed.saturating_add(1) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(pops: usize) -> Vec<Class> {
        let mut patience = Patience::default();
        (0..pops)
            .map(|_| {
                let class = patience.next(|_| true).expect("all wait");
                patience.served(class, |_| true);
                class
            })
            .collect()
    }

    #[test]
    fn with_all_waiting_the_shares_are_the_documented_ones() {
        let order = order(1800);
        let share = |c| order.iter().filter(|o| **o == c).count() as f64 / 1800.0;
        assert!((share(Class::Api) - 0.2).abs() < 1e-9, "{}", share(Class::Api));
        assert!((1.0 / 18.0..=1.0 / 17.0).contains(&share(Class::Background)));
        assert!(share(Class::Interactive) >= 0.7);
    }

    proptest! {
        #[test]
        fn no_class_is_passed_over_more_often_than_its_patience_says(
            waits in prop::collection::vec(any::<[bool; 3]>(), 1..300),
        ) {
            let mut patience = Patience::default();
            let mut passed = [0; 3];
            for waits in waits {
                let waits = |c: Class| waits[c as usize];
                let next = patience.next(waits);
                prop_assert_eq!(next.is_some(), Class::ALL.into_iter().any(waits));
                let Some(next) = next else { continue };
                prop_assert!(waits(next));
                patience.served(next, waits);
                for c in Class::ALL {
                    passed[c as usize] = if c == next || !waits(c) { 0 } else { passed[c as usize] + 1 };
                    let most = c.patience() + u32::from(c == Class::Background);
                    prop_assert!(passed[c as usize] <= most, "{c:?}");
                }
            }
        }
    }
}
