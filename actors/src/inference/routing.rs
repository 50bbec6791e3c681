//! Which server a turn goes to. Pure: a look at all of them, a name.
//!
//! Out of the question: those that are not up or are being drained, those whose breaker lets nobody through, and those that
//! this turn tried before. Of the others:
//!
//! 1. one whose line has room goes before one whose line is full;
//! 2. one that has the model loaded before one that has it on disk, and that before one that doesn't list it (whose
//!    refusal then names the reason). One exception: loaded loses to present where its wait is more than twice as long,
//!    loading included, so that a long line at one server moves on while others stand idle;
//! 3. the shortest expected wait. Where that is unknown of any, the fewest turns per slot for all;
//! 4. the first in the order given.

use std::{cmp::Ordering, time::Duration};

use crate::domain::model::ServerState;

/// What a loaded model is worth: it may cost so many times the wait for one that has to be loaded.
const LOADED_WORTH: u32 = 2;

/// Where the model is, on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelAt {
    /// In memory.
    Loaded,
    /// On disk.
    Present,
    /// Not listed.
    Absent,
}

/// One server, as far as the choice needs it.
#[derive(Debug, Clone, Copy)]
pub struct ServerView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it takes work.
    pub state: ServerState,
    /// Whether its breaker lets somebody through.
    pub admits: bool,
    /// Where the model is.
    pub model: ModelAt,
    /// Whether its line has no room.
    pub full: bool,
    /// Expected time until a new turn is begun to be answered, loading included; none before any measurement.
    pub wait: Option<Duration>,
    /// Turns that run or wait there.
    pub turns: u32,
    /// Turns that may run at once.
    pub slots: u32,
}

/// The server for a turn, among `servers` in their order; `None` where none comes into question. `tried` names those that
/// this turn tried before.
#[must_use]
pub fn choose<'a>(servers: &[ServerView<'a>], tried: &[impl AsRef<str>]) -> Option<&'a str> {
    let usable = |s: &&ServerView<'_>| {
        s.state == ServerState::Up && s.admits && !tried.iter().any(|t| t.as_ref() == s.name)
    };
    let room = servers.iter().filter(usable).any(|s| !s.full);
    let best = |at: ModelAt| {
        let of_rank = || servers.iter().filter(usable).filter(|s| s.full != room && s.model == at);
        let known = of_rank().all(|s| s.wait.is_some());
        of_rank().min_by(|a, b| if known { a.wait.cmp(&b.wait) } else { by_load(a, b) })
    };
    let chosen = match (best(ModelAt::Loaded), best(ModelAt::Present)) {
        (Some(loaded), Some(present)) if is_worth_loading(loaded, present) => Some(present),
        (loaded, present) => loaded.or(present).or_else(|| best(ModelAt::Absent)),
    };
    chosen.map(|server| server.name)
}

fn by_load(a: &ServerView<'_>, b: &ServerView<'_>) -> Ordering {
    let times = |turns: u32, slots: u32| u64::from(turns) * u64::from(slots.max(1));
    times(a.turns, b.slots).cmp(&times(b.turns, a.slots))
}

fn is_worth_loading(loaded: &ServerView<'_>, present: &ServerView<'_>) -> bool {
    let waits = loaded.wait.zip(present.wait);
    waits.is_some_and(|(loaded, present)| loaded > present.saturating_mul(LOADED_WORTH))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: &[&str] = &[];

    fn server(name: &str, model: ModelAt, wait_s: u64) -> ServerView<'_> {
        ServerView {
            name,
            state: ServerState::Up,
            admits: true,
            model,
            full: false,
            wait: Some(Duration::from_secs(wait_s)),
            turns: 0,
            slots: 1,
        }
    }

    #[test]
    fn loaded_goes_before_present_before_absent_and_then_the_shortest_wait() {
        use ModelAt as M;
        let servers = [
            server("absent", M::Absent, 0),
            server("present", M::Present, 5),
            server("loaded, 9 s", M::Loaded, 9),
            server("loaded, 8 s", M::Loaded, 8),
            server("loaded, 8 s, later", M::Loaded, 8),
        ];
        let mut tried: Vec<&str> = vec![];
        while let Some(next) = choose(&servers, &tried) {
            tried.push(next);
        }
        assert_eq!(tried, ["loaded, 8 s", "loaded, 8 s, later", "loaded, 9 s", "present", "absent"]);
    }

    #[test]
    fn a_line_twice_as_long_outweighs_a_loaded_model() {
        use ModelAt as M;
        let other = server("present", M::Present, 5);
        assert_eq!(choose(&[server("loaded", M::Loaded, 10), other], NONE), Some("loaded"));
        assert_eq!(choose(&[server("loaded", M::Loaded, 11), other], NONE), Some("present"));
        let unknown = ServerView { wait: None, ..other };
        assert_eq!(choose(&[server("loaded", M::Loaded, 11), unknown], NONE), Some("loaded"));
    }

    #[test]
    fn what_is_down_drained_broken_or_tried_is_never_chosen_and_what_is_full_last() {
        let at = ModelAt::Loaded;
        let down = ServerView { state: ServerState::Down, ..server("down", at, 0) };
        let draining = ServerView { state: ServerState::Draining, ..server("draining", at, 0) };
        let broken = ServerView { admits: false, ..server("broken", at, 0) };
        let full = ServerView { full: true, ..server("full", at, 0) };
        let absent = server("absent", ModelAt::Absent, 60);
        assert_eq!(choose(&[down, draining, broken, server("tried", at, 0)], &["tried"]), None);
        assert_eq!(choose(&[full, absent], NONE), Some("absent"));
        assert_eq!(choose(&[full, down], NONE), Some("full"), "its line answers for itself");
    }

    #[test]
    fn without_measurements_the_fewest_turns_per_slot_decide() {
        let at = ModelAt::Present;
        let busy = ServerView { turns: 4, slots: 2, wait: None, ..server("busy", at, 0) };
        let calm = ServerView { turns: 5, slots: 4, ..server("calm", at, 99) };
        assert_eq!(choose(&[busy, calm], NONE), Some("calm"));
    }

    fn any_server() -> impl Strategy<Value = ServerView<'static>> {
        let state = prop::sample::select(vec![
            ServerState::Up,
            ServerState::Up,
            ServerState::Draining,
            ServerState::Down,
        ]);
        let model = prop::sample::select(vec![ModelAt::Loaded, ModelAt::Present, ModelAt::Absent]);
        let wait = prop::option::weighted(0.8, (0u64..20).prop_map(Duration::from_secs));
        (state, prop::bool::weighted(0.8), model, prop::bool::weighted(0.2), wait, 0u32..9, 0u32..4).prop_map(
            |(state, admits, model, full, wait, turns, slots)| ServerView {
                name: "",
                state,
                admits,
                model,
                full,
                wait,
                turns,
                slots,
            },
        )
    }

    proptest! {
        #[test]
        fn somebody_is_chosen_where_anybody_can_be_and_nobody_else_is_better_in_every_way(
            servers in prop::collection::vec(any_server(), 0..7),
            tried in prop::collection::vec(any::<bool>(), 7),
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "g"];
            let servers: Vec<_> =
                servers.into_iter().zip(names).map(|(s, name)| ServerView { name, ..s }).collect();
            let tried: Vec<_> = names.into_iter().zip(tried).filter(|t| t.1).map(|t| t.0).collect();
            let usable = |s: &&ServerView<'_>| {
                s.state == ServerState::Up && s.admits && !tried.contains(&s.name)
            };
            let chosen = choose(&servers, &tried);
            prop_assert_eq!(chosen.is_some(), servers.iter().any(|s| usable(&s)));
            let Some(chosen) = servers.iter().find(|s| Some(s.name) == chosen) else { return Ok(()) };
            prop_assert!(usable(&chosen));
            for other in servers.iter().filter(usable) {
                let better = other.full <= chosen.full && other.model <= chosen.model
                    && (other.full, other.model) != (chosen.full, chosen.model)
                    && other.wait.zip(chosen.wait).is_some_and(|(o, c)| o < c);
                prop_assert!(!better, "{} is better than {}", other.name, chosen.name);
            }
        }
    }
}
