//! What an exit means for a child and for its siblings.

use std::ops::Range;

use serde::Serialize;

use super::exit::Exit;

/// When a child is started again after it ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Always.
    Permanent,
    /// Only after an abnormal exit.
    Transient,
    /// Never, not even when a sibling's restart stopped it.
    Temporary,
}

impl RestartPolicy {
    /// Whether a child that ended by itself in this way is started again.
    pub fn should_restart(self, exit: &Exit) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => exit.is_abnormal(),
            Self::Temporary => false,
        }
    }
}

/// Which siblings a restart takes along. Children are numbered in start order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// None: children do not depend on each other.
    OneForOne,
    /// Those started after it: each child depends on the ones before it.
    RestForOne,
    /// All: every child depends on every other.
    OneForAll,
}

impl Strategy {
    /// The children that the restart of child `index` of `count` concerns, itself included.
    pub fn affected(self, index: usize, count: usize) -> Range<usize> {
        match self {
            Self::OneForOne => index..index + 1,
            Self::RestForOne => index..count,
            Self::OneForAll => 0..count,
        }
    }
}

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildKind {
    /// Has children of its own.
    Supervisor,
    /// Does the work.
    Worker,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use proptest::strategy::Strategy as _;

    use super::{Strategy, *};

    #[test]
    fn a_policy_restarts_by_kind_of_exit() {
        use RestartPolicy::{Permanent, Temporary, Transient};
        let normal = Exit::Normal(None);
        let abnormal = [Exit::crashed("boom"), Exit::killed("killed"), Exit::start_failed("x")];
        assert!(Permanent.should_restart(&normal));
        assert!(!Transient.should_restart(&normal));
        assert!(!Temporary.should_restart(&normal));
        for exit in &abnormal {
            assert!(Permanent.should_restart(exit), "{exit:?}");
            assert!(Transient.should_restart(exit), "{exit:?}");
            assert!(!Temporary.should_restart(exit), "{exit:?}");
        }
    }

    #[test]
    fn names_on_the_wire_are_snake_case() {
        let name = |s: Strategy| serde_json::to_value(s).unwrap();
        assert_eq!(name(Strategy::OneForOne), "one_for_one");
        assert_eq!(name(Strategy::RestForOne), "rest_for_one");
        assert_eq!(name(Strategy::OneForAll), "one_for_all");
        assert_eq!(serde_json::to_value(RestartPolicy::Permanent).unwrap(), "permanent");
        assert_eq!(serde_json::to_value(ChildKind::Supervisor).unwrap(), "supervisor");
    }

    /// The definition in words, child by child.
    fn takes_along(strategy: Strategy, failed: usize, child: usize) -> bool {
        match strategy {
            Strategy::OneForOne => child == failed,
            Strategy::RestForOne => child >= failed,
            Strategy::OneForAll => true,
        }
    }

    proptest! {
        #[test]
        fn a_strategy_takes_along_exactly_those_that_it_names(
            strategy in prop::sample::select(vec![Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll]),
            (count, failed) in (1usize..20).prop_flat_map(|n| (Just(n), 0..n)),
        ) {
            let named: Vec<_> = (0..count).filter(|c| takes_along(strategy, failed, *c)).collect();
            prop_assert_eq!(strategy.affected(failed, count).collect::<Vec<_>>(), named);
        }
    }
}
